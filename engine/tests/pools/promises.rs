//! Quotas, reservations and limits: what was promised is kept, and nothing is promised that can not be.

use std::time::Duration;

use crate::support::full::{EXTENT, byte_at, fill, write};
use crate::support::{assert_clean, create, failing, live, open, vdisk, with, world};
use futures_util::future::{join, join_all};
use plimsoll_engine::{AlarmState, CreateVdisk, Error, OnFull, SpaceEvent, VdiskPolicy};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::CrashKind;

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
