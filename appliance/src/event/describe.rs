//! What the engine raised, in words: kind, severity, figures, cause, and an advice that can be followed.

use std::time::Duration;

use plimsoll_engine::{Level, Limit, Measure, Shortage, SpaceEvent, Subject, VdiskName};

use super::NewEvent;
use crate::model::Severity;
use crate::units::iec;

/// A level of so much of the total is critical, a lower one a warning.
pub const CRITICAL_PCT: f64 = 95.0;
/// Nobody orders a drive in less time than this.
const CRITICAL_HORIZON: Duration = Duration::from_secs(15 * 60);

/// The event of pool `pool`.
pub fn describe(pool: &str, event: &SpaceEvent) -> NewEvent {
    let described = match event {
        SpaceEvent::Threshold { subject, measure, level, used_bytes, total_bytes, rising } => {
            threshold(pool, subject, *measure, *level, (*used_bytes, *total_bytes), *rising)
        }
        SpaceEvent::Forecast { horizon, time_to_full, rate_bytes_per_s, available_bytes, rising } => {
            forecast(pool, *horizon, *time_to_full, (*rate_bytes_per_s, *available_bytes), *rising)
        }
        SpaceEvent::Exhausted { vdisk, needed_bytes, cause, held } => {
            exhausted(pool, vdisk, *needed_bytes, *cause, *held)
        }
        SpaceEvent::Resumed { vdisk, lasted, writes } => of_vdisk(Severity::Info, "vdisk-resumed", pool, vdisk)
            .figure("lasted_seconds", seconds(*lasted))
            .figure("writes", *writes)
            .cause(format!("space is there again after {}; {writes} held writes went through", time(*lasted))),
        SpaceEvent::HoldExpired { vdisk, held_for, writes, needed_bytes } => {
            of_vdisk(Severity::Critical, "vdisk-hold-expired", pool, vdisk)
                .figure("held_seconds", seconds(*held_for))
                .figure("writes", *writes)
                .figure("needed_bytes", *needed_bytes)
                .cause(format!(
                    "{writes} writes of {} were held for {} and failed as \"no space\"",
                    iec(*needed_bytes),
                    time(*held_for)
                ))
                .advice(format!("The guest has seen an error: make space ({}), then look at the guest.", add(pool)))
        }
        SpaceEvent::GrowthImpossible { reason } => NewEvent::new(Severity::Critical, "growth-impossible", pool)
            .cause(format!("pool {pool} should grow by itself and cannot: {reason}"))
            .advice(format!("Add a device by hand: {}.", add(pool))),
        SpaceEvent::Grown { device, bytes } => NewEvent::new(Severity::Info, "pool-grown", pool)
            .figure("added_bytes", *bytes)
            .cause(format!("{device} gave pool {pool} {} more", iec(*bytes))),
        SpaceEvent::LimitExceeded { subject, limit, used_bytes, limit_bytes, rising } => {
            limit_exceeded(pool, subject, *limit, (*used_bytes, *limit_bytes), *rising)
        }
        // A newer engine: told, even if nobody has found words for it yet.
        other => NewEvent::new(Severity::Warning, "pool-event", pool).cause(format!("{other:?}")),
    };
    NewEvent { pool: Some(pool.to_owned()), ..described }
}

fn threshold(
    pool: &str,
    subject: &Subject,
    measure: Measure,
    level: Level,
    (used, total): (u64, u64),
    rising: bool,
) -> NewEvent {
    let used_pct = if total == 0 { 0.0 } else { 100.0 * used as f64 / total as f64 };
    let (level_pct, said) = match level {
        Level::Percent(percent) => (f64::from(percent), format!("{percent} %")),
        Level::Bytes(bytes) => (100.0 * bytes as f64 / total.max(1) as f64, iec(bytes)),
    };
    let severity = match measure {
        _ if !rising => Severity::Info,
        // A vdisk that is all backed harms nobody by that.
        Measure::Designated if level_pct < CRITICAL_PCT => Severity::Info,
        Measure::Designated => Severity::Warning,
        _ if level_pct >= CRITICAL_PCT => Severity::Critical,
        _ => Severity::Warning,
    };
    let (of_what, name) = match (subject, measure) {
        (Subject::Pool, _) => ("of the pool's space", "pool"),
        (_, Measure::Designated) => ("of its designated size", "vdisk"),
        (Subject::Vdisk(_), _) => ("of its quota", "vdisk"),
        (Subject::Tenant(_), _) => ("of its quota", "tenant"),
    };
    let kind = format!("{name}-threshold{}", cleared(rising));
    let event = match subject {
        Subject::Pool => NewEvent::new(severity, &kind, pool),
        Subject::Vdisk(vdisk) => of_vdisk(severity, &kind, pool, vdisk),
        Subject::Tenant(tenant) => NewEvent::new(severity, &kind, tenant),
    };
    let measured = match measure {
        Measure::Physical => "physical",
        Measure::Designated => "designated",
        Measure::Quota => "quota",
    };
    let event = match level {
        Level::Percent(percent) => event.figure("level_pct", percent),
        Level::Bytes(bytes) => event.figure("level_bytes", bytes),
    };
    let object = event.object.clone();
    let verb = if rising { "has reached" } else { "is well below" };
    let event = event
        .figure("used_bytes", used)
        .figure("total_bytes", total)
        .figure("used_pct", (used_pct * 100.0).round() / 100.0)
        .detail("measure", measured)
        .cause(format!("{name} {object} {verb} {said} {of_what}: {} of {} are used", iec(used), iec(total)));
    if !rising {
        return event;
    }
    let left = iec(total.saturating_sub(used));
    event.advice(match (subject, measure) {
        (Subject::Pool, _) if level_pct >= CRITICAL_PCT => format!(
            "Only {left} are left: add a device now ({}), and create no more vdisks in {pool} until then.",
            add(pool)
        ),
        (Subject::Pool, _) => format!(
            "{left} are left: plan for a device ({}), or see who takes the space (plimsoll vdisk list --pool {pool} \
             --sort -backed_bytes).",
            add(pool)
        ),
        (Subject::Vdisk(_), Measure::Designated) => {
            format!("{left} of its size are not written yet: if it takes too much of {pool}, move it (plimsoll vdisk show {object}).")
        }
        (Subject::Vdisk(_), _) => {
            format!("{left} of its quota are left: raise it (plimsoll vdisk set {object} --quota SIZE), or move the vdisk to another pool.")
        }
        (Subject::Tenant(_), _) => format!(
            "{left} of its quota are left: raise it (plimsoll tenant set {object} --pool {pool} --quota SIZE), or have \
             the tenant delete something."
        ),
    })
}

fn forecast(
    pool: &str,
    horizon: Duration,
    time_to_full: Option<Duration>,
    (rate, available): (u64, u64),
    rising: bool,
) -> NewEvent {
    let severity = match rising {
        false => Severity::Info,
        true if horizon <= CRITICAL_HORIZON => Severity::Critical,
        true => Severity::Warning,
    };
    let event = NewEvent::new(severity, &format!("pool-forecast{}", cleared(rising)), pool)
        .figure("horizon_seconds", seconds(horizon))
        .figure("time_to_full_seconds", time_to_full.map(seconds))
        .figure("rate_bytes_per_second", rate)
        .figure("available_bytes", available);
    let when = time_to_full.map_or("never".to_owned(), |left| format!("in {}", time(left)));
    let at = format!("at {} a second, with {} left, pool {pool} is full {when}", iec(rate), iec(available));
    if !rising {
        return event.cause(format!("{at}: no longer within {}", time(horizon)));
    }
    event.cause(format!("{at}: within {}", time(horizon))).advice(format!(
        "Add a device within {} ({}), or find who writes so much (plimsoll vdisk list --pool {pool} --sort -backed_bytes).",
        time(time_to_full.unwrap_or(horizon)),
        add(pool)
    ))
}

fn exhausted(pool: &str, vdisk: &VdiskName, needed: u64, cause: Shortage, held: bool) -> NewEvent {
    let object = format!("{pool}/{}", vdisk.name);
    let (why, advice) = match cause {
        Shortage::PoolFull => (
            format!("pool {pool} is full"),
            format!("Add a device ({}), or delete or discard something in {pool}.", add(pool)),
        ),
        Shortage::VdiskQuota => (
            "it is at its quota".to_owned(),
            format!("Raise its quota (plimsoll vdisk set {object} --quota SIZE), or discard something on it."),
        ),
        Shortage::TenantQuota => (
            "its tenant is at its quota".to_owned(),
            format!(
                "Raise the tenant's quota (plimsoll tenant set TENANT --pool {pool} --quota SIZE), or have the tenant \
                 delete something."
            ),
        ),
        Shortage::Reserved => (
            format!("what is free in pool {pool} is reserved by others"),
            format!("Add a device ({}), or lower a reservation (plimsoll vdisk list --pool {pool}).", add(pool)),
        ),
    };
    let name = match cause {
        Shortage::PoolFull => "pool-full",
        Shortage::VdiskQuota => "vdisk-quota",
        Shortage::TenantQuota => "tenant-quota",
        Shortage::Reserved => "reserved",
    };
    let vm = vdisk.vm.as_ref().map(|vm| format!(" (VM {vm})")).unwrap_or_default();
    let done = if held { "is held" } else { "failed as \"no space\"" };
    of_vdisk(Severity::Critical, "vdisk-exhausted", pool, vdisk)
        .figure("needed_bytes", needed)
        .detail("shortage", name)
        .detail("on_full", if held { "hold" } else { "fail" })
        .cause(format!("a write of {object}{vm} needs {} more and {done}: {why}", iec(needed)))
        .advice(advice)
}

fn limit_exceeded(pool: &str, subject: &Subject, limit: Limit, (used, allowed): (u64, u64), rising: bool) -> NewEvent {
    let severity = if rising { Severity::Warning } else { Severity::Info };
    let kind = format!("limit-exceeded{}", cleared(rising));
    let event = match subject {
        Subject::Pool => NewEvent::new(severity, &kind, pool),
        Subject::Vdisk(vdisk) => of_vdisk(severity, &kind, pool, vdisk),
        Subject::Tenant(tenant) => NewEvent::new(severity, &kind, tenant),
    };
    let object = event.object.clone();
    let name = match limit {
        Limit::Quota => "quota",
        Limit::Overcommit => "overcommit limit",
    };
    let event = event.figure("used_bytes", used).figure("limit_bytes", allowed).detail("limit", name);
    if !rising {
        return event.cause(format!("{object} keeps its {name} of {} again: {}", iec(allowed), iec(used)));
    }
    let command = match (subject, limit) {
        (Subject::Pool, _) => format!("plimsoll pool set {pool} --overcommit-limit LIMIT"),
        (Subject::Vdisk(_), _) => format!("plimsoll vdisk set {object} --quota SIZE"),
        (Subject::Tenant(_), _) => format!("plimsoll tenant set {object} --pool {pool} --quota SIZE"),
    };
    let over = iec(used.saturating_sub(allowed));
    event
        .cause(format!("the {name} of {object} is {}, and {} are used: {over} too much", iec(allowed), iec(used)))
        .advice(format!("Nothing is lost, and nothing more is granted: raise it ({command}), or free {over}."))
}

fn of_vdisk(severity: Severity, kind: &str, pool: &str, vdisk: &VdiskName) -> NewEvent {
    let event = NewEvent::new(severity, kind, &format!("{pool}/{}", vdisk.name));
    NewEvent { vm: vdisk.vm.clone(), ..event }.detail("vdisk_uuid", vdisk.uuid.to_string())
}

fn cleared(rising: bool) -> &'static str {
    if rising { "" } else { "-cleared" }
}

fn add(pool: &str) -> String {
    format!("plimsoll pool add-device {pool} --device PATH")
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A time for people: `2.5 h`, `5 min`, `40 s`.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (figure, unit) = match duration.as_secs() {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60.0, "min"),
        7200..172_800 => (seconds / 3600.0, "h"),
        _ => (seconds / 86_400.0, "days"),
    };
    let rounded = (figure * 10.0).round() / 10.0;
    format!("{rounded} {unit}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cli::hints::assert_advice_can_be_followed;

    fn vdisk() -> VdiskName {
        VdiskName { name: "db1".into(), uuid: Uuid::from_u128(1), vm: Some("web".into()) }
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
        assert!(
            advice.contains("5 GiB are left") && advice.contains("plimsoll pool add-device tank --device"),
            "{advice}"
        );
        assert_eq!(pool_at(Level::Percent(85), true).severity, Severity::Warning);
        assert_eq!(pool_at(Level::Bytes(96 << 30), true).severity, Severity::Critical);
        let fell = pool_at(Level::Percent(95), false);
        assert_eq!((fell.severity, fell.kind.as_str(), fell.advice), (Severity::Info, "pool-threshold-cleared", None));
    }

    #[test]
    fn an_exhausted_vdisk_is_named_with_its_vm_and_the_size_asked_for() {
        let shortages = [Shortage::PoolFull, Shortage::VdiskQuota, Shortage::TenantQuota, Shortage::Reserved];
        for cause in shortages {
            let event =
                describe("tank", &SpaceEvent::Exhausted { vdisk: vdisk(), needed_bytes: 65_536, cause, held: true });
            assert_eq!((event.kind.as_str(), event.object.as_str()), ("vdisk-exhausted", "tank/db1"));
            assert_eq!((event.vm.as_deref(), event.severity), (Some("web"), Severity::Critical));
            let said = event.cause.unwrap();
            assert!(said.contains("VM web") && said.contains("64 KiB") && said.contains("held"), "{said}");
            assert_advice_can_be_followed(&event.advice.unwrap());
        }
    }

    #[test]
    fn every_event_that_needs_somebody_has_an_advice_with_a_command() {
        let limited =
            |limit, subject| SpaceEvent::LimitExceeded { subject, limit, used_bytes: 3, limit_bytes: 2, rising: true };
        let forecast = |seconds| SpaceEvent::Forecast {
            horizon: Duration::from_secs(seconds),
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
        let (held_for, writes, needed_bytes) = (Duration::from_secs(20), 3, 65_536);
        let all = [
            forecast(86_400),
            forecast(300),
            limited(Limit::Overcommit, Subject::Pool),
            limited(Limit::Quota, Subject::Vdisk(vdisk())),
            limited(Limit::Quota, Subject::Tenant("acme".into())),
            SpaceEvent::HoldExpired { vdisk: vdisk(), held_for, writes, needed_bytes },
            SpaceEvent::GrowthImpossible { reason: "no spare device is left".into() },
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
    fn times_are_written_for_people() {
        let said: Vec<_> = [0, 40, 300, 7200, 90_000, 400_000].map(|s| time(Duration::from_secs(s))).into();
        assert_eq!(said, ["0 s", "40 s", "5 min", "2 h", "25 h", "4.6 days"]);
    }
}
