//! `plimsoll pool grow | evacuate | remove-device`, and growing by itself: what changes how much a pool has.

use serde_json::Value;

use super::args::{PoolEvacuate, PoolGrow, PoolRemoveDevice, PoolSet, Wait};
use super::client::Request;
use super::confirm::confirm;
use super::job::watch_answer;
use super::pool::{absolute, target, with};
use super::render::steps;
use super::run::Context;
use crate::model::{GrowPool, GrowthPolicy, LeaveDevice};
use crate::problem::{Answer, Problem};
use crate::units::Size;

pub(super) fn grow(cx: &Context<'_>, args: &PoolGrow) -> Answer<()> {
    let request = GrowPool { device: args.device.as_deref().map(device) };
    let at = with(&format!("{}/grow", target(&args.pool)), args.how.dry_run);
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    cx.render.changed(&format!("pool {} uses all of its devices", args.pool), &answer)
}

pub(super) fn evacuate(cx: &Context<'_>, args: &PoolEvacuate) -> Answer<()> {
    let request = LeaveDevice { device: device(&args.device), rate_bytes: rate(args.rate)? };
    if args.cancel {
        let at = with(&format!("{}/cancel-evacuation", target(&args.pool)), args.how.dry_run);
        let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
        if args.how.dry_run {
            return cx.render.plan(&answer);
        }
        return cx.render.changed(&format!("{} stays in pool {}", args.device, args.pool), &answer);
    }
    let at = with(&format!("{}/evacuate", target(&args.pool)), args.how.dry_run);
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    ended(cx, &args.wait, &answer, &format!("{} of pool {} is empty", args.device, args.pool))
}

pub(super) fn remove_device(cx: &Context<'_>, args: &PoolRemoveDevice) -> Answer<()> {
    let request = LeaveDevice { device: device(&args.device), rate_bytes: rate(args.rate)? };
    let at = format!("{}/remove-device", target(&args.pool));
    let plan = cx.client.send(Request::new("POST", &with(&at, true)).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&plan);
    }
    let command = format!("plimsoll pool remove-device {} --device {}", args.pool, args.device);
    confirm(args.yes, &steps(&plan), &command)?;
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    ended(cx, &args.wait, &answer, &format!("{} has left pool {}", args.device, args.pool))
}

/// What `pool set` says of how a pool grows by itself; `None`: nothing.
pub(super) fn decided(args: &PoolSet) -> Answer<Option<Option<GrowthPolicy>>> {
    if args.no_auto_grow {
        return Ok(Some(None));
    }
    args.auto_grow_at.map(|at| policy(args, at).map(Some)).transpose()
}

fn policy(args: &PoolSet, at: Size) -> Answer<GrowthPolicy> {
    let Size::Share(hundredths) = at else {
        return Err(
            Problem::new("invalid-argument", "--auto-grow-at is a share of the pool").hint("say --auto-grow-at 85%")
        );
    };
    Ok(GrowthPolicy {
        // What is too large for the field is too large for the daemon as well.
        at_pct: u8::try_from(hundredths / 100).unwrap_or(u8::MAX),
        spares: args.spares.iter().map(|path| absolute(path)).collect(),
        grow_file_to_bytes: rate(args.grow_file_to)?,
        step_bytes: rate(args.grow_file_step)?,
        keep_free_bytes: rate(args.keep_free)?,
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

fn rate(size: Option<Size>) -> Answer<Option<u64>> {
    let exact = |size: Size| size.exact().map_err(|error| Problem::new("invalid-argument", error.to_string()));
    size.map(exact).transpose()
}
