//! A device that becomes smaller under the pool, as a file that somebody truncates.
use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, vdisk};
use plimsoll_engine::{AlarmState, CreatePool, Error, OpenPool, Pool, SpaceEvent};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};

const EXTENT: u64 = 65_536;
const MIB: u64 = 1 << 20;
/// Several allocation groups, so that the copies of metadata lie in both halves.
const SIZE: u64 = 256 * MIB;
/// Bytes at the end of a device for its label and roots.
const END: u64 = 64 << 10;
/// Extents of the vdisk, all over the pool: many lie behind any cut.
const EXTENTS: u64 = 1700;
/// Extents behind a leaf.
const LEAF: u64 = 512;

/// By what it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// A flush of the device.
    Flush,
    /// Nobody before the next root is to be written.
    Root,
    /// A look that comes by itself.
    Time,
    Read,
}

async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, extent: u64) -> Result<u8, Error> {
    let buffer = m.buffers().alloc(4096).await;
    Ok(pool.vdisk("v")?.read(extent * EXTENT, buffer).await?[0])
}

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64, byte: u8) -> Result<(), Error> {
    pool.vdisk(name)?.write(offset, filled(m, byte, 4096).await, false).await
}

fn of(extent: u64) -> u8 {
    (extent % 250) as u8 + 1
}

/// A pool whose extents all hold something that was flushed, then cut off at `end`; what was noticed of it, and by what.
fn noticed(by: By, end: u64) -> SimWorld {
    // Where nothing is volatile a flush asks nothing of the device.
    let spec = SimDiskSpec { volatile_cache: by == By::Flush, ..SimDiskSpec::new("disk0", SIZE) };
    let world = SimWorld::new(9, vec![spec]);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.create_vdisk(vdisk("hog", 1 << 30)).await.expect("a vdisk");
        for extent in 0..EXTENTS {
            write(&pool, &m, "v", extent * EXTENT, of(extent)).await.expect("a write");
            write(&pool, &m, "hog", extent * EXTENT, 7).await.expect("a write");
        }
        pool.vdisk("hog").expect("a vdisk").discard(0, EXTENTS * EXTENT, false).await.expect("a discard");
        assert_clean(&pool, "with room everywhere").await;
        // Now all metadata is written anew, a copy of it to the first half.
        for extent in (0..EXTENTS).step_by(LEAF as usize) {
            write(&pool, &m, "v", extent * EXTENT + 4096, 7).await.expect("a write");
        }
        pool.create_vdisk(vdisk("w", 1 << 30)).await.expect("a vdisk");
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
        assert_clean(&pool, "before").await;
        world.cut(0, end);
        match by {
            By::Flush => {
                write(&pool, &m, "v", 0, of(0)).await.expect("an overwrite of what is inside");
                pool.vdisk("v").expect("a vdisk").flush().await.expect_err("it is not durable");
            }
            // A check writes one; pages are written before it.
            By::Root => assert!(!pool.check().await.is_ok_and(|report| report.clean())),
            By::Time => m.sleep(Duration::from_secs(4000)).await,
            By::Read => drop(byte_at(&pool, &m, EXTENTS - 1).await.expect_err("it is behind the end")),
        }
        told(&pool, &m, by).await;
        for extent in 0..EXTENTS {
            match byte_at(&pool, &m, extent).await {
                // What is written far behind the end before anybody has noticed makes zeros of what was lost.
                Ok(0) if by == By::Root => {}
                Ok(byte) => assert_eq!(byte, of(extent), "{by:?}: extent {extent}"),
                Err(error) => assert!(matches!(error, Error::Device(_)), "{by:?}: extent {extent}: {error}"),
            }
        }
    });
    world.crash(CrashKind::Process);
    world
}

/// Nothing is written to the device any more, from the next root on the pool takes no writes, and both are told.
async fn told(pool: &Pool<SimMachine>, m: &SimMachine, by: By) {
    write(pool, m, "v", 0, 0xee).await.expect_err("a write into a device that was cut off");
    assert!(!pool.check().await.is_ok_and(|report| report.clean()), "{by:?}: a check finds nothing");
    assert!(pool.read_only().is_some(), "{by:?}: it takes writes");
    m.sleep(Duration::from_secs(1)).await;
    let events = pool.events().await;
    let device = events.iter().any(|event| matches!(event, SpaceEvent::DeviceErrors { .. }));
    let read_only = events.iter().any(|event| matches!(event, SpaceEvent::ReadOnly { rising: true, .. }));
    assert!(device && read_only, "{by:?}: {events:#?}");
}

#[test]
fn a_device_that_was_cut_off_is_told_and_not_made_long_again_whoever_notices_it() {
    for by in [By::Flush, By::Root, By::Time, By::Read] {
        for end in [SIZE / 2, SIZE / 4 * 3] {
            let world = noticed(by, end);
            assert!(world.size(0) <= SIZE - END, "{by:?}: a root was written behind its end");
            live(&world, async |m: SimMachine| {
                let error = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.err().expect("it is not served");
                let said = error.to_string();
                assert!(said.contains("it was cut off") && said.contains(&SIZE.to_string()), "{by:?}: {said}");
            });
            world.crash(CrashKind::Process);
            // Somebody makes it as long as it was: that is told, whoever opens it first, and nothing that is inside is lost.
            world.truncate(0, SIZE);
            live(&world, async |m: SimMachine| {
                for _ in 0..2 {
                    let error =
                        Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.err().expect("zeros are served");
                    assert!(matches!(&error, Error::EndLost { paths, .. } if *paths == ["disk0"]), "{by:?}: {error}");
                    let looked_at = OpenPool { inspect: true, ..OpenPool::default() };
                    let pool = Pool::open(&m, looked_at, vec![m.open(0)]).await.expect("it can be looked at");
                    let report = pool.check().await.expect("a check");
                    let lost =
                        report.findings.iter().filter(|finding| finding.kind == "end-lost" && finding.loss).count();
                    assert_eq!(lost, 1, "{by:?}: {:#?}", report.findings);
                }
                let accepted = OpenPool { accept_lost_ends: true, ..OpenPool::default() };
                let pool = Pool::open(&m, accepted, vec![m.open(0)]).await.expect("what is left of it");
                let said = pool.info().recovery.ends_lost.join(" ");
                assert!(said.contains("the end of disk0 is gone"), "{by:?}: {said}");
                pool.arm(&AlarmState::default());
                let told = |event: &SpaceEvent| {
                    matches!(event, SpaceEvent::CheckFound { reason, loss: true, rising: true }
                        if reason.contains("the end of disk0 is gone"))
                };
                let events = pool.events().await;
                assert!(events.iter().any(told), "{by:?}: {events:?}");
                let mut inside = 0;
                for extent in 0..EXTENTS {
                    let byte = byte_at(&pool, &m, extent).await.expect("a read");
                    assert!(byte == of(extent) || byte == 0, "{by:?}: extent {extent} holds {byte}");
                    inside += u64::from(byte == of(extent));
                }
                // Its extents lie in every other place, and begin behind the journal.
                let expected = EXTENTS.min((end - 8 * MIB) / EXTENT / 2);
                assert!(inside >= expected, "{by:?}: {inside} of {expected} extents are left before {end}");
            });
        }
    }
}

/// A pool in which a write was flushed.
async fn with_a_write(m: &SimMachine) -> Pool<SimMachine> {
    let pool = create(m).await;
    pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
    write(&pool, m, "v", 0, 7).await.expect("a write");
    pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
    pool
}

/// The next start does not serve zeros for what was cut off at `end`.
#[track_caller]
fn assert_end_lost(world: &SimWorld, end: u64) {
    world.crash(CrashKind::Process);
    live(world, async |m: SimMachine| {
        let error = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.err().expect("zeros are served");
        assert!(matches!(error, Error::EndLost { .. }), "cut at {end}: {error}");
    });
}

#[test]
fn what_was_cut_off_and_made_long_again_before_anybody_looked_is_never_served_as_zeros() {
    for (end, checked) in [(SIZE / 2, false), (SIZE - END, false), (SIZE / 2, true)] {
        let world = SimWorld::new(9, vec![SimDiskSpec::new("disk0", SIZE)]);
        live(&world, async |m: SimMachine| {
            let pool = with_a_write(&m).await;
            world.cut(0, end);
            m.extend(0, SIZE);
            if checked {
                // It begins with a checkpoint.
                let report = pool.check().await;
                assert!(!report.is_ok_and(|report| report.clean()), "cut at {end}: a check finds nothing");
            }
            let closed = pool.close().await;
            assert!(closed.is_err() || pool.read_only().is_some(), "cut at {end}: it is closed as if nothing had been");
        });
        assert_end_lost(&world, end);
    }
}

#[test]
fn a_device_that_was_cut_off_and_made_longer_than_it_was_does_not_grow() {
    let world = SimWorld::new(9, vec![SimDiskSpec::new("disk0", SIZE)]);
    live(&world, async |m: SimMachine| {
        let pool = with_a_write(&m).await;
        world.cut(0, SIZE / 4);
        m.extend(0, 2 * SIZE);
        let device = pool.info().devices[0].uuid;
        let error = pool.grow_device(device).await.expect_err("what is left of it grows");
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        let error = byte_at(&pool, &m, 0).await.expect_err("what may be zeros is read");
        assert!(matches!(error, Error::Device(_)), "{error}");
    });
    assert_end_lost(&world, SIZE / 4);
}

#[test]
fn an_idle_pool_notices_by_itself_that_a_device_was_cut_off_and_made_long_again() {
    let world = SimWorld::new(9, vec![SimDiskSpec::new("disk0", SIZE)]);
    live(&world, async |m: SimMachine| {
        let pool = with_a_write(&m).await;
        pool.arm(&AlarmState::default());
        m.sleep(Duration::from_secs(20)).await;
        assert_eq!(byte_at(&pool, &m, 0).await.expect("a read"), 7);
        world.cut(0, SIZE / 4);
        m.extend(0, SIZE);
        m.sleep(Duration::from_secs(20)).await;
        let error = byte_at(&pool, &m, 0).await.expect_err("what may be zeros is read");
        assert!(matches!(error, Error::Device(_)), "{error}");
        assert!(pool.read_only().is_some(), "it takes writes");
        m.sleep(Duration::from_secs(1)).await;
        let events = pool.events().await;
        assert!(events.iter().any(|event| matches!(event, SpaceEvent::ReadOnly { rising: true, .. })), "{events:#?}");
    });
}

#[test]
fn an_idle_pool_notices_within_two_seconds_that_a_device_was_cut_off_and_takes_no_writes() {
    let world = SimWorld::new(9, vec![SimDiskSpec { volatile_cache: false, ..SimDiskSpec::new("disk0", SIZE) }]);
    live(&world, async |m: SimMachine| {
        let pool = with_a_write(&m).await;
        pool.arm(&AlarmState::default());
        m.sleep(Duration::from_secs(20)).await;
        assert_eq!(pool.read_only(), None);
        world.cut(0, SIZE / 2);
        m.sleep(Duration::from_secs(2)).await;
        let reason = pool.read_only().expect("it takes writes");
        assert!(reason.contains("disk0: it ends at"), "{reason}");
        assert_eq!(byte_at(&pool, &m, 0).await.expect("what is in front of it is there"), 7);
        let events = pool.events().await;
        assert!(events.iter().any(|event| matches!(event, SpaceEvent::ReadOnly { rising: true, .. })), "{events:#?}");
    });
}

#[test]
fn what_a_file_was_enlarged_by_may_be_taken_back_as_long_as_no_pool_uses_it() {
    let world = SimWorld::new(9, vec![SimDiskSpec::new("disk0", SIZE)]);
    live(&world, async |m: SimMachine| {
        let pool = with_a_write(&m).await;
        pool.arm(&AlarmState::default());
        m.extend(0, 2 * SIZE);
        assert!(pool.growth_plans().expect("plans")[0].gained_bytes > 0);
        m.sleep(Duration::from_secs(20)).await;
        world.cut(0, SIZE);
        m.sleep(Duration::from_secs(20)).await;
        write(&pool, &m, "v", EXTENT, 8).await.expect("a write");
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
        assert_eq!(pool.read_only(), None);
        // What it uses is another matter.
        m.extend(0, 2 * SIZE);
        pool.grow_device(pool.info().devices[0].uuid).await.expect("it grows");
        world.cut(0, SIZE);
        m.sleep(Duration::from_secs(2)).await;
        assert!(pool.read_only().is_some(), "it takes writes");
    });
}

#[test]
fn that_one_device_is_gone_does_not_hide_that_another_was_cut_off() {
    let spec = |name| SimDiskSpec { volatile_cache: false, ..SimDiskSpec::new(name, SIZE) };
    let world = SimWorld::new(9, vec![spec("disk0"), spec("disk1")]);
    live(&world, async |m: SimMachine| {
        let make = CreatePool { name: "tank".into(), extent_bytes: EXTENT as u32, force: false };
        let pool = Pool::create(&m, make, vec![m.open(0), m.open(1)]).await.expect("a pool");
        pool.arm(&AlarmState::default());
        m.sleep(Duration::from_secs(20)).await;
        world.vanish(0);
        world.cut(1, SIZE / 2);
        m.sleep(Duration::from_secs(2)).await;
        let reason = pool.read_only().expect("it takes writes");
        assert!(reason.contains("disk1: it ends at"), "{reason}");
    });
}
