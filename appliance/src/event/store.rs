//! The event file: `events.redb` in the state directory, mode 0600, because the secrets of webhooks are in it.
//!
//! Method: a list of changes is one transaction of redb, synced before it returns; a crash leaves all of it or nothing.
//! Tables: events by number; the numbers of warnings and critical ones that nobody acknowledged; alarms by pool; webhooks by
//! name; how many events of each kind and severity there were; a few numbers ([`LAST`], [`PRUNED`]).
//!
//! Bound: more than `keep` events (100,000 by default, about 70 MB) are pruned to that many, the oldest first, but for those that
//! [`prune`] spares.

mod apply;
mod prune;
mod take_over;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll_engine::AlarmState;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};
use uuid::Uuid;

use super::alarms::Alarms;
use super::webhook::WebhookRecord;
use super::{EventQuery, NewEvent};
use crate::model::{EventView, Severity};
use apply::apply;
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

    /// Does all of it, or nothing.
    pub(super) fn commit<'a>(&self, changes: impl Iterator<Item = &'a Change>, keep: u64) -> Stored<Vec<Done>> {
        let transaction = self.begin()?;
        let done = changes.map(|change| apply(&transaction, change)).collect::<Stored<Vec<_>>>()?;
        prune(&transaction, keep)?;
        transaction.commit()?;
        Ok(done)
    }

    /// A page of events, and whether more may follow.
    pub(super) fn read(&self, query: &EventQuery) -> Stored<(Vec<EventView>, bool)> {
        let transaction = self.database.begin_read()?;
        let (events, open) = (transaction.open_table(EVENTS)?, transaction.open_table(OPEN)?);
        let mut found = Vec::new();
        let mut range = events.range(query.after.saturating_add(1)..)?;
        while let Some(entry) = if query.newest { range.next_back() } else { range.next() } {
            let (seq, event) = entry?;
            if query.unacknowledged && open.get(seq.value())?.is_none() {
                continue;
            }
            let event: EventView = serde_json::from_slice(event.value())?;
            if !query.fits(&event) {
                continue;
            }
            if found.len() == query.limit {
                if query.newest {
                    found.reverse();
                }
                return Ok((found, true));
            }
            found.push(event);
        }
        if query.newest {
            found.reverse();
        }
        Ok((found, false))
    }

    /// The event of this number.
    pub(super) fn event(&self, seq: u64) -> Stored<Option<EventView>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let found = events.get(seq)?;
        Ok(found.map(|event| serde_json::from_slice(event.value())).transpose()?)
    }

    /// The first and the last number that events had after `after` and up to `until`, and have no more.
    pub(super) fn gap(&self, after: u64, until: u64) -> Stored<Option<(u64, u64)>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let (mut first, mut last) = (after + 1, until);
        for entry in events.range(first..=until)? {
            if entry?.0.value() != first {
                break;
            }
            first += 1;
        }
        for entry in events.range(first..=until.max(first))?.rev() {
            if entry?.0.value() != last {
                break;
            }
            last -= 1;
        }
        Ok((first <= last).then_some((first, last)))
    }

    /// What had fired in a pool.
    pub(super) fn alarms(&self, pool: Uuid) -> Stored<AlarmState> {
        let alarms = self.database.begin_read()?.open_table(ALARMS)?;
        let found = alarms.get(pool.to_string().as_str())?;
        let found = found.map(|alarms| serde_json::from_slice::<Alarms>(alarms.value())).transpose()?;
        Ok(found.map(AlarmState::from).unwrap_or_default())
    }

    /// All webhooks, by name.
    pub(super) fn webhooks(&self) -> Stored<Vec<WebhookRecord>> {
        let webhooks = self.database.begin_read()?.open_table(WEBHOOKS)?;
        webhooks.iter()?.map(|entry| Ok(serde_json::from_slice(entry?.1.value())?)).collect()
    }

    pub(super) fn summary(&self) -> Stored<Summary> {
        let transaction = self.database.begin_read()?;
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |name: &str| -> Stored<u64> { Ok(numbers.get(name)?.map_or(0, |number| number.value())) };
        let mut counts = Vec::new();
        for entry in transaction.open_table(COUNTS)?.iter()? {
            let (key, count) = entry?;
            let (kind, code) = key.value();
            counts.push((kind.to_owned(), severity_of(code), count.value()));
        }
        Ok(Summary {
            last_seq: number(LAST)?,
            pruned_seq: number(PRUNED)?,
            warnings: number(open_name(Severity::Warning))?,
            criticals: number(open_name(Severity::Critical))?,
            counts,
        })
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
