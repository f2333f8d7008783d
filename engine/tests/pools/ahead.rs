//! Batches of the journal that go out beside the data they tell of, and what becomes of them when that data does not come.
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use futures_util::future::join;
use plimsoll_engine::{Error, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};

const BLOCK: u64 = 4096;
const EXTENT: u64 = 65_536;

async fn pool_with_vdisk(machine: &SimMachine) -> Pool<SimMachine> {
    let pool = create(machine).await;
    pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
    pool
}

async fn write(pool: &Pool<SimMachine>, machine: &SimMachine, offset: u64, byte: u8) -> Result<(), Error> {
    pool.vdisk("v")?.write(offset, filled(machine, byte, BLOCK as usize).await, false).await
}

async fn write_and_flush(pool: &Pool<SimMachine>, machine: &SimMachine, offset: u64, byte: u8) {
    write(pool, machine, offset, byte).await.expect("a write");
    pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
}

async fn first_byte(pool: &Pool<SimMachine>, machine: &SimMachine, offset: u64) -> u8 {
    let buffer = machine.buffers().alloc(BLOCK as usize).await;
    pool.vdisk("v").expect("a vdisk").read(offset, buffer).await.expect("a read")[0]
}

fn ahead(pool: &Pool<SimMachine>) -> u64 {
    pool.info().counters.journal_commits_ahead
}

#[test]
fn only_lone_first_writes_that_a_flush_is_likely_to_follow_go_ahead() {
    live(&world(1, 1, 16), |machine| async move {
        let pool = pool_with_vdisk(&machine).await;
        write_and_flush(&pool, &machine, 0, 1).await;
        assert_eq!(ahead(&pool), 0, "nothing was known of flushes");
        write_and_flush(&pool, &machine, EXTENT, 1).await;
        assert_eq!(ahead(&pool), 1);
        // An overwrite in between says nothing against it.
        write_and_flush(&pool, &machine, EXTENT, 2).await;
        write(&pool, &machine, 2 * EXTENT, 1).await.expect("a write");
        assert_eq!(ahead(&pool), 2);
        // The next one before a flush is not the only one; and who wrote two will write two again.
        write_and_flush(&pool, &machine, 3 * EXTENT, 1).await;
        write_and_flush(&pool, &machine, 4 * EXTENT, 1).await;
        assert_eq!(ahead(&pool), 2);
        write_and_flush(&pool, &machine, 5 * EXTENT, 1).await;
        assert_eq!(ahead(&pool), 3, "writes and flushes went by turns again");
    });
    let disk = SimDiskSpec { volatile_cache: false, ..SimDiskSpec::new("disk0", 16 << 20) };
    live(&SimWorld::new(1, vec![disk]), |machine| async move {
        let pool = pool_with_vdisk(&machine).await;
        for extent in 0..4 {
            write_and_flush(&pool, &machine, extent * EXTENT, 1).await;
        }
        assert_eq!(ahead(&pool), 0, "a record without a proof went ahead of its data");
    });
}

#[test]
fn data_that_cannot_be_written_is_never_believed_to_be_there() {
    for crash in [CrashKind::Process, CrashKind::Power] {
        let world = world(2, 1, 16);
        live(&world, |machine| async move {
            let pool = pool_with_vdisk(&machine).await;
            write_and_flush(&pool, &machine, 0, 1).await;
            write_and_flush(&pool, &machine, EXTENT, 2).await;
            machine.fail_op(1);
            let failed = write(&pool, &machine, 2 * EXTENT, 3).await;
            assert!(matches!(failed, Err(Error::Device(_))), "{failed:?}");
            assert_eq!(ahead(&pool), 2, "the record was not on its way");
            // The extent is taken again, and what says so covers all that was written before.
            write_and_flush(&pool, &machine, 3 * EXTENT, 4).await;
            write(&pool, &machine, 3 * EXTENT, 5).await.expect("an overwrite");
            write_and_flush(&pool, &machine, 4 * EXTENT, 6).await;
        });
        world.crash(crash);
        for start in ["first", "second"] {
            live(&world, |machine| async move {
                let pool = open(&machine, 1).await;
                assert_clean(&pool, start).await;
                let mut bytes = Vec::new();
                for extent in 0..5 {
                    bytes.push(first_byte(&pool, &machine, extent * EXTENT).await);
                }
                assert_eq!(bytes, [1, 2, 0, 5, 6], "{crash:?}, {start} start");
                write_and_flush(&pool, &machine, 2 * EXTENT, 0).await;
            });
            world.crash(crash);
        }
    }
}

#[test]
fn what_was_not_answered_before_a_death_is_not_there_after_it() {
    // The operations of such a write: the data, and a batch in each ring. At 0 the first fails, and the death comes later.
    let mut dropped = 0;
    for (seed, stop) in (0..200).map(|seed| (seed, seed % 4)) {
        let world = world(seed, 1, 16);
        let machine = world.boot();
        let m = machine.clone();
        let life = machine.run(async move {
            let pool = pool_with_vdisk(&m).await;
            write_and_flush(&pool, &m, 0, 1).await;
            write_and_flush(&pool, &m, EXTENT, 2).await;
            match stop {
                0 => m.fail_op(1),
                stop => m.crash_after_ops(stop),
            }
            assert!(write(&pool, &m, 2 * EXTENT, 3).await.is_err(), "it was answered");
            m.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(life.unless_crashed().is_some(), stop == 0, "the life did not end where it was to");
        world.crash(CrashKind::Process);
        dropped += live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            assert_eq!(first_byte(&pool, &machine, 2 * EXTENT).await, 0, "seed {seed}, stopped at {stop}");
            assert_eq!(first_byte(&pool, &machine, EXTENT).await, 2, "seed {seed}, stopped at {stop}");
            assert_clean(&pool, "after the death").await;
            pool.info().recovery.records_dropped
        });
    }
    assert!(dropped > 50, "no batch was on the devices before its data but where that failed");
}

#[test]
fn a_death_at_any_store_to_crash_memory_takes_nothing_that_was_answered() {
    for store in 1.. {
        let world = world(store, 1, 16);
        let answered = &Cell::new(0);
        let machine = world.boot();
        let m = machine.clone();
        let life = machine.run(async move {
            let pool = pool_with_vdisk(&m).await;
            m.tear_crash_memory_at(store);
            for extent in 0..6 {
                write(&pool, &m, extent * EXTENT, 1).await.expect("a write");
                // The dead go on to the end of their step.
                answered.set(if m.crashed() { answered.get() } else { extent + 1 });
                pool.vdisk("v").expect("a vdisk").flush().await.expect("a flush");
            }
        });
        let ended = life.unless_crashed().is_some();
        world.crash(CrashKind::Process);
        live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            for extent in 0..answered.get() {
                assert_eq!(
                    first_byte(&pool, &machine, extent * EXTENT).await,
                    1,
                    "extent {extent}, died at store {store}"
                );
            }
            assert_clean(&pool, "after the death").await;
        });
        if ended {
            assert!(store > 20, "there were {store} stores");
            break;
        }
    }
}

#[test]
fn what_took_effect_while_the_data_was_written_comes_before_it() {
    for (crash, discard) in
        [CrashKind::Process, CrashKind::Power].into_iter().flat_map(|crash| [(crash, false), (crash, true)])
    {
        let world = world(1, 1, 16);
        let seen = live(&world, |machine| async move {
            let pool = pool_with_vdisk(&machine).await;
            write_and_flush(&pool, &machine, 0, 1).await;
            let disk = pool.vdisk("v").expect("a vdisk");
            // All that the extent has goes while another block of it gets its first contents.
            let first = write(&pool, &machine, BLOCK, 2);
            let (first, gone) = match discard {
                true => join(first, disk.discard(0, EXTENT, false)).await,
                false => join(first, write(&pool, &machine, 0, 0)).await,
            };
            first.and(gone).expect("both are done");
            assert_eq!(ahead(&pool), 1, "the write did not go ahead");
            disk.flush().await.expect("a flush");
            [first_byte(&pool, &machine, 0).await, first_byte(&pool, &machine, BLOCK).await]
        });
        assert!(seen == [0, 2] || discard, "{seen:?}");
        world.crash(crash);
        live(&world, |machine| async move {
            let pool = open(&machine, 1).await;
            let found = [first_byte(&pool, &machine, 0).await, first_byte(&pool, &machine, BLOCK).await];
            assert_eq!(found, seen, "{crash:?}, discard: {discard}");
            assert_clean(&pool, "after both").await;
        });
    }
}

#[test]
fn a_start_that_power_loss_cuts_short_believes_nothing_that_was_dropped() {
    let (mut dropped, mut cut) = (0, 0);
    for (seed, stop) in (0..60).map(|seed| (seed, 1 + seed % 3)) {
        let world = world(seed, 1, 16);
        let machine = world.boot();
        let m = machine.clone();
        let life = machine.run(async move {
            let pool = pool_with_vdisk(&m).await;
            // What is free was somebody else's.
            pool.create_vdisk(vdisk("old", 1 << 30)).await.expect("a vdisk");
            let old = pool.vdisk("old").expect("a vdisk");
            for extent in 0..100 {
                old.write(extent * EXTENT, filled(&m, 9, EXTENT as usize).await, false).await.expect("a write");
            }
            pool.delete_vdisk("old").await.expect("a deletion");
            m.sleep(Duration::from_secs(1)).await;
            write_and_flush(&pool, &m, 0, 1).await;
            write_and_flush(&pool, &m, EXTENT, 2).await;
            m.crash_after_ops(stop);
            let _ = write(&pool, &m, 2 * EXTENT, 3).await;
            m.sleep(Duration::from_secs(1)).await;
        });
        assert!(life.unless_crashed().is_none(), "the life did not end where it was to");
        world.crash(CrashKind::Process);
        for operations in 1.. {
            let second = world.fork();
            let machine = second.boot();
            let m = machine.clone();
            machine.crash_after_ops(operations);
            let ended = machine.run(async move { open(&m, 1).await.info().recovery.records_dropped }).unless_crashed();
            dropped += ended.unwrap_or(0);
            second.crash(CrashKind::Power);
            live(&second, |machine| async move {
                let pool = open(&machine, 1).await;
                let found = first_byte(&pool, &machine, 2 * EXTENT).await;
                assert!([0, 3].contains(&found), "seed {seed}, cut at {operations}: {found}");
                assert_eq!(first_byte(&pool, &machine, EXTENT).await, 2, "seed {seed}, cut at {operations}");
                assert_clean(&pool, "after the second start").await;
            });
            if ended.is_some() {
                break;
            }
            cut += 1;
        }
    }
    assert!(dropped > 0 && cut > 100, "{dropped} dropped, {cut} starts cut short");
}

#[test]
fn a_write_that_is_let_go_in_flight_holds_no_flush_up() {
    let world = world(4, 1, 16);
    live(&world, |machine| async move {
        let pool = pool_with_vdisk(&machine).await;
        write_and_flush(&pool, &machine, 0, 1).await;
        write_and_flush(&pool, &machine, EXTENT, 2).await;
        {
            let mut begun = pin!(write(&pool, &machine, 2 * EXTENT, 3));
            poll_fn(|context| {
                let _ = begun.as_mut().poll(context);
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(ahead(&pool), 2, "it was not begun");
        write_and_flush(&pool, &machine, 3 * EXTENT, 4).await;
    });
    world.crash(CrashKind::Process);
    live(&world, |machine| async move {
        let pool = open(&machine, 1).await;
        assert_eq!(first_byte(&pool, &machine, 2 * EXTENT).await, 0, "it was never answered, and its record is void");
        assert_eq!(first_byte(&pool, &machine, 3 * EXTENT).await, 4);
        assert_clean(&pool, "after it was let go").await;
    });
}
