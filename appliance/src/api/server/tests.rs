//! Connections over a real socket: who makes room for whom when there are too many.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as Client;
use std::sync::Arc;

use axum::routing::get;
use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::{Machine as _, Reactor, ReactorConfig};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::*;
use crate::api::router;
use crate::node::Node;

/// Longer than a test lives: no connection is closed for its headers' sake.
const LONG: Duration = Duration::from_secs(3600);
/// What has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of `app` that lives as long as what is answered.
fn served(path: &Path, app: Router) -> (Runtime, watch::Sender<bool>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = watch::channel(false);
    let listener = runtime.block_on(async { UnixListener::bind(path).unwrap() });
    runtime.spawn(accept(listener, app, LONG, stopped));
    (runtime, stop)
}

fn connect(path: &Path, said: &str) -> Client {
    let mut client = Client::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(said.as_bytes()).unwrap();
    client
}

fn ask(path: &Path, target: &str) -> Client {
    connect(path, &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// Reads until `words` have come.
#[track_caller]
fn expect(client: &mut Client, words: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(words) {
        let mut bytes = [0; 4096];
        let read = client.read(&mut bytes).unwrap_or_else(|error| panic!("{error} before {words}"));
        assert!(read > 0, "it was closed before {words}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes[..read]);
    }
}

/// Waits for the end of a connection.
#[track_caller]
fn expect_end(client: &mut Client) {
    assert!(matches!(client.read(&mut [0; 64]), Ok(0)), "it goes on");
}

/// Whether a connection was not closed, and nothing came over it.
fn is_open(client: &mut Client) -> bool {
    client.set_nonblocking(true).unwrap();
    client.read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn connections_that_are_silent_make_room_for_who_asks_for_the_status_the_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
    let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
    let _server = served(&path, router(node.link()));
    reactor.block_on(async {
        let clients = std::thread::spawn(move || {
            // Without a word, or with headers that do not end.
            let said = ["", "GET /api/v1/status HTTP/1.1\r\nHost: "];
            let mut silent: Vec<Client> =
                (0..CONNECTIONS_MAX + 2).map(|index| connect(&path, said[index % 2])).collect();
            let mut asking: Vec<Client> = (0..3).map(|_| ask(&path, "/api/v1/status")).collect();
            asking.iter_mut().for_each(|client| expect(client, "\"schema\":\"status/v1\""));
            silent[..5].iter_mut().for_each(expect_end);
            let open = silent[5..].iter_mut().filter_map(|client| is_open(client).then_some(())).count();
            assert_eq!(open, CONNECTIONS_MAX - 3);
            assert!(asking.iter_mut().all(is_open), "who was answered is younger");
        });
        while !clients.is_finished() {
            node.machine().sleep(Duration::from_millis(1)).await;
        }
        clients.join().unwrap();
        node.close().await.unwrap();
    });
}

#[test]
fn what_is_under_way_keeps_its_place_and_a_new_client_gets_the_first_that_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (arrived, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let endless = || async {
        let first = stream::iter([Ok::<_, Infallible>("first\n")]);
        Body::from_stream(first.chain(stream::pending()))
    };
    let slow = {
        let (arrived, go_on) = (arrived.clone(), go_on.clone());
        move || async move {
            arrived.add_permits(1);
            go_on.acquire().await.unwrap().forget();
            "slow"
        }
    };
    let app = Router::new()
        .route("/endless", get(endless))
        .route("/slow", get(slow))
        .route("/quick", get(|| async { "quick" }));
    let (runtime, _stop) = served(&path, app);
    let mut streams: Vec<Client> = (0..CONNECTIONS_MAX / 2).map(|_| ask(&path, "/endless")).collect();
    streams.iter_mut().for_each(|stream| expect(stream, "first"));
    let mut requests: Vec<Client> = (0..CONNECTIONS_MAX / 2).map(|_| ask(&path, "/slow")).collect();
    let all = u32::try_from(requests.len()).unwrap();
    runtime.block_on(async { arrived.acquire_many(all).await.unwrap().forget() });
    // All places are taken by what is under way.
    let mut late = ask(&path, "/quick");
    drop(streams.pop());
    expect(&mut late, "quick");
    // Now the idle one is that of the client before.
    expect(&mut ask(&path, "/quick"), "quick");
    expect_end(&mut late);
    assert!(streams.iter_mut().chain(&mut requests).all(is_open), "something under way was ended");
    requests.iter_mut().for_each(|request| request.set_nonblocking(false).unwrap());
    go_on.add_permits(requests.len());
    requests.iter_mut().for_each(|request| expect(request, "slow"));
}
