//! Failures where there is no space that were found once, each with the shortest way to it.

use std::pin::pin;
use std::time::Duration;

use crate::support::{assert_clean, create, failing, filled, full, live, vdisk, with, world};
use futures_util::future::{Either, join, join_all, join3, select};
use plimsoll_engine::{
    AlarmState, CreatePool, CreateVdisk, Error, OnFull, PatternSpec, PatternUse, Pool, PoolPolicy, SpaceEvent, Ticket,
    VdiskPolicy, WriteOptions, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

const EXTENT: u64 = 65_536;

/// Makes a vdisk that takes all space there is.
async fn fill(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) {
    pool.create_vdisk(with(name, failing())).await.expect("a vdisk");
    full::fill(pool, m, name).await;
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

#[test]
fn a_packed_word_that_finds_its_new_extent_without_room_below_is_held_as_any_other() {
    let world = &world(11, 1, 64);
    live(world, |m| async move {
        let pool = create(&m).await;
        let policy = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(600)), ..VdiskPolicy::default() };
        pool.create_vdisk(with("v", policy)).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        for extent in 0..32 {
            v.write(extent * full::EXTENT, filled(&m, 7, full::BLOCK).await, false).await.expect("a write");
        }
        pool.compact().expect("a job");
        m.sleep(Duration::from_secs(5)).await;
        assert!(v.info().backed_bytes <= 8 * full::EXTENT, "they are packed");
        // What has its blocks in the file is taken first.
        for extent in 64..128 {
            v.write(extent * full::EXTENT, filled(&m, 8, full::EXTENT as usize).await, false).await.expect("a write");
        }
        world.set_room(0, Some(0));
        let beside = full::write(&pool, &m, "v", 8192, 9);
        let mut beside = pin!(beside);
        let waited = matches!(select(beside.as_mut(), pin!(m.sleep(Duration::from_secs(5)))).await, Either::Right(_));
        assert!(waited, "it was answered");
        assert_eq!((pool.info().held_writes, full::byte_at(&pool, &m, "v", 0).await), (1, 7));
        world.set_room(0, None);
        beside.await.expect("there is room");
        assert_eq!(full::byte_at(&pool, &m, "v", 0).await, 7);
        assert_eq!(full::byte_at(&pool, &m, "v", 8192).await, 9);
        assert_clean(&pool, "after it has its own extent").await;
    });
}

#[test]
fn what_only_waits_for_a_flush_is_no_reason_to_grow() {
    live(&world(41, 1, 64), async |m: SimMachine| {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        let write = async |at: u64| v.write(at * EXTENT, filled(&m, 7, EXTENT as usize).await, false).await;
        let mut reached = pin!(pool.used_reaches(60));
        let rounds = async {
            for round in 0..20 {
                for at in 0..128 {
                    write(round % 2 * 128 + at).await.expect("a write");
                }
                v.discard(round % 2 * 128 * EXTENT, 128 * EXTENT, false).await.expect("a discard");
            }
            m.sleep(Duration::from_secs(1)).await;
        };
        match select(pin!(rounds), reached.as_mut()).await {
            Either::Left(_) => {}
            Either::Right(_) => panic!("it is to grow with {} in use", pool.info().utilized_bytes),
        }
        for at in 0.. {
            if write(at).await.is_err() {
                break;
            }
        }
        assert!(reached.await, "it is full and need not grow");
    });
}
