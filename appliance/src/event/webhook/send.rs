//! One attempt to deliver one event: a connection, a request, a status.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{Method, Request, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::sign::signature;
use super::url::Target;
use crate::model::CloudEvent;

/// Answers the status if the event was taken.
///
/// # Errors
/// Why it was not, in words.
pub(super) async fn post(target: &Target, secret: &str, event: &CloudEvent, timeout: Duration) -> Result<u16, String> {
    let attempt = async {
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(|error| format!("{} is not reachable: {error}", target.authority))?;
        let body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = Request::builder()
            .method(Method::POST)
            .uri(target.path.as_str())
            .header(header::HOST, target.authority.as_str())
            .header(header::USER_AGENT, concat!("plimsoll/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/cloudevents+json")
            .header(header::CONNECTION, "close")
            .header("Plimsoll-Event-Id", event.id.as_str())
            .header("Plimsoll-Timestamp", now)
            .header("Plimsoll-Signature", signature(secret, now, &body))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("the connection failed: {error}"))?;
        // Its failure is the request's failure, too; it ends with the guard.
        let _connection = Guard(tokio::spawn(connection));
        let answer = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        match answer.status() {
            status if status.is_success() => Ok(status.as_u16()),
            status => Err(format!("it answered {status}")),
        }
    };
    let late = |_| format!("no answer within {} s", timeout.as_secs_f64());
    tokio::time::timeout(timeout, attempt).await.map_err(late)?
}

/// A task that ends with this.
struct Guard<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
