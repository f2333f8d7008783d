//! `/vdisks` and `/pools/{pool}/vdisks`

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params, if_match};
use super::respond::{Change, tagged};
use crate::model::{CreateVdisk, JobView, List, Plan, SetVdisk, VdiskView};
use crate::name::VdiskName;
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list_all)).routes(routes!(list, create)).routes(routes!(show, set, delete))
}

/// Where a vdisk is addressed.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct At {
    /// Name or UUID of the pool.
    pool: String,
    /// Name or UUID of the vdisk.
    vdisk: String,
}

impl From<At> for VdiskName {
    fn from(at: At) -> Self {
        Self { pool: at.pool, vdisk: at.vdisk }
    }
}

/// The vdisks of all open pools.
#[utoipa::path(get, path = "/vdisks", tag = "vdisk", operation_id = "vdisk_list",
    responses((status = 200, body = List<VdiskView>), (status = "default", body = Problem)))]
async fn list_all(State(node): State<NodeLink>) -> Answer<Json<List<VdiskView>>> {
    node.call(|node| async move { Ok(Json(node.vdisks(None)?.into())) }).await
}

/// The vdisks of a pool.
#[utoipa::path(get, path = "/pools/{pool}/vdisks", tag = "vdisk", operation_id = "vdisk_list_of_pool",
    params(("pool" = String, Path, description = "name or UUID")),
    responses((status = 200, body = List<VdiskView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>, Path(pool): Path<String>) -> Answer<Json<List<VdiskView>>> {
    node.call(move |node| async move { Ok(Json(node.vdisks(Some(&pool))?.into())) }).await
}

/// Make a vdisk.
#[utoipa::path(post, path = "/pools/{pool}/vdisks", tag = "vdisk", operation_id = "vdisk_create",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = CreateVdisk,
    responses((status = 201, body = VdiskView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn create(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<CreateVdisk>,
) -> Answer<Change<VdiskView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_create_vdisk(&pool, &request).map(Change::Planned);
        }
        node.create_vdisk(&pool, request).await.map(Change::Made)
    })
    .await
}

/// One vdisk; its ETag is its `version`.
#[utoipa::path(get, path = "/pools/{pool}/vdisks/{vdisk}", tag = "vdisk", operation_id = "vdisk_show", params(At),
    responses((status = 200, body = VdiskView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(at): Path<At>) -> Answer<Response> {
    node.call(move |node| async move { node.vdisk(&at.into()) }).await.map(tagged)
}

/// Change a vdisk (merge patch). `If-Match` takes its `version`.
#[utoipa::path(patch, path = "/pools/{pool}/vdisks/{vdisk}", tag = "vdisk", operation_id = "vdisk_set", params(At, How),
    request_body = SetVdisk,
    responses((status = 200, body = VdiskView), (status = "default", body = Problem)))]
async fn set(
    State(node): State<NodeLink>,
    Path(at): Path<At>,
    Params(how): Params<How>,
    headers: HeaderMap,
    Body(request): Body<SetVdisk>,
) -> Answer<Change<VdiskView>> {
    let version = if_match(&headers);
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_set_vdisk(&at.into(), request, version).await.map(Change::Planned);
        }
        node.set_vdisk(&at.into(), request, version).await.map(Change::Done)
    })
    .await
}

/// Delete a vdisk; its space comes back in the job that is answered. `If-Match` takes its `version`.
#[utoipa::path(delete, path = "/pools/{pool}/vdisks/{vdisk}", tag = "vdisk", operation_id = "vdisk_delete",
    params(At, How),
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn delete(
    State(node): State<NodeLink>,
    Path(at): Path<At>,
    Params(how): Params<How>,
    headers: HeaderMap,
) -> Answer<Change<()>> {
    let version = if_match(&headers);
    node.call(move |node| async move {
        let force = how.forced();
        if how.dry_run {
            return node.plan_delete_vdisk(&at.into(), &force, version).map(Change::Planned);
        }
        node.delete_vdisk(&at.into(), &force, version).await.map(|job| Change::Begun(Box::new(job)))
    })
    .await
}
