//! The API over its Unix socket, through the client of the command line, against a node with real files.

mod metrics;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_hardware::{Reactor, ReactorConfig};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::client::{Client, Request};
use super::job::watch_answer;
use crate::api;
use crate::event::{EventLog, NewEvent};
use crate::model::Severity;
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
fn what_makes_no_sense_is_refused_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let device = daemon.make_pool(dir.path());
    let foreign = dir.path().join("foreign.img");
    let mut bytes = vec![0; DEVICE_BYTES as usize];
    bytes[1080..1082].copy_from_slice(b"\x53\xef");
    std::fs::write(&foreign, bytes).unwrap();
    let small = dir.path().join("small.img");
    std::fs::write(&small, vec![0; 64 << 10]).unwrap();
    let pool = |name: &str, device: &Path| json!({"name": name, "devices": [device], "buffered": true});
    let cases = [
        (pool("b", dir.path()), "not-a-device"),
        (pool("b", Path::new("/dev/null")), "not-a-device"),
        (pool("b", &dir.path().join("none")), "not-found"),
        (pool("b", &foreign), "in-use"),
        (pool("b", &device), "in-use"),
        (pool("b", &small), "too-small"),
        (pool("../b", &foreign), "invalid-name"),
        (pool("tank", &foreign), "exists"),
        (json!({"name": "b", "devices": []}), "invalid-argument"),
        (json!({"name": "b", "devices": [&foreign], "extent_bytes": 100}), "invalid-argument"),
        (json!({"name": "b", "devices": [&foreign], "froce": []}), "invalid-request"),
        (json!({"name": "b", "devices": [&foreign], "force": ["x"]}), "invalid-argument"),
        (json!(7), "invalid-request"),
    ];
    for (request, code) in cases {
        let answer = daemon.send("POST", "/api/v1/pools", request.clone());
        assert_eq!(answer.map(|_| ()), Err(code.to_owned()), "{request}");
    }
    let vdisks = "/api/v1/pools/tank/vdisks";
    for size in [0_u64, 1000, (16 << 50) + 512, u64::MAX] {
        let answer = daemon.send("POST", vdisks, json!({"name": "a", "designated_bytes": size}));
        assert_eq!(answer.map(|_| ()), Err("invalid-argument".to_owned()), "{size}");
    }
    let odd = json!({"name": "a", "designated_bytes": 4096, "sector_bytes": 1024});
    assert_eq!(daemon.send("POST", vdisks, odd).map(|_| ()), Err("invalid-argument".to_owned()));
    let large = json!({"name": "x".repeat(api::BODY_BYTES_MAX), "designated_bytes": 1});
    assert_eq!(daemon.send("POST", vdisks, large).map(|_| ()), Err("too-large".to_owned()));
    assert_eq!(daemon.send("PUT", vdisks, json!({})).map(|_| ()), Err("method-not-allowed".to_owned()));
    assert_eq!(daemon.send("GET", "/api/v1/nothing", json!({})).map(|_| ()), Err("not-found".to_owned()));
    let forced = json!({"name": "b", "devices": [&foreign], "force": ["foreign"], "buffered": true});
    assert_eq!(daemon.send("POST", "/api/v1/pools", forced).unwrap()["name"], "b");
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
fn a_request_that_is_sent_twice_with_one_key_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let vdisks = "/api/v1/pools/tank/vdisks";
    let body = json!({"name": "a", "designated_bytes": 4096});
    let client = Client::new(dir.path());
    let send = |body: &Value| client.send(Request::new("POST", vdisks).body(body).unwrap());
    let first = send(&body).unwrap();
    assert_eq!(send(&body).unwrap(), first);
    let other = send(&json!({"name": "b", "designated_bytes": 4096}));
    assert_eq!(other.map_err(|problem| problem.code), Err("conflict".into()));
}

#[test]
fn a_client_that_sends_no_body_holds_nobody_up_and_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let vdisks = "/api/v1/pools/tank/vdisks";
    let body = json!({"name": "a", "designated_bytes": 4096}).to_string();
    let mut silent = UnixStream::connect(control_socket(dir.path())).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = |key: &str| {
        let head = format!("POST {vdisks} HTTP/1.1\r\nHost: plimsoll\r\nIdempotency-Key: {key}\r\n");
        format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
    };
    silent.write_all(head("twin").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    daemon.send("POST", vdisks, json!({"name": "b", "designated_bytes": 4096})).unwrap();
    let mut twin = UnixStream::connect(control_socket(dir.path())).unwrap();
    twin.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    twin.write_all((head("twin") + &body).as_bytes()).unwrap();
    let mut status = [0; 12];
    twin.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 201");
    assert!(start.elapsed() < Duration::from_secs(5), "held up for {:?}", start.elapsed());
    silent.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 504");
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

impl Daemon {
    fn tell(&self, count: usize, severity: Severity) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for index in 0..count {
            let event = NewEvent::new(severity, "test-event", "tank").figure("index", index).advice("do something");
            runtime.block_on(self.events.append(vec![event], None)).unwrap();
        }
    }

    /// The numbers of `count` events of the stream.
    fn listen(&self, target: &str, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        let take = |line: &str| {
            if let Some(data) = line.strip_prefix("data: ") {
                let event: Value = serde_json::from_str(data).unwrap();
                assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("io.plimsoll.test-event")));
                assert_eq!(event["id"], event["data"]["id"]);
                seqs.push(event["data"]["seq"].as_u64().unwrap());
            }
            Ok(seqs.len() < count)
        };
        self.client.stream(target, take).unwrap();
        seqs
    }
}

#[test]
fn a_stream_of_events_goes_on_where_it_was_without_gap_or_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let stream = "/api/v1/events/stream";
    {
        let daemon = Daemon::start(dir.path());
        daemon.tell(5, Severity::Warning);
        assert_eq!(daemon.listen(&format!("{stream}?after=0"), 5), [1, 2, 3, 4, 5]);
        // While somebody listens.
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| daemon.listen(&format!("{stream}?after=5&severity=critical"), 100));
            for _ in 0..100 {
                daemon.tell(1, Severity::Critical);
                daemon.tell(1, Severity::Info);
            }
            let expected: Vec<u64> = (0..100).map(|index| 6 + 2 * index).collect();
            assert_eq!(listener.join().unwrap(), expected);
        });
        // The header of a browser that comes back wins.
        let mut socket = UnixStream::connect(control_socket(dir.path())).unwrap();
        let request = format!("GET {stream}?after=0 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 204\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        while !text.contains("data: ") {
            let mut bytes = [0; 1000];
            let read = socket.read(&mut bytes).unwrap();
            text += std::str::from_utf8(&bytes[..read]).unwrap();
        }
        assert!(text.contains("text/event-stream") && text.contains("id: 205\nevent: test-event\ndata: "), "{text}");
        assert!(!text.contains("id: 204\n"));
        // It still listens when the daemon stops, which is no reason to wait.
        let begin = Instant::now();
        drop(daemon);
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    }
    let daemon = Daemon::start(dir.path());
    daemon.tell(2, Severity::Warning);
    assert_eq!(daemon.listen(&format!("{stream}?after=204"), 3), [205, 206, 207]);
    assert_eq!(daemon.client.stream(&format!("{stream}?after=x"), |_| Ok(true)).unwrap_err().code, "invalid-request");
}

#[test]
fn events_are_listed_shown_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    assert_eq!(daemon.get("/api/v1/events"), json!({"schema": "event.list/v1", "items": [], "next": null}));
    daemon.tell(3, Severity::Warning);
    daemon.tell(2, Severity::Critical);
    let page = daemon.get("/api/v1/events?limit=2");
    assert_eq!((&page["next"], page["items"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    for name in ["seq", "time", "severity", "kind", "object", "advice", "acknowledged_at", "vm"] {
        assert!(page["items"][0].get(name).is_some(), "{name} is missing");
    }
    let third = daemon.get("/api/v1/events/3");
    assert_eq!(daemon.get(&format!("/api/v1/events/{}", third["id"].as_str().unwrap())), third);
    let refused = |target: &str| daemon.client.get(target).unwrap_err().code;
    assert_eq!(refused("/api/v1/events/99"), "not-found");
    assert_eq!(refused("/api/v1/events/nonsense"), "not-found");
    assert_eq!(refused("/api/v1/events?limit=0"), "invalid-request");
    assert_eq!(refused("/api/v1/events?severity=awful"), "invalid-request");
    let status = daemon.get("/api/v1/status");
    assert_eq!((&status["unacknowledged_warnings"], &status["unacknowledged_criticals"]), (&json!(3), &json!(2)));
    let acknowledge = "/api/v1/events/acknowledge";
    let plan = daemon.send("POST", &format!("{acknowledge}?dry_run=true"), json!({"up_to": 2})).unwrap();
    assert_eq!(plan["steps"], json!(["acknowledge 2 events"]));
    let done = daemon.send("POST", acknowledge, json!({"up_to": 2, "by": "anna"})).unwrap();
    assert_eq!((&done["acknowledged"], &done["unacknowledged_warnings"]), (&json!(2), &json!(1)));
    assert_eq!(daemon.get("/api/v1/events/2")["acknowledged_by"], "anna");
    assert_eq!(daemon.send("POST", acknowledge, json!({})), Err("invalid-request".into()));
    let open_ones = daemon.get("/api/v1/events?unacknowledged=true&severity=critical");
    assert_eq!(open_ones["items"].as_array().map(Vec::len), Some(2));
}

#[test]
fn patterns_are_added_and_removed_and_a_vdisk_is_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let (patterns, vdisk) = ("/api/v1/pools/tank/patterns", "/api/v1/pools/tank/vdisks/a");
    let plan = daemon.send("POST", &format!("{patterns}?dry_run=true"), json!({"unit_hex": "a5"})).unwrap();
    assert_eq!((&plan["schema"], daemon.get(patterns)["items"].clone()), (&json!("plan/v1"), json!([])));
    let added = daemon.send("POST", patterns, json!({"unit_hex": "706c696d"})).unwrap();
    assert_eq!(
        (&added["name"], &added["use"], &added["unit_bytes"]),
        (&json!("tank/1"), &json!("everywhere"), &json!(4))
    );
    assert_eq!(daemon.send("POST", patterns, json!({"unit_hex": "706c696d706c696d"})), Err("exists".into()));
    for wrong in [
        json!({}),
        json!({"unit_hex": ""}),
        json!({"unit_hex": "0"}),
        json!({"unit_hex": "00"}),
        json!({"unit_hex": "xy"}),
    ] {
        assert_eq!(daemon.send("POST", patterns, wrong.clone()), Err("invalid-argument".into()), "{wrong}");
    }
    let own = daemon.send("POST", patterns, json!({"random": true, "use": "own-only"})).unwrap();
    daemon.send("POST", "/api/v1/pools/tank/vdisks", json!({"name": "a", "designated_bytes": 1 << 30})).unwrap();
    let set = json!({"pattern": own["number"], "zero_detection": false});
    let changed = daemon.send("PATCH", vdisk, set).unwrap();
    assert_eq!(
        (&changed["zero_detection"], &changed["pattern_detection"], &changed["pattern"]),
        (&json!(false), &json!(true), &json!(2))
    );
    assert_eq!(daemon.send("DELETE", &format!("{patterns}/2"), json!({})), Err("busy".into()));
    assert_eq!(daemon.send("DELETE", &format!("{patterns}/1"), json!({})), Err("busy".into()));
    daemon.send("PATCH", &format!("{patterns}/1"), json!({"use": "disabled"})).unwrap();
    daemon.send("DELETE", &format!("{patterns}/1"), json!({})).unwrap();
    assert_eq!(daemon.send("DELETE", &format!("{patterns}/1"), json!({})), Err("not-found".into()));
    let reclaim = format!("{vdisk}/reclaim");
    assert!(daemon.client.get(&reclaim).is_err_and(|problem| problem.code == "not-found"));
    let beyond = json!({"ranges": [{"offset_bytes": 1_u64 << 30, "length_bytes": 512}]});
    assert_eq!(daemon.send("POST", &reclaim, beyond), Err("invalid-argument".into()));
    assert_eq!(daemon.send("PATCH", &reclaim, json!({"paused": true})), Err("not-found".into()));
    let plan = daemon.send("POST", &format!("{reclaim}?dry_run=true"), json!({})).unwrap();
    assert_eq!(plan["schema"], "plan/v1");
    let job = daemon.send("POST", &reclaim, json!({"rate_bytes": 200 << 20})).unwrap();
    assert_eq!((&job["kind"], &job["object"]), (&json!("reclaim"), &json!("tank/a")));
    watch_answer(&daemon.client, &job).unwrap();
    let found = daemon.get(&reclaim);
    assert_eq!(
        (&found["running"], &found["done_pct"], &found["freed_bytes"]),
        (&json!(false), &json!(100.0), &json!(0))
    );
}

#[test]
fn many_ranges_are_taken_and_too_many_are_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    daemon.send("POST", "/api/v1/pools/tank/vdisks", json!({"name": "a", "designated_bytes": 1 << 30})).unwrap();
    let reclaim = "/api/v1/pools/tank/vdisks/a/reclaim";
    let ranges: Vec<_> = (0..60_000).map(|at| json!({"offset_bytes": at * 8192, "length_bytes": 4096})).collect();
    let job = daemon.send("POST", reclaim, json!({ "ranges": ranges })).unwrap();
    let ended = watch_answer(&daemon.client, &job).unwrap();
    assert_eq!((&ended["done"], &ended["done_pct"]), (&json!(60_000 * 4096), &json!(100.0)));
    // By their number, and by their bytes: that is refused before all of it was sent.
    let one = json!({"offset_bytes": 0, "length_bytes": 1});
    for body in [json!({ "ranges": vec![one; 500_001] }), json!("x".repeat(api::RECLAIM_BODY_BYTES_MAX))] {
        let client = Client::new(dir.path());
        let problem = client.send(Request::new("POST", reclaim).body(&body).unwrap()).unwrap_err();
        assert_eq!((problem.code.as_str(), problem.status), ("too-large", 413), "{}", problem.detail);
        assert!(problem.hint.is_some_and(|hint| hint.contains("500,000 at a time")));
    }
}

#[test]
fn what_is_refused_is_not_said_again_as_a_whole_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let long = "x".repeat(500_000);
    let cases = [
        ("PATCH", "/api/v1/pools/tank", json!({ &long: 1 })),
        ("PATCH", "/api/v1/pools/tank", json!({ "thresholds": long })),
        ("PATCH", "/api/v1/pools/tank", json!({ "overcommit_limit": long })),
        ("PATCH", "/api/v1/pools/tank", json!({ "thresholds": "10\u{e4}" })),
        ("POST", "/api/v1/pools/tank/vdisks", json!({ "name": long, "designated_bytes": 4096 })),
    ];
    for (method, target, body) in cases {
        let client = Client::new(dir.path());
        let problem = client.send(Request::new(method, target).body(&body).unwrap()).unwrap_err();
        assert!(problem.status == 400 && problem.detail.len() < 1100, "{}", problem.detail);
    }
    assert_eq!(daemon.get("/api/v1/pools/tank")["state"], "online");
}
