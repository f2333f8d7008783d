//! Writing: in place where the blocks have contents, else into an extent of the vdisk's own, with a record.
//!
//! A write is one function that reads top to bottom:
//! 1. claim, piece by piece in order, what cannot simply be overwritten (extents are taken here);
//! 2. at one instant: look every word up again, ask the journal's gate, enter the epoch, submit;
//! 3. when the data is in the device: change the words and append the records, at one instant; answer.
//!
//! Dropping a write's future while the device is writing leaks its extents until the pool is opened again: drive it to its end.

use std::rc::Rc;

use futures_util::future::join_all;
use plimsoll_hardware::{Durability, Frozen, IoError, Machine};

use super::plan::{ClaimGuard, Refused, Turn};
use super::range::{Piece, pieces};
use super::ticket::{Asked, WriteOptions};
use super::wait_for_space::{Grant, Need};
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, ExtentId, Record, VirtualExtent, Word};
use crate::journal::{Gate, Permit};
use crate::mapping::{LostRange, apply_map};
use crate::media::Drive;
use crate::space::EpochGuard;

/// Dirty pages that a piece may cause: a leaf, the nodes above it, a group and its node, a table page and its node.
const PAGES_PER_PIECE: usize = 8;

/// Dirty pages that a write of so many pieces may cause: beyond the second, pieces share all but their group.
pub(super) fn pages_for(pieces: usize) -> usize {
    PAGES_PER_PIECE * pieces.min(2) + pieces
}

/// One device write.
struct Io<D> {
    drive: Rc<Drive<D>>,
    offset: u64,
    data: Frozen,
    /// Where `data` lies in the request, when it is a part of it.
    from: Option<u64>,
}

/// Keeps the epoch open for good when a write is abandoned.
pub(super) struct InFlight(pub(super) Option<EpochGuard>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(epoch) = self.0.take() {
            epoch.abandon();
        }
    }
}

/// What a write lacks to claim its pieces.
enum Lack {
    Space(Shortage),
    /// Room in the journal, or among the dirty pages, that only a checkpoint could make which finds none below the devices.
    Checkpoint,
    /// The word of this one shares its extent.
    OwnExtent(VirtualExtent),
}

/// What a look at all words, just before submitting, comes to.
enum Plan<D> {
    Go(Vec<Io<D>>),
    /// A word is not in memory.
    Load(VirtualExtent),
    /// Something has no contents yet, or changed since it was claimed.
    Claim,
    /// Overwrites of what the blocks held before a discard may be in flight until this epoch is over.
    Settle(u64),
    /// Blocks must be confirmed before they are overwritten.
    Confirm(u64),
    /// An extent is being copied elsewhere and may not be overwritten for a moment.
    Held,
}

impl<M: Machine> Store<M> {
    /// Writes `data` at `offset` of the vdisk.
    pub(crate) async fn write(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        data: Frozen,
        how: &WriteOptions,
    ) -> Result<()> {
        let length = data.len() as u64;
        self.check_range(vdisk, "a write", offset, length)?;
        self.writable()?;
        if self.finds(vdisk, offset, &data) {
            return Box::pin(self.write_less(vdisk, offset, data, how)).await;
        }
        if !how.fua && !vdisk.write_through.get() && vdisk.sector.get() >= self.media.logical_block() {
            if let Some((drive, start)) = self.straight(vdisk, offset, length, true) {
                self.count_write(length);
                let mut in_flight = InFlight(Some(self.space.epochs.enter()));
                let result = drive.write(start, data, Durability::Cached).await;
                drop(in_flight.0.take());
                return Ok(result?);
            }
            if let Some(first) = self.first_write(vdisk, offset, length) {
                self.count_write(length);
                match Box::pin(self.write_first(vdisk, first, data.clone())).await {
                    Err(Error::Device(IoError::NoSpace { .. })) => {}
                    done => return done,
                }
                // The long way finds another place, or waits.
                let asked = Asked::new(how, Some((offset, length)));
                let parts: Vec<Piece> = pieces(offset, length, self.media.extent_bytes).collect();
                return Box::pin(self.write_parts(vdisk, &parts, data, &asked, false)).await;
            }
        }
        // Boxed, as the one above, so that the future of every write need not be as large: it is moved several times.
        let asked = Asked::new(how, Some((offset, length)));
        Box::pin(self.write_pieces(vdisk, offset, data, &asked, how.fua)).await
    }

    pub(super) fn count_write(&self, length: u64) {
        count(&self.counters.writes, 1);
        count(&self.counters.write_bytes, length);
    }

    /// The long way: any number of pieces, of any kind. It is durable when it is answered if `fua` or the vdisk says so.
    pub(super) async fn write_pieces(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        data: Frozen,
        asked: &Asked<'_>,
        fua: bool,
    ) -> Result<()> {
        self.count_write(data.len() as u64);
        let parts: Vec<Piece> = pieces(offset, data.len() as u64, self.media.extent_bytes).collect();
        self.write_parts(vdisk, &parts, data, asked, fua).await
    }

    /// As [`Store::write_pieces`], of parts of a request; one in each extent at most.
    pub(super) async fn write_parts(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Piece],
        data: Frozen,
        asked: &Asked<'_>,
        fua: bool,
    ) -> Result<()> {
        while !self.try_parts(vdisk, parts, data.clone(), asked, fua).await? {
            self.outlast_full(vdisk, parts, data.len(), asked).await?;
        }
        Ok(())
    }

    /// As [`Store::write_parts`]; `false`: a device had no room, and nothing is changed.
    async fn try_parts(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Piece],
        data: Frozen,
        asked: &Asked<'_>,
        fua: bool,
    ) -> Result<bool> {
        let mut claims: Vec<Option<ClaimGuard<M>>> = parts.iter().map(|_| None).collect();
        let mut means = None;
        let ios = loop {
            self.still_within(vdisk, asked)?;
            match self.plan(vdisk, parts, &claims, &data)? {
                Plan::Go(ios) => break ios,
                Plan::Confirm(batch) => {
                    self.journal.confirm(batch).await.map_err(|failure| self.journal_failed(failure))?;
                }
                Plan::Held => vdisk.mapping.watches.released.changed().await,
                Plan::Settle(epoch) => {
                    if !self.space.epochs.until_over(epoch).await {
                        return Err(self.abandoned(vdisk));
                    }
                }
                Plan::Load(at) => {
                    let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
                    looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                    self.trim_cache();
                }
                Plan::Claim => {
                    // In order, and nothing held out of order: writers that overlap never wait for each other in a ring.
                    claims.iter_mut().for_each(|claim| drop(claim.take()));
                    let mut grant = None;
                    loop {
                        if means.is_none() {
                            means = self.means(parts.len()).await?;
                        }
                        let lack = match means {
                            Some(_) => {
                                let turn = (asked, grant.as_ref());
                                self.claim_all(vdisk, parts, &mut claims, &data, turn).await?
                            }
                            None => Some(Lack::Checkpoint),
                        };
                        let Some(lack) = lack else { break };
                        // Who waits for space has nothing that others could need.
                        claims.iter_mut().for_each(|claim| drop(claim.take()));
                        drop((means.take(), grant.take()));
                        grant = self.supply(vdisk, parts, lack, data.len(), asked).await?;
                        self.still_within(vdisk, asked)?;
                    }
                }
            }
        };
        let durable = fua || vdisk.write_through.get();
        let direct = durable && means.is_none() && !self.journal.has_undurable();
        let durability = if direct { Durability::Fua } else { Durability::Cached };
        let mut in_flight = InFlight(Some(self.space.epochs.enter()));
        claims.iter_mut().flatten().for_each(|claim| claim.writing = true);
        let result = submit(ios, durability).await;
        claims.iter_mut().flatten().for_each(|claim| claim.writing = false);
        // The epoch ends with this function, or before it waits for the journal: who waits for it finds the words changed.
        let epoch = in_flight.0.take();
        if matches!(result, Err(IoError::NoSpace { .. })) {
            self.space.note_full_at(claims.iter().flatten().filter_map(|claim| claim.extent));
            return Ok(false);
        }
        result?;
        if let Some((mut permit, _room)) = means {
            let mut sequence = 0;
            for claim in claims.iter_mut().flatten() {
                sequence = self.publish_claim(vdisk, claim, &mut permit, &data).await?.max(sequence);
            }
            drop((claims, epoch));
            self.outlast(sequence).await?;
        }
        if durable && !direct {
            self.journal.flush().await.map_err(|failure| self.journal_failed(failure))?;
        }
        Ok(true)
    }

    /// Gets a write what it lacks, or waits for it.
    async fn supply(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Piece],
        lack: Lack,
        bytes: usize,
        asked: &Asked<'_>,
    ) -> Result<Option<Grant<M>>> {
        match lack {
            Lack::Space(shortage) => {
                let need = self.need(vdisk, parts, shortage, bytes);
                self.hold(vdisk, need, asked).await.map(Some)
            }
            Lack::Checkpoint => {
                let need = Need { room: true, ..self.need(vdisk, parts, Shortage::DeviceFull, bytes) };
                self.hold(vdisk, need, asked).await.map(Some)
            }
            Lack::OwnExtent(at) => Box::pin(self.unpack(vdisk, at, bytes, asked)).await.map(|()| None),
        }
    }

    /// Claims every piece in order; answers what is lacking for that, with some claims taken.
    async fn claim_all(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        parts: &[Piece],
        claims: &mut [Option<ClaimGuard<M>>],
        data: &Frozen,
        turn: Turn<'_, M>,
    ) -> Result<Option<Lack>> {
        for (part, claim) in parts.iter().zip(claims) {
            *claim = match self.claim(vdisk, *part, data, turn).await {
                Ok(claim) => claim,
                Err(Refused::Short(shortage)) => return Ok(Some(Lack::Space(shortage))),
                Err(Refused::Packed(at)) => return Ok(Some(Lack::OwnExtent(at))),
                Err(Refused::Failed(error)) => return Err(error),
            };
        }
        Ok(None)
    }

    /// Extents that a write of `parts` needs, as far as is known.
    pub(super) fn need(&self, vdisk: &VdiskCore, parts: &[Piece], shortage: Shortage, bytes: usize) -> Need {
        let block_bytes = self.media.block_bytes();
        let all = parts.iter().map(|part| (part.at, part.blocks(block_bytes)));
        let of = all.filter(|&(at, blocks)| vdisk.needs_extent(at, blocks)).collect();
        Need { of, bytes: bytes as u64, shortage, room: false }
    }

    /// Its vdisk's size may be cut, or it may be deleted, whenever something is waited for.
    pub(super) fn still_within(&self, vdisk: &VdiskCore, asked: &Asked<'_>) -> Result<()> {
        asked.bounds.map_or(Ok(()), |(offset, length)| self.check_range(vdisk, "a write", offset, length))
    }

    pub(super) fn abandoned(&self, vdisk: &VdiskCore) -> Error {
        Error::Busy {
            object: format!("{}/{}", self.identity.name, vdisk.name()),
            reason: "a write was abandoned in flight; close the pool and open it again".to_owned(),
        }
    }

    /// Looks everything up at this instant.
    fn plan(
        &self,
        vdisk: &VdiskCore,
        parts: &[Piece],
        claims: &[Option<ClaimGuard<M>>],
        data: &Frozen,
    ) -> Result<Plan<M::Device>> {
        let block_bytes = self.media.block_bytes();
        let mut ios = Vec::with_capacity(1);
        for (piece, claim) in parts.iter().zip(claims) {
            let Some(found) = vdisk.mapping.peek(piece.at) else { return Ok(Plan::Load(piece.at)) };
            let word = found.map_err(|lost| self.damaged(vdisk, lost))?;
            let touched = piece.blocks(block_bytes);
            if word.is_mapped() && self.media.locate(word.extent()).is_none() {
                return Err(self.damaged(vdisk, LostRange { first: piece.at, count: 1 }));
            }
            let extent = match claim {
                // Packed before it was claimed: unless it is as it was, all must start again.
                Some(claim) if claim.packed && !(word.is_packed() && word.valid().contains(touched)) => {
                    return Ok(Plan::Claim);
                }
                Some(claim) => {
                    // An edge that was read and then discarded, or is to be zeros and was written: start again.
                    let same = claim.edges.iter().all(|edge| word.contents().has(edge.block) == edge.was_valid);
                    let same = same && word.filled().without(touched) == claim.backdrop_blocks();
                    let partial = touched.without(piece.whole_blocks(block_bytes));
                    let mut covered = partial.without(word.valid()).iter();
                    let edges_known = covered.all(|block| claim.edges.iter().any(|edge| edge.block == block));
                    match claim.extent {
                        Some(extent) if same && edges_known => {
                            claim.new.set(touched.with(word.filled()).without(word.valid()));
                            extent
                        }
                        _ => return Ok(Plan::Claim),
                    }
                }
                None if self.blocks_to_claim(vdisk, piece, word.valid()).is_empty() => word.extent(),
                None => return Ok(Plan::Claim),
            };
            let settling = vdisk.mapping.settling.borrow().get(&piece.at).copied();
            if let Some(epoch) = settling
                && !word.valid().contains(touched)
                && !self.space.epochs.is_over(epoch)
            {
                return Ok(Plan::Settle(epoch));
            }
            // Where its blocks lie; also those without contents yet.
            let lie = if word.is_packed() { word } else { Word::mapped(extent, Blocks::ALL) };
            // Also blocks without contents: those they had before a discard may still need their proof.
            if let Gate::Closed(batch) = self.journal.gate(extent, lie.places(touched.with(word.filled()))) {
                return Ok(Plan::Confirm(batch));
            }
            match claim {
                // Who copies an extent has claimed it: a claim of ours is not held up.
                Some(_) => vdisk.mapping.watches.hit(piece.at),
                None if vdisk.mapping.watches.pass(piece.at) => {}
                None => return Ok(Plan::Held),
            }
            if !self.add_ios(&mut ios, piece, claim.as_ref(), lie, data) {
                return Err(self.damaged(vdisk, LostRange { first: piece.at, count: 1 }));
            }
        }
        Ok(Plan::Go(ios))
    }

    /// The device writes of one piece; its middle is joined to that of the piece before where they touch. `false`: no device
    /// has the extent.
    fn add_ios(
        &self,
        ios: &mut Vec<Io<M::Device>>,
        piece: &Piece,
        claim: Option<&ClaimGuard<M>>,
        lie: Word,
        data: &Frozen,
    ) -> bool {
        let Some((drive, start)) = self.media.locate(lie.extent()) else { return false };
        let (block_bytes, extent_bytes) = (self.media.block_bytes(), self.media.extent_bytes);
        let (mut from, mut until) = (piece.offset, piece.offset + piece.length);
        if let Some((blocks, backdrop)) = claim.and_then(|claim| claim.backdrop.as_ref()) {
            for run in blocks.runs() {
                let (from, until) = (u64::from(run.start) * block_bytes, u64::from(run.end) * block_bytes);
                let data = backdrop.slice(from as usize..until as usize);
                ios.push(Io { drive: drive.clone(), offset: start + from, data, from: None });
            }
        }
        for edge in claim.iter().flat_map(|claim| &claim.edges) {
            let edge_start = u64::from(edge.block) * block_bytes;
            if edge_start <= from {
                from = (edge_start + block_bytes).min(until);
            } else {
                until = edge_start;
            }
            for (place, _) in lie.parts(edge_start, block_bytes, extent_bytes) {
                let data = edge.contents.clone();
                ios.push(Io { drive: drive.clone(), offset: start + place, data, from: None });
            }
        }
        if from >= until {
            return true;
        }
        let runs = piece.runs(from, until, block_bytes).flat_map(|(from, length)| {
            let mut source = piece.from + from - piece.offset;
            lie.parts(from, length, extent_bytes).map(move |(place, length)| {
                source += length;
                (source - length, place, length)
            })
        });
        for (source, place, length) in runs {
            if let Some(last) = ios.last_mut()
                && let Some(before) = last.from
                && Rc::ptr_eq(&last.drive, &drive)
                && last.offset + last.data.len() as u64 == start + place
                && before + last.data.len() as u64 == source
            {
                last.data = data.slice(before as usize..(source + length) as usize);
                continue;
            }
            let slice = data.slice(source as usize..(source + length) as usize);
            ios.push(Io { drive: drive.clone(), offset: start + place, data: slice, from: Some(source) });
        }
        true
    }

    /// Waits until a record of batch `sequence` outlasts our process; 0 is none.
    pub(super) async fn outlast(&self, sequence: u64) -> Result<()> {
        if self.journal.has_tail() || sequence == 0 {
            return Ok(());
        }
        Box::pin(self.journal.write_out(sequence)).await.map_err(|failure| self.journal_failed(failure))
    }

    /// Makes the new contents of a claimed piece the vdisk's. Answers the batch of the record, 0 when none was needed.
    async fn publish_claim(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        claim: &mut ClaimGuard<M>,
        permit: &mut Permit<M>,
        data: &Frozen,
    ) -> Result<u64> {
        let at = claim.piece.at;
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        let Some(extent) = claim.extent else { return Ok(0) };
        // A block that was discarded while it was overwritten stays discarded.
        let blocks = claim.new.get().without(word.valid()).without(claim.discarded(word));
        if blocks.is_empty() {
            return Ok(0);
        }
        let proof = if self.media.is_volatile() { self.proof(claim, blocks, data) } else { 0 };
        let over_fill = word.is_fill();
        let record = Record::Map { vdisk: vdisk.id, at, extent, blocks, proof, over_fill };
        self.publish(vdisk, at, word, (extent, blocks));
        Ok(self.journal.append_map(permit, &record, extent, blocks))
    }

    /// Makes `blocks` of `extent` contents of `at`, whose word is `word`. The record that says so is appended in the same step.
    pub(super) fn publish(
        &self,
        vdisk: &VdiskCore,
        at: VirtualExtent,
        word: Word,
        (extent, blocks): (ExtentId, Blocks),
    ) {
        debug_assert!(blocks.contains(word.filled()), "an extent takes the place of a fill whose blocks it lacks");
        if !word.is_mapped() {
            self.space.allocate(&vdisk.mapping.account, extent);
            self.note_supplied(vdisk);
        }
        vdisk.mapping.set(&self.cache, at, apply_map(word, extent, blocks));
        count(&self.counters.first_writes, 1);
        count(&vdisk.first_writes, 1);
    }

    /// The checksum of the contents of `blocks`, in order.
    fn proof(&self, claim: &ClaimGuard<M>, blocks: Blocks, data: &Frozen) -> u32 {
        let block_bytes = self.media.block_bytes();
        let mut hasher = crc32fast::Hasher::new();
        for block in (0..16).filter(|&block| blocks.has(block)) {
            let start = (u64::from(block) * block_bytes) as usize;
            if let Some(edge) = claim.edges.iter().find(|edge| edge.block == block) {
                hasher.update(&edge.contents);
            } else if let Some((_, backdrop)) = claim.backdrop.as_ref().filter(|(blocks, _)| blocks.has(block)) {
                hasher.update(&backdrop[start..start + block_bytes as usize]);
            } else {
                let start = u64::from(block) * block_bytes + claim.piece.from - claim.piece.offset;
                hasher.update(&data[start as usize..(start + block_bytes) as usize]);
            }
        }
        hasher.finalize()
    }
}

async fn submit<D: plimsoll_hardware::Device>(
    ios: Vec<Io<D>>,
    durability: Durability,
) -> std::result::Result<(), plimsoll_hardware::IoError> {
    if let [io] = &ios[..] {
        return io.drive.write(io.offset, io.data.clone(), durability).await;
    }
    let writes = ios.iter().map(|io| io.drive.write(io.offset, io.data.clone(), durability));
    join_all(writes).await.into_iter().collect()
}
