//! Journal records: what changed, small, and applied in order to the state of the last checkpoint.
//!
//! ```text
//! 1 MAP     u8 1  u8 0  u16 blocks  u32 vdisk  u64 virtual extent  u64 extent  u32 proof  u32 zero         32 bytes
//! 2 UNMAP   u8 2  u8 0  u16 0       u32 vdisk  u64 first           u64 count                               24 bytes
//! 3 CLEAR   u8 3  u8 0  u16 blocks  u32 vdisk  u64 virtual extent                                          16 bytes
//! 4 PUT     u8 4  u8 0  u16 0       u32 vdisk  512 bytes of entry                                         520 bytes
//! 5 REMOVE  u8 5  u8 0  u16 0       u32 vdisk                                                               8 bytes
//! 6 META    u8 6  u8 0  u16 0       u32 count  u64 generation      count x u64 (extent << 16 | pages)  16 + 8n bytes
//! 7 DROPPED u8 7  u8 0  u16 0       u32 index  u64 batch                                                   16 bytes
//! 9 POLICY  u8 9  u8 0  u16 0       u32 0      192 bytes of the pool's policy                             200 bytes
//! 8 FILL    u8 8  u8 0  u16 blocks  u32 vdisk  u64 virtual extent  u64 freed + 1  u16 pattern  6 zero      32 bytes
//! 12 PATTERN u8 12 u8 0 u16 pattern u8 state u8 0 u16 unit bytes  u64 created, ms  the unit, up to 8s  16 + n bytes
//! 10 MOVE   u8 10 u8 0  u16 blocks  u32 vdisk  u64 virtual extent  u64 from  u64 to  u32 proof  u32 zero   40 bytes
//! 11 REMAP  u8 11 u8 0  u16 places  u32 vdisk  u64 leaf  u64 to  u32 proof  u32 count
//!           count x (u16 slot  u16 blocks  u8 turn / 2  u8 packed  u16 zero)                          32 + 8n bytes
//! ```
//! MAP adds blocks to what an extent holds for a virtual extent (and puts the extent there when it is not yet); its
//! proof is the checksum of the blocks' contents, and bit 0 of its last word says that it takes the place of a fill, all of whose
//! blocks are among its own. FILL makes blocks repeat a pattern and frees the extent that they had. UNMAP and CLEAR free extents that hold nothing any more. META says
//! which pages of a metadata extent are in use once the checkpoint of that generation stands; with another
//! generation it says nothing. DROPPED names a MAP or MOVE whose proof failed once and that must never be believed again. MOVE
//! says that a virtual extent's blocks, all it has, are in another extent now; its proof is the checksum of their contents there.
//! REMAP says so of words of one leaf, packed ones before or after; what they named before is free when no word of the leaf names it
//! any more. Its proof is that of the places that were written, in order.

use bytes::BufMut;

use super::{
    Blocks, Cursor, ENTRY_BYTES, Entry, ExtentId, FormatError, LEAF_WORDS, POOL_POLICY_BYTES, PatternId, PatternRecord,
    PoolPolicy, TURN_BLOCKS, VDISK_BYTES_MAX, VdiskId, VirtualExtent, Word,
};

pub(crate) const MAP_RECORD_BYTES: usize = 32;
pub(crate) const DROPPED_RECORD_BYTES: usize = 16;
pub(crate) const FILL_RECORD_BYTES: usize = 32;
/// Bit of a MAP's last word: the word was a fill.
const MAP_OVER_FILL: u32 = 1;
pub(crate) const MOVE_RECORD_BYTES: usize = 40;

/// Bytes of a REMAP of so many words.
pub(crate) fn remap_record_bytes(words: usize) -> usize {
    32 + 8 * words
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Map {
        vdisk: VdiskId,
        at: VirtualExtent,
        extent: ExtentId,
        blocks: Blocks,
        proof: u32,
        /// The word was a fill: later MAPs to this virtual extent say nothing without this one.
        over_fill: bool,
    },
    Unmap {
        vdisk: VdiskId,
        first: VirtualExtent,
        count: u64,
    },
    Clear {
        vdisk: VdiskId,
        at: VirtualExtent,
        blocks: Blocks,
    },
    Put {
        vdisk: VdiskId,
        entry: Box<Entry>,
    },
    Remove {
        vdisk: VdiskId,
    },
    Meta {
        generation: u64,
        extents: Vec<(ExtentId, u16)>,
    },
    Dropped {
        batch: u64,
        index: u32,
    },
    Fill {
        vdisk: VdiskId,
        at: VirtualExtent,
        blocks: Blocks,
        pattern: PatternId,
        freed: Option<ExtentId>,
    },
    Pattern {
        pattern: PatternId,
        now: PatternRecord,
    },
    Policy(Box<PoolPolicy>),
    Move {
        vdisk: VdiskId,
        at: VirtualExtent,
        from: ExtentId,
        to: ExtentId,
        blocks: Blocks,
        proof: u32,
    },
    Remap {
        vdisk: VdiskId,
        leaf: u64,
        to: ExtentId,
        /// Places of `to` that were written.
        places: Blocks,
        proof: u32,
        /// Slots of the leaf, and their words now: all of `to`.
        words: Vec<(u16, Word)>,
    },
}

impl Record {
    /// Bytes that `encode` writes; a multiple of 8.
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Record::Map { .. } => MAP_RECORD_BYTES,
            Record::Unmap { .. } => 24,
            Record::Clear { .. } => 16,
            Record::Dropped { .. } => DROPPED_RECORD_BYTES,
            Record::Put { .. } => 8 + ENTRY_BYTES,
            Record::Remove { .. } => 8,
            Record::Meta { extents, .. } => 16 + 8 * extents.len(),
            Record::Policy(_) => 8 + POOL_POLICY_BYTES,
            Record::Fill { .. } => FILL_RECORD_BYTES,
            Record::Pattern { now, .. } => now.encoded_len(),
            Record::Move { .. } => MOVE_RECORD_BYTES,
            Record::Remap { words, .. } => remap_record_bytes(words.len()),
        }
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        let mut head = |kind: u8, blocks: u16, word: u32| {
            out.put_u8(kind);
            out.put_u8(0);
            out.put_u16_le(blocks);
            out.put_u32_le(word);
        };
        match self {
            Record::Map { vdisk, at, extent, blocks, proof, over_fill } => {
                head(1, blocks.0, vdisk.0);
                out.put_u64_le(at.0);
                out.put_u64_le(extent.0);
                out.put_u32_le(*proof);
                out.put_u32_le(if *over_fill { MAP_OVER_FILL } else { 0 });
            }
            Record::Unmap { vdisk, first, count } => {
                head(2, 0, vdisk.0);
                out.put_u64_le(first.0);
                out.put_u64_le(*count);
            }
            Record::Clear { vdisk, at, blocks } => {
                head(3, blocks.0, vdisk.0);
                out.put_u64_le(at.0);
            }
            Record::Put { vdisk, entry } => {
                head(4, 0, vdisk.0);
                entry.encode(out);
            }
            Record::Remove { vdisk } => head(5, 0, vdisk.0),
            Record::Meta { generation, extents } => {
                head(6, 0, extents.len() as u32);
                out.put_u64_le(*generation);
                for (extent, pages) in extents {
                    out.put_u64_le(extent.0 << 16 | u64::from(*pages));
                }
            }
            Record::Dropped { batch, index } => {
                head(7, 0, *index);
                out.put_u64_le(*batch);
            }
            Record::Policy(policy) => {
                head(9, 0, 0);
                policy.encode(out);
            }
            Record::Fill { vdisk, at, blocks, pattern, freed } => {
                head(8, blocks.0, vdisk.0);
                out.put_u64_le(at.0);
                out.put_u64_le(freed.map_or(0, |extent| extent.0 + 1));
                out.put_u16_le(pattern.0);
                out.put_bytes(0, 6);
            }
            Record::Pattern { pattern, now } => {
                head(12, pattern.0, now.head());
                now.encode(out);
            }
            Record::Move { vdisk, at, from, to, blocks, proof } => {
                head(10, blocks.0, vdisk.0);
                out.put_u64_le(at.0);
                out.put_u64_le(from.0);
                out.put_u64_le(to.0);
                out.put_u32_le(*proof);
                out.put_u32_le(0);
            }
            Record::Remap { vdisk, leaf, to, places, proof, words } => {
                head(11, places.0, vdisk.0);
                out.put_u64_le(*leaf);
                out.put_u64_le(to.0);
                out.put_u32_le(*proof);
                out.put_u32_le(words.len() as u32);
                for (slot, word) in words {
                    out.put_u16_le(*slot);
                    out.put_u16_le(word.valid().0);
                    out.put_u8((word.turn() / TURN_BLOCKS) as u8);
                    out.put_u8(u8::from(word.is_packed()));
                    out.put_u16_le(0);
                }
            }
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let kind = cursor.u8()?;
        let zero = cursor.u8()?;
        if zero != 0 {
            return Err(FormatError::Field { field: "reserved byte of a record", value: u64::from(zero) });
        }
        let blocks = Blocks(cursor.u16()?);
        let word = cursor.u32()?;
        let vdisk = VdiskId(word);
        Ok(match kind {
            1 => {
                let at = virtual_extent(cursor.u64()?)?;
                let extent = extent(cursor.u64()?)?;
                let proof = cursor.u32()?;
                let flags = cursor.u32()?;
                if flags & !MAP_OVER_FILL != 0 {
                    return Err(FormatError::Field { field: "flags of a map record", value: u64::from(flags) });
                }
                some(blocks)?;
                Record::Map { vdisk, at, extent, blocks, proof, over_fill: flags & MAP_OVER_FILL != 0 }
            }
            2 => {
                let (first, count) = (virtual_extent(cursor.u64()?)?, cursor.u64()?);
                if count == 0 || count > VIRTUAL_EXTENTS_MAX - first.0 {
                    return Err(FormatError::Field { field: "virtual extents of a record", value: count });
                }
                Record::Unmap { vdisk, first, count }
            }
            3 => Record::Clear { vdisk, at: virtual_extent(cursor.u64()?)?, blocks },
            4 => match Entry::decode(cursor.take(ENTRY_BYTES)?)? {
                Some(entry) => Record::Put { vdisk, entry: Box::new(entry) },
                None => return Err(FormatError::Field { field: "entry of a put record", value: 0 }),
            },
            5 => Record::Remove { vdisk },
            6 => {
                let generation = cursor.u64()?;
                if word as usize > cursor.remaining() / 8 {
                    return Err(FormatError::Field { field: "metadata extents of a record", value: u64::from(word) });
                }
                let mut extents = Vec::with_capacity(word as usize);
                for _ in 0..word {
                    let packed = cursor.u64()?;
                    extents.push((extent(packed >> 16)?, packed as u16));
                }
                Record::Meta { generation, extents }
            }
            7 => Record::Dropped { index: word, batch: cursor.u64()? },
            9 => Record::Policy(Box::new(PoolPolicy::decode(cursor)?)),
            8 => {
                let at = virtual_extent(cursor.u64()?)?;
                let freed = match cursor.u64()? {
                    0 => None,
                    number => Some(extent(number - 1)?),
                };
                let pattern = PatternId::decode(cursor.u16()?)?;
                cursor.take(6)?;
                some(blocks)?;
                Record::Fill { vdisk, at, blocks, pattern, freed }
            }
            12 => {
                let pattern = PatternId::decode(blocks.0)?;
                Record::Pattern { pattern, now: PatternRecord::decode(word, cursor)? }
            }
            10 => {
                let at = virtual_extent(cursor.u64()?)?;
                let (from, to) = (extent(cursor.u64()?)?, extent(cursor.u64()?)?);
                let proof = cursor.u32()?;
                cursor.u32()?;
                some(blocks)?;
                Record::Move { vdisk, at, from, to, blocks, proof }
            }
            11 => Self::decode_remap(vdisk, blocks, cursor)?,
            kind => return Err(FormatError::Field { field: "record kind", value: u64::from(kind) }),
        })
    }

    fn decode_remap(vdisk: VdiskId, places: Blocks, cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let leaf = cursor.u64()?;
        if leaf >= VIRTUAL_EXTENTS_MAX / LEAF_WORDS as u64 {
            return Err(FormatError::Field { field: "leaf of a record", value: leaf });
        }
        let to = extent(cursor.u64()?)?;
        let proof = cursor.u32()?;
        let count = cursor.u32()?;
        if count == 0 || count as usize > LEAF_WORDS.min(cursor.remaining() / 8) {
            return Err(FormatError::Field { field: "words of a record", value: u64::from(count) });
        }
        some(places)?;
        let mut words = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (slot, blocks, turn) = (cursor.u16()?, Blocks(cursor.u16()?), u32::from(cursor.u8()?) * TURN_BLOCKS);
            let (packed, zero) = (cursor.u8()?, cursor.u16()?);
            let sound = usize::from(slot) < LEAF_WORDS && turn < 16 && zero == 0;
            if !sound || packed > 1 || (packed == 0 && turn > 0) {
                return Err(FormatError::Field { field: "word of a record", value: u64::from(slot) });
            }
            some(blocks)?;
            let word = if packed == 1 { Word::packed(to, blocks, turn) } else { Word::mapped(to, blocks) };
            words.push((slot, word));
        }
        Ok(Record::Remap { vdisk, leaf, to, places, proof, words })
    }

    /// All records of a batch's payload.
    pub(crate) fn decode_all(payload: &[u8]) -> Result<Vec<Record>, FormatError> {
        let mut cursor = Cursor::new(payload, "a journal record");
        let mut records = Vec::new();
        while cursor.remaining() > 0 {
            records.push(Record::decode(&mut cursor)?);
        }
        Ok(records)
    }
}

/// Virtual extents of the largest vdisk: 16 PiB of 64 KiB.
const VIRTUAL_EXTENTS_MAX: u64 = VDISK_BYTES_MAX >> 16;

/// A word without blocks would be none.
fn some(blocks: Blocks) -> Result<(), FormatError> {
    if blocks.is_empty() {
        return Err(FormatError::Field { field: "blocks of a record", value: 0 });
    }
    Ok(())
}

fn virtual_extent(number: u64) -> Result<VirtualExtent, FormatError> {
    if number >= VIRTUAL_EXTENTS_MAX {
        return Err(FormatError::Field { field: "virtual extent", value: number });
    }
    Ok(VirtualExtent(number))
}

fn extent(number: u64) -> Result<ExtentId, FormatError> {
    if number > ExtentId::MAX {
        return Err(FormatError::Field { field: "extent", value: number });
    }
    Ok(ExtentId(number))
}
