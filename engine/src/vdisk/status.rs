//! Where a vdisk has contents and where it has holes.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::range::pieces;
use super::{StatusRange, Store, VdiskCore};
use crate::error::Result;
use crate::format::{LEAF_WORDS, VirtualExtent};

impl<M: Machine> Store<M> {
    /// Ranges from `offset` on, data and holes in turn, at most `ranges_max` of them.
    pub(crate) async fn block_status(
        self: &Rc<Self>,
        vdisk: &VdiskCore,
        offset: u64,
        length: u64,
        ranges_max: usize,
    ) -> Result<Vec<StatusRange>> {
        self.check_range(vdisk, "a block status", offset, length)?;
        let (extent_bytes, block_bytes) = (self.media.extent_bytes, self.media.block_bytes());
        let end = offset + length;
        let mut ranges: Vec<StatusRange> = Vec::new();
        let mut at = offset;
        while at < end {
            let leaf = VirtualExtent(at / extent_bytes).leaf();
            let next = {
                let tree = vdisk.mapping.tree.borrow();
                tree.next_present(leaf).into_iter().chain(vdisk.mapping.next_pending(leaf)).min()
            };
            let leaf_bytes = LEAF_WORDS as u64 * extent_bytes;
            let present = next.map_or(end, |next| (next * leaf_bytes).clamp(at, end));
            if !push(&mut ranges, present - at, false, ranges_max) {
                return Ok(ranges);
            }
            at = present;
            let until = ((at / leaf_bytes + 1) * leaf_bytes).min(end);
            for piece in pieces(at, until - at, extent_bytes) {
                let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
                let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                let (mut from, stop) = (piece.offset, piece.offset + piece.length);
                while from < stop {
                    let block = from / block_bytes;
                    let to = ((block + 1) * block_bytes).min(stop);
                    if !push(&mut ranges, to - from, word.contents().has(block as u32), ranges_max) {
                        return Ok(ranges);
                    }
                    from = to;
                }
            }
            self.trim_cache();
            at = until;
        }
        Ok(ranges)
    }
}

/// Adds to the last range or begins another; `false` when there are enough.
fn push(ranges: &mut Vec<StatusRange>, length: u64, data: bool, ranges_max: usize) -> bool {
    if length == 0 {
        return true;
    }
    if let Some(last) = ranges.last_mut()
        && last.data == data
    {
        last.length += length;
        return true;
    }
    if ranges.len() >= ranges_max {
        return false;
    }
    ranges.push(StatusRange { length, data });
    true
}
