//! What a check makes of a vdisk: who has which extent, and what is behind it.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::Machine;

use super::check::Checker;
use super::mend::Mend;
use crate::format::{Blocks, ExtentId, LEAF_WORDS, Leaf, PageType, PatternId, Payload, Word};
use crate::tree::{Found, Loader, PageSeen, load};
use crate::vdisk::{Store, VdiskCore};

/// Leaves brought into memory at the same time.
const LEAVES_AT_ONCE: usize = 32;
/// Leaves between two turns of others, a millisecond at most when all were looked at before.
const LEAVES_PER_TURN: usize = 4096;

/// What the words of a vdisk say.
#[derive(Default)]
struct Seen {
    /// Extents behind it.
    backed: u64,
    /// Where it repeats patterns that the pool does not have.
    unknown: Vec<(u64, PatternId)>,
}

/// The words of a leaf, with what is pending for it; none if it cannot be had. It takes no place in memory that it did not have before.
async fn words_of<M: Machine>(
    store: &Rc<Store<M>>,
    vdisk: &VdiskCore,
    loader: &Loader,
    index: u64,
) -> (u64, Vec<Word>) {
    let (media, mapping) = (&store.media, &vdisk.mapping);
    let was_resident = matches!(mapping.tree.borrow().get(index), Found::Page(_));
    if load(media, loader, &mapping.tree, index).await.is_err()
        || mapping.load_leaf(media, &store.cache, index).await.is_err()
    {
        // What waits for a leaf that is lost is there all the same: it gets that when the leaf is given up.
        return (index, mapping.pending_words(index));
    }
    let words = match mapping.tree.borrow().get(index) {
        Found::Page(page) => page.iter().collect(),
        _ => Vec::new(),
    };
    if !was_resident {
        mapping.tree.borrow_mut().evict(index);
    }
    (index, words)
}

impl<M: Machine> Checker<'_, M> {
    pub(super) async fn check_vdisk(&mut self, vdisk: &Rc<VdiskCore>) {
        let name = format!("{}/{}", self.store.identity.name, vdisk.name());
        let extent_bytes = self.store.media.extent_bytes;
        let tree = &vdisk.mapping.tree;
        let (mut seen, mut taken) = (Seen::default(), HashSet::new());
        let title = |page: &PageSeen| format!("{name} from byte {}", page.first * LEAF_WORDS as u64 * extent_bytes);
        // What nothing in memory has overtaken counts as it was just read.
        let mut take = |checker: &mut Self, page: &PageSeen, bytes: &[u8]| {
            let (index, mapping) = (page.first, &vdisk.mapping);
            let counts = page.kind == PageType::Leaf
                && !checker.changes
                && matches!(tree.borrow().get(index), Found::Unread(home, 0) if home == page.reference)
                && mapping.next_pending(index) != Some(index);
            if let Some(leaf) = counts.then(|| Leaf::decode(bytes).ok()).flatten() {
                taken.insert(index);
                checker.note_words(&name, index, leaf.iter(), &mut seen);
            }
        };
        let lost = self.check_tree(tree, &title, &mut take).await;
        for page in &lost {
            let offset = page.first * LEAF_WORDS as u64 * extent_bytes;
            let length = (page.leaves * LEAF_WORDS as u64)
                .saturating_mul(extent_bytes)
                .min(vdisk.size.get().saturating_sub(offset));
            let message = format!("the mapping of {name} at {offset}..+{length} is lost in both copies");
            self.find("lost-page", true, Some((name.clone(), offset, length)), message);
            self.mends.push(Mend::ForgetLeaf(vdisk.id, page.first));
        }
        let loader = Loader::default();
        let mut from = 0;
        let mut present = std::iter::from_fn(|| {
            let present = tree.borrow().next_sound(from);
            let index = present.into_iter().chain(vdisk.mapping.next_pending(from)).min()?;
            from = index + 1;
            Some(index)
        });
        loop {
            let some: Vec<u64> = present.by_ref().take(LEAVES_PER_TURN).collect();
            let is_last = some.len() < LEAVES_PER_TURN;
            let others = some.into_iter().filter(|index| !taken.contains(index));
            let leaves = others.map(|index| words_of(self.store, vdisk, &loader, index));
            let mut leaves = pin!(stream::iter(leaves).buffered(LEAVES_AT_ONCE));
            while let Some((index, words)) = leaves.next().await {
                self.note_words(&name, index, words.into_iter(), &mut seen);
            }
            if is_last {
                break;
            }
            // Most are taken, and passed without a wait: others have their turn.
            self.store.media.machine.sleep(Duration::from_micros(1)).await;
        }
        let Seen { backed, unknown } = seen;
        for (offset, pattern) in &unknown {
            let message = format!("{name} at {offset} repeats pattern {}, which the pool does not have", pattern.0);
            self.find("unknown-pattern", true, Some((name.clone(), *offset, extent_bytes)), message);
        }
        if !unknown.is_empty() {
            self.mends.push(Mend::ForgetFills(vdisk.id));
        }
        let said = vdisk.mapping.account.backed.get();
        if said != backed && lost.is_empty() {
            let message = format!("{name} says that {said} extents are behind it and has {backed}");
            self.find("count-mismatch", false, Some((name, 0, vdisk.size.get())), message);
            self.mends.push(Mend::Backed(vdisk.id, backed as i64 - said as i64));
        }
    }

    /// Notes what the words of a leaf say.
    fn note_words(&mut self, vdisk: &str, leaf: u64, words: impl Iterator<Item = Word>, seen: &mut Seen) {
        let mut packed: BTreeMap<ExtentId, Blocks> = BTreeMap::new();
        for (slot, word) in words.enumerate() {
            let offset = (leaf * LEAF_WORDS as u64 + slot as u64) * self.store.media.extent_bytes;
            if word.is_packed() {
                let known = packed.entry(word.extent()).or_default();
                let (others, places) = (*known, word.places(word.valid()));
                *known = others.with(places);
                if others.is_empty() {
                    seen.backed += 1;
                    self.own(vdisk, offset, word.extent());
                } else if others.overlaps(places) {
                    self.share_a_place(vdisk, offset, word.extent());
                }
            } else if word.is_mapped() {
                seen.backed += 1;
                self.own(vdisk, offset, word.extent());
            } else if word.is_fill() {
                self.report.filled_extents += 1;
                if self.store.patterns.get(word.pattern()).is_none() {
                    seen.unknown.push((offset, word.pattern()));
                }
            }
        }
    }

    fn own(&mut self, vdisk: &str, offset: u64, extent: ExtentId) {
        let place = || Some((vdisk.to_owned(), offset, self.store.media.extent_bytes));
        if self.store.media.locate(extent).is_none() {
            let message = format!("{vdisk} at {offset} is mapped to extent {}, which no device has", extent.0);
            self.refuse("impossible-extent", place(), message);
        } else if self.owned.replace(extent.0 as usize, true) {
            let message = format!("extent {} behind {vdisk} at {offset} is behind something else too", extent.0);
            self.refuse("doubly-owned-extent", place(), message);
        }
    }

    fn share_a_place(&mut self, vdisk: &str, offset: u64, extent: ExtentId) {
        let place = Some((vdisk.to_owned(), offset, self.store.media.extent_bytes));
        let message = format!("places of extent {} behind {vdisk} at {offset} are behind something else too", extent.0);
        self.refuse("doubly-owned-extent", place, message);
    }
}
