//! A journal batch: a header and records, in whole pages, written at once and believed whole or not at all.
//!
//! ```text
//!  0 u32 magic "PJNL"        4 u32 checksum of all that follows, padding excepted
//!  8 u128 pool              24 u64 life: which opening of the pool wrote it
//! 32 u64 sequence number    40 u32 checksum of the batch before   44 u32 bytes of records
//! 48 u64 covered: every batch up to this one, and the data its records name, survived a completed flush
//! 56 u32 flags (bit 0: the data of its own records was flushed before it was written)   60 u32 zero
//! 64 records
//! ```
//! The chain of checksums keeps a batch of an earlier life, left at the right place with the right number, from being
//! taken for a successor.

use bytes::BufMut;
use uuid::Uuid;

use super::{Cursor, FormatError, PAGE_BYTES, Record, checksum};

pub(crate) const BATCH_HEADER_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"PJNL");
const FLAG_PROVEN: u32 = 1;

/// What a batch says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) pool: Uuid,
    pub(crate) life: u64,
    pub(crate) sequence: u64,
    pub(crate) previous: u32,
    pub(crate) covered: u64,
    /// Its records need no proof.
    pub(crate) proven: bool,
}

/// A batch that was read and whose checksum is right.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    pub(crate) checksum: u32,
    pub(crate) records: Vec<Record>,
    /// Pages it takes.
    pub(crate) pages: u64,
}

/// Pages of a batch with `payload` bytes of records.
pub(crate) fn pages_of(payload: usize) -> usize {
    (BATCH_HEADER_BYTES + payload).div_ceil(PAGE_BYTES)
}

/// Writes the header over the front of `bytes`, whose records start at [`BATCH_HEADER_BYTES`] and end with `payload`;
/// answers the checksum, which the next batch names.
pub(crate) fn seal_batch(header: &BatchHeader, payload: usize, bytes: &mut [u8]) -> u32 {
    let mut out = &mut bytes[..BATCH_HEADER_BYTES];
    out.put_u32_le(MAGIC);
    out.put_u32_le(0);
    out.put_slice(header.pool.as_bytes());
    out.put_u64_le(header.life);
    out.put_u64_le(header.sequence);
    out.put_u32_le(header.previous);
    out.put_u32_le(payload as u32);
    out.put_u64_le(header.covered);
    out.put_u32_le(if header.proven { FLAG_PROVEN } else { 0 });
    out.put_u32_le(0);
    let sum = checksum(&[&bytes[8..BATCH_HEADER_BYTES + payload]]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    sum
}

impl Batch {
    /// Bytes that the batch starting with this page takes, in pages, if it is the start of one. Not yet verified.
    pub(crate) fn claimed_pages(page: &[u8]) -> Option<u64> {
        let mut cursor = Cursor::new(page, "a batch");
        if cursor.u32().ok()? != MAGIC {
            return None;
        }
        cursor.take(40).ok()?;
        Some(pages_of(cursor.u32().ok()? as usize) as u64)
    }

    /// Decodes a batch at the front of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes, "a journal batch");
        if cursor.u32()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let sum = cursor.u32()?;
        let pool = Uuid::from_bytes(cursor.array()?);
        let life = cursor.u64()?;
        let sequence = cursor.u64()?;
        let previous = cursor.u32()?;
        let payload = cursor.u32()? as usize;
        let covered = cursor.u64()?;
        let flags = cursor.u32()?;
        if flags & !FLAG_PROVEN != 0 {
            return Err(FormatError::Field { field: "batch flags", value: u64::from(flags) });
        }
        cursor.u32()?;
        let records = cursor.take(payload)?;
        if checksum(&[&bytes[8..BATCH_HEADER_BYTES + payload]]) != sum {
            return Err(FormatError::Checksum);
        }
        let proven = flags & FLAG_PROVEN != 0;
        Ok(Batch {
            header: BatchHeader { pool, life, sequence, previous, covered, proven },
            checksum: sum,
            records: Record::decode_all(records)?,
            pages: pages_of(payload) as u64,
        })
    }
}
