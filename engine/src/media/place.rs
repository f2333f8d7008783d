//! From extents and pages to devices and offsets.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Drive, Media};
use crate::format::{ExtentId, GROUP_EXTENTS, META_PAGES_PER_EXTENT, PAGE_BYTES, PageAddr};

impl<M: Machine> Media<M> {
    /// Device and byte offset of an extent, or `None` when no device has it.
    pub(crate) fn locate(&self, extent: ExtentId) -> Option<(Rc<Drive<M::Device>>, u64)> {
        let drives = self.drives.borrow();
        let drive = drives.iter().rev().flatten().find(|drive| drive.extent_base <= extent.0)?;
        let index = extent.0 - drive.extent_base;
        (index < drive.extents())
            .then(|| (drive.clone(), drive.extents_page * PAGE_BYTES as u64 + index * self.extent_bytes))
    }

    /// Address of page `page` (0 to 15) of a metadata extent.
    pub(crate) fn page_of(&self, extent: ExtentId, page: u32) -> Option<PageAddr> {
        let drives = self.drives.borrow();
        let drive = drives.iter().rev().flatten().find(|drive| drive.extent_base <= extent.0)?;
        let index = extent.0 - drive.extent_base;
        let first = drive.extents_page + index * (self.extent_bytes / PAGE_BYTES as u64);
        (index < drive.extents()).then(|| PageAddr::new(drive.index, first + u64::from(page)))
    }

    /// The metadata extent and the page in it that an address names.
    pub(crate) fn extent_of(&self, page: PageAddr) -> Option<(ExtentId, u32)> {
        let drives = self.drives.borrow();
        let slot = drives.get(usize::from(page.device()))?.as_ref()?.slot();
        let per_extent = self.extent_bytes / PAGE_BYTES as u64;
        let offset = page.page().checked_sub(slot.extents_page)?;
        let (index, page) = (offset / per_extent, (offset % per_extent) as u32);
        (index < slot.extents && page < META_PAGES_PER_EXTENT).then(|| (ExtentId(slot.extent_base + index), page))
    }

    /// Number of allocation groups of all devices, and for each group the extents it really has.
    pub(crate) fn group_sizes(&self) -> Vec<u32> {
        let mut sizes = Vec::new();
        for drive in self.drives.borrow().iter().flatten() {
            sizes.resize((drive.extent_base / GROUP_EXTENTS) as usize, 0);
            let mut left = drive.extents();
            while left > 0 {
                let here = left.min(GROUP_EXTENTS);
                sizes.push(here as u32);
                left -= here;
            }
        }
        sizes
    }
}
