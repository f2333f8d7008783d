//! Operations between submission and completion, in a slab; the key is the ring's user data.
//!
//! Invariants:
//! 1. Memory that the kernel reads or writes belongs to the operation's slot, not to the future, so a future may be
//!    dropped at any time: its slot is *abandoned* and freed by the completion.
//! 2. A key is given out again only after its completion was reaped. Entries reach the kernel in the order of pushing,
//!    so a cancel that names a key is processed before any later operation of that key: it can miss, but never hit the
//!    wrong one.
//! 3. A slot holds its descriptor, so no entry ever names a closed file.
//!
//! Starting and polling are forced into line: out of line, the memory's three words go through the stack once more each.

use std::marker::PhantomData;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue};
use slab::Slab;

use super::Core;
use super::descriptor::Descriptor;
use super::message::Message;
use crate::buffer::{Buffer, Frozen};

/// User data of entries whose completion nobody waits for.
pub(super) const NOBODY: u64 = u64::MAX;

/// What an operation keeps alive, and gives back when it ends.
pub(crate) trait Memory: Sized {
    /// Into the slot.
    fn hold(self) -> Held;
    /// Out of the slot, which holds what [`Memory::hold`] put there.
    fn back(held: Held) -> Self;
}

/// The result is a descriptor, which is closed when nobody takes it.
pub(super) struct Accepted;

macro_rules! memory {
    ($($type:ty, $held:pat => $out:expr, $value:ident => $hold:expr;)*) => {$(
        impl Memory for $type {
            #[inline(always)]
            fn hold(self) -> Held {
                let $value = self;
                $hold
            }

            #[inline(always)]
            fn back(held: Held) -> Self {
                match held {
                    $held => $out,
                    _ => unreachable!("an operation gives back what it held"),
                }
            }
        }
    )*};
}

memory! {
    (), Held::Nothing => (), _nothing => Held::Nothing;
    Buffer, Held::Buffer(buffer) => buffer, buffer => Held::Buffer(buffer);
    Frozen, Held::Frozen(bytes) => bytes, bytes => Held::Frozen(bytes);
    Box<Message>, Held::Message(message) => message, message => Held::Message(message);
    Box<u64>, Held::Word(word) => word, word => Held::Word(word);
    Accepted, Held::Accepted => Accepted, _accepted => Held::Accepted;
}

/// The memory of any operation, as its slot keeps it.
pub(crate) enum Held {
    /// No memory: a flush, a discard.
    Nothing,
    /// The kernel writes here.
    Buffer(Buffer),
    /// The kernel reads from here.
    Frozen(Frozen),
    /// The kernel reads from all of these.
    Message(Box<Message>),
    /// The counter of an eventfd is written here.
    Word(Box<u64>),
    /// No memory, but a result that is a descriptor, to be closed when nobody takes it.
    Accepted,
}

enum State {
    Waiting(Option<Waker>),
    Abandoned,
    Done(i32),
}

struct Slot {
    state: State,
    held: Held,
    descriptor: Rc<Descriptor>,
    cancel_on_drop: bool,
}

/// All unfinished operations of a ring.
#[derive(Default)]
pub(super) struct Operations {
    slots: Slab<Slot>,
}

/// What a completion left to do once nothing is borrowed any more. Dropping a part may run other code (a buffer wakes
/// whoever waits for memory, a descriptor talks to the ring).
pub(super) enum Completed {
    Wake(Waker),
    Nothing,
    Free { _held: Held, _descriptor: Rc<Descriptor>, _accepted: Option<OwnedFd> },
}

impl Operations {
    #[inline]
    pub(super) fn complete(&mut self, key: u64, result: i32) -> Completed {
        let Some(slot) = self.slots.get_mut(key as usize) else {
            debug_assert!(key == NOBODY, "a completion for operation {key}, which does not exist");
            return Completed::Nothing;
        };
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::Waiting(Some(waker)) => Completed::Wake(waker),
            State::Waiting(None) => Completed::Nothing,
            State::Abandoned => self.remove(key as usize, result),
            State::Done(_) => unreachable!("operation {key} completed twice"),
        }
    }

    fn remove(&mut self, key: usize, result: i32) -> Completed {
        let slot = self.slots.remove(key);
        let accepted = match slot.held {
            // SAFETY: the kernel just made this descriptor for us and nobody else has seen its number.
            Held::Accepted if result >= 0 => Some(unsafe { OwnedFd::from_raw_fd(result) }),
            _ => None,
        };
        Completed::Free { _held: slot.held, _descriptor: slot.descriptor, _accepted: accepted }
    }

    /// Whether the kernel still works on any.
    pub(super) fn in_kernel(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| !matches!(slot.state, State::Done(_))).count()
    }

    /// Keys of what may be cancelled and has not been abandoned (and thereby cancelled) yet.
    pub(super) fn cancellable(&self) -> Vec<u64> {
        let waiting = |slot: &Slot| slot.cancel_on_drop && matches!(slot.state, State::Waiting(_));
        self.slots.iter().filter(|(_, slot)| waiting(slot)).map(|(key, _)| key as u64).collect()
    }
}

impl Core {
    /// Starts an operation. `descriptor` is the file that `entry` names, kept open until it has ended.
    ///
    /// # Safety
    /// Every address in `entry` must lie in memory that `memory` owns and that does not move with it.
    #[inline(always)]
    pub(crate) unsafe fn start<'a, M: Memory>(
        &'a self,
        entry: squeue::Entry,
        memory: M,
        descriptor: &Rc<Descriptor>,
        cancel_on_drop: bool,
    ) -> Operation<'a, M> {
        let closed = self.closed.get();
        let state = if closed { State::Done(-libc::ECANCELED) } else { State::Waiting(None) };
        let slot = Slot { state, held: memory.hold(), descriptor: descriptor.clone(), cancel_on_drop };
        let key = self.operations.borrow_mut().slots.insert(slot) as u64;
        if !closed {
            // SAFETY: the slot keeps the memory until the completion has been reaped.
            unsafe { self.ring.borrow_mut().push(entry.user_data(key)) };
        }
        Operation { core: self, key: Some(key as u32), _memory: PhantomData }
    }

    /// Asks the kernel to end an operation soon. It completes in any case.
    pub(super) fn cancel(&self, key: u64) {
        let entry = opcode::AsyncCancel::new(key).build().user_data(NOBODY);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.borrow_mut().push(entry) };
    }
}

/// An operation that was started. Its output is the system's result and what was held.
pub(crate) struct Operation<'a, M> {
    core: &'a Core,
    key: Option<u32>,
    /// Given back, so not part of the future, which therefore may always be moved.
    _memory: PhantomData<fn() -> M>,
}

impl<M: Memory> Future for Operation<'_, M> {
    type Output = (i32, M);

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, M)> {
        let key = self.key.expect("an operation is not polled after it ended") as usize;
        let mut operations = self.core.operations.borrow_mut();
        let slot = &mut operations.slots[key];
        match &mut slot.state {
            State::Done(result) => {
                let result = *result;
                // Taken out where it lies: moving the whole slot first costs more than the rest of this function.
                let memory = M::back(std::mem::replace(&mut slot.held, Held::Nothing));
                let rest = operations.slots.remove(key);
                drop(operations);
                drop(rest);
                self.key = None;
                Poll::Ready((result, memory))
            }
            State::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            State::Abandoned => unreachable!("only dropping the future abandons an operation"),
        }
    }
}

impl<M> Drop for Operation<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(key) = self.key {
            abandon(self.core, key);
        }
    }
}

#[cold]
fn abandon(core: &Core, key: u32) {
    let mut operations = core.operations.borrow_mut();
    let slot = &mut operations.slots[key as usize];
    if let State::Done(result) = slot.state {
        let left = operations.remove(key as usize, result);
        drop(operations);
        drop(left);
        return;
    }
    slot.state = State::Abandoned;
    let cancel = slot.cancel_on_drop;
    drop(operations);
    if cancel {
        core.cancel(key as u64);
    }
}
