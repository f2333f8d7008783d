//! `/exports`

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::model::{AddExport, ExportView, List, Plan};
use crate::name::VdiskName;
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove))
}

/// Where an export is addressed.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct At {
    /// `nbd`
    protocol: String,
    /// Name or UUID of the pool.
    pool: String,
    /// Name or UUID of the vdisk.
    vdisk: String,
}

/// All exports, hidden ones too.
#[utoipa::path(get, path = "/exports", tag = "export", operation_id = "export_list",
    responses((status = 200, body = List<ExportView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>) -> Answer<Json<List<ExportView>>> {
    node.call(|node| async move { Ok(Json(node.exports()?.into())) }).await
}

/// Offer a vdisk, or change how it is offered.
#[utoipa::path(post, path = "/exports", tag = "export", operation_id = "export_add", params(How),
    request_body = AddExport,
    responses((status = 200, body = ExportView), (status = "default", body = Problem)))]
async fn add(
    State(node): State<NodeLink>,
    Params(how): Params<How>,
    Body(request): Body<AddExport>,
) -> Answer<Change<ExportView>> {
    node.call(move |node| async move {
        if how.dry_run {
            return node.plan_add_export(&request).map(Change::Planned);
        }
        node.add_export(request).await.map(Change::Done)
    })
    .await
}

/// Offer a vdisk no longer.
#[utoipa::path(delete, path = "/exports/{protocol}/{pool}/{vdisk}", tag = "export", operation_id = "export_remove",
    params(At, How),
    responses((status = 204), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn remove(State(node): State<NodeLink>, Path(at): Path<At>, Params(how): Params<How>) -> Answer<Change<()>> {
    let At { protocol, pool, vdisk } = at;
    node.call(move |node| async move {
        let (name, force) = (VdiskName { pool, vdisk }, how.forced());
        if how.dry_run {
            return node.plan_remove_export(&protocol, &name, &force).map(Change::Planned);
        }
        node.remove_export(&protocol, &name, &force).await.map(|()| Change::Gone)
    })
    .await
}
