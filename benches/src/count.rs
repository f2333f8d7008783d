//! Instructions of the mapping path, counted by valgrind: the only figures here that are stable to a per cent.
//!
//! Each path runs on the device of memory with two different numbers of operations; what the difference costs more than
//! the same on the bare device is the engine's. A growth by more than 5 % over `benches/baseline.json` fails.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

use crate::memory;
use crate::options::Options;
use crate::report::Report;
use crate::work::{CASES, Case, EXTENT, Run};

const BASELINE: &str = "benches/baseline.json";
/// Growth that fails.
const GROWTH_MAX: f64 = 1.05;
const SIZE: u64 = 128 << 20;
const OPERATIONS: [u64; 2] = [2_000, 8_000];
/// Cases of [`CASES`] that are counted.
const COUNTED: [&str; 5] = [
    "4k random read qd32",
    "4k overwrite qd32",
    "4k first write qd32",
    "128k sequential read qd8",
    "128k sequential write qd8",
];

/// Counts, compares, and answers whether nothing grew.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<bool, Box<dyn Error>> {
    let known: BTreeMap<String, f64> = match std::fs::read(BASELINE) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => BTreeMap::new(),
    };
    let mut found = BTreeMap::new();
    let mut good = true;
    for name in COUNTED {
        let of = |side: &str| -> Result<f64, Box<dyn Error>> {
            let [few, many] = OPERATIONS;
            Ok((instructions(side, name, many)? - instructions(side, name, few)?) / (many - few) as f64)
        };
        let extra = (of("engine")? - of("device")?).round();
        let most = known.get(name).map(|before| (before * GROWTH_MAX).ceil());
        good &= most.is_none_or(|most| extra <= most);
        report.figure("count", format!("{name}: instructions above the device's"), extra, "instructions", most);
        found.insert(name.to_owned(), extra);
    }
    if options.write_baseline {
        std::fs::write(BASELINE, serde_json::to_vec_pretty(&found)?)?;
    }
    Ok(good)
}

/// Instructions of a child in all.
fn instructions(side: &str, name: &str, operations: u64) -> Result<f64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--child", "count", side, name, &operations.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}); apt-get install valgrind"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if String::from_utf8_lossy(&output.stdout).trim() != operations.to_string() {
        return Err(format!("the child for {side} {name} did not do {operations} operations: {words}").into());
    }
    let collected =
        words.lines().find_map(|line| line.split_once("Collected :").or_else(|| line.split_once("I   refs:")));
    let collected = collected.ok_or_else(|| format!("valgrind counted nothing: {words}"))?.1;
    Ok(collected.trim().replace(',', "").parse()?)
}

/// What is counted: `SIDE CASE OPERATIONS`.
pub(crate) fn run_child(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [side, name, operations] = arguments else { return Err("count needs a side, a case and a number".into()) };
    let case: &Case = CASES.iter().find(|case| case.name == *name).ok_or("there is no such case")?;
    let area = SIZE / 16 * 15 / EXTENT * EXTENT;
    let run = Run { case: *case, area, time: Duration::MAX, seed: 1, operations: operations.parse()? };
    let measured = match side.as_str() {
        "engine" => memory::through_engine(SIZE, &run)?,
        _ => memory::bare(SIZE, &run)?,
    };
    println!("{}", measured.operations);
    Ok(())
}
