//! The time to full as the real program tells it: with a steady writer within a tenth of what then happens, and with bursts no storm
//! of events. Horizons are those of every day, made shorter; all is measured by the clock of the events.
//! Checklist 0.08, 4.46.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const EXTENT: u64 = 64 << 10;
const POOL_MIB: u64 = 256;
/// At the rates below a pool of this size is full after some 32 s.
const HORIZONS: [f64; 2] = [20.0, 10.0];
/// Between two extents of the steady writer, and two bursts of the other, which writes as much in the mean.
const STEADY: Duration = Duration::from_millis(8);
const BURST: Duration = Duration::from_millis(256);
/// Longer than all of it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pool of its own, with a vdisk.
fn pool(daemon: &Daemon, pool: &str, mebibytes: u64) -> NbdClient {
    let path = daemon.folder().join(pool);
    File::create_new(&path).and_then(|file| file.set_len(mebibytes * MIB)).expect("make the pool's file");
    daemon.done(&["pool", "create", pool, "--device", &path.display().to_string()]);
    daemon.done(&["pool", "set", pool, "--horizons", "20s,10s"]);
    let name = format!("{pool}/v");
    daemon.done(&["vdisk", "create", &name, "--size", "1G", "--on-full", "fail"]);
    NbdClient::connect(&Address::Unix(daemon.nbd_socket()), &name, Options::default()).expect("connect")
}

/// Half fills a small pool as fast as it goes and empties it, again and again, until it is told to stop; answers for how long.
fn saw(daemon: &Daemon, stop: &AtomicBool) -> f64 {
    const TOOTH: u64 = 32;
    let mut client = pool(daemon, "saw", 2 * TOOTH);
    let began = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        for mebibyte in 0..TOOTH {
            client.write(mebibyte * MIB, &[7; MIB as usize], 0).expect("a write");
        }
        std::thread::sleep(Duration::from_millis(400));
        client.trim(0, (TOOTH * MIB) as u32).expect("a trim");
        client.flush().expect("a flush");
        std::thread::sleep(Duration::from_millis(400));
    }
    began.elapsed().as_secs_f64()
}

/// Fills a pool of its own in bursts of so many extents, each at its time, until there is no space.
fn fill(daemon: &Daemon, name: &str, period: Duration, extents: u64) {
    let mut client = pool(daemon, name, POOL_MIB);
    let began = Instant::now();
    for burst in 0.. {
        std::thread::sleep((period * burst as u32).saturating_sub(began.elapsed()));
        for extent in burst * extents..(burst + 1) * extents {
            let reply =
                client.call(Kind::Write, 0, extent * EXTENT, EXTENT as u32, &[7; EXTENT as usize]).expect("an answer");
            if reply.error != 0 {
                assert_eq!(reply.error, 28, "no space");
                println!("{name}: {extent} extents in {:?}", began.elapsed());
                return;
            }
        }
        assert!(began.elapsed() < PATIENCE, "{name} does not fill");
    }
}

/// A forecast that was told.
struct Told {
    horizon: f64,
    reached: bool,
    /// When, in seconds of the day.
    at: f64,
    figures: Value,
}

fn told(daemon: &Daemon, pool: &str) -> Vec<Told> {
    let list = daemon.json(&["event", "list", "--object", pool]);
    let events = list["items"].as_array().expect("events").iter();
    let forecasts = events.filter(|event| event["kind"].as_str().is_some_and(|kind| kind.starts_with("pool-forecast")));
    forecasts
        .map(|event| Told {
            horizon: event["figures"]["horizon_seconds"].as_f64().expect("a horizon"),
            reached: event["kind"] == "pool-forecast",
            at: time(event),
            figures: event["figures"].clone(),
        })
        .collect()
}

/// Seconds of the day.
fn time(event: &Value) -> f64 {
    let text = event["time"].as_str().expect("a time");
    let parts: Vec<f64> = text[11..].trim_end_matches('Z').split(':').map(|part| part.parse().expect(text)).collect();
    parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]
}

#[test]
fn a_horizon_is_told_within_a_tenth_of_the_true_time_and_bursts_give_no_storm() {
    let daemon = Daemon::start(&["--bare"]);
    let extents = (BURST.as_millis() / STEADY.as_millis()) as u64;
    let stop = AtomicBool::new(false);
    let sawed = std::thread::scope(|scope| {
        let saw = scope.spawn(|| saw(&daemon, &stop));
        let steady = scope.spawn(|| fill(&daemon, "steady", STEADY, 1));
        let bursty = scope.spawn(|| fill(&daemon, "bursty", BURST, extents));
        let ends = [steady.join(), bursty.join()];
        stop.store(true, Ordering::SeqCst);
        assert!(ends.iter().all(Result::is_ok), "a writer panicked");
        saw.join().expect("a writer panicked")
    });

    for (pool, accuracy) in [("steady", 0.1), ("bursty", 0.35)] {
        let full = time(&daemon.events("vdisk-exhausted", &format!("{pool}/v"), 1)[0]);
        let told = told(&daemon, pool);
        let horizons: Vec<(f64, bool)> = told.iter().map(|told| (told.horizon, told.reached)).collect();
        assert_eq!(horizons, HORIZONS.map(|horizon| (horizon, true)), "{pool}: each is told once, and none is left");
        for Told { horizon, at, figures, .. } in told {
            let left = (full - at).rem_euclid(86_400.0);
            println!("{pool}: {horizon} s told when {left:.3} s were left: {figures}");
            let error = left / horizon - 1.0;
            assert!(error.abs() < accuracy, "{pool}: {horizon} s were told when {left} s were left");
            let said = figures["time_to_full_seconds"].as_f64().expect("a time to full") / left - 1.0;
            assert!(said.abs() < accuracy, "{pool}: {figures} when {left} s were left");
        }
    }
    // However it goes up and down: at most once each way in a quarter of the horizon.
    let sawn = told(&daemon, "saw");
    for horizon in HORIZONS {
        let times = sawn.iter().filter(|told| told.horizon == horizon).count();
        let most = 2 * (sawed / (horizon / 4.0)).ceil() as usize;
        println!("saw: {horizon} s told {times} times in {sawed:.0} s; {most} are bearable");
        assert!(times <= most, "{times} events of {horizon} s in {sawed} s");
    }
    // What is full is said to be full, and a pool that nobody writes to any more is not said to be anything else.
    let before = told(&daemon, "steady").len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told(&daemon, "steady").len(), before);
    for pool in ["steady", "bursty", "saw"] {
        daemon.assert_clean(pool);
    }
}
