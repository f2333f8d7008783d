//! What the API says and takes: plain data with stable field names, and nothing else.
//!
//! snake_case; sizes are integers of bytes and end in `_bytes`; times are RFC 3339 UTC and end in `_at`; what is absent is
//! null, never a missing key. The fixed names are those that scripts rely on; a snapshot test of the OpenAPI document
//! guards them.

mod device;
mod event;
mod export;
mod fill;
mod job;
mod list;
mod pool;
mod request;
mod space;
mod status;
mod vdisk;
mod webhook;

pub use device::{DeviceView, PoolDeviceView};
pub use event::{AcknowledgeEvents, Acknowledged, CloudEvent, EventPage, EventView, Severity};
pub use export::ExportView;
pub use fill::{
    AddPattern, BeginReclaim, PatternUse, PatternView, RANGES_ADVICE, RANGES_MAX, Range, ReclaimView, SetPattern,
    SetReclaim,
};
pub use job::{CheckView, FindingView, JobState, JobView, RepairView};
pub use list::{List, Listed};
pub use pool::{CountersView, GrowthView, PoolState, PoolView, RecoveryView};
pub use request::{
    AddDevice, AddExport, CreatePool, CreateVdisk, GrowPool, GrowthChange, GrowthPolicy, ImportPool, LeaveDevice, Plan,
    RepairPool, SetPool, SetTenant, SetVdisk, VdiskPolicyChange, WriteCache,
};
pub use space::{PromisedView, SpaceReport, SpaceView, SurveyView, TenantView};
pub use status::{Health, HealthFinding, Probe, StatusView};
pub use vdisk::{VdiskState, VdiskView};
pub use webhook::{AddWebhook, WebhookState, WebhookTested, WebhookView};

/// RFC 3339 in UTC of a wall-clock time in milliseconds.
pub fn time_of(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
