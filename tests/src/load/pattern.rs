//! What the load writes: sectors that say which vdisk, sector and version they are.
//!
//! Each sector begins with a header (magic, vdisk, version, sector) and goes on with bytes made from it, so a sector
//! that is read back names its writer, and one that is mixed of two writes is neither.

use crate::random::mix;

/// The unit of the load's bookkeeping, in bytes.
pub const SECTOR_BYTES: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"plimload");

/// Who wrote a sector; version 0 stands for zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The number of the vdisk.
    pub vdisk: u32,
    /// The sector in the vdisk.
    pub sector: u64,
    /// Which write.
    pub version: u32,
}

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing but zeros.
    Zeros,
    /// What this writer wrote, whole.
    Written(Identity),
    /// Anything else; the header, if it looks like one of ours.
    Garbage(Option<Identity>),
}

impl Identity {
    /// Fills `sector` with what this writer writes.
    pub fn fill(self, sector: &mut [u8]) {
        assert_eq!(sector.len(), SECTOR_BYTES, "a sector is filled as a whole");
        if self.version == 0 {
            return sector.fill(0);
        }
        let key = mix(self.sector ^ mix(u64::from(self.vdisk) << 32 | u64::from(self.version)));
        for (index, word) in sector.chunks_exact_mut(8).enumerate() {
            let value = match index {
                0 => MAGIC,
                1 => u64::from(self.vdisk) << 32 | u64::from(self.version),
                2 => self.sector,
                _ => mix(key.wrapping_add(index as u64)),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Tells what `sector` holds.
pub fn identify(sector: &[u8]) -> Seen {
    if sector.iter().all(|byte| *byte == 0) {
        return Seen::Zeros;
    }
    let word = |index: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&sector[index * 8..index * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    if word(0) != MAGIC {
        return Seen::Garbage(None);
    }
    let identity = Identity { vdisk: (word(1) >> 32) as u32, version: word(1) as u32, sector: word(2) };
    let mut whole = [0; SECTOR_BYTES];
    identity.fill(&mut whole);
    if sector == whole { Seen::Written(identity) } else { Seen::Garbage(Some(identity)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_its_writer_and_a_mixed_one_does_not() {
        let (mut old, mut new) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
        let writer = Identity { vdisk: 3, sector: 77, version: 9 };
        writer.fill(&mut old);
        Identity { version: 10, ..writer }.fill(&mut new);
        assert_eq!(identify(&old), Seen::Written(writer));
        new[..256].copy_from_slice(&old[..256]);
        assert_eq!(identify(&new), Seen::Garbage(Some(writer)));
        assert_eq!(identify(&[0; SECTOR_BYTES]), Seen::Zeros);
    }
}
