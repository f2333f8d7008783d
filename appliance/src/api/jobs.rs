//! `/jobs`

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::model::{JobView, List};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

/// All jobs, ended ones too.
#[utoipa::path(get, path = "/jobs", tag = "job", operation_id = "job_list",
    responses((status = 200, body = List<JobView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>) -> Answer<Json<List<JobView>>> {
    node.call(|node| async move { Ok(Json(node.jobs().into())) }).await
}

/// One job.
#[utoipa::path(get, path = "/jobs/{id}", tag = "job", operation_id = "job_show",
    params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, body = JobView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(id): Path<String>) -> Answer<Json<JobView>> {
    node.call(move |node| async move { node.job(&id).map(Json) }).await
}
