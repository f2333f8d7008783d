//! Measured claims: Plimsoll beside raw devices and its peers, in one run, as ratios.
//!
//! What is where: `work` says what is measured, `bare` and `engine` do it on a file, `memory` on a device of memory, `fill`
//! what needs no space, `space` promises and held writes, `nbd` over the wire, `restart` after a kill, `check` a look at all metadata, `count` in instructions; `pairs` compares and `report` prints.
//! See `--help`.

mod area;
mod bare;
mod check;
mod child;
mod count;
mod engine;
mod fill;
mod memory;
mod meter;
mod nbd;
mod options;
mod pairs;
mod report;
mod restart;
mod space;
mod work;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use area::Area;
use options::{Options, Part};
use pairs::Line;
use plimsoll_hardware::ReactorConfig;
use report::Report;
use work::{CASES, Case, EXTENT, Kind, Run};

fn main() -> ExitCode {
    let options = Options::read();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plimsoll-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    match options.child.as_deref() {
        Some([verb, rest @ ..]) if verb == "count" => {
            count::run_child(rest)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(arguments @ [verb, ..]) if verb.starts_with("check") => {
            check::run_child(arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(arguments) => {
            restart::run_child(arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    if options.wants(Part::Nbd) {
        nbd::check(options)?;
    }
    let mut report = Report::new();
    // What was measured before something failed is kept.
    let measured = measure(options, &mut report);
    let path = options.output.clone().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        PathBuf::from(format!("benches/results/{}.json", now.as_secs()))
    });
    report.write(&path)?;
    println!("{}", path.display());
    Ok(if measured? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures all that is wanted; answers whether what must not differ is as it was.
fn measure(options: &Options, report: &mut Report) -> Result<bool, Box<dyn Error>> {
    if options.wants(Part::Memory) {
        on_memory(options, report)?;
    }
    if options.wants(Part::Device) {
        on_devices(options, report)?;
    }
    if options.wants(Part::Ring) {
        on_rings(options, report)?;
    }
    if options.wants(Part::Nbd) {
        nbd::measure(options, report)?;
    }
    if options.wants(Part::Fill) {
        fill::measure(options, report)?;
    }
    if options.wants(Part::Space) {
        space::measure(options, report)?;
    }
    if options.wants(Part::Restart) {
        restart::measure(options, report)?;
    }
    if options.wants(Part::Check) {
        check::measure(options, report)?;
    }
    if options.wants(Part::Count) { count::measure(options, report) } else { Ok(true) }
}

fn on_devices(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for (place, directory) in options.places() {
        let area = Area::written(&directory, "device", options.bytes())?;
        for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
            // The pool's own metadata takes the rest.
            let touched = options.bytes() / 16 * 15 / EXTENT * EXTENT;
            let run = |seed| Run { case: *case, area: touched, time: options.time(), operations: u64::MAX, seed };
            let pairs = pairs::measure(
                options.pairs,
                |pair| bare::measure(area.path(), &run(pair)),
                |pair| engine::measure(area.path(), &run(pair)),
            )?;
            let line = Line::new("device", place, case.name, "io_uring", pairs);
            // A flush means nothing in memory.
            let judged = place == "disk" || case.kind != Kind::FirstWriteFlush;
            report.line(if judged { line.judged(case) } else { line });
        }
    }
    Ok(())
}

/// What it gains that memory and files are registered with the ring.
fn on_rings(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let plain = || ReactorConfig { register_buffers: false, file_slots: 0, ..ReactorConfig::default() };
    for (place, directory) in options.places() {
        let area = Area::written(&directory, "ring", options.bytes())?;
        let is_measured = |case: &&Case| case.kind.is_mapped() && case.depth > 1 && case.name.contains(&options.only);
        for case in CASES.iter().filter(is_measured) {
            let touched = options.bytes() / 16 * 15 / EXTENT * EXTENT;
            let run = |seed| Run { case: *case, area: touched, time: options.time(), operations: u64::MAX, seed };
            let pairs = pairs::measure(
                options.pairs,
                |pair| engine::measure_on(plain(), area.path(), &run(pair)),
                |pair| engine::measure(area.path(), &run(pair)),
            )?;
            report.line(Line::new("ring", place, case.name, "unregistered", pairs));
        }
    }
    Ok(())
}

/// Sizes of the devices of memory: all real; and one whose mapping alone is 134 MB.
const MEMORY_SIZES: [(&str, u64); 2] = [("256MiB", 256 << 20), ("1TiB", 1 << 40)];

fn on_memory(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for (place, size) in MEMORY_SIZES {
        for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
            // Nothing is ever in flight; and where memory repeats, metadata must not be read again.
            let deep = case.depth == 1 && case.kind != Kind::FirstWriteFlush;
            if deep || (size > 1 << 30 && !case.kind.is_mapped()) {
                continue;
            }
            let touched = size / 16 * 15 / EXTENT * EXTENT;
            let run = |seed| Run { case: *case, area: touched, time: options.time(), operations: u64::MAX, seed };
            let measured = pairs::measure(
                options.pairs,
                |pair| memory::bare(size, &run(pair)),
                |pair| memory::through_engine(size, &run(pair)),
            )?;
            let name = case.name.split(" qd").next().unwrap_or(case.name);
            report.line(Line::new("memory", place, name, "device", measured));
        }
    }
    Ok(())
}
