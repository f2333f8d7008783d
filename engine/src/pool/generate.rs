//! Filling a vdisk's mapping without writing its data, for benchmarks of large pools (feature `generator`).
//!
//! Every word changes together with its extent's allocation, as a write does it, but no record is appended: a checkpoint makes
//! it durable. So what a generator filled since the last checkpoint is lost by a crash, and nothing else is.
//! What such a vdisk reads is whatever the device holds there.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::{Error, Result};
use crate::format::{Blocks, ExtentId, GROUP_EXTENTS, LEAF_WORDS, VirtualExtent, Word};
use crate::tree::Found;
use crate::vdisk::{Store, VdiskCore};

/// Dirty pages that filling one leaf may cause: the leaf, up to 514 groups where the pool is fragmented, and nodes.
const PAGES_PER_LEAF: usize = 16;

impl<M: Machine> Pool<M> {
    /// Maps `count` extents of the vdisk from extent `first` on, all of their blocks valid, where they are not mapped yet,
    /// and writes a checkpoint. Physical extents are taken in order. For benchmarks: no data is written, and nobody else may
    /// write meanwhile.
    ///
    /// # Errors
    /// `NotFound`, `OutOfSpace`, `Damaged`, and what a checkpoint may answer.
    pub async fn fill_for_test(&self, vdisk: &str, first: u64, count: u64) -> Result<()> {
        let store = &self.store;
        let core = {
            let id = store.names.borrow().get(vdisk).copied();
            id.and_then(|id| store.vdisks.borrow().get(&id).cloned())
        };
        let Some(core) = core else {
            return Err(Error::NotFound { kind: "vdisk", name: format!("{}/{vdisk}", store.identity.name) });
        };
        let mut cursor = ExtentId(0);
        let (mut at, end) = (first, first + count);
        while at < end {
            let until = ((at / LEAF_WORDS as u64 + 1) * LEAF_WORDS as u64).min(end);
            fill_leaf(store, &core, VirtualExtent(at), VirtualExtent(until), &mut cursor).await?;
            at = until;
        }
        self.checkpoint_for_test().await
    }

    /// Writes a checkpoint, and waits for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn checkpoint_for_test(&self) -> Result<()> {
        let store = &self.store;
        let before = store.counters.checkpoints.get();
        // One that runs already may have cut before.
        let wanted = before + 1 + u64::from(store.checkpoint.running.get());
        while store.counters.checkpoints.get() < wanted {
            store.writable()?;
            store.request_checkpoint();
            store.checkpoint.done.changed().await;
        }
        Ok(())
    }
}

/// Maps the extents of one leaf, in one step without an `await`.
async fn fill_leaf<M: Machine>(
    store: &std::rc::Rc<Store<M>>,
    vdisk: &VdiskCore,
    from: VirtualExtent,
    until: VirtualExtent,
    cursor: &mut ExtentId,
) -> Result<()> {
    let _room = store.room(PAGES_PER_LEAF).await?;
    let mut found = Vec::with_capacity(LEAF_WORDS);
    loop {
        let loaded = vdisk.mapping.load_leaf(&store.media, &store.cache, from.leaf()).await;
        loaded.map_err(|lost| store.damaged(vdisk, lost))?;
        let wanted = unmapped(vdisk, from, until);
        // Pages that a checkpoint has taken and not yet named are free as far as their group says.
        while store.checkpoint.running.get() {
            store.checkpoint.done.changed().await;
        }
        search(store, *cursor, wanted.len(), &mut found).await?;
        if found.len() < wanted.len() {
            let (pool, free) = (store.identity.name.clone(), store.space.available());
            return Err(Error::OutOfSpace { pool, needed: wanted.len() as u64, free });
        }
        if store.checkpoint.running.get()
            || matches!(vdisk.mapping.tree.borrow().get(from.leaf()), Found::Unread(..))
            || !found.iter().all(|&extent| store.space.is_free(extent))
        {
            continue;
        }
        for (&at, &extent) in wanted.iter().zip(&found) {
            store.space.replay_allocate(extent);
            vdisk.mapping.set(&store.cache, at, Word::mapped(extent, Blocks::ALL));
        }
        store.space.ledger.shift(&vdisk.mapping.account, |account| {
            account.backed.set(account.backed.get() + wanted.len() as u64);
        });
        if let Some(last) = found.last() {
            *cursor = ExtentId(last.0 + 1);
        }
        store.trim_cache();
        return Ok(());
    }
}

fn unmapped(vdisk: &VdiskCore, from: VirtualExtent, until: VirtualExtent) -> Vec<VirtualExtent> {
    let tree = vdisk.mapping.tree.borrow();
    let all = (from.0..until.0).map(VirtualExtent);
    match tree.get(from.leaf()) {
        Found::Page(leaf) => all.filter(|at| leaf.get(at.slot()) == Word::UNMAPPED).collect(),
        _ => all.collect(),
    }
}

/// The next `count` free extents from `cursor` on; fewer at the end of the pool.
async fn search<M: Machine>(store: &Store<M>, cursor: ExtentId, count: usize, found: &mut Vec<ExtentId>) -> Result<()> {
    found.clear();
    if store.space.available() < count as u64 {
        return Ok(());
    }
    let mut group = cursor.0 / GROUP_EXTENTS;
    let mut slot = cursor.0 % GROUP_EXTENTS;
    while found.len() < count && group < store.space.group_count() {
        if store.space.load_group(group).await.is_ok() {
            while found.len() < count && slot < u64::from(store.space.group_size(group)) {
                let extent = ExtentId(group * GROUP_EXTENTS + slot);
                // What is set apart for metadata looks free in its group, and is not.
                if store.space.is_free(extent) {
                    found.push(extent);
                }
                slot += 1;
            }
        }
        (group, slot) = (group + 1, 0);
    }
    Ok(())
}
