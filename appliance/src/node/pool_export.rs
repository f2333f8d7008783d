//! `pool export`: close a pool cleanly and let it go, so that its devices can move to another machine.

use plimsoll_engine::Pool;
use plimsoll_hardware::reactor::Handle;

use super::close::forget_crash_memory;
use super::pool_create::force_of;
use super::{Node, Slot};
use crate::model::Plan;
use crate::problem::{Answer, Problem};

impl Node {
    /// Closes a pool and forgets it. An unavailable one is only forgotten.
    ///
    /// # Errors
    /// `in-use` while clients are connected, unless `force` has `in-use`.
    pub async fn export_pool(&self, name: &str, force: &[String]) -> Answer<()> {
        let _turn = self.0.changes.lock().await;
        let name = self.prepare_export(name, force)?;
        self.let_go(&name).await?;
        tracing::info!(pool = name, "pool exported");
        Ok(())
    }

    /// What [`Node::export_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::export_pool`].
    pub fn plan_export_pool(&self, name: &str, force: &[String]) -> Answer<Plan> {
        let name = self.prepare_export(name, force)?;
        Ok(Plan::of([
            format!("disconnect {} clients of pool {name}", self.pool_clients(&name)),
            format!("close pool {name} and forget it; its devices keep all data"),
        ]))
    }

    fn prepare_export(&self, name: &str, force: &[String]) -> Answer<String> {
        let name = self.pool_name(name)?;
        let force = force_of(force, &["in-use"])?;
        let clients = self.pool_clients(&name);
        if clients > 0 && !force.contains(&"in-use") {
            return Err(Problem::new("in-use", format!("{clients} clients are connected to vdisks of pool {name}"))
                .hint(format!("plimsoll export list; or plimsoll pool export {name} --force=in-use")));
        }
        Ok(name)
    }

    /// Takes a pool out of service, closes it and keeps the last of what it tells. Answers it when it was open.
    pub(super) async fn take_out(&self, name: &str) -> Option<Pool<Handle>> {
        let slot = self.0.pools.borrow_mut().remove(name);
        let Some(Slot::Open(pool)) = slot else { return None };
        self.disconnect_pool(name).await;
        match pool.close().await {
            Ok(()) => forget_crash_memory(&pool),
            Err(error) => tracing::warn!(pool = name, %error, "the pool could not be closed cleanly"),
        }
        self.heard_out(pool.info().uuid).await;
        Some(pool)
    }

    /// Takes a pool out of service, closes it and forgets it. Answers it when it was open.
    pub(super) async fn let_go(&self, name: &str) -> Answer<Option<Pool<Handle>>> {
        let uuid = self.0.state.borrow().pools.iter().find(|pool| pool.name == name).map(|pool| pool.uuid);
        let open = self.take_out(name).await;
        self.remember(|state| {
            state.pools.retain(|pool| pool.name != name);
            let prefix = format!("{name}/");
            state.exports.retain(|export| !export.name.starts_with(&prefix));
        })
        .await?;
        if let Some(uuid) = uuid {
            self.forget_pool(uuid).await;
        }
        Ok(open)
    }
}
