//! The API over its Unix socket, through the client of the command line, against a node with real files.

mod asking;
mod metrics;
mod reclaiming;
mod refusing;
mod telling;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use plimsoll_hardware::{Reactor, ReactorConfig};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::client::{Client, Request};
use super::job::watch_answer;
use crate::api;
use crate::event::EventLog;
use crate::node::Node;
use crate::node::directory::control_socket;

const DEVICE_BYTES: u64 = 128 << 20;

/// A daemon in a thread; closed cleanly when dropped.
struct Daemon {
    client: Client,
    events: EventLog,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (started, ready) = mpsc::channel();
        let state: PathBuf = dir.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let config = ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() };
            let reactor = Reactor::new(config).unwrap();
            let node = Node::new(reactor.handle(), &state, None).unwrap();
            reactor.block_on(async {
                node.open_known_pools().await;
                let server = {
                    let _inside = runtime.enter();
                    api::serve(&control_socket(&state), api::router(node.link())).unwrap()
                };
                node.set_ready();
                started.send(node.events().clone()).unwrap();
                stopped.await.unwrap();
                node.events().end();
                let (done, ended) = oneshot::channel();
                runtime.spawn(async move {
                    server.stop().await;
                    done.send(()).unwrap();
                });
                ended.await.unwrap();
                node.close().await.unwrap();
            });
        });
        let events = ready.recv().unwrap();
        Self { client: Client::new(dir), events, stop: Some(stop), thread: Some(thread) }
    }

    fn get(&self, target: &str) -> Value {
        self.client.get(target).unwrap_or_else(|problem| panic!("{target}: {problem:?}"))
    }

    fn send(&self, method: &'static str, target: &str, body: Value) -> Result<Value, String> {
        // A new client: the idempotency key is one per command.
        let client = Client::new(self.client.dir());
        client.send(Request::new(method, target).body(&body).unwrap()).map_err(|problem| problem.code)
    }

    fn make_pool(&self, dir: &Path) -> PathBuf {
        let device = dir.join("a.img");
        std::fs::File::create(&device).unwrap().set_len(DEVICE_BYTES).unwrap();
        let made = self.send("POST", "/api/v1/pools", json!({"name": "tank", "devices": [device], "buffered": true}));
        assert_eq!(made.unwrap()["state"], "online");
        device
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let stopped = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!((stopped, ended), (Some(Ok(())), Some(Ok(())))), "the daemon ended badly");
        }
    }
}

#[test]
fn pools_and_vdisks_are_made_listed_changed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let vdisks = "/api/v1/pools/tank/vdisks";
    let plan =
        daemon.send("POST", &format!("{vdisks}?dry_run=true"), json!({"name": "a", "designated_bytes": 1 << 30}));
    assert_eq!(plan.unwrap()["schema"], "plan/v1");
    assert_eq!(daemon.get(vdisks)["items"], json!([]));
    let made = daemon.send("POST", vdisks, json!({"name": "a", "designated_bytes": 1 << 30})).unwrap();
    assert_eq!(
        (&made["name"], &made["sector_bytes"], &made["quota_bytes"]),
        (&json!("tank/a"), &json!(512), &json!(null))
    );
    assert_eq!(daemon.send("POST", vdisks, json!({"name": "a", "designated_bytes": 1})), Err("exists".into()));
    let list = daemon.get("/api/v1/vdisks");
    assert_eq!((&list["schema"], list["items"].as_array().map(Vec::len)), (&json!("vdisk.list/v1"), Some(1)));
    let by_uuid = daemon.get(&format!("{vdisks}/{}", made["uuid"].as_str().unwrap()));
    assert_eq!(by_uuid, made);
    let grown = daemon.send("PATCH", &format!("{vdisks}/a"), json!({"designated_bytes": 2_u64 << 30})).unwrap();
    assert_eq!(grown["designated_bytes"], json!(2_u64 << 30));
    assert_ne!(grown["version"], made["version"]);
    let stale =
        Client::new(dir.path()).send(Request::new("DELETE", &format!("{vdisks}/a")).if_match(made["version"].as_str()));
    assert_eq!(stale.map_err(|problem| problem.code), Err("version-mismatch".into()));
    assert!(daemon.send("DELETE", "/api/v1/pools/tank", json!({})).is_err_and(|code| code == "not-empty"));
    daemon.send("DELETE", &format!("{vdisks}/a"), json!({})).unwrap();
    let job = daemon.send("POST", "/api/v1/pools/tank/check", json!({})).unwrap();
    assert_eq!(watch_answer(&daemon.client, &job).unwrap()["check"]["clean"], json!(true));
    assert_eq!(daemon.get("/api/v1/status")["health"], "ok");
}

#[test]
fn a_restart_finds_its_pools_also_when_a_device_was_renamed_and_says_so_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let device = daemon.make_pool(dir.path());
    daemon.send("POST", "/api/v1/pools/tank/vdisks", json!({"name": "a", "designated_bytes": 1 << 30})).unwrap();
    daemon.send("DELETE", "/api/v1/exports/nbd/tank/a", json!({})).unwrap();
    drop(daemon);
    let renamed = dir.path().join("b.img");
    std::fs::rename(&device, &renamed).unwrap();
    let daemon = Daemon::start(dir.path());
    let pool = daemon.get("/api/v1/pools/tank");
    assert_eq!((&pool["state"], &pool["devices"][0]["path"]), (&json!("online"), &json!(renamed)));
    assert_eq!(daemon.get("/api/v1/exports")["items"][0]["visible"], json!(false));
    drop(daemon);
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("c.img");
    std::fs::copy(&renamed, &moved).unwrap();
    std::fs::remove_file(&renamed).unwrap();
    let daemon = Daemon::start(dir.path());
    let pool = daemon.get("/api/v1/pools/tank");
    assert_eq!((&pool["state"], &pool["reason_code"]), (&json!("unavailable"), &json!("device-missing")));
    assert!(pool["reason"].as_str().is_some_and(|reason| reason.contains("b.img")), "{pool}");
    assert_eq!(pool["physical_bytes"], json!(null));
    let status = daemon.get("/api/v1/status");
    assert_eq!((&status["health"], &status["findings"][0]["object"]), (&json!("critical"), &json!("tank")));
    assert!(daemon.send("GET", "/api/v1/pools/tank/vdisks", json!({})).is_err_and(|code| code == "unavailable"));
    let again = daemon.send("POST", "/api/v1/pools/import", json!({"name": "tank"}));
    assert_eq!(again.map(|_| ()), Err("device-missing".to_owned()));
    let import = json!({"paths": [&moved], "buffered": true});
    assert_eq!(daemon.send("POST", "/api/v1/pools/import", import).unwrap()["state"], "online");
    assert_eq!(daemon.get("/api/v1/vdisks")["items"][0]["name"], "tank/a");
    daemon.send("POST", "/api/v1/pools/tank/export", json!({})).unwrap();
    assert_eq!(daemon.get("/api/v1/pools")["items"], json!([]));
}

#[test]
fn a_device_that_was_added_is_found_under_another_name_too() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let (second, renamed) = (dir.path().join("b.img"), dir.path().join("c.img"));
    std::fs::File::create(&second).unwrap().set_len(DEVICE_BYTES).unwrap();
    let added = daemon.send("POST", "/api/v1/pools/tank/devices", json!({"path": &second, "buffered": true})).unwrap();
    assert_eq!(added["devices"].as_array().map(Vec::len), Some(2));
    drop(daemon);
    std::fs::rename(&second, &renamed).unwrap();
    let daemon = Daemon::start(dir.path());
    let pool = daemon.get("/api/v1/pools/tank");
    assert_eq!((&pool["state"], &pool["devices"][1]["path"]), (&json!("online"), &json!(renamed)));
    daemon.send("POST", "/api/v1/pools/tank/export", json!({})).unwrap();
    let import = json!({"paths": [dir.path().join("a.img")], "buffered": true});
    assert_eq!(daemon.send("POST", "/api/v1/pools/import", import).unwrap()["state"], "online");
}

#[test]
fn a_deleted_pool_leaves_devices_that_can_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let device = daemon.make_pool(dir.path());
    daemon.send("DELETE", "/api/v1/pools/tank", json!({})).unwrap();
    assert_eq!(daemon.get("/api/v1/pools")["items"], json!([]));
    let import = daemon.send("POST", "/api/v1/pools/import", json!({"paths": [&device], "buffered": true}));
    assert_eq!(import.map(|_| ()), Err("not-a-pool".to_owned()));
    daemon.make_pool(dir.path());
}
