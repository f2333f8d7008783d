//! `pool export`: close a pool cleanly and let it go, so that its devices can move to another machine. One that cannot be closed cleanly
//! stays known, because what only this machine's memory has of it would be lost elsewhere.

use std::time::Duration;

use super::below::{aside, files_gone, open_on_gone};
use super::close::{forget_crash_memory, not_closed};
use super::exports::connected;
use super::machine::Purpose;
use super::pool_create::force_of;
use super::state::PoolRecord;
use super::{Node, Slot};
use crate::model::Plan;
use crate::problem::{Answer, Problem};

/// What can be accepted.
const FORCES: [&str; 2] = ["in-use", "missing"];
/// A file system that says nothing for so long is not waited for.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

impl Node {
    /// Closes a pool and forgets it. An unavailable one is only forgotten.
    ///
    /// # Errors
    /// `in-use` while clients are connected, unless `force` has `in-use`; `device-missing` when a file that it is open on was deleted or
    /// moved, unless `force` has `missing`; `not-closed` when it is closed and not cleanly: it is unavailable then, and asked again it is
    /// forgotten as it is.
    pub async fn export_pool(&self, name: &str, force: &[String]) -> Answer<()> {
        let _turn = self.turn().await?;
        self.accept_gone(name, force).await?;
        self.room_to_remember().await?;
        // Nothing may come between what this looks at and the end.
        let name = self.prepare_export(name, force)?;
        if let Err(problem) = self.take_out(&name).await {
            let problem = Problem { detail: format!("it was not let go: {}", problem.detail), ..problem }.hint(format!(
                "mend that, then plimsoll pool import --name {name}; or let it go as it is: plimsoll pool export {name}"
            ));
            self.0.pools.borrow_mut().insert(name, Slot::Unavailable(problem.clone()));
            return Err(problem);
        }
        self.forget(&name).await?;
        tracing::info!(pool = name, "pool exported");
        Ok(())
    }

    /// What [`Node::export_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::export_pool`].
    pub async fn plan_export_pool(&self, name: &str, force: &[String]) -> Answer<Plan> {
        let gone = self.accept_gone(name, force).await?;
        let name = self.prepare_export(name, force)?;
        let devices = if gone.is_empty() { "its devices keep all data".to_owned() } else { open_on_gone(&name, &gone) };
        Ok(Plan::of([
            format!("disconnect {} clients of pool {name}", self.pool_clients(&name)),
            format!("close pool {name} and forget it; {devices}"),
        ]))
    }

    fn prepare_export(&self, name: &str, force: &[String]) -> Answer<String> {
        let name = self.pool_name(name)?;
        let force = force_of(force, &FORCES)?;
        let clients = self.pool_clients(&name);
        if clients > 0 && !force.contains(&"in-use") {
            return Err(connected(clients, &format!("vdisks of pool {name}"))
                .hint(format!("plimsoll export list; or plimsoll pool export {name} --force=in-use")));
        }
        Ok(name)
    }

    /// Files of a pool that are gone, if `force` accepts that.
    async fn accept_gone(&self, name: &str, force: &[String]) -> Answer<Vec<String>> {
        let is_accepted = force_of(force, &FORCES)?.contains(&"missing");
        let name = self.pool_name(name)?;
        match self.gone_from(&name).await {
            Ok(gone) if is_accepted => Ok(gone),
            Err(_) if is_accepted => Ok(Vec::new()),
            gone => gone.and_then(|gone| keeps_all(&name, &gone).map(|()| gone)),
        }
    }

    /// Refuses to close a pool that could not be opened again.
    ///
    /// # Errors
    /// `device-missing` when a file that it is open on was deleted or moved; `device-error` when their file system does not answer.
    pub(super) async fn refuse_to_lose(&self, name: &str) -> Answer<()> {
        let name = self.pool_name(name)?;
        keeps_all(&name, &self.gone_from(&name).await?)
    }

    /// The same of a pool that is to be opened again, unless what is there now, or was `named`, is of that pool: somebody has mended it.
    ///
    /// # Errors
    /// As of [`Node::refuse_to_lose`].
    pub(super) async fn refuse_to_lose_unless_mended(&self, record: &PoolRecord, named: &[String]) -> Answer<()> {
        let gone = self.gone_from(&record.name).await?;
        for path in if named.is_empty() { &gone } else { named } {
            match self.open_labelled(path, Purpose::Look).await {
                Ok((_, Some(label))) if label.pool == record.uuid => {}
                _ => return keeps_all(&record.name, &gone),
            }
        }
        Ok(())
    }

    /// Files that an open pool has and that are not where they were.
    async fn gone_from(&self, name: &str) -> Answer<Vec<String>> {
        let devices = self.pool(name).map(|pool| pool.info().devices).unwrap_or_default();
        let files = self.files_of(&devices);
        let found = self.machine().timeout(ANSWER_TIME_MAX, aside(move || files_gone(&files))).await;
        found.ok().and_then(Result::ok).ok_or_else(|| {
            let detail = format!(
                "whether the files of pool {name} are still there is not known: their file system does not answer"
            );
            Problem::new("device-error", detail).hint("look what it waits for: dmesg; then again")
        })
    }

    /// Takes a pool out of service, closes it if it is open, and keeps the last of what it tells.
    ///
    /// # Errors
    /// `not-closed` when it is closed, and not cleanly.
    pub(super) async fn take_out(&self, name: &str) -> Answer<()> {
        let slot = self.0.pools.borrow_mut().remove(name);
        let Some(Slot::Open(pool)) = slot else { return Ok(()) };
        self.0.replaced.borrow_mut().remove(&pool.info().uuid);
        self.disconnect_pool(name).await;
        let closed = pool.close().await;
        match &closed {
            Ok(()) => forget_crash_memory(&pool),
            Err(error) => tracing::warn!(pool = name, %error, "the pool could not be closed cleanly"),
        }
        self.heard_out(pool.info().uuid).await;
        closed.map_err(|error| Problem::new("not-closed", not_closed(name, &error)))
    }

    /// Forgets a pool that was taken out of service.
    ///
    /// # Errors
    /// `state-no-space`, `state-not-kept`: it is unavailable then.
    pub(super) async fn forget(&self, name: &str) -> Answer<()> {
        let uuid = self.0.state.borrow().pools.iter().find(|pool| pool.name == name).map(|pool| pool.uuid);
        let forgotten = self.remember(|state| {
            state.pools.retain(|pool| pool.name != name);
            let prefix = format!("{name}/");
            state.exports.retain(|export| !export.name.starts_with(&prefix));
        });
        if let Err(problem) = forgotten.await {
            self.0.pools.borrow_mut().insert(name.to_owned(), Slot::Unavailable(problem.clone()));
            return Err(problem);
        }
        if let Some(uuid) = uuid {
            self.forget_pool(uuid).await;
        }
        Ok(())
    }
}

/// Refuses to close a pool of whose files some are `gone`.
fn keeps_all(name: &str, gone: &[String]) -> Answer<()> {
    if gone.is_empty() {
        return Ok(());
    }
    Err(Problem::new("device-missing", open_on_gone(name, gone)).hint(format!(
        "copy its vdisks out, or move back what was moved; or lose it: plimsoll pool export {name} --force=missing"
    )))
}
