//! The thread that writes: all changes that have come meanwhile are one transaction, so that a burst costs one sync.
//!
//! When the file cannot be written, which is to be expected of a full disk, the log goes on in memory: a copy of all that is
//! in the file, with its alarms and webhooks. Every few seconds the file is tried again. Once it takes a transaction it becomes
//! what memory is, each event with its number and id; nothing is written twice. A kill before that loses what came meanwhile,
//! but no alarm that lasts: those in the file are as old as its events, so the engine raises again what still holds. What
//! somebody decides, of a webhook or by an acknowledgement, is refused meanwhile: it could not be relied on.
//!
//! An error may come after all was written. So each list of changes has a number, and is done again only if the file has it not.
//!
//! Numbers given meanwhile are not given again after such a kill: the file is left with a mode of its own, for which no
//! space is needed, and whoever opens it then begins with greater ones.
//!
//! A damaged file is put aside, and the log goes on in a new one.

mod trouble;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::log::{failed, now_ms};
use super::store::{Change, Done, Failure, KEEP_DEFAULT, OURS, Store, StoreError, Summary};
use crate::problem::Answer;
use trouble::Trouble;

/// Changes of one transaction: a burst larger than that is answered in parts.
const BATCH_MAX: usize = 1000;
/// Between two attempts to write the file again. Each reads all of it.
const RETRY_PAUSE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };

/// How a file becomes a store.
pub(super) type Opener = Box<dyn Fn(&Path) -> Result<Store, StoreError> + Send + Sync>;

/// Something to do, and who waits for it.
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Answer<Done>>,
}

/// What writer and readers have together.
pub(super) struct Shared {
    /// The file, or memory instead of it.
    store: RwLock<Store>,
    trouble: Mutex<Option<Trouble>>,
    /// When it was told that the file is behind.
    told_behind: Mutex<Option<Instant>>,
    /// Where a damaged file was put in this life, in words.
    aside: Mutex<Option<String>>,
    /// Webhooks that are not served, in words.
    pub(super) unserved: Mutex<Vec<String>>,
    pub(super) path: PathBuf,
    open: Opener,
    pub(super) keep: AtomicU64,
    pub(super) summary: Mutex<Summary>,
    /// The number of the newest event.
    pub(super) last: watch::Sender<u64>,
    /// Nobody listens any more.
    pub(super) ended: watch::Sender<bool>,
    /// Changes when the file is written again.
    pub(super) returned: watch::Sender<()>,
}

impl Shared {
    /// The log in the file at `path`, or in memory if there can be none.
    pub(super) fn begin(path: PathBuf, open: Opener) -> Result<Self, StoreError> {
        let shared = Self {
            store: RwLock::new(Store::in_memory()?),
            trouble: Mutex::default(),
            told_behind: Mutex::default(),
            aside: Mutex::default(),
            unserved: Mutex::default(),
            path,
            open,
            keep: AtomicU64::new(KEEP_DEFAULT),
            last: watch::channel(0).0,
            summary: Mutex::default(),
            ended: watch::channel(false).0,
            returned: watch::channel(()).0,
        };
        match shared.open_file() {
            Ok(file) => {
                *shared.store.write().unwrap_or_else(PoisonError::into_inner) = file;
                shared.take_note();
            }
            // What the file has was told in other lives.
            Err(error) => drop(shared.fall_back(&error, u64::MAX)?),
        }
        Ok(shared)
    }

    /// The file, made if it is not there. What has begun and cannot be made is no damage, and nothing but its name stays.
    fn open_path(&self) -> Result<Store, StoreError> {
        let fresh = Store::is_fresh(&self.path);
        (self.open)(&self.path).inspect_err(|_| {
            if fresh {
                let _ = std::fs::remove_file(self.path.with_extension("redb.new"));
                let mut empty = std::fs::OpenOptions::new();
                let _ = empty.write(true).create(true).truncate(true).mode(OURS).open(&self.path);
            }
        })
    }

    fn open_file(&self) -> Result<Store, StoreError> {
        let behind = self.is_behind();
        let file = self.open_path()?;
        file.summary()?;
        if behind {
            // Nobody knows the numbers that were given; there were fewer than milliseconds since 1970.
            file.begin_after(now_ms())?;
            self.set_mode(OURS);
        }
        Ok(file)
    }

    /// What is there, to be read.
    pub(super) fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does changes, until nobody can ask for more.
    pub(super) fn run(&self, jobs: &Receiver<Job>) {
        loop {
            let first = match self.is_in_memory() {
                true => jobs.recv_timeout(RETRY_PAUSE),
                false => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if self.is_due()
                && let Err(error) = self.come_back()
            {
                tracing::debug!(%error, "the event log still cannot be written");
            }
            match first {
                Ok(first) => self.serve(first, jobs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.is_in_memory()
            && let Err(error) = self.come_back()
        {
            tracing::error!(%error, "events that were in memory are lost");
        }
    }

    fn serve(&self, first: Job, jobs: &Receiver<Job>) {
        let mut batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
        let result = match self.write(&mut batch) {
            Err(Failure { error, perhaps }) if !self.is_in_memory() => self.go_on(&mut batch, &error, perhaps),
            result => result.map_err(|failure| failure.error),
        };
        match result {
            Ok(done) => batch.into_iter().zip(done).for_each(|(job, done)| drop(job.reply.send(Ok(done)))),
            Err(error) => {
                tracing::error!(%error, "events cannot be kept");
                let problem = failed(&self.path, &error);
                batch.into_iter().for_each(|job| drop(job.reply.send(Err(problem.clone()))));
            }
        }
    }

    /// After an error: elsewhere, unless the file turns out to have it.
    fn go_on(
        &self,
        batch: &mut Vec<Job>,
        error: &StoreError,
        perhaps: Option<(u64, Vec<Done>)>,
    ) -> Result<Vec<Done>, StoreError> {
        let told = *self.last.borrow();
        let found = self.fall_back(error, told)?;
        match perhaps {
            Some((number, done)) if found == Some(number) => Ok(done),
            _ => self.write(batch).map_err(|failure| failure.error),
        }
    }

    /// Does what can be done now; the rest is answered and taken out.
    fn write(&self, batch: &mut Vec<Job>) -> Result<Vec<Done>, Failure> {
        self.refuse_decisions(batch);
        let done = self.store().commit(batch.iter().map(|job| &job.change), self.keep.load(Ordering::Relaxed))?;
        self.take_note();
        Ok(done)
    }

    /// Refuses what somebody decides as long as it would be in memory alone.
    fn refuse_decisions(&self, batch: &mut Vec<Job>) {
        let Some(problem) = self.refusal() else { return };
        let decisions = batch.extract_if(.., |job| job.change.is_decision());
        decisions.for_each(|job| drop(job.reply.send(Err(problem.clone()))));
    }

    /// Figures, and who waits for a new number. What was written stands without them.
    fn take_note(&self) {
        match self.store().summary() {
            Ok(summary) => {
                let last = summary.last_seq;
                *lock(&self.summary) = summary;
                self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
            }
            Err(error) => tracing::error!(%error, "the figures of the event log cannot be read"),
        }
    }
}

/// Each change is one step, so a panic elsewhere has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
