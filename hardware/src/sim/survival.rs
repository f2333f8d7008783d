//! What is left of a write that nothing had made durable when the machine stopped, and how that is drawn.
//!
//! The unit is the device's logical block, called sector here: it is old or new, never a mixture. Which sectors of which
//! writes survive is free, so every reordering that a volatile cache can produce is some choice of survivals.

use super::random::Random;

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process dies. Completed writes and crash memory stay; writes in flight are applied wholly, partly or not.
    /// When it dies between a disk's loss of what it had answered and the news of it, crash memory is cleared too: nothing
    /// that a process keeps could tell the next one.
    Process,
    /// The power fails. Crash memory is cleared; of every write that no completed flush covers, any part survives.
    Power,
}

/// How power loss treats the writes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashDamage {
    /// Each crash draws its own manner: all kept, all dropped, all but one, only one, the first few, all torn, or four
    /// of five damaged. Finds most.
    Mixed,
    /// This share of the writes, in percent, is dropped or torn, the others are kept.
    Share(u8),
}

/// What survives of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// All of it.
    Kept,
    /// Nothing.
    Dropped,
    /// Sector `i` of the write when bit `i % 64` is set.
    Torn(u64),
    /// The first so many sectors.
    First(u32),
}

impl Survival {
    pub(super) fn includes(self, sector: u64) -> bool {
        match self {
            Survival::Kept => true,
            Survival::Dropped => false,
            Survival::Torn(mask) => mask >> (sector % 64) & 1 == 1,
            Survival::First(sectors) => sector < u64::from(sectors),
        }
    }

    /// A proper part of a write of `sectors` sectors, or nothing when it has but one.
    pub(super) fn tear(random: &mut Random, sectors: u64) -> Self {
        if sectors < 2 {
            return Survival::Dropped;
        }
        let bits = sectors.min(64);
        let all = u64::MAX >> (64 - bits);
        match random.below(4) {
            0 => Survival::First(1 + random.below(sectors - 1) as u32),
            1 => Survival::Torn(1 << random.below(bits)),
            2 => Survival::Torn(all & !(1 << random.below(bits))),
            _ => match random.word() & all {
                0 => Survival::Torn(1),
                mask if mask == all => Survival::Torn(all >> 1),
                mask => Survival::Torn(mask),
            },
        }
    }

    /// Wholly, partly or not at all: what a dead process leaves of a write in flight, and a failed one on the medium.
    pub(super) fn any(random: &mut Random, sectors: u64) -> Self {
        match random.below(3) {
            0 => Survival::Kept,
            1 => Survival::Dropped,
            _ => Survival::tear(random, sectors),
        }
    }
}

/// Counts of what power loss left of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survivals {
    /// Writes that it left whole.
    pub kept: u64,
    /// Writes that are gone.
    pub dropped: u64,
    /// Writes of which a part is there.
    pub torn: u64,
}

impl Survivals {
    pub(super) fn count(&mut self, survival: Survival) {
        match survival {
            Survival::Kept => self.kept += 1,
            Survival::Dropped => self.dropped += 1,
            Survival::Torn(_) | Survival::First(_) => self.torn += 1,
        }
    }
}

/// The manner of one crash.
#[derive(Clone, Copy)]
enum Manner {
    AllKept,
    AllDropped,
    AllBut(usize),
    Only(usize),
    Front(usize),
    AllTorn,
    Share(u64),
}

/// Draws the survival of each of a crash's writes.
pub(super) struct Draw {
    manner: Manner,
}

impl Draw {
    /// Decides the manner of a crash with `writes` writes that are not durable.
    pub(super) fn new(damage: CrashDamage, writes: usize, random: &mut Random) -> Self {
        let manner = match damage {
            CrashDamage::Share(percent) => Manner::Share(u64::from(percent)),
            CrashDamage::Mixed => match random.below(12) {
                0 => Manner::AllKept,
                1 => Manner::AllDropped,
                2 | 3 => Manner::AllBut(random.below(writes as u64) as usize),
                4 | 5 => Manner::Only(random.below(writes as u64) as usize),
                6 => Manner::Front(random.below(writes as u64 + 1) as usize),
                7 => Manner::AllTorn,
                _ => Manner::Share(80),
            },
        };
        Self { manner }
    }

    /// The survival of write `index`, which has `sectors` sectors.
    pub(super) fn survival(&self, index: usize, sectors: u64, random: &mut Random) -> Survival {
        let keep = match self.manner {
            Manner::AllKept => true,
            Manner::AllDropped => false,
            Manner::AllBut(other) => index != other,
            Manner::Only(other) => index == other,
            Manner::Front(writes) => index < writes,
            Manner::AllTorn => return Survival::tear(random, sectors),
            Manner::Share(percent) if random.below(100) >= percent => true,
            Manner::Share(_) if random.coin() => return Survival::tear(random, sectors),
            Manner::Share(_) => false,
        };
        if keep { Survival::Kept } else { Survival::Dropped }
    }
}
