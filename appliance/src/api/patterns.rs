//! `/pools/{pool}/patterns`

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::model::{AddPattern, List, PatternView, Plan, SetPattern};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(show, set, remove))
}

/// Where a pattern is addressed.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct At {
    /// Name or UUID of the pool.
    pool: String,
    /// Number of the pattern.
    number: u16,
}

/// The patterns of a pool.
#[utoipa::path(get, path = "/pools/{pool}/patterns", tag = "pattern", operation_id = "pattern_list",
    params(("pool" = String, Path, description = "name or UUID")),
    responses((status = 200, body = List<PatternView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>, Path(pool): Path<String>) -> Answer<Json<List<PatternView>>> {
    node.call(move |node| async move { Ok(Json(node.patterns(&pool)?.into())) }).await
}

/// Add a pattern. Blocks that repeat it are stored by its number from now on, where that saves space.
#[utoipa::path(post, path = "/pools/{pool}/patterns", tag = "pattern", operation_id = "pattern_add",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = AddPattern,
    responses((status = 201, body = PatternView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn add(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<AddPattern>,
) -> Answer<Change<PatternView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_add_pattern(&pool, &request).map(Change::Planned);
        }
        node.add_pattern(&pool, request).await.map(Change::Made)
    })
    .await
}

/// One pattern.
#[utoipa::path(get, path = "/pools/{pool}/patterns/{number}", tag = "pattern", operation_id = "pattern_show", params(At),
    responses((status = 200, body = PatternView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(at): Path<At>) -> Answer<Json<PatternView>> {
    node.call(move |node| async move { node.pattern(&at.pool, at.number).map(Json) }).await
}

/// Change what a pattern is matched against.
#[utoipa::path(patch, path = "/pools/{pool}/patterns/{number}", tag = "pattern", operation_id = "pattern_set",
    params(At, How), request_body = SetPattern,
    responses((status = 200, body = PatternView), (status = "default", body = Problem)))]
async fn set(
    State(node): State<NodeLink>,
    Path(at): Path<At>,
    Params(how): Params<How>,
    Body(request): Body<SetPattern>,
) -> Answer<Change<PatternView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_set_pattern(&at.pool, at.number, request.used).map(Change::Planned);
        }
        node.set_pattern(&at.pool, at.number, request.used).await.map(Change::Done)
    })
    .await
}

/// Remove a pattern that is disabled and that nothing is stored by.
#[utoipa::path(delete, path = "/pools/{pool}/patterns/{number}", tag = "pattern", operation_id = "pattern_remove",
    params(At, How),
    responses((status = 204), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn remove(State(node): State<NodeLink>, Path(at): Path<At>, Params(how): Params<How>) -> Answer<Change<()>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_remove_pattern(&at.pool, at.number).map(Change::Planned);
        }
        node.remove_pattern(&at.pool, at.number).await.map(|()| Change::Gone)
    })
    .await
}
