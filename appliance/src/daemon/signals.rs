//! SIGTERM and SIGINT: the first one asks for a clean stop, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// As a shell reports a process that SIGTERM ended.
const EXIT_IMMEDIATE: i32 = 128 + 15;

/// Answers when the first signal comes.
///
/// # Errors
/// When the system does not let us wait for signals. Must be called inside the runtime.
pub(super) fn first_signal() -> std::io::Result<oneshot::Receiver<&'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, came) = oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            match first.take() {
                // Nobody waits when the daemon is ending anyway.
                Some(first) => drop(first.send(name)),
                None => {
                    tracing::warn!(signal = name, "second signal: ending at once; pools recover when they are opened");
                    std::process::exit(EXIT_IMMEDIATE);
                }
            }
        }
    });
    Ok(came)
}
