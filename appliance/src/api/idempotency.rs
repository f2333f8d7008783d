//! `Idempotency-Key`: a request that is sent again with the same key gets the first answer again, and nothing is done
//! twice. Keys live in memory: at most [`KEYS_MAX`] of them with [`BYTES_MAX`] of answers, the oldest forgotten first, all
//! of them at a restart.
//!
//! Method: each key has a place, locked while its request is done, so that its twin waits and nobody else does. The
//! body is here, within its deadline, before any place is looked for: a client that stops half-way holds nothing. What
//! was begun is done in a task of its own: when its client goes away, the twin still finds the answer. What had not begun
//! by then is not done (`waiting.rs`), and the twin does it.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::extract::read_body;
use crate::node::{asked_by, asker};
use crate::problem::Problem;

const KEYS_MAX: usize = 1000;
/// Of all answers together; most have less than 1 KiB, that about a pool of a thousand devices has 300 KiB.
const BYTES_MAX: usize = 16 << 20;
/// As a UUID, with room to spare.
const KEY_BYTES_MAX: usize = 128;

/// The answers that were given.
#[derive(Clone, Default)]
pub(super) struct Replies {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    places: HashMap<String, Place>,
    /// Keys with an answer, the oldest first, and the bytes of each.
    order: VecDeque<(String, usize)>,
    bytes: usize,
}

/// Where a key's answer is, or will be. In the map while it is wanted: it has an answer, or somebody works on one.
type Place = Arc<tokio::sync::Mutex<Option<Reply>>>;

struct Reply {
    /// Of the request: method, target and body.
    request: u32,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
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
        let (parts, body) = request.into_parts();
        let body = match read_body(Request::from_parts(parts.clone(), body)).await {
            Ok(body) => body,
            Err(problem) => return problem.into_response(),
        };
        let mut hash = crc32fast::Hasher::new();
        hash.update(format!("{} {}\n", parts.method, parts.uri).as_bytes());
        hash.update(&body);
        let request = Request::from_parts(parts, Body::from(body));
        let once = self.once(key, hash.finalize(), request, next);
        match tokio::spawn(asked_by(asker(), once)).await {
            Ok(response) => response,
            Err(_) => Problem::new("internal", "the request ended badly").into_response(),
        }
    }

    /// Does a request, or answers what was answered to its twin.
    async fn once(self, key: String, fingerprint: u32, request: Request, next: Next) -> Response {
        let place = self.with(|kept| kept.places.entry(key.clone()).or_default().clone());
        let mut answered = place.lock().await;
        if let Some(reply) = &*answered {
            if reply.request != fingerprint {
                let detail = format!("the Idempotency-Key {key} was used for another request");
                return Problem::new("conflict", detail).into_response();
            }
            return (reply.status, reply.headers.clone(), reply.body.clone()).into_response();
        }
        let (parts, body) = next.run(request).await.into_parts();
        // Our own handlers made it, in memory already.
        let Ok(body) = to_bytes(body, usize::MAX).await else {
            self.with(|kept| kept.places.remove(&key));
            return Problem::new("internal", "the answer could not be kept").into_response();
        };
        if parts.status.is_server_error() {
            self.with(|kept| kept.places.remove(&key));
        } else {
            let (status, headers) = (parts.status, parts.headers.clone());
            *answered = Some(Reply { request: fingerprint, status, headers, body: body.clone() });
            self.with(|kept| kept.keep(key, body.len()));
        }
        Response::from_parts(parts, Body::from(body))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        // Each change is one step, so a panic elsewhere has left nothing half done.
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn keep(&mut self, key: String, bytes: usize) {
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.order.len() > KEYS_MAX || self.bytes > BYTES_MAX {
            let Some((oldest, bytes)) = self.order.pop_front() else { return };
            self.bytes -= bytes;
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_answers_are_forgotten_when_there_are_too_many_keys_or_bytes() {
        let mut kept = Kept::default();
        let put = |kept: &mut Kept, number: usize, bytes| {
            kept.places.insert(number.to_string(), Place::default());
            kept.keep(number.to_string(), bytes);
        };
        (0..KEYS_MAX + 10).for_each(|number| put(&mut kept, number, 100));
        assert_eq!((kept.places.len(), kept.bytes), (KEYS_MAX, 100 * KEYS_MAX));
        assert!(!kept.places.contains_key("9") && kept.places.contains_key("10"));
        (0..20).for_each(|number| put(&mut kept, 5000 + number, 1 << 20));
        assert_eq!((kept.places.len(), kept.bytes), (16, BYTES_MAX));
    }
}
