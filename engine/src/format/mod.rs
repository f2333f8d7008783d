//! What stands on the devices: bytes and structs, no I/O. `FORMAT.md` is the same in prose and tables.
//!
//! Every struct here is encoded and decoded field by field, little-endian. What was read is checked before it becomes a
//! value: decoding answers [`FormatError`] and never panics, whatever the bytes.

mod batch;
mod codec;
mod entry;
mod group;
mod label;
mod leaf;
mod name;
mod node;
mod pattern;
mod policy;
mod record;
mod reference;
mod root;
mod table;
mod tail;
mod units;
mod word;

pub(crate) use batch::{BATCH_HEADER_BYTES, Batch, BatchHeader, pages_of, seal_batch};
pub(crate) use codec::{Cursor, Put};
pub(crate) use entry::{Detection, ENTRY_BYTES, Entry, EntryState, ReclaimState, TreeRoot};
pub(crate) use group::{Detail, Group};
pub(crate) use label::{KNOWN_FEATURES, LabelPage, RingPlace, WRITTEN_FEATURES};
pub(crate) use leaf::Leaf;
pub(crate) use name::{NAME_BYTES_MAX, is_name};
pub(crate) use node::{NodePage, node_is_empty};
pub(crate) use pattern::{
    PATTERNS_MAX, PatternEntry, PatternPage, PatternRecord, PatternState, UNIT_BYTES_MAX, is_unit,
};
pub(crate) use policy::{LEVEL_SIZES_BYTES, POOL_POLICY_BYTES, VDISK_POLICY_BYTES};
pub use policy::{Levels, OnFull, OvercommitLimit, PoolPolicy, VdiskPolicy};
pub(crate) use record::{
    DROPPED_RECORD_BYTES, FILL_RECORD_BYTES, MAP_RECORD_BYTES, MOVE_RECORD_BYTES, Record, remap_record_bytes,
};
pub(crate) use reference::{PageRef, PageType, Payload};
pub(crate) use root::{DeviceSlot, JournalStart, RATE_UNLIMITED, RootPage, Standing};
pub(crate) use table::{TABLE_ENTRIES, TablePage};
pub(crate) use tail::{HALF_HEADER_BYTES, TAIL_HEADER_BYTES, TailHeader, load_half};
pub(crate) use units::{Blocks, ExtentId, PageAddr, PatternId, VdiskId, VirtualExtent};
pub(crate) use word::{TURN_BLOCKS, Word};

#[cfg(test)]
mod tests;

/// Bytes of a metadata page and the unit of metadata I/O.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Blocks of an extent: one bit each in a mapping word.
pub(crate) const BLOCKS_PER_EXTENT: u32 = 16;
/// Mapping words of a leaf: 4096 / 8.
pub(crate) const LEAF_WORDS: usize = 512;
/// References of a node: 4096 / 32.
pub(crate) const NODE_FANOUT: usize = 128;
/// Extents that one allocation group page describes: 4096 / 4.
pub(crate) const GROUP_EXTENTS: u64 = 1024;
/// Metadata pages of one extent of the smallest size; larger extents use only their first sixteen pages' worth of bits
/// times the factor, so one 16-bit mask always describes a metadata extent.
pub(crate) const META_PAGES_PER_EXTENT: u32 = 16;
/// Height of the deepest tree: 128^5 leaves of 512 extents of 64 KiB are more than 16 PiB.
pub(crate) const HEIGHT_MAX: u8 = 5;
/// Devices of a pool; the root page has room for their table.
pub(crate) const DEVICES_MAX: usize = 64;
/// Smallest and largest extent in bytes.
pub(crate) const EXTENT_BYTES: std::ops::RangeInclusive<u32> = 65_536..=1_048_576;
/// Largest vdisk in bytes: 16 PiB.
pub(crate) const VDISK_BYTES_MAX: u64 = 16 << 50;

const _: () = assert!(LEAF_WORDS * 8 == PAGE_BYTES);
const _: () = assert!(NODE_FANOUT * reference::REF_BYTES == PAGE_BYTES);
const _: () = assert!(GROUP_EXTENTS as usize * 4 == PAGE_BYTES);
const _: () = assert!(TABLE_ENTRIES * ENTRY_BYTES == PAGE_BYTES);
// 16 PiB / 64 KiB / 512 = 2^29 leaves; 128^5 = 2^35.
const _: () = assert!((VDISK_BYTES_MAX / 65_536 / LEAF_WORDS as u64) <= 1 << (7 * HEIGHT_MAX as u64));

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("the magic number is wrong")]
    Magic,
    #[error("the checksum is wrong")]
    Checksum,
    #[error("format version {0} is not known")]
    Version(u32),
    #[error("{field} has the impossible value {value}")]
    Field { field: &'static str, value: u64 },
    #[error("the bytes end inside {0}")]
    Short(&'static str),
}

/// Checksum of a metadata page or batch: CRC-32 (IEEE 802.3, as `crc32fast` computes it) over `parts` in order.
pub(crate) fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
