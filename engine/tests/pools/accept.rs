//! A loss of the journal that is accepted, with the repair cut short anywhere: the next start is read-only again and another repair
//! mends it, or all is well; and what only crash memory has stays until a root stands without it.

use std::cell::Cell;

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use plimsoll_engine::Pool;
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, FaultKind, FaultProfile, SimMachine, SimWorld};

const SIZE: u64 = 4 << 20;
const EXTENT: u64 = 64 << 10;
const PAGE: u64 = 4096;
/// Where the copies of the journal are in a pool of that size.
const RINGS: [u64; 2] = [64 << 10, SIZE - (64 << 10) - RING_BYTES];
const RING_BYTES: u64 = 128 << 10;

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, extents: std::ops::Range<u64>, byte: u8, flushed: bool) {
    let v = pool.vdisk("v").expect("a vdisk");
    for extent in extents {
        v.write(extent * EXTENT, filled(m, byte, PAGE as usize).await, false).await.expect("a write");
        if flushed {
            v.flush().await.expect("a flush");
        }
    }
}

async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, extent: u64) -> u8 {
    let buffer = m.buffers().alloc(PAGE as usize).await;
    pool.vdisk("v").expect("a vdisk").read(extent * EXTENT, buffer).await.expect("a read")[0]
}

/// A pool whose first extent has ones, flushed, and what `then` adds before our process dies.
fn with_a_write(then: impl AsyncFnOnce(&Pool<SimMachine>, &SimMachine)) -> SimWorld {
    let world = world(1, 1, SIZE >> 20);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        write(&pool, &m, 0..1, 1, true).await;
        then(&pool, &m).await;
    });
    world.crash(CrashKind::Process);
    world
}

/// Its device is as it was before the last flushes, and crash memory goes on from these.
fn put_back() -> SimWorld {
    let mut before = Vec::new();
    let world = world(1, 1, SIZE >> 20);
    live(&world, async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        write(&pool, &m, 0..1, 1, true).await;
        before = world.read_raw(0, 0, SIZE);
        write(&pool, &m, 1..4, 2, true).await;
        write(&pool, &m, 4..8, 3, false).await;
    });
    world.crash(CrashKind::Process);
    world.write_raw(0, 0, &before);
    world
}

/// Both copies of its journal cannot be read behind their last batch, and crash memory has first writes that nothing else has.
fn unread() -> SimWorld {
    let world = with_a_write(async |pool, m| write(pool, m, 4..8, 3, false).await);
    let ring = world.read_raw(0, RINGS[0], RING_BYTES);
    let is_blank = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let used = ring.chunks(PAGE as usize).position(is_blank).expect("a page that nothing was written to") as u64 * PAGE;
    world.filter_faults(move |site| {
        let ends_in = |ring: &u64| (ring + used + 1..=ring + RING_BYTES).contains(&(site.offset + site.length));
        site.kind == FaultKind::ReadError && RINGS.iter().any(ends_in)
    });
    world.set_faults(FaultProfile { read_error: 10_000, ..FaultProfile::NONE });
    world
}

/// Opens the pool and accepts its loss, stopped at the `stop`-th operation of its device; `true` when it ended before.
fn accepted(world: &SimWorld, stop: u64) -> bool {
    let machine = world.boot();
    machine.crash_after_ops(stop);
    let m = machine.clone();
    let life = async move {
        let pool = open(&m, 1).await;
        assert!(pool.read_only().is_some(), "it takes writes");
        pool.repair().await.expect("a repair");
        assert_eq!(pool.read_only(), None, "after a repair");
        write(&pool, &m, 8..9, 4, false).await;
    };
    machine.run(life).unless_crashed().is_some()
}

/// The next start, which may need another repair. Answers whether it did.
fn come_back(world: &SimWorld, allowed: &[u8], when: &str) -> bool {
    let repaired = live(world, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        let is_read_only = pool.read_only().is_some();
        if is_read_only {
            pool.repair().await.expect("a repair");
            assert_eq!(pool.read_only(), None, "{when}: after another repair");
        }
        assert_eq!(byte_at(&pool, &m, 0).await, 1, "{when}");
        for extent in 1..8 {
            let (byte, lost) = (byte_at(&pool, &m, extent).await, extent < 4);
            assert!(if lost { byte == 0 } else { allowed.contains(&byte) }, "{when}: {byte} in extent {extent}");
        }
        write(&pool, &m, 9..10, 5, true).await;
        assert_clean(&pool, when).await;
        is_read_only
    });
    world.crash(CrashKind::Power);
    live(world, async |m: SimMachine| {
        let pool = open(&m, 1).await;
        assert_eq!(pool.read_only(), None, "{when}: the start after it");
        assert_eq!((byte_at(&pool, &m, 0).await, byte_at(&pool, &m, 9).await), (1, 5), "{when}");
        assert_clean(&pool, when).await;
    });
    repaired
}

/// Stops it everywhere, by the death of our process and by power loss; `kept` is what extents that only crash memory had may hold after
/// the one, and after the other.
fn stop_everywhere(base: &SimWorld, kept: [&[u8]; 2]) {
    let (mut again, mut well) = (0, 0);
    for stop in 1.. {
        let world = base.fork();
        let ended = accepted(&world, stop);
        for (kind, allowed) in [CrashKind::Process, CrashKind::Power].into_iter().zip(kept) {
            let world = world.fork();
            world.crash(kind);
            world.heal();
            world.set_faults(FaultProfile::NONE);
            match come_back(&world, allowed, &format!("stopped at {stop} by {kind:?}")) {
                true => again += 1,
                false => well += 1,
            }
        }
        if ended {
            println!("{stop} stops: {again} needed another repair, {well} did not");
            assert!(again > 10 && well > 0, "{again} and {well} of {stop} stops");
            return;
        }
    }
}

#[test]
fn a_pool_that_was_put_back_is_mended_however_its_repair_is_cut_short() {
    stop_everywhere(&put_back(), [&[0], &[0]]);
}

#[test]
fn what_only_crash_memory_has_outlives_a_repair_that_is_cut_short() {
    stop_everywhere(&unread(), [&[3], &[3, 0]]);
}

#[test]
fn a_repair_that_failed_is_for_the_next_start_to_try_again() {
    let base = put_back();
    let mut failed = 0;
    for allowed in 0..30 {
        let world = base.fork();
        failed += live(&world, async |m: SimMachine| {
            let pool = open(&m, 1).await;
            let written = Cell::new(0);
            world.filter_faults(move |site| {
                let is_write = site.kind == FaultKind::WriteError;
                written.set(written.get() + u64::from(is_write));
                is_write && written.get() > allowed
            });
            world.set_faults(FaultProfile { write_error: 10_000, ..FaultProfile::NONE });
            let repaired = pool.repair().await;
            world.set_faults(FaultProfile::NONE);
            if repaired.is_ok() {
                return 0;
            }
            let again = pool.repair().await.expect_err("another repair");
            let reason = pool.read_only().expect("it takes writes");
            for words in [again.to_string(), reason] {
                assert!(words.contains("open it again"), "after {allowed} writes: {words}");
            }
            assert_eq!(byte_at(&pool, &m, 0).await, 1);
            1
        });
        world.crash(CrashKind::Process);
        world.heal();
        come_back(&world, &[0], &format!("{allowed} writes of a repair before it failed"));
    }
    assert!(failed > 5, "only {failed} repairs failed");
}
