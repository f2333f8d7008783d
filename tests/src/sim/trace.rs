//! What a seed does, in words, when it is replayed with `PLIMSOLL_SIM_TRACE` set.

use std::sync::OnceLock;

/// Whether to say what happens.
pub fn on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("PLIMSOLL_SIM_TRACE").is_some())
}

/// Says it.
pub fn say(words: impl FnOnce() -> String) {
    if on() {
        eprintln!("sim: {}", words());
    }
}
