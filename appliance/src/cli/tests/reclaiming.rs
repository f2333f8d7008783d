//! Patterns, and giving space back, through the API.

use serde_json::json;

use super::super::client::{Client, Request};
use super::super::hints::assert_advice_can_be_followed;
use super::super::job::watch_answer;
use super::Daemon;
use crate::api;

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
    let (long, odd) = ("a5".repeat(4097), "a5b6c7");
    for (wrong, code) in [
        (json!({}), "invalid-argument"),
        (json!({"unit_hex": ""}), "invalid-argument"),
        (json!({"unit_hex": "0"}), "invalid-argument"),
        (json!({"unit_hex": "00"}), "invalid-argument"),
        (json!({"unit_hex": "xy"}), "invalid-argument"),
        (json!({"unit_hex": odd}), "invalid-argument"),
        (json!({"unit_hex": long}), "invalid-argument"),
        (json!({"unit_hex": "706c696d"}), "exists"),
    ] {
        for at in [patterns.to_owned(), format!("{patterns}?dry_run=true")] {
            let problem = Client::new(dir.path()).send(Request::new("POST", &at).body(&wrong).unwrap()).unwrap_err();
            assert_eq!(problem.code, code, "{at}: {wrong}");
            let hint = problem.hint.unwrap_or_else(|| panic!("{wrong}: {}", problem.detail));
            assert_advice_can_be_followed(&hint);
        }
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
