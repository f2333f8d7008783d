//! An export as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Listed;

/// A vdisk as it is offered to initiators.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExportView {
    /// POOL/VDISK; the export name as well.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub vdisk: String,
    /// `nbd`.
    pub protocol: String,
    /// False: `export remove` hid it.
    pub visible: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Nobody asked for it: every vdisk is exported by default.
    pub implicit: bool,
    /// Where it listens, as URIs.
    pub uris: Vec<String>,
    /// Clients connected to it.
    pub clients: u64,
}

impl Listed for ExportView {
    const SCHEMA: &'static str = "export.list/v1";
}
