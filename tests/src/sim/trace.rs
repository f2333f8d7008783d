//! What a seed does, in words, when it is replayed with `PLIMSOLL_SIM_TRACE` set.

use std::sync::OnceLock;

/// Whether to say what happens.
pub fn on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("PLIMSOLL_SIM_TRACE").is_some())
}

/// Whether to say also what the devices do, life by life: `PLIMSOLL_SIM_TRACE=devices`.
pub fn devices() -> bool {
    std::env::var_os("PLIMSOLL_SIM_TRACE").is_some_and(|what| what == "devices")
}

/// Says it.
pub fn say(words: impl FnOnce() -> String) {
    if on() {
        eprintln!("sim: {}", words());
    }
}
