//! Reading the journal after a start: every batch from the checkpoint on, from whichever ring has it.

use plimsoll_hardware::{IoError, Machine};
use uuid::Uuid;

use super::{Journal, ring};
use crate::format::{Batch, JournalStart, PAGE_BYTES, RingPlace};
use crate::media::Media;

/// Pages read ahead at once: 64 KiB.
const WINDOW_PAGES: u64 = 16;
/// Reads of what one ring may be alone in having. A read that fails is often good the next time, and the journal ends where nothing is.
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
}

/// One ring, with the pages read last.
struct Window<'a, M: Machine> {
    media: &'a Media<M>,
    ring: RingPlace,
    position: u64,
    bytes: Vec<u8>,
    /// How often it reads what cannot be read.
    reads: u32,
}

impl<M: Machine> Window<'_, M> {
    /// Pages from `position`; `None` when the device cannot read them.
    async fn pages(&mut self, position: u64, pages: u64) -> Option<&[u8]> {
        let have = self.position..self.position + (self.bytes.len() / PAGE_BYTES) as u64;
        if position < have.start || position + pages > have.end {
            let ahead = pages.max(WINDOW_PAGES.min(self.ring.pages));
            self.bytes = match ring::read(self.media, &self.ring, position, ahead).await {
                Ok(bytes) => bytes,
                // Somewhere in the window a sector is bad; take only what was asked for.
                Err(_) => self.read_stubbornly(position, pages).await.ok()?,
            };
            self.position = position;
        }
        let from = (position - self.position) as usize * PAGE_BYTES;
        self.bytes.get(from..from + pages as usize * PAGE_BYTES)
    }

    async fn read_stubbornly(&self, position: u64, pages: u64) -> Result<Vec<u8>, IoError> {
        let mut reads = 1;
        loop {
            match ring::read(self.media, &self.ring, position, pages).await {
                Err(error) if reads < self.reads && !matches!(error, IoError::Gone { .. }) => reads += 1,
                read => return read,
            }
        }
    }

    /// The batch at `position`, whichever it is.
    async fn batch(&mut self, position: u64, pool: Uuid) -> Option<Batch> {
        let ring_pages = self.ring.pages;
        let pages = Batch::claimed_pages(self.pages(position, 1).await?)?;
        let longest = Journal::<M>::batch_bytes_max(ring_pages) / PAGE_BYTES + 2;
        if pages > longest as u64 {
            return None;
        }
        Batch::decode(self.pages(position, pages).await?).ok().filter(|batch| batch.header.pool == pool)
    }
}

/// Reads on from `start`. Rings are healed unless `inspect`.
pub(crate) async fn read<M: Machine>(
    media: &Media<M>,
    pool: Uuid,
    rings: &[RingPlace; 2],
    start: JournalStart,
    inspect: bool,
) -> JournalEnd {
    let mut windows = rings.map(|ring| Window { media, ring, position: 0, bytes: Vec::new(), reads: READS });
    let mut end = JournalEnd { next: start, batches: Vec::new(), one_sided: 0, damaged: false };
    let mut one_sided = Vec::new();
    while end.next.position - start.position < rings[0].pages {
        let mut found: [Option<Batch>; 2] = [None, None];
        for (window, found) in windows.iter_mut().zip(&mut found) {
            *found = window.batch(end.next.position, pool).await.filter(|batch| {
                batch.header.sequence == end.next.sequence && batch.header.previous == end.next.previous
            });
        }
        let bad = found.iter().position(Option::is_none);
        let Some(batch) = found.into_iter().flatten().next() else { break };
        one_sided.extend(bad.map(|_| batch.header.sequence));
        if let (Some(bad), false) = (bad, inspect) {
            let bytes = windows[1 - bad].pages(end.next.position, batch.pages).await.map(<[u8]>::to_vec);
            if let Some(bytes) = bytes {
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
    for window in &mut windows {
        // Nothing there would be believed; this only tells.
        window.reads = 1;
        end.damaged = end.damaged || is_gap(window, pool, start, end.next).await;
    }
    end
}

/// Whether a batch further on says that the one missing at `next` was durable once.
async fn is_gap<M: Machine>(window: &mut Window<'_, M>, pool: Uuid, start: JournalStart, next: JournalStart) -> bool {
    let end = start.position + window.ring.pages;
    for position in next.position + 1..end {
        if let Some(batch) = window.batch(position, pool).await {
            // A proven batch covers itself; that says nothing of those before it only if it is the next one.
            let header = &batch.header;
            if header.sequence > next.sequence && header.covered >= next.sequence {
                return true;
            }
        }
    }
    false
}
