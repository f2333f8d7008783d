//! Large pools: how long opening one takes after a clean close and after a kill, and the memory that its mapping takes.
//!
//! The generator maps terabytes on a sparse file without writing their data. Every opening is that of a new process (this
//! program, run again as a child), which is killed in the middle of first writes where a kill is wanted. And a tiny pool, in the
//! simulated machine.

mod child;
mod tiny;

pub(crate) use child::run as run_child;

use std::error::Error;

use crate::area::Area;
use crate::child::ask;
use crate::options::Options;
use crate::report::Report;

/// Longest opening wanted, in milliseconds.
const OPEN_MS_MAX: f64 = 1000.0;
/// Most memory wanted per TiB mapped, in MiB.
const MEMORY_MIB_MAX: f64 = 140.0;
/// First writes in the journal when the process is killed. A ring of 32 MiB asks for a checkpoint at some 340,000.
const WRITES_BEFORE_KILL: u64 = 300_000;
/// Cap for the second look at memory, in MiB.
const CAP_MIB: u64 = 64;

/// Measures each size on each file system.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    tiny::measure(report)?;
    for (place, directory) in options.places() {
        for &tebibytes in &options.tebibytes {
            let name = |what: &str| format!("{tebibytes} TiB mapped, {place}: {what}");
            // A fifth more than what is mapped, for metadata and for first writes.
            let area = Area::sparse(&directory, "restart", (tebibytes << 40) / 5 * 6 / 4096 * 4096)?;
            let mapped = tebibytes.to_string();
            let filled = ask(area.path(), &["fill", &mapped], false)?;
            report.figure("restart", name("generating"), filled[0], "s", None);
            let opens = |count: u64, kill: bool| -> Result<f64, Box<dyn Error>> {
                let mut times = Vec::new();
                for _ in 0..count {
                    let least = match kill {
                        true => ask(area.path(), &["write", &WRITES_BEFORE_KILL.to_string()], true)?[1],
                        false => 0.0,
                    };
                    let [took, from_devices, from_memory] = ask(area.path(), &["open"], false)?[..] else {
                        return Err("an opening says too little".into());
                    };
                    // Else it is not an opening after a kill that was measured. A pool that was closed has the record that says so.
                    let replayed = from_devices + from_memory;
                    if kill && !(1.0..=replayed).contains(&least) {
                        return Err(format!("{replayed} records were replayed, of {least} first writes or more").into());
                    }
                    times.push(took);
                }
                Ok(crate::pairs::median(times.into_iter()))
            };
            let clean = opens(options.pairs.min(3), false)?;
            report.figure("restart", name("open after a close"), clean, "ms", Some(OPEN_MS_MAX));
            let killed = opens(options.pairs.min(3), true)?;
            let what = format!("open after kill -9 at {WRITES_BEFORE_KILL} first writes");
            report.figure("restart", name(&what), killed, "ms", Some(OPEN_MS_MAX));
            if tebibytes == 1 {
                let all = ask(area.path(), &["memory", &mapped, "1024"], false)?;
                report.figure("restart", name("memory per TiB, all cached"), all[0], "MiB", Some(MEMORY_MIB_MAX));
                let capped = ask(area.path(), &["memory", &mapped, &CAP_MIB.to_string()], false)?;
                let what = format!("memory with a cap of {CAP_MIB} MiB");
                report.figure("restart", name(&what), capped[0], "MiB", Some(CAP_MIB as f64));
            }
            ask(area.path(), &["forget"], false)?;
        }
    }
    Ok(())
}
