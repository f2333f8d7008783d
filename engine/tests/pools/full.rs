//! Devices that are files in a file system that is full, whatever the pool has left of them: writes are held as for any want of space.
//! What becomes of metadata is in `reserve`. Checklist 0.05-0.09, 0.24.

use crate::support::below::{BLOCK, EXTENT, SECOND, Writing, byte_at, holding, pool_with, until_held, waits, write};
use crate::support::{assert_clean, failing, live, with, world};
use futures_util::future::join;
use plimsoll_engine::{AlarmState, CreatePool, Error, Pool, Shortage, SpaceEvent};
use plimsoll_hardware::{IoError, Machine};

fn is_exhausted(event: &SpaceEvent, held: bool) -> bool {
    matches!(event, SpaceEvent::Exhausted { cause: Shortage::DeviceFull, device: Some(device), held: as_told, .. }
        if device == "disk0" && *as_told == held)
}

#[test]
fn a_write_is_held_while_the_file_system_is_full_and_goes_through_when_it_has_room() {
    let world = &world(1, 1, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, holding(20), 8, 1).await;
        world.set_room(0, Some(EXTENT / 2));
        // The last of what there is, then none; also in the middle of an extent.
        let mut extent = 8;
        let first = until_held(&pool, &m, 1, &mut extent, 20).await;
        let more =
            [1, 2].map(|more| -> Writing<'_> { Box::pin(write(&pool, &m, (extent + more) * EXTENT, 20, EXTENT)) });
        let mut all = Box::pin(futures_util::future::join_all(std::iter::once(first).chain(more)));
        assert!(waits(&m, &mut all, 5).await, "there is no room");
        assert_eq!(
            (pool.info().held_writes, pool.vdisk("v").expect("a vdisk").info().shortage),
            (3, Some(Shortage::DeviceFull))
        );
        assert_eq!(byte_at(&pool, &m, extent * EXTENT).await, 0, "a held write shows");
        write(&pool, &m, 0, 9, EXTENT).await.expect("an overwrite");
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
        assert_eq!(byte_at(&pool, &m, EXTENT).await, 1);
        let writes = world.counters(0).writes;
        assert!(waits(&m, &mut all, 5).await, "there is still no room");
        assert!(world.counters(0).writes - writes <= 6, "it is tried over and over");
        world.set_room(0, Some(16 << 20));
        let freed = m.now();
        for done in all.await {
            done.expect("a held write goes through");
        }
        assert!(m.now() - freed < 2 * SECOND, "{:?} after there was room", m.now() - freed);
        for extent in 8..extent + 3 {
            assert_eq!(byte_at(&pool, &m, extent * EXTENT + EXTENT - BLOCK).await, 20);
        }
        let events = pool.events().await;
        assert_eq!(events.iter().filter(|event| is_exhausted(event, true)).count(), 1, "{events:?}");
        let resumed = |event: &&SpaceEvent| matches!(event, SpaceEvent::Resumed { writes: 3, expired: 0, .. });
        assert_eq!((events.iter().filter(resumed).count(), events.len()), (1, 2), "{events:?}");
        assert_clean(&pool, "after holding").await;
    });
}

#[test]
fn a_write_that_found_no_room_fails_as_no_space_at_its_bound_or_at_once() {
    let world = &world(2, 1, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, holding(5), 8, 1).await;
        write(&pool, &m, 8 * EXTENT, 1, BLOCK).await.expect("a first write");
        world.set_room(0, Some(0));
        drop(until_held(&pool, &m, 1, &mut 10, 1).await);
        let no_space = |result| matches!(result, Err(Error::Device(IoError::NoSpace { path })) if path == "disk0");
        // A new extent, and blocks that an extent of its own has not.
        for offset in [9 * EXTENT, 8 * EXTENT + BLOCK] {
            let began = m.now();
            assert!(no_space(write(&pool, &m, offset, 2, BLOCK).await));
            assert!((5 * SECOND..6 * SECOND).contains(&(m.now() - began)), "{:?}", m.now() - began);
        }
        pool.set_vdisk_policy("v", failing()).await.expect("a policy");
        let began = m.now();
        for offset in [9 * EXTENT, 8 * EXTENT + BLOCK] {
            assert!(no_space(write(&pool, &m, offset, 2, BLOCK).await));
        }
        assert!(m.now() - began < SECOND);
        let expired = pool.events().await.into_iter().any(|event| {
            let SpaceEvent::HoldExpired { cause, device, .. } = event else { return false };
            (cause, device.as_deref()) == (Shortage::DeviceFull, Some("disk0"))
        });
        assert!(expired, "nobody was told");
        world.set_room(0, None);
        assert_clean(&pool, "after failures").await;
    });
}

#[test]
fn another_device_takes_what_a_full_one_cannot() {
    let world = &world(3, 2, 64);
    live(world, |m| async move {
        let devices = vec![m.open(0), m.open(1)];
        let pool = Pool::create(&m, CreatePool::named("tank"), devices).await.expect("a pool");
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        // Extents of both, each with one block.
        for extent in 0..64 {
            write(&pool, &m, extent * EXTENT, 1, BLOCK).await.expect("a first write");
        }
        assert_clean(&pool, "by a checkpoint").await;
        pool.arm(&AlarmState::default());
        world.set_room(0, Some(0));
        for extent in 0..64 {
            write(&pool, &m, extent * EXTENT + BLOCK, 2, BLOCK)
                .await
                .expect("what a full device lacks is had elsewhere");
        }
        for extent in 64..256 {
            write(&pool, &m, extent * EXTENT, 3, EXTENT).await.expect("first writes go to the other device");
        }
        for extent in 0..64 {
            assert_eq!(byte_at(&pool, &m, extent * EXTENT).await, 1);
            assert_eq!(byte_at(&pool, &m, extent * EXTENT + BLOCK).await, 2);
        }
        assert_clean(&pool, "metadata goes there too").await;
        assert!(waits(&m, &mut Box::pin(pool.events()), 3).await, "something was told");
        assert_clean(&pool, "with one device full").await;
    });
}

#[test]
fn a_device_that_is_added_or_space_that_is_freed_lets_held_writes_go_on() {
    let world = &world(4, 2, 64);
    live(world, |m| async move {
        let pool = pool_with(&m, holding(30), 8, 1).await;
        for extent in 8..200 {
            write(&pool, &m, extent * EXTENT, 2, EXTENT).await.expect("a first write");
        }
        world.set_room(0, Some(0));
        let mut first = 300;
        let held = until_held(&pool, &m, 1, &mut first, 5).await;
        // The file keeps the blocks of what is discarded.
        let freed = m.now();
        let v = pool.vdisk("v").expect("a vdisk");
        let (held, discarded) = join(held, v.discard(100 * EXTENT, 64 * EXTENT, false)).await;
        discarded.expect("a discard");
        held.expect("a held write goes on in what was in use before");
        assert!(m.now() - freed < SECOND, "{:?}", m.now() - freed);
        // All of that, and then a block of an extent that the device has no other of.
        let mut extent = first + 1;
        let mut held = until_held(&pool, &m, 1, &mut extent, 6).await;
        let mut other = Box::pin(write(&pool, &m, 400 * EXTENT, 7, BLOCK));
        assert!(waits(&m, &mut other, 1).await);
        let added = m.now();
        pool.add_device(m.open(1), false).await.expect("a device is added to a pool without room");
        let (held, other) = join(&mut held, &mut other).await;
        held.and(other).expect("what was held goes to the new device");
        assert!(m.now() - added < SECOND, "{:?}", m.now() - added);
        assert_eq!([byte_at(&pool, &m, first * EXTENT).await, byte_at(&pool, &m, extent * EXTENT).await], [5, 6]);
        assert_clean(&pool, "with a new device").await;
    });
}
