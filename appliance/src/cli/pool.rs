//! `plimsoll pool`

use serde_json::Value;

use super::args::{Danger, Pool, PoolAddDevice, PoolCreate, PoolImport, PoolSet, Tenant};
use super::client::{Request, segment};
use super::confirm::confirm;
use super::render::steps;
use super::run::Context;
use super::{growth, table};
use crate::model::{AddDevice, CreatePool, ImportPool, SetPool, SetTenant};
use crate::problem::{Answer, Problem};
use crate::units::Size;

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
        Pool::Import(args) => import(cx, args),
        Pool::Export { pool, danger } => {
            let target = format!("{}/export", target(&pool));
            destroy(cx, "POST", &target, &danger, &format!("plimsoll pool export {pool}"))?
                .map_or(Ok(()), |value| cx.render.changed(&format!("pool {pool} exported"), &value))
        }
        Pool::Delete { pool, danger, if_exists } => {
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
    confirm(danger.yes, &steps(&plan), command)?;
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
    let extent_bytes = match args.extent_size {
        None => None,
        Some(size) => {
            let bytes = size.exact().map_err(|error| Problem::new("invalid-argument", error.to_string()))?;
            Some(u32::try_from(bytes).unwrap_or(u32::MAX))
        }
    };
    let request = CreatePool {
        name: args.pool.clone(),
        devices: args.devices.iter().map(|path| absolute(path)).collect(),
        extent_bytes,
        force: args.force.force,
        buffered: args.buffered,
    };
    let at = with("/api/v1/pools", args.how.dry_run);
    match cx.client.send(Request::new("POST", &at).body(&request)?) {
        Err(problem) if args.if_not_exists && problem.code == "exists" => {
            cx.render.changed(&format!("pool {} exists", args.pool), &cx.client.get(&target(&args.pool))?)
        }
        Err(problem) => Err(problem),
        Ok(plan) if args.how.dry_run => cx.render.plan(&plan),
        Ok(pool) => cx.render.changed(&format!("pool {} created", args.pool), &pool),
    }
}

fn set(cx: &Context<'_>, args: PoolSet) -> Answer<()> {
    let hold_bytes_max = args.hold_bytes.map(exact).transpose()?;
    let growth = growth::decided(&args)?;
    let request = SetPool {
        overcommit_limit: args.overcommit_limit,
        thresholds: args.thresholds,
        hysteresis_pct: args.hysteresis,
        horizons: args.horizons,
        hold_bytes_max,
        growth,
    };
    let at = with(&target(&args.pool), args.how.dry_run);
    let answer = cx.client.send(Request::new("PATCH", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    cx.render.changed(&format!("pool {} changed", args.pool), &answer)
}

/// Bytes of a size that may not be relative.
pub(super) fn exact(size: Size) -> Answer<u64> {
    size.exact().map_err(|error| Problem::new("invalid-argument", error.to_string()))
}

pub(super) fn tenant(cx: &Context<'_>, command: Tenant) -> Answer<()> {
    match command {
        Tenant::List => cx.render.list(&table::TENANT, cx.client.get("/api/v1/tenants")?),
        Tenant::Set { tenant, pool, quota, thresholds, how } => {
            let at = with(&format!("{}/tenants/{}", target(&pool), segment(&tenant)), how.dry_run);
            let request = SetTenant { quota_bytes: quota.map(exact).transpose()?, thresholds };
            let answer = cx.client.send(Request::new("PUT", &at).body(&request)?)?;
            if how.dry_run {
                return cx.render.plan(&answer);
            }
            cx.render.changed(&format!("tenant {tenant} of pool {pool} changed"), &answer)
        }
    }
}

pub(super) fn space(cx: &Context<'_>, pool: Option<&str>) -> Answer<()> {
    let at = pool.map_or_else(|| "/api/v1/space".to_owned(), |pool| format!("/api/v1/space?pool={}", segment(pool)));
    cx.render.list(&table::SPACE, cx.client.get(&at)?)
}

fn add_device(cx: &Context<'_>, args: PoolAddDevice) -> Answer<()> {
    let request = AddDevice { path: absolute(&args.device), force: args.force.force, buffered: args.buffered };
    let at = with(&format!("{}/devices", target(&args.pool)), args.how.dry_run);
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    cx.render.changed(&format!("{} added to pool {}", args.device, args.pool), &answer)
}

fn import(cx: &Context<'_>, args: PoolImport) -> Answer<()> {
    let paths = args.paths.iter().map(|path| absolute(path)).collect();
    let request = ImportPool { paths, name: args.name, buffered: args.buffered };
    let at = with("/api/v1/pools/import", args.how.dry_run);
    let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
    if args.how.dry_run {
        return cx.render.plan(&answer);
    }
    let name = answer.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    cx.render.changed(&format!("pool {name} imported"), &answer)
}
