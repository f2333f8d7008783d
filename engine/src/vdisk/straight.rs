//! The straight ways: what needs no more than a look and one device I/O, with nothing to wait for and nothing to list.
//!
//! - A read or an overwrite of blocks with contents that lie side by side on one device.
//! - A first write of whole blocks in one extent, when nobody is in the way and there is room for everything it needs.
//!
//! Whatever is not that simple answers `None` here, with nothing changed, and goes the long way (`read`, `write`).

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Durability, Frozen, IoError, Machine};

use super::plan::ClaimGuard;
use super::range::{Piece, pieces};
use super::write::{InFlight, pages_for};
use super::{Room, Store, VdiskCore};
use crate::error::Result;
use crate::format::{Blocks, ExtentId, MAP_RECORD_BYTES, Record, checksum};
use crate::journal::{Gate, Permit};
use crate::media::Drive;

/// A place on a device.
pub(super) type Place<D> = (Rc<Drive<D>>, u64);

/// A first write that nothing is in the way of.
pub(super) struct FirstWrite<M: Machine> {
    claim: ClaimGuard<M>,
    extent: ExtentId,
    permit: Permit<M>,
    /// Kept until the record is appended.
    #[expect(dead_code)]
    room: Room<M>,
    place: Place<M::Device>,
}

impl<M: Machine> Store<M> {
    /// Where a range with contents lies in one piece, at this instant. For an overwrite the journal's gate is asked as well:
    /// it must begin before the next `await`.
    pub(super) fn straight(
        &self,
        vdisk: &VdiskCore,
        offset: u64,
        length: u64,
        overwrite: bool,
    ) -> Option<Place<M::Device>> {
        let block_bytes = self.media.block_bytes();
        let mut place: Option<Place<M::Device>> = None;
        for piece in pieces(offset, length, self.media.extent_bytes) {
            let word = vdisk.mapping.peek(piece.at)?.ok()?;
            let touched = piece.blocks(block_bytes);
            let simple = word.valid().contains(touched)
                && !word.is_packed()
                && !(overwrite && self.journal.gate(word.extent(), touched) != Gate::Open)
                && (!overwrite || vdisk.mapping.watches.pass(piece.at));
            if !simple {
                return None;
            }
            let (drive, start) = self.media.locate(word.extent())?;
            let start = start + piece.offset;
            match &place {
                None => place = Some((drive, start)),
                Some((first, before)) if Rc::ptr_eq(first, &drive) && before + piece.from == start => {}
                Some(_) => return None,
            }
        }
        place
    }

    /// Claims what a first write needs, when that takes no waiting.
    pub(super) fn first_write(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
    ) -> Option<FirstWrite<M>> {
        let block_bytes = self.media.block_bytes();
        let piece = pieces(offset, length, self.media.extent_bytes).next()?;
        let blocks = piece.whole_blocks(block_bytes);
        let whole = piece.length == length && piece.blocks(block_bytes) == blocks;
        if !whole || vdisk.sector.get() < self.media.logical_block() || !self.is_writable() {
            return None;
        }
        let word = vdisk.mapping.peek(piece.at)?.ok()?;
        let plain = !word.is_fill() && !word.is_packed();
        if word.contents().overlaps(blocks) || !plain || vdisk.mapping.settling.borrow().contains_key(&piece.at) {
            return None;
        }
        let room = self.room_at_once(pages_for(1))?;
        let permit = self.journal.reserve_at_once(MAP_RECORD_BYTES)?;
        let mapped = word.is_mapped().then(|| word.extent());
        let take = || self.take_at_once(vdisk, piece.at);
        let extent = vdisk.mapping.claims.claim_at_once(piece.at, blocks, mapped, take)?;
        let claim = self.claimed(vdisk, piece, blocks, extent);
        // Also blocks without contents: those they had before a discard may still need their proof.
        if self.journal.gate(extent, blocks) != Gate::Open {
            return None;
        }
        let (drive, start) = self.media.locate(extent)?;
        Some(FirstWrite { claim, extent, permit, room, place: (drive, start + piece.offset) })
    }

    /// Goes on with a first write, which must have been claimed with no `await` in between.
    pub(super) async fn write_first(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        mut first: FirstWrite<M>,
        data: Frozen,
    ) -> Result<()> {
        let (at, extent, blocks) = (first.claim.piece.at, first.extent, first.claim.blocks);
        let volatile = self.media.is_volatile();
        let proof = if volatile { checksum(&[&data]) } else { 0 };
        // Nothing but plain words come this way, and none becomes a fill under a claim.
        let record = Record::Map { vdisk: vdisk.id, at, extent, blocks, proof, over_fill: false };
        let ahead = self.journal.write_ahead(&record);
        let mut in_flight = InFlight(Some(self.space.epochs.enter()));
        first.claim.writing = true;
        let (drive, offset) = &first.place;
        let result = drive.write(*offset, data, Durability::Cached).await;
        first.claim.writing = false;
        let epoch = in_flight.0.take();
        if matches!(result, Err(IoError::NoSpace { .. })) {
            self.space.note_full_at(std::iter::once(extent));
        }
        result?;
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        assert!(!word.valid().overlaps(blocks), "blocks of extent {} were claimed and got contents from another", at.0);
        if self.media.is_volatile() != volatile {
            // The first device with a cache came meanwhile, and this write has no proof.
            self.journal.void_proofs();
        }
        self.publish(vdisk, at, word, (extent, blocks));
        let settled = ahead.and_then(|ahead| ahead.settle(extent, blocks));
        let append = || self.journal.append_map(&mut first.permit, &record, extent, blocks);
        let sequence = settled.unwrap_or_else(append);
        drop((first, epoch));
        self.outlast(sequence).await
    }

    fn claimed(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        piece: Piece,
        blocks: Blocks,
        extent: ExtentId,
    ) -> ClaimGuard<M> {
        ClaimGuard {
            store: self.clone(),
            vdisk: vdisk.clone(),
            piece,
            blocks,
            extent: Some(extent),
            packed: false,
            writing: false,
            new: Cell::new(blocks),
            edges: Vec::new(),
            backdrop: None,
        }
    }
}
