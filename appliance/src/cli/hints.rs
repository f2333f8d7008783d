//! Commands that hints, errors and advice name: they must be what the command line takes.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::args::Cli;

/// What a hint has in place of something that its reader knows, and an example of it.
const PLACEHOLDERS: [(&str, &str); 9] = [
    ("PATH", "/dev/sdb"),
    ("SIZE", "1T"),
    ("LIMIT", "2x"),
    ("TENANT", "acme"),
    ("POOL", "tank"),
    ("NAME", "ops"),
    ("URL", "http://127.0.0.1/"),
    ("FILE", "secret.txt"),
    ("SEQ", "17"),
];

/// The commands in a text: from `plimsoll ` to where prose goes on.
fn commands(text: &str) -> Vec<String> {
    let ends = |rest: &str| {
        let stop = rest.find(['"', '\\', ')', '(', ',', ';', '`', ':', '\'', '\n', '|']).unwrap_or(rest.len());
        let rest = &rest[..stop];
        rest.find(". ").map_or(rest, |stop| &rest[..stop]).trim_end_matches('.').trim_end().to_owned()
    };
    text.match_indices("plimsoll ").map(|(at, name)| ends(&text[at + name.len()..])).collect()
}

/// Asserts that every command in an advice can be given as it stands, but for what only its reader knows.
///
/// # Panics
/// There is none, or one cannot.
#[track_caller]
pub(crate) fn assert_advice_can_be_followed(advice: &str) {
    let commands = commands(advice);
    assert!(!commands.is_empty(), "no command in {advice:?}");
    for command in commands {
        let known = |word: &str| PLACEHOLDERS.iter().find(|(name, _)| *name == word).map(|(_, example)| *example);
        let words = command.split(' ').map(|word| known(word).unwrap_or(word));
        if let Err(error) = Cli::try_parse_from(std::iter::once("plimsoll").chain(words)) {
            panic!("{advice:?} says {command:?}: {error}");
        }
    }
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What is wrong with the names in a command: a noun, a verb or an option that does not exist.
fn wrong(command: &str) -> Option<String> {
    let all = Cli::command();
    let mut words = command.split_whitespace().peekable();
    let mut at = &all;
    while at.has_subcommands()
        && let Some(word) = words.next_if(|word| word.starts_with(|first: char| first.is_ascii_lowercase()))
    {
        match at.find_subcommand(word) {
            Some(inner) => at = inner,
            None => return Some(format!("{} has no {word}", at.get_name())),
        }
    }
    let takes = |option: &str| {
        let long = |command: &clap::Command| command.get_arguments().any(|known| known.get_long() == Some(option));
        long(at) || long(&all) || option == "help"
    };
    let options = words.filter_map(|word| word.strip_prefix("--")).map(|word| word.split('=').next().unwrap_or(word));
    options.filter(|option| !takes(option)).map(|option| format!("{} has no --{option}", at.get_name())).next()
}

#[test]
fn commands_named_in_the_sources_exist_with_their_options() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "../engine/src", "../hardware/src"] {
        sources(&here.join(folder), &mut files);
    }
    let (mut seen, mut bad) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.ends_with("cli/hints.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        // A string that goes on in the next line.
        let mut lines = text.split("\\\n").map(str::trim_start).collect::<String>();
        // A line that is meant to be refused.
        lines = lines.split("makes_no_sense").next().unwrap_or_default().to_owned();
        for command in commands(&lines).iter().filter(|command| {
            // "as a user", "{arguments}": prose, or somebody else's words.
            command.starts_with(|first: char| first.is_ascii_lowercase()) && !command.starts_with("as ")
        }) {
            seen += 1;
            bad.extend(wrong(command).map(|why| format!("{}: {command:?}: {why}", file.display())));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(seen > 150, "only {seen} commands were found");
}

#[test]
fn commands_that_do_not_exist_are_found() {
    assert!(wrong("pool add-device tank --device PATH").is_none());
    assert!(wrong("pool add-devise tank").is_some());
    assert!(wrong("pol list").is_some());
    assert!(wrong("tenant set acme --quotas 1T").is_some());
    assert_eq!(commands("do (plimsoll pool list), or plimsoll status. Then"), ["pool list", "status"]);
}
