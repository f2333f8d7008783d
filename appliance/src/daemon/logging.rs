//! Logs go to stderr: coloured on a terminal, and otherwise as journald wants them, one plain line without a time, which
//! the journal adds itself.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at PLIMSOLL_LOG, else at `configured`, else at `info`.
pub fn start_logging(configured: Option<&str>) {
    let wanted = std::env::var("PLIMSOLL_LOG").ok();
    let wanted = wanted.as_deref().or(configured).unwrap_or("info");
    let (filter, refused) = match EnvFilter::try_new(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log that cannot be written, on a full file system or to a reader that is gone, takes nobody's service away: to say so there as
    // well would end the process.
    let format = tracing_subscriber::fmt().log_internal_errors(false);
    let format = format.with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // Already started: in a test, where one process starts several daemons.
    let _ = if terminal { format.with_target(false).try_init() } else { format.without_time().try_init() };
    if let Some(error) = refused {
        tracing::warn!(%error, "the log filter {wanted:?} is not understood, info is used");
    }
}
