//! Devices are emptied into files whose file systems are full: that waits, goes on by itself, and can be called off. Checklist 0.24, 2.29.

use std::time::Duration;

use crate::support::below::{BLOCK, ENDS, EXTENT, LEAF, SECOND, byte_at, holding, make_sparse, starve, within, write};
use crate::support::{assert_clean, create, live, open, vdisk, world};
use plimsoll_engine::{CreatePool, CreateVdisk, Error, Evacuate, JobInfo, JobState, Pool};
use plimsoll_hardware::sim::SimMachine;
use plimsoll_hardware::{Device, IoError, Machine};

/// A pool on two disks with `v`, of which every `step`-th extent is full of ones, as many as `extents`; and the second disk.
async fn pool_on_two(m: &SimMachine, extents: u64, step: u64) -> (Pool<SimMachine>, uuid::Uuid) {
    let pool = Pool::create(m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
    let policy = holding(3600);
    pool.create_vdisk(CreateVdisk { policy, ..vdisk("v", 1 << 40) }).await.expect("a vdisk");
    for number in 0..extents {
        write(&pool, m, number * step * EXTENT, 1, EXTENT).await.expect("a first write");
    }
    assert_clean(&pool, "by a checkpoint").await;
    let second = pool.info().devices[1].uuid;
    (pool, second)
}

fn job_of(pool: &Pool<SimMachine>) -> JobInfo {
    pool.jobs().pop().expect("a job")
}

fn waits_for_room(job: &JobInfo, path: &str) -> bool {
    let waits_for = job.waits_for.as_deref().unwrap_or_default();
    job.state == JobState::Running && waits_for.contains(path) && waits_for.contains("full")
}

#[test]
fn an_evacuation_finds_by_itself_that_there_is_room_again() {
    let world = &world(1, 2, 64);
    live(world, |m| async move {
        let (pool, second) = pool_on_two(&m, 64, 1).await;
        // Slowly, so that the reserve is in blocks of the first device before there is no room for anything else.
        pool.evacuate_device(second, Evacuate { rate: Some(EXTENT) }).await.expect("it begins");
        m.sleep(5 * SECOND).await;
        world.set_room(0, Some(0));
        m.sleep(90 * SECOND).await;
        let job = job_of(&pool);
        assert!(waits_for_room(&job, "disk0"), "{job:?}");
        assert_eq!(pool.info().starved, None);
        world.set_room(0, None);
        m.sleep(200 * SECOND).await;
        let job = job_of(&pool);
        assert_eq!((job.state, job.waits_for), (JobState::Done, None));
        assert_clean(&pool, "without the second device").await;
    });
}

#[test]
fn an_evacuation_waits_until_there_is_room_for_the_journal() {
    let world = &world(2, 2, 64);
    live(world, |m| async move {
        let pool = create(&m).await;
        pool.add_device(m.open(1), false).await.expect("a device is added");
        m.sleep(5 * SECOND).await;
        world.set_room(1, Some(0));
        let first = pool.info().devices[0].uuid;
        pool.remove_device(first, Evacuate::default()).await.expect("it begins");
        m.sleep(20 * SECOND).await;
        let job = job_of(&pool);
        assert!(waits_for_room(&job, "disk1"), "{job:?}");
        world.set_room(1, None);
        m.sleep(20 * SECOND).await;
        assert_eq!((job_of(&pool).state, pool.info().devices.len()), (JobState::Done, 1));
        assert_clean(&pool, "on the second device").await;
    });
}

#[test]
fn an_evacuation_is_called_off_closed_or_goes_on_while_checkpoints_starve() {
    for end in ["kept", "kept without room", "closed", "room"] {
        let world = &world(3, 2, 64);
        live(world, |m| async move {
            let (pool, second) = pool_on_two(&m, 400, LEAF).await;
            let v = pool.vdisk("v").expect("a vdisk");
            pool.evacuate_device(second, Evacuate { rate: Some(EXTENT) }).await.expect("it begins");
            m.sleep(5 * SECOND).await;
            world.set_room(0, Some(0));
            // From now on it finds every second that there is no room.
            pool.set_evacuation_rate(second, Evacuate { rate: Some(0) }).await.expect("a new pace");
            m.sleep(3 * SECOND).await;
            make_sparse(world, &m, 0).await;
            if end == "kept without room" {
                // The checkpoint that it asks for is the first to find none.
                for leaf in 0..100 {
                    v.discard(leaf * LEAF * EXTENT, BLOCK, false).await.expect("a discard");
                }
            } else {
                starve(&pool, &m).await;
            }
            m.sleep(30 * SECOND).await;
            assert_eq!(pool.info().starved.as_deref(), Some("disk0"), "{end}: {:?}", job_of(&pool));
            assert_eq!(job_of(&pool).state, JobState::Running);
            match end {
                "kept" => {
                    // Checkpoints find room there from now on.
                    within(&m, 5, "a decision", pool.cancel_evacuation(second)).await.expect("it is kept");
                    m.sleep(25 * SECOND).await;
                    assert_eq!(job_of(&pool).state, JobState::Cancelled);
                    assert_eq!(pool.info().starved, None);
                }
                "kept without room" => {
                    // Nor has it a block of its own left.
                    let (device, end) = (m.open(1), (64 << 20) - ENDS);
                    device.write_zeroes(ENDS, end - ENDS).await.expect("zeros");
                    world.set_room(1, Some(0));
                    let kept = within(&m, 25, "a decision", pool.cancel_evacuation(second)).await;
                    assert!(matches!(kept, Err(Error::Device(IoError::NoSpace { .. }))), "{kept:?}");
                    m.sleep(25 * SECOND).await;
                    assert_eq!(job_of(&pool).state, JobState::Cancelled);
                }
                "closed" => {
                    let closed = within(&m, 10, "a close", pool.close()).await;
                    assert!(matches!(closed, Err(Error::ClosedFull { .. })), "{closed:?}");
                    m.sleep(25 * SECOND).await;
                    assert_eq!(job_of(&pool).state, JobState::Running);
                }
                _ => {}
            }
        });
        if end == "kept without room" {
            continue;
        }
        live(world, |m| async move {
            world.set_room(0, None);
            let pool = open(&m, 2).await;
            for leaf in 100..400 {
                assert_eq!(byte_at(&pool, &m, leaf * LEAF * EXTENT + EXTENT / 2).await, 1, "{end}: leaf {leaf}");
            }
            if end != "kept" {
                m.sleep(Duration::from_secs(600)).await;
                assert_eq!(job_of(&pool).state, JobState::Done);
            }
            assert_clean(&pool, end).await;
            pool.close().await.expect("a close");
        });
    }
}
