//! Holding: a write that needs space when there is none waits, in order, and goes on when there is some.
//!
//! A held write holds nothing but its data: no claim, no extent, no room in the journal or among the dirty pages. So nothing that
//! could bring space back ever waits for it: overwrites, reads, flushes, discards and deletes go on. When its turn comes it is
//! granted as many extents as it needs at once, which nobody else can then take, and starts again from its first look-up. Until then nothing of it
//! was applied, so it can be given up at any moment: by its time, its protocol, the end of its vdisk or of the pool.
//!
//! Order: who came first is served first, among the writes of a vdisk and among all that wait for space of the pool. Who waits for its own
//! quota keeps nobody else up, and who has a reservation does not wait for space that is its own.
//!
//! When it is decided that writes of a vdisk fail instead of waiting, those that wait fail, too, unless they came with a policy of their
//! own. A new time is for those that come after it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::select;
use plimsoll_hardware::Machine;

use super::ticket::{Asked, Ticket, WriteOptions};
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, OnFull, PAGE_BYTES, VdiskId, VirtualExtent};
use crate::space::{Account, Figure, See};

/// Before a write that was granted something waits again.
const AGAIN: Duration = Duration::from_millis(1);

/// Writes of a pool that wait for space.
#[derive(Default)]
pub(crate) struct HoldQueue {
    /// By the order in which they came.
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    /// What is left of the grants that writes have.
    grants: RefCell<BTreeMap<u64, Rc<Cell<u64>>>>,
    bytes: Cell<u64>,
    next: Cell<u64>,
    /// Of those, how many the pool's space is not enough for.
    short_of_pool: Cell<usize>,
    /// A task looks after them.
    served: Cell<bool>,
}

struct Waiter {
    number: u64,
    vdisk: Rc<VdiskCore>,
    need: Need,
    /// It waits because its vdisk's policy says so.
    by_policy: bool,
    /// Extents that it may take.
    granted: Cell<Option<u64>>,
    /// It is not to wait any more, and there is no space.
    refused: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

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
    pub(super) extents: u64,
    /// For what; somebody else's write may have brought the extent meanwhile.
    pub(super) of: Vec<(VirtualExtent, Blocks)>,
    pub(super) bytes: u64,
    pub(super) shortage: Shortage,
}

/// Extents that a write may take; what it did not take goes back.
pub(crate) struct Grant<M: Machine> {
    store: Rc<Store<M>>,
    account: Rc<Account>,
    /// Among [`HoldQueue::grants`].
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

/// A place in the queue; leaves it when it is dropped.
struct Place<'a, M: Machine> {
    store: &'a Rc<Store<M>>,
    waiter: Rc<Waiter>,
    ticket: Option<&'a Ticket>,
}

impl<M: Machine> Drop for Place<'_, M> {
    fn drop(&mut self) {
        let (store, waiter) = (self.store, &self.waiter);
        let queue = &store.holds;
        queue.remove(waiter.number);
        if let Some(extents) = waiter.granted.take() {
            // Given up in the moment between.
            store.space.ledger.take_back(&waiter.vdisk.mapping.account, extents);
        }
        let bytes = waiter.need.bytes;
        queue.bytes.set(queue.bytes.get() - bytes);
        store.media.machine.buffers().unpark(parked(bytes));
        waiter.vdisk.held.set((waiter.vdisk.held.get().0 - 1, waiter.vdisk.held.get().1 - bytes));
        if let Some(ticket) = self.ticket {
            ticket.left(bytes);
        }
        // Somebody behind it may be the first now.
        store.space.ledger.eased.notify();
    }
}

impl HoldQueue {
    /// Writes that wait, and their bytes.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.waiters.borrow().len() as u64, self.bytes.get())
    }

    /// Extents that held writes may take and have not taken yet.
    pub(crate) fn granted(&self) -> u64 {
        let waiters: u64 = self.waiters.borrow().iter().filter_map(|waiter| waiter.granted.get()).sum();
        waiters + self.grants.borrow().values().map(|left| left.get()).sum::<u64>()
    }

    /// Shows the bytes that wait, beside those of the writes.
    pub(crate) fn recount(&self, see: &mut See<'_>) {
        let bytes = self.waiters.borrow().iter().map(|waiter| waiter.need.bytes).sum();
        Figure::show(see, "bytes of held writes", &self.bytes, bytes);
    }

    /// Writes that wait, and their bytes, by vdisk.
    pub(crate) fn by_vdisk(&self) -> BTreeMap<VdiskId, (u64, u64)> {
        let mut all: BTreeMap<VdiskId, (u64, u64)> = BTreeMap::new();
        for waiter in &*self.waiters.borrow() {
            let of_it = all.entry(waiter.vdisk.id).or_default();
            *of_it = (of_it.0 + 1, of_it.1 + waiter.need.bytes);
        }
        all
    }

    /// The next number in the order of coming, and of grants.
    fn next_number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Lets all who wait see whether they still should.
    pub(crate) fn look_again(&self) {
        let waiters: Vec<_> = self.waiters.borrow().iter().cloned().collect();
        waiters.iter().for_each(|waiter| waiter.wake());
    }

    fn remove(&self, number: u64) {
        let mut waiters = self.waiters.borrow_mut();
        let at = waiters.partition_point(|other| other.number < number);
        if waiters.get(at).is_some_and(|other| other.number == number) {
            waiters.remove(at);
        }
    }

    /// What those lack who are in the way of a write of `vdisk`.
    pub(super) fn lack_before(&self, vdisk: &VdiskCore) -> Shortage {
        let waiters = self.waiters.borrow();
        let own = waiters.iter().find(|waiter| waiter.vdisk.id == vdisk.id);
        own.map_or(Shortage::PoolFull, |waiter| waiter.need.shortage)
    }

    /// Whether a write of `vdisk` has to wait because others came first. One that would fail instead of waiting takes what is there.
    pub(super) fn is_behind(&self, vdisk: &VdiskCore) -> bool {
        (vdisk.held.get().0 > 0 || (self.short_of_pool.get() > 0 && vdisk.mapping.account.unfilled() == 0))
            && vdisk.entry.borrow().policy.on_full != OnFull::Fail
    }
}

impl VdiskCore {
    /// Whether a write of these blocks takes an extent, as far as is known.
    pub(super) fn needs_extent(&self, at: VirtualExtent, blocks: Blocks) -> bool {
        match self.mapping.peek(at) {
            Some(Ok(word)) if word.is_packed() => !word.valid().contains(blocks),
            Some(Ok(word)) => !word.is_mapped(),
            _ => true,
        }
    }
}

impl Waiter {
    /// Extents that it needs by now.
    fn lacking(&self) -> u64 {
        self.need.of.iter().filter(|&&(at, blocks)| self.vdisk.needs_extent(at, blocks)).count() as u64
    }

    /// Whether writes of its vdisk fail instead of waiting by now.
    fn is_to_fail(&self) -> bool {
        self.by_policy && self.vdisk.entry.borrow().policy.on_full == OnFull::Fail
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<M: Machine> Store<M> {
    /// Waits until a write may have what it needs, as long as its vdisk's policy, or how it was asked for, says.
    ///
    /// # Errors
    /// `OutOfSpace` and `QuotaExceeded` when that time is over, or at once; `Cancelled`; those of a vdisk or pool that goes away.
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
        let left = bound.saturating_sub(queue.bytes.get());
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
            return Ok(Grant::new(self, vdisk, extents));
        }
        let waiter = place.waiter.clone();
        drop(place);
        let held_for = self.media.machine.now().saturating_sub(patience.since);
        self.note_expired(vdisk, &waiter.need, held_for.min(time));
        Err(self.no_space(vdisk, &waiter.need))
    }

    fn join<'a>(
        self: &'a Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        need: Need,
        number: u64,
        how: &'a WriteOptions,
    ) -> Place<'a, M> {
        let (queue, bytes, shortage, ticket) = (&self.holds, need.bytes, need.shortage, how.ticket.as_ref());
        let waiter = Rc::new(Waiter {
            number,
            vdisk: vdisk.clone(),
            need,
            by_policy: how.on_full.is_none(),
            granted: Cell::new(None),
            refused: Cell::new(false),
            waker: RefCell::default(),
        });
        let mut waiters = queue.waiters.borrow_mut();
        let at = waiters.partition_point(|other| other.number < number);
        waiters.insert(at, waiter.clone());
        drop(waiters);
        queue.bytes.set(queue.bytes.get() + bytes);
        self.media.machine.buffers().park(parked(bytes));
        queue.short_of_pool.set(queue.short_of_pool.get() + usize::from(of_pool(shortage)));
        vdisk.held.set((vdisk.held.get().0 + 1, vdisk.held.get().1 + bytes));
        if let Some(ticket) = ticket {
            ticket.joined(bytes);
        }
        if queue.served.replace(true) {
            self.space.ledger.eased.notify();
        } else {
            self.media.machine.spawn(serve(self.clone()));
        }
        Place { store: self, waiter, ticket }
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
                return Poll::Ready(Ok((waiter.lacking() == 0).then_some(0)));
            }
            *waiter.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Grants what can be granted, in order.
    fn grant_what_can_be(&self) {
        let waiting: Vec<_> =
            self.holds.waiters.borrow().iter().filter(|waiter| waiter.granted.get().is_none()).cloned().collect();
        let (mut pool_is_short, mut vdisks, mut tenants) = (0, Vec::new(), Vec::new());
        for waiter in waiting {
            let (account, extents) = (&waiter.vdisk.mapping.account, waiter.lacking());
            if extents == 0 {
                // What it was to bring is there: it is an overwrite now, and those wait for nobody.
                waiter.granted.set(Some(0));
                waiter.wake();
                continue;
            }
            let tenant = account.tenant().map(|tenant| tenant.name.clone());
            let behind = vdisks.contains(&waiter.vdisk.id)
                || (account.unfilled() < extents && tenant.as_ref().is_some_and(|name| tenants.contains(name)));
            let shortage = match pool_is_short > 0 && account.unfilled() < extents {
                _ if behind => Some(waiter.need.shortage),
                true => Some(Shortage::PoolFull),
                false => self.space.shortage(account, extents),
            };
            match shortage {
                None => {
                    self.space.ledger.grant(account, extents);
                    self.space.note_filling();
                    waiter.granted.set(Some(extents));
                    waiter.wake();
                }
                Some(_) if waiter.is_to_fail() => {
                    waiter.refused.set(true);
                    waiter.wake();
                }
                Some(_) if behind => {}
                Some(shortage) => {
                    waiter.vdisk.episode.lacks(shortage);
                    match shortage {
                        Shortage::PoolFull | Shortage::Reserved => pool_is_short += 1,
                        Shortage::VdiskQuota => {}
                        Shortage::TenantQuota => tenants.extend(tenant),
                    }
                    vdisks.push(waiter.vdisk.id);
                }
            }
        }
        self.holds.short_of_pool.set(pool_is_short);
    }

    /// Bytes that held writes may take together.
    pub(crate) fn hold_bytes_max(&self) -> u64 {
        let memory = self.media.machine.buffers().bytes() as u64;
        self.policy.borrow().hold_bytes.unwrap_or(memory / 4).min(memory / 2)
    }

    /// The error of a write that gets no space.
    fn no_space(&self, vdisk: &VdiskCore, need: &Need) -> Error {
        count(&self.counters.refused_writes, 1);
        let extent = self.media.extent_bytes;
        let account = &vdisk.mapping.account;
        let (pool, needed) = (self.identity.name.clone(), need.extents);
        let (holder, used, quota) = match (need.shortage, account.tenant()) {
            (Shortage::VdiskQuota, _) => {
                (format!("vdisk {pool}/{}", vdisk.name()), account.in_use(), account.quota().unwrap_or(0))
            }
            (Shortage::TenantQuota, Some(tenant)) => {
                (format!("tenant {} in pool {pool}", tenant.name), tenant.used.get(), tenant.quota.get())
            }
            _ => return Error::OutOfSpace { pool, needed, free: self.space.available() },
        };
        Error::QuotaExceeded { holder, needed: needed * extent, used: used * extent, quota: quota * extent }
    }
}

/// Memory behind a write of so many bytes: buffers are powers of two, of a page at least.
fn parked(bytes: u64) -> usize {
    bytes.max(PAGE_BYTES as u64).next_power_of_two() as usize
}

/// Whether it is the pool's space that is not enough.
fn of_pool(shortage: Shortage) -> bool {
    matches!(shortage, Shortage::PoolFull | Shortage::Reserved)
}

/// Looks after held writes until there are none.
async fn serve<M: Machine>(store: Rc<Store<M>>) {
    loop {
        let eased = pin!(store.space.ledger.eased.changed());
        let failed = pin!(store.journal.pressure.changed());
        loop {
            store.grant_what_can_be();
            let done = store.holds.waiters.borrow().iter().all(|waiter| waiter.granted.get().is_some());
            if done || !store.is_writable() {
                break;
            }
            if store.holds.short_of_pool.get() == 0 {
                break;
            }
            // Freed extents that only wait for their record to be durable: nobody else may be about to flush.
            if !matches!(store.recover_quarantine().await, Ok(true)) {
                break;
            }
        }
        if store.holds.waiters.borrow().is_empty() || !store.is_writable() {
            store.holds.served.set(false);
            store.holds.short_of_pool.set(0);
            store.holds.look_again();
            return;
        }
        select(eased, failed).await;
    }
}
