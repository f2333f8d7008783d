//! What a device that fails, or a start that is cut short, must not cost.
use std::cell::Cell;
use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use futures_util::future::join;
use plimsoll_engine::{CreatePool, CreateVdisk, Error, OpenPool, Pool, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, FaultKind, FaultProfile, SimMachine, SimWorld};

const BLOCK: u64 = 4096;
const EXTENT: u64 = 65_536;

/// Runs one life of the machine.
async fn first_byte(pool: &Pool<SimMachine>, machine: &SimMachine, offset: u64) -> Result<u8, Error> {
    let buffer = machine.buffers().alloc(BLOCK as usize).await;
    Ok(pool.vdisk("v")?.read(offset, buffer).await?[0])
}

async fn write(pool: &Pool<SimMachine>, machine: &SimMachine, offset: u64, byte: u8) -> Result<(), Error> {
    pool.vdisk("v")?.write(offset, filled(machine, byte, BLOCK as usize).await, false).await
}

#[test]
fn what_cannot_be_read_at_a_start_is_not_taken_for_lost() {
    let world = world(1, 1, 64);
    live(&world, |machine| async move {
        let pool = create(&machine).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        write(&pool, &machine, 0, 1).await.expect("a write");
        assert_clean(&pool, "after a checkpoint").await;
        write(&pool, &machine, BLOCK, 2).await.expect("a write");
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
    });
    world.crash(CrashKind::Process);
    // Between the rings nothing can be read for one start: neither copy of a page.
    world.filter_faults(|site| site.kind == FaultKind::ReadError && (0x5_0000..0x3fb_0000).contains(&site.offset));
    world.set_faults(FaultProfile { read_error: 10_000, ..FaultProfile::default() });
    live(&world, |machine| async move {
        let opened = Pool::open(&machine, OpenPool::default(), vec![machine.open(0)]).await;
        if let Ok(pool) = opened {
            assert!(pool.info().read_only.is_some(), "a pool that cannot read its metadata takes writes");
            let _ = pool.check().await;
        }
    });
    assert!(world.faults_struck(FaultKind::ReadError) >= 4, "no page was unreadable");
    world.heal();
    world.set_faults(FaultProfile::default());
    world.crash(CrashKind::Process);
    live(&world, |machine| async move {
        let pool = open(&machine, 1).await;
        assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
        assert_eq!(first_byte(&pool, &machine, BLOCK).await.expect("a read"), 2, "a flushed write is gone");
        assert_clean(&pool, "after the start that could read").await;
    });
}

#[test]
fn a_write_beside_a_vanished_device_survives_a_kill() {
    let world = world(2, 3, 16);
    live(&world, |machine| async move {
        let devices = (0..3).map(|index| machine.open(index)).collect();
        let pool = Pool::create(&machine, CreatePool::named("tank"), devices).await.expect("a pool");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        for run in 0..6 {
            write(&pool, &machine, run << 20, 1).await.expect("a write");
        }
        pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
    });
    let world = &world;
    let (answered, machine) = live(world, |machine| async move {
        let pool = open(&machine, 3).await;
        world.vanish(2);
        let mut gone = false;
        for run in 0..6 {
            gone |= first_byte(&pool, &machine, run << 20).await.is_err();
        }
        assert!(gone, "nothing was on the device that vanished");
        let mut answered = Vec::new();
        for run in 0..6 {
            let offset = (run << 20) + BLOCK;
            if write(&pool, &machine, offset, 2).await.is_ok() {
                answered.push(offset);
            }
        }
        (answered, machine)
    });
    assert!(!answered.is_empty(), "no write was answered");
    world.crash(CrashKind::Process);
    drop(machine);
    world.heal();
    live(world, |machine| async move {
        let pool = open(&machine, 3).await;
        for offset in answered {
            assert_eq!(first_byte(&pool, &machine, offset).await.expect("a read"), 2, "the write at {offset} is gone");
        }
    });
}

#[test]
fn nothing_is_answered_after_a_flush_has_failed() {
    let (before, after) = (&Cell::new(0), &Cell::new(0));
    for seed in 0..60 {
        let world = world(seed, 1, 16);
        let handle = &world;
        live(&world, |machine| async move {
            let pool = create(&machine).await;
            pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
            write(&pool, &machine, 0, 1).await.expect("a write");
            handle.filter_faults(|site| site.kind == FaultKind::FlushError);
            handle.set_faults(FaultProfile { flush_error: 10_000, ..FaultProfile::default() });
            let failed = Cell::new(false);
            let flush = async {
                let result = pool.vdisk("v").expect("a vdisk").flush().await;
                assert!(result.is_err(), "the flush did not fail");
                failed.set(true);
            };
            let late = async {
                machine.sleep(Duration::from_micros(seed * 10)).await;
                let result = write(&pool, &machine, EXTENT, 2).await;
                (failed.get(), result)
            };
            match join(flush, late).await.1 {
                (true, result) => {
                    after.set(after.get() + 1);
                    assert!(result.is_err(), "seed {seed}: a first write was answered after a flush had failed");
                }
                (false, _) => before.set(before.get() + 1),
            }
        });
    }
    let (before, after) = (before.get(), after.get());
    assert!(before > 0 && after > 0, "{before} ended before the failure and {after} after it");
}

#[test]
fn what_is_answered_while_a_checkpoint_fails_for_its_root_outlives_our_process() {
    for seed in 0..20 {
        let world = &world(seed, 1, 4);
        let answered = live(world, |machine| async move {
            let pool = with_a_write(&machine).await;
            let ends = [0, (4 << 20) - (64 << 10)].map(|end| end + BLOCK..end + 3 * BLOCK);
            world.filter_faults(move |site| {
                site.kind == FaultKind::WriteError && ends.iter().any(|roots| roots.contains(&site.offset))
            });
            world.set_faults(FaultProfile { write_error: 10_000, ..FaultProfile::NONE });
            let checkpoint = async { assert!(pool.check().await.is_err(), "a root was written") };
            let writes = async {
                let mut answered = 0;
                while write(&pool, &machine, (answered + 1) * BLOCK, 2).await.is_ok() {
                    answered += 1;
                }
                answered
            };
            join(checkpoint, writes).await.1
        });
        world.crash(CrashKind::Process);
        world.heal();
        world.set_faults(FaultProfile::NONE);
        assert!(answered > 2, "seed {seed}: {answered} writes beside the checkpoint");
        live(world, |machine| async move {
            let pool = open(&machine, 1).await;
            for block in 1..=answered {
                let byte = first_byte(&pool, &machine, block * BLOCK).await.expect("a read");
                assert_eq!(byte, 2, "seed {seed}: write {block} of {answered} is gone");
            }
            assert_clean(&pool, "after a kill").await;
        });
    }
}

/// A pool in which a write was flushed.
async fn with_a_write(machine: &SimMachine) -> Pool<SimMachine> {
    let pool = create(machine).await;
    pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
    write(&pool, machine, 0, 1).await.expect("a write");
    pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
    pool
}

#[test]
fn starts_that_are_cut_short_do_not_fill_the_journal() {
    for kind in [CrashKind::Process, CrashKind::Power] {
        let world = world(3, 1, 16);
        live(&world, |machine| async move { drop(with_a_write(&machine).await) });
        for start in 0..200 {
            world.crash(kind);
            live(&world, |machine| async move {
                let pool = Pool::open(&machine, OpenPool::default(), vec![machine.open(0)]).await;
                let pool = pool.unwrap_or_else(|error| panic!("start {start}: {error}"));
                // Seldom anything happens in between.
                if start % 50 == 49 {
                    write(&pool, &machine, EXTENT * start, 2).await.expect("a write");
                    assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
                }
            });
        }
    }
}

/// No root is written from here on, though the device says that it is.
fn lose_roots(world: &SimWorld, size: u64) {
    let roots = [0, size - (64 << 10)].map(|end| end + BLOCK..end + 3 * BLOCK);
    world.filter_faults(move |site| {
        site.kind == FaultKind::Lost && roots.iter().any(|roots| roots.contains(&site.offset))
    });
    world.set_faults(FaultProfile { lost: 10_000, ..FaultProfile::NONE });
}

/// A ring so full that each start writes a checkpoint first.
fn with_a_full_ring() -> SimWorld {
    let world = world(3, 1, 4);
    live(&world, |machine| async move { drop(with_a_write(&machine).await) });
    lose_roots(&world, 4 << 20);
    for start in 0.. {
        world.crash(CrashKind::Power);
        live(&world, |machine| async move { drop(open(&machine, 1).await) });
        if world.faults_struck(FaultKind::Lost) > 0 {
            assert!(start > 10, "the ring was full from the beginning");
            return world;
        }
    }
    unreachable!("a ring is full some time")
}

#[test]
fn starts_that_are_cut_short_before_their_checkpoint_stands_do_not_fill_the_journal() {
    let base = with_a_full_ring();
    for kind in [CrashKind::Process, CrashKind::Power] {
        let world = base.fork();
        lose_roots(&world, 4 << 20);
        for start in 0..60 {
            let struck = world.faults_struck(FaultKind::Lost);
            world.crash(kind);
            live(&world, |machine| async move {
                let pool = Pool::open(&machine, OpenPool::default(), vec![machine.open(0)]).await;
                let pool = pool.unwrap_or_else(|error| panic!("start {start}: {error}"));
                assert_eq!(pool.read_only(), None, "start {start}");
            });
            assert!(world.faults_struck(FaultKind::Lost) > struck, "start {start} wrote no root");
        }
        // Each of these may be cut short anywhere, too.
        let mut stops = 0;
        for stop in 1.. {
            let world = world.fork();
            world.crash(kind);
            world.set_faults(FaultProfile::NONE);
            let machine = world.boot();
            machine.crash_after_ops(stop);
            let m = machine.clone();
            let ended = machine.run(async move { drop(open(&m, 1).await) }).unless_crashed().is_some();
            world.crash(kind);
            live(&world, |machine| async move {
                let pool = open(&machine, 1).await;
                assert_eq!(pool.read_only(), None, "stopped at {stop} by {kind:?}");
                assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
                write(&pool, &machine, EXTENT, 2).await.expect("a write");
                assert_clean(&pool, &format!("stopped at {stop} by {kind:?}")).await;
            });
            stops = stop;
            if ended {
                break;
            }
        }
        assert!(stops > 20, "a start has {stops} operations");
    }
}

#[test]
fn without_crash_memory_zeros_survive_a_kill() {
    let world = world(4, 1, 16);
    live(&world, |machine| async move {
        let pool = create(&machine).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Power);
    live(&world, |machine| async move {
        let label = plimsoll_engine::identify(&machine, &machine.open(0)).await.expect("a look").expect("a label");
        // Somebody else's memory is in its place.
        let _other = machine
            .crash_memory(&plimsoll_engine::crash_memory_name(label.pool, &machine.open(0)), 8192)
            .expect("memory");
        let pool = open(&machine, 1).await;
        write(&pool, &machine, 0, 1).await.expect("a write");
        let v = pool.vdisk("v").expect("a vdisk");
        v.flush().await.expect("a flush");
        v.write_zeroes(0, EXTENT, Zeroes::Unmap, false).await.expect("zeros");
    });
    world.crash(CrashKind::Process);
    live(&world, |machine| async move {
        let pool = open(&machine, 1).await;
        assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 0, "what was zeroed is back");
    });
}

#[test]
fn a_device_that_vanishes_during_a_start_takes_the_trust_in_crash_memory_with_it() {
    let mut struck = 0;
    // The first root, a page of the journal, and a metadata page; half of all seeds lose the cache with the device.
    for (seed, place) in (0..24).flat_map(|seed| [0x1000, 0x1_0000, 0x5_0000].map(|place| (seed, place))) {
        let world = world(seed, 1, 64);
        live(&world, |machine| async move {
            let pool = create(&machine).await;
            let spec = CreateVdisk { sector: 4096, ..vdisk("v", 1 << 30) };
            pool.create_vdisk(spec).await.expect("a vdisk");
            assert_clean(&pool, "after a checkpoint").await;
            // Almost all extents there are hold this when they are given to somebody else.
            for extent in 0..800 {
                write(&pool, &machine, extent * EXTENT, 9).await.expect("a write");
            }
            let v = pool.vdisk("v").expect("a vdisk");
            v.discard(0, 800 * EXTENT, false).await.expect("a discard");
            v.flush().await.expect("a flush");
            for extent in 1000..1400 {
                write(&pool, &machine, extent * EXTENT, 2).await.expect("a write");
            }
        });
        world.crash(CrashKind::Process);
        world.filter_faults(move |site| {
            site.kind == FaultKind::Vanish && (place..place + 0x4_0000).contains(&site.offset)
        });
        world.set_faults(FaultProfile { vanish: 10_000, ..FaultProfile::default() });
        let machine = world.boot();
        let opened = machine.run(Pool::open(&machine, OpenPool::default(), vec![machine.open(0)])).done();
        struck += u64::from(world.faults_struck(FaultKind::Vanish) > 0);
        drop(opened);
        drop(machine);
        world.set_faults(FaultProfile::default());
        world.heal();
        world.crash(CrashKind::Process);
        live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            for extent in 1000..1400 {
                let found = first_byte(&pool, &machine, extent * EXTENT).await.expect("a read");
                assert!(found == 2 || found == 0, "seed {seed}: extent {extent} shows {found} of its former owner");
            }
        });
    }
    assert!(struck > 24, "only {struck} devices vanished");
}

#[test]
fn an_old_copy_of_a_device_is_refused_and_left_alone() {
    let world = world(7, 2, 16);
    let both = |machine: &SimMachine| (0..2).map(|index| machine.open(index)).collect::<Vec<_>>();
    live(&world, |machine| async move {
        let pool = Pool::create(&machine, CreatePool::named("tank"), both(&machine)).await.expect("a pool");
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        write(&pool, &machine, 0, 1).await.expect("a write");
        pool.close().await.expect("a close");
    });
    let size = 16 << 20;
    let old = [0, 1].map(|disk| world.read_raw(disk, 0, size));
    world.crash(CrashKind::Process);
    // A short life: only its close tells the copies from the devices.
    live(&world, |machine| async move {
        let pool = open(&machine, 2).await;
        write(&pool, &machine, BLOCK, 2).await.expect("a write");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Process);
    let new = [0, 1].map(|disk| world.read_raw(disk, 0, size));
    for disk in [0, 1] {
        world.write_raw(disk, 0, &old[disk]);
        live(&world, |machine| async move {
            let refusal = Pool::open(&machine, OpenPool::default(), both(&machine)).await.err();
            let words = refusal.map(|error| error.to_string()).unwrap_or_default();
            assert!(words.contains(&format!("disk{disk}")) && words.contains("old copy"), "{words}");
        });
        world.crash(CrashKind::Process);
        assert!(world.read_raw(disk, 0, size) == old[disk], "disk {disk} was written");
        world.write_raw(disk, 0, &new[disk]);
    }
    live(&world, |machine| async move {
        let pool = open(&machine, 2).await;
        assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
        assert_eq!(first_byte(&pool, &machine, BLOCK).await.expect("a read"), 2);
        assert_clean(&pool, "with the right devices").await;
    });
}

/// Where the copies of the journal are in a pool of 4 MiB.
const RINGS: [u64; 2] = [64 << 10, (4 << 20) - (64 << 10) - RING_BYTES];
const RING_BYTES: u64 = 128 << 10;

/// A pool with a first write that was flushed and is in the journal only, after a power loss.
fn with_a_journal() -> SimWorld {
    let world = world(1, 1, 4);
    live(&world, |machine| async move { drop(with_a_write(&machine).await) });
    world.crash(CrashKind::Power);
    let copies = RINGS.map(|ring| world.read_raw(0, ring, RING_BYTES));
    assert!(copies[0] == copies[1] && copies[0].iter().any(|byte| *byte != 0), "the journal is elsewhere");
    world
}

/// So many reads of these copies of the journal fail.
fn fail_reads(world: &SimWorld, rings: &'static [u64], failures: u32) {
    let left = Cell::new(failures);
    world.filter_faults(move |site| {
        let there = rings.iter().any(|ring| (*ring..ring + RING_BYTES).contains(&site.offset));
        let fails = site.kind == FaultKind::ReadError && there && left.get() > 0;
        left.set(left.get() - u32::from(fails));
        fails
    });
    world.set_faults(FaultProfile { read_error: 10_000, ..FaultProfile::NONE });
}

#[test]
fn a_journal_of_which_a_copy_is_lost_does_not_end_where_the_other_fails_to_be_read_at_first() {
    for failures in 1..=5 {
        let world = with_a_journal();
        world.write_raw(0, RINGS[0], &vec![0; RING_BYTES as usize]);
        fail_reads(&world, &RINGS[1..], failures);
        live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1, "after {failures} failures");
        });
    }
}

#[test]
fn a_journal_of_which_no_copy_can_be_read_does_not_end_there() {
    let world = with_a_journal();
    fail_reads(&world, &RINGS, u32::MAX);
    live(&world, |machine| async move {
        let pool = open(&machine, 1).await;
        let warnings = pool.info().recovery.warnings;
        assert!(warnings.iter().any(|warning| warning.contains("cannot be read to its end")), "{warnings:?}");
        assert!(pool.read_only().is_some(), "it takes writes");
    });
    world.heal();
    live(&world, |machine| async move {
        let pool = open(&machine, 1).await;
        assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
        write(&pool, &machine, 0, 2).await.expect("it takes writes again");
    });
}

#[test]
fn one_copy_of_the_journal_that_cannot_be_read_is_no_reason_to_take_no_writes() {
    for ring in [&RINGS[..1], &RINGS[1..]] {
        let world = with_a_journal();
        fail_reads(&world, ring, u32::MAX);
        live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            assert_eq!(first_byte(&pool, &machine, 0).await.expect("a read"), 1);
            write(&pool, &machine, 0, 2).await.expect("a write");
        });
    }
}

#[test]
fn a_check_of_a_pool_that_failed_in_a_checkpoint_takes_nothing_for_lost() {
    const LEAF_BYTES: u64 = 512 * EXTENT;
    let mut failed = 0;
    for allowed in (0..70).chain([100, 200]) {
        let world = &world(21, 1, 64);
        failed += live(world, |machine| async move {
            let pool = create(&machine).await;
            pool.create_vdisk(vdisk("v", 1 << 40)).await.expect("a vdisk");
            for leaf in 0..30 {
                write(&pool, &machine, leaf * LEAF_BYTES, 1).await.expect("a write");
            }
            assert_clean(&pool, "before").await;
            for leaf in 0..25 {
                write(&pool, &machine, leaf * LEAF_BYTES + BLOCK, 1).await.expect("a write");
            }
            // So many pages of the checkpoint are written, and no more.
            let (written, ends) = (Cell::new(0), 0x5_0000..0x3fb_0000);
            world.filter_faults(move |site| {
                let is_page = site.kind == FaultKind::WriteError && ends.contains(&site.offset);
                written.set(written.get() + u64::from(is_page));
                is_page && written.get() > allowed
            });
            world.set_faults(FaultProfile { write_error: 10_000, ..FaultProfile::NONE });
            let checked = pool.check().await;
            world.set_faults(FaultProfile::NONE);
            assert_eq!(checked.is_err(), pool.read_only().is_some(), "{checked:?}");
            assert_clean(&pool, &format!("with {allowed} pages of a checkpoint")).await;
            usize::from(checked.is_err())
        });
    }
    assert!(failed > 50, "only {failed} checkpoints failed");
}
