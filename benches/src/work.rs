//! What is measured: kinds of work, and the offsets that they touch. Both sides of a pair get the same offsets.

use std::time::Duration;

/// Bytes of an extent of the measured pools.
pub(crate) const EXTENT: u64 = 65_536;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    RandomRead,
    Overwrite,
    /// Every block once, in random order, on a fresh vdisk.
    FirstWrite,
    /// One block of every extent, in random order, on a fresh vdisk.
    FirstTouch,
    /// As `FirstWrite`, with a flush after each.
    FirstWriteFlush,
    SequentialRead,
    SequentialWrite,
}

impl Kind {
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Kind::RandomRead | Kind::SequentialRead)
    }

    /// Whether the vdisk is mapped before.
    pub(crate) fn is_mapped(self) -> bool {
        !matches!(self, Kind::FirstWrite | Kind::FirstTouch | Kind::FirstWriteFlush)
    }
}

/// A goal for one line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// Least ratio of operations per second.
    pub(crate) ratio: f64,
    /// Most additional processor time per operation in microseconds.
    pub(crate) more_cpu_us: Option<f64>,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) block: u64,
    pub(crate) depth: usize,
    pub(crate) goal: Option<Goal>,
}

const fn goal(ratio: f64) -> Option<Goal> {
    Some(Goal { ratio, more_cpu_us: None })
}

const fn case(name: &'static str, kind: Kind, block: u64, depth: usize, goal: Option<Goal>) -> Case {
    Case { name, kind, block, depth, goal }
}

const MAPPED: Option<Goal> = Some(Goal { ratio: 0.95, more_cpu_us: Some(0.2) });

/// The lines for a device. Goals are those of the design (`performance.md`).
pub(crate) const CASES: &[Case] = &[
    case("4k random read qd1", Kind::RandomRead, 4096, 1, None),
    case("4k random read qd32", Kind::RandomRead, 4096, 32, MAPPED),
    case("4k overwrite qd1", Kind::Overwrite, 4096, 1, None),
    case("4k overwrite qd32", Kind::Overwrite, 4096, 32, MAPPED),
    case("4k first write qd1", Kind::FirstWrite, 4096, 1, None),
    case("4k first write qd32", Kind::FirstWrite, 4096, 32, goal(0.85)),
    case("4k first touch qd32", Kind::FirstTouch, 4096, 32, goal(0.85)),
    case("128k sequential read qd8", Kind::SequentialRead, 128 << 10, 8, goal(0.97)),
    case("128k sequential write qd8", Kind::SequentialWrite, 128 << 10, 8, goal(0.97)),
    case("4k first write + flush", Kind::FirstWriteFlush, 4096, 1, goal(0.8)),
];

/// One run of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) case: Case,
    /// Bytes from offset 0 that are touched.
    pub(crate) area: u64,
    pub(crate) time: Duration,
    /// It ends after so many operations, if it has not before.
    pub(crate) operations: u64,
    pub(crate) seed: u64,
}

impl Run {
    pub(crate) fn offsets(&self) -> Offsets {
        Offsets::new(self.case.kind, self.area, self.case.block, self.seed)
    }
}

/// Offsets, one after the other; those of first writes come to an end.
pub(crate) struct Offsets {
    kind: Kind,
    block: u64,
    count: u64,
    state: u64,
    at: u64,
}

impl Offsets {
    pub(crate) fn new(kind: Kind, area: u64, block: u64, seed: u64) -> Self {
        let unit = if kind == Kind::FirstTouch { EXTENT } else { block };
        Offsets { kind, block, count: area / unit, state: seed * 2 + 88_172_645_463_325_252, at: 0 }
    }

    pub(crate) fn next(&mut self) -> Option<u64> {
        match self.kind {
            Kind::RandomRead | Kind::Overwrite => {
                // xorshift64: random enough for offsets, and next to nothing beside an operation.
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                Some(self.state % self.count * self.block)
            }
            Kind::SequentialRead | Kind::SequentialWrite => {
                self.at = if self.at < self.count { self.at + 1 } else { 1 };
                Some((self.at - 1) * self.block)
            }
            Kind::FirstWrite | Kind::FirstWriteFlush => self.once().map(|block| block * self.block),
            Kind::FirstTouch => {
                self.once().map(|extent| extent * EXTENT + mix(extent, 4, self.state) * self.block % EXTENT)
            }
        }
    }

    /// Every number below `count` once, in an order that looks random: a bijection of the next power of two, in which
    /// what is too large is passed over.
    fn once(&mut self) -> Option<u64> {
        let bits = self.count.next_power_of_two().ilog2();
        while self.at < 1 << bits {
            let number = mix(self.at, bits, self.state);
            self.at += 1;
            if number < self.count {
                return Some(number);
            }
        }
        None
    }
}

/// A bijection of the numbers of `bits` bits.
fn mix(number: u64, bits: u32, seed: u64) -> u64 {
    let mask = (1u64 << bits) - 1;
    let half = bits.div_ceil(2).max(1);
    let mut mixed = number & mask;
    for round in 0..3 {
        mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1).wrapping_add(seed.rotate_left(round * 16)) & mask;
        mixed ^= mixed >> half;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_writes_touch_every_block_once() {
        for blocks in [1u64, 2, 5, 1000, 4096] {
            let mut offsets = Offsets::new(Kind::FirstWrite, blocks * 4096, 4096, 7);
            let mut seen: Vec<u64> = std::iter::from_fn(|| offsets.next()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..blocks).map(|block| block * 4096).collect::<Vec<_>>());
        }
    }
}
