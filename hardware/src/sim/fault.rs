//! What goes wrong with operations on simulated disks, how often, and where it must not.
//!
//! A fault strikes when its rate says so, the test's filter allows its place, and it would not leave a mirrored page
//! without a good copy. Pages count as damaged until [`super::SimWorld::forget_damage`], even when they are rewritten: the
//! rewrite may be lost in a crash.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::pages::PAGE;
use super::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A read fails; the medium is unharmed.
    ReadError,
    /// A write or discard fails after any part of it was applied.
    WriteError,
    /// A flush fails; what it should have saved is kept in the cache, dropped, or partly dropped.
    FlushError,
    /// A flush succeeds and saves nothing.
    FlushLie,
    /// A read finds a bit flipped, on the medium and for good.
    BitFlip,
    /// A write succeeds and lands elsewhere. The filter is asked for both places.
    Misdirect,
    /// A write succeeds and lands nowhere.
    Lost,
    /// An operation takes a hundred times as long.
    Slow,
    /// The disk is gone from this operation on.
    Vanish,
}

const KINDS: usize = FaultKind::Vanish as usize + 1;

/// How often each fault strikes, in ten-thousandths of the operations it can strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultProfile {
    /// [`FaultKind::ReadError`]
    pub read_error: u16,
    /// [`FaultKind::WriteError`]
    pub write_error: u16,
    /// [`FaultKind::FlushError`]
    pub flush_error: u16,
    /// [`FaultKind::FlushLie`]
    pub flush_lie: u16,
    /// [`FaultKind::BitFlip`]
    pub bit_flip: u16,
    /// [`FaultKind::Misdirect`]
    pub misdirect: u16,
    /// [`FaultKind::Lost`]
    pub lost: u16,
    /// [`FaultKind::Slow`]
    pub slow: u16,
    /// [`FaultKind::Vanish`]
    pub vanish: u16,
}

impl FaultProfile {
    /// Nothing goes wrong.
    pub const NONE: FaultProfile = FaultProfile {
        read_error: 0,
        write_error: 0,
        flush_error: 0,
        flush_lie: 0,
        bit_flip: 0,
        misdirect: 0,
        lost: 0,
        slow: 0,
        vanish: 0,
    };

    /// A profile of its own for each seed: every fault is absent from half of them and else strikes up to 10 % of the
    /// operations; vanishing up to 1 %; flushes never lie, because nothing can be promised of such a disk.
    pub fn draw(random: &mut Random) -> Self {
        let mut rate = |bound: u64| if random.coin() { 0 } else { random.below(bound + 1) as u16 };
        Self {
            read_error: rate(1000),
            write_error: rate(1000),
            flush_error: rate(1000),
            flush_lie: 0,
            bit_flip: rate(1000),
            misdirect: rate(1000),
            lost: rate(1000),
            slow: rate(1000),
            vanish: rate(100),
        }
    }

    fn rate(&self, kind: FaultKind) -> u16 {
        match kind {
            FaultKind::ReadError => self.read_error,
            FaultKind::WriteError => self.write_error,
            FaultKind::FlushError => self.flush_error,
            FaultKind::FlushLie => self.flush_lie,
            FaultKind::BitFlip => self.bit_flip,
            FaultKind::Misdirect => self.misdirect,
            FaultKind::Lost => self.lost,
            FaultKind::Slow => self.slow,
            FaultKind::Vanish => self.vanish,
        }
    }
}

/// Where a fault would strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSite {
    /// Index of the disk.
    pub disk: usize,
    /// Byte offset; 0 for a flush.
    pub offset: u64,
    /// Bytes; 0 for a flush.
    pub length: u64,
    /// What would happen there.
    pub kind: FaultKind,
}

/// Ranges of equal length that hold the same bytes. Of each page at least one copy is left undamaged.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Disk and byte offset of each copy; the offsets are multiples of 4096.
    pub copies: Vec<(usize, u64)>,
    /// Bytes of each copy.
    pub length: u64,
}

/// The faults of a world.
#[derive(Clone, Default)]
pub(super) struct Faults {
    pub(super) profile: FaultProfile,
    pub(super) filter: Option<Rc<dyn Fn(FaultSite) -> bool>>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) damaged: BTreeSet<(usize, u64)>,
    counts: [u64; KINDS],
}

impl Faults {
    /// Whether a fault of this kind happens here now. Draws from the seed only when its rate is not 0.
    pub(super) fn strikes(&mut self, site: FaultSite, random: &mut Random) -> bool {
        let struck = random.chance(self.profile.rate(site.kind)) && self.allowed(site);
        self.counts[site.kind as usize] += u64::from(struck);
        struck
    }

    /// Whether the filter and the mirrors let a fault happen at `site`; what it damages is remembered.
    pub(super) fn allowed(&mut self, site: FaultSite) -> bool {
        if self.filter.as_ref().is_some_and(|filter| !filter(site)) {
            return false;
        }
        match site.kind {
            FaultKind::FlushError | FaultKind::FlushLie | FaultKind::Slow | FaultKind::Vanish => true,
            _ => self.damage(site),
        }
    }

    /// How often faults of this kind struck.
    pub(super) fn count(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    fn damage(&mut self, site: FaultSite) -> bool {
        if self.mirrors.is_empty() || site.length == 0 {
            return true;
        }
        let pages = site.offset / PAGE..(site.offset + site.length).div_ceil(PAGE);
        for page in pages.clone() {
            for mirror in &self.mirrors {
                for (own, (disk, offset)) in mirror.copies.iter().enumerate() {
                    let first = offset / PAGE;
                    if *disk != site.disk || page < first || page >= first + mirror.length.div_ceil(PAGE) {
                        continue;
                    }
                    let twin_damaged = |(other, (disk, offset)): (usize, &(usize, u64))| {
                        other != own && self.damaged.contains(&(*disk, offset / PAGE + page - first))
                    };
                    if mirror.copies.iter().enumerate().any(twin_damaged) {
                        return false;
                    }
                }
            }
        }
        self.damaged.extend(pages.map(|page| (site.disk, page)));
        true
    }
}
