//! The checker is checked: for every finding that `FORMAT.md` lists, something that breaks its invariant is planted, in memory
//! or on the device. Exactly that must be found, by an inspection and by an open pool; a repair mends it or says that it cannot.

mod figures;
mod healed;
mod room;

use std::collections::BTreeSet;
use std::rc::Rc;

use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};
use plimsoll_hardware::{Device, Machine};

use crate::format::{
    Blocks, Detail, ExtentId, LEAF_WORDS, PAGE_BYTES, PageAddr, PageType, PatternId, VirtualExtent, Word,
};
use crate::pool::layout::{label_places, root_places};
use crate::tree::Tree;
use crate::vdisk::{Store, VdiskCore};
use crate::{CheckReport, CreatePool, CreateVdisk, OpenPool, PatternSpec, PatternUse, Pool};

type Sim = Store<SimMachine>;

/// Three allocation groups of 64 MiB: one may be lost, and checkpoints find room in another.
const DEVICE_BYTES: u64 = 180 << 20;

/// What breaks an invariant.
enum Plant {
    /// Something in memory, which the next checkpoint writes with sums that are right.
    Memory(fn(&Sim)),
    /// Byte offsets of pages to be overwritten with noise.
    Pages(fn(&Sim) -> Vec<u64>),
}

/// The findings that must be there and no others, whether a repair mends them, and what is planted for it.
const PLANTS: &[(&[&str], bool, Plant)] = &[
    (&["bad-copy"], true, Plant::Pages(|store| vec![offset(leaf(store)[0])])),
    (&["bad-copy"], true, Plant::Pages(|store| vec![offset(leaf(store)[1])])),
    (&["bad-copy"], true, Plant::Pages(|_| vec![label_places(DEVICE_BYTES)[1]])),
    (&["lost-page"], true, Plant::Pages(|store| leaf(store).map(offset).to_vec())),
    (&["lost-page"], true, Plant::Pages(|store| table(store).map(offset).to_vec())),
    // What the journal gave a vdisk in a group that nobody can read is not counted.
    (&["count-mismatch", "lost-page"], true, Plant::Pages(|store| group(store).map(offset).to_vec())),
    (&["doubly-owned-extent"], false, Plant::Memory(|store| map(store, "b", 100, word(store, "a", 0).extent()))),
    // Nor is it held, so what is taken does not add up either.
    (&["count-mismatch", "unallocated-extent"], true, Plant::Memory(deny_an_extent)),
    (&["count-mismatch", "unallocated-extent"], true, Plant::Memory(call_it_metadata)),
    (&["leaked-extent"], true, Plant::Memory(|store| assert!(store.space.replay_allocate(free_extent(store))))),
    (&["impossible-extent"], false, Plant::Memory(|store| map(store, "b", 100, ExtentId(1 << 30)))),
    (&["doubly-owned-extent", "doubly-used-page"], false, Plant::Memory(share_a_tree)),
    (&["unallocated-page"], true, Plant::Memory(deny_a_page)),
    (&["leaked-page"], true, Plant::Memory(keep_a_page)),
    (&["count-mismatch"], true, Plant::Memory(|store| miscount(store, "a"))),
    (&["count-mismatch"], true, Plant::Memory(|store| store.space.correct(3, -1))),
    (&["journal-damaged"], true, Plant::Pages(|store| batch(store, 1))),
    (&["unknown-pattern"], true, Plant::Memory(|store| fill(store, "b", 101, 200))),
    // A pattern's page costs what is stored by its number.
    (&["lost-page", "unknown-pattern"], true, Plant::Pages(|store| pattern(store, 1))),
    (&["lost-page"], true, Plant::Pages(|store| pattern(store, 0))),
    // The first batch says what pages the checkpoint took.
    (&["journal-damaged", "unallocated-page"], true, Plant::Pages(|store| batch(store, 0))),
];

fn core(store: &Sim, name: &str) -> Rc<VdiskCore> {
    let id = store.names.borrow()[name];
    store.vdisks.borrow()[&id].clone()
}

fn offset(address: PageAddr) -> u64 {
    address.page() * PAGE_BYTES as u64
}

/// Both copies of the only leaf of vdisk `a`.
fn leaf(store: &Sim) -> [PageAddr; 2] {
    let root = core(store, "a").entry.borrow().tree;
    assert_eq!(root.height, 0, "the tree is higher than its one leaf");
    [root.reference.a, root.reference.b]
}

/// Both copies of the only page of the vdisk table.
fn table(store: &Sim) -> [PageAddr; 2] {
    let root = store.root.borrow().table.reference;
    [root.a, root.b]
}

/// Both copies of the page of allocation group 0.
fn group(store: &Sim) -> [PageAddr; 2] {
    let pages = store.space.tree.borrow().pages();
    let group = pages.iter().find(|page| page.kind == PageType::Group && page.first == 0).expect("the group's page");
    [group.reference.a, group.reference.b]
}

/// A batch of one page behind the checkpoint, in both rings.
fn batch(store: &Sim, number: u64) -> Vec<u64> {
    let position = store.root.borrow().journal.position + number;
    let places = store.journal.rings().into_iter().map(|ring| ring.page + position % ring.pages);
    places.map(|page| page * PAGE_BYTES as u64).collect()
}

fn word(store: &Sim, name: &str, at: u64) -> Word {
    let vdisk = core(store, name);
    let tree = vdisk.mapping.tree.borrow();
    match tree.get(0) {
        crate::tree::Found::Page(leaf) => leaf.get(VirtualExtent(at).slot()),
        _ => panic!("the leaf of {name} is not in memory"),
    }
}

fn map(store: &Sim, name: &str, at: u64, extent: ExtentId) {
    let vdisk = core(store, name);
    vdisk.mapping.set(&store.cache, VirtualExtent(at), Word::mapped(extent, Blocks::ALL));
    store.space.ledger.shift(&vdisk.mapping.account, |account| account.backed.set(account.backed.get() + 1));
}

fn fill(store: &Sim, name: &str, at: u64, pattern: u16) {
    core(store, name).mapping.set(&store.cache, VirtualExtent(at), Word::fill(PatternId(pattern), Blocks::ALL));
}

/// Both copies of a page of the pattern table.
fn pattern(store: &Sim, page: u64) -> Vec<u64> {
    let pages = store.patterns.tree.borrow().pages();
    let found = pages.iter().find(|seen| seen.kind == PageType::Pattern && seen.first == page).expect("the page");
    vec![offset(found.reference.a), offset(found.reference.b)]
}

fn free_extent(store: &Sim) -> ExtentId {
    let last = u64::from(store.space.group_size(0)) - 1;
    let free = (0..=last).rev().map(ExtentId).find(|&extent| !store.space.is_allocated(extent));
    free.expect("an extent that nobody has")
}

/// An extent of metadata in group 0 whose pages in use are so.
fn metadata(store: &Sim, wanted: fn(u16) -> bool) -> (ExtentId, u16) {
    let extents = (0..u64::from(store.space.group_size(0))).map(ExtentId);
    let mut metadata = extents.filter_map(|extent| match store.space.detail(extent) {
        Some(Detail::Meta(pages)) if wanted(pages) => Some((extent, pages)),
        _ => None,
    });
    metadata.next().expect("such an extent of metadata")
}

/// The group says of a page that it is free. The extent is full, so nobody looks for one in it.
fn deny_a_page(store: &Sim) {
    let (extent, pages) = metadata(store, |pages| pages == u16::MAX);
    store.space.tree.borrow_mut().change(0).set_meta(extent.0 as usize, pages & !(1 << 7));
}

fn keep_a_page(store: &Sim) {
    let (extent, pages) = metadata(store, |pages| pages >> 15 == 0);
    store.space.set_meta(extent, pages | 1 << 15);
}

fn miscount(store: &Sim, name: &str) {
    let vdisk = core(store, name);
    store.space.ledger.shift(&vdisk.mapping.account, |account| account.backed.set(account.backed.get() + 7));
    store.put_in_table(&vdisk);
}

/// A group says of an extent of data that it is free. The allocator does not, so nobody takes it.
fn deny_an_extent(store: &Sim) {
    let extent = word(store, "a", 5).extent();
    store.space.tree.borrow_mut().change(0).set_free(extent.0 as usize);
    store.space.correct(-1, 0);
}

/// A group says of an extent of data that it is full of metadata.
fn call_it_metadata(store: &Sim) {
    store.space.set_meta(word(store, "a", 5).extent(), u16::MAX);
}

/// The empty vdisk `c` gets the tree of `a`.
fn share_a_tree(store: &Sim) {
    let (a, c) = (core(store, "a"), core(store, "c"));
    let root = a.entry.borrow().tree;
    c.entry.borrow_mut().tree = root;
    *c.mapping.tree.borrow_mut() = Tree::new(root, store.counts.clone());
    store.space.ledger.shift(&c.mapping.account, |c| c.backed.set(a.mapping.account.backed.get()));
    store.put_in_table(&c);
}

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, extents: &[u64]) {
    let vdisk = pool.vdisk(name).expect("a vdisk");
    for extent in extents {
        let mut buffer = m.buffers().alloc(8192).await;
        buffer.fill(name.as_bytes()[0]);
        vdisk.write(extent << 16, buffer.freeze(), false).await.expect("a write");
        vdisk.flush().await.expect("a flush");
    }
}

/// A pool with a checkpoint and a journal behind it, after the death of its process.
fn prepared() -> SimWorld {
    let world = SimWorld::new(1, vec![SimDiskSpec::new("disk0", DEVICE_BYTES)]);
    let machine = world.boot();
    let m = machine.clone();
    machine
        .run(async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("a pool");
            for name in ["a", "b", "c", "d", "e"] {
                let spec = CreateVdisk {
                    name: name.into(),
                    size: 2 << 30,
                    sector: 512,
                    write_through: false,
                    policy: Default::default(),
                };
                pool.create_vdisk(spec).await.expect("a vdisk");
            }
            write(&pool, &m, "a", &[0, 1, 5]).await;
            write(&pool, &m, "b", &[0]).await;
            // More leaves than an extent has pages.
            let leaves: Vec<u64> = (0..40).map(|leaf| leaf * LEAF_WORDS as u64).collect();
            write(&pool, &m, "d", &leaves).await;
            let spec = PatternSpec::Unit(b"repeated".to_vec());
            pool.add_pattern(spec, PatternUse::Everywhere).await.expect("a pattern");
            let mut repeated = m.buffers().alloc(65_536).await;
            repeated.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(b"repeated"));
            let e = pool.vdisk("e").expect("a vdisk");
            e.write(0, repeated.freeze(), false).await.expect("a write");
            assert_eq!(e.info().backed_bytes, 0);
            assert!(pool.check().await.expect("a check").clean());
            write(&pool, &m, "b", &[2, 3, 4]).await;
        })
        .done();
    world.crash(CrashKind::Process);
    world
}

/// Opens with the leaves and groups in memory that are sound.
async fn open(m: &SimMachine, inspect: bool) -> Pool<SimMachine> {
    let pool =
        Pool::open(m, OpenPool { inspect, ..OpenPool::default() }, vec![m.open(0)]).await.expect("the pool opens");
    let vdisks: Vec<_> = pool.store.vdisks.borrow().values().cloned().collect();
    for vdisk in vdisks {
        // One that is lost is found by the check.
        let _ = vdisk.mapping.load_leaf(&pool.store.media, &pool.store.cache, 0).await;
    }
    let _ = pool.store.space.load_group(0).await;
    pool
}

fn kinds(report: &CheckReport) -> Vec<&'static str> {
    let kinds: BTreeSet<_> = report.findings.iter().map(|finding| finding.kind).collect();
    kinds.into_iter().collect()
}

async fn found(pool: &Pool<SimMachine>) -> CheckReport {
    pool.check().await.expect("a check")
}

/// Steps as they are listed, but for where a checkpoint between them may have put things.
fn without_numbers(steps: &[String]) -> Vec<String> {
    let words = |step: &String| step.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect();
    steps.iter().map(words).collect()
}

/// Runs `work` in a life of `world`, which its process' death ends.
fn live<T: 'static>(world: &SimWorld, work: impl AsyncFnOnce(SimMachine) -> T + 'static) -> T {
    let machine = world.boot();
    let m = machine.clone();
    let result = machine.run(async move { work(m).await }).done();
    world.crash(CrashKind::Process);
    result
}

/// The base with what is planted on its device, and what is left to be planted in memory.
fn planted(base: &SimWorld, plant: &Plant) -> (SimWorld, fn(&Sim)) {
    let world = base.fork();
    match *plant {
        Plant::Memory(plant) => (world, plant),
        Plant::Pages(pages) => {
            let pages = live(&base.fork(), async move |m| pages(&open(&m, true).await.store));
            pages.into_iter().for_each(|page| world.scribble(0, page, PAGE_BYTES as u64));
            (world, |_| {})
        }
    }
}

#[test]
fn an_inspection_finds_what_is_planted_and_nothing_else() {
    let base = prepared();
    for (number, (expected, mended, plant)) in PLANTS.iter().enumerate() {
        let (world, plant) = planted(&base, plant);
        live(&world, async move |m| {
            let pool = open(&m, true).await;
            plant(&pool.store);
            let report = found(&pool).await;
            assert_eq!(kinds(&report), *expected, "plant {number}: {:#?}", report.findings);
            let plan = pool.repair_plan().await.expect("a plan");
            let refused = plan.iter().filter(|step| step.starts_with("leave what cannot be repaired: ")).count();
            assert!(!plan.is_empty() && (refused == 0) == *mended, "plant {number} and the plan {plan:#?}");
            if *expected != ["bad-copy"] && *mended {
                let error = pool.repair().await.expect_err("nothing is written");
                assert_eq!(error.code(), "read-only", "plant {number}");
            }
        });
    }
}

#[test]
fn a_repair_mends_what_is_planted_or_says_that_it_cannot() {
    let base = prepared();
    for (number, (expected, mended, plant)) in PLANTS.iter().enumerate() {
        let (world, plant) = planted(&base, plant);
        let left: &[&str] = if *mended { &[] } else { expected };
        live(&world, async move |m| {
            let pool = open(&m, false).await;
            plant(&pool.store);
            let plan = pool.repair_plan().await.expect("a plan");
            let done = pool.repair().await.expect("a repair");
            let healed = *expected == ["bad-copy"];
            assert!(
                healed || without_numbers(&done) == without_numbers(&plan),
                "plant {number}: planned {plan:#?}, done {done:#?}"
            );
            let report = found(&pool).await;
            assert_eq!(kinds(&report), left, "plant {number}, repaired by {done:#?}: {:#?}", report.findings);
            pool.close().await.expect("a close");
        });
        live(&world, async move |m| {
            let report = found(&open(&m, false).await).await;
            assert_eq!(kinds(&report), left, "plant {number}, repaired and opened again: {:#?}", report.findings);
        });
    }
}

#[test]
fn something_is_planted_for_every_finding_of_the_document() {
    let document = include_str!("../../FORMAT.md");
    let rows = document.lines().filter(|line| line.starts_with("| I"));
    let mut listed: BTreeSet<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    // By the tests of devices that are cut off.
    assert!(listed.remove("end-lost"));
    let planted: BTreeSet<&str> = PLANTS.iter().flat_map(|(kinds, ..)| kinds.iter().copied()).collect();
    assert_eq!(planted, listed);
}

#[test]
fn a_lost_mapping_names_its_range() {
    let (world, _) = planted(&prepared(), &Plant::Pages(|store| leaf(store).map(offset).to_vec()));
    live(&world, async |m| {
        let report = found(&open(&m, false).await).await;
        let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
        assert_eq!(
            (finding.vdisk.as_deref(), finding.offset, finding.length),
            (Some("tank/a"), Some(0), Some(32 << 20))
        );
        assert!(finding.loss && report.lost());
    });
}

#[test]
fn a_page_that_is_lost_on_the_devices_and_in_memory_is_written_again() {
    for pages in [leaf, table] {
        let world = prepared();
        let machine = world.boot();
        let m = machine.clone();
        let pool = machine.run(async move { open(&m, false).await }).done();
        let (held, world) = (pool.clone(), &world);
        machine
            .run(async move {
                assert!(found(&held).await.clean());
                // The check wrote a checkpoint; nothing reads these pages until the next one looks for damage.
                pages(&held.store).map(offset).into_iter().for_each(|page| world.scribble(0, page, PAGE_BYTES as u64));
                let report = found(&held).await;
                assert_eq!(kinds(&report), ["lost-page"], "{:#?}", report.findings);
                held.repair().await.expect("a repair");
                let report = found(&held).await;
                assert!(report.clean(), "{:#?}", report.findings);
            })
            .done();
        let m = machine.clone();
        machine
            .run(async move {
                for (name, extent) in [("a", 0), ("a", 5), ("b", 0), ("b", 4)] {
                    let vdisk = pool.vdisk(name).expect("nothing is given up");
                    let bytes = vdisk.read(extent << 16, m.buffers().alloc(8192).await).await.expect("a read");
                    assert!(bytes.iter().all(|byte| *byte == name.as_bytes()[0]), "{name} at {extent} is lost");
                }
            })
            .done();
    }
}

#[test]
fn a_label_copy_that_is_bad_is_found_and_written_again() {
    let (world, _) = planted(&prepared(), &Plant::Pages(|_| vec![label_places(DEVICE_BYTES)[1]]));
    live(&world, async |m| {
        let report = found(&open(&m, true).await).await;
        assert_eq!(kinds(&report), ["bad-copy"], "{:#?}", report.findings);
        // An opening that may write heals it.
        let pool = open(&m, false).await;
        let report = found(&pool).await;
        assert!(report.clean(), "{:#?}", report.findings);
        for copy in label_places(DEVICE_BYTES) {
            m.open(0).write_zeroes(copy, PAGE_BYTES as u64).await.expect("damage beside the open pool");
            let report = found(&pool).await;
            assert_eq!(kinds(&report), ["bad-copy"], "{:#?}", report.findings);
            assert!(found(&pool).await.clean(), "it is not written again");
        }
    });
}

#[test]
fn labels_of_which_no_copy_is_left_are_written_again_by_whoever_has_the_pool_open() {
    live(&prepared(), |m| async move {
        let pool = open(&m, false).await;
        for copy in label_places(DEVICE_BYTES) {
            let mut noise = m.buffers().alloc(PAGE_BYTES).await;
            noise.fill(0xa5);
            m.open(0)
                .write(copy, noise.freeze(), plimsoll_hardware::Durability::Cached)
                .await
                .expect("damage beside the open pool");
        }
        let report = found(&pool).await;
        assert_eq!(kinds(&report), ["bad-copy"], "{:#?}", report.findings);
        assert!(report.findings.iter().all(|finding| finding.healed), "{:#?}", report.findings);
        assert!(found(&pool).await.clean(), "they are not written again");
        pool.close().await.expect("a close");
        let pool = open(&m, false).await;
        assert!(found(&pool).await.clean());
    });
}

#[test]
fn a_root_copy_that_is_bad_is_found() {
    let generation_pages = |store: &Sim| vec![root_places(DEVICE_BYTES, store.root.borrow().generation)[0]];
    let (world, _) = planted(&prepared(), &Plant::Pages(generation_pages));
    live(&world, async |m| {
        let report = found(&open(&m, true).await).await;
        assert_eq!(kinds(&report), ["bad-copy"], "{:#?}", report.findings);
        // An opening that may write heals it.
        let report = found(&open(&m, false).await).await;
        assert!(report.clean(), "{:#?}", report.findings);
    });
}

#[test]
fn the_search_for_a_free_place_begins_where_the_last_one_ended() {
    live(&prepared(), async |m| {
        let pool = open(&m, false).await;
        let spec = |name: &str| CreateVdisk {
            name: name.into(),
            size: 1 << 30,
            sector: 512,
            write_through: false,
            policy: Default::default(),
        };
        for index in 5..100 {
            let made = pool.create_vdisk(spec(&format!("v{index}"))).await.expect("a vdisk");
            assert_eq!((made.id, pool.store.free_from.get()), (index, index));
        }
        pool.delete_vdisk("v50").await.expect("a deletion");
        while pool.info().vdisks == 100 {
            m.sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(pool.store.free_from.get(), 50);
        assert_eq!(pool.create_vdisk(spec("v50")).await.expect("a vdisk").id, 50);
    });
}
