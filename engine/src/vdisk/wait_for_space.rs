//! One write that waits for space: what it lacks, how long it waits, and what it may take when its turn comes. The queue is in `hold`.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use plimsoll_hardware::{IoError, Machine};

use super::hold::{Place, parked};
use super::ticket::Asked;
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, OnFull, VirtualExtent};
use crate::space::Account;

/// Before a write that was granted something waits again.
const AGAIN: Duration = Duration::from_millis(1);

/// Where a write stands in the queue, once it was held: kept when it has to wait again.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    number: u64,
    since: Duration,
    /// When it fails.
    until: Option<Duration>,
}

/// What a write lacks.
pub(super) struct Need {
    /// What its extents are for, as far as is known; somebody else's write may have brought one meanwhile.
    pub(super) of: Vec<(VirtualExtent, Blocks)>,
    pub(super) bytes: u64,
    pub(super) shortage: Shortage,
    /// It needs room below as well: for blocks of an extent that it has, or for a checkpoint that would make way for it.
    pub(super) room: bool,
}

impl Need {
    /// Extents that it lacks: one at least, or it would not have asked.
    pub(super) fn extents(&self) -> u64 {
        self.of.len().max(1) as u64
    }
}

/// Extents that a write may take; what it did not take goes back.
pub(crate) struct Grant<M: Machine> {
    store: Rc<Store<M>>,
    account: Rc<Account>,
    left: Cell<u64>,
}

impl<M: Machine> Grant<M> {
    /// Uses one of the extents, if there is one left.
    pub(super) fn draw(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// One that was drawn could not be used.
    pub(super) fn put_back(&self) {
        self.left.set(self.left.get() + 1);
    }
}

impl<M: Machine> Drop for Grant<M> {
    fn drop(&mut self) {
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
        let policy = asked.how.on_full.unwrap_or_else(|| vdisk.entry.borrow().policy.on_full);
        let queue = &self.holds;
        let buffers = self.media.machine.buffers();
        let bound = self.hold_bytes_max();
        let left = bound.saturating_sub(queue.figures().1);
        // Twice what is left is a vdisk's share, so that there is always some for others. The memory is that of all pools of the
        // machine: half of it is always left to I/O that does not wait.
        let held = vdisk.held.get().1;
        let fits = need.bytes <= left
            && (held == 0 || held + need.bytes <= 2 * left)
            && buffers.parked() + parked(need.bytes) <= buffers.bytes() / 2;
        // One that was held already keeps its place.
        let fits = fits || asked.patience.get().is_some();
        let may_wait = policy != OnFull::Fail && fits;
        self.note_exhausted(vdisk, &need, may_wait);
        self.space.note_filling();
        let time = match policy {
            OnFull::Hold(time) if fits => time,
            _ => {
                if policy != OnFull::Fail {
                    self.note_overflow(vdisk, &need, bound);
                }
                if asked.patience.get().is_some() {
                    vdisk.waited.set(vdisk.waited.get().saturating_sub(1));
                }
                return Err(self.no_space(vdisk, &need));
            }
        };
        let now = self.media.machine.now();
        if asked.patience.get().is_some() {
            // What it was granted was not enough, or could not be used: not again and again within one moment.
            self.media.machine.sleep(AGAIN).await;
        }
        let patience = asked.patience.get().unwrap_or_else(|| {
            self.counters.held(need.bytes);
            count(&vdisk.waited, 1);
            Patience { number: queue.next_number(), since: now, until: now.checked_add(time) }
        });
        asked.patience.set(Some(patience));
        let place = self.join(vdisk, need, patience.number, asked.how);
        let left = patience.until.map_or(Duration::MAX, |until| until.saturating_sub(now));
        let granted = self.wait(&place, asked, left).await;
        if !matches!(granted, Ok(Some(_))) {
            vdisk.waited.set(vdisk.waited.get().saturating_sub(1));
        }
        if let Some(extents) = granted? {
            let account = vdisk.mapping.account.clone();
            return Ok(Grant { store: self.clone(), account, left: Cell::new(extents) });
        }
        let waiter = place.waiter.clone();
        drop(place);
        let held_for = self.media.machine.now().saturating_sub(patience.since);
        self.note_expired(vdisk, &waiter.need, held_for.min(time));
        Err(self.no_space(vdisk, &waiter.need))
    }

    /// Answers the extents that it may take; none when the time is over, or it is not to wait any more.
    async fn wait(self: &Rc<Self>, place: &Place<'_, M>, asked: &Asked<'_>, time: Duration) -> Result<Option<u64>> {
        let waiter = &place.waiter;
        let mut expires = pin!(self.media.machine.sleep(time));
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
            if waiter.refused.get() || expires.as_mut().poll(context).is_ready() {
                // Nobody may have looked at it since it lacks nothing any more.
                return Poll::Ready(Ok(waiter.lacks_nothing().then_some(0)));
            }
            *waiter.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The error of a write that gets no space.
    fn no_space(&self, vdisk: &VdiskCore, need: &Need) -> Error {
        count(&self.counters.refused_writes, 1);
        let extent = self.media.extent_bytes;
        let account = &vdisk.mapping.account;
        let (pool, needed) = (self.identity.name.clone(), need.extents());
        let (holder, used, quota) = match (need.shortage, account.tenant()) {
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
