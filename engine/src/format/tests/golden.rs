//! The bytes of today are those of tomorrow: fixtures in `tests/golden`, which must encode and decode byte for byte.

use std::fmt::Write as _;

use super::{fixtures, is_update, samples};
use crate::format::*;

/// Sixteen bytes a line, those that are all zeros left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = format!("bytes {}\n", bytes.len());
    for (line, chunk) in bytes.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|&byte| byte != 0)) {
        let _ = write!(text, "{:04x}:", line * 16);
        for byte in chunk {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("bytes ")).expect("a length");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let (offset, rest) = line.split_once(':').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("hex");
        for (index, byte) in rest.split_whitespace().enumerate() {
            bytes[offset + index] = u8::from_str_radix(byte, 16).expect("hex");
        }
    }
    bytes
}

fn golden(name: &str) -> Vec<u8> {
    let path = fixtures("golden").join(format!("{name}.hex"));
    parse(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[test]
fn every_struct_encodes_to_its_golden_image_and_format_md_names_their_checksum() {
    let mut hasher = crc32fast::Hasher::new();
    for (name, bytes) in samples::images() {
        hasher.update(name.as_bytes());
        hasher.update(&bytes);
        if is_update() {
            std::fs::write(fixtures("golden").join(format!("{name}.hex")), dump(&bytes)).expect("write a fixture");
        }
        let expected = golden(name);
        let first = bytes.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            bytes == expected,
            "{name} differs from its golden image, first at byte {first:?}; see format/tests/mod.rs"
        );
    }
    let line = format!("golden: {:08x}", hasher.finalize());
    let document = include_str!("../../../FORMAT.md");
    assert!(document.contains(&line), "FORMAT.md must say \"{line}\"; check that its tables still describe the bytes");
}

#[test]
fn golden_images_decode_to_what_was_encoded() {
    assert_eq!(LabelPage::decode(&golden("label")), Ok(samples::label()));
    assert_eq!(RootPage::decode(&golden("root")), Ok(samples::root()));
    assert_eq!(NodePage::decode(&golden("node")), Ok(samples::node()));
    let batch = Batch::decode(&golden("batch")).expect("a batch");
    assert_eq!((batch.records, batch.header.sequence, batch.header.proven), (samples::records(), 1001, true));
    let table = TablePage::decode(&golden("table")).expect("a table");
    assert_eq!(table.entries, samples::table().entries);
    let leaf = Leaf::decode(&golden("leaf")).expect("a leaf");
    assert!(leaf.iter().eq(samples::leaf().iter()));
    let group = Group::decode(&golden("group")).expect("a group");
    assert_eq!((group.bits(), group.detail(500)), (samples::group().bits(), Some(Detail::Meta(0x00FF))));
    assert_eq!(group.summary(), 3 | 8 << 16);
    let directory = PatternPage::decode(&golden("pattern")).expect("a directory");
    assert_eq!(directory.entry(PatternId(255)), samples::directory().entry(PatternId(255)));
}

#[test]
fn what_later_versions_write_is_refused() {
    for word in [
        2 << 56 | 1,
        3 << 56 | 1,
        3 << 56 | 256 << 16 | 1,
        3 << 56 | 7 << 16,
        1 << 60 | 1 << 56 | 1,
        1 << 63,
        1 << 56,
        5,
    ] {
        assert!(Word(word).verify().is_err(), "{word:#x}");
    }
    let mut label = golden("label");
    label[8] = 2;
    let sum = checksum(&[&label[..12], &label[16..]]);
    label[12..16].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(LabelPage::decode(&label), Err(FormatError::Version(2)));
    for offset in [48, 176] {
        let mut root = golden("root");
        root[offset] = 2;
        let sum = checksum(&[&root[..12], &root[16..]]);
        root[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(RootPage::decode(&root).is_err(), "byte {offset}");
    }
}
