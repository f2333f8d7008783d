//! What becomes of writes when there is no space: held in order and bounded, resumed, given up; and what goes on meanwhile.
//! Checklist 0.05-0.09, 0.22-0.24, 2.51; rows 15, 25, 33 of what users ask for.
mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, select};
use plimsoll_engine::{
    AlarmState, CreateVdisk, Error, OnFull, OpenPool, Pool, Shortage, SpaceEvent, Ticket, VdiskPolicy, WriteOptions,
    Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine};
use support::{assert_clean, create, failing, filled, live, open, vdisk, with, world};

const EXTENT: u64 = 65_536;
const BLOCK: usize = 4096;

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64, byte: u8) -> Result<(), Error> {
    pool.vdisk(name)?.write(offset, filled(m, byte, BLOCK).await, false).await
}

async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64) -> u8 {
    let buffer = m.buffers().alloc(BLOCK).await;
    pool.vdisk(name).expect("a vdisk").read(offset, buffer).await.expect("a read")[0]
}

/// Writes a block to extent after extent until there is no space; answers how many there were.
async fn fill(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) -> u64 {
    // Whole extents, in which nothing could be put together.
    let (vdisk, data) = (pool.vdisk(name).expect("a vdisk"), filled(m, 7, EXTENT as usize).await);
    for extent in 0.. {
        match vdisk.write(extent * EXTENT, data.clone(), false).await {
            Ok(()) => {}
            Err(Error::OutOfSpace { .. } | Error::QuotaExceeded { .. }) => return extent,
            Err(error) => panic!("extent {extent}: {error}"),
        }
    }
    unreachable!("a pool is finite")
}

/// A pool whose space all belongs to `hog`, and `v` beside it with a first extent of its own.
async fn full_pool(m: &SimMachine, policy: VdiskPolicy) -> Pool<SimMachine> {
    let pool = create(m).await;
    pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
    pool.create_vdisk(with("v", policy)).await.expect("a vdisk");
    write(&pool, m, "v", 0, 1).await.expect("a first write");
    fill(&pool, m, "hog").await;
    pool
}

#[test]
fn a_held_write_goes_through_when_space_appears_and_nothing_else_waits_for_it() {
    live(&world(1, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        pool.arm(&AlarmState::default());
        let held = write(&pool, &m, "v", EXTENT, 2);
        let others = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 1);
            let v = pool.vdisk("v").expect("a vdisk");
            assert_eq!(byte_at(&pool, &m, "v", 0).await, 1, "a read of the same vdisk");
            write(&pool, &m, "v", 0, 3).await.expect("an overwrite of the same vdisk");
            v.flush().await.expect("a flush of the same vdisk");
            v.discard(4 << 20, EXTENT, false).await.expect("a discard of what is not there");
            v.write_zeroes(8 << 20, EXTENT, Zeroes::Unmap, false).await.expect("zeros where there is nothing");
            write(&pool, &m, "hog", 0, 9).await.expect("an overwrite of the other vdisk");
            assert_eq!(pool.info().held_writes, 1, "the write still waits");
            assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 0, "a held write shows");
            let before = m.now();
            pool.vdisk("hog").expect("a vdisk").discard(0, 2 * EXTENT, false).await.expect("a discard in a full pool");
            before
        };
        let (result, freed_at) = join(held, others).await;
        result.expect("the held write goes through");
        assert!(m.now() - freed_at < Duration::from_millis(100), "{:?} after the space was there", m.now() - freed_at);
        assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 2);
        assert_eq!((pool.info().held_writes, pool.info().held_bytes), (0, 0));
        let events = pool.events().await;
        let exhausted = events.iter().filter(|event| {
            matches!(event, SpaceEvent::Exhausted { vdisk, held: true, cause: Shortage::PoolFull, .. } if vdisk.name == "v")
        });
        assert_eq!(exhausted.count(), 1, "{events:?}");
        let resumed = events.iter().any(|event| {
            matches!(event, SpaceEvent::Resumed { vdisk, lasted, writes: 1, .. } if vdisk.name == "v" && *lasted >= Some(Duration::from_secs(1)))
        });
        assert!(resumed, "{events:?}");
        assert_clean(&pool, "after holding").await;
    });
}

#[test]
fn a_held_write_fails_as_no_space_at_its_bound_and_not_before() {
    live(&world(2, 1, 16), |m| async move {
        let hold = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(5)), ..VdiskPolicy::default() };
        let pool = full_pool(&m, hold).await;
        let began = m.now();
        let error = write(&pool, &m, "v", EXTENT, 2).await.expect_err("there is no space");
        assert!(matches!(error, Error::OutOfSpace { needed: 1, .. }), "{error}");
        let waited = m.now() - began;
        assert!((Duration::from_secs(5)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
        // The same by the default, and at once where that was said.
        pool.set_vdisk_policy("v", VdiskPolicy::default()).await.expect("a policy");
        let began = m.now();
        write(&pool, &m, "v", EXTENT, 2).await.expect_err("there is no space");
        assert!((Duration::from_secs(20)..Duration::from_secs(21)).contains(&(m.now() - began)));
        pool.set_vdisk_policy("v", failing()).await.expect("a policy");
        let began = m.now();
        write(&pool, &m, "v", EXTENT, 2).await.expect_err("there is no space");
        assert!(m.now() - began < Duration::from_secs(1));
        assert_clean(&pool, "after failures").await;
    });
}

#[test]
fn all_parts_of_a_request_are_held_for_one_time_together() {
    live(&world(21, 1, 64), |m| async move {
        let hold = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(10)), ..VdiskPolicy::default() };
        let pool = full_pool(&m, hold).await;
        let began = m.now();
        let help = async {
            let hog = pool.vdisk("hog").expect("a vdisk");
            // Enough for one part every four seconds.
            for part in 0..6 {
                m.sleep(Duration::from_secs(4)).await;
                hog.discard(part * (1 << 20), 1 << 20, true).await.expect("a discard");
            }
        };
        let zeros = async {
            let v = pool.vdisk("v").expect("a vdisk");
            let result = v.write_zeroes(1 << 20, 16 << 20, Zeroes::Allocate, false).await;
            (result, m.now() - began)
        };
        let ((result, waited), ()) = join(zeros, help).await;
        assert!(matches!(result, Err(Error::OutOfSpace { .. })), "{result:?}");
        assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&waited), "{waited:?}");
        assert_clean(&pool, "after a part of it").await;
    });
}

#[test]
fn writes_that_wait_fail_at_once_when_it_is_decided_that_their_vdisk_fails_writes() {
    live(&world(2, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        pool.arm(&AlarmState::default());
        let began = m.now();
        let held = join_all((1..4).map(|extent| write(&pool, &m, "v", extent * EXTENT, 2)));
        // One that does not wait because of the policy goes on waiting.
        let (v, data) = (pool.vdisk("v").expect("a vdisk"), filled(&m, 3, BLOCK).await);
        let on_full = Some(OnFull::Hold(Duration::from_secs(30)));
        let stubborn = WriteOptions { on_full, ..WriteOptions::default() };
        let decided = async {
            m.sleep(Duration::from_secs(3)).await;
            let info = v.info();
            assert_eq!((info.held_writes, info.shortage), (4, Some(Shortage::PoolFull)));
            pool.set_vdisk_policy("v", failing()).await.expect("a policy");
            m.sleep(Duration::from_millis(100)).await;
            assert_eq!(pool.info().held_writes, 1);
            pool.vdisk("hog").expect("a vdisk").discard(0, 2 * EXTENT, false).await.expect("a discard");
        };
        let failed = async { (held.await, m.now() - began) };
        let ((results, waited), (kept, ())) =
            join(failed, join(v.write_with(9 * EXTENT, data, &stubborn), decided)).await;
        assert!(results.iter().all(|result| matches!(result, Err(Error::OutOfSpace { .. }))), "{results:?}");
        assert!((Duration::from_secs(3)..Duration::from_millis(3100)).contains(&waited), "{waited:?}");
        kept.expect("it got the space");
        m.sleep(Duration::from_secs(2)).await;
        let events = pool.events().await;
        let told = events.iter().find_map(|event| match event {
            SpaceEvent::HoldExpired { held_for, writes, .. } => Some((held_for.as_secs(), *writes)),
            _ => None,
        });
        assert_eq!(told, Some((3, 3)), "{events:?}");
        assert_clean(&pool, "after failures").await;
    });
}

#[test]
fn a_write_that_is_given_up_while_it_waits_is_never_applied() {
    live(&world(3, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        let v = pool.vdisk("v").expect("a vdisk");
        let ticket = Ticket::default();
        let how = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
        let data = filled(&m, 5, 3 * EXTENT as usize).await;
        let cancelled = async {
            while ticket.held() == 0 {
                ticket.changed().await;
            }
            assert_eq!(ticket.held_bytes(), 3 * EXTENT);
            ticket.cancel();
        };
        // It begins in the middle of what has contents: nothing of it may show, not even there.
        let (result, ()) = join(v.write_with(0, data, &how), cancelled).await;
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert_eq!(ticket.held(), 0);
        // One whose future is dropped, as when a task ends.
        {
            let dropped = std::pin::pin!(write(&pool, &m, "v", EXTENT, 6));
            let sleep = std::pin::pin!(m.sleep(Duration::from_secs(1)));
            assert!(matches!(select(dropped, sleep).await, Either::Right(_)));
        }
        pool.delete_vdisk("hog").await.expect("a delete in a full pool");
        m.sleep(Duration::from_secs(30)).await;
        assert_eq!(byte_at(&pool, &m, "v", 0).await, 1);
        assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 0);
        assert_eq!((pool.info().held_writes, pool.info().held_bytes), (0, 0));
        assert_clean(&pool, "after writes were given up").await;
    });
}

#[test]
fn held_writes_are_served_in_order_and_a_small_one_does_not_overtake() {
    live(&world(4, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let writes = (0..6u64).map(|index| {
            let (pool, m, order) = (pool.clone(), m.clone(), order.clone());
            async move {
                m.sleep(Duration::from_millis(10 * index)).await;
                // The first needs four extents, the others one.
                let extents = if index == 0 { 4 } else { 1 };
                let data = filled(&m, index as u8 + 1, (extents * EXTENT) as usize).await;
                let v = pool.vdisk("v").expect("a vdisk");
                v.write((1 + 10 * index) * EXTENT, data, false).await.expect("a held write");
                order.borrow_mut().push(index);
            }
        });
        let frees = async {
            m.sleep(Duration::from_secs(1)).await;
            let hog = pool.vdisk("hog").expect("a vdisk");
            for extent in 0..16 {
                hog.discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
                m.sleep(Duration::from_millis(100)).await;
            }
        };
        join(join_all(writes), frees).await;
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4, 5]);
        assert_clean(&pool, "after held writes").await;
    });
}

#[test]
fn a_thousand_held_writes_of_a_hundred_vdisks_resume_when_a_device_is_added() {
    // Never zero: zeros need no space.
    let mark = |index: u64| (index % 255) as u8 + 1;
    let world = world(5, 2, 128);
    world.set_buffer_bytes(64 << 20);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        for index in 0..100 {
            pool.create_vdisk(vdisk(&format!("v{index}"), 1 << 30)).await.expect("a vdisk");
        }
        fill(&pool, &m, "hog").await;
        let writes = (0..1000u64).map(|index| {
            let (pool, m) = (pool.clone(), m.clone());
            async move {
                let name = format!("v{}", index % 100);
                write(&pool, &m, &name, index / 100 * EXTENT, mark(index)).await.expect("a held write");
            }
        });
        let grow = async {
            m.sleep(Duration::from_secs(2)).await;
            assert_eq!(pool.info().held_writes, 1000);
            pool.add_device(m.open(1), false).await.expect("a device");
        };
        join(join_all(writes), grow).await;
        for index in 0..1000u64 {
            let seen = byte_at(&pool, &m, &format!("v{}", index % 100), index / 100 * EXTENT).await;
            assert_eq!(seen, mark(index), "write {index}");
        }
        assert_clean(&pool, "after growth").await;
    });
}

#[test]
fn what_a_quota_holds_up_holds_up_nobody_else_and_goes_on_when_it_is_raised() {
    live(&world(6, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        let quota = |extents: u64| VdiskPolicy { quota: Some(extents * EXTENT), ..VdiskPolicy::default() };
        pool.create_vdisk(with("small", quota(2))).await.expect("a vdisk");
        pool.create_vdisk(vdisk("other", 1 << 30)).await.expect("a vdisk");
        for extent in 0..2 {
            write(&pool, &m, "small", extent * EXTENT, 1).await.expect("a write within the quota");
        }
        let held = write(&pool, &m, "small", 2 * EXTENT, 2);
        let others = async {
            m.sleep(Duration::from_secs(1)).await;
            write(&pool, &m, "other", 0, 3).await.expect("a write of another vdisk");
            write(&pool, &m, "small", 0, 4).await.expect("an overwrite at the quota");
            assert_eq!(pool.info().held_writes, 1);
            pool.set_vdisk_policy("small", quota(3)).await.expect("a larger quota");
        };
        let (result, ()) = join(held, others).await;
        result.expect("the held write goes through");
        // Below what is in use: taken, said, and nothing is lost.
        pool.set_vdisk_policy("small", VdiskPolicy { on_full: OnFull::Fail, ..quota(1) })
            .await
            .expect("a smaller quota");
        let error = write(&pool, &m, "small", 3 * EXTENT, 5).await.expect_err("it is over its quota");
        assert!(error.to_string().contains("192 KiB of 64 KiB in use"), "{error}");
        assert_eq!(byte_at(&pool, &m, "small", 2 * EXTENT).await, 2);
        m.sleep(Duration::from_secs(1)).await;
        let events = pool.events().await;
        assert!(
            events.iter().any(|event| matches!(event, SpaceEvent::LimitExceeded { rising: true, .. })),
            "{events:?}"
        );
    });
}

#[test]
fn the_quota_of_a_tenant_bounds_all_its_vdisks_together() {
    live(&world(7, 1, 16), |m| async move {
        let pool = create(&m).await;
        let of_acme = || VdiskPolicy { tenant: Some("acme".into()), ..failing() };
        pool.create_vdisk(with("a", of_acme())).await.expect("a vdisk");
        pool.create_vdisk(with("b", of_acme())).await.expect("a vdisk");
        pool.set_tenant_quota("acme", Some(8 * EXTENT));
        let writes = (0..20u64).map(|index| {
            let (pool, m) = (pool.clone(), m.clone());
            async move { write(&pool, &m, if index % 2 == 0 { "a" } else { "b" }, index * EXTENT, 1).await.is_ok() }
        });
        let good = join_all(writes).await.into_iter().filter(|good| *good).count();
        assert_eq!(good, 8, "writes at the same time are granted what is there once");
        let error = write(&pool, &m, "a", 100 * EXTENT, 1).await.expect_err("the tenant is at its quota");
        assert!(matches!(error, Error::QuotaExceeded { .. }) && error.to_string().contains("tenant acme"), "{error}");
        let tenants = pool.tenants();
        assert_eq!((tenants[0].used_bytes, tenants[0].quota_bytes), (8 * EXTENT, Some(8 * EXTENT)));
        pool.vdisk("b").expect("a vdisk").discard(0, 1 << 30, false).await.expect("a discard");
        write(&pool, &m, "a", 100 * EXTENT, 1).await.expect("there is room again");
        // A vdisk that changes hands takes its space along.
        pool.set_vdisk_policy("a", VdiskPolicy { tenant: Some("other".into()), ..failing() }).await.expect("a policy");
        let used: Vec<_> = pool.tenants().into_iter().map(|tenant| tenant.used_bytes / EXTENT).collect();
        assert_eq!(used.iter().sum::<u64>() * EXTENT, pool.info().utilized_bytes);
        assert_clean(&pool, "after tenants").await;
    });
}

#[test]
fn what_a_vdisk_has_reserved_it_gets_when_the_pool_is_full_also_after_a_crash() {
    for kind in [CrashKind::Process, CrashKind::Power] {
        let world = world(8, 1, 64);
        live(&world, |m| async move {
            let pool = create(&m).await;
            let reserved = VdiskPolicy { reservation: 100 * EXTENT, on_full: OnFull::Fail, ..VdiskPolicy::default() };
            // So large that every extent can be in a leaf of its own.
            let spec = CreateVdisk { policy: reserved, ..vdisk("r", 64 << 30) };
            pool.create_vdisk(spec).await.expect("a reservation");
            pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
            assert!(pool.info().reserved_bytes >= 100 * EXTENT);
            fill(&pool, &m, "hog").await;
            pool.vdisk("hog").expect("a vdisk").flush().await.expect("a flush");
            for extent in 0..50u64 {
                write(&pool, &m, "r", extent * (512 << 16), 1).await.expect("a write to reserved space");
            }
            let error = write(&pool, &m, "hog", 900 << 20, 1).await.expect_err("what is left is reserved");
            assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
            pool.vdisk("r").expect("a vdisk").flush().await.expect("a flush");
        });
        world.crash(kind);
        live(&world, |m| async move {
            let pool = open(&m, 1).await;
            fill(&pool, &m, "hog").await;
            for extent in 50..100u64 {
                write(&pool, &m, "r", extent * (512 << 16), 1).await.expect("a write to reserved space after a crash");
            }
            assert_clean(&pool, "after a reservation was used up").await;
        });
    }
}

#[test]
fn two_promises_that_exceed_a_limit_together_are_never_both_made() {
    live(&world(9, 1, 64), |m| async move {
        let pool = create(&m).await;
        let available = pool.info().available_bytes;
        let reserve = |name: &str, bytes: u64| with(name, VdiskPolicy { reservation: bytes, ..VdiskPolicy::default() });
        let (a, b) = join(
            pool.create_vdisk(reserve("a", available / 10 * 6)),
            pool.create_vdisk(reserve("b", available / 10 * 6)),
        )
        .await;
        let error = match (a, b) {
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
            (a, b) => panic!("{a:?} {b:?}"),
        };
        assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
        // A vdisk must not reserve more than it can use.
        let error = pool.create_vdisk(reserve("c", 2 << 30)).await.expect_err("more than its size");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");

        let physical = pool.info().physical_bytes;
        let limit = plimsoll_engine::OvercommitLimit::Bytes(1 << 30);
        let policy = plimsoll_engine::PoolPolicy { overcommit_limit: Some(limit), ..pool.policy() };
        pool.set_policy(policy).await.expect("a policy below what is promised is taken");
        let room = physical + (1 << 30) - pool.info().designated_bytes;
        let (a, b) = join(
            pool.create_vdisk(vdisk("d", room / 10 * 6 / 512 * 512)),
            pool.create_vdisk(vdisk("e", room / 10 * 6 / 512 * 512)),
        )
        .await;
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let made = if a.is_ok() { "d" } else { "e" };
        let error = pool.resize_vdisk(made, 4 << 30, false).await.expect_err("more than the limit");
        let text = error.to_string();
        assert!(text.contains("--overcommit-limit") && text.contains("would exceed"), "{text}");
        pool.resize_vdisk(made, 1 << 20, false).await.expect("smaller is always possible");
        assert_clean(&pool, "after promises").await;
    });
}

#[test]
fn policies_survive_a_crash() {
    let world = world(10, 1, 16);
    let decided = VdiskPolicy {
        tenant: Some("acme".into()),
        vm: Some("mail".into()),
        quota: Some(40 * EXTENT),
        reservation: 3 * EXTENT,
        ..failing()
    };
    let pool_policy = plimsoll_engine::PoolPolicy { hysteresis_pct: Some(5), ..Default::default() };
    let (vdisk_says, pool_says) = (decided.clone(), pool_policy.clone());
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 30)).await.expect("a vdisk");
        pool.set_vdisk_policy("v", vdisk_says).await.expect("a policy");
        pool.set_policy(pool_says).await.expect("a policy");
    });
    for _ in 0..2 {
        world.crash(CrashKind::Power);
        let (decided, pool_policy) = (decided.clone(), pool_policy.clone());
        live(&world, |m| async move {
            let pool = open(&m, 1).await;
            assert_eq!(pool.vdisk("v").expect("a vdisk").info().policy, decided);
            assert_eq!(pool.policy(), pool_policy);
            // The second time it comes from a checkpoint.
            assert_clean(&pool, "after a start").await;
        });
    }
}

#[test]
fn closing_with_held_writes_ends_them_and_loses_nothing() {
    let world = world(11, 1, 16);
    live(&world, |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        let close = async {
            m.sleep(Duration::from_secs(1)).await;
            pool.close().await.expect("a close");
        };
        let (result, ()) = join(write(&pool, &m, "v", EXTENT, 2), close).await;
        assert!(matches!(result, Err(Error::Closing(_))), "{result:?}");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("a pool");
        assert!(pool.info().recovery.clean);
        assert_eq!((byte_at(&pool, &m, "v", 0).await, byte_at(&pool, &m, "v", EXTENT).await), (1, 0));
    });
}

#[test]
fn a_deleted_vdisk_ends_its_held_writes() {
    live(&world(12, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        let delete = async {
            m.sleep(Duration::from_secs(1)).await;
            pool.delete_vdisk("v").await.expect("a delete in a full pool");
        };
        let (result, ()) = join(write(&pool, &m, "v", EXTENT, 2), delete).await;
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
        m.sleep(Duration::from_secs(1)).await;
        assert_clean(&pool, "after a delete").await;
    });
}

#[test]
fn what_was_discarded_is_available_when_a_flush_is_answered_and_levels_are_left_by_it() {
    live(&world(14, 1, 32), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        let before = pool.info().available_bytes;
        let extents = fill(&pool, &m, "hog").await;
        let hog = pool.vdisk("hog").expect("a vdisk");
        hog.flush().await.expect("a flush");
        hog.discard(0, extents * EXTENT, false).await.expect("a discard");
        hog.flush().await.expect("a flush");
        let info = pool.info();
        assert_eq!(info.quarantined_bytes, 0, "{info:?}");
        assert!(info.available_bytes + 4 * EXTENT >= before, "{before} were available, {} are", info.available_bytes);
        m.sleep(Duration::from_millis(100)).await;
        let events = pool.events().await;
        let of_pool = |event: &&SpaceEvent, up| matches!(event, SpaceEvent::Threshold { subject: plimsoll_engine::Subject::Pool, rising, .. } if *rising == up);
        let [raised, left] = [true, false].map(|up| events.iter().filter(|event| of_pool(event, up)).count());
        assert_eq!((raised, left), (3, 3), "{events:?}");
        assert_clean(&pool, "after a discard").await;
    });
}

#[test]
fn writes_that_wait_for_the_same_flush_all_get_what_it_frees() {
    live(&world(15, 1, 16), |m| async move {
        let pool = full_pool(&m, failing()).await;
        let hog = pool.vdisk("hog").expect("a vdisk");
        for round in 0..8u64 {
            // One more than they need, which metadata may take.
            hog.discard(8 * round * EXTENT, 5 * EXTENT, false).await.expect("a discard");
            // Whose flush it is does not matter: one of theirs, or a client's.
            let writes = join_all((0..4).map(|index| write(&pool, &m, "v", (4 * round + index + 1) * EXTENT, 2)));
            let flush = async {
                if round % 2 == 1 {
                    hog.flush().await.expect("a flush");
                }
            };
            let (results, ()) = join(writes, flush).await;
            assert!(results.iter().all(Result::is_ok), "round {round}: {results:?}");
            fill(&pool, &m, "hog").await;
        }
        assert_clean(&pool, "after full pools").await;
    });
}

#[test]
fn levels_are_told_once_each_and_not_again_after_a_restart() {
    let world = world(13, 1, 32);
    let told = live(&world, |m| async move {
        let pool = create(&m).await;
        let mut told = AlarmState::default();
        pool.arm(&told);
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        fill(&pool, &m, "hog").await;
        m.sleep(Duration::from_secs(1)).await;
        let events = pool.events().await;
        let levels = |events: &[SpaceEvent]| {
            events
                .iter()
                .filter(|event| matches!(event, SpaceEvent::Threshold { subject: plimsoll_engine::Subject::Pool, .. }))
                .count()
        };
        assert_eq!(levels(&events), 3, "{events:?}");
        events.iter().for_each(|event| told.apply(event));
        assert_eq!(told.levels.iter().filter(|fired| fired.subject == plimsoll_engine::SubjectKey::Pool).count(), 3);
        told
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        let mut told = told;
        pool.arm(&told);
        m.sleep(Duration::from_secs(2)).await;
        pool.delete_vdisk("hog").await.expect("a delete");
        m.sleep(Duration::from_secs(5)).await;
        let events = pool.events().await;
        assert!(
            events.iter().all(|event| !matches!(event, SpaceEvent::Threshold { rising: true, .. })),
            "told again: {events:?}"
        );
        events.iter().for_each(|event| told.apply(event));
        assert!(told.levels.iter().all(|fired| fired.subject != plimsoll_engine::SubjectKey::Pool), "{told:?}");
    });
}
