//! The real program on a disk that has no space, fails, vanishes or is slow: the client reads the right error number, what
//! was answered with an error is not counted as done and what was acknowledged is, and once the fault is gone a restart
//! finds all of it and nothing wrong. Want of space is told apart from everything else. Checklist 0.06, 2.51.
//!
//! `PLIMSOLL_SEED` says which load and which moments.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::fault_disk::FaultDisk;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{End, Tally, Worker};
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options};
use plimsoll_tests::random::{Random, seed};

const BLOCK: usize = 4096;
const EXTENT: u64 = 65_536;
const REGION_SECTORS: u64 = (8 << 20) / 512;
/// From this extent on blocks are written that no test counts on.
const FRESH: u64 = 4096;
/// Numbers of the protocol, which are Linux's. EPERM is what a read-only pool answers: one whose disk failed a write of
/// its own, which no client waited for.
const EPERM: u32 = 1;
const EIO: u32 = 5;
const ENOSPC: u32 = 28;
/// The exit code of a check with findings.
const DEGRADED: i32 = 8;
/// A fault that has not come in this time is not going to.
const FAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// No operation that is failed write by write has so many.
const WRITES_MAX: u64 = 200;

/// A daemon with the pool `tank` on a fault disk, and `tank/v0` in it.
struct Rig {
    daemon: Daemon,
    disk: FaultDisk,
}

impl Rig {
    fn start() -> Self {
        let disk = FaultDisk::start(env!("CARGO_BIN_EXE_fault-disk"), 256 << 20);
        let daemon = Daemon::start(&["--bare"]);
        daemon.done(&["pool", "create", "tank", "--device", &disk.path().display().to_string()]);
        // Long enough to be a hold, and short for who waits for the answer.
        daemon.done(&["vdisk", "create", "tank/v0", "--size", "1G", "--on-full", "hold(1s)"]);
        Self { daemon, disk }
    }

    fn address(&self) -> Address {
        Address::Unix(self.daemon.nbd_socket())
    }

    fn client(&self) -> NbdClient {
        NbdClient::connect(&self.address(), "tank/v0", Options::ALL).expect("connect")
    }

    /// The error number of a request; 0 when it was done.
    fn call(&self, kind: Kind, extent: u64, data: &[u8]) -> u32 {
        let length = data.len().max(BLOCK) as u32;
        let (offset, length) = if kind == Kind::Flush { (0, 0) } else { (extent * EXTENT, length) };
        let reply = self.client().call(kind, 0, offset, length, data).expect("the daemon answers");
        reply.error
    }

    /// Writes a block that names `extent`, in that extent.
    fn write(&self, extent: u64) -> u32 {
        self.call(Kind::Write, extent, &contents(extent))
    }

    fn flush(&self) -> u32 {
        self.call(Kind::Flush, 0, &[])
    }

    /// Asserts that the blocks of `extents` are as written.
    #[track_caller]
    fn assert_there(&self, extents: impl Iterator<Item = u64>, context: &str) {
        let mut client = self.client();
        for extent in extents {
            let read = client.read(extent * EXTENT, BLOCK as u32);
            let read =
                read.unwrap_or_else(|error| panic!("{context}: extent {extent}: {error}\n{}", self.daemon.log()));
            assert!(read == contents(extent), "{context}: extent {extent} is not as it was written");
        }
    }

    fn state(&self) -> String {
        let pool = self.daemon.json(&["pool", "show", "tank"]);
        pool["state"].as_str().expect("a state").to_owned()
    }

    /// Kills the daemon, ends the fault with `heal`, and starts it again.
    fn recover(&mut self, heal: &str) {
        self.daemon.kill9();
        self.disk.command(heal);
        self.daemon.restart();
        assert_eq!(self.state(), "online", "{}", self.daemon.log());
    }

    /// Waits until a fault has come.
    fn wait_for_fault(&self, context: &str) {
        let deadline = Instant::now() + FAULT_TIMEOUT;
        while self.disk.faults() == 0 {
            assert!(Instant::now() < deadline, "{context}: no fault in {FAULT_TIMEOUT:?}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A life of `worker`; `during` breaks the disk and says when it is enough. It may end with one of `errors` from the
    /// moment at which `broken` is set, and otherwise only by the kill.
    fn live(&mut self, worker: &mut Worker, errors: &[u32], during: impl FnOnce(&Self, &AtomicBool)) -> Tally {
        let address = self.address();
        let (broken, killed) = (AtomicBool::new(false), AtomicBool::new(false));
        let expected = |end| match end {
            End::Error(error) => broken.load(Ordering::SeqCst) && errors.contains(&error),
            End::Died => killed.load(Ordering::SeqCst),
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| worker.run(&address, expected));
            during(self, &broken);
            killed.store(true, Ordering::SeqCst);
            self.daemon.kill9();
            let result = thread.join().expect("the worker panicked");
            result.unwrap_or_else(|error| panic!("{error}\n{}", self.daemon.log()))
        })
    }

    /// Ends the fault, starts the daemon again, and holds everything against the worker's oracle.
    fn verify(&mut self, worker: &mut Worker, heal: &str, context: &str) {
        self.disk.command(heal);
        self.daemon.restart();
        assert_eq!(self.state(), "online", "{context}\n{}", self.daemon.log());
        let compared = worker.verify(&self.address(), true);
        compared.unwrap_or_else(|error| panic!("{context}: {error}\n{}", self.daemon.log()));
        self.daemon.assert_clean("tank");
    }
}

fn contents(extent: u64) -> Vec<u8> {
    (0..BLOCK / 8).flat_map(|word| (extent << 32 | word as u64 | 1 << 63).to_le_bytes()).collect()
}

/// A load meets the fault `begin` at a random moment and ends with one of `errors`, of which 0 stands for no error; after
/// `heal` and a restart everything is as `promise` says, and the next load works.
fn under_load(begin: &str, heal: &str, errors: &[u32], promise: Promise) {
    let seed = seed();
    let context = format!("{begin} under load, seed {seed}");
    println!("{context}");
    let mut random = Random::new(seed);
    let mut rig = Rig::start();
    let mut worker = Worker::new(0, "tank/v0", 0..REGION_SECTORS, promise, random.part(1)).flushing();
    let before = Duration::from_millis(random.within(20..150));
    let tally = rig.live(&mut worker, errors, |rig, broken| {
        std::thread::sleep(before);
        broken.store(true, Ordering::SeqCst);
        rig.disk.command(begin);
        rig.wait_for_fault(&context);
        // Time for the error to reach the client.
        std::thread::sleep(Duration::from_millis(300));
        let shown = rig.daemon.cli(&["pool", "show", "tank"]);
        assert_eq!(shown.code, 0, "{context}: the daemon must go on answering: {shown:?}");
    });
    println!("{tally:?}");
    assert!(tally.acknowledged > 0, "{context}: the load was no load");
    assert!(errors.contains(&tally.error), "{context}: the load ended with {}, not {errors:?}", tally.error);
    rig.verify(&mut worker, heal, &context);
    let tally = rig.live(&mut worker, &[], |_, _| std::thread::sleep(Duration::from_millis(100)));
    assert!(tally.acknowledged > 0, "{context}: nothing works afterwards");
    rig.verify(&mut worker, heal, &context);
}

#[test]
fn a_full_file_system_below_is_enospc_and_loses_nothing() {
    // A write that finds no room is held, so the load may see no error before it is ended.
    under_load("enospc-write on", "enospc-write off", &[ENOSPC, EPERM, 0], Promise::ProcessDeath);
    let rig = Rig::start();
    assert_eq!((rig.write(1), rig.flush()), (0, 0));
    rig.disk.command("enospc-write on");
    assert_eq!((rig.write(2), rig.write(3), rig.state()), (ENOSPC, ENOSPC, "online".to_owned()));
    rig.assert_there(1..2, "while there is no space");
    rig.disk.command("enospc-write off");
    // The pool looks once a second, and a write waits as long: it may give up just before.
    assert!((0..5).any(|_| rig.write(2) == 0), "there is space again");
    assert_eq!(rig.flush(), 0);
    rig.assert_there(1..3, "when there is space again");
    rig.daemon.assert_clean("tank");
}

/// Not the device's fault, but the same answer: the pool itself has no extent left.
#[test]
fn a_full_pool_is_enospc_and_takes_overwrites_and_discards() {
    let rig = Rig::start();
    // Whole extents, in which nothing could be put together.
    let whole = |extent| rig.call(Kind::Write, extent, &contents(extent).repeat((EXTENT / BLOCK as u64) as usize));
    let first = (1..).find(|extent| whole(*extent) != 0).expect("a pool of 256 MiB is full some time");
    assert_eq!((rig.write(first), rig.flush(), rig.state()), (ENOSPC, 0, "online".to_owned()));
    assert_eq!((rig.write(1), rig.write(first - 1)), (0, 0), "overwrites need no space");
    rig.client().trim(EXTENT, EXTENT as u32).expect("a discard in a full pool");
    assert_eq!((rig.write(first), rig.write(1)), (0, ENOSPC), "one extent came back");
    println!("{} extents until the pool was full", first - 1);
    rig.assert_there(2..first + 1, "in a full pool");
    rig.daemon.assert_clean("tank");
}

#[test]
fn a_write_that_fails_is_eio_and_loses_nothing_else() {
    for nth in [1, 7, 40] {
        // One failure of the journal's is mended by a second attempt, and no client sees it.
        under_load(&format!("eio-write {nth}"), "eio-write 0", &[EIO, 0], Promise::ProcessDeath);
        under_load(&format!("eio-write {nth} stay"), "eio-write 0", &[EIO, EPERM], Promise::ProcessDeath);
    }
    let rig = Rig::start();
    assert_eq!((rig.write(1), rig.flush()), (0, 0));
    rig.disk.command("eio-write 1");
    assert_eq!((rig.write(2), rig.state()), (EIO, "online".to_owned()));
    assert_eq!((rig.write(2), rig.flush()), (0, 0));
    rig.assert_there(1..3, "the write after the one that failed");
    rig.daemon.assert_clean("tank");
}

#[test]
fn a_read_that_fails_is_eio_and_loses_nothing() {
    for nth in [1, 3] {
        // One failed read of the pool's own is mended by a second attempt or copy.
        under_load(&format!("eio-read {nth}"), "eio-read 0", &[EIO, 0], Promise::ProcessDeath);
    }
    let rig = Rig::start();
    assert_eq!((rig.write(1), rig.flush()), (0, 0));
    rig.disk.command("eio-read 1");
    assert_eq!(rig.call(Kind::Read, 1, &[]), EIO);
    rig.assert_there(1..2, "the read after the one that failed");
    assert_eq!(rig.state(), "online");
}

/// What was not flushed when a disk vanishes is the disk's to lose, so only flushed changes must be there.
#[test]
fn a_disk_that_vanishes_is_eio_and_other_pools_go_on() {
    under_load("vanish", "return", &[EIO, EPERM], Promise::PowerLoss);
    let mut rig = Rig::start();
    let file = rig.daemon.folder().join("other");
    File::create_new(&file).and_then(|file| file.set_len(64 << 20)).expect("make the other pool's file");
    rig.daemon.done(&["pool", "create", "other", "--device", &file.display().to_string()]);
    rig.daemon.done(&["vdisk", "create", "other/v0", "--size", "64M"]);
    assert_eq!((rig.write(1), rig.flush()), (0, 0));
    rig.disk.command("vanish");
    assert_eq!((rig.call(Kind::Read, 1, &[]), rig.write(1)), (EIO, EIO));
    // The journal may have failed meanwhile; then the pool is read-only.
    let fresh = rig.write(2);
    assert!([EIO, EPERM].contains(&fresh), "a write to the disk that is gone was answered with {fresh}");
    let mut other = NbdClient::connect(&rig.address(), "other/v0", Options::ALL).expect("connect to the other pool");
    other.write(0, &contents(0), 0).expect("a write to the other pool");
    other.flush().expect("a flush of the other pool");
    assert_eq!(rig.daemon.json(&["pool", "show", "other"])["state"], "online");
    // It is told, with what to do, and that it is over.
    rig.flush();
    let errors = &rig.daemon.events("device-errors", "tank", 1)[0];
    assert!(
        errors["advice"].as_str().is_some_and(|advice| advice.contains("plimsoll pool evacuate tank")),
        "{errors:#}"
    );
    rig.daemon.events("pool-read-only", "tank", 1);
    rig.recover("return");
    rig.daemon.events("pool-read-only-cleared", "tank", 1);
    rig.assert_there(1..2, "after the disk is back");
    rig.daemon.assert_clean("tank");
    rig.daemon.assert_clean("other");
}

#[test]
fn a_file_that_is_cut_off_under_a_pool_is_told_and_never_taken_for_whole_again() {
    let mut daemon = Daemon::start(&["--bare"]);
    let file = daemon.folder().join("tank");
    let (long, short) = (256 << 20, 100 << 20);
    File::create_new(&file).and_then(|file| file.set_len(long)).expect("make the pool's file");
    daemon.done(&["pool", "create", "tank", "--device", &file.display().to_string()]);
    daemon.done(&["vdisk", "create", "tank/v0", "--size", "1G"]);
    let mut client = NbdClient::connect(&Address::Unix(daemon.nbd_socket()), "tank/v0", Options::ALL).expect("connect");
    client.write(0, &contents(0), 0).and_then(|()| client.flush()).expect("a write");
    let cut = File::options().write(true).open(&file).expect("the file");
    cut.set_len(short).expect("cut it off");
    // Whoever notices first; the place of the write is in front of the cut.
    let _ = client.write(60 * EXTENT, &contents(60), 0).and_then(|()| client.flush());
    daemon.events("device-errors", "tank", 1);
    for extent in 1..40 {
        let error = client.call(Kind::Write, 0, extent * EXTENT, BLOCK as u32, &contents(extent)).expect("an answer");
        assert!([EIO, EPERM].contains(&error.error), "extent {extent}: {}", error.error);
    }
    let flush = client.call(Kind::Flush, 0, 0, 0, &[]).expect("an answer");
    assert!([EIO, EPERM].contains(&flush.error), "a flush: {}", flush.error);
    daemon.events("pool-read-only", "tank", 1);
    assert_eq!(daemon.json(&["status"])["health"], "critical");
    drop(client);
    daemon.kill9();
    daemon.restart();
    // Writes under way may have made it longer, but its end is nobody's to write before it was measured.
    let length = std::fs::metadata(&file).expect("the file").len();
    assert!((short..long).contains(&length), "what is lost would read as zeros: it has {length} bytes");
    let told = &daemon.events("pool-not-served", "tank", 1)[0];
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("cut off")), "{told:#}");
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.events("pool-not-served", "tank", 1).len(), 1, "it is told once");
}

#[test]
fn a_slow_disk_is_slow_and_nothing_else() {
    let seed = seed();
    println!("seed {seed}");
    let mut rig = Rig::start();
    let mut worker = Worker::new(0, "tank/v0", 0..REGION_SECTORS, Promise::ProcessDeath, Random::new(seed)).flushing();
    for round in 0..3 {
        let tally = rig.live(&mut worker, &[], |rig, _| {
            rig.disk.command("slow 20");
            std::thread::sleep(Duration::from_millis(800));
        });
        assert!(tally.acknowledged > 0, "round {round}: the load was no load");
        // Started on the slow disk the first time.
        rig.verify(&mut worker, if round == 0 { "slow 5" } else { "slow 0" }, &format!("round {round} of seed {seed}"));
    }
}

/// The place of the n-th write takes no more writes.
const BAD_PLACE: &str = "eio-write N there";

/// What a write meets that a second attempt does not mend, what ends it, and the error number for it.
const FAULTS: [(&str, &str, u32); 3] = [
    (BAD_PLACE, "eio-write 0", EIO),
    ("eio-write N stay", "eio-write 0", EIO),
    ("enospc-write N", "enospc-write off", ENOSPC),
];

/// Operations whose every write is failed in turn, and what they answer then.
type Operation = fn(&Rig, u64) -> Result<(), Refusal>;

/// What an operation answers whose write failed: a number of the protocol, or the exit code and the text of a command.
#[derive(Debug)]
enum Refusal {
    Number(u32),
    Command(i32, String),
}

/// Writes a block to an extent of its own, and fails from its n-th write on what `operation` then does; for every n, until
/// all its writes were done. Each time what was acknowledged before can be read at once and after a restart without the
/// fault. Gives how many writes were failed.
fn fail_each_write(fault: &str, heal: &str, operation: Operation, refused: impl Fn(&Refusal) -> bool) -> u64 {
    let mut rig = Rig::start();
    for nth in 1..WRITES_MAX {
        let context = fault.replace('N', &nth.to_string());
        assert_eq!(rig.write(nth), 0, "{context}");
        let before = rig.disk.faults();
        rig.disk.command(&context);
        let result = operation(&rig, nth);
        let failed = rig.disk.faults() - before;
        rig.assert_there(1..nth + 1, &context);
        match result {
            // What a bad place does not take may have gone to another one.
            Ok(()) => assert!(failed == 0 || fault == BAD_PLACE, "{context}: done although a write of it failed"),
            Err(refusal) => {
                assert!(failed > 0, "{context}: {refusal:?} without a fault");
                assert!(refused(&refusal), "{context}: {refusal:?}\n{}", rig.daemon.log());
                // Metadata that found no room waits for some, and the pool goes on as far as it can without.
                let waits = fault.starts_with("enospc") && matches!(refusal, Refusal::Command(..));
                if waits && rig.state() == "online" {
                    assert_eq!(rig.flush(), 0, "{context}: then a flush");
                } else if !matches!(refusal, Refusal::Command(DEGRADED, _)) {
                    // A pool that could not make something durable takes no more writes, whatever the disk says next.
                    let later = [rig.flush(), rig.write(FRESH + nth)];
                    assert!(
                        later.iter().all(|error| [EIO, ENOSPC, EPERM].contains(error)),
                        "{context}: then {later:?}"
                    );
                    assert_eq!(rig.state(), "read-only", "{context}");
                }
            }
        }
        rig.recover(heal);
        rig.assert_there(1..nth + 1, &format!("{context}, after the restart"));
        rig.daemon.assert_clean("tank");
        if failed == 0 {
            return nth - 1;
        }
    }
    panic!("{fault}: there was no end of writes to fail");
}

/// A flush writes the journal's batch to both rings.
fn flush(rig: &Rig, _nth: u64) -> Result<(), Refusal> {
    match rig.flush() {
        0 => Ok(()),
        number => Err(Refusal::Number(number)),
    }
}

/// A check begins with a checkpoint, of which the flush before it leaves the pages and the root.
fn checkpoint(rig: &Rig, _nth: u64) -> Result<(), Refusal> {
    let outcome = rig.daemon.cli(&["pool", "check", "tank"]);
    if outcome.code == 0 { Ok(()) } else { Err(Refusal::Command(outcome.code, outcome.stdout + &outcome.stderr)) }
}

#[test]
fn a_journal_write_that_fails_is_no_flush_and_loses_nothing() {
    for (fault, heal, number) in FAULTS {
        let writes =
            fail_each_write(fault, heal, flush, |refusal| matches!(refusal, Refusal::Number(n) if *n == number));
        println!("{fault}: {writes} writes of a flush");
        assert!(writes >= 2, "{fault}: a flush has {writes} writes, fewer than there are rings");
    }
}

#[test]
fn a_checkpoint_write_that_fails_is_said_and_loses_nothing() {
    for (fault, heal, _) in FAULTS {
        let writes = fail_each_write(fault, heal, checkpoint, |refusal| match refusal {
            // A root that could not be written everywhere stands, with a finding.
            Refusal::Command(DEGRADED, text) => !text.contains(" 0 findings"),
            Refusal::Command(_, text) => text.contains("error: cannot check pool tank"),
            Refusal::Number(_) => false,
        });
        println!("{fault}: {writes} writes of a checkpoint");
        assert!(writes >= 4, "{fault}: a checkpoint has {writes} writes, fewer than two pages in two copies");
    }
}

#[test]
fn any_read_at_a_start_may_fail_once() {
    let mut rig = Rig::start();
    for nth in 1..WRITES_MAX {
        let context = format!("eio-read {nth} at a start");
        assert_eq!(rig.write(nth), 0, "{context}");
        rig.daemon.kill9();
        let before = rig.disk.faults();
        rig.disk.command(&format!("eio-read {nth}"));
        rig.daemon.restart();
        let failed = rig.disk.faults() - before;
        rig.disk.command("eio-read 0");
        assert_eq!(rig.state(), "online", "{context}\n{}", rig.daemon.log());
        rig.assert_there(1..nth + 1, &context);
        rig.daemon.assert_clean("tank");
        if failed == 0 {
            println!("{} reads of a start were failed", nth - 1);
            assert!(nth > 4, "a start reads labels and roots");
            return;
        }
    }
    panic!("there was no end of reads to fail");
}
