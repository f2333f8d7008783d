//! Clients that change which devices a pool has: add, grow, evacuate, keep, remove.

use plimsoll_engine::{DeviceInfo, Error, Evacuate, JobInfo, JobState, identify};
use plimsoll_hardware::Device;

use super::session::Session;
use super::trace::say;

/// Virtual milliseconds that a device may take to be emptied before that is called off.
const EVACUATION_MS_MAX: u32 = 20_000;

/// Devices do not grow beyond this.
const DISK_BYTES_MAX: u64 = 96 << 20;

/// Does one thing to a device.
pub async fn run(session: &Session) {
    let devices = session.pool.info().devices;
    let device = &devices[session.below(devices.len() as u64) as usize];
    let rate = [None, Some(0), Some(4 << 20), Some(64 << 10)][session.below(4) as usize];
    let (what, result) = match session.below(10) {
        8.. => ("devices grown", grow(session, device).await),
        0..3 => (
            "evacuations asked for",
            session.ask(session.pool.evacuate_device(device.uuid, Evacuate { rate })).await.map(drop),
        ),
        3..6 => (
            "removals asked for",
            session.ask(session.pool.remove_device(device.uuid, Evacuate { rate })).await.map(drop),
        ),
        6 => ("devices kept", session.ask(session.pool.cancel_evacuation(device.uuid)).await),
        _ => ("paces changed", session.ask(session.pool.set_evacuation_rate(device.uuid, Evacuate { rate })).await),
    };
    say(|| format!("{what}: {} at {rate:?}: {result:?}", device.path));
    match result {
        Ok(()) => session.did(what),
        // The last one; no room; being added or let go by somebody else; gone since we looked.
        Err(Error::InvalidArgument(_) | Error::WouldNotFit { .. } | Error::Busy { .. } | Error::NotFound { .. }) => {}
        Err(error) => session.bear("a change of devices", &error),
    }
}

/// Makes a device larger, mostly, and has the pool use that.
async fn grow(session: &Session, device: &DeviceInfo) -> Result<(), Error> {
    let index = (0..=session.setup.devices).find(|index| device.path == format!("disk{index}")).unwrap_or_default();
    let more = session.below(4) << 20;
    let size = session.machine.open(index).geometry().size + more;
    if more > 0 && size <= DISK_BYTES_MAX {
        session.machine.extend(index, size);
    }
    session.ask(session.pool.grow_device(device.uuid)).await.map(drop)
}

/// Makes the last device larger, mostly, and has the pool use that.
pub async fn grow_last(session: &Session) {
    let devices = session.pool.info().devices;
    let Some(device) = devices.last() else { return };
    match grow(session, device).await {
        // It is being emptied, or somebody else changes devices.
        Ok(()) | Err(Error::InvalidArgument(_) | Error::Busy { .. } | Error::NotFound { .. }) => {}
        Err(error) => session.bear("growing by itself", &error),
    }
}

/// Adds a device that is in no pool, if there is one.
pub async fn add(session: &Session) {
    let members = session.pool.info().devices;
    let free =
        (0..=session.setup.devices).find(|index| members.iter().all(|member| member.path != format!("disk{index}")));
    let Some(index) = free else { return };
    let device = session.machine.open(index);
    // An attempt that a crash has cut short leaves a label, and so does a device that was let go.
    let force = match identify(&session.machine, &device).await {
        Ok(label) => label.is_some(),
        Err(Error::NotAPool { .. }) => true,
        Err(error) => return session.bear("a look at a spare device", &error),
    };
    let result = session.ask(session.pool.add_device(device, force)).await;
    say(|| format!("add disk{index}: {result:?}"));
    match result {
        Ok(()) => session.did("devices added"),
        // Somebody else was faster.
        Err(Error::Busy { .. }) => {}
        Err(error) => session.bear("adding a device", &error),
    }
}

/// Whether a device is being emptied.
pub fn is_moving(session: &Session) -> bool {
    session.pool.jobs().iter().any(|job| is_evacuation(job) && job.state == JobState::Running)
}

fn is_evacuation(job: &JobInfo) -> bool {
    job.kind == "device-evacuate"
}

/// Waits until no device is being emptied; one that takes long, for want of space or at a slow pace, is kept.
pub async fn settle(session: &Session) {
    for passed in 0.. {
        if !is_moving(session) || session.pool.info().read_only.is_some() {
            break;
        }
        assert!(passed < 2 * EVACUATION_MS_MAX, "an evacuation does not end: {:?}", session.pool.jobs());
        if passed % 1000 == 0 && passed >= EVACUATION_MS_MAX {
            for device in session.pool.info().devices {
                let kept = session.ask(session.pool.cancel_evacuation(device.uuid)).await;
                assert!(!matches!(kept, Err(Error::WouldNotFit { .. })), "a device that stays needs no room");
            }
        }
        session.pause().await;
    }
    if session.setup.faults.is_none() && !session.room.was_short() {
        for job in session.pool.jobs().iter().filter(|job| is_evacuation(job)) {
            assert!(!matches!(job.state, JobState::Failed(_)), "an evacuation failed: {job:?}");
        }
    }
}
