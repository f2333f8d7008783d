//! `/webhooks`

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Body, How, Params};
use super::respond::Change;
use crate::model::{AddWebhook, List, Plan, WebhookTested, WebhookView};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(show, remove)).routes(routes!(test))
}

/// All webhooks, without their secrets.
#[utoipa::path(get, path = "/webhooks", tag = "webhook", operation_id = "webhook_list",
    responses((status = 200, body = List<WebhookView>), (status = "default", body = Problem)))]
async fn list(State(node): State<NodeLink>) -> Answer<Json<List<WebhookView>>> {
    Ok(Json(node.webhooks().list().await?.into()))
}

/// One webhook.
#[utoipa::path(get, path = "/webhooks/{webhook}", tag = "webhook", operation_id = "webhook_show",
    params(("webhook" = String, Path, description = "the webhook's name")),
    responses((status = 200, body = WebhookView), (status = "default", body = Problem)))]
async fn show(State(node): State<NodeLink>, Path(name): Path<String>) -> Answer<Json<WebhookView>> {
    node.webhooks().show(&name).await.map(Json)
}

/// Send events somewhere. At least once, in order; the event's id is the idempotency key.
#[utoipa::path(post, path = "/webhooks", tag = "webhook", operation_id = "webhook_add", params(How),
    request_body = AddWebhook,
    responses((status = 201, body = WebhookView), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn add(
    State(node): State<NodeLink>,
    Params(how): Params<How>,
    Body(request): Body<AddWebhook>,
) -> Answer<Change<WebhookView>> {
    if how.dry_run {
        return node.webhooks().plan_add(&request).await.map(Change::Planned);
    }
    node.webhooks().add(request).await.map(Change::Made)
}

/// Send nothing more there.
#[utoipa::path(delete, path = "/webhooks/{webhook}", tag = "webhook", operation_id = "webhook_remove",
    params(("webhook" = String, Path, description = "the webhook's name"), How),
    responses((status = 204), (status = 200, body = Plan), (status = "default", body = Problem)))]
async fn remove(
    State(node): State<NodeLink>,
    Path(name): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<()>> {
    if how.dry_run {
        return node.webhooks().plan_remove(&name).await.map(Change::Planned);
    }
    node.webhooks().remove(&name).await.map(|()| Change::Gone)
}

/// Send an event that is in no log, once.
#[utoipa::path(post, path = "/webhooks/{webhook}/test", tag = "webhook", operation_id = "webhook_test",
    params(("webhook" = String, Path, description = "the webhook's name"), How),
    responses((status = 200, body = WebhookTested), (status = "default", body = Problem)))]
async fn test(
    State(node): State<NodeLink>,
    Path(name): Path<String>,
    Params(how): Params<How>,
) -> Answer<Change<WebhookTested>> {
    if how.dry_run {
        return node.webhooks().plan_test(&name).await.map(Change::Planned);
    }
    node.webhooks().test(&name).await.map(Change::Done)
}
