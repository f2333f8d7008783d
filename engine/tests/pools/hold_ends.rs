//! How holding ends without space: at its bound, by a decision, because it was given up, with its vdisk or the pool.

use std::time::Duration;

use crate::support::full::{BLOCK, EXTENT, byte_at, full_pool, write};
use crate::support::{assert_clean, failing, filled, live, world};
use futures_util::future::{Either, join, join_all, select};
use plimsoll_engine::{
    AlarmState, Error, OnFull, OpenPool, Pool, Shortage, SpaceEvent, Ticket, VdiskPolicy, WriteOptions, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::CrashKind;

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
fn held_writes_fail_by_what_they_lack_at_their_end() {
    let holding = OnFull::Hold(Duration::from_secs(10));
    // A quota, or none, before and after, and what is decided then.
    for (seed, before, after, on_full) in
        [(31, Some(EXTENT), None, holding), (32, None, Some(EXTENT), holding), (33, Some(EXTENT), None, OnFull::Fail)]
    {
        live(&world(seed, 1, 16), |m| async move {
            let policy = VdiskPolicy { quota: before, on_full: holding, ..VdiskPolicy::default() };
            let pool = full_pool(&m, policy).await;
            // The second one is behind the first.
            let held = join(write(&pool, &m, "v", EXTENT, 2), write(&pool, &m, "v", 2 * EXTENT, 2));
            let decided = async {
                m.sleep(Duration::from_secs(2)).await;
                let policy = VdiskPolicy { quota: after, on_full, ..VdiskPolicy::default() };
                pool.set_vdisk_policy("v", policy).await.expect("a policy");
            };
            let ((first, second), ()) = join(held, decided).await;
            for failed in [first, second] {
                match after.is_some() {
                    true => assert!(matches!(failed, Err(Error::QuotaExceeded { .. })), "{failed:?}"),
                    false => assert!(matches!(failed, Err(Error::OutOfSpace { .. })), "{failed:?}"),
                }
            }
            let lacks = if after.is_some() { Shortage::VdiskQuota } else { Shortage::PoolFull };
            assert_eq!(pool.vdisk("v").expect("a vdisk").info().shortage, Some(lacks));
        });
    }
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
            SpaceEvent::HoldExpired { held_for, writes, cause, .. } => Some((held_for.as_secs(), *writes, *cause)),
            _ => None,
        });
        assert_eq!(told, Some((3, 3, Shortage::PoolFull)), "{events:?}");
        assert_clean(&pool, "after failures").await;
    });
}

#[test]
fn that_a_held_write_came_to_its_bound_is_told_before_a_crash_can_take_it() {
    live(&world(2, 1, 16), |m| async move {
        let hold = OnFull::Hold(Duration::from_secs(2));
        let pool = full_pool(&m, VdiskPolicy { on_full: hold, ..VdiskPolicy::default() }).await;
        pool.arm(&AlarmState::default());
        // Not when something is looked at in any case.
        m.sleep(Duration::from_millis(300)).await;
        write(&pool, &m, "v", EXTENT, 2).await.expect_err("there is no space");
        m.sleep(Duration::from_millis(1)).await;
        let events = pool.events().await;
        assert!(events.iter().any(|event| matches!(event, SpaceEvent::HoldExpired { .. })), "{events:?}");
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
fn writes_that_wait_already_wait_as_long_as_is_decided_now_from_when_they_began_to() {
    // Decided after 10 of 20 seconds, and when they fail then.
    for (decided, fails) in [(600, 600), (15, 15), (5, 10)] {
        live(&world(22, 1, 16), |m| async move {
            let hold =
                |seconds| VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(seconds)), ..VdiskPolicy::default() };
            let pool = full_pool(&m, hold(20)).await;
            pool.arm(&AlarmState::default());
            let began = m.now();
            let held = async {
                let results = join_all((1..4).map(|extent| write(&pool, &m, "v", extent * EXTENT, 2))).await;
                (results, m.now() - began)
            };
            // One that came with a time of its own keeps it.
            let (v, data) = (pool.vdisk("v").expect("a vdisk"), filled(&m, 3, BLOCK).await);
            let on_full = Some(OnFull::Hold(Duration::from_secs(30)));
            let own = WriteOptions { on_full, ..WriteOptions::default() };
            let own = async { (v.write_with(9 * EXTENT, data, &own).await, m.now() - began) };
            let decide = async {
                m.sleep(Duration::from_secs(10)).await;
                pool.set_vdisk_policy("v", hold(decided)).await.expect("a policy");
            };
            let ((results, waited), ((own, own_waited), ())) = join(held, join(own, decide)).await;
            let about = |seconds| Duration::from_secs(seconds)..Duration::from_millis(seconds * 1000 + 100);
            assert!(results.iter().all(|result| matches!(result, Err(Error::OutOfSpace { .. }))), "{results:?}");
            assert!(about(fails).contains(&waited), "hold({decided}s): {waited:?}");
            assert!(matches!(own, Err(Error::OutOfSpace { .. })), "{own:?}");
            assert!(about(30).contains(&own_waited), "{own_waited:?}");
            let told = pool.events().await.iter().find_map(|event| match event {
                SpaceEvent::HoldExpired { held_for, .. } => Some(held_for.as_secs()),
                _ => None,
            });
            assert_eq!(told, Some(fails.min(30)));
            assert_clean(&pool, "after failures").await;
        });
    }
}

#[test]
fn a_longer_time_that_is_decided_while_writes_wait_lets_them_go_through_later() {
    live(&world(23, 1, 16), |m| async move {
        let hold =
            |seconds| VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(seconds)), ..VdiskPolicy::default() };
        let pool = full_pool(&m, hold(20)).await;
        let night = async {
            m.sleep(Duration::from_secs(15)).await;
            pool.set_vdisk_policy("v", hold(3600)).await.expect("a policy");
            m.sleep(Duration::from_secs(3000)).await;
            assert_eq!(pool.info().held_writes, 1);
            pool.vdisk("hog").expect("a vdisk").discard(0, 2 * EXTENT, false).await.expect("a discard");
        };
        join(write(&pool, &m, "v", EXTENT, 2), night).await.0.expect("it goes through");
        assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 2);
    });
}
