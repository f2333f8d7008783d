//! HTTP/1 on a Unix socket. A connection is served only when its peer runs as the same user or as root; a slow or silent
//! one costs itself only: its headers and bodies have deadlines, connections are bounded, and idle ones make room for new ones.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tower::ServiceExt;

use super::places::{Busy, Places};
use crate::node::directory::clear_socket;
use crate::problem::{Answer, Problem};

#[cfg(test)]
mod tests;

/// Connections at once; one more takes the place of an idle one, or waits for one.
const CONNECTIONS_MAX: usize = 128;
/// For all headers of a request, and between two requests.
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// What is under way at a stop may take this long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. It stops when it is asked to or dropped.
pub struct ApiServer {
    path: PathBuf,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// Listens at `path`, which nobody but this user may connect to.
///
/// # Errors
/// `in-use` when something living or foreign is at the path; `internal` with the system's words.
pub fn serve(path: &Path, app: Router) -> Answer<ApiServer> {
    clear_socket(path)?;
    let bind = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = bind()
        .map_err(|error| Problem::new("internal", format!("the API cannot listen at {}: {error}", path.display())))?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, app, HEADER_TIME_MAX, stopped));
    Ok(ApiServer { path: path.to_owned(), stop, task })
}

impl ApiServer {
    /// Takes no more requests, finishes those under way within a bound, and removes the socket.
    pub async fn stop(self) {
        // A server that has already ended has nobody to tell.
        let _ = self.stop.send(true);
        if self.task.await.is_err() {
            tracing::warn!("the API ended badly");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the API's socket was gone");
        }
    }
}

async fn accept(listener: UnixListener, app: Router, header_time: Duration, mut stopped: watch::Receiver<bool>) {
    let places = Places::new(CONNECTIONS_MAX);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the API could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (place, closed) = tokio::select! {
            entered = places.enter() => entered,
            _ = stopped.changed() => break,
        };
        let app = app.clone();
        let may = is_allowed(&stream);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (app, busy) = (app.clone(), place.busy());
            async move {
                if let Err(problem) = may {
                    let refusal = Problem::new("permission", problem).hint("run it as root or as the daemon's user");
                    return Ok::<_, Infallible>(refusal.into_response());
                }
                let answer = app.oneshot(request.map(Body::new)).await?;
                Ok(answer.map(|body| Body::new(Answering { body, _busy: busy })))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_time)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = watched => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection to the API ended badly");
                    }
                }
                _ = closed => tracing::debug!("an idle connection to the API made room for another"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIME_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the API stopped");
    }
}

/// An answer: its connection is busy until hyper has taken the last of it, which it may buffer then.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket's mode says the same; this holds when somebody loosened it.
fn is_allowed(stream: &UnixStream) -> Result<(), &'static str> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => Ok(()),
        Ok(_) => Err("only root and the user that the daemon runs as may use the API"),
        Err(_) => Err("the system does not say who is connected"),
    }
}
