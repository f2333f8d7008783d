//! A pool and a copy of it on one machine, and a pool whose devices were put back to an earlier state.

use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, vdisk};
use plimsoll_engine::{AlarmState, Evacuate, JobState, OpenPool, Pool, SpaceEvent, crash_memory_name};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};

const EXTENT: u64 = 65_536;
const SIZE: u64 = 64 << 20;
/// Bytes at the end of a device for its label and roots.
const END: u64 = 64 << 10;

fn world(disks: usize) -> SimWorld {
    let spec = |disk| SimDiskSpec::new(&format!("disk{disk}"), SIZE);
    SimWorld::new(5, (0..disks).map(spec).collect())
}

async fn open(m: &SimMachine, disks: &[usize]) -> Pool<SimMachine> {
    let devices = disks.iter().map(|disk| m.open(*disk)).collect();
    Pool::open(m, OpenPool::default(), devices).await.expect("it opens")
}

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, extent: u64, byte: u8) {
    let v = pool.vdisk("v").expect("a vdisk");
    v.write(extent * EXTENT, filled(m, byte, 4096).await, false).await.expect("a write");
}

async fn flush(pool: &Pool<SimMachine>) {
    pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
}

async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, extent: u64) -> u8 {
    let buffer = m.buffers().alloc(4096).await;
    pool.vdisk("v").expect("a vdisk").read(extent * EXTENT, buffer).await.expect("a read")[0]
}

fn copy(world: &SimWorld, from: usize, to: usize) {
    world.write_raw(to, 0, &world.read_raw(from, 0, SIZE));
}

#[test]
fn what_is_done_to_a_copy_takes_nothing_from_what_it_is_a_copy_of() {
    // The copy is made before the life that dies, or of what it left.
    for early in [true, false] {
        let world = world(2);
        live(&world, async |m: SimMachine| {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            write(&pool, &m, 0, 1).await;
            pool.close().await.expect("a close");
        });
        world.crash(CrashKind::Process);
        if early {
            copy(&world, 0, 1);
        }
        live(&world, async |m: SimMachine| {
            let pool = open(&m, &[0]).await;
            for extent in 1..20 {
                write(&pool, &m, extent, 2).await;
            }
        });
        world.crash(CrashKind::Process);
        if !early {
            copy(&world, 0, 1);
        }
        live(&world, async |m: SimMachine| {
            let pool = open(&m, &[1]).await;
            assert_eq!(pool.info().recovery.from_crash_memory, 0, "it is not of this device");
            write(&pool, &m, 30, 3).await;
            pool.close().await.expect("a close");
        });
        world.crash(CrashKind::Process);
        live(&world, async |m: SimMachine| {
            let pool = open(&m, &[0]).await;
            assert!(pool.info().recovery.from_crash_memory > 0, "{:?}", pool.info().recovery);
            for extent in 1..20 {
                assert_eq!(byte_at(&pool, &m, extent).await, 2, "extent {extent}");
            }
            assert_eq!(byte_at(&pool, &m, 30).await, 0, "it was written to the copy");
        });
    }
}

#[test]
fn what_was_put_back_to_before_the_last_flush_is_given_nothing_of_what_came_after() {
    let world = world(1);
    let before = live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        // Somebody's, where what is written next will lie.
        pool.create_vdisk(vdisk("secret", 1 << 30)).await.expect("a vdisk");
        for extent in 0..20 {
            let secret = pool.vdisk("secret").expect("a vdisk");
            secret.write(extent * EXTENT, filled(&m, 0x77, 65_536).await, false).await.expect("a write");
        }
        let job = pool.delete_vdisk("secret").await.expect("it goes");
        while pool.jobs().iter().any(|other| other.id == job.id && other.state == JobState::Running) {
            m.sleep(Duration::from_millis(100)).await;
        }
        write(&pool, &m, 0, 1).await;
        flush(&pool).await;
        m.sleep(Duration::from_secs(60)).await;
        let before = world.read_raw(0, 0, SIZE);
        for extent in 1..6 {
            write(&pool, &m, extent, 2).await;
            flush(&pool).await;
        }
        for extent in 6..20 {
            write(&pool, &m, extent, 3).await;
        }
        before
    });
    world.crash(CrashKind::Process);
    world.write_raw(0, 0, &before);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0]).await;
        assert_eq!(pool.info().recovery.from_crash_memory, 0, "{:?}", pool.info().recovery);
        assert!(pool.read_only().is_some(), "that something is missing is not said");
        for extent in 1..20 {
            assert_eq!(byte_at(&pool, &m, extent).await, 0, "extent {extent} shows what is not its own");
        }
    });
}

#[test]
fn what_is_not_yet_written_outlives_the_device_that_it_was_called_after() {
    let world = world(2);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.add_device(m.open(1), false).await.expect("it joins");
        let (name, uuid) = (pool.crash_memory().expect("a name"), pool.info().uuid);
        assert_eq!(name, crash_memory_name(uuid, &m.open(0)));
        let first = pool.info().devices[0].uuid;
        pool.remove_device(first, Evacuate::default()).await.expect("it begins");
        while pool.info().devices.len() > 1 {
            m.sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(pool.crash_memory().expect("a name"), crash_memory_name(uuid, &m.open(1)));
        for extent in 0..20 {
            write(&pool, &m, extent, 4).await;
        }
    });
    world.crash(CrashKind::Process);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[1]).await;
        assert!(pool.info().recovery.from_crash_memory > 0, "{:?}", pool.info().recovery);
        for extent in 0..20 {
            assert_eq!(byte_at(&pool, &m, extent).await, 4, "extent {extent}");
        }
    });
}

#[test]
fn a_device_stays_whose_crash_memory_cannot_be_called_after_another() {
    let world = world(2);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.add_device(m.open(1), false).await.expect("it joins");
        let (name, first) = (pool.crash_memory().expect("a name"), pool.info().devices[0].uuid);
        m.rename_crash_memory(&name, "away").expect("a name");
        let job = pool.remove_device(first, Evacuate::default()).await.expect("it begins");
        let ended = || pool.jobs().into_iter().find(|known| known.id == job.id && known.state != JobState::Running);
        let job = loop {
            match ended() {
                Some(job) => break job,
                None => m.sleep(Duration::from_millis(100)).await,
            }
        };
        assert!(matches!(&job.state, JobState::Failed(why) if why.contains("cannot be renamed")), "{job:?}");
        assert_eq!(pool.info().devices.len(), 2);
        for extent in 0..20 {
            write(&pool, &m, extent, 4).await;
        }
        m.rename_crash_memory("away", &name).expect("a name");
    });
    world.crash(CrashKind::Process);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0, 1]).await;
        assert!(pool.info().recovery.from_crash_memory > 0, "{:?}", pool.info().recovery);
        for extent in 0..20 {
            assert_eq!(byte_at(&pool, &m, extent).await, 4, "extent {extent}");
        }
    });
}

#[test]
fn labels_that_are_written_over_under_a_pool_are_written_again_and_told() {
    let world = world(1);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        write(&pool, &m, 0, 5).await;
        flush(&pool).await;
        m.sleep(Duration::from_secs(20)).await;
        for label in [0, SIZE - END] {
            world.scribble(0, label, 4096);
        }
        m.sleep(Duration::from_secs(20)).await;
        let told = |event: &SpaceEvent| matches!(event, SpaceEvent::DeviceErrors { reason, .. } if reason.contains("its label: it was written again"));
        let events = pool.events().await;
        assert!(events.iter().any(told), "{events:#?}");
        flush(&pool).await;
    });
    world.crash(CrashKind::Process);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0]).await;
        assert_eq!(byte_at(&pool, &m, 0).await, 5);
        assert_clean(&pool, "afterwards").await;
    });
}

#[test]
fn a_tail_of_a_former_life_does_not_hide_that_of_the_last_one() {
    for rejoins in [true, false] {
        let world = world(3);
        live(&world, async |m: SimMachine| {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            pool.add_device(m.open(1), false).await.expect("it joins");
            write(&pool, &m, 0, 1).await;
        });
        world.crash(CrashKind::Process);
        copy(&world, 0, 2);
        // The copy takes the place of the first, whose tail stays, and lets that be a member again.
        live(&world, async |m: SimMachine| {
            let pool = open(&m, &[2, 1]).await;
            if rejoins {
                let copied = pool.info().devices.iter().find(|device| device.path == "disk2").expect("the copy").uuid;
                pool.remove_device(copied, Evacuate::default()).await.expect("it begins");
                while pool.info().devices.len() > 1 {
                    m.sleep(Duration::from_millis(100)).await;
                }
                pool.add_device(m.open(0), true).await.expect("it joins again");
            }
            for extent in 1..20 {
                write(&pool, &m, extent, 5).await;
            }
        });
        world.crash(CrashKind::Process);
        live(&world, async |m: SimMachine| {
            let pool = open(&m, if rejoins { &[0, 1] } else { &[2, 1] }).await;
            for extent in 1..20 {
                assert_eq!(byte_at(&pool, &m, extent).await, 5, "extent {extent}, {:?}", pool.info().recovery);
            }
        });
    }
}

#[test]
fn a_tail_that_was_not_in_sight_for_a_life_is_not_believed_when_it_is_back() {
    for beside in [false, true] {
        let world = world(2);
        let uuid = live(&world, async |m: SimMachine| {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            pool.add_device(m.open(1), false).await.expect("it joins");
            let uuid = pool.info().uuid;
            pool.close().await.expect("a close");
            uuid
        });
        world.crash(CrashKind::Process);
        live(&world, async |m: SimMachine| drop(open(&m, &[0, 1]).await));
        world.crash(CrashKind::Process);
        let name = |m: &SimMachine, disk| crash_memory_name(uuid, &m.open(disk));
        live(&world, async |m: SimMachine| {
            m.rename_crash_memory(&name(&m, 0), "away").expect("a name");
            let pool = open(&m, &[0, 1]).await;
            for extent in 0..20 {
                write(&pool, &m, extent, 6).await;
            }
            flush(&pool).await;
            for extent in 20..30 {
                write(&pool, &m, extent, 6).await;
            }
        });
        world.crash(CrashKind::Process);
        live(&world, async |m: SimMachine| {
            if beside {
                // The one that counts is the second of two.
                m.rename_crash_memory(&name(&m, 0), &name(&m, 1)).expect("a name");
            }
            m.rename_crash_memory("away", &name(&m, 0)).expect("a name");
            let pool = open(&m, &[0, 1]).await;
            let recovery = pool.info().recovery;
            assert_eq!(recovery.records_dropped, 0, "{recovery:?}");
            // What only the tail had is there if that is.
            for extent in 0..if beside { 30 } else { 20 } {
                assert_eq!(byte_at(&pool, &m, extent).await, 6, "extent {extent}: {recovery:?}");
            }
            let is_left = m.has_crash_memory(&name(&m, 0));
            assert_eq!(is_left, !beside, "a tail that nobody goes on from stays behind, or the other one is gone");
        });
    }
}

#[test]
fn a_closed_state_that_was_put_back_in_place_is_not_served_for_what_a_later_life_left() {
    let world = world(1);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Process);
    let before = world.read_raw(0, 0, SIZE);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0]).await;
        for extent in 0..5 {
            write(&pool, &m, extent, 7).await;
            flush(&pool).await;
        }
    });
    world.crash(CrashKind::Process);
    world.write_raw(0, 0, &before);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0]).await;
        let reason = pool.read_only().expect("what was flushed is missing, and nobody says so");
        assert!(reason.contains("put back to an earlier state"), "{reason}");
        // Somebody accepts that.
        pool.repair().await.expect("a repair");
        assert_clean(&pool, "accepted").await;
        write(&pool, &m, 9, 8).await;
    });
    world.crash(CrashKind::Process);
    live(&world, async |m: SimMachine| {
        let pool = open(&m, &[0]).await;
        assert_eq!((byte_at(&pool, &m, 9).await, byte_at(&pool, &m, 0).await), (8, 0));
        assert_eq!(pool.read_only(), None);
    });
}
