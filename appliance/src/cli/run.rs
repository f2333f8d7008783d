//! From a parsed command to what is done. Answers what was tried, in words for an error, and how it went.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::args::{Command, Device, DryRun, Event, Export, Global, Job, Pool, PoolEnd, Tenant, Vdisk, Webhook};
use super::client::{Client, Request};
use super::render::Render;
use super::{check, event, objects, pattern, pool, reclaim, vdisk, webhook};
use crate::daemon::STATE_DIR_DEFAULT;
use crate::problem::Answer;

/// What every command works with.
pub(super) struct Context<'a> {
    pub(super) client: Client,
    pub(super) render: Render<'a>,
}

impl Context<'_> {
    /// Asks for a change. Prints the plan when only that is wanted, and answers `None` then.
    pub(super) fn change(
        &self,
        method: &'static str,
        target: &str,
        how: &DryRun,
        request: &impl Serialize,
    ) -> Answer<Option<Value>> {
        let at = pool::with(target, how.dry_run);
        let answer = self.client.send(Request::new(method, &at).body(request)?)?;
        if how.dry_run {
            return self.render.plan(&answer).map(|()| None);
        }
        Ok(Some(answer))
    }

    /// As [`Context::change`], and says what was done.
    pub(super) fn changed(
        &self,
        (method, target): (&'static str, &str),
        how: &DryRun,
        request: &impl Serialize,
        done: &str,
    ) -> Answer<()> {
        self.change(method, target, how, request)?.map_or(Ok(()), |answer| self.render.changed(done, &answer))
    }
}

pub(super) fn run(global: &Global, command: Command) -> (String, Answer<ExitCode>) {
    let dir = global.state_dir.clone().unwrap_or_else(|| PathBuf::from(STATE_DIR_DEFAULT));
    let context = Context { client: Client::new(&dir), render: Render::new(global) };
    let cx = &context;
    let done = |result: Answer<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::Pool(Pool::Check(args)) => {
            let what = args.pool.as_ref().map_or("check the devices".to_owned(), |pool| format!("check pool {pool}"));
            (what, check::check(cx, &args))
        }
        Command::Status => ("show the status".to_owned(), done(objects::status(cx))),
        Command::Pool(command) => (named_pool(&command), done(pool::run(cx, command))),
        Command::Vdisk(command) => (named_vdisk(&command), done(vdisk::run(cx, command))),
        Command::Space { pool: of } => ("show who has the space".to_owned(), done(pool::space(cx, of.as_deref()))),
        Command::Tenant(command) => (named_tenant(&command), done(pool::tenant(cx, command))),
        Command::Pattern(command) => (command.named(), done(pattern::run(cx, command))),
        Command::Reclaim(args) => (args.named(), done(reclaim::run(cx, args))),
        Command::Export(command) => (named_export(&command), done(objects::export(cx, command))),
        Command::Device(command) => (named_device(&command), done(objects::device(cx, command))),
        Command::Job(command) => (named_job(&command), objects::job(cx, command)),
        Command::Event(command) => (named_event(&command), done(event::run(cx, command))),
        Command::Webhook(command) => (named_webhook(&command), done(webhook::run(cx, command))),
        Command::Serve(_) | Command::Completions { .. } => unreachable!("done before"),
    }
}

fn named_pool(command: &Pool) -> String {
    match command {
        Pool::List => "list pools".to_owned(),
        Pool::Show { pool } => format!("show pool {pool}"),
        Pool::Create(args) => format!("create pool {}", args.change.pool),
        Pool::Grow(args) => format!("grow pool {}", args.change.pool),
        Pool::Evacuate(args) if args.cancel => {
            format!("call off the evacuation of {} of pool {}", args.leaving.device, args.change.pool)
        }
        Pool::Evacuate(args) => format!("evacuate {} of pool {}", args.leaving.device, args.change.pool),
        Pool::RemoveDevice(args) => format!("remove {} from pool {}", args.leaving.device, args.change.pool),
        Pool::Compact { change, .. } => format!("compact pool {}", change.pool),
        Pool::Survey { change, .. } => format!("survey pool {}", change.pool),
        Pool::Set(args) => format!("change pool {}", args.change.pool),
        Pool::AddDevice(args) => format!("add {} to pool {}", args.device, args.change.pool),
        Pool::Import(args) => match &args.name {
            Some(name) => format!("import pool {name}"),
            None => format!("import a pool from {}", args.paths.join(" ")),
        },
        Pool::Export(PoolEnd { pool, .. }) => format!("export pool {pool}"),
        Pool::Check(_) => "check a pool".to_owned(),
        Pool::Delete { end: PoolEnd { pool, .. }, .. } => format!("delete pool {pool}"),
    }
}

fn named_vdisk(command: &Vdisk) -> String {
    match command {
        Vdisk::List { .. } => "list vdisks".to_owned(),
        Vdisk::Show { vdisk } => format!("show vdisk {vdisk}"),
        Vdisk::Create(args) => format!("create vdisk {}", args.vdisk),
        Vdisk::Set(args) => format!("change vdisk {}", args.vdisk),
        Vdisk::Delete { vdisk, .. } => format!("delete vdisk {vdisk}"),
    }
}

fn named_tenant(command: &Tenant) -> String {
    match command {
        Tenant::List => "list tenants".to_owned(),
        Tenant::Set { tenant, pool, .. } => format!("change tenant {tenant} of pool {pool}"),
    }
}

fn named_export(command: &Export) -> String {
    match command {
        Export::List => "list exports".to_owned(),
        Export::Add { vdisk, .. } => format!("export {vdisk}"),
        Export::Remove { vdisk, .. } => format!("remove the export of {vdisk}"),
    }
}

fn named_device(command: &Device) -> String {
    match command {
        Device::List => "list devices".to_owned(),
        Device::Show { path } => format!("show device {path}"),
    }
}

fn named_job(command: &Job) -> String {
    match command {
        Job::List => "list jobs".to_owned(),
        Job::Show { id } => format!("show job {id}"),
        Job::Watch { id } => format!("watch job {id}"),
    }
}

fn named_event(command: &Event) -> String {
    match command {
        Event::List { .. } => "list events".to_owned(),
        Event::Show { event } => format!("show event {event}"),
        Event::Watch { .. } => "watch events".to_owned(),
        Event::Ack { event: Some(event), .. } => format!("acknowledge event {event}"),
        Event::Ack { .. } => "acknowledge events".to_owned(),
    }
}

fn named_webhook(command: &Webhook) -> String {
    match command {
        Webhook::List => "list webhooks".to_owned(),
        Webhook::Show { webhook } => format!("show webhook {webhook}"),
        Webhook::Add(args) => format!("add webhook {}", args.webhook),
        Webhook::Remove { webhook, .. } => format!("remove webhook {webhook}"),
        Webhook::Test { webhook, .. } => format!("test webhook {webhook}"),
    }
}
