//! What the vdisk table holds of a vdisk: 512 bytes.
//!
//! ```text
//!   0 u8 state (0 none, 1 ready, 2 shrinking, 3 deleting)   1 u8 flags (bit 0: write-through)   2 u16 zero
//!   4 u32 sector bytes       8 u64 size in bytes            16 u128 UUID
//!  32 u64 created, ms       40 u64 extents backed           48 u64 first extent to be discarded (shrinking)
//!  56 u8 name length, 64 bytes of name                     121 u8 height of the mapping tree  122..128 zero
//! 128 reference to the mapping tree's root (32 bytes)      160 reference to the companion tree of overlays
//! 192 u8 height of the companion tree                      193..352 policy (`policy.rs`)
//! 352 u64 reclaim under way: the byte it goes on at, + 1   360 u8 reclaim flags (bit 0: paused)   361 u8 zero
//! 362 u16 the vdisk's own pattern, 0 none                  364 u32 reclaim: most MiB a second, 0 no limit
//! 368 levels of the policy that are sizes (32 bytes)      400..512 zero, for lineage
//! ```

use bytes::BufMut;
use uuid::Uuid;

use super::{
    Cursor, FormatError, HEIGHT_MAX, LEVEL_SIZES_BYTES, NAME_BYTES_MAX, PageRef, PatternId, Put, VDISK_BYTES_MAX,
    VDISK_POLICY_BYTES, VdiskPolicy,
};

pub(crate) const ENTRY_BYTES: usize = 512;
const FLAG_WRITE_THROUGH: u8 = 1;
const RECLAIM_PAUSED: u8 = 1;

/// What writes are looked through for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detection {
    pub(crate) zeros: bool,
    pub(crate) patterns: bool,
}

impl Detection {
    /// As every vdisk begins.
    pub(crate) const ON: Detection = Detection { zeros: true, patterns: true };

    /// What a policy says.
    pub(crate) fn of(policy: &VdiskPolicy) -> Self {
        Detection { zeros: !policy.keep_zeros, patterns: !policy.keep_patterns }
    }
}

/// A reclaim of a whole vdisk, as it goes on after a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReclaimState {
    /// What lies before this byte was looked at.
    pub(crate) cursor: u64,
    pub(crate) paused: bool,
    /// Most MiB read a second; 0: no limit.
    pub(crate) rate_mib: u32,
}

/// What is being done with a vdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryState {
    Ready,
    /// Its size was cut; extents from `discard_from` on are being given back.
    Shrinking,
    /// It is gone for its users; its extents are being given back.
    Deleting,
}

/// Where a tree starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    pub(crate) reference: PageRef,
    pub(crate) height: u8,
}

impl TreeRoot {
    pub(crate) const EMPTY: TreeRoot = TreeRoot { reference: PageRef::NONE, height: 0 };

    pub(crate) fn decode(reference: PageRef, height: u8) -> Result<Self, FormatError> {
        if height > HEIGHT_MAX {
            return Err(FormatError::Field { field: "tree height", value: u64::from(height) });
        }
        Ok(TreeRoot { reference, height })
    }
}

/// One vdisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) state: EntryState,
    pub(crate) write_through: bool,
    pub(crate) sector: u32,
    pub(crate) size: u64,
    pub(crate) uuid: Uuid,
    pub(crate) created_ms: u64,
    pub(crate) backed: u64,
    pub(crate) discard_from: u64,
    pub(crate) name: String,
    pub(crate) tree: TreeRoot,
    pub(crate) policy: VdiskPolicy,
    pub(crate) reclaim: Option<ReclaimState>,
    /// The vdisk's own pattern.
    pub(crate) pattern: Option<PatternId>,
}

impl Entry {
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(match self.state {
            EntryState::Ready => 1,
            EntryState::Shrinking => 2,
            EntryState::Deleting => 3,
        });
        out.put_u8(if self.write_through { FLAG_WRITE_THROUGH } else { 0 });
        out.put_u16_le(0);
        out.put_u32_le(self.sector);
        out.put_u64_le(self.size);
        out.put_slice(self.uuid.as_bytes());
        out.put_u64_le(self.created_ms);
        out.put_u64_le(self.backed);
        out.put_u64_le(self.discard_from);
        out.put_text(&self.name, NAME_BYTES_MAX);
        out.put_u8(self.tree.height);
        out.put_bytes(0, 6);
        self.tree.reference.encode(out);
        PageRef::NONE.encode(out);
        out.put_u8(0);
        self.policy.encode(out);
        const { assert!(193 + VDISK_POLICY_BYTES == 352) };
        out.put_u64_le(self.reclaim.map_or(0, |reclaim| reclaim.cursor + 1));
        out.put_u8(self.reclaim.map_or(0, |reclaim| if reclaim.paused { RECLAIM_PAUSED } else { 0 }));
        out.put_u8(0);
        out.put_u16_le(self.pattern.map_or(0, |pattern| pattern.0));
        out.put_u32_le(self.reclaim.map_or(0, |reclaim| reclaim.rate_mib));
        self.policy.encode_level_sizes(out);
        const { assert!(368 + LEVEL_SIZES_BYTES == 400) };
        out.put_bytes(0, ENTRY_BYTES - 400);
    }

    /// `None`: the slot is free.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let mut cursor = Cursor::new(bytes, "a vdisk entry");
        let state = match cursor.u8()? {
            0 => return Ok(None),
            1 => EntryState::Ready,
            2 => EntryState::Shrinking,
            3 => EntryState::Deleting,
            value => return Err(FormatError::Field { field: "vdisk state", value: u64::from(value) }),
        };
        let flags = cursor.u8()?;
        if flags & !FLAG_WRITE_THROUGH != 0 {
            return Err(FormatError::Field { field: "vdisk flags", value: u64::from(flags) });
        }
        cursor.u16()?;
        let sector = cursor.u32()?;
        let size = cursor.u64()?;
        if !matches!(sector, 512 | 4096) {
            return Err(FormatError::Field { field: "sector size", value: u64::from(sector) });
        }
        if size == 0 || size > VDISK_BYTES_MAX || !size.is_multiple_of(u64::from(sector)) {
            return Err(FormatError::Field { field: "vdisk size", value: size });
        }
        let uuid = Uuid::from_bytes(cursor.array()?);
        let created_ms = cursor.u64()?;
        let backed = cursor.u64()?;
        let discard_from = cursor.u64()?;
        let name = cursor.name("vdisk name")?;
        let height = cursor.u8()?;
        cursor.take(6)?;
        let tree = TreeRoot::decode(PageRef::decode(&mut cursor)?, height)?;
        cursor.take(33)?;
        let mut policy = VdiskPolicy::decode(&mut cursor)?;
        let write_through = flags & FLAG_WRITE_THROUGH != 0;
        let (cursor_after, reclaim_flags) = (cursor.u64()?, cursor.u8()?);
        cursor.u8()?;
        let pattern = match cursor.u16()? {
            0 => None,
            number => Some(PatternId::decode(number)?),
        };
        let rate_mib = cursor.u32()?;
        if reclaim_flags & !RECLAIM_PAUSED != 0 {
            return Err(FormatError::Field { field: "reclaim flags", value: u64::from(reclaim_flags) });
        }
        policy.decode_level_sizes(&mut cursor)?;
        let paused = reclaim_flags & RECLAIM_PAUSED != 0;
        let reclaim = cursor_after.checked_sub(1).map(|cursor| ReclaimState { cursor, paused, rate_mib });
        Ok(Some(Entry {
            state,
            write_through,
            sector,
            size,
            uuid,
            created_ms,
            backed,
            discard_from,
            name,
            tree,
            policy,
            reclaim,
            pattern,
        }))
    }
}
