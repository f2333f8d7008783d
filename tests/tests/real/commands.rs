//! Commands that only look or give space back, as programs: what they print, and that it adds up.
//! Checklist 2.01, 2.07, 2.28-2.31, 4.40, 4.46, 4.48.

use std::fs;
use std::time::{Duration, Instant};

use crate::control::get;
use crate::files::text;
use crate::tank::{EXTENT, MIB, PATIENCE, Tank, assert_holds};
use plimsoll_tests::daemon::{Daemon, Outcome};
use serde_json::{Value, json};

fn bytes(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field} in {object:#}"))
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap_or_else(|| panic!("no items in {list:#}"))
}

/// What the program says of a line that people read: its words.
#[track_caller]
fn words<'a>(said: &'a str, begin: &str) -> Vec<&'a str> {
    let mut lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|words| words.contains(&begin)).unwrap_or_else(|| panic!("no line with {begin} in\n{said}"))
}

#[test]
fn who_has_the_space_is_said_to_the_last_byte_and_the_same_over_http() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("a", &["--tenant", "acme", "--vm", "web", "--reservation", "6M"]);
    tank.vdisk("b", &["--tenant", "acme"]);
    daemon.done(&["tenant", "set", "acme", "--pool", "tank", "--quota", "16M"]);
    tank.connect("a").write(0, &[1; 2 * MIB as usize], 0).expect("a write");
    tank.connect("b").write(0, &[1; 3 * MIB as usize], 0).expect("a write");
    let mut hog = tank.connect("hog");
    hog.write(0, &[1; 5 * MIB as usize], 0).expect("a write");
    hog.flush().expect("a flush");

    // Between two looks that saw the same: checkpoints come when they like.
    let began = Instant::now();
    let http = |target: &str| serde_json::from_str::<Value>(&get(daemon, target)).expect("JSON");
    let (pool, report) = loop {
        let pool = daemon.json(&["pool", "show", "tank"]);
        let reports = [daemon.json(&["space"]), http("/api/v1/space"), http("/api/v1/space?pool=tank")];
        if daemon.json(&["pool", "show", "tank"]) == pool {
            let [report, all, one] = reports;
            assert_eq!([&all, &one], [&report; 2], "over HTTP it is another");
            break (pool, report);
        }
        assert!(began.elapsed() < PATIENCE, "it never rests\n{}", daemon.log());
    };
    let lines = items(&report);
    let of = |what: &str| -> u64 {
        lines.iter().filter(|line| line["what"] == what).map(|line| bytes(line, "physical_bytes")).sum()
    };
    let all: u64 = lines.iter().map(|line| bytes(line, "physical_bytes")).sum();
    assert_eq!(all, bytes(&pool, "physical_bytes"), "{report:#}");
    assert_eq!(of("vdisk"), bytes(&pool, "utilized_bytes"));
    let shares: f64 = lines.iter().map(|line| line["share_pct"].as_f64().expect("a share")).sum();
    // Each is said to a tenth.
    assert!((shares - 100.0).abs() < 0.06 * lines.len() as f64, "{shares} per cent");
    for (what, field) in [
        ("metadata", "metadata_bytes"),
        ("held", "held_bytes"),
        ("quarantine", "quarantined_bytes"),
        ("available", "available_bytes"),
    ] {
        assert_eq!(of(what), bytes(&pool, field), "{what}");
    }
    // Metadata takes of its reserve.
    let reserve = bytes(&pool, "metadata_reserve_bytes");
    assert!(of("metadata-reserve") <= reserve && of("metadata-reserve") + of("metadata") >= reserve, "{report:#}");
    assert_eq!(of("reserved"), 4 * MIB, "what a has not used of its reservation");
    assert_eq!(of("reserved") + of("reserved-metadata"), bytes(&pool, "reserved_bytes"));
    let vdisks: Vec<_> = lines.iter().filter(|line| line["what"] == "vdisk").collect();
    let expected = [("tank/hog", 5, Value::Null), ("tank/b", 3, "acme".into()), ("tank/a", 2, "acme".into())];
    for (line, (name, mebibytes, tenant)) in vdisks.iter().zip(&expected) {
        let shown = daemon.json(&["vdisk", "show", name]);
        let own = (&line["name"], bytes(line, "physical_bytes"), &line["tenant"], &line["reserved_bytes"]);
        assert_eq!(own, (&(*name).into(), mebibytes * MIB, tenant, &shown["reserved_bytes"]));
        assert_eq!([&line["exclusive_bytes"], &line["shared_bytes"]], [&json!(mebibytes * MIB), &json!(0)]);
        assert_eq!(line["designated_bytes"], 1 << 30);
    }
    assert_eq!(vdisks.len(), expected.len());
    let promised = &report["pools"][0];
    for field in ["physical_bytes", "available_bytes", "designated_bytes", "overcommit_bytes", "overcommit_ratio"] {
        assert_eq!(promised[field], pool[field], "{field}");
    }
    assert_eq!(bytes(promised, "overcommit_bytes"), (3 << 30) - bytes(&pool, "physical_bytes"));

    let said = daemon.done(&["space", "--pool", "tank"]);
    assert_eq!(words(&said, "tank/a")[..5], ["tank", "vdisk", "tank/a", "2", "MiB"], "{said}");
    assert!(said.contains("plimsoll pool survey tank"), "it says how to find out what could come back\n{said}");
    assert_eq!(daemon.cli(&["space", "--pool", "none"]).code, 3);

    let tenants = daemon.json(&["tenant", "list"]);
    let [acme] = items(&tenants) else { panic!("{tenants:#}") };
    let figures = ["used_bytes", "quota_bytes", "reservation_bytes", "reserved_bytes", "designated_bytes", "vdisks"];
    let expected = [5 * MIB, 16 * MIB, 6 * MIB, 4 * MIB, 2 << 30, 2];
    assert_eq!(figures.map(|field| bytes(acme, field)), expected, "{acme:#}");
    assert_eq!((&acme["name"], &acme["pool"], &acme["used_pct"]), (&json!("acme"), &json!("tank"), &json!(31.3)));
    assert_eq!(words(&daemon.done(&["tenant", "list"]), "acme")[..6], ["acme", "tank", "5", "MiB", "16", "MiB"]);

    assert_eq!(http("/api/v1/tenants"), tenants);
    daemon.assert_clean("tank");
}

#[test]
fn a_survey_says_what_a_compaction_and_a_reclaim_then_bring_back() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("v", &[]);
    daemon.done(&["vdisk", "set", "tank/v", "--detect", "zeros=off"]);
    let mut client = tank.connect("v");
    // 2 MiB of zeros, and 16 extents with a block each.
    client.write(0, &[0; 2 * MIB as usize], 0).expect("a write");
    for extent in 0..16 {
        client.write(16 * MIB + extent * EXTENT, &[extent as u8 + 1; EXTENT as usize], 0).expect("a write");
        client.trim(16 * MIB + extent * EXTENT + 4096, EXTENT as u32 - 4096).expect("a trim");
    }
    client.flush().expect("a flush");
    let used = || bytes(&daemon.json(&["vdisk", "show", "tank/v"]), "backed_bytes");
    let before = used();
    assert_eq!(before, 2 * MIB + 16 * EXTENT);

    let plan = daemon.json(&["pool", "survey", "tank", "--dry-run"]);
    assert_eq!((&plan["schema"], &daemon.json(&["pool", "show", "tank"])["survey"]), (&json!("plan/v1"), &Value::Null));
    let said = daemon.done(&["pool", "survey", "tank", "--wait"]);
    assert!(said.contains("pool tank") && said.ends_with("plimsoll space --pool tank\n"), "{said}");
    let survey = daemon.json(&["pool", "show", "tank"])["survey"].take();
    let packable = bytes(&survey, "packable_bytes");
    assert_eq!([bytes(&survey, "zero_bytes"), bytes(&survey, "whole_bytes")], [2 * MIB; 2], "{survey:#}");
    assert!((8 * EXTENT..16 * EXTENT).contains(&packable), "{survey:#}");
    assert_eq!(used(), before, "it changes nothing");
    let job = daemon.json(&["pool", "survey", "tank", "--wait"]);
    assert_eq!([&job["kind"], &job["state"], &job["object"]], ["survey", "done", "tank"], "{job:#}");

    assert_eq!(daemon.json(&["pool", "compact", "tank", "--dry-run"])["schema"], "plan/v1");
    assert_eq!(used(), before);
    let said = daemon.done(&["pool", "compact", "tank", "--wait"]);
    assert_eq!(said, "thinly used extents of pool tank are put together\n");
    client.flush().expect("a flush");
    assert_eq!(used(), before - packable, "what was said came back");
    let report = daemon.json(&["space"]);
    assert_eq!([bytes(&report["pools"][0], "packed_bytes"), used()], [packable, before - packable], "{report:#}");
    let said = daemon.done(&["reclaim", "tank/v", "--wait"]);
    assert!(
        said.contains("2 MiB of zeros and 0 B of patterns") && said.contains("2 MiB of the pool came free"),
        "{said}"
    );
    assert_eq!(used(), before - packable - 2 * MIB);
    let line = items(&daemon.json(&["space"])).iter().find(|line| line["name"] == "tank/v").cloned().expect("a line");
    assert_eq!(bytes(&line, "reclaimed_bytes"), 2 * MIB, "{line:#}");
    for extent in 0..16 {
        assert_holds(&mut client, 16 * MIB + extent * EXTENT, 4096, extent as u8 + 1);
        assert_holds(&mut client, 16 * MIB + extent * EXTENT + 4096, EXTENT - 4096, 0);
    }
    assert_holds(&mut client, 0, 2 * MIB, 0);
    daemon.assert_clean("tank");
}

#[test]
fn a_reclaim_takes_ranges_from_a_file_and_is_paused_shown_and_resumed() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("v", &[]);
    daemon.done(&["vdisk", "set", "tank/v", "--detect", "zeros=off"]);
    let mut client = tank.connect("v");
    client.write(0, &[0; 8 * MIB as usize], 0).expect("a write");
    client.write(8 * MIB, &[3; MIB as usize], 0).expect("a write");
    client.flush().expect("a flush");
    let used = || bytes(&daemon.json(&["vdisk", "show", "tank/v"]), "backed_bytes");
    assert_eq!(used(), 9 * MIB);
    assert_eq!(daemon.cli(&["reclaim", "tank/v", "--show"]).code, 3, "there was none");
    assert_eq!(daemon.cli(&["reclaim", "tank/v", "--pause"]).code, 3);

    // One of zeros, and one of data, which stays.
    let list = daemon.folder().join("ranges");
    let file = ["reclaim", "tank/v", "--ranges", text(&list)];
    fs::write(&list, "# of the guest\n0 1M\n16384s 1M # sectors\n").expect("write the ranges");
    let said = daemon.done(&[&file[..], &["--wait"]].concat());
    assert!(said.contains("2 MiB of tank/v looked through: 1 MiB of zeros"), "{said}");
    assert_eq!(used(), 8 * MIB);
    assert_holds(&mut client, 8 * MIB, MIB, 3);
    // What is not needed, whatever it is: only when that is confirmed.
    fs::write(&list, "8M 512K\n").expect("write the ranges");
    let worthless = [&file[..], &["--worthless", "--wait"]].concat();
    daemon.refused(&worthless, 5, &["[not-confirmed]", "--yes"]);
    assert_holds(&mut client, 8 * MIB, MIB, 3);
    let said = daemon.done(&[&worthless[..], &["--yes"]].concat());
    assert!(said.contains("512 KiB that tank/v stored are given up"), "{said}");
    assert_holds(&mut client, 8 * MIB, MIB / 2, 0);
    assert_holds(&mut client, 8 * MIB + MIB / 2, MIB / 2, 3);
    assert_eq!(used(), 8 * MIB - MIB / 2);
    fs::write(&list, "0 1M\n1024M 4K\n").expect("write the ranges");
    daemon.refused(&file, 2, &["tank/v"]);
    fs::write(&list, "0\n").expect("write the ranges");
    daemon.refused(&file, 2, &["line 1", "OFFSET LENGTH"]);

    // Slowly, so that it can be paused; then as fast as it likes.
    let show = || daemon.json(&["reclaim", "tank/v", "--show"]);
    let job = daemon.json(&["reclaim", "tank/v", "--rate", "1M", "--no-wait"]);
    assert_eq!([&job["kind"], &job["object"]], ["reclaim", "tank/v"], "{job:#}");
    let said = daemon.done(&["reclaim", "tank/v", "--pause"]);
    assert_eq!(said, "reclaim of tank/v paused\n");
    // It ends what it is about.
    let began = Instant::now();
    let paused = loop {
        let now = show();
        if now["running"] == false || began.elapsed() > PATIENCE {
            break now;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!([&paused["paused"], &paused["running"]], [true, false], "{paused:#}");
    assert!(bytes(&paused, "done_bytes") < bytes(&paused, "total_bytes"), "{paused:#}");
    assert_eq!(bytes(&paused, "rate_bytes"), MIB);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(show(), paused, "it goes on");
    let left = used();
    assert!(left > MIB, "{left} bytes are left: it was not paused in time");
    assert_eq!(daemon.done(&["reclaim", "tank/v", "--resume"]), "reclaim of tank/v resumed\n");
    let began = Instant::now();
    let ended = loop {
        let now = show();
        if now["running"] == false {
            break now;
        }
        assert!(began.elapsed() < PATIENCE, "{now:#}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!([&ended["paused"], &ended["done_pct"]], [&json!(false), &json!(100.0)], "{ended:#}");
    assert_eq!((bytes(&ended, "zero_bytes"), used()), (7 * MIB, MIB / 2), "{ended:#}");
    assert_holds(&mut client, 8 * MIB + MIB / 2, MIB / 2, 3);
    daemon.assert_clean("tank");
}

/// Makes something happen that is told: a level of the vdisk's size that is reached, and then is none any more.
fn tell(daemon: &Daemon, times: u64) {
    for _ in 0..times {
        daemon.done(&["vdisk", "set", "tank/hog", "--thresholds", "1%"]);
        daemon.done(&["vdisk", "set", "tank/hog", "--thresholds", "off"]);
    }
}

#[test]
fn a_watch_prints_each_event_once_over_a_restart_and_a_kill_and_ends_at_its_count() {
    let mut tank = Tank::new();
    tank.daemon.done(&["pool", "set", "tank", "--horizons", "off"]);
    let mut hog = tank.connect("hog");
    hog.write(0, &[1; 16 * MIB as usize], 0).expect("a write");
    // What there was before it began, too, and only what comes from then on; and one that is interested in half.
    tell(&tank.daemon, 1);
    tank.daemon.events("vdisk-threshold-cleared", "tank/hog", 1);
    let watch = |how: &[&str]| tank.daemon.begin(&[&["event", "watch"], how].concat());
    let everything = watch(&["--after", "0", "--count", "8", "--json"]);
    let people = watch(&["--after", "0", "--count", "8"]);
    let rising = watch(&["--after", "0", "--count", "4", "--kind", "vdisk-threshold", "--json"]);
    let later = watch(&["--after", "2", "--count", "3", "--object", "tank/hog", "--json"]);
    tell(&tank.daemon, 1);
    tank.daemon.events("vdisk-threshold-cleared", "tank/hog", 2);
    tank.daemon.kill9();
    tank.daemon.restart();
    tell(&tank.daemon, 1);
    tank.daemon.events("vdisk-threshold-cleared", "tank/hog", 3);
    assert!(tank.daemon.terminate().success(), "a graceful stop\n{}", tank.daemon.log());
    std::thread::sleep(Duration::from_millis(500));
    tank.daemon.restart();
    // More than was asked for.
    tell(&tank.daemon, 2);
    tank.daemon.events("vdisk-threshold-cleared", "tank/hog", 5);

    let list = tank.daemon.json(&["event", "list", "--after", "0"]);
    let kept = items(&list);
    let printed = |outcome: &Outcome| -> Vec<Value> {
        assert_eq!(outcome.code, 0, "{outcome:#?}");
        outcome.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    assert_eq!(printed(&everything.end()), kept[..8]);
    let all: Vec<Value> = kept.iter().filter(|event| event["kind"] == "vdisk-threshold").take(4).cloned().collect();
    assert_eq!(printed(&rising.end()), all);
    assert_eq!(printed(&later.end()), kept[2..5]);
    let people = people.end();
    assert_eq!(people.code, 0, "{people:#?}");
    let lines: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{people:#?}");
    for (line, event) in lines.iter().zip(kept) {
        let word = |name: &str| event[name].as_str().unwrap_or_default();
        let begin = format!(
            "{} {} {} {} tank/hog: {}",
            event["seq"],
            word("time"),
            word("severity"),
            word("kind"),
            word("cause")
        );
        assert!(line.starts_with(&begin) && line.ends_with(word("advice")), "{line}\n{event:#}");
    }
}
