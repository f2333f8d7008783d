//! The root: where a checkpoint's trees start and where the journal goes on from it. One page, in two alternating slots at
//! the start and two at the end of every device; the only thing besides the journal that is written over in place.
//!
//! ```text
//!   0 8 bytes "PLIMROOT"   8 u32 zero   12 u32 checksum of the other 4092 bytes
//!  16 u128 pool   32 u64 generation   40 u64 life   48 u64 flags (bit 0: closed cleanly)
//!  56 u64 next batch   64 u64 its position in pages since the journal began   72 u32 checksum of the batch before  76 u32 zero
//!  80 reference to the group tree   112 reference to the vdisk table   144 reference to the pattern table
//! 176 reference to the tree of page counts   208 u8 x 4 heights of these   212 u32 devices
//! 216 u64 data extents   224 u64 metadata extents   232 u64 last batch with META records of this generation
//! 240 u64 x 2 first pages of the two journal rings, where they have left the places that the labels say
//! 256 64 devices of 56 bytes: u128 device, u64 size, u64 first page, u64 extents, u64 first extent, u8 state, u24 zero, u32 rate
//! 3840 64 bytes zero   3904 the pool's policy (`policy.rs`)
//! ```

use bytes::BufMut;
use uuid::Uuid;

use super::{
    Cursor, DEVICES_MAX, ExtentId, FormatError, GROUP_EXTENTS, PAGE_BYTES, POOL_POLICY_BYTES, PageAddr, PageRef,
    PoolPolicy, RingPlace, TreeRoot, checksum,
};

const MAGIC: &[u8; 8] = b"PLIMROOT";
const DEVICE_BYTES: usize = 56;
const POLICY_AT: usize = PAGE_BYTES - POOL_POLICY_BYTES;
const _: () = assert!(256 + DEVICES_MAX * DEVICE_BYTES <= POLICY_AT);

/// Where replay starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalStart {
    pub(crate) sequence: u64,
    pub(crate) position: u64,
    pub(crate) previous: u32,
}

/// How a device stands in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    InUse,
    /// It gets nothing new, and what it has moves elsewhere; then it leaves the pool, if `remove`.
    Leaving {
        remove: bool,
    },
    /// It has left, and its place in the table waits for another.
    Hole,
}

/// Of a device that is evacuated as fast as it goes, in KiB a second.
pub(crate) const RATE_UNLIMITED: u32 = u32::MAX;

/// One device in the root's table, or a further stretch of one that grew (the same device again).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceSlot {
    pub(crate) device: Uuid,
    pub(crate) size: u64,
    pub(crate) extents_page: u64,
    pub(crate) extents: u64,
    pub(crate) extent_base: u64,
    pub(crate) standing: Standing,
    /// KiB a second at which it is evacuated: [`RATE_UNLIMITED`], or 0 where nobody has said.
    pub(crate) rate_kib: u32,
}

impl DeviceSlot {
    /// The place of a device that has left.
    pub(crate) const HOLE: DeviceSlot = DeviceSlot {
        device: Uuid::nil(),
        size: 0,
        extents_page: 0,
        extents: 0,
        extent_base: 0,
        standing: Standing::Hole,
        rate_kib: 0,
    };

    pub(crate) fn is_hole(&self) -> bool {
        self.standing == Standing::Hole
    }

    /// First extent number behind it.
    pub(crate) fn end(&self) -> u64 {
        self.extent_base + self.extents
    }
}

impl Standing {
    fn encode(self) -> u32 {
        match self {
            Standing::InUse => 0,
            Standing::Leaving { remove: false } => 1,
            Standing::Leaving { remove: true } => 2,
            Standing::Hole => 3,
        }
    }

    fn decode(state: u32) -> Result<Self, FormatError> {
        Ok(match state {
            0 => Standing::InUse,
            1 => Standing::Leaving { remove: false },
            2 => Standing::Leaving { remove: true },
            3 => Standing::Hole,
            _ => return Err(FormatError::Field { field: "state of a device", value: u64::from(state) }),
        })
    }
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootPage {
    pub(crate) pool: Uuid,
    pub(crate) generation: u64,
    pub(crate) life: u64,
    pub(crate) clean: bool,
    /// The journal must reach at least to this batch, or the pages in use are not known.
    pub(crate) meta_sequence: u64,
    pub(crate) journal: JournalStart,
    pub(crate) groups: TreeRoot,
    pub(crate) table: TreeRoot,
    pub(crate) patterns: TreeRoot,
    pub(crate) data_extents: u64,
    pub(crate) meta_extents: u64,
    /// Where the journal's copies begin; none where the labels are right.
    pub(crate) rings: [PageAddr; 2],
    pub(crate) devices: Vec<DeviceSlot>,
    pub(crate) policy: PoolPolicy,
}

impl RootPage {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        page[..PAGE_BYTES].fill(0);
        let mut out = &mut page[..PAGE_BYTES];
        out.put_slice(MAGIC);
        out.put_u64_le(0);
        out.put_slice(self.pool.as_bytes());
        out.put_u64_le(self.generation);
        out.put_u64_le(self.life);
        out.put_u64_le(u64::from(self.clean));
        out.put_u64_le(self.journal.sequence);
        out.put_u64_le(self.journal.position);
        out.put_u32_le(self.journal.previous);
        out.put_u32_le(0);
        for reference in [self.groups.reference, self.table.reference, self.patterns.reference, PageRef::NONE] {
            reference.encode(&mut out);
        }
        out.put_slice(&[self.groups.height, self.table.height, self.patterns.height, 0]);
        out.put_u32_le(self.devices.len() as u32);
        out.put_u64_le(self.data_extents);
        out.put_u64_le(self.meta_extents);
        out.put_u64_le(self.meta_sequence);
        for ring in self.rings {
            out.put_u64_le(ring.0);
        }
        for device in &self.devices {
            out.put_slice(device.device.as_bytes());
            for number in [device.size, device.extents_page, device.extents, device.extent_base] {
                out.put_u64_le(number);
            }
            out.put_u32_le(device.standing.encode());
            out.put_u32_le(device.rate_kib);
        }
        let mut out = &mut page[POLICY_AT..PAGE_BYTES];
        self.policy.encode(&mut out);
        let sum = checksum(&[&page[..12], &page[16..PAGE_BYTES]]);
        page[12..16].copy_from_slice(&sum.to_le_bytes());
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(page, "a root");
        if cursor.take(8)? != MAGIC {
            return Err(FormatError::Magic);
        }
        cursor.u32()?;
        let sum = cursor.u32()?;
        let body = page.get(16..PAGE_BYTES).ok_or(FormatError::Short("a root"))?;
        if checksum(&[&page[..12], body]) != sum {
            return Err(FormatError::Checksum);
        }
        let pool = Uuid::from_bytes(cursor.array()?);
        let (generation, life) = (cursor.u64()?, cursor.u64()?);
        let flags = cursor.u64()?;
        if flags > 1 {
            return Err(FormatError::Field { field: "root flags", value: flags });
        }
        let (sequence, position, previous) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
        cursor.u32()?;
        if sequence == 0 {
            return Err(FormatError::Field { field: "first batch to be replayed", value: 0 });
        }
        let (groups, table) = (PageRef::decode(&mut cursor)?, PageRef::decode(&mut cursor)?);
        let patterns = PageRef::decode(&mut cursor)?;
        if !PageRef::decode(&mut cursor)?.is_none() {
            return Err(FormatError::Field { field: "tree of page counts", value: 1 });
        }
        let heights: [u8; 4] = cursor.array()?;
        let count = cursor.u32()? as usize;
        if count == 0 || count > DEVICES_MAX {
            return Err(FormatError::Field { field: "number of devices", value: count as u64 });
        }
        let (data_extents, meta_extents) = (cursor.u64()?, cursor.u64()?);
        let meta_sequence = cursor.u64()?;
        let rings = [PageAddr(cursor.u64()?), PageAddr(cursor.u64()?)];
        if let Some(ring) = rings.iter().find(|ring| usize::from(ring.device()) >= count) {
            return Err(FormatError::Field { field: "device of a journal ring", value: ring.0 });
        }
        let policy = PoolPolicy::decode(&mut Cursor::new(&page[POLICY_AT..PAGE_BYTES], "a pool's policy"))?;
        Ok(RootPage {
            pool,
            generation,
            life,
            clean: flags & 1 == 1,
            meta_sequence,
            journal: JournalStart { sequence, position, previous },
            groups: TreeRoot::decode(groups, heights[0])?,
            table: TreeRoot::decode(table, heights[1])?,
            patterns: TreeRoot::decode(patterns, heights[2])?,
            data_extents,
            meta_extents,
            rings,
            devices: decode_devices(&mut cursor, count)?,
            policy,
        })
    }

    /// Where the journal's copies lie, for labels that say `labelled`.
    pub(crate) fn ring_places(&self, labelled: &[RingPlace; 2]) -> [RingPlace; 2] {
        let mut places = *labelled;
        for (place, moved) in places.iter_mut().zip(self.rings).filter(|(_, moved)| *moved != PageAddr::NONE) {
            *place = RingPlace { device: moved.device(), page: moved.page(), pages: place.pages };
        }
        places
    }
}

/// The table of devices, in ascending order of their extents but for the holes.
fn decode_devices(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<DeviceSlot>, FormatError> {
    let mut next_extent = 0;
    let mut devices = Vec::with_capacity(count);
    for _ in 0..count {
        let device = Uuid::from_bytes(cursor.array()?);
        let [size, extents_page, extents, extent_base] = [cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?];
        let standing = Standing::decode(cursor.u32()?)?;
        let rate_kib = cursor.u32()?;
        let slot = DeviceSlot { device, size, extents_page, extents, extent_base, standing, rate_kib };
        let impossible = FormatError::Field { field: "extents of a device", value: extents };
        if slot.is_hole() {
            if slot != DeviceSlot::HOLE {
                return Err(impossible);
            }
            devices.push(slot);
            continue;
        }
        let end = extent_base.checked_add(extents).filter(|&end| end <= ExtentId::MAX);
        // 64 KiB are the smallest extent: more than that many cannot lie on the device.
        let fits = extents_page < 1 << 48 && extents <= size >> 16 && extent_base.is_multiple_of(GROUP_EXTENTS);
        match end {
            Some(end) if fits && extent_base >= next_extent => next_extent = end,
            _ => return Err(impossible),
        }
        devices.push(slot);
    }
    if devices.iter().all(DeviceSlot::is_hole) {
        return Err(FormatError::Field { field: "number of devices", value: 0 });
    }
    Ok(devices)
}
