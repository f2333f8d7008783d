//! Whatever is encoded decodes to itself, and no flipped bit passes for the truth.

use std::time::Duration;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::samples;
use crate::event::Level;
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
    let ring = || (any::<u16>(), 0..1u64 << 48);
    let shape =
        (16u32..=20, 0..1u64 << 20, 0..1u64 << 24, (0..1u64 << 30).prop_map(|group| group << 10), 4..=1u64 << 24);
    let who = (any::<[u64; 3]>(), uuids(), uuids(), any::<u16>(), any::<u16>(), any::<u64>(), names());
    (shape, ring(), ring(), who).prop_map(|(shape, first, second, who)| {
        let (shift, extents_page, extents, extent_base, pages) = shape;
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
            rings: [first, second].map(|(device, page)| RingPlace { device, page, pages }),
            created_ms,
            name,
        }
    })
}

fn percents() -> impl Strategy<Value = Levels> {
    let some = btree_set(1u8..=100, 1..=4).prop_map(|set| Levels::At(set.into_iter().map(Level::Percent).collect()));
    prop_oneof![Just(Levels::Default), Just(Levels::Off), some]
}

fn vdisk_levels() -> impl Strategy<Value = Levels> {
    let mib = |mib: u32| Level::Bytes(u64::from(mib) << 20);
    let sizes = btree_set(1u32.., 1..=4).prop_map(move |set| Levels::At(set.into_iter().map(mib).collect()));
    prop_oneof![percents(), sizes]
}

fn vdisk_policies() -> impl Strategy<Value = VdiskPolicy> {
    let hold = (2u32..).prop_map(|ms| OnFull::Hold(Duration::from_millis(u64::from(ms))));
    let on_full = prop_oneof![Just(OnFull::Fail), Just(OnFull::default()), hold];
    let promises = (any::<u64>(), option::of(1u64..), any::<bool>(), any::<bool>());
    (option::of(names()), option::of(names()), on_full, promises, vdisk_levels(), vdisk_levels()).prop_map(|all| {
        let (tenant, vm, on_full, (reservation, quota, keep_zeros, keep_patterns), levels, quota_levels) = all;
        VdiskPolicy { tenant, vm, on_full, reservation, quota, keep_zeros, keep_patterns, levels, quota_levels }
    })
}

fn pool_policies() -> impl Strategy<Value = PoolPolicy> {
    let limit = prop_oneof![
        (0u64..1 << 63).prop_map(OvercommitLimit::Bytes),
        (1u64..(1 << 63) - 1).prop_map(OvercommitLimit::Ratio),
    ];
    let bytes = btree_set(1u64..1 << 63, 1..=4).prop_map(|set| Levels::At(set.into_iter().map(Level::Bytes).collect()));
    let horizons = btree_set(1u64..1 << 30, 0..=4)
        .prop_map(|set| set.into_iter().rev().map(Duration::from_secs).collect::<Vec<_>>());
    (option::of(limit), prop_oneof![percents(), bytes], option::of(0u8..100), option::of(horizons), option::of(1u64..))
        .prop_map(|(overcommit_limit, levels, hysteresis_pct, horizons, hold_bytes)| PoolPolicy {
            overcommit_limit,
            levels,
            hysteresis_pct,
            horizons,
            hold_bytes,
        })
}

fn entries() -> impl Strategy<Value = Entry> {
    let state = prop_oneof![Just(EntryState::Ready), Just(EntryState::Shrinking), Just(EntryState::Deleting)];
    let sector = prop_oneof![Just(512u32), Just(4096)];
    let numbers = (1..=VDISK_BYTES_MAX / 4096, any::<u64>(), any::<u64>(), any::<u64>());
    let reclaim = option::of((0..VDISK_BYTES_MAX, any::<bool>(), any::<u32>()));
    let reclaim =
        reclaim.prop_map(|some| some.map(|(cursor, paused, rate_mib)| ReclaimState { cursor, paused, rate_mib }));
    let flags = (any::<bool>(), reclaim, option::of(patterns()));
    (state, flags, sector, numbers, uuids(), names(), trees(), vdisk_policies()).prop_map(|all| {
        let (state, flags, sector, (sectors, created_ms, backed, discard_from), uuid, name, tree, policy) = all;
        let (write_through, reclaim, pattern) = flags;
        let size = sectors * u64::from(sector);
        Entry {
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
        }
    })
}

fn patterns() -> impl Strategy<Value = PatternId> {
    (1..=PATTERNS_MAX).prop_map(PatternId)
}

fn pattern_records() -> impl Strategy<Value = PatternRecord> {
    let states = [PatternState::Everywhere, PatternState::Disabled, PatternState::OwnOnly];
    let unit = (0u32..=12, any::<u8>(), 0..states.len(), any::<u64>());
    let some = unit.prop_map(move |(shift, byte, state, created_ms)| {
        let mut unit = vec![byte; 1 << shift];
        unit[0] |= 1;
        PatternRecord { state: Some(states[state]), created_ms, unit }
    });
    let none = any::<u64>().prop_map(|created_ms| PatternRecord { state: None, created_ms, unit: Vec::new() });
    prop_oneof![4 => some, 1 => none]
}

fn records() -> impl Strategy<Value = Record> {
    let vdisk = || any::<u32>().prop_map(VdiskId);
    let at = || (0..1u64 << 38).prop_map(VirtualExtent);
    let blocks = || (1u16..).prop_map(Blocks);
    prop_oneof![
        (vdisk(), at(), extents(), blocks(), any::<u32>(), any::<bool>()).prop_map(
            |(vdisk, at, extent, blocks, proof, over_fill)| Record::Map { vdisk, at, extent, blocks, proof, over_fill }
        ),
        (vdisk(), at(), 1u16.., patterns(), option::of(extents())).prop_map(|(vdisk, at, blocks, pattern, freed)| {
            Record::Fill { vdisk, at, blocks: Blocks(blocks), pattern, freed }
        }),
        (patterns(), pattern_records()).prop_map(|(pattern, now)| Record::Pattern { pattern, now }),
        (vdisk(), at(), any::<u64>())
            .prop_map(|(vdisk, first, any)| { Record::Unmap { vdisk, first, count: 1 + any % ((1 << 38) - first.0) } }),
        (vdisk(), at(), blocks()).prop_map(|(vdisk, at, blocks)| Record::Clear { vdisk, at, blocks }),
        (vdisk(), entries()).prop_map(|(vdisk, entry)| Record::Put { vdisk, entry: Box::new(entry) }),
        vdisk().prop_map(|vdisk| Record::Remove { vdisk }),
        (any::<u64>(), vec((extents(), any::<u16>()), 0..40))
            .prop_map(|(generation, extents)| Record::Meta { generation, extents }),
        (any::<u64>(), any::<u32>()).prop_map(|(batch, index)| Record::Dropped { batch, index }),
        pool_policies().prop_map(|policy| Record::Policy(Box::new(policy))),
        (vdisk(), at(), (extents(), extents()), blocks(), any::<u32>())
            .prop_map(|(vdisk, at, (from, to), blocks, proof)| Record::Move { vdisk, at, from, to, blocks, proof }),
        (
            vdisk(),
            0..1u64 << 29,
            extents(),
            blocks(),
            any::<u32>(),
            vec((0u16..512, blocks(), option::of(0u32..8)), 1..40)
        )
            .prop_map(|(vdisk, leaf, to, places, proof, words)| {
                let word = |blocks, turn: Option<u32>| match turn {
                    Some(turn) => Word::packed(to, blocks, turn * 2),
                    None => Word::mapped(to, blocks),
                };
                let words = words.into_iter().map(|(slot, blocks, turn)| (slot, word(blocks, turn))).collect();
                Record::Remap { vdisk, leaf, to, places, proof, words }
            }),
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
    let start = (1u64.., any::<u64>(), any::<u32>());
    let numbers = (any::<[u64; 5]>(), any::<bool>(), any::<[u64; 2]>());
    (uuids(), numbers, start, (trees(), trees(), trees()), devices(), pool_policies()).prop_map(|all| {
        let (pool, (numbers, clean, rings), start, (groups, table, patterns), devices, policy) = all;
        let [generation, life, data_extents, meta_extents, meta_sequence] = numbers;
        RootPage {
            pool,
            generation,
            life,
            clean,
            journal: JournalStart { sequence: start.0, position: start.1, previous: start.2 },
            groups,
            table,
            patterns,
            data_extents,
            meta_extents,
            meta_sequence,
            rings: rings.map(|ring| PageAddr::new((ring % devices.len() as u64) as u16, ring >> 16)),
            devices,
            policy,
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
    fn a_packed_word_says_what_it_was_told(extent in extents(), blocks in 1u16.., turn in 0u32..8) {
        let (valid, turn) = (Blocks(blocks), turn * 2);
        let word = Word::packed(extent, valid, turn);
        prop_assert!(word.is_mapped() && word.is_packed() && !word.is_fill() && word.verify().is_ok());
        prop_assert_eq!((word.extent(), word.valid(), word.turn()), (extent, valid, turn));
        prop_assert!(!Word::mapped(extent, valid).is_packed());
        // Every byte of a block lies in the place of its block, wherever a range is cut.
        for block in valid.iter() {
            let place = word.places(Blocks::range(block, block + 1)).iter().next();
            let parts: Vec<_> = word.parts(u64::from(block) * 4096 + 7, 100, 65_536).collect();
            prop_assert_eq!(parts, vec![(u64::from(place.unwrap()) * 4096 + 7, 100)]);
        }
        let whole: Vec<_> = word.parts(0, 65_536, 65_536).collect();
        prop_assert_eq!(whole.iter().map(|(_, length)| length).sum::<u64>(), 65_536);
    }

    #[test]
    fn a_filled_word_says_what_it_was_told_and_has_nothing_in_an_extent(pattern in patterns(), blocks in 1u16..) {
        let word = Word::fill(pattern, Blocks(blocks));
        prop_assert!(word.is_fill() && !word.is_mapped() && word.verify().is_ok());
        prop_assert_eq!((word.pattern(), word.filled(), word.valid()), (pattern, Blocks(blocks), Blocks::NONE));
        prop_assert_eq!(word.without(Blocks::ALL), Word::UNMAPPED);
        let runs: Vec<u32> = Blocks(blocks).runs().flatten().collect();
        prop_assert_eq!(runs, Blocks(blocks).iter().collect::<Vec<_>>());
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
