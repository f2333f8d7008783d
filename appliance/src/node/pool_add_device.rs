//! `pool add-device`: more space for a pool.

use plimsoll_engine::Pool;
use plimsoll_hardware::{Device as _, Handle};

use super::machine::{same_file, size_of};
use super::pool_create::Force;
use super::{Device, Node};
use crate::model::{AddDevice, Plan, PoolView};
use crate::problem::{Answer, Problem};

impl Node {
    /// Adds a device to an open pool and remembers it.
    ///
    /// # Errors
    /// By what is wrong with the path; `in-use` when it is a spare of another pool, unless `force` has `spare`, or holds something,
    /// unless it has `foreign`; `state-no-space`, `state-not-kept` when there is no room for remembering where it is. Nothing is written
    /// then. The engine's reasons. `state-no-space`, `state-not-kept` too when the device has joined, and that room was lost meanwhile.
    pub async fn add_device(&self, name: &str, request: AddDevice) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        let path = request.path.clone();
        self.room_for_one_more(name, &path).await?;
        self.add_in_turn(name, request).await?;
        match self.unkept() {
            None => self.pool_view(name),
            Some(problem) => Err(Problem {
                detail: format!(
                    "{path} has joined pool {name} and is in use, but a restart may not find it: {}; that is tried again by itself",
                    problem.detail
                ),
                ..problem
            }),
        }
    }

    /// The same, by somebody who has the turn and needs the space now, whether that can be made durable or not: that is left to
    /// [`Node::note`].
    pub(super) async fn add_in_turn(&self, name: &str, request: AddDevice) -> Answer<()> {
        let allowed = self.allow_for(request.buffered, std::slice::from_ref(&request.path));
        let (pool, device, force) = self.prepare_device(name, &request).await?;
        pool.add_device(device, force.foreign).await?;
        allowed.keep();
        let record = self.record_of(&pool);
        let noted = self.note(|state| {
            state.forget_spare(|spare| same_file(spare, &request.path));
            state.update(record);
        });
        // A finding until it is.
        let _ = noted.await;
        tracing::info!(pool = name, path = request.path, "device added");
        Ok(())
    }

    /// What [`Node::add_device`] would do.
    ///
    /// # Errors
    /// As [`Node::add_device`].
    pub async fn plan_add_device(&self, name: &str, request: AddDevice) -> Answer<Plan> {
        let _turn = self.turn().await?;
        self.room_for_one_more(name, &request.path).await?;
        let _allowed = self.allow_for(request.buffered, std::slice::from_ref(&request.path));
        let (pool, device, force) = self.prepare_device(name, &request).await?;
        pool.check_add_device(&device, force.foreign).await?;
        let (path, name) = (&device.geometry().path, pool.info().name);
        Ok(Plan::of([format!("overwrite {path} ({}) and add it to pool {name}", size_of(&device))]))
    }

    async fn room_for_one_more(&self, name: &str, path: &str) -> Answer<()> {
        self.room_to_remember().await.map_err(|problem| Problem {
            detail: format!(
                "{path} was not added to pool {name}: a restart might not find it, because {}",
                problem.detail
            ),
            ..problem
        })
    }

    async fn prepare_device(&self, name: &str, request: &AddDevice) -> Answer<(Pool<Handle>, Device, Force)> {
        let pool = self.pool(name)?;
        let force = Force::of(&request.force)?;
        let device = self.open_new(&request.path, Some(pool.info().uuid), force).await?;
        Ok((pool, device, force))
    }
}
