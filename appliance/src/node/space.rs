//! `space`: who has the space of a pool, to the last extent; what it promised beyond that; and how some could come back.
//!
//! What zeros, patterns and thinly used extents take is known only to who looks for it: the figures are those of the last survey.

use std::time::Duration;

use plimsoll_engine::{Pool, PoolInfo, Surveyed, VdiskInfo};
use plimsoll_hardware::{Handle, Machine};

use super::Node;
use super::division::Division;
use super::pool_list::percent;
use crate::model::{PromisedView, SpaceReport, SpaceView};
use crate::problem::Answer;
use crate::reclaimable;

impl Node {
    /// A line for each vdisk and for each other use; of one pool, or of all that are open. The largest first.
    ///
    /// # Errors
    /// `not-found` and `unavailable` for the pool.
    pub fn space(&self, pool: Option<&str>) -> Answer<SpaceReport> {
        let pools = match pool {
            Some(name) => vec![self.pool(name)?],
            None => self.open_pools(),
        };
        let mut report = SpaceReport { schema: "space.list/v1".to_owned(), items: Vec::new(), pools: Vec::new() };
        for pool in pools {
            let (info, vdisks, surveyed) = (pool.info(), pool.vdisks(), pool.surveyed());
            let now = self.machine().now();
            let available_below_bytes = self.available_below(&info).map(|(bytes, _)| bytes);
            report.pools.push(PromisedView { available_below_bytes, ..promised(&info, surveyed.as_ref(), now) });
            report.items.extend(space_of(&pool, &info, vdisks, now));
        }
        Ok(report)
    }
}

fn promised(info: &PoolInfo, surveyed: Option<&Surveyed>, now: Duration) -> PromisedView {
    PromisedView {
        pool: info.name.clone(),
        physical_bytes: info.physical_bytes,
        available_bytes: info.available_bytes,
        available_below_bytes: None,
        designated_bytes: info.designated_bytes,
        designated_bytes_max: info.designated_bytes_max,
        overcommit_bytes: info.overcommit_bytes,
        overcommit_ratio: info.overcommit_ratio,
        packed_bytes: info.counters.packed_bytes,
        reclaimable_bytes: surveyed.map(|surveyed| surveyed.total.bytes()),
        survey: surveyed.map(|surveyed| reclaimable::view(&surveyed.total, now)),
        advice: (info.utilized_bytes > 0).then(|| reclaimable::report(&info.name, surveyed, now)),
    }
}

fn space_of(pool: &Pool<Handle>, info: &PoolInfo, vdisks: Vec<VdiskInfo>, now: Duration) -> Vec<SpaceView> {
    let line = |what: &str, bytes: u64| SpaceView {
        pool: info.name.clone(),
        what: what.to_owned(),
        name: None,
        tenant: None,
        vm: None,
        physical_bytes: bytes,
        share_pct: percent(bytes, info.physical_bytes),
        designated_bytes: None,
        exclusive_bytes: None,
        shared_bytes: None,
        reserved_bytes: None,
        reclaimable_bytes: None,
        survey: None,
        reclaimed_bytes: None,
        held_writes: None,
    };
    let promised: u64 = vdisks.iter().map(|vdisk| vdisk.reserved_bytes).sum();
    let vdisks = vdisks.into_iter().map(|vdisk| {
        let division = Division::of_vdisk(&vdisk);
        let found = vdisk.reclaimable;
        SpaceView {
            name: Some(format!("{}/{}", info.name, vdisk.name)),
            designated_bytes: Some(vdisk.size),
            exclusive_bytes: Some(division.exclusive_bytes),
            shared_bytes: Some(division.shared_bytes),
            reserved_bytes: Some(vdisk.reserved_bytes),
            reclaimable_bytes: found.map(|found| found.bytes()),
            survey: found.map(|found| reclaimable::view(&found, now)),
            // One that is going away has none.
            reclaimed_bytes: pool.reclaim_info(&vdisk.name).ok().flatten().map(|reclaim| reclaim.freed_bytes),
            held_writes: Some(vdisk.held_writes),
            tenant: vdisk.policy.tenant,
            vm: vdisk.policy.vm,
            ..line("vdisk", vdisk.backed_bytes)
        }
    });
    let mut lines: Vec<SpaceView> = vdisks.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.physical_bytes));
    // In this order: metadata may have taken of its reserve, and what frees for promises may only wait for a flush.
    let named =
        info.utilized_bytes + info.metadata_bytes + info.held_bytes + info.quarantined_bytes + info.available_bytes;
    let kept = info.physical_bytes.saturating_sub(named);
    let reserve = info.metadata_reserve_bytes.min(kept);
    let withheld = info.reserved_bytes.min(kept - reserve);
    let reserved = promised.min(withheld);
    lines.extend([
        line("metadata", info.metadata_bytes),
        line("metadata-reserve", reserve),
        line("reserved", reserved),
        line("reserved-metadata", withheld - reserved),
        line("held", info.held_bytes),
        line("quarantine", info.quarantined_bytes),
        line("available", info.available_bytes),
    ]);
    lines
}
