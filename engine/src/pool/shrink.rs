//! Giving space back in the background: what lies beyond a vdisk's cut size, and all of a vdisk that was deleted. The state is
//! in the vdisk's entry, so a start after a crash goes on with it.

use std::rc::Rc;

use plimsoll_hardware::{IoError, Machine};

use super::{JobInfo, JobState};
use crate::error::{Error, Result};
use crate::format::{Entry, EntryState, LEAF_WORDS, OnFull, Record, VirtualExtent};
use crate::vdisk::{LOOK_AGAIN, Store, VdiskCore, WriteOptions};

impl<M: Machine> Store<M> {
    /// Bytes of physical space behind blocks at and beyond `size`.
    pub(super) async fn backed_beyond(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, size: u64) -> Result<u64> {
        let end = vdisk.size.get();
        if size >= end {
            return Ok(0);
        }
        let mut backed = 0;
        let mut at = size;
        while at < end {
            let ranges = self.block_status(vdisk, at, end - at, 4096).await?;
            for range in ranges {
                backed += if range.data { range.length } else { 0 };
                at += range.length;
            }
        }
        Ok(backed)
    }

    /// Starts, or goes on with, giving back what the vdisk's entry says.
    pub(super) fn start_giving_back(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) -> JobInfo {
        let deleting = vdisk.entry.borrow().state == EntryState::Deleting;
        let kind = if deleting { "vdisk-delete" } else { "vdisk-shrink" };
        let total = vdisk.mapping.account.backed.get() * self.media.extent_bytes;
        let job = self.add_job(kind, format!("{}/{}", self.identity.name, vdisk.name()), total);
        let (store, vdisk, running) = (self.clone(), vdisk.clone(), job.clone());
        self.media.machine.spawn(async move {
            let result = loop {
                let result = match deleting {
                    true => store.empty(&vdisk, &running, total).await,
                    false => store.shrink(&vdisk).await,
                };
                match result {
                    // What it has to write down finds no room below the devices, and has time.
                    Err(Error::Device(IoError::NoSpace { .. })) => store.media.machine.sleep(LOOK_AGAIN).await,
                    result => break result,
                }
            };
            running.end(match result {
                Ok(true) => JobState::Done,
                // Closing: the next start goes on.
                Ok(false) | Err(Error::Closing(_)) => JobState::Running,
                Err(error) => JobState::Failed(error.to_string()),
            });
        });
        job.info()
    }

    async fn shrink(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) -> Result<bool> {
        self.settle_writes().await;
        let entry = vdisk.entry.borrow().clone();
        let (from, end) = (entry.size, entry.discard_from.max(entry.size));
        let step = LEAF_WORDS as u64 * self.media.extent_bytes;
        let how = WriteOptions { on_full: Some(OnFull::Fail), ..WriteOptions::default() };
        let end = end.next_multiple_of(self.media.extent_bytes);
        let mut at = from;
        while at < end {
            if self.closing.get() {
                return Ok(false);
            }
            let until = ((at / step + 1) * step).min(end);
            // The end of the vdisk may lie inside a block, whose rest must read as zeros when the vdisk grows again. That of a fill
            // is left to whoever makes it grow: it takes space, which may not be there.
            self.zero_within(vdisk, at, until - at, &how, false).await?;
            at = self.skip_absent(vdisk, until, end);
        }
        // The zeros at the end are an overwrite: power loss must not take them and leave the record that says they are there.
        self.flush_journal().await?;
        let ended = self.put_entry(vdisk, |entry| {
            self.still_there(vdisk)?;
            Ok(Entry { state: EntryState::Ready, discard_from: 0, ..entry })
        });
        match ended.await {
            // Deleted meanwhile: that job gives everything back.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Frees all extents of a deleted vdisk, then its entry.
    async fn empty(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, job: &super::Job, total: u64) -> Result<bool> {
        self.settle_writes().await;
        let step = LEAF_WORDS as u64 * self.media.extent_bytes;
        let mut at = 0;
        loop {
            at = self.skip_absent(vdisk, at, u64::MAX);
            if at == u64::MAX {
                break;
            }
            if self.closing.get() {
                return Ok(false);
            }
            self.discard_unchecked(vdisk, at, step - at % step).await?;
            job.progress(total.saturating_sub(vdisk.mapping.account.backed.get() * self.media.extent_bytes));
            at = (at / step + 1) * step;
        }
        self.remove(vdisk).await?;
        Ok(true)
    }

    async fn remove(self: &Rc<Self>, vdisk: &Rc<VdiskCore>) -> Result<()> {
        // The tree's pages go with a checkpoint, and its entry must not before them.
        self.after_checkpoint().await?;
        let _room = self.room(6).await?;
        let mut permit = self.permit(8).await?;
        self.forget_vdisk(vdisk.id);
        self.journal.append(&mut permit, &[Record::Remove { vdisk: vdisk.id }]);
        Ok(())
    }

    /// Waits until the writes that are under way have ended: none that is submitted later reaches what was cut off.
    async fn settle_writes(&self) {
        let epoch = self.space.epochs.advance();
        self.space.epochs.until_over(epoch).await;
    }

    /// Waits until a checkpoint that began after this call stands.
    pub(crate) async fn after_checkpoint(self: &Rc<Self>) -> Result<()> {
        let wanted = self.root.borrow().generation + 1 + u64::from(self.checkpoint.running.get());
        while self.root.borrow().generation < wanted {
            self.writable()?;
            self.request_checkpoint();
            self.checkpoint.done.changed().await;
        }
        Ok(())
    }

    /// The first byte at or after `at` that may have something behind it, at most `end`.
    fn skip_absent(&self, vdisk: &VdiskCore, at: u64, end: u64) -> u64 {
        let leaf_bytes = LEAF_WORDS as u64 * self.media.extent_bytes;
        let leaf = VirtualExtent(at / self.media.extent_bytes).leaf();
        let present = vdisk.mapping.tree.borrow().next_present(leaf);
        match present.into_iter().chain(vdisk.mapping.next_pending(leaf)).min() {
            Some(next) => (next * leaf_bytes).clamp(at, end),
            None => end,
        }
    }
}
