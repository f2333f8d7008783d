//! A pool whose files have lost blocks that they had, as sparse copies of them do, in a file system that is full. Nobody waits without
//! bound, and a checkpoint goes wherever there is room. Checklist 0.05, 0.09, 0.24.

use crate::support::below::{
    BLOCK, EXTENT, LEAF, SECOND, byte_at, holding, make_sparse, pool_with, starve, waits, within, write,
};
use crate::support::{assert_clean, failing, filled, live, open, world};
use futures_util::future::{Either, join_all, select};
use plimsoll_engine::{AlarmState, Error, Evacuate, Shortage, SpaceEvent};
use plimsoll_hardware::sim::{CrashKind, FaultProfile, SimDiskSpec, SimWorld};
use plimsoll_hardware::{IoError, Machine};

/// A pool that was copied sparsely to a file system which is full now: its reserve has no blocks.
fn sparse_pool(world: &SimWorld, leaves: u64) {
    live(world, |m| async move {
        let pool = pool_with(&m, holding(3600), leaves, LEAF).await;
        pool.close().await.expect("a close");
        make_sparse(world, &m, 0).await;
        world.set_room(0, Some(0));
    });
}

#[test]
fn a_durable_overwrite_that_finds_no_room_takes_nothing_with_it() {
    let world = &world(7, 1, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, failing(), 2, 1).await;
        // A block of zeros, of which a sparse copy has none.
        pool.set_detection("v", Some(false), Some(false)).await.expect("a change");
        write(&pool, &m, 0, 0, EXTENT).await.expect("a write of zeros");
        write(&pool, &m, EXTENT, 3, EXTENT).await.expect("a write");
        pool.close().await.expect("a close");
        make_sparse(world, &m, 0).await;
        world.set_room(0, Some(0));
    });
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        let v = pool.vdisk("v").expect("a vdisk");
        v.flush().await.expect("a flush");
        let refused = v.write(0, filled(&m, 5, BLOCK as usize).await, true).await;
        assert!(matches!(refused, Err(Error::Device(IoError::NoSpace { .. }))), "{refused:?}");
        assert!(pool.info().counters.journal_commits < 3, "it was not written straight to its place");
        v.flush().await.expect("a flush after a durable write that found no room");
        assert_eq!((byte_at(&pool, &m, 0).await, byte_at(&pool, &m, EXTENT).await), (0, 3));
        world.set_room(0, None);
        m.sleep(2 * SECOND).await;
        v.write(0, filled(&m, 5, BLOCK as usize).await, true).await.expect("there is room");
        write(&pool, &m, 2 * EXTENT, 6, BLOCK).await.expect("a first write");
    });
    world.crash(CrashKind::Process);
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        assert_eq!((byte_at(&pool, &m, 0).await, byte_at(&pool, &m, 2 * EXTENT).await), (5, 6));
        assert_clean(&pool, "after a kill").await;
    });
}

#[test]
fn a_pool_that_lost_the_blocks_of_its_reserve_tells_and_nobody_waits_without_bound() {
    for end in ["room", "device", "close", "kill", "power"] {
        let world = &world(4, 2, 64);
        sparse_pool(world, 400);
        let (written, discarded) = live(world, |m| async move {
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
                "device" => {
                    within(&m, 5, "adding a device", pool.add_device(m.open(1), false))
                        .await
                        .expect("a device is added");
                    within(&m, 5, "a record", again).await.expect("what needs no extent goes on");
                    within(&m, 5, "a held write", held).await.expect("a held write goes on");
                    assert_eq!(pool.info().starved, None);
                    assert_clean(&pool, "with a new device").await;
                }
                "close" => {
                    let closed = within(&m, 10, "a close", pool.close()).await;
                    let error = closed.expect_err("there is no room for the last checkpoint");
                    assert!(matches!(&error, Error::ClosedFull { path, .. } if path == "disk0"), "{error}");
                    drop((held, again));
                }
                _ => drop((held, again)),
            }
            // The last one was not answered.
            (leaf - 1, leaf..discarded)
        });
        match end {
            "kill" => world.crash(CrashKind::Process),
            // What was answered before a close is on the devices, however that ended.
            "power" | "close" => world.crash(CrashKind::Power),
            _ => {}
        }
        live(world, |m| async move {
            let pool = within(&m, 60, "a start", open(&m, 2)).await;
            assert_eq!(pool.read_only(), None, "after {end}");
            for leaf in 0..if end == "power" { 0 } else { written } {
                assert_eq!(byte_at(&pool, &m, leaf * LEAF * EXTENT).await, 1, "after {end}: leaf {leaf}");
            }
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
fn a_checkpoint_that_found_no_room_and_has_nothing_to_write_does_not_starve_for_ever() {
    let world = &world(9, 1, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, holding(3600), 1, LEAF).await;
        assert_clean(&pool, "with nothing left to be written").await;
        make_sparse(world, &m, 0).await;
        world.set_room(0, Some(0));
        let checked = pool.check().await.expect_err("there is no room for what it might have to write");
        assert!(matches!(checked, Error::Busy { .. }), "{checked}");
        world.set_room(0, None);
        m.sleep(3 * SECOND).await;
        assert_eq!(pool.info().starved, None);
        within(&m, 3, "a first write", write(&pool, &m, LEAF * EXTENT, 1, EXTENT)).await.expect("there is room");
        assert_clean(&pool, "with room").await;
    });
}

#[test]
fn a_pool_that_fails_while_a_checkpoint_waits_for_room_can_be_checked() {
    let world = &world(9, 1, 64);
    sparse_pool(world, 400);
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        starve(&pool, &m).await;
        world.set_faults(FaultProfile { flush_error: 10_000, ..FaultProfile::NONE });
        write(&pool, &m, 399 * LEAF * EXTENT, 2, BLOCK).await.expect("an overwrite");
        pool.vdisk("v").expect("a vdisk").flush().await.expect_err("the device fails");
        assert!(pool.read_only().is_some());
        world.set_faults(FaultProfile::NONE);
        let report = within(&m, 5, "a check", pool.check()).await.expect("a check");
        assert!(!report.lost(), "{:?}", report.findings);
        within(&m, 5, "a plan", pool.repair_plan()).await.expect("a plan");
    });
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

#[test]
fn pages_whose_places_have_lost_their_blocks_go_to_a_device_that_is_added() {
    // As many leaves as this, so that the first page without blocks is a leaf, a node, or a page of another tree.
    for leaves in 1..40 {
        let world = &world(7, 2, 64);
        sparse_pool(world, 400);
        live(world, |m| async move {
            let pool = open(&m, 1).await;
            let v = pool.vdisk("v").expect("a vdisk");
            for leaf in 0..leaves {
                v.discard(leaf * LEAF * EXTENT, BLOCK, false).await.expect("a discard");
            }
            within(&m, 5, "adding a device", pool.add_device(m.open(1), false)).await.expect("a device is added");
            assert_clean(&pool, "with a new device").await;
            pool.close().await.expect("a close");
        });
        live(world, |m| async move {
            let pool = open(&m, 2).await;
            assert!(pool.info().recovery.clean, "{:?}", pool.info().recovery);
            for leaf in 0..400 {
                let bytes = [0, BLOCK].map(|block| leaf * LEAF * EXTENT + block);
                assert_eq!(byte_at(&pool, &m, bytes[0]).await, u8::from(leaf >= leaves), "leaf {leaf} of {leaves}");
                assert_eq!(byte_at(&pool, &m, bytes[1]).await, 1, "leaf {leaf} of {leaves}");
            }
            assert_clean(&pool, "in another life").await;
        });
    }
}

#[test]
fn a_reserve_that_lost_its_blocks_has_them_again_once_there_is_room_though_nobody_writes() {
    let world = &world(8, 1, 64);
    sparse_pool(world, 400);
    live(world, |m| async move {
        let pool = open(&m, 1).await;
        m.sleep(3 * SECOND).await;
        world.set_room(0, None);
        m.sleep(3 * SECOND).await;
        world.set_room(0, Some(0));
        let v = pool.vdisk("v").expect("a vdisk");
        for leaf in 0..400 {
            within(&m, 5, "a discard", v.discard(leaf * LEAF * EXTENT, BLOCK, false)).await.expect("a discard");
        }
        assert_clean(&pool, "with its reserve").await;
        assert_eq!(pool.info().starved, None);
    });
}
