//! What the engine's users hold of a vdisk.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::{Buffer, Frozen, Machine};
use uuid::Uuid;

use super::{Reclaimable, Store, VdiskCore, WriteOptions};
use crate::error::Result;
use crate::event::Shortage;
use crate::format::{EntryState, VdiskPolicy};

/// What is being done with a vdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiskState {
    /// In use.
    Ready,
    /// Its size was cut, and what lay beyond is being given back.
    Shrinking,
    /// Being deleted.
    Deleting,
}

/// What is known of a vdisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskInfo {
    /// Its slot in the pool's table; used again after it is gone.
    pub id: u32,
    /// Its identity, for ever.
    pub uuid: Uuid,
    /// Its name, without the pool's.
    pub name: String,
    /// Designated size in bytes.
    pub size: u64,
    /// Sector size in bytes: 512 or 4096.
    pub sector: u32,
    /// Bytes of physical space behind it.
    pub backed_bytes: u64,
    /// Of its reservation, what is not in use yet: kept from everybody else.
    pub reserved_bytes: u64,
    /// Writes that wait for space.
    pub held_writes: u64,
    /// Memory that their data takes, in buffers of a power of two, a page at least.
    pub held_writes_bytes: u64,
    /// Since when there has been no space for its writes, in the time of its machine.
    pub exhausted_since: Option<Duration>,
    /// Why there is none, by the last look; `None` when there is, or when it is exhausted since before the pool was opened.
    pub shortage: Option<Shortage>,
    /// What of its space could come back, as the last survey found it, and no more than it has by now; `None` when it was in none.
    pub reclaimable: Option<Reclaimable>,
    /// What was decided for it.
    pub policy: VdiskPolicy,
    /// Every acknowledged write is durable.
    pub write_through: bool,
    /// Zeros that are written are not stored.
    pub zero_detection: bool,
    /// Patterns of the pool that are written are stored by their number.
    pub pattern_detection: bool,
    /// The pattern that is the vdisk's own.
    pub pattern: Option<u16>,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What is being done with it.
    pub state: VdiskState,
}

/// A range that has contents, or a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// Bytes.
    pub length: u64,
    /// `false`: a hole, which reads as zeros.
    pub data: bool,
}

/// How zeros are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// The range becomes a hole and its space goes back to the pool.
    Unmap,
    /// Zeros are stored, as a write of data is: not in one step. The range has physical space behind it afterwards.
    Allocate,
}

/// A handle for I/O on a vdisk. Cheap to clone. Offsets and lengths are in bytes, multiples of the sector size; a length of
/// zero is refused.
///
/// The futures of writes must be driven to their end: one that is dropped while the device is writing keeps its extents
/// from being used by anybody until the pool is opened again.
pub struct Vdisk<M: Machine> {
    store: Rc<Store<M>>,
    core: Rc<VdiskCore>,
}

impl<M: Machine> Clone for Vdisk<M> {
    fn clone(&self) -> Self {
        Vdisk { store: self.store.clone(), core: self.core.clone() }
    }
}

impl<M: Machine> Vdisk<M> {
    pub(crate) fn new(store: Rc<Store<M>>, core: Rc<VdiskCore>) -> Self {
        Vdisk { store, core }
    }

    /// What is known of it now.
    pub fn info(&self) -> VdiskInfo {
        self.core.info(self.store.media.extent_bytes)
    }

    /// Designated size in bytes.
    pub fn size(&self) -> u64 {
        self.core.size.get()
    }

    /// Sector size in bytes.
    pub fn sector(&self) -> u32 {
        self.core.sector.get()
    }

    /// Fills all of `buffer` from `offset`. What was never written, or discarded, reads as zeros.
    ///
    /// # Errors
    /// `InvalidRequest`, `Device`, `Damaged` where the mapping is lost, `NotFound` when it was deleted, `Closing`.
    pub fn read(&self, offset: u64, buffer: Buffer) -> impl Future<Output = Result<Buffer>> {
        self.store.read(&self.core, offset, buffer)
    }

    /// Writes `data` at `offset`; with `fua` it survives power loss when this returns. A write that needs space when there is none is held
    /// as the vdisk's policy says.
    ///
    /// # Errors
    /// As [`Vdisk::read`], and `OutOfSpace` or `QuotaExceeded` when it needs an extent and cannot have one, `ReadOnly`.
    pub fn write(&self, offset: u64, data: Frozen, fua: bool) -> impl Future<Output = Result<()>> {
        self.write_with(offset, data, if fua { WriteOptions::DURABLE } else { WriteOptions::PLAIN })
    }

    /// As [`Vdisk::write`], with what a protocol has to say about holding.
    ///
    /// # Errors
    /// As [`Vdisk::write`], and `Cancelled`: then nothing was written.
    pub fn write_with(&self, offset: u64, data: Frozen, how: &WriteOptions) -> impl Future<Output = Result<()>> {
        self.store.write(&self.core, offset, data, how)
    }

    /// Makes a range read as zeros. Blocks inside it change in one step; parts of blocks at its ends as writes do.
    ///
    /// # Errors
    /// As [`Vdisk::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes, fua: bool) -> Result<()> {
        self.write_zeroes_with(offset, length, how, &WriteOptions { fua, ..WriteOptions::default() }).await
    }

    /// As [`Vdisk::write_zeroes`], with what a protocol has to say about holding.
    ///
    /// # Errors
    /// As [`Vdisk::write_with`]; when zeros are stored some of them may have been before it was cancelled.
    pub async fn write_zeroes_with(&self, offset: u64, length: u64, how: Zeroes, options: &WriteOptions) -> Result<()> {
        self.store.write_zeroes(&self.core, offset, length, how, options).await
    }

    /// Gives the space of a range back. Blocks inside it read as zeros afterwards; parts of blocks at its ends keep
    /// their contents. Atomic up to 256 mapping leaves (8 GiB at the default extent size; less in tiny pools).
    ///
    /// # Errors
    /// As [`Vdisk::read`], and `ReadOnly`.
    pub async fn discard(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.store.discard(&self.core, offset, length, fua).await
    }

    /// Everything answered before this call survives power loss when it returns.
    ///
    /// # Errors
    /// `Device` or `ReadOnly` when a device failed: then nothing that was not flushed before may be relied on.
    pub async fn flush(&self) -> Result<()> {
        self.store.flush(&self.core).await
    }

    /// Data and holes from `offset` on. Neighbouring ranges differ; together they cover all of the range asked for, or as
    /// much of it as `ranges_max` ranges do.
    ///
    /// # Errors
    /// As [`Vdisk::read`].
    pub async fn block_status(&self, offset: u64, length: u64, ranges_max: usize) -> Result<Vec<StatusRange>> {
        self.store.block_status(&self.core, offset, length, ranges_max).await
    }
}

impl VdiskCore {
    pub(crate) fn info(&self, extent_bytes: u64) -> VdiskInfo {
        let entry = self.entry.borrow();
        let backed_bytes = self.mapping.account.backed.get() * extent_bytes;
        VdiskInfo {
            id: self.id.0,
            uuid: entry.uuid,
            name: entry.name.clone(),
            size: entry.size,
            sector: entry.sector,
            backed_bytes,
            reserved_bytes: self.mapping.account.unfilled() * extent_bytes,
            held_writes: self.held.get().0,
            held_writes_bytes: self.held.get().1,
            exhausted_since: self.exhausted.get(),
            shortage: self.shortage(),
            reclaimable: self.surveyed.get().map(|found| found.within(backed_bytes)),
            policy: entry.policy.clone(),
            write_through: entry.write_through,
            zero_detection: !entry.policy.keep_zeros,
            pattern_detection: !entry.policy.keep_patterns,
            pattern: entry.pattern.map(|pattern| pattern.0),
            created_ms: entry.created_ms,
            state: match entry.state {
                EntryState::Ready => VdiskState::Ready,
                EntryState::Shrinking => VdiskState::Shrinking,
                EntryState::Deleting => VdiskState::Deleting,
            },
        }
    }
}
