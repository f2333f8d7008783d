//! An allocation group: what 1024 neighbouring extents are used for, one page.
//!
//! On the device one 32-bit word an extent: bits 28..32 kind (0 free, 1 data, 2 metadata), bits 0..28 the number of
//! leaves that name it (data; 1 until snapshots share) or the 16-bit set of its pages in use (metadata). In memory a bitmap, and a map of those few
//! extents of which more is to be said than "free" or "data, named once".

use std::collections::BTreeMap;

use bitvec::prelude::{BitArray, Lsb0};
use bytes::BufMut;

use super::{Cursor, FormatError, GROUP_EXTENTS, PageType, Payload};

pub(crate) type ExtentBits = BitArray<[u64; GROUP_EXTENTS as usize / 64], Lsb0>;

const KIND_DATA: u32 = 1;
const KIND_META: u32 = 2;
const LOW: u32 = (1 << 28) - 1;

/// More than a bit about an extent in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Data named by so many leaves (2 or more).
    Count(u32),
    /// Metadata; which of its pages are in use.
    Meta(u16),
}

/// Use of 1024 extents.
#[derive(Clone)]
pub(crate) struct Group {
    allocated: ExtentBits,
    details: BTreeMap<u16, Detail>,
}

impl Group {
    pub(crate) fn is_allocated(&self, slot: usize) -> bool {
        self.allocated[slot]
    }

    pub(crate) fn bits(&self) -> &ExtentBits {
        &self.allocated
    }

    pub(crate) fn detail(&self, slot: usize) -> Option<Detail> {
        self.details.get(&(slot as u16)).copied()
    }

    /// Extents of metadata with the pages used in each.
    pub(crate) fn meta(&self) -> impl Iterator<Item = (usize, u16)> + '_ {
        self.details.iter().filter_map(|(&slot, &detail)| match detail {
            Detail::Meta(pages) => Some((usize::from(slot), pages)),
            Detail::Count(_) => None,
        })
    }

    pub(crate) fn set_data(&mut self, slot: usize) {
        self.allocated.set(slot, true);
        self.details.remove(&(slot as u16));
    }

    pub(crate) fn set_free(&mut self, slot: usize) {
        self.allocated.set(slot, false);
        self.details.remove(&(slot as u16));
    }

    pub(crate) fn set_meta(&mut self, slot: usize, pages: u16) {
        self.allocated.set(slot, true);
        self.details.insert(slot as u16, Detail::Meta(pages));
    }

    fn word(&self, slot: usize) -> u32 {
        match (self.allocated[slot], self.detail(slot)) {
            (false, _) => 0,
            (true, None) => KIND_DATA << 28 | 1,
            (true, Some(Detail::Count(count))) => KIND_DATA << 28 | count,
            (true, Some(Detail::Meta(pages))) => KIND_META << 28 | u32::from(pages),
        }
    }
}

impl Payload for Group {
    const TYPE: PageType = PageType::Group;

    fn empty() -> Self {
        Group { allocated: BitArray::ZERO, details: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.allocated.not_any()
    }

    /// Low half: extents in use, 0 to 1024. High half: free pages of its metadata extents, 0 to 16,384.
    fn summary(&self) -> u32 {
        let free: u32 = self.meta().map(|(_, pages)| pages.count_zeros()).sum();
        self.allocated.count_ones() as u32 | free << 16
    }

    fn encode(&self, mut page: &mut [u8]) {
        for slot in 0..GROUP_EXTENTS as usize {
            page.put_u32_le(self.word(slot));
        }
    }

    fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(page, "an allocation group");
        let mut group = Group::empty();
        for slot in 0..GROUP_EXTENTS as usize {
            let word = cursor.u32()?;
            let low = word & LOW;
            match word >> 28 {
                0 if low == 0 => {}
                KIND_DATA if low == 1 => group.set_data(slot),
                KIND_DATA if low > 1 => {
                    group.set_data(slot);
                    group.details.insert(slot as u16, Detail::Count(low));
                }
                KIND_META if low <= u32::from(u16::MAX) => group.set_meta(slot, low as u16),
                _ => return Err(FormatError::Field { field: "extent word", value: u64::from(word) }),
            }
        }
        Ok(group)
    }
}
