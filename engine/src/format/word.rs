//! A mapping word: all there is to know of one virtual extent, in 64 bits.
//!
//! ```text
//! bits  0..16  blocks that are valid (mapped, overlay, fill)
//! bits 16..56  physical extent (mapped, overlay), pattern number (fill)
//! bits 56..60  kind: 0 unmapped, 1 mapped, 2 overlay, 3 fill
//! bit  60      shared: some other leaf may name the extent too (mapped, overlay)
//! bits 61..64  zero
//! ```

use super::{Blocks, ExtentId, FormatError, PATTERNS_MAX, PatternId};

/// The word. `Word::UNMAPPED` is all zeros, so an absent leaf and a leaf of zeros mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Word(pub(crate) u64);

const KIND_MAPPED: u64 = 1;
const KIND_OVERLAY: u64 = 2;
const KIND_FILL: u64 = 3;

impl Word {
    pub(crate) const UNMAPPED: Word = Word(0);

    pub(crate) fn mapped(extent: ExtentId, valid: Blocks) -> Word {
        assert!(extent.0 <= ExtentId::MAX, "extent {} is beyond the 40 bits of a word", extent.0);
        Word(KIND_MAPPED << 56 | extent.0 << 16 | u64::from(valid.0))
    }

    pub(crate) fn is_mapped(self) -> bool {
        self.0 >> 56 == KIND_MAPPED
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
