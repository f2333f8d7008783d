//! The REST API: `/api/v1` over a Unix socket, described by `/api/openapi.json`, which is generated from these handlers.
//!
//! Every handler is thin: it takes the request apart, calls the node through its link and wraps the answer. All errors
//! are [`Problem`]s (RFC 9457). What changes something takes `?dry_run=true` and answers a plan.

mod devices;
mod event_stream;
mod events;
mod exports;
mod extract;
mod idempotency;
mod jobs;
mod metrics;
mod patterns;
mod places;
mod pools;
mod queries;
mod reclaim;
mod respond;
mod server;
mod space;
mod status;
mod vdisks;
mod waiting;
mod webhooks;

use axum::Router;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::model::RANGES_MAX;
use crate::node::NodeLink;
use crate::problem::Problem;
pub use server::{ApiServer, serve};

/// Largest body of a request: the longest sensible one lists a thousand device paths of 255 bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Largest body that begins a reclaim: two numbers of 17 digits, as a vdisk may be 16 PiB, and 40 bytes around them for each range.
pub const RECLAIM_BODY_BYTES_MAX: usize = RANGES_MAX * 80;

#[derive(OpenApi)]
#[openapi(
    info(title = "Plimsoll", description = "Thin-provisioned block storage.", license(name = "MIT OR Apache-2.0")),
    components(schemas(Problem))
)]
struct Document;

fn documented() -> OpenApiRouter<NodeLink> {
    let v1 = OpenApiRouter::new()
        .merge(status::router())
        .merge(pools::router())
        .merge(vdisks::router())
        .merge(reclaim::router())
        .merge(patterns::router())
        .merge(jobs::router())
        .merge(exports::router())
        .merge(devices::router())
        .merge(events::router())
        .merge(event_stream::router())
        .merge(webhooks::router())
        .merge(space::router());
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", v1)
        .merge(status::probes())
        .merge(metrics::router())
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = documented().split_for_parts().1;
    // The version is that of the API, not of the program: a document that is the same must not differ.
    "v1".clone_into(&mut document.info.version);
    document
}

/// All routes.
pub fn router(node: NodeLink) -> Router {
    let (routes, _) = documented().split_for_parts();
    let document = openapi();
    let queries = axum::middleware::from_fn_with_state(queries::keys(&document), queries::known);
    routes
        .route_layer(queries)
        .route("/api/openapi.json", get(move || async move { axum::Json(document) }))
        .fallback(|uri: axum::http::Uri| async move {
            Problem::new("not-found", format!("there is nothing at {}", uri.path())).hint("see /api/openapi.json")
        })
        .method_not_allowed_fallback(|method: axum::http::Method, uri: axum::http::Uri| async move {
            Problem::new("method-not-allowed", format!("{method} does nothing at {}", uri.path()))
                .hint("see /api/openapi.json")
        })
        .layer(axum::middleware::from_fn(idempotency::Replies::default().layer()))
        .layer(axum::middleware::from_fn(waiting::known))
        .with_state(node)
}

#[cfg(test)]
mod tests {
    /// Renew it with `PLIMSOLL_BLESS=1 cargo test -p plimsoll-appliance openapi` after looking at the difference.
    #[test]
    fn the_openapi_document_is_the_one_that_was_agreed_on() {
        let found = serde_json::to_string_pretty(&super::openapi()).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        if std::env::var_os("PLIMSOLL_BLESS").is_some() {
            std::fs::write(path, &found).unwrap();
        }
        let agreed = std::fs::read_to_string(path).unwrap_or_default();
        let difference = found.lines().zip(agreed.lines()).enumerate().find(|(_, (found, agreed))| found != agreed);
        assert!(
            found == agreed,
            "the API differs from {path}, first at {difference:?}; {} lines against {}",
            found.lines().count(),
            agreed.lines().count()
        );
    }
}
