//! What a sector holds: who wrote it, for which sector, in which operation. So stray data says where it comes from.
//!
//! A sector is 512 bytes whatever the vdisk's own: 32 chunks of 16, each with the owner (u16), the sector (48 bits), the
//! version (u32), the chunk's number (u8) and a mark (u24). Version 0 is never written: it stands for zeros.

/// Bytes of a sector of the model.
pub const SECTOR: u64 = 512;

const MARK: u64 = 0x50_11_53;

/// What blocks repeat that the pool may store by a number: in every sector the same, whoever wrote it.
pub const UNIT: &[u8; 16] = b"simulated patter";
/// The version of a sector that holds it; no operation has this number.
pub const REPEATED: u32 = u32::MAX;

/// What a sector was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing but zeros.
    Zeros,
    /// A whole sector as [`fill`] leaves it.
    Written {
        /// The serial number of the vdisk it was written to.
        owner: u16,
        /// The sector it was written for.
        sector: u64,
        /// The operation that wrote it.
        version: u32,
    },
    /// The pattern.
    Repeated,
    /// Anything else; the first bytes.
    Garbage([u8; 16]),
}

/// Fills whole sectors.
pub fn fill(bytes: &mut [u8], owner: u16, first: u64, version: u32) {
    for (index, sector) in bytes.chunks_exact_mut(SECTOR as usize).enumerate() {
        let place = u64::from(owner) << 48 | (first + index as u64);
        for (number, chunk) in sector.chunks_exact_mut(16).enumerate() {
            chunk[..8].copy_from_slice(&place.to_le_bytes());
            chunk[8..].copy_from_slice(&tag(version, number).to_le_bytes());
        }
    }
}

/// Fills whole sectors with the pattern.
pub fn repeat(bytes: &mut [u8]) {
    bytes.chunks_exact_mut(16).for_each(|chunk| chunk.copy_from_slice(UNIT));
}

/// Looks at one sector.
pub fn look(sector: &[u8]) -> Seen {
    if sector == ZEROS {
        return Seen::Zeros;
    }
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| sector[at + index]));
    let (place, version) = (word(0), (word(8) >> 32) as u32);
    let mut wrong = 0;
    for (number, chunk) in sector.chunks_exact(16).enumerate() {
        let chunk: [u8; 16] = std::array::from_fn(|index| chunk[index]);
        wrong |= u128::from_le_bytes(chunk) ^ (u128::from(tag(version, number)) << 64 | u128::from(place));
    }
    if wrong == 0 && version != 0 {
        return Seen::Written { owner: (place >> 48) as u16, sector: place & ((1 << 48) - 1), version };
    }
    if sector.chunks_exact(16).all(|chunk| chunk == UNIT) {
        return Seen::Repeated;
    }
    let mut first = [0; 16];
    first.copy_from_slice(&sector[..16]);
    Seen::Garbage(first)
}

const ZEROS: &[u8] = &[0; SECTOR as usize];

fn tag(version: u32, number: usize) -> u64 {
    u64::from(version) << 32 | (number as u64) << 24 | MARK
}
