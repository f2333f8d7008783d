//! `plimsoll pool grow | evacuate | remove-device | compact | survey`, and growing by itself: what changes how much a pool has.

use plimsoll_engine::Reclaimable;
use serde_json::Value;

use super::args::{Leaving, PoolChange, PoolEvacuate, PoolGrow, PoolRemoveDevice, PoolSet, Wait};
use super::client::Request;
use super::confirm::confirm;
use super::job::watch_answer;
use super::pool::{absolute, exact, target, with};
use super::render::steps;
use super::run::Context;
use crate::model::{GrowPool, GrowthChange, LeaveDevice};
use crate::problem::{Answer, Problem};
use crate::reclaimable::said;
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
            format!("pool {pool} has {} as before: there is nothing more of {which} that it could use", iec(now))
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

pub(super) fn survey(cx: &Context<'_>, change: &PoolChange, wait: &Wait) -> Answer<()> {
    let pool = &change.pool;
    let at = with(&format!("{}/survey", target(pool)), change.how.dry_run);
    let job = cx.client.send(Request::new("POST", &at))?;
    if change.how.dry_run {
        return cx.render.plan(&job);
    }
    if !wait.or(Wait::by_default()) {
        return cx.render.object(&job);
    }
    let job = watch_answer(&cx.client, &job)?;
    let now = cx.client.get(&target(pool))?;
    let figure = |at: &str| now.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let found = Reclaimable {
        packable_bytes: figure("/survey/packable_bytes"),
        zero_bytes: figure("/survey/zero_bytes"),
        pattern_bytes: figure("/survey/pattern_bytes"),
        whole_bytes: figure("/survey/whole_bytes"),
        margin_bytes: figure("/survey/margin_bytes"),
        ..Reclaimable::default()
    };
    let said = said(&found, &format!(" of what pool {pool} stores"));
    cx.render.changed(&format!("{said}: plimsoll space --pool {pool}"), &job)
}

fn leave(leaving: &Leaving) -> Answer<LeaveDevice> {
    Ok(LeaveDevice { device: device(&leaving.device), rate_bytes: leaving.rate.map(exact).transpose()? })
}

/// What `pool set` says of how a pool grows by itself; `None`: nothing.
pub(super) fn decided(args: &PoolSet) -> Answer<Option<Option<GrowthChange>>> {
    if args.no_auto_grow {
        return Ok(Some(None));
    }
    let spares = match &args.spares[..] {
        [] => None,
        [none] if none == "none" => Some(Vec::new()),
        paths => Some(paths.iter().map(|path| absolute(path)).collect()),
    };
    let change = GrowthChange {
        at_pct: args.auto_grow_at.map(level).transpose()?,
        spares,
        grow_file_to_bytes: args.grow_file_to.map(exact).transpose()?.map(|bytes| (bytes > 0).then_some(bytes)),
        step_bytes: args.grow_file_step.map(exact).transpose()?.map(Some),
        keep_free_bytes: args.keep_free.map(exact).transpose()?.map(Some),
        force: None,
    };
    if change == GrowthChange::default() {
        return Ok(None);
    }
    let force = Some(args.force.force.clone()).filter(|force| !force.is_empty());
    Ok(Some(Some(GrowthChange { force, ..change })))
}

/// `85%`, or `85`, in whole per cents.
fn level(at: Size) -> Answer<u8> {
    let percent = match at {
        Size::Share(hundredths) if hundredths.is_multiple_of(100) => Some(u64::from(hundredths / 100)),
        Size::Exact(percent) if percent <= 100 => Some(percent),
        _ => None,
    };
    // What is too large for the field is too large for the daemon as well.
    percent.map(|percent| u8::try_from(percent).unwrap_or(u8::MAX)).ok_or_else(|| {
        let detail = "--auto-grow-at is a share of the pool in whole per cents";
        Problem::new("invalid-argument", detail).hint("say --auto-grow-at 85%")
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

    fn parsed(options: &str) -> Answer<Option<Option<GrowthChange>>> {
        use clap::Parser;

        use crate::cli::args::{Cli, Command, Pool};
        let line = format!("plimsoll pool set tank {options}");
        match Cli::try_parse_from(line.split(' ')).expect("a line that can be parsed").command {
            Some(Command::Pool(Pool::Set(args))) => decided(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_said_of_growing_is_changed_and_a_level_needs_no_sign() {
        let level = GrowthChange { at_pct: Some(90), ..GrowthChange::default() };
        for line in ["--auto-grow-at 90%", "--auto-grow-at 90"] {
            assert_eq!(parsed(line), Ok(Some(Some(level.clone()))), "{line}");
        }
        assert!(parsed("--auto-grow-at 101").is_err() && parsed("--auto-grow-at 12.5%").is_err());
        assert_eq!(parsed("--hysteresis 2%"), Ok(None));
        assert_eq!(parsed("--no-auto-grow"), Ok(Some(None)));
        let none = GrowthChange { spares: Some(Vec::new()), grow_file_to_bytes: Some(None), ..GrowthChange::default() };
        assert_eq!(parsed("--spare none --grow-file-to none"), Ok(Some(Some(none))));
        let spares = GrowthChange {
            spares: Some(vec!["/dev/sdx".to_owned()]),
            force: Some(vec!["foreign".to_owned()]),
            ..GrowthChange::default()
        };
        assert_eq!(parsed("--spare /dev/sdx --force=foreign"), Ok(Some(Some(spares))));
    }

    #[test]
    fn growing_says_by_how_much_and_that_there_was_nothing_to_grow_by() {
        assert_eq!(grown("tank", None, 1 << 30, 3 << 30), "pool tank has grown by 2 GiB, to 3 GiB");
        let nothing = "pool tank has 1 GiB as before: there is nothing more of its devices that it could use";
        assert_eq!(grown("tank", None, 1 << 30, 1 << 30), nothing);
        assert!(
            grown("tank", Some("/dev/sdb"), 1 << 30, 1 << 30).ends_with("nothing more of /dev/sdb that it could use")
        );
    }
}
