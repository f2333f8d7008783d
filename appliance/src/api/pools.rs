//! `/pools`

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::model::{
    AddDevice, CreatePool, GrowPool, ImportPool, JobView, LeaveDevice, List, Plan, PoolDeviceView, PoolView, SetPool,
};
use crate::node::{Node, NodeLink};
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(import))
        .routes(routes!(show, set, delete))
        .routes(routes!(devices, add_device))
        .routes(routes!(grow))
        .routes(routes!(evacuate))
        .routes(routes!(cancel_evacuation))
        .routes(routes!(remove_device))
        .routes(routes!(compact))
        .routes(routes!(survey))
        .routes(routes!(check))
        .routes(routes!(repair))
        .routes(routes!(export))
}

/// All pools.
#[utoipa::path(get, path = "/pools", tag = "pool", operation_id = "pool_list",
    responses((status = 200, body = List<PoolView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>) -> Answer<Json<List<PoolView>>> {
    node.look_below().await;
    node.call(|node| async move { Ok(Json(node.pools().into())) }).await
}

/// Make a pool.
#[utoipa::path(post, path = "/pools", tag = "pool", operation_id = "pool_create", params(How), request_body = CreatePool,
    responses((status = 201, body = PoolView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn create(
    State(node): State<NodeLink>,
    Params(how): Params<How>,
    Body(request): Body<CreatePool>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_create_pool(request).await.map(Change::Planned);
        }
        node.create_pool(request).await.map(Change::Made)
    })
    .await
}

/// Serve a pool that was made elsewhere, or try an unavailable one again.
#[utoipa::path(post, path = "/pools/import", tag = "pool", operation_id = "pool_import", params(How),
    request_body = ImportPool,
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn import(
    State(node): State<NodeLink>,
    Params(how): Params<How>,
    Body(request): Body<ImportPool>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_import_pool(request).await.map(Change::Planned);
        }
        node.import_pool(request).await.map(Change::Done)
    })
    .await
}

/// One pool.
#[utoipa::path(get, path = "/pools/{pool}", tag = "pool", operation_id = "pool_show",
    params(("pool" = String, Path, description = "name or UUID")),
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(pool): Path<String>) -> Answer<Json<PoolView>> {
    node.look_below().await;
    node.call(move |node| async move { node.pool_view(&pool).map(Json) }).await
}

/// Decide anew for a pool (merge patch).
#[utoipa::path(patch, path = "/pools/{pool}", tag = "pool", operation_id = "pool_set",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = SetPool,
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn set(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<SetPool>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        node.check_pool_bounds(&pool, &request).await?;
        if how.dry_run {
            return node.plan_set_pool(&pool, request).await.map(Change::Planned);
        }
        node.set_pool(&pool, request).await.map(Change::Done)
    })
    .await
}

/// Destroy a pool.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "pool", operation_id = "pool_delete",
    params(("pool" = String, Path, description = "name or UUID"), How),
    responses((status = 204), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn delete(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        let force = how.forced();
        if how.dry_run {
            return node.plan_delete_pool(&pool, &force).await.map(Change::Planned);
        }
        node.delete_pool(&pool, &force).await.map(|()| Change::Gone)
    })
    .await
}

/// The devices of a pool.
#[utoipa::path(get, path = "/pools/{pool}/devices", tag = "pool", operation_id = "pool_devices",
    params(("pool" = String, Path, description = "name or UUID")),
    responses((status = 200, body = List<PoolDeviceView>), (status = "default", body = Problem)))]
async fn devices(State(node): State<NodeLink>, Path(pool): Path<String>) -> Answer<Json<List<PoolDeviceView>>> {
    node.call(move |node| async move { Ok(Json(node.pool_view(&pool)?.devices.into())) }).await
}

/// Add a device to a pool.
#[utoipa::path(post, path = "/pools/{pool}/devices", tag = "pool", operation_id = "pool_add_device",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = AddDevice,
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn add_device(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<AddDevice>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_add_device(&pool, request).await.map(Change::Planned);
        }
        node.add_device(&pool, request).await.map(Change::Done)
    })
    .await
}

/// Use what devices of a pool have become larger by.
#[utoipa::path(post, path = "/pools/{pool}/grow", tag = "pool", operation_id = "pool_grow",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = GrowPool,
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn grow(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<GrowPool>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_grow_pool(&pool, &request).map(Change::Planned);
        }
        node.grow_pool(&pool, request).await.map(Change::Done)
    })
    .await
}

/// Empty a device while everything goes on; asked again, change the pace. The plan says whether it fits.
#[utoipa::path(post, path = "/pools/{pool}/evacuate", tag = "pool", operation_id = "pool_evacuate",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = LeaveDevice,
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn evacuate(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<LeaveDevice>,
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_evacuation(&pool, request, false).await.map(Change::Planned);
        }
        node.evacuate_device(&pool, request).await.map(|job| Change::Begun(Box::new(job)))
    })
    .await
}

/// Keep a device that was being emptied.
#[utoipa::path(post, path = "/pools/{pool}/cancel-evacuation", tag = "pool", operation_id = "pool_cancel_evacuation",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = LeaveDevice,
    responses((status = 200, body = PoolView), (status = "default", body = Problem)))]
async fn cancel_evacuation(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<LeaveDevice>,
) -> Answer<Change<PoolView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_cancel_evacuation(&pool, &request).map(Change::Planned);
        }
        node.cancel_evacuation(&pool, request).await.map(Change::Done)
    })
    .await
}

/// Empty a device if it is not empty, and let it go.
#[utoipa::path(post, path = "/pools/{pool}/remove-device", tag = "pool", operation_id = "pool_remove_device",
    params(("pool" = String, Path, description = "name or UUID"), How), request_body = LeaveDevice,
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn remove_device(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
    Body(request): Body<LeaveDevice>,
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_evacuation(&pool, request, true).await.map(Change::Planned);
        }
        node.remove_device(&pool, request).await.map(|job| Change::Begun(Box::new(job)))
    })
    .await
}

/// Put thinly used extents together, so that scattered small discards give space back. A pool that is short of space does so by itself.
#[utoipa::path(post, path = "/pools/{pool}/compact", tag = "pool", operation_id = "pool_compact",
    params(("pool" = String, Path, description = "name or UUID"), How),
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn compact(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    begin(node, pool, how, (Node::plan_compact_pool, Node::compact_pool)).await
}

/// Find out what space could come back, by reading all of the mapping and a sample of the data; changes nothing. A pool that reaches one
/// of its thresholds does so by itself.
#[utoipa::path(post, path = "/pools/{pool}/survey", tag = "pool", operation_id = "pool_survey",
    params(("pool" = String, Path, description = "name or UUID"), How),
    responses((status = 202, body = JobView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn survey(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    begin(node, pool, how, (Node::plan_survey_pool, Node::survey_pool)).await
}

/// Check all metadata of a pool; changes nothing. The job's `check` has the findings.
#[utoipa::path(post, path = "/pools/{pool}/check", tag = "pool", operation_id = "pool_check",
    params(("pool" = String, Path, description = "name or UUID")),
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
async fn check(State(node): State<NodeLink>, Path(pool): Path<String>) -> Answer<Change<()>> {
    node.call(move |node| async move { node.check_pool(&pool).map(|job| Change::Begun(Box::new(job))) }).await
}

/// Repair what a check found, or with `dry_run` list what would be done. The job's `repair` has the steps.
#[utoipa::path(post, path = "/pools/{pool}/repair", tag = "pool", operation_id = "pool_repair",
    params(("pool" = String, Path, description = "name or UUID"), How),
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
async fn repair(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    node.call(move |node| async move { node.repair_pool(&pool, how.dry_run).map(|job| Change::Begun(Box::new(job))) })
        .await
}

/// Close a pool cleanly and let it go.
#[utoipa::path(post, path = "/pools/{pool}/export", tag = "pool", operation_id = "pool_export",
    params(("pool" = String, Path, description = "name or UUID"), How),
    responses((status = 204), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn export(
    State(node): State<NodeLink>,
    Path(pool): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        let force = how.forced();
        if how.dry_run {
            return node.plan_export_pool(&pool, &force).await.map(Change::Planned);
        }
        node.export_pool(&pool, &force).await.map(|()| Change::Gone)
    })
    .await
}

type OfPool<T> = fn(&Node, &str) -> Answer<T>;

/// Begins a job that needs to know nothing but its pool, or plans it.
async fn begin(
    node: NodeLink,
    pool: String,
    how: How,
    (plan, begin): (OfPool<Plan>, OfPool<JobView>),
) -> Answer<Change<()>> {
    node.call(move |node| async move {
        match how.dry_run {
            true => plan(&node, &pool).map(Change::Planned),
            false => begin(&node, &pool).map(|job| Change::Begun(Box::new(job))),
        }
    })
    .await
}
