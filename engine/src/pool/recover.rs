//! From what the devices say to an open pool: which records to believe, and the beginning of a new life.
//!
//! 1. Batches are read until the chain ends. What the tail in crash memory has beyond them is added when it was written by
//!    the same life: then our process died and the machine did not, and every record is true that the tail has, or had.
//! 2. Otherwise the power failed: a MAP or MOVE in a batch that nothing covers is believed only if the data on the devices has its
//!    proof. One that fails is dropped, and so is what builds on such a MOVE; DROPPED says so in the first batches of the new
//!    life, for all later starts.
//! 3. Records are applied in order.
//! 4. The devices are flushed; the first batch of the new life repeats the tail's records and is durable before anybody is
//!    served. It is proven, so what was believed once is never judged again.

use std::borrow::Cow;
use std::collections::HashSet;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Durability, Machine};

use super::RecoveryInfo;
use super::left::{Survivors, is_unfinished};
use super::open::Healing;
use super::warning::Warning;
use crate::error::Result;
use crate::format::{Batch, Blocks, ExtentId, Record, RootPage, VdiskId, VirtualExtent};
use crate::journal::{Beginning, JournalEnd, Tail};
use crate::media::Drive;
use crate::planted::Bug;
use crate::vdisk::Store;

impl<M: Machine> Store<M> {
    pub(super) async fn recover(
        self: &Rc<Self>,
        recovered: JournalEnd,
        tails: Vec<Rc<Tail<M::CrashMemory>>>,
        heal: Healing,
        info: &mut RecoveryInfo,
    ) -> Result<Vec<Warning>> {
        let mut warnings = Vec::new();
        let root = self.root.borrow().clone();
        let life = recovered.batches.last().map_or(root.life, |batch| batch.header.life);
        let next = recovered.next.sequence;
        let Survivors { tail, others, halves, numbers } = Survivors::of(tails, root.pool, life);
        self.journal.keep_former_tails(tail, others);
        let gap = numbers.go_on_behind(next);
        let had_tail = halves.is_some();
        let survived = halves.filter(|_| !gap);
        let same_boot = survived.is_some();
        let (written, mut halves): (Vec<_>, Vec<_>) =
            survived.into_iter().flatten().partition(|(sequence, _)| *sequence < next);
        halves.iter_mut().for_each(|(_, records)| records.retain(|record| !is_unfinished(record, &root)));
        let covered = recovered.covered();
        // The last checkpoint's META records are among the batches, or some are missing.
        let damaged = recovered.damaged || root.meta_sequence >= next;
        let on_devices = recovered.batches.iter().flat_map(|batch| &batch.records);
        let mut dropped = known_drops(on_devices.chain(halves.iter().flat_map(|(_, records)| records)));
        let (new_drops, unread) = match same_boot {
            true => (written_ahead(&recovered.batches, &written, &dropped), 0),
            false => self.disprove(&recovered.batches, covered, &dropped).await,
        };
        dropped.extend(new_drops.iter().copied());
        self.replay_all(&recovered.batches, &halves, &dropped, root.generation, info).await;
        info.records_dropped = new_drops.len() as u64;
        if recovered.one_sided > 0 {
            info.healed.push(format!("a ring lacked journal batches ({})", recovered.one_sided));
        }
        if recovered.unread {
            // What the tail goes on from may be what cannot be read.
            warnings.push(Warning::JournalUnread);
        } else if gap {
            warnings.push(Warning::TailAhead);
        } else if damaged {
            warnings.push(Warning::JournalDamaged);
        }
        let pages = self.media.pages.unread.get();
        if pages > 0 {
            // What the journal says of them was passed over, and a checkpoint would let it go.
            warnings.push(Warning::PagesUnread(pages));
        }
        if unread > 0 {
            // Neither believing nor dropping them for good is right; the next start may be able to read them.
            warnings.push(Warning::ProofsUnread(unread));
        }
        if let Some(reason) = warnings.first() {
            self.read_only.borrow_mut().get_or_insert(reason.says(&self.identity.name));
        }
        if self.inspect {
            return Ok(warnings);
        }
        if !warnings.is_empty() {
            // Who accepts what is missing begins with numbers that nothing has which is left of it.
            self.journal.jump(recovered.highest);
        }
        let drops: Vec<Record> = new_drops.iter().map(|&(batch, index)| Record::Dropped { batch, index }).collect();
        *self.undecided.borrow_mut() = drops.clone();
        let crowded = self.journal.is_nearly_full();
        // A life goes on only with its own tail: one that is not in sight now would be taken for that of what is written from here on. But
        // starts that are cut short by power loss must not fill the ring.
        let idle = (had_tail || crowded)
            && recovered.ends_with_nothing(&root)
            && drops.is_empty()
            && halves.iter().all(|(_, records)| records.is_empty());
        // A tail that has what comes behind would go on from what is not there, if this start is cut short in between.
        let needless = recovered.needless(&root).filter(|place| crowded && !numbers.go_on_behind(place.sequence));
        let beginning = Beginning { before: life, halves, drops, idle, take_back: needless };
        if self.read_only.borrow().is_none() {
            match self.heal_ends(&heal, &root).await {
                Ok(true) => info.healed.extend(heal.damage),
                // The next start, or a check, tries again.
                Ok(false) => {}
                // One generation behind is what a crash leaves too; a checkpoint will not be content with it.
                Err(error) => tracing::warn!(%error, "a device did not take the label or root that it lacks"),
            }
            let begun = self.journal.begin_life(beginning).await;
            begun.map_err(|failure| self.journal_failed(failure))?;
        }
        Ok(warnings)
    }

    /// Applies the records of the batches, but for those that are not believed, and of what crash memory has beyond them.
    async fn replay_all(
        self: &Rc<Self>,
        batches: &[Batch],
        halves: &[(u64, Vec<Record>)],
        dropped: &HashSet<(u64, u32)>,
        generation: u64,
        info: &mut RecoveryInfo,
    ) {
        let mut undone = Undone::default();
        for batch in batches {
            for (index, record) in batch.records.iter().enumerate() {
                if dropped.contains(&(batch.header.sequence, index as u32)) {
                    undone.note_dropped(record);
                    continue;
                }
                info.records_replayed += 1;
                for record in undone.corrected(record) {
                    self.replay(&record, generation).await;
                }
            }
        }
        for record in halves.iter().flat_map(|(_, records)| records) {
            info.from_crash_memory += 1;
            for record in undone.corrected(record) {
                self.replay(&record, generation).await;
            }
        }
        let waiting: u64 = self.vdisks.borrow().values().map(|vdisk| vdisk.mapping.pending_pages()).sum();
        self.counts.waiting.set(waiting as usize);
    }

    /// Writes the labels and roots that are missing or old. Answers whether all are there then.
    async fn heal_ends(&self, heal: &Healing, root: &RootPage) -> Result<bool> {
        for label in &heal.labels {
            let members = super::roots::members(&self.media, root);
            if let Some((drive, _)) = members.iter().find(|(drive, _)| drive.slot().device == label.device) {
                let write = async |at, page| drive.write(at, page, Durability::Cached).await;
                super::create::write_label(&self.media.machine, label, write).await?;
            }
        }
        if heal.root {
            return Ok(super::roots::write(&self.media, root).await?);
        }
        // From here on it is known that they are there.
        super::roots::all_have_ends(&self.media, root).await?;
        Ok(true)
    }

    /// MAPs and MOVEs that nothing covers and whose data is not what they say, and what builds on a MOVE among them: the extent that
    /// it would have moved to holds nothing of the vdisk's. Also answers how many could not be read; these are among the failed.
    async fn disprove(&self, batches: &[Batch], covered: u64, known: &HashSet<(u64, u32)>) -> (Vec<(u64, u32)>, usize) {
        let (mut failed, mut unread) = (Vec::new(), 0);
        // Extents that were to take the place of another, or of a fill, and did not: what later records add to them says nothing alone.
        let mut baseless: HashSet<(VdiskId, VirtualExtent, ExtentId)> = HashSet::new();
        for batch in batches {
            let judged = !batch.header.proven && batch.header.sequence > covered;
            for (index, record) in batch.records.iter().enumerate() {
                let key = (batch.header.sequence, index as u32);
                let (builds_on, holds) = match record {
                    Record::Map { vdisk, at, extent, blocks, proof, .. } => {
                        (Some((*vdisk, *at, *extent)), (*extent, *blocks, *proof))
                    }
                    Record::Move { vdisk, at, from, to, blocks, proof } => {
                        (Some((*vdisk, *at, *from)), (*to, *blocks, *proof))
                    }
                    // It has all blocks of its words, and what they leave shows in the leaf.
                    Record::Remap { to, places, proof, .. } => (None, (*to, *places, *proof)),
                    _ => continue,
                };
                let was_dropped = known.contains(&key);
                let mut drop_it = was_dropped;
                if judged && !was_dropped {
                    let dependent = builds_on.is_some_and(|base| baseless.contains(&base));
                    drop_it = dependent && !Bug::KeepDependents.is_planted();
                    if !drop_it {
                        let held = self.holds(holds.0, holds.1, holds.2).await;
                        unread += usize::from(held.is_none());
                        drop_it = held != Some(true);
                    }
                    failed.extend(drop_it.then_some(key));
                }
                // Behind a batch that covers one dropped before, nothing builds on it: the place may have been taken anew.
                if judged && drop_it {
                    baseless.extend(begun_by(record));
                }
            }
        }
        (failed, unread)
    }

    async fn read_stubbornly(&self, drive: &Drive<M::Device>, offset: u64) -> Option<Buffer> {
        for _ in 0..JUDGE_ATTEMPTS {
            let buffer = self.media.buffers().alloc(self.media.block_bytes() as usize).await;
            if let Ok(contents) = drive.read(offset, buffer).await {
                return Some(contents);
            }
        }
        None
    }

    /// Whether the blocks of an extent have this checksum; `None` when they cannot be read.
    async fn holds(&self, extent: ExtentId, blocks: Blocks, proof: u32) -> Option<bool> {
        if Bug::SkipChecksum.is_planted() {
            return Some(true);
        }
        let Some((drive, start)) = self.media.locate(extent) else { return Some(false) };
        let block_bytes = self.media.block_bytes();
        let mut hasher = crc32fast::Hasher::new();
        for block in (0..16).filter(|&block| blocks.has(block)) {
            let contents = self.read_stubbornly(&drive, start + u64::from(block) * block_bytes).await?;
            hasher.update(&contents);
        }
        Some(hasher.finalize() == proof)
    }
}

/// MAPs of batches whose halves lack them: they were written beside their data, which was not there yet. A start that was cut short may
/// have added what it dropped.
fn written_ahead(batches: &[Batch], halves: &[(u64, Vec<Record>)], known: &HashSet<(u64, u32)>) -> Vec<(u64, u32)> {
    let mut ahead = Vec::new();
    for (sequence, records) in halves {
        let batch = batches.iter().find(|batch| batch.header.sequence == *sequence);
        let all = batch.into_iter().flat_map(|batch| batch.records.iter().enumerate());
        let beyond = all.skip(records.len()).filter(|(_, record)| matches!(record, Record::Map { .. }));
        ahead.extend(beyond.map(|(index, _)| (*sequence, index as u32)).filter(|key| !known.contains(key)));
    }
    ahead
}

/// What a record made a word name, where that took the place of another extent or of a fill.
fn begun_by(record: &Record) -> Vec<(VdiskId, VirtualExtent, ExtentId)> {
    match record {
        Record::Map { vdisk, at, extent, over_fill: true, .. } => vec![(*vdisk, *at, *extent)],
        Record::Move { vdisk, at, to, .. } => vec![(*vdisk, *at, *to)],
        Record::Remap { vdisk, leaf, to, words, .. } => {
            words.iter().map(|(slot, _)| (*vdisk, VirtualExtent::in_leaf(*leaf, usize::from(*slot)), *to)).collect()
        }
        _ => Vec::new(),
    }
}

/// Moves that were dropped. A FILL that came after one names the extent that was moved to; what it frees is the one before, which the
/// word still has: that shows in the leaf, which an UNMAP looks at.
#[derive(Default)]
struct Undone(HashSet<(VdiskId, VirtualExtent, ExtentId)>);

impl Undone {
    fn note_dropped(&mut self, record: &Record) {
        if !matches!(record, Record::Map { .. }) {
            self.0.extend(begun_by(record));
        }
    }

    /// A record that is believed, as it is to be applied.
    fn corrected<'a>(&mut self, record: &'a Record) -> Vec<Cow<'a, Record>> {
        match record {
            // The place was taken anew, and this counts.
            Record::Map { vdisk, at, extent, .. } => drop(self.0.remove(&(*vdisk, *at, *extent))),
            Record::Move { .. } | Record::Remap { .. } => {
                let counts = begun_by(record);
                self.0.retain(|undone| !counts.contains(undone));
            }
            Record::Fill { vdisk, at, freed: Some(freed), blocks, pattern }
                if self.0.contains(&(*vdisk, *at, *freed)) =>
            {
                let unmap = Record::Unmap { vdisk: *vdisk, first: *at, count: 1 };
                let fill = Record::Fill { vdisk: *vdisk, at: *at, blocks: *blocks, pattern: *pattern, freed: None };
                return vec![Cow::Owned(unmap), Cow::Owned(fill)];
            }
            _ => {}
        }
        vec![Cow::Borrowed(record)]
    }
}

/// Attempts at reading a block whose proof decides whether it is believed.
const JUDGE_ATTEMPTS: u32 = 5;

fn known_drops<'a>(records: impl Iterator<Item = &'a Record>) -> HashSet<(u64, u32)> {
    records
        .filter_map(|record| match record {
            Record::Dropped { batch, index } => Some((*batch, *index)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PatternId;

    const VDISK: VdiskId = VdiskId(3);
    const AT: VirtualExtent = VirtualExtent(7);

    fn moved(from: u64, to: u64) -> Record {
        let (from, to) = (ExtentId(from), ExtentId(to));
        Record::Move { vdisk: VDISK, at: AT, from, to, blocks: Blocks::ALL, proof: 1 }
    }

    /// Whether a FILL that says it freed `extent` is applied so.
    fn is_true(undone: &mut Undone, extent: u64) -> bool {
        let freed = Some(ExtentId(extent));
        let fill = Record::Fill { vdisk: VDISK, at: AT, blocks: Blocks::ALL, pattern: PatternId(1), freed };
        let applied = undone.corrected(&fill);
        match &applied[..] {
            [Cow::Borrowed(_)] => true,
            [Cow::Owned(Record::Unmap { first: AT, count: 1, .. }), Cow::Owned(Record::Fill { freed: None, .. })] => {
                false
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fill_behind_dropped_moves_frees_what_the_word_still_has() {
        let mut undone = Undone::default();
        undone.note_dropped(&moved(1, 2));
        undone.note_dropped(&moved(2, 3));
        assert_eq!([is_true(&mut undone, 3), is_true(&mut undone, 2), is_true(&mut undone, 9)], [false, false, true]);
        // A move to the same place that is believed counts, and so does a first write.
        undone.corrected(&moved(1, 3));
        assert!(is_true(&mut undone, 3));
        let proof = 1;
        let map =
            Record::Map { vdisk: VDISK, at: AT, extent: ExtentId(2), blocks: Blocks::ALL, proof, over_fill: false };
        undone.corrected(&map);
        assert!(is_true(&mut undone, 2));
    }
}
