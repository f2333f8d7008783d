//! Repairing what a check found: saying what would be done, and doing it.

use plimsoll_hardware::Machine;

use super::Pool;
use super::check::Mend;
use crate::error::Result;
use crate::format::GROUP_EXTENTS;
use crate::journal::Beginning;
use crate::tree::Found;

impl<M: Machine> Pool<M> {
    /// What [`Pool::repair`] would do now, a sentence each; nothing when all is well.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn repair_plan(&self) -> Result<Vec<String>> {
        let (_, mends) = self.examine().await?;
        Ok(mends.iter().map(|mend| self.describe(mend)).collect())
    }

    /// Does what [`Pool::repair_plan`] says, and makes it durable. What is lost stays lost: its range reads as zeros
    /// afterwards and can be written again.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn repair(&self) -> Result<Vec<String>> {
        let (_, mends) = self.examine().await?;
        let mut done = Vec::with_capacity(mends.len());
        if mends.contains(&Mend::AcceptJournal) {
            // Its life begins now: what could be read is what counts from here on.
            self.store.read_only.borrow_mut().take();
            let before = self.store.root.borrow().life;
            let beginning = Beginning { before, halves: Vec::new(), drops: Vec::new(), tail: None };
            let begun = self.store.journal.begin_life(beginning).await;
            begun.map_err(|failure| self.store.journal_failed(failure))?;
            self.start_background();
        }
        self.store.writable()?;
        for mend in &mends {
            self.mend(mend).await;
            done.push(self.describe(mend));
        }
        if !done.is_empty() {
            self.store.after_checkpoint().await?;
        }
        Ok(done)
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
            Mend::Backed(id, by) => {
                if let Some(vdisk) = store.vdisks.borrow().get(id) {
                    let backed = vdisk.mapping.backed.get();
                    vdisk.mapping.backed.set(backed.saturating_add_signed(*by));
                    store.put_in_table(vdisk);
                }
            }
            Mend::AcceptJournal => {}
        }
    }

    fn describe(&self, mend: &Mend) -> String {
        let name = |id| self.store.vdisks.borrow().get(id).map_or_else(String::new, |vdisk| vdisk.name());
        match mend {
            Mend::Free(extent) => format!("free extent {}, which nobody has", extent.0),
            Mend::Allocate(extent) => format!("mark extent {} as allocated, which holds data", extent.0),
            Mend::Pages(extent, pages) => format!("mark pages {pages:#06x} of metadata extent {} as in use", extent.0),
            Mend::ForgetLeaf(id, leaf) => {
                let bytes = crate::format::LEAF_WORDS as u64 * self.store.media.extent_bytes;
                let pool = &self.store.identity.name;
                format!("give up the lost mapping of {pool}/{} from byte {}: it reads as zeros", name(id), leaf * bytes)
            }
            Mend::Backed(id, by) => format!("correct the count of extents behind {} by {by}", name(id)),
            Mend::AcceptJournal => "accept the loss of the damaged part of the journal".to_owned(),
        }
    }
}
