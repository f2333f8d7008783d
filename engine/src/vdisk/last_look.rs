//! The last look before a write is submitted: whether every word is as it was when its piece was claimed, and what goes to which device.

use std::rc::Rc;

use futures_util::future::join_all;
use plimsoll_hardware::{Durability, Frozen, IoError, Machine};

use super::plan::ClaimGuard;
use super::range::Piece;
use super::{Store, VdiskCore};
use crate::error::Result;
use crate::format::{Blocks, VirtualExtent, Word};
use crate::journal::Gate;
use crate::mapping::LostRange;
use crate::media::Drive;

/// One device write.
pub(super) struct Io<D> {
    drive: Rc<Drive<D>>,
    offset: u64,
    data: Frozen,
    /// Where `data` lies in the request, when it is a part of it.
    from: Option<u64>,
}

/// What it comes to.
pub(super) enum Plan<D> {
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
    /// Looks everything up at this instant. Without the means for a record (`may_record`) no block may get its first contents.
    pub(super) fn plan(
        &self,
        vdisk: &VdiskCore,
        parts: &[Piece],
        claims: &[Option<ClaimGuard<M>>],
        data: &Frozen,
        may_record: bool,
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
                            if !claim.new.get().is_empty() && !may_record {
                                return Ok(Plan::Claim);
                            }
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
}

pub(super) async fn submit<D: plimsoll_hardware::Device>(
    ios: Vec<Io<D>>,
    durability: Durability,
) -> std::result::Result<(), IoError> {
    if let [io] = &ios[..] {
        return io.drive.write(io.offset, io.data.clone(), durability).await;
    }
    let writes = ios.iter().map(|io| io.drive.write(io.offset, io.data.clone(), durability));
    join_all(writes).await.into_iter().collect()
}
