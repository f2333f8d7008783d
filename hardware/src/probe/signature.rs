//! Recognises what is on a device by the magic numbers of its first bytes, so that nobody makes a pool over it unwarned.
//!
//! Not here: proof. A match means that something was there once; no match does not mean that nothing is there.

/// First bytes of a device that a look needs: the farthest magic number is btrfs's, at 64 KiB + 64.
pub const SIGNATURE_BYTES: usize = 128 << 10;

/// One magic number and what it stands for.
struct Magic {
    at: usize,
    bytes: &'static [u8],
    name: &'static str,
}

const fn magic(at: usize, bytes: &'static [u8], name: &'static str) -> Magic {
    Magic { at, bytes, name }
}

/// By position and value, as in util-linux's libblkid/src/superblocks and each format's own documents. Containers come
/// before what may be seen through them.
const MAGICS: &[Magic] = &[
    magic(0, b"LUKS\xba\xbe\x00\x01", "a LUKS1 encrypted volume"),
    magic(0, b"LUKS\xba\xbe\x00\x02", "a LUKS2 encrypted volume"),
    magic(0, b"SKUL\xba\xbe\x00\x02", "a LUKS2 encrypted volume"),
    magic(4096, b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00", "a member of an mdraid 1.2 array"),
    magic(0, b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00", "a member of an mdraid 1.1 array"),
    // struct cache_sb: checksum, offset, version (8 bytes each), then the magic, in sector 8.
    magic(4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
    magic(0, b"XFSB", "an XFS file system"),
    magic((64 << 10) + 64, b"_BHRfS_M", "a btrfs file system"),
    magic(1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    magic(32_769, b"CD001", "an ISO 9660 file system"),
    magic(3, b"NTFS    ", "an NTFS file system"),
    magic(3, b"EXFAT   ", "an exFAT file system"),
    magic(54, b"FAT12   ", "a FAT file system"),
    magic(54, b"FAT16   ", "a FAT file system"),
    magic(82, b"FAT32   ", "a FAT file system"),
    // The last ten bytes of the first page.
    magic(4086, b"SWAPSPACE2", "a swap area"),
    magic(4086, b"SWAP-SPACE", "a swap area"),
    magic(0, b"QFI\xfb", "a QCOW2 image"),
    magic(0, b"KDMV", "a VMDK image"),
    magic(0, b"COWD", "a VMDK image"),
    magic(0, b"# Disk DescriptorFile", "a VMDK image"),
    magic(0, b"vhdxfile", "a VHDX image"),
    magic(0, b"conectix", "a VHD image"),
    magic(64, b"\x7f\x10\xda\xbe", "a VirtualBox disk image"),
    magic(0, b"hsqs", "a SquashFS file system"),
    magic(1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    magic(24, b"bcachefs", "a bcachefs file system"),
];

/// What the first bytes of a device ([`SIGNATURE_BYTES`] of them, or fewer when it is smaller) look like, in words such
/// as `an ext4 file system`; `None` when nothing is recognised.
pub fn signature(first: &[u8]) -> Option<&'static str> {
    let known = MAGICS.iter().find(|magic| has(first, magic.at, magic.bytes)).map(|magic| magic.name);
    known
        .or_else(|| nameless_pool(first))
        .or_else(|| lvm(first))
        .or_else(|| zfs(first))
        .or_else(|| ext(first))
        .or_else(|| partition_table(first))
}

fn has(first: &[u8], at: usize, bytes: &[u8]) -> bool {
    first.get(at..at + bytes.len()) == Some(bytes)
}

fn word(first: &[u8], at: usize) -> u32 {
    first.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// One of ours, with a root behind a label that is not there (FORMAT.md of the engine).
fn nameless_pool(first: &[u8]) -> Option<&'static str> {
    let has_root = [4096, 8192].into_iter().any(|at| has(first, at, b"PLIMROOT"));
    (has_root && !has(first, 0, b"PLIMSOLL")).then_some("a device of a pool whose label is gone")
}

/// The label is in one of the first four sectors: `LABELONE`, and its type 24 bytes on.
fn lvm(first: &[u8]) -> Option<&'static str> {
    let found = (0..4).any(|sector| {
        let at = sector * 512;
        has(first, at, b"LABELONE") && has(first, at + 24, b"LVM2 001")
    });
    found.then_some("an LVM2 physical volume")
}

/// A label holds a ring of uberblocks from 128 KiB on, outside what is read, but before it, at 16 KiB, its description
/// as XDR: an encoding byte (1) and an endianness byte, and soon the name `version` of its first pair.
fn zfs(first: &[u8]) -> Option<&'static str> {
    let encoded = first.get(16 << 10).is_some_and(|&encoding| encoding == 1);
    let named = first.get(16 << 10..(16 << 10) + 64).is_some_and(|list| list.windows(7).any(|text| text == b"version"));
    (encoded && named).then_some("a member of a ZFS pool")
}

/// ext2, 3 and 4 have one magic number and differ in their features (fs/ext4/ext4.h).
fn ext(first: &[u8]) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    const COMPATIBLE_HAS_JOURNAL: u32 = 0x4;
    /// What ext3 may have: FILETYPE, RECOVER, JOURNAL_DEV, META_BG; and SPARSE_SUPER, LARGE_FILE, BTREE_DIR.
    const INCOMPATIBLE_EXT3: u32 = 0x2 | 0x4 | 0x8 | 0x10;
    const READ_ONLY_EXT3: u32 = 0x1 | 0x2 | 0x4;
    if !has(first, SUPERBLOCK + 56, b"\x53\xef") {
        return None;
    }
    let compatible = word(first, SUPERBLOCK + 92);
    let incompatible = word(first, SUPERBLOCK + 96);
    let read_only = word(first, SUPERBLOCK + 100);
    Some(if incompatible & !INCOMPATIBLE_EXT3 != 0 || read_only & !READ_ONLY_EXT3 != 0 {
        "an ext4 file system"
    } else if compatible & COMPATIBLE_HAS_JOURNAL != 0 {
        "an ext3 file system"
    } else {
        "an ext2 file system"
    })
}

/// GPT's header is in the second block; an MBR has a signature at the end of its sector and four entries of sane kind,
/// which a mere boot sector has not.
fn partition_table(first: &[u8]) -> Option<&'static str> {
    if has(first, 512, b"EFI PART") || has(first, 4096, b"EFI PART") {
        return Some("a GPT partition table");
    }
    if !has(first, 510, b"\x55\xaa") {
        return None;
    }
    let entries = first.get(446..510)?.as_chunks::<16>().0;
    let sane = entries.iter().all(|entry| matches!(entry[0], 0 | 0x80));
    let used = entries.iter().any(|entry| entry[4] != 0);
    (sane && used).then_some("an MBR partition table")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; SIGNATURE_BYTES];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn every_magic_number_is_recognised_and_zeros_are_nothing() {
        assert_eq!(signature(&device(&[])), None);
        assert_eq!(signature(&[]), None);
        for magic in MAGICS {
            assert!(magic.at + magic.bytes.len() <= SIGNATURE_BYTES, "{} lies too far", magic.name);
            assert_eq!(signature(&device(&[(magic.at, magic.bytes)])), Some(magic.name));
        }
    }

    #[test]
    fn the_ext_family_is_told_apart_by_its_features() {
        let ext = |compatible: u8, incompatible: u8| {
            device(&[(1080, b"\x53\xef"), (1024 + 92, &[compatible]), (1024 + 96, &[incompatible])])
        };
        assert_eq!(signature(&ext(0, 2)), Some("an ext2 file system"));
        assert_eq!(signature(&ext(4, 2)), Some("an ext3 file system"));
        assert_eq!(signature(&ext(4, 0x42)), Some("an ext4 file system"));
    }

    #[test]
    fn labels_and_partition_tables_are_recognised() {
        let lvm = device(&[(512, b"LABELONE"), (536, b"LVM2 001")]);
        assert_eq!(signature(&lvm), Some("an LVM2 physical volume"));
        let zfs = device(&[(16 << 10, b"\x01\x01\0\0"), ((16 << 10) + 24, b"version\0")]);
        assert_eq!(signature(&zfs), Some("a member of a ZFS pool"));
        let mbr = device(&[(510, b"\x55\xaa"), (446 + 4, b"\x83")]);
        assert_eq!(signature(&mbr), Some("an MBR partition table"));
        let gpt = device(&[(510, b"\x55\xaa"), (446 + 4, b"\xee"), (512, b"EFI PART")]);
        assert_eq!(signature(&gpt), Some("a GPT partition table"));
        assert_eq!(signature(&device(&[(510, b"\x55\xaa")])), None, "a boot sector alone is no partition table");
    }
}
