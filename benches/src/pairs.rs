//! Pairs: two ways to do the same work in turns, and the medians of their ratios.

use std::error::Error;

use serde::Serialize;

use crate::meter::Measured;
use crate::work::Case;

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) part: &'static str,
    pub(crate) place: String,
    pub(crate) name: String,
    /// What the second of each pair is compared with.
    pub(crate) against: &'static str,
    /// Operations per second, second over first: median of the pairs.
    pub(crate) ratio: f64,
    /// Processor time per operation, second minus first, in microseconds: median of the pairs.
    pub(crate) more_cpu_us: f64,
    /// As `more_cpu_us`, of the submitting thread alone.
    pub(crate) more_thread_cpu_us: f64,
    /// Operations per second of processor time, second over first: median of the pairs.
    pub(crate) per_cpu_ratio: f64,
    pub(crate) goal: Option<String>,
    pub(crate) reached: Option<bool>,
    /// Medians of each side.
    pub(crate) first: Side,
    pub(crate) second: Side,
    pub(crate) pairs: Vec<(Measured, Measured)>,
}

/// Medians of one side's runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Side {
    fn of(runs: &[&Measured]) -> Self {
        let of = |value: fn(&Measured) -> f64| median(runs.iter().map(|run| value(run)));
        Side {
            per_second: of(|run| run.per_second),
            cpu_us: of(|run| run.cpu_us),
            p50_us: of(|run| run.p50_us),
            p99_us: of(|run| run.p99_us),
        }
    }
}

/// The middle of `values`; the lower one of two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Runs `first` and `second` in turns, with the number of the pair.
pub(crate) fn measure(
    pairs: u64,
    mut first: impl FnMut(u64) -> Result<Measured, Box<dyn Error>>,
    mut second: impl FnMut(u64) -> Result<Measured, Box<dyn Error>>,
) -> Result<Vec<(Measured, Measured)>, Box<dyn Error>> {
    (0..pairs).map(|pair| Ok((first(pair)?, second(pair)?))).collect()
}

impl Line {
    /// Sums pairs up, without a goal.
    pub(crate) fn new(
        part: &'static str,
        place: &str,
        name: &str,
        against: &'static str,
        pairs: Vec<(Measured, Measured)>,
    ) -> Self {
        let of = |value: fn(&(Measured, Measured)) -> f64| median(pairs.iter().map(value));
        let (firsts, seconds): (Vec<_>, Vec<_>) = pairs.iter().map(|(first, second)| (first, second)).unzip();
        Line {
            part,
            place: place.into(),
            name: name.into(),
            against,
            ratio: of(|(first, second)| second.per_second / first.per_second),
            more_cpu_us: of(|(first, second)| second.cpu_us - first.cpu_us),
            more_thread_cpu_us: of(|(first, second)| second.thread_cpu_us - first.thread_cpu_us),
            per_cpu_ratio: of(|(first, second)| first.cpu_us / second.cpu_us),
            goal: None,
            reached: None,
            first: Side::of(&firsts),
            second: Side::of(&seconds),
            pairs,
        }
    }

    /// Judges the line by the goal of its case.
    pub(crate) fn judged(mut self, case: &Case) -> Self {
        if let Some(goal) = case.goal {
            let cpu = goal.more_cpu_us.map(|most| format!(", +{most} us")).unwrap_or_default();
            self.goal = Some(format!("{:.2}{cpu}", goal.ratio));
            self.reached =
                Some(self.ratio >= goal.ratio && goal.more_cpu_us.is_none_or(|most| self.more_cpu_us <= most));
        }
        self
    }
}
