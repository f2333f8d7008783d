//! The pattern table: a tree whose page 0 is a directory and whose page n is pattern n, its unit repeated over 4096 bytes.
//!
//! ```text
//! directory: 256 entries of 16 bytes, the first of them zero
//!   0 u8 state (0 none, 1 for all vdisks, 2 disabled, 3 for vdisks that name it)   1 u8 zero   2 u16 bytes of the unit
//!   4 u32 zero             8 u64 created, ms
//! ```
//! A unit has 1 to 4096 bytes, a power of two, and is not all zeros: then a block of any extent size holds it a whole number of
//! times, and what a block reads as depends on nothing but the pattern.

use bytes::BufMut;

use super::{Cursor, FormatError, PAGE_BYTES, PageType, Payload};
use crate::format::PatternId;

/// Most patterns of a pool, and the largest number of one: the directory has a page.
pub(crate) const PATTERNS_MAX: u16 = 255;
/// Longest unit in bytes: the smallest block.
pub(crate) const UNIT_BYTES_MAX: usize = PAGE_BYTES;
const ENTRY_BYTES: usize = 16;
const RECORD_HEAD_BYTES: usize = 16;

const _: () = assert!((PATTERNS_MAX as usize + 1) * ENTRY_BYTES == PAGE_BYTES);

/// What a pattern is matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternState {
    /// What any vdisk is given to write.
    Everywhere,
    /// Nothing any more; what is stored by it stays.
    Disabled,
    /// What vdisks are given to write that name it in their entry.
    OwnOnly,
}

impl PatternState {
    fn decode(number: u8) -> Result<Option<Self>, FormatError> {
        Ok(Some(match number {
            0 => return Ok(None),
            1 => PatternState::Everywhere,
            2 => PatternState::Disabled,
            3 => PatternState::OwnOnly,
            value => return Err(FormatError::Field { field: "pattern state", value: u64::from(value) }),
        }))
    }

    fn number(state: Option<Self>) -> u8 {
        match state {
            None => 0,
            Some(PatternState::Everywhere) => 1,
            Some(PatternState::Disabled) => 2,
            Some(PatternState::OwnOnly) => 3,
        }
    }
}

impl PatternId {
    pub(crate) fn decode(number: u16) -> Result<Self, FormatError> {
        match number {
            1..=PATTERNS_MAX => Ok(PatternId(number)),
            value => Err(FormatError::Field { field: "pattern", value: u64::from(value) }),
        }
    }
}

/// Whether these bytes can be a pattern's unit.
pub(crate) fn is_unit(unit: &[u8]) -> bool {
    unit.len().is_power_of_two() && unit.len() <= UNIT_BYTES_MAX && unit.iter().any(|&byte| byte != 0)
}

/// What the directory says of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PatternEntry {
    pub(crate) state: PatternState,
    pub(crate) unit_bytes: u16,
    pub(crate) created_ms: u64,
}

/// What a record says of a pattern: all of it, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternRecord {
    /// `None`: the pattern is removed, and the unit is empty.
    pub(crate) state: Option<PatternState>,
    pub(crate) created_ms: u64,
    pub(crate) unit: Vec<u8>,
}

impl PatternRecord {
    pub(super) fn encoded_len(&self) -> usize {
        RECORD_HEAD_BYTES + self.unit.len().next_multiple_of(8)
    }

    /// State and bytes of the unit, in the record's first eight bytes.
    pub(super) fn head(&self) -> u32 {
        u32::from(PatternState::number(self.state)) | (self.unit.len() as u32) << 16
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.created_ms);
        out.put_slice(&self.unit);
        out.put_bytes(0, self.unit.len().next_multiple_of(8) - self.unit.len());
    }

    pub(super) fn decode(head: u32, cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let (state, bytes) = (PatternState::decode(head as u8)?, (head >> 16) as usize);
        let created_ms = cursor.u64()?;
        let unit = cursor.take(bytes)?.to_vec();
        cursor.take(bytes.next_multiple_of(8) - bytes)?;
        let sound = if state.is_some() { is_unit(&unit) } else { unit.is_empty() };
        if !sound || head >> 8 & 0xff != 0 {
            return Err(FormatError::Field { field: "unit of a pattern", value: bytes as u64 });
        }
        Ok(PatternRecord { state, created_ms, unit })
    }
}

/// A page of the pattern table: the directory, or a pattern.
#[derive(Clone)]
pub(crate) struct PatternPage {
    bytes: Box<[u8; PAGE_BYTES]>,
}

impl PatternPage {
    /// A pattern's unit, over and over.
    pub(crate) fn repeating(unit: &[u8]) -> Self {
        let mut page = PatternPage::empty();
        for chunk in page.bytes.chunks_mut(unit.len().max(1)) {
            chunk.copy_from_slice(&unit[..chunk.len()]);
        }
        page
    }

    pub(crate) fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.bytes
    }

    /// What a directory says of a pattern.
    pub(crate) fn entry(&self, pattern: PatternId) -> Result<Option<PatternEntry>, FormatError> {
        let mut cursor = Cursor::new(&self.bytes[usize::from(pattern.0) * ENTRY_BYTES..], "a pattern's entry");
        let state = PatternState::decode(cursor.u8()?)?;
        cursor.u8()?;
        let unit_bytes = cursor.u16()?;
        cursor.u32()?;
        let created_ms = cursor.u64()?;
        let Some(state) = state else { return Ok(None) };
        if !unit_bytes.is_power_of_two() || usize::from(unit_bytes) > UNIT_BYTES_MAX {
            return Err(FormatError::Field { field: "bytes of a pattern's unit", value: u64::from(unit_bytes) });
        }
        Ok(Some(PatternEntry { state, unit_bytes, created_ms }))
    }

    pub(crate) fn set_entry(&mut self, pattern: PatternId, entry: Option<PatternEntry>) {
        let mut out = &mut self.bytes[usize::from(pattern.0) * ENTRY_BYTES..][..ENTRY_BYTES];
        out.put_u8(PatternState::number(entry.map(|entry| entry.state)));
        out.put_u8(0);
        out.put_u16_le(entry.map_or(0, |entry| entry.unit_bytes));
        out.put_u32_le(0);
        out.put_u64_le(entry.map_or(0, |entry| entry.created_ms));
    }
}

impl Payload for PatternPage {
    const TYPE: PageType = PageType::Pattern;

    fn empty() -> Self {
        PatternPage { bytes: Box::new([0; PAGE_BYTES]) }
    }

    fn is_empty(&self) -> bool {
        self.bytes.iter().all(|&byte| byte == 0)
    }

    fn summary(&self) -> u32 {
        0
    }

    fn encode(&self, page: &mut [u8]) {
        page[..PAGE_BYTES].copy_from_slice(&self.bytes[..]);
    }

    fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(page, "a page of patterns");
        Ok(PatternPage { bytes: Box::new(cursor.array()?) })
    }
}
