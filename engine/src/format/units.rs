//! The integers of the format, each a type of its own so that no two can be exchanged by accident.

/// An extent of the pool's devices. Devices follow one another in this numbering, each starting at a multiple of
/// [`super::GROUP_EXTENTS`]. 40 bits: 64 PiB at 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExtentId(pub(crate) u64);

impl ExtentId {
    pub(crate) const MAX: u64 = (1 << 40) - 1;
}

/// A 4 KiB page of a device: 16 bits of device index, 48 bits of page number. Zero (a label's page) means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageAddr(pub(crate) u64);

impl PageAddr {
    pub(crate) const NONE: PageAddr = PageAddr(0);

    pub(crate) fn new(device: u16, page: u64) -> Self {
        assert!(page < 1 << 48, "page {page} is beyond the 48 bits of an address");
        PageAddr(u64::from(device) << 48 | page)
    }

    pub(crate) fn device(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub(crate) fn page(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }
}

/// A pattern of the pool's table: its place in the table's tree, from 1 on; 0 stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PatternId(pub(crate) u16);

/// Slot of a vdisk in the vdisk table; used again after the vdisk is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VdiskId(pub(crate) u32);

/// An extent of a vdisk, counted from its start. At most 2^38: 16 PiB at 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VirtualExtent(pub(crate) u64);

impl VirtualExtent {
    /// The extent whose word is at `slot` of `leaf`.
    pub(crate) fn in_leaf(leaf: u64, slot: usize) -> Self {
        VirtualExtent(leaf * super::LEAF_WORDS as u64 + slot as u64)
    }

    /// Which leaf of the vdisk's tree holds its word.
    pub(crate) fn leaf(self) -> u64 {
        self.0 / super::LEAF_WORDS as u64
    }

    /// Which word of that leaf.
    pub(crate) fn slot(self) -> usize {
        (self.0 % super::LEAF_WORDS as u64) as usize
    }
}

/// A set of the sixteen blocks of an extent, bit 0 the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Blocks(pub(crate) u16);

impl Blocks {
    pub(crate) const ALL: Blocks = Blocks(u16::MAX);
    pub(crate) const NONE: Blocks = Blocks(0);

    /// Blocks `first..end` (0 to 16).
    pub(crate) fn range(first: u32, end: u32) -> Self {
        debug_assert!(first <= end && end <= 16);
        Blocks(((1u32 << end) - (1u32 << first)) as u16)
    }

    pub(crate) fn contains(self, other: Blocks) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn overlaps(self, other: Blocks) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn with(self, other: Blocks) -> Blocks {
        Blocks(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Blocks) -> Blocks {
        Blocks(self.0 & !other.0)
    }

    pub(crate) fn has(self, block: u32) -> bool {
        self.0 >> block & 1 == 1
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many they are.
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Neighbours joined, in order: the first block and the one behind the last.
    pub(crate) fn runs(self) -> impl Iterator<Item = std::ops::Range<u32>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let left = u32::from(self.0) >> at;
            if left == 0 {
                return None;
            }
            let start = at + left.trailing_zeros();
            let end = start + (u32::from(self.0) >> start).trailing_ones();
            at = end;
            Some(start..end)
        })
    }

    /// Their numbers, in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = u32> {
        (0..16).filter(move |&block| self.has(block))
    }
}
