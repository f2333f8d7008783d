//! Work that goes on after the call that asked for it.

use std::cell::{Cell, RefCell};

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It goes on, or will when the pool is opened again.
    Running,
    /// It waits to be resumed.
    Paused,
    /// It has ended well.
    Done,
    /// It was called off.
    Cancelled,
    /// It has ended, and why.
    Failed(String),
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its number. The first of a life is the wall clock in milliseconds, so that none is used twice.
    pub id: u64,
    /// `vdisk-delete`, `vdisk-shrink`, `reclaim`, `compact`, `survey` or `device-evacuate`.
    pub kind: &'static str,
    /// POOL/VDISK, the pool, or the pool and a device's path with a space between them.
    pub object: String,
    /// Units done, at most `total`.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is counted: `bytes`.
    pub unit: &'static str,
    /// How it stands.
    pub state: JobState,
    /// What keeps it from going on, and what would help.
    pub waits_for: Option<String>,
}

/// A job in memory.
pub(crate) struct Job {
    id: u64,
    kind: &'static str,
    object: String,
    total: Cell<u64>,
    done: Cell<u64>,
    state: RefCell<JobState>,
    waits_for: RefCell<Option<String>>,
}

impl Job {
    pub(super) fn new(id: u64, kind: &'static str, object: String, total: u64) -> Self {
        let state = RefCell::new(JobState::Running);
        Job { id, kind, object, total: Cell::new(total), done: Cell::new(0), state, waits_for: RefCell::default() }
    }

    pub(super) fn progress(&self, done: u64) {
        self.done.set(done.min(self.total.get()));
    }

    /// Says what keeps it from going on; `None`: nothing.
    pub(super) fn wait_for(&self, what: Option<String>) {
        *self.waits_for.borrow_mut() = what;
    }

    /// What was paused goes on, or begins anew.
    pub(super) fn go_on(&self, total: u64) {
        self.total.set(total);
        self.done.set(0);
        *self.state.borrow_mut() = JobState::Running;
    }

    pub(super) fn end(&self, state: JobState) {
        if state == JobState::Done {
            self.done.set(self.total.get());
        }
        *self.state.borrow_mut() = state;
        self.wait_for(None);
    }

    pub(super) fn is_of(&self, kind: &str, object: &str) -> bool {
        self.kind == kind && self.object == object
    }

    pub(super) fn is_running(&self) -> bool {
        *self.state.borrow() == JobState::Running
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), JobState::Done | JobState::Cancelled | JobState::Failed(_))
    }

    pub(super) fn info(&self) -> JobInfo {
        JobInfo {
            id: self.id,
            kind: self.kind,
            object: self.object.clone(),
            done: self.done.get(),
            total: self.total.get(),
            unit: "bytes",
            state: self.state.borrow().clone(),
            waits_for: self.waits_for.borrow().clone(),
        }
    }
}
