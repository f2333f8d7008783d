//! What goes wrong with operations on simulated disks, how often, and where it must not.
//!
//! A fault strikes when its rate says so and the test's filter allows its place; a silent one only where it leaves a whole copy of what it
//! spoils, if the test says what is kept twice (`twins`).

use std::rc::Rc;

use super::disk::Disk;
use super::pages::PAGE;
use super::random::Random;
use super::twins::{Twins, Victim, whole_pages};

/// Places that a misdirected write tries, where few are allowed.
const TARGETS_MAX: u32 = 16;

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
    /// A write succeeds and lands elsewhere. The filter is asked for both places; where none is allowed, it lands where it should.
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

/// The faults of a world.
#[derive(Clone, Default)]
pub(super) struct Faults {
    pub(super) profile: FaultProfile,
    pub(super) filter: Option<Rc<dyn Fn(FaultSite) -> bool>>,
    pub(super) twins: Option<Twins>,
    counts: [u64; KINDS],
}

impl Faults {
    /// Whether a fault of this kind happens here now. Draws from the seed only when its rate is not 0.
    pub(super) fn strikes(&mut self, site: FaultSite, random: &mut Random) -> bool {
        let struck = random.chance(self.profile.rate(site.kind)) && self.allowed(site);
        self.counts[site.kind as usize] += u64::from(struck);
        struck
    }

    fn allowed(&self, site: FaultSite) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter(site))
    }

    /// As [`Faults::strikes`], for a bit of the sector at `site`.
    pub(super) fn flips(&mut self, disks: &[Disk], site: FaultSite, random: &mut Random) -> bool {
        random.chance(self.profile.bit_flip) && self.may_flip(disks, site)
    }

    /// Whether a bit of the sector at `site` may be flipped; it is, if so.
    pub(super) fn may_flip(&mut self, disks: &[Disk], site: FaultSite) -> bool {
        let page = site.offset / PAGE;
        let spoiled = self.allowed(site)
            && self.twins.as_mut().is_none_or(|twins| {
                let contents = disks[site.disk].pages.get(page);
                contents.is_some_and(|contents| {
                    twins.spoil(disks, &[Victim { disk: site.disk, page, contents: &contents[..] }])
                })
            });
        self.counts[FaultKind::BitFlip as usize] += u64::from(spoiled);
        spoiled
    }

    /// Where a write of `data` lands that should land at `site`; `None` when it is lost.
    pub(super) fn landing(&mut self, disks: &[Disk], site: FaultSite, data: &[u8], random: &mut Random) -> Option<u64> {
        let at = |kind, offset| FaultSite { kind, offset, ..site };
        let lost = at(FaultKind::Lost, site.offset);
        if random.chance(self.profile.lost) && self.allowed(lost) && self.may_stray(disks, lost, data, None) {
            self.counts[FaultKind::Lost as usize] += 1;
            return None;
        }
        if random.chance(self.profile.misdirect) && self.allowed(at(FaultKind::Misdirect, site.offset)) {
            let disk = &disks[site.disk];
            for _ in 0..TARGETS_MAX {
                let place = random.below(disk.size.saturating_sub(site.length) / disk.block + 1) * disk.block;
                // Mostly over whole pages, as such a disk mixes up blocks.
                let place = if random.below(4) == 0 { place } else { place / PAGE * PAGE };
                let target = at(FaultKind::Misdirect, place);
                if place != site.offset && self.allowed(target) && self.may_stray(disks, site, data, Some(place)) {
                    self.counts[FaultKind::Misdirect as usize] += 1;
                    return Some(place);
                }
            }
        }
        Some(site.offset)
    }

    /// Whether a write may miss `site`, and what is at `place` be spoiled by it.
    fn may_stray(&mut self, disks: &[Disk], site: FaultSite, data: &[u8], place: Option<u64>) -> bool {
        let Some(twins) = &mut self.twins else { return true };
        let Some(pages) = whole_pages(site.offset, site.length) else { return false };
        let own = pages.zip(data.chunks_exact(PAGE as usize));
        let mut victims: Vec<_> = own.map(|(page, contents)| Victim { disk: site.disk, page, contents }).collect();
        let over = place.map_or(0..0, |place| place / PAGE..(place + site.length).div_ceil(PAGE));
        for page in over {
            let Some(contents) = disks[site.disk].pages.get(page) else { return false };
            victims.push(Victim { disk: site.disk, page, contents: &contents[..] });
        }
        twins.spoil(disks, &victims)
    }

    /// How often faults of this kind struck.
    pub(super) fn count(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }
}
