//! What is told about space: once for what happens once, and that it is over when it is over.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::{assert_clean, create, failing, filled, full, live, open, vdisk, with, world};
use futures_util::future::{join, join_all};
use plimsoll_engine::{
    AlarmState, CreateVdisk, Error, Level, Levels, Limit, Measure, OnFull, Pool, SpaceEvent, Subject, SubjectKey,
    VdiskPolicy,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine};

const EXTENT: u64 = 65_536;
const BLOCK: usize = 4096;

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64) -> Result<(), Error> {
    pool.vdisk(name)?.write(offset, filled(m, 1, BLOCK).await, false).await
}

async fn discard(pool: &Pool<SimMachine>, name: &str, offset: u64, length: u64) {
    let vdisk = pool.vdisk(name).expect("a vdisk");
    vdisk.discard(offset, length, false).await.expect("a discard");
    vdisk.flush().await.expect("a flush");
}

/// Makes `hog`, which takes all space there is.
async fn fill(pool: &Pool<SimMachine>, m: &SimMachine) {
    pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
    fill_up(pool, m).await;
}

/// Lets `hog` take what is free.
async fn fill_up(pool: &Pool<SimMachine>, m: &SimMachine) {
    // Whole extents, in which nothing could be put together.
    let (hog, data) = (pool.vdisk("hog").expect("a vdisk"), filled(m, 1, EXTENT as usize).await);
    for extent in 0.. {
        if hog.write(extent * EXTENT, data.clone(), false).await.is_err() {
            return;
        }
    }
}

/// What was told after a while. The pool must have told something.
async fn told(pool: &Pool<SimMachine>, m: &SimMachine) -> Vec<SpaceEvent> {
    m.sleep(Duration::from_secs(2)).await;
    pool.events().await
}

fn of_vdisk<'a>(events: &'a [SpaceEvent], name: &str) -> Vec<&'a SpaceEvent> {
    let is = |event: &&SpaceEvent| match event {
        SpaceEvent::Exhausted { vdisk, .. } | SpaceEvent::Resumed { vdisk, .. } => vdisk.name == name,
        _ => false,
    };
    events.iter().filter(is).collect()
}

#[test]
fn a_thousand_held_writes_that_expire_are_one_event_and_the_end_counts_them_all() {
    let world = world(1, 1, 64);
    world.set_buffer_bytes(64 << 20);
    live(&world, |m| async move {
        let pool = create(&m).await;
        let hold = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(5)), ..VdiskPolicy::default() };
        pool.create_vdisk(with("v", hold)).await.expect("a vdisk");
        fill(&pool, &m).await;
        pool.arm(&AlarmState::default());
        // Half of them at once, the others one after the other.
        let writes = join_all((0..1000u64).map(|index| {
            let (pool, m) = (pool.clone(), m.clone());
            async move {
                m.sleep(Duration::from_millis(20 * index.saturating_sub(500))).await;
                write(&pool, &m, "v", index * EXTENT).await.expect_err("there is no space");
            }
        }));
        writes.await;
        discard(&pool, "hog", 0, 64 * EXTENT).await;
        let events = told(&pool, &m).await;
        let expired: Vec<_> = events.iter().filter(|event| matches!(event, SpaceEvent::HoldExpired { .. })).collect();
        let [SpaceEvent::HoldExpired { writes, needed_bytes, .. }] = expired[..] else { panic!("{expired:?}") };
        assert!((1..1000).contains(writes) && *needed_bytes == writes * EXTENT, "{expired:?}");
        let ends = of_vdisk(&events, "v");
        let [SpaceEvent::Exhausted { .. }, SpaceEvent::Resumed { expired, expired_bytes, writes, .. }] = ends[..]
        else {
            panic!("{ends:?}")
        };
        assert_eq!((*expired, *expired_bytes, *writes), (1000, 1000 * EXTENT, 0));
    });
}

#[test]
fn a_vdisk_whose_writes_fail_and_succeed_in_turn_is_exhausted_once_a_minute_at_most() {
    live(&world(2, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        write(&pool, &m, "v", 0).await.expect("a first write");
        fill(&pool, &m).await;
        pool.arm(&AlarmState::default());
        let minutes = 3;
        for second in 0..minutes * 60u64 {
            let extent = 1 + second % 60;
            write(&pool, &m, "v", extent * EXTENT).await.expect_err("there is no space");
            discard(&pool, "hog", 0, 2 * EXTENT).await;
            write(&pool, &m, "v", extent * EXTENT).await.expect("there is space");
            discard(&pool, "v", extent * EXTENT, EXTENT).await;
            fill_up(&pool, &m).await;
            m.sleep(Duration::from_secs(1)).await;
        }
        let events = pool.events().await;
        let ends = of_vdisk(&events, "v");
        let alternates = ends
            .iter()
            .enumerate()
            .all(|(index, event)| matches!(event, SpaceEvent::Exhausted { .. }) == (index % 2 == 0));
        assert!(alternates, "{ends:?}");
        assert!((3..=2 * minutes as usize + 2).contains(&ends.len()), "{} ends", ends.len());
        // It is said to be over in the end, though nobody writes any more.
        discard(&pool, "hog", 0, 8 * EXTENT).await;
        m.sleep(Duration::from_secs(90)).await;
        assert!(pool.vdisk("v").expect("a vdisk").info().exhausted_since.is_none());
    });
}

#[test]
fn a_write_that_needs_no_space_does_not_end_the_want_of_it() {
    live(&world(3, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        write(&pool, &m, "v", 0).await.expect("a first write");
        fill(&pool, &m).await;
        pool.arm(&AlarmState::default());
        for block in 1..16 {
            write(&pool, &m, "v", EXTENT).await.expect_err("there is no space");
            // Its first contents, in an extent that is there.
            write(&pool, &m, "v", block * BLOCK as u64).await.expect("no space is needed");
        }
        let events = told(&pool, &m).await;
        assert!(matches!(of_vdisk(&events, "v")[..], [SpaceEvent::Exhausted { .. }]), "{events:?}");
    });
}

#[test]
fn a_write_too_large_for_what_is_free_is_not_over_because_a_small_one_would_fit() {
    live(&world(4, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        fill(&pool, &m).await;
        discard(&pool, "hog", 0, 2 * EXTENT).await;
        pool.arm(&AlarmState::default());
        let large = async || {
            let data = filled(&m, 1, 16 * EXTENT as usize).await;
            pool.vdisk("v").expect("a vdisk").write(0, data, false).await
        };
        for _ in 0..10 {
            large().await.expect_err("there is not enough space");
            m.sleep(Duration::from_secs(30)).await;
        }
        let events = told(&pool, &m).await;
        assert!(matches!(of_vdisk(&events, "v")[..], [SpaceEvent::Exhausted { .. }]), "{events:?}");
        discard(&pool, "hog", 0, 64 * EXTENT).await;
        large().await.expect("there is space");
        let events = told(&pool, &m).await;
        assert!(matches!(of_vdisk(&events, "v")[..], [SpaceEvent::Resumed { .. }]), "{events:?}");
    });
}

#[test]
fn a_limit_that_is_kept_again_is_told_however_that_came_about() {
    live(&world(5, 1, 16), |m| async move {
        let pool = create(&m).await;
        let quota = |extents: Option<u64>, tenant: Option<&str>| VdiskPolicy {
            quota: extents.map(|extents| extents * EXTENT),
            quota_levels: Levels::Off,
            tenant: tenant.map(str::to_owned),
            ..failing()
        };
        pool.create_vdisk(with("v", quota(None, Some("acme")))).await.expect("a vdisk");
        for extent in 0..10 {
            write(&pool, &m, "v", extent * EXTENT).await.expect("a write");
        }
        pool.arm(&AlarmState::default());
        let limits = async || {
            let events = told(&pool, &m).await;
            let limits = events.into_iter().filter_map(|event| match event {
                SpaceEvent::LimitExceeded { subject, limit_bytes, rising, limit: Limit::Quota, .. } => {
                    Some((matches!(subject, Subject::Tenant(_)), limit_bytes.map(|bytes| bytes / EXTENT), rising))
                }
                _ => None,
            });
            limits.collect::<Vec<_>>()
        };
        let set = async |extents: Option<u64>| {
            pool.set_vdisk_policy("v", quota(extents, Some("acme"))).await.expect("a policy");
        };
        // By use that falls, to the extent; by a limit that rises; by one that goes.
        set(Some(8)).await;
        assert_eq!(limits().await, [(false, Some(8), true)]);
        discard(&pool, "v", 0, EXTENT).await;
        discard(&pool, "v", EXTENT, EXTENT).await;
        assert_eq!(limits().await, [(false, Some(8), false)]);
        set(Some(7)).await;
        set(Some(9)).await;
        assert_eq!(limits().await, [(false, Some(7), true), (false, Some(9), false)]);
        set(Some(7)).await;
        set(None).await;
        assert_eq!(limits().await, [(false, Some(7), true), (false, None, false)]);
        pool.set_tenant_quota("acme", Some(7 * EXTENT));
        discard(&pool, "v", 2 * EXTENT, EXTENT).await;
        assert_eq!(limits().await, [(true, Some(7), true), (true, Some(7), false)]);
    });
}

#[test]
fn levels_of_vdisks_and_tenants_may_be_sizes() {
    const MIB: u64 = 1 << 20;
    let at = |sizes: &[u64]| Levels::At(sizes.iter().map(|mib| Level::Bytes(mib * MIB)).collect());
    let policy = || VdiskPolicy {
        tenant: Some("acme".into()),
        quota: Some(8 * MIB),
        levels: at(&[1, 3]),
        quota_levels: at(&[2]),
        ..failing()
    };
    let world = world(8, 1, 16);
    let mut state = AlarmState::default();
    for life in 0..2 {
        let known = state.clone();
        let crossed = live(&world, |m| async move {
            let pool = if life == 0 { create(&m).await } else { open(&m, 1).await };
            if life == 0 {
                pool.create_vdisk(with("v", policy())).await.expect("a vdisk");
            }
            pool.set_tenant_quota("acme", Some(6 * MIB));
            pool.set_tenant_levels("acme", at(&[1, 2])).expect("levels");
            pool.arm(&known);
            // An extent more than two MiB; all but one is given back in the second life.
            match life {
                0 => {
                    for extent in 0..33 {
                        write(&pool, &m, "v", extent * EXTENT).await.expect("a write");
                    }
                }
                _ => discard(&pool, "v", EXTENT, 32 * EXTENT).await,
            }
            let events = told(&pool, &m).await;
            pool.close().await.expect("a close");
            events
        });
        crossed.iter().for_each(|event| state.apply(event));
        let levels = crossed.iter().filter_map(|event| match event {
            SpaceEvent::Threshold { subject, measure, level: Level::Bytes(bytes), rising, .. }
                if *subject != Subject::Pool =>
            {
                Some((matches!(subject, Subject::Tenant(_)), *measure, bytes / MIB, *rising))
            }
            _ => None,
        });
        let mut levels: Vec<_> = levels.collect();
        levels.sort_by_key(|(tenant, measure, mib, _)| (*tenant, *measure == Measure::Quota, *mib));
        let up = life == 0;
        let expected = [
            (false, Measure::Designated, 1, up),
            (false, Measure::Quota, 2, up),
            (true, Measure::Quota, 1, up),
            (true, Measure::Quota, 2, up),
        ];
        assert_eq!(levels, expected, "life {life}");
    }
}

#[test]
fn what_was_told_of_a_vdisk_is_over_when_it_is_deleted() {
    live(&world(6, 1, 16), |m| async move {
        let pool = create(&m).await;
        let quota = |extents| VdiskPolicy { quota: Some(extents * EXTENT), ..failing() };
        pool.create_vdisk(with("v", quota(10))).await.expect("a vdisk");
        pool.create_vdisk(with("quiet", failing())).await.expect("a vdisk");
        let mut state = AlarmState::default();
        pool.arm(&state);
        for extent in 0..10 {
            write(&pool, &m, "v", extent * EXTENT).await.expect("a write");
        }
        write(&pool, &m, "v", 10 * EXTENT).await.expect_err("it is at its quota");
        pool.set_vdisk_policy("v", quota(5)).await.expect("a policy");
        told(&pool, &m).await.iter().for_each(|event| state.apply(event));
        assert!(!state.levels.is_empty() && !state.exhausted.is_empty() && !state.exceeded.is_empty(), "{state:?}");
        pool.delete_vdisk("quiet").await.expect("a delete");
        pool.delete_vdisk("v").await.expect("a delete");
        let events = told(&pool, &m).await;
        let deleted = events.iter().filter_map(|event| match event {
            SpaceEvent::VdiskDeleted { vdisk } => Some(vdisk.name.as_str()),
            _ => None,
        });
        assert_eq!(deleted.collect::<Vec<_>>(), ["v"]);
        events.iter().for_each(|event| state.apply(event));
        assert_eq!(state, AlarmState::default());
    });
}

#[test]
fn growth_that_is_impossible_is_told_once_for_a_reason_also_after_a_restart() {
    let world = world(7, 1, 16);
    let impossible = |reason: &str| SpaceEvent::GrowthImpossible { reason: reason.into() };
    let mut state = AlarmState::default();
    let lives: [(&[&str], &[&str]); 3] =
        [(&["no spare", "no spare"], &["no spare"]), (&["no spare", "worse"], &["worse"]), (&["worse"], &[])];
    for (life, (raised, expected)) in lives.into_iter().enumerate() {
        let known = state.clone();
        let events = live(&world, |m| async move {
            let pool = if life == 0 { create(&m).await } else { open(&m, 1).await };
            // Before anybody listens, and then.
            let (early, late) = raised.split_at(1);
            early.iter().for_each(|reason| pool.raise(impossible(reason)));
            pool.arm(&known);
            late.iter().for_each(|reason| pool.raise(impossible(reason)));
            let close = async {
                m.sleep(Duration::from_secs(1)).await;
                pool.close().await.expect("a close");
            };
            join(pool.events(), close).await.0
        });
        assert_eq!(events, expected.iter().map(|reason| impossible(reason)).collect::<Vec<_>>(), "life {life}");
        events.iter().for_each(|event| state.apply(event));
        world.crash(CrashKind::Process);
    }
    assert_eq!(state.growth_impossible.as_deref(), Some("worse"));
}

#[test]
fn growth_that_need_not_be_any_more_is_told_once_and_only_if_it_was_impossible() {
    live(&world(9, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.raise(SpaceEvent::GrowthPossible);
        pool.raise(SpaceEvent::GrowthImpossible { reason: "no spare".into() });
        pool.raise(SpaceEvent::GrowthPossible);
        pool.raise(SpaceEvent::GrowthPossible);
        let events = told(&pool, &m).await;
        let expected = [SpaceEvent::GrowthImpossible { reason: "no spare".into() }, SpaceEvent::GrowthPossible];
        assert_eq!(events, expected);
    });
}

#[test]
fn a_vdisk_whose_writes_are_held_and_go_on_in_turn_is_told_of_ten_times_and_then_once_a_minute() {
    live(&world(10, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", VdiskPolicy::default())).await.expect("a vdisk");
        write(&pool, &m, "v", 0).await.expect("a first write");
        fill(&pool, &m).await;
        pool.arm(&AlarmState::default());
        for second in 0..180u64 {
            let extent = 1 + second % 60;
            let relief = async {
                m.sleep(Duration::from_millis(500)).await;
                discard(&pool, "hog", 0, 2 * EXTENT).await;
            };
            join(write(&pool, &m, "v", extent * EXTENT), relief).await.0.expect("it was held");
            discard(&pool, "v", extent * EXTENT, EXTENT).await;
            fill_up(&pool, &m).await;
            m.sleep(Duration::from_millis(500)).await;
        }
        m.sleep(Duration::from_secs(90)).await;
        let events = pool.events().await;
        let ends = of_vdisk(&events, "v");
        let exhausted = |event: &SpaceEvent| matches!(event, SpaceEvent::Exhausted { .. });
        let alternates = ends.iter().enumerate().all(|(index, event)| exhausted(event) == (index % 2 == 0));
        assert!(alternates, "{ends:?}");
        assert!((22..=32).contains(&ends.len()), "{} ends", ends.len());
        let writes: u64 =
            ends.iter().map(|end| if let SpaceEvent::Resumed { writes, .. } = end { *writes } else { 0 }).sum();
        assert_eq!(writes, 180, "what is not told at once is counted");
    });
}

#[test]
fn a_vdisk_that_was_exhausted_before_a_restart_is_until_what_it_lacked_is_there() {
    let world = world(11, 1, 16);
    let mut state = AlarmState::default();
    let before = live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        fill(&pool, &m).await;
        discard(&pool, "hog", 0, 2 * EXTENT).await;
        // Before anybody listens. Two extents are there, and it needs three.
        let data = filled(&m, 1, 3 * EXTENT as usize).await;
        let vdisk = pool.vdisk("v").expect("a vdisk");
        vdisk.write(0, data, false).await.expect_err("there is no space for all of it");
        pool.arm(&AlarmState::default());
        let events = told(&pool, &m).await;
        pool.close().await.expect("a close");
        events
    });
    assert!(matches!(of_vdisk(&before, "v")[..], [SpaceEvent::Exhausted { .. }]), "{before:?}");
    before.iter().for_each(|event| state.apply(event));
    assert_eq!(state.exhausted.values().collect::<Vec<_>>(), [&(3 * EXTENT)]);
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        let vdisk = pool.vdisk("v").expect("a vdisk");
        // That it still is is not told again.
        let data = filled(&m, 1, 3 * EXTENT as usize).await;
        vdisk.write(0, data, false).await.expect_err("there is no space for all of it");
        pool.arm(&state);
        m.sleep(Duration::from_secs(60)).await;
        assert!(vdisk.info().exhausted_since.is_some());
        discard(&pool, "hog", 2 * EXTENT, 2 * EXTENT).await;
        let events = told(&pool, &m).await;
        let ends = of_vdisk(&events, "v");
        assert!(matches!(ends[..], [SpaceEvent::Resumed { lasted: None, .. }]), "{ends:?}");
        assert!(vdisk.info().exhausted_since.is_none());
    });
}

#[test]
fn a_device_that_fails_and_a_pool_that_takes_no_writes_are_told_of_until_it_does() {
    let world = world(12, 1, 16);
    let mut state = AlarmState::default();
    let sim = &world;
    let failed = live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", failing())).await.expect("a vdisk");
        pool.arm(&AlarmState::default());
        sim.vanish(0);
        for extent in 0..3 {
            write(&pool, &m, "v", extent * EXTENT).await.expect_err("the device is gone");
        }
        pool.vdisk("v").expect("a vdisk").flush().await.expect_err("the device is gone");
        told(&pool, &m).await
    });
    let devices = failed.iter().filter_map(|event| match event {
        SpaceEvent::DeviceErrors { device, errors, reason, full: false } => {
            Some((device.as_str(), *errors, reason.as_str()))
        }
        _ => None,
    });
    let devices: Vec<_> = devices.collect();
    assert!(matches!(devices[..], [("disk0", 1.., reason)] if reason.contains("gone")), "{failed:?}");
    let read_only = |event: &&SpaceEvent| matches!(event, SpaceEvent::ReadOnly { reason, rising: true } if reason.contains("disk0"));
    assert_eq!(failed.iter().filter(read_only).count(), 1, "{failed:?}");
    failed.iter().for_each(|event| state.apply(event));
    state.apply(&SpaceEvent::NotServed { reason: "a device is missing".into(), rising: true });
    world.crash(CrashKind::Process);
    let healed = live(&world, |m| async move {
        let pool = open(&m, 1).await;
        pool.arm(&state);
        told(&pool, &m).await.iter().for_each(|event| state.apply(event));
        state
    });
    assert!(!healed.read_only && healed.not_served.is_none(), "{healed:?}");
}

#[test]
fn what_was_told_of_a_tenant_that_nobody_knows_any_more_is_over() {
    live(&world(8, 1, 16), |m| async move {
        let pool = create(&m).await;
        let gone = SubjectKey::Tenant("gone".into());
        let mut state = AlarmState { exceeded: [(gone, Limit::Quota)].into(), ..AlarmState::default() };
        pool.arm(&state);
        told(&pool, &m).await.iter().for_each(|event| state.apply(event));
        assert_eq!(state, AlarmState::default());
    });
}

#[test]
fn what_was_discarded_is_available_when_a_flush_is_answered_and_levels_are_left_by_it() {
    live(&world(14, 1, 32), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        let before = pool.info().available_bytes;
        let extents = full::fill(&pool, &m, "hog").await;
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
fn levels_are_told_once_each_and_not_again_after_a_restart() {
    let world = world(13, 1, 32);
    let told = live(&world, |m| async move {
        let pool = create(&m).await;
        let mut told = AlarmState::default();
        pool.arm(&told);
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        full::fill(&pool, &m, "hog").await;
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

#[test]
fn a_vdisk_that_is_filled_and_emptied_all_the_time_is_told_of_now_and_then_and_as_it_is_in_the_end() {
    live(&world(31, 1, 64), async |m: SimMachine| {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        pool.create_vdisk(CreateVdisk { size: 1 << 20, ..vdisk("v", 1 << 30) }).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        let events: Rc<RefCell<Vec<SpaceEvent>>> = Rc::default();
        let (listener, heard) = (pool.clone(), events.clone());
        m.spawn(async move {
            loop {
                let more = listener.events().await;
                if more.is_empty() {
                    break;
                }
                let is_of_it =
                    |event: &SpaceEvent| matches!(event, SpaceEvent::Threshold { subject: Subject::Vdisk(_), .. });
                heard.borrow_mut().extend(more.into_iter().filter(is_of_it));
            }
        });
        for _ in 0..200 {
            v.write(0, filled(&m, 7, 1 << 20).await, false).await.expect("a write");
            m.sleep(Duration::from_millis(10)).await;
            v.discard(0, 1 << 20, false).await.expect("a discard");
            v.flush().await.expect("a flush");
            m.sleep(Duration::from_millis(10)).await;
        }
        let many = events.borrow().len();
        assert!((15..80).contains(&many), "{many} events");
        // It is empty, and that is said though nothing happens any more.
        m.sleep(Duration::from_secs(70)).await;
        let rising = events
            .borrow()
            .iter()
            .map(|event| matches!(event, SpaceEvent::Threshold { rising: true, .. }))
            .collect::<Vec<_>>();
        assert_eq!((rising.len() - many, rising.iter().filter(|rising| **rising).count() * 2), (3, rising.len()));
        pool.close().await.expect("a close");
    });
}
