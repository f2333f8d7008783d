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
    let rate = report.tally.cycles as f64 / report.elapsed.as_secs_f64();
    println!(
        "simulation: {} crash-recover-verify cycles in {:.1?} ({rate:.0}/s), {} seeds, {} crashes inside a start, {} clean closes",
        tally.cycles, report.elapsed, report.seeds, tally.crashes_in_start, tally.closes
    );
    println!(
        "simulation: {} writes held and {} refused, {} devices evacuated, {} reclaims, {} KiB packed, {} journal batches ahead of their data",
        tally.held,
        tally.refused,
        tally.evacuations,
        tally.reclaims,
        tally.packed >> 10,
        tally.ahead
    );
    println!(
        "simulation: {} decisions, {} times grown by itself, {} times without room below, {} vdisks held for that, {} writes went on",
        tally.decisions, tally.grown, tally.full_below, tally.held_below, tally.resumed_below
    );
    assert!(tally.cycles > 0, "nothing was run");
    // In fewer some may not happen.
    if tally.cycles >= 10_000 {
        let done = [tally.held, tally.refused, tally.evacuations, tally.reclaims, tally.packed, tally.ahead];
        let done = [&done[..], &[tally.decisions, tally.grown, tally.held_below, tally.resumed_below]].concat();
        assert!(done.iter().all(|&count| count > 0), "something was never done: {tally:?}");
    }
    assert!(report.failures.is_empty(), "{} seeds failed; each says how to replay it", report.failures.len());
}
