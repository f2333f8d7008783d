//! `plimsoll vdisk`

use serde_json::{Value, json};

use super::args::{Detected, Vdisk, VdiskCreate, VdiskPromises, VdiskSet, Wait};
use super::client::{Request, segment};
use super::confirm::confirm;
use super::exists::as_wanted;
use super::job::watch_answer;
use super::pool::{destroy_version, exact, small, with};
use super::render::steps;
use super::run::Context;
use super::{pool, table};
use crate::model::{CreateVdisk, SetVdisk, VdiskPolicyChange, WriteCache};
use crate::name::VdiskName;
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::units::{Size, written};

pub(super) fn run(cx: &Context<'_>, command: Vdisk) -> Answer<()> {
    match command {
        Vdisk::List { pool: None } => cx.render.list(&table::VDISK, cx.client.get("/api/v1/vdisks")?),
        Vdisk::List { pool: Some(pool) } => {
            let target = format!("{}/vdisks", pool::target(&pool));
            cx.render.list(&table::VDISK, cx.client.get(&target)?)
        }
        Vdisk::Show { vdisk } => cx.render.object(&cx.client.get(&target(&vdisk))?),
        Vdisk::Create(args) => create(cx, args),
        Vdisk::Set(args) => set(cx, &args),
        Vdisk::Delete { vdisk, danger, wait, if_exists, if_version } => {
            let command = format!("plimsoll vdisk delete {vdisk}");
            let version = if_version.as_deref();
            let job = match destroy_version(cx, "DELETE", &target(&vdisk), &danger, &command, version) {
                Err(problem) if if_exists && problem.code == "not-found" => return Ok(()),
                Err(problem) => return Err(problem),
                Ok(None) => return Ok(()),
                Ok(Some(job)) => job,
            };
            let job = if wait.or(Wait::by_default()) { watch_answer(&cx.client, &job)? } else { job };
            cx.render.changed(&format!("vdisk {vdisk} deleted"), &job)
        }
    }
}

pub(super) fn target(vdisk: &VdiskName) -> String {
    format!("{}/vdisks/{}", pool::target(&vdisk.pool), segment(&vdisk.vdisk))
}

/// A size against the field `of` of the object at `target`, which is only asked for when the size is relative. Shares are
/// rounded down to whole MiB, because a percentage names no exact size.
fn bytes_of(cx: &Context<'_>, size: Size, target: &str, of: &str) -> Answer<u64> {
    let now = match size {
        Size::Exact(bytes) => return Ok(bytes),
        _ => cx.client.get(target)?.get(of).and_then(Value::as_u64).unwrap_or(0),
    };
    let beyond = || Problem::new("invalid-argument", format!("{size} of {now} bytes is beyond 16 EiB"));
    let bytes = size.against(now).ok_or_else(beyond)?;
    Ok(if matches!(size, Size::Share(_)) { bytes >> 20 << 20 } else { bytes })
}

fn promises(args: VdiskPromises) -> Answer<VdiskPolicyChange> {
    Ok(VdiskPolicyChange {
        tenant: args.tenant,
        vm: args.vm,
        on_full: args.on_full,
        reservation_bytes: args.reservation.map(exact).transpose()?,
        quota_bytes: args.quota.map(exact).transpose()?,
        thresholds: args.thresholds,
        quota_thresholds: args.quota_thresholds,
    })
}

fn create(cx: &Context<'_>, args: VdiskCreate) -> Answer<()> {
    let name = args.vdisk;
    if matches!(args.size, Size::More(_)) {
        return Err(Problem::new("invalid-argument", "a new vdisk has no size that something could be added to")
            .hint(format!("plimsoll vdisk create {name} --size 10G")));
    }
    let designated_bytes = bytes_of(cx, args.size, &pool::target(&name.pool), "physical_bytes")?;
    let sector_bytes = args.sector.map(|size| small("sector", size)).transpose()?;
    let write_cache = args.write_cache.map(|word| if word == "off" { WriteCache::Off } else { WriteCache::On });
    let policy = promises(args.promises)?;
    let request = CreateVdisk { name: name.vdisk.clone(), designated_bytes, sector_bytes, write_cache, policy };
    let at = with(&format!("{}/vdisks", pool::target(&name.pool)), args.how.dry_run);
    match cx.client.send(Request::new("POST", &at).body(&request)?) {
        Err(problem) if args.if_not_exists && problem.code == "exists" => {
            let asked = &request.policy;
            // As the daemon writes it.
            let text = |asked: &Option<String>, normal: fn(&str) -> Answer<String>| {
                asked.as_ref().map(|text| json!(normal(text).unwrap_or_else(|_| text.clone())))
            };
            let levels = |text: &str| policy::levels(text).map(|levels| policy::levels_text(&levels));
            let label =
                |label: &Option<String>| label.as_ref().map(|label| json!(Some(label).filter(|at| !at.is_empty())));
            let bound = |bytes: Option<u64>| bytes.map(|bytes| json!(Some(bytes).filter(|bytes| *bytes > 0)));
            let wanted = [
                // A share was of the pool as it was then, which may have grown.
                ("designated_bytes", matches!(args.size, Size::Exact(_)).then(|| json!(request.designated_bytes))),
                ("sector_bytes", request.sector_bytes.map(Value::from)),
                ("write_cache", request.write_cache.map(|cache| json!(cache))),
                ("on_full", text(&asked.on_full, |text| policy::on_full(text).map(policy::on_full_text))),
                ("thresholds", text(&asked.thresholds, levels)),
                ("quota_thresholds", text(&asked.quota_thresholds, levels)),
                ("tenant", label(&asked.tenant)),
                ("vm", label(&asked.vm)),
                ("quota_bytes", bound(asked.quota_bytes)),
                ("reservation_bytes", asked.reservation_bytes.map(Value::from)),
            ];
            as_wanted(cx, ("vdisk", &name.to_string()), &cx.client.get(&target(&name))?, &wanted)
        }
        Err(problem) => Err(problem),
        Ok(plan) if args.how.dry_run => cx.render.plan(&plan),
        Ok(vdisk) => cx.render.changed(&format!("vdisk {name} created"), &vdisk),
    }
}

fn set(cx: &Context<'_>, args: &VdiskSet) -> Answer<()> {
    let at = target(&args.vdisk);
    let bytes = args.size.map(|size| bytes_of(cx, size, &at, "designated_bytes")).transpose()?;
    let policy = promises(args.promises.clone())?;
    let wanted = |what| args.detect.iter().rev().find(|(of, _)| *of == what).map(|(_, on)| *on);
    let request = SetVdisk {
        designated_bytes: bytes,
        discard_tail: args.discard_tail,
        zero_detection: wanted(Detected::Zeros),
        pattern_detection: wanted(Detected::Patterns),
        pattern: args.pattern,
        policy,
    };
    if request == (SetVdisk { discard_tail: args.discard_tail, ..SetVdisk::default() }) {
        return Err(Problem::new("invalid-argument", "there is nothing to change").hint(format!(
            "plimsoll vdisk set {} --size +10G; plimsoll vdisk set --help lists what can be",
            args.vdisk
        )));
    }
    let version = args.if_version.as_deref();
    let send = |dry_run: bool| {
        let at = with(&at, dry_run);
        cx.client.send(Request::new("PATCH", &at).body(&request)?.if_match(version))
    };
    if args.how.dry_run {
        return cx.render.plan(&send(true)?);
    }
    if args.discard_tail {
        let plan = send(true)?;
        if plan.get("frees_bytes").and_then(Value::as_u64).unwrap_or(0) > 0 {
            let size = bytes.map_or_else(String::new, |bytes| format!(" --size {}", written(bytes)));
            let command = format!("plimsoll vdisk set {}{size} --discard-tail", args.vdisk);
            confirm(args.yes, &steps(&plan), &command)?;
        }
    }
    let done = match bytes {
        Some(bytes) => format!("vdisk {} has {bytes} bytes", args.vdisk),
        None => format!("vdisk {} changed", args.vdisk),
    };
    cx.render.changed(&done, &send(false)?)
}
