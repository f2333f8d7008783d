//! fio, and what it says.

use std::error::Error;
use std::process::Command;

use serde_json::Value;

use super::server::Server;
use crate::meter::Measured;

/// Processor that clients run on.
const PROCESSOR: &str = "1";

/// Work for fio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(super) name: &'static str,
    pub(super) pattern: &'static str,
    pub(super) block: u64,
    pub(super) depth: u32,
}

/// Writes all of an export once.
pub(super) fn fill(server: &Server, bytes: u64) -> Result<(), Box<dyn Error>> {
    let job = Job { name: "fill", pattern: "write", block: 1 << 20, depth: 8 };
    fio(server, &job, bytes, &[])?;
    Ok(())
}

/// One timed run.
pub(super) fn measure(server: &Server, job: &Job, bytes: u64, seconds: f64) -> Result<Measured, Box<dyn Error>> {
    let before = server.processor_seconds()?;
    let time = format!("--runtime={}ms", (seconds * 1e3) as u64);
    let output = fio(server, job, bytes, &["--time_based", &time])?;
    let cpu = server.processor_seconds()? - before;
    let side = if job.pattern.ends_with("read") { "read" } else { "write" };
    let side = &output["jobs"][0][side];
    let number = |value: &Value| value.as_f64().ok_or("fio left a figure out");
    let operations = number(&side["total_ios"])?;
    let percentile = |name: &str| side["clat_ns"]["percentile"][name].as_f64().unwrap_or(0.0) / 1e3;
    let per_second = number(&side["iops"])?;
    Ok(Measured {
        operations: operations as u64,
        seconds: operations / per_second,
        per_second,
        cpu_us: cpu * 1e6 / operations,
        thread_cpu_us: cpu * 1e6 / operations,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
    })
}

fn fio(server: &Server, job: &Job, bytes: u64, more: &[&str]) -> Result<Value, Box<dyn Error>> {
    let output = Command::new("taskset")
        .args(["-c", PROCESSOR, "fio", "--output-format=json", "--ioengine=nbd", "--name=bench", "--thread"])
        .arg(format!("--uri={}", server.uri))
        .arg(format!("--rw={}", job.pattern))
        .arg(format!("--bs={}", job.block))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--size={bytes}"))
        .arg("--randrepeat=0")
        .args(more)
        .output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("fio failed on {}: {words}", server.uri).into());
    }
    // fio may say something before it begins its JSON.
    let begin = output.stdout.iter().position(|&byte| byte == b'{').unwrap_or(0);
    Ok(serde_json::from_slice(&output.stdout[begin..])?)
}
