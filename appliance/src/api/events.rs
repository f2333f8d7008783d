//! `/events`

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::event::{EventQuery, PAGE_DEFAULT, PAGE_MAX, check_kind};
use crate::model::{AcknowledgeEvents, Acknowledged, EventPage, EventView, Plan, Severity};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};
use crate::units::counted;

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(acknowledge))
}

/// Which events, and how many.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Only events with a greater number: the cursor.
    #[serde(default)]
    after: u64,
    /// At least this bad.
    severity: Option<Severity>,
    /// Of this kind.
    kind: Option<String>,
    /// Of this object; a pool's name means its vdisks too.
    object: Option<String>,
    /// Warnings and critical ones that nobody took note of.
    #[serde(default)]
    unacknowledged: bool,
    /// The newest that fit instead of the oldest; still ascending, and without a next page.
    #[serde(default)]
    newest: bool,
    /// At most so many; 100 when absent, 10,000 at most.
    limit: Option<usize>,
}

/// A page of events, ascending.
#[utoipa::path(get, path = "/events", tag = "event", operation_id = "event_list", params(Asked),
    responses((status = 200, body = EventPage), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>, Params(asked): Params<Asked>) -> Answer<Json<EventPage>> {
    let Asked { after, severity, kind, object, unacknowledged, newest, limit } = asked;
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::new("invalid-request", format!("the limit is {limit}, 1 to {PAGE_MAX} can be")));
    }
    check_kind(kind.as_deref())?;
    let query = EventQuery { after, severity, kind, object, unacknowledged, newest, limit };
    node.events().list(query).await.map(Json)
}

/// One event.
#[utoipa::path(get, path = "/events/{seq}", tag = "event", operation_id = "event_show",
    params(("seq" = String, Path, description = "the event's number or UUID")),
    responses((status = 200, body = EventView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(seq): Path<String>) -> Answer<Json<EventView>> {
    if let Ok(seq) = seq.parse() {
        return node.events().event(seq).await.map(Json);
    }
    let unknown = || Problem::not_found("event", &seq);
    let id = uuid::Uuid::parse_str(&seq).map_err(|_| unknown())?.to_string();
    let query = EventQuery { object: Some(id), newest: true, limit: 1, ..EventQuery::default() };
    node.events().list(query).await?.items.pop().map(Json).ok_or_else(unknown)
}

/// Take note of one event, or of all up to one.
#[utoipa::path(post, path = "/events/acknowledge", tag = "event", operation_id = "event_acknowledge", params(How),
    request_body = AcknowledgeEvents,
    responses((status = 200, body = Acknowledged), (status = "default", body = Problem)))]
async fn acknowledge(
    State(node): State<NodeLink>,
    Params(how): Params<How>,
    Body(request): Body<AcknowledgeEvents>,
) -> Answer<Change<Acknowledged>> {
    let AcknowledgeEvents { seq, up_to, by } = request;
    if how.dry_run {
        let count = node.events().plan_acknowledge(seq, up_to).await?;
        return Ok(Change::Planned(Plan::of([format!("acknowledge {}", counted(count, "event"))])));
    }
    let by = by.filter(|by| !by.is_empty()).unwrap_or_else(|| "api".to_owned());
    if by.len() > 256 {
        return Err(Problem::new("invalid-request", format!("by has {} bytes, 256 can be", by.len())));
    }
    node.events().acknowledge(seq, up_to, &by).await.map(Change::Done)
}
