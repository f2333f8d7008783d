//! `/devices`

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::model::{DeviceView, List};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

/// The block devices of the machine, and the files that pools are on.
#[utoipa::path(get, path = "/devices", tag = "device", operation_id = "device_list",
    responses((status = 200, body = List<DeviceView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>) -> Answer<Json<List<DeviceView>>> {
    node.call(|node| async move { Ok(Json(node.devices().await?.into())) }).await
}

/// One device.
#[utoipa::path(get, path = "/devices/{path}", tag = "device", operation_id = "device_show",
    params(("path" = String, Path, description = "its path, percent-encoded with its slashes")),
    responses((status = 200, body = DeviceView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(path): Path<String>) -> Answer<Json<DeviceView>> {
    node.call(move |node| async move { node.device(&path).await.map(Json) }).await
}
