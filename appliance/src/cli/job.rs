//! Jobs: waiting for them, with a progress bar on stderr when that is a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::args::Wait;
use super::client::{Client, segment};
use crate::problem::{Answer, Problem};

/// First and longest pause between two looks at a job.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
const BAR: usize = 30;

impl Wait {
    /// Whether to wait; `otherwise` when nothing was said.
    pub(super) fn or(&self, otherwise: bool) -> bool {
        if self.no_wait { false } else { self.wait || otherwise }
    }

    /// On a terminal a person waits.
    pub(super) fn by_default() -> bool {
        std::io::stdout().is_terminal()
    }
}

/// Waits until a job has ended and answers it.
///
/// # Errors
/// The job's problem, which is `conflict` when it was called off.
pub(super) fn watch(client: &Client, id: &str) -> Answer<Value> {
    let target = format!("/api/v1/jobs/{}", segment(id));
    let bar = std::io::stderr().is_terminal();
    let mut pause = PAUSES.0;
    loop {
        let job = client.get(&target)?;
        if bar {
            draw(&job);
        }
        match job.get("state").and_then(Value::as_str) {
            Some("done" | "paused") => return Ok(job),
            Some("cancelled") if job.get("problem").is_none_or(Value::is_null) => {
                let object = job.get("object").and_then(Value::as_str).unwrap_or_default();
                let kind = job.get("kind").and_then(Value::as_str).unwrap_or_default();
                let detail = format!("job {id} ({kind} of {object}) was cancelled");
                return Err(Problem::new("conflict", detail).hint(format!("plimsoll job show {id}")));
            }
            Some("failed" | "cancelled") => {
                let problem = job.get("problem").cloned().map(serde_json::from_value::<Problem>);
                let unknown = || Problem::new("internal", format!("job {id} failed without saying why"));
                return Err(problem.and_then(Result::ok).unwrap_or_else(unknown));
            }
            _ => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits for the job in `answer` and answers it again.
pub(super) fn watch_answer(client: &Client, answer: &Value) -> Answer<Value> {
    let id = answer.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    watch(client, &id)
}

fn draw(job: &Value) {
    let share = job.get("done_pct").and_then(Value::as_f64).unwrap_or(0.0).clamp(0.0, 100.0);
    let full = (share / 100.0 * BAR as f64) as usize;
    let word = |field: &str| job.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ended = word("state") != "running";
    let bar =
        format!("\r{} {} [{}{}] {share:.0} %", word("kind"), word("object"), "#".repeat(full), " ".repeat(BAR - full));
    let mut to = std::io::stderr().lock();
    // Progress that cannot be shown is not worth an error.
    let _ = to.write_all(if ended { format!("{bar}\n") } else { bar }.as_bytes()).and_then(|()| to.flush());
}
