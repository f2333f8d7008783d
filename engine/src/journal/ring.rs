//! The two rings: where a batch's pages go. While one moves (`move_rings`) its new place gets every batch too.

use futures_util::future::{join, join_all};
use plimsoll_hardware::{Device, Durability, Frozen, IoError, Machine};

use super::Journal;
use crate::format::{PAGE_BYTES, RingPlace};
use crate::media::{Drive, Media};

/// Attempts at a batch before the pool gives up: the device may remap a bad sector at the second.
const ATTEMPTS: u32 = 3;
/// Pages written or read at once: 256 KiB.
const RUN_PAGES: u64 = 64;

impl<M: Machine> Journal<M> {
    /// Writes a sealed batch to both rings at `position`.
    pub(super) async fn write_rings(&self, position: u64, batch: &[u8]) -> Result<(), IoError> {
        let pages = batch.len().div_ceil(PAGE_BYTES) as u64;
        {
            let state = self.state.borrow();
            let (used, ring) = (position - state.start + pages, self.ring_pages);
            if used > ring {
                // Only starts that never came to a checkpoint lead here.
                return Err(IoError::NoSpace {
                    path: format!("the journal: {used} pages do not fit a ring of {ring}"),
                });
            }
        }
        let rings = self.rings.get();
        let also = self.moving_places();
        let both = join(write(&self.media, &rings[0], position, batch), write(&self.media, &rings[1], position, batch));
        if also.is_empty() {
            let (first, second) = both.await;
            return first.and(second);
        }
        let new = join_all(also.iter().map(|ring| write(&self.media, ring, position, batch)));
        let ((first, second), new) = join(both, new).await;
        let new: Result<(), IoError> = new.into_iter().collect();
        first.and(second).and(new.or_else(|error| self.move_failed(error)))
    }
}

/// Writes `batch`, padded to whole pages, to one ring.
pub(super) async fn write<M: Machine>(
    media: &Media<M>,
    ring: &RingPlace,
    position: u64,
    batch: &[u8],
) -> Result<(), IoError> {
    let drive = media.drive_at(ring.device)?;
    for (page, run) in runs(ring, position, batch.len().div_ceil(PAGE_BYTES) as u64) {
        let (mut page, end) = (page, page + run);
        while page < end {
            // Everybody waits for this, so it must not wait for memory in one piece.
            let mut buffer = media.buffers().alloc_up_to((end - page) as usize * PAGE_BYTES).await;
            let from = (page - position) as usize * PAGE_BYTES;
            let bytes = &batch[from..batch.len().min(from + buffer.len())];
            buffer[..bytes.len()].copy_from_slice(bytes);
            buffer[bytes.len()..].fill(0);
            let here = (buffer.len() / PAGE_BYTES) as u64;
            let offset = (ring.page + page % ring.pages) * PAGE_BYTES as u64;
            write_stubbornly(&drive, offset, buffer.freeze()).await?;
            page += here;
        }
    }
    Ok(())
}

async fn write_stubbornly<D: Device>(drive: &Drive<D>, offset: u64, data: Frozen) -> Result<(), IoError> {
    let mut attempt = 1;
    while let Err(error) = drive.write(offset, data.clone(), Durability::Cached).await {
        if attempt == ATTEMPTS || matches!(error, IoError::Gone { .. }) {
            return Err(error);
        }
        attempt += 1;
    }
    Ok(())
}

/// Reads `pages` pages from one ring.
pub(super) async fn read<M: Machine>(
    media: &Media<M>,
    ring: &RingPlace,
    position: u64,
    pages: u64,
) -> Result<Vec<u8>, IoError> {
    let drive = media.drive_at(ring.device)?;
    let mut bytes = Vec::with_capacity(pages as usize * PAGE_BYTES);
    for (page, run) in runs(ring, position, pages) {
        let (mut page, end) = (page, page + run);
        while page < end {
            let buffer = media.buffers().alloc_up_to((end - page) as usize * PAGE_BYTES).await;
            let offset = (ring.page + page % ring.pages) * PAGE_BYTES as u64;
            page += (buffer.len() / PAGE_BYTES) as u64;
            bytes.extend_from_slice(&drive.read(offset, buffer).await?);
        }
    }
    Ok(bytes)
}

/// Cuts pages into runs that do not wrap around.
fn runs(ring: &RingPlace, position: u64, pages: u64) -> Vec<(u64, u64)> {
    let (mut page, end) = (position, position + pages);
    let mut runs = Vec::new();
    while page < end {
        let run = (end - page).min(RUN_PAGES).min(ring.pages - page % ring.pages);
        runs.push((page, run));
        page += run;
    }
    runs
}
