//! The scripts beside this crate: `tests/run` counts what was run, and is not made to do less from outside.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `tests/counts.awk` makes of a log: tests run, passed, left out, and whether there is a summary.
fn counts(log: &str) -> String {
    let mut awk = Command::new("awk");
    awk.args(["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/counts.awk")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut awk = awk.spawn().expect("start awk");
    awk.stdin.take().expect("a pipe").write_all(log.as_bytes()).expect("write to awk");
    let output = awk.wait_with_output().expect("wait for awk");
    assert!(output.status.success(), "awk failed: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn what_nextest_ran_is_counted() {
    let shown = "    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 85 filtered out; finished in 1.52s\n";
    let of = |summary: &str| counts(&format!("{shown}------------\n     {summary}\n{shown}"));
    assert_eq!(of("Summary [   9.912s] 12 tests run: 11 passed (1 slow), 1 failed, 0 skipped"), "12 11 0 1");
    assert_eq!(of("Summary [ 120.001s] 7/12 tests run: 6 passed, 1 failed, 3 skipped"), "7 6 3 1");
    assert_eq!(
        of("Summary [   0.100s] 4 tests run: 2 passed (1 slow, 1 leaky), 1 timed out, 1 exec failed, 0 skipped"),
        "4 2 0 1"
    );
    assert_eq!(counts(shown), "0 0 0 0");
}

#[test]
fn what_cargo_test_ran_is_counted() {
    let log = "\
running 3 tests
test a ... ok
test b ... FAILED
test c ... ignored

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 20 tests
test result: ok. 20 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; finished in 72.95s
";
    assert_eq!(counts(log), "22 21 5 1");
    assert_eq!(counts("error: could not compile `a`\n"), "0 0 0 0");
    assert_eq!(
        counts("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n"),
        "0 0 0 1"
    );
}

fn script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"))
}

#[test]
fn a_whole_run_cannot_be_made_to_do_less() {
    for (name, value) in [("PLIMSOLL_KILLS", "499"), ("PLIMSOLL_SIM_CYCLES", "few"), ("PLIMSOLL_SIM_CYCLES", "0")] {
        let mut run = Command::new("bash");
        // If it is not refused, not for long.
        run.arg(script()).env(name, value).env("TESTS_SECONDS", "10").env_remove("PLIMSOLL_TESTS_LIMITED");
        let output = run.output().expect("start bash");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {said}");
        assert!(said.contains(&format!("{name}={value}")), "{said}");
    }
}

/// What `tests/run` begins: the profile of nextest, and the program that bounds it with its arguments. In its place one that only tells.
fn begun(numbers: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let stand_in = folder.path().join("timeout");
    std::fs::write(&stand_in, "#!/bin/sh\necho \"${NEXTEST_PROFILE:-default} $*\"\n").expect("write a program");
    std::fs::set_permissions(&stand_in, Permissions::from_mode(0o700)).expect("make it a program");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("PATH is set"));
    let mut run = Command::new("bash");
    run.arg(script()).env("PATH", path).env_remove("PLIMSOLL_TESTS_LIMITED").env_remove("TESTS_SECONDS");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLIMSOLL_") || name == "PROPTEST_CASES") {
        run.env_remove(name);
    }
    let output = run.envs(numbers.iter().copied()).output().expect("start bash");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_run_for_which_more_is_asked_is_not_ended_by_what_bounds_the_usual_one() {
    let within = |seconds: u64| format!("--kill-after=30 {seconds} bash tests/run");
    assert_eq!(begun(&[]), format!("default {}", within(5100)));
    assert_eq!(begun(&[("PLIMSOLL_SIM_MINUTES", "060")]), format!("long {}", within(5100 + 3600)));
    assert_eq!(begun(&[("PLIMSOLL_KILLS", "501")]), format!("long {}", within(5100)));
    assert_eq!(begun(&[("PLIMSOLL_SIM_MINUTES", "60"), ("TESTS_SECONDS", "7")]), format!("long {}", within(7)));
}

/// Whoever adds a number that can be set from outside says in the script what it is at least.
#[test]
fn the_script_knows_every_number_that_can_be_set() {
    let script = std::fs::read_to_string(script()).expect("read tests/run");
    let mut known = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real")).expect("list the tests") {
        let source = std::fs::read_to_string(entry.expect("list the tests").path()).expect("read a test");
        for call in source.split("count(\"").skip(1) {
            let (name, rest) = call.split_once("\", ").expect("a name and a number");
            let number = rest.split_once(')').expect("a number").0;
            assert!(
                script.lines().any(|line| line.trim_end_matches('\'').ends_with(&format!("{name} {number}"))),
                "{name} {number}"
            );
            known += 1;
        }
    }
    assert!(known >= 6, "only {known} numbers were found");
}
