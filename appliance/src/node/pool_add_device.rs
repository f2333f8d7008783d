//! `pool add-device`: more space for a pool.

use plimsoll_hardware::Device as _;

use super::Node;
use super::machine::size_of;
use super::pool_create::force_of;
use crate::model::{AddDevice, Plan, PoolView};
use crate::problem::Answer;

impl Node {
    /// Adds a device to an open pool and remembers it.
    ///
    /// # Errors
    /// By what is wrong with the path; nothing is written then. The engine's reasons.
    pub async fn add_device(&self, name: &str, request: AddDevice) -> Answer<PoolView> {
        let _turn = self.0.changes.lock().await;
        let pool = self.pool(name)?;
        let force = force_of(&request.force, &["foreign"])?.contains(&"foreign");
        if request.buffered {
            self.allow_buffered([&request.path]);
        }
        let device = self.open_new(&request.path, force).await?;
        pool.add_device(device, force).await?;
        let record = self.record_of(&pool);
        self.remember(|state| {
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
        let pool = self.pool(name)?.info().name;
        let force = force_of(&request.force, &["foreign"])?.contains(&"foreign");
        if request.buffered {
            self.allow_buffered([&request.path]);
        }
        let device = self.open_new(&request.path, force).await?;
        let path = &device.geometry().path;
        Ok(Plan::of([format!("overwrite {path} ({}) and add it to pool {pool}", size_of(&device))]))
    }
}
