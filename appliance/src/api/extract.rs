//! How requests are taken apart. What is wrong with one is a [`Problem`] that says where.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{BODY_BYTES_MAX, RECLAIM_BODY_BYTES_MAX};
use crate::model::{Object, RANGES_ADVICE};
use crate::problem::{Answer, Problem};
use crate::units::cut;

/// A body comes through a local socket in milliseconds, the longest in less than a second; who takes longer has stopped.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Characters of an error about a body: the names of all fields that can be are the longest part.
const WORDS_MAX: usize = 1000;

/// All of a request's body, within [`BODY_TIME_MAX`] and what its route takes.
///
/// # Errors
/// `timeout`, `too-large`, `invalid-request` when the connection broke.
pub(super) async fn read_body(mut request: Request) -> Answer<Bytes> {
    let reclaims = request.uri().path().ends_with("/reclaim");
    let bytes_max = if reclaims { RECLAIM_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, &()))
        .await
        .map_err(|_| Problem::new("timeout", format!("the body did not come within {BODY_TIME_MAX:?}")))?
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let problem = Problem::new("too-large", format!("the body has more than {bytes_max} bytes"));
                if reclaims { problem.hint(RANGES_ADVICE) } else { problem }
            }
            _ => Problem::new("invalid-request", rejection.body_text()),
        })
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        if kind != "application/json" && kind != "application/merge-patch+json" {
            return Err(Problem::new("unsupported-media-type", format!("the body is {kind:?}, not application/json")));
        }
        let bytes = read_body(request).await?;
        // It says again what it did not expect, however long that is.
        let wrong = |error: serde_json::Error| Problem::new("invalid-request", cut(&error.to_string(), WORDS_MAX));
        serde_json::from_slice(&bytes).map(|Object(body)| Body(body)).map_err(wrong)
    }
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new("invalid-request", rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// `?dry_run=true&force=in-use,not-empty`
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Answer a plan and change nothing.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// Checks to override, separated by commas.
    #[serde(default)]
    pub(super) force: String,
}

impl How {
    pub(super) fn forced(&self) -> Vec<String> {
        self.force.split(',').filter(|check| !check.is_empty()).map(str::to_owned).collect()
    }
}

/// The version in `If-Match`.
pub(super) fn if_match(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::IF_MATCH)?.to_str().ok()?;
    Some(value.trim().trim_matches('"').to_owned())
}
