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
//! own. So does a new time, counted from when they began to wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::task::Waker;

use futures_util::future::{Either, select};
use plimsoll_hardware::Machine;

use super::ticket::{Ticket, WriteOptions};
use super::wait_for_space::{Need, RoomFor};
use super::{Store, VdiskCore};
use crate::event::Shortage;
use crate::format::{Blocks, OnFull, VdiskId, VirtualExtent};
use crate::space::{Figure, See};

/// Writes of a pool that wait for space.
#[derive(Default)]
pub(crate) struct HoldQueue {
    /// By the order in which they came.
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    /// What is left of the grants that writes have.
    pub(super) grants: RefCell<BTreeMap<u64, Rc<Cell<u64>>>>,
    /// Memory that their data takes.
    bytes: Cell<u64>,
    next: Cell<u64>,
    /// Of those, how many the pool's space is not enough for.
    short_of_pool: Cell<usize>,
    /// A task looks after them.
    served: Cell<bool>,
}

/// One of them.
pub(super) struct Waiter {
    number: u64,
    pub(super) vdisk: Rc<VdiskCore>,
    pub(super) need: Need,
    /// It waits because its vdisk's policy says so.
    by_policy: bool,
    /// Extents that it may take.
    pub(super) granted: Cell<Option<u64>>,
    /// It is not to wait any more, and there is no space.
    pub(super) refused: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
}

/// A place in the queue; leaves it when it is dropped.
pub(super) struct Place<'a, M: Machine> {
    store: &'a Rc<Store<M>>,
    pub(super) waiter: Rc<Waiter>,
    pub(super) ticket: Option<&'a Ticket>,
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
        let memory = waiter.need.memory();
        queue.bytes.set(queue.bytes.get() - memory);
        store.media.machine.buffers().unpark(memory as usize);
        waiter.vdisk.held.set((waiter.vdisk.held.get().0 - 1, waiter.vdisk.held.get().1 - memory));
        if let Some(ticket) = self.ticket {
            ticket.left(waiter.need.bytes);
        }
        // Somebody behind it may be the first now.
        store.space.ledger.eased.notify();
    }
}

impl HoldQueue {
    /// Writes that wait, and the memory in bytes that their data takes.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.waiters.borrow().len() as u64, self.bytes.get())
    }

    /// Whether some of them wait for space that the pool has not got.
    pub(crate) fn is_short_of_pool(&self) -> bool {
        self.short_of_pool.get() > 0
    }

    /// Extents that held writes may take and have not taken yet.
    pub(crate) fn granted(&self) -> u64 {
        let waiters: u64 = self.waiters.borrow().iter().filter_map(|waiter| waiter.granted.get()).sum();
        waiters + self.grants.borrow().values().map(|left| left.get()).sum::<u64>()
    }

    /// Shows the memory of those that wait, beside that of the writes.
    pub(crate) fn recount(&self, see: &mut See<'_>) {
        let bytes = self.waiters.borrow().iter().map(|waiter| waiter.need.memory()).sum();
        Figure::show(see, "bytes of held writes", &self.bytes, bytes);
    }

    /// Writes that wait, and their memory, by vdisk.
    pub(crate) fn by_vdisk(&self) -> BTreeMap<VdiskId, (u64, u64)> {
        let mut all: BTreeMap<VdiskId, (u64, u64)> = BTreeMap::new();
        for waiter in &*self.waiters.borrow() {
            let of_it = all.entry(waiter.vdisk.id).or_default();
            *of_it = (of_it.0 + 1, of_it.1 + waiter.need.memory());
        }
        all
    }

    /// Lets all who wait see whether they still should.
    pub(crate) fn look_again(&self) {
        let waiters: Vec<_> = self.waiters.borrow().iter().cloned().collect();
        waiters.iter().for_each(|waiter| waiter.wake());
    }

    /// The next number in the order of coming, and of grants.
    pub(super) fn next_number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
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
        own.map_or(Shortage::PoolFull, |waiter| waiter.need.shortage.get())
    }

    /// Whether a write of `vdisk` that may wait has to, because others came first. One that would fail instead takes what is there.
    pub(super) fn is_behind(&self, vdisk: &VdiskCore) -> bool {
        vdisk.held.get().0 > 0 || (self.short_of_pool.get() > 0 && vdisk.mapping.account.unfilled() == 0)
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
    pub(super) fn lacking(&self) -> u64 {
        self.need.of.iter().filter(|&&(at, blocks)| self.vdisk.needs_extent(at, blocks)).count() as u64
    }

    /// Whether there is nothing any more that it would have to wait for, whatever has room.
    pub(super) fn lacks_nothing(&self) -> bool {
        matches!(self.need.room, RoomFor::Nothing) && self.lacking() == 0
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
    /// Takes the place in the queue that `number` has.
    pub(super) fn join<'a>(
        self: &'a Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        need: Need,
        number: u64,
        how: &'a WriteOptions,
    ) -> Place<'a, M> {
        let (queue, shortage, ticket) = (&self.holds, need.shortage.get(), how.ticket.as_ref());
        let (bytes, memory) = (need.bytes, need.memory());
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
        queue.bytes.set(queue.bytes.get() + memory);
        self.media.machine.buffers().park(memory as usize);
        queue.short_of_pool.set(queue.short_of_pool.get() + usize::from(of_pool(shortage)));
        vdisk.held.set((vdisk.held.get().0 + 1, vdisk.held.get().1 + memory));
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

    /// Grants what can be granted, in order.
    fn grant_what_can_be(&self) {
        let waiting: Vec<_> =
            self.holds.waiters.borrow().iter().filter(|waiter| waiter.granted.get().is_none()).cloned().collect();
        let (mut pool_is_short, mut vdisks, mut tenants) = (0, BTreeMap::new(), BTreeSet::new());
        let mut lack_of_pool = Shortage::PoolFull;
        for waiter in waiting {
            let (account, extents) = (&waiter.vdisk.mapping.account, waiter.lacking());
            if waiter.lacks_nothing() {
                // What it was to bring is there: it is an overwrite now, and those wait for nobody.
                waiter.granted.set(Some(0));
                waiter.wake();
                continue;
            }
            let tenant = account.tenant().map(|tenant| tenant.name.clone());
            let behind = vdisks.get(&waiter.vdisk.id).copied().or_else(|| {
                let of_tenant = tenant.as_ref().is_some_and(|name| tenants.contains(name));
                (of_tenant && account.unfilled() < extents).then_some(Shortage::TenantQuota)
            });
            let shortage = match pool_is_short > 0 && account.unfilled() < extents {
                _ if behind.is_some() => behind,
                true => Some(lack_of_pool),
                false => {
                    let shortage = (extents > 0).then(|| self.space.shortage(account, extents)).flatten();
                    shortage.or_else(|| self.lacks_room(&waiter.vdisk, &waiter.need.room))
                }
            };
            let Some(shortage) = shortage else {
                self.space.ledger.grant(account, extents);
                self.space.note_filling();
                waiter.granted.set(Some(extents));
                waiter.wake();
                continue;
            };
            waiter.need.shortage.set(shortage);
            if behind.is_none() {
                waiter.vdisk.episode.lacks(shortage);
            }
            if waiter.is_to_fail() {
                waiter.refused.set(true);
                waiter.wake();
            } else if behind.is_none() {
                match shortage {
                    Shortage::PoolFull | Shortage::Reserved | Shortage::DeviceFull => {
                        pool_is_short += 1;
                        lack_of_pool = shortage;
                    }
                    Shortage::VdiskQuota => {}
                    Shortage::TenantQuota => tenants.extend(tenant),
                }
                vdisks.insert(waiter.vdisk.id, shortage);
            }
        }
        self.holds.short_of_pool.set(pool_is_short);
    }

    /// Bytes of memory that the data of held writes may take together.
    pub(crate) fn hold_bytes_max(&self) -> u64 {
        let memory = self.media.machine.buffers().bytes() as u64;
        self.policy.borrow().hold_bytes.unwrap_or(memory / 4).min(memory / 2)
    }
}

/// Whether it is the pool's space that is not enough.
fn of_pool(shortage: Shortage) -> bool {
    matches!(shortage, Shortage::PoolFull | Shortage::Reserved | Shortage::DeviceFull)
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
        // Nobody tells that there is room again below a device.
        let looked = async {
            match store.space.is_some_full() {
                true => store.until_next_look().await,
                false => std::future::pending().await,
            }
        };
        if let Either::Right(_) = select(select(eased, failed), pin!(looked)).await {
            store.look_for_room().await;
        }
    }
}
