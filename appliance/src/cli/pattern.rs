//! `plimsoll pattern`: what blocks repeat that are stored by a number.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::args::DryRun;
use super::client::Request;
use super::pool::{self, with};
use super::run::Context;
use super::table;
use crate::model::{AddPattern, PatternUse, SetPattern};
use crate::problem::{Answer, Problem};

/// Bytes of the longest unit.
const UNIT_BYTES_MAX: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(super) enum Pattern {
    /// List the patterns of a pool
    #[command(
        visible_alias = "ls",
        before_help = "Examples:\n  plimsoll pattern list tank\n  plimsoll pattern list tank -o wide\n"
    )]
    List { pool: String },
    /// Show a pattern
    #[command(before_help = "Examples:\n  plimsoll pattern show tank 1\n  plimsoll pattern show tank 1 --json\n")]
    Show {
        pool: String,
        #[arg(value_parser = number)]
        number: u16,
    },
    /// Add a pattern: a unit of 1 to 4096 bytes, a power of two
    #[command(
        before_help = "Examples:\n  plimsoll pattern add tank --text PLIMSOLL\n  plimsoll pattern add tank --random --own-only\n"
    )]
    Add(Add),
    /// Match a pattern no longer; what is stored by it reads as ever
    #[command(
        before_help = "Examples:\n  plimsoll pattern disable tank 1\n  plimsoll pattern disable tank 1 --dry-run\n"
    )]
    Disable(One),
    /// Match a pattern that was disabled again
    #[command(
        before_help = "Examples:\n  plimsoll pattern enable tank 1\n  plimsoll pattern enable tank 1 --dry-run\n"
    )]
    Enable(One),
    /// Remove a pattern that is disabled and that nothing is stored by
    #[command(
        visible_alias = "rm",
        before_help = "Examples:\n  plimsoll pattern remove tank 1\n  plimsoll pattern remove tank 1 --dry-run\n"
    )]
    Remove(One),
}

#[derive(Debug, Args)]
pub(super) struct One {
    pool: String,
    #[arg(value_parser = number)]
    number: u16,
    #[command(flatten)]
    how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    pool: String,
    #[command(flatten)]
    unit: Unit,
    /// Match it only for vdisks that name it (plimsoll vdisk set --pattern)
    #[arg(long)]
    own_only: bool,
    #[command(flatten)]
    how: DryRun,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Unit {
    /// The unit in hexadecimal digits
    #[arg(long, value_name = "DIGITS")]
    hex: Option<String>,
    /// The unit as text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The unit is all of a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// 64 random bytes
    #[arg(long)]
    random: bool,
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "it is the number of a pattern, as plimsoll pattern list shows it".to_owned())
}

impl Pattern {
    /// What is tried, in words.
    pub(super) fn named(&self) -> String {
        match self {
            Pattern::List { pool } => format!("list the patterns of {pool}"),
            Pattern::Show { pool, number } => format!("show pattern {number} of {pool}"),
            Pattern::Add(args) => format!("add a pattern to {}", args.pool),
            Pattern::Disable(one) => format!("disable pattern {} of {}", one.number, one.pool),
            Pattern::Enable(one) => format!("enable pattern {} of {}", one.number, one.pool),
            Pattern::Remove(one) => format!("remove pattern {} of {}", one.number, one.pool),
        }
    }
}

pub(super) fn run(cx: &Context<'_>, command: Pattern) -> Answer<()> {
    match command {
        Pattern::List { pool } => cx.render.list(&table::PATTERN, cx.client.get(&patterns(&pool))?),
        Pattern::Show { pool, number } => cx.render.object(&cx.client.get(&target(&pool, number))?),
        Pattern::Add(args) => add(cx, args),
        Pattern::Disable(one) => set(cx, &one, PatternUse::Disabled, "disabled"),
        Pattern::Enable(one) => set(cx, &one, PatternUse::Everywhere, "enabled"),
        Pattern::Remove(one) => {
            let at = with(&target(&one.pool, one.number), one.how.dry_run);
            let answer = cx.client.send(Request::new("DELETE", &at))?;
            if one.how.dry_run {
                return cx.render.plan(&answer);
            }
            cx.render.changed(&format!("pattern {} of {} removed", one.number, one.pool), &answer)
        }
    }
}

fn patterns(pool: &str) -> String {
    format!("{}/patterns", pool::target(pool))
}

fn target(pool: &str, number: u16) -> String {
    format!("{}/{number}", patterns(pool))
}

fn set(cx: &Context<'_>, one: &One, used: PatternUse, word: &str) -> Answer<()> {
    let at = with(&target(&one.pool, one.number), one.how.dry_run);
    let answer = cx.client.send(Request::new("PATCH", &at).body(&SetPattern { used })?)?;
    if one.how.dry_run {
        return cx.render.plan(&answer);
    }
    cx.render.changed(&format!("pattern {} of {} {word}", one.number, one.pool), &answer)
}

fn add(cx: &Context<'_>, args: Add) -> Answer<()> {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let unit_hex = match args.unit {
        Unit { random: true, .. } => None,
        Unit { hex: Some(hex), .. } => Some(hex.chars().filter(|digit| !matches!(digit, ' ' | ':')).collect()),
        Unit { text: Some(text), .. } => Some(digits(text.as_bytes())),
        Unit { file, .. } => {
            let path = file.unwrap_or_default();
            let mut bytes = Vec::new();
            // One more than a unit may have is enough to be refused for.
            File::open(&path)
                .and_then(|file| file.take(UNIT_BYTES_MAX + 1).read_to_end(&mut bytes))
                .map_err(|error| Problem::new("invalid-argument", format!("{}: {error}", path.display())))?;
            if bytes.len() as u64 > UNIT_BYTES_MAX {
                let detail = format!(
                    "{} has more than {UNIT_BYTES_MAX} bytes, and a pattern 1 to {UNIT_BYTES_MAX}",
                    path.display()
                );
                let hint = format!("plimsoll pattern add {} --file FILE, of one unit of what is repeated", args.pool);
                return Err(Problem::new("invalid-argument", detail).hint(hint));
            }
            Some(digits(&bytes))
        }
    };
    let used = if args.own_only { PatternUse::OwnOnly } else { PatternUse::Everywhere };
    let request = AddPattern { random: unit_hex.is_none(), unit_hex, used };
    let at = with(&patterns(&args.pool), args.how.dry_run);
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    let number = answer.get("number").and_then(Value::as_u64).unwrap_or(0);
    cx.render.changed(&format!("pattern {number} added to pool {}", args.pool), &answer)
}
