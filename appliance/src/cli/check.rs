//! `plimsoll pool check`: through the daemon, or offline on devices when none runs. Exit code 8 when there are findings
//! that are still there afterwards.

use std::process::ExitCode;

use serde_json::Value;

use super::args::PoolCheck;
use super::client::Request;
use super::confirm::confirm;
use super::filter::text;
use super::job::watch_answer;
use super::offline::Offline;
use super::render::{print, steps};
use super::run::Context;
use super::{pool, table};
use crate::model::{CheckView, RepairView};
use crate::node::state::State;
use crate::problem::{Answer, Problem};
use crate::units::{counted, printable};

const DEGRADED: u8 = 8;

pub(super) fn check(cx: &Context<'_>, args: &PoolCheck) -> Answer<ExitCode> {
    let Some(name) = &args.pool else { return offline(cx, args, &args.devices) };
    match cx.client.send(Request::new("POST", &format!("{}/check", pool::target(name)))) {
        // Without a daemon the state file knows where the devices are. One that goes away later had more in memory than they have:
        // what was agreed to is not done without it.
        Err(problem) if problem.code == "unreachable" => {
            let state = State::load(cx.client.dir())?;
            let Some(known) = state.pools.iter().find(|pool| pool.name == *name) else { return Err(problem) };
            let devices: Vec<String> = known.devices.iter().map(|device| device.path.clone()).collect();
            eprintln!("no daemon runs; pool {name} is checked offline");
            offline(cx, args, &devices)
        }
        begun => online(cx, args, name, &begun?),
    }
}

/// The rest of a check that has begun as `job`.
fn online(cx: &Context<'_>, args: &PoolCheck, name: &str, job: &Value) -> Answer<ExitCode> {
    let target = pool::target(name);
    let start = |action: &str| cx.client.send(Request::new("POST", &format!("{target}/{action}")));
    if !args.wait.or(true) && !args.repair {
        cx.render.changed(&format!("job {} has begun", text(&job["id"])), job)?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = watch_answer(&cx.client, job)?["check"].take();
    report(cx, &found, !args.repair)?;
    if !args.repair {
        return Ok(code(&found));
    }
    let planned = watch_answer(&cx.client, &start("repair?dry_run=true")?)?["repair"].take();
    if !may_repair(cx, args, &planned)? {
        return Ok(code(&found));
    }
    let repaired = watch_answer(&cx.client, &start("repair")?)?["repair"].take();
    report_repair(cx, &repaired)?;
    // A new key: this is another check, not the first one again.
    let again = super::client::Client::new(cx.client.dir());
    let job = again.send(Request::new("POST", &format!("{target}/check")))?;
    Ok(after_repair(&watch_answer(&again, &job)?["check"], &format!("plimsoll pool check {name}")))
}

fn offline(cx: &Context<'_>, args: &PoolCheck, devices: &[String]) -> Answer<ExitCode> {
    let offline = Offline::new()?;
    let (found, planned) =
        offline.check(devices, args.repair).map_err(|problem| held_by_daemon(cx, devices, problem))?;
    let value =
        |view: &CheckView| serde_json::to_value(view).map_err(|error| Problem::new("internal", error.to_string()));
    let repair =
        |view: &RepairView| serde_json::to_value(view).map_err(|error| Problem::new("internal", error.to_string()));
    report(cx, &value(&found)?, !args.repair)?;
    let Some(planned) = planned else { return Ok(code(&value(&found)?)) };
    if !may_repair(cx, args, &repair(&planned)?)? {
        return Ok(code(&value(&found)?));
    }
    let (repaired, again) = offline.repair(devices)?;
    report_repair(cx, &repair(&repaired)?)?;
    Ok(after_repair(&value(&again)?, &offline_command(devices)))
}

fn offline_command(devices: &[String]) -> String {
    format!("plimsoll pool check --device {}", devices.join(" --device "))
}

/// Who holds the devices may be the daemon of this state directory, which can check them itself.
fn held_by_daemon(cx: &Context<'_>, devices: &[String], problem: Problem) -> Problem {
    let paths: Vec<String> = devices.iter().map(|path| pool::absolute(path)).collect();
    let known = State::load(cx.client.dir()).map(|state| state.pools).unwrap_or_default();
    let served = known.iter().find(|pool| pool.devices.iter().any(|device| paths.contains(&device.path)));
    match served.filter(|_| problem.code == "locked") {
        Some(pool) => problem.hint(format!("plimsoll pool check {}", pool.name)),
        None => problem,
    }
}

/// Prints the plan; whether to go on.
fn may_repair(cx: &Context<'_>, args: &PoolCheck, planned: &Value) -> Answer<bool> {
    if steps(planned).is_empty() || args.dry_run {
        cx.render.plan(planned)?;
        return Ok(false);
    }
    if cx.render.is_for_people() {
        cx.render.plan(planned)?;
    }
    let command = match &args.pool {
        Some(pool) => format!("plimsoll pool check {pool} --repair"),
        None => format!("{} --repair", offline_command(&args.devices)),
    };
    confirm(args.yes, &steps(planned), &command)?;
    Ok(true)
}

fn report(cx: &Context<'_>, found: &Value, last: bool) -> Answer<()> {
    if !cx.render.is_for_people() {
        // With a repair to come, its result is the data.
        return if last { cx.render.object(found) } else { Ok(()) };
    }
    let findings = found["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines = String::new();
    if !findings.is_empty() {
        lines += &table::list(findings, table::FINDING.normal, true, false);
    }
    let figure = |field: &str, what: &str| counted(found[field].as_u64().unwrap_or(0), what);
    lines += &format!(
        "pool {}: {}, {}; {} read, {} and {} checked\n",
        text(&found["pool"]),
        counted(findings.len() as u64, "finding"),
        figure("leaked_extents", "leaked extent"),
        figure("pages_read", "page"),
        figure("extents_checked", "extent"),
        figure("vdisks_checked", "vdisk"),
    );
    print(&lines)
}

fn report_repair(cx: &Context<'_>, repaired: &Value) -> Answer<()> {
    if !cx.render.is_for_people() {
        return cx.render.object(repaired);
    }
    print(&steps(repaired).iter().map(|step| format!("done: {}\n", printable(step))).collect::<String>())
}

/// What is left by a repair is said, with what shows it.
fn after_repair(found: &Value, command: &str) -> ExitCode {
    let left = found["findings"].as_array().map_or(0, Vec::len) as u64;
    if left > 0 {
        eprintln!(
            "{} left: see what is ({command}), and what another repair would do (--repair --dry-run)",
            counted(left, "finding")
        );
    }
    code(found)
}

fn code(found: &Value) -> ExitCode {
    if found["clean"] == Value::Bool(true) { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) }
}
