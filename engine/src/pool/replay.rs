//! Applying records to a pool that is being opened.

use std::rc::Rc;

use plimsoll_hardware::Machine;

use crate::format::{
    Blocks, Entry, EntryState, ExtentId, LEAF_WORDS, PoolPolicy, Record, VdiskId, VirtualExtent, Word,
};
use crate::tree::Found;
use crate::vdisk::{Store, VdiskCore, table_place};

impl<M: Machine> Store<M> {
    /// Applies one record. What names things that a lost page has taken away is passed over: the page was reported.
    pub(super) async fn replay(self: &Rc<Self>, record: &Record, generation: u64) {
        match record {
            Record::Map { vdisk, at, extent, blocks, .. } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                if self.space.load_group(extent.0 / crate::format::GROUP_EXTENTS).await.is_ok()
                    && self.space.replay_allocate(*extent)
                {
                    vdisk.mapping.account.backed.set(vdisk.mapping.account.backed.get() + 1);
                }
                vdisk.mapping.postpone(*at, *extent, *blocks);
            }
            Record::Move { vdisk, at, from, to, blocks, .. } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                self.replay_move(&vdisk, *at, (*from, *to), *blocks).await;
            }
            Record::Remap { vdisk, leaf, to, words, .. } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                self.replay_remap(&vdisk, *leaf, *to, words).await;
            }
            Record::Unmap { vdisk, first, count } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                let last = first.0.saturating_add(count.saturating_sub(1));
                let mut next = self.next_leaf(&vdisk, first.leaf());
                while let Some(leaf) = next.filter(|&leaf| leaf <= last / LEAF_WORDS as u64) {
                    let start = leaf * LEAF_WORDS as u64;
                    let from = first.0.max(start);
                    let until = last.min(start + LEAF_WORDS as u64 - 1);
                    for at in from..=until {
                        self.replay_clear(&vdisk, VirtualExtent(at), Blocks::ALL).await;
                    }
                    next = self.next_leaf(&vdisk, leaf + 1);
                }
            }
            Record::Clear { vdisk, at, blocks } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                self.replay_clear(&vdisk, *at, *blocks).await;
            }
            Record::Fill { vdisk, at, blocks, pattern, freed } => {
                let Some(vdisk) = self.core(*vdisk) else { return };
                if let Some(extent) = freed {
                    self.replay_freed(&vdisk, *extent).await;
                }
                vdisk.mapping.postpone_fill(*at, *pattern, *blocks, freed.is_some());
            }
            Record::Pattern { pattern, now } => self.patterns.put(*pattern, now),
            Record::Put { vdisk, entry } => self.replay_put(*vdisk, entry),
            Record::Remove { vdisk } => self.forget_vdisk(*vdisk),
            Record::Meta { generation: of, extents } if *of == generation => {
                for &(extent, pages) in extents {
                    if self.space.load_group(extent.0 / crate::format::GROUP_EXTENTS).await.is_ok() {
                        self.space.set_meta(extent, pages);
                    }
                }
            }
            Record::Policy(policy) => *self.policy.borrow_mut() = PoolPolicy::clone(policy),
            Record::Meta { .. } | Record::Dropped { .. } => {}
        }
    }

    /// The old extent is in use at this point unless the MAPs that put it there were dropped.
    async fn replay_move(
        &self,
        vdisk: &VdiskCore,
        at: VirtualExtent,
        (from, to): (ExtentId, ExtentId),
        blocks: Blocks,
    ) {
        let backed = &vdisk.mapping.account.backed;
        if self.space.load_group(from.0 / crate::format::GROUP_EXTENTS).await.is_ok() && self.space.is_allocated(from) {
            self.space.replay_free(from);
            backed.set(backed.get().saturating_sub(1));
        }
        if self.space.load_group(to.0 / crate::format::GROUP_EXTENTS).await.is_ok() && self.space.replay_allocate(to) {
            backed.set(backed.get() + 1);
        }
        vdisk.mapping.postpone_move(at, to, blocks);
    }

    /// What a word had before is free when no word of the leaf has it any more.
    async fn replay_remap(&self, vdisk: &VdiskCore, leaf: u64, to: ExtentId, words: &[(u16, Word)]) {
        let mapping = &vdisk.mapping;
        let places = words.iter().map(|(slot, _)| VirtualExtent::in_leaf(leaf, usize::from(*slot)));
        if mapping.load_leaf(&self.media, &self.cache, leaf).await.is_err() {
            // What was replayed for these words is theirs no more, and must not outlive this.
            for at in places {
                for extent in mapping.withdraw(at, Blocks::ALL) {
                    self.replay_release(vdisk, extent).await;
                }
            }
            return;
        }
        if self.space.load_group(to.0 / crate::format::GROUP_EXTENTS).await.is_ok() && self.space.replay_allocate(to) {
            mapping.account.backed.set(mapping.account.backed.get() + 1);
        }
        for &(slot, word) in words {
            let at = VirtualExtent::in_leaf(leaf, usize::from(slot));
            let Some(Ok(before)) = mapping.peek(at) else { continue };
            mapping.set(&self.cache, at, word);
            self.replay_left(vdisk, at, before).await;
        }
    }

    /// `before` is no more the word of `at`: its extent is free unless another word of the leaf has it.
    async fn replay_left(&self, vdisk: &VdiskCore, at: VirtualExtent, before: Word) {
        if !before.is_mapped() || vdisk.mapping.names(at.leaf(), before.extent()) {
            return;
        }
        self.replay_release(vdisk, before.extent()).await;
    }

    fn core(&self, id: VdiskId) -> Option<Rc<VdiskCore>> {
        self.vdisks.borrow().get(&id).cloned()
    }

    fn next_leaf(&self, vdisk: &VdiskCore, leaf: u64) -> Option<u64> {
        let present = vdisk.mapping.tree.borrow().next_sound(leaf);
        present.into_iter().chain(vdisk.mapping.next_pending(leaf)).min()
    }

    async fn replay_clear(&self, vdisk: &VdiskCore, at: VirtualExtent, blocks: Blocks) {
        if vdisk.mapping.load_leaf(&self.media, &self.cache, at.leaf()).await.is_err() {
            // What was replayed for it must not outlive this, if a repair gives the leaf up. Of a part of an extent it
            // cannot be known whether more of it is in use.
            let emptied = vdisk.mapping.withdraw(at, blocks);
            for extent in emptied.into_iter().filter(|_| blocks == Blocks::ALL) {
                self.replay_release(vdisk, extent).await;
            }
            return;
        }
        let word = match vdisk.mapping.tree.borrow().get(at.leaf()) {
            Found::Page(leaf) => leaf.get(at.slot()),
            _ => return,
        };
        if !word.contents().overlaps(blocks) {
            return;
        }
        let left = word.without(blocks);
        vdisk.mapping.set(&self.cache, at, left);
        if left == Word::UNMAPPED {
            self.replay_left(vdisk, at, word).await;
        }
    }

    /// An extent that the vdisk has no more.
    async fn replay_release(&self, vdisk: &VdiskCore, extent: ExtentId) {
        vdisk.mapping.account.backed.set(vdisk.mapping.account.backed.get().saturating_sub(1));
        if self.space.load_group(extent.0 / crate::format::GROUP_EXTENTS).await.is_ok() {
            self.space.replay_free(extent);
        }
    }

    /// A FILL took the place of an extent; of one whose MAP was dropped nothing is known.
    async fn replay_freed(&self, vdisk: &VdiskCore, extent: crate::format::ExtentId) {
        let known = self.space.load_group(extent.0 / crate::format::GROUP_EXTENTS).await.is_ok();
        if known && self.space.is_allocated(extent) && self.space.detail(extent).is_none() {
            self.space.replay_free(extent);
            vdisk.mapping.account.backed.set(vdisk.mapping.account.backed.get().saturating_sub(1));
        }
    }

    fn replay_put(&self, id: VdiskId, entry: &Entry) {
        if self.is_table_lost(id) {
            return;
        }
        let known = self.core(id).filter(|vdisk| vdisk.entry.borrow().uuid == entry.uuid);
        let vdisk = match known {
            Some(vdisk) => {
                let tree = vdisk.entry.borrow().tree;
                self.forget_name(&vdisk);
                vdisk.update(Entry { tree, ..entry.clone() });
                vdisk
            }
            None => {
                let fresh = Entry { tree: crate::format::TreeRoot::EMPTY, backed: 0, ..entry.clone() };
                let vdisk = VdiskCore::new(id, fresh, self.counts.clone());
                self.vdisks.borrow_mut().insert(id, vdisk.clone());
                vdisk
            }
        };
        if entry.state != EntryState::Deleting {
            self.names.borrow_mut().insert(entry.name.clone(), id);
        }
        self.put_in_table(&vdisk);
    }

    /// Takes a vdisk's name away, unless a successor has it by now.
    fn forget_name(&self, vdisk: &VdiskCore) {
        let name = vdisk.name();
        let mut names = self.names.borrow_mut();
        if names.get(&name) == Some(&vdisk.id) {
            names.remove(&name);
        }
    }

    /// Takes a vdisk out of everything; its tree must be empty.
    pub(crate) fn forget_vdisk(&self, id: VdiskId) {
        let Some(vdisk) = self.vdisks.borrow_mut().remove(&id) else { return };
        self.free_from.set(self.free_from.get().min(id.0));
        if self.is_table_lost(id) {
            return;
        }
        self.forget_name(&vdisk);
        let (page, slot) = table_place(id);
        self.table.borrow_mut().change(page).entries[slot] = None;
    }
}
