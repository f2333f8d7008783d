//! What the real program does with the devices it is given: real ones, wrong ones, and ones that somebody else has.
//! Checklist 0.04, 2.11.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::files::{file, text};
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{End, Worker};
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use plimsoll_tests::random::{Random, seed};
use plimsoll_tests::root::{LoopDevice, ReadOnlyMount};

const MIB: u64 = 1 << 20;
/// Exit codes.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;

fn create<'a>(pool: &'a str, path: &'a str) -> [&'a str; 5] {
    ["pool", "create", pool, "--device", path]
}

/// A pool `pool` in a new file of its own with one vdisk `v0`, whose first block is written and flushed.
fn pool_in_file(daemon: &Daemon, pool: &str) -> PathBuf {
    let path = file(daemon.folder(), &format!("{pool}.img"), 64 * MIB);
    daemon.done(&create(pool, text(&path)));
    daemon.done(&["vdisk", "create", &format!("{pool}/v0"), "--size", "64M"]);
    let mut client = connect(daemon, pool);
    client.write(0, &[7; 4096], 0).expect("a write");
    client.flush().expect("a flush");
    client.disconnect().expect("a goodbye");
    path
}

fn connect(daemon: &Daemon, pool: &str) -> NbdClient {
    let name = format!("{pool}/v0");
    NbdClient::connect(&Address::Unix(daemon.nbd_socket()), &name, Options::default()).expect("connect")
}

#[track_caller]
fn assert_serves(daemon: &Daemon, pool: &str) {
    assert!(connect(daemon, pool).read(0, 4096).expect("a read") == [7; 4096], "{pool} lost its block");
    daemon.assert_clean(pool);
}

#[test]
fn a_path_that_is_no_device_is_named_with_what_to_do() {
    let daemon = Daemon::start(&["--bare"]);
    let folder = text(daemon.folder());
    let missing = format!("{folder}/none");
    let pipe = format!("{folder}/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("make a pipe");
    let socket = daemon.nbd_socket();
    let (empty, small) = (file(daemon.folder(), "empty", 0), file(daemon.folder(), "small", MIB));
    let cases: [(&str, i32, &[&str]); 7] = [
        (folder, USAGE, &["is a directory, not a block device or regular file", "hint: truncate -s"]),
        ("/dev/null", USAGE, &["is a character device", "hint: plimsoll device list"]),
        (&pipe, USAGE, &["is a pipe", "hint: plimsoll device list"]),
        (text(&socket), USAGE, &["is a socket", "hint: plimsoll device list"]),
        (&missing, NOT_FOUND, &["does not exist", "plimsoll device list", "truncate -s"]),
        (text(&empty), USAGE, &["0 bytes", "hint: make it larger"]),
        (text(&small), USAGE, &["too small: it has 1 MiB", "at least 4 MiB (4194304 bytes)"]),
    ];
    for (path, code, words) in cases {
        let said = daemon.refused(&create("tank", path), code, words);
        assert!(said.contains("error: cannot create pool tank") && said.contains(path), "{path} is not named: {said}");
    }
    assert_eq!(daemon.json(&["pool", "list"])["items"], serde_json::json!([]));
}

#[test]
fn a_file_that_holds_something_is_named_and_overwritten_only_by_force() {
    let daemon = Daemon::start(&["--bare"]);
    let served = pool_in_file(&daemon, "served");
    let system = file(daemon.folder(), "system", 64 * MIB);
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&system).status().expect("run mkfs.ext4 (e2fsprogs)");
    assert!(made.success(), "mkfs.ext4: {made}");
    let other = {
        let elsewhere = Daemon::start(&["--bare"]);
        let path = pool_in_file(&elsewhere, "other");
        elsewhere.done(&["pool", "export", "other", "--yes"]);
        let here = daemon.folder().join("other");
        fs::copy(path, &here).expect("copy the other pool");
        here
    };
    let force = "--force=foreign";
    for (path, what) in [(&system, "ext"), (&other, "a device of pool other (UUID ")] {
        let before = fs::read(path).expect("read the device");
        daemon.refused(&create("tank", text(path)), CONFLICT, &[text(path), "holds", what, "hint: ", force]);
        let add = ["pool", "add-device", "served", "--device", text(path)];
        daemon.refused(&add, CONFLICT, &[text(path), "holds", what, force]);
        assert!(fs::read(path).expect("read the device") == before, "{} was written to", path.display());
    }
    let taken = ["is a device of pool served", "hint: plimsoll pool show served"];
    daemon.refused(&[&create("tank", text(&served))[..], &[force]].concat(), CONFLICT, &taken);
    daemon.done(&[&create("tank", text(&system))[..], &[force]].concat());
    daemon.done(&["pool", "add-device", "served", "--device", text(&other), force]);
    daemon.assert_clean("tank");
    assert_serves(&daemon, "served");
}

#[test]
fn a_device_that_may_not_be_written_is_refused() {
    let daemon = Daemon::start(&["--bare"]);
    let under = file(daemon.folder(), "under", 64 * MIB);
    let device = LoopDevice::over(&under, true);
    daemon.refused(&create("tank", device.path()), CONFLICT, &[device.path(), "is write-protected", "hint: "]);
    let folder = daemon.folder().join("protected");
    fs::create_dir(&folder).expect("make a folder");
    let pool = pool_in_file(&daemon, "old");
    daemon.done(&["pool", "export", "old", "--yes"]);
    let (new, old) = (file(&folder, "new", 64 * MIB), folder.join("old"));
    fs::rename(pool, &old).expect("move the pool");
    let before = fs::read(&old).expect("read the pool");
    let mount = ReadOnlyMount::over(&folder);
    daemon.refused(&create("tank", text(&new)), CONFLICT, &[text(&new), "is write-protected", "hint: "]);
    daemon.refused(&["pool", "import", text(&old)], CONFLICT, &[text(&old), "is write-protected", "hint: "]);
    // Looking at it is allowed.
    daemon.done(&["pool", "check", "--device", text(&old)]);
    drop(mount);
    assert!(fs::read(&old).expect("read the pool") == before, "a check wrote to the pool");
    daemon.done(&["pool", "import", text(&old)]);
    assert_serves(&daemon, "old");
}

#[test]
fn a_device_shorter_than_its_label_makes_its_pool_unavailable_and_no_other() {
    let mut daemon = Daemon::start(&["--bare"]);
    let (tank, whole) = (pool_in_file(&daemon, "tank"), pool_in_file(&daemon, "whole"));
    for (bytes, again) in [(32 * MIB, true), (64 * 1024, false)] {
        assert!(daemon.terminate().success());
        File::options().write(true).open(&tank).and_then(|file| file.set_len(bytes)).expect("cut the pool's file");
        daemon.restart();
        let pool = daemon.json(&["pool", "show", "tank"]);
        assert_eq!(pool["state"], "unavailable", "{pool:#}");
        let reason = pool["reason"].as_str().expect("a reason").to_owned();
        assert!(reason.contains(text(&tank)), "{reason}");
        if again {
            let both = reason.contains(&(64 * MIB).to_string()) && reason.contains(&bytes.to_string());
            assert!(both && reason.contains("cut off"), "both sizes must be named: {reason}");
        }
        assert_serves(&daemon, "whole");
    }
    assert!(whole.exists());
}

#[test]
fn one_pool_is_served_by_one_daemon() {
    let (first, second) = (Daemon::start(&["--bare"]), Daemon::start(&["--bare"]));
    let path = pool_in_file(&first, "tank");
    let path = text(&path);
    let worst = [&create("mine", path)[..], &["--force=foreign"]].concat();
    // At the same time, because each waits for a lock that might be that of a dying daemon.
    let attempts: [&[&str]; 3] =
        [&["pool", "import", path], &worst, &["pool", "check", "--device", path, "--repair", "--yes"]];
    let running = attempts.map(|arguments| (arguments, second.begin(arguments)));
    for (arguments, running) in running {
        let outcome = running.end();
        outcome.assert_refused(
            &format!("plimsoll {arguments:?}"),
            CONFLICT,
            &[path, "another process holds it", "fuser -v"],
        );
    }
    assert_serves(&first, "tank");
    first.done(&["pool", "export", "tank", "--yes"]);
    second.done(&["pool", "import", path]);
    assert_serves(&second, "tank");
}

#[test]
fn a_pool_on_a_block_device_survives_kill_9() {
    let seed = seed();
    println!("seed {seed}");
    let mut daemon = Daemon::start(&["--bare"]);
    let under = file(daemon.folder(), "under", 256 * MIB);
    let device = LoopDevice::over(&under, false);
    daemon.done(&create("tank", device.path()));
    daemon.done(&["vdisk", "create", "tank/v0", "--size", "1G"]);
    let shown = daemon.json(&["device", "show", device.path()]);
    assert!(shown.to_string().contains("tank"), "the device must name its pool: {shown:#}");
    let address = Address::Unix(daemon.nbd_socket());
    let mut worker = Worker::new(0, "tank/v0", 0..16 * MIB / 512, Promise::ProcessDeath, Random::new(seed)).flushing();
    for round in 0..5 {
        let context = format!("kill {round} of seed {seed}");
        let killed = std::sync::atomic::AtomicBool::new(false);
        let expected = |end| end == End::Died && killed.load(std::sync::atomic::Ordering::SeqCst);
        let tally = std::thread::scope(|scope| {
            let thread = scope.spawn(|| worker.run(&address, expected));
            std::thread::sleep(Duration::from_millis(100));
            killed.store(true, std::sync::atomic::Ordering::SeqCst);
            daemon.kill9();
            thread.join().expect("the worker panicked").unwrap_or_else(|error| panic!("{context}: {error}"))
        });
        assert!(tally.acknowledged > 0, "{context}: the load was no load");
        daemon.restart();
        worker.verify(&address, true).unwrap_or_else(|error| panic!("{context}: {error}\n{}", daemon.log()));
        daemon.assert_clean("tank");
    }
    assert!(daemon.terminate().success());
}
