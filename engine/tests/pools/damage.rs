//! Damage is contained: every metadata page, label, root and journal page of a pool is damaged in turn, in one copy and in both.

use std::time::Duration;

use futures_util::future::join;

use crate::support::below::{self, LEAF};
use crate::support::{assert_clean, create, failing, filled, live, look, open, vdisk, world};
use plimsoll_engine::{CreateVdisk, JobInfo, JobState, OpenPool, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, FaultKind, FaultProfile, SimMachine, SimWorld};

/// Three allocation groups of 64 MiB, so that one may be lost and checkpoints find room in another.
const MIB: u64 = 180;
const PAGE: u64 = 4096;
const EXTENT: u64 = 65_536;
/// Labels and roots at either end.
const END_BYTES: u64 = 65_536;
/// Leaves that the vdisk's data is spread over.
const LEAVES: u64 = 24;

/// A pool whose vdisk has data in many leaves, closed.
fn prepared(seed: u64) -> SimWorld {
    let world = world(seed, 1, MIB);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", 1 << 40)).await.expect("a vdisk");
        let a = pool.vdisk("a").expect("a vdisk");
        for leaf in 0..LEAVES {
            a.write(place(leaf), filled(&m, leaf as u8 + 1, 8192).await, false).await.expect("a write");
        }
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Power);
    world
}

/// Where the data of a leaf lies: 512 extents of 64 KiB are a leaf.
fn place(leaf: u64) -> u64 {
    leaf * (32 << 20) + leaf * 4096
}

/// Pages that have a copy elsewhere, with that.
fn pairs(world: &SimWorld) -> Vec<[u64; 2]> {
    let pages = metadata_pages(world);
    let bytes: Vec<Vec<u8>> = pages.iter().map(|&page| world.read_raw(0, page, PAGE)).collect();
    let copies = |index: usize| -> Vec<u64> {
        pages.iter().zip(&bytes).filter(|(_, other)| **other == bytes[index]).map(|(page, _)| *page).collect()
    };
    let all =
        (0..pages.len()).filter_map(|index| <[u64; 2]>::try_from(copies(index)).ok().filter(|c| c[0] == pages[index]));
    all.collect()
}

/// Leaves that cannot be read; the others must hold what was written.
async fn unreadable(pool: &Pool<SimMachine>, m: &SimMachine) -> Vec<u64> {
    let a = pool.vdisk("a").expect("a vdisk");
    let mut lost = Vec::new();
    for leaf in 0..LEAVES {
        match a.read(place(leaf), m.buffers().alloc(8192).await).await {
            Ok(bytes) => {
                let byte = leaf as u8 + 1;
                assert!(bytes.iter().all(|found| *found == byte || *found == 0), "leaf {leaf} reads wrong bytes");
                if bytes.contains(&0) {
                    lost.push(leaf);
                }
            }
            Err(error) => {
                assert_eq!(error.code(), "damaged", "{error}");
                lost.push(leaf);
            }
        }
    }
    lost
}

/// A survey sees what is behind all leaves but the lost ones.
async fn survey_passes_over(pool: &Pool<SimMachine>, m: &SimMachine, lost: &[u64]) {
    if pool.read_only().is_some() {
        // Nothing could be given back, so nobody looks; it is not because of a leaf.
        return assert_eq!(lost, [0u64; 0]);
    }
    pool.survey().expect("a survey");
    while pool.surveyed().is_none() {
        let failed =
            |job: &JobInfo| job.kind == "survey" && job.state != JobState::Running && pool.surveyed().is_none();
        assert!(!pool.jobs().iter().any(failed), "{:?}", pool.jobs());
        m.sleep(Duration::from_millis(1)).await;
    }
    let extents = |leaf: &u64| (place(*leaf) % EXTENT + 8192).div_ceil(EXTENT);
    let sound: u64 = (0..LEAVES).filter(|leaf| !lost.contains(leaf)).map(|leaf| extents(&leaf)).sum();
    assert_eq!(pool.surveyed().expect("a survey").total.sampled_bytes, sound * EXTENT, "{lost:?} are lost");
}

/// Pages of the disk that are not zeros and not the vdisk's data: what the pool keeps about itself.
fn metadata_pages(world: &SimWorld) -> Vec<u64> {
    let world = world.fork();
    let pages = (0..MIB << 20).step_by(PAGE as usize).filter(|&page| {
        let bytes = world.read_raw(0, page, PAGE);
        let data = bytes.iter().all(|byte| *byte == bytes[0]);
        !data
    });
    pages.collect()
}

/// Repairs a pool whose vdisk is behind a lost page of the table: all of its space comes back, now and after a start.
async fn gives_up_the_vdisk(pool: Pool<SimMachine>, m: &SimMachine, when: &str) {
    assert_eq!(pool.info().recovery.warnings.len(), 1, "{when}");
    let plan = pool.repair_plan().await.expect("a plan");
    assert_eq!(pool.repair().await.expect("a repair"), plan, "{when}: what is done is what was listed");
    assert_clean(&pool, &format!("{when} lost and repaired")).await;
    assert_eq!((pool.info().utilized_bytes, pool.info().recovery.warnings.len()), (0, 0), "{when}");
    pool.close().await.expect("a close");
    drop(pool);
    let pool = open(m, 1).await;
    assert_clean(&pool, &format!("{when} lost, repaired and opened again")).await;
    pool.create_vdisk(vdisk("a", 1 << 40)).await.expect("the name is free again");
    let a = pool.vdisk("a").expect("a vdisk");
    for leaf in 0..LEAVES {
        a.write(place(leaf), filled(m, leaf as u8 + 1, 8192).await, false).await.expect("a write");
    }
    assert_eq!(unreadable(&pool, m).await, [0u64; 0]);
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit,
    Sector,
    Page,
    Swap,
}

fn damage(world: &SimWorld, kind: Damage, page: u64, other: u64) {
    match kind {
        Damage::Bit => world.flip_bit(0, page + 1031, 3),
        Damage::Sector => world.scribble(0, page + 512, 512),
        Damage::Page => world.scribble(0, page, PAGE),
        Damage::Swap => world.swap(0, page, other, PAGE),
    }
}

#[test]
fn no_single_damaged_page_loses_anything() {
    let base = prepared(11);
    let pages = metadata_pages(&base);
    assert!(pages.len() > 60, "only {} pages of metadata were found", pages.len());
    for (index, &page) in pages.iter().enumerate() {
        for kind in [Damage::Bit, Damage::Sector, Damage::Page, Damage::Swap] {
            let other = pages[(index + 7) % pages.len()];
            let world = base.fork();
            damage(&world, kind, page, other);
            let machine = world.boot();
            let m = machine.clone();
            let when = format!("{kind:?} at {page:#x}");
            machine
                .run(async move {
                    let pool = open(&m, 1).await;
                    assert_eq!(unreadable(&pool, &m).await, [0u64; 0], "{when}");
                    let report = pool.check().await.expect("a check");
                    assert!(!report.lost(), "{when}: {:?}", report.findings);
                    // What the first look found and could mend from the other copy is mended.
                    assert_clean(&pool, &when).await;
                })
                .done();
        }
    }
    println!("{} pages damaged in four ways each", pages.len());
}

#[test]
fn a_page_lost_in_both_copies_costs_its_range_and_a_repair_gives_the_rest_back() {
    let base = prepared(12);
    let mut costly = 0;
    for copies in pairs(&base) {
        let page = copies[0];
        let is_end = !(END_BYTES..(MIB << 20) - END_BYTES).contains(&page);
        let world = base.fork();
        copies.iter().for_each(|&copy| world.scribble(0, copy, PAGE));
        let machine = world.boot();
        let m = machine.clone();
        let lost = machine
            .run(async move {
                let pool = match Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await {
                    Ok(pool) => pool,
                    // Both copies of a label or of the root: nothing says what the device is.
                    Err(error) => {
                        assert!(is_end, "page {page:#x} is lost twice and the pool does not open: {error}");
                        assert_eq!(error.code(), "not-a-pool", "{error}");
                        return 0;
                    }
                };
                let report = pool.check().await.expect("a check");
                if report.clean() {
                    // The root before the last: nobody needs it any more.
                    assert_eq!(
                        unreadable(&pool, &m).await,
                        [0u64; 0],
                        "page {page:#x} is lost twice and nothing is found"
                    );
                    return 0;
                }
                if pool.vdisk("a").is_err() {
                    gives_up_the_vdisk(pool, &m, &format!("page {page:#x}")).await;
                    return 1;
                }
                let lost = unreadable(&pool, &m).await;
                survey_passes_over(&pool, &m, &lost).await;
                let named = |leaf: &u64| {
                    report.findings.iter().any(|finding| {
                        let start = finding.offset.unwrap_or(u64::MAX);
                        finding.loss
                            && finding.vdisk.as_deref() == Some("tank/a")
                            && start <= place(*leaf)
                            && place(*leaf) < start.saturating_add(finding.length.unwrap_or(0))
                    })
                };
                let said: Vec<u64> = (0..LEAVES).filter(named).collect();
                assert_eq!(lost, said, "page {page:#x}: lost, and said to be lost: {:?}", report.findings);
                pool.repair().await.expect("a repair");
                assert_clean(&pool, &format!("page {page:#x} lost and repaired")).await;
                let a = pool.vdisk("a").expect("a vdisk");
                for leaf in lost.iter().copied() {
                    a.write(place(leaf), filled(&m, leaf as u8 + 1, 8192).await, false).await.expect("it takes writes");
                }
                assert_eq!(unreadable(&pool, &m).await, [0u64; 0]);
                drop(look(&pool, &m).await);
                lost.len()
            })
            .done();
        costly += usize::from(lost > 0);
    }
    assert!(costly > 8, "only {costly} pages cost anything: the test missed the mapping");
}

#[test]
fn a_pool_of_which_all_groups_are_lost_is_mended_while_it_is_served() {
    let base = prepared(12);
    // A write that is in the journal only when the page is lost.
    live(&base, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        let a = pool.vdisk("a").expect("a vdisk");
        a.write(place(0), filled(&m, 99, 4096).await, false).await.expect("a write");
        a.write(place(0) + 8192, filled(&m, 99, 4096).await, true).await.expect("a first write");
    });
    base.crash(CrashKind::Process);
    let mut seen = 0;
    for copies in pairs(&base) {
        let world = base.fork();
        copies.iter().for_each(|&copy| world.scribble(0, copy, PAGE));
        let is_it = live(&world, async |m: SimMachine| {
            let Ok(pool) = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await else { return false };
            let report = pool.check().await.expect("a check");
            let all = "both copies of a metadata page of allocation groups 0 to 2 are lost";
            if !report.findings.iter().any(|finding| finding.message == all) {
                return false;
            }
            let reason = pool.read_only().expect("it takes writes");
            assert!(reason.contains("plimsoll pool check tank --repair"), "{reason}");
            let v = pool.vdisk("a").expect("a vdisk");
            let refused = v.write(place(0), filled(&m, 1, 4096).await, false).await.expect_err("a write");
            assert_eq!(refused.code(), "read-only");
            let plan = pool.repair_plan().await.expect("a plan");
            let (one, other) = join(pool.repair(), pool.repair()).await;
            assert_eq!(other.expect_err("two at once").code(), "busy");
            assert_eq!(one.expect("a repair"), plan);
            assert_eq!(pool.read_only(), None);
            assert_clean(&pool, "after a repair").await;
            v.write(place(1), filled(&m, 77, 8192).await, true).await.expect("it takes writes");
            v.write(place(LEAVES), filled(&m, 78, 8192).await, true).await.expect("it takes writes");
            true
        });
        if !is_it {
            continue;
        }
        seen += 1;
        world.crash(CrashKind::Power);
        live(&world, async |m: SimMachine| {
            let pool = open(&m, 1).await;
            let v = pool.vdisk("a").expect("a vdisk");
            for (at, byte) in [(place(0), 99), (place(0) + 8192, 99), (place(1), 77), (place(LEAVES), 78)] {
                let found = v.read(at, m.buffers().alloc(4096).await).await.expect("a read");
                assert_eq!((found[0], found[4095]), (byte, byte), "at {at:#x}");
            }
            assert_clean(&pool, "after a repair and power loss").await;
        });
    }
    assert!(seen > 0, "no page is above all groups");
}

/// Both copies of the page of an allocation group, found by losing them; `None`: none is of that group alone.
fn find_group(base: &SimWorld, group: u64) -> Option<[u64; 2]> {
    let message = format!("both copies of a metadata page of allocation group {group} are lost");
    let is_it = |copies: &[u64; 2]| {
        let world = base.fork();
        copies.iter().for_each(|&copy| world.scribble(0, copy, PAGE));
        live(&world, async |m: SimMachine| {
            let Ok(pool) = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await else { return false };
            let report = pool.check().await.expect("a check");
            report.findings.iter().any(|finding| finding.message == message)
        })
    };
    pairs(base).into_iter().find(is_it)
}

fn copies_of_group(base: &SimWorld, group: u64) -> [u64; 2] {
    find_group(base, group).expect("a page of the group")
}

/// Gives a new vdisk all that is free, full of nines; answers how many extents that were.
async fn take_the_rest(pool: &Pool<SimMachine>, m: &SimMachine) -> u64 {
    pool.create_vdisk(CreateVdisk { policy: failing(), ..vdisk("w", 1 << 40) }).await.expect("a vdisk");
    let (w, data) = (pool.vdisk("w").expect("a vdisk"), filled(m, 9, EXTENT as usize).await);
    let mut extent = 0;
    while w.write(extent * EXTENT, data.clone(), false).await.is_ok() {
        extent += 1;
    }
    extent
}

#[test]
fn a_full_pool_is_mended_when_its_sound_groups_have_room_for_less_than_a_checkpoint() {
    let base = world(13, 1, MIB);
    live(&base, async |m: SimMachine| {
        let pool = below::pool_with(&m, failing(), 80, LEAF).await;
        let mut extents = 0;
        while below::write(&pool, &m, (100 * LEAF + extents) * EXTENT, 1, EXTENT).await.is_ok() {
            extents += 1;
        }
        // In the group between those that have the reserve.
        let v = pool.vdisk("v").expect("a vdisk");
        v.discard((100 * LEAF + 1400) * EXTENT, 3 * EXTENT, true).await.expect("a discard");
        pool.close().await.expect("a close");
    });
    live(&base, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        let v = pool.vdisk("v").expect("a vdisk");
        for leaf in 0..60 {
            v.discard(leaf * LEAF * EXTENT, PAGE, true).await.expect("a discard");
        }
    });
    base.crash(CrashKind::Process);
    for copy in [0, 2].map(|group| copies_of_group(&base, group)).concat() {
        base.scribble(0, copy, PAGE);
    }
    live(&base, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        let reason = pool.read_only().expect("it takes writes");
        assert!(reason.contains("groups are damaged in both copies (2)"), "{reason}");
        pool.repair().await.expect("a repair");
        assert_eq!(pool.read_only(), None);
        below::write(&pool, &m, 100 * LEAF * EXTENT, 2, EXTENT).await.expect("it takes writes");
        assert_clean(&pool, "after a repair").await;
    });
    base.crash(CrashKind::Power);
    live(&base, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        for leaf in 0..80 {
            let bytes = [
                below::byte_at(&pool, &m, leaf * LEAF * EXTENT).await,
                below::byte_at(&pool, &m, leaf * LEAF * EXTENT + PAGE).await,
            ];
            assert_eq!(bytes, [u8::from(leaf >= 60), 1], "leaf {leaf}");
        }
        assert_clean(&pool, "after a repair and power loss").await;
    });
}

#[test]
fn a_repair_gives_nobody_extents_that_only_memory_still_names() {
    const EXTENTS: u64 = 1200;
    let places = || (0..20).map(|leaf| leaf * LEAF).chain((0..EXTENTS).map(|extent| 100 * LEAF + extent));
    let base = world(14, 1, MIB);
    live(&base, async |m: SimMachine| {
        let pool = below::pool_with(&m, failing(), 20, LEAF).await;
        for extent in 0..EXTENTS {
            below::write(&pool, &m, (100 * LEAF + extent) * EXTENT, 1, EXTENT).await.expect("a write");
        }
        pool.close().await.expect("a close");
    });
    // That between those of the reserve, which is not in memory.
    let group = copies_of_group(&base, 1);
    let (mut given_up, mut rebuilt) = (0, 0);
    for copies in pairs(&base).into_iter().filter(|copies| *copies != group) {
        let world = base.fork();
        live(&world, async |m: SimMachine| {
            let pool = open(&m, 1).await;
            for place in places() {
                assert_eq!(below::byte_at(&pool, &m, place * EXTENT).await, 1);
            }
            copies.iter().chain(&group).for_each(|&copy| world.scribble(0, copy, PAGE));
            let done = pool.repair().await.expect("a repair");
            given_up += usize::from(done.iter().any(|step| step.starts_with("give up")));
            rebuilt += usize::from(done.iter().any(|step| step.starts_with("rebuild allocation group 1")));
            let extent = take_the_rest(&pool, &m).await;
            assert!(extent > 1000, "only {extent} extents were free");
            for place in places() {
                assert_eq!(below::byte_at(&pool, &m, place * EXTENT).await, 1, "extent {place} with {copies:x?} lost");
            }
            assert_clean(&pool, "after the repair").await;
        });
    }
    assert!(given_up > 5 && rebuilt > 20, "{given_up} repairs gave something up, {rebuilt} rebuilt the group");
}

#[test]
fn a_repair_does_not_take_for_lost_what_only_cannot_be_read() {
    let world = &prepared(15);
    live(world, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        // All between the rings.
        let between = 784 << 10..(MIB << 20) - (784 << 10);
        world.filter_faults(move |site| site.kind == FaultKind::ReadError && between.contains(&site.offset));
        world.set_faults(FaultProfile { read_error: 10_000, ..FaultProfile::NONE });
        for refused in [pool.repair_plan().await, pool.repair().await] {
            let refused = refused.expect_err("what cannot be read may be there");
            assert!(refused.to_string().contains("cannot be read now"), "{refused}");
        }
        world.set_faults(FaultProfile::NONE);
        assert_clean(&pool, "when it can be read again").await;
        assert_eq!(unreadable(&pool, &m).await, [0u64; 0]);
    });
}

#[test]
fn a_plan_gives_up_no_page_that_only_cannot_be_read() {
    let base = prepared(16);
    let mut refused = 0;
    for copies in pairs(&base) {
        let world = &base.fork();
        live(world, async |m: SimMachine| {
            let pool = open(&m, 1).await;
            world.filter_faults(move |site| {
                let read = site.offset..site.offset + site.length;
                site.kind == FaultKind::ReadError && copies.iter().any(|copy| read.contains(copy))
            });
            world.set_faults(FaultProfile { read_error: 10_000, ..FaultProfile::NONE });
            let planned = pool.repair_plan().await;
            world.set_faults(FaultProfile::NONE);
            match planned {
                Ok(steps) => assert!(!steps.iter().any(|step| step.contains("give up")), "{steps:?}"),
                Err(error) => {
                    assert!(error.to_string().contains("cannot be read now"), "{error}");
                    refused += 1;
                }
            }
        });
    }
    assert!(refused > 8, "only {refused} plans were refused");
}

#[test]
fn a_repair_gives_nobody_extents_that_only_the_journal_still_names() {
    let base = world(16, 1, MIB);
    let places: Vec<u64> = (0..20).map(|leaf| leaf * LEAF + 7).collect();
    live(&base, async |m: SimMachine| {
        let pool = below::pool_with(&m, failing(), 20, LEAF).await;
        pool.close().await.expect("a close");
    });
    live(&base, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        for place in &places {
            below::write(&pool, &m, place * EXTENT, 1, EXTENT).await.expect("a first write");
        }
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
    });
    base.crash(CrashKind::Process);
    let mut given_up = 0;
    for group in (0..3).filter_map(|group| find_group(&base, group)) {
        for copies in pairs(&base).into_iter().filter(|copies| *copies != group) {
            let world = base.fork();
            copies.iter().chain(&group).for_each(|&copy| world.scribble(0, copy, PAGE));
            live(&world, async |m: SimMachine| {
                let Ok(pool) = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await else { return };
                let Ok(v) = pool.vdisk("v") else { return };
                let Ok(done) = pool.repair().await else { return };
                given_up += usize::from(done.iter().any(|step| step.starts_with("give up the lost mapping")));
                if pool.read_only().is_some() {
                    return;
                }
                take_the_rest(&pool, &m).await;
                for place in &places {
                    let buffer = m.buffers().alloc(PAGE as usize).await;
                    if let Ok(bytes) = v.read(place * EXTENT, buffer).await {
                        assert!(
                            bytes.iter().all(|byte| [0, 1].contains(byte)),
                            "extent {place} is another's, with {copies:x?} lost"
                        );
                    }
                }
            });
        }
    }
    assert!(given_up > 5, "{given_up} repairs gave something up");
}
