//! Words that lose contents, or whose blocks become a fill: all of them at one instant, under one batch, and the extents that nothing
//! names any more go into quarantine.
//!
//! Who asks says which records tell it; see `discard` for ranges and `detect` for scattered blocks.

use std::collections::BTreeSet;
use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::{Room, Store, VdiskCore, count};
use crate::error::Result;
use crate::format::{Blocks, ExtentId, FILL_RECORD_BYTES, PatternId, Record, VirtualExtent, Word};
use crate::journal::Permit;
use crate::mapping::apply_fill;
use crate::space::Rest;

/// Bytes of records that one scattered change may need: a FILL, and an UNMAP or a CLEAR.
const CHANGE_BYTES: usize = FILL_RECORD_BYTES + 24;

/// A word as it is and as it is to be. It may lose blocks, or its blocks become a fill.
pub(super) struct Change {
    pub(super) at: VirtualExtent,
    pub(super) before: Word,
    pub(super) after: Word,
}

impl Change {
    /// The extent that it names no more; a packed one may have other names.
    pub(super) fn leaves(&self) -> Option<ExtentId> {
        (self.before.is_mapped() && !self.after.is_mapped()).then(|| self.before.extent())
    }
}

/// What blocks of one virtual extent are to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) at: VirtualExtent,
    /// Blocks that read as zeros.
    pub(crate) zeros: Blocks,
    /// Blocks that repeat a pattern; none of them in `zeros`.
    pub(crate) fill: Option<(PatternId, Blocks)>,
}

/// What a wish comes to, with a word as it is.
pub(super) enum Judged {
    /// It is so already.
    Nothing,
    Change(Change),
    /// The pattern must be stored as data: other blocks of the extent hold something, or are just being written.
    Refused,
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// Blocks that lost contents, and blocks that became a fill.
    pub(crate) zeros: u64,
    pub(crate) filled: u64,
    pub(crate) extents: u64,
    /// The batch of the records; 0: nothing was changed.
    pub(crate) sequence: u64,
}

impl<M: Machine> Store<M> {
    /// What `wanted` comes to at this instant, with `word` as it is.
    pub(super) fn judge(&self, vdisk: &VdiskCore, wanted: &Wanted, word: Word) -> Judged {
        let Some((pattern, blocks)) = wanted.fill else {
            if !word.contents().overlaps(wanted.zeros) {
                return Judged::Nothing;
            }
            return Judged::Change(Change { at: wanted.at, before: word, after: word.without(wanted.zeros) });
        };
        let same = word.is_fill() && word.pattern() == pattern;
        // Whoever has a claim writes to an extent that is the word's, or is to be. A fill needs no extent, but a leaf that was never written
        // does in the end: without space for that it would be of what is kept for checkpoints.
        let refused = vdisk.mapping.claims.stands_on(wanted.at)
            || !self.patterns.is_matched(pattern)
            || (!same && !blocks.with(wanted.zeros).contains(word.contents()))
            || (word == Word::UNMAPPED && self.space.available() == 0 && !vdisk.mapping.has_words(wanted.at.leaf()));
        if refused {
            return Judged::Refused;
        }
        let after = apply_fill(word, pattern, blocks).without(wanted.zeros.without(blocks));
        match after == word {
            true => Judged::Nothing,
            false => Judged::Change(Change { at: wanted.at, before: word, after }),
        }
    }

    /// Dirty pages that changes of so many extents in so many leaves may cause.
    fn change_pages(&self, leaves: usize, extents: usize) -> usize {
        let groups = (extents as u64).min(self.space.group_count());
        leaves * 3 + 8 + groups as usize
    }

    /// Whether so many may be changed in one step: beyond half of all dirty pages there may be, nobody would have counted them.
    pub(crate) fn may_change_at_once(&self, leaves: usize, extents: usize) -> bool {
        self.change_pages(leaves, extents) <= self.space.dirty_max() / 2
    }

    /// Room and permit for scattered changes of so many words.
    pub(super) async fn change_means(self: &Rc<Self>, wanted: &[Wanted]) -> Result<(Permit<M>, Room<M>)> {
        let leaves: BTreeSet<u64> = wanted.iter().map(|wanted| wanted.at.leaf()).collect();
        let room = self.room(self.change_pages(leaves.len(), wanted.len())).await?;
        Ok((self.permit(CHANGE_BYTES * wanted.len()).await?, room))
    }

    /// Does what is wanted by a write of `length` bytes at `offset`, at one instant. Answers also which of it had to be refused; these
    /// were not touched.
    pub(super) async fn change_scattered(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        (offset, length): (u64, u64),
        wanted: &[Wanted],
    ) -> Result<(Freed, Vec<Wanted>)> {
        let mut means = None;
        loop {
            let Some((changes, refused)) = self.judge_all(vdisk, wanted)? else {
                for one in wanted {
                    let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, one.at).await;
                    looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                }
                continue;
            };
            if changes.is_empty() {
                return Ok((Freed::default(), refused));
            }
            let Some((permit, _room)) = &mut means else {
                means = Some(self.change_means(wanted).await?);
                continue;
            };
            // Its size may have been cut, or it may have been deleted: contents must not appear where these have swept.
            self.check_range(vdisk, "a write", offset, length)?;
            if let Some(freed) = self.change_now(vdisk, &changes, permit) {
                self.trim_cache();
                drop(means);
                self.outlast(freed.sequence).await?;
                return Ok((freed, refused));
            }
            self.load_groups(&changes).await?;
        }
    }

    /// All changes and all that is refused, at this instant; `None`: a word is not in memory.
    fn judge_all(&self, vdisk: &VdiskCore, wanted: &[Wanted]) -> Result<Option<(Vec<Change>, Vec<Wanted>)>> {
        let (mut changes, mut refused) = (Vec::with_capacity(wanted.len()), Vec::new());
        for one in wanted {
            let Some(found) = vdisk.mapping.peek(one.at) else { return Ok(None) };
            match self.judge(vdisk, one, found.map_err(|lost| self.damaged(vdisk, lost))?) {
                Judged::Nothing => {}
                Judged::Change(change) => changes.push(change),
                Judged::Refused => refused.push(*one),
            }
        }
        Ok(Some((changes, refused)))
    }

    /// Reads the groups of what `changes` would free.
    pub(super) async fn load_groups(&self, changes: &[Change]) -> Result<()> {
        if let Err(lost) = self.space.load_groups_of(changes.iter().filter_map(Change::leaves)).await {
            tracing::error!(?lost, "an allocation group is lost; extents in it cannot be freed until a repair");
            return Err(self.group_lost());
        }
        Ok(())
    }

    pub(super) fn group_lost(&self) -> crate::Error {
        let pool = &self.identity.name;
        let reason = format!(
            "an allocation group is damaged in both copies; make it anew (plimsoll pool check {pool} --repair)"
        );
        let path = format!("pool {pool}");
        crate::Error::Device(IoError::Failed { path, operation: "change an extent", offset: 0, reason })
    }

    /// Makes scattered changes with their records; `None`, and nothing changed, when a group was not read.
    pub(super) fn change_now(&self, vdisk: &VdiskCore, changes: &[Change], permit: &mut Permit<M>) -> Option<Freed> {
        if !changes.iter().filter_map(Change::leaves).all(|extent| self.space.is_loaded(extent)) {
            return None;
        }
        let mut freed = Freed::default();
        for change in changes {
            let kept = if change.after.is_fill() { change.after.filled() } else { change.after.valid() };
            freed.zeros += u64::from(change.before.contents().without(kept).count());
            freed.filled += u64::from(change.after.filled().without(change.before.filled()).count());
        }
        (freed.sequence, freed.extents) = self.apply(vdisk, changes, &records_of(vdisk, changes), permit);
        Some(freed)
    }

    /// Changes words, groups and counts, and appends `records`, which say so. Answers their batch, 0 when there is nothing to do, and
    /// how many extents came free.
    /// The groups of all extents that are freed must be in memory.
    pub(super) fn apply(
        &self,
        vdisk: &VdiskCore,
        changes: &[Change],
        records: &[Record],
        permit: &mut Permit<M>,
    ) -> (u64, u64) {
        if changes.is_empty() {
            return (0, 0);
        }
        let (account, mut freed, mut freed_packed, mut held) = (&vdisk.mapping.account, Vec::new(), Vec::new(), 0);
        let epoch = self.space.epochs.advance();
        let in_flight = !self.space.epochs.is_over(epoch);
        let mut settling = vdisk.mapping.settling.borrow_mut();
        settling.retain(|_, epoch| !self.space.epochs.is_over(*epoch));
        for change in changes {
            vdisk.mapping.set(&self.cache, change.at, change.after);
            if !change.before.contents().contains(change.after.contents()) {
                // Who looked for contents beyond a new end must look again.
                count(&vdisk.first_writes, 1);
            }
            // Overwrites of what is lost may be in flight. They must not land on the next first contents of these blocks, which
            // lie in the same extent when that stays: because it has other blocks, or because a first write under way has it.
            let mut stays = change.after.is_mapped();
            let shared = |extent| change.before.is_packed() && vdisk.mapping.names(change.at.leaf(), extent);
            if let Some(extent) = change.leaves().filter(|&extent| !shared(extent)) {
                stays = vdisk.mapping.claims.note_freed(change.at, self.journal.pending_sequence());
                assert!(!(stays && change.after.is_fill()), "extent {} became a fill under a claim", change.at.0);
                match stays {
                    true => self.space.free_but_hold(account, extent),
                    false if change.before.is_packed() => freed_packed.push(extent),
                    false => freed.push(extent),
                }
                held += u64::from(stays);
            }
            if stays && in_flight {
                settling.insert(change.at, epoch);
            }
            if change.after.is_mapped() || change.before.is_packed() {
                self.space.note_thinned(vdisk.id, change.at.leaf());
            }
        }
        drop(settling);
        let sequence = self.journal.append(permit, records);
        let extents = held + (freed.len() + freed_packed.len()) as u64;
        self.space.free(account, freed, sequence, Rest::Durable);
        // A word that left one of these may be back after a start that drops the record of that.
        self.space.free(account, freed_packed, sequence, Rest::Confirmed);
        self.release_freed();
        (sequence, extents)
    }
}

/// The records of scattered changes: neighbours that lose all they have share one.
fn records_of(vdisk: &VdiskCore, changes: &[Change]) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::with_capacity(changes.len());
    for &Change { at, before, after } in changes {
        if after.is_fill() && !(before.is_fill() && after.pattern() == before.pattern()) {
            if before.is_packed() {
                // Whether its extent is free then shows in the leaf, which an UNMAP looks at.
                records.push(Record::Unmap { vdisk: vdisk.id, first: at, count: 1 });
            }
            let freed = (before.is_mapped() && !before.is_packed()).then(|| before.extent());
            let (blocks, pattern) = (after.filled(), after.pattern());
            records.push(Record::Fill { vdisk: vdisk.id, at, blocks, pattern, freed });
            continue;
        }
        let more = after.filled().without(before.filled());
        if !more.is_empty() {
            let pattern = after.pattern();
            records.push(Record::Fill { vdisk: vdisk.id, at, blocks: more, pattern, freed: None });
        }
        let fewer = before.contents().without(after.contents());
        match records.last_mut() {
            _ if fewer.is_empty() => {}
            Some(Record::Unmap { first, count, .. }) if after == Word::UNMAPPED && first.0 + *count == at.0 => {
                *count += 1
            }
            _ if after == Word::UNMAPPED => records.push(Record::Unmap { vdisk: vdisk.id, first: at, count: 1 }),
            _ => records.push(Record::Clear { vdisk: vdisk.id, at, blocks: fewer }),
        }
    }
    records
}
