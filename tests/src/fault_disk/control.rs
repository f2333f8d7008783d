//! The control socket: one command per line, one answer per line, `ok` or `error` first.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::filesystem::Shared;
use super::media::Stays;

/// The commands, for `help` and for the program's usage.
pub const COMMANDS: &str = "cut SEED | eio-read N | eio-write N [there|stay] | eio-flush N [lose] | \
                            enospc-write on|off|N | slow MS | vanish | return | faults | stats | help";

/// Answers the connections to `listener`, one after another, for as long as the process lives.
pub fn serve(listener: &UnixListener, shared: &Arc<Mutex<Shared>>) {
    for stream in listener.incoming().flatten() {
        // A client that goes away in the middle costs only itself.
        let _ = converse(&stream, shared);
    }
}

fn converse(stream: &UnixStream, shared: &Arc<Mutex<Shared>>) -> std::io::Result<()> {
    for line in BufReader::new(stream).lines() {
        let answer = match command(&line?, &mut shared.lock().unwrap_or_else(PoisonError::into_inner)) {
            Ok(text) => format!("ok {text}\n"),
            Err(text) => format!("error {text}\n"),
        };
        let mut writer = stream;
        writer.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Carries out one command; the answer's text, or why it was refused.
fn command(line: &str, shared: &mut Shared) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
    let nth = |text: &str| number(text).map(|nth| (nth > 0).then_some(nth));
    let media = &mut shared.media;
    match words[..] {
        ["cut", seed] => {
            let pending = media.cut(number(seed)?).map_err(|error| format!("the cut failed: {error}"))?;
            shared.period += 1;
            return Ok(format!("pending={pending}"));
        }
        ["eio-read", n] => media.faults.read = nth(n)?,
        ["eio-write", n] => media.faults.fail_writes(nth(n)?, Stays::Once),
        ["eio-write", n, "there"] => media.faults.fail_writes(nth(n)?, Stays::There),
        ["eio-write", n, "stay"] => media.faults.fail_writes(nth(n)?, Stays::Everywhere),
        ["eio-flush", n] => (media.faults.flush, media.faults.flush_loses) = (nth(n)?, false),
        ["eio-flush", n, "lose"] => (media.faults.flush, media.faults.flush_loses) = (nth(n)?, true),
        ["enospc-write", "on"] => media.faults.no_space = Some(1),
        ["enospc-write", "off"] => media.faults.no_space = None,
        ["enospc-write", n] => media.faults.no_space = nth(n)?,
        ["slow", ms] => media.faults.slow_ms = number(ms)?,
        ["vanish"] => media.faults.vanished = true,
        ["return"] => media.faults.vanished = false,
        ["faults"] => return Ok(media.stats().faults.to_string()),
        ["stats"] => return Ok(format!("pending={} {:?}", media.pending(), media.stats())),
        ["help"] => return Ok(COMMANDS.into()),
        _ => return Err(format!("unknown command {line:?}; commands: {COMMANDS}")),
    }
    Ok(String::new())
}
