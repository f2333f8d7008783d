//! What could come back of a vdisk's space: reckoned from a sample of its extents, because reading all of them takes hours.
//!
//! The sample is of mapped words, each as likely as any other: those with the smallest keys, where the key of a word is a random
//! number that a seed and its place give. What the rest holds is taken to be as the sample: of every block that is stored, the share
//! that was found. That is the ratio estimate of Cochran, *Sampling Techniques* (3rd ed., 1977), 6.1 to 6.4, with the variance of its
//! residuals and the correction for finite populations. Where all that was seen is alike there is no variance, and the margin is that
//! of the "rule of three": fewer than 3 in n differ. A sample that is everything is no estimate: its margin is 0.

use std::collections::BinaryHeap;
use std::time::Duration;

use crate::format::VirtualExtent;

/// Standard deviations to either side of a mean between which 95 % of a normal distribution lie.
const DEVIATIONS: f64 = 1.96;

/// What of the space of a vdisk, or of all of a pool's, could come back: as it was when it was looked at. In bytes, of what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimable {
    /// Extents that a compaction would free. Counted, not estimated.
    pub packable_bytes: u64,
    /// Blocks of zeros, which a reclaim gives up. Of an extent that has others too they are holes then: compaction brings them back as far
    /// as they let extents be put together, and a write to the same place needs no space.
    pub zero_bytes: u64,
    /// Blocks that a reclaim stores by the number of a pattern: always all that an extent has.
    pub pattern_bytes: u64,
    /// Of zeros and patterns, those in extents that hold nothing else: a reclaim brings them back at once.
    pub whole_bytes: u64,
    /// By so much zeros and patterns together may be more or less, with a probability of 95 %; 0: all was read.
    pub margin_bytes: u64,
    /// Bytes that were read for it.
    pub sampled_bytes: u64,
    /// When it was looked at, in the time of its machine; of a pool, when the vdisk was that was looked at first.
    pub at: Duration,
}

impl Reclaimable {
    /// What comes free for sure: what a compaction puts together, and the extents that a reclaim empties. Of zeros between data it depends
    /// on these what comes of them. A thin extent of nothing but zeros may be in both.
    pub fn bytes(&self) -> u64 {
        self.packable_bytes + self.whole_bytes
    }

    /// The same of something that stores no more than `backed` bytes by now.
    pub(crate) fn within(self, backed: u64) -> Self {
        let packable_bytes = self.packable_bytes.min(backed);
        let zero_bytes = self.zero_bytes.min(backed - packable_bytes);
        let pattern_bytes = self.pattern_bytes.min(backed - packable_bytes - zero_bytes);
        let whole_bytes = self.whole_bytes.min(zero_bytes + pattern_bytes);
        Reclaimable { packable_bytes, zero_bytes, pattern_bytes, whole_bytes, ..self }
    }

    /// Of both; samples that know nothing of each other err both ways.
    pub(crate) fn and(self, other: Self) -> Self {
        let margin = (self.margin_bytes as f64).hypot(other.margin_bytes as f64);
        Reclaimable {
            packable_bytes: self.packable_bytes + other.packable_bytes,
            zero_bytes: self.zero_bytes + other.zero_bytes,
            pattern_bytes: self.pattern_bytes + other.pattern_bytes,
            whole_bytes: self.whole_bytes + other.whole_bytes,
            margin_bytes: margin.round() as u64,
            sampled_bytes: self.sampled_bytes + other.sampled_bytes,
            at: self.at.min(other.at),
        }
    }
}

/// Some of the words that it was shown, each as likely as any other.
pub(crate) struct Sample {
    seed: u64,
    size: usize,
    /// Keys, with their words.
    kept: BinaryHeap<(u64, VirtualExtent)>,
}

impl Sample {
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        Sample { seed, size, kept: BinaryHeap::with_capacity(size + 1) }
    }

    pub(crate) fn offer(&mut self, at: VirtualExtent) {
        self.kept.push((key(self.seed, at), at));
        if self.kept.len() > self.size {
            self.kept.pop();
        }
    }

    /// In the order in which they lie on the vdisk.
    pub(crate) fn into_places(self) -> Vec<VirtualExtent> {
        let mut places: Vec<_> = self.kept.into_iter().map(|(_, at)| at).collect();
        places.sort_unstable();
        places
    }
}

/// SplitMix64 at place `at` of its stream (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn key(seed: u64, at: VirtualExtent) -> u64 {
    let mut key = seed.wrapping_add((at.0 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    key = (key ^ key >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    key = (key ^ key >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    key ^ key >> 31
}

/// What one extent holds, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stored: u64,
    pub(crate) zeros: u64,
    pub(crate) filled: u64,
    /// It is its word's alone.
    pub(crate) alone: bool,
}

impl Seen {
    fn worthless(&self) -> u64 {
        self.zeros + self.filled
    }
}

/// What a sample stands for, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) zeros: u64,
    pub(crate) filled: u64,
    pub(crate) whole: u64,
    pub(crate) margin: u64,
}

/// What `words` words that store `blocks` blocks hold when these are some of them.
pub(crate) fn estimate(seen: &[Seen], words: u64, blocks: u64) -> Estimate {
    let sum = |figure: &dyn Fn(&Seen) -> u64| seen.iter().map(figure).sum::<u64>();
    let stored = sum(&|seen| seen.stored).min(blocks);
    if stored == 0 {
        return Estimate { margin: blocks, ..Estimate::default() };
    }
    let of_all = |found: u64| (u128::from(found) * u128::from(blocks) / u128::from(stored)) as u64;
    let (number, words) = (seen.len() as f64, (words as f64).max(seen.len() as f64));
    let share = sum(&Seen::worthless) as f64 / stored as f64;
    let residuals: f64 = seen.iter().map(|seen| (seen.worthless() as f64 - share * seen.stored as f64).powi(2)).sum();
    let variance = residuals / (number - 1.0).max(1.0);
    let normal = DEVIATIONS * words * ((1.0 - number / words) * variance / number).sqrt();
    let of_three = 3.0 / number * blocks as f64;
    Estimate {
        zeros: of_all(sum(&|seen| seen.zeros)),
        filled: of_all(sum(&|seen| seen.filled)),
        whole: of_all(sum(&|seen| if seen.alone && seen.worthless() == seen.stored { seen.stored } else { 0 })),
        // What was not seen is all that can differ.
        margin: (normal.max(of_three).ceil() as u64).min(blocks - stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extent `at` of a vdisk: of each ten, four are zeros, one a pattern, two are half zeros, and three are thin data.
    fn extent(at: u64) -> Seen {
        match at % 10 {
            0..4 => Seen { stored: 16, zeros: 16, filled: 0, alone: true },
            4 => Seen { stored: 16, zeros: 0, filled: 16, alone: true },
            5..7 => Seen { stored: 16, zeros: 8, filled: 0, alone: true },
            _ => Seen { stored: 3, zeros: 0, filled: 0, alone: true },
        }
    }

    fn sampled(seed: u64, extents: u64, size: usize) -> Vec<Seen> {
        let mut sample = Sample::new(seed, size);
        (0..extents).for_each(|at| sample.offer(VirtualExtent(at)));
        let places = sample.into_places();
        assert!(places.is_sorted() && places.len() == size.min(extents as usize));
        places.into_iter().map(|at| extent(at.0)).collect()
    }

    #[test]
    fn a_sample_of_everything_is_exact() {
        let seen = sampled(1, 100, 100);
        let all = estimate(&seen, 100, 70 * 16 + 30 * 3);
        assert_eq!(all, Estimate { zeros: 40 * 16 + 20 * 8, filled: 160, whole: 50 * 16, margin: 0 });
    }

    #[test]
    fn the_truth_lies_within_the_margin_as_often_as_it_says() {
        let (extents, stored, worthless) = (10_000, 1000 * (7 * 16 + 3 * 3), 1000 * (5 * 16 + 2 * 8));
        let rounds = 300;
        let missed = (0..rounds).filter(|&seed| {
            let found = estimate(&sampled(seed, extents, 256), extents, stored);
            assert!(found.margin > 0 && found.margin < stored / 8, "{found:?}");
            (found.zeros + found.filled).abs_diff(worthless) > found.margin
        });
        // One in twenty: 15, with a standard deviation of 3.8.
        let missed = missed.count();
        assert!((3..=30).contains(&missed), "{missed} of {rounds}");
    }

    #[test]
    fn where_all_is_alike_the_margin_says_how_much_may_have_been_missed() {
        let data = Seen { stored: 16, zeros: 0, filled: 0, alone: true };
        let found = estimate(&vec![data; 1000], 100_000, 1_600_000);
        assert_eq!((found.zeros, found.margin), (0, 4800));
        // But for what was not seen nothing can be different.
        assert_eq!(estimate(&vec![data; 1000], 1001, 16_016).margin, 16);
        assert_eq!(estimate(&[], 10, 160), Estimate { margin: 160, ..Estimate::default() });
        assert_eq!(estimate(&[], 0, 0), Estimate::default());
    }

    #[test]
    fn figures_never_exceed_what_is_stored_and_errors_add_up_as_they_do() {
        let figures = Reclaimable {
            packable_bytes: 100,
            zero_bytes: 50,
            pattern_bytes: 20,
            whole_bytes: 60,
            margin_bytes: 3,
            ..Reclaimable::default()
        };
        assert_eq!(figures.within(170), figures);
        for backed in [0, 99, 120, 160] {
            let within = figures.within(backed);
            assert_eq!(within.bytes(), backed);
            assert!(within.whole_bytes <= within.zero_bytes + within.pattern_bytes);
        }
        let other = Reclaimable { margin_bytes: 4, at: Duration::from_secs(1), ..figures };
        let both = figures.and(other);
        assert_eq!((both.bytes(), both.margin_bytes, both.at), (320, 5, Duration::ZERO));
    }
}
