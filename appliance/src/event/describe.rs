//! What the engine raised, in words: kind, severity, figures, cause, and an advice that can be followed.

use std::cell::LazyCell;
use std::time::Duration;

use plimsoll_engine::{HORIZON_MAX, Level, Limit, Measure, Shortage, SpaceEvent, Subject, VdiskName};

use super::NewEvent;
use super::kinds::KINDS;
use crate::model::Severity;
use crate::units::{counted, iec};

/// A level of so much of the total is critical, a lower one a warning.
pub const CRITICAL_PCT: f64 = 95.0;
/// Nobody orders a drive in less time than this.
const CRITICAL_HORIZON: Duration = Duration::from_secs(15 * 60);

/// That a pool is open on another file than before.
pub fn replaced(pool: &str, files: &str) -> String {
    format!("pool {pool} is open on {files}, and that is not what it was open on before: what it holds may be older")
}

/// What to do then, if it was not on purpose.
pub fn bring_back(pool: &str) -> String {
    format!(
        "let go of it before more is written to it, and bring back what was in use last: plimsoll pool export {pool}; then plimsoll pool \
         import PATH"
    )
}

/// The event of pool `pool`.
pub fn describe(pool: &str, event: &SpaceEvent) -> NewEvent {
    let described = match event {
        SpaceEvent::Threshold { subject, measure, level, used_bytes, total_bytes, rising } => {
            threshold(pool, subject, *measure, *level, (*used_bytes, *total_bytes), *rising)
        }
        SpaceEvent::Forecast { .. } => forecast(pool, event),
        SpaceEvent::Exhausted { vdisk, needed_bytes, cause, device, held } => {
            exhausted(pool, vdisk, *needed_bytes, (*cause, device.as_deref()), *held)
        }
        SpaceEvent::Resumed { vdisk, lasted, writes, expired, expired_bytes } => {
            let went = (*writes > 0).then(|| format!("{} went through", held(*writes)));
            let needed = iec(*expired_bytes);
            let failed = (*expired > 0)
                .then(|| format!("{} that needed {needed} of space failed meanwhile", counted(*expired, "write")));
            let writes_said = [went, failed].into_iter().flatten().collect::<Vec<_>>().join(", ");
            let writes_said = if writes_said.is_empty() { writes_said } else { format!("; {writes_said}") };
            let event = of_vdisk(Severity::Info, "vdisk-resumed", pool, vdisk)
                .figure("lasted_seconds", lasted.map(seconds))
                .figure("writes", *writes)
                .figure("expired_writes", *expired)
                .figure("expired_bytes", *expired_bytes)
                .cause(format!(
                    "space is there again{}{writes_said}",
                    lasted.map_or(String::new(), |lasted| format!(" after {}", time(lasted))),
                ));
            match *expired {
                0 => event,
                _ => event.advice("The guest has seen errors: look at it."),
            }
        }
        SpaceEvent::HoldExpired { vdisk, held_for, writes, needed_bytes, cause, device } => {
            let (name, why, make_space) = shortage(pool, vdisk, *cause, device.as_deref());
            of_vdisk(Severity::Critical, "vdisk-hold-expired", pool, vdisk)
                .figure("held_seconds", seconds(*held_for))
                .figure("writes", *writes)
                .figure("needed_bytes", *needed_bytes)
                .detail("shortage", name)
                .cause(format!(
                    "{} that needed {} of space failed as \"no space\" after {}, as {why}; those that follow are counted by \
                     vdisk-resumed",
                    held(*writes),
                    iec(*needed_bytes),
                    time(*held_for)
                ))
                .advice(format!("The guest has seen an error: look at it afterwards. {make_space}"))
        }
        SpaceEvent::HoldOverflow { vdisk, held_bytes: (own, all), bound_bytes, cause, device } => {
            let (name, why, make_space) = shortage(pool, vdisk, *cause, device.as_deref());
            of_vdisk(Severity::Critical, "vdisk-hold-overflow", pool, vdisk)
                .figure("held_bytes", *own)
                .figure("pool_held_bytes", *all)
                .figure("pool_held_bytes_max", *bound_bytes)
                .detail("shortage", name)
                .cause(format!(
                    "writes of {pool}/{} fail as \"no space\" instead of being held, as {why}: those that are take {} of memory, {} \
                     in all of the {} that they may",
                    vdisk.name,
                    iec(*own),
                    iec(*all),
                    iec(*bound_bytes)
                ))
                .advice(format!(
                    "The guest has seen an error. {make_space} Or let more be held (plimsoll pool set {pool} --hold-bytes SIZE)."
                ))
        }
        SpaceEvent::GrowthImpossible { reason } => NewEvent::new(Severity::Critical, "growth-impossible", pool)
            .cause(format!("pool {pool} should grow by itself and cannot: {reason}"))
            .advice(format!("Add a device by hand: {}.", add(pool))),
        SpaceEvent::GrowthPossible => NewEvent::new(Severity::Info, "growth-impossible-cleared", pool)
            .cause(format!("pool {pool} need not grow by itself now, or is not to any more")),
        SpaceEvent::Grown { device, bytes } => NewEvent::new(Severity::Info, "pool-grown", pool)
            .figure("added_bytes", *bytes)
            .cause(format!("{device} gave pool {pool} {} more", iec(*bytes))),
        SpaceEvent::LimitExceeded { subject, limit, used_bytes, limit_bytes, rising } => {
            limit_exceeded(pool, subject, *limit, (*used_bytes, *limit_bytes), *rising)
        }
        SpaceEvent::DeviceErrors { device, full: true, .. } => NewEvent::new(Severity::Critical, "device-full", pool)
            .detail("device", device.as_str())
            .cause(format!(
                "the file system of {device} is full, and metadata of pool {pool} lacks room there that it may need: first writes \
                 wait until it has that"
            ))
            .advice(format!(
                "Free space in the file system of {device}, or add a device that is elsewhere ({}).",
                add(pool)
            )),
        SpaceEvent::DeviceErrors { device, errors, reason, .. } => NewEvent::new(Severity::Critical, "device-errors", pool)
            .figure("errors", *errors)
            .detail("device", device.as_str())
            .cause(format!(
                "{errors} {} of {device} failed; the first: {reason}",
                if *errors == 1 { "operation" } else { "operations" }
            ))
            .advice(format!(
                "See what the system says of it (dmesg). If it fails again, move what is on it elsewhere: plimsoll pool \
                 evacuate {pool} --device {device}."
            )),
        SpaceEvent::ReadOnly { reason, rising } => out_of_service(pool, "pool-read-only", "is read-only", reason, *rising),
        SpaceEvent::NotServed { reason, rising } => out_of_service(pool, "pool-not-served", "is not served", reason, *rising),
        SpaceEvent::FilesGone { files, rising } => {
            let severity = if *rising { Severity::Critical } else { Severity::Info };
            let event = NewEvent::new(severity, &format!("pool-files-gone{}", cleared(*rising)), pool)
                .detail("files", files.as_str());
            match rising {
                false => event.cause(format!("the files that pool {pool} is open on are there")),
                true => event
                    .cause(format!("pool {pool} is open on {files}, which is not there any more"))
                    .advice(format!(
                        "Move back what was moved. If it was deleted, what it stores goes when the pool is closed: copy the vdisks of \
                         pool {pool} out before the daemon is stopped (plimsoll export list)."
                    )),
            }
        }
        SpaceEvent::FilesReplaced { files } => NewEvent::new(Severity::Warning, "pool-files-replaced", pool)
            .detail("files", files.as_str())
            .cause(replaced(pool, files))
            .advice(format!("Unless that was on purpose: {}.", bring_back(pool))),
        SpaceEvent::RoomBelow { device, room_bytes, available_bytes, rising } => {
            let (severity, has) = (if *rising { Severity::Warning } else { Severity::Info }, iec(*available_bytes));
            let event = NewEvent::new(severity, &format!("pool-room-below{}", cleared(*rising)), pool)
                .figure("room_bytes", *room_bytes)
                .figure("available_bytes", *available_bytes);
            match rising {
                false => event.cause(format!("there is room below pool {pool} for all of the {has} that it has available")),
                true => event
                    .detail("device", device.as_str())
                    .cause(format!(
                        "pool {pool} has {has} available, and room for {} of that: the file system of {device} has no more",
                        iec(*room_bytes)
                    ))
                    .advice(format!(
                        "Free space in the file system of {device}, or add a device that is elsewhere ({}).",
                        add(pool)
                    )),
            }
        }
        SpaceEvent::CheckFound { reason, rising: false, .. } => NewEvent::new(Severity::Info, "pool-check-cleared", pool)
            .cause(format!("a check of pool {pool} finds nothing any more; before that, {reason}")),
        SpaceEvent::CheckFound { reason, loss, .. } => {
            NewEvent::new(if *loss { Severity::Critical } else { Severity::Warning }, "pool-check", pool)
                .cause(format!("pool {pool}: {reason}"))
                .advice(format!(
                    "See all of it (plimsoll pool check {pool}) and what a repair would do (plimsoll pool check {pool} --repair \
                     --dry-run); what was lost comes from a backup. If it happens again, replace the device."
                ))
        }
        SpaceEvent::VdiskDeleted { vdisk } => of_vdisk(Severity::Info, "vdisk-deleted", pool, vdisk)
            .cause(format!("{pool}/{} was deleted: what was told about it is over", vdisk.name)),
        // A newer engine: told, even if nobody has found words for it yet.
        other => NewEvent::new(Severity::Warning, "pool-event", pool).cause(format!("{other:?}")),
    };
    debug_assert!(KINDS.contains(&described.kind.as_str()), "{} is not among the kinds", described.kind);
    NewEvent { pool: Some(pool.to_owned()), ..described }
}

/// As [`describe`] for each of them, for who knows what could come back of the pool's space: the advice says so where it helps. `could` is
/// called when the first needs it: thousands of vdisks may be short of space at once.
pub fn describe_all(pool: &str, events: &[SpaceEvent], could: impl FnOnce() -> Option<String>) -> Vec<NewEvent> {
    let could = LazyCell::new(could);
    let described = events.iter().map(|event| {
        let described = describe(pool, event);
        let could = if reclaiming_helps(event) { could.as_ref() } else { None };
        match (could, &described.advice) {
            (Some(could), Some(advice)) => {
                let advice = advice.trim_end_matches('.');
                NewEvent { advice: Some(format!("{advice}; {could}.")), ..described }
            }
            _ => described,
        }
    });
    described.collect()
}

fn reclaiming_helps(event: &SpaceEvent) -> bool {
    match event {
        SpaceEvent::Threshold { subject: Subject::Pool, rising, .. } | SpaceEvent::Forecast { rising, .. } => *rising,
        SpaceEvent::Exhausted { cause, .. } => *cause == Shortage::PoolFull,
        _ => false,
    }
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
    let now = format!("{} of {} are used", iec(used), iec(total));
    let cause = match rising {
        true => format!("{name} {object} has reached {said} {of_what}: {now}"),
        // It is no figure that fell when the quota is gone, or the threshold.
        false if total == 0 => format!("{name} {object} has no quota any more: {} are used", iec(used)),
        false if used_pct >= level_pct => format!("{name} {object}: {said} {of_what} is no threshold any more; {now}"),
        false => format!("{name} {object} is below {said} {of_what}: {now}"),
    };
    let event = event
        .figure("used_bytes", used)
        .figure("total_bytes", total)
        .figure("used_pct", (used_pct * 100.0).round() / 100.0)
        .detail("measure", measured)
        .cause(cause);
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
            format!("{left} of its size are not written yet: if it takes too much of {pool}, give it a quota (plimsoll vdisk set {object} --quota SIZE).")
        }
        (Subject::Vdisk(_), _) => {
            format!("{left} of its quota are left: raise it (plimsoll vdisk set {object} --quota SIZE), or discard something on it.")
        }
        (Subject::Tenant(_), _) => format!(
            "{left} of its quota are left: raise it (plimsoll tenant set {object} --pool {pool} --quota SIZE), or have \
             the tenant delete something."
        ),
    })
}

fn forecast(pool: &str, event: &SpaceEvent) -> NewEvent {
    let SpaceEvent::Forecast { horizon, still, time_to_full, rate_bytes_per_s, available_bytes, rising } = event else {
        unreachable!("a forecast was asked for");
    };
    let severity = match rising {
        false => Severity::Info,
        true if *horizon <= CRITICAL_HORIZON => Severity::Critical,
        true => Severity::Warning,
    };
    let event = NewEvent::new(severity, &format!("pool-forecast{}", cleared(*rising)), pool)
        .figure("horizon_seconds", seconds(*horizon))
        .figure("time_to_full_seconds", time_to_full.map(seconds))
        .figure("rate_bytes_per_second", *rate_bytes_per_s)
        .figure("available_bytes", *available_bytes);
    let when = match time_to_full {
        None => "never if that goes on".to_owned(),
        Some(left) if *left > HORIZON_MAX => "in more than a year".to_owned(),
        Some(left) => format!("in {}", time(*left)),
    };
    let (rate, left) = (iec(*rate_bytes_per_s), iec(*available_bytes));
    let at = format!("at {rate} a second, with {left} left, pool {pool} is full {when}");
    if !rising {
        let is_within = |still: Duration| time_to_full.is_some_and(|left| left <= still);
        let still = still.map_or_else(String::new, |still| match is_within(still) {
            true => format!(", but still within {}", time(still)),
            false => format!("; what was told of {} stands until it has been so for longer", time(still)),
        });
        return event.cause(format!("{at}: no longer within {}{still}", time(*horizon)));
    }
    event.cause(format!("{at}: within {}", time(*horizon))).advice(format!(
        "Add a device within {} ({}), or find who writes so much (plimsoll vdisk list --pool {pool} --sort -backed_bytes).",
        time(time_to_full.unwrap_or(*horizon)),
        add(pool)
    ))
}

/// Why a vdisk's writes find no space: its name, in words, and what to do.
fn shortage(pool: &str, vdisk: &VdiskName, cause: Shortage, device: Option<&str>) -> (&'static str, String, String) {
    let object = format!("{pool}/{}", vdisk.name);
    let (why, advice) = match cause {
        Shortage::PoolFull => (
            format!("pool {pool} is full"),
            format!("Add a device ({}), or delete or discard something in {pool}.", add(pool)),
        ),
        Shortage::VdiskQuota => (
            "the vdisk is at its quota".to_owned(),
            format!("Raise its quota (plimsoll vdisk set {object} --quota SIZE), or discard something on it."),
        ),
        Shortage::TenantQuota => {
            let tenant = vdisk.tenant.as_deref().unwrap_or("TENANT");
            (
                format!("its tenant {tenant} is at its quota"),
                format!(
                    "Raise the tenant's quota (plimsoll tenant set {tenant} --pool {pool} --quota SIZE), or have the \
                     tenant delete something."
                ),
            )
        }
        Shortage::Reserved => (
            format!("what is free in pool {pool} is reserved by others"),
            format!("Add a device ({}), or lower a reservation (plimsoll vdisk list --pool {pool}).", add(pool)),
        ),
        Shortage::DeviceFull => {
            let device = device.unwrap_or("a device of the pool");
            (
                format!("pool {pool} has space, but the file system of {device} is full"),
                format!(
                    "Free space in the file system of {device}, or add a device that is elsewhere ({}).",
                    add(pool)
                ),
            )
        }
    };
    let name = match cause {
        Shortage::PoolFull => "pool-full",
        Shortage::VdiskQuota => "vdisk-quota",
        Shortage::TenantQuota => "tenant-quota",
        Shortage::Reserved => "reserved",
        Shortage::DeviceFull => "device-full",
    };
    (name, why, advice)
}

fn exhausted(
    pool: &str,
    vdisk: &VdiskName,
    needed: u64,
    (cause, device): (Shortage, Option<&str>),
    held: bool,
) -> NewEvent {
    let object = format!("{pool}/{}", vdisk.name);
    let (name, why, advice) = shortage(pool, vdisk, cause, device);
    let vm = vdisk.vm.as_ref().map(|vm| format!(" (VM {vm})")).unwrap_or_default();
    let done = if held { "is held" } else { "failed as \"no space\"" };
    of_vdisk(Severity::Critical, "vdisk-exhausted", pool, vdisk)
        .figure("needed_bytes", needed)
        .detail("shortage", name)
        .detail("on_full", if held { "hold" } else { "fail" })
        .cause(format!("a write of {object}{vm} needs {} more and {done}: {why}", iec(needed)))
        .advice(advice)
}

fn limit_exceeded(
    pool: &str,
    subject: &Subject,
    limit: Limit,
    (used, allowed): (u64, Option<u64>),
    rising: bool,
) -> NewEvent {
    let severity = if rising { Severity::Warning } else { Severity::Info };
    let kind = format!("limit-exceeded{}", cleared(rising));
    let event = match subject {
        Subject::Pool => NewEvent::new(severity, &kind, pool),
        Subject::Vdisk(vdisk) => of_vdisk(severity, &kind, pool, vdisk),
        Subject::Tenant(tenant) => NewEvent::new(severity, &kind, tenant),
    };
    let object = event.object.clone();
    let (name, verb) = match limit {
        Limit::Quota => ("quota", "used"),
        Limit::Overcommit => ("overcommit limit", "promised"),
    };
    let event = event.figure("used_bytes", used).figure("limit_bytes", allowed).detail("limit", name);
    let Some(allowed) = allowed else {
        return event.cause(format!("{object} has no {name} any more: {} are {verb}", iec(used)));
    };
    if !rising {
        return event.cause(format!("{object} keeps its {name} of {} again: {} are {verb}", iec(allowed), iec(used)));
    }
    let command = match (subject, limit) {
        (Subject::Pool, _) => format!("plimsoll pool set {pool} --overcommit-limit LIMIT"),
        (Subject::Vdisk(_), _) => format!("plimsoll vdisk set {object} --quota SIZE"),
        (Subject::Tenant(_), _) => format!("plimsoll tenant set {object} --pool {pool} --quota SIZE"),
    };
    let over = iec(used.saturating_sub(allowed));
    event
        .cause(format!("the {name} of {object} is {}, and {} are {verb}: {over} too much", iec(allowed), iec(used)))
        .advice(format!("Nothing is lost, and nothing more is granted: raise it ({command}), or free {over}."))
}

/// The pool cannot be used as it should be, or can again. What stands behind the last semicolon of the reason is an advice.
fn out_of_service(pool: &str, kind: &str, is: &str, reason: &str, rising: bool) -> NewEvent {
    if !rising {
        return NewEvent::new(Severity::Info, &format!("{kind}-cleared"), pool)
            .cause(format!("pool {pool} is served, and takes writes"));
    }
    let (reason, advice) = reason.rsplit_once("; ").unwrap_or((reason, ""));
    let advice = match advice {
        "" => format!("Mend what failed, then open it again: plimsoll pool import --name {pool}."),
        advice => format!("What to do: {advice}."),
    };
    let reason = reason.strip_prefix(&format!("pool {pool}: ")).unwrap_or(reason);
    NewEvent::new(Severity::Critical, kind, pool).cause(format!("pool {pool} {is}: {reason}")).advice(advice)
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

/// So many held writes.
fn held(writes: u64) -> String {
    format!("{writes} held {}", if writes == 1 { "write" } else { "writes" })
}

/// A time for people, in its two largest units: `2 h 5 min`, `40 s`.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: (u64, &str), small: (u64, &str)| {
        let rest = seconds % large.0 / small.0;
        let rest = if rest == 0 { String::new() } else { format!(" {rest} {}", small.1) };
        format!("{} {}{rest}", seconds / large.0, large.1)
    };
    let (days, hours, minutes) = ((86_400, "d"), (3600, "h"), (60, "min"));
    match seconds {
        0..10 => format!("{} s", (duration.as_secs_f64() * 10.0).round() / 10.0),
        10..60 => format!("{seconds} s"),
        60..3600 => two(minutes, (1, "s")),
        3600..86_400 => two(hours, minutes),
        _ => two(days, hours),
    }
}

#[cfg(test)]
mod tests;
