//! `pool add-device`: more space for a pool.

use plimsoll_hardware::Device as _;

use super::Node;
use super::machine::{same_file, size_of};
use super::pool_create::Force;
use crate::model::{AddDevice, Plan, PoolView};
use crate::problem::Answer;

impl Node {
    /// Adds a device to an open pool and remembers it.
    ///
    /// # Errors
    /// By what is wrong with the path; `in-use` when it is a spare of another pool, unless `force` has `spare`, or holds something,
    /// unless it has `foreign`. Nothing is written then. The engine's reasons.
    pub async fn add_device(&self, name: &str, request: AddDevice) -> Answer<PoolView> {
        let _turn = self.0.changes.lock().await;
        self.add_in_turn(name, request).await
    }

    /// The same, by somebody who has the turn.
    pub(super) async fn add_in_turn(&self, name: &str, request: AddDevice) -> Answer<PoolView> {
        let pool = self.pool(name)?;
        let force = Force::of(&request.force)?;
        if request.buffered {
            self.allow_buffered([&request.path]);
        }
        let device = self.open_new(&request.path, Some(pool.info().uuid), force).await?;
        pool.add_device(device, force.foreign).await?;
        let record = self.record_of(&pool);
        self.remember(|state| {
            state.forget_spare(|spare| same_file(spare, &request.path));
            if let Some(known) = state.pools.iter_mut().find(|known| known.uuid == record.uuid) {
                *known = record;
            }
        })
        .await?;
        tracing::info!(pool = name, path = request.path, "device added");
        self.pool_view(name)
    }

    /// What [`Node::add_device`] would do.
    ///
    /// # Errors
    /// As [`Node::add_device`], as far as it can be known without writing.
    pub async fn plan_add_device(&self, name: &str, request: AddDevice) -> Answer<Plan> {
        let _turn = self.0.changes.lock().await;
        let info = self.pool(name)?.info();
        let force = Force::of(&request.force)?;
        if request.buffered {
            self.allow_buffered([&request.path]);
        }
        let device = self.open_new(&request.path, Some(info.uuid), force).await?;
        let path = &device.geometry().path;
        Ok(Plan::of([format!("overwrite {path} ({}) and add it to pool {}", size_of(&device), info.name)]))
    }
}
