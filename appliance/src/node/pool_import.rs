//! `pool import`: serve a pool that was made elsewhere, or try an unavailable one again.

use plimsoll_engine::Label;

use super::machine::absolute;
use super::pool_create::force_of;
use super::pool_open::Whole;
use super::scan::{Paths, first_failure, not_a_pool};
use super::state::PoolRecord;
use super::{Node, Slot};
use crate::model::{ImportPool, Plan, PoolView};
use crate::problem::{Answer, Problem};
use crate::units::counted;

/// What an import comes to.
enum Import {
    /// A known pool is tried again.
    Again(PoolRecord),
    /// A pool that is new here, on these devices; what of it is lost.
    New(Label, Whole),
}

impl Node {
    /// Opens the pool on `request.paths`, or the known one that is named, and remembers where it is.
    ///
    /// # Errors
    /// By what is wrong with a path; `exists` when it is open already or its name is taken; `in-use` when a device is another pool's here;
    /// `conflict` when two of the paths are copies of one device; `device-missing` when it is open on a file that is gone; `state-no-space`
    /// and `state-not-kept` when it cannot be remembered; the engine's reasons.
    pub async fn import_pool(&self, request: ImportPool) -> Answer<PoolView> {
        let _turn = self.turn().await?;
        let truncated = is_truncated(&request)?;
        let paths = named(&request);
        let allowed = self.allow_for(request.buffered, &paths);
        let named = said(&request);
        let prepared = self.prepare_import(&request, &paths, truncated).await.map_err(|problem| problem.naming(&named));
        // What is wrong with other paths is not why the configured ones are not served.
        if let (Err(problem), Some(name), true) = (&prepared, &request.name, paths.is_empty()) {
            self.note_configured(name, problem).await;
        }
        let imported = match prepared? {
            Import::Again(record) => {
                let opened = self.open_again(record, paths, truncated).await;
                opened.map_err(|problem| problem.naming(&named))?
            }
            Import::New(label, whole) => {
                let name = label.pool_name;
                let pool = match self.open_whole(label.pool, whole, truncated).await {
                    Ok(pool) => pool,
                    Err(problem) => {
                        self.note_configured(&name, &problem).await;
                        return Err(problem.naming(&named));
                    }
                };
                self.adopt(pool).await?;
                tracing::info!(pool = name, "pool imported");
                self.pool_view(&name)?
            }
        };
        allowed.keep();
        Ok(imported)
    }

    /// Notes why the pool `name`, if only the configuration knows of it, is not served.
    async fn note_configured(&self, name: &str, problem: &Problem) {
        if let Some(devices) = self.configured(name) {
            self.note_not_served(name, &devices, problem.clone()).await;
        }
    }

    /// What [`Node::import_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::import_pool`], as far as the ends of the devices tell.
    pub async fn plan_import_pool(&self, request: ImportPool) -> Answer<Plan> {
        let named = said(&request);
        self.plan_import(request).await.map_err(|problem| problem.naming(&named))
    }

    async fn plan_import(&self, request: ImportPool) -> Answer<Plan> {
        let _turn = self.turn().await?;
        let truncated = is_truncated(&request)?;
        let paths = named(&request);
        let _allowed = self.allow_for(request.buffered, &paths);
        let (step, lost) = match self.prepare_import(&request, &paths, truncated).await? {
            Import::New(label, Whole { devices, lost, .. }) => {
                let (name, devices) = (&label.pool_name, counted(devices.len() as u64, "device"));
                (format!("open pool {name} (UUID {}) on {devices}", label.pool), lost)
            }
            // It has its devices: whether they will do shows when it has let them go.
            Import::Again(record) if self.is_open(&record.name) => {
                self.refuse_to_lose_unless_mended(&record, &paths).await?;
                (format!("close pool {0}, which takes no writes, and open it again", record.name), Vec::new())
            }
            Import::Again(record) => {
                let whole = self.find_known(&record, paths, truncated).await?;
                (format!("open pool {} again", record.name), whole.lost)
            }
        };
        let lost = lost.into_iter().map(|loss| format!("go on although {loss}"));
        Ok(Plan::of([step].into_iter().chain(lost).collect::<Vec<_>>()))
    }

    async fn prepare_import(&self, request: &ImportPool, paths: &[String], truncated: bool) -> Answer<Import> {
        if let Some(name) = &request.name {
            let name = self.pool_name(name)?;
            return match self.configured(&name) {
                Some(devices) if paths.is_empty() => self.prepare_new(Some(&name), &devices, truncated).await,
                Some(_) => self.prepare_new(Some(&name), paths, truncated).await,
                None => self.known_again(&name).map(Import::Again),
            };
        }
        if let Some(name) = paths.iter().find_map(|path| self.pool_on(path)) {
            return self.known_again(&name).map(Import::Again);
        }
        self.prepare_new(None, paths, truncated).await
    }

    /// The import of the pool on `paths`, which is to be called `name` if that is said.
    async fn prepare_new(&self, name: Option<&str>, paths: &[String], truncated: bool) -> Answer<Import> {
        let Some(first) = paths.first() else {
            return Err(Problem::new("invalid-argument", "neither a path nor a name of a pool was given")
                .hint("plimsoll pool import PATH..."));
        };
        if let Some((path, pool)) = paths.iter().find_map(|path| Some((path, self.pool_on(path)?)))
            && name.is_some()
        {
            return Err(Problem::new("in-use", format!("{path} is a device of pool {pool}, which is here"))
                .hint(format!("plimsoll pool show {pool}")));
        }
        let paths = Paths { named: paths.to_vec(), ..Paths::default() };
        let found = self.find_devices(None, &paths, 1).await;
        first_failure(&found)?;
        let Some(label) = found.label.clone() else { return Err(not_a_pool(first)) };
        if let Some(name) = name.filter(|name| *name != label.pool_name) {
            let detail = format!("the configuration calls it {name}, and {first} carries pool {}", label.pool_name);
            return Err(Problem::new("conflict", detail).hint(format!("plimsoll pool import {first}")));
        }
        let known = self.0.state.borrow().pools.iter().find(|pool| pool.uuid == label.pool).cloned();
        if let Some(known) = known {
            // It was known under other paths; the devices are opened again with the lock of this process.
            return self.known_again(&known.name).map(Import::Again);
        }
        if self.is_taken(&label.pool_name) {
            let detail = format!("another pool named {} is here already", label.pool_name);
            let hint = format!("let go of that one first: plimsoll pool export {}; then again", label.pool_name);
            return Err(Problem::new("exists", detail).hint(hint));
        }
        let whole = self.find_whole((label.pool, &[]), &paths, found, truncated).await?;
        Ok(Import::New(label, whole))
    }

    /// The known pool `name`, unless it is open and takes writes.
    fn known_again(&self, name: &str) -> Answer<PoolRecord> {
        if self.pool(name).is_ok_and(|pool| pool.read_only().is_none()) {
            return Err(Problem::new("exists", format!("pool {name} is open already"))
                .hint(format!("plimsoll pool show {name}")));
        }
        let record = self.0.state.borrow().pools.iter().find(|pool| pool.name == name).cloned();
        record.ok_or_else(|| Problem::not_found("pool", name))
    }

    fn is_open(&self, name: &str) -> bool {
        matches!(self.0.pools.borrow().get(name), Some(Slot::Open(_)))
    }

    async fn open_again(&self, record: PoolRecord, paths: Vec<String>, truncated: bool) -> Answer<PoolView> {
        let name = record.name.clone();
        if self.is_open(&name) {
            self.refuse_to_lose_unless_mended(&record, &paths).await?;
            // It cannot be closed cleanly. What made it read-only may be mended, and a start recovers it.
            let _ = self.take_out(&name).await;
        }
        match self.open_known(&record, paths, truncated).await {
            Ok(()) => self.pool_view(&name),
            Err(problem) => {
                // In the words of a start, whatever was typed now.
                let problem = problem.naming(&format!("--name {name}"));
                self.tell_not_served(&name, record.uuid, &problem).await;
                self.0.pools.borrow_mut().insert(name, Slot::Unavailable(problem.clone()));
                Err(problem)
            }
        }
    }
}

fn is_truncated(request: &ImportPool) -> Answer<bool> {
    Ok(force_of(&request.force, &["truncated"])?.contains(&"truncated"))
}

/// What was named, as it is typed.
fn said(request: &ImportPool) -> String {
    let name = request.name.as_ref().map(|name| format!("--name {name}"));
    name.into_iter().chain(named(request)).collect::<Vec<_>>().join(" ")
}

fn named(request: &ImportPool) -> Vec<String> {
    request.paths.iter().map(|path| absolute(path)).collect()
}
