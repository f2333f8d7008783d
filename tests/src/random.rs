//! Randomness from a seed, for tests that run against real processes.
//!
//! A failing test prints its seed. Processes and threads make no run exactly like another, but the same seed asks for
//! the same operations, the same moments and the same damage.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

/// A stream of numbers (SplitMix64: one addition and one mix per number, every seed is as good as another).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for part `index` of this one's work; taking it does not advance this one.
    pub fn part(&self, index: u64) -> Self {
        let mut part = Self(self.0 ^ index.wrapping_add(1).wrapping_mul(0xD1B5_4A32_D192_ED03));
        part.word();
        part
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number of `range`, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "a number was asked of the empty range {range:?}");
        range.start + self.word() % (range.end - range.start)
    }

    /// True in `percent` of 100 calls.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.word() % 100 < percent
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.within(0..last as u64 + 1) as usize);
        }
    }
}

/// Spreads the bits of `word` over all 64.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The seed of this run: `PLIMSOLL_SEED`, else a new one from the clock.
///
/// # Panics
/// `PLIMSOLL_SEED` is set and is no number.
pub fn seed() -> u64 {
    match std::env::var("PLIMSOLL_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("PLIMSOLL_SEED={text} is no number")),
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            mix(now.as_nanos() as u64) % 1_000_000_000
        }
    }
}

/// A count of this run: the environment variable `name`, else `default`.
///
/// # Panics
/// The variable is set and is no number.
pub fn count(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_stream_and_parts_differ() {
        let mut first = Random::new(7);
        let mut again = Random::new(7);
        assert_eq!((0..9).map(|_| first.word()).collect::<Vec<_>>(), (0..9).map(|_| again.word()).collect::<Vec<_>>());
        assert_ne!(first.part(0).word(), first.part(1).word());
    }
}
