//! Failures that were found once, each with the shortest way to it.
mod support;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, join3, select};
use plimsoll_engine::{
    AlarmState, CreatePool, CreateVdisk, Error, Evacuate, JobState, OnFull, OpenPool, PatternSpec, PatternUse, Pool,
    PoolPolicy, SpaceEvent, Ticket, VdiskPolicy, WriteOptions, Zeroes, identify,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, FaultKind, FaultProfile, FaultSite, SimDiskSpec, SimMachine, SimWorld};
use support::{assert_clean, create, filled, live, open, vdisk, world};

#[test]
fn a_map_after_a_discard_in_the_same_leaf_survives() {
    let world = world(1, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        let d = pool.vdisk("a").expect("open");
        d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
        d.discard(0, 65536, false).await.expect("d");
        d.write(0, filled(&m, 2, 4096).await, false).await.expect("w");
        d.flush().await.expect("flush");
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("vdisk");
        let back = d.read(0, m.buffers().alloc(4096).await).await.expect("read");
        assert_eq!(back[0], 2, "flushed write reads as {}", back[0]);
    });
}

#[test]
fn an_overwrite_beside_first_writes_ends() {
    for seed in 0..40 {
        eprintln!("seed {seed}");
        let world = world(seed, 1, 16);
        live(&world, |m| async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            for e in 0..4u64 {
                let base = e * 65536;
                d.write(base, filled(&m, 1, 4096).await, false).await.expect("w");
                d.flush().await.expect("f");
                let a = async {
                    for b in 1..16u64 {
                        d.write(base + b * 4096, filled(&m, 3, 4096).await, false).await.expect("w");
                    }
                };
                let o = async {
                    d.write(base, filled(&m, 2, 4096).await, false).await.expect("w");
                };
                futures_util::future::join(a, o).await;
            }
        });
    }
}

#[test]
fn a_close_beside_a_first_write_ends() {
    for seed in 0..20 {
        let world = world(seed, 1, 16);
        live(&world, |m| async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            let data = filled(&m, 1, 4096).await;
            let w = async {
                let _ = d.write(0, data, false).await;
            };
            let c = async {
                m.sleep(Duration::from_nanos(100)).await;
                pool.close().await.expect("close");
            };
            futures_util::future::join(w, c).await;
        });
    }
}

#[test]
fn a_write_of_1_mib_in_a_tiny_pool_ends() {
    let world = world(1, 1, 16);
    let machine = world.boot();
    let m = machine.clone();
    machine.set_idle_max(Duration::from_secs(60));
    machine
        .run(async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            d.write(0, filled(&m, 1, 65536).await, false).await.expect("w");
            pool.check().await.expect("check");
            let m2 = m.clone();
            let w = async {
                d.write(1 << 20, filled(&m, 1, 1 << 20).await, false).await.expect("w");
            };
            let t = async {
                m2.sleep(Duration::from_secs(5)).await;
            };
            let r = futures_util::future::select(Box::pin(w), Box::pin(t)).await;
            assert!(
                matches!(r, futures_util::future::Either::Left(_)),
                "did not end in 5 s; generation {}",
                pool.info().generation
            );
        })
        .done();
}

#[test]
fn a_flush_beside_a_checkpoint_is_a_flush() {
    let mut bad = vec![];
    for seed in 0..200 {
        let world = world(seed, 1, 16);
        world.set_damage(plimsoll_hardware::sim::CrashDamage::Share(100));
        let machine = world.boot();
        let m = machine.clone();
        let expected = machine
            .run(async move {
                let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
                pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
                let d = pool.vdisk("a").expect("open");
                d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
                d.flush().await.expect("f");
                pool.check().await.expect("settle");
                let p2 = pool.clone();
                let start = pool.info().generation;
                let c = Box::pin(async move {
                    let _ = p2.check().await;
                });
                let f = Box::pin(async {
                    let mut n = 1u8;
                    // overwrite and flush until the checkpoint has passed
                    loop {
                        n += 1;
                        d.write(0, filled(&m, n, 4096).await, false).await.expect("w");
                        d.flush().await.expect("f");
                        if pool.info().generation > start || n as u64 > 2 + seed % 40 {
                            return n;
                        }
                    }
                });
                match futures_util::future::select(f, c).await {
                    futures_util::future::Either::Left((n, _)) => n,
                    futures_util::future::Either::Right((_, f)) => f.await,
                }
            })
            .done();
        world.crash(CrashKind::Power);
        let machine = world.boot();
        let m = machine.clone();
        let back = machine
            .run(async move {
                let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
                let d = pool.vdisk("a").expect("vdisk");
                d.read(0, m.buffers().alloc(4096).await).await.expect("read")[0]
            })
            .done();
        if back != expected {
            bad.push((seed, expected, back));
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn without_crash_memory_an_overwrite_survives_a_kill() {
    let world = world(3, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        pool.close().await.expect("close");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let label = identify(&m, &m.open(0)).await.expect("identify").expect("label");
        let payload = (32 * 4096 / 4) - 64;
        let bytes = 4096 + 2 * ((16 + payload) as usize).next_multiple_of(8);
        let _hold = m.crash_memory(&label.pool.to_string(), bytes).expect("memory");
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("open");
        d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
        d.write(0, filled(&m, 2, 4096).await, false).await.expect("w");
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("vdisk");
        let back = d.read(0, m.buffers().alloc(4096).await).await.expect("read");
        assert_eq!(back[0], 2, "{:?}", pool.info().recovery);
    });
}

/// Writes a block to extent after extent of `name`, which fails when there is no space, until there is none.
async fn fill(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) {
    let policy = VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() };
    pool.create_vdisk(CreateVdisk { policy, ..vdisk(name, 1 << 30) }).await.expect("a vdisk");
    let v = pool.vdisk(name).expect("a vdisk");
    // Whole extents, in which nothing could be put together.
    let data = filled(m, 7, 64 << 10).await;
    for extent in 0.. {
        match v.write(extent << 16, data.clone(), false).await {
            Ok(()) => {}
            Err(Error::OutOfSpace { .. }) => return,
            Err(error) => panic!("extent {extent}: {error}"),
        }
    }
}

#[test]
fn a_reservation_that_takes_the_rest_of_the_pool_fills_it_for_who_waits_for_that() {
    live(&world(1, 1, 32), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        let promise = async {
            m.sleep(Duration::from_secs(1)).await;
            let reservation = pool.info().available_bytes * 9 / 10;
            let policy = VdiskPolicy { reservation, ..VdiskPolicy::default() };
            pool.set_vdisk_policy("v", policy).await.expect("a promise");
            m.sleep(Duration::from_secs(1)).await;
        };
        let (reached, promise) = (pin!(pool.used_reaches(80)), pin!(promise));
        assert!(matches!(select(reached, promise).await, Either::Left((true, _))), "nobody was told");
    });
}

#[test]
fn zeros_at_the_edge_of_a_fill_that_are_held_are_in_their_protocols_hands() {
    live(&world(1, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.add_pattern(PatternSpec::Unit(vec![0xab, 0xcd]), PatternUse::Everywhere).await.expect("a pattern");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        let mut buffer = m.buffers().alloc(64 << 10).await;
        buffer.chunks_mut(2).for_each(|unit| unit.copy_from_slice(&[0xab, 0xcd]));
        v.write(0, buffer.freeze(), false).await.expect("a fill");
        assert_eq!(v.info().backed_bytes, 0, "it is stored as a fill");
        fill(&pool, &m, "hog").await;
        let ticket = Ticket::default();
        let options = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
        let zeros = v.write_zeroes_with(512, 1024, Zeroes::Unmap, &options);
        let given_up = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!((ticket.held(), pool.info().held_writes), (1, 1));
            ticket.cancel();
        };
        let (zeros, ()) = join(zeros, given_up).await;
        assert!(matches!(zeros, Err(Error::Cancelled)), "{zeros:?}");
        pool.delete_vdisk("hog").await.expect("a delete");
        m.sleep(Duration::from_secs(1)).await;
        let back = v.read(0, m.buffers().alloc(4096).await).await.expect("a read");
        assert_eq!(back[512..514], [0xab, 0xcd], "it was given up and applied");
    });
}

#[test]
fn a_write_that_was_given_up_is_not_among_those_that_went_through() {
    live(&world(1, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        fill(&pool, &m, "hog").await;
        pool.arm(&AlarmState::default());
        let (v, ticket) = (pool.vdisk("v").expect("a vdisk"), Ticket::default());
        let options = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
        let (given_up, goes_on) = (filled(&m, 1, 4096).await, filled(&m, 2, 4096).await);
        let relief = async {
            m.sleep(Duration::from_secs(1)).await;
            ticket.cancel();
            m.sleep(Duration::from_secs(1)).await;
            pool.vdisk("hog").expect("a vdisk").discard(0, 1 << 20, false).await.expect("a discard");
        };
        let (one, other, ()) =
            join3(v.write_with(0, given_up, &options), v.write(1 << 20, goes_on, false), relief).await;
        assert!(matches!(one, Err(Error::Cancelled)) && other.is_ok(), "{one:?} {other:?}");
        m.sleep(Duration::from_secs(1)).await;
        let events = pool.events().await;
        let resumed = |event: &SpaceEvent| match event {
            SpaceEvent::Resumed { writes, .. } => Some(*writes),
            _ => None,
        };
        assert_eq!(events.iter().find_map(resumed), Some(1), "{events:?}");
    });
}

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
    for moment in 0..40 {
        let world = world(moment, 1, 16);
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
fn the_metadata_of_held_writes_that_go_on_together_takes_nothing_that_others_were_promised() {
    live(&world(1, 1, 32), |m| async move {
        let pool = create(&m).await;
        let promised = VdiskPolicy { on_full: OnFull::Fail, reservation: 32 << 16, ..VdiskPolicy::default() };
        pool.create_vdisk(CreateVdisk { policy: promised, ..vdisk("r", 1 << 30) }).await.expect("a vdisk");
        pool.create_vdisk(vdisk("v", 1 << 50)).await.expect("a vdisk");
        fill(&pool, &m, "hog").await;
        let (v, data) = (pool.vdisk("v").expect("a vdisk"), filled(&m, 2, 4096).await);
        // Each in a leaf, and under nodes, of its own.
        let held = join_all((0..150u64).map(|write| v.write(write << 40, data.clone(), false)));
        let relief = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 150);
            pool.vdisk("hog").expect("a vdisk").discard(0, 150 << 16, true).await.expect("a discard");
            m.sleep(Duration::from_secs(1)).await;
            let r = pool.vdisk("r").expect("a vdisk");
            for extent in 0..32u64 {
                let written = r.write(extent << 25, data.clone(), false).await;
                written.unwrap_or_else(|error| panic!("extent {extent} of a reservation: {error}"));
            }
        };
        let (held, ()) = join(held, relief).await;
        assert!(held.iter().any(Result::is_ok), "none went on");
        let refused = |result: &Result<(), Error>| matches!(result, Ok(()) | Err(Error::OutOfSpace { .. }));
        assert!(held.iter().all(refused), "{held:?}");
        assert_eq!(pool.info().read_only, None);
        assert_clean(&pool, "in the end").await;
    });
}

#[test]
fn who_is_behind_a_write_that_waits_for_its_quota_keeps_nobody_else_up() {
    live(&world(1, 1, 16), |m| async move {
        let pool = create(&m).await;
        let quota = VdiskPolicy { quota: Some(4 << 16), ..VdiskPolicy::default() };
        pool.create_vdisk(CreateVdisk { policy: quota, ..vdisk("a", 1 << 30) }).await.expect("a vdisk");
        let failing = VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() };
        pool.create_vdisk(CreateVdisk { policy: failing, ..vdisk("b", 1 << 30) }).await.expect("a vdisk");
        let (a, b) = (pool.vdisk("a").expect("a vdisk"), pool.vdisk("b").expect("a vdisk"));
        let (large, small) = (filled(&m, 1, 6 << 16).await, filled(&m, 2, 4096).await);
        let one = a.write(0, large, false);
        let behind = async {
            m.sleep(Duration::from_secs(1)).await;
            a.write(64 << 16, small.clone(), false).await
        };
        let beside = async {
            m.sleep(Duration::from_secs(1)).await;
            for extent in 0..50u64 {
                b.write(extent << 16, small.clone(), false).await.expect("there is space for another vdisk");
            }
        };
        let (one, behind, ()) = join3(one, behind, beside).await;
        assert!(matches!(one, Err(Error::QuotaExceeded { .. })), "{one:?}");
        assert!(behind.is_ok(), "it fits once the one before it has given up: {behind:?}");
    });
}

#[test]
fn held_writes_of_all_pools_leave_half_of_the_memory_to_others() {
    let world = world(1, 4, 16);
    live(&world, |m| async move {
        let mut writes = Vec::new();
        let memory = m.buffers().bytes() as u64;
        let mut pools = Vec::new();
        for disk in 0..4 {
            let name = format!("tank{disk}");
            let pool = Pool::create(&m, CreatePool::named(&name), vec![m.open(disk)]).await.expect("a pool");
            let policy = PoolPolicy { hold_bytes: Some(memory / 2), ..PoolPolicy::default() };
            pool.set_policy(policy).await.expect("a policy");
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            fill(&pool, &m, "hog").await;
            pools.push(pool);
        }
        let data = filled(&m, 1, 64 << 10).await;
        for pool in &pools {
            let v = pool.vdisk("v").expect("a vdisk");
            for write in 0..memory / (3 * 65_536) {
                let (v, data) = (v.clone(), data.clone());
                writes.push(async move { v.write(write << 17, data, false).await });
            }
        }
        let look = async {
            m.sleep(Duration::from_secs(1)).await;
            let held: u64 = pools.iter().map(|pool| pool.info().held_writes_bytes).sum();
            assert!(held > memory / 3 && held <= memory / 2, "{held} of {memory} bytes are held");
        };
        let (ends, ()) = join(join_all(writes), look).await;
        assert!(ends.iter().all(|end| matches!(end, Err(Error::OutOfSpace { .. }))), "no space came");
    });
}

#[test]
fn a_device_that_is_emptied_slowly_goes_on_at_once_at_a_new_pace() {
    for faster in [None, Some(0), Some(64 << 20)] {
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
fn a_vdisk_whose_writers_gave_up_is_told_again_when_it_runs_out_again() {
    live(&world(1, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        fill(&pool, &m, "hog").await;
        pool.arm(&AlarmState::default());
        let (v, hog, data) = (pool.vdisk("v").expect("v"), pool.vdisk("hog").expect("hog"), filled(&m, 1, 4096).await);
        let mut exhausted = 0;
        for round in 0..2u64 {
            let ticket = Ticket::default();
            let options = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
            let gone = async {
                m.sleep(Duration::from_secs(1)).await;
                ticket.cancel();
            };
            let (held, ()) = join(v.write_with(round << 20, data.clone(), &options), gone).await;
            assert!(matches!(held, Err(Error::Cancelled)), "{held:?}");
            hog.discard(round << 20, 1 << 20, true).await.expect("a discard");
            m.sleep(Duration::from_secs(120)).await;
            assert_eq!(v.info().exhausted_since, None, "there is space, and nobody waits");
            let told = pool.events().await;
            exhausted += told
                .iter()
                .filter(|event| matches!(event, SpaceEvent::Exhausted { vdisk, .. } if vdisk.name == "v"))
                .count();
            fill_again(&hog, &data).await;
        }
        assert_eq!(exhausted, 2);
    });
}

/// Takes all space that is left for extents that were discarded.
async fn fill_again(vdisk: &plimsoll_engine::Vdisk<SimMachine>, data: &plimsoll_hardware::Frozen) {
    for extent in 0.. {
        if vdisk.write((1 << 29) + (extent << 16), data.clone(), false).await.is_err() {
            return;
        }
    }
}
