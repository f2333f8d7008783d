//! Devices: those of a pool, and those of the machine.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Listed;

/// A device of a pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolDeviceView {
    /// Where it was found last.
    pub path: String,
    /// Its UUID, from its label.
    pub uuid: String,
    /// Its pool.
    pub pool: String,
    /// It goes through the page cache; while its pool is not open: it will.
    pub buffered: bool,
    /// Its place in the pool.
    pub index: Option<u16>,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// It may lose completed writes at power loss until a flush.
    pub volatile_cache: Option<bool>,
    /// A magnetic disk.
    pub rotational: Option<bool>,
    /// Space for data and metadata on it that is taken.
    pub used_bytes: Option<u64>,
    /// A copy of the journal is on it.
    pub journal: Option<bool>,
    /// `in-use`, `evacuating`, or `evacuated` when nothing is on it any more.
    pub state: Option<String>,
}

impl Listed for PoolDeviceView {
    const SCHEMA: &'static str = "pool-device.list/v1";
}

/// A block device of the machine, or a regular file that was asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// Its path.
    pub path: String,
    /// `disk`, `partition` or `file`.
    pub kind: String,
    /// Its size.
    pub size_bytes: u64,
    /// What the maker calls it.
    pub model: Option<String>,
    /// Smallest addressable unit.
    pub logical_block_bytes: Option<u64>,
    /// Unit written without read-modify-write.
    pub physical_block_bytes: Option<u64>,
    /// A magnetic disk.
    pub rotational: Option<bool>,
    /// It may lose completed writes at power loss until a flush.
    pub volatile_cache: Option<bool>,
    /// It takes discards.
    pub discard: Option<bool>,
    /// Writes are not possible.
    pub read_only: Option<bool>,
    /// What uses it: `mounted at /srv`, `part of dm-0`, `swap`.
    pub users: Vec<String>,
    /// The pool that it belongs to, open or not.
    pub pool: Option<String>,
    /// What is on it: a file system, a partition table, a pool. Null when nothing is recognised.
    pub holds: Option<String>,
}

impl Listed for DeviceView {
    const SCHEMA: &'static str = "device.list/v1";
}
