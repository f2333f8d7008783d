//! The store as the rest of the program sees it. Whoever asks for a change waits for the writer's answer without holding a
//! thread; readers read beside it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_engine::AlarmState;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

pub use super::store::Summary;
use super::store::{Change, Done, KEEP_DEFAULT, Known, Store, StoreError, Which};
use super::writer::{Job, Opener, Shared};
use super::{EventQuery, NewEvent};
use crate::model::{Acknowledged, EventPage, EventView, Severity};
use crate::problem::{Answer, Problem};

const FILE: &str = "events.redb";

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
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    /// Waits for what is under way: it may be the last chance for what is in memory.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of events has panicked");
        }
    }
}

impl EventLog {
    /// Opens the log in `dir`, or makes one. A file that cannot be written or is damaged does not keep it from being there:
    /// no storage stops for the want of its events.
    ///
    /// # Errors
    /// `internal` when there can be no thread.
    pub fn open(dir: &Path) -> Answer<Self> {
        Self::open_with(dir, Box::new(Store::open))
    }

    pub(super) fn open_with(dir: &Path, open: Opener) -> Answer<Self> {
        let path = dir.join(FILE);
        let shared = Shared::begin(path.clone(), open).map_err(|error| failed(&path, &error))?;
        let (jobs, received) = channel();
        let shared = Arc::new(shared);
        let for_writer = shared.clone();
        let writer = std::thread::Builder::new().name("plimsoll-events".to_owned());
        let writer = writer.spawn(move || for_writer.run(&received)).map_err(|error| failed(&path, &error))?;
        Ok(Self(Arc::new(Inner { shared, jobs: Some(jobs), writer: Some(writer) })))
    }

    /// What is wrong with the log and its webhooks, and what to do about it: a sentence each, `REASON; ADVICE`.
    pub fn warnings(&self) -> Vec<String> {
        self.0.shared.warnings()
    }

    /// Says anew which webhooks are not served.
    pub(super) fn set_unserved(&self, warnings: Vec<String>) {
        *self.0.shared.unserved.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
    }

    /// Refuses what could not be relied on, because it would be in memory alone.
    pub(super) fn check_lasting(&self) -> Answer<()> {
        self.0.shared.refusal().map_or(Ok(()), Err)
    }

    /// Changes when the file is written again after it could not be.
    pub(super) fn returned(&self) -> watch::Receiver<()> {
        self.0.shared.returned.subscribe()
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
    /// `not-found` when there is no such event, `internal` when it cannot be kept in the file; nothing is changed then.
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
        self.check_lasting()?;
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
        shared.store().alarms(pool).map_err(|error| failed(&shared.path, &error))
    }

    /// A pool is gone, and its alarms with it.
    ///
    /// # Errors
    /// `internal` when that cannot be kept.
    pub async fn forget_alarms(&self, pool: Uuid) -> Answer<()> {
        self.change(Change::ForgetAlarms(pool)).await.map(drop)
    }

    /// The first and the last number of events that were let go and that somebody who has all up to `after` and knows of all that is
    /// missing up to `known` has not got.
    ///
    /// # Errors
    /// `internal` when that cannot be read.
    pub async fn gap(&self, after: u64, known: u64) -> Answer<Option<(u64, u64)>> {
        let (after, until) = (after.max(known), self.summary().pruned_seq);
        if after >= until {
            return Ok(None);
        }
        self.read(move |store| store.gap(after, until)).await
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

    pub(super) async fn webhooks(&self) -> Answer<Known> {
        self.read(Store::webhooks).await
    }

    pub(super) async fn change(&self, change: Change) -> Answer<Done> {
        let (reply, answer) = oneshot::channel();
        let gone = || Problem::new("internal", "the writer of events has ended");
        self.0.jobs.as_ref().and_then(|jobs| jobs.send(Job { change, reply }).ok()).ok_or_else(gone)?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Reads on a thread that may wait for the disk. Needs tokio's runtime around it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let shared = self.0.shared.clone();
        let read = move || work(&shared.store()).map_err(|error| failed(&shared.path, &error));
        let gone = |error: tokio::task::JoinError| Problem::new("internal", format!("events cannot be read: {error}"));
        tokio::task::spawn_blocking(read).await.map_err(gone)?
    }
}

pub(super) fn failed(path: &Path, error: &dyn std::fmt::Display) -> Problem {
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

pub(super) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
