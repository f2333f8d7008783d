//! The command line: `plimsoll NOUN VERB [OBJECT] [--options]`.
//!
//! A client of the REST API that can do nothing that the API can't; the two exceptions need no daemon: `serve`, which is
//! one, and the offline `pool check --device`. Data goes to stdout and everything else to stderr. Exit codes are those of
//! [`Problem::exit_code`](crate::problem::Problem::exit_code).

mod args;
mod check;
mod client;
mod confirm;
mod event;
mod exists;
mod filter;
mod growth;
#[cfg(test)]
pub(crate) mod hints;
mod job;
mod objects;
mod offline;
mod pattern;
mod pool;
mod reclaim;
mod render;
mod run;
mod table;
#[cfg(test)]
mod tests;
mod vdisk;
mod webhook;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::daemon::{ServeOptions, serve};
use crate::problem::Problem;
use crate::units::printable;
use args::{Cli, Command, Serve};

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (what, result) = match cli.command {
        None => ("serve".to_owned(), serve_with(&cli.global, Serve::default())),
        Some(Command::Serve(options)) => ("serve".to_owned(), serve_with(&cli.global, options)),
        Some(Command::Completions { shell }) => {
            // Into memory first, because clap_complete panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "plimsoll", &mut script);
            let printed = render::print(&String::from_utf8_lossy(&script));
            ("print completions".to_owned(), printed.map(|()| ExitCode::SUCCESS))
        }
        Some(command) => run::run(&cli.global, command),
    };
    match result {
        Ok(code) => code,
        Err(problem) => {
            complain(&what, &problem);
            ExitCode::from(problem.exit_code())
        }
    }
}

fn serve_with(global: &args::Global, options: Serve) -> Result<ExitCode, Problem> {
    serve(&ServeOptions {
        state_dir: global.state_dir.clone(),
        config: options.config,
        bare: options.bare,
        buffered: options.buffered,
        nbd_listen: options.nbd_listen,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Three lines: what failed, why, what to do.
fn complain(what: &str, problem: &Problem) {
    let mut to = std::io::stderr().lock();
    // There is nowhere else to say it.
    let _ = to.write_all(complaint(what, problem).as_bytes());
}

fn complaint(what: &str, problem: &Problem) -> String {
    let detail: Vec<String> = problem.detail.lines().map(printable).collect();
    let mut text = format!("error: cannot {} [{}]\n  {}\n", printable(what), problem.code, detail.join("\n  "));
    if let Some(hint) = &problem.hint {
        text += &format!("hint: {}\n", printable(hint));
    }
    text
}

#[cfg(test)]
mod complaints {
    use super::*;

    #[test]
    fn what_terminals_obey_is_shown_and_not_done() {
        let problem = Problem::new("not-found", "no \u{1b}[2J\nhere").hint("say \u{7}");
        let expected =
            "error: cannot show pool a\\nb\\u{1b}[31m \u{e4} [not-found]\n  no \\u{1b}[2J\n  here\nhint: say \\u{7}\n";
        assert_eq!(complaint("show pool a\nb\u{1b}[31m \u{e4}", &problem), expected);
    }
}
