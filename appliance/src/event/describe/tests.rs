//! What is said of each event.

use std::cell::Cell;

use uuid::Uuid;

use super::*;
use crate::cli::hints::assert_advice_can_be_followed;

fn vdisk() -> VdiskName {
    VdiskName { name: "db1".into(), uuid: Uuid::from_u128(1), vm: Some("web".into()), tenant: None }
}

fn pool_at(level: Level, rising: bool) -> NewEvent {
    let (used_bytes, total_bytes) = (95 << 30, 100 << 30);
    let (subject, measure) = (Subject::Pool, Measure::Physical);
    describe("tank", &SpaceEvent::Threshold { subject, measure, level, used_bytes, total_bytes, rising })
}

#[test]
fn a_threshold_says_how_much_is_left_and_what_to_do() {
    let event = pool_at(Level::Percent(95), true);
    assert_eq!(
        (event.severity, event.kind.as_str(), event.object.as_str()),
        (Severity::Critical, "pool-threshold", "tank")
    );
    assert_eq!(event.figures["level_pct"], 95);
    assert_eq!(event.figures["used_pct"], 95.0);
    let advice = event.advice.unwrap();
    assert!(advice.contains("5 GiB are left") && advice.contains("plimsoll pool add-device tank --device"), "{advice}");
    assert_eq!(pool_at(Level::Percent(85), true).severity, Severity::Warning);
    assert_eq!(pool_at(Level::Bytes(96 << 30), true).severity, Severity::Critical);
    let fell = pool_at(Level::Percent(95), false);
    assert_eq!((fell.severity, fell.kind.as_str(), fell.advice), (Severity::Info, "pool-threshold-cleared", None));
}

#[test]
fn an_exhausted_vdisk_is_named_with_its_vm_and_the_size_asked_for() {
    use Shortage::*;
    for cause in [PoolFull, VdiskQuota, TenantQuota, Reserved, DeviceFull] {
        let (needed_bytes, device) = (65_536, (cause == DeviceFull).then(|| "/srv/p.img".to_owned()));
        let event =
            describe("tank", &SpaceEvent::Exhausted { vdisk: vdisk(), needed_bytes, cause, device, held: true });
        assert_eq!((event.kind.as_str(), event.object.as_str()), ("vdisk-exhausted", "tank/db1"));
        assert_eq!((event.vm.as_deref(), event.severity), (Some("web"), Severity::Critical));
        let said = event.cause.unwrap();
        assert!(said.contains("VM web") && said.contains("64 KiB") && said.contains("held"), "{said}");
        let (advice, held_for) = (event.advice.unwrap(), Duration::from_secs(20));
        assert_advice_can_be_followed(&advice);
        // What comes of it advises the same.
        let device = (cause == DeviceFull).then(|| "/srv/p.img".to_owned());
        let (expired, held_bytes, bound_bytes) = (device.clone(), (1, 2), 3);
        for event in [
            SpaceEvent::HoldExpired { vdisk: vdisk(), held_for, writes: 1, needed_bytes, cause, device },
            SpaceEvent::HoldOverflow { vdisk: vdisk(), held_bytes, bound_bytes, cause, device: expired },
        ] {
            let told = describe("tank", &event);
            assert!(told.advice.as_ref().is_some_and(|told| told.contains(&advice)), "{told:?}");
            assert_advice_can_be_followed(&told.advice.unwrap());
        }
    }
}

#[test]
fn every_event_that_needs_somebody_has_an_advice_with_a_command() {
    let limited = |limit, subject| SpaceEvent::LimitExceeded {
        subject,
        limit,
        used_bytes: 3,
        limit_bytes: Some(2),
        rising: true,
    };
    let forecast = |seconds| SpaceEvent::Forecast {
        horizon: Duration::from_secs(seconds),
        still: None,
        time_to_full: Some(Duration::from_secs(seconds - 1)),
        rate_bytes_per_s: 1 << 20,
        available_bytes: 1 << 30,
        rising: true,
    };
    let threshold = |subject, measure, percent| SpaceEvent::Threshold {
        subject,
        measure,
        level: Level::Percent(percent),
        used_bytes: 95,
        total_bytes: 100,
        rising: true,
    };
    use Shortage::PoolFull;
    let (held_for, writes, needed_bytes) = (Duration::from_secs(20), 3, 65_536);
    let all = [
        forecast(86_400),
        forecast(300),
        limited(Limit::Overcommit, Subject::Pool),
        limited(Limit::Quota, Subject::Vdisk(vdisk())),
        limited(Limit::Quota, Subject::Tenant("acme".into())),
        SpaceEvent::HoldExpired { vdisk: vdisk(), held_for, writes, needed_bytes, cause: PoolFull, device: None },
        SpaceEvent::GrowthImpossible { reason: "no spare device is left".into() },
        SpaceEvent::RoomBelow { device: "/srv/p.img".into(), room_bytes: 1, available_bytes: 2, rising: true },
        SpaceEvent::FilesGone { files: "/srv/p.img".into(), rising: true },
        SpaceEvent::FilesReplaced { files: "/srv/p.img".into() },
        SpaceEvent::CheckFound { reason: "the check found 1 thing".into(), loss: false, rising: true },
        threshold(Subject::Pool, Measure::Physical, 70),
        threshold(Subject::Pool, Measure::Physical, 95),
        threshold(Subject::Vdisk(vdisk()), Measure::Designated, 95),
        threshold(Subject::Vdisk(vdisk()), Measure::Quota, 70),
        threshold(Subject::Tenant("acme".into()), Measure::Quota, 70),
    ];
    for event in &all {
        let event = describe("tank", event);
        assert!(event.severity >= Severity::Warning);
        assert_advice_can_be_followed(event.advice.as_deref().unwrap_or_default());
        assert!(event.cause.is_some() && event.pool.as_deref() == Some("tank"));
    }
    assert_eq!(describe("tank", &all[0]).severity, Severity::Warning);
    assert_eq!(describe("tank", &all[1]).severity, Severity::Critical);
}

#[test]
fn what_is_over_is_said_as_it_came_about() {
    let cleared = |used_bytes: u64, total_bytes: u64| {
        let (measure, level) = (Measure::Quota, Level::Percent(70));
        let subject = Subject::Vdisk(vdisk());
        let event = SpaceEvent::Threshold { subject, measure, level, used_bytes, total_bytes, rising: false };
        describe("tank", &event).cause.unwrap_or_default()
    };
    // Use fell, or the quota rose: only that it is below is known. The threshold was changed; the quota is gone.
    assert_eq!(cleared(6 << 30, 10 << 30), "vdisk tank/db1 is below 70 % of its quota: 6 GiB of 10 GiB are used");
    assert!(cleared(8 << 30, 10 << 30).contains("70 % of its quota is no threshold any more"));
    assert_eq!(cleared(8 << 30, 0), "vdisk tank/db1 has no quota any more: 8 GiB are used");
    let limit = |limit_bytes| {
        let (subject, limit, used_bytes) = (Subject::Pool, Limit::Overcommit, 3 << 30);
        describe("tank", &SpaceEvent::LimitExceeded { subject, limit, used_bytes, limit_bytes, rising: false })
    };
    assert_eq!(
        limit(Some(4 << 30)).cause.unwrap(),
        "tank keeps its overcommit limit of 4 GiB again: 3 GiB are promised"
    );
    assert_eq!(limit(None).cause.as_deref(), Some("tank has no overcommit limit any more: 3 GiB are promised"));
    assert!(limit(None).figures["limit_bytes"].is_null());
    let slow = SpaceEvent::Forecast {
        horizon: Duration::from_secs(300),
        still: Some(Duration::from_secs(3600)),
        time_to_full: Some(Duration::MAX),
        rate_bytes_per_s: 1,
        available_bytes: 1 << 40,
        rising: false,
    };
    let slow = describe("tank", &slow).cause.unwrap();
    let expected = "is full in more than a year: no longer within 5 min; what was told of 1 h stands until it has been so for longer";
    assert!(slow.ends_with(expected), "{slow}");
    let soon = SpaceEvent::Forecast {
        horizon: Duration::from_secs(300),
        still: Some(Duration::from_secs(3600)),
        time_to_full: Some(Duration::from_secs(1800)),
        rate_bytes_per_s: 1,
        available_bytes: 1 << 40,
        rising: false,
    };
    let soon = describe("tank", &soon).cause.unwrap();
    assert!(soon.ends_with("is full in 30 min: no longer within 5 min, but still within 1 h"), "{soon}");
}

#[test]
fn held_writes_that_failed_are_counted_at_the_end() {
    let (lasted, writes, expired, expired_bytes) = (Duration::from_secs(7500), 1, 1000, 3 << 29);
    let resumed = |lasted| SpaceEvent::Resumed { vdisk: vdisk(), lasted, writes, expired, expired_bytes };
    let event = describe("tank", &resumed(Some(lasted)));
    assert_eq!(
        event.cause.as_deref(),
        Some(
            "space is there again after 2 h 5 min; 1 held write went through, 1000 writes that needed 1.5 GiB of space failed meanwhile"
        )
    );
    assert_eq!((&event.figures["lasted_seconds"], &event.figures["expired_writes"]), (&7500.0.into(), &1000.into()));
    assert_eq!(event.advice.as_deref(), Some("The guest has seen errors: look at it."));
    // It began before the daemon did.
    let event = describe("tank", &resumed(None));
    assert!(event.cause.unwrap().starts_with("space is there again; 1 held write"));
    assert!(event.figures["lasted_seconds"].is_null());
    // None went through, and none had to: nothing is counted that was not.
    let of = |writes, expired| {
        let event = SpaceEvent::Resumed { vdisk: vdisk(), lasted: None, writes, expired, expired_bytes: expired << 16 };
        describe("tank", &event).cause.unwrap()
    };
    assert_eq!(of(0, 0), "space is there again");
    assert_eq!(of(0, 1), "space is there again; 1 write that needed 64 KiB of space failed meanwhile");
    assert_eq!(of(2, 0), "space is there again; 2 held writes went through");
    let (held_for, needed_bytes) = (Duration::from_secs(20), 65_536);
    let (cause, device) = (Shortage::PoolFull, None);
    let expired = SpaceEvent::HoldExpired { vdisk: vdisk(), held_for, writes: 1, needed_bytes, cause, device };
    let failed = describe("tank", &expired);
    let expected = "1 held write that needed 64 KiB of space failed as \"no space\" after 20 s, as pool tank is full; those that follow";
    assert!(failed.cause.as_ref().unwrap().starts_with(expected), "{:?}", failed.cause);
}

#[test]
fn what_keeps_a_pool_from_being_used_is_critical_and_says_what_to_do() {
    let reason = "/dev/sdb: the device is gone; reconnect it and open the pool again".to_owned();
    let device = "/dev/sdb".to_owned();
    let errors = describe("tank", &SpaceEvent::DeviceErrors { device, errors: 3, reason: reason.clone(), full: false });
    assert_eq!((errors.kind.as_str(), errors.severity), ("device-errors", Severity::Critical));
    assert_eq!(errors.details["device"], "/dev/sdb");
    assert!(errors.cause.unwrap().starts_with("3 operations of /dev/sdb failed; the first: "));
    assert!(errors.advice.unwrap().ends_with("plimsoll pool evacuate tank --device /dev/sdb."));
    let read_only = |rising| describe("tank", &SpaceEvent::ReadOnly { reason: reason.clone(), rising });
    let not_served = |rising| describe("tank", &SpaceEvent::NotServed { reason: "no device".into(), rising });
    for (event, kind, cause, advice) in [
        (read_only(true), "pool-read-only", "pool tank is read-only: /dev/sdb: the device is gone", "reconnect it"),
        (not_served(true), "pool-not-served", "pool tank is not served: no device", "plimsoll pool import --name tank"),
    ] {
        assert_eq!((event.kind.as_str(), event.severity), (kind, Severity::Critical));
        assert_eq!(event.cause.as_deref(), Some(cause));
        assert!(event.advice.unwrap().contains(advice));
    }
    for (event, kind) in [(read_only(false), "pool-read-only-cleared"), (not_served(false), "pool-not-served-cleared")]
    {
        assert_eq!((event.kind.as_str(), event.severity, event.advice), (kind, Severity::Info, None));
    }
}

#[test]
fn times_are_written_for_people() {
    let said: Vec<_> = [0, 40, 300, 7500, 86_399, 90_000].map(|s| time(Duration::from_secs(s))).into();
    assert_eq!(said, ["0 s", "40 s", "5 min", "2 h 5 min", "23 h 59 min", "1 d 1 h"]);
    assert_eq!(time(Duration::from_millis(1540)), "1.5 s");
}

#[test]
fn who_is_short_of_space_is_told_what_could_be_reclaimed_when_that_is_known() {
    use plimsoll_engine::{Reclaimable, Surveyed};

    use crate::reclaimable;

    let found =
        Reclaimable { zero_bytes: 12 << 30, whole_bytes: 12 << 30, margin_bytes: 1 << 30, ..Reclaimable::default() };
    let surveyed = Surveyed { total: found, vdisks: [("db1".to_owned(), found)].into() };
    let known = || reclaimable::could("tank", &surveyed, 100 << 30);
    let threshold = |rising| SpaceEvent::Threshold {
        subject: Subject::Pool,
        measure: Measure::Physical,
        level: Level::Percent(70),
        used_bytes: 70 << 30,
        total_bytes: 100 << 30,
        rising,
    };
    let exhausted =
        |cause| SpaceEvent::Exhausted { vdisk: vdisk(), needed_bytes: 65_536, cause, held: true, device: None };
    let could =
        "; about 12 GiB (give or take 1 GiB) of what tank stores could be reclaimed: plimsoll reclaim tank/db1.";
    let short = [threshold(true), exhausted(Shortage::PoolFull)];
    for described in describe_all("tank", &short, known) {
        let advice = described.advice.unwrap();
        assert!(advice.ends_with(could), "{advice}");
        assert_advice_can_be_followed(&advice);
    }
    for described in describe_all("tank", &short, || Some(reclaimable::not_known("tank"))) {
        let advice = described.advice.unwrap();
        let expected = "; what could be reclaimed is not known yet, and then shown by plimsoll space --pool tank.";
        assert!(advice.ends_with(expected), "{advice}");
        assert_advice_can_be_followed(&advice);
    }
    // The rest is as ever, and all of it where nothing could.
    let plain = |events: &[SpaceEvent]| events.iter().map(|event| describe("tank", event)).collect::<Vec<_>>();
    assert_eq!(describe_all("tank", &short, || None), plain(&short));
    // It would not help, or is not needed: nobody even asks.
    let other = [threshold(false), exhausted(Shortage::VdiskQuota)];
    assert_eq!(describe_all("tank", &other, || unreachable!("it does not help")), plain(&other));
    // For many at once it is reckoned once, and all are told.
    let (asked, many) = (Cell::new(0), vec![exhausted(Shortage::PoolFull); 1000]);
    let known = || {
        asked.set(asked.get() + 1);
        known()
    };
    let told = describe_all("tank", &many, known);
    assert!(told.iter().all(|event| event.advice.as_ref().unwrap().ends_with(could)));
    assert_eq!((told.len(), asked.get()), (1000, 1));
}
