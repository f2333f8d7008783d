//! Metadata pages: written twice, read once, and healed from the other copy when the first is bad.

use std::cell::Cell;

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
    /// Copies found bad and left so, because the pool is only being inspected.
    pub(crate) bad_copies: Cell<u64>,
    /// Write nothing, not even to heal.
    pub(crate) inspect: Cell<bool>,
}

/// Both copies of a page are bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostPage {
    pub(crate) reference: PageRef,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl<M: Machine> Media<M> {
    /// Reads the page that `reference` names. A bad copy is written again from the good one.
    pub(crate) async fn read_page(&self, reference: &PageRef, kind: PageType) -> Result<Buffer, LostPage> {
        count(&self.pages.read);
        if let Some(page) = self.read_copy(reference.a, reference, kind).await {
            return Ok(page);
        }
        let Some(page) = self.read_copy(reference.b, reference, kind).await else {
            count(&self.pages.lost);
            tracing::error!(a = reference.a.0, b = reference.b.0, ?kind, "both copies of a metadata page are bad");
            return Err(LostPage { reference: *reference });
        };
        let frozen = page.freeze();
        self.heal(reference.a, &frozen).await;
        let mut again = self.buffers().alloc(PAGE_BYTES).await;
        again.copy_from_slice(&frozen);
        Ok(again)
    }

    /// Reads and verifies both copies; answers how many are bad, healing one from the other.
    pub(crate) async fn scrub_page(&self, reference: &PageRef, kind: PageType) -> u32 {
        let first = self.read_copy(reference.a, reference, kind).await;
        let second = self.read_copy(reference.b, reference, kind).await;
        match (first, second) {
            (Some(_), Some(_)) => 0,
            (Some(good), None) => {
                self.heal(reference.b, &good.freeze()).await;
                1
            }
            (None, Some(good)) => {
                self.heal(reference.a, &good.freeze()).await;
                1
            }
            (None, None) => 2,
        }
    }

    async fn read_copy(&self, at: PageAddr, reference: &PageRef, kind: PageType) -> Option<Buffer> {
        if usize::from(at.device()) >= self.drives.borrow().len() {
            return None;
        }
        // A read that fails may have been unlucky; contents that are wrong stay so.
        for _ in 0..READ_ATTEMPTS {
            let buffer = self.buffers().alloc(PAGE_BYTES).await;
            if let Ok(page) = self.drive(at.device()).read(at.page() * PAGE_BYTES as u64, buffer).await {
                return reference.verifies(kind, &page).then_some(page);
            }
        }
        None
    }

    async fn heal(&self, at: PageAddr, page: &Frozen) {
        if self.pages.inspect.get() {
            count(&self.pages.bad_copies);
            return;
        }
        // When this fails the other copy is still good, and the next reader tries again.
        if self.write_page(at, page.clone()).await.is_ok() {
            count(&self.pages.healed);
            tracing::warn!(address = at.0, "a bad copy of a metadata page was healed");
        }
    }

    pub(crate) async fn write_page(&self, at: PageAddr, page: Frozen) -> Result<(), IoError> {
        count(&self.pages.written);
        self.drive(at.device()).write(at.page() * PAGE_BYTES as u64, page, Durability::Cached).await
    }
}
