//! What is asked for again, or otherwise than anything knows: whether it is there already, and questions with words that mean nothing.

use std::path::Path;

use clap::Parser;
use serde_json::json;

use super::{Client, Daemon};
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
    same("vdisk create tank/half --size 50%");
    same("vdisk create tank/half --size 50% --if-not-exists");
    differs("vdisk create tank/half --size 50% --sector 4096 --if-not-exists", "sector is 512");
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
    differs(&there.replace(" --buffered", ""), "goes through the page cache, and --buffered was not said");
    let elsewhere = dir.path().join("other.img");
    std::fs::File::create(&elsewhere).unwrap().set_len(super::DEVICE_BYTES).unwrap();
    let other = format!("pool create tank --device {} --buffered --if-not-exists", elsewhere.display());
    differs(&other, &format!("it is on {}, not on {}", device.display(), elsewhere.display()));
    // What it has grown by was asked for by somebody else.
    same(&format!("pool add-device tank --device {}", elsewhere.display()));
    same(&there);
    same("vdisk create tank/half --size 50% --if-not-exists");
    differs(&other, "does not go through the page cache, and --buffered was said");
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
    for target in ["/api/v1/pools/tank/check?dry_run=true", "/api/v1/pools?dryrun=true"] {
        let body = json!({"name": "b", "devices": ["/none"]});
        assert_eq!(daemon.send("POST", target, body), Err("invalid-request".into()), "{target}");
    }
    assert_eq!(daemon.send("DELETE", "/api/v1/pools/tank?dry-run=true", json!({})), Err("invalid-request".into()));
    daemon.get("/api/v1/pools/tank");
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

#[test]
fn a_kind_of_event_that_there_is_not_is_refused_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    for command in ["event list --kind pool-treshold", "event watch --kind pool-treshold --count 1"] {
        let problem = run(dir.path(), command).expect_err(command);
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("invalid-argument", 2), "{command}");
        assert!(problem.hint.unwrap().contains("pool-threshold, pool-threshold-cleared"), "{command}");
    }
    daemon.get("/api/v1/events?kind=pool-threshold");
}

#[test]
fn figures_that_can_never_be_reached_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_pool(dir.path());
    for (change, words) in [
        ("--thresholds 99G", "pool tank has"),
        ("--thresholds 1M,99G", "pool tank has"),
        ("--auto-grow-at 85% --grow-file-to 500P", "can hold"),
    ] {
        for command in [format!("pool set tank {change}"), format!("pool set tank {change} --dry-run")] {
            let problem = run(dir.path(), &command).expect_err(&command);
            assert_eq!(problem.code, "invalid-argument", "{command}");
            assert!(problem.detail.contains(words), "{command}: {problem:?}");
        }
    }
    run(dir.path(), "pool set tank --thresholds 16M").unwrap();
}

#[test]
fn a_watch_of_a_daemon_that_was_stopped_ends_well_and_of_one_that_broke_off_does_not() {
    use std::io::{Read as _, Write as _};
    let watched = |words: &str, last: &'static [u8]| {
        let dir = tempfile::tempdir().unwrap();
        let path = super::control_socket(dir.path());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            stream.write_all(b"a\r\n: events\n\n\r\n").unwrap();
            stream.write_all(last).unwrap();
            std::fs::remove_file(path).unwrap();
        });
        let client = Client::new(dir.path());
        let patience =
            crate::cli::event::Patience { stopped: std::time::Duration::ZERO, lost: std::time::Duration::ZERO };
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Some(crate::cli::args::Command::Event(crate::cli::args::Event::Watch { events, count })) = cli.command
        else {
            panic!("no watch");
        };
        let cx = crate::cli::run::Context { client, render: crate::cli::render::Render::new(&cli.global) };
        let ended = crate::cli::event::watch(&cx, &events, count, &patience);
        daemon.join().unwrap();
        ended.map_err(|problem| problem.code)
    };
    let (any, one) = ("plimsoll event watch --after 7", "plimsoll event watch --after 7 --count 1");
    let lost = || Err("unreachable".to_owned());
    assert_eq!((watched(any, b"0\r\n\r\n"), watched(any, b"")), (Ok(()), lost()));
    assert_eq!((watched(one, b"0\r\n\r\n"), watched(one, b"")), (lost(), lost()), "fewer than were waited for");
}
