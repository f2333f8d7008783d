//! Repairing what a check found: saying what would be done, and doing it.

use plimsoll_hardware::Machine;

use super::Pool;
use super::check::Mend;
use crate::error::Result;
use crate::format::{GROUP_EXTENTS, TABLE_ENTRIES};
use crate::journal::Beginning;
use crate::tree::Found;

/// Rounds of a repair: giving up what is lost shows what else it held.
const ROUNDS_MAX: usize = 4;

impl<M: Machine> Pool<M> {
    /// What [`Pool::repair`] would do now, a sentence each; nothing when all is well. Space behind what is given up is freed
    /// besides.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn repair_plan(&self) -> Result<Vec<String>> {
        let (_, mends, _pin) = self.examine().await?;
        Ok(mends.iter().map(|mend| self.describe(mend)).collect())
    }

    /// Does what [`Pool::repair_plan`] says, and makes it durable. What is lost stays lost: its range reads as zeros
    /// afterwards and can be written again.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn repair(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let (_, mends, pin) = self.examine().await?;
            if mends.is_empty() {
                break;
            }
            if mends.contains(&Mend::AcceptJournal) && self.store.read_only.borrow().is_some() {
                self.accept_journal().await?;
            }
            self.store.writable()?;
            for mend in &mends {
                if *mend != Mend::AcceptJournal || done.is_empty() {
                    done.push(self.describe(mend));
                }
                self.mend(mend).await;
            }
            drop(pin);
            self.store.after_checkpoint().await?;
            if mends == [Mend::AcceptJournal] {
                break;
            }
        }
        Ok(done)
    }

    /// What could be read of the journal is what counts from here on.
    async fn accept_journal(&self) -> Result<()> {
        let store = &self.store;
        self.recovery.borrow_mut().warnings.clear();
        store.media.pages.inspect.set(store.inspect);
        let before = store.root.borrow().life;
        let drops = store.undecided.take();
        let beginning = Beginning { before, halves: Vec::new(), drops, idle: false };
        store.journal.jump();
        let begun = store.journal.begin_life(beginning).await;
        begun.map_err(|failure| store.journal_failed(failure))?;
        // Nobody may write before a root stands that does not lead into the damaged part.
        store.write_checkpoint(false).await?;
        store.read_only.borrow_mut().take();
        self.start_background();
        Ok(())
    }

    async fn mend(&self, mend: &Mend) {
        let store = &self.store;
        match mend {
            Mend::Free(extent) | Mend::Allocate(extent) | Mend::Pages(extent, _) => {
                if store.space.load_group(extent.0 / GROUP_EXTENTS).await.is_err() {
                    return;
                }
                match mend {
                    Mend::Allocate(_) => drop(store.space.replay_allocate(*extent)),
                    Mend::Pages(_, pages) => store.space.set_meta(*extent, *pages),
                    _ => store.space.replay_free(*extent),
                }
            }
            Mend::ForgetLeaf(id, leaf) => {
                let vdisk = store.vdisks.borrow().get(id).cloned();
                let Some(vdisk) = vdisk else { return };
                // A look makes the live tree see that the page is lost.
                let _ = vdisk.mapping.load_leaf(&store.media, &store.cache, *leaf).await;
                if matches!(vdisk.mapping.tree.borrow().get(*leaf), Found::Lost) {
                    vdisk.mapping.tree.borrow_mut().forget_lost(*leaf);
                    store.put_in_table(&vdisk);
                }
            }
            Mend::ForgetTable(page) => store.table.borrow_mut().forget_lost(*page),
            Mend::RebuildGroup(group, data, meta) => {
                // A look makes the live tree see that the page is lost.
                let _ = store.space.load_group(*group).await;
                store.space.rebuild_group(*group, data, meta);
            }
            Mend::Backed(id, by) => {
                if let Some(vdisk) = store.vdisks.borrow().get(id) {
                    let backed = vdisk.mapping.backed.get();
                    vdisk.mapping.backed.set(backed.saturating_add_signed(*by));
                    store.put_in_table(vdisk);
                }
            }
            Mend::Totals(data, meta) => store.space.correct(*data, *meta),
            Mend::AcceptJournal => {}
        }
    }

    fn describe(&self, mend: &Mend) -> String {
        let pool = &self.store.identity.name;
        let name = |id| self.store.vdisks.borrow().get(id).map_or_else(String::new, |vdisk| vdisk.name());
        match mend {
            Mend::Free(extent) => format!("free extent {}, which nobody has", extent.0),
            Mend::Allocate(extent) => format!("mark extent {} as allocated, which holds data", extent.0),
            Mend::Pages(extent, pages) => format!("mark pages {pages:#06x} of metadata extent {} as in use", extent.0),
            Mend::ForgetLeaf(id, leaf) => {
                let bytes = crate::format::LEAF_WORDS as u64 * self.store.media.extent_bytes;
                format!("give up the lost mapping of {pool}/{} from byte {}: it reads as zeros", name(id), leaf * bytes)
            }
            Mend::ForgetTable(page) => {
                let first = page * TABLE_ENTRIES as u64;
                format!("give up the lost vdisks in places {first} to {} of {pool}", first + TABLE_ENTRIES as u64 - 1)
            }
            Mend::RebuildGroup(group, data, meta) => format!(
                "rebuild allocation group {group} from what is named in it: {} data and {} metadata extents",
                data.len(),
                meta.len()
            ),
            Mend::Backed(id, by) => format!("correct the count of extents behind {} by {by}", name(id)),
            Mend::Totals(data, meta) => {
                format!("correct the pool's count of extents by {data} of data and {meta} of metadata")
            }
            Mend::AcceptJournal => "accept the loss of the damaged part of the journal".to_owned(),
        }
    }
}
