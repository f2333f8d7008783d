//! Byte ranges of a vdisk, checked and cut by extents.

use plimsoll_hardware::Machine;

use super::{Store, VdiskCore};
use crate::error::{Error, Result};
use crate::format::{BLOCKS_PER_EXTENT, Blocks, VirtualExtent};

/// The part of a request that falls into one virtual extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: VirtualExtent,
    /// Byte offset in the extent.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Byte offset in the request.
    pub(crate) from: u64,
    /// Whole blocks in the middle of it that are left alone.
    pub(crate) holes: Blocks,
}

impl Piece {
    /// Blocks it touches, if only with a byte.
    pub(crate) fn blocks(&self, block_bytes: u64) -> Blocks {
        let shift = block_bytes.trailing_zeros();
        let first = self.offset >> shift;
        let end = (self.offset + self.length + block_bytes - 1) >> shift;
        Blocks::range(first as u32, end as u32).without(self.holes)
    }

    /// Offset in the extent and length of what lies in `from..until` beside the holes; parts of blocks only at its ends.
    pub(crate) fn runs(&self, from: u64, until: u64, block_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
        let (holes, mut at) = (self.holes, from);
        std::iter::from_fn(move || {
            while at < until && holes.has((at / block_bytes) as u32) {
                at = (at / block_bytes + 1) * block_bytes;
            }
            let start = at;
            while at < until && !holes.has((at / block_bytes) as u32) {
                at = if holes.is_empty() { until } else { ((at / block_bytes + 1) * block_bytes).min(until) };
            }
            (start < at).then(|| (start, at - start))
        })
    }

    /// Blocks it covers whole.
    pub(crate) fn whole_blocks(&self, block_bytes: u64) -> Blocks {
        let first = self.offset.div_ceil(block_bytes);
        let end = (self.offset + self.length) / block_bytes;
        if first >= end { Blocks::NONE } else { Blocks::range(first as u32, end as u32).without(self.holes) }
    }
}

/// Cuts `length` bytes at `offset` by extents.
pub(crate) fn pieces(offset: u64, length: u64, extent_bytes: u64) -> impl Iterator<Item = Piece> {
    let end = offset + length;
    let (shift, mask) = (extent_bytes.trailing_zeros(), extent_bytes - 1);
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let here = (extent_bytes - (at & mask)).min(end - at);
            let from = at - offset;
            let piece =
                Piece { at: VirtualExtent(at >> shift), offset: at & mask, length: here, from, holes: Blocks::NONE };
            at += here;
            piece
        })
    })
}

impl<M: Machine> Store<M> {
    /// Refuses a vdisk that was deleted.
    pub(crate) fn still_there(&self, vdisk: &VdiskCore) -> Result<()> {
        if vdisk.ready.get() {
            return Ok(());
        }
        let name = format!("{}/{}", self.identity.name, vdisk.name());
        Err(Error::NotFound { kind: "vdisk", name })
    }

    /// Checks a request against the vdisk.
    pub(crate) fn check_range(&self, vdisk: &VdiskCore, what: &'static str, offset: u64, length: u64) -> Result<()> {
        self.still_there(vdisk)?;
        if self.closing.get() {
            return Err(Error::Closing(self.identity.name.clone()));
        }
        let sector = u64::from(vdisk.sector.get());
        let size = vdisk.size.get();
        let reason = if length == 0 {
            "the length is zero".to_owned()
        } else if (offset | length) & (sector - 1) != 0 {
            format!("offset and length must be multiples of the sector size, {sector} bytes")
        } else if offset.checked_add(length).is_none_or(|end| end > size) {
            format!("the vdisk ends at {size}")
        } else {
            return Ok(());
        };
        Err(Error::InvalidRequest { what, offset, length, reason })
    }
}

const _: () = assert!(BLOCKS_PER_EXTENT == 16, "`Blocks` holds sixteen");
