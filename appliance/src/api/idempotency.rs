//! `Idempotency-Key`: a request that is sent again with the same key gets the first answer again, and nothing is done
//! twice. Keys live in memory: at most [`KEYS_MAX`] of them, the oldest forgotten first, all of them at a restart.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::BODY_BYTES_MAX;
use crate::problem::Problem;

/// Answers are a few KiB at most, so this is a few MiB.
const KEYS_MAX: usize = 1000;
/// As a UUID, with room to spare.
const KEY_BYTES_MAX: usize = 128;

/// The answers that were given.
#[derive(Clone, Default)]
pub(super) struct Replies {
    /// Held while a request with a key is done, so that its twin waits for it.
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<String, Reply>,
    order: VecDeque<String>,
}

struct Reply {
    /// Of the request: method, target and body.
    request: u32,
    status: StatusCode,
    headers: HeaderMap,
    body: axum::body::Bytes,
}

type Answered = Pin<Box<dyn Future<Output = Response> + Send>>;

impl Replies {
    /// As a layer of axum.
    pub(super) fn layer(self) -> impl Fn(Request, Next) -> Answered + Clone {
        move |request, next| Box::pin(self.clone().answer(request, next))
    }

    async fn answer(self, request: Request, next: Next) -> Response {
        let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        let Some(key) = key.filter(|_| *request.method() != Method::GET) else { return next.run(request).await };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let detail = format!("the Idempotency-Key has {} bytes, 1 to {KEY_BYTES_MAX} can be", key.len());
            return Problem::new("invalid-request", detail).into_response();
        }
        let mut kept = self.kept.lock().await;
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
            let detail = format!("the body has more than {BODY_BYTES_MAX} bytes");
            return Problem::new("too-large", detail).into_response();
        };
        let mut hash = crc32fast::Hasher::new();
        hash.update(format!("{} {}\n", parts.method, parts.uri).as_bytes());
        hash.update(&body);
        let fingerprint = hash.finalize();
        if let Some(reply) = kept.by_key.get(&key) {
            if reply.request != fingerprint {
                let detail = format!("the Idempotency-Key {key} was used for another request");
                return Problem::new("conflict", detail).into_response();
            }
            return (reply.status, reply.headers.clone(), reply.body.clone()).into_response();
        }
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, usize::MAX).await else {
            return Problem::new("internal", "the answer could not be kept").into_response();
        };
        if !parts.status.is_server_error() {
            kept.keep(
                key,
                Reply {
                    request: fingerprint,
                    status: parts.status,
                    headers: parts.headers.clone(),
                    body: body.clone(),
                },
            );
        }
        Response::from_parts(parts, Body::from(body))
    }
}

impl Kept {
    fn keep(&mut self, key: String, reply: Reply) {
        self.by_key.insert(key.clone(), reply);
        self.order.push_back(key);
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}
