//! `plimsoll pool grow | evacuate | remove-device | compact`, and growing by itself: what changes how much a pool has.

use serde_json::Value;

use super::args::{Leaving, PoolChange, PoolEvacuate, PoolGrow, PoolRemoveDevice, PoolSet, Wait};
use super::client::Request;
use super::confirm::confirm;
use super::job::watch_answer;
use super::pool::{absolute, exact, target, with};
use super::render::steps;
use super::run::Context;
use crate::model::{GrowPool, GrowthPolicy, LeaveDevice};
use crate::problem::{Answer, Problem};
use crate::units::{Size, iec};

pub(super) fn grow(cx: &Context<'_>, args: &PoolGrow) -> Answer<()> {
    let request = GrowPool { device: args.device.as_deref().map(device) };
    let (pool, how) = (&args.change.pool, &args.change.how);
    let physical = |pool: &Value| pool.get("physical_bytes").and_then(Value::as_u64).unwrap_or(0);
    let before = physical(&cx.client.get(&target(pool))?);
    let Some(answer) = cx.change("POST", &format!("{}/grow", target(pool)), how, &request)? else { return Ok(()) };
    cx.render.changed(&grown(pool, args.device.as_deref(), before, physical(&answer)), &answer)
}

/// What became of a pool that had, and has now, so many bytes.
fn grown(pool: &str, device: Option<&str>, before: u64, now: u64) -> String {
    match now.saturating_sub(before) {
        0 => {
            let which = device.unwrap_or("its devices");
            format!("pool {pool} has {} as before: it uses all of {which} already", iec(now))
        }
        gained => format!("pool {pool} has grown by {}, to {}", iec(gained), iec(now)),
    }
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

pub(super) fn compact(cx: &Context<'_>, change: &PoolChange, wait: &Wait) -> Answer<()> {
    let pool = &change.pool;
    let at = with(&format!("{}/compact", target(pool)), change.how.dry_run);
    let job = cx.client.send(Request::new("POST", &at))?;
    if change.how.dry_run {
        return cx.render.plan(&job);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_says_by_how_much_and_that_there_was_nothing_to_grow_by() {
        assert_eq!(grown("tank", None, 1 << 30, 3 << 30), "pool tank has grown by 2 GiB, to 3 GiB");
        let nothing = "pool tank has 1 GiB as before: it uses all of its devices already";
        assert_eq!(grown("tank", None, 1 << 30, 1 << 30), nothing);
        assert!(grown("tank", Some("/dev/sdb"), 1 << 30, 1 << 30).ends_with("all of /dev/sdb already"));
    }
}
