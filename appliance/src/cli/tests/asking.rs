//! What is asked for again, or otherwise than anything knows: whether it is there already, and questions with words that mean nothing.

use std::path::Path;

use clap::Parser;
use serde_json::json;

use super::Daemon;
use crate::cli::args::Cli;
use crate::problem::Problem;

/// A command as it is given, and its problem.
fn run(dir: &Path, line: &str) -> Result<(), Problem> {
    let state = dir.display().to_string();
    let words = ["plimsoll", "--state-dir", &state].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    crate::cli::run::run(&cli.global, cli.command.expect("a command")).1.map(drop)
}

#[test]
fn what_is_there_already_is_as_good_as_made_only_if_it_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let device = daemon.make_pool(dir.path());
    let same = |line: &str| run(dir.path(), line).unwrap_or_else(|problem| panic!("{line}: {problem:?}"));
    let differs = |line: &str, what: &str| {
        let problem = run(dir.path(), line).expect_err(line);
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("conflict", 4), "{line}");
        assert!(problem.detail.contains(what), "{line}: {}", problem.detail);
    };
    same("vdisk create tank/a --size 1G");
    same("vdisk create tank/a --size 1G --if-not-exists");
    same("vdisk create tank/a --size 1G --sector 512 --quota none --reservation 0 --if-not-exists");
    same("vdisk create tank/a --size 50% --if-not-exists");
    differs(
        "vdisk create tank/a --size 2G --if-not-exists",
        "designated is 1 GiB (1073741824), not 2 GiB (2147483648)",
    );
    differs("vdisk create tank/a --size 1G --sector 4096 --if-not-exists", "sector is 512");
    differs("vdisk create tank/a --size 1G --quota 1M --if-not-exists", "quota is none");
    same("vdisk create tank/a --size 1G --on-full hold(20s) --thresholds default --if-not-exists");
    differs("vdisk create tank/a --size 1G --on-full fail --if-not-exists", "on full is hold(20s), not fail");
    differs("vdisk create tank/a --size 1G --thresholds 50% --if-not-exists", "thresholds is ");
    differs("vdisk create tank/a --size 1G --tenant acme --if-not-exists", "tenant is none, not acme");
    let there = format!("pool create tank --device {} --buffered --if-not-exists", device.display());
    same(&there);
    differs(&format!("{there} --extent-size 1M"), "extent is 64 KiB (65536)");
    let elsewhere = dir.path().join("other.img");
    std::fs::File::create(&elsewhere).unwrap().set_len(super::DEVICE_BYTES).unwrap();
    let other = format!("pool create tank --device {} --buffered --if-not-exists", elsewhere.display());
    differs(&other, &format!("it is on {}, not on {}", device.display(), elsewhere.display()));
    let secret = dir.path().join("secret.txt");
    std::fs::write(&secret, "correct horse battery").unwrap();
    let hook = |url: &str| format!("webhook add ops --url {url} --secret-file {} --if-not-exists", secret.display());
    same(&hook("http://127.0.0.1:9/"));
    same(&hook("http://127.0.0.1:9/"));
    differs(&hook("http://127.0.0.1:10/"), "url is http://127.0.0.1:9/");
}

#[test]
fn a_question_with_a_key_that_nothing_knows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    for target in [
        "/api/v1/pools?limit=-1",
        "/api/v1/pools/tank?zzz",
        "/api/v1/pools/tank/vdisks?filter=a",
        "/api/v1/status?x=1",
        "/api/v1/space?pools=tank",
        "/api/v1/events?sort=seq",
        "/api/v1/jobs?state=running",
    ] {
        let problem = daemon.client.get(target).expect_err(target);
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("invalid-request", 2), "{target}");
        assert!(problem.hint.is_some(), "{target}: {}", problem.detail);
    }
    for target in ["/api/v1/pools?", "/api/v1/space?pool=tank", "/api/v1/events?limit=1&newest=true"] {
        daemon.get(target);
    }
}

#[test]
fn an_array_is_not_taken_for_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    let vdisks = "/api/v1/pools/tank/vdisks";
    assert_eq!(daemon.send("POST", vdisks, json!(["a", 1 << 30])), Err("invalid-request".into()));
    daemon.send("POST", vdisks, json!({"name": "a", "designated_bytes": 1 << 30})).unwrap();
    let reclaim = format!("{vdisks}/a/reclaim");
    let ranges = json!({"ranges": [[0, 4096]], "worthless": true});
    assert_eq!(daemon.send("POST", &reclaim, ranges), Err("invalid-request".into()));
    assert_eq!(daemon.send("POST", &reclaim, json!([])), Err("invalid-request".into()));
}
