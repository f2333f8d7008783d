//! `pool import`: serve a pool that was made elsewhere, or try an unavailable one again.

use super::pool_create::force_of;
use super::scan::first_failure;
use super::{Node, Slot};
use crate::model::{ImportPool, Plan, PoolView};
use crate::problem::{Answer, Problem};

impl Node {
    /// Opens the pool on `request.paths`, or the known one that is named, and remembers where it is.
    ///
    /// # Errors
    /// By what is wrong with a path; `exists` when it is open already or its name is taken; the engine's reasons.
    pub async fn import_pool(&self, request: ImportPool) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        let paths: Vec<String> = request.paths.iter().map(|path| super::machine::absolute(path)).collect();
        if request.buffered {
            self.allow_buffered(&paths);
        }
        let truncated = force_of(&request.force, &["truncated"])?.contains(&"truncated");
        if let Some(name) = &request.name {
            return self.retry(name, &paths, truncated).await;
        }
        if let Some(name) = paths.iter().find_map(|path| self.pool_on(path)) {
            return self.retry(&name, &paths, truncated).await;
        }
        if paths.is_empty() {
            return Err(Problem::new("invalid-argument", "neither a path nor a name of a pool was given")
                .hint("plimsoll pool import PATH..."));
        }
        let found = self.find_devices(None, &paths, 1).await;
        first_failure(&found)?;
        let Some(label) = found.label.clone() else { return Err(super::scan::not_a_pool(&paths[0])) };
        let known = self.0.state.borrow().pools.iter().find(|pool| pool.uuid == label.pool).cloned();
        if let Some(known) = known {
            // It was known under other paths; the devices are opened again with the lock of this process.
            drop(found);
            return self.retry(&known.name, &paths, truncated).await;
        }
        if self.is_taken(&label.pool_name) {
            let detail = format!("another pool named {} is here already", label.pool_name);
            return Err(Problem::new("exists", detail).hint(format!("plimsoll pool export {}", label.pool_name)));
        }
        let pool = self.open_whole(label.pool, &paths, found, truncated).await?;
        self.adopt(pool).await?;
        tracing::info!(pool = label.pool_name, "pool imported");
        self.pool_view(&label.pool_name)
    }

    /// What [`Node::import_pool`] would do.
    ///
    /// # Errors
    /// By what is wrong with a path.
    pub async fn plan_import_pool(&self, request: ImportPool) -> Answer<Plan> {
        let _turn = self.turn().await?;
        force_of(&request.force, &["truncated"])?;
        if let Some(name) = &request.name {
            return Ok(Plan::of([format!("open pool {} again", self.pool_name(name)?)]));
        }
        if let Some(name) = request.paths.iter().find_map(|path| self.pool_on(path)) {
            return Ok(Plan::of([format!("open pool {name} again")]));
        }
        let found = self.find_devices(None, &request.paths, 1).await;
        first_failure(&found)?;
        let Some(label) = &found.label else {
            return Err(Problem::new("invalid-argument", "neither a path nor a name of a pool was given"));
        };
        let (there, all) = (found.devices.len(), label.device_count);
        Ok(Plan::of([format!("open pool {} (UUID {}) on {there} of {all} devices", label.pool_name, label.pool)]))
    }

    async fn retry(&self, name: &str, paths: &[String], truncated: bool) -> Answer<PoolView> {
        let name = self.pool_name(name)?;
        let takes_writes = match self.0.pools.borrow().get(&name) {
            Some(Slot::Open(pool)) => Some(pool.read_only().is_none()),
            _ => None,
        };
        if takes_writes == Some(true) {
            return Err(Problem::new("exists", format!("pool {name} is open already"))
                .hint(format!("plimsoll pool show {name}")));
        }
        let record = self.0.state.borrow().pools.iter().find(|pool| pool.name == name).cloned();
        let record = record.ok_or_else(|| Problem::not_found("pool", &name))?;
        if takes_writes == Some(false) {
            // It cannot be closed cleanly. What made it read-only may be mended, and a start recovers it.
            let _ = self.take_out(&name).await;
        }
        match self.open_known(&record, paths, truncated).await {
            Ok(()) => self.pool_view(&name),
            Err(problem) => {
                self.tell_not_served(&name, record.uuid, &problem).await;
                self.0.pools.borrow_mut().insert(name, Slot::Unavailable(problem.clone()));
                Err(problem)
            }
        }
    }
}
