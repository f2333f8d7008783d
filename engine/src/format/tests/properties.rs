//! Whatever is encoded decodes to itself, and no flipped bit passes for the truth.

use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::samples;
use crate::format::*;

fn uuids() -> impl Strategy<Value = Uuid> {
    any::<[u8; 16]>().prop_map(Uuid::from_bytes)
}

fn names() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][-_.a-zA-Z0-9]{0,63}"
}

fn extents() -> impl Strategy<Value = ExtentId> {
    (0..=ExtentId::MAX).prop_map(ExtentId)
}

fn references() -> impl Strategy<Value = PageRef> {
    let some = (1u64.., 1u64.., any::<u64>(), any::<u32>(), any::<u32>());
    let some = some.prop_filter("two places", |(a, b, ..)| a != b).prop_map(|(a, b, generation, checksum, summary)| {
        PageRef { a: PageAddr(a), b: PageAddr(b), generation, checksum, summary }
    });
    prop_oneof![1 => Just(PageRef::NONE), 4 => some]
}

fn trees() -> impl Strategy<Value = TreeRoot> {
    (references(), 0..=HEIGHT_MAX).prop_map(|(reference, height)| TreeRoot { reference, height })
}

fn labels() -> impl Strategy<Value = LabelPage> {
    let ring = || (any::<u16>(), 0..1u64 << 48, 4..=1u64 << 24);
    let ring = move || ring().prop_map(|(device, page, pages)| RingPlace { device, page, pages });
    let shape = (16u32..=20, 0..1u64 << 20, 0..1u64 << 24, 0..1u64 << 40);
    let who = (any::<[u64; 3]>(), uuids(), uuids(), any::<u16>(), any::<u16>(), any::<u64>(), names());
    (shape, ring(), ring(), who).prop_map(|(shape, first, second, who)| {
        let (shift, extents_page, extents, extent_base) = shape;
        let (features, pool, device, index, devices, created_ms, name) = who;
        LabelPage {
            features,
            pool,
            device,
            index,
            devices,
            extent_bytes: 1 << shift,
            size: (extents_page << 12) + (extents << shift),
            extents_page,
            extents,
            extent_base,
            rings: [first, second],
            created_ms,
            name,
        }
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let state = prop_oneof![Just(EntryState::Ready), Just(EntryState::Shrinking), Just(EntryState::Deleting)];
    let sector = prop_oneof![Just(512u32), Just(4096)];
    let numbers = (1..=VDISK_BYTES_MAX / 4096, any::<u64>(), any::<u64>(), any::<u64>());
    (state, any::<bool>(), sector, numbers, uuids(), names(), trees()).prop_map(|all| {
        let (state, write_through, sector, (sectors, created_ms, backed, discard_from), uuid, name, tree) = all;
        let size = sectors * u64::from(sector);
        Entry { state, write_through, sector, size, uuid, created_ms, backed, discard_from, name, tree }
    })
}

fn records() -> impl Strategy<Value = Record> {
    let vdisk = || any::<u32>().prop_map(VdiskId);
    let at = || (0..1u64 << 38).prop_map(VirtualExtent);
    let blocks = || any::<u16>().prop_map(Blocks);
    prop_oneof![
        (vdisk(), at(), extents(), blocks(), any::<u32>()).prop_map(|(vdisk, at, extent, blocks, proof)| Record::Map {
            vdisk,
            at,
            extent,
            blocks,
            proof
        }),
        (vdisk(), at(), any::<u64>())
            .prop_map(|(vdisk, first, any)| { Record::Unmap { vdisk, first, count: 1 + any % ((1 << 38) - first.0) } }),
        (vdisk(), at(), blocks()).prop_map(|(vdisk, at, blocks)| Record::Clear { vdisk, at, blocks }),
        (vdisk(), entries()).prop_map(|(vdisk, entry)| Record::Put { vdisk, entry: Box::new(entry) }),
        vdisk().prop_map(|vdisk| Record::Remove { vdisk }),
        (any::<u64>(), vec((extents(), any::<u16>()), 0..40))
            .prop_map(|(generation, extents)| Record::Meta { generation, extents }),
        (any::<u64>(), any::<u32>()).prop_map(|(batch, index)| Record::Dropped { batch, index }),
        (vdisk(), at(), (extents(), extents()), blocks(), any::<u32>())
            .prop_map(|(vdisk, at, (from, to), blocks, proof)| Record::Move { vdisk, at, from, to, blocks, proof }),
    ]
}

/// Devices one after another, as a pool has them.
fn devices() -> impl Strategy<Value = Vec<DeviceSlot>> {
    let standing = prop_oneof![
        4 => Just(Standing::InUse),
        1 => any::<bool>().prop_map(|remove| Standing::Leaving { remove }),
        1 => Just(Standing::Hole),
    ];
    let device = (uuids(), 0..1u64 << 48, 0..1u64 << 30, 0..4u64, standing, any::<u32>());
    vec(device, 1..=DEVICES_MAX).prop_map(|devices| {
        let mut base = 0;
        let slots = devices.into_iter().enumerate().map(|(index, device)| {
            let (device, extents_page, extents, skipped, standing, rate_kib) = device;
            if standing == Standing::Hole && index > 0 {
                return DeviceSlot::HOLE;
            }
            let standing = if standing == Standing::Hole { Standing::InUse } else { standing };
            let extent_base = base + skipped * GROUP_EXTENTS;
            base = (extent_base + extents).next_multiple_of(GROUP_EXTENTS);
            DeviceSlot { device, size: extents << 16 | 4096, extents_page, extents, extent_base, standing, rate_kib }
        });
        slots.collect()
    })
}

fn roots() -> impl Strategy<Value = RootPage> {
    let start = (any::<u64>(), any::<u64>(), any::<u32>());
    let numbers = (any::<[u64; 5]>(), any::<bool>(), any::<[u64; 2]>());
    (uuids(), numbers, start, trees(), trees(), devices()).prop_map(|all| {
        let (pool, (numbers, clean, rings), start, groups, table, devices) = all;
        let [generation, life, data_extents, meta_extents, meta_sequence] = numbers;
        RootPage {
            pool,
            generation,
            life,
            clean,
            journal: JournalStart { sequence: start.0, position: start.1, previous: start.2 },
            groups,
            table,
            data_extents,
            meta_extents,
            meta_sequence,
            rings: rings.map(|ring| PageAddr::new((ring % devices.len() as u64) as u16, ring >> 16)),
            devices,
        }
    })
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let bit = bit % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_label_comes_back_and_no_flipped_bit_passes(label in labels(), bit: usize) {
        let mut page = vec![0xA5; PAGE_BYTES];
        label.encode(&mut page);
        prop_assert_eq!(LabelPage::decode(&page), Ok(label));
        prop_assert!(LabelPage::decode(&flipped(&page, bit)).is_err());
    }

    #[test]
    fn a_root_comes_back_and_no_flipped_bit_passes(root in roots(), bit: usize) {
        let mut page = vec![0xA5; PAGE_BYTES];
        root.encode(&mut page);
        prop_assert_eq!(RootPage::decode(&page), Ok(root));
        prop_assert!(RootPage::decode(&flipped(&page, bit)).is_err());
    }

    #[test]
    fn a_batch_comes_back_and_no_flipped_bit_passes(records in vec(records(), 0..30), proven: bool, bit: usize) {
        let bytes = samples::sealed(&records, 17, proven);
        let batch = Batch::decode(&bytes).expect("a batch");
        prop_assert_eq!((batch.header.sequence, batch.header.covered, batch.header.proven), (17, 16, proven));
        prop_assert_eq!(Some(batch.pages), Batch::claimed_pages(&bytes));
        prop_assert_eq!(batch.pages as usize * PAGE_BYTES, bytes.len());
        let payload: usize = records.iter().map(Record::encoded_len).sum();
        prop_assert_eq!(batch.records, records);
        let bad = flipped(&bytes[..BATCH_HEADER_BYTES + payload], bit);
        prop_assert!(Batch::decode(&bad).is_err());
    }

    #[test]
    fn records_have_the_length_they_say(records in vec(records(), 0..30)) {
        let mut bytes = Vec::new();
        for record in &records {
            let before = bytes.len();
            record.encode(&mut bytes);
            prop_assert_eq!(bytes.len() - before, record.encoded_len());
            prop_assert_eq!(bytes.len() % 8, 0);
        }
        prop_assert_eq!(Record::decode_all(&bytes), Ok(records));
    }

    #[test]
    fn a_mapped_word_says_what_it_was_told(extent in extents(), blocks in 1u16..) {
        let word = Word::mapped(extent, Blocks(blocks));
        prop_assert!(word.is_mapped() && word.verify().is_ok());
        prop_assert_eq!((word.extent(), word.valid()), (extent, Blocks(blocks)));
    }

    #[test]
    fn a_sealed_page_is_told_from_any_other(page in vec(any::<u8>(), PAGE_BYTES), a in 1u64.., bit: usize) {
        let places = (PageAddr(a), PageAddr(a ^ 1 | 2));
        let reference = PageRef::seal(PageType::Leaf, places, 9, 0, &page);
        prop_assert!(reference.verifies(PageType::Leaf, &page));
        prop_assert!(!reference.verifies(PageType::Leaf, &flipped(&page, bit)));
        prop_assert!(!reference.verifies(PageType::Group, &page));
        let others = [
            PageRef { generation: 8, ..reference },
            PageRef { a: PageAddr(a ^ 4), ..reference },
            PageRef { b: PageAddr(reference.b.0 ^ 4), ..reference },
        ];
        prop_assert!(others.iter().all(|other| !other.verifies(PageType::Leaf, &page)));
        prop_assert!(!reference.verifies(PageType::Leaf, &page[..PAGE_BYTES - 1]));
    }

    #[test]
    fn a_node_comes_back(references in vec(references(), NODE_FANOUT)) {
        let mut page = vec![0; PAGE_BYTES];
        NodePage::encode(references.clone().into_iter(), &mut page);
        prop_assert_eq!(NodePage::decode(&page), Ok(references));
    }

    #[test]
    fn a_group_comes_back_with_its_summary(uses in vec((0..GROUP_EXTENTS as usize, 0u8..3, 1u16..), 0..300)) {
        let mut group = Group::empty();
        for (slot, kind, pages) in uses {
            match kind {
                0 => group.set_free(slot),
                1 => group.set_data(slot),
                _ => group.set_meta(slot, pages),
            }
        }
        let mut page = vec![0; PAGE_BYTES];
        group.encode(&mut page);
        let back = Group::decode(&page).expect("a group");
        prop_assert_eq!(back.bits(), group.bits());
        prop_assert_eq!(back.summary(), group.summary());
        prop_assert!(back.meta().eq(group.meta()));
    }

    #[test]
    fn a_table_page_comes_back(slots in vec(proptest::option::of(entries()), TABLE_ENTRIES)) {
        let mut table = TablePage::empty();
        table.entries.clone_from_slice(&slots);
        let mut page = vec![0xA5; PAGE_BYTES];
        table.encode(&mut page);
        prop_assert_eq!(TablePage::decode(&page).expect("a table").entries, table.entries);
    }
}

#[test]
fn names_that_nobody_could_address_are_refused() {
    for name in ["", "a/b", "-a", ".", "a b", "a\n", "\u{e4}"] {
        let value = name.len() as u64;
        let mut page = vec![0; PAGE_BYTES];
        LabelPage { name: name.into(), ..samples::label() }.encode(&mut page);
        assert_eq!(LabelPage::decode(&page), Err(FormatError::Field { field: "pool name", value }), "{name:?}");
        let mut bytes = Vec::new();
        Entry { name: name.into(), ..samples::entry() }.encode(&mut bytes);
        assert_eq!(Entry::decode(&bytes), Err(FormatError::Field { field: "vdisk name", value }), "{name:?}");
    }
}
