//! What is kept twice. Silent faults strike only pages of which another copy is whole, and none of the contents that they struck before.
//!
//! Which page is whose second copy nobody says: it is one that holds the same. Contents that were struck once count as spoiled for good,
//! even when they are written again: that may be lost in a crash.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::disk::Disk;
use super::pages::PAGE;
use super::random::mix;

/// A page that a fault would spoil, and what is lost there.
pub(super) struct Victim<'a> {
    pub(super) disk: usize,
    pub(super) page: u64,
    pub(super) contents: &'a [u8],
}

/// Whether a page of these contents is one that is kept twice.
type Judge = dyn Fn(&[u8]) -> bool;

#[derive(Clone)]
pub(super) struct Twins {
    is_kept_twice: Rc<Judge>,
    spoiled: BTreeSet<u64>,
}

impl Twins {
    pub(super) fn new(is_kept_twice: impl Fn(&[u8]) -> bool + 'static) -> Self {
        Self { is_kept_twice: Rc::new(is_kept_twice), spoiled: BTreeSet::new() }
    }

    /// Whether all `victims` may be spoiled at once; remembers that they were.
    pub(super) fn spoil(&mut self, disks: &[Disk], victims: &[Victim]) -> bool {
        let hashes: Vec<u64> = victims.iter().map(|victim| hash(victim.contents)).collect();
        let bearable = |(index, victim): (usize, &Victim)| {
            (self.is_kept_twice)(victim.contents)
                && !self.spoiled.contains(&hashes[index])
                && !hashes[..index].contains(&hashes[index])
                && has_twin(disks, victim, victims)
        };
        let may = victims.iter().enumerate().all(bearable);
        if may {
            self.spoiled.extend(hashes);
        }
        may
    }
}

fn has_twin(disks: &[Disk], of: &Victim, victims: &[Victim]) -> bool {
    let is_victim = |disk, page| victims.iter().any(|victim| (victim.disk, victim.page) == (disk, page));
    let twin = |disk, (page, contents): (u64, &[u8])| contents == of.contents && !is_victim(disk, page);
    disks.iter().enumerate().any(|(disk, state)| state.pages.present().any(|found| twin(disk, found)))
}

fn hash(contents: &[u8]) -> u64 {
    let words = contents.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    words.fold(0, |hash: u64, word| mix(hash.rotate_left(1) ^ word))
}

/// The pages of a range; `None` when it is not made of whole ones.
pub(super) fn whole_pages(offset: u64, length: u64) -> Option<std::ops::Range<u64>> {
    (offset.is_multiple_of(PAGE) && length.is_multiple_of(PAGE)).then(|| offset / PAGE..(offset + length) / PAGE)
}
