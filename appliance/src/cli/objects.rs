//! `plimsoll status`, `export`, `device` and `job`

use std::process::ExitCode;

use serde_json::Value;

use super::args::{Device, Export, Job};
use super::client::{Request, segment};
use super::job::watch;
use super::pool::{absolute, with};
use super::run::Context;
use super::table;
use crate::model::AddExport;
use crate::problem::Answer;

/// Exit code when a check has findings.
const DEGRADED: u8 = 8;

pub(super) fn status(cx: &Context<'_>) -> Answer<()> {
    cx.render.object(&cx.client.get("/api/v1/status")?)
}

pub(super) fn export(cx: &Context<'_>, command: Export) -> Answer<()> {
    match command {
        Export::List => cx.render.list(&table::EXPORT, cx.client.get("/api/v1/exports")?),
        Export::Add { vdisk, nbd: _, read_only, how } => {
            let request = AddExport { name: vdisk.to_string(), protocol: Some("nbd".to_owned()), read_only };
            let at = with("/api/v1/exports", how.dry_run);
            let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
            if how.dry_run {
                return cx.render.plan(&answer);
            }
            let uris: Vec<String> =
                answer.get("uris").and_then(Value::as_array).into_iter().flatten().map(super::filter::text).collect();
            cx.render.changed(&format!("{vdisk} is exported at {}", uris.join(" and ")), &answer)
        }
        Export::Remove { vdisk, nbd: _, force, how } => {
            let at = format!("/api/v1/exports/nbd/{}/{}", segment(&vdisk.pool), segment(&vdisk.vdisk));
            let at = format!("{}&force={}", with(&at, how.dry_run), force.force.join(","));
            let answer = cx.client.send(Request::new("DELETE", &at))?;
            if how.dry_run {
                return cx.render.plan(&answer);
            }
            cx.render.changed(&format!("{vdisk} is no longer exported"), &answer)
        }
    }
}

pub(super) fn device(cx: &Context<'_>, command: Device) -> Answer<()> {
    match command {
        Device::List => cx.render.list(&table::DEVICE, cx.client.get("/api/v1/devices")?),
        Device::Show { path } => {
            let at = format!("/api/v1/devices/{}", segment(&absolute(&path)));
            cx.render.object(&cx.client.get(&at)?)
        }
    }
}

pub(super) fn job(cx: &Context<'_>, command: Job) -> Answer<ExitCode> {
    match command {
        Job::List => cx.render.list(&table::JOB, cx.client.get("/api/v1/jobs")?)?,
        Job::Show { id } => cx.render.object(&cx.client.get(&format!("/api/v1/jobs/{}", segment(&id)))?)?,
        Job::Watch { id } => {
            let job = watch(&cx.client, &id)?;
            cx.render.object(&job)?;
            let dirty = job.pointer("/check/clean") == Some(&Value::Bool(false));
            return Ok(if dirty { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}
