//! The daemon in one object, and the devices of the machine.

use std::path::Path;

use plimsoll_hardware::Machine;
use plimsoll_hardware::probe::{DeviceSummary, list_devices};

use super::Node;
use super::machine::{Purpose, absolute, contents_at, same_file};
use crate::model::{DeviceView, Health, JobState, PoolState, StatusView, time_of};
use crate::problem::Answer;

impl Node {
    /// The daemon.
    pub fn status(&self) -> StatusView {
        let pools = self.pools();
        let sum = |figure: fn(&crate::model::PoolView) -> Option<u64>| pools.iter().filter_map(figure).sum::<u64>();
        let events = self.events().summary();
        StatusView {
            schema: "status/v1".to_owned(),
            ready: self.is_ready(),
            health: Health::Ok,
            findings: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: time_of(self.0.started_ms),
            state_dir: self.dir().display().to_string(),
            nbd: self.nbd_uris(),
            pools: pools.len() as u64,
            pools_online: pools.iter().filter(|pool| pool.state == PoolState::Online).count() as u64,
            vdisks: sum(|pool| pool.vdisks),
            clients: self.clients(),
            jobs_running: self.jobs().iter().filter(|job| job.state == JobState::Running).count() as u64,
            unacknowledged_warnings: events.warnings,
            unacknowledged_criticals: events.criticals,
            physical_bytes: sum(|pool| pool.physical_bytes),
            available_bytes: sum(|pool| pool.available_bytes),
            utilized_bytes: sum(|pool| pool.utilized_bytes),
            designated_bytes: sum(|pool| pool.designated_bytes),
            buffer_free_bytes: self.machine().buffers().free_bytes() as u64,
            buffer_bytes: self.machine().buffers().bytes() as u64,
        }
        .and(self.findings())
    }

    /// The block devices of the machine, and the files that pools are on.
    ///
    /// # Errors
    /// `internal` when the helper thread is gone.
    pub async fn devices(&self) -> Answer<Vec<DeviceView>> {
        let mut views = self.blocking(|| list_devices().iter().map(summarized).collect::<Vec<_>>()).await?;
        for pool in self.pools() {
            for device in pool.devices {
                match views.iter_mut().find(|view| same_file(&view.path, &device.path)) {
                    Some(view) => view.pool = Some(pool.name.clone()),
                    None => views.push(DeviceView {
                        kind: "file".to_owned(),
                        size_bytes: device.size_bytes.unwrap_or(0),
                        rotational: device.rotational,
                        volatile_cache: device.volatile_cache,
                        holds: Some(format!("a device of pool {}", pool.name)),
                        ..unknown(&device.path, &pool.name)
                    }),
                }
            }
        }
        views.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(views)
    }

    /// One device or file, asked directly.
    ///
    /// # Errors
    /// By what is wrong with the path.
    pub async fn device(&self, path: &str) -> Answer<DeviceView> {
        use plimsoll_hardware::Device as _;
        let path = absolute(path);
        let known = self.devices().await?.into_iter().find(|view| same_file(&view.path, &path));
        let (device, label) = self.open_labelled(&path, Purpose::Look).await?;
        let geometry = device.geometry();
        let holds = match label {
            Some(label) => Some(format!("a device of pool {} (UUID {})", label.pool_name, label.pool)),
            None => self.contents(&device).await?.map(str::to_owned),
        };
        let (kind, model, pool) = match known {
            Some(view) => (view.kind, view.model, view.pool),
            None => ("file".to_owned(), None, None),
        };
        Ok(DeviceView {
            kind,
            model,
            pool,
            size_bytes: geometry.size,
            logical_block_bytes: Some(geometry.logical_block.into()),
            physical_block_bytes: Some(geometry.physical_block.into()),
            rotational: Some(geometry.rotational),
            volatile_cache: Some(geometry.volatile_cache),
            discard: Some(geometry.discard_max > 0),
            read_only: None,
            holds,
            users: Vec::new(),
            path,
        })
    }
}

fn unknown(path: &str, pool: &str) -> DeviceView {
    DeviceView {
        path: path.to_owned(),
        kind: String::new(),
        size_bytes: 0,
        model: None,
        logical_block_bytes: None,
        physical_block_bytes: None,
        rotational: None,
        volatile_cache: None,
        discard: None,
        read_only: None,
        pool: Some(pool.to_owned()),
        holds: None,
        users: Vec::new(),
    }
}

fn summarized(found: &DeviceSummary) -> DeviceView {
    DeviceView {
        path: found.path.display().to_string(),
        kind: if found.is_partition { "partition" } else { "disk" }.to_owned(),
        size_bytes: found.size,
        model: Some(found.model.clone()).filter(|model| !model.is_empty()),
        logical_block_bytes: None,
        physical_block_bytes: None,
        rotational: Some(found.rotational),
        volatile_cache: None,
        discard: None,
        read_only: Some(found.read_only),
        pool: None,
        holds: contents_at(Path::new(&found.path)).map(str::to_owned),
        users: found.users.clone(),
    }
}
