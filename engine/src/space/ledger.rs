//! The ledger: who has which part of the pool's space, and what was promised to whom. All in extents.
//!
//! - A vdisk's *use* is what is behind it, what it holds for writes under way, and what was granted to its held writes.
//! - A *reservation* is space of its own: what of it is not in use yet (*unfilled*) is kept from everybody else, with the metadata
//!   that filling it may need.
//! - A *quota* bounds the use of a vdisk, or of all vdisks of a tenant; what is reserved for some of these is kept from the others.
//!
//! Invariants: every change of an account goes through [`Ledger::shift`], so the sums are those of the accounts at any instant;
//! a recount proves it. Whatever is granted is taken from what others may have in the same step: two requests that together
//! exceed a limit are never both granted. What is below a limit that was set later is reported and not taken away.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Figure, See};
use crate::event::Shortage;
use crate::format::{LEAF_WORDS, Levels, META_PAGES_PER_EXTENT, VdiskId};
use crate::wait::WaitQueue;

/// What one vdisk has and was promised.
pub(crate) struct Account {
    vdisk: VdiskId,
    /// Extents that its words name.
    pub(crate) backed: Cell<u64>,
    /// Extents taken for writes under way, and granted to held ones.
    held: Cell<u64>,
    reservation: Cell<u64>,
    /// Extents of metadata that filling the reservation may need at worst.
    reserved_meta: Cell<u64>,
    /// `u64::MAX`: none.
    quota: Cell<u64>,
    tenant: RefCell<Option<Rc<Tenant>>>,
    designated: Cell<u64>,
    bounds: Bounds,
}

/// Between which figures nobody wants to know of a change.
pub(crate) struct Bounds {
    from: Cell<u64>,
    until: Cell<u64>,
}

impl Bounds {
    /// Nobody wants to know of anything.
    pub(crate) fn wide() -> Self {
        Bounds { from: Cell::new(0), until: Cell::new(u64::MAX) }
    }

    pub(crate) fn set(&self, from: u64, until: u64) {
        self.from.set(from);
        self.until.set(until);
    }

    /// Whether `figure` is of interest; only once until the bounds are set again.
    fn crossed(&self, figure: u64) -> bool {
        let crossed = figure < self.from.get() || figure >= self.until.get();
        if crossed {
            self.set(0, u64::MAX);
        }
        crossed
    }
}

/// All vdisks with the same tenant label.
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) used: Cell<u64>,
    /// Reserved for its vdisks and not in use.
    pub(crate) unfilled: Cell<u64>,
    /// `u64::MAX`: none.
    pub(crate) quota: Cell<u64>,
    /// Of its use against its quota.
    pub(crate) levels: RefCell<Levels>,
    pub(crate) bounds: Bounds,
}

/// What a vdisk is to have, in extents and bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) reservation: u64,
    /// Extents; `None` is as many as it likes.
    pub(crate) quota: Option<u64>,
    /// Bytes.
    pub(crate) designated: u64,
    pub(crate) extent_bytes: u64,
}

/// The sums.
pub(crate) struct Ledger {
    /// Promised by reservations and not in use, with the metadata that goes with it.
    unfilled: Cell<u64>,
    /// Of all reservations.
    reserved: Cell<u64>,
    /// Granted to held writes and not taken yet.
    pub(super) granted: Cell<u64>,
    /// Bytes promised to guests.
    designated: Cell<u64>,
    tenants: RefCell<BTreeMap<String, Rc<Tenant>>>,
    /// Something was freed, or a limit has changed: who waits for space should look again.
    pub(crate) eased: WaitQueue,
    /// Of all accounts.
    in_use: Cell<u64>,
    /// Of `in_use`.
    pub(crate) bounds: Bounds,
    /// Vdisks whose use has crossed its bounds.
    restless: RefCell<Vec<VdiskId>>,
    /// Some bounds were crossed.
    pub(crate) unrest: WaitQueue,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            unfilled: Cell::new(0),
            reserved: Cell::new(0),
            granted: Cell::new(0),
            designated: Cell::new(0),
            tenants: RefCell::default(),
            eased: WaitQueue::default(),
            in_use: Cell::new(0),
            bounds: Bounds::wide(),
            restless: RefCell::default(),
            unrest: WaitQueue::default(),
        }
    }
}

impl Tenant {
    /// What it uses, and what is reserved for it beside that.
    pub(crate) fn promised(&self) -> u64 {
        self.used.get() + self.unfilled.get()
    }
}

impl Account {
    /// An account without terms, of a vdisk that has `backed` extents.
    pub(crate) fn new(vdisk: VdiskId, backed: u64) -> Self {
        Account {
            vdisk,
            backed: Cell::new(backed),
            held: Cell::new(0),
            reservation: Cell::new(0),
            reserved_meta: Cell::new(0),
            quota: Cell::new(u64::MAX),
            tenant: RefCell::default(),
            designated: Cell::new(0),
            bounds: Bounds::wide(),
        }
    }

    /// Between which uses nobody wants to know of a change.
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Extents that count against its quota.
    pub(crate) fn in_use(&self) -> u64 {
        self.backed.get() + self.held.get()
    }

    pub(crate) fn quota(&self) -> Option<u64> {
        Some(self.quota.get()).filter(|&quota| quota != u64::MAX)
    }

    pub(crate) fn designated(&self) -> u64 {
        self.designated.get()
    }

    /// Shows what it goes by, where that is not what its vdisk's entry says.
    pub(crate) fn compare(&self, name: &str, terms: &Terms, see: &mut See<'_>) {
        let quota = terms.quota.unwrap_or(u64::MAX);
        let figures = [
            ("extents reserved for", &self.reservation, terms.reservation),
            ("extents of metadata reserved for", &self.reserved_meta, meta_behind(terms)),
            ("extents of the quota of", &self.quota, quota),
            ("bytes promised by", &self.designated, terms.designated),
        ];
        for (what, kept, counted) in figures {
            if kept.get() != counted {
                Figure::show(see, format!("{what} {name}"), kept, counted);
            }
        }
    }

    pub(crate) fn tenant(&self) -> Option<Rc<Tenant>> {
        self.tenant.borrow().clone()
    }

    /// Extents of its reservation that are not in use.
    pub(crate) fn unfilled(&self) -> u64 {
        self.reservation.get().saturating_sub(self.in_use())
    }

    /// Whether all that it uses was reserved for it.
    pub(crate) fn is_within_reservation(&self) -> bool {
        self.in_use() <= self.reservation.get()
    }

    /// What others may not have because of it.
    fn withheld(&self) -> u64 {
        match self.unfilled() {
            0 => 0,
            unfilled => unfilled + self.reserved_meta.get(),
        }
    }
}

/// Extents of metadata behind `reservation` extents of a vdisk at worst: each in a leaf of its own, as far as it has so many, with the
/// nodes above, in two copies; and one extent more of each half that is used in part.
fn meta_behind(terms: &Terms) -> u64 {
    if terms.reservation == 0 {
        return 0;
    }
    let leaf_bytes = LEAF_WORDS as u64 * terms.extent_bytes;
    let leaves = terms.reservation.min(terms.designated.div_ceil(leaf_bytes.max(1)));
    // A node for 128 leaves, if they are far apart one for each; the levels above those are few.
    let nodes = leaves.min(terms.designated.div_ceil(leaf_bytes.max(1) * 128)) + 4;
    (2 * (leaves + nodes)).div_ceil(u64::from(META_PAGES_PER_EXTENT)) + 2
}

impl Ledger {
    /// Changes an account, and the sums with it.
    pub(crate) fn shift(&self, account: &Account, change: impl FnOnce(&Account)) {
        let (used, withheld, designated) = (account.in_use(), account.withheld(), account.designated.get());
        let (reserved, unfilled) = (account.reservation.get(), account.unfilled());
        change(account);
        let now = account.in_use();
        if let Some(tenant) = &*account.tenant.borrow() {
            tenant.unfilled.set(tenant.unfilled.get() + account.unfilled() - unfilled);
        }
        if now != used {
            self.used(account, used, now);
        }
        self.unfilled.set(self.unfilled.get() + account.withheld() - withheld);
        self.reserved.set(self.reserved.get() + account.reservation.get() - reserved);
        self.designated.set(self.designated.get() + account.designated.get() - designated);
    }

    /// The use of an account has changed.
    fn used(&self, account: &Account, before: u64, now: u64) {
        self.in_use.set(self.in_use.get() + now - before);
        let mut crossed = self.bounds.crossed(self.in_use.get());
        if let Some(tenant) = &*account.tenant.borrow() {
            tenant.used.set(tenant.used.get() + now - before);
            crossed |= tenant.bounds.crossed(tenant.used.get());
        }
        if account.bounds.crossed(now) {
            self.restless.borrow_mut().push(account.vdisk);
            crossed = true;
        }
        if crossed {
            self.unrest.notify();
        }
    }

    /// Vdisks whose use has crossed its bounds since this was last asked.
    pub(crate) fn take_restless(&self) -> Vec<VdiskId> {
        self.restless.take()
    }

    /// Extents in use by all vdisks, and held for them.
    pub(crate) fn in_use(&self) -> u64 {
        self.in_use.get()
    }

    /// Puts terms in force. The caller has made sure that they can be.
    pub(crate) fn set_terms(&self, account: &Account, terms: Terms, tenant: Option<&str>) {
        let same = account.tenant.borrow().as_ref().map(|tenant| tenant.name.as_str()) == tenant;
        if !same {
            let (used, unfilled) = (account.in_use(), account.unfilled());
            if let Some(before) = account.tenant.replace(tenant.map(|name| self.tenant(name))) {
                before.used.set(before.used.get() - used);
                before.unfilled.set(before.unfilled.get() - unfilled);
            }
            if let Some(now) = &*account.tenant.borrow() {
                now.used.set(now.used.get() + used);
                now.unfilled.set(now.unfilled.get() + unfilled);
            }
        }
        self.shift(account, |account| {
            account.reservation.set(terms.reservation);
            account.reserved_meta.set(meta_behind(&terms));
            account.quota.set(terms.quota.unwrap_or(u64::MAX));
            account.designated.set(terms.designated);
        });
        self.eased.notify();
    }

    /// What withholding `terms` would add to what others may not have.
    pub(crate) fn added_by(&self, account: &Account, terms: &Terms) -> u64 {
        let unfilled = terms.reservation.saturating_sub(account.in_use());
        let withheld = if unfilled == 0 { 0 } else { unfilled + meta_behind(terms) };
        withheld.saturating_sub(account.withheld())
    }

    /// The tenant of this name; known from its first mention on.
    pub(crate) fn tenant(&self, name: &str) -> Rc<Tenant> {
        let mut tenants = self.tenants.borrow_mut();
        if let Some(tenant) = tenants.get(name) {
            return tenant.clone();
        }
        let tenant = Rc::new(Tenant {
            name: name.to_owned(),
            used: Cell::new(0),
            unfilled: Cell::new(0),
            quota: Cell::new(u64::MAX),
            levels: RefCell::default(),
            bounds: Bounds::wide(),
        });
        tenants.insert(name.to_owned(), tenant.clone());
        tenant
    }

    /// All tenants that were mentioned, by name.
    pub(crate) fn tenants(&self) -> Vec<Rc<Tenant>> {
        self.tenants.borrow().values().cloned().collect()
    }

    /// Why `account` cannot have `extents` more, with `spare` extents left in the pool of which those without a reservation leave `margin`;
    /// `None`: it can.
    pub(super) fn shortage(&self, account: &Account, extents: u64, spare: u64, margin: u64) -> Option<Shortage> {
        if account.in_use().saturating_add(extents) > account.quota.get() {
            return Some(Shortage::VdiskQuota);
        }
        let beyond = extents.saturating_sub(account.unfilled());
        if let Some(tenant) = &*account.tenant.borrow()
            && beyond > 0
            && tenant.promised().saturating_add(beyond) > tenant.quota.get()
        {
            return Some(Shortage::TenantQuota);
        }
        let others = self.unfilled.get() - account.withheld() + margin;
        // What is its own it may have as long as there is anything: a part may only be waiting for a flush.
        let own = account.unfilled() >= extents && spare >= extents;
        match spare.saturating_sub(others) < extents && !own {
            true if spare < extents => Some(Shortage::PoolFull),
            true => Some(Shortage::Reserved),
            false => None,
        }
    }

    /// What other accounts' reservations keep from `account`.
    pub(super) fn withheld_by_others(&self, account: &Account) -> u64 {
        self.unfilled.get() - account.withheld()
    }

    /// Promised by reservations and not in use.
    pub(crate) fn unfilled(&self) -> u64 {
        self.unfilled.get()
    }

    /// Promised by reservations, in use or not.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.get()
    }

    pub(crate) fn designated(&self) -> u64 {
        self.designated.get()
    }

    /// Shows the sums, beside those of all accounts. `taken`: extents that are taken for writes and metadata, and granted.
    pub(crate) fn recount<'a>(&self, accounts: impl Iterator<Item = &'a Account>, taken: u64, see: &mut See<'_>) {
        let (mut unfilled, mut reserved, mut designated, mut in_use, mut held) = (0, 0, 0, 0, 0);
        let mut of_tenants: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for account in accounts {
            in_use += account.in_use();
            held += account.held.get();
            unfilled += account.withheld();
            reserved += account.reservation.get();
            designated += account.designated.get();
            if let Some(tenant) = &*account.tenant.borrow() {
                let sums = of_tenants.entry(tenant.name.clone()).or_default();
                *sums = (sums.0 + account.in_use(), sums.1 + account.unfilled());
            }
        }
        // A part of what is taken is metadata or moves. What an account has too much of it keeps until the pool is opened again.
        Figure::shown(see, "extents that vdisks hold", held, held.min(taken));
        Figure::show(see, "extents that vdisks have or hold", &self.in_use, in_use);
        Figure::show(see, "extents kept for reservations and their metadata", &self.unfilled, unfilled);
        Figure::show(see, "extents reserved", &self.reserved, reserved);
        Figure::show(see, "bytes promised to guests", &self.designated, designated);
        for tenant in self.tenants.borrow().values() {
            let (used, unfilled) = of_tenants.get(&tenant.name).copied().unwrap_or_default();
            Figure::show(see, format!("extents that tenant {} has or holds", tenant.name), &tenant.used, used);
            Figure::show(see, format!("extents kept for tenant {}", tenant.name), &tenant.unfilled, unfilled);
        }
    }
}

/// The ways of an extent through an account.
impl Ledger {
    /// Extents that a held write may take, whatever others ask for.
    pub(crate) fn grant(&self, account: &Account, extents: u64) {
        self.shift(account, |account| account.held.set(account.held.get() + extents));
        self.granted.set(self.granted.get() + extents);
    }

    /// What is left of a grant.
    pub(crate) fn take_back(&self, account: &Account, extents: u64) {
        self.shift(account, |account| account.held.set(account.held.get() - extents));
        self.granted.set(self.granted.get() - extents);
        self.eased.notify();
    }

    /// One granted extent was taken: it stays held.
    pub(super) fn took_granted(&self) {
        self.granted.set(self.granted.get() - 1);
    }

    pub(super) fn took(&self, account: &Account) {
        self.shift(account, |account| account.held.set(account.held.get() + 1));
    }

    pub(super) fn gave_up(&self, account: &Account) {
        self.shift(account, |account| account.held.set(account.held.get() - 1));
        self.eased.notify();
    }

    pub(super) fn backed_held(&self, account: &Account) {
        account.held.set(account.held.get() - 1);
        account.backed.set(account.backed.get() + 1);
    }

    pub(super) fn freed(&self, account: &Account, extents: u64) {
        self.shift(account, |account| account.backed.set(account.backed.get() - extents));
        self.eased.notify();
    }

    pub(super) fn freed_but_held(&self, account: &Account) {
        account.backed.set(account.backed.get() - 1);
        account.held.set(account.held.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_hold_more_than_was_taken_are_found() {
        let (ledger, account) = (Ledger::default(), Account::new(VdiskId(1), 0));
        ledger.took(&account);
        let wrong = |taken| {
            let mut wrong = Vec::new();
            ledger.recount([&account].into_iter(), taken, &mut |figure| {
                if !figure.is_right() {
                    wrong.push(figure.to_string());
                }
            });
            wrong
        };
        assert_eq!(wrong(1), [""; 0]);
        assert_eq!(wrong(0), ["extents that vdisks hold: the pool says 1, there are 0: 1 too many"]);
    }
}
