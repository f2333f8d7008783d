//! What one life leaves to the next on its thread: memory for I/O and wakers.
//!
//! Mapping 8 MiB anew costs more than a whole short life. Memory that is not all given back is not used again.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use super::executor::Wakers;
use crate::BufferPool;

/// More lives than any test needs at once: beyond it something holds machines in a cycle, and memory would run out.
const LIVES_MAX: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Parts>> = const { RefCell::new(Vec::new()) };
    static LIVING: Cell<usize> = const { Cell::new(0) };
}

pub(super) struct Parts {
    pub(super) buffers: BufferPool,
    pub(super) wakers: Wakers,
}

impl Parts {
    /// Parts with `bytes` of memory, left by a former life unless they must be `fresh`.
    pub(super) fn take(bytes: usize, fresh: bool) -> std::io::Result<Parts> {
        let found = SPARE.with_borrow_mut(|spare| {
            let at = spare.iter().position(|parts| parts.buffers.bytes() == bytes && !fresh)?;
            Some(spare.swap_remove(at))
        });
        let parts = match found {
            Some(parts) => parts,
            None => Parts { buffers: BufferPool::new(bytes)?, wakers: Wakers::default() },
        };
        LIVING.set(LIVING.get() + 1);
        let living = LIVING.get();
        assert!(living <= LIVES_MAX, "{living} lives are still referenced: something holds machines in a cycle");
        Ok(parts)
    }

    /// Leaves them for another life.
    pub(super) fn give(self) {
        // Thread-locals may be gone when a thread ends.
        let _ = LIVING.try_with(|living| living.set(living.get() - 1));
        // A waiter of the former life left in the queue would swallow a wake of the next one.
        let nobody_waits = {
            let alloc = std::pin::pin!(self.buffers.alloc(1));
            alloc.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        if nobody_waits && self.buffers.free_bytes() == self.buffers.bytes() {
            let _ = SPARE.try_with(|spare| spare.borrow_mut().push(self));
        }
    }
}
