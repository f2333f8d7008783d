//! Records of an open pool: room for them, and waiting until they are durable. A journal that fails makes the pool read-only. Nobody waits
//! without bound for room while a checkpoint finds none below the devices; but what has a record already waits until that is durable: it
//! is in force, and flushes have room of their own in the ring.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use plimsoll_hardware::{IoError, Machine};

use super::Store;
use crate::error::{Error, Result};
use crate::journal::{JournalFailed, Permit};

/// Longest that anything but a held write waits for a checkpoint that starves: as long as a held write does by default.
const STARVED_MAX: Duration = Duration::from_secs(20);

impl<M: Machine> Store<M> {
    /// Waits until `bytes` of records have room in one batch.
    pub(crate) async fn permit(self: &Rc<Self>, bytes: usize) -> Result<Permit<M>> {
        self.unless_starved(self.of_journal(self.journal.reserve(bytes))).await
    }

    /// Makes everything answered before this call survive power loss.
    pub(crate) async fn flush_journal(self: &Rc<Self>) -> Result<()> {
        self.of_journal(self.journal.flush()).await
    }

    /// Waits until batch `wanted` needs no proof any more.
    pub(crate) async fn confirm(self: &Rc<Self>, wanted: u64) -> Result<()> {
        self.of_journal(self.journal.confirm(wanted)).await
    }

    /// As [`Store::confirm`], of everything appended before this call.
    pub(crate) async fn confirm_all(self: &Rc<Self>) -> Result<()> {
        self.of_journal(self.journal.confirm_all()).await
    }

    /// Waits until batch `sequence` is written: it survives our process without crash memory.
    pub(super) async fn write_out(&self, sequence: u64) -> Result<()> {
        self.of_journal(self.journal.write_out(sequence)).await
    }

    async fn of_journal<T>(&self, work: impl Future<Output = Result<T, JournalFailed>>) -> Result<T> {
        work.await.map_err(|failure| self.journal_failed(failure))
    }

    /// Does what may have to wait for a checkpoint, unless that starves for too long.
    ///
    /// # Errors
    /// Those of `work`; `Device` with `NoSpace`.
    pub(crate) async fn unless_starved<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match select(pin!(work), pin!(self.starved_for(STARVED_MAX))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(IoError::NoSpace { path: self.full_device_path() }.into()),
        }
    }

    /// Refuses what would have to wait for a checkpoint while one starves.
    pub(crate) fn not_starved(&self) -> Result<()> {
        if !self.space.is_starved() {
            return Ok(());
        }
        let pool = &self.identity.name;
        let reason = format!(
            "what it decides cannot be written, because the file system that {} is a file of is full; free space there, or add a device \
             (plimsoll pool add-device {pool} --device PATH)",
            self.full_device_path()
        );
        Err(Error::Busy { object: format!("pool {pool}"), reason })
    }
}
