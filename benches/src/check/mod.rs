//! Checking large pools without a daemon: how long that takes, beside a raw read of as many bytes of the same file, and what memory it
//! takes beyond that of the open pool.
//!
//! Pools are made as for `restart`; every check is that of a new process. Pages of metadata are 4 KiB each, in two copies, wherever
//! they are; the raw read takes 256 KiB at a time, from what the file has of data, in order.

mod child;
mod counted;

pub(crate) use child::run as run_child;

use std::error::Error;

use crate::area::Area;
use crate::child::ask;
use crate::options::Options;
use crate::pairs::median;
use crate::report::Report;

const MIB: f64 = (1 << 20) as f64;
const PAGE_BYTES: f64 = 4096.0;

/// Measures each size on each file system.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for (place, directory) in options.places() {
        for &tebibytes in &options.tebibytes {
            let name = |what: &str| format!("{tebibytes} TiB mapped, {place}: {what}");
            // A fifth more than what is mapped, for metadata.
            let area = Area::sparse(&directory, "check", (tebibytes << 40) / 5 * 6 / 4096 * 4096)?;
            ask(area.path(), &["fill", &tebibytes.to_string()], false)?;
            let look = || -> Result<[f64; 4], Box<dyn Error>> {
                let numbers = ask(area.path(), &["check-pool"], false)?;
                numbers.try_into().map_err(|numbers| format!("a check says {numbers:?}").into())
            };
            let [_, bytes, pages, _] = look()?;
            let (mut raws, mut checks, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..options.pairs {
                raws.push(ask(area.path(), &["check-raw", &bytes.to_string()], false)?[0]);
                let [took, again, _, peak] = look()?;
                if again != bytes {
                    return Err(format!("a check read {again} bytes, and {bytes} before").into());
                }
                checks.push(took);
                peaks.push(peak / MIB);
            }
            let ratios: Vec<f64> = raws.iter().zip(&checks).map(|(raw, check)| raw / check).collect();
            let figure = |report: &mut Report, what: &str, values: &[f64], unit| {
                report.figure("check", name(what), median(values.iter().copied()), unit, None);
            };
            figure(report, "a check", &checks, "s");
            figure(report, "a raw read of as many bytes", &raws, "s");
            figure(report, "bytes per second, check over raw", &ratios, "of raw");
            figure(report, "bytes read", &[bytes / MIB], "MiB");
            figure(report, "pages of metadata read", &[pages * PAGE_BYTES / MIB], "MiB");
            figure(report, "memory beyond the open pool", &peaks, "MiB");
            ask(area.path(), &["forget"], false)?;
        }
    }
    Ok(())
}
