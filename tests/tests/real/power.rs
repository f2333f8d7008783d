//! Power cuts of the real program on a disk that loses and tears what it was not told to flush.
//!
//! The disk is cut under the running daemon, then the daemon is killed and what would outlive only the process is
//! removed. Afterwards everything that a completed flush or FUA covers is there, each other sector holds a value
//! written since, and the pool is clean. `PLIMSOLL_CUTS` (default 100) says how often, `PLIMSOLL_SEED` where.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::fault_disk::FaultDisk;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{End, Worker};
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use plimsoll_tests::random::{Random, count, seed};

const WORKERS: u64 = 3;
const BLOCK_BYTES: usize = 4096;
/// `NBD_FLAG_CAN_MULTI_CONN`
const CAN_MULTI_CONN: u16 = 1 << 8;
const REGION_SECTORS: u64 = (8 << 20) / 512;
/// Of so many lives at most nothing is acknowledged: the shortest ones end before the first answer.
const IDLE_PERCENT_MAX: u64 = 5;
/// A fault that has not come in this time is not going to.
const FAULT_TIMEOUT: Duration = Duration::from_secs(20);

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
    let (mut acknowledged, mut pending, mut compared, mut idle) = (0, 0, 0, 0);
    for cut in 0..cuts {
        let context = format!("cut {cut} of seed {seed}");
        let powered_off = AtomicBool::new(false);
        let life = Duration::from_micros(moments.within(5_000..200_000));
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .iter_mut()
                .map(|worker| scope.spawn(|| worker.run(&address, |_| powered_off.load(Ordering::SeqCst))))
                .collect();
            std::thread::sleep(life);
            powered_off.store(true, Ordering::SeqCst);
            pending += disk.cut(moments.word());
            daemon.kill9();
            threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect()
        });
        let mut answered = 0;
        for result in results {
            answered += result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log())).acknowledged;
        }
        acknowledged += answered;
        idle += u64::from(answered == 0);
        daemon.lose_crash_memory();
        daemon.restart();
        for worker in &mut workers {
            let result = worker.verify(&address, cut % 20 == 19);
            compared += result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        }
        daemon.assert_clean("tank");
    }
    println!(
        "{cuts} cuts: {acknowledged} requests acknowledged, {pending} writes pending at the cuts, {compared} sectors \
         compared; {idle} lives acknowledged nothing"
    );
    println!("the disk: {}", disk.command("stats"));
    assert!(pending > 0 && acknowledged > cuts, "the load was no load");
    assert!(idle <= cuts * IDLE_PERCENT_MAX / 100, "{idle} of {cuts} lives acknowledged nothing");
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
        let mut worker = Worker::new(0, "tank/v0", 0..REGION_SECTORS, Promise::PowerLoss, random.part(1)).flushing();
        // The disk forgets what it held when the flush failed, as Linux' page cache does after a failed fsync.
        disk.command(&format!("eio-flush {} lose", random.within(1..30)));
        let powered_off = AtomicBool::new(false);
        let expected = |end| matches!(end, End::Error(_)) || powered_off.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| worker.run(&address, expected));
            let deadline = Instant::now() + FAULT_TIMEOUT;
            while disk.faults() == 0 {
                assert!(Instant::now() < deadline, "{context}: no flush came in {FAULT_TIMEOUT:?}\n{}", daemon.log());
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(random.within(0..100)));
            powered_off.store(true, Ordering::SeqCst);
            disk.cut(random.word());
            daemon.kill9();
            let result = thread.join().expect("the worker panicked");
            result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        });
        daemon.lose_crash_memory();
        daemon.restart();
        let result = worker.verify(&address, true);
        result.unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        daemon.assert_clean("tank");
    }
}

/// What a server promises by `NBD_FLAG_CAN_MULTI_CONN`: a flush covers what was answered on every connection before it.
#[test]
fn a_flush_on_one_connection_covers_what_was_answered_on_another() {
    let (seed, rounds) = (seed(), count("PLIMSOLL_CONNECTION_CUTS", 20));
    println!("{rounds} power cuts, seed {seed}; again: PLIMSOLL_SEED={seed} tests/run power");
    let mut random = Random::new(seed);
    let disk = FaultDisk::start(env!("CARGO_BIN_EXE_fault-disk"), 256 << 20);
    let mut daemon = Daemon::start(&["--bare"]);
    daemon.done(&["pool", "create", "tank", "--device", &disk.path().display().to_string()]);
    daemon.done(&["vdisk", "create", "tank/v0", "--size", "256M"]);
    let address = Address::Unix(daemon.nbd_socket());
    let connect = || NbdClient::connect(&address, "tank/v0", Options::ALL).expect("connect");
    let mut pending = 0;
    for round in 0..rounds {
        let context = format!("cut {round} of seed {seed}");
        let (mut flusher, mut writer) = (connect(), connect());
        assert!(writer.export().flags & CAN_MULTI_CONN != 0, "the export does not promise it");
        // More and more of them lie in extents that have space already.
        let mut blocks: Vec<u64> = (0..1 << 12).map(|block| block * 5).collect();
        random.shuffle(&mut blocks);
        let content = |block: u64| (block << 8 | round).to_le_bytes().repeat(BLOCK_BYTES / 8);
        let (covered, not) = blocks[..64].split_at(32);
        for block in covered {
            writer.write(block * BLOCK_BYTES as u64, &content(*block), 0).expect("a write");
        }
        flusher.flush().expect("a flush");
        for block in not {
            writer.write(block * BLOCK_BYTES as u64, &content(*block), 0).expect("a write");
        }
        pending += disk.cut(random.word());
        daemon.kill9();
        daemon.lose_crash_memory();
        daemon.restart();
        let mut reader = connect();
        for block in covered {
            let read = reader.read(block * BLOCK_BYTES as u64, BLOCK_BYTES as u32).expect("a read");
            assert!(read == content(*block), "{context}: block {block} is not as it was flushed\n{}", daemon.log());
        }
        daemon.assert_clean("tank");
    }
    assert!(pending > rounds, "{pending} writes were pending at {rounds} cuts: nothing could be lost");
}
