//! Writing: in place where the blocks have contents, else into an extent of the vdisk's own, with a record.
//!
//! A write is one function that reads top to bottom:
//! 1. claim, piece by piece in order, what cannot simply be overwritten (extents are taken here);
//! 2. at one instant: look every word up again, ask the journal's gate, enter the epoch, submit;
//! 3. when the data is in the device: change the words and append the records, at one instant; answer.
//!
//! Dropping a write's future while the device is writing leaks its extents until the pool is opened again: drive it to its end.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Durability, Frozen, IoError, Machine};

use super::last_look::{Plan, submit};
use super::plan::{ClaimGuard, Refused};
use super::range::{Piece, pieces};
use super::ticket::{Asked, WriteOptions};
use super::wait_for_space::{Grant, Need, RoomFor};
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, ExtentId, Record, VirtualExtent, Word};
use crate::journal::Permit;
use crate::mapping::apply_map;
use crate::space::EpochGuard;

/// Dirty pages that a piece may cause: a leaf, the nodes above it, a group and its node, a table page and its node.
const PAGES_PER_PIECE: usize = 8;

/// Dirty pages that a write of so many pieces may cause: beyond the second, pieces share all but their group.
pub(super) fn pages_for(pieces: usize) -> usize {
    PAGES_PER_PIECE * pieces.min(2) + pieces
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

/// Parts of a request that are written together, one in each extent at most.
pub(super) struct Parts<'a> {
    pub(super) vdisk: &'a Rc<VdiskCore>,
    pub(super) pieces: &'a [Piece],
    /// That of all the request.
    pub(super) data: Frozen,
    pub(super) asked: &'a Asked<'a>,
    /// They are durable when they are answered, if this or their vdisk says so.
    pub(super) fua: bool,
}

/// What a write lacks to claim its pieces.
enum Lack {
    Space(Shortage),
    /// Room in the journal, or among the dirty pages, that only a checkpoint could make which finds none below the devices.
    Checkpoint,
    /// The word of this one shares its extent.
    OwnExtent(VirtualExtent),
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
                match Box::pin(self.write_first(vdisk, first, data.clone())).await {
                    // The long way finds another place, or waits.
                    Err(Error::Device(IoError::NoSpace { .. })) => {}
                    done => {
                        self.count_write(length);
                        return done;
                    }
                }
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
        let pieces: Vec<Piece> = pieces(offset, data.len() as u64, self.media.extent_bytes).collect();
        self.write_parts(&Parts { vdisk, pieces: &pieces, data, asked, fua }).await
    }

    /// As [`Store::write_pieces`], of parts of a request.
    pub(super) async fn write_parts(self: &Rc<Self>, parts: &Parts<'_>) -> Result<()> {
        while !self.try_parts(parts).await? {
            self.outlast_full(parts).await?;
        }
        Ok(())
    }

    /// As [`Store::write_parts`]; `false`: a device had no room, and nothing is changed.
    async fn try_parts(self: &Rc<Self>, parts: &Parts<'_>) -> Result<bool> {
        let Parts { vdisk, pieces, data, asked, fua } = parts;
        let mut claims: Vec<Option<ClaimGuard<M>>> = pieces.iter().map(|_| None).collect();
        let mut means = None;
        let ios = loop {
            self.still_within(vdisk, asked)?;
            match self.plan(vdisk, pieces, &claims, data, means.is_some())? {
                Plan::Go(ios) => break ios,
                Plan::Confirm(batch) => self.confirm(batch).await?,
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
                        let needs_means = means.is_none() && self.needs_record(parts);
                        if needs_means {
                            means = self.means(pieces.len()).await?;
                        }
                        let lack = if needs_means && means.is_none() {
                            Some(Lack::Checkpoint)
                        } else {
                            self.claim_all(parts, &mut claims, grant.as_ref()).await?
                        };
                        let Some(lack) = lack else { break };
                        // Who waits for space has nothing that others could need.
                        claims.iter_mut().for_each(|claim| drop(claim.take()));
                        drop((means.take(), grant.take()));
                        grant = self.supply(parts, lack).await?;
                        self.still_within(vdisk, asked)?;
                    }
                }
            }
        };
        let durable = *fua || vdisk.write_through.get();
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
                sequence = self.publish_claim(vdisk, claim, &mut permit, data).await?.max(sequence);
            }
            drop((claims, epoch));
            self.outlast(sequence).await?;
        }
        if durable && !direct {
            self.flush_journal().await?;
        }
        Ok(true)
    }

    /// Gets a write what it lacks, or waits for it.
    async fn supply(self: &Rc<Self>, parts: &Parts<'_>, lack: Lack) -> Result<Option<Grant<M>>> {
        let need = match lack {
            Lack::Space(shortage) => self.need(parts, shortage),
            Lack::Checkpoint => Need { room: RoomFor::Checkpoint, ..self.need(parts, Shortage::DeviceFull) },
            Lack::OwnExtent(at) => {
                return Box::pin(self.unpack(parts.vdisk, at, parts.data.len(), parts.asked)).await.map(|()| None);
            }
        };
        self.hold(parts.vdisk, need, parts.asked).await.map(Some)
    }

    /// Whether some block gets its first contents, as far as is known. What is only claimed because a device writes larger sectors than the
    /// vdisk has changes no word, and needs room for none.
    fn needs_record(&self, parts: &Parts<'_>) -> bool {
        let block_bytes = self.media.block_bytes();
        parts.pieces.iter().any(|piece| {
            let word = parts.vdisk.mapping.peek(piece.at).and_then(Result::ok);
            word.is_none_or(|word| !word.valid().contains(piece.blocks(block_bytes)))
        })
    }

    /// Claims every piece in order; answers what is lacking for that, with some claims taken.
    async fn claim_all(
        self: &Rc<Self>,
        parts: &Parts<'_>,
        claims: &mut [Option<ClaimGuard<M>>],
        grant: Option<&Grant<M>>,
    ) -> Result<Option<Lack>> {
        for (piece, claim) in parts.pieces.iter().zip(claims) {
            *claim = match self.claim(parts.vdisk, *piece, &parts.data, (parts.asked, grant)).await {
                Ok(claim) => claim,
                Err(Refused::Short(shortage)) => return Ok(Some(Lack::Space(shortage))),
                Err(Refused::Packed(at)) => return Ok(Some(Lack::OwnExtent(at))),
                Err(Refused::Failed(error)) => return Err(error),
            };
        }
        Ok(None)
    }

    /// Extents that a write of `parts` needs, as far as is known.
    pub(super) fn need(&self, parts: &Parts<'_>, shortage: Shortage) -> Need {
        let block_bytes = self.media.block_bytes();
        let all = parts.pieces.iter().map(|piece| (piece.at, piece.blocks(block_bytes)));
        let of = all.filter(|&(at, blocks)| parts.vdisk.needs_extent(at, blocks)).collect();
        Need { of, bytes: parts.data.len() as u64, shortage: Cell::new(shortage), room: RoomFor::Nothing }
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

    /// Waits until a record of batch `sequence` outlasts our process; 0 is none.
    pub(super) async fn outlast(&self, sequence: u64) -> Result<()> {
        if self.journal.has_tail() || sequence == 0 {
            return Ok(());
        }
        Box::pin(self.write_out(sequence)).await
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
