//! Events: what happened, to whom, and what to do about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know; needs no acknowledgement.
    Info,
    /// Somebody should act before long.
    Warning,
    /// Guests are affected, or will be in minutes.
    Critical,
}

impl Severity {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its place in the order of all events; ascending, never used twice.
    pub seq: u64,
    /// Its UUID (version 7): the idempotency key of whoever gets it more than once.
    pub id: String,
    /// When it happened.
    pub time: String,
    /// How bad it is.
    pub severity: Severity,
    /// `pool-threshold`, `vdisk-exhausted`, ...; stable. What ends another one is named after it, with `-cleared`.
    pub kind: String,
    /// POOL, POOL/VDISK or the name of a tenant.
    pub object: String,
    /// The pool.
    pub pool: Option<String>,
    /// The virtual machine that the vdisk belongs to.
    pub vm: Option<String>,
    /// Numbers, with their units in the names.
    #[schema(value_type = Object)]
    pub figures: serde_json::Map<String, serde_json::Value>,
    /// Words for programs: `measure`, `shortage`, `vdisk_uuid`, ...
    pub details: std::collections::BTreeMap<String, String>,
    /// Why it happened.
    pub cause: Option<String>,
    /// What to do, with a command that can be run.
    pub advice: Option<String>,
    /// When somebody took note of it.
    pub acknowledged_at: Option<String>,
    /// Who did.
    pub acknowledged_by: Option<String>,
}

/// A page of events, ascending.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// `event.list/v1`.
    pub schema: String,
    /// The events.
    pub items: Vec<EventView>,
    /// Ask again with `after` this for the next page; null when there are no more for now.
    pub next: Option<u64>,
}

/// Which events somebody took note of: one, or all up to one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeEvents {
    /// This one.
    #[serde(default)]
    pub seq: Option<u64>,
    /// This one and all before it.
    #[serde(default)]
    pub up_to: Option<u64>,
    /// Who; `api` when absent.
    #[serde(default)]
    pub by: Option<String>,
}

/// What was acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    /// `event-acknowledged/v1`.
    pub schema: String,
    /// So many that were not before.
    pub acknowledged: u64,
    /// Warnings that are still open.
    pub unacknowledged_warnings: u64,
    /// Critical ones that are still open.
    pub unacknowledged_criticals: u64,
}

/// An event as it is streamed and sent: CloudEvents 1.0 in JSON.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// The event's id.
    pub id: String,
    /// `/plimsoll`.
    pub source: String,
    /// `io.plimsoll.` and the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object.
    pub subject: String,
    /// When it happened.
    pub time: String,
    /// The sequence extension: the event's number.
    pub sequence: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// The event.
    pub data: EventView,
}

impl From<EventView> for CloudEvent {
    fn from(event: EventView) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: event.id.clone(),
            source: "/plimsoll".to_owned(),
            kind: format!("io.plimsoll.{}", event.kind),
            subject: event.object.clone(),
            time: event.time.clone(),
            sequence: event.seq.to_string(),
            datacontenttype: "application/json".to_owned(),
            data: event,
        }
    }
}
