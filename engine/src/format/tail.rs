//! The journal's tail in crash memory: records that were answered and are not yet in a batch on the devices.
//!
//! ```text
//! 0     u64 magic   8 u128 pool   24 u64 life                        the header, one page
//! 4096  u64 sequence number of the batch to come   8 u64 bytes of records   16 records     half A
//! 4096 + h                                                                                  half B
//! ```
//! The two halves take turns: while the batch of one is being written to the devices the other takes new records, all but that of a
//! batch that was written ahead, which comes to the former. The
//! number of bytes is stored after the bytes, so a process killed in the middle of a record leaves it out.

use plimsoll_hardware::CrashMemory;
use uuid::Uuid;

use super::{FormatError, Record};

pub(crate) const TAIL_HEADER_BYTES: usize = 4096;
pub(crate) const HALF_HEADER_BYTES: usize = 16;
const MAGIC: u64 = u64::from_le_bytes(*b"PLMSTAIL");

/// Who wrote the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TailHeader {
    pub(crate) pool: Uuid,
    pub(crate) life: u64,
}

impl TailHeader {
    pub(crate) fn load(memory: &impl CrashMemory) -> Option<Self> {
        let mut bytes = [0u8; 32];
        memory.load(0, &mut bytes);
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let pool = Uuid::from_slice(&bytes[8..24]).ok()?;
        (word(0) == MAGIC).then(|| TailHeader { pool, life: word(24) })
    }

    /// Makes the tail belong to this life; both halves must have been emptied.
    pub(crate) fn store(&self, memory: &impl CrashMemory) {
        memory.store_u64(0, 0);
        memory.store(8, self.pool.as_bytes());
        memory.store_u64(24, self.life);
        memory.store_u64(0, MAGIC);
    }

    /// Makes the tail belong to nobody.
    pub(crate) fn clear(memory: &impl CrashMemory) {
        memory.store_u64(0, 0);
    }
}

/// Reads the half of `len` bytes at `offset`: its batch number and records.
pub(crate) fn load_half(
    memory: &impl CrashMemory,
    offset: usize,
    len: usize,
) -> Result<(u64, Vec<Record>), FormatError> {
    let mut head = [0u8; HALF_HEADER_BYTES];
    memory.load(offset, &mut head);
    let mut cursor = super::Cursor::new(&head, "a tail half");
    let (sequence, used) = (cursor.u64()?, cursor.u64()?);
    if used > (len - HALF_HEADER_BYTES) as u64 {
        return Err(FormatError::Field { field: "bytes of a tail half", value: used });
    }
    let mut bytes = vec![0u8; used as usize];
    memory.load(offset + HALF_HEADER_BYTES, &mut bytes);
    Ok((sequence, Record::decode_all(&bytes)?))
}
