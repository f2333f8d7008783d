//! After a start: everything compared with the model, then the engine's own check, then the figures.

use std::collections::BTreeSet;

use plimsoll_engine::{Finding, JobInfo, JobState, StatusRange, Vdisk, VdiskState};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

use super::model::{Existence, Model};
use super::session::Session;
use super::window::{Found, Votes};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Virtual milliseconds that a background job may take.
const JOB_MS_MAX: u32 = 100_000;

/// Compares everything a start found, and settles the model on it.
pub async fn everything(session: &Session) {
    existence(session);
    let serials: Vec<u16> = session.state.borrow().model.disks.keys().copied().collect();
    for serial in serials {
        vdisk(session, serial).await;
    }
    session.state.borrow_mut().model.power = false;
}

/// Which vdisks are there, and how large.
fn existence(session: &Session) {
    let infos = session.pool.vdisks();
    session.state.borrow_mut().pool.settle(session.pool.policy(), "the pool");
    let model: &mut Model = &mut session.state.borrow_mut().model;
    let mut known = BTreeSet::new();
    model.disks.retain(|_, disk| {
        let info = infos.iter().find(|info| info.name == disk.name && info.state != VdiskState::Deleting);
        let Some(info) = info else {
            assert!(disk.existence != Existence::Certain, "vdisk {} ({}) is gone", disk.name, disk.serial);
            return false;
        };
        known.insert(info.uuid);
        disk.existence = Existence::Certain;
        disk.exclusive = false;
        if let Some(size) = disk.size_asked.take().filter(|&size| size == info.size) {
            if size < disk.size {
                disk.windows.iter_mut().for_each(|window| window.cut(size));
            }
            disk.size = size;
        }
        let expected = (disk.size, disk.sector, disk.write_through);
        let found = (info.size, u64::from(info.sector), info.write_through);
        assert_eq!(found, expected, "vdisk {} has another size, sector or caching", disk.name);
        disk.decided.settle(info.policy.clone(), &disk.name);
        let allowed = disk.decided.policy.quota.map_or(u64::MAX, |quota| quota.max(disk.had));
        assert!(info.backed_bytes <= allowed, "vdisk {} has more than its quota, {allowed}: {info:?}", disk.name);
        disk.had = info.backed_bytes;
        true
    });
    for info in infos.iter().filter(|info| info.state != VdiskState::Deleting) {
        assert!(known.contains(&info.uuid), "vdisk {} is there and nobody made it", info.name);
    }
}

async fn vdisk(session: &Session, serial: u16) {
    let Some((name, size, places)) = session.state.borrow().model.disks.get(&serial).map(|disk| {
        let places: Vec<_> = disk.windows.iter().map(|window| (window.start, window.length())).collect();
        (disk.name.clone(), disk.size, places)
    }) else {
        return;
    };
    let handle = session.pool.vdisk(&name).unwrap_or_else(|error| panic!("vdisk {name} cannot be opened: {error}"));
    let ranges = session.ask(handle.block_status(0, size, usize::MAX)).await;
    let ranges = ranges.unwrap_or_else(|error| panic!("the block status of {name} failed: {error}"));
    count_backed(session, &handle, &ranges, &places);
    let mut votes = Votes::new();
    for (index, (start, length)) in places.into_iter().enumerate() {
        let mut bytes = vec![0; length as usize];
        let inside = size.saturating_sub(start).min(length);
        for (chunk, bytes) in bytes[..inside as usize].chunks_mut(READ_BYTES).enumerate() {
            let at = start + (chunk * READ_BYTES) as u64;
            if inside > READ_BYTES as u64 && holes(&ranges, at, bytes.len() as u64, 4096).iter().all(|&hole| hole) {
                continue;
            }
            let buffer = session.machine.buffers().alloc(bytes.len()).await;
            let read = session.ask(handle.read(at, buffer)).await;
            let read = read.unwrap_or_else(|error| panic!("{name} cannot be read at {at}: {error}"));
            bytes.copy_from_slice(&read);
        }
        let state = &mut *session.state.borrow_mut();
        // Four leaves at least change at once.
        let step = 4 * 512 * session.setup.extent;
        let found = Found { power: state.model.power, flushed: state.model.flushed(), step };
        let Some(disk) = state.model.disks.get_mut(&serial) else { return };
        let window = &mut disk.windows[index];
        let holes = holes(&ranges, start, length, window.block);
        let settled = window.settle(serial, &bytes, &found, &holes, &mut votes);
        settled.unwrap_or_else(|error| panic!("vdisk {name} ({serial}): {error}"));
    }
    for ((op, _), (undone, done)) in votes {
        assert!(!(undone && done), "discard {op} of vdisk {name} happened in part");
    }
}

/// Which blocks of a window are holes; those beyond the end are.
fn holes(ranges: &[StatusRange], start: u64, length: u64, block: u64) -> Vec<bool> {
    let mut holes = vec![true; length.div_ceil(block) as usize];
    let mut at = 0;
    for range in ranges {
        let (from, until) = (at.max(start), (at + range.length).min(start + length));
        if range.data && from < until {
            holes[((from - start) / block) as usize..((until - start).div_ceil(block)) as usize].fill(false);
        }
        at += range.length;
    }
    holes
}

/// Nothing has space that was never written to, and the vdisk's own count of extents is right.
fn count_backed(session: &Session, handle: &Vdisk<SimMachine>, ranges: &[StatusRange], places: &[(u64, u64)]) {
    let extent = session.setup.extent;
    let info = handle.info();
    let (mut at, mut extents, mut last, mut bytes) = (0, 0, None, 0);
    for range in ranges {
        let end = at + range.length;
        if range.data {
            let inside = places.iter().any(|(start, length)| *start <= at && end <= start + length);
            assert!(inside, "{} has data at {at}..{end}, where nobody wrote", info.name);
            let (first, final_one) = (at / extent, (end - 1) / extent);
            extents += final_one - first + u64::from(last != Some(first));
            last = Some(final_one);
            bytes += range.length;
        }
        at = end;
    }
    assert_eq!(at, info.size, "the block status of {} covers another size", info.name);
    if info.state == VdiskState::Ready {
        // What is stored by the number of a pattern is data and has nothing behind it, a reclaim that goes on after the start may
        // have freed something since the status was asked for, and extents may be shared.
        let backed = info.backed_bytes / extent;
        let goes_on = session.pool.reclaim_info(&info.name).is_ok_and(|reclaim| reclaim.is_some());
        let exact = session.pool.patterns().is_empty() && !goes_on;
        let least = if exact { bytes.div_ceil(extent) } else { 0 };
        let right = (least..=extents).contains(&backed);
        assert!(
            right,
            "the count of extents behind {} is wrong: {ranges:?}, after a start that found {:?}",
            info.name,
            session.pool.info().recovery
        );
    }
}

/// The engine's own check finds nothing.
pub async fn check(session: &Session) {
    match session.ask(session.pool.check()).await {
        Ok(report) => {
            let bad: Vec<_> = report.findings.iter().filter(|finding| !is_excused(session, finding)).collect();
            assert!(bad.is_empty(), "the check found {bad:#?}");
        }
        Err(error) => session.bear("a check", &error),
    }
}

/// As [`check`], while faults may strike: then what it finds is not judged.
pub async fn check_online(session: &Session) {
    session.did("checks beside work");
    if session.setup.faults.is_none() {
        return check(session).await;
    }
    if let Err(error) = session.ask(session.pool.check()).await {
        session.bear("a check", &error);
    }
}

/// Copies that faults have spoiled may be found, and must be healed.
fn is_excused(session: &Session, finding: &Finding) -> bool {
    finding.kind == "bad-copy" && (session.setup.faults.is_some() || finding.message.contains("journal batches"))
}

/// Waits for background jobs, and compares the pool's figures with a recount. Nothing else may be under way.
pub async fn figures(session: &Session) {
    for passed in 0.. {
        let busy = session.pool.vdisks().iter().any(|info| info.state != VdiskState::Ready);
        if !busy {
            break;
        }
        if is_stuck(session) {
            return session.give_up();
        }
        assert!(passed < JOB_MS_MAX, "a background job does not end: {:?}", session.pool.jobs());
        session.pause().await;
    }
    super::members::settle(session).await;
    // A checkpoint under way holds extents.
    for _ in 0..JOB_MS_MAX {
        if held(session) == 0 {
            break;
        }
        session.pause().await;
    }
    if is_stuck(session) {
        return session.give_up();
    }
    let backed: u64 = session.pool.vdisks().iter().map(|info| info.backed_bytes).sum();
    let info = session.pool.info();
    assert_eq!(info.utilized_bytes, backed, "the pool's data is not the sum of its vdisks'");
    assert_eq!(held(session), 0, "bytes are held by nobody: {info:?}");
}

/// Faults have ended a job or all writing; the next start goes on.
fn is_stuck(session: &Session) -> bool {
    let failed = |job: &JobInfo| matches!(job.state, JobState::Failed(_));
    session.setup.faults.is_some()
        && (session.pool.info().read_only.is_some() || session.pool.jobs().iter().any(failed))
}

/// Bytes that are neither used nor free.
fn held(session: &Session) -> u64 {
    let info = session.pool.info();
    let used = info.utilized_bytes + info.metadata_bytes + info.quarantined_bytes;
    let free = info.available_bytes + info.metadata_reserve_bytes + info.reserved_bytes;
    // The reserve is not whole when nothing is available.
    if info.available_bytes == 0 { 0 } else { info.physical_bytes - used - free }
}
