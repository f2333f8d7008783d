//! `/status`, and the probes `/healthz` and `/readyz`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::model::{Probe, StatusView};
use crate::node::NodeLink;
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
    node.call(|node| async move { Ok(Json(node.status())) }).await
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
