//! A mapping word: all there is to know of one virtual extent, in 64 bits.
//!
//! ```text
//! bits  0..16  blocks that are valid (mapped, overlay, fill)
//! bits 16..56  physical extent (mapped, overlay), pattern number (fill)
//! bits 56..60  kind: 0 unmapped, 1 mapped, 2 overlay, 3 fill, 5 packed: mapped, beside other words of the same leaf
//! bit  60      shared: some other leaf may name the extent too (mapped, overlay)
//! bits 61..64  packed: by how many times two blocks the contents are turned in the extent; else zero
//! ```
//!
//! Packed words of one leaf may name one extent, each with places of its own. Block b of a turned word is at place
//! (b + turn) mod 16.

use super::{Blocks, ExtentId, FormatError, PATTERNS_MAX, PatternId};

/// The word. `Word::UNMAPPED` is all zeros, so an absent leaf and a leaf of zeros mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Word(pub(crate) u64);

const KIND_MAPPED: u64 = 1;
const KIND_OVERLAY: u64 = 2;
const KIND_FILL: u64 = 3;
const KIND_PACKED: u64 = 5;
/// Of the bits from 56 on: those that tell words with an extent from others. Bit 2 says packed, the last three are the turn.
const KIND_MASK: u64 = 0b1_1011;
/// Turns are multiples of this many blocks.
pub(crate) const TURN_BLOCKS: u32 = 2;

impl Word {
    pub(crate) const UNMAPPED: Word = Word(0);

    pub(crate) fn mapped(extent: ExtentId, valid: Blocks) -> Word {
        assert!(extent.0 <= ExtentId::MAX, "extent {} is beyond the 40 bits of a word", extent.0);
        Word(KIND_MAPPED << 56 | extent.0 << 16 | u64::from(valid.0))
    }

    /// A word of an extent that it has together with others of its leaf. `turn`: in blocks, a multiple of [`TURN_BLOCKS`] below 16.
    pub(crate) fn packed(extent: ExtentId, valid: Blocks, turn: u32) -> Word {
        assert!(turn < 16 && turn.is_multiple_of(TURN_BLOCKS), "a word cannot be turned by {turn} blocks");
        Word(u64::from(turn / TURN_BLOCKS) << 61 | (KIND_PACKED - KIND_MAPPED) << 56 | Word::mapped(extent, valid).0)
    }

    /// Whether there is an extent behind it, of its own or together with others.
    pub(crate) fn is_mapped(self) -> bool {
        self.0 >> 56 & KIND_MASK == KIND_MAPPED
    }

    /// Whether other words of the same leaf may name its extent too.
    pub(crate) fn is_packed(self) -> bool {
        self.0 >> 56 & 0b1_1111 == KIND_PACKED
    }

    /// Blocks by which its contents are turned in the extent.
    pub(crate) fn turn(self) -> u32 {
        (self.0 >> 61) as u32 * TURN_BLOCKS
    }

    /// The places of `blocks` in the extent.
    pub(crate) fn places(self, blocks: Blocks) -> Blocks {
        Blocks(blocks.0.rotate_left(self.turn()))
    }

    /// Where `length` bytes from `inside` of the virtual extent on lie in the extent: place and bytes; in two parts where they go
    /// round its end.
    pub(crate) fn parts(self, inside: u64, length: u64, extent_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
        let turned = inside + extent_bytes / 16 * u64::from(self.turn());
        let at = turned % extent_bytes;
        let first = length.min(extent_bytes - at);
        [(at, first), (0, length - first)].into_iter().filter(|(_, length)| *length > 0)
    }

    /// Blocks that repeat a pattern, with no extent behind them; none of them: the unmapped word.
    pub(crate) fn fill(pattern: PatternId, blocks: Blocks) -> Self {
        if blocks.is_empty() {
            return Word::UNMAPPED;
        }
        Word(KIND_FILL << 56 | u64::from(pattern.0) << 16 | u64::from(blocks.0))
    }

    pub(crate) fn is_fill(self) -> bool {
        self.0 >> 56 == KIND_FILL
    }

    /// The extent behind it; meaningful only when mapped.
    pub(crate) fn extent(self) -> ExtentId {
        ExtentId(self.0 >> 16 & ExtentId::MAX)
    }

    /// The pattern that its blocks repeat; meaningful only when it is a fill.
    pub(crate) fn pattern(self) -> PatternId {
        PatternId((self.0 >> 16) as u16)
    }

    /// Blocks that read from the extent; none when there is no extent.
    pub(crate) fn valid(self) -> Blocks {
        if self.is_mapped() { Blocks(self.0 as u16) } else { Blocks::NONE }
    }

    /// Blocks that read as the pattern; none when it is no fill.
    pub(crate) fn filled(self) -> Blocks {
        if self.is_fill() { Blocks(self.0 as u16) } else { Blocks::NONE }
    }

    /// Blocks with contents, of whatever kind; the others read as zeros.
    pub(crate) fn contents(self) -> Blocks {
        Blocks(self.0 as u16)
    }

    /// The word without `blocks`; unmapped when nothing is left.
    pub(crate) fn without(self, blocks: Blocks) -> Self {
        let left = self.contents().without(blocks);
        if left.is_empty() { Word::UNMAPPED } else { Word(self.0 >> 16 << 16 | u64::from(left.0)) }
    }

    /// Checks a word that was read: kinds and bits that this version does not write are refused.
    pub(crate) fn verify(self) -> Result<(), FormatError> {
        let kind = self.0 >> 56;
        let sound = match kind {
            0 => self.0 == 0,
            KIND_MAPPED => !self.valid().is_empty(),
            // Its turn is above the kind.
            _ if self.is_packed() => !self.valid().is_empty(),
            KIND_FILL => {
                let pattern = self.0 >> 16 & ExtentId::MAX;
                !self.contents().is_empty() && (1..=u64::from(PATTERNS_MAX)).contains(&pattern)
            }
            // A known kind whose feature bit this version does not write.
            KIND_OVERLAY => false,
            _ => false,
        };
        if sound { Ok(()) } else { Err(FormatError::Field { field: "mapping word", value: self.0 }) }
    }
}
