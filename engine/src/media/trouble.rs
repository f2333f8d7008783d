//! What goes wrong with devices, in one place for all of them: whether something unflushed may be lost, and which of them fail.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_hardware::IoError;

use crate::wait::WaitQueue;

/// A device that fails is told of once, and again when it still does after so long.
const AGAIN: Duration = Duration::from_secs(3600);

/// Shared by the devices of a pool.
#[derive(Default)]
pub(crate) struct Trouble {
    /// Some device may have lost what it had not flushed.
    lossy: Cell<bool>,
    /// What the first device said that was gone.
    gone: OnceCell<IoError>,
    /// What to do at that instant.
    act: OnceCell<Box<dyn Fn()>>,
    /// What to do before there is a pool that could.
    at_start: OnceCell<Box<dyn Fn()>>,
    /// By the path of the device, and whether it is only full: neither hides the other.
    failing: RefCell<BTreeMap<(String, bool), Failing>>,
    /// Something failed.
    pub(crate) noticed: WaitQueue,
}

/// What one device has failed to do.
struct Failing {
    /// Operations that failed and were not told of.
    errors: u64,
    /// The first of them.
    first: Option<IoError>,
    told_at: Option<Duration>,
}

/// Operations of a device that failed.
pub(crate) struct DeviceErrors {
    pub(crate) path: String,
    pub(crate) errors: u64,
    /// What the first of them says.
    pub(crate) first: IoError,
}

impl Trouble {
    pub(super) fn at_start(&self, act: impl Fn() + 'static) {
        let _ = self.at_start.set(Box::new(act));
    }

    pub(super) fn act(&self, act: impl Fn() + 'static) {
        // The first to say it is the pool itself; its views have nothing to do.
        let _ = self.act.set(Box::new(act));
    }

    /// What the first device says that has vanished in this life.
    pub(crate) fn gone(&self) -> Option<&IoError> {
        self.gone.get()
    }

    pub(super) fn is_lossy(&self) -> bool {
        self.lossy.get()
    }

    pub(super) fn lose(&self) {
        self.lossy.set(true);
        for act in [&self.at_start, &self.act].into_iter().filter_map(OnceCell::get) {
            act();
        }
    }

    /// An operation of the device at `path` failed.
    #[cold]
    pub(crate) fn note(&self, path: &str, error: &IoError) {
        if matches!(error, IoError::Gone { .. }) {
            let _ = self.gone.set(error.clone());
            self.lose();
        }
        let mut all = self.failing.borrow_mut();
        let new = || Failing { errors: 0, first: None, told_at: None };
        let full = matches!(error, IoError::NoSpace { .. });
        let failing = all.entry((path.to_owned(), full)).or_insert_with(new);
        failing.first.get_or_insert_with(|| error.clone());
        failing.errors += 1;
        drop(all);
        self.noticed.notify();
    }

    /// What is to be told now; it counts as told.
    pub(crate) fn take_due(&self, now: Duration) -> Vec<DeviceErrors> {
        let mut all = self.failing.borrow_mut();
        let due = all.iter_mut().filter(|(_, failing)| {
            failing.errors > 0 && failing.told_at.is_none_or(|told| now.saturating_sub(told) >= AGAIN)
        });
        due.filter_map(|((path, _), failing)| {
            failing.told_at = Some(now);
            let errors = std::mem::take(&mut failing.errors);
            failing.first.take().map(|first| DeviceErrors { path: path.clone(), errors, first })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_fails_is_told_of_once_an_hour_with_all_its_errors() {
        let trouble = Trouble::default();
        let error = |operation| IoError::Failed { path: "/d".into(), operation, offset: 0, reason: "bad".into() };
        let due = |at| {
            let due = trouble.take_due(Duration::from_secs(at)).into_iter();
            due.map(|due| (due.path, due.errors, due.first.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(due(0), []);
        trouble.note("/d", &error("read"));
        trouble.note("/d", &error("write"));
        assert_eq!(due(10), [("/d".to_owned(), 2, error("read").to_string())]);
        trouble.note("/d", &error("flush"));
        trouble.note("/e", &error("write"));
        assert_eq!(due(20), [("/e".to_owned(), 1, error("write").to_string())]);
        trouble.note("/d", &error("write"));
        assert_eq!(due(3609), []);
        assert_eq!(due(3610), [("/d".to_owned(), 2, error("flush").to_string())]);
        assert_eq!(due(30_000), []);
    }

    #[test]
    fn a_device_that_is_full_does_not_hide_that_it_fails() {
        let trouble = Trouble::default();
        let full = IoError::NoSpace { path: "/d".into() };
        let failed = IoError::Failed { path: "/d".into(), operation: "write", offset: 0, reason: "bad".into() };
        let due = |at| {
            let due = trouble.take_due(Duration::from_secs(at)).into_iter();
            due.map(|due| (due.errors, due.first.to_string())).collect::<Vec<_>>()
        };
        trouble.note("/d", &full);
        assert_eq!(due(0), [(1, full.to_string())]);
        trouble.note("/d", &full);
        trouble.note("/d", &failed);
        assert_eq!(due(10), [(1, failed.to_string())]);
        assert_eq!(due(3600), [(1, full.to_string())]);
    }
}
