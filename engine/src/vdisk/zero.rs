//! Writing zeros: by discarding where the space may go, by storing them where it must stay.

use std::rc::Rc;

use plimsoll_hardware::Machine;
use plimsoll_hardware::buffer::BUFFER_MAX;

use super::range::{Piece, pieces};
use super::ticket::{Asked, WriteOptions};
use super::{Store, VdiskCore, Zeroes};
use crate::error::Result;
use crate::format::OnFull;

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
            self.journal.flush().await.map_err(|failure| self.journal_failed(failure))?;
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
        if inner > inner_end {
            // Inside one block.
            return self.zero_edge(vdisk, offset, length, &asked).await;
        }
        if offset < inner {
            self.zero_edge(vdisk, offset, inner - offset, &asked).await?;
        }
        if inner_end < end {
            self.zero_edge(vdisk, inner_end, end - inner_end, &asked).await?;
        }
        if inner < inner_end {
            self.discard_unchecked(vdisk, inner, inner_end - inner).await?;
        }
        Ok(())
    }

    /// A part of one block: nothing to do when it has no contents. Beyond the end of a vdisk nothing is done to a fill either: giving
    /// back must not need space. Such a rest is zeroed when the vdisk grows over it ([`Store::zero_tail`]).
    async fn zero_edge(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        length: u64,
        asked: &Asked<'_>,
    ) -> Result<()> {
        let bounded = asked.bounds.is_some();
        let Some(piece): Option<Piece> = pieces(offset, length, self.media.extent_bytes).next() else { return Ok(()) };
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        if !word.contents().overlaps(piece.blocks(self.media.block_bytes())) || (word.is_fill() && !bounded) {
            return Ok(());
        }
        let zeros = self.media.buffers().zeroed(length as usize).await.freeze();
        let result = self.write_pieces(vdisk, offset, zeros, asked, false).await;
        match vdisk.mapping.peek(piece.at) {
            // It became one meanwhile.
            Some(Ok(word)) if result.is_err() && word.is_fill() && !bounded => Ok(()),
            _ => result,
        }
    }

    /// Makes what lies behind the vdisk's end in its last block read as zeros, durably, before the vdisk grows over it. Where that needs
    /// an extent and there is none it fails at once: who manages vdisks is not to wait as a guest does.
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
        let how = WriteOptions { on_full: Some(OnFull::Fail), ..WriteOptions::default() };
        self.write_pieces(vdisk, size, zeros, &Asked::new(&how, None), true).await
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
