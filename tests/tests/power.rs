//! Power cuts of the real program on a disk that loses and tears what it was not told to flush.
//!
//! The disk is cut under the running daemon, then the daemon is killed and what would outlive only the process is
//! removed. Afterwards everything that a completed flush or FUA covers is there, each other sector holds a value
//! written since, and the pool is clean. `PLIMSOLL_CUTS` (default 100) says how often, `PLIMSOLL_SEED` where.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::fault_disk::FaultDisk;
use plimsoll_tests::load::Worker;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::nbd_client::Address;
use plimsoll_tests::random::{Random, count, seed};

const WORKERS: u64 = 3;
const REGION_SECTORS: u64 = (8 << 20) / 512;

#[test]
fn everything_flushed_survives_a_power_cut() {
    let (seed, cuts) = (seed(), count("PLIMSOLL_CUTS", 100));
    println!("{cuts} power cuts, seed {seed}; again: PLIMSOLL_SEED={seed} PLIMSOLL_CUTS={cuts} tests/run power");
    let random = Random::new(seed);
    let disk = FaultDisk::start(env!("CARGO_BIN_EXE_fault-disk"), 1 << 30);
    let mut daemon = Daemon::start(&["--bare"]);
    daemon.done(&["pool", "create", "tank", "--device", &disk.path().display().to_string()]);
    let address = Address::Unix(daemon.nbd_socket());
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|index| {
            let name = format!("tank/v{index}");
            daemon.done(&["vdisk", "create", &name, "--size", "256M"]);
            Worker::new(index as u32, &name, 0..REGION_SECTORS, Promise::PowerLoss, random.part(index))
        })
        .collect();

    let mut moments = random.part(1 << 32);
    let (mut acknowledged, mut pending, mut compared) = (0, 0, 0);
    for cut in 0..cuts {
        let context = format!("cut {cut} of seed {seed}");
        let powered_off = AtomicBool::new(false);
        let life = Duration::from_micros(moments.within(5_000..200_000));
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(|| worker.run(&address, || powered_off.load(Ordering::SeqCst))))
                .collect();
            std::thread::sleep(life);
            powered_off.store(true, Ordering::SeqCst);
            pending += disk.cut(moments.word());
            daemon.kill9();
            threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect()
        });
        for result in results {
            acknowledged += result.unwrap_or_else(|error| panic!("{context}: {error}")).acknowledged;
        }
        daemon.lose_crash_memory();
        daemon.restart();
        for worker in &mut workers {
            let result = worker.verify(&address, cut % 20 == 19);
            compared += result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        }
        daemon.assert_clean("tank");
    }
    println!(
        "{cuts} cuts: {acknowledged} requests acknowledged, {pending} writes pending at the cuts, {compared} sectors"
    );
    println!("the disk: {}", disk.command("stats"));
    assert!(pending > 0 && acknowledged > cuts, "the load was no load");
    assert!(daemon.terminate().success(), "a graceful stop at the end\n{}", daemon.log());
}

#[test]
fn after_a_failed_flush_nothing_is_acknowledged_that_a_power_cut_undoes() {
    let (seed, rounds) = (seed(), count("PLIMSOLL_FLUSH_FAILURES", 10));
    println!("{rounds} failed flushes, seed {seed}; again: PLIMSOLL_SEED={seed} tests/run power");
    for round in 0..rounds {
        let context = format!("failed flush {round} of seed {seed}");
        let mut random = Random::new(seed).part(round);
        let disk = FaultDisk::start(env!("CARGO_BIN_EXE_fault-disk"), 256 << 20);
        let mut daemon = Daemon::start(&["--bare"]);
        daemon.done(&["pool", "create", "tank", "--device", &disk.path().display().to_string()]);
        daemon.done(&["vdisk", "create", "tank/v0", "--size", "256M"]);
        let address = Address::Unix(daemon.nbd_socket());
        let mut worker = Worker::new(0, "tank/v0", 0..REGION_SECTORS, Promise::PowerLoss, random.part(1));
        // The disk forgets what it held when the flush failed, as Linux' page cache does after a failed fsync.
        disk.command(&format!("eio-flush {} lose", random.within(1..30)));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| worker.run(&address, || true));
            std::thread::sleep(Duration::from_millis(random.within(50..300)));
            disk.cut(random.word());
            daemon.kill9();
            let result = thread.join().expect("the worker panicked");
            result.unwrap_or_else(|error| panic!("{context}: {error}"));
        });
        // The load may have ended before the fault came; what follows is to run on a disk without one.
        disk.command("eio-flush 0");
        daemon.lose_crash_memory();
        daemon.restart();
        let result = worker.verify(&address, true);
        result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        daemon.assert_clean("tank");
    }
}
