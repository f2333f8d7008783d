//! What a protocol says of a write beyond its data, and how it keeps a hand on one that is held.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::VdiskCore;
use super::wait_for_space::Patience;
use crate::format::OnFull;
use crate::wait::WaitQueue;

/// How a write is to be done.
#[derive(Clone, Default)]
pub struct WriteOptions {
    /// It survives power loss when it is answered.
    pub fua: bool,
    /// What becomes of it when there is no space, if it is not what the vdisk's policy says. `Hold(Duration::MAX)` waits without end.
    pub on_full: Option<OnFull>,
    /// For looking after it while it is held. Several writes may have the same.
    pub ticket: Option<Ticket>,
}

impl WriteOptions {
    pub(super) const PLAIN: &WriteOptions = &WriteOptions { fua: false, on_full: None, ticket: None };
    pub(super) const DURABLE: &WriteOptions = &WriteOptions { fua: true, on_full: None, ticket: None };
}

/// A request on its way: what is asked of all its parts, and where it stands among the held writes once it was one. What follows of it
/// keeps that place, and has the time that is left.
pub(super) struct Asked<'a> {
    pub(super) how: &'a WriteOptions,
    /// Its offset and bytes, when nothing of it may reach beyond the end of a vdisk that shrinks or goes away meanwhile.
    pub(super) bounds: Option<(u64, u64)>,
    pub(super) patience: Cell<Option<Patience>>,
    /// Who manages the vdisk wants it, not its guest: it never waits, and is told of a want of space by nothing but its error.
    pub(super) of_manager: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(how: &'a WriteOptions, bounds: Option<(u64, u64)>) -> Self {
        Asked { how, bounds, patience: Cell::new(None), of_manager: false }
    }

    /// What a manager wants, wherever it lies.
    pub(super) fn of_manager() -> Asked<'static> {
        const HOW: &WriteOptions = &WriteOptions { fua: true, on_full: Some(OnFull::Fail), ticket: None };
        Asked { of_manager: true, ..Asked::new(HOW, None) }
    }

    /// What becomes of it when there is no space, as it is decided now.
    pub(super) fn on_full(&self, vdisk: &VdiskCore) -> OnFull {
        self.how.on_full.unwrap_or_else(|| vdisk.entry.borrow().policy.on_full)
    }
}

/// A hand on writes that may be held: says how many are, and lets them be given up. A write that is given up while it is held is never
/// applied, and ends as `Cancelled`; one that is not held goes to its end.
#[derive(Clone, Default)]
pub struct Ticket(Rc<Inner>);

/// A write waits for others that may be held.
pub struct Behind {
    ticket: Ticket,
    bytes: u64,
}

impl Drop for Behind {
    fn drop(&mut self) {
        let (writes, bytes) = self.ticket.0.behind.get();
        self.ticket.0.behind.set((writes - 1, bytes - self.bytes));
        self.ticket.tell(self.ticket.0.held.get());
    }
}

#[derive(Default)]
struct Inner {
    cancelled: Cell<bool>,
    held: Cell<(u32, u64)>,
    /// What waits for writes that may be held.
    behind: Cell<(u32, u64)>,
    changed: WaitQueue,
    /// Apart from `changed`, which moves with every write: a thousand that wait are not all to look at each one.
    given_up: WaitQueue,
    listener: RefCell<Option<Box<dyn Fn()>>>,
}

impl Ticket {
    /// Calls `listener` whenever the number of held writes changes. It must not block, nor call back into the vdisk.
    pub fn listening(listener: impl Fn() + 'static) -> Self {
        let ticket = Ticket::default();
        *ticket.0.listener.borrow_mut() = Some(Box::new(listener));
        ticket
    }

    /// Writes that are held now.
    pub fn held(&self) -> u32 {
        self.0.held.get().0
    }

    /// Bytes of their data.
    pub fn held_bytes(&self) -> u64 {
        self.0.held.get().1
    }

    /// Writes, and their bytes, that wait for others which may be held: see [`Ticket::behind`].
    pub fn waiting_behind(&self) -> (u32, u64) {
        self.0.behind.get()
    }

    /// Says, until the answer is dropped, that a write of `bytes` waits for others that may be held.
    pub fn behind(&self, bytes: u64) -> Behind {
        let (writes, before) = self.0.behind.get();
        self.0.behind.set((writes + 1, before + bytes));
        self.tell(self.0.held.get());
        Behind { ticket: self.clone(), bytes }
    }

    /// Gives up all writes of this ticket that are held, and all that would be from now on.
    pub fn cancel(&self) {
        self.0.cancelled.set(true);
        self.0.given_up.notify();
        self.0.changed.notify();
    }

    /// Whether its writes are given up.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.get()
    }

    /// Waits until the number of held writes changes, or they are given up.
    pub async fn changed(&self) {
        self.0.changed.changed().await;
    }

    /// Waits until the writes are given up.
    pub async fn cancelled(&self) {
        while !self.0.cancelled.get() {
            self.0.given_up.changed().await;
        }
    }

    pub(super) fn joined(&self, bytes: u64) {
        let (writes, before) = self.0.held.get();
        self.tell((writes + 1, before + bytes));
    }

    pub(super) fn left(&self, bytes: u64) {
        let (writes, before) = self.0.held.get();
        self.tell((writes - 1, before - bytes));
    }

    fn tell(&self, held: (u32, u64)) {
        self.0.held.set(held);
        self.0.changed.notify();
        if let Some(listener) = &*self.0.listener.borrow() {
            listener();
        }
    }
}
