//! One of each struct, the same on every machine.

use std::time::Duration;

use bytes::BufMut;
use uuid::Uuid;

use crate::event::Level;
use crate::format::*;

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

pub(super) fn label() -> LabelPage {
    LabelPage {
        features: [0, 0, 0x8000],
        pool: uuid(0x11),
        device: uuid(0x22),
        index: 1,
        devices: 2,
        extent_bytes: 65_536,
        size: 1 << 30,
        extents_page: 1040,
        extents: 16_000,
        extent_base: 2048,
        rings: [RingPlace { device: 0, page: 16, pages: 1024 }, RingPlace { device: 1, page: 16, pages: 1024 }],
        created_ms: 1_767_225_600_123,
        name: "tank-1.a_b".into(),
    }
}

pub(super) fn reference(seed: u64) -> PageRef {
    PageRef {
        a: PageAddr::new(0, 0x1000 + seed),
        b: PageAddr::new(1, 0x2000 + seed),
        generation: 7 + seed,
        checksum: 0xDEAD_0000 + seed as u32,
        summary: 512,
    }
}

pub(super) fn root() -> RootPage {
    let device = |byte: u8, base| DeviceSlot {
        device: uuid(byte),
        size: 1 << 30,
        extents_page: 1040,
        extents: 16_000,
        extent_base: base,
        standing: if base == 0 { Standing::InUse } else { Standing::Leaving { remove: true } },
        rate_kib: if base == 0 { 0 } else { 102_400 },
    };
    RootPage {
        pool: uuid(0x11),
        generation: 42,
        life: 0x0123_4567_89AB_CDEF,
        clean: true,
        journal: JournalStart { sequence: 1001, position: 5005, previous: 0xCAFE_F00D },
        groups: TreeRoot { reference: reference(1), height: 1 },
        table: TreeRoot { reference: reference(2), height: 2 },
        patterns: TreeRoot { reference: reference(6), height: 1 },
        data_extents: 12_345,
        meta_extents: 67,
        meta_sequence: 1003,
        rings: [PageAddr::NONE, PageAddr::new(1, 300_000)],
        devices: vec![device(0x21, 0), DeviceSlot::HOLE, device(0x22, 16_384)],
        policy: pool_policy(),
    }
}

fn pool_policy() -> PoolPolicy {
    PoolPolicy {
        overcommit_limit: Some(OvercommitLimit::Ratio(1500)),
        levels: Levels::At(vec![Level::Bytes(1 << 40), Level::Bytes(2 << 40)]),
        hysteresis_pct: Some(3),
        horizons: Some(vec![Duration::from_secs(7200), Duration::from_secs(60)]),
        hold_bytes: Some(32 << 20),
    }
}

pub(super) fn entry() -> Entry {
    Entry {
        state: EntryState::Shrinking,
        write_through: true,
        sector: 512,
        size: 3 << 40,
        uuid: uuid(0x33),
        created_ms: 1_767_225_600_456,
        backed: 99,
        discard_from: 4 << 40,
        name: "db1".into(),
        tree: TreeRoot { reference: reference(3), height: 3 },
        policy: VdiskPolicy {
            tenant: Some("acme".into()),
            vm: Some("mail-1".into()),
            on_full: OnFull::Hold(Duration::from_secs(90)),
            reservation: 5 << 30,
            quota: Some(9 << 30),
            keep_zeros: true,
            keep_patterns: false,
            levels: Levels::At(vec![Level::Percent(50), Level::Percent(90)]),
            quota_levels: Levels::At(vec![Level::Bytes(6 << 30), Level::Bytes(8 << 30)]),
        },
        reclaim: Some(ReclaimState { cursor: 5 << 30, paused: true, rate_mib: 200 }),
        pattern: Some(PatternId(7)),
    }
}

pub(super) fn pattern() -> PatternRecord {
    PatternRecord { state: Some(PatternState::OwnOnly), created_ms: 1_767_225_600_789, unit: vec![1, 2, 3, 4] }
}

pub(super) fn directory() -> PatternPage {
    let mut page = PatternPage::empty();
    let entry = PatternEntry { state: PatternState::Everywhere, unit_bytes: 4096, created_ms: 1_767_225_600_789 };
    page.set_entry(PatternId(1), Some(entry));
    page.set_entry(PatternId(255), Some(PatternEntry { state: PatternState::Disabled, unit_bytes: 1, ..entry }));
    page
}

pub(super) fn records() -> Vec<Record> {
    let vdisk = VdiskId(5);
    vec![
        Record::Map {
            vdisk,
            at: VirtualExtent(77),
            extent: ExtentId(88),
            blocks: Blocks(0x8001),
            proof: 0x1234_5678,
            over_fill: true,
        },
        Record::Unmap { vdisk, first: VirtualExtent(1000), count: 512 },
        Record::Clear { vdisk, at: VirtualExtent(77), blocks: Blocks(0x0001) },
        Record::Put { vdisk, entry: Box::new(entry()) },
        Record::Remove { vdisk: VdiskId(6) },
        Record::Meta { generation: 43, extents: vec![(ExtentId(9), 0xFFFE), (ExtentId(4000), 0)] },
        Record::Dropped { batch: 999, index: 3 },
        Record::Policy(Box::new(pool_policy())),
        Record::Fill {
            vdisk,
            at: VirtualExtent(78),
            blocks: Blocks(0x00FF),
            pattern: PatternId(7),
            freed: Some(ExtentId(89)),
        },
        Record::Pattern { pattern: PatternId(7), now: pattern() },
        Record::Move {
            vdisk,
            at: VirtualExtent(78),
            from: ExtentId(89),
            to: ExtentId(20_000),
            blocks: Blocks(0x00FF),
            proof: 0x8765_4321,
        },
        Record::Remap {
            vdisk,
            leaf: 3,
            to: ExtentId(20_001),
            places: Blocks(0x0FF0),
            proof: 0x1234_5678,
            words: vec![
                (0, Word::packed(ExtentId(20_001), Blocks(0x000F), 0)),
                (511, Word::packed(ExtentId(20_001), Blocks(0x03FC), 2)),
                (7, Word::mapped(ExtentId(20_001), Blocks(0x8000))),
            ],
        },
    ]
}

pub(super) fn batch() -> Vec<u8> {
    sealed(&records(), 1001, true)
}

/// A batch in whole pages.
pub(super) fn sealed(records: &[Record], sequence: u64, proven: bool) -> Vec<u8> {
    let mut bytes = vec![0; BATCH_HEADER_BYTES];
    for record in records {
        record.encode(&mut bytes);
    }
    let payload = bytes.len() - BATCH_HEADER_BYTES;
    bytes.resize(pages_of(payload) * PAGE_BYTES, 0);
    let header = BatchHeader {
        pool: uuid(0x11),
        life: 0x0123_4567_89AB_CDEF,
        sequence,
        previous: 0xCAFE_F00D,
        covered: sequence - 1,
        proven,
    };
    seal_batch(&header, payload, &mut bytes);
    bytes
}

pub(super) fn leaf() -> Leaf {
    let mut leaf = Leaf::empty();
    leaf.set(0, Word::mapped(ExtentId(0), Blocks::ALL));
    leaf.set(1, Word::mapped(ExtentId(ExtentId::MAX), Blocks(1)));
    leaf.set(2, Word::fill(PatternId(7), Blocks(0xFF00)));
    leaf.set(3, Word::packed(ExtentId(0x12_3457), Blocks(0x00F0), 14));
    leaf.set(511, Word::mapped(ExtentId(0x12_3456), Blocks(0x5555)));
    leaf
}

pub(super) fn group() -> Group {
    let mut group = Group::empty();
    group.set_data(0);
    group.set_data(1023);
    group.set_meta(500, 0x00FF);
    group
}

pub(super) fn table() -> TablePage {
    let mut table = TablePage::empty();
    table.entries[0] = Some(entry());
    table.entries[7] = Some(Entry { state: EntryState::Ready, sector: 4096, name: "x".repeat(64), ..entry() });
    table
}

pub(super) fn node() -> Vec<PageRef> {
    let mut references = vec![PageRef::NONE; NODE_FANOUT];
    references[0] = reference(4);
    references[127] = reference(5);
    references
}

/// The header of the tail and one half with two records.
pub(super) fn tail_half() -> Vec<u8> {
    let mut records = Vec::new();
    for record in &super::samples::records()[..2] {
        record.encode(&mut records);
    }
    let mut half = Vec::new();
    half.put_u64_le(1002);
    half.put_u64_le(records.len() as u64);
    half.extend(records);
    half
}

/// Bytes of each struct, by name.
pub(super) fn images() -> Vec<(&'static str, Vec<u8>)> {
    let page = |write: &dyn Fn(&mut [u8])| {
        let mut bytes = vec![0; PAGE_BYTES];
        write(&mut bytes);
        bytes
    };
    vec![
        ("batch", batch()),
        ("group", page(&|bytes| group().encode(bytes))),
        ("half", tail_half()),
        ("label", page(&|bytes| label().encode(bytes))),
        ("leaf", page(&|bytes| leaf().encode(bytes))),
        ("node", page(&|bytes| NodePage::encode(node().into_iter(), bytes))),
        ("pattern", page(&|bytes| directory().encode(bytes))),
        ("root", page(&|bytes| root().encode(bytes))),
        ("table", page(&|bytes| table().encode(bytes))),
    ]
}
