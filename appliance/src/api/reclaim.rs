//! `/pools/{pool}/vdisks/{vdisk}/reclaim`

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use super::vdisks::At;
use crate::model::{BeginReclaim, JobView, Plan, ReclaimView, SetReclaim};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(show, begin, set))
}

/// How the last reclaim of a vdisk stands.
#[utoipa::path(get, path = "/pools/{pool}/vdisks/{vdisk}/reclaim", tag = "vdisk", operation_id = "reclaim_show",
    params(At), responses((status = 200, body = ReclaimView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(at): Path<At>) -> Answer<Json<ReclaimView>> {
    node.call(move |node| async move { node.reclaim(&at.into()).map(Json) }).await
}

/// Look for zeros and patterns that are stored, and give their space back. Without ranges it goes on after a restart.
#[utoipa::path(post, path = "/pools/{pool}/vdisks/{vdisk}/reclaim", tag = "vdisk", operation_id = "reclaim_begin",
    params(At, How), request_body = BeginReclaim,
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn begin(
    State(node): State<NodeLink>,
    Path(at): Path<At>,
    Params(how): Params<How>,
    Body(request): Body<BeginReclaim>,
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_begin_reclaim(&at.into(), request).map(Change::Planned);
        }
        node.begin_reclaim(&at.into(), request).await.map(|job| Change::Begun(Box::new(job)))
    })
    .await
}

/// Make a reclaim wait, let it go on, or change its pace.
#[utoipa::path(patch, path = "/pools/{pool}/vdisks/{vdisk}/reclaim", tag = "vdisk", operation_id = "reclaim_set",
    params(At, How), request_body = SetReclaim,
    responses((status = 200, body = ReclaimView), (status = "default", body = Problem)))]
async fn set(
    State(node): State<NodeLink>,
    Path(at): Path<At>,
    Params(how): Params<How>,
    Body(request): Body<SetReclaim>,
) -> Answer<Change<ReclaimView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_set_reclaim(&at.into(), request).map(Change::Planned);
        }
        node.set_reclaim(&at.into(), request).await.map(Change::Done)
    })
    .await
}
