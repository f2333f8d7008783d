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
