//! The metadata reserve has its blocks in the files that devices are: in a file system that is full, everything but first writes goes on.
//! Where it has lost them nobody waits without bound. Checklist 0.05, 0.09, 0.24, 2.29.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::below::{BLOCK, EXTENT, SECOND, byte_at, holding, until_held, waits, write};
use crate::support::{assert_clean, create, failing, filled, is_full, live, open, vdisk, with, world};
use futures_util::future::{Either, join_all, select};
use plimsoll_engine::{AlarmState, CreatePool, Error, Evacuate, Pool, Shortage, SpaceEvent, VdiskPolicy, identify};
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};
use plimsoll_hardware::{Device, IoError, Machine};
use proptest::prelude::*;

/// Extents of a vdisk that a leaf covers.
const LEAF: u64 = 512;

/// What `future` comes to, which must not take so many seconds.
async fn within<F: Future>(m: &SimMachine, seconds: u64, what: &str, future: F) -> F::Output {
    let late = std::pin::pin!(m.sleep(Duration::from_secs(seconds)));
    match select(std::pin::pin!(future), late).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => panic!("{what} takes more than {seconds} seconds"),
    }
}

/// A pool on the first disk with `v`, each of whose first `extents` leaves has one extent.
async fn pool_with(m: &SimMachine, extents: u64) -> Pool<SimMachine> {
    let pool = create(m).await;
    let policy = holding(3600);
    pool.create_vdisk(plimsoll_engine::CreateVdisk { policy, ..vdisk("v", 1 << 40) }).await.expect("a vdisk");
    for leaf in 0..extents {
        write(&pool, m, leaf * LEAF * EXTENT, 1, EXTENT).await.expect("a first write");
    }
    pool.arm(&AlarmState::default());
    pool
}

#[test]
fn a_device_is_added_to_a_fresh_pool_in_a_full_file_system() {
    let world = &world(1, 2, 64);
    live(world, |m| async move {
        let pool = create(&m).await;
        world.set_room(0, Some(0));
        within(&m, 60, "adding a device", pool.add_device(m.open(1), false)).await.expect("a device is added");
        pool.create_vdisk(with("v", holding(5))).await.expect("a vdisk");
        for extent in 0..100 {
            write(&pool, &m, extent * EXTENT, 2, EXTENT).await.expect("first writes go to the new device");
        }
        assert_clean(&pool, "with a new device").await;
        pool.close().await.expect("a close");
    });
}

#[test]
fn without_any_room_everything_but_first_writes_goes_on_over_many_checkpoints() {
    let world = &world(2, 2, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, 400).await;
        world.set_room(0, Some(0));
        let held = until_held(&pool, &m, LEAF, &mut 600, 7).await;
        let v = pool.vdisk("v").expect("a vdisk");
        let before = pool.info().counters.checkpoints;
        for round in 0..3000u64 {
            // A block of each leaf by turns, so that each time another page is dirty.
            let at = round * 7 % 400 * LEAF * EXTENT;
            let block = round / 400 % 15 * BLOCK;
            within(&m, 10, "a discard", v.discard(at + block, BLOCK, false)).await.expect("a discard");
            within(&m, 10, "an overwrite", write(&pool, &m, at + 15 * BLOCK, 5, BLOCK)).await.expect("an overwrite");
            if round % 5 == 0 {
                within(&m, 10, "a flush", v.flush()).await.expect("a flush");
            }
            if round % 50 == 0 {
                let policy = VdiskPolicy { quota: Some((1 << 30) + round * EXTENT), ..holding(3600) };
                within(&m, 10, "a decision", pool.set_vdisk_policy("v", policy)).await.expect("a policy");
            }
        }
        assert!(pool.info().counters.checkpoints >= before + 3, "{:?}", pool.info().counters);
        assert_eq!((pool.info().starved, pool.info().held_writes), (None, 1));
        assert_clean(&pool, "without room").await;
        pool.close().await.expect("a close");
        assert!(matches!(held.await, Err(Error::Closing(_))));
    });
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        assert!(pool.info().recovery.clean, "{:?}", pool.info().recovery);
        let mut leaf = 700;
        let held = until_held(&pool, &m, LEAF, &mut leaf, 8).await;
        let v = pool.vdisk("v").expect("a vdisk");
        for leaf in 0..200 {
            within(&m, 10, "a discard", v.discard(leaf * LEAF * EXTENT, 512 * EXTENT, true)).await.expect("a discard");
        }
        within(&m, 60, "adding a device", pool.add_device(m.open(1), false)).await.expect("a device is added");
        held.await.expect("a held write goes on");
        assert_eq!(byte_at(&pool, &m, leaf * LEAF * EXTENT).await, 8);
        assert_eq!([byte_at(&pool, &m, 0).await, byte_at(&pool, &m, 399 * LEAF * EXTENT + 15 * BLOCK).await], [0, 5]);
        assert_clean(&pool, "with a new device").await;
    });
}

#[test]
fn a_pool_is_not_made_where_its_reserve_has_no_room() {
    let world = &world(3, 1, 64);
    live(world, |m| async move {
        world.set_room(0, Some(1 << 20));
        let made = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await;
        let error = made.err().expect("there is less room than that");
        assert!(
            matches!(&error, Error::NoRoomBelow { path, needed } if path == "disk0" && *needed > 1 << 20),
            "{error}"
        );
        assert!(error.to_string().contains("MiB"), "{error}");
        assert!(matches!(identify(&m, &m.open(0)).await, Ok(None)), "something was made");
        let Error::NoRoomBelow { needed, .. } = error else { unreachable!("it is one") };
        // It has some from the first attempt.
        world.set_room(0, Some(needed - (1 << 20)));
        let pool = create(&m).await;
        pool.create_vdisk(with("v", holding(3600))).await.expect("a vdisk");
        let mut held = Box::pin(write(&pool, &m, 0, 1, EXTENT));
        assert!(waits(&m, &mut held, 2).await, "what was said is all that it needs");
        assert_clean(&pool, "without room for data").await;
    });
}

/// Label, roots and journal at either end of a device of 64 MiB.
const ENDS: u64 = (64 + 256) << 10;

/// Takes the blocks of all pages of zeros from the file, as a sparse copy of it does.
async fn make_sparse(world: &SimWorld, m: &SimMachine) {
    let device = m.open(0);
    // Not of the journal, without which no start can write.
    let (from, end) = (ENDS / BLOCK, (device.geometry().size - ENDS) / BLOCK);
    for page in from..end {
        if world.read_raw(0, page * BLOCK, BLOCK).iter().all(|byte| *byte == 0) {
            device.write_zeroes(page * BLOCK, BLOCK).await.expect("zeros");
        }
    }
    device.flush().await.expect("a flush");
}

/// A pool that was copied sparsely to a file system which is full now: its reserve has no blocks.
fn sparse_pool(world: &SimWorld, leaves: u64) {
    live(world, |m| async move {
        let pool = pool_with(&m, leaves).await;
        pool.close().await.expect("a close");
        make_sparse(world, &m).await;
        world.set_room(0, Some(0));
    });
}

/// Discards until that finds no room for what it has to write down; answers how many went.
async fn starve(pool: &Pool<SimMachine>, m: &SimMachine) -> u64 {
    let v = pool.vdisk("v").expect("a vdisk");
    for leaf in 0.. {
        match within(m, 25, "a discard", v.discard(leaf * LEAF * EXTENT, BLOCK, false)).await {
            Ok(()) => {}
            Err(Error::Device(IoError::NoSpace { path })) if path == "disk0" => return leaf,
            Err(error) => panic!("discard {leaf}: {error}"),
        }
    }
    unreachable!("dirty pages are bounded")
}

#[test]
fn a_pool_that_lost_the_blocks_of_its_reserve_tells_and_nobody_waits_without_bound() {
    for end in ["room", "close", "kill", "power"] {
        let world = &world(4, 2, 64);
        sparse_pool(world, 400);
        let discarded = live(world, |m| async move {
            let pool = open(&m, 1).await;
            pool.arm(&AlarmState::default());
            m.sleep(SECOND).await;
            let events = pool.events().await;
            let full = |event: &SpaceEvent| matches!(event, SpaceEvent::DeviceErrors { device, full: true, .. } if device == "disk0");
            assert!(events.iter().any(full), "{events:?}");
            let mut held = Box::pin(write(&pool, &m, 600 * LEAF * EXTENT, 7, EXTENT));
            assert!(waits(&m, &mut held, 2).await, "there is no room");
            assert_eq!(pool.vdisk("v").expect("a vdisk").info().shortage, Some(Shortage::DeviceFull));
            let discarded = starve(&pool, &m).await;
            assert_eq!(pool.info().starved.as_deref(), Some("disk0"));
            let v = pool.vdisk("v").expect("a vdisk");
            for byte in 1..=100 {
                write(&pool, &m, 399 * LEAF * EXTENT, byte, BLOCK).await.expect("an overwrite");
                within(&m, 5, "a flush", v.flush()).await.expect("a flush");
            }
            let checked = pool.check().await.expect_err("what a check would look at is not there");
            assert!(matches!(checked, Error::Busy { .. }), "{checked}");
            // The file has these blocks, but what says that they have contents again finds room for a few only.
            let mut leaf = 0;
            let again = loop {
                let mut next = Box::pin(write(&pool, &m, leaf * LEAF * EXTENT, 1, BLOCK));
                leaf += 1;
                match select(&mut next, std::pin::pin!(m.sleep(2 * SECOND))).await {
                    Either::Left((written, _)) => written.expect("there is room for its record"),
                    Either::Right(_) => break next,
                }
                assert!(leaf < discarded, "all records had room");
            };
            assert_eq!(pool.info().held_writes, 2);
            let device = pool.info().devices[0].uuid;
            let leaving = within(&m, 5, "a refusal", pool.remove_device(device, Evacuate::default())).await;
            assert!(matches!(leaving, Err(Error::Busy { .. })), "{leaving:?}");
            assert!(matches!(pool.evacuation_plan(device).await, Err(Error::Busy { .. })));
            assert_eq!(pool.read_only(), None);
            match end {
                "room" => {
                    // For a checkpoint, and not for all of the reserve behind it.
                    world.set_room(0, Some(1 << 20));
                    within(&m, 5, "a record", again)
                        .await
                        .expect("what needs no extent goes on once a checkpoint stands");
                    world.set_room(0, None);
                    within(&m, 5, "a held write", held).await.expect("a held write goes on");
                    assert_clean(&pool, "with room").await;
                }
                "close" => {
                    let closed = within(&m, 10, "a close", pool.close()).await;
                    let error = closed.expect_err("there is no room for the last checkpoint");
                    assert!(matches!(&error, Error::ClosedFull { path, .. } if path == "disk0"), "{error}");
                    drop((held, again));
                }
                _ => drop((held, again)),
            }
            leaf..discarded
        });
        if end == "power" || end == "kill" {
            world.crash(if end == "power" { CrashKind::Power } else { CrashKind::Process });
        }
        live(world, |m| async move {
            let pool = within(&m, 60, "a start", open(&m, 2)).await;
            assert_eq!(pool.read_only(), None, "after {end}");
            for leaf in discarded {
                assert_eq!(byte_at(&pool, &m, leaf * LEAF * EXTENT).await, 0, "after {end}: leaf {leaf}");
                assert_eq!(byte_at(&pool, &m, leaf * LEAF * EXTENT + BLOCK).await, 1, "after {end}: leaf {leaf}");
            }
            assert_eq!(byte_at(&pool, &m, 399 * LEAF * EXTENT).await, 100, "after {end}");
            world.set_room(0, None);
            m.sleep(2 * SECOND).await;
            assert_clean(&pool, end).await;
            pool.close().await.expect("a close");
        });
    }
}

#[test]
fn flushes_and_overwrites_have_room_in_a_journal_that_has_none_for_records() {
    for shift in 0..3 {
        let world = &world(6, 1, 64);
        sparse_pool(world, 400);
        live(world, |m| async move {
            let pool = open(&m, 1).await;
            pool.set_vdisk_policy("v", failing()).await.expect("a policy");
            let v = pool.vdisk("v").expect("a vdisk");
            for leaf in 0..20 {
                v.discard((100 + leaf) * LEAF * EXTENT, BLOCK, false).await.expect("a discard");
            }
            pool.check().await.expect_err("a checkpoint starves");
            for block in 0..shift {
                v.discard(block * BLOCK, BLOCK, true).await.expect("a discard");
            }
            // Each page of the journal that is begun brings its end nearer: with the record of a first write, then with its proof's.
            let mut rounds = 0;
            while v.discard(8 * BLOCK, BLOCK, false).await.is_ok()
                && write(&pool, &m, 8 * BLOCK, 2, BLOCK).await.is_ok()
            {
                within(&m, 5, "a flush", v.flush()).await.expect("a flush");
                within(&m, 5, "an overwrite", write(&pool, &m, 8 * BLOCK, 3, BLOCK)).await.expect("an overwrite");
                rounds += 1;
            }
            assert!((5..100).contains(&rounds), "the journal is not full after {rounds} rounds");
            within(&m, 5, "a flush", v.flush()).await.expect("a flush");
            world.set_room(0, None);
            m.sleep(2 * SECOND).await;
            assert_clean(&pool, "with room").await;
        });
    }
}

#[test]
fn an_overwrite_of_parts_of_a_devices_sector_needs_no_checkpoint() {
    let disk = SimDiskSpec { logical_block: 4096, ..SimDiskSpec::new("disk0", 64 << 20) };
    let world = &SimWorld::new(5, vec![disk]);
    sparse_pool(world, 400);
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        starve(&pool, &m).await;
        let v = pool.vdisk("v").expect("a vdisk");
        let sector = filled(&m, 9, 512).await;
        let all = (0..64).map(|sector_at| v.write(399 * LEAF * EXTENT + sector_at * 512, sector.clone(), false));
        for done in within(&m, 5, "overwrites", join_all(all)).await {
            done.expect("an overwrite");
        }
        assert_eq!(byte_at(&pool, &m, 399 * LEAF * EXTENT + BLOCK).await, 9);
        // A sector of a block without contents needs a record.
        v.discard(399 * LEAF * EXTENT, BLOCK, false).await.expect_err("a discard needs one, too");
    });
}

/// What happens to a pool in a file system that others use, too.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    Discard(u64),
    Flush,
    Decide(u64),
    /// Others leave so many blocks, or all that anybody wants.
    Room(Option<u64>),
    End(Ending),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Close,
    Kill,
    PowerCut,
}

fn steps() -> impl Strategy<Value = Step> {
    // Three in each of 80 leaves, of 240 extents that a pool of 16 MiB has.
    let place = (0..240u64).prop_map(|number| (number % 80 * 512 + number / 80) * EXTENT);
    let ending = prop_oneof![Just(Ending::Close), Just(Ending::Kill), Just(Ending::PowerCut)];
    prop_oneof![
        40 => (place.clone(), 1..=255u8).prop_map(|(at, byte)| Step::Write(at, byte)),
        40 => place.prop_map(Step::Discard),
        5 => Just(Step::Flush),
        5 => (1..100u64).prop_map(Step::Decide),
        3 => prop_oneof![Just(Some(0)), (0..200u64).prop_map(Some), Just(None)].prop_map(Step::Room),
        2 => ending.prop_map(Step::End),
    ]
}

/// One life: takes steps until one ends it. What was answered is in `model`.
async fn lives(
    world: &SimWorld,
    m: &SimMachine,
    steps: &mut std::vec::IntoIter<Step>,
    model: &mut BTreeMap<u64, u8>,
) -> Ending {
    let pool = open(m, 1).await;
    let v = pool.vdisk("v").expect("a vdisk");
    for (&at, &byte) in model.iter() {
        assert_eq!(byte_at(&pool, m, at).await, byte, "at {at}");
    }
    for step in steps {
        match step {
            Step::Write(at, byte) => match within(m, 5, "a write", write(&pool, m, at, byte, EXTENT)).await {
                Ok(()) => drop(model.insert(at, byte)),
                Err(Error::OutOfSpace { .. } | Error::Device(IoError::NoSpace { .. })) => {
                    assert_eq!(model.get(&at).copied().unwrap_or(0), 0, "an overwrite found no space");
                }
                Err(error) => panic!("a write: {error}"),
            },
            Step::Discard(at) => {
                within(m, 5, "a discard", v.discard(at, EXTENT, false)).await.expect("a discard");
                model.insert(at, 0);
            }
            Step::Flush => within(m, 5, "a flush", v.flush()).await.expect("a flush"),
            Step::Decide(extents) => {
                let policy = VdiskPolicy { quota: Some((1 << 40) + extents * EXTENT), ..failing() };
                within(m, 5, "a decision", pool.set_vdisk_policy("v", policy)).await.expect("a policy");
            }
            Step::Room(blocks) => world.set_room(0, blocks.map(|blocks| blocks * BLOCK)),
            Step::End(Ending::Close) => {
                within(m, 5, "a close", pool.close()).await.expect("a close");
                return Ending::Close;
            }
            Step::End(ending) => {
                v.flush().await.expect("a flush");
                return ending;
            }
        }
        assert_eq!(pool.info().starved, None, "a checkpoint finds no room");
    }
    world.set_room(0, None);
    m.sleep(2 * SECOND).await;
    assert_clean(&pool, "at last").await;
    pool.close().await.expect("a close");
    Ending::Close
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if is_full() { 256 } else { 32 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_room_there_is_nothing_but_a_first_write_lacks_it(
        seed in any::<u64>(),
        steps in proptest::collection::vec(steps(), 1..600),
    ) {
        let world = &world(seed, 1, 16);
        live(world, |m| async move {
            let pool = create(&m).await;
            pool.create_vdisk(plimsoll_engine::CreateVdisk { policy: failing(), ..vdisk("v", 1 << 40) }).await.expect("a vdisk");
            pool.close().await.expect("a close");
        });
        let (mut steps, mut model) = (steps.into_iter(), BTreeMap::new());
        while !steps.as_slice().is_empty() {
            let ending = live(world, |m| {
                let (steps, model) = (&mut steps, &mut model);
                async move { lives(world, &m, steps, model).await }
            });
            match ending {
                Ending::Close => {}
                Ending::Kill => world.crash(CrashKind::Process),
                Ending::PowerCut => world.crash(CrashKind::Power),
            }
        }
    }
}
