//! `plimsoll pool grow | evacuate | remove-device | compact`, and growing by itself: what changes how much a pool has.

use serde_json::Value;

use super::args::{Leaving, PoolEvacuate, PoolGrow, PoolRemoveDevice, PoolSet, Wait};
use super::client::Request;
use super::confirm::confirm;
use super::job::watch_answer;
use super::pool::{absolute, exact, target, with};
use super::render::steps;
use super::run::Context;
use crate::model::{GrowPool, GrowthPolicy, LeaveDevice};
use crate::problem::{Answer, Problem};
use crate::units::Size;

pub(super) fn grow(cx: &Context<'_>, args: &PoolGrow) -> Answer<()> {
    let request = GrowPool { device: args.device.as_deref().map(device) };
    let (pool, how) = (&args.change.pool, &args.change.how);
    let done = format!("pool {pool} uses all of its devices");
    cx.changed(("POST", &format!("{}/grow", target(pool))), how, &request, &done)
}

pub(super) fn evacuate(cx: &Context<'_>, args: &PoolEvacuate) -> Answer<()> {
    let (pool, how, named) = (&args.change.pool, &args.change.how, &args.leaving.device);
    let request = leave(&args.leaving)?;
    if args.cancel {
        let at = format!("{}/cancel-evacuation", target(pool));
        return cx.changed(("POST", &at), how, &request, &format!("{named} stays in pool {pool}"));
    }
    match cx.change("POST", &format!("{}/evacuate", target(pool)), how, &request)? {
        Some(job) => ended(cx, &args.leaving.wait, &job, &format!("{named} of pool {pool} is empty")),
        None => Ok(()),
    }
}

pub(super) fn remove_device(cx: &Context<'_>, args: &PoolRemoveDevice) -> Answer<()> {
    let (pool, named) = (&args.change.pool, &args.leaving.device);
    let request = leave(&args.leaving)?;
    let at = format!("{}/remove-device", target(pool));
    let plan = cx.client.send(Request::new("POST", &with(&at, true)).body(&request)?)?;
    if args.change.how.dry_run {
        return cx.render.plan(&plan);
    }
    confirm(args.yes, &steps(&plan), &format!("plimsoll pool remove-device {pool} --device {named}"))?;
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    ended(cx, &args.leaving.wait, &answer, &format!("{named} has left pool {pool}"))
}

pub(super) fn compact(cx: &Context<'_>, pool: &str, wait: &Wait) -> Answer<()> {
    let job = cx.client.send(Request::new("POST", &format!("{}/compact", target(pool))))?;
    ended(cx, wait, &job, &format!("thinly used extents of pool {pool} are put together"))
}

fn leave(leaving: &Leaving) -> Answer<LeaveDevice> {
    Ok(LeaveDevice { device: device(&leaving.device), rate_bytes: leaving.rate.map(exact).transpose()? })
}

/// What `pool set` says of how a pool grows by itself; `None`: nothing.
pub(super) fn decided(args: &PoolSet) -> Answer<Option<Option<GrowthPolicy>>> {
    if args.no_auto_grow {
        return Ok(Some(None));
    }
    args.auto_grow_at.map(|at| policy(args, at).map(Some)).transpose()
}

fn policy(args: &PoolSet, at: Size) -> Answer<GrowthPolicy> {
    let hundredths = match at {
        Size::Share(hundredths) if hundredths.is_multiple_of(100) => hundredths,
        _ => {
            let detail = "--auto-grow-at is a share of the pool in whole per cents";
            return Err(Problem::new("invalid-argument", detail).hint("say --auto-grow-at 85%"));
        }
    };
    Ok(GrowthPolicy {
        // What is too large for the field is too large for the daemon as well.
        at_pct: u8::try_from(hundredths / 100).unwrap_or(u8::MAX),
        spares: args.spares.iter().map(|path| absolute(path)).collect(),
        grow_file_to_bytes: args.grow_file_to.map(exact).transpose()?,
        step_bytes: args.grow_file_step.map(exact).transpose()?,
        keep_free_bytes: args.keep_free.map(exact).transpose()?,
        force: args.force.force.clone(),
    })
}

fn ended(cx: &Context<'_>, wait: &Wait, job: &Value, done: &str) -> Answer<()> {
    if !wait.or(Wait::by_default()) {
        return cx.render.object(job);
    }
    let job = watch_answer(&cx.client, job)?;
    cx.render.changed(done, &job)
}

/// A path as the daemon sees it; a UUID, or the beginning of one, as it is.
fn device(text: &str) -> String {
    let is_path = text.contains('/') || std::path::Path::new(text).exists();
    if is_path { absolute(text) } else { text.to_owned() }
}
