//! What is known of vdisks.

use std::time::Duration;

use plimsoll_engine::{self as engine, Pool};
use plimsoll_hardware::{Handle, Machine};

use super::division::Division;
use super::pool_list::percent;
use super::{Node, by_uuid_prefix, uuid_prefix};
use crate::model::{VdiskState, VdiskView, WriteCache, time_of};
use crate::name::VdiskName;
use crate::policy;
use crate::problem::{Answer, Problem};
use crate::reclaimable;

impl Node {
    /// All vdisks of a pool, or of all open pools, by name.
    ///
    /// # Errors
    /// `not-found` and `unavailable` for the pool.
    pub fn vdisks(&self, pool: Option<&str>) -> Answer<Vec<VdiskView>> {
        let pools = match pool {
            Some(name) => vec![self.pool(name)?],
            None => self.open_pools(),
        };
        let clients = self.clients_by_export();
        let mut vdisks = Vec::new();
        for pool in pools {
            let name = pool.info().name;
            for info in pool.vdisks() {
                let connected = clients.get(&format!("{name}/{}", info.name)).copied().unwrap_or(0);
                vdisks.push(view(&name, &info, self.machine().now(), connected));
            }
        }
        vdisks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(vdisks)
    }

    /// One vdisk.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub fn vdisk(&self, name: &VdiskName) -> Answer<VdiskView> {
        let (pool, info) = self.find_vdisk(name)?;
        Ok(self.vdisk_view(&pool.info().name, &info))
    }

    /// A vdisk by its name, UUID or an unambiguous prefix of that.
    pub(super) fn find_vdisk(&self, name: &VdiskName) -> Answer<(Pool<Handle>, engine::VdiskInfo)> {
        let pool = self.pool(&name.pool)?;
        if let Ok(vdisk) = pool.vdisk(&name.vdisk) {
            return Ok((pool, vdisk.info()));
        }
        let unknown = || Problem::not_found("vdisk", &name.to_string());
        let prefix = uuid_prefix(&name.vdisk).ok_or_else(unknown)?;
        let known = pool.vdisks();
        let by_uuid = by_uuid_prefix(&prefix, known.iter().map(|info| (info.uuid, info.name.as_str())))?;
        let found = known.iter().find(|info| by_uuid.as_ref() == Some(&info.name)).cloned().ok_or_else(unknown)?;
        Ok((pool, found))
    }

    pub(super) fn vdisk_view(&self, pool: &str, info: &engine::VdiskInfo) -> VdiskView {
        view(pool, info, self.machine().now(), self.clients_of(&format!("{pool}/{}", info.name)))
    }
}

fn view(pool: &str, info: &engine::VdiskInfo, now: Duration, clients: u64) -> VdiskView {
    let division = Division::of_vdisk(info);
    let found = info.reclaimable;
    VdiskView {
        name: format!("{pool}/{}", info.name),
        pool: pool.to_owned(),
        vdisk: info.name.clone(),
        uuid: info.uuid.to_string(),
        state: match info.state {
            engine::VdiskState::Ready => VdiskState::Ready,
            engine::VdiskState::Shrinking => VdiskState::Shrinking,
            engine::VdiskState::Deleting => VdiskState::Deleting,
        },
        created_at: time_of(info.created_ms),
        designated_bytes: info.size,
        backed_bytes: info.backed_bytes,
        exclusive_bytes: division.exclusive_bytes,
        shared_bytes: division.shared_bytes,
        reclaimable_bytes: found.map(|found| found.bytes()),
        regulation_bytes: division.regulation_bytes,
        effective_bytes: division.effective_bytes,
        available_bytes: division.effective_bytes.saturating_sub(info.backed_bytes),
        reservation_bytes: info.policy.reservation,
        quota_bytes: info.policy.quota,
        reserved_bytes: info.reserved_bytes,
        on_full: policy::on_full_text(info.policy.on_full),
        held_writes: info.held_writes,
        held_writes_bytes: info.held_writes_bytes,
        exhausted: info.exhausted_since.is_some(),
        tenant: info.policy.tenant.clone(),
        vm: info.policy.vm.clone(),
        thresholds: policy::levels_text(&info.policy.levels),
        quota_thresholds: policy::levels_text(&info.policy.quota_levels),
        sector_bytes: info.sector.into(),
        backed_pct: percent(info.backed_bytes, info.size),
        write_cache: if info.write_through { WriteCache::Off } else { WriteCache::On },
        zero_detection: info.zero_detection,
        pattern_detection: info.pattern_detection,
        pattern: info.pattern,
        clients,
        survey: found.map(|found| reclaimable::view(&found, now)),
        version: version_of(info),
    }
}

/// Changes whenever something changes that an operator sets, and only then.
fn version_of(info: &engine::VdiskInfo) -> String {
    let (size, sector, write_through, policy) = (info.size, info.sector, info.write_through, &info.policy);
    let mut text = format!("{}/{}/{size}/{sector}/{write_through}/{policy:?}", info.uuid, info.name);
    text += &format!("/{:?}", info.pattern);
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}
