//! `plimsoll reclaim`: giving back zeros and patterns that are stored, of a whole vdisk or of ranges named by somebody else.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::args::{DryRun, Wait, bound};
use super::client::Request;
use super::confirm::confirm;
use super::job::{watch, watch_answer};
use super::pool::with;
use super::render::steps;
use super::run::Context;
use super::vdisk::target;
use crate::model::{BeginReclaim, Range, SetReclaim};
use crate::name::VdiskName;
use crate::problem::{Answer, Problem};
use crate::units::{Size, iec, quoted};

/// Bytes of text that ranges are read from: 500,000 of them at 128 bytes a line.
const RANGES_TEXT_MAX: u64 = 64_000_000;

/// Below how one stands: after a restart it goes on where it was, and what it gave back before that is not known any more.
const COUNTED_SINCE: &str = "\nscanned, zero, pattern and freed bytes are counted since the pool was opened\n";

#[derive(Debug, Args)]
pub(super) struct Reclaim {
    pub(super) vdisk: VdiskName,
    /// Only these ranges: a file (- for standard input) with OFFSET LENGTH a line, in bytes (4K) or sectors (8s), at most 500,000.
    /// It does not go on after a restart
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
    /// What the ranges hold is not needed, whatever it is: it reads as zeros afterwards
    #[arg(long, requires = "ranges")]
    worthless: bool,
    /// Give up a reclaim that is paused, and begin from the start
    #[arg(long)]
    anew: bool,
    /// Read at most so much in a second, whole MiB, or none; of one that goes on, from now on
    #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, value_parser = bound)]
    rate: Option<Size>,
    /// Make the reclaim that goes on wait
    #[arg(long, conflicts_with_all = ["ranges", "rate", "anew", "resume", "show"])]
    pause: bool,
    /// Let it go on
    #[arg(long, conflicts_with_all = ["ranges", "anew", "show"])]
    resume: bool,
    /// Only show how it stands
    #[arg(long, conflicts_with_all = ["ranges", "rate", "anew"])]
    show: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    how: DryRun,
}

impl Reclaim {
    /// What is tried, in words.
    pub(super) fn named(&self) -> String {
        let vdisk = &self.vdisk;
        match self {
            Reclaim { show: true, .. } => format!("show the reclaim of {vdisk}"),
            Reclaim { pause: true, .. } => format!("pause the reclaim of {vdisk}"),
            Reclaim { resume: true, .. } => format!("resume the reclaim of {vdisk}"),
            _ => format!("reclaim {vdisk}"),
        }
    }
}

pub(super) fn run(cx: &Context<'_>, args: Reclaim) -> Answer<()> {
    let at = format!("{}/reclaim", target(&args.vdisk));
    if args.show {
        cx.render.object(&cx.client.get(&at)?)?;
        return cx.render.below(|_| COUNTED_SINCE.to_owned());
    }
    if args.pause || args.resume || goes_on(cx, &args, &at)? {
        return set(cx, &args, &at);
    }
    let request = request(cx, &args)?;
    let send = |dry_run: bool| cx.client.send(Request::new("POST", &with(&at, dry_run)).body(&request)?);
    if args.how.dry_run {
        return cx.render.plan(&send(true)?);
    }
    if args.worthless {
        let file = args.ranges.as_deref().unwrap_or_else(|| "FILE".as_ref()).display();
        let command = format!("plimsoll reclaim {} --ranges {file} --worthless", args.vdisk);
        confirm(args.yes, &steps(&send(true)?), &command)?;
    }
    let job = send(false)?;
    if !args.wait.or(Wait::by_default()) {
        return cx.render.changed(&format!("reclaim of {} begun", args.vdisk), &job);
    }
    ended(cx, &args, &watch_answer(&cx.client, &job)?)
}

/// Whether a pace is meant for a reclaim that goes on.
fn goes_on(cx: &Context<'_>, args: &Reclaim, at: &str) -> Answer<bool> {
    if args.rate.is_none() || args.ranges.is_some() || args.anew {
        return Ok(false);
    }
    match cx.client.get(at) {
        Ok(known) => Ok(known["running"] == true && known["paused"] == false),
        Err(problem) if problem.code == "not-found" => Ok(false),
        Err(problem) => Err(problem),
    }
}

/// Changes a reclaim, and waits for one that goes on then.
fn set(cx: &Context<'_>, args: &Reclaim, at: &str) -> Answer<()> {
    let paused = (args.pause || args.resume).then_some(args.pause);
    let request = SetReclaim { paused, rate_bytes: rate(args)? };
    let answer = cx.client.send(Request::new("PATCH", &with(at, args.how.dry_run)).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    let word = match paused {
        Some(true) => "paused",
        Some(false) => "resumed",
        None => "has another pace",
    };
    let job = answer.get("job").and_then(Value::as_str).filter(|_| !args.pause && args.wait.or(Wait::by_default()));
    match job {
        Some(job) => ended(cx, args, &watch(&cx.client, job)?),
        None => cx.render.changed(&format!("reclaim of {} {word}", args.vdisk), &answer),
    }
}

fn rate(args: &Reclaim) -> Answer<Option<u64>> {
    let rate = args.rate.map(|size| size.exact()).transpose();
    rate.map_err(|error| Problem::new("invalid-argument", error.to_string()))
}

/// Says what the reclaim came to whose job was waited for.
fn ended(cx: &Context<'_>, args: &Reclaim, job: &Value) -> Answer<()> {
    let result = cx.client.get(&format!("{}/reclaim", target(&args.vdisk)))?;
    let paused = job.get("state").and_then(Value::as_str) == Some("paused");
    let what = outcome(&args.vdisk.to_string(), &result, args.worthless, paused);
    cx.render.changed(&what, &result)
}

/// What a reclaim came to, or has come to so far.
fn outcome(vdisk: &str, result: &Value, worthless: bool, paused: bool) -> String {
    let bytes = |field: &str| iec(result.get(field).and_then(Value::as_u64).unwrap_or(0));
    let so_far = if paused { "paused; so far " } else { "" };
    let [zeros, free] = ["zero_bytes", "freed_bytes"].map(bytes);
    if worthless {
        // Nothing is read, and what it was is not known.
        return format!("{so_far}{zeros} that {vdisk} stored are given up, {free} of the pool came free");
    }
    let [scanned, patterns] = ["scanned_bytes", "pattern_bytes"].map(bytes);
    format!(
        "{so_far}{scanned} of {vdisk} looked through: {zeros} of zeros and {patterns} of patterns are not stored any more, {free} of the \
         pool came free"
    )
}

fn request(cx: &Context<'_>, args: &Reclaim) -> Answer<BeginReclaim> {
    let rate_bytes = rate(args)?;
    let ranges = match &args.ranges {
        None => None,
        Some(path) => {
            let problem =
                |error: std::io::Error| Problem::new("invalid-argument", format!("{}: {error}", path.display()));
            let mut text = String::new();
            let read = match path.as_os_str() == "-" {
                true => std::io::stdin().take(RANGES_TEXT_MAX + 1).read_to_string(&mut text),
                false => {
                    let file = std::fs::File::open(path).map_err(problem)?;
                    file.take(RANGES_TEXT_MAX + 1).read_to_string(&mut text)
                }
            };
            if read.map_err(problem)? as u64 > RANGES_TEXT_MAX {
                let problem = format!("{} has more than {}", path.display(), iec(RANGES_TEXT_MAX));
                return Err(Problem::new("invalid-argument", problem).hint("name at most 500,000 ranges at a time"));
            }
            let vdisk = cx.client.get(&target(&args.vdisk))?;
            let sector = vdisk.get("sector_bytes").unwrap_or(&json!(512)).as_u64().unwrap_or(512);
            Some(parse(&text, sector)?)
        }
    };
    Ok(BeginReclaim { ranges, worthless: args.worthless, rate_bytes, anew: args.anew })
}

/// A range a line; empty lines and what follows a # say nothing.
fn parse(text: &str, sector: u64) -> Answer<Vec<Range>> {
    let mut ranges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let numbers: Option<Vec<u64>> = words.iter().map(|word| bytes_of(word, sector)).collect();
        match numbers.as_deref() {
            Some([]) => {}
            Some(&[offset_bytes, length_bytes]) => ranges.push(Range { offset_bytes, length_bytes }),
            _ => {
                let problem = format!("line {} is {}, not OFFSET LENGTH", number + 1, quoted(line));
                return Err(
                    Problem::new("invalid-argument", problem).hint("echo '0 1M' | plimsoll reclaim VDISK --ranges -")
                );
            }
        }
    }
    Ok(ranges)
}

fn bytes_of(word: &str, sector: u64) -> Option<u64> {
    match word.strip_suffix('s') {
        Some(sectors) => sectors.parse::<u64>().ok()?.checked_mul(sector),
        None => word.parse::<Size>().ok()?.exact().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_in_bytes_and_in_sectors() {
        let text = "# of the guest's manager\n0 4096\n\n 1M  64K # a comment\n8s 16s\n";
        let range = |offset_bytes, length_bytes| Range { offset_bytes, length_bytes };
        let expected = [range(0, 4096), range(1 << 20, 65_536), range(4096, 8192)];
        assert_eq!(parse(text, 512).unwrap(), expected);
        assert_eq!(parse("1s 2s", 4096).unwrap(), [range(4096, 8192)]);
        for wrong in ["1", "1 2 3", "a b", "1 -2", "99999999999999999999s 1s"] {
            let problem = parse(&format!("0 512\n{wrong}"), 512).unwrap_err();
            assert!(problem.detail.contains("line 2"), "{}", problem.detail);
        }
    }

    #[test]
    fn what_is_worthless_is_said_to_be_given_up_and_not_to_be_zeros() {
        let result = json!({"scanned_bytes": 0, "zero_bytes": 8192, "pattern_bytes": 0, "freed_bytes": 65536});
        let expected = "8 KiB that tank/a stored are given up, 64 KiB of the pool came free";
        assert_eq!(outcome("tank/a", &result, true, false), expected);
        let read = outcome("tank/a", &result, false, true);
        let expected = "paused; so far 0 B of tank/a looked through: 8 KiB of zeros and 0 B of patterns are not stored any more, \
            64 KiB of the pool came free";
        assert_eq!(read, expected);
    }

    #[test]
    fn a_line_that_never_ends_is_not_said_again_as_a_whole() {
        for text in ["7".repeat(60_000_000), "0 x ".repeat(15_000_000)] {
            let problem = parse(&text, 512).unwrap_err();
            assert!(problem.detail.len() < 200 && problem.detail.contains("60000000 bytes"), "{}", problem.detail);
        }
    }
}
