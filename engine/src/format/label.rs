//! The label: who a device is. Written once, in two copies, at the start and at the end of the device.
//!
//! ```text
//!   0 8 bytes "PLIMSOLL"    8 u32 version   12 u32 checksum of the other 4092 bytes
//!  16 u64 features without which nobody may open the pool, 24 to write, 32 that may be ignored
//!  40 u128 pool   56 u128 device   72 u16 index   74 u16 devices of the pool   76 u32 extent bytes
//!  80 u64 device size in bytes   88 u64 first page of its extents   96 u64 number of extents   104 u64 first extent
//! 112 two journal places, each u16 device, u16 zero, u32 zero, u64 first page, u64 pages (24 bytes)
//! 160 u64 created, ms   168 u8 name length, 64 bytes of name   233..4096 zero
//! ```

use bytes::BufMut;
use uuid::Uuid;

use super::{Cursor, EXTENT_BYTES, FormatError, GROUP_EXTENTS, NAME_BYTES_MAX, PAGE_BYTES, Put, checksum};

const MAGIC: &[u8; 8] = b"PLIMSOLL";
const VERSION: u32 = 1;
/// Features that this version knows of the three kinds.
pub(crate) const KNOWN_FEATURES: [u64; 3] = [FEATURE_FILL | FEATURE_PACKED, 0, 0];
/// Features in the labels of pools that this version makes.
pub(crate) const WRITTEN_FEATURES: [u64; 3] = [FEATURE_FILL | FEATURE_PACKED, 0, 0];
/// Words may be fills, and there may be a pattern table: whoever does not know these must not open the pool.
const FEATURE_FILL: u64 = 1 << 2;
/// Words of one leaf may share an extent.
const FEATURE_PACKED: u64 = 1 << 3;

/// Where one copy of the journal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingPlace {
    pub(crate) device: u16,
    pub(crate) page: u64,
    pub(crate) pages: u64,
}

/// A device's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelPage {
    /// Feature masks: refuse, read-only, ignore.
    pub(crate) features: [u64; 3],
    pub(crate) pool: Uuid,
    pub(crate) device: Uuid,
    pub(crate) index: u16,
    pub(crate) devices: u16,
    pub(crate) extent_bytes: u32,
    pub(crate) size: u64,
    pub(crate) extents_page: u64,
    pub(crate) extents: u64,
    pub(crate) extent_base: u64,
    pub(crate) rings: [RingPlace; 2],
    pub(crate) created_ms: u64,
    pub(crate) name: String,
}

impl LabelPage {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        page[..PAGE_BYTES].fill(0);
        let mut out = &mut page[..PAGE_BYTES];
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(0);
        for mask in self.features {
            out.put_u64_le(mask);
        }
        out.put_slice(self.pool.as_bytes());
        out.put_slice(self.device.as_bytes());
        out.put_u16_le(self.index);
        out.put_u16_le(self.devices);
        out.put_u32_le(self.extent_bytes);
        out.put_u64_le(self.size);
        out.put_u64_le(self.extents_page);
        out.put_u64_le(self.extents);
        out.put_u64_le(self.extent_base);
        for ring in &self.rings {
            out.put_u16_le(ring.device);
            out.put_u16_le(0);
            out.put_u32_le(0);
            out.put_u64_le(ring.page);
            out.put_u64_le(ring.pages);
        }
        out.put_u64_le(self.created_ms);
        out.put_text(&self.name, NAME_BYTES_MAX);
        let sum = checksum(&[&page[..12], &page[16..PAGE_BYTES]]);
        page[12..16].copy_from_slice(&sum.to_le_bytes());
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(page, "a label");
        if cursor.take(8)? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = cursor.u32()?;
        let sum = cursor.u32()?;
        let body = page.get(16..PAGE_BYTES).ok_or(FormatError::Short("a label"))?;
        if checksum(&[&page[..12], body]) != sum {
            return Err(FormatError::Checksum);
        }
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let features = [cursor.u64()?, cursor.u64()?, cursor.u64()?];
        let pool = Uuid::from_bytes(cursor.array()?);
        let device = Uuid::from_bytes(cursor.array()?);
        let (index, devices) = (cursor.u16()?, cursor.u16()?);
        let extent_bytes = cursor.u32()?;
        if !EXTENT_BYTES.contains(&extent_bytes) || !extent_bytes.is_power_of_two() {
            return Err(FormatError::Field { field: "extent size", value: u64::from(extent_bytes) });
        }
        let (size, extents_page) = (cursor.u64()?, cursor.u64()?);
        let (extents, extent_base) = (cursor.u64()?, cursor.u64()?);
        let end = extents.checked_mul(u64::from(extent_bytes)).and_then(|bytes| bytes.checked_add(extents_page << 12));
        if extents_page >= 1 << 48 || end.is_none_or(|end| end > size) || extent_base >= 1 << 40 {
            return Err(FormatError::Field { field: "extents of a device", value: extents });
        }
        let mut ring = || {
            let device = cursor.u16()?;
            cursor.u16()?;
            cursor.u32()?;
            let place = RingPlace { device, page: cursor.u64()?, pages: cursor.u64()? };
            let possible = (4..=1 << 24).contains(&place.pages) && place.page < 1 << 48;
            if possible { Ok(place) } else { Err(FormatError::Field { field: "journal pages", value: place.pages }) }
        };
        let rings = [ring()?, ring()?];
        if extent_base % GROUP_EXTENTS != 0 {
            return Err(FormatError::Field { field: "first extent of a device", value: extent_base });
        }
        if rings[0].pages != rings[1].pages {
            return Err(FormatError::Field { field: "pages of the second journal ring", value: rings[1].pages });
        }
        let created_ms = cursor.u64()?;
        let name = cursor.name("pool name")?;
        Ok(LabelPage {
            features,
            pool,
            device,
            index,
            devices,
            extent_bytes,
            size,
            extents_page,
            extents,
            extent_base,
            rings,
            created_ms,
            name,
        })
    }
}
