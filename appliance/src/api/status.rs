//! `/status`, and the probes `/healthz` and `/readyz`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::model::{Probe, StatusView, WebhookView};
use crate::node::{NodeLink, failing_webhooks};
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(status))
}

pub(super) fn probes() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// The daemon.
#[utoipa::path(get, path = "/status", tag = "status", operation_id = "status_show",
    responses((status = 200, body = StatusView), (status = "default", body = Problem)))]
async fn status(State(node): State<NodeLink>) -> Answer<Json<StatusView>> {
    whole(&node).await.map(|(status, _)| Json(status))
}

/// The daemon with its webhooks, which are no business of the reactor.
///
/// # Errors
/// As [`NodeLink::call`].
pub(super) async fn whole(node: &NodeLink) -> Answer<(StatusView, Vec<WebhookView>)> {
    // A log that cannot be read is a finding of its own.
    let webhooks = node.webhooks().list().await.unwrap_or_default();
    node.look_below().await;
    let status = node.call(|node| async move { Ok(node.status()) }).await?;
    Ok((status.and(failing_webhooks(&webhooks)), webhooks))
}

/// The process lives and its reactor turns.
#[utoipa::path(get, path = "/healthz", tag = "status", operation_id = "healthz",
    responses((status = 200, body = Probe), (status = 503, body = Problem)))]
async fn healthz(State(node): State<NodeLink>) -> Answer<Json<Probe>> {
    node.call(|_| async move { Ok(Json(Probe { status: "ok".to_owned() })) }).await
}

/// It serves.
#[utoipa::path(get, path = "/readyz", tag = "status", operation_id = "readyz",
    responses((status = 200, body = Probe), (status = 503, body = Probe)))]
async fn readyz(State(node): State<NodeLink>) -> (StatusCode, Json<Probe>) {
    let ready = node.call(|node| async move { Ok(node.is_ready()) }).await.unwrap_or(false);
    let (code, status) = if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not-ready") };
    (code, Json(Probe { status: status.to_owned() }))
}
