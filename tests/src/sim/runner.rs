//! Many seeds on all cores, until there are enough cycles and the time is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::life;
use super::tally::{CYCLES, Tally};

/// Cycles of a plain `cargo test`; [`CYCLES`] where nothing may be spared.
const CYCLES_SMALL: u64 = 5_000;
/// A seed takes a fraction of a second.
const SEED_MAX: Duration = Duration::from_secs(180);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How much to do: so many cycles, and for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Cycles at least.
    pub cycles: u64,
    /// Time at least.
    pub time: Duration,
}

impl Effort {
    /// From `PLIMSOLL_SIM_MINUTES`, `PLIMSOLL_SIM_CYCLES`, or whether `CI` or `PLIMSOLL_FULL` is set.
    pub fn from_environment() -> Self {
        let full = std::env::var_os("CI").is_some() || std::env::var_os("PLIMSOLL_FULL").is_some();
        Self::of(number("PLIMSOLL_SIM_MINUTES"), number("PLIMSOLL_SIM_CYCLES"), full)
    }

    /// Minutes that were asked for come on top: they never mean less than [`CYCLES`].
    fn of(minutes: Option<u64>, cycles: Option<u64>, full: bool) -> Self {
        let usual = if full || minutes.is_some() { CYCLES } else { CYCLES_SMALL };
        let time = Duration::from_secs(60 * minutes.unwrap_or(0));
        Self { cycles: cycles.unwrap_or(usual), time }
    }
}

/// A number in the environment.
///
/// # Panics
/// When it is none.
pub fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number and is {value:?}")))
}

/// What many seeds did.
#[derive(Debug, Default)]
pub struct Report {
    /// Sums.
    pub tally: Tally,
    /// Seeds run.
    pub seeds: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Seeds that failed, and how.
    pub failures: Vec<(u64, String)>,
}

/// Runs seeds from 1 on, the same in every run; with `PLIMSOLL_SIM_GROUP` (a number, or `fresh`) or `PLIMSOLL_SIM_MINUTES` one in
/// two is of that group, or of one that nobody has seen. Stops at the first failure, or goes on with
/// `PLIMSOLL_SIM_KEEP_GOING`.
///
/// # Panics
/// When less was run than was asked for, though no seed failed.
pub fn run(effort: Effort) -> Report {
    let report = run_seeds(effort, &one);
    let cycles = report.tally.cycles;
    let enough = cycles >= effort.cycles && report.elapsed >= effort.time;
    assert!(enough || !report.failures.is_empty(), "only {cycles} cycles in {:?} of {effort:?}", report.elapsed);
    report
}

/// As [`run`], with what is done for a seed.
fn run_seeds(effort: Effort, one: &(dyn Fn(u64) -> Result<Tally, String> + Sync)) -> Report {
    quiet_panics();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    let unseen = clock % 1_000_000_000;
    let group = match std::env::var("PLIMSOLL_SIM_GROUP") {
        Ok(word) if word == "fresh" => Some(unseen),
        Ok(_) => number("PLIMSOLL_SIM_GROUP"),
        Err(_) => (!effort.time.is_zero()).then_some(unseen),
    };
    match group {
        Some(group) => println!("simulation: seeds from 1 and of PLIMSOLL_SIM_GROUP={group}, {effort:?}"),
        None => println!("simulation: seeds from 1, {effort:?}"),
    }
    let (next, cycles, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    let (began, keep_going) = (Instant::now(), std::env::var_os("PLIMSOLL_SIM_KEEP_GOING").is_some());
    let enough = || cycles.load(Ordering::Relaxed) >= effort.cycles && began.elapsed() >= effort.time;
    let (under_way, over) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let broken = std::thread::scope(|scope| {
        scope.spawn(|| watch(&under_way, &over));
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && !enough() {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let seed = match group {
                            Some(group) if index % 2 == 1 => (group << 32) + index / 2,
                            Some(_) => 1 + index / 2,
                            None => 1 + index,
                        };
                        lock(&under_way).insert(seed, Instant::now());
                        let result = one(seed);
                        lock(&under_way).remove(&seed);
                        let mut report = lock(&report);
                        report.seeds += 1;
                        match result {
                            Ok(tally) => {
                                cycles.fetch_add(tally.cycles, Ordering::Relaxed);
                                report.tally.add(&tally);
                            }
                            Err(failure) => {
                                println!("{}", replay(seed, &failure));
                                report.failures.push((seed, failure));
                                stop.store(!keep_going || report.failures.len() >= 100, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Ordering::Relaxed);
        ends.into_iter().find_map(Result::err)
    });
    if let Some(panic) = broken {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
        panic!("a thread that runs seeds came to an end: {}", words.unwrap_or_default());
    }
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.elapsed = began.elapsed();
    report
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program when a seed does not end.
fn watch(under_way: &Mutex<BTreeMap<u64, Instant>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let stuck = lock(under_way).iter().find(|(_, began)| began.elapsed() > SEED_MAX).map(|(seed, _)| *seed);
        if let Some(seed) = stuck {
            println!("{}", replay(seed, &format!("it does not end within {SEED_MAX:?}")));
            std::process::exit(101);
        }
    }
}

/// Runs one seed; the words of its panic when it fails.
pub fn one(seed: u64) -> Result<Tally, String> {
    quiet_panics();
    catch_unwind(AssertUnwindSafe(|| life::run(seed))).map_err(|_| {
        let (setup, _) = super::setup::Setup::draw(seed, &mut plimsoll_hardware::sim::Random::new(seed));
        let faults = if setup.faults.is_some() { " (with faults)" } else { "" };
        format!("{}{faults}", LAST_PANIC.take())
    })
}

/// What to say of a seed that failed.
pub fn replay(seed: u64, failure: &str) -> String {
    let (bug, feature) = match std::env::var("PLIMSOLL_PLANTED") {
        Ok(bug) => (format!("PLIMSOLL_PLANTED={bug} "), " --features planted"),
        Err(_) => (String::new(), ""),
    };
    format!(
        "seed {seed} failed: {failure}\nreplay it: {bug}PLIMSOLL_SIM_SEED={seed} cargo test -p plimsoll-tests --profile test-fast{feature} \
         --test simulation -- whatever_happens --nocapture"
    )
}

/// Keeps what a panic says instead of printing it, on threads that run seeds.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::env::var_os("PLIMSOLL_SIM_SEED").is_some();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            LAST_PANIC.set(panic.to_string());
            if loud || std::thread::current().name().is_some() {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(cycles: u64) -> Effort {
        Effort { cycles, time: Duration::ZERO }
    }

    #[test]
    fn minutes_never_mean_fewer_cycles_than_all_tests_take() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(Effort::of(Some(30), None, false), Effort { cycles: CYCLES, time: minutes(30) });
        assert_eq!(Effort::of(Some(0), None, true), cycles(CYCLES));
        assert_eq!(Effort::of(Some(1), Some(2 * CYCLES), true), Effort { cycles: 2 * CYCLES, time: minutes(1) });
        assert_eq!([Effort::of(None, None, true), Effort::of(None, None, false)], [CYCLES, CYCLES_SMALL].map(cycles));
        assert_eq!(Effort::of(None, Some(7), true), cycles(7));
    }

    #[test]
    fn seeds_are_run_until_there_are_enough_cycles_and_the_time_is_over() {
        let time = Duration::from_millis(50);
        let report = run_seeds(Effort { cycles: 1, time }, &|_| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(Tally { cycles: 1, ..Tally::default() })
        });
        assert!(report.elapsed >= time && report.seeds > 1, "{report:?}");
        let report = run_seeds(Effort { cycles: 100, time: Duration::from_nanos(1) }, &|_| {
            Ok(Tally { cycles: 1, ..Tally::default() })
        });
        assert!(report.tally.cycles >= 100, "{report:?}");
    }

    #[test]
    #[should_panic(expected = "a thread that runs seeds came to an end: of seed 3")]
    fn a_worker_that_panics_fails_the_run() {
        let tally = || Tally { cycles: 1, ..Tally::default() };
        run_seeds(cycles(100), &|seed| if seed == 3 { panic!("of seed {seed}") } else { Ok(tally()) });
    }

    #[test]
    fn seeds_are_run_until_there_are_enough_cycles_or_one_fails() {
        let tally = || Tally { cycles: 7, ..Tally::default() };
        let report = run_seeds(cycles(100), &|_| Ok(tally()));
        assert!(report.tally.cycles >= 100 && report.seeds * 7 == report.tally.cycles && report.failures.is_empty());
        let report = run_seeds(cycles(u64::MAX), &|seed| if seed == 9 { Err("bad".into()) } else { Ok(tally()) });
        assert_eq!(report.failures, [(9, "bad".to_owned())]);
    }
}
