//! `plimsoll pool`

use serde_json::Value;

use super::args::{Danger, Pool, PoolAddDevice, PoolCreate, PoolEnd, PoolImport, PoolSet, Tenant};
use super::client::{Request, segment};
use super::confirm::confirm;
use super::exists::{another, as_wanted};
use super::filter::text;
use super::render::steps;
use super::run::Context;
use super::{growth, table};
use crate::model::{AddDevice, CreatePool, ImportPool, SetPool, SetTenant};
use crate::node::same_file;
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::units::{Size, iec, printable};

pub(super) fn run(cx: &Context<'_>, command: Pool) -> Answer<()> {
    match command {
        Pool::List => cx.render.list(&table::POOL, cx.client.get("/api/v1/pools")?),
        Pool::Show { pool } => cx.render.object(&cx.client.get(&target(&pool))?),
        Pool::Create(args) => create(cx, args),
        Pool::AddDevice(args) => add_device(cx, args),
        Pool::Set(args) => set(cx, args),
        Pool::Grow(args) => growth::grow(cx, &args),
        Pool::Evacuate(args) => growth::evacuate(cx, &args),
        Pool::RemoveDevice(args) => growth::remove_device(cx, &args),
        Pool::Compact { change, wait } => growth::compact(cx, &change, &wait),
        Pool::Survey { change, wait } => growth::survey(cx, &change, &wait),
        Pool::Import(args) => import(cx, args),
        Pool::Export(PoolEnd { pool, danger }) => {
            let target = format!("{}/export", target(&pool));
            destroy(cx, "POST", &target, &danger, &format!("plimsoll pool export {pool}"))?
                .map_or(Ok(()), |value| cx.render.changed(&format!("pool {pool} exported"), &value))
        }
        Pool::Delete { end: PoolEnd { pool, danger }, if_exists } => {
            let command = format!("plimsoll pool delete {pool}");
            match destroy(cx, "DELETE", &target(&pool), &danger, &command) {
                Err(problem) if if_exists && problem.code == "not-found" => Ok(()),
                Err(problem) => Err(problem),
                Ok(None) => Ok(()),
                Ok(Some(value)) => cx.render.changed(&format!("pool {pool} deleted"), &value),
            }
        }
        Pool::Check(_) => unreachable!("done before"),
    }
}

/// Asks for the plan, asks the person, does it. `None` when only the plan was wanted.
pub(super) fn destroy(
    cx: &Context<'_>,
    method: &'static str,
    target: &str,
    danger: &Danger,
    command: &str,
) -> Answer<Option<Value>> {
    destroy_version(cx, method, target, danger, command, None)
}

pub(super) fn destroy_version(
    cx: &Context<'_>,
    method: &'static str,
    target: &str,
    danger: &Danger,
    command: &str,
    version: Option<&str>,
) -> Answer<Option<Value>> {
    let force = danger.force.force.join(",");
    let planned = format!("{target}?dry_run=true&force={force}");
    let plan = cx.client.send(Request::new(method, &planned).if_match(version))?;
    if danger.how.dry_run {
        cx.render.plan(&plan)?;
        return Ok(None);
    }
    let command = if force.is_empty() { command.to_owned() } else { format!("{command} --force={force}") };
    confirm(danger.yes, &steps(&plan), &command)?;
    let target = format!("{target}?force={force}");
    cx.client.send(Request::new(method, &target).if_match(version)).map(Some)
}

/// `?dry_run=` as it was asked for.
pub(super) fn with(target: &str, dry_run: bool) -> String {
    format!("{target}?dry_run={dry_run}")
}

pub(super) fn target(pool: &str) -> String {
    format!("/api/v1/pools/{}", segment(pool))
}

/// The daemon's working directory is not ours.
pub(super) fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

fn create(cx: &Context<'_>, args: PoolCreate) -> Answer<()> {
    let (pool, how) = (args.change.pool, args.change.how);
    let request = CreatePool {
        name: pool.clone(),
        devices: args.devices.iter().map(|path| absolute(path)).collect(),
        extent_bytes: args.extent_size.map(|size| small("extent", size)).transpose()?,
        force: args.taken.force.force,
        buffered: args.taken.buffered,
    };
    match cx.change("POST", "/api/v1/pools", &how, &request) {
        Err(problem) if args.if_not_exists && problem.code == "exists" => {
            let there = cx.client.get(&target(&pool))?;
            let known: Vec<&str> = there
                .get("devices")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|device| device.get("path").and_then(Value::as_str))
                .collect();
            let is_missing = |path: &&String| !known.iter().any(|known| same_file(known, path));
            if let Some(path) = request.devices.iter().find(is_missing) {
                return Err(another(("pool", &pool), &[format!("it is on {}, not on {path}", known.join(", "))]));
            }
            // What joined it later was not asked about.
            let is_asked = |device: &Value| {
                let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
                request.devices.iter().any(|asked| same_file(asked, path))
            };
            let through =
                |device: &&Value| is_asked(device) && device.get("buffered") != Some(&Value::Bool(request.buffered));
            if let Some(device) = there.get("devices").and_then(Value::as_array).into_iter().flatten().find(through) {
                let path = device.get("path").map(text).unwrap_or_default();
                let differs = match request.buffered {
                    true => format!("{path} does not go through the page cache, and --buffered was said"),
                    false => format!("{path} goes through the page cache, and --buffered was not said"),
                };
                return Err(another(("pool", &pool), &[differs]));
            }
            as_wanted(cx, ("pool", &pool), &there, &[("extent_bytes", request.extent_bytes.map(Value::from))])
        }
        Err(problem) => Err(problem),
        Ok(None) => Ok(()),
        Ok(Some(answer)) => cx.render.changed(&format!("pool {pool} created"), &answer),
    }
}

fn set(cx: &Context<'_>, args: PoolSet) -> Answer<()> {
    let growth = growth::decided(&args)?;
    let request = SetPool {
        overcommit_limit: args.overcommit_limit,
        thresholds: args.thresholds,
        hysteresis_pct: args.hysteresis,
        horizons: args.horizons,
        hold_bytes_max: args.hold_bytes.map(exact).transpose()?,
        growth,
    };
    let pool = &args.change.pool;
    if request == SetPool::default() {
        return Err(Problem::new("invalid-argument", "there is nothing to change").hint(format!(
            "plimsoll pool set {pool} --thresholds 70%,85%,95%; plimsoll pool set --help lists what can be"
        )));
    }
    let Some(now) = cx.change("PATCH", &target(pool), &args.change.how, &request)? else { return Ok(()) };
    if let Some(warning) = over_promised(pool, &now).filter(|_| request.overcommit_limit.is_some()) {
        eprintln!("warning: {warning}");
    }
    cx.render.changed(&format!("pool {pool} changed"), &now)
}

/// That a pool has promised more than its overcommit limit allows, if it has.
fn over_promised(pool: &str, now: &Value) -> Option<String> {
    let bytes = |name: &str| now.get(name).and_then(Value::as_u64);
    let limit = now.get("overcommit_limit").and_then(Value::as_str)?;
    policy::over_promised(pool, bytes("designated_bytes")?, bytes("designated_bytes_max")?, limit)
}

/// Bytes of a size that may not be relative.
pub(super) fn exact(size: Size) -> Answer<u64> {
    size.exact().map_err(|error| Problem::new("invalid-argument", error.to_string()))
}

/// Bytes of something that has few: more than 32 bits hold make no sense.
pub(super) fn small(what: &str, size: Size) -> Answer<u32> {
    let bytes = exact(size)?;
    let beyond = |_| Problem::new("invalid-argument", format!("{} are too much for one {what}", iec(bytes)));
    u32::try_from(bytes).map_err(beyond)
}

pub(super) fn tenant(cx: &Context<'_>, command: Tenant) -> Answer<()> {
    match command {
        Tenant::List => cx.render.list(&table::TENANT, cx.client.get("/api/v1/tenants")?),
        Tenant::Set { tenant, pool, quota, thresholds, how } => {
            let at = format!("{}/tenants/{}", target(&pool), segment(&tenant));
            let request = SetTenant { quota_bytes: quota.map(exact).transpose()?, thresholds };
            cx.changed(("PUT", &at), &how, &request, &format!("tenant {tenant} of pool {pool} changed"))
        }
    }
}

pub(super) fn space(cx: &Context<'_>, pool: Option<&str>) -> Answer<()> {
    let at = pool.map_or_else(|| "/api/v1/space".to_owned(), |pool| format!("/api/v1/space?pool={}", segment(pool)));
    let answer = cx.client.get(&at)?;
    let pools = answer.get("pools").and_then(Value::as_array).cloned().unwrap_or_default();
    cx.render.list(&table::SPACE, answer)?;
    cx.render.below(|exact| table::promised(&pools, exact))
}

fn add_device(cx: &Context<'_>, args: PoolAddDevice) -> Answer<()> {
    let taken = args.taken;
    let request = AddDevice { path: absolute(&args.device), force: taken.force.force, buffered: taken.buffered };
    let pool = &args.change.pool;
    let done = format!("{} added to pool {pool}", args.device);
    cx.changed(("POST", &format!("{}/devices", target(pool))), &args.change.how, &request, &done)
}

fn import(cx: &Context<'_>, args: PoolImport) -> Answer<()> {
    let paths = args.paths.iter().map(|path| absolute(path)).collect();
    let request = ImportPool { paths, name: args.name, buffered: args.buffered, force: args.force };
    let Some(answer) = cx.change("POST", "/api/v1/pools/import", &args.how, &request)? else { return Ok(()) };
    let name = answer.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let warnings = answer.pointer("/recovery/warnings").and_then(Value::as_array);
    for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("warning: {}", printable(warning));
    }
    cx.render.changed(&format!("pool {name} imported"), &answer)
}
