//! Failures of devices, and of their coming and going, that were found once, each with the shortest way to it.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use futures_util::future::{Either, join_all, join3, select};
use plimsoll_engine::{CreatePool, Evacuate, JobState, OpenPool, Pool};
use plimsoll_hardware::sim::{CrashKind, FaultKind, FaultProfile, FaultSite, SimDiskSpec, SimWorld, Survival};
use plimsoll_hardware::{Device, Machine};

#[test]
fn a_device_that_grew_and_left_keeps_no_label() {
    let world = world(1, 2, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
        m.extend(1, 24 << 20);
        let device = pool.info().devices[1].uuid;
        assert!(pool.grow_device(device).await.expect("it grows") > 0);
        pool.remove_device(device, Evacuate::default()).await.expect("it leaves");
        while pool.info().devices.len() > 1 {
            m.sleep(Duration::from_millis(100)).await;
        }
        pool.close().await.expect("a close");
    });
    for end in [0, (24 << 20) - (64 << 10)] {
        assert_ne!(&world.read_raw(1, end, 8), b"PLIMSOLL", "a label at {end}");
    }
}

#[test]
fn a_front_label_that_says_the_size_before_a_device_grew_is_written_anew_by_a_start() {
    let world = world(1, 1, 16);
    let mut label = Vec::new();
    live(&world, |m| async move {
        create(&m).await.close().await.expect("a close");
    });
    label.extend(world.read_raw(0, 0, 4096));
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        m.extend(0, 24 << 20);
        assert!(pool.grow_device(pool.info().devices[0].uuid).await.expect("it grows") > 0);
        pool.close().await.expect("a close");
    });
    // As a crash leaves it that comes when the root stands and the label in front does not.
    let grown = world.read_raw(0, 0, 4096);
    assert_ne!(grown, label);
    world.write_raw(0, 0, &label);
    live(&world, |m| async move { open(&m, 1).await.close().await.expect("a close") });
    assert_eq!(world.read_raw(0, 0, 4096), grown);
}

#[test]
fn a_device_that_takes_no_root_stops_the_pool_before_it_passes_for_an_old_copy() {
    let world = world(1, 2, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.close().await.expect("a close");
    });
    let ends = |site: FaultSite| site.disk == 1 && (site.offset < 64 << 10 || site.offset >= (16 << 20) - (64 << 10));
    world.filter_faults(move |site| site.kind == FaultKind::WriteError && ends(site));
    world.set_faults(FaultProfile { write_error: 10_000, ..FaultProfile::NONE });
    live(&world, |m| async move {
        let pool = open(&m, 2).await;
        let v = pool.vdisk("v").expect("a vdisk");
        v.write(0, filled(&m, 3, 4096).await, false).await.expect("a write");
        v.flush().await.expect("a flush");
        assert!(pool.close().await.is_err(), "the close says that a device took no root");
    });
    world.heal();
    live(&world, |m| async move {
        let pool = open(&m, 2).await;
        let back = pool.vdisk("v").expect("a vdisk").read(0, m.buffers().alloc(4096).await).await.expect("a read");
        assert_eq!(back[0], 3, "what was flushed is there");
        pool.close().await.expect("a close");
    });
}

#[test]
fn first_writes_under_way_when_the_first_device_with_a_cache_comes_survive_power_loss_once_flushed() {
    let mut lived = 0;
    for stop in 50..600 {
        let disk = |name: &str, volatile| SimDiskSpec { volatile_cache: volatile, ..SimDiskSpec::new(name, 16 << 20) };
        let world = SimWorld::new(stop, vec![disk("disk0", false), disk("disk1", true)]);
        live(&world, |m| async move {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 2 << 30)).await.expect("a vdisk");
            pool.close().await.expect("a close");
        });
        let (machine, flushed) = (world.boot(), <Rc<[Cell<u64>; 4]>>::default());
        let (m, count) = (machine.clone(), flushed.clone());
        let ended = machine.run(async move {
            let pool = open(&m, 1).await;
            let v = pool.vdisk("v").expect("a vdisk");
            let data = filled(&m, 5, 4096).await;
            // Leaves that the checkpoint of the new device has to write: it takes a while.
            for leaf in 1..40 {
                v.write(leaf << 25, data.clone(), false).await.expect("a write");
            }
            m.crash_after_ops(stop);
            let add = async { pool.add_device(m.open(1), false).await.expect("a device") };
            let (written, added) = (<[Cell<u64>; 4]>::default(), Cell::new(false));
            let add = async {
                add.await;
                added.set(true);
            };
            let write = async |writer: usize| {
                while !added.get() && written[writer].get() < 60 {
                    let write = written[writer].get();
                    v.write((write * 4 + writer as u64) << 16, data.clone(), false).await.expect("a write");
                    written[writer].set(write + 1);
                }
            };
            let flush = async {
                while !added.get() {
                    m.sleep(Duration::from_micros(200 + stop)).await;
                    let seen = written.each_ref().map(Cell::get);
                    v.flush().await.expect("a flush");
                    count.iter().zip(seen).for_each(|(count, seen)| count.set(seen));
                }
            };
            join3(add, join_all((0..4).map(write)), flush).await;
        });
        lived += u64::from(ended.unless_crashed().is_some());
        world.crash(CrashKind::Power);
        live(&world, |m| async move {
            let pool = open(&m, 2).await;
            let v = pool.vdisk("v").expect("a vdisk");
            for (writer, flushed) in flushed.iter().enumerate() {
                for write in 0..flushed.get() {
                    let offset = (write * 4 + writer as u64) << 16;
                    let back = v.read(offset, m.buffers().alloc(4096).await).await.expect("a read");
                    assert_eq!(
                        back[0], 5,
                        "stopped after {stop} operations, flushed write {write} of {writer} is gone"
                    );
                }
            }
        });
    }
    assert!((1..540).contains(&lived), "the stops are not spread over what happens: {lived} lived");
}

#[test]
fn a_device_that_goes_while_a_start_reads_the_journal_voids_crash_memory_at_that_moment() {
    let mut cut_short = 0;
    for seed in 0..80 {
        let (moment, world) = (seed % 40, world(seed, 1, 16));
        live(&world, |m| async move {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            let v = pool.vdisk("v").expect("a vdisk");
            v.write(0, filled(&m, 5, 4096).await, false).await.expect("a write");
        });
        world.crash(CrashKind::Process);
        let machine = world.boot();
        machine.crash_after_ops(14 + moment);
        let (m, gone, operations) = (machine.clone(), &world, Cell::new(u64::MAX - 2));
        let seen = &operations;
        let ended = machine.run(async move {
            let start = pin!(Pool::open(&m, OpenPool::default(), vec![m.open(0)]));
            let vanish = pin!(async {
                m.sleep(Duration::from_micros(300 + 50 * moment)).await;
                gone.vanish(0);
                seen.set(m.ops());
                std::future::pending::<()>().await
            });
            select(start, vanish).await;
        });
        // It died knowing: two operations had ended since, and the second of them had begun when it was gone.
        let knew = ended.unless_crashed().is_none() && machine.ops() >= operations.get() + 2;
        world.crash(CrashKind::Process);
        world.heal();
        live(&world, |m| async move {
            let recovery = open(&m, 1).await.info().recovery;
            assert!(!knew || recovery.from_crash_memory == 0, "gone {moment}: {recovery:?}");
        });
        cut_short += u64::from(knew);
    }
    assert!(cut_short > 5, "{cut_short} starts died before they ended");
}

#[test]
fn a_start_in_which_the_device_goes_writes_nothing_over_a_journal_that_it_could_not_read() {
    let mut failed = 0;
    for moment in 0..200 {
        let mut disk = SimDiskSpec::new("disk0", 16 << 20);
        disk.volatile_cache = false;
        let world = SimWorld::new(moment, vec![disk]);
        live(&world, |m| async move {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        });
        world.crash(CrashKind::Power);
        let gone = &world;
        let start = live(&world, |m| async move {
            let vanish = pin!(async {
                m.sleep(Duration::from_micros(10 * moment)).await;
                gone.vanish(0);
                std::future::pending::<()>().await
            });
            let start = pin!(Pool::open(&m, OpenPool::default(), vec![m.open(0)]));
            match select(start, vanish).await {
                Either::Left((start, _)) => start.map(drop),
                Either::Right(_) => unreachable!("it waits for ever"),
            }
        });
        failed += u64::from(start.is_err());
        world.crash(CrashKind::Power);
        world.heal();
        live(&world, |m| async move {
            let there = open(&m, 1).await.vdisks().len();
            assert_eq!(there, 1, "moment {moment}: what was durable is gone");
        });
    }
    assert!(failed > 20, "{failed} starts failed");
}

#[test]
fn a_device_that_is_emptied_slowly_goes_on_at_once_at_a_new_pace() {
    for faster in [Some(0), Some(64 << 20)] {
        live(&world(1, 2, 16), |m| async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            let v = pool.vdisk("v").expect("a vdisk");
            for extent in 0..20u64 {
                v.write(extent << 16, filled(&m, 1, 4096).await, false).await.expect("a write");
            }
            let device = pool.info().devices[0].uuid;
            pool.evacuate_device(device, Evacuate { rate: Some(1024) }).await.expect("it begins");
            m.sleep(Duration::from_secs(1)).await;
            pool.set_evacuation_rate(device, Evacuate { rate: faster }).await.expect("a new pace");
            m.sleep(Duration::from_secs(10)).await;
            let job = pool.jobs().pop().expect("a job");
            assert_eq!(job.state, JobState::Done, "at {faster:?}");
        });
    }
}

#[test]
fn a_device_that_is_emptied_slowly_keeps_its_pace_until_another_is_named() {
    live(&world(1, 2, 16), |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        for extent in 0..20u64 {
            v.write(extent << 16, filled(&m, 1, 4096).await, false).await.expect("a write");
        }
        let device = pool.info().devices[0].uuid;
        let state = || pool.jobs().pop().expect("a job").state;
        pool.evacuate_device(device, Evacuate { rate: Some(1024) }).await.expect("it begins");
        // Asked for again, only waited for, and to be let go when it is empty.
        pool.evacuate_device(device, Evacuate::default()).await.expect("it goes on");
        pool.set_evacuation_rate(device, Evacuate::default()).await.expect("as it was");
        pool.remove_device(device, Evacuate::default()).await.expect("it goes on");
        m.sleep(Duration::from_secs(10)).await;
        assert_eq!(state(), JobState::Running);
        pool.remove_device(device, Evacuate { rate: Some(0) }).await.expect("it goes on");
        m.sleep(Duration::from_secs(10)).await;
        assert_eq!(state(), JobState::Done);
    });
}

#[test]
fn an_evacuation_shows_what_has_moved_and_is_cancelled_when_it_was() {
    live(&world(1, 2, 16), |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0), m.open(1)]).await.expect("a pool");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        for extent in 0..40u64 {
            v.write(extent << 16, filled(&m, 1, 4096).await, false).await.expect("a write");
        }
        let devices = pool.info().devices;
        let device = devices.iter().max_by_key(|device| device.used_bytes).expect("a device").uuid;
        pool.evacuate_device(device, Evacuate { rate: Some(64 << 10) }).await.expect("it begins");
        let mut before = 0;
        for second in 1..6 {
            m.sleep(Duration::from_secs(2)).await;
            let job = pool.jobs().pop().expect("a job");
            assert!(job.done > before && job.done < job.total, "second {second}: {job:?}");
            before = job.done;
        }
        pool.cancel_evacuation(device).await.expect("it stays");
        m.sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.jobs().pop().map(|job| job.state), Some(JobState::Cancelled));
        // No number is used again in another life.
        let numbers: Vec<u64> = pool.jobs().iter().map(|job| job.id).collect();
        pool.close().await.expect("a close");
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0), m.open(1)]).await.expect("the pool");
        pool.compact().expect("a job");
        assert!(pool.jobs().iter().all(|job| !numbers.contains(&job.id)), "{numbers:?}, {:?}", pool.jobs());
    });
}

#[test]
fn a_label_that_is_bad_is_written_again_by_the_next_start_so_that_the_device_may_become_larger() {
    let world = &world(11, 1, 64);
    live(world, |m| async move {
        create(&m).await.close().await.expect("a close");
        m.open(0).write_zeroes(0, 4096).await.expect("damage of the label in front");
    });
    live(world, |m| async move {
        open(&m, 1).await;
        // The other label is at an end that only the one in front names from now on.
        m.extend(0, 72 << 20);
    });
    world.crash(CrashKind::Process);
    live(world, |m| async move { assert_clean(&open(&m, 1).await, "a larger device").await });
}

#[test]
fn a_journal_that_moves_has_its_blocks_before_a_root_names_them() {
    let prepared = world(1, 2, 7);
    live(&prepared, |m| async move {
        let pool = create(&m).await;
        pool.add_device(m.open(1), false).await.expect("a device joins");
        pool.close().await.expect("a close");
    });
    for stop in 1.. {
        let world = &prepared.fork();
        let machine = world.boot();
        let m = machine.clone();
        let life = machine.run(async move {
            let pool = open(&m, 2).await;
            m.crash_after_ops(stop);
            pool.remove_device(pool.info().devices[0].uuid, Evacuate::default()).await.expect("it is to leave");
            // Checkpoints that have begun when the journal is to move.
            while pool.info().devices.len() > 1 && pool.check().await.is_ok() {}
        });
        let ended = life.unless_crashed().is_some();
        // The device that leaves has its root; the other loses what was not flushed.
        let pending = world.pending();
        world.crash_with(&mut |write, _| if pending[write].disk == 0 { Survival::Kept } else { Survival::Dropped });
        live(world, |m| async move {
            let pool = open(&m, 2).await;
            m.sleep(Duration::from_secs(3)).await;
            for disk in [0, 1] {
                world.set_room(disk, Some(0));
            }
            for number in 0..8 {
                let made = pool.create_vdisk(vdisk(&format!("v{number}"), 1 << 30)).await;
                made.unwrap_or_else(|error| panic!("stopped at {stop}: {error}"));
            }
        });
        if ended {
            break;
        }
    }
}

#[test]
fn a_device_whose_rear_label_is_lost_on_the_way_joins_and_has_it_after_the_next_start() {
    let world = world(1, 2, 16);
    let end = (16 << 20) - (64 << 10);
    world.filter_faults(move |site| {
        site.kind == FaultKind::Lost && site.disk == 1 && site.offset == end && site.length == 4096
    });
    world.set_faults(FaultProfile { lost: 10_000, ..FaultProfile::NONE });
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.add_device(m.open(1), false).await.expect("a device joins");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.close().await.expect("a close");
        assert_eq!(pool.read_only(), None);
    });
    assert!(world.faults_struck(FaultKind::Lost) > 0 && world.read_raw(1, end, 4096).iter().all(|byte| *byte == 0));
    world.heal();
    live(&world, |m| async move {
        let pool = open(&m, 2).await;
        assert_eq!(pool.info().recovery.healed, ["a label of disk1 was bad"]);
        assert_clean(&pool, "it has its label").await;
    });
}
