//! The store as the rest of the program sees it.
//!
//! One thread of its own writes: it takes all changes that have come meanwhile into one transaction, so that a burst costs
//! one sync. Whoever asked waits for the answer without holding a thread. Readers read beside it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_engine::AlarmState;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

pub use super::store::Summary;
use super::store::{Change, Done, KEEP_DEFAULT, Store, StoreError, Which};
use super::webhook::WebhookRecord;
use super::{EventQuery, NewEvent};
use crate::model::{Acknowledged, EventPage, EventView, Severity};
use crate::problem::{Answer, Problem};

const FILE: &str = "events.redb";
/// Changes of one transaction: a burst larger than that is answered in parts.
const BATCH_MAX: usize = 1000;

/// What can be configured.
#[derive(Clone, Debug)]
pub struct EventLimits {
    /// Events that are kept.
    pub keep: u64,
    /// A webhook must have answered within this time.
    pub webhook_timeout: Duration,
    /// First and longest pause between two attempts.
    pub webhook_retry: (Duration, Duration),
    /// An event that a webhook does not take for so long is given up.
    pub webhook_give_up: Duration,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            keep: KEEP_DEFAULT,
            webhook_timeout: Duration::from_secs(10),
            webhook_retry: (Duration::from_secs(1), Duration::from_secs(600)),
            webhook_give_up: Duration::from_secs(24 * 3600),
        }
    }
}

/// The event log. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct EventLog(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
}

/// What writer and readers have together.
struct Shared {
    store: Store,
    path: PathBuf,
    keep: AtomicU64,
    summary: Mutex<Summary>,
    /// The number of the newest event.
    last: watch::Sender<u64>,
    /// Nobody listens any more.
    ended: watch::Sender<bool>,
}

struct Job {
    change: Change,
    reply: oneshot::Sender<Answer<Done>>,
}

impl EventLog {
    /// Opens the log in `dir`, or makes one. A file that is damaged is put aside, because no storage stops for the want of
    /// its events; the new one begins with an event that says so.
    ///
    /// # Errors
    /// `internal` when there can be no file.
    pub fn open(dir: &Path) -> Answer<Self> {
        let path = dir.join(FILE);
        match Self::open_at(&path) {
            Ok(log) => Ok(log),
            Err(error) if error.is_damage() => {
                let aside = dir.join(format!("{FILE}.bad"));
                std::fs::rename(&path, &aside).map_err(|error| failed(&path, &error))?;
                tracing::error!(%error, aside = %aside.display(), "the event log is damaged and was put aside");
                let log = Self::open_at(&path).map_err(|error| failed(&path, &error))?;
                // Nobody knows the numbers that were given; there were fewer than milliseconds since 1970.
                log.0.shared.store.begin_after(now_ms()).map_err(|error| failed(&path, &error))?;
                let lost = NewEvent::new(Severity::Critical, "event-log-lost", "events")
                    .cause(format!("the event log was damaged ({error}); it is in {}", aside.display()))
                    .advice("Add your webhooks anew (plimsoll webhook add NAME --url URL --secret-file FILE).");
                let time = time_now();
                let change = Change::Append { time, events: vec![lost], alarms: None };
                write(&log.0.shared, &[change]).map_err(|error| failed(&path, &error))?;
                Ok(log)
            }
            Err(error) => Err(failed(&path, &error)),
        }
    }

    fn open_at(path: &Path) -> Result<Self, StoreError> {
        let store = Store::open(path)?;
        let summary = store.summary()?;
        let shared = Arc::new(Shared {
            store,
            path: path.to_owned(),
            keep: AtomicU64::new(KEEP_DEFAULT),
            last: watch::channel(summary.last_seq).0,
            summary: Mutex::new(summary),
            ended: watch::channel(false).0,
        });
        let (jobs, received) = channel();
        let writer = shared.clone();
        std::thread::Builder::new().name("plimsoll-events".to_owned()).spawn(move || run(&writer, &received))?;
        Ok(Self(Arc::new(Inner { shared, jobs })))
    }

    /// Keeps so many events from now on.
    pub fn set_keep(&self, keep: u64) {
        self.0.shared.keep.store(keep, Ordering::Relaxed);
    }

    /// Appends events with the alarms of a pool that they leave behind, in one durable step; answers their numbers.
    ///
    /// # Errors
    /// `internal` when they cannot be kept; nothing is kept then.
    pub async fn append(&self, events: Vec<NewEvent>, alarms: Option<(Uuid, AlarmState)>) -> Answer<Vec<u64>> {
        let time = time_now();
        Ok(self.change(Change::Append { time, events, alarms }).await?.seqs)
    }

    /// Somebody took note of one event, or of all up to one.
    ///
    /// # Errors
    /// `not-found` when there is no such event.
    pub async fn acknowledge(&self, one: Option<u64>, up_to: Option<u64>, by: &str) -> Answer<Acknowledged> {
        let which = match (one, up_to) {
            (Some(seq), None) => {
                self.event(seq).await?;
                Which::One(seq)
            }
            (None, Some(seq)) => Which::UpTo(seq),
            _ => return Err(Problem::new("invalid-request", "say either seq or up_to")),
        };
        let (by, at) = (by.to_owned(), time_now());
        let done = self.change(Change::Acknowledge { which, by, at }).await?;
        let summary = self.summary();
        Ok(Acknowledged {
            schema: "event-acknowledged/v1".to_owned(),
            acknowledged: done.changed,
            unacknowledged_warnings: summary.warnings,
            unacknowledged_criticals: summary.criticals,
        })
    }

    /// How many an acknowledgement would be for.
    ///
    /// # Errors
    /// As [`Self::acknowledge`].
    pub async fn plan_acknowledge(&self, one: Option<u64>, up_to: Option<u64>) -> Answer<u64> {
        match (one, up_to) {
            (Some(seq), None) => {
                let event = self.event(seq).await?;
                Ok(u64::from(event.severity > Severity::Info && event.acknowledged_at.is_none()))
            }
            (None, Some(seq)) => {
                let query = EventQuery { unacknowledged: true, limit: usize::MAX, ..EventQuery::default() };
                let (events, _) = self.read(move |store| store.read(&query)).await?;
                Ok(events.iter().filter(|event| event.seq <= seq).count() as u64)
            }
            _ => Err(Problem::new("invalid-request", "say either seq or up_to")),
        }
    }

    /// A page of events.
    ///
    /// # Errors
    /// `internal` when they cannot be read.
    pub async fn list(&self, query: EventQuery) -> Answer<EventPage> {
        let newest = query.newest;
        let (items, more) = self.read(move |store| store.read(&query)).await?;
        let next = items.last().filter(|_| more && !newest).map(|event| event.seq);
        Ok(EventPage { schema: "event.list/v1".to_owned(), items, next })
    }

    /// One event.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn event(&self, seq: u64) -> Answer<EventView> {
        let found = self.read(move |store| store.event(seq)).await?;
        found.ok_or_else(|| Problem::not_found("event", &seq.to_string()))
    }

    /// What had fired in a pool. May wait for the disk.
    ///
    /// # Errors
    /// `internal` when it cannot be read.
    pub fn alarms(&self, pool: Uuid) -> Answer<AlarmState> {
        let shared = &self.0.shared;
        shared.store.alarms(pool).map_err(|error| failed(&shared.path, &error))
    }

    /// A pool is gone, and its alarms with it.
    ///
    /// # Errors
    /// `internal` when that cannot be kept.
    pub async fn forget_alarms(&self, pool: Uuid) -> Answer<()> {
        self.change(Change::ForgetAlarms(pool)).await.map(drop)
    }

    /// Of this number and below, events may have been let go.
    ///
    /// # Errors
    /// `internal` when it cannot be read.
    pub async fn pruned(&self) -> Answer<u64> {
        self.read(Store::pruned).await
    }

    /// Figures, without any wait.
    pub fn summary(&self) -> Summary {
        self.0.shared.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the newest event, and a way to wait for newer ones.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.0.shared.last.subscribe()
    }

    /// Ends all that listen, because the daemon stops.
    pub fn end(&self) {
        self.0.shared.ended.send_replace(true);
    }

    /// True when the daemon stops.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.0.shared.ended.subscribe()
    }

    pub(super) async fn webhooks(&self) -> Answer<Vec<WebhookRecord>> {
        self.read(Store::webhooks).await
    }

    pub(super) async fn change(&self, change: Change) -> Answer<Done> {
        let (reply, answer) = oneshot::channel();
        let gone = || Problem::new("internal", "the writer of events has ended");
        self.0.jobs.send(Job { change, reply }).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Reads on a thread that may wait for the disk. Needs tokio's runtime around it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let shared = self.0.shared.clone();
        let read = move || work(&shared.store).map_err(|error| failed(&shared.path, &error));
        let gone = |error: tokio::task::JoinError| Problem::new("internal", format!("events cannot be read: {error}"));
        tokio::task::spawn_blocking(read).await.map_err(gone)?
    }
}

fn run(shared: &Shared, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
        let (changes, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.change, job.reply)).unzip();
        match write(shared, &changes) {
            Ok(done) => replies.into_iter().zip(done).for_each(|(reply, done)| drop(reply.send(Ok(done)))),
            Err(error) => {
                tracing::error!(%error, "events cannot be kept");
                let problem = failed(&shared.path, &error);
                replies.into_iter().for_each(|reply| drop(reply.send(Err(problem.clone()))));
            }
        }
    }
}

fn write(shared: &Shared, changes: &[Change]) -> Result<Vec<Done>, StoreError> {
    let done = shared.store.commit(changes.iter(), shared.keep.load(Ordering::Relaxed))?;
    let summary = shared.store.summary()?;
    let last = summary.last_seq;
    *shared.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    shared.last.send_if_modified(|known| std::mem::replace(known, last) != last);
    Ok(done)
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    let dir = path.parent().unwrap_or(path).display();
    Problem::new("internal", format!("the event log {} fails: {error}", path.display())).hint(format!("df -h {dir}"))
}

/// Now, for people.
pub(super) fn time_now() -> String {
    crate::model::time_of(now_ms())
}

/// So long from now, for people.
pub(super) fn time_after(wait: Duration) -> String {
    crate::model::time_of(now_ms().saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
