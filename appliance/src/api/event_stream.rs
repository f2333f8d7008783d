//! `/events/stream`: server-sent events. A client that comes back with `Last-Event-ID` goes on where it was, without gap or
//! repeat, after a restart of either side too.
//!
//! Method: the stream is pulled. A client holds a number; what it has not read yet is in the log and nowhere else.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::Params;
use crate::event::{EventLog, EventQuery, check_kind};
use crate::model::{CloudEvent, Severity};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

/// Half of the connections that the API has: the other half always answers.
const STREAMS_MAX: usize = 64;
/// Events read at once.
const PAGE: usize = 64;
/// A comment after so long without an event tells both sides that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(STREAMS_MAX)));

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(stream_events))
}

/// Which events.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Begin after this number; with what comes from now on when absent. `Last-Event-ID` wins.
    after: Option<u64>,
    /// At least this bad.
    severity: Option<Severity>,
    /// Of this kind.
    kind: Option<String>,
    /// Of this object; a pool's name means its vdisks too.
    object: Option<String>,
}

/// Events as they happen, as server-sent events with CloudEvents in them.
#[utoipa::path(get, path = "/events/stream", tag = "event", operation_id = "event_stream",
    params(Asked, ("Last-Event-ID" = Option<String>, Header, description = "the last event that was seen")),
    responses((status = 200, body = CloudEvent, content_type = "text/event-stream"), (status = "default", body = Problem)))]
async fn stream_events(
    State(node): State<NodeLink>,
    Params(asked): Params<Asked>,
    headers: HeaderMap,
) -> Answer<Response> {
    check_kind(asked.kind.as_deref())?;
    let place = PLACES.clone().try_acquire_owned().map_err(|_| {
        Problem::new("overloaded", format!("{STREAMS_MAX} clients are listening, no more can"))
            .hint("plimsoll event list --after SEQ")
    })?;
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok()).filter(|last| !last.is_empty());
    let last = last
        .map(str::parse)
        .transpose()
        .map_err(|_| Problem::new("invalid-request", "Last-Event-ID is not the number of an event"))?;
    let log = node.events().clone();
    let newest = log.newest();
    let position = last.or(asked.after).unwrap_or_else(|| *newest.borrow());
    let query = EventQuery {
        severity: asked.severity,
        kind: asked.kind,
        object: asked.object,
        ..EventQuery::after(position, PAGE)
    };
    // One that cannot be read is told, not listened to.
    log.list(EventQuery { limit: 1, ..query.clone() }).await?;
    let waiting = VecDeque::from([Bytes::from_static(b": events\n\n")]);
    let ended = log.ended();
    let listener = Listener { log, query, newest, ended, known_gap: 0, waiting, _place: place };
    let body = Body::from_stream(stream::unfold(listener, |mut listener| async {
        let chunk = listener.next().await.map_err(|problem| std::io::Error::other(problem.detail)).transpose()?;
        Some((chunk, listener))
    }));
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((head, body).into_response())
}

/// A client that listens.
struct Listener {
    log: EventLog,
    /// Its `after` is the client's number.
    query: EventQuery,
    newest: watch::Receiver<u64>,
    ended: watch::Receiver<bool>,
    /// What is missing up to this one was told.
    known_gap: u64,
    waiting: VecDeque<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next piece; `None` when the daemon stops.
    ///
    /// # Errors
    /// `internal` when the log cannot be read: the stream breaks off, and the client comes back with its number.
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.waiting.pop_front() {
                return Ok(Some(chunk));
            }
            if *self.ended.borrow_and_update() {
                return Ok(None);
            }
            // Seen before the look: what comes during it wakes us again.
            let last = *self.newest.borrow_and_update();
            let page = self.log.list(self.query.clone()).await?;
            // After the page: what is let go after it is found the next time.
            let after = self.query.after;
            if let Some((first, last)) = self.log.gap(after, self.known_gap).await? {
                self.known_gap = last;
                let data = serde_json::json!({ "after": after, "first_missing_seq": first, "last_missing_seq": last });
                self.waiting.push_back(Bytes::from(format!("event: gap\ndata: {data}\n\n")));
            }
            if page.items.is_empty() && self.waiting.is_empty() {
                self.query.after = self.query.after.max(last);
                tokio::select! {
                    _ = self.newest.changed() => {}
                    _ = self.ended.changed() => {}
                    () = tokio::time::sleep(KEEP_ALIVE) => return Ok(Some(Bytes::from_static(b":\n\n"))),
                }
            }
            for event in page.items {
                self.query.after = event.seq;
                let (seq, kind) = (event.seq, event.kind.clone());
                let json = serde_json::to_string(&CloudEvent::from(event))
                    .map_err(|error| Problem::new("internal", format!("event {seq} cannot be written: {error}")))?;
                self.waiting.push_back(Bytes::from(format!("id: {seq}\nevent: {kind}\ndata: {json}\n\n")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::event::NewEvent;

    fn listener(log: &EventLog, after: u64) -> Listener {
        Listener {
            query: EventQuery::after(after, PAGE),
            newest: log.newest(),
            ended: log.ended(),
            log: log.clone(),
            known_gap: 0,
            waiting: VecDeque::new(),
            _place: PLACES.clone().try_acquire_owned().unwrap(),
        }
    }

    async fn append(log: &EventLog, count: usize) {
        for _ in 0..count {
            log.append(vec![NewEvent::new(Severity::Info, "news", "tank")], None).await.unwrap();
        }
    }

    /// The next piece: its kind, its id and its data.
    async fn next(listener: &mut Listener) -> (String, Option<u64>, Value) {
        let piece = tokio::time::timeout(Duration::from_secs(10), listener.next()).await.unwrap().unwrap();
        let piece = String::from_utf8(piece.unwrap().to_vec()).unwrap();
        let line = |name: &str| piece.lines().find_map(|line| line.strip_prefix(name));
        let data = serde_json::from_str(line("data: ").unwrap()).unwrap();
        (line("event: ").unwrap().to_owned(), line("id: ").map(|id| id.parse().unwrap()), data)
    }

    #[test]
    fn a_client_is_told_once_of_what_it_will_never_get_and_gets_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
            let log = EventLog::open(dir.path()).unwrap();
            log.set_keep(50);
            append(&log, 200).await;
            let pruned = log.summary().pruned_seq;
            // One that has been away, with `Last-Event-ID: 3`.
            let mut client = listener(&log, 3);
            let (kind, id, data) = next(&mut client).await;
            assert_eq!((kind.as_str(), id), ("gap", None));
            let expected = serde_json::json!({ "after": 3, "first_missing_seq": 4, "last_missing_seq": pruned });
            assert_eq!(data, expected);
            for seq in pruned + 1..=200 {
                let (kind, id, data) = next(&mut client).await;
                assert_eq!((kind.as_str(), id, &data["data"]["seq"]), ("news", Some(seq), &seq.into()));
            }
            // One that listens all the time and does not read meanwhile.
            append(&log, 200).await;
            let pruned = log.summary().pruned_seq;
            let (kind, _, data) = next(&mut client).await;
            let range = (data["first_missing_seq"].as_u64(), data["last_missing_seq"].as_u64());
            assert_eq!((kind.as_str(), range), ("gap", (Some(201), Some(pruned))));
            assert_eq!(next(&mut client).await.1, Some(pruned + 1));
            // One that has all that is there is told of nothing.
            let mut other = listener(&log, 400);
            append(&log, 1).await;
            assert_eq!(next(&mut other).await.1, Some(401));
        });
    }

    #[test]
    fn a_log_that_cannot_be_read_breaks_the_stream_off_and_one_that_ends_ends_it() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let log = EventLog::open(dir.path()).unwrap();
            append(&log, 500).await;
            drop(log);
            let log = EventLog::open(dir.path()).unwrap();
            let mut client = listener(&log, 500);
            log.end();
            assert!(matches!(client.next().await, Ok(None)));
            let log = {
                drop((client, log));
                EventLog::open(dir.path()).unwrap()
            };
            std::fs::File::options().write(true).open(dir.path().join("events.redb")).unwrap().set_len(4096).unwrap();
            assert_eq!(listener(&log, 0).next().await.unwrap_err().code, "internal");
        });
    }
}
