//! Reading: valid blocks from their extents, filled ones from their pattern, everything else zeros.

use std::rc::Rc;

use futures_util::future::join_all;
use plimsoll_hardware::{Buffer, Device, IoError, Machine};

use super::range::{Piece, pieces};
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::format::{Blocks, ExtentId, Word};
use crate::mapping::{LostRange, Pattern};
use crate::media::Drive;

/// Bytes of a request that come from one place.
enum Run<D> {
    Zeros(u64),
    /// Bytes of a pattern, from so far behind the start of a block.
    Pattern {
        pattern: Rc<Pattern>,
        inside: u64,
        length: u64,
    },
    From {
        drive: Rc<Drive<D>>,
        offset: u64,
        length: u64,
    },
}

impl<M: Machine> Store<M> {
    /// Fills `buffer` from `offset` of the vdisk.
    pub(crate) async fn read(self: &Rc<Self>, vdisk: &VdiskCore, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let length = buffer.len() as u64;
        self.check_range(vdisk, "a read", offset, length)?;
        count(&self.counters.reads, 1);
        count(&self.counters.read_bytes, length);
        let buffer = if self.is_device_aligned(offset, length)
            && let Some((drive, start)) = self.straight(vdisk, offset, length, false)
        {
            let _epoch = self.space.epochs.enter();
            drive.read(start, buffer).await?
        } else {
            Box::pin(self.read_around_holes(vdisk, offset, buffer)).await?
        };
        if self.media.is_lossy() {
            self.refuse_doubtful(vdisk, offset, length)?;
        }
        Ok(buffer)
    }

    /// Refuses to show what a device may have had there before it lost what was written.
    fn refuse_doubtful(&self, vdisk: &VdiskCore, offset: u64, length: u64) -> Result<()> {
        for piece in pieces(offset, length, self.media.extent_bytes) {
            let Some(Ok(word)) = vdisk.mapping.peek(piece.at) else { continue };
            let places = word.places(piece.blocks(self.media.block_bytes()));
            if word.is_mapped() && self.journal.doubts(word.extent(), places) {
                let located = self.media.locate(word.extent());
                return Err(Error::Device(IoError::Failed {
                    path: located.map_or_else(String::new, |(drive, _)| drive.device.geometry().path.clone()),
                    operation: "read",
                    offset: piece.at.0 * self.media.extent_bytes,
                    reason:
                        "a flush failed after this was written, and the device may have lost it; open the pool again \
                             (plimsoll pool import --name NAME)"
                            .to_owned(),
                }));
            }
        }
        Ok(())
    }

    async fn read_around_holes(self: &Rc<Self>, vdisk: &VdiskCore, offset: u64, buffer: Buffer) -> Result<Buffer> {
        for piece in pieces(offset, buffer.len() as u64, self.media.extent_bytes) {
            if vdisk.mapping.peek(piece.at).is_none() {
                let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
                looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                self.trim_cache();
                // Another leaf may have left memory meanwhile.
                break;
            }
        }
        self.read_resident(vdisk, offset, buffer).await
    }

    async fn read_resident(self: &Rc<Self>, vdisk: &VdiskCore, offset: u64, buffer: Buffer) -> Result<Buffer> {
        let length = buffer.len() as u64;
        let runs = loop {
            match self.runs(vdisk, offset, length)? {
                Ok(runs) => break runs,
                Err(at) => {
                    let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, at).await;
                    looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
                }
            }
        };
        // No `await` between the look-up and this: what was looked up cannot be used for something else before it is read.
        let _epoch = self.space.epochs.enter();
        if let [Run::From { drive, offset, length: whole }] = &runs[..]
            && *whole == length
            && self.is_device_aligned(*offset, length)
        {
            return Ok(drive.read(*offset, buffer).await?);
        }
        self.read_runs(runs, buffer).await
    }

    /// Where the bytes are, neighbours joined; `Err(Ok(at))` when the word of `at` is not in memory.
    fn runs(
        &self,
        vdisk: &VdiskCore,
        offset: u64,
        length: u64,
    ) -> Result<std::result::Result<Vec<Run<M::Device>>, crate::format::VirtualExtent>> {
        let mut runs = Vec::with_capacity(1);
        for piece in pieces(offset, length, self.media.extent_bytes) {
            match vdisk.mapping.peek(piece.at) {
                None => return Ok(Err(piece.at)),
                Some(Err(lost)) => return Err(self.damaged(vdisk, lost)),
                Some(Ok(word)) if word.is_mapped() && self.media.locate(word.extent()).is_none() => {
                    return Err(self.damaged(vdisk, LostRange { first: piece.at, count: 1 }));
                }
                Some(Ok(word)) if word.is_fill() => self.add_fill(vdisk, &mut runs, &piece, word)?,
                Some(Ok(word)) => self.add_runs(&mut runs, &piece, word),
            }
        }
        Ok(Ok(runs))
    }

    fn add_runs(&self, runs: &mut Vec<Run<M::Device>>, piece: &Piece, word: Word) {
        let block_bytes = self.media.block_bytes();
        let touched = piece.blocks(block_bytes);
        if word.valid().contains(touched) {
            self.push_contents(runs, word, piece.offset, piece.length);
            return;
        }
        each_run(piece, word.valid(), block_bytes, |valid, at, length| match valid {
            true => self.push_contents(runs, word, at, length),
            false => self.push_run(runs, None, length),
        });
    }

    fn add_fill(&self, vdisk: &VdiskCore, runs: &mut Vec<Run<M::Device>>, piece: &Piece, word: Word) -> Result<()> {
        let Some(pattern) = self.patterns.get(word.pattern()) else {
            return Err(self.damaged(vdisk, LostRange { first: piece.at, count: 1 }));
        };
        let block_bytes = self.media.block_bytes();
        each_run(piece, word.filled(), block_bytes, |filled, at, length| match filled {
            true => runs.push(Run::Pattern { pattern: pattern.clone(), inside: at % block_bytes, length }),
            false => self.push_run(runs, None, length),
        });
        Ok(())
    }

    fn push_contents(&self, runs: &mut Vec<Run<M::Device>>, word: Word, at: u64, length: u64) {
        for (place, length) in word.parts(at, length, self.media.extent_bytes) {
            self.push_run(runs, Some((word.extent(), place)), length);
        }
    }

    fn push_run(&self, runs: &mut Vec<Run<M::Device>>, from: Option<(ExtentId, u64)>, length: u64) {
        let located =
            from.and_then(|(extent, inside)| self.media.locate(extent).map(|(drive, start)| (drive, start + inside)));
        match (runs.last_mut(), located) {
            (Some(Run::Zeros(zeros)), None) => *zeros += length,
            (_, None) => runs.push(Run::Zeros(length)),
            (Some(Run::From { drive, offset, length: before }), Some((next, start)))
                if Rc::ptr_eq(drive, &next) && *offset + *before == start =>
            {
                *before += length;
            }
            (_, Some((drive, offset))) => runs.push(Run::From { drive, offset, length }),
        }
    }

    async fn read_runs(&self, runs: Vec<Run<M::Device>>, mut buffer: Buffer) -> Result<Buffer> {
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let length = match &run {
                Run::Zeros(length) | Run::Pattern { length, .. } | Run::From { length, .. } => *length,
            };
            let mut part = buffer.split_to(length as usize);
            parts.push(async move {
                match run {
                    Run::Zeros(_) => {
                        part.fill(0);
                        Ok(part)
                    }
                    Run::Pattern { pattern, inside, .. } => {
                        pattern.fill(&mut part, inside);
                        Ok(part)
                    }
                    Run::From { drive, offset, .. } if self.is_device_aligned(offset, length) => {
                        drive.read(offset, part).await
                    }
                    Run::From { drive, offset, .. } => self.read_around(&drive, offset, part).await,
                }
            });
        }
        let mut whole: Option<Buffer> = None;
        for part in join_all(parts).await {
            let part = part?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.unsplit(part),
            }
        }
        Ok(whole.unwrap_or(buffer))
    }

    /// Reads what is not aligned to the device's blocks, by way of what is.
    async fn read_around(
        &self,
        drive: &Drive<M::Device>,
        offset: u64,
        mut part: Buffer,
    ) -> std::result::Result<Buffer, plimsoll_hardware::IoError> {
        let unit = u64::from(self.media.logical_block());
        let start = offset / unit * unit;
        let end = (offset + part.len() as u64).next_multiple_of(unit);
        let around = self.media.buffers().alloc((end - start) as usize).await;
        let around = drive.read(start, around).await?;
        let from = (offset - start) as usize;
        let length = part.len();
        part.copy_from_slice(&around[from..from + length]);
        Ok(part)
    }

    pub(crate) fn is_device_aligned(&self, offset: u64, length: u64) -> bool {
        let unit = u64::from(self.media.logical_block());
        (offset | length) & (unit - 1) == 0
    }
}

/// The parts of a piece whose blocks are in `among`, or not: whether they are, byte offset in the extent, bytes.
fn each_run(piece: &Piece, among: Blocks, block_bytes: u64, mut run: impl FnMut(bool, u64, u64)) {
    let end = piece.offset + piece.length;
    let mut at = piece.offset;
    while at < end {
        let is_in = among.has((at / block_bytes) as u32);
        let mut until = (at / block_bytes + 1) * block_bytes;
        while until < end && among.has((until / block_bytes) as u32) == is_in {
            until += block_bytes;
        }
        let until = until.min(end);
        run(is_in, at, until - at);
        at = until;
    }
}
