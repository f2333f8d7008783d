//! What a simulation did: counts per disk, a running hash that two runs of one seed share, and a trace when asked for.

use std::fmt::Write;

use super::random::mix;

/// What one disk was asked to do, failed operations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Writes, and write-zeroes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Bytes asked for.
    pub bytes_read: u64,
    /// Bytes handed over, and zeroed.
    pub bytes_written: u64,
}

/// One thing that happened, for the hash and the trace.
pub(super) struct Happening<'a> {
    pub(super) what: &'a str,
    pub(super) disk: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
}

#[derive(Clone, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<String>,
}

impl Trace {
    pub(super) fn note(&mut self, now: u64, happening: &Happening) {
        let Happening { what, disk, offset, length } = happening;
        let name = what.bytes().fold(0, |name: u64, byte| name.wrapping_mul(257).wrapping_add(u64::from(byte)));
        for word in [now, name, *disk as u64, *offset, *length] {
            self.hash = mix(self.hash ^ word).wrapping_add(word);
        }
        if let Some(lines) = &mut self.lines {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{:>12} us  disk {disk}  {what:<24} {offset:#x}+{length:#x}", now / 1000);
        }
    }

    pub(super) fn record(&mut self, on: bool) {
        self.lines = on.then(String::new);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or("")
    }
}
