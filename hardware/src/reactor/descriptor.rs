//! A file of the ring: a descriptor and, when the ring's table had room, the slot under which the ring knows it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::Core;

/// An open file or socket that operations of one reactor name.
pub(crate) struct Descriptor {
    core: Rc<Core>,
    fd: OwnedFd,
    slot: Option<u32>,
}

impl Descriptor {
    pub(crate) fn new(core: &Rc<Core>, fd: OwnedFd) -> Rc<Self> {
        let slot = core.ring.borrow_mut().register_file(fd.as_raw_fd());
        Rc::new(Self { core: core.clone(), fd, slot })
    }

    #[inline]
    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    #[inline]
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.core.ring.borrow_mut().release_file(slot);
        }
    }
}

/// Builds an entry for a descriptor by its slot when it has one, else by its number.
macro_rules! entry_on {
    ($descriptor:expr, |$target:ident| $operation:expr) => {
        match $descriptor.slot() {
            Some(slot) => {
                let $target = io_uring::types::Fixed(slot);
                $operation.build()
            }
            None => {
                let $target =
                    io_uring::types::Fd(std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&**$descriptor)));
                $operation.build()
            }
        }
    };
}
pub(crate) use entry_on;
