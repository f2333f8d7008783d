//! Writing zeros: by discarding where the space may go, by storing them where it must stay.

use std::rc::Rc;

use plimsoll_hardware::Machine;
use plimsoll_hardware::buffer::BUFFER_MAX;

use super::range::{Piece, pieces};
use super::ticket::{Asked, WriteOptions};
use super::write::Parts;
use super::{Store, VdiskCore, Zeroes};
use crate::error::Result;

impl<M: Machine> Store<M> {
    /// Makes a range read as zeros.
    pub(crate) async fn write_zeroes(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
        how: Zeroes,
        options: &WriteOptions,
    ) -> Result<()> {
        self.check_range(vdisk, "write-zeroes", offset, length)?;
        self.writable()?;
        match how {
            Zeroes::Allocate => self.store_zeros(vdisk, offset, length, options).await?,
            Zeroes::Unmap => self.zero_within(vdisk, offset, length, options, true).await?,
        }
        if options.fua || vdisk.write_through.get() {
            self.flush_journal().await?;
        }
        Ok(())
    }

    /// Zeros the parts of blocks at the ends in place, and discards what lies between: that in one step, as a discard does.
    /// `bounded`: it must not reach beyond the end of a vdisk that shrinks or goes away meanwhile. Nothing of it is durable yet.
    pub(crate) async fn zero_within(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
        how: &WriteOptions,
        bounded: bool,
    ) -> Result<()> {
        let block = self.media.block_bytes();
        let (end, asked) = (offset + length, Asked::new(how, bounded.then_some((offset, length))));
        let (inner, inner_end) = (offset.next_multiple_of(block), end / block * block);
        let edges = if inner > inner_end { [(offset, end), (end, end)] } else { [(offset, inner), (inner_end, end)] };
        self.zero_edges(vdisk, edges, &asked).await?;
        if inner < inner_end {
            self.discard_unchecked(vdisk, inner, inner_end - inner).await?;
        }
        Ok(())
    }

    /// Parts of one block each: nothing to do where it has no contents. Both in one write, so that nothing is done while some of it has to
    /// wait for space. Beyond the end of a vdisk nothing is done to a fill either: giving back must not need space. Such a rest is zeroed
    /// when the vdisk grows over it ([`Store::zero_tail`]).
    async fn zero_edges(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        edges: [(u64, u64); 2],
        asked: &Asked<'_>,
    ) -> Result<()> {
        let (block, spares_fills) = (self.media.block_bytes(), asked.bounds.is_none());
        loop {
            let mut parts: Vec<Piece> = Vec::new();
            for (from, until) in edges.into_iter().filter(|(from, until)| from < until) {
                let Some(piece) = pieces(from, until - from, self.media.extent_bytes).next() else { continue };
                let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
                let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                if !word.contents().overlaps(piece.blocks(block)) || (word.is_fill() && spares_fills) {
                    continue;
                }
                match parts.last_mut() {
                    Some(head) if head.at == piece.at => {
                        head.length = piece.offset + piece.length - head.offset;
                        head.holes = head.whole_blocks(block);
                    }
                    _ => parts.push(piece),
                }
            }
            let Some(longest) = parts.iter().map(|part| part.length).max() else { return Ok(()) };
            self.count_write(parts.iter().map(|part| part.length).sum());
            let zeros = self.media.buffers().zeroed(longest as usize).await.freeze();
            let result = self.write_parts(&Parts { vdisk, pieces: &parts, data: zeros, asked, fua: false }).await;
            let is_fill = |part: &Piece| matches!(vdisk.mapping.peek(part.at), Some(Ok(word)) if word.is_fill());
            if result.is_ok() || !spares_fills || !parts.iter().any(is_fill) {
                return result;
            }
            // One became a fill meanwhile.
        }
    }

    /// Makes what lies behind the vdisk's end in its last block read as zeros, durably, before the vdisk grows over it. Where that needs
    /// an extent and there is none it fails at once: who manages vdisks does not wait as a guest does, not even for those that do.
    pub(crate) async fn zero_tail(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) -> Result<()> {
        let (size, block) = (vdisk.size.get(), self.media.block_bytes());
        let length = size.next_multiple_of(block) - size;
        let Some(piece): Option<Piece> = pieces(size, length, self.media.extent_bytes).next() else { return Ok(()) };
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        if !word.contents().overlaps(piece.blocks(block)) {
            return Ok(());
        }
        let zeros = self.media.buffers().zeroed(length as usize).await.freeze();
        self.write_pieces(vdisk, size, zeros, &Asked::of_manager(), true).await
    }

    async fn store_zeros(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
        options: &WriteOptions,
    ) -> Result<()> {
        let asked = Asked::new(options, Some((offset, length)));
        let chunk = length.min(BUFFER_MAX as u64 / 4);
        let mut zeros = self.media.buffers().alloc_up_to(chunk as usize).await;
        zeros.fill(0);
        let zeros = zeros.freeze();
        let mut done = 0;
        while done < length {
            let here = (zeros.len() as u64).min(length - done);
            // One flush at the end is enough.
            self.write_pieces(vdisk, offset + done, zeros.slice(0..here as usize), &asked, false).await?;
            done += here;
        }
        Ok(())
    }
}
