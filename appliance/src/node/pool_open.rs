//! Opening the pools that are known, at the start and when an unavailable one is tried again.

use std::collections::BTreeMap;

use plimsoll_engine::{Error, OpenPool, Pool, SpaceEvent};
use plimsoll_hardware::reactor::Handle;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::scan::{Found, Paths, cut_off, missing};
use super::state::{DeviceRecord, PoolRecord};
use super::{Device, Node, Slot};
use crate::problem::{Answer, Problem};

/// All devices of a pool.
pub(super) struct Whole {
    pub(super) devices: Vec<Device>,
    /// What of it is lost, in sentences.
    pub(super) lost: Vec<String>,
    /// Files where it was in use last that are others by now.
    pub(super) replaced: Vec<String>,
}

/// Of a device that a pool knows and nobody here does.
const JOINED_UNKEPT: &str = "; it is not known here where that is: it joined when the state could not be kept";

/// What alarms go by that are about a pool whose UUID nobody knows: the same for the same name.
fn stand_in(name: &str) -> Uuid {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_random_bytes(bytes).into_uuid()
}

/// That the device with the UUID `device` is missing, with all that was seen instead.
fn not_there(missing: Problem, device: Uuid, remembered: &[DeviceRecord], found: &Found) -> Problem {
    let failed = &found.failed[..];
    let is_unkept = !remembered.is_empty() && remembered.iter().all(|known| known.uuid != device);
    let unkept = if is_unkept { JOINED_UNKEPT } else { "" };
    if let Some(problem) = found.cut_off.get(&device) {
        return cut_off(problem, failed);
    }
    let seen: String = failed.iter().map(|problem| format!("; {}", problem.detail)).collect();
    let problem = Problem { detail: format!("{}{unkept}{seen}", missing.detail), ..missing };
    match failed.iter().find(|problem| problem.code == "conflict") {
        Some(copies) => Problem { hint: copies.hint.clone(), cause: copies.cause.clone(), ..problem },
        None if is_unkept => problem.hint("plimsoll pool import PATH, with the path of that device"),
        None => problem,
    }
}

impl Node {
    /// Opens all known pools. One that cannot be opened is listed as unavailable with the reason; the others serve.
    pub async fn open_known_pools(&self) {
        let _turn = self.0.changes.lock().await;
        let known = self.0.state.borrow().pools.clone();
        for record in known {
            if let Err(problem) = self.open_known(&record, Vec::new(), false).await {
                let problem = problem.naming(&format!("--name {}", record.name));
                tracing::error!(pool = record.name, reason = problem.detail, "the pool is unavailable");
                self.tell_not_served(&record.name, record.uuid, &problem).await;
                self.0.pools.borrow_mut().insert(record.name, Slot::Unavailable(problem));
            }
        }
    }

    /// Lists a pool that the configuration has on `devices` and that is not served, with the reason, and tells it; unless one of its name is
    /// here.
    pub async fn note_not_served(&self, name: &str, devices: &[String], problem: Problem) {
        let is_said =
            matches!(self.0.pools.borrow().get(name), Some(Slot::Unavailable(said)) if said.detail == problem.detail);
        if self.is_taken(name) || is_said {
            return;
        }
        self.0.configured.borrow_mut().insert(name.to_owned(), devices.to_vec());
        self.tell_not_served(name, stand_in(name), &problem).await;
        self.0.pools.borrow_mut().insert(name.to_owned(), Slot::Unavailable(problem));
    }

    /// The devices of a pool that the configuration names, if that alone knows of it.
    pub(super) fn configured(&self, name: &str) -> Option<Vec<String>> {
        self.0.configured.borrow().get(name).cloned()
    }

    /// A pool that the configuration names is served: nothing needs to stand in for it.
    pub(super) async fn note_configured_served(&self, name: &str) {
        self.0.configured.borrow_mut().remove(name);
        let told = async {
            let mut alarms = self.alarms(stand_in(name)).await?;
            if alarms.not_served.is_some() {
                let over = SpaceEvent::NotServed { reason: String::new(), rising: false };
                self.record((name, stand_in(name)), &[over], &mut alarms).await?;
            }
            Ok::<_, Problem>(())
        };
        if let Err(problem) = told.await {
            tracing::error!(pool = name, reason = problem.detail, "that a pool is served could not be told");
        }
    }

    /// Opens one known pool, looking at the paths that were `named` first.
    pub(super) async fn open_known(&self, record: &PoolRecord, named: Vec<String>, truncated: bool) -> Answer<()> {
        let whole = self.find_known(record, named, truncated).await?;
        let mut replaced = whole.replaced.join(", ");
        let pool = self.open_whole(record.uuid, whole, truncated).await?;
        let info = pool.info();
        if replaced.is_empty() && info.generation < record.generation {
            replaced = info.devices.iter().map(|device| device.path.as_str()).collect::<Vec<_>>().join(", ");
        }
        self.adopt_as(record, pool.clone()).await?;
        self.0.replaced.borrow_mut().remove(&record.uuid);
        if !replaced.is_empty() {
            tracing::warn!(pool = record.name, replaced, "the pool is open on what it was not open on before");
            self.0.replaced.borrow_mut().insert(record.uuid, replaced.clone());
            pool.raise(SpaceEvent::FilesReplaced { files: replaced });
        }
        Ok(())
    }

    /// The devices that [`Node::open_known`] opens a pool on, and what of it is lost.
    pub(super) async fn find_known(&self, record: &PoolRecord, named: Vec<String>, truncated: bool) -> Answer<Whole> {
        let known = record.devices.iter().map(|device| device.path.clone()).collect();
        let marks = record.devices.iter().filter_map(|device| Some((device.uuid, device.mark.clone()?))).collect();
        let near = self.0.in_configuration.borrow().get(&record.name).cloned().unwrap_or_default();
        let paths = Paths { named, known, near, marks };
        let mut found = self.find_devices(Some(record.uuid), &paths, record.devices.len()).await;
        if let Some(twins) = found.twins {
            return Err(twins);
        }
        if let Some(problem) = self.older(&paths, &found).await {
            return Err(problem);
        }
        let replaced = std::mem::take(&mut found.replaced);
        if found.devices.is_empty() {
            return Err(missing(&record.name, &found, record.devices.len()));
        }
        if let Some(label) = found.label.as_ref().filter(|label| label.pool_name != record.name) {
            let detail = format!("pool {} calls itself {} on its devices", record.name, label.pool_name);
            return Err(Problem::new("conflict", detail));
        }
        let whole = self.find_whole((record.uuid, &record.devices), &paths, found, truncated).await?;
        Ok(Whole { replaced: replaced.into_iter().map(|(_, path, _)| path).collect(), ..whole })
    }

    /// The devices of a pool of which some were found at `paths`, if it can be opened on them: where the pool itself knows of more than
    /// the labels at hand do, and than is `remembered`, if it is, these are looked for everywhere. `truncated`: even if the end of a device
    /// is gone; that is told.
    pub(super) async fn find_whole(
        &self,
        (pool, remembered): (Uuid, &[DeviceRecord]),
        paths: &Paths,
        found: Found,
        truncated: bool,
    ) -> Answer<Whole> {
        let options = self.how_to_open(truncated);
        let whole = |(devices, lost)| Whole { devices, lost, replaced: Vec::new() };
        let check = async |devices: BTreeMap<Uuid, Device>| {
            Pool::check_open(self.machine(), &options, devices.into_values().collect()).await
        };
        match check(found.devices).await {
            Err(Error::DeviceMissing { .. }) => {}
            checked => return Ok(whole(checked?)),
        }
        let mut found = self.find_devices(Some(pool), paths, usize::MAX).await;
        if let Some(twins) = found.twins {
            return Err(twins);
        }
        let devices = std::mem::take(&mut found.devices);
        check(devices).await.map(whole).map_err(|error| match error {
            Error::DeviceMissing { device, .. } => not_there(error.into(), device, remembered, &found),
            error => error.into(),
        })
    }

    fn how_to_open(&self, truncated: bool) -> OpenPool {
        OpenPool { inspect: false, cache_bytes: self.0.cache_bytes, accept_lost_ends: truncated }
    }

    /// Opens a pool on its devices.
    pub(super) async fn open_on(&self, devices: Vec<Device>, truncated: bool) -> plimsoll_engine::Result<Pool<Handle>> {
        let pool = Pool::open(self.machine(), self.how_to_open(truncated), devices).await?;
        let info = pool.info();
        for healed in &info.recovery.healed {
            tracing::warn!(pool = info.name, "{healed}; it was written again");
        }
        for warning in info.recovery.ends_lost.iter().chain(&info.recovery.warnings) {
            tracing::warn!(pool = info.name, "{warning}");
        }
        tracing::info!(
            pool = info.name,
            clean = info.recovery.clean,
            records_replayed = info.recovery.records_replayed,
            records_dropped = info.recovery.records_dropped,
            "pool opened"
        );
        Ok(pool)
    }

    async fn adopt_as(&self, record: &PoolRecord, pool: Pool<Handle>) -> Answer<()> {
        let now = self.record_of(&pool);
        if now == *record {
            self.serve(now.name, pool);
            return Ok(());
        }
        // It is served whether that can be kept or not: its labels find its devices. A finding until it is.
        let name = now.name.clone();
        let _ = self.note(|state| state.put(now)).await;
        self.serve(name, pool);
        Ok(())
    }
}
