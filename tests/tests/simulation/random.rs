//! Random work, crashes and faults on a simulated machine, against a model of what is allowed.

use plimsoll_tests::sim::runner::{Effort, number, one, replay, run};

#[test]
fn whatever_happens_the_pool_holds_what_it_promised() {
    if let Some(seed) = number("PLIMSOLL_SIM_SEED") {
        match one(seed) {
            Ok(tally) => println!("seed {seed}: {tally:?}"),
            Err(failure) => panic!("{}", replay(seed, &failure)),
        }
        return;
    }
    let report = run(Effort::from_environment());
    let tally = &report.tally;
    let rate = tally.cycles as f64 / report.elapsed.as_secs_f64();
    println!(
        "simulation: {} crash-recover-verify cycles in {:.1?} ({rate:.0}/s), {} seeds",
        tally.cycles, report.elapsed, report.seeds
    );
    println!("simulation: {tally}");
    assert!(report.failures.is_empty(), "{} seeds failed; each says how to replay it", report.failures.len());
    assert!(tally.missing().is_empty(), "something was never done, or hardly ever: {:#?}", tally.missing());
}

/// With a bug that is planted: a run finds a seed that fails, and the command that it prints fails in the same way.
#[test]
#[cfg(feature = "planted")]
fn the_command_that_a_failing_seed_prints_replays_it() {
    use std::process::{Command, Output};
    let run = |environment: &[(&str, &str)], arguments: &[&str]| -> String {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env_remove("PLIMSOLL_SIM_SEED").env_remove("PLIMSOLL_SIM_TRACE").env_remove("RUST_BACKTRACE");
        command.envs(environment.iter().copied()).args(arguments);
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert!(!status.success() && said.contains("test result: FAILED. 0 passed; 1 failed"), "{said}");
        said
    };
    let found = run(&[("PLIMSOLL_PLANTED", "skip-flush")], &["whatever_happens", "--nocapture"]);
    let failure = |said: &str| {
        let line = said.lines().find(|line| line.starts_with("seed ") && line.contains(" failed: "));
        line.unwrap_or_else(|| panic!("no seed failed: {said}")).to_owned()
    };
    let command = found.lines().find_map(|line| line.strip_prefix("replay it: ")).expect("a command");
    let words: Vec<&str> = command.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "cargo").expect("a command of cargo");
    let environment: Vec<_> = words[..at].iter().filter_map(|word| word.split_once('=')).collect();
    let (cargo, arguments) = command.split_once(" -- ").expect("arguments of the test");
    let at_end = "cargo test -p plimsoll-tests --profile test-fast --features planted --test simulation";
    assert!(cargo.ends_with(at_end), "{cargo} is not what built this");
    assert_eq!((env!("CARGO_PKG_NAME"), env!("CARGO_CRATE_NAME")), ("plimsoll-tests", "simulation"));
    let again = run(&environment, &arguments.split_whitespace().collect::<Vec<_>>());
    assert_eq!(failure(&again), failure(&found));
}
