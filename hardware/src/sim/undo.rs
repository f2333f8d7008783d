//! Taking back writes that are not durable.
//!
//! Method: a flush forgets the front of the list of writes. A crash walks the list backwards and puts old sectors back
//! for what does not survive; a sector that a later write kept is left alone. So every sector ends as some version it had
//! since the last flush, or as the durable one, and the usual case costs nothing but the list.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::disk::{Disk, Pending, Standing};
use super::pages::PAGE;
use super::random::Random;
use super::survival::Survival;

impl Disk {
    /// Makes every write before `mark` durable.
    pub(super) fn flush(&mut self, mark: u64) {
        while let Some(front) = self.pending.front() {
            if front.sequence >= mark && front.standing != Standing::Durable {
                break;
            }
            self.pending.pop_front();
        }
    }

    /// The writes that can be lost.
    pub(super) fn losable(&self) -> usize {
        self.pending.iter().filter(|write| write.standing != Standing::Durable).count()
    }

    /// Ends the life of a cache: `choose` says for each write that can be lost what survives; the rest is durable.
    pub(super) fn lose(&mut self, choose: &mut dyn FnMut(u64) -> Survival) {
        let survivals = self.choose(choose, |write| write.standing != Standing::Durable);
        self.take_back(&survivals);
        self.pending.clear();
    }

    /// A process died: only writes in flight are in question, completed ones stay in the cache.
    pub(super) fn settle(&mut self, random: &mut Random) {
        let survivals =
            self.choose(&mut |sectors| Survival::any(random, sectors), |write| write.standing == Standing::InFlight);
        self.take_back(&survivals);
        if !self.geometry.volatile_cache {
            self.pending.clear();
        }
        for (write, survival) in self.pending.iter_mut().zip(survivals) {
            if write.standing == Standing::InFlight {
                write.standing = Standing::Cached;
                write.live = survival;
            }
        }
        self.pending.retain(|write| write.live != Survival::Dropped);
    }

    fn choose(&self, choose: &mut dyn FnMut(u64) -> Survival, questioned: impl Fn(&Pending) -> bool) -> Vec<Survival> {
        let survival =
            |write: &Pending| if questioned(write) { choose(write.length / self.block) } else { Survival::Kept };
        self.pending.iter().map(survival).collect()
    }

    /// Puts the old sectors back under every write that does not survive, latest first.
    fn take_back(&mut self, survivals: &[Survival]) {
        // What a survivor wrote, by page: bit i for the page's sector i.
        let mut decided: HashMap<u64, u8, BuildHasherDefault<Mixer>> = HashMap::default();
        let Some(first) = survivals.iter().position(|survival| *survival != Survival::Kept) else { return };
        let block = self.block;
        for (write, survival) in self.pending.iter().zip(survivals).skip(first).rev() {
            let end = write.offset + write.length;
            if write.standing == Standing::Durable {
                for at in (write.offset..end).step_by(block as usize) {
                    *decided.entry(at / PAGE).or_default() |= 1 << (at % PAGE / block);
                }
                continue;
            }
            for (page, old) in &write.old {
                let decided = decided.entry(*page).or_default();
                let (start, end) = (write.offset.max(page * PAGE), end.min((page + 1) * PAGE));
                let plain = *survival == Survival::Dropped && write.live == Survival::Kept && *decided == 0;
                if plain && end - start == PAGE {
                    *self.pages.slot(*page) = old.clone();
                    continue;
                }
                for at in (start..end).step_by(block as usize) {
                    let (sector, bit) = ((at - write.offset) / block, 1 << (at % PAGE / block));
                    if !write.live.includes(sector) || *decided & bit != 0 {
                        continue;
                    }
                    if survival.includes(sector) {
                        *decided |= bit;
                        continue;
                    }
                    let range = (at % PAGE) as usize..(at % PAGE + block) as usize;
                    let place = &mut self.pages.change(*page)[range.clone()];
                    match old {
                        Some(old) => place.copy_from_slice(&old[range]),
                        None => place.fill(0),
                    }
                }
            }
        }
    }
}

/// A hasher for page numbers that is the same in every run.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}
