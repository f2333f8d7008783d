//! Metadata pages: written twice, read once, and healed from the other copy when the first is bad.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_hardware::{Buffer, Durability, Frozen, IoError, Machine};

use super::Media;
use crate::format::{PAGE_BYTES, PageAddr, PageRef, PageType};

/// Attempts at reading one copy of a page.
const READ_ATTEMPTS: u32 = 2;

/// Counters of metadata I/O.
#[derive(Default)]
pub(crate) struct PageIo {
    pub(crate) read: Cell<u64>,
    pub(crate) written: Cell<u64>,
    pub(crate) healed: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    /// Pages of which no copy was good and some could not be read: they may be good another time. A
    /// view's are counted with those of what it is a view of.
    pub(crate) unread: Rc<Cell<u64>>,
    /// Copies found bad and left so, because the pool is only being inspected.
    pub(crate) bad_copies: Cell<u64>,
    /// Write nothing, not even to heal.
    pub(crate) inspect: Cell<bool>,
    /// Pages may be used for something else while they are looked at: what is bad is looked for again before anybody is told.
    pub(crate) passing: Cell<bool>,
}

/// Both copies of a page are bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostPage {
    /// A copy could not be read: it may be good another time.
    pub(crate) unread: bool,
}

/// What became of reading one copy of a page.
pub(super) enum Copy {
    Good(Buffer),
    /// It was read and is not what its parent says.
    Bad,
    Unread,
}

impl Copy {
    pub(super) fn good(self) -> Option<Buffer> {
        match self {
            Copy::Good(page) => Some(page),
            Copy::Bad | Copy::Unread => None,
        }
    }
}

pub(super) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl<M: Machine> Media<M> {
    /// Reads the page that `reference` names. A bad copy is written again from the good one.
    pub(crate) async fn read_page(&self, reference: &PageRef, kind: PageType) -> Result<Buffer, LostPage> {
        count(&self.pages.read);
        let first = match self.read_copy(reference.a, reference, kind).await {
            Copy::Good(page) => return Ok(page),
            bad => bad,
        };
        let second = self.read_copy(reference.b, reference, kind).await;
        self.tell_bad(reference, &first, &second);
        let page = match (first, second) {
            (_, Copy::Good(page)) => page,
            (Copy::Bad, Copy::Bad) => {
                count(&self.pages.lost);
                let (a, b) = (reference.a.0, reference.b.0);
                match self.pages.passing.get() {
                    true => {
                        tracing::debug!(a, b, ?kind, "both copies of a metadata page are bad, or it has gone elsewhere")
                    }
                    false => tracing::error!(a, b, ?kind, "both copies of a metadata page are bad"),
                }
                return Err(LostPage { unread: false });
            }
            _ => {
                count(&self.pages.unread);
                tracing::error!(a = reference.a.0, b = reference.b.0, ?kind, "a metadata page cannot be read");
                return Err(LostPage { unread: true });
            }
        };
        let frozen = page.freeze();
        self.heal(reference.a, &frozen).await;
        let mut again = self.buffers().alloc(PAGE_BYTES).await;
        again.copy_from_slice(&frozen);
        Ok(again)
    }

    /// Tells of copies that are not what was written, and whether the other makes up for it.
    pub(super) fn tell_bad(&self, reference: &PageRef, first: &Copy, second: &Copy) {
        if self.pages.passing.get() {
            return;
        }
        for (at, copy, other) in [(reference.a, first, second), (reference.b, second, first)] {
            let other = match (copy, other) {
                (Copy::Bad, Copy::Good(_)) => "and its other copy is good: nothing is lost",
                (Copy::Bad, Copy::Bad) => "and neither is its other copy: it is lost",
                (Copy::Bad, Copy::Unread) => "and its other copy cannot be read",
                _ => continue,
            };
            if let Some(drive) = self.drive(at.device()) {
                drive.misread(at.page() * PAGE_BYTES as u64, other);
            }
        }
    }

    pub(super) async fn read_copy(&self, at: PageAddr, reference: &PageRef, kind: PageType) -> Copy {
        let Some(drive) = self.drive(at.device()) else { return Copy::Bad };
        // A read that fails may have been unlucky; contents that are wrong stay so.
        for _ in 0..READ_ATTEMPTS {
            let buffer = self.buffers().alloc(PAGE_BYTES).await;
            if let Ok(page) = drive.read(at.page() * PAGE_BYTES as u64, buffer).await {
                return if reference.verifies(kind, &page) { Copy::Good(page) } else { Copy::Bad };
            }
        }
        Copy::Unread
    }

    /// Answers whether it was done.
    pub(super) async fn heal(&self, at: PageAddr, page: &Frozen) -> bool {
        if self.pages.inspect.get() {
            count(&self.pages.bad_copies);
            return false;
        }
        // When this fails the other copy is still good, and the next reader tries again.
        let healed = self.write_page(at, page.clone()).await.is_ok();
        if healed {
            count(&self.pages.healed);
            tracing::warn!(address = at.0, "a bad copy of a metadata page was healed");
        }
        healed
    }

    pub(crate) async fn write_page(&self, at: PageAddr, page: Frozen) -> Result<(), IoError> {
        count(&self.pages.written);
        self.drive_at(at.device())?.write(at.page() * PAGE_BYTES as u64, page, Durability::Cached).await
    }
}
