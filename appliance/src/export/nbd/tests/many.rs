//! A node with as many exports as a pool is promised to hold. What a handshake costs the thread that serves I/O must not
//! grow with them, but for a LIST, and with the number of clients not at all.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plimsoll_hardware::{Listener, Machine, Reactor, ReactorConfig};
use tokio::sync::oneshot;

use super::super::NbdLimits;
use super::client::*;
use crate::model::{CreatePool, CreateVdisk};
use crate::node::{Listening, Node};

const EXPORTS: usize = 10_000;
const CLIENTS: usize = 200;
/// On a machine that is very busy; alone each of the rounds below takes a thirtieth of it.
const PATIENCE: Duration = Duration::from_secs(10);

async fn fill(node: &Node, device: &Path) {
    let pool = CreatePool {
        name: "tank".into(),
        devices: vec![device.display().to_string()],
        extent_bytes: None,
        force: Vec::new(),
        buffered: true,
    };
    node.create_pool(pool).await.unwrap();
    // Side by side, because each of them waits for a flush.
    let (next, missing) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(EXPORTS)));
    for _ in 0..100 {
        let (node, next, missing) = (node.clone(), next.clone(), missing.clone());
        node.clone().machine().spawn(async move {
            while next.get() < EXPORTS {
                let name = format!("disk{}", next.replace(next.get() + 1));
                let vdisk = CreateVdisk {
                    name,
                    designated_bytes: 1 << 20,
                    sector_bytes: None,
                    write_cache: None,
                    policy: Default::default(),
                };
                node.create_vdisk("tank", vdisk).await.unwrap();
                missing.set(missing.get() - 1);
            }
        });
    }
    while missing.get() > 0 {
        node.machine().sleep(Duration::from_millis(5)).await;
    }
}

fn connect(path: &Path) -> Client {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    Client::greet(stream)
}

/// How long `rounds` of `work` take.
fn timed(what: &str, rounds: usize, mut work: impl FnMut(usize)) {
    let start = Instant::now();
    (0..rounds).for_each(&mut work);
    println!("{rounds} times {what}: {:?}", start.elapsed());
    assert!(start.elapsed() < PATIENCE, "{rounds} times {what} took {:?}", start.elapsed());
}

fn ask(path: &Path) {
    let mut established = Vec::new();
    for number in 0..CLIENTS {
        let mut client = connect(path);
        client.go(&format!("tank/disk{number}"));
        established.push(client);
    }
    let info = |name: &str| [named(name), vec![0, 0]].concat();
    for names in [["tank/disk1", "tank/disk9999"], ["tank/none", "tank/dead"]] {
        timed(&format!("INFO of {} and {}", names[0], names[1]), 1000, |round| {
            // The limit of options is not what is measured.
            if round % 30 == 0 {
                established[0] = connect(path);
            }
            names.iter().for_each(|name| drop(established[0].option(6, &info(name))));
        });
    }
    timed("LIST", 16, |round| {
        if round % 8 == 0 {
            established[0] = connect(path);
        }
        assert_eq!(established[0].option(3, &[]).len(), EXPORTS + 1);
    });
    established[0].put_option(3, &[]);
    assert!(established[0].is_closed(), "a client may LIST a few times");
    let mut client = connect(path);
    for _ in 0..8 {
        assert_eq!(client.option(6, &info("")).last().map(|reply| reply.0), Some(ERROR | 6), "there is no only one");
    }
    client.put_option(6, &info(""));
    assert!(client.is_closed(), "the empty name means a look at all exports too");
    timed("a write beside all that", 1, |_| established[7].write(0, &[1; 4096]));
}

#[test]
fn ten_thousand_exports_and_many_clients_make_a_handshake_no_dearer() {
    let dir = tempfile::tempdir().unwrap();
    let (state, socket): (PathBuf, PathBuf) = (dir.path().to_owned(), dir.path().join("nbd.sock"));
    let device = dir.path().join("device");
    std::fs::File::create(&device).unwrap().set_len(512 << 20).unwrap();
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let at = socket.clone();
    let server = std::thread::spawn(move || {
        let reactor = Reactor::new(ReactorConfig::default()).unwrap();
        let node = Node::new(reactor.handle(), &state, None).unwrap();
        reactor.block_on(async {
            fill(&node, &device).await;
            let listener = Listener::bind_unix(node.machine(), &at).unwrap();
            node.serve_nbd(listener, Listening::Unix(at), &NbdLimits::default());
            ready.send(()).unwrap();
            stopped.await.unwrap_or_default();
            let start = Instant::now();
            assert_eq!(node.exports().unwrap().len(), EXPORTS);
            assert_eq!(node.vdisks(None).unwrap().len(), EXPORTS);
            assert!(start.elapsed() < PATIENCE, "the lists of the API took {:?}", start.elapsed());
            node.close().await.unwrap();
        });
    });
    is_ready.recv().unwrap();
    ask(&socket);
    drop(stop);
    server.join().unwrap();
}
