//! What is told through the API: events, and their stream.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Daemon;
use crate::event::NewEvent;
use crate::model::Severity;
use crate::node::directory::control_socket;

impl Daemon {
    pub(super) fn tell(&self, count: usize, severity: Severity) {
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
