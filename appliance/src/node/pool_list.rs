//! What is known of pools.

use std::time::Duration;

use plimsoll_engine::{DeviceInfo, DeviceState, Pool, PoolInfo, Thresholds};
use plimsoll_hardware::Machine;
use plimsoll_hardware::reactor::Handle;

use super::division::Division;
use super::state::PoolRecord;
use super::{Node, Slot};
use crate::model::{CountersView, PoolDeviceView, PoolState, PoolView, RecoveryView, time_of};
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::reclaimable;

impl Node {
    /// All pools, unavailable ones too, by name.
    pub fn pools(&self) -> Vec<PoolView> {
        let names: Vec<String> = self.0.pools.borrow().keys().cloned().collect();
        names.iter().filter_map(|name| self.pool_view(name).ok()).collect()
    }

    /// One pool.
    ///
    /// # Errors
    /// `not-found`.
    pub fn pool_view(&self, name: &str) -> Answer<PoolView> {
        let name = self.pool_name(name)?;
        match self.0.pools.borrow().get(&name) {
            Some(Slot::Open(pool)) => {
                let info = pool.info();
                let view = online(pool, self.machine().now());
                let buffered =
                    |device: PoolDeviceView| PoolDeviceView { buffered: self.goes_buffered(&device.path), ..device };
                Ok(PoolView {
                    devices: view.devices.into_iter().map(buffered).collect(),
                    growth: self.growth_view(info.uuid),
                    last_check: self.last_check(info.uuid),
                    available_below_bytes: self.available_below(&info).map(|(bytes, _)| bytes),
                    ..view
                })
            }
            Some(Slot::Unavailable(reason)) => {
                let state = self.0.state.borrow();
                let record = state.pools.iter().find(|pool| pool.name == name);
                Ok(unavailable(&name, record, reason))
            }
            None => Err(Problem::not_found("pool", &name)),
        }
    }

    pub(super) fn open_pools(&self) -> Vec<Pool<Handle>> {
        let pools = self.0.pools.borrow();
        pools.values().filter_map(|slot| if let Slot::Open(pool) = slot { Some(pool.clone()) } else { None }).collect()
    }
}

fn online(pool: &Pool<Handle>, now: Duration) -> PoolView {
    let (info, surveyed): (PoolInfo, _) = (pool.info(), pool.surveyed());
    let used = info.physical_bytes.saturating_sub(info.available_bytes);
    let division = Division::of(info.utilized_bytes, info.designated_bytes);
    PoolView {
        state: if info.read_only.is_some() { PoolState::ReadOnly } else { PoolState::Online },
        reason_code: info.read_only.as_ref().map(|_| "read-only".to_owned()),
        reason: info.read_only,
        starved: info.starved,
        created_at: Some(time_of(info.created_ms)),
        extent_bytes: Some(info.extent_bytes.into()),
        block_bytes: Some(info.block_bytes.into()),
        physical_bytes: Some(info.physical_bytes),
        available_bytes: Some(info.available_bytes),
        available_below_bytes: None,
        utilized_bytes: Some(info.utilized_bytes),
        exclusive_bytes: Some(division.exclusive_bytes),
        shared_bytes: Some(division.shared_bytes),
        reclaimable_bytes: surveyed.as_ref().map(|surveyed| surveyed.total.bytes()),
        metadata_bytes: Some(info.metadata_bytes),
        metadata_reserve_bytes: Some(info.metadata_reserve_bytes),
        reserved_bytes: Some(info.reserved_bytes),
        held_bytes: Some(info.held_bytes),
        held_writes: Some(info.held_writes),
        held_writes_bytes: Some(info.held_writes_bytes),
        hold_bytes_max: Some(info.held_writes_bytes_max),
        hold_bytes_by_default: Some(info.policy.hold_bytes.is_none()),
        quarantined_bytes: Some(info.quarantined_bytes),
        designated_bytes: Some(info.designated_bytes),
        regulation_bytes: Some(division.regulation_bytes),
        effective_bytes: Some(division.effective_bytes),
        overcommit_bytes: Some(info.overcommit_bytes),
        overcommit_ratio: Some(info.overcommit_ratio),
        designated_bytes_max: info.designated_bytes_max,
        used_pct: Some(percent(used, info.physical_bytes)),
        overcommit_limit: Some(policy::overcommit_limit_text(info.policy.overcommit_limit)),
        thresholds: Some(policy::levels_text(&info.policy.levels)),
        hysteresis_pct: Some(f64::from(info.policy.hysteresis_pct.unwrap_or(Thresholds::default().hysteresis_pct()))),
        horizons: Some(policy::horizons_text(info.policy.horizons.as_deref())),
        time_to_full_seconds: info.time_to_full.map(|time| time.as_secs_f64()),
        growth_bytes_per_second: Some(info.growth_bytes_per_s),
        vdisks: Some(info.vdisks),
        devices: info.devices.iter().map(|device| device_view(&info.name, device)).collect(),
        generation: Some(info.generation),
        recovery: Some(RecoveryView {
            clean: info.recovery.clean,
            records_replayed: info.recovery.records_replayed,
            records_dropped: info.recovery.records_dropped,
            from_crash_memory: info.recovery.from_crash_memory,
            warnings: [info.recovery.ends_lost, info.recovery.warnings].concat(),
            healed: info.recovery.healed,
        }),
        counters: Some(CountersView {
            reads: info.counters.reads,
            read_bytes: info.counters.read_bytes,
            writes: info.counters.writes,
            write_bytes: info.counters.write_bytes,
            first_writes: info.counters.first_writes,
            discards: info.counters.discards,
            flushes: info.counters.flushes,
            journal_commits: info.counters.journal_commits,
            journal_commits_ahead: info.counters.journal_commits_ahead,
            checkpoints: info.counters.checkpoints,
            held_writes: info.counters.held_writes,
            held_write_bytes: info.counters.held_write_bytes,
            refused_writes: info.counters.refused_writes,
            pages_healed: info.counters.pages_healed,
            pages_lost: info.counters.pages_lost,
            zero_bytes: info.counters.zero_bytes,
            pattern_bytes: info.counters.pattern_bytes,
            packed_bytes: info.counters.packed_bytes,
            cached_mapping_bytes: info.counters.cached_mapping_bytes,
        }),
        survey: surveyed.map(|surveyed| reclaimable::view(&surveyed.total, now)),
        uuid: info.uuid.to_string(),
        name: info.name,
        last_check: None,
        growth: None,
    }
}

fn unavailable(name: &str, record: Option<&PoolRecord>, reason: &Problem) -> PoolView {
    let device = |device: &super::state::DeviceRecord| PoolDeviceView {
        path: device.path.clone(),
        uuid: device.uuid.to_string(),
        pool: name.to_owned(),
        buffered: device.buffered,
        index: None,
        size_bytes: None,
        volatile_cache: None,
        rotational: None,
        used_bytes: None,
        journal: None,
        state: None,
    };
    PoolView {
        name: name.to_owned(),
        uuid: record.map(|record| record.uuid.to_string()).unwrap_or_default(),
        state: PoolState::Unavailable,
        reason: Some(reason.detail.clone()),
        reason_code: Some(reason.code.clone()),
        starved: None,
        created_at: None,
        extent_bytes: None,
        block_bytes: None,
        physical_bytes: None,
        available_bytes: None,
        available_below_bytes: None,
        utilized_bytes: None,
        exclusive_bytes: None,
        shared_bytes: None,
        reclaimable_bytes: None,
        metadata_bytes: None,
        metadata_reserve_bytes: None,
        reserved_bytes: None,
        held_bytes: None,
        held_writes: None,
        held_writes_bytes: None,
        hold_bytes_max: None,
        hold_bytes_by_default: None,
        quarantined_bytes: None,
        designated_bytes: None,
        regulation_bytes: None,
        effective_bytes: None,
        overcommit_bytes: None,
        overcommit_ratio: None,
        designated_bytes_max: None,
        used_pct: None,
        overcommit_limit: None,
        thresholds: None,
        hysteresis_pct: None,
        horizons: None,
        time_to_full_seconds: None,
        growth_bytes_per_second: None,
        vdisks: None,
        devices: record.map(|record| record.devices.iter().map(device).collect()).unwrap_or_default(),
        generation: None,
        recovery: None,
        counters: None,
        survey: None,
        last_check: None,
        growth: None,
    }
}

fn device_view(pool: &str, device: &DeviceInfo) -> PoolDeviceView {
    PoolDeviceView {
        path: device.path.clone(),
        uuid: device.uuid.to_string(),
        pool: pool.to_owned(),
        buffered: false,
        index: Some(device.index),
        size_bytes: Some(device.size_bytes),
        volatile_cache: Some(device.volatile_cache),
        rotational: Some(device.rotational),
        used_bytes: Some(device.used_bytes),
        journal: Some(device.has_journal),
        state: Some(
            match device.state {
                DeviceState::InUse => "in-use",
                DeviceState::Evacuating => "evacuating",
                DeviceState::Evacuated => "evacuated",
            }
            .to_owned(),
        ),
    }
}

/// Hundred times `part` by `whole`, with one decimal.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 1000.0 / whole as f64).round() / 10.0 }
}
