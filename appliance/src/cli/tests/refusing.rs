//! What the API refuses, and how; what it does once though it is asked twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::client::{Client, Request};
use super::{DEVICE_BYTES, Daemon};
use crate::api;
use crate::node::directory::control_socket;

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
fn sizes_and_ranges_of_nothing_misaligned_or_beyond_the_end_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let (vdisks, large) = ("/api/v1/pools/tank/vdisks", "/api/v1/pools/tank/vdisks/large");
    let size = 1_u64 << 30;
    daemon.send("POST", vdisks, json!({"name": "small", "designated_bytes": size})).unwrap();
    daemon.send("POST", vdisks, json!({"name": "large", "designated_bytes": size, "sector_bytes": 4096})).unwrap();
    let before = daemon.get(vdisks);
    let refuse = |method, target: &str, body: &Value, words: &str| {
        for target in [target.to_owned(), format!("{target}?dry_run=true")] {
            let answer = Client::new(dir.path()).send(Request::new(method, &target).body(body).unwrap());
            let problem = answer.expect_err(&format!("{method} {target} {body}"));
            assert_eq!((problem.code.as_str(), problem.exit_code()), ("invalid-argument", 2), "{body}");
            assert!(problem.detail.contains(words), "{target} {body}: {}", problem.detail);
        }
        assert_eq!(daemon.get(vdisks), before, "{method} {target} {body}");
    };
    for (bytes, words) in [
        (0, "0"),
        (size + 512, "4096"),
        (1, "4096"),
        ((16 << 50) + 4096, "16 PiB"),
        (u64::MAX - 4095, "16 PiB"),
        (u64::MAX, "4096"),
    ] {
        for discard_tail in [false, true] {
            refuse("PATCH", large, &json!({"designated_bytes": bytes, "discard_tail": discard_tail}), words);
        }
    }
    refuse("PATCH", &format!("{vdisks}/small"), &json!({"designated_bytes": size - 1}), "512");
    let reclaim = format!("{large}/reclaim");
    for worthless in [false, true] {
        for (ranges, words) in [
            (json!([]), "no range"),
            (json!([[0, 0]]), "no bytes"),
            (json!([[size, 0]]), "no bytes"),
            (json!([[512, 4096]]), "4096 bytes"),
            (json!([[0, 512]]), "4096 bytes"),
            (json!([[0, size + 4096]]), "ends at byte 1073741824"),
            (json!([[size, 4096]]), "ends at byte 1073741824"),
            (json!([[u64::MAX - 4095, 4096]]), "ends at byte 1073741824"),
            (json!([[0, 8192], [4096, 8192]]), "overlaps range 1"),
            (json!([[0, 4096], [8192, 0]]), "range 2 of tank/large"),
        ] {
            let range = |range: &Value| json!({"offset_bytes": range[0], "length_bytes": range[1]});
            let ranges: Vec<Value> = ranges.as_array().unwrap().iter().map(range).collect();
            refuse("POST", &reclaim, &json!({"ranges": ranges, "worthless": worthless}), words);
        }
    }
    refuse("POST", &reclaim, &json!({"rate_bytes": 1}), "1 B a second");
    for negative in [json!({"ranges": [{"offset_bytes": -4096, "length_bytes": 4096}]}), json!({"rate_bytes": -1})] {
        assert_eq!(daemon.send("POST", &reclaim, negative).map(|_| ()), Err("invalid-request".to_owned()));
    }
    assert_eq!(daemon.client.get(&reclaim).unwrap_err().code, "not-found", "one was begun");
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
