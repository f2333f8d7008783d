//! The daemon itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The daemon in one object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// `status/v1`.
    pub schema: String,
    /// It serves.
    pub ready: bool,
    /// `ok`, or `degraded` when a pool is not online.
    pub health: String,
    /// What degrades it.
    pub warnings: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_at: String,
    /// Where its state is.
    pub state_dir: String,
    /// Where it serves NBD, as URIs.
    pub nbd: Vec<String>,
    /// Known pools.
    pub pools: u64,
    /// Of those, online.
    pub pools_online: u64,
    /// In all pools.
    pub vdisks: u64,
    /// Connected clients.
    pub clients: u64,
    /// Jobs under way.
    pub jobs_running: u64,
    /// Warnings that nobody took note of; see `plimsoll event list`.
    pub unacknowledged_warnings: u64,
    /// Critical events that nobody took note of.
    pub unacknowledged_criticals: u64,
    /// Space of all pools.
    pub physical_bytes: u64,
    /// Not yet allocated.
    pub available_bytes: u64,
    /// Allocated to data.
    pub utilized_bytes: u64,
    /// Promised to guests.
    pub designated_bytes: u64,
    /// Memory for I/O that is not in use.
    pub buffer_free_bytes: u64,
    /// Memory for I/O.
    pub buffer_bytes: u64,
}

/// Answer of `/healthz` and `/readyz`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok` or `not-ready`.
    pub status: String,
}
