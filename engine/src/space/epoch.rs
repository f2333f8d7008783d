//! Which I/O may still be in flight to an extent that was freed.
//!
//! Every operation enters the present epoch and leaves it when it ends. What is freed in an epoch may be used again once
//! that epoch and all before it have emptied.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::wait::WaitQueue;

#[derive(Default)]
struct State {
    /// Number of the oldest epoch that is kept.
    first: u64,
    /// Operations in flight per epoch; the last is the present one.
    active: VecDeque<u32>,
    /// An operation was abandoned in flight: its epoch never ends.
    abandoned: bool,
}

/// The epochs of a pool.
#[derive(Clone, Default)]
pub(crate) struct Epochs(Rc<Shared>);

#[derive(Default)]
struct Shared {
    state: RefCell<State>,
    ended: WaitQueue,
}

/// An operation in flight.
pub(crate) struct EpochGuard {
    epochs: Epochs,
    epoch: u64,
}

impl Epochs {
    /// Begins an operation.
    pub(crate) fn enter(&self) -> EpochGuard {
        let mut state = self.0.state.borrow_mut();
        if state.active.is_empty() {
            state.active.push_back(0);
        }
        let last = state.active.len() - 1;
        state.active[last] += 1;
        EpochGuard { epochs: self.clone(), epoch: state.first + last as u64 }
    }

    /// Ends the present epoch; answers its number, with which to tag what is being freed.
    pub(crate) fn advance(&self) -> u64 {
        let mut state = self.0.state.borrow_mut();
        if state.active.is_empty() {
            state.active.push_back(0);
        }
        state.active.push_back(0);
        let ended = state.first + state.active.len() as u64 - 2;
        state.settle();
        ended
    }

    /// Whether every operation of `epoch` and before has ended.
    pub(crate) fn is_over(&self, epoch: u64) -> bool {
        epoch < self.0.state.borrow().first
    }

    /// Waits until the oldest operations have ended; `false` at once when none is in flight, or one never will end.
    pub(crate) async fn wait(&self) -> bool {
        if self.in_flight() == 0 || self.0.state.borrow().abandoned {
            return false;
        }
        self.0.ended.changed().await;
        true
    }

    /// Waits until every operation of `epoch` and before has ended; `false`: one never will.
    pub(crate) async fn until_over(&self, epoch: u64) -> bool {
        while !self.is_over(epoch) && self.wait().await {}
        self.is_over(epoch)
    }

    /// Operations in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.state.borrow().active.iter().map(|&count| u64::from(count)).sum()
    }
}

impl State {
    fn settle(&mut self) {
        while self.active.len() > 1 && self.active.front() == Some(&0) {
            self.active.pop_front();
            self.first += 1;
        }
    }
}

impl EpochGuard {
    /// Keeps the epoch from ending: the operation goes on and nobody will see its end.
    pub(crate) fn abandon(self) {
        self.epochs.0.state.borrow_mut().abandoned = true;
        self.epochs.0.ended.notify();
        std::mem::forget(self);
    }
}

impl Drop for EpochGuard {
    fn drop(&mut self) {
        let oldest = {
            let mut state = self.epochs.0.state.borrow_mut();
            let index = (self.epoch - state.first) as usize;
            state.active[index] -= 1;
            if index == 0 {
                state.settle();
            }
            index == 0
        };
        if oldest {
            self.epochs.0.ended.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_over_when_its_operations_and_all_before_have_ended() {
        let epochs = Epochs::default();
        let first = epochs.enter();
        let ended = epochs.advance();
        let second = epochs.enter();
        assert!(!epochs.is_over(ended));
        drop(first);
        assert!(epochs.is_over(ended));
        let later = epochs.advance();
        assert!(!epochs.is_over(later));
        drop(second);
        assert!(epochs.is_over(later));
    }
}
