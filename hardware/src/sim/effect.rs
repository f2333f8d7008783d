//! What an operation does to its disk when it completes, and what may go wrong with it.
//!
//! A write takes effect as a whole. A read takes its bytes, and of writes that are then in flight over the same range it
//! sees any sectors, because a real disk may be in the middle of them.

use slab::Slab;

use super::counters::Happening;
use super::disk::{Content, Disk, Standing};
use super::fault::{FaultKind, FaultSite};
use super::io::{Operation, Request};
use super::life::Core;
use super::pages::PAGE;
use super::random::Random;
use super::survival::Survival;
use crate::Buffer;

/// How an operation went.
pub(super) enum Effect {
    Good,
    Failed(&'static str),
    Gone,
    /// What the disk is a file of has no room.
    Full,
}

impl Core {
    pub(super) fn read(&mut self, operations: &Slab<Operation>, slot: usize, buffer: &mut Buffer) -> Effect {
        let operation = &operations[slot];
        let disk = &self.disks[operation.disk];
        let (offset, length, block) = (operation.offset, operation.length, disk.block);
        if disk.gone {
            return Effect::Gone;
        }
        if operation.must_fail || self.faults.strikes(operation.site(FaultKind::ReadError), &mut self.random) {
            return Effect::Failed("an injected error");
        }
        if offset + length > disk.size {
            return Effect::Failed("it was truncated, and what was behind its end is lost");
        }
        if length > 0 && self.faults.profile.bit_flip != 0 {
            let sector = FaultSite {
                offset: offset + self.random.below(length / block) * block,
                length: block,
                ..operation.site(FaultKind::BitFlip)
            };
            if self.faults.flips(&self.disks, sector, &mut self.random) {
                self.flip(sector);
            }
        }
        self.disks[operation.disk].pages.read(offset, buffer);
        for (_, other) in operations {
            let (start, end) = (offset.max(other.offset), (offset + length).min(other.offset + other.length));
            if other.disk != operation.disk || start >= end {
                continue;
            }
            let Some(content @ (Content::Data(_) | Content::Zeroes)) = other.content(0) else { continue };
            let seen = Survival::any(&mut self.random, (end - start) / block);
            for at in (start..end).step_by(block as usize) {
                if seen.includes((at - start) / block) {
                    let place = &mut buffer[(at - offset) as usize..][..block as usize];
                    match content {
                        Content::Data(data) => {
                            place.copy_from_slice(&data[(at - other.offset) as usize..][..block as usize]);
                        }
                        _ => place.fill(0),
                    }
                }
            }
        }
        Effect::Good
    }

    /// Flips a bit of the sector at `site`.
    pub(super) fn flip(&mut self, site: FaultSite) {
        let (at, bit) = (site.offset + self.random.below(site.length), self.random.below(8));
        self.disks[site.disk].pages.change(at / PAGE)[(at % PAGE) as usize] ^= 1 << bit;
        self.trace.note(self.now, &Happening { what: "  bit flip", disk: site.disk, offset: at, length: 1 });
    }

    /// Everything but a read.
    pub(super) fn take_effect(&mut self, operation: &Operation) -> Effect {
        let Core { disks, random, faults, trace, now, .. } = self;
        let disk = &mut disks[operation.disk];
        let (offset, length) = (operation.offset, operation.length);
        let mut struck = |kind, random: &mut _| faults.strikes(operation.site(kind), random);
        if matches!(operation.request, Request::Allocate) {
            if disk.gone {
                return Effect::Gone;
            }
            return if disk.occupy(offset, length) < length { Effect::Full } else { Effect::Good };
        }
        let word = if matches!(operation.request, Request::Discard) { random.word() } else { 0 };
        let Some(content) = operation.content(word) else {
            let Request::Flush(mark) = operation.request else { return Effect::Good };
            if disk.gone {
                return Effect::Gone;
            }
            if operation.must_fail || struck(FaultKind::FlushError, random) {
                match random.below(3) {
                    0 => {}
                    1 => disk.lose(&mut |_| Survival::Dropped),
                    _ => disk.lose(&mut |sectors| Survival::any(random, sectors)),
                }
                return Effect::Failed("an injected error");
            }
            if !struck(FaultKind::FlushLie, random) {
                disk.flush(mark);
            }
            return Effect::Good;
        };
        let sectors = length / disk.block;
        if disk.gone {
            let live = Survival::any(random, sectors);
            disk.apply(offset, length, content, live, Standing::Cached);
            return Effect::Gone;
        }
        if operation.must_fail || struck(FaultKind::WriteError, random) {
            let live = Survival::any(random, sectors);
            disk.apply(offset, length, content, live, Standing::Cached);
            return Effect::Failed("an injected error");
        }
        let standing = match operation.request {
            Request::Write { fua: true, .. } => Standing::Durable,
            _ => Standing::Cached,
        };
        let place = match content {
            Content::Data(data) => faults.landing(disks, operation.site(FaultKind::Misdirect), data, random),
            _ => Some(offset),
        };
        let disk = &mut disks[operation.disk];
        if place != Some(offset) {
            let what = if place.is_some() { "  misdirected to" } else { "  lost" };
            trace.note(*now, &Happening { what, disk: operation.disk, offset: place.unwrap_or(offset), length });
        }
        let Some(place) = place else { return Effect::Good };
        if disk.room.is_some()
            && let Content::Data(bytes) = content
        {
            let fits = disk.occupy(place, length);
            if fits < length {
                disk.apply(place, fits, Content::Data(&bytes[..fits as usize]), Survival::Kept, standing);
                return Effect::Full;
            }
        }
        disk.apply(place, length, content, Survival::Kept, standing);
        Effect::Good
    }
}

/// The disk disappears; half the time its cache loses power with it.
pub(super) fn vanish(disk: &mut Disk, random: &mut Random) {
    disk.gone = true;
    if random.coin() {
        disk.unheard = true;
        disk.lose(&mut |sectors| Survival::any(random, sectors));
    }
}

/// Puts the writes among `operations` at the end of their disks' lists, in any order, for a crash to decide.
pub(super) fn leave_in_flight<'a>(operations: impl Iterator<Item = &'a Operation>, core: &mut Core) {
    let mut flying: Vec<&Operation> = operations.filter(|operation| operation.content(0).is_some()).collect();
    core.random.shuffle(&mut flying);
    for operation in flying {
        let word = core.random.word();
        if let Some(content) = operation.content(word) {
            let disk = &mut core.disks[operation.disk];
            disk.apply(operation.offset, operation.length, content, Survival::Kept, Standing::InFlight);
        }
    }
}
