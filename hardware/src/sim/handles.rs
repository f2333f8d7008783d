//! What a test may do to a world from outside: set faults, spoil bytes, look at them, count, trace.

use std::fmt::Write;

use super::counters::Counters;
use super::disk::Disk;
use super::effect::vanish;
use super::fault::{FaultKind, FaultProfile, FaultSite};
use super::pages::{PAGE, Pages};
use super::random::Random;
use super::survival::{Survival, Survivals};
use super::twins::Twins;
use super::world::SimWorld;

/// Faults.
impl SimWorld {
    /// From now on these faults strike.
    pub fn set_faults(&self, profile: FaultProfile) {
        self.core.borrow_mut().faults.profile = profile;
    }

    /// Draws a profile from the seed, sets it and returns it.
    pub fn draw_faults(&self) -> FaultProfile {
        let mut core = self.core.borrow_mut();
        core.faults.profile = FaultProfile::draw(&mut core.random);
        core.faults.profile
    }

    /// Only where `filter` answers true a fault may strike. It must not call back into the world.
    pub fn filter_faults(&self, filter: impl Fn(FaultSite) -> bool + 'static) {
        self.core.borrow_mut().faults.filter = Some(std::rc::Rc::new(filter));
    }

    /// Bit flips, and writes that are lost or misdirected, strike only pages that are kept twice by their contents, leave a whole copy of
    /// each, and spare what they struck before. `is_kept_twice` is given the 4096 bytes of a page.
    pub fn leave_a_copy(&self, is_kept_twice: impl Fn(&[u8]) -> bool + 'static) {
        self.core.borrow_mut().faults.twins = Some(Twins::new(is_kept_twice));
    }

    /// Bits flip on media that lie still, as [`FaultKind::BitFlip`], one in each of so many pages drawn, where that is allowed. Meant for
    /// between a crash and a boot.
    pub fn rot(&self, pages: u64) {
        let core = &mut *self.core.borrow_mut();
        let numbers =
            |(disk, state): (usize, &Disk)| state.pages.present().map(|(page, _)| (disk, page)).collect::<Vec<_>>();
        let present: Vec<_> = core.disks.iter().enumerate().flat_map(numbers).collect();
        for _ in 0..pages {
            let Some(&(disk, page)) = present.get(core.random.below(present.len() as u64) as usize) else { return };
            let length = core.disks[disk].block;
            let offset = page * PAGE + core.random.below(PAGE / length) * length;
            let site = FaultSite { disk, offset, length, kind: FaultKind::BitFlip };
            if core.faults.may_flip(&core.disks, site) {
                core.flip(site);
            }
        }
    }

    /// How often faults of this kind struck.
    pub fn faults_struck(&self, kind: FaultKind) -> u64 {
        self.core.borrow().faults.count(kind)
    }

    /// Ends all faults, brings vanished disks back and gives them room. What is damaged stays damaged.
    pub fn heal(&self) {
        let mut core = self.core.borrow_mut();
        core.faults.profile = FaultProfile::NONE;
        for disk in &mut core.disks {
            (disk.gone, disk.room) = (false, None);
        }
    }

    /// Lets `disk` be a file in a file system that has room for so many bytes more, rounded down to pages of 4 KiB; none: for all.
    /// Writes and [`crate::Device::allocate`] take it for pages that have none; what is discarded or zeroed gives none back.
    pub fn set_room(&self, disk: usize, bytes: Option<u64>) {
        self.core.borrow_mut().disks[disk].set_room(bytes);
    }

    /// Takes `disk` away until the next boot or [`SimWorld::heal`]; half the time its cache loses power with it.
    pub fn vanish(&self, disk: usize) {
        let core = &mut *self.core.borrow_mut();
        vanish(&mut core.disks[disk], &mut core.random);
    }
}

/// Bytes. Meant for between a crash and a boot: a crash may put older bytes back over what is changed before it.
impl SimWorld {
    /// What a read would see.
    pub fn read_raw(&self, disk: usize, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.pages(disk, |pages| pages.read(offset, &mut bytes));
        bytes
    }

    /// Puts bytes on the medium.
    pub fn write_raw(&self, disk: usize, offset: u64, bytes: &[u8]) {
        self.pages(disk, |pages| pages.write(offset, bytes));
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`.
    pub fn flip_bit(&self, disk: usize, offset: u64, bit: u8) {
        assert!(bit < 8, "a byte has no bit {bit}");
        let byte = self.read_raw(disk, offset, 1)[0];
        self.write_raw(disk, offset, &[byte ^ 1 << bit]);
    }

    /// Overwrites a range with noise from the seed.
    pub fn scribble(&self, disk: usize, offset: u64, length: u64) {
        let mut random = Random::new(self.core.borrow_mut().random.word());
        let noise: Vec<u8> = (0..length).map(|_| random.word() as u8).collect();
        self.write_raw(disk, offset, &noise);
    }

    /// Exchanges two ranges, as two misdirected writes would.
    pub fn swap(&self, disk: usize, one: u64, other: u64, length: u64) {
        let (first, second) = (self.read_raw(disk, one, length), self.read_raw(disk, other, length));
        self.write_raw(disk, one, &second);
        self.write_raw(disk, other, &first);
    }

    /// Cuts or extends a disk to `size` bytes, a multiple of its sector. Devices opened later see the new size; for
    /// those that are open operations beyond it fail.
    pub fn truncate(&self, disk: usize, size: u64) {
        self.stop();
        let disk = &mut self.core.borrow_mut().disks[disk];
        if size < disk.size { disk.cut(size) } else { disk.extend(size) }
    }

    /// Makes a disk smaller under whoever has it open, as a file that is truncated: `size` bytes, a multiple of its sector. What reaches
    /// behind its end cannot be read, and a write there makes it long again, unless that it was cut off was noticed before.
    pub fn cut(&self, disk: usize, size: u64) {
        self.core.borrow_mut().disks[disk].cut(size);
    }

    /// Bytes of a disk now.
    pub fn size(&self, disk: usize) -> u64 {
        self.core.borrow().disks[disk].size
    }

    /// Extends a disk to `size` bytes, a multiple of its sector, under whoever has it open: who measures it sees that.
    pub fn extend(&self, disk: usize, size: u64) {
        self.core.borrow_mut().disks[disk].extend(size);
    }

    fn pages<T>(&self, disk: usize, work: impl FnOnce(&mut Pages) -> T) -> T {
        work(&mut self.core.borrow_mut().disks[disk].pages)
    }
}

/// Every way to lose power here.
impl SimWorld {
    /// Calls `check` with a world for every choice of surviving sectors of the pending writes when these are at most
    /// `sectors_max`, else for 2^`sectors_max` drawn choices. Returns how many there were. Ends the life.
    pub fn each_survival(&self, sectors_max: u32, check: &mut dyn FnMut(SimWorld)) -> u64 {
        assert!(sectors_max < 32, "2^{sectors_max} worlds are too many to look at");
        let pending = self.pending();
        let sectors: u64 = pending.iter().map(|write| write.sectors).sum();
        let exhaustive = sectors <= u64::from(sectors_max);
        let worlds = 1 << if exhaustive { sectors } else { u64::from(sectors_max) };
        for choice in 0..worlds {
            let fork = self.fork();
            let mut left: u64 = choice;
            let mut random = Random::new(choice ^ self.seed());
            fork.crash_with(&mut |_, sectors| {
                if !exhaustive {
                    return Survival::any(&mut random, sectors);
                }
                let survival = Survival::Torn(left & ((1 << sectors) - 1));
                left >>= sectors;
                survival
            });
            check(fork);
        }
        worlds
    }
}

/// What happened.
impl SimWorld {
    /// Counts of one disk, over all lives.
    pub fn counters(&self, disk: usize) -> Counters {
        self.core.borrow().disks[disk].counters
    }

    /// What power loss left of the writes that it could take, in all lives.
    pub fn survivals(&self) -> Survivals {
        self.core.borrow().survivals
    }

    /// A word that is the same in two runs of one seed and program.
    pub fn trace_hash(&self) -> u64 {
        self.core.borrow().trace.hash()
    }

    /// Records operations as text from now on, or stops and forgets them.
    pub fn set_trace(&self, on: bool) {
        self.core.borrow_mut().trace.record(on);
    }

    /// The seed and the recorded operations.
    pub fn trace(&self) -> String {
        let mut text = format!("seed {}\n", self.seed());
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", self.core.borrow().trace.lines());
        text
    }
}
