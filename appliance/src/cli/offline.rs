//! Checking a pool without a daemon: a reactor of our own, the devices opened and locked, so that no daemon can open them
//! meanwhile. Nothing is written unless a repair was asked for.

use plimsoll_engine::{Error, OpenPool, Pool};
use plimsoll_hardware::{Handle, OpenError, OpenOptions, Reactor, ReactorConfig};

use super::pool::absolute;
use crate::model::{CheckView, RepairView};
use crate::node::{cannot_open, check_view, repair_view};
use crate::problem::{Answer, Problem};

/// Memory for mapping pages: a check reads each page once.
const CACHE_BYTES: u64 = 256 << 20;

pub(super) struct Offline {
    reactor: Reactor,
}

impl Offline {
    pub(super) fn new() -> Answer<Self> {
        let reactor = Reactor::new(ReactorConfig::default())
            .map_err(|error| Problem::new("internal", format!("the reactor does not start: {error}")))?;
        Ok(Self { reactor })
    }

    /// What is wrong, and with `plan` what a repair would do.
    pub(super) fn check(&self, devices: &[String], plan: bool) -> Answer<(CheckView, Option<RepairView>)> {
        self.reactor.block_on(async {
            let pool = open(&self.reactor.handle(), devices, true).await?;
            let name = pool.info().name;
            let found = check_view(&name, &pool.check().await?);
            let planned = if plan { Some(repair_view(&name, false, pool.repair_plan().await?)) } else { None };
            pool.close().await?;
            Ok((found, planned))
        })
    }

    /// Repairs, and checks again.
    pub(super) fn repair(&self, devices: &[String]) -> Answer<(RepairView, CheckView)> {
        self.reactor.block_on(async {
            let pool = open(&self.reactor.handle(), devices, false).await?;
            let info = pool.info();
            let name = info.name;
            let mut repaired = repair_view(&name, true, pool.repair().await?);
            // Of a copy that was bad the opening has made a good one.
            let healed = info.recovery.healed.into_iter().map(|copy| format!("{copy}; it was written again"));
            repaired.steps.splice(0..0, healed);
            let found = check_view(&name, &pool.check().await?);
            pool.close().await?;
            Ok((repaired, found))
        })
    }
}

async fn open(machine: &Handle, paths: &[String], inspect: bool) -> Answer<Pool<Handle>> {
    let mut devices = Vec::new();
    for path in paths {
        let path = absolute(path);
        let mut options = OpenOptions { read_only: inspect, ..OpenOptions::default() };
        let mut opened = machine.open_device(&path, options.clone()).await;
        if matches!(opened, Err(OpenError::NoDirectIo { .. })) {
            options.buffered = true;
            opened = machine.open_device(&path, options).await;
        }
        devices.push(opened.map_err(|error| cannot_open(&path, &error))?);
    }
    let options = OpenPool { inspect, cache_bytes: Some(CACHE_BYTES), ..OpenPool::default() };
    Pool::open(machine, options, devices).await.map_err(|error| match &error {
        Error::DeviceMissing { .. } => {
            Problem::from(error).hint("name all of its devices: plimsoll pool check --device PATH --device PATH...")
        }
        _ => error.into(),
    })
}
