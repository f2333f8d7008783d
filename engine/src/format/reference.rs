//! How a parent names a page: where its two copies are, which version it is, and what its bytes must sum to.
//!
//! ```text
//! 0  u64 address of the first copy      16 u64 generation of the checkpoint that wrote it
//! 8  u64 address of the second copy     24 u32 checksum    28 u32 summary, by page type
//! ```
//! The checksum covers type, both addresses, generation and contents, so a page that is torn, stale, misdirected or of
//! another kind never passes for the one that was meant.

use bytes::BufMut;

use super::{Cursor, FormatError, PAGE_BYTES, PageAddr, checksum};

pub(crate) const REF_BYTES: usize = 32;

/// Kinds of metadata pages; the number goes into the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum PageType {
    /// Node of any tree.
    Node = 1,
    /// Leaf of a mapping tree.
    Leaf = 2,
    /// Allocation group.
    Group = 3,
    /// Eight vdisks of the vdisk table.
    Table = 4,
    /// The directory of the patterns, or one of them.
    Pattern = 5,
}

/// Contents of a page below a tree's nodes.
pub(crate) trait Payload: Clone + 'static {
    const TYPE: PageType;
    /// What an absent page stands for.
    fn empty() -> Self;
    /// Whether it says no more than an absent page.
    fn is_empty(&self) -> bool;
    /// What the parent shows of it without reading it.
    fn summary(&self) -> u32;
    /// Writes all of `page` (4096 bytes).
    fn encode(&self, page: &mut [u8]);
    fn decode(page: &[u8]) -> Result<Self, FormatError>;
}

/// A parent's view of a page. All zeros: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    pub(crate) a: PageAddr,
    pub(crate) b: PageAddr,
    pub(crate) generation: u64,
    pub(crate) checksum: u32,
    pub(crate) summary: u32,
}

impl PageRef {
    pub(crate) const NONE: PageRef =
        PageRef { a: PageAddr::NONE, b: PageAddr::NONE, generation: 0, checksum: 0, summary: 0 };

    /// Names `page`, written to `a` and `b` in `generation`.
    pub(crate) fn seal(kind: PageType, at: (PageAddr, PageAddr), generation: u64, summary: u32, page: &[u8]) -> Self {
        let mut reference = PageRef { a: at.0, b: at.1, generation, checksum: 0, summary };
        reference.checksum = reference.sum(kind, page);
        reference
    }

    pub(crate) fn is_none(&self) -> bool {
        self.a == PageAddr::NONE
    }

    /// Whether `page` is the page that was meant.
    pub(crate) fn verifies(&self, kind: PageType, page: &[u8]) -> bool {
        page.len() == PAGE_BYTES && self.sum(kind, page) == self.checksum
    }

    fn sum(&self, kind: PageType, page: &[u8]) -> u32 {
        let mut identity = [0u8; 28];
        let mut out = &mut identity[..];
        out.put_u32_le(kind as u32);
        out.put_u64_le(self.a.0);
        out.put_u64_le(self.b.0);
        out.put_u64_le(self.generation);
        checksum(&[&identity, page])
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.a.0);
        out.put_u64_le(self.b.0);
        out.put_u64_le(self.generation);
        out.put_u32_le(self.checksum);
        out.put_u32_le(self.summary);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let reference = PageRef {
            a: PageAddr(cursor.u64()?),
            b: PageAddr(cursor.u64()?),
            generation: cursor.u64()?,
            checksum: cursor.u32()?,
            summary: cursor.u32()?,
        };
        if reference.is_none() && reference != PageRef::NONE {
            return Err(FormatError::Field { field: "page reference", value: reference.b.0 });
        }
        if !reference.is_none() && (reference.b == PageAddr::NONE || reference.b == reference.a) {
            return Err(FormatError::Field { field: "second copy of a page", value: reference.b.0 });
        }
        Ok(reference)
    }
}
