//! One write that waits for space: what it lacks, how long it waits, and what it may take when its turn comes. The queue is in `hold`.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use plimsoll_hardware::{IoError, Machine};

use super::hold::Place;
use super::ticket::Asked;
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, OnFull, PAGE_BYTES, VirtualExtent};
use crate::space::Account;

/// Before a write that was granted something waits again.
const AGAIN: Duration = Duration::from_millis(1);

/// Where a write stands in the queue, once it was held: kept when it has to wait again.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    number: u64,
    since: Duration,
}

/// What a write lacks.
pub(super) struct Need {
    /// What its extents are for, as far as is known; somebody else's write may have brought one meanwhile.
    pub(super) of: Vec<(VirtualExtent, Blocks)>,
    pub(super) bytes: u64,
    /// By the last look.
    pub(super) shortage: Cell<Shortage>,
    /// What needs room below the devices as well.
    pub(super) room: RoomFor,
}

/// What a write needs room for below the devices, beside extents.
pub(super) enum RoomFor {
    Nothing,
    /// The checkpoint that would make way for its record.
    Checkpoint,
    /// Blocks of extents that are its vdisk's.
    Blocks(Vec<(VirtualExtent, Blocks)>),
}

impl Need {
    /// Extents that it lacks: one at least, or it would not have asked.
    pub(super) fn extents(&self) -> u64 {
        self.of.len().max(1) as u64
    }

    /// Memory behind its data: buffers are powers of two, of a page at least.
    pub(super) fn memory(&self) -> u64 {
        self.bytes.max(PAGE_BYTES as u64).next_power_of_two()
    }
}

/// Extents that a write may take; what it did not take goes back.
pub(crate) struct Grant<M: Machine> {
    store: Rc<Store<M>>,
    account: Rc<Account>,
    /// Among those of the queue.
    number: u64,
    left: Rc<Cell<u64>>,
}

impl<M: Machine> Grant<M> {
    fn new(store: &Rc<Store<M>>, vdisk: &VdiskCore, extents: u64) -> Self {
        let (number, left) = (store.holds.next_number(), Rc::new(Cell::new(extents)));
        store.holds.grants.borrow_mut().insert(number, left.clone());
        Grant { store: store.clone(), account: vdisk.mapping.account.clone(), number, left }
    }

    /// Whether one of the extents is left.
    pub(super) fn is_left(&self) -> bool {
        self.left.get() > 0
    }

    /// One of the extents was taken.
    pub(super) fn used(&self) {
        self.left.set(self.left.get() - 1);
    }
}

impl<M: Machine> Drop for Grant<M> {
    fn drop(&mut self) {
        self.store.holds.grants.borrow_mut().remove(&self.number);
        if self.left.get() > 0 {
            self.store.space.ledger.take_back(&self.account, self.left.get());
        }
    }
}

impl<M: Machine> Store<M> {
    /// Waits until a write may have what it needs, as long as its vdisk's policy, or how it was asked for, says.
    ///
    /// # Errors
    /// `OutOfSpace`, `QuotaExceeded` and `Device` with `NoSpace` when that time is over, or at once; `Cancelled`; those of a vdisk or pool that goes away.
    pub(super) async fn hold(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        need: Need,
        asked: &Asked<'_>,
    ) -> Result<Grant<M>> {
        if asked.of_manager {
            return Err(self.no_space(vdisk, &need));
        }
        let machine = &self.media.machine;
        let bound = self.hold_bytes_max();
        // One that was held already keeps its place.
        let fits = self.has_memory_for(vdisk, need.memory(), bound) || asked.patience.get().is_some();
        let policy = asked.on_full(vdisk);
        self.note_exhausted(vdisk, &need, policy != OnFull::Fail && fits);
        self.space.note_filling();
        if need.shortage.get() == Shortage::DeviceFull {
            // Whoever makes the pool larger by himself looks at that, too.
            self.space.wanted_below.set(need.extents());
            self.space.filling.reached.notify();
        }
        let OnFull::Hold(time) = policy else {
            if asked.patience.get().is_some() {
                vdisk.waited.set(vdisk.waited.get().saturating_sub(1));
            }
            return Err(self.refuse(vdisk, &need));
        };
        if !fits {
            self.note_overflow(vdisk, &need, bound);
            return Err(self.refuse(vdisk, &need));
        }
        let again = asked.patience.get().is_some();
        let patience = asked.patience.get().unwrap_or_else(|| {
            self.counters.held(need.bytes);
            count(&vdisk.waited, 1);
            Patience { number: self.holds.next_number(), since: machine.now() }
        });
        asked.patience.set(Some(patience));
        let place = self.join(vdisk, need, patience.number, asked.how);
        if again {
            // What it was granted was not enough, or could not be used: not again and again within one moment. It has its place meanwhile.
            machine.sleep(AGAIN).await;
        }
        let granted = self.wait(&place, asked, (patience.since, time)).await;
        if let Ok(Some(extents)) = granted {
            return Ok(Grant::new(self, vdisk, extents));
        }
        vdisk.waited.set(vdisk.waited.get().saturating_sub(1));
        granted?;
        let waiter = place.waiter.clone();
        drop(place);
        self.note_expired(vdisk, &waiter.need, machine.now().saturating_sub(patience.since));
        Err(self.refuse(vdisk, &waiter.need))
    }

    /// Whether one more write may be held whose data takes so much memory, of which all of the pool's may take `bound`.
    fn has_memory_for(&self, vdisk: &VdiskCore, memory: u64, bound: u64) -> bool {
        let left = bound.saturating_sub(self.holds.figures().1);
        let (held, buffers) = (vdisk.held.get().1, self.media.machine.buffers());
        // Twice what is left is a vdisk's share, so that there is always some for others. The memory is that of all pools of the
        // machine: half of it is always left to I/O that does not wait.
        memory <= left
            && (held == 0 || held + memory <= 2 * left)
            && buffers.parked() + memory as usize <= buffers.bytes() / 2
    }

    /// Answers the extents that it may take; none when the time that it may wait `since` is over (at first `time`), or it is not to wait
    /// any more.
    async fn wait(
        self: &Rc<Self>,
        place: &Place<'_, M>,
        asked: &Asked<'_>,
        (since, mut time): (Duration, Duration),
    ) -> Result<Option<u64>> {
        let (waiter, machine) = (&place.waiter, &self.media.machine);
        let rest = |time| since.checked_add(time).map_or(Duration::MAX, |until| until.saturating_sub(machine.now()));
        let mut expires = pin!(machine.sleep(rest(time)));
        let mut cancelled = pin!(async {
            match place.ticket {
                Some(ticket) => ticket.cancelled().await,
                None => std::future::pending().await,
            }
        });
        std::future::poll_fn(|context| {
            // First: who gave it up may have said so already.
            if cancelled.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(Error::Cancelled));
            }
            let there = self.still_there(&waiter.vdisk).and_then(|()| self.still_within(&waiter.vdisk, asked));
            if let Err(error) = there.and_then(|()| self.writable()) {
                return Poll::Ready(Err(error));
            }
            if let Some(extents) = waiter.granted.take() {
                return Poll::Ready(Ok(Some(extents)));
            }
            match asked.on_full(&waiter.vdisk) {
                OnFull::Hold(now) if now != time => {
                    time = now;
                    expires.set(machine.sleep(rest(time)));
                }
                // Who goes through the queue says so to those that get nothing.
                OnFull::Hold(_) | OnFull::Fail => {}
            }
            if waiter.refused.get() || expires.as_mut().poll(context).is_ready() {
                // Nobody may have looked at it since it lacks nothing any more.
                return Poll::Ready(Ok(waiter.lacks_nothing().then_some(0)));
            }
            *waiter.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Counts a write that gets no space, and answers its error.
    fn refuse(&self, vdisk: &VdiskCore, need: &Need) -> Error {
        count(&self.counters.refused_writes, 1);
        self.no_space(vdisk, need)
    }

    fn no_space(&self, vdisk: &VdiskCore, need: &Need) -> Error {
        let extent = self.media.extent_bytes;
        let account = &vdisk.mapping.account;
        let (pool, needed) = (self.identity.name.clone(), need.extents());
        let (holder, used, quota) = match (need.shortage.get(), account.tenant()) {
            (Shortage::VdiskQuota, _) => {
                (format!("vdisk {pool}/{}", vdisk.name()), account.in_use(), account.quota().unwrap_or(0))
            }
            (Shortage::TenantQuota, Some(tenant)) => {
                (format!("tenant {} in pool {pool}", tenant.name), tenant.used.get(), tenant.quota.get())
            }
            (Shortage::DeviceFull, _) => return IoError::NoSpace { path: self.full_device_path() }.into(),
            _ => return Error::OutOfSpace { pool, needed, free: self.space.available() },
        };
        Error::QuotaExceeded { holder, needed: needed * extent, used: used * extent, quota: quota * extent }
    }
}
