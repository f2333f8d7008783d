//! Looking at both copies of metadata pages: neighbours in one read, and what is not sound one by one.

use std::pin::pin;

use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::{Buffer, Machine};

use super::Media;
use super::page::{Copy, count};
use crate::format::{META_PAGES_PER_EXTENT, PAGE_BYTES, PageAddr, PageRef, PageType};

/// Pages of one read at most: as many as an extent of metadata has.
const RUN_PAGES: usize = META_PAGES_PER_EXTENT as usize;
/// Reads at the same time: a mebibyte of memory.
const READS_AT_ONCE: usize = 16;

/// What a look at both copies of a page came to.
pub(crate) enum Scrubbed {
    /// Both are good.
    Sound,
    /// One is bad.
    Bad {
        /// It was written again.
        healed: bool,
    },
    /// None is good.
    Lost,
}

impl<M: Machine> Media<M> {
    /// Of `count` pages, which are good in both copies; a read that fails, or has no memory, says nothing good of any page in it. What
    /// first copies hold that are good is given to `take`.
    pub(crate) async fn sound(
        &self,
        count: usize,
        page: impl Fn(usize) -> (PageRef, PageType),
        mut take: impl FnMut(usize, &[u8]),
    ) -> Vec<bool> {
        let mut copies: Vec<(PageAddr, usize)> = (0..count)
            .flat_map(|index| {
                let (reference, _) = page(index);
                [(reference.a, index), (reference.b, index)]
            })
            .collect();
        copies.sort_unstable();
        let mut good = vec![0_u8; count];
        let runs = copies.chunk_by(|(one, _), (next, _)| next.0 == one.0 + 1).flat_map(|run| run.chunks(RUN_PAGES));
        let reads = runs.map(|run| async move { (run, self.read_run(run[0].0, run.len()).await) });
        let mut reads = pin!(stream::iter(reads).buffer_unordered(READS_AT_ONCE));
        while let Some((run, read)) = reads.next().await {
            let Some(read) = read else { continue };
            for (&(at, index), bytes) in run.iter().zip(read.chunks_exact(PAGE_BYTES)) {
                let (reference, kind) = page(index);
                if reference.verifies(kind, bytes) {
                    good[index] += 1;
                    if at == reference.a {
                        take(index, bytes);
                    }
                }
            }
        }
        good.into_iter().map(|copies| copies == 2).collect()
    }

    async fn read_run(&self, first: PageAddr, pages: usize) -> Option<Buffer> {
        let drive = self.drive(first.device())?;
        // Not waited for: a run of free pages may be missing for long, and who waits is in the way of who wants one page.
        let buffer = self.buffers().try_alloc(pages * PAGE_BYTES)?;
        drive.read(first.page() * PAGE_BYTES as u64, buffer).await.ok()
    }

    /// Reads and verifies both copies, healing one from the other.
    pub(crate) async fn scrub_page(&self, reference: &PageRef, kind: PageType) -> Scrubbed {
        let first = self.read_copy(reference.a, reference, kind).await;
        let second = self.read_copy(reference.b, reference, kind).await;
        self.tell_bad(reference, &first, &second);
        let is_unread = !matches!((&first, &second), (Copy::Bad, Copy::Bad));
        match (first.good(), second.good()) {
            (Some(_), Some(_)) => Scrubbed::Sound,
            (Some(good), None) => Scrubbed::Bad { healed: self.heal(reference.b, &good.freeze()).await },
            (None, Some(good)) => Scrubbed::Bad { healed: self.heal(reference.a, &good.freeze()).await },
            (None, None) => {
                if is_unread {
                    // Who would mend it asks whether it is lost.
                    count(&self.pages.unread);
                }
                Scrubbed::Lost
            }
        }
    }
}
