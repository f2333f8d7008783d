//! Repairing what a check found: saying what would be done, and doing it.

use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::Pool;
use super::examine::Pin;
use super::mend::Mend;
use super::warning::Warning;
use crate::error::{Error, Result};
use crate::format::{Detail, GROUP_EXTENTS, TABLE_ENTRIES};
use crate::journal::{Beginning, JournalFailed};
use crate::space::Figure;
use crate::vdisk::Store;

/// A repair under way: of two, one would do what the other has done.
struct Alone<M: Machine>(Rc<Store<M>>);

impl<M: Machine> Alone<M> {
    fn begin(store: &Rc<Store<M>>) -> Result<Self> {
        if store.checkpoint.repairing.replace(true) {
            let reason = "a repair is under way; wait for it".to_owned();
            return Err(Error::Busy { object: format!("pool {}", store.identity.name), reason });
        }
        Ok(Alone(store.clone()))
    }
}

impl<M: Machine> Drop for Alone<M> {
    fn drop(&mut self) {
        self.0.checkpoint.repairing.set(false);
    }
}

impl<M: Machine> Pool<M> {
    /// What [`Pool::repair`] would do now, a sentence each; nothing when all is well. What it cannot mend is among them, and said
    /// to be so.
    ///
    /// # Errors
    /// As [`Pool::check`].
    pub async fn repair_plan(&self) -> Result<Vec<String>> {
        let (mends, _pin) = self.examine_to_mend().await?;
        Ok(mends.iter().map(|mend| self.describe(mend)).collect())
    }

    /// Does what [`Pool::repair_plan`] says, nothing else, and makes it durable. What is lost stays lost: its range reads as zeros
    /// afterwards and can be written again. Answers what was done, and what cannot be.
    ///
    /// # Errors
    /// As [`Pool::check`]; `Busy` beside another repair.
    pub async fn repair(&self) -> Result<Vec<String>> {
        let _alone = Alone::begin(&self.store)?;
        let (mends, pin) = self.examine_to_mend().await?;
        let done = mends.iter().map(|mend| self.describe(mend)).collect();
        if !mends.iter().any(Mend::is_work) {
            return Ok(done);
        }
        if let Some(failure) = self.store.journal.failure() {
            // What is in memory goes on from a checkpoint that does not stand; the next start has what does.
            return Err(self.store.journal_failed(JournalFailed(failure)));
        }
        let is_read_only = mends.iter().any(|mend| matches!(mend, Mend::AcceptJournal | Mend::TakeWrites));
        if is_read_only && !self.is_frozen() {
            drop(pin);
            self.mend_read_only(&mends).await?;
        } else {
            self.mend_all(&mends, pin).await?;
        }
        if mends.contains(&Mend::GiveBack) && !self.store.closing.get() {
            let (mends, pin) = self.examine_to_mend().await?;
            let rest: Vec<Mend> = mends.into_iter().filter(Mend::gives_back).collect();
            self.mend_all(&rest, pin).await?;
        }
        Ok(done)
    }

    /// What a check finds, if all could be read: what only cannot be read at present must not be taken for lost, nor who is named there.
    async fn examine_to_mend(&self) -> Result<(Vec<Mend>, Option<Pin<M>>)> {
        let unread = || self.store.media.pages.unread.get();
        let before = unread();
        let (_, mends, pin) = self.examine().await?;
        match unread() - before {
            0 => Ok((mends, pin)),
            pages => Err(Error::Device(IoError::Failed {
                path: format!("pool {}", self.store.identity.name),
                operation: "read",
                offset: 0,
                reason: format!(
                    "{pages} metadata pages cannot be read now in either copy; mend the device, then repair again"
                ),
            })),
        }
    }

    async fn mend_all(&self, mends: &[Mend], pin: Option<Pin<M>>) -> Result<()> {
        self.store.writable()?;
        self.mend_in_memory(mends).await;
        drop(pin);
        self.store.after_checkpoint().await
    }

    async fn mend_in_memory(&self, mends: &[Mend]) {
        for mend in mends {
            self.mend(mend).await;
        }
    }

    /// Whether a repair may let it take writes.
    pub(super) fn is_shut_until_repair(&self) -> bool {
        !self.is_frozen() && self.warnings.borrow().iter().any(Warning::keeps_read_only)
    }

    /// Whether nothing at all may be written: it is only looked at, or a newer version's.
    fn is_frozen(&self) -> bool {
        self.store.media.pages.inspect.get()
    }

    /// Mends a pool that took no writes since its start, and lets it take some. A check that looks at it ends before, and a close waits for
    /// this.
    async fn mend_read_only(&self, mends: &[Mend]) -> Result<()> {
        let store = &self.store;
        while store.checkpoint.pins.get() > 0 {
            store.checkpoint.done.changed().await;
        }
        if store.closing.get() {
            return Err(Error::Closing(store.identity.name.clone()));
        }
        store.checkpoint.running.set(true);
        // Before the checkpoint, which must not take for free what only seems to be.
        self.mend_in_memory(mends).await;
        let stands = match mends.contains(&Mend::AcceptJournal) {
            true => self.accept_journal().await,
            false => store.write_checkpoint(false).await,
        };
        store.checkpoint.running.set(false);
        store.checkpoint.done.notify();
        if let Err(error) = stands {
            let Some(failure) = store.journal.failure() else { return Err(error) };
            // That no writes were taken before is not what keeps them out from here on.
            store.read_only.borrow_mut().take();
            return Err(store.journal_failed(JournalFailed(failure)));
        }
        self.warnings.borrow_mut().retain(|warning| !warning.keeps_read_only());
        store.read_only.borrow_mut().take();
        store.media.trouble.noticed.notify();
        if mends.contains(&Mend::AcceptJournal) {
            self.tell_accepted();
        }
        self.start_background();
        Ok(())
    }

    /// Begins the life that a start could not begin. What could be read of the journal is what counts from here on.
    async fn accept_journal(&self) -> Result<()> {
        let store = &self.store;
        let before = store.root.borrow().life;
        let drops = store.undecided.take();
        let beginning = Beginning { before, halves: Vec::new(), drops, idle: false, take_back: None };
        let begun = store.journal.write_beginning(beginning).await;
        begun.map_err(|failure| store.journal_failed(failure))?;
        // Nobody may write before a root stands that does not lead into the damaged part. Until then what only a tail has is only there.
        store.write_checkpoint(false).await?;
        store.journal.begin_tail();
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
                    Mend::Allocate(_) => {
                        if matches!(store.space.detail(*extent), Some(Detail::Meta(_))) {
                            store.space.set_meta(*extent, 0);
                        }
                        store.space.replay_allocate(*extent);
                    }
                    Mend::Pages(_, pages) => store.space.set_meta(*extent, *pages),
                    _ => store.space.replay_free(*extent),
                }
            }
            Mend::ForgetLeaf(id, leaf) => {
                let vdisk = store.vdisks.borrow().get(id).cloned();
                let Some(vdisk) = vdisk else { return };
                // A look makes the live tree see that the page is lost.
                let _ = vdisk.mapping.load_leaf(&store.media, &store.cache, *leaf).await;
                vdisk.mapping.tree.borrow_mut().forget_lost(*leaf);
                store.put_in_table(&vdisk);
            }
            Mend::ForgetTable(first, count) => {
                store.table.borrow_mut().forget_lost(*first);
                let given_up = *first..first + count;
                let is_of_it =
                    |warning: &Warning| matches!(warning, Warning::TablePageLost(page) if given_up.contains(page));
                self.warnings.borrow_mut().retain(|warning| !is_of_it(warning));
                store.free_from.set(0);
            }
            Mend::ForgetPatterns(first, count) => store.patterns.forget(*first, *count),
            Mend::ForgetFills(id) => {
                let vdisk = store.vdisks.borrow().get(id).cloned();
                if let Some(vdisk) = vdisk {
                    store.forget_fills(&vdisk).await;
                }
            }
            Mend::RebuildGroup(group, data, meta) => {
                // A look makes the live tree see that the page is lost.
                let _ = store.space.load_group(*group).await;
                store.space.rebuild_group(*group, data, meta);
            }
            Mend::Backed(id, by) => {
                if let Some(vdisk) = store.vdisks.borrow().get(id) {
                    store.space.ledger.shift(&vdisk.mapping.account, |account| {
                        account.backed.set(account.backed.get().saturating_add_signed(*by));
                    });
                    store.put_in_table(vdisk);
                }
            }
            Mend::Totals(data, meta) => store.space.correct(*data, *meta),
            Mend::Recount => {
                store.recount(true, &mut Figure::correct);
                store.space.ledger.eased.notify();
            }
            Mend::AcceptJournal | Mend::TakeWrites | Mend::GiveBack | Mend::Copy(_) | Mend::Refuse(_) => {}
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
                let (name, first) = (name(id), leaf * bytes);
                format!(
                    "give up the lost mapping of {pool}/{name} from byte {first}, unless memory has it: it reads as zeros"
                )
            }
            Mend::ForgetTable(first, count) => {
                let entries = TABLE_ENTRIES as u64;
                let (first, end) = (first * entries, (first + count) * entries);
                format!("give up the lost vdisks in places {first} to {} of {pool}, unless memory has them", end - 1)
            }
            Mend::ForgetPatterns(0, 1) => "make the directory of patterns anew from those that are there".to_owned(),
            Mend::ForgetPatterns(first, count) => {
                format!("give up the lost patterns {first} to {} of {pool}, unless memory has them", first + count - 1)
            }
            Mend::ForgetFills(id) => {
                format!(
                    "give up the blocks of {pool}/{} that repeat patterns which are gone: they read as zeros",
                    name(id)
                )
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
            Mend::Recount => "set the figures right that a recount does not come to".to_owned(),
            Mend::TakeWrites => "take writes again".to_owned(),
            Mend::AcceptJournal => "accept the loss of the damaged part of the journal".to_owned(),
            Mend::GiveBack => "free what only the pages given up had named, and correct the counts".to_owned(),
            Mend::Copy(message) => format!("write it again from the other copy: {message}"),
            Mend::Refuse(message) => format!(
                "leave what cannot be repaired: {message}; copy what is needed out of the pool's vdisks and make the pool anew"
            ),
        }
    }
}
