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
mod object;
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
pub use object::Object;
pub use pool::{CountersView, GrowthView, LastCheckView, PoolState, PoolView, RecoveryView};
pub use request::{
    AddDevice, AddExport, CreatePool, CreateVdisk, GrowPool, GrowthChange, GrowthPolicy, ImportPool, LeaveDevice, Plan,
    RepairPool, SetPool, SetTenant, SetVdisk, VdiskPolicyChange, WriteCache,
};
pub use space::{PromisedView, SpaceReport, SpaceView, SurveyView, TenantView};
pub use status::{Health, HealthFinding, Probe, StatusView};
pub use vdisk::{VdiskState, VdiskView};
pub use webhook::{AddWebhook, WebhookState, WebhookTested, WebhookView};

/// RFC 3339 in UTC of a wall-clock time in milliseconds, always with three decimals: as texts, times sort as they are.
pub fn time_of(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_sort_as_texts() {
        let times = [0, 1, 10, 999, 1000, 1_795_659_731_100, 1_795_659_731_123].map(super::time_of);
        assert_eq!((times[0].as_str(), times[2].as_str()), ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.010Z"));
        assert!(times.is_sorted(), "{times:?}");
    }
}
