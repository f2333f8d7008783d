//! The NBD export under fio, against qemu-storage-daemon exporting raw and qcow2 from the same file system.
//!
//! Server and client are pinned to different processors; the server's processor time is its own accounting.

mod client;
mod server;

use std::error::Error;
use std::path::Path;

use crate::options::Options;
use crate::pairs::{self, Line};
use crate::report::Report;
use client::Job;
use server::Server;

const fn job(name: &'static str, pattern: &'static str, block: u64, depth: u32) -> Job {
    Job { name, pattern, block, depth }
}

const JOBS: &[Job] = &[
    job("4k random read qd32", "randread", 4096, 32),
    job("4k random write qd32", "randwrite", 4096, 32),
    job("4k random read qd1", "randread", 4096, 1),
    job("4k random write qd1", "randwrite", 4096, 1),
    job("128k sequential read qd8", "read", 128 << 10, 8),
    job("128k sequential write qd8", "write", 128 << 10, 8),
];

/// Programs that are needed, and the Debian package that each comes with.
const NEEDED: [(&str, &str); 4] = [
    ("fio", "fio"),
    ("taskset", "util-linux"),
    ("qemu-storage-daemon", "qemu-system-common (bookworm-backports for QEMU 10)"),
    ("qemu-img", "qemu-utils"),
];

/// Refuses when something is missing that [`measure`] needs.
pub(crate) fn check(options: &Options) -> Result<(), Box<dyn Error>> {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(program, package)| format!("{program} (apt-get install {package})"))
        .collect();
    if !missing.is_empty() {
        return Err(format!("nbd needs {}", missing.join(", ")).into());
    }
    if !options.plimsoll.exists() {
        let path = options.plimsoll.display();
        return Err(format!("{path} is not there; build it (cargo build --release) or say --plimsoll PATH").into());
    }
    Ok(())
}

/// Measures every job on each file system.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for (place, directory) in options.places() {
        let plimsoll = Server::plimsoll(&options.plimsoll, &directory, options.bytes())?;
        let raw = Server::qemu(&directory, "raw", options.bytes())?;
        let qcow2 = Server::qemu(&directory, "qcow2", options.bytes())?;
        for server in [&plimsoll, &raw, &qcow2] {
            client::fill(server, options.bytes())?;
        }
        for job in JOBS.iter().filter(|job| job.name.contains(&options.only)) {
            for (name, peer) in [("qsd raw", &raw), ("qsd qcow2", &qcow2)] {
                let run = |server: &Server| client::measure(server, job, options.bytes(), options.seconds);
                let pairs = pairs::measure(options.pairs, |_| run(peer), |_| run(&plimsoll))?;
                let mut line = Line::new("nbd", place, job.name, name, pairs);
                // What is wanted of the server's processor time, and of large transfers, on tmpfs.
                let judged = match (place, name, job.block, job.depth) {
                    ("tmpfs", "qsd raw", 4096, 32) => Some(("1.70 per CPU", line.per_cpu_ratio >= 1.7)),
                    ("tmpfs", "qsd raw", 131_072, _) => Some(("2.00", line.ratio >= 2.0)),
                    _ => None,
                };
                if let Some((goal, reached)) = judged {
                    (line.goal, line.reached) = (Some(goal.into()), Some(reached));
                }
                report.line(line);
            }
        }
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| Path::new(&directory).join(program).exists())
}
