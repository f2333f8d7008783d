//! When the file can't be written: what is told and refused, going on in memory, and coming back.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{RETRY_PAUSE, Shared, lock};
use crate::event::NewEvent;
use crate::event::log::{now_ms, time_now};
use crate::event::store::{Change, OURS, Store, StoreError};
use crate::model::Severity;
use crate::problem::Problem;

/// That the file is behind is no event more than once in this time: a disk may be full again and again.
const TELL_PAUSE: Duration = Duration::from_secs(3600);
/// Mode of a file that is behind memory: of no use otherwise.
const BEHIND: u32 = 0o700;

/// Why the log is in memory.
pub(super) struct Trouble {
    reason: String,
    /// Memory has what the file has.
    knows: bool,
    /// The last number of the file that anybody was told of.
    told: u64,
    /// What is wrong with the file, if it can be opened but is not what it should be.
    damage: Option<String>,
    tried: Instant,
}

impl Shared {
    pub(super) fn is_in_memory(&self) -> bool {
        lock(&self.trouble).is_some()
    }

    pub(super) fn is_due(&self) -> bool {
        lock(&self.trouble).as_ref().is_some_and(|trouble| trouble.tried.elapsed() >= RETRY_PAUSE)
    }

    pub(super) fn is_behind(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.permissions().mode() & 0o777 == BEHIND)
    }

    pub(super) fn set_mode(&self, mode: u32) {
        if let Err(error) = std::fs::set_permissions(&self.path, Permissions::from_mode(mode)) {
            tracing::warn!(%error, path = %self.path.display(), "its mode cannot be set");
        }
    }

    /// What is wrong, and what to do about it.
    pub(in crate::event) fn warnings(&self) -> Vec<String> {
        let aside = lock(&self.aside).clone();
        self.says_behind().into_iter().chain(aside).chain(lock(&self.unserved).iter().cloned()).collect()
    }

    fn says_behind(&self) -> Option<String> {
        let dir = self.dir().display();
        let behind = |trouble: &Trouble| {
            format!(
                "event log can't be written: {}; free space in {dir} (df -h {dir}): new events are in memory alone until then",
                trouble.reason
            )
        };
        lock(&self.trouble).as_ref().map(behind)
    }

    /// Why nothing can be decided now that is to last.
    pub(in crate::event) fn refusal(&self) -> Option<Problem> {
        let (path, dir) = (self.path.display(), self.dir().display());
        let refuse = |trouble: &Trouble| {
            let detail = format!("it cannot be kept: the event log {path} can't be written: {}", trouble.reason);
            Problem::new("internal", detail).hint(format!("free space in {dir} (df -h {dir}), then do it again"))
        };
        lock(&self.trouble).as_ref().map(refuse)
    }

    /// Goes on in memory, or in a new file if the old one is damaged. Of what the file has, somebody was told up to the event `told`.
    /// Answers how many lists of changes the file has, if it can be read.
    pub(super) fn fall_back(&self, error: &StoreError, told: u64) -> Result<Option<u64>, StoreError> {
        tracing::error!(%error, path = %self.path.display(), "the event log cannot be written");
        let damage = error.is_damage().then(|| error.to_string());
        let memory = Store::in_memory()?;
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        // After an error redb gives nothing more of a file until it is closed and opened again.
        *store = Store::in_memory()?;
        let found = match damage {
            Some(_) => None,
            None => self.open_path().and_then(|file| memory.take_over(&file).and_then(|()| file.batch())).ok(),
        };
        let knows = found.is_some();
        if !knows || self.is_behind() {
            memory.begin_after(now_ms())?;
        }
        *store = memory;
        drop(store);
        let is_damaged = damage.is_some();
        let trouble = Trouble { reason: error.to_string(), knows, told, damage, tried: Instant::now() };
        *lock(&self.trouble) = Some(trouble);
        if is_damaged && let Err(error) = self.come_back() {
            tracing::error!(%error, "there is no new event log");
        }
        if self.is_in_memory() {
            self.set_mode(BEHIND);
            self.tell_behind()?;
        }
        self.take_note();
        Ok(found)
    }

    /// Makes the file what memory is, and goes on in it.
    pub(super) fn come_back(&self) -> Result<(), StoreError> {
        if let Some(trouble) = &mut *lock(&self.trouble) {
            trouble.tried = Instant::now();
        }
        let file = self.open_again()?;
        self.bring_up(&file).inspect_err(|error| {
            if let Some(trouble) = lock(&self.trouble).as_mut().filter(|_| error.is_damage()) {
                trouble.damage = Some(error.to_string());
            }
        })?;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = file;
        self.set_mode(OURS);
        *lock(&self.trouble) = None;
        tracing::info!(path = %self.path.display(), "the event log is written again");
        self.take_note();
        self.returned.send_replace(());
        Ok(())
    }

    /// The file, or a new one in the place of one that is damaged.
    fn open_again(&self) -> Result<Store, StoreError> {
        let known = lock(&self.trouble).as_ref().and_then(|trouble| trouble.damage.clone());
        let damage = match known {
            Some(damage) => damage,
            None => match self.open_path() {
                Err(error) if error.is_damage() => error.to_string(),
                result => return result,
            },
        };
        self.put_aside(&damage)?;
        self.open_path()
    }

    /// Makes `file` what memory is, which learns first what only the file knows.
    fn bring_up(&self, file: &Store) -> Result<(), StoreError> {
        let unknown = lock(&self.trouble).as_ref().filter(|trouble| !trouble.knows).map(|trouble| trouble.told);
        if let Some(told) = unknown {
            self.store().learn(file, told)?;
            // Once: it would be counted twice.
            if let Some(trouble) = &mut *lock(&self.trouble) {
                trouble.knows = true;
            }
        }
        file.take_over(&self.store())
    }

    /// Gives a damaged file a name that no other has, and tells what is lost with it.
    fn put_aside(&self, damage: &str) -> Result<(), StoreError> {
        let first = self.path.with_extension("redb.bad");
        let others = (2..).map(|number: u32| self.path.with_extension(format!("redb.bad-{number}")));
        let aside = std::iter::once(first.clone()).chain(others).find(|path| !path.exists()).unwrap_or(first);
        std::fs::rename(&self.path, &aside)?;
        tracing::error!(damage, aside = %aside.display(), "the event log is damaged and was put aside");
        let mut is_lost = false;
        if let Some(trouble) = &mut *lock(&self.trouble) {
            trouble.damage = None;
            is_lost = !trouble.knows;
        }
        let advice = match is_lost {
            true => "add your webhooks anew (plimsoll webhook add)",
            false => "nothing of it is missing (plimsoll event list)",
        };
        let words =
            format!("event log {} was damaged and is kept as {}; {advice}", self.path.display(), aside.display());
        *lock(&self.aside) = Some(words);
        if is_lost {
            self.keep_own(says_lost(damage, &aside))?;
        }
        Ok(())
    }

    /// Tells that the file is behind, if it is.
    fn tell_behind(&self) -> Result<(), StoreError> {
        let Some(behind) = self.says_behind() else { return Ok(()) };
        let mut told = lock(&self.told_behind);
        if told.is_some_and(|told| told.elapsed() <= TELL_PAUSE) {
            return Ok(());
        }
        *told = Some(Instant::now());
        let advice = format!("Free space in {}, and see whether it is over (plimsoll status).", self.dir().display());
        let event = NewEvent::new(Severity::Warning, "event-log-behind", "events").cause(behind).advice(advice);
        self.keep_own(event)
    }

    fn keep_own(&self, event: NewEvent) -> Result<(), StoreError> {
        let change = Change::Append { time: time_now(), events: vec![event], alarms: None };
        let kept = self.store().commit([change].iter(), self.keep.load(Ordering::Relaxed));
        kept.map(drop).map_err(|failure| failure.error)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

fn says_lost(damage: &str, aside: &Path) -> NewEvent {
    NewEvent::new(Severity::Critical, "event-log-lost", "events")
        .cause(format!("the event log was damaged ({damage}); it is kept as {}", aside.display()))
        .advice("Add your webhooks anew (plimsoll webhook add NAME --url URL --secret-file FILE).")
}
