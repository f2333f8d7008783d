//! This program, run again as a child: a process of its own for what is measured of one.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs this program as a child on `path` until it prints a line of numbers; kills it then, or lets it end.
pub(crate) fn ask(path: &Path, what: &[&str], kill: bool) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--child").arg(what[0]).arg(path).args(&what[1..]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if kill {
        child.kill()?;
    }
    let status = child.wait()?;
    let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
    match numbers {
        Ok(numbers) if !numbers.is_empty() && (kill || status.success()) => Ok(numbers),
        _ => Err(format!("the child for '{}' failed: {status}, {line}", what.join(" ")).into()),
    }
}

/// Memory of this process that is in RAM, in bytes.
pub(crate) fn resident() -> Result<i64, Box<dyn Error>> {
    of_status("VmRSS:")
}

/// The most that was in RAM since [`forget_peak`], in bytes.
pub(crate) fn peak() -> Result<i64, Box<dyn Error>> {
    of_status("VmHWM:")
}

/// Lets [`peak`] begin anew.
pub(crate) fn forget_peak() -> Result<(), Box<dyn Error>> {
    // proc_pid_clear_refs(5): 5 resets the high water mark.
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

fn of_status(name: &str) -> Result<i64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("no {name} in the status"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<i64>()? << 10)
}
