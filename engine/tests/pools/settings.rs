//! What an operator changes: in one step, or not at all; and what is told by it. Checklist 2.38-2.40.

use crate::support::{create, filled, live, open, vdisk, world};
use futures_util::future::join;
use plimsoll_engine::{
    AlarmState, Error, Level, Levels, OnFull, PoolPolicy, SpaceEvent, Subject, VdiskInfo, VdiskPolicy, VdiskSettings,
};
use plimsoll_hardware::sim::CrashKind;

const EXTENT: u64 = 65_536;

fn change(change: impl Fn(&mut VdiskSettings)) -> impl Fn(&VdiskInfo) -> Result<VdiskSettings, Error> {
    move |now| {
        let mut settings = VdiskSettings::from(now);
        change(&mut settings);
        Ok(settings)
    }
}

#[test]
fn changes_that_come_at_once_build_on_each_other_and_outlive_a_crash() {
    let world = world(1, 1, 64);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", 1 << 20)).await.expect("a vdisk");
        let grow = pool.change_vdisk("v", false, change(|now| now.size *= 2));
        let again = pool.change_vdisk("v", false, change(|now| now.size *= 2));
        let (first, second) = join(grow, again).await;
        first.expect("a change");
        assert_eq!(second.expect("another").size, 4 << 20);
        let vm = pool.change_vdisk("v", false, change(|now| now.policy.vm = Some("web".into())));
        let keep = pool.change_vdisk("v", false, change(|now| now.policy.keep_zeros = true));
        let (first, second) = join(vm, keep).await;
        first.and(second).expect("changes");
        let limit = |now: PoolPolicy| Ok::<_, Error>(PoolPolicy { hysteresis_pct: Some(3), ..now });
        let levels = |now: PoolPolicy| Ok::<_, Error>(PoolPolicy { levels: Levels::Off, ..now });
        let (first, second) = join(pool.change_policy(limit), pool.change_policy(levels)).await;
        first.and(second).expect("changes of the pool");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        let info = pool.vdisk("v").expect("a vdisk").info();
        assert_eq!((info.size, info.policy.vm.as_deref(), info.zero_detection), (4 << 20, Some("web"), false));
        assert_eq!((pool.policy().hysteresis_pct, pool.policy().levels), (Some(3), Levels::Off));
    });
}

#[test]
fn a_larger_size_and_what_needs_it_are_decided_together() {
    live(&world(2, 1, 64), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("v", EXTENT)).await.expect("a vdisk");
        let both = |size, reservation| change(move |now| (now.size, now.policy.reservation) = (size, reservation));
        let info = pool.change_vdisk("v", false, both(1 << 20, 1 << 20)).await.expect("it has room for both");
        assert_eq!((info.size, info.policy.reservation), (1 << 20, 1 << 20));
        for (size, reservation) in [(2 << 20, 1 << 40), (EXTENT, 2 * EXTENT), (2 << 20, 3 << 20)] {
            pool.change_vdisk("v", true, both(size, reservation)).await.expect_err("the reservation is too large");
            assert_eq!(pool.vdisk("v").expect("a vdisk").info(), info);
        }
        let info = pool.change_vdisk("v", false, both(EXTENT, EXTENT)).await.expect("smaller, both");
        assert_eq!((info.size, info.policy.reservation), (EXTENT, EXTENT));
    });
}

#[test]
fn levels_of_a_tenant_are_told_where_they_were_set_and_held_writes_are_counted() {
    live(&world(3, 1, 64), |m| async move {
        let pool = create(&m).await;
        pool.set_tenant_quota("acme", Some(10 * EXTENT));
        pool.set_tenant_levels("acme", Levels::At(vec![Level::Percent(20)])).expect("levels");
        pool.arm(&AlarmState::default());
        let policy = VdiskPolicy {
            tenant: Some("acme".into()),
            on_full: OnFull::Hold(std::time::Duration::from_millis(50)),
            ..VdiskPolicy::default()
        };
        let spec = plimsoll_engine::CreateVdisk { policy, ..vdisk("v", 1 << 30) };
        pool.create_vdisk(spec).await.expect("a vdisk");
        let disk = pool.vdisk("v").expect("a vdisk");
        let write = async |extent: u64| disk.write(extent * EXTENT, filled(&m, 1, 4096).await, false).await;
        let told = async || match &pool.events().await[..] {
            [SpaceEvent::Threshold { subject: Subject::Tenant(name), level, rising: true, .. }] if name == "acme" => {
                *level
            }
            events => panic!("{events:?}"),
        };
        for extent in 0..2 {
            write(extent).await.expect("a write");
        }
        assert_eq!(told().await, Level::Percent(20));
        pool.set_tenant_levels("acme", Levels::At(vec![Level::Percent(20), Level::Percent(60)])).expect("levels");
        for extent in 2..6 {
            write(extent).await.expect("a write");
        }
        assert_eq!(told().await, Level::Percent(60));
        assert_eq!((pool.info().counters.held_writes, pool.info().counters.held_write_bytes), (0, 0));
        for extent in 6..10 {
            write(extent).await.expect("a write");
        }
        write(10).await.expect_err("it is held, and given up");
        assert_eq!((pool.info().counters.held_writes, pool.info().counters.held_write_bytes), (1, 4096));
        for wrong in [vec![Level::Bytes(0)], vec![Level::Percent(60), Level::Percent(20)]] {
            pool.set_tenant_levels("acme", Levels::At(wrong)).expect_err("no levels of a tenant");
        }
        assert_eq!(pool.tenants()[0].levels, Levels::At(vec![Level::Percent(20), Level::Percent(60)]));
    });
}
