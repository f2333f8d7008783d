//! `FORMAT.md` against the code: its layout tables leave no gap, and every finding of a check has its invariant.

use crate::format::*;

const DOCUMENT: &str = include_str!("../../../FORMAT.md");

/// Offset and bytes of each row.
type Rows = Vec<(usize, usize)>;

/// Name, size, and rows of each table marked `<!-- layout NAME SIZE -->`.
fn layouts() -> Vec<(String, usize, Rows)> {
    let mut found = Vec::new();
    for part in DOCUMENT.split("<!-- layout ").skip(1) {
        let (mark, rest) = part.split_once("-->").expect("the end of a mark");
        let (name, size) = mark.trim().split_once(' ').expect("a name and a size");
        let table = rest.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|'));
        let rows = table.skip(2).map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].parse().expect("an offset"), cells[2].parse().expect("a number of bytes"))
        });
        found.push((name.to_owned(), size.parse().expect("a size"), rows.collect()));
    }
    found
}

#[test]
fn layout_tables_cover_every_byte_once() {
    for (name, size, rows) in layouts() {
        let mut at = 0;
        for (offset, bytes) in rows {
            assert_eq!(offset, at, "{name}: the row at {offset} does not follow the one that ends at {at}");
            at += bytes;
        }
        assert_eq!(at, size, "{name} ends at {at} and has {size} bytes");
    }
}

#[test]
fn layout_tables_have_the_sizes_of_the_code() {
    let vdisk = VdiskId(0);
    let record = |record: Record| record.encoded_len();
    let entry = Box::new(super::samples::entry());
    let expected = [
        ("label", PAGE_BYTES),
        ("root", PAGE_BYTES),
        ("device", 56),
        ("pool_policy", POOL_POLICY_BYTES),
        ("reference", PAGE_BYTES / NODE_FANOUT),
        ("pattern", 16),
        ("entry", ENTRY_BYTES),
        ("vdisk_policy", VDISK_POLICY_BYTES),
        ("batch", BATCH_HEADER_BYTES),
        ("MAP", MAP_RECORD_BYTES),
        ("UNMAP", record(Record::Unmap { vdisk, first: VirtualExtent(0), count: 0 })),
        ("CLEAR", record(Record::Clear { vdisk, at: VirtualExtent(0), blocks: Blocks::NONE })),
        ("PUT", record(Record::Put { vdisk, entry })),
        ("REMOVE", record(Record::Remove { vdisk })),
        ("META", record(Record::Meta { generation: 0, extents: vec![(ExtentId(0), 0)] })),
        ("DROPPED", record(Record::Dropped { batch: 0, index: 0 })),
        ("FILL", FILL_RECORD_BYTES),
        ("POLICY", record(Record::Policy(Box::default()))),
        ("MOVE", MOVE_RECORD_BYTES),
        ("REMAP", remap_record_bytes(1)),
        ("PATTERN", record(Record::Pattern { pattern: PatternId(1), now: super::samples::pattern() })),
        ("tail", 32),
        ("half", HALF_HEADER_BYTES),
    ];
    let found: Vec<(String, usize)> = layouts().into_iter().map(|(name, size, _)| (name, size)).collect();
    assert_eq!(found, expected.map(|(name, size)| (name.to_owned(), size)));
}

#[test]
fn every_finding_of_a_check_has_a_numbered_invariant() {
    let check = include_str!("../../pool/check.rs");
    let start = check.find("A stable kebab-case word").expect("the list of kinds");
    let list = &check[start..start + check[start..].find("pub kind").expect("the field")];
    let kinds: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert!(kinds.len() >= 11, "{kinds:?}");
    for kind in kinds {
        let row = DOCUMENT.lines().find(|line| line.starts_with("| I") && line.contains(&format!("`{kind}`")));
        assert!(row.is_some(), "FORMAT.md has no invariant for {kind}");
    }
}
