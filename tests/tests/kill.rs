//! `kill -9` of the real program at random moments under load: every acknowledged change is there afterwards, flushed or
//! not, and the pool is clean.
//!
//! `PLIMSOLL_KILLS` (default 500) says how often, `PLIMSOLL_SEED` which moments.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{Tally, Worker};
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use plimsoll_tests::random::{Random, count, seed};

const VDISKS: u64 = 3;
const VDISK_BYTES: u64 = 256 << 20;
/// One region per connection; two connections share the first vdisk. In sectors.
const REGION_SECTORS: u64 = (12 << 20) / 512;
/// Every so many kills everything is compared, not only what the last life touched.
const FULL_COMPARE_EVERY: u64 = 50;
/// Serving again in this time at the 99th percentile is the promise of the product.
const SERVING_P99_MAX: Duration = Duration::from_secs(1);

#[test]
fn every_acknowledged_change_survives_kill_9() {
    let (seed, kills) = (seed(), count("PLIMSOLL_KILLS", 500));
    println!("{kills} kills, seed {seed}; again: PLIMSOLL_SEED={seed} PLIMSOLL_KILLS={kills} tests/run kill");
    let random = Random::new(seed);
    let mut daemon = Daemon::start(&["--bare"]);
    let device = daemon.folder().join("device");
    File::create_new(&device).and_then(|file| file.set_len(1 << 30)).expect("make the pool's file");
    daemon.done(&["pool", "create", "tank", "--device", &device.display().to_string()]);
    for vdisk in 0..VDISKS {
        daemon.done(&["vdisk", "create", &format!("tank/v{vdisk}"), "--size", &VDISK_BYTES.to_string()]);
    }
    let address = Address::Unix(daemon.nbd_socket());
    let mut workers: Vec<Worker> = (0..VDISKS + 1)
        .map(|index| {
            let vdisk = index % VDISKS;
            let first = index / VDISKS * REGION_SECTORS;
            let region = first..first + REGION_SECTORS;
            Worker::new(vdisk as u32, &format!("tank/v{vdisk}"), region, Promise::ProcessDeath, random.part(index))
        })
        .collect();

    let (mut total, mut ready, mut serving) = (Tally::default(), Vec::new(), Vec::new());
    let mut moments = random.part(1 << 32);
    let mut churn = Churn::default();
    for kill in 0..kills {
        let context = format!("kill {kill} of seed {seed}");
        let life = Duration::from_micros(moments.within(2_000..80_000));
        let tallies = live(&mut daemon, &mut workers, &address, life, &mut churn, &context);
        let start = Instant::now();
        ready.push(daemon.restart());
        let mut client = NbdClient::connect(&address, "tank/v0", Options::default())
            .unwrap_or_else(|error| panic!("{context}: cannot connect: {error}\n{}", daemon.log()));
        client.read(0, 4096).unwrap_or_else(|error| panic!("{context}: first read: {error}\n{}", daemon.log()));
        serving.push(start.elapsed());
        let compared = verify(&mut workers, &address, kill % FULL_COMPARE_EVERY == FULL_COMPARE_EVERY - 1)
            .unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        daemon.assert_clean("tank");
        churn.check(&daemon, &context);
        for tally in tallies {
            total.acknowledged += tally.acknowledged;
            total.in_flight += tally.in_flight;
        }
        total.compared += compared;
    }
    total.compared += verify(&mut workers, &address, true).unwrap_or_else(|error| panic!("at the end: {error}"));
    println!("{kills} kills: {total:?}, {} vdisks created and {} deleted meanwhile", churn.created, churn.deleted);
    println!("from exec to ready: {}", percentiles(&mut ready));
    println!("from exec to the first read: {}", percentiles(&mut serving));
    assert!(total.in_flight > 0 && total.acknowledged > kills, "the load was no load: {total:?}");
    let p99 = serving[(serving.len() - 1) * 99 / 100];
    assert!(p99 <= SERVING_P99_MAX, "serving again took {p99:?} at p99, more than {SERVING_P99_MAX:?}");
    assert!(daemon.terminate().success(), "a graceful stop at the end\n{}", daemon.log());
}

/// One life of the daemon under load, ended by `kill -9` after `life`.
fn live(
    daemon: &mut Daemon,
    workers: &mut [Worker],
    address: &Address,
    life: Duration,
    churn: &mut Churn,
    context: &str,
) -> Vec<Tally> {
    let killed = AtomicBool::new(false);
    let results: Vec<Result<Tally, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.run(address, || false))).collect();
        let begin = Instant::now();
        churn.step(daemon, &killed, begin + life);
        std::thread::sleep(life.saturating_sub(begin.elapsed()));
        killed.store(true, Ordering::Relaxed);
        daemon.kill9();
        threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect()
    });
    results.into_iter().map(|result| result.unwrap_or_else(|error| panic!("{context}: {error}"))).collect()
}

fn verify(workers: &mut [Worker], address: &Address, everything: bool) -> Result<u64, String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(move || worker.verify(address, everything))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).sum()
    })
}

/// Vdisks that come and go under the load: what was acknowledged must be so after the kill.
#[derive(Debug, Default)]
struct Churn {
    created: u64,
    deleted: u64,
    /// The vdisk that exists now, by its number.
    current: Option<u64>,
}

impl Churn {
    /// Creates or deletes one vdisk, if there is time before `deadline`. The command completes before the kill.
    fn step(&mut self, daemon: &Daemon, killed: &AtomicBool, deadline: Instant) {
        if killed.load(Ordering::Relaxed) || Instant::now() + Duration::from_millis(20) > deadline {
            return;
        }
        match self.current.take() {
            None => {
                daemon.done(&["vdisk", "create", &format!("tank/churn{}", self.created), "--size", "64M"]);
                self.current = Some(self.created);
                self.created += 1;
            }
            Some(number) => {
                daemon.done(&["vdisk", "delete", &format!("tank/churn{number}"), "--yes"]);
                self.deleted += 1;
            }
        }
    }

    fn check(&self, daemon: &Daemon, context: &str) {
        let list = daemon.json(&["vdisk", "list"]);
        let names: Vec<String> = list["items"]
            .as_array()
            .unwrap_or_else(|| panic!("{context}: vdisk list has no items: {list:#}"))
            .iter()
            .filter_map(|item| item["name"].as_str())
            .filter(|name| name.contains("churn"))
            .map(str::to_owned)
            .collect();
        let expected: Vec<String> = self.current.iter().map(|number| format!("churn{number}")).collect();
        let same = names.len() == expected.len() && names.iter().zip(&expected).all(|(name, end)| name.ends_with(end));
        assert!(same, "{context}: of the vdisks that come and go there are {names:?}, not {expected:?}");
    }
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100))
}
