//! What an open pool says about itself.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::{Device, Machine};
use uuid::Uuid;

use super::Pool;
use super::warning::Warning;
use crate::format::{PoolPolicy, Standing};
use crate::media::Disk;

/// A device of an open pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its identity.
    pub uuid: Uuid,
    /// Where it is now.
    pub path: String,
    /// Its place in the pool, from 0.
    pub index: u16,
    /// Bytes that the pool uses of it.
    pub size_bytes: u64,
    /// It may lose completed writes on power loss until it is flushed.
    pub volatile_cache: bool,
    /// A magnetic disk.
    pub rotational: bool,
    /// Space for extents on it.
    pub extent_bytes_total: u64,
    /// What of that is taken: by vdisks, by metadata, by what was freed a moment ago.
    pub used_bytes: u64,
    /// A copy of the journal is on it.
    pub has_journal: bool,
    /// Whether it stays.
    pub state: DeviceState,
}

/// Whether a device stays in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It does.
    InUse,
    /// What is on it is moving elsewhere.
    Evacuating,
    /// Nothing is on it any more, and nothing will be.
    Evacuated,
}

/// What the last start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryInfo {
    /// The pool had been closed; nothing had to be replayed.
    pub clean: bool,
    /// Journal records applied.
    pub records_replayed: u64,
    /// First writes whose data power loss had taken, or that our death had interrupted: never flushed or never answered, and not
    /// believed.
    pub records_dropped: u64,
    /// Records that only crash memory had.
    pub from_crash_memory: u64,
    /// Devices whose ends are gone, which was accepted: what of the pool is lost, in words.
    pub ends_lost: Vec<String>,
    /// Other damage found and not repaired since, in words.
    pub warnings: Vec<String>,
    /// Labels and roots that were bad and have been written again from another copy, in words.
    pub healed: Vec<String>,
}

/// What was done since the pool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Reads of vdisks.
    pub reads: u64,
    /// Bytes of these.
    pub read_bytes: u64,
    /// Writes of vdisks.
    pub writes: u64,
    /// Bytes of these.
    pub write_bytes: u64,
    /// Pieces of writes that gave blocks their first contents.
    pub first_writes: u64,
    /// Discards.
    pub discards: u64,
    /// Flushes asked for.
    pub flushes: u64,
    /// Journal batches written.
    pub journal_commits: u64,
    /// Of these, written beside the data of the first write that they tell of, because a flush was likely to follow.
    pub journal_commits_ahead: u64,
    /// Bytes of zeros that were written, or found by a reclaim, and are not stored.
    pub zero_bytes: u64,
    /// Bytes of patterns that were written, or found by a reclaim, and are stored by their number.
    pub pattern_bytes: u64,
    /// Bytes of space that came free because thinly used extents were put together.
    pub packed_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Writes that had to wait for space.
    pub held_writes: u64,
    /// Bytes of these.
    pub held_write_bytes: u64,
    /// Writes that failed for want of space, at once or after they were held.
    pub refused_writes: u64,
    /// Metadata pages read.
    pub pages_read: u64,
    /// Metadata pages written.
    pub pages_written: u64,
    /// Bad copies of metadata pages written again from the good ones.
    pub pages_healed: u64,
    /// Metadata pages whose copies were both bad.
    pub pages_lost: u64,
    /// Memory that the mapping takes now, in bytes.
    pub cached_mapping_bytes: u64,
}

/// A pool's figures. All in bytes where not said otherwise; all from the one ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Bytes of an extent.
    pub extent_bytes: u32,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Space for extents on all devices.
    pub physical_bytes: u64,
    /// What vdisks can still get.
    pub available_bytes: u64,
    /// Allocated to vdisks.
    pub utilized_bytes: u64,
    /// Allocated to metadata.
    pub metadata_bytes: u64,
    /// Kept for metadata, so that it never runs out.
    pub metadata_reserve_bytes: u64,
    /// Promised to vdisks by their reservations and not in use yet, with the metadata that may go with it.
    pub reserved_bytes: u64,
    /// Granted to held writes, and taken for writes under way.
    pub held_bytes: u64,
    /// Writes that wait for space.
    pub held_writes: u64,
    /// Memory that their data takes, in buffers of a power of two, a page at least.
    pub held_writes_bytes: u64,
    /// What held writes may take of memory together: set, or by default a quarter of it, never more than half.
    pub held_writes_bytes_max: u64,
    /// Freed, and usable as soon as that is durable.
    pub quarantined_bytes: u64,
    /// Sum of the vdisks' sizes.
    pub designated_bytes: u64,
    /// Designated minus physical; negative while less is promised than there is.
    pub overcommit_bytes: i64,
    /// Designated over physical.
    pub overcommit_ratio: f64,
    /// Sum of the vdisks' sizes that the overcommit limit allows; `None` when there is none.
    pub designated_bytes_max: Option<u64>,
    /// Number of vdisks, those being deleted included.
    pub vdisks: u64,
    /// When the pool is full at the measured rate; `None` when its use does not grow, or nothing is measured.
    pub time_to_full: Option<Duration>,
    /// The rate, in bytes a second, what was freed subtracted.
    pub growth_bytes_per_s: u64,
    /// What was decided for it.
    pub policy: PoolPolicy,
    /// Its devices.
    pub devices: Vec<DeviceInfo>,
    /// Why it takes no writes; `None` when it does.
    pub read_only: Option<String>,
    /// The path of a device without which no checkpoint can be written: the file system that it is a file of is full. `None`: all is well.
    pub starved: Option<String>,
    /// Number of the last checkpoint.
    pub generation: u64,
    /// What the last start found.
    pub recovery: RecoveryInfo,
    /// What was done since.
    pub counters: PoolCounters,
}

impl<M: Machine> Pool<M> {
    /// Its figures now.
    pub fn info(&self) -> PoolInfo {
        let store = &self.store;
        let extent = store.media.extent_bytes;
        let space = &store.space;
        let physical = space.total() * extent;
        let designated = space.ledger.designated();
        let (held_writes, held_writes_bytes) = store.holds.figures();
        let (time_to_full, growth_bytes_per_s) = store.alarms.outlook();
        let (ends, others): (Vec<_>, Vec<_>) = self.warnings.borrow().iter().cloned().partition(Warning::is_of_end);
        let in_words =
            |warnings: Vec<Warning>| warnings.iter().map(|warning| warning.says(&self.store.identity.name)).collect();
        let recovery = RecoveryInfo { ends_lost: in_words(ends), warnings: in_words(others), ..self.recovery.clone() };
        PoolInfo {
            name: store.identity.name.clone(),
            uuid: store.identity.uuid,
            created_ms: store.identity.created_ms,
            extent_bytes: extent as u32,
            block_bytes: store.media.block_bytes() as u32,
            physical_bytes: physical,
            available_bytes: space.available() * extent,
            utilized_bytes: space.data() * extent,
            metadata_bytes: space.meta_extents() * extent,
            metadata_reserve_bytes: space.reserved() * extent,
            reserved_bytes: space.withheld() * extent,
            held_bytes: space.held() * extent,
            held_writes,
            held_writes_bytes,
            held_writes_bytes_max: store.hold_bytes_max(),
            quarantined_bytes: space.quarantined() * extent,
            designated_bytes: designated,
            overcommit_bytes: designated as i64 - physical as i64,
            overcommit_ratio: designated as f64 / physical as f64,
            designated_bytes_max: store.promises_max(0),
            vdisks: store.vdisks.borrow().len() as u64,
            time_to_full,
            growth_bytes_per_s,
            policy: store.policy.borrow().clone(),
            devices: self.devices(),
            read_only: self.read_only(),
            starved: space.is_starved().then(|| store.full_device_path()),
            generation: store.root.borrow().generation,
            recovery,
            counters: self.counters(),
        }
    }

    /// Why it takes no writes; `None` when it does.
    pub fn read_only(&self) -> Option<String> {
        self.store.why_read_only()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        let store = &self.store;
        let (drives, rings) = (store.media.drives(), store.journal.rings());
        let of = |disk: Rc<Disk<M::Device>>| {
            let geometry = disk.device.geometry();
            let stretches: Vec<_> = drives.iter().filter(|drive| drive.is_of(&disk)).collect();
            let first = stretches[0];
            let extents: u64 = stretches.iter().map(|drive| drive.extents()).sum();
            let taken: u64 = stretches.iter().map(|drive| store.space.taken_in(drive.groups())).sum();
            DeviceInfo {
                uuid: first.slot().device,
                path: geometry.path.clone(),
                index: first.index,
                size_bytes: first.slot().size,
                volatile_cache: geometry.volatile_cache,
                rotational: geometry.rotational,
                extent_bytes_total: extents * store.media.extent_bytes,
                used_bytes: taken * store.media.extent_bytes,
                has_journal: rings.iter().any(|ring| stretches.iter().any(|drive| drive.index == ring.device)),
                state: match first.slot().standing {
                    Standing::InUse => DeviceState::InUse,
                    _ if taken > 0 => DeviceState::Evacuating,
                    _ => DeviceState::Evacuated,
                },
            }
        };
        store.media.disks().into_iter().map(of).collect()
    }

    fn counters(&self) -> PoolCounters {
        let store = &self.store;
        let (counters, pages) = (&store.counters, &store.media.pages);
        PoolCounters {
            reads: counters.reads.get(),
            read_bytes: counters.read_bytes.get(),
            writes: counters.writes.get(),
            write_bytes: counters.write_bytes.get(),
            first_writes: counters.first_writes.get(),
            discards: counters.discards.get(),
            zero_bytes: counters.zero_bytes.get(),
            pattern_bytes: counters.pattern_bytes.get(),
            packed_bytes: counters.packed_bytes.get(),
            flushes: counters.flushes.get(),
            journal_commits: store.journal.commits.get(),
            journal_commits_ahead: store.journal.ahead.get(),
            checkpoints: counters.checkpoints.get(),
            held_writes: counters.held_writes.get(),
            held_write_bytes: counters.held_write_bytes.get(),
            refused_writes: counters.refused_writes.get(),
            pages_read: pages.read.get(),
            pages_written: pages.written.get(),
            pages_healed: pages.healed.get(),
            pages_lost: pages.lost.get(),
            cached_mapping_bytes: store.cache.memory_bytes(),
        }
    }
}
