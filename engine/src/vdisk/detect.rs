//! What is written and needs no space: whole blocks of zeros, and blocks that repeat a pattern of the pool.
//!
//! Every write is looked through, one word of each whole block; that is all that data pays. A write in which something is found goes
//! its own way:
//! 1. it is sorted by extent into data, zeros and patterns. In an extent that gets data, or keeps some, a pattern is data too: only an
//!    extent that is saved or freed is worth a fill;
//! 2. the data is written as ever, in one step; if there is no space for it nothing has happened yet;
//! 3. zeros are taken out of the words and patterns put in, in one step. Where a pattern cannot be after all, because somebody
//!    wrote beside it meanwhile, it is written as data.
//!
//! A block is old or new at any time, as with any write. Not here: `Zeroes::Allocate`, which asks for space, and parts of blocks.

use std::rc::Rc;

use plimsoll_hardware::{Frozen, Machine};

use super::change::{Judged, Wanted};
use super::range::{Piece, pieces};
use super::ticket::{Asked, WriteOptions};
use super::write::Parts;
use super::{Store, VdiskCore, count};
use crate::error::Result;
use crate::format::{Blocks, Detection, PatternId};
use crate::mapping::first_word;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Data,
    Zeros,
    Pattern(PatternId),
}

/// What a write has for one extent.
struct Sorted {
    piece: Piece,
    zeros: Blocks,
    fill: Option<(PatternId, Blocks)>,
}

impl<M: Machine> Store<M> {
    /// Whether some whole block of a write holds what need not be stored.
    #[inline]
    pub(super) fn finds(&self, vdisk: &VdiskCore, offset: u64, data: &[u8]) -> bool {
        let detection = vdisk.detection.get();
        let patterns = detection.patterns && self.patterns.any();
        if !detection.zeros && !patterns {
            return false;
        }
        let block_bytes = self.media.block_bytes() as usize;
        let first = (offset as usize).wrapping_neg() & (block_bytes - 1);
        let Some(blocks) = data.get(first..) else { return false };
        if !patterns {
            return blocks.chunks_exact(block_bytes).any(|block| first_word(block) == 0 && is_zeros(block));
        }
        blocks.chunks_exact(block_bytes).any(|block| {
            let word = first_word(block);
            let may = (word == 0 && detection.zeros) || self.patterns.may_begin(word);
            may && self.held(detection, vdisk.entry.borrow().pattern, block) != Held::Data
        })
    }

    /// What a whole block holds, as far as it is looked for; `own` is the vdisk's pattern.
    pub(super) fn held(&self, detection: Detection, own: Option<PatternId>, block: &[u8]) -> Held {
        if detection.zeros && is_zeros(block) {
            return Held::Zeros;
        }
        if !detection.patterns || !self.patterns.any() || !self.patterns.may_begin(first_word(block)) {
            return Held::Data;
        }
        self.patterns.find(block, own).map_or(Held::Data, Held::Pattern)
    }

    /// Writes `data`, of which something need not be stored.
    pub(super) async fn write_less(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        offset: u64,
        data: Frozen,
        how: &WriteOptions,
    ) -> Result<()> {
        let length = data.len() as u64;
        self.count_write(length);
        let durable = how.fua || vdisk.write_through.get();
        let asked = Asked::new(how, Some((offset, length)));
        let mut sorted = Vec::with_capacity(1);
        for piece in pieces(offset, length, self.media.extent_bytes) {
            sorted.push(self.sort(vdisk, piece, &data).await?);
        }
        let (block_bytes, mut parts) = (self.media.block_bytes(), Vec::new());
        parts.extend(sorted.iter().filter_map(|sorted| sorted.data(block_bytes)));
        let mut wanted: Vec<Wanted> = sorted.iter().filter_map(Sorted::wanted).collect();
        if !parts.is_empty() {
            // With nothing else to do it may be durable by itself.
            let alone = durable && wanted.is_empty();
            self.write_parts(&Parts { vdisk, pieces: &parts, data: data.clone(), asked: &asked, fua: alone }).await?;
        }
        while !wanted.is_empty() {
            let (freed, refused) = self.change_scattered(vdisk, (offset, length), &wanted).await?;
            count(&self.counters.zero_bytes, freed.zeros * block_bytes);
            count(&self.counters.pattern_bytes, freed.filled * block_bytes);
            wanted.clear();
            if refused.is_empty() {
                break;
            }
            let is_refused = |sorted: &&mut Sorted| refused.iter().any(|refused| refused.at == sorted.piece.at);
            parts.clear();
            for sorted in sorted.iter_mut().filter(is_refused) {
                sorted.fill = None;
                parts.extend(sorted.data(block_bytes));
                wanted.extend(sorted.wanted());
            }
            self.write_parts(&Parts { vdisk, pieces: &parts, data: data.clone(), asked: &asked, fua: false }).await?;
        }
        if durable {
            self.flush_journal().await?;
        }
        Ok(())
    }

    /// What of a piece is data, and what is not.
    async fn sort(self: &Rc<Self>, vdisk: &VdiskCore, piece: Piece, data: &[u8]) -> Result<Sorted> {
        let block_bytes = self.media.block_bytes();
        let whole = piece.whole_blocks(block_bytes);
        let mut sorted = Sorted { piece, zeros: Blocks::NONE, fill: None };
        let (detection, own) = (vdisk.detection.get(), vdisk.entry.borrow().pattern);
        for block in whole.iter() {
            let start = (piece.from + u64::from(block) * block_bytes - piece.offset) as usize;
            let one = Blocks::range(block, block + 1);
            match self.held(detection, own, &data[start..start + block_bytes as usize]) {
                Held::Data => {}
                Held::Zeros => sorted.zeros = sorted.zeros.with(one),
                Held::Pattern(pattern) => {
                    let (first, blocks) = sorted.fill.unwrap_or((pattern, Blocks::NONE));
                    if first == pattern {
                        sorted.fill = Some((pattern, blocks.with(one)));
                    }
                }
            }
        }
        let Some((_, blocks)) = sorted.fill else { return Ok(sorted) };
        if !blocks.with(sorted.zeros).contains(piece.blocks(block_bytes)) {
            sorted.fill = None;
            return Ok(sorted);
        }
        let looked_up = vdisk.mapping.lookup(&self.media, &self.cache, piece.at).await;
        let word = looked_up.map_err(|lost| self.damaged(vdisk, lost))?;
        let judged = sorted.wanted().map(|wanted| self.judge(vdisk, &wanted, word));
        if matches!(judged, Some(Judged::Refused)) {
            sorted.fill = None;
        }
        Ok(sorted)
    }
}

impl Sorted {
    /// What is to be written as data; the rest of its middle is left out.
    fn data(&self, block_bytes: u64) -> Option<Piece> {
        let without = self.zeros.with(self.fill.map_or(Blocks::NONE, |(_, blocks)| blocks));
        let data = self.piece.blocks(block_bytes).without(without);
        let (first, end) = (data.iter().next()?, data.runs().last()?.end);
        let from = (u64::from(first) * block_bytes).max(self.piece.offset);
        let until = (u64::from(end) * block_bytes).min(self.piece.offset + self.piece.length);
        let holes = Blocks::range(first, end).without(data);
        Some(Piece {
            at: self.piece.at,
            offset: from,
            length: until - from,
            from: self.piece.from + from - self.piece.offset,
            holes,
        })
    }

    fn wanted(&self) -> Option<Wanted> {
        let nothing = self.zeros.is_empty() && self.fill.is_none();
        (!nothing).then_some(Wanted { at: self.piece.at, zeros: self.zeros, fill: self.fill })
    }
}

/// Whether all bytes are zero. The last ones are looked at early: what begins with zeros often ends with something else.
pub(crate) fn is_zeros(block: &[u8]) -> bool {
    let any = |bytes: &[u8]| bytes.iter().fold(0, |all, &byte| all | byte) != 0;
    let ends = [&block[..block.len().min(64)], &block[block.len().saturating_sub(64)..]];
    !ends.into_iter().any(any) && !block.chunks(512).any(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_block_not_zero() {
        let mut block = vec![0u8; 4096];
        assert!(is_zeros(&block));
        for at in 0..block.len() {
            block[at] = 1 << (at % 8);
            assert!(!is_zeros(&block), "{at}");
            block[at] = 0;
        }
    }
}
