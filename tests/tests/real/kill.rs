//! `kill -9` of the real program at random moments under load: every acknowledged change is there afterwards, flushed or
//! not, a management command has happened or not, and the pool is clean.
//!
//! `PLIMSOLL_KILLS` (default 500) says how often, `PLIMSOLL_SEED` which moments.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::load::churn::Churn;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{End, Tally, Worker};
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use plimsoll_tests::random::{Random, count, seed};

const VDISKS: u64 = 3;
const VDISK_BYTES: u64 = 256 << 20;
/// One region per connection; two connections share the first vdisk. In sectors.
const REGION_SECTORS: u64 = (12 << 20) / 512;
/// Every so many kills everything is compared, not only what the last life touched.
const FULL_COMPARE_EVERY: u64 = 50;
/// A management command begins at most so long before the kill: about twice what it takes here.
const COMMAND_TIME_US: u64 = 30_000;
/// Of so many lives at most nothing is acknowledged: the shortest ones end before the first answer.
const IDLE_PERCENT_MAX: u64 = 5;
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

    let (mut acknowledged, mut in_flight, mut compared, mut idle) = (0, 0, 0, 0);
    let (mut ready, mut serving) = (Vec::new(), Vec::new());
    let mut moments = random.part(1 << 32);
    let mut churn = Churn::new(random.part(1 << 33));
    for kill in 0..kills {
        let context = format!("kill {kill} of seed {seed}");
        churn.prepare(&address).unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        let life = Duration::from_micros(moments.within(2_000..80_000));
        let command = Duration::from_micros(moments.within(0..COMMAND_TIME_US)).min(life);
        let done = live(&mut daemon, &mut workers, &address, (life - command, command), &mut churn);
        let (answered, cut_off) = done.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        let start = Instant::now();
        ready.push(daemon.restart());
        let mut client = NbdClient::connect(&address, "tank/v0", Options::default())
            .unwrap_or_else(|error| panic!("{context}: cannot connect: {error}\n{}", daemon.log()));
        client.read(0, 4096).unwrap_or_else(|error| panic!("{context}: first read: {error}\n{}", daemon.log()));
        serving.push(start.elapsed());
        compared += verify(&mut workers, &address, kill % FULL_COMPARE_EVERY == FULL_COMPARE_EVERY - 1)
            .unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        daemon.assert_clean("tank");
        churn.check(&daemon, &address).unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        acknowledged += answered;
        in_flight += cut_off;
        idle += u64::from(answered == 0);
    }
    compared += verify(&mut workers, &address, true).unwrap_or_else(|error| panic!("at the end: {error}"));
    println!("{kills} kills: {acknowledged} requests acknowledged, {in_flight} in flight, {compared} sectors compared");
    println!("{idle} lives acknowledged nothing; management: {:?}", churn.tally);
    println!("from exec to ready: {}", percentiles(&mut ready));
    println!("from exec to the first read: {}", percentiles(&mut serving));
    assert!(in_flight > 0 && acknowledged > kills, "the load was no load");
    assert!(idle <= kills * IDLE_PERCENT_MAX / 100, "{idle} of {kills} lives acknowledged nothing");
    let cut_off = churn.tally.happened + churn.tally.undone;
    assert!(cut_off >= kills / 20, "only {cut_off} management commands in {kills} kills were cut off");
    let p99 = serving[(serving.len() - 1) * 99 / 100];
    assert!(p99 <= SERVING_P99_MAX, "serving again took {p99:?} at p99, more than {SERVING_P99_MAX:?}");
    assert!(daemon.terminate().success(), "a graceful stop at the end\n{}", daemon.log());
}

/// One life of the daemon under load: for a while without and for a while with a management command, then `kill -9`.
/// Gives how many requests were acknowledged and how many were in flight.
fn live(
    daemon: &mut Daemon,
    workers: &mut [Worker],
    address: &Address,
    (alone, command): (Duration, Duration),
    churn: &mut Churn,
) -> Result<(u64, u64), String> {
    let killed = AtomicBool::new(false);
    let expected = |end| end == End::Died && killed.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.run(address, expected))).collect();
        std::thread::sleep(alone);
        churn.begin(daemon);
        std::thread::sleep(command);
        killed.store(true, Ordering::SeqCst);
        daemon.kill9();
        churn.end()?;
        let tallies = threads.into_iter().map(|thread| thread.join().expect("a worker panicked"));
        let tallies = tallies.collect::<Result<Vec<_>, _>>()?;
        let sum = |figure: fn(&Tally) -> u64| tallies.iter().map(figure).sum();
        Ok((sum(|tally| tally.acknowledged), sum(|tally| tally.in_flight)))
    })
}

fn verify(workers: &mut [Worker], address: &Address, everything: bool) -> Result<u64, String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(move || worker.verify(address, everything))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).sum()
    })
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, max {:?}", at(50), at(99), at(100))
}
