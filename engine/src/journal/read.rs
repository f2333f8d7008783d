//! Reading the journal after a start: every batch from the checkpoint on, from whichever ring has it.

use plimsoll_hardware::{IoError, Machine};
use uuid::Uuid;

use super::{Journal, ring};
use crate::format::{Batch, BatchHeader, JournalStart, PAGE_BYTES, RingPlace};
use crate::media::Media;

/// Pages read ahead at once: 64 KiB.
const WINDOW_PAGES: u64 = 16;
/// Reads of a place where neither ring is known to have a batch: one that fails is often good the next time, and the journal ends where
/// nothing is.
const READS: u32 = 5;

/// Where the journal ended.
pub(crate) struct JournalEnd {
    pub(crate) next: JournalStart,
    pub(crate) batches: Vec<Batch>,
    /// Batches that one ring had and the other had not, and that a later batch says had been durable: one ring was damaged. The
    /// last batches of a crash are in one ring only by nature.
    pub(crate) one_sided: u64,
    /// A batch is missing that a later one says was durable.
    pub(crate) damaged: bool,
    /// It ends where neither ring can be read: nobody knows what comes there.
    pub(crate) unread: bool,
    /// The highest number of a batch that either ring has, wherever it is.
    pub(crate) highest: u64,
}

/// One ring, with the pages read last.
struct Window<'a, M: Machine> {
    media: &'a Media<M>,
    ring: RingPlace,
    position: u64,
    bytes: Vec<u8>,
}

impl<M: Machine> Window<'_, M> {
    /// Pages from `position`, which are read so often before they are given up.
    async fn pages(&mut self, position: u64, pages: u64, reads: u32) -> Result<&[u8], IoError> {
        let have = self.position..self.position + (self.bytes.len() / PAGE_BYTES) as u64;
        if position < have.start || position + pages > have.end {
            let ahead = pages.max(WINDOW_PAGES.min(self.ring.pages));
            self.bytes = match ring::read(self.media, &self.ring, position, ahead).await {
                Ok(bytes) => bytes,
                // Somewhere in the window a sector is bad; take only what was asked for.
                Err(_) => self.read_stubbornly(position, pages, reads).await?,
            };
            self.position = position;
        }
        let from = (position - self.position) as usize * PAGE_BYTES;
        Ok(&self.bytes[from..from + pages as usize * PAGE_BYTES])
    }

    async fn read_stubbornly(&self, position: u64, pages: u64, reads: u32) -> Result<Vec<u8>, IoError> {
        let mut read = 1;
        loop {
            match ring::read(self.media, &self.ring, position, pages).await {
                Err(error) if read < reads && !matches!(error, IoError::Gone { .. }) => read += 1,
                result => return result,
            }
        }
    }

    /// The batch at `position`, whichever it is; an error when that cannot be told.
    async fn batch(&mut self, position: u64, pool: Uuid, reads: u32) -> Result<Option<Batch>, IoError> {
        let longest = Journal::<M>::batch_bytes_max(self.ring.pages) / PAGE_BYTES + 2;
        let pages = match Batch::claimed_pages(self.pages(position, 1, reads).await?) {
            Some(pages) if pages <= longest as u64 => pages,
            _ => return Ok(None),
        };
        let batch = Batch::decode(self.pages(position, pages, reads).await?).ok();
        Ok(batch.filter(|batch| batch.header.pool == pool))
    }
}

/// What the rings have of the batch that comes next, and how many of them cannot be read there.
async fn find<M: Machine>(
    windows: &mut [Window<'_, M>; 2],
    pool: Uuid,
    next: JournalStart,
    reads: u32,
) -> ([Option<Batch>; 2], usize) {
    let (mut found, mut unread) = ([None, None], 0);
    for (window, found) in windows.iter_mut().zip(&mut found) {
        match window.batch(next.position, pool, reads).await {
            Ok(batch) => {
                let comes_next =
                    |header: &BatchHeader| (header.sequence, header.previous) == (next.sequence, next.previous);
                *found = batch.filter(|batch| comes_next(&batch.header));
            }
            Err(_) => unread += 1,
        }
    }
    (found, unread)
}

/// Reads on from `start`. Rings are healed unless `inspect`.
pub(crate) async fn read<M: Machine>(
    media: &Media<M>,
    pool: Uuid,
    rings: &[RingPlace; 2],
    start: JournalStart,
    inspect: bool,
) -> JournalEnd {
    let mut windows = rings.map(|ring| Window { media, ring, position: 0, bytes: Vec::new() });
    let mut end =
        JournalEnd { next: start, batches: Vec::new(), one_sided: 0, damaged: false, unread: false, highest: 0 };
    let mut one_sided = Vec::new();
    while end.next.position - start.position < rings[0].pages {
        let (mut found, mut unread) = find(&mut windows, pool, end.next, 1).await;
        if unread > 0 && found.iter().all(Option::is_none) {
            (found, unread) = find(&mut windows, pool, end.next, READS).await;
        }
        let bad = found.iter().position(Option::is_none);
        let Some(batch) = found.into_iter().flatten().next() else {
            end.unread = unread == windows.len();
            break;
        };
        one_sided.extend(bad.map(|_| batch.header.sequence));
        if let (Some(bad), false) = (bad, inspect) {
            let bytes = windows[1 - bad].pages(end.next.position, batch.pages, 1).await.map(<[u8]>::to_vec);
            if let Ok(bytes) = bytes {
                // When this fails the other ring still has it.
                let _ = ring::write(media, &rings[bad], end.next.position, &bytes).await;
            }
        }
        end.next = JournalStart {
            sequence: batch.header.sequence + 1,
            position: end.next.position + batch.pages,
            previous: batch.checksum,
        };
        end.batches.push(batch);
    }
    let covered = end.batches.iter().map(|batch| batch.header.covered).max().unwrap_or(0);
    // A proven batch names itself; that one copy of the last one is missing is no damage.
    let covered = covered.min(end.next.sequence.saturating_sub(2));
    end.one_sided = one_sided.iter().filter(|&&sequence| sequence <= covered).count() as u64;
    end.highest = end.next.sequence - 1;
    for window in &mut windows {
        let (damaged, highest) = beyond(window, pool, start, end.next).await;
        end.damaged = end.damaged || damaged;
        end.highest = end.highest.max(highest);
    }
    end
}

/// Looks at what is in a ring where the chain has ended: whether a batch says that the one missing at `next` was durable once, or is the
/// beginning of a life that accepted its loss and was cut short; and the highest number of any.
async fn beyond<M: Machine>(
    window: &mut Window<'_, M>,
    pool: Uuid,
    start: JournalStart,
    next: JournalStart,
) -> (bool, u64) {
    let (mut damaged, mut highest) = (false, 0);
    for position in next.position..start.position + window.ring.pages {
        if let Ok(Some(batch)) = window.batch(position, pool, 1).await {
            // A proven batch covers itself; that says nothing of those before it only if it is the next one.
            let header = &batch.header;
            let jumped = header.sequence >= next.sequence + window.ring.pages;
            damaged |= jumped || (header.sequence > next.sequence && header.covered >= next.sequence);
            highest = highest.max(header.sequence);
        }
    }
    (damaged, highest)
}
