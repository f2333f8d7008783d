//! `pool evacuate` and `pool remove-device`: emptying a device while everything goes on, and letting it go.

use std::time::Duration;

use plimsoll_engine::{DeviceInfo, DeviceState, Evacuate, EvacuationPlan, Pool};
use plimsoll_hardware::reactor::Handle;
use uuid::Uuid;

use super::below::{Below, aside, below};
use super::link::LOOK_TIME_MAX;
use super::machine::{absolute, same_file};
use super::{Node, by_uuid_prefix, uuid_prefix};
use crate::model::{JobView, LeaveDevice, Plan, PoolView};
use crate::policy::{RATE_BYTES_MAX, duration_text};
use crate::problem::{Answer, Problem};
use crate::units::iec;

/// Of an evacuation: its pace is kept in whole KiB.
const RATE_BYTES_MIN: u64 = 1024;

impl Node {
    /// Begins to empty a device; the job moves what is on it elsewhere. Asked again with a pace, it changes that.
    ///
    /// # Errors
    /// `not-found`, `invalid-argument` for the last device and a pace that cannot be, `would-not-fit`, the engine's reasons.
    pub async fn evacuate_device(&self, name: &str, request: LeaveDevice) -> Answer<JobView> {
        let _turn = self.turn().await?;
        let (pool, device) = self.member(name, &request.device)?;
        let job = pool.evacuate_device(device, pace(&request)?).await?;
        tracing::info!(pool = name, device = request.device, "a device is being evacuated");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// Begins to empty a device, if it is not empty, and to let it go.
    ///
    /// # Errors
    /// As [`Node::evacuate_device`].
    pub async fn remove_device(&self, name: &str, request: LeaveDevice) -> Answer<JobView> {
        let _turn = self.turn().await?;
        let (pool, device) = self.member(name, &request.device)?;
        let job = pool.remove_device(device, pace(&request)?).await?;
        tracing::info!(pool = name, device = request.device, "a device is leaving the pool");
        Ok(super::jobs::view(&pool.info().name, &job))
    }

    /// Keeps a device that was to be emptied.
    ///
    /// # Errors
    /// `not-found`, `busy` when it is not being emptied.
    pub async fn cancel_evacuation(&self, name: &str, request: LeaveDevice) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        self.plan_cancel_evacuation(name, &request)?;
        let (pool, device) = self.member(name, &request.device)?;
        pool.cancel_evacuation(device).await?;
        tracing::info!(pool = name, device = request.device, "a device is kept");
        self.pool_view(name)
    }

    /// What [`Node::evacuate_device`], or with `remove` [`Node::remove_device`], would do, and whether it fits.
    ///
    /// # Errors
    /// As there.
    pub async fn plan_evacuation(&self, name: &str, request: LeaveDevice, remove: bool) -> Answer<Plan> {
        let (pool, device) = self.member(name, &request.device)?;
        let rate = pace(&request)?.rate.filter(|rate| *rate > 0);
        let plan = pool.evacuation_plan(device).await?;
        let info = pool.info();
        if plan.missing_bytes > 0 {
            let EvacuationPlan { device, needed_bytes: needed, free_bytes: free, missing_bytes: missing, .. } = plan;
            return Err(plimsoll_engine::Error::WouldNotFit { pool: info.name, device, needed, free, missing }.into());
        }
        let stays = |other: &DeviceInfo| other.uuid != device && other.state == DeviceState::InUse;
        let others: Vec<_> = info.devices.into_iter().filter(stays).collect();
        // Without it where a file system does not answer.
        let found = self.machine().timeout(LOOK_TIME_MAX, aside(move || below(&others))).await;
        let mut room = found.ok().and_then(Result::ok).flatten();
        if let Some(room) = &mut room {
            // What metadata keeps is nobody else's.
            room.room_bytes = room.room_bytes.saturating_sub(info.metadata_reserve_bytes);
        }
        Ok(described(&info.name, &plan, rate, remove, room))
    }

    /// What [`Node::cancel_evacuation`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn plan_cancel_evacuation(&self, name: &str, request: &LeaveDevice) -> Answer<Plan> {
        let (pool, device) = self.member(name, &request.device)?;
        let info = pool.info();
        let Some(device) = info.devices.iter().find(|known| known.uuid == device) else {
            return Err(Problem::not_found("device", &request.device));
        };
        let (path, pool) = (&device.path, &info.name);
        if device.state == DeviceState::InUse {
            let detail = format!("there is no evacuation to call off: {path} of pool {pool} is not being evacuated");
            return Err(Problem::new("busy", detail).hint(format!("plimsoll pool show {pool}")));
        }
        let left = iec(device.used_bytes);
        Ok(Plan::of([format!("keep {path} in pool {pool}: {left} stay on it, and what has moved stays where it is")]))
    }

    /// An open pool and the member of it that `text` means: a path, a UUID, or a prefix of that.
    pub(super) fn member(&self, name: &str, text: &str) -> Answer<(Pool<Handle>, Uuid)> {
        let pool = self.pool(name)?;
        let devices = pool.info().devices;
        let path = absolute(text);
        let mut found = devices.iter().find(|device| same_file(&device.path, &path)).map(|device| device.uuid);
        if let (None, Some(prefix)) = (found, uuid_prefix(text)) {
            let named = by_uuid_prefix(&prefix, devices.iter().map(|device| (device.uuid, device.path.as_str())))?;
            found = named.and_then(|path| devices.iter().find(|device| device.path == path)).map(|device| device.uuid);
        }
        let device = found.ok_or_else(|| {
            Problem::new("not-found", format!("{text} is no device of pool {name}"))
                .hint(format!("plimsoll pool show {name} --json"))
        })?;
        Ok((pool, device))
    }

    /// Remembers which devices a pool has, whenever that changes by itself: one that was let go is not looked for again.
    pub(super) fn follow_members(&self, pool: &Pool<Handle>) {
        let (node, pool) = (self.clone(), pool.clone());
        self.spawn(async move {
            let name = pool.info().name;
            node.begin_look_astray(&name);
            while pool.members_changed().await {
                let record = node.record_of(&pool);
                // A finding until it is noted.
                let _ = node.note(|state| state.update(record)).await;
                node.begin_look_astray(&name);
            }
        });
    }
}

/// How fast a device is emptied; what is under way keeps its pace when none is named.
fn pace(request: &LeaveDevice) -> Answer<Evacuate> {
    let rate = request.rate_bytes;
    match rate.filter(|rate| *rate > 0 && !(RATE_BYTES_MIN..=RATE_BYTES_MAX).contains(rate)) {
        Some(rate) => {
            let (rate, least, most) = (iec(rate), iec(RATE_BYTES_MIN), iec(RATE_BYTES_MAX));
            let detail = format!(
                "{rate} a second cannot be the pace of an evacuation: {least} to {most} can, and none, no limit"
            );
            Err(Problem::new("invalid-argument", detail).hint("say --rate 100M"))
        }
        None => Ok(Evacuate { rate }),
    }
}

/// `room`: what of the free space there is room for below the other devices, where that is not all.
fn described(pool: &str, plan: &EvacuationPlan, rate: Option<u64>, remove: bool, room: Option<Below>) -> Plan {
    let pace = rate.map_or_else(String::new, |rate| {
        let time = duration_text(Duration::from_secs(plan.needed_bytes / rate));
        format!(" at {} a second, so {time} at least", iec(rate))
    });
    let mut steps = vec![format!(
        "move {} of data and metadata from {} to the other devices of pool {pool}{pace}",
        iec(plan.needed_bytes),
        plan.device
    )];
    let free = room.as_ref().map_or(plan.free_bytes, |room| room.room_bytes.min(plan.free_bytes));
    if let Some(room) = room.filter(|_| free < plan.needed_bytes) {
        let (fits, missing) = (iec(free), iec(plan.needed_bytes - free));
        steps.push(format!(
            "wait there for room: below the other devices is some for {fits} of that, {missing} are missing (df -h {})",
            room.path
        ));
    }
    match plan.journal_copies {
        0 => {}
        1 => steps.push("move one of the journal's two copies".to_owned()),
        _ => steps.push("move both copies of the journal".to_owned()),
    }
    if remove {
        steps.push(format!("let {} go and wipe its labels", plan.device));
    }
    steps.push(format!("leave {} free there", iec(free.saturating_sub(plan.needed_bytes))));
    Plan { steps, needs_bytes: Some(plan.needed_bytes), ..Plan::of([]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_counts_the_room_below_the_devices_that_stay() {
        const MIB: u64 = 1 << 20;
        let (needed_bytes, free_bytes, device) = (40 * MIB, 100 * MIB, "/dev/a".to_owned());
        let plan = EvacuationPlan { device, needed_bytes, free_bytes, missing_bytes: 0, journal_copies: 0 };
        let steps = |room: Option<u64>| {
            let room = room.map(|mib| Below { room_bytes: mib * MIB, path: "/srv/b.img".into() });
            described("tank", &plan, None, false, room).steps
        };
        let moved = "move 40 MiB of data and metadata from /dev/a to the other devices of pool tank";
        assert_eq!(steps(None), [moved, "leave 60 MiB free there"]);
        assert_eq!(steps(Some(50)), [moved, "leave 10 MiB free there"]);
        let waits = "wait there for room: below the other devices is some for 8 MiB of that, 32 MiB are missing (df -h /srv/b.img)";
        assert_eq!(steps(Some(8)), [moved, waits, "leave 0 B free there"]);
    }
}
