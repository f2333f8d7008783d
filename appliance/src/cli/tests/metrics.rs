//! What `/metrics` says of a daemon.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::model::Severity;

fn metrics(dir: &Path) -> String {
    let mut socket = UnixStream::connect(control_socket(dir)).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn metrics_say_whose_the_space_is_and_how_it_is_divided() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let quoted = dir.path().join("a \"b\\.img");
    std::fs::File::create(&quoted).unwrap().set_len(DEVICE_BYTES).unwrap();
    daemon.send("POST", "/api/v1/pools/tank/devices", json!({"path": quoted, "buffered": true})).unwrap();
    let policy = json!({"tenant": "acme", "vm": "web"});
    let vdisks = "/api/v1/pools/tank/vdisks";
    daemon.send("POST", vdisks, json!({"name": "a", "designated_bytes": 1 << 30, "policy": policy})).unwrap();
    daemon.send("POST", vdisks, json!({"name": "b", "designated_bytes": 1 << 20})).unwrap();
    let text = metrics(dir.path());
    let both = f64::from((1 << 30) + (1 << 20));
    let mut expected = Vec::new();
    for (what, a, b) in [("exclusive", 0, 0), ("shared", 0, 0), ("regulation", 0, 0), ("effective", 1 << 30, 1 << 20)] {
        let (a, b) = (f64::from(a), f64::from(b));
        let name = format!("plimsoll_vdisk_{what}_bytes");
        expected.push(format!("{name}{{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"web\"}} {a:.1}"));
        expected.push(format!("{name}{{pool=\"tank\",vdisk=\"b\",tenant=\"\",vm=\"\"}} {b:.1}"));
        let sum = a + b;
        expected.push(format!("plimsoll_pool_{what}_bytes{{pool=\"tank\"}} {sum:.1}"));
        expected.push(format!("plimsoll_tenant_{what}_bytes{{pool=\"tank\",tenant=\"acme\"}} {a:.1}"));
    }
    expected.push(format!("plimsoll_pool_designated_bytes{{pool=\"tank\"}} {both:.1}"));
    expected.push("plimsoll_pool_starved{pool=\"tank\"} 0.0".to_owned());
    for line in &expected {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    assert!(text.contains("/a \\\"b\\\\.img\"}"), "{text}");
}

#[test]
fn metrics_say_what_could_be_reclaimed_when_somebody_has_looked() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let vdisk = json!({"name": "a", "designated_bytes": 1 << 30, "policy": {"tenant": "acme"}});
    daemon.send("POST", "/api/v1/pools/tank/vdisks", vdisk).unwrap();
    let series =
        |text: &str| text.lines().filter(|line| line.contains("reclaimable") && !line.starts_with('#')).count();
    assert_eq!(series(&metrics(dir.path())), 0);
    let plan = daemon.send("POST", "/api/v1/pools/tank/survey?dry_run=true", json!({})).unwrap();
    assert_eq!(plan["schema"], "plan/v1");
    let job = daemon.send("POST", "/api/v1/pools/tank/survey", json!({})).unwrap();
    assert_eq!((&job["kind"], &job["object"], &job["unit"]), (&json!("survey"), &json!("tank"), &json!("bytes")));
    assert_eq!(watch_answer(&daemon.client, &job).unwrap()["done_pct"], json!(100.0));
    let text = metrics(dir.path());
    // Bytes in all, of four kinds, and the margin: of the pool and of the vdisk. Those in all of its tenant.
    assert_eq!(series(&text), 13, "{text}");
    for line in [
        "plimsoll_pool_reclaimable_bytes{pool=\"tank\"} 0.0",
        "plimsoll_pool_reclaimable_whole_bytes{pool=\"tank\"} 0.0",
        "plimsoll_vdisk_reclaimable_zero_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 0.0",
        "plimsoll_vdisk_reclaimable_whole_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 0.0",
        "plimsoll_tenant_reclaimable_bytes{pool=\"tank\",tenant=\"acme\"} 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    for words in [
        "# HELP plimsoll_pool_reclaimable_bytes ",
        "plimsoll_pool_survey_age_seconds{",
        "plimsoll_vdisk_survey_age_seconds{",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

#[test]
fn a_webhook_that_takes_nothing_shows_in_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let webhook = json!({"name": "ops", "url": format!("http://{nobody}/"), "secret": "0123456789abcdef"});
    daemon.send("POST", "/api/v1/webhooks", webhook).unwrap();
    daemon.tell(1, Severity::Warning);
    let begin = Instant::now();
    while daemon.get("/api/v1/webhooks/ops")["state"] != "failing" {
        assert!(begin.elapsed() < Duration::from_secs(10), "{}", daemon.get("/api/v1/webhooks/ops"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = metrics(dir.path());
    for line in [
        "plimsoll_webhook_failing{webhook=\"ops\"} 1.0",
        "plimsoll_webhook_events_behind{webhook=\"ops\"} 1.0",
        "plimsoll_webhook_events_given_up_total{webhook=\"ops\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}
