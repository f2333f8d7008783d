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
    /// The worst of the findings.
    pub health: Health,
    /// What is wrong now, the worst first.
    pub findings: Vec<HealthFinding>,
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

impl StatusView {
    /// With what else is wrong.
    #[must_use]
    pub fn and(mut self, more: Vec<HealthFinding>) -> Self {
        self.findings.extend(more);
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.health));
        self.health = self.findings.first().map(|finding| finding.health).unwrap_or_default();
        self
    }
}

/// How the daemon and its pools are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing is to be done.
    #[default]
    Ok,
    /// Somebody should act before long.
    Warning,
    /// Guests are affected, or will be before long.
    Critical,
}

impl Health {
    /// 0, 1, 2.
    pub fn level(self) -> f64 {
        f64::from(self as u8)
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthFinding {
    /// How bad it is.
    pub health: Health,
    /// POOL, POOL/VDISK, the name of a tenant or webhook, or `event log`.
    pub object: String,
    /// What is wrong, with the figures.
    pub reason: String,
    /// A command that helps.
    pub advice: String,
}

impl std::fmt::Display for HealthFinding {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}; {}", self.reason, self.advice)
    }
}

/// Answer of `/healthz` and `/readyz`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// `ok` or `not-ready`.
    pub status: String,
}
