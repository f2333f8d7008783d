//! Tests of the format: golden images, round trips, the tables of `FORMAT.md`, and fuzzing.
//!
//! They are here and not in `engine/tests` because the structs are the crate's own; the fixtures are in `engine/tests`.
//!
//! When the format is changed on purpose: add a version or a feature bit, change the tables of `FORMAT.md`, then run
//! `PLIMSOLL_UPDATE_GOLDEN=1 cargo test -p plimsoll-engine format::tests` once. It rewrites `tests/golden` and `tests/corpus` and prints the
//! checksum that belongs into `FORMAT.md`. Look at the difference before you commit it: each line of it is a byte that old pools do not have.

mod document;
mod fuzz;
mod golden;
mod properties;
mod samples;

use std::path::PathBuf;

/// A folder of fixtures.
fn fixtures(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

fn is_update() -> bool {
    std::env::var_os("PLIMSOLL_UPDATE_GOLDEN").is_some()
}
