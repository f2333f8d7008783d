//! The event file: `events.redb` in the state directory, mode 0600, because the secrets of webhooks are in it.
//!
//! Method: a list of changes is one transaction of redb, synced before it returns; a crash leaves all of it or nothing.
//! Tables: events by number; the numbers of warnings and critical ones that nobody acknowledged; alarms by pool; webhooks by
//! name; how many events of each kind and severity there were; a few numbers ([`LAST`], [`PRUNED`], [`BATCH`]).
//!
//! Events and webhooks are JSON. An entry that makes no sense, as one of another version of this program may, costs itself only.
//!
//! Bound: more than `keep` events (100,000 by default, about 70 MB) are pruned to that many, the oldest first, but for those that
//! [`prune`] spares.

mod apply;
mod prune;
mod read;
mod take_over;
#[cfg(test)]
mod tests;

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll_engine::AlarmState;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};
use uuid::Uuid;

use super::NewEvent;
use super::webhook::WebhookRecord;
use crate::model::Severity;
use apply::{add, apply};
use prune::prune;

const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
const OPEN: TableDefinition<u64, u8> = TableDefinition::new("unacknowledged");
const ALARMS: TableDefinition<&str, &[u8]> = TableDefinition::new("alarms");
const WEBHOOKS: TableDefinition<&str, &[u8]> = TableDefinition::new("webhooks");
const COUNTS: TableDefinition<(&str, u8), u64> = TableDefinition::new("counts");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const TABLES: usize = 6;
/// The greatest number that was ever given.
const LAST: &str = "last";
/// Of this number and below, events may be missing.
const PRUNED: &str = "pruned";
/// So many lists of changes were kept: tells whether one is there that was answered with an error.
const BATCH: &str = "batch";

/// Events that are kept when nothing else is configured.
pub(super) const KEEP_DEFAULT: u64 = 100_000;
/// So many more than are kept may gather before some go: a pass over those that stay costs as much as they are.
const SLACK: u64 = 1000;
/// The file of a process that was killed stays locked for a moment, as long as its rings are torn down.
const LOCK_TIME_MAX: Duration = Duration::from_secs(5);
const CACHE_BYTES: usize = 4 << 20;
/// Mode of the file.
pub(super) const OURS: u32 = 0o600;

/// What goes wrong with the file. The words are redb's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// By the file.
    #[error(transparent)]
    Store(Box<redb::Error>),
    /// By what is in it.
    #[error("an entry makes no sense: {0}")]
    Json(#[from] serde_json::Error),
    /// By the system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

macro_rules! of_redb {
    ($($kind:ident),+) => { $(impl From<redb::$kind> for StoreError {
        fn from(error: redb::$kind) -> Self {
            StoreError::Store(Box::new(error.into()))
        }
    })+ };
}
of_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

impl StoreError {
    /// The file is not what it should be, and will not be by itself.
    pub(crate) fn is_damage(&self) -> bool {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match self {
            StoreError::Json(_) => true,
            StoreError::Io(_) => false,
            StoreError::Store(error) => match &**error {
                // A file that is no database at all, or that was cut off.
                redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
                redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo => false,
                _ => true,
            },
        }
    }
}

type Stored<T> = Result<T, StoreError>;

/// Changes that could not be kept, as far as is known.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// The number of the list and what it did, if the file turns out to have it all the same.
    pub(super) perhaps: Option<(u64, Vec<Done>)>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, perhaps: None }
    }
}

/// Something to be done to the store.
pub(super) enum Change {
    /// Events, and the alarms of a pool that they leave behind.
    Append { time: String, events: Vec<NewEvent>, alarms: Option<(Uuid, AlarmState)> },
    /// Somebody took note.
    Acknowledge { which: Which, by: String, at: String },
    /// A pool is gone.
    ForgetAlarms(Uuid),
    /// Adds or replaces a webhook.
    PutWebhook(Box<WebhookRecord>),
    /// Takes one away.
    RemoveWebhook(String),
    /// A webhook has got as far as this, and knows what it will never get up to `gap_seq`. Nothing when it is gone.
    Delivered { name: String, seq: u64, gap_seq: u64, given_up: u64 },
}

impl Change {
    /// Somebody decides it and relies on it: it must last when it is answered.
    pub(super) fn is_decision(&self) -> bool {
        matches!(self, Change::Acknowledge { .. } | Change::PutWebhook(_) | Change::RemoveWebhook(_))
    }
}

/// Whom an acknowledgement is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    One(u64),
    UpTo(u64),
}

/// What a change did: numbers given, or how many it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) seqs: Vec<u64>,
    pub(super) changed: u64,
}

/// The webhooks of a store, by name.
#[derive(Default)]
pub(super) struct Known {
    pub(super) webhooks: Vec<WebhookRecord>,
    /// Names of those whose records make no sense.
    pub(super) unreadable: Vec<String>,
}

/// Figures of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The newest event.
    pub last_seq: u64,
    /// Of this number and below, events may have been let go.
    pub pruned_seq: u64,
    /// Unacknowledged warnings.
    pub warnings: u64,
    /// Unacknowledged critical ones.
    pub criticals: u64,
    /// Events ever, by kind and severity.
    pub counts: Vec<(String, Severity, u64)>,
}

/// The open file.
pub(super) struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the file. One that was there is read as a whole first: what is damaged is found here.
    pub(super) fn open(path: &Path) -> Stored<Self> {
        Self::open_on(path, |file| file)
    }

    /// The same, with something between it and the file.
    pub(super) fn open_on<B: StorageBackend>(path: &Path, on: impl Fn(FileBackend) -> B) -> Stored<Self> {
        if Self::is_fresh(path) {
            // Beside it: what is killed half way must not look like a log that was damaged.
            let unfinished = path.with_extension("redb.new");
            match std::fs::remove_file(&unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => drop(Self::open_file(&unfinished, &on)?),
            }
            if let Ok(empty) = std::fs::metadata(path) {
                // Its mode may say what has happened before there was a log (`writer`).
                std::fs::set_permissions(&unfinished, empty.permissions())?;
            }
            std::fs::rename(&unfinished, path)?;
        }
        Self::open_file(path, &on)
    }

    /// Whether nothing was ever written to the file.
    pub(super) fn is_fresh(path: &Path) -> bool {
        let is_missing = |error: std::io::Error| error.kind() == ErrorKind::NotFound;
        std::fs::metadata(path).map_or_else(is_missing, |found| found.len() == 0)
    }

    fn open_file<B: StorageBackend>(path: &Path, on: &impl Fn(FileBackend) -> B) -> Stored<Self> {
        let begin = Instant::now();
        let database = loop {
            // Never readable to others, not even empty.
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(OURS).open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                file.set_permissions(Permissions::from_mode(OURS))?;
            }
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            match builder.create_with_backend(on(FileBackend::new(file)?)) {
                Err(DatabaseError::DatabaseAlreadyOpen) if begin.elapsed() < LOCK_TIME_MAX => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => break result?,
            }
        };
        Self::with_tables(database)
    }

    /// One that is gone when the process is.
    pub(super) fn in_memory() -> Stored<Self> {
        Self::with_tables(Database::builder().create_with_backend(InMemoryBackend::new())?)
    }

    /// Whoever reads finds all tables there. Nothing is written when they are: there may be no space for it.
    fn with_tables(database: Database) -> Stored<Self> {
        let store = Self { database };
        if store.database.begin_read()?.list_tables()?.count() < TABLES {
            let all = store.begin()?;
            all.open_table(EVENTS)?;
            all.open_table(OPEN)?;
            all.open_table(ALARMS)?;
            all.open_table(WEBHOOKS)?;
            all.open_table(COUNTS)?;
            all.open_table(NUMBERS)?;
            all.commit()?;
        }
        Ok(store)
    }

    fn begin(&self) -> Stored<WriteTransaction> {
        let mut transaction = self.database.begin_write()?;
        // After a kill the state of the last commit stands as it is.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// Gives greater numbers than `seq` from now on.
    pub(super) fn begin_after(&self, seq: u64) -> Stored<()> {
        let transaction = self.begin()?;
        {
            let mut numbers = transaction.open_table(NUMBERS)?;
            // A clock that is behind lowers nothing.
            if numbers.get(LAST)?.is_none_or(|last| last.value() < seq) {
                numbers.insert(LAST, seq)?;
                numbers.insert(PRUNED, seq)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Does all of it, or nothing. Which of them is not known after an error of the very last step: [`Store::batch`] tells, once the
    /// file was closed and opened again.
    pub(super) fn commit<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change>,
        keep: u64,
    ) -> Result<Vec<Done>, Failure> {
        let transaction = self.begin()?;
        let done = changes.map(|change| apply(&transaction, change)).collect::<Stored<Vec<_>>>()?;
        prune(&transaction, keep)?;
        let batch = add(&transaction, BATCH, 1)?;
        match transaction.commit() {
            Ok(()) => Ok(done),
            Err(error) => Err(Failure { error: error.into(), perhaps: Some((batch, done)) }),
        }
    }
}

fn open_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "open-critical",
        _ => "open-warning",
    }
}

fn code_of(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Critical => 2,
    }
}

fn severity_of(code: u8) -> Severity {
    match code {
        0 => Severity::Info,
        1 => Severity::Warning,
        _ => Severity::Critical,
    }
}
