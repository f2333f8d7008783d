//! Levels of one figure: told once when reached, told once when left, and silent in between.
//!
//! Method: a level fires when the figure is at or above it, and re-arms when the figure falls below level - hysteresis.
//! Between two events the figure is inside an interval that is known in advance, so the hot path is two comparisons
//! ([`Levels::is_quiet`]); only a figure outside it, or a new total, calls for [`Levels::update`].
//!
//! Invariant: after an update a level is fired if the figure is at or above it, and not fired if the figure is below
//! level - hysteresis; between the two it is as it was. This holds after [`Levels::restore`] and new thresholds too: the
//! next update tells what differs, levels that no longer exist included.

use crate::event::Level;

/// Most levels of one figure: as many as a vdisk's entry has room for.
pub const LEVELS_MAX: usize = 4;
/// Of the total.
const HYSTERESIS_PCT_DEFAULT: u8 = 2;

/// Levels and hysteresis that were found to make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    levels: Vec<Level>,
    hysteresis_pct: u8,
}

/// Why thresholds make no sense, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// More than [`LEVELS_MAX`].
    #[error("{0} thresholds are too many; give at most {LEVELS_MAX}")]
    TooMany(usize),
    /// 0 % or 0 bytes.
    #[error("a threshold of 0 would always be reached; leave it out, or say off to have none")]
    Zero,
    /// Above 100 %.
    #[error("a threshold of {0} % can never be reached; give 1 to 100 %")]
    AboveTotal(u8),
    /// Per cent and bytes in one list, whose order would depend on the total.
    #[error("thresholds in per cent and in bytes cannot be mixed; give all in per cent, or all in bytes")]
    Mixed,
    /// Not ascending.
    #[error("the thresholds {0} and {1} are out of order; give them from low to high, each once")]
    OutOfOrder(Level, Level),
    /// So wide that the lowest level could not re-arm.
    #[error("a hysteresis of {hysteresis} % is not below the lowest threshold, {level} %; give 0 to {} %", level - 1)]
    TooWide {
        /// The hysteresis.
        hysteresis: u8,
        /// The lowest level.
        level: u8,
    },
    /// 100 % or more.
    #[error("a hysteresis of {0} % would never let a threshold re-arm; give less than 100 %")]
    Hysteresis(u8),
}

impl Default for Thresholds {
    /// 70, 85 and 95 %, hysteresis 2 %.
    fn default() -> Self {
        let levels = [70, 85, 95].map(Level::Percent).to_vec();
        Self { levels, hysteresis_pct: HYSTERESIS_PCT_DEFAULT }
    }
}

impl Thresholds {
    /// `levels` ascending, all per cent or all bytes; none turns them off. Hysteresis in per cent of the total.
    ///
    /// # Errors
    /// By what is wrong.
    pub fn new(levels: Vec<Level>, hysteresis_pct: u8) -> Result<Self, ThresholdError> {
        if levels.len() > LEVELS_MAX {
            return Err(ThresholdError::TooMany(levels.len()));
        }
        for level in &levels {
            match level {
                Level::Percent(0) | Level::Bytes(0) => return Err(ThresholdError::Zero),
                Level::Percent(percent @ 101..) => return Err(ThresholdError::AboveTotal(*percent)),
                _ => {}
            }
        }
        for pair in levels.windows(2) {
            match pair {
                [Level::Percent(_), Level::Bytes(_)] | [Level::Bytes(_), Level::Percent(_)] => {
                    return Err(ThresholdError::Mixed);
                }
                [low, high] if low >= high => return Err(ThresholdError::OutOfOrder(*low, *high)),
                _ => {}
            }
        }
        match levels.first() {
            Some(&Level::Percent(level)) if hysteresis_pct >= level => {
                Err(ThresholdError::TooWide { hysteresis: hysteresis_pct, level })
            }
            _ if hysteresis_pct >= 100 => Err(ThresholdError::Hysteresis(hysteresis_pct)),
            _ => Ok(Self { levels, hysteresis_pct }),
        }
    }

    /// With the default hysteresis, or a smaller one where the lowest level asks for it.
    ///
    /// # Errors
    /// By what is wrong.
    pub fn with_levels(levels: Vec<Level>) -> Result<Self, ThresholdError> {
        let widest = match levels.first() {
            Some(&Level::Percent(level)) => level.saturating_sub(1),
            _ => HYSTERESIS_PCT_DEFAULT,
        };
        Self::new(levels, HYSTERESIS_PCT_DEFAULT.min(widest))
    }

    /// None: nothing is told.
    pub fn off() -> Self {
        Self { levels: Vec::new(), hysteresis_pct: HYSTERESIS_PCT_DEFAULT }
    }

    /// The levels, ascending.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// In per cent of the total.
    pub fn hysteresis_pct(&self) -> u8 {
        self.hysteresis_pct
    }
}

/// A level that was reached or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) level: Level,
    pub(crate) rising: bool,
}

/// One figure, watched.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    thresholds: Thresholds,
    /// Bit `n`: level `n` has fired.
    fired: u8,
    /// Fired levels that the thresholds no longer have.
    orphans: Vec<Level>,
    /// Nothing is to be told while `low <= used < high`.
    low: u64,
    high: u64,
}

impl Levels {
    /// Nothing has fired; the first figure is not quiet, so that it gets its bounds.
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, fired: 0, orphans: Vec::new(), low: u64::MAX, high: 0 }
    }

    /// Whether [`Levels::update`] would tell nothing, as long as the total is the last one.
    #[inline]
    pub(crate) fn is_quiet(&self, used: u64) -> bool {
        used >= self.low && used < self.high
    }

    /// Takes a figure and its total over; answers what was crossed: falling ones from high to low, then rising ones from
    /// low to high. A total of 0 means that there is nothing to watch.
    pub(crate) fn update(&mut self, used: u64, total: u64) -> Vec<Crossing> {
        let mut crossings: Vec<Crossing> =
            self.orphans.drain(..).rev().map(|level| Crossing { level, rising: false }).collect();
        let mut rising = Vec::new();
        (self.low, self.high) = (0, u64::MAX);
        for (index, &level) in self.thresholds.levels.iter().enumerate().rev() {
            let bit = 1 << index;
            let (reached, left) = bounds(level, self.thresholds.hysteresis_pct, total);
            if self.fired & bit == 0 && used >= reached {
                self.fired |= bit;
                rising.push(Crossing { level, rising: true });
            } else if self.fired & bit != 0 && used < left {
                self.fired &= !bit;
                crossings.push(Crossing { level, rising: false });
            }
            if self.fired & bit == 0 {
                self.high = self.high.min(reached);
            } else {
                self.low = self.low.max(left);
            }
        }
        crossings.extend(rising.into_iter().rev());
        crossings
    }

    /// The levels that have fired, ascending.
    pub(crate) fn fired(&self) -> Vec<Level> {
        let all = self.thresholds.levels.iter().enumerate();
        let fired = all.filter(|(index, _)| self.fired & (1 << index) != 0).map(|(_, level)| *level);
        let mut fired: Vec<Level> = self.orphans.iter().copied().chain(fired).collect();
        fired.sort();
        fired
    }

    /// Takes over what had fired in an earlier life; the next update tells the difference.
    pub(crate) fn restore(&mut self, fired: &[Level]) {
        let levels = &self.thresholds.levels;
        let has = |level: &Level| fired.contains(level);
        self.fired = levels.iter().enumerate().filter(|(_, level)| has(level)).map(|(index, _)| 1 << index).sum();
        self.orphans = fired.iter().copied().filter(|level| !levels.contains(level)).collect();
        self.orphans.sort();
        self.orphans.dedup();
        (self.low, self.high) = (u64::MAX, 0);
    }

    /// Changes the thresholds; what both have stays as it is, the next update tells the difference.
    pub(crate) fn set(&mut self, thresholds: Thresholds) {
        let fired = self.fired();
        self.thresholds = thresholds;
        self.restore(&fired);
    }

    pub(crate) fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }
}

/// Where a level fires, and below what it re-arms. An empty figure re-arms everything.
fn bounds(level: Level, hysteresis_pct: u8, total: u64) -> (u64, u64) {
    if total == 0 {
        return (u64::MAX, u64::MAX);
    }
    // Rounded up: "70 %" is not said of 69.99. At most 100 % of a u64, so it fits again.
    let share = |percent: u8| (u128::from(total) * u128::from(percent)).div_ceil(100) as u64;
    let reached = match level {
        Level::Percent(percent) => share(percent),
        Level::Bytes(bytes) => bytes,
    };
    (reached, reached.saturating_sub(share(hysteresis_pct)).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn rising(percent: u8) -> Crossing {
        Crossing { level: Level::Percent(percent), rising: true }
    }

    fn falling(percent: u8) -> Crossing {
        Crossing { level: Level::Percent(percent), rising: false }
    }

    #[test]
    fn each_level_is_told_once_on_the_way_up_and_once_on_the_way_down() {
        let mut levels = Levels::new(Thresholds::default());
        assert_eq!(levels.update(699, 1000), []);
        assert!(levels.is_quiet(0) && levels.is_quiet(699) && !levels.is_quiet(700));
        assert_eq!(levels.update(700, 1000), [rising(70)]);
        assert!(levels.is_quiet(680) && !levels.is_quiet(679) && !levels.is_quiet(850));
        assert_eq!(levels.update(980, 1000), [rising(85), rising(95)]);
        assert_eq!(levels.update(930, 1000), []);
        assert_eq!(levels.update(929, 1000), [falling(95)]);
        assert_eq!(levels.update(10, 1000), [falling(85), falling(70)]);
        assert_eq!(levels.update(1000, 1000), [rising(70), rising(85), rising(95)]);
    }

    #[test]
    fn a_figure_that_trembles_around_a_level_is_told_once() {
        let mut levels = Levels::new(Thresholds::default());
        let told: usize = (0..10_000).map(|step| levels.update(850 + step % 20 - 10, 1000).len()).sum();
        assert_eq!(told, 2, "70 and 85 %, each once");
    }

    #[test]
    fn growth_re_arms_and_a_full_pool_tells_again() {
        let mut levels = Levels::new(Thresholds::default());
        assert_eq!(levels.update(960, 1000).len(), 3);
        assert_eq!(levels.update(960, 2000), [falling(95), falling(85), falling(70)]);
        assert_eq!(levels.update(1900, 2000).len(), 3);
    }

    #[test]
    fn a_restart_tells_only_what_differs() {
        let mut before = Levels::new(Thresholds::default());
        before.update(860, 1000);
        let mut after = Levels::new(Thresholds::default());
        after.restore(&before.fired());
        assert!(!after.is_quiet(860), "it has no bounds yet");
        assert_eq!(after.clone().update(860, 1000), []);
        assert_eq!(after.clone().update(960, 1000), [rising(95)]);
        assert_eq!(after.clone().update(700, 1000), [falling(85)]);
        assert_eq!(after.update(0, 0), [falling(85), falling(70)], "nothing is watched any more");
    }

    #[test]
    fn a_level_that_is_taken_away_while_it_is_fired_falls() {
        let mut levels = Levels::new(Thresholds::default());
        levels.update(860, 1000);
        levels.set(Thresholds::with_levels(vec![Level::Percent(70), Level::Percent(80)]).unwrap());
        assert_eq!(levels.fired(), [Level::Percent(70), Level::Percent(85)]);
        assert_eq!(levels.update(860, 1000), [falling(85), rising(80)]);
        assert_eq!(levels.fired(), levels.thresholds().levels());
    }

    #[test]
    fn levels_in_bytes_do_not_move_with_the_total() {
        let mut levels = Levels::new(Thresholds::with_levels(vec![Level::Bytes(500), Level::Bytes(900)]).unwrap());
        assert_eq!(levels.update(500, 1000), [Crossing { level: Level::Bytes(500), rising: true }]);
        assert_eq!(levels.update(500, 100_000), []);
        assert_eq!(levels.update(899, 1000), []);
    }

    #[test]
    fn thresholds_that_make_no_sense_are_refused_with_advice() {
        let percent = |levels: &[u8]| levels.iter().copied().map(Level::Percent).collect::<Vec<_>>();
        let refused = |levels, hysteresis| Thresholds::new(levels, hysteresis).unwrap_err().to_string();
        assert_eq!(
            refused(percent(&[85, 70]), 2),
            "the thresholds 85 % and 70 % are out of order; give them from low to high, each once"
        );
        assert!(refused(percent(&[70, 70]), 2).contains("out of order"));
        assert!(refused(percent(&[0, 70]), 2).contains("threshold of 0"));
        assert!(refused(percent(&[70, 101]), 2).contains("101 %"));
        assert!(refused(vec![Level::Bytes(0)], 2).contains("threshold of 0"));
        assert!(refused(vec![Level::Percent(70), Level::Bytes(1)], 2).contains("mixed"));
        assert!(refused(percent(&[1, 2, 3, 4, 5]), 0).contains("5 thresholds"));
        assert!(refused(percent(&[2]), 2).contains("give 0 to 1 %"));
        assert!(refused(vec![Level::Bytes(1)], 100).contains("100 %"));
        assert!(Thresholds::new(percent(&[1, 2, 3, 100]), 0).is_ok());
        assert_eq!(Thresholds::with_levels(percent(&[1])).unwrap().hysteresis_pct(), 0);
        assert_eq!(Levels::new(Thresholds::off()).update(7, 7), []);
    }

    fn thresholds() -> impl Strategy<Value = Thresholds> {
        let percent =
            vec(1u8..=100, 0..=LEVELS_MAX).prop_map(|levels| levels.into_iter().map(Level::Percent).collect());
        let bytes = vec(1u64..1200, 0..=LEVELS_MAX).prop_map(|levels| levels.into_iter().map(Level::Bytes).collect());
        (prop_oneof![percent, bytes], 0u8..20).prop_filter_map("", |(mut levels, hysteresis): (Vec<Level>, _)| {
            levels.sort();
            levels.dedup();
            Thresholds::new(levels, hysteresis).ok()
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Used(u64),
        Total(u64),
        Restart,
        Thresholds(Thresholds),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0u64..=1100).prop_map(Step::Used),
            1 => (0u64..=1100).prop_map(Step::Total),
            1 => Just(Step::Restart),
            1 => thresholds().prop_map(Step::Thresholds),
        ]
    }

    /// What is fired, by the rule and nothing else, in exact fractions.
    fn model(fired: &[Level], thresholds: &Thresholds, used: u64, total: u64) -> Vec<Level> {
        let is_fired = |level: &&Level| {
            if total == 0 {
                return false;
            }
            let (at, used) = match level {
                Level::Percent(percent) => ((u128::from(*percent) * u128::from(total)).div_ceil(100), u128::from(used)),
                Level::Bytes(bytes) => (u128::from(*bytes), u128::from(used)),
            };
            let hysteresis = (u128::from(thresholds.hysteresis_pct()) * u128::from(total)).div_ceil(100);
            let left = used == 0 || used + hysteresis < at;
            used >= at || (fired.contains(level) && !left)
        };
        thresholds.levels().iter().filter(is_fired).copied().collect()
    }

    proptest! {
        /// Whoever asks `is_quiet` first sees the same as the model that is asked every time.
        #[test]
        fn what_is_told_adds_up_to_what_a_naive_model_says(
            first in thresholds(), steps in vec(steps(), 1..200)
        ) {
            let mut levels = Levels::new(first.clone());
            let (mut thresholds, mut total, mut used) = (first, 1000, 0);
            let (mut told, mut expected): (Vec<Level>, Vec<Level>) = Default::default();
            for step in steps {
                let mut must_update = true;
                match step {
                    Step::Used(figure) => (used, must_update) = (figure, !levels.is_quiet(figure)),
                    Step::Total(figure) => total = figure,
                    Step::Restart => {
                        let fired = levels.fired();
                        levels = Levels::new(thresholds.clone());
                        levels.restore(&fired);
                    }
                    Step::Thresholds(new) => {
                        levels.set(new.clone());
                        thresholds = new;
                    }
                }
                expected = model(&expected, &thresholds, used, total);
                if must_update {
                    for Crossing { level, rising } in levels.update(used, total) {
                        prop_assert_eq!(!told.contains(&level), rising, "told twice: {}", level);
                        if rising { told.push(level) } else { told.retain(|other| *other != level) }
                    }
                }
                told.sort();
                prop_assert_eq!(&told, &expected);
                prop_assert_eq!(levels.fired(), expected.clone());
                prop_assert!(levels.is_quiet(used));
            }
        }

        #[test]
        fn a_figure_that_moves_less_than_the_hysteresis_tells_each_level_at_most_once(
            base in 0u64..1000, moves in vec(0u64..20, 1..300)
        ) {
            let mut levels = Levels::new(Thresholds::default());
            let told: Vec<_> = moves.iter().flat_map(|by| levels.update(base + by, 1000)).collect();
            prop_assert!(told.len() <= 3 && told.iter().all(|crossing| crossing.rising), "{told:?}");
        }
    }
}
