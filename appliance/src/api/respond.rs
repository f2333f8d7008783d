//! How answers become HTTP.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::model::{JobView, Plan, VdiskView};
use crate::problem::Problem;

/// The answer to what changes something.
pub(super) enum Change<T> {
    /// It was only asked what would happen.
    Planned(Plan),
    /// 200: changed.
    Done(T),
    /// 201: made.
    Made(T),
    /// 202: a job has begun.
    Begun(Box<JobView>),
    /// 204: gone, or nothing to say.
    Gone,
}

impl<T: Serialize> IntoResponse for Change<T> {
    fn into_response(self) -> Response {
        match self {
            Change::Planned(plan) => Json(plan).into_response(),
            Change::Done(done) => Json(done).into_response(),
            Change::Made(made) => (StatusCode::CREATED, Json(made)).into_response(),
            Change::Begun(job) => {
                let at = format!("/api/v1/jobs/{}", job.id);
                (StatusCode::ACCEPTED, [(header::LOCATION, at)], Json(job)).into_response()
            }
            Change::Gone => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// A vdisk with its version as ETag.
pub(super) fn tagged(vdisk: VdiskView) -> Response {
    let tag = format!("\"{}\"", vdisk.version);
    ([(header::ETAG, tag)], Json(vdisk)).into_response()
}
