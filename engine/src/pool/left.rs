//! What the life before has left: batches in the rings, and tails in crash memory.

use std::rc::Rc;

use plimsoll_hardware::CrashMemory;
use uuid::Uuid;

use crate::format::{Batch, JournalStart, Record, RootPage};
use crate::journal::{JournalEnd, Left, Tail};

impl JournalEnd {
    /// The last batch that some batch, or the checkpoint, covers.
    pub(super) fn covered(&self) -> u64 {
        let first = self.batches.first().map_or(self.next.sequence, |batch| batch.header.sequence);
        self.batches.iter().map(|batch| batch.header.covered).fold(first - 1, u64::max)
    }

    /// Whether the last batch needs no proof and says nothing.
    pub(super) fn ends_with_nothing(&self, root: &RootPage) -> bool {
        self.batches.last().is_some_and(|batch| says_nothing(batch, root))
    }

    /// Where the last batch is, if it says nothing that the one before does not say.
    pub(super) fn needless(&self, root: &RootPage) -> Option<JournalStart> {
        let [.., before, last] = &self.batches[..] else { return None };
        let place = JournalStart {
            sequence: last.header.sequence,
            position: self.next.position - last.pages,
            previous: last.header.previous,
        };
        let is_needless = [before, last].iter().all(|batch| says_nothing(batch, root));
        (is_needless && before.header.life == last.header.life).then_some(place)
    }
}

fn says_nothing(batch: &Batch, root: &RootPage) -> bool {
    batch.header.proven && batch.records.iter().all(|record| is_unfinished(record, root))
}

/// Whether it is of a checkpoint whose root does not stand.
pub(super) fn is_unfinished(record: &Record, root: &RootPage) -> bool {
    matches!(record, Record::Meta { generation, .. } if *generation > root.generation)
}

/// What crash memory held.
pub(super) struct Survivors<C> {
    /// The tail of the life that ended; where there is none, one that can be had for the next.
    pub(super) tail: Option<Rc<Tail<C>>>,
    pub(super) others: Vec<Rc<Tail<C>>>,
    /// The records of its batches, oldest first; `None`: there is no tail of that life.
    pub(super) halves: Option<Vec<(u64, Vec<Record>)>>,
    pub(super) numbers: Numbers,
}

/// The batches that each tail has, of whatever life, in order.
pub(super) struct Numbers(Vec<Vec<u64>>);

impl<C: CrashMemory> Survivors<C> {
    /// Chooses among `tails` that of `life`.
    pub(super) fn of(mut tails: Vec<Rc<Tail<C>>>, pool: Uuid, life: u64) -> Self {
        let mut left: Vec<Option<Left>> = tails.iter().map(|tail| tail.recover(pool)).collect();
        let of = |(_, halves): &Left| halves.iter().map(|(sequence, _)| *sequence).collect();
        let numbers: Vec<Vec<u64>> = left.iter().map(|left| left.as_ref().map_or_else(Vec::new, of)).collect();
        let of_life = (0..tails.len()).filter(|&at| left[at].as_ref().is_some_and(|(owner, _)| *owner == life));
        // Of two the one that went on further.
        let own = of_life.max_by_key(|&at| numbers[at].last().copied());
        let halves = own.and_then(|own| left[own].take()).map(|(_, halves)| halves);
        let tail = (!tails.is_empty()).then(|| tails.swap_remove(own.unwrap_or(0)));
        Survivors { tail, others: tails, halves, numbers: Numbers(numbers) }
    }
}

impl Numbers {
    /// Whether a tail goes on from what is not there, if `next` is the number of the batch to come: the batches are damaged, or an older
    /// state was put back, whose extents hold something else by now than the tail says.
    pub(super) fn go_on_behind(&self, next: u64) -> bool {
        let begins = |numbers: &Vec<u64>| numbers.iter().find(|first| **first >= next).copied();
        self.0.iter().filter_map(begins).any(|first| first > next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_goes_on_behind_a_batch_only_if_it_has_not_that_batch_itself() {
        let numbers = |tails: &[&[u64]]| Numbers(tails.iter().map(|tail| tail.to_vec()).collect());
        // What was written last and what comes, and what comes alone.
        for tails in [&[&[7, 8][..]][..], &[&[8]], &[&[8, 9]], &[&[]], &[], &[&[3, 4], &[8]]] {
            assert!(!numbers(tails).go_on_behind(8), "{tails:?}");
        }
        for tails in [&[&[9][..]][..], &[&[9, 10]], &[&[7, 9]], &[&[7, 8], &[9]]] {
            assert!(numbers(tails).go_on_behind(8), "{tails:?}");
        }
    }
}
