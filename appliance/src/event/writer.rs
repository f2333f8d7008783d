//! The thread that writes: all changes that have come meanwhile are one transaction, so that a burst costs one sync.
//!
//! When the file cannot be written, which is to be expected of a full disk, the log goes on in memory: a copy of all that is
//! in the file, with its alarms and webhooks. Every few seconds the file is tried again. Once it takes a transaction it becomes
//! what memory is, each event with its number and id; nothing is written twice. A kill before that loses what came meanwhile,
//! but no alarm that lasts: those in the file are as old as its events, so the engine raises again what still holds.
//!
//! Numbers given meanwhile are not given again after such a kill: the file is left with the mode [`BEHIND`], for which no
//! space is needed, and whoever opens it then begins with greater ones.
//!
//! A damaged file is put aside, and the log goes on in a new one.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::NewEvent;
use super::log::{failed, now_ms, time_now};
use super::store::{Change, Done, KEEP_DEFAULT, OURS, Store, StoreError, Summary};
use crate::model::Severity;
use crate::problem::Answer;

/// Changes of one transaction: a burst larger than that is answered in parts.
const BATCH_MAX: usize = 1000;
/// Between two attempts to write the file again. Each reads all of it.
const RETRY_PAUSE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };
/// That the file is behind is no event more than once in this time: a disk may be full again and again.
const TELL_PAUSE: Duration = Duration::from_secs(3600);
/// Mode of a file that is behind memory: of no use otherwise.
const BEHIND: u32 = 0o700;

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
    /// Where a damaged file was put in this life.
    aside: Mutex<Option<PathBuf>>,
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

/// Why the log is in memory.
struct Trouble {
    reason: String,
    /// Memory has what the file has.
    knows: bool,
    tried: Instant,
}

impl Shared {
    /// The log in the file at `path`, or in memory if there can be none.
    pub(super) fn begin(path: PathBuf, open: Opener) -> Result<Self, StoreError> {
        let shared = Self {
            store: RwLock::new(Store::in_memory()?),
            trouble: Mutex::default(),
            aside: Mutex::default(),
            path,
            open,
            keep: AtomicU64::new(KEEP_DEFAULT),
            last: watch::channel(0).0,
            summary: Mutex::default(),
            ended: watch::channel(false).0,
            returned: watch::channel(()).0,
        };
        match shared.open_file() {
            Ok(file) => *shared.store.write().unwrap_or_else(PoisonError::into_inner) = file,
            Err(error) => shared.fall_back(&error)?,
        }
        shared.take_note()?;
        Ok(shared)
    }

    /// The file, made if it is not there. What has begun and cannot be made is no damage, and does not stay.
    fn open_path(&self) -> Result<Store, StoreError> {
        let fresh = matches!(self.path.try_exists(), Ok(false));
        (self.open)(&self.path).inspect_err(|_| {
            if fresh {
                let _ = std::fs::remove_file(&self.path);
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

    /// What is wrong with the file, and what to do about it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let (path, dir) = (self.path.display(), self.path.parent().unwrap_or(&self.path).display());
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let full = trouble.as_ref().map(|trouble| {
            let reason = &trouble.reason;
            format!("event log can't be written: {reason}; free space in {dir} (df -h {dir}): new events are in memory alone until then")
        });
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let damaged = aside.as_ref().map(|aside| {
            format!(
                "event log {path} was damaged and is kept as {}; add your webhooks anew (plimsoll webhook add)",
                aside.display()
            )
        });
        full.into_iter().chain(damaged).collect()
    }

    /// Does changes, until nobody can ask for more.
    pub(super) fn run(&self, jobs: &Receiver<Job>) {
        let mut told = None;
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
                Ok(first) => self.serve(first, jobs, &mut told),
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

    fn serve(&self, first: Job, jobs: &Receiver<Job>, told: &mut Option<Instant>) {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
        let (changes, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.change, job.reply)).unzip();
        let result = self.write(&changes).or_else(|error| {
            if self.is_in_memory() {
                return Err(error);
            }
            self.fall_back(&error)?;
            if self.is_in_memory() && told.is_none_or(|told| told.elapsed() > TELL_PAUSE) {
                *told = Some(Instant::now());
                self.write(&[self.says_behind()])?;
            }
            self.write(&changes)
        });
        match result {
            Ok(done) => replies.into_iter().zip(done).for_each(|(reply, done)| drop(reply.send(Ok(done)))),
            Err(error) => {
                tracing::error!(%error, "events cannot be kept");
                let problem = failed(&self.path, &error);
                replies.into_iter().for_each(|reply| drop(reply.send(Err(problem.clone()))));
            }
        }
    }

    fn write(&self, changes: &[Change]) -> Result<Vec<Done>, StoreError> {
        let done = self.store().commit(changes.iter(), self.keep.load(Ordering::Relaxed))?;
        self.take_note()?;
        Ok(done)
    }

    /// Figures, and who waits for a new number.
    fn take_note(&self) -> Result<(), StoreError> {
        let summary = self.store().summary()?;
        let last = summary.last_seq;
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
        Ok(())
    }

    /// Goes on in memory, or in a new file if the old one is damaged.
    fn fall_back(&self, error: &StoreError) -> Result<(), StoreError> {
        tracing::error!(%error, path = %self.path.display(), "the event log cannot be written");
        let memory = Store::in_memory()?;
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        // After an error redb gives nothing more of a file until it is closed and opened again.
        *store = Store::in_memory()?;
        let damaged = error.is_damage();
        let copied = if damaged {
            Ok(false)
        } else {
            self.open_path().and_then(|file| memory.take_over(&file, true)).map(|()| true)
        };
        let knows = copied.unwrap_or(false);
        if !knows || self.is_behind() {
            memory.begin_after(now_ms())?;
        }
        if damaged {
            memory.commit([says_lost(error)].iter(), self.keep.load(Ordering::Relaxed))?;
        }
        *store = memory;
        drop(store);
        self.set_mode(BEHIND);
        let trouble = Trouble { reason: error.to_string(), knows, tried: Instant::now() };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        if damaged && let Err(error) = self.come_back() {
            tracing::error!(%error, "there is no new event log");
        }
        Ok(())
    }

    /// Makes the file what memory is, and goes on in it.
    fn come_back(&self) -> Result<(), StoreError> {
        let knows = {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(trouble) = &mut *trouble else { return Ok(()) };
            trouble.tried = Instant::now();
            trouble.knows
        };
        let file = match self.open_path() {
            Err(error) if error.is_damage() => {
                let aside = self.put_aside()?;
                tracing::error!(%error, aside = %aside.display(), "the event log is damaged and was put aside");
                self.open_path()?
            }
            result => result?,
        };
        file.take_over(&self.store(), knows)?;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = file;
        self.set_mode(OURS);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!(path = %self.path.display(), "the event log is written again");
        self.take_note()?;
        self.returned.send_replace(());
        Ok(())
    }

    fn is_in_memory(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn is_due(&self) -> bool {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().is_some_and(|trouble| trouble.tried.elapsed() >= RETRY_PAUSE)
    }

    fn is_behind(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.permissions().mode() & 0o777 == BEHIND)
    }

    fn set_mode(&self, mode: u32) {
        if let Err(error) = std::fs::set_permissions(&self.path, Permissions::from_mode(mode)) {
            tracing::warn!(%error, path = %self.path.display(), "its mode cannot be set");
        }
    }

    /// Gives a damaged file a name that no other has.
    fn put_aside(&self) -> std::io::Result<PathBuf> {
        let first = self.path.with_extension("redb.bad");
        let others = (2..).map(|number: u32| self.path.with_extension(format!("redb.bad-{number}")));
        let aside = std::iter::once(first.clone()).chain(others).find(|path| !path.exists()).unwrap_or(first);
        std::fs::rename(&self.path, &aside)?;
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = Some(aside.clone());
        Ok(aside)
    }

    fn says_behind(&self) -> Change {
        let event = NewEvent::new(Severity::Warning, "event-log-behind", "events");
        let dir = self.path.parent().unwrap_or(&self.path).display();
        one(event
            .cause(self.warnings().concat())
            .advice(format!("Free space in {dir}, and see whether it is over (plimsoll status).")))
    }
}

fn says_lost(error: &StoreError) -> Change {
    one(NewEvent::new(Severity::Critical, "event-log-lost", "events")
        .cause(format!("the event log was damaged ({error}); it is kept beside the new one (plimsoll status)"))
        .advice("Add your webhooks anew (plimsoll webhook add NAME --url URL --secret-file FILE)."))
}

fn one(event: NewEvent) -> Change {
    Change::Append { time: time_now(), events: vec![event], alarms: None }
}

#[cfg(test)]
mod tests;
