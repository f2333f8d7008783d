//! `/space`, `/tenants` and `/pools/{pool}/tenants/{tenant}`

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::model::{List, SetTenant, SpaceReport, TenantView};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(space)).routes(routes!(tenants)).routes(routes!(set_tenant))
}

/// Which pool.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Of {
    /// Name or UUID; all pools when absent.
    pool: Option<String>,
}

/// Who has the space of the pools: each line a use, together all of it.
#[utoipa::path(get, path = "/space", tag = "space", operation_id = "space", params(Of),
    responses((status = 200, body = SpaceReport), (status = "default", body = Problem)))]
async fn space(State(node): State<NodeLink>, Params(of): Params<Of>) -> Answer<Json<SpaceReport>> {
    node.look_below().await;
    node.call(move |node| async move { node.space(of.pool.as_deref()).map(Json) }).await
}

/// Tenants: labels of vdisks, and those with a quota, in each pool.
#[utoipa::path(get, path = "/tenants", tag = "space", operation_id = "tenant_list",
    responses((status = 200, body = List<TenantView>), (status = "default", body = Problem)))]
async fn tenants(State(node): State<NodeLink>) -> Answer<Json<List<TenantView>>> {
    node.call(|node| async move { Ok(Json(node.tenants().into())) }).await
}

/// Bound what a tenant's vdisks in a pool may use together.
#[utoipa::path(put, path = "/pools/{pool}/tenants/{tenant}", tag = "space", operation_id = "tenant_set",
    params(("pool" = String, Path, description = "name or UUID"), ("tenant" = String, Path, description = "name"), How),
    request_body = SetTenant,
    responses((status = 200, body = TenantView), (status = "default", body = Problem)))]
async fn set_tenant(
    State(node): State<NodeLink>,
    Path((pool, tenant)): Path<(String, String)>,
    Params(how): Params<How>,
    Body(request): Body<SetTenant>,
) -> Answer<Change<TenantView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_set_tenant(&pool, &tenant, &request).map(Change::Planned);
        }
        node.set_tenant(&pool, &tenant, request).await.map(Change::Done)
    })
    .await
}
