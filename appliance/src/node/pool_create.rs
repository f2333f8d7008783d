//! `pool create`: a new pool on devices that hold nothing else.
//!
//! Order: everything is checked first; then the engine writes the labels; then the pool is remembered; then it is
//! answered. A crash in between leaves a pool that `pool import` finds.

use plimsoll_engine::{self as engine, Error, Pool};
use plimsoll_hardware::{Device as _, Handle};
use uuid::Uuid;

use super::machine::{Purpose, absolute, same_file, size_of};
use super::state::{DeviceRecord, PoolRecord};
use super::{Device, Node, Slot};
use crate::model::{CreatePool, Plan, PoolView};
use crate::name;
use crate::problem::{Answer, Cause, Problem};

const EXTENT_BYTES_DEFAULT: u32 = 64 << 10;

impl Node {
    /// Makes a pool and serves it.
    ///
    /// # Errors
    /// By what is wrong with the name, the options or a device; `in-use` when a device is a spare of another pool, unless `force` has
    /// `spare`, or holds something, unless it has `foreign`. Nothing is written then.
    pub async fn create_pool(&self, request: CreatePool) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        let allowed = self.allow_for(request.buffered, &request.devices);
        let (spec, devices) = self.prepare_pool(&request).await?;
        let name = spec.name.clone();
        let pool = Pool::create(self.machine(), spec, devices).await?;
        self.adopt(pool).await.map_err(|problem| {
            let detail = format!("pool {name} was made, and closed again: {}", problem.detail);
            Problem { detail, ..problem }.hint(format!("plimsoll pool import {}", request.devices.join(" ")))
        })?;
        allowed.keep();
        tracing::info!(pool = name, "pool created");
        self.pool_view(&name)
    }

    /// What [`Node::create_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::create_pool`], but for a lack of room below the devices, which shows when it is asked for.
    pub async fn plan_create_pool(&self, request: CreatePool) -> Answer<Plan> {
        let _turn = self.turn().await?;
        let _allowed = self.allow_for(request.buffered, &request.devices);
        let (spec, devices) = self.prepare_pool(&request).await?;
        let mut plan = Plan::of([format!("create pool {} with extents of {} bytes", spec.name, spec.extent_bytes)]);
        for device in &devices {
            let path = &device.geometry().path;
            plan.steps.push(format!("overwrite {path} ({}) from its beginning", size_of(device)));
        }
        plan.needs_bytes = Some(0);
        Ok(plan)
    }

    async fn prepare_pool(&self, request: &CreatePool) -> Answer<(engine::CreatePool, Vec<Device>)> {
        name::check("pool", &request.name)?;
        if self.is_taken(&request.name) {
            return Err(Problem::new("exists", format!("pool {} exists", request.name))
                .hint(format!("plimsoll pool show {}", request.name)));
        }
        let extent_bytes = request.extent_bytes.unwrap_or(EXTENT_BYTES_DEFAULT);
        if !extent_bytes.is_power_of_two() || !(64 << 10..=1 << 20).contains(&extent_bytes) {
            let detail = format!("extents of {extent_bytes} bytes cannot be; a power of two from 65536 to 1048576 can");
            return Err(Problem::new("invalid-argument", detail).hint("leave --extent-size out for 64K"));
        }
        if request.devices.is_empty() {
            return Err(Problem::new("invalid-argument", format!("pool {} needs a device", request.name))
                .hint(format!("plimsoll pool create {} --device PATH", request.name)));
        }
        for (index, path) in request.devices.iter().enumerate() {
            if request.devices[..index].iter().any(|other| same_file(other, path)) {
                return Err(
                    Problem::new("invalid-argument", format!("{path} is named twice")).hint("name each device once")
                );
            }
        }
        let force = Force::of(&request.force)?;
        let mut devices = Vec::new();
        for path in &request.devices {
            devices.push(self.open_new(path, None, force).await?);
        }
        let spec = engine::CreatePool { name: request.name.clone(), extent_bytes, force: force.foreign };
        Pool::check_create(self.machine(), &spec, &devices).await?;
        self.room_to_remember().await?;
        Ok((spec, devices))
    }

    /// Opens a device that is to be overwritten, for the pool `own` or a new one; refuses, unless forced, one that holds something and
    /// one that another pool counts on.
    pub(super) async fn open_new(&self, path: &str, own: Option<Uuid>, force: Force) -> Answer<Device> {
        if !force.spare
            && let Some(pool) = self.spare_of(path, own)
        {
            return Err(Problem::new("in-use", format!("{path} is a spare of pool {pool}"))
                .because(Cause::Guarded("spare"))
                .hint("give another device; or say --force=spare to take it from that pool"));
        }
        self.look_at_new(&absolute(path), Purpose::Serve, force.foreign).await
    }

    /// As [`Node::open_new`], also without taking the device yet.
    pub(super) async fn look_at_new(&self, path: &str, purpose: Purpose, force: bool) -> Answer<Device> {
        if let Some(pool) = self.pool_on(path) {
            return Err(Problem::new("in-use", format!("{path} is a device of pool {pool}"))
                .hint(format!("plimsoll pool show {pool}"))
                .because(Cause::PartOf(pool)));
        }
        let (device, label) = self.open_looked_at(path, purpose).await?;
        // By another path, as a loop device's: nothing makes that right.
        if let Some(pool) = label.as_ref().ok().and_then(Option::as_ref).and_then(|label| self.served_from(label)) {
            return Err(Problem::new("in-use", format!("{path} is a device of pool {pool}, which is served from it"))
                .hint(format!("give another device; plimsoll pool show {pool}"))
                .because(Cause::PartOf(pool)));
        }
        if force {
            return Ok(device);
        }
        let (what, cause) = match label {
            Ok(Some(label)) => {
                let what = format!("a device of pool {} (UUID {})", label.pool_name, label.pool);
                (what, Cause::PartOf(label.pool_name))
            }
            Err(Error::Shortened { pool, .. }) => {
                (format!("a device of pool {pool} that was cut off"), Cause::PartOf(pool))
            }
            Err(Error::NotAPool { .. }) => {
                ("a device of a pool whose label cannot be used".to_owned(), Cause::BadLabel)
            }
            Err(error) => return Err(error.into()),
            Ok(None) => match self.contents(&device).await? {
                Some(what) => (what.to_owned(), Cause::Guarded("foreign")),
                None => return Ok(device),
            },
        };
        Err(Problem::new("in-use", format!("{path} holds {what}"))
            .because(cause)
            .hint("give another device; or say --force=foreign to overwrite it, which loses what it holds"))
    }

    /// The open pool that a device with this label is part of.
    fn served_from(&self, label: &engine::Label) -> Option<String> {
        self.open_pools().into_iter().map(|pool| pool.info()).find_map(|info| {
            let is_member = info.uuid == label.pool && info.devices.iter().any(|device| device.uuid == label.device);
            is_member.then_some(info.name)
        })
    }

    /// What is to be remembered of an open pool.
    pub(super) fn record_of(&self, pool: &Pool<Handle>) -> PoolRecord {
        let info = pool.info();
        let device = |device: &engine::DeviceInfo| {
            let path = absolute(&device.path);
            let mark = self.mark_of(&path);
            DeviceRecord { uuid: device.uuid, buffered: self.goes_buffered(&path), path, mark }
        };
        let devices = info.devices.iter().map(device).collect();
        PoolRecord { name: info.name, uuid: info.uuid, devices, generation: info.generation }
    }

    /// The pool here that `path` belongs to.
    pub(super) fn pool_on(&self, path: &str) -> Option<String> {
        let state = self.0.state.borrow();
        let mut pools = state.pools.iter();
        pools.find(|pool| pool.devices.iter().any(|device| same_file(&device.path, path))).map(|pool| pool.name.clone())
    }

    /// Serves an open pool that is remembered.
    pub(super) fn serve(&self, name: String, pool: Pool<Handle>) {
        self.tell_tenants(&pool);
        self.0.repaired.borrow_mut().remove(&pool.info().uuid);
        self.0.checked.borrow_mut().remove(&pool.info().uuid);
        self.0.below_told.borrow_mut().remove(&pool.info().uuid);
        self.note_healed(&pool);
        self.listen_to(pool.clone());
        self.follow_members(&pool);
        self.follow_growth(&pool);
        self.follow_audits(&pool);
        self.follow_below(&pool);
        self.0.pools.borrow_mut().insert(name, Slot::Open(pool));
    }

    /// Remembers an open pool and serves it; closes it when it cannot be remembered.
    pub(super) async fn adopt(&self, pool: Pool<Handle>) -> Answer<()> {
        let record = self.record_of(&pool);
        let name = record.name.clone();
        if let Err(problem) = self.remember(|state| state.put(record)).await {
            if let Err(error) = pool.close().await {
                tracing::warn!(pool = name, %error, "the pool could not be closed cleanly");
            }
            return Err(problem);
        }
        self.serve(name.clone(), pool);
        self.note_configured_served(&name).await;
        Ok(())
    }
}

/// What may be done with a device that is to be overwritten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Force {
    /// It may hold something.
    pub(super) foreign: bool,
    /// It may be a spare of another pool.
    pub(super) spare: bool,
}

impl Force {
    pub(super) fn of(asked: &[String]) -> Answer<Self> {
        let force = force_of(asked, &["foreign", "spare"])?;
        Ok(Self { foreign: force.contains(&"foreign"), spare: force.contains(&"spare") })
    }
}

/// The checks to override, each of which must be one that there is. `all` means all of them.
pub(super) fn force_of<'a>(asked: &[String], known: &[&'a str]) -> Answer<Vec<&'a str>> {
    let mut force = Vec::new();
    for check in asked {
        if check == "all" {
            force.extend(known);
        } else if let Some(check) = known.iter().find(|known| *known == check) {
            force.push(*check);
        } else {
            let detail = format!("there is no check {check:?} to override here; there is {}", known.join(", "));
            return Err(Problem::new("invalid-argument", detail));
        }
    }
    Ok(force)
}
