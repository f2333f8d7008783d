//! The metadata reserve has its blocks in the files that devices are: in a file system that is full, everything but first writes goes on.
//! What becomes of a pool that has lost them is in `lost_blocks`. Checklist 0.05, 0.09, 0.24, 2.29.

use std::collections::BTreeMap;

use crate::support::below::{
    BLOCK, EXTENT, LEAF, SECOND, byte_at, holding, pool_with, until_held, waits, within, write,
};
use crate::support::{assert_clean, create, failing, is_full, live, open, vdisk, with, world};
use plimsoll_engine::{CreatePool, Error, Pool, VdiskPolicy, identify};
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};
use plimsoll_hardware::{IoError, Machine};
use proptest::prelude::*;

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
        let pool = pool_with(&m, holding(3600), 400, LEAF).await;
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

#[test]
fn a_full_pool_that_is_killed_again_and_again_still_takes_discards_deletes_and_checkpoints() {
    // What lives that were cut short have left must fit the reserve together, wherever they were cut short.
    const AT_ONCE: u64 = 26;
    for stop in [None, Some(60), Some(90), Some(150), Some(220)] {
        let world = &world(11, 1, 64);
        let leaves = live(world, |m| async move {
            let pool = pool_with(&m, failing(), 0, LEAF).await;
            let mut leaves = 0;
            while write(&pool, &m, leaves * LEAF * EXTENT, 1, EXTENT).await.is_ok() {
                leaves += 1;
            }
            assert_clean(&pool, "when it is full").await;
            leaves
        });
        let mut next = 0;
        for life in 0..24 {
            let machine = world.boot();
            if let Some(stop) = stop {
                machine.crash_after_ops(stop + life);
            }
            let (m, from) = (machine.clone(), next);
            let ended = machine.run(async move {
                let pool = open(&m, 1).await;
                assert_eq!(pool.read_only(), None, "stop {stop:?}, life {life}");
                let v = pool.vdisk("v").expect("a vdisk");
                // Too few for a checkpoint, in one batch of the journal.
                for leaf in from..from + AT_ONCE {
                    v.discard(leaf % leaves * LEAF * EXTENT, BLOCK, false).await.expect("a discard");
                }
                v.flush().await.expect("a flush");
            });
            // Of a life that was cut short nobody knows how far it came: the next one does the same again.
            if ended.unless_crashed().is_some() {
                next += AT_ONCE;
            }
            world.crash(CrashKind::Process);
        }
        live(world, |m| async move {
            let pool = within(&m, 60, "a start", open(&m, 1)).await;
            assert_clean(&pool, "after all").await;
            assert_eq!(pool.read_only(), None);
            for leaf in 0..leaves {
                let (byte, expected) = (byte_at(&pool, &m, leaf * LEAF * EXTENT).await, u8::from(leaf >= next));
                let is_open = (next..next + AT_ONCE).contains(&leaf) && stop.is_some();
                assert!(byte == expected || is_open && byte == 0, "stop {stop:?}, leaf {leaf} of {leaves}: {byte}");
            }
            within(&m, 60, "a delete", pool.delete_vdisk("v")).await.expect("a delete");
            pool.close().await.expect("a close");
        });
    }
}
