//! `space`: who has the space of a pool, to the last extent.

use plimsoll_engine::Pool;
use plimsoll_hardware::Handle;

use super::Node;
use super::pool_list::percent;
use crate::model::SpaceView;
use crate::problem::Answer;

impl Node {
    /// A line for each vdisk and for each other use; of one pool, or of all that are open. The largest first.
    ///
    /// # Errors
    /// `not-found` and `unavailable` for the pool.
    pub fn space(&self, pool: Option<&str>) -> Answer<Vec<SpaceView>> {
        let pools = match pool {
            Some(name) => vec![self.pool(name)?],
            None => self.open_pools(),
        };
        Ok(pools.iter().flat_map(space_of).collect())
    }
}

fn space_of(pool: &Pool<Handle>) -> Vec<SpaceView> {
    let info = pool.info();
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
        held_writes: None,
    };
    let vdisks = pool.vdisks().into_iter().map(|vdisk| SpaceView {
        name: Some(format!("{}/{}", info.name, vdisk.name)),
        tenant: vdisk.policy.tenant,
        vm: vdisk.policy.vm,
        designated_bytes: Some(vdisk.size),
        // Nothing is shared before there are snapshots.
        exclusive_bytes: Some(vdisk.backed_bytes),
        shared_bytes: Some(0),
        reserved_bytes: Some(vdisk.reserved_bytes),
        held_writes: Some(vdisk.held_writes),
        ..line("vdisk", vdisk.backed_bytes)
    });
    let mut lines: Vec<SpaceView> = vdisks.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.physical_bytes));
    // In this order: metadata may have taken of its reserve, and what frees for promises may only wait for a flush.
    let named =
        info.utilized_bytes + info.metadata_bytes + info.held_bytes + info.quarantined_bytes + info.available_bytes;
    let kept = info.physical_bytes.saturating_sub(named);
    let reserve = info.metadata_reserve_bytes.min(kept);
    let reserved = info.reserved_bytes.min(kept - reserve);
    lines.extend([
        line("metadata", info.metadata_bytes),
        line("metadata-reserve", reserve),
        line("reserved", reserved),
        line("held", info.held_bytes),
        line("quarantine", info.quarantined_bytes),
        line("available", info.available_bytes),
    ]);
    lines
}
