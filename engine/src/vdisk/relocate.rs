//! Moving what is behind one virtual extent to another extent, while the vdisk is in use.
//!
//! 1. Claim all blocks: no first write is under way, and none begins. Reads, overwrites and discards go on.
//! 2. Watch the extent, and wait for the epoch to end: every overwrite that is not seen by the watch has ended.
//! 3. Copy the blocks that have contents to an extent that was taken for it.
//! 4. At one instant: was it overwritten or discarded meanwhile? Then once more; after a few times with overwrites held. Else word,
//!    groups and record change together, as for a first write.
//!
//! The old extent rests until the record needs no proof: as long as a start may drop the record, it finds the old contents whole.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Durability, Frozen, IoError, Machine};

use super::{Store, VdiskCore};
use crate::error::{Error, Result};
use crate::format::{Blocks, ExtentId, GROUP_EXTENTS, MOVE_RECORD_BYTES, Record, VirtualExtent, Word};
use crate::journal::{Gate, Permit};
use crate::mapping::{Claimed, LostRange};
use crate::space::Rest;

/// Copies that overwrites may spoil before they are held for the next one.
const COPIES_UNHELD: u32 = 3;
/// Attempts at reading, and extents tried for writing, before it is given up.
const ATTEMPTS: u32 = 3;
/// Bytes copied at once.
const RUN_BYTES: u64 = 256 << 10;
/// Dirty pages that a move may cause: a leaf, the nodes above it, two groups and their nodes, a table page and its node.
const PAGES: usize = 12;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocated {
    /// So many bytes are elsewhere now.
    Moved(u64),
    /// It was not there, or is not any more.
    Nothing,
}

/// A virtual extent claimed whole, and what stands behind it.
pub(super) struct Hold<M: Machine> {
    store: Rc<Store<M>>,
    vdisk: Rc<VdiskCore>,
    pub(super) at: VirtualExtent,
    pub(super) extent: ExtentId,
    /// Other words may have, or have had, the extent too.
    pub(super) packed: bool,
}

impl<M: Machine> Drop for Hold<M> {
    fn drop(&mut self) {
        let Some(claim) = self.vdisk.mapping.claims.release(self.at, Blocks::ALL) else { return };
        // Discarded whole meanwhile: it was held for us alone.
        if let (Some(sequence), Some(extent)) = (claim.freed, claim.extent) {
            let rest = if self.packed { Rest::Confirmed } else { Rest::Durable };
            self.store.space.quarantine_held(&self.vdisk.mapping.account, extent, sequence, rest);
        }
    }
}

/// An extent taken for the copy; given back unless it was used.
pub(super) struct Target<M: Machine> {
    store: Rc<Store<M>>,
    pub(super) extent: ExtentId,
    pub(super) used: Cell<bool>,
}

impl<M: Machine> Drop for Target<M> {
    fn drop(&mut self) {
        if !self.used.get() {
            self.store.space.forfeit_move(self.extent);
        }
    }
}

impl<M: Machine> Store<M> {
    /// Moves what is behind `at` to another extent if it is in one that `leaves`. No limit of the vdisk's is asked: it has as much
    /// afterwards as before.
    ///
    /// # Errors
    /// `OutOfSpace`, `Device` when it cannot be read, or not be written anywhere; `Damaged`, `Busy`, `ReadOnly`.
    pub(crate) async fn relocate(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        at: VirtualExtent,
        leaves: &dyn Fn(ExtentId) -> bool,
    ) -> Result<Relocated> {
        self.writable()?;
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        if word.is_packed() && leaves(word.extent()) {
            return self.relocate_packed(vdisk, at.leaf(), word.extent()).await;
        }
        let _room = self.room(PAGES).await?;
        let mut permit = self.permit(MOVE_RECORD_BYTES).await?;
        let own = |word: Word| !word.is_packed() && leaves(word.extent());
        let Some(mut hold) = self.claim_whole(vdisk, at, &own).await? else { return Ok(Relocated::Nothing) };
        let mut target = self.take_target(vdisk, at).await?;
        let (mut copies, mut failures) = (0, 0);
        loop {
            let mut watch = vdisk.mapping.watches.watch(at);
            if copies >= COPIES_UNHELD {
                watch.hold();
            }
            copies += 1;
            self.settle_overwrites(vdisk).await?;
            let Some(word) = self.word_of(&hold).await? else { return Ok(Relocated::Nothing) };
            let contents = self.read_extent(&hold, word.valid()).await?;
            if let Err(error) = self.write_extent(&target, &contents).await {
                if matches!(error, IoError::NoSpace { .. }) {
                    self.space.note_full_at([target.extent]);
                }
                failures += 1;
                if failures == ATTEMPTS || matches!(error, IoError::Gone { .. }) {
                    return Err(error.into());
                }
                tracing::warn!(%error, "an extent is moved to another place");
                target = self.take_target(vdisk, at).await?;
                continue;
            }
            for extent in [hold.extent, target.extent] {
                if self.space.load_group(extent.0 / GROUP_EXTENTS).await.is_err() {
                    return Err(self.group_lost());
                }
            }
            let Some(now) = self.word_of(&hold).await? else { return Ok(Relocated::Nothing) };
            if now != word || watch.is_hit() {
                continue;
            }
            // No `await` from the look at the word to the change. What a device may have lost must not be shown as the vdisk's.
            self.writable()?;
            if self.media.is_lossy() {
                return Err(self.doubtful(vdisk, at));
            }
            let sequence = self.switch(&mut hold, &target, word, &contents, &mut permit);
            drop((permit, _room));
            if !self.journal.has_tail() {
                // An overwrite that is answered must not be where only a record in memory leads.
                watch.hold();
                self.outlast(sequence).await?;
            }
            let blocks = u64::from(word.valid().0.count_ones());
            return Ok(Relocated::Moved(blocks * self.media.block_bytes()));
        }
    }

    /// Claims all blocks of `at`, if it has an extent and its word is `wanted`.
    pub(super) async fn claim_whole(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        at: VirtualExtent,
        wanted: &dyn Fn(Word) -> bool,
    ) -> Result<Option<Hold<M>>> {
        loop {
            let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
            let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
            // What is being deleted goes without us, and waits for no claim that comes later.
            if !word.is_mapped() || !wanted(word) || !vdisk.ready.get() {
                return Ok(None);
            }
            match vdisk.mapping.claims.claim(at, Blocks::ALL, Some(word.extent())) {
                Claimed::In(extent) => {
                    let (store, vdisk) = (self.clone(), vdisk.clone());
                    return Ok(Some(Hold { store, vdisk, at, extent, packed: word.is_packed() }));
                }
                _ => vdisk.mapping.claims.released.changed().await,
            }
        }
    }

    /// An extent for the copy. Space that is only waiting for a flush is waited for.
    pub(super) async fn take_target(self: &Rc<Self>, vdisk: &VdiskCore, at: VirtualExtent) -> Result<Target<M>> {
        loop {
            if let Some(extent) = self.space.take_for_move(vdisk.id, at).await {
                return Ok(Target { store: self.clone(), extent, used: Cell::new(false) });
            }
            if !self.recover_quarantine().await? {
                let pool = self.identity.name.clone();
                return Err(Error::OutOfSpace { pool, needed: 1, free: self.space.available() });
            }
        }
    }

    /// Waits until every overwrite has ended that began before the watch.
    pub(super) async fn settle_overwrites(&self, vdisk: &VdiskCore) -> Result<()> {
        let epoch = self.space.epochs.advance();
        if self.space.epochs.until_over(epoch).await { Ok(()) } else { Err(self.abandoned(vdisk)) }
    }

    /// The word, if it is still that of the claim.
    pub(super) async fn word_of(&self, hold: &Hold<M>) -> Result<Option<Word>> {
        let looked_up = hold.vdisk.mapping.lookup(&self.media, &self.cache, hold.at).await;
        let word = looked_up.map_err(|lost| self.damaged(&hold.vdisk, lost))?;
        Ok((word.is_mapped() && word.extent() == hold.extent).then_some(word))
    }

    /// The contents of an extent's blocks, in runs, each with its place in the extent.
    pub(super) async fn read_extent(&self, hold: &Hold<M>, blocks: Blocks) -> Result<Vec<(u64, Frozen)>> {
        let Some((drive, start)) = self.media.locate(hold.extent) else {
            return Err(self.damaged(&hold.vdisk, LostRange { first: hold.at, count: 1 }));
        };
        let mut contents = Vec::new();
        for (from, length) in runs(blocks, self.media.block_bytes()) {
            let mut attempt = 1;
            let buffer: Buffer = loop {
                let buffer = self.media.buffers().alloc(length as usize).await;
                match drive.read(start + from, buffer).await {
                    Ok(buffer) => break buffer,
                    Err(error) if attempt == ATTEMPTS || matches!(error, IoError::Gone { .. }) => {
                        return Err(error.into());
                    }
                    Err(_) => attempt += 1,
                }
            };
            contents.push((from, buffer.freeze()));
        }
        Ok(contents)
    }

    async fn write_extent(
        self: &Rc<Self>,
        target: &Target<M>,
        contents: &[(u64, Frozen)],
    ) -> std::result::Result<(), IoError> {
        let Some((drive, start)) = self.media.locate(target.extent) else {
            return Err(IoError::Gone { path: format!("extent {}", target.extent.0) });
        };
        for (from, data) in contents {
            while let Gate::Closed(batch) = self.journal.gate(target.extent, Blocks::ALL) {
                self.journal.confirm(batch).await.map_err(|failure| failure.0)?;
            }
            drive.write(start + from, data.clone(), Durability::Cached).await?;
        }
        Ok(())
    }

    /// Word, groups, claim and record change together. Answers the batch of the record.
    fn switch(
        &self,
        hold: &mut Hold<M>,
        target: &Target<M>,
        word: Word,
        contents: &[(u64, Frozen)],
        permit: &mut Permit<M>,
    ) -> u64 {
        let (from, to, at, blocks) = (hold.extent, target.extent, hold.at, word.valid());
        let proof = self.proof_over(contents.iter().map(|(_, data)| data));
        let mapping = &hold.vdisk.mapping;
        mapping.set(&self.cache, at, Word::mapped(to, blocks));
        let record = Record::Move { vdisk: hold.vdisk.id, at, from, to, blocks, proof };
        let sequence = self.journal.append_map(permit, &record, to, blocks);
        self.space.relocate(from, to, sequence);
        mapping.claims.supply(at, Blocks::ALL, to);
        hold.extent = to;
        target.used.set(true);
        sequence
    }

    /// The checksum of what was copied, in order; 0 where no record needs one.
    pub(super) fn proof_over<'a>(&self, contents: impl Iterator<Item = &'a Frozen>) -> u32 {
        if !self.media.is_volatile() {
            return 0;
        }
        let mut hasher = crc32fast::Hasher::new();
        contents.for_each(|data| hasher.update(data));
        hasher.finalize()
    }

    pub(super) fn doubtful(&self, vdisk: &VdiskCore, at: VirtualExtent) -> Error {
        Error::Device(IoError::Failed {
            path: format!("{}/{}", self.identity.name, vdisk.name()),
            operation: "move an extent",
            offset: at.0 * self.media.extent_bytes,
            reason: "a device may have lost what it had not flushed".to_owned(),
        })
    }
}

/// Neighbouring blocks together, at most [`RUN_BYTES`] at once: place in the extent and length in bytes.
fn runs(blocks: Blocks, block_bytes: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for block in (0..16).filter(|&block| blocks.has(block)) {
        let from = u64::from(block) * block_bytes;
        match runs.last_mut() {
            Some((start, length)) if *start + *length == from && *length < RUN_BYTES => *length += block_bytes,
            _ => runs.push((from, block_bytes)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_blocks_in_order() {
        assert_eq!(runs(Blocks(0b1110_0001), 4096), [(0, 4096), (5 * 4096, 3 * 4096)]);
        assert_eq!(runs(Blocks::NONE, 4096), []);
        assert_eq!(runs(Blocks::ALL, 65_536).iter().map(|(_, length)| length).sum::<u64>(), 1 << 20);
        assert!(runs(Blocks::ALL, 65_536).iter().all(|(_, length)| *length <= RUN_BYTES));
    }
}
