//! The table on standard output, and the JSON beside it.

use std::error::Error;
use std::path::Path;

use serde::Serialize;

use crate::pairs::Line;

/// Everything that a run of this program found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) arguments: Vec<String>,
    pub(crate) kernel: String,
    pub(crate) lines: Vec<Line>,
    pub(crate) figures: Vec<Figure>,
}

/// Something measured that is no pair.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) part: &'static str,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// At most this much is wanted.
    pub(crate) most: Option<f64>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Report {
            schema: "plimsoll.benches/v1",
            arguments: std::env::args().skip(1).collect(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
            lines: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Adds a line and prints it.
    pub(crate) fn line(&mut self, line: Line) {
        if self.lines.is_empty() {
            heading();
        }
        print_line(&line);
        self.lines.push(line);
    }

    /// Adds a figure and prints it.
    pub(crate) fn figure(
        &mut self,
        part: &'static str,
        name: String,
        value: f64,
        unit: &'static str,
        most: Option<f64>,
    ) {
        let goal = most.map(|most| format!("  goal <= {most} {unit}: {}", verdict(value <= most))).unwrap_or_default();
        println!("{part:<8} {name:<52} {value:>12.3} {unit}{goal}");
        self.figures.push(Figure { part, name, value, unit, most });
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

fn heading() {
    println!(
        "{:<8} {:<7} {:<26} {:<10} {:>7} {:>8} {:>8} {:>8}  {:>9} {:>9} {:>7} {:>7} {:>15} {:>15}  goal",
        "part",
        "place",
        "work",
        "against",
        "ratio",
        "per CPU",
        "+CPU us",
        "+thread",
        "op/s A",
        "op/s B",
        "CPU A",
        "CPU B",
        "p50/p99 A us",
        "p50/p99 B us"
    );
}

fn print_line(line: &Line) {
    let (first, second) = (&line.first, &line.second);
    let latency = |p50: f64, p99: f64| format!("{p50:.1}/{p99:.1}");
    let goal = match (&line.goal, line.reached) {
        (Some(goal), Some(reached)) => format!("{goal}: {}", verdict(reached)),
        _ => String::new(),
    };
    println!(
        "{:<8} {:<7} {:<26} {:<10} {:>7.3} {:>8.3} {:>8.3} {:>8.3}  {:>9.0} {:>9.0} {:>7.2} {:>7.2} {:>15} {:>15}  {goal}",
        line.part,
        line.place,
        line.name,
        line.against,
        line.ratio,
        line.per_cpu_ratio,
        line.more_cpu_us,
        line.more_thread_cpu_us,
        first.per_second,
        second.per_second,
        first.cpu_us,
        second.cpu_us,
        latency(first.p50_us, first.p99_us),
        latency(second.p50_us, second.p99_us),
    );
}
