//! The real program while its pools change their devices: grown, emptied, replaced, killed in the middle.
//! Checklist 0.04, 0.17.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::files::{file, text};
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::load::oracle::Promise;
use plimsoll_tests::load::{End, Worker};
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use plimsoll_tests::random::{Random, seed};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What is waited for takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exit codes.
const USAGE: i32 = 2;
const CONFLICT: i32 = 4;
const FULL: i32 = 7;

fn connect(daemon: &Daemon, name: &str) -> NbdClient {
    NbdClient::connect(&Address::Unix(daemon.nbd_socket()), name, Options::default()).expect("connect")
}

fn show(daemon: &Daemon) -> Value {
    daemon.json(&["pool", "show", "tank"])
}

fn bytes(pool: &Value, field: &str) -> u64 {
    pool[field].as_u64().unwrap_or_else(|| panic!("{field} in {pool}"))
}

/// Waits until the pool is as `done` says.
#[track_caller]
fn wait(daemon: &Daemon, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let pool = show(daemon);
        if done(&pool) {
            return pool;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {pool}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn devices(pool: &Value) -> Vec<String> {
    let devices = pool["devices"].as_array().expect("devices");
    devices.iter().map(|device| device["path"].as_str().expect("a path").to_owned()).collect()
}

/// A pool `tank` on a file, with one vdisk.
fn tank(daemon: &Daemon, size: u64) -> PathBuf {
    let path = file(daemon.folder(), "a.img", size);
    daemon.done(&["pool", "create", "tank", "--device", text(&path)]);
    daemon.done(&["vdisk", "create", "tank/v0", "--size", "1G"]);
    path
}

#[test]
fn the_only_device_is_replaced_under_load_with_kill_9_in_the_middle() {
    let mut daemon = Daemon::start(&["--bare"]);
    let first = tank(&daemon, 256 * MIB);
    let address = Address::Unix(daemon.nbd_socket());
    let mut worker = Worker::new(0, "tank/v0", 0..(24 * MIB / 512), Promise::ProcessDeath, Random::new(seed()));
    // What is never written again must move too.
    let mut client = connect(&daemon, "tank/v0");
    let cold: Vec<u8> = (0..MIB).map(|index| (index % 251) as u8).collect();
    for chunk in 0..64 {
        client.write((64 + chunk) * MIB, &cold, 0).expect("a write");
    }
    client.flush().expect("a flush");
    client.disconnect().expect("a goodbye");
    let second = file(daemon.folder(), "b.img", 256 * MIB);
    for life in 0..4 {
        let killed = AtomicBool::new(false);
        let expected = |end| end == End::Died && killed.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| worker.run(&address, expected));
            std::thread::sleep(Duration::from_millis(100));
            if life == 0 {
                daemon.done(&["pool", "add-device", "tank", "--device", text(&second)]);
                daemon.done(&[
                    "pool",
                    "remove-device",
                    "tank",
                    "--device",
                    text(&first),
                    "--rate",
                    "24M",
                    "--yes",
                    "--no-wait",
                ]);
            }
            std::thread::sleep(Duration::from_millis(300));
            killed.store(true, Ordering::SeqCst);
            daemon.kill9();
            load.join().expect("a worker panicked").expect("the load");
        });
        daemon.restart();
        worker.verify(&address, true).expect("every acknowledged write is there");
        daemon.assert_clean("tank");
    }
    let still = show(&daemon);
    if devices(&still).len() > 1 {
        // As fast as it goes, now.
        daemon.done(&["pool", "remove-device", "tank", "--device", text(&first), "--yes", "--no-wait"]);
    }
    let pool = wait(&daemon, "the device does not leave", |pool| devices(pool).len() == 1);
    assert_eq!(devices(&pool), [text(&second)]);
    assert!(daemon.terminate().success(), "a graceful stop\n{}", daemon.log());
    fs::remove_file(&first).expect("the file that has left is nobody's");
    daemon.restart();
    worker.verify(&address, true).expect("every acknowledged write is there");
    let mut client = connect(&daemon, "tank/v0");
    for chunk in 0..64 {
        assert!(client.read((64 + chunk) * MIB, MIB as u32).expect("a read") == cold, "what was moved has changed");
    }
    daemon.assert_clean("tank");
}

#[test]
fn an_evacuation_says_what_it_would_do_is_refused_when_it_does_not_fit_and_can_be_called_off() {
    let daemon = Daemon::start(&["--bare"]);
    let first = tank(&daemon, 128 * MIB);
    let evacuate = ["pool", "evacuate", "tank", "--device", text(&first)];
    daemon.refused(&evacuate, USAGE, &["last device", "add-device"]);
    let mut client = connect(&daemon, "tank/v0");
    for chunk in 0..80 {
        client.write(chunk * MIB, &vec![9; MIB as usize], 0).expect("a write");
    }
    let small = file(daemon.folder(), "small.img", 64 * MIB);
    daemon.done(&["pool", "add-device", "tank", "--device", text(&small)]);
    daemon.refused(&evacuate, FULL, &["do not fit", "missing"]);
    daemon.refused(&[&evacuate[..], &["--dry-run"]].concat(), FULL, &["do not fit", "missing"]);
    let large = file(daemon.folder(), "large.img", 256 * MIB);
    daemon.done(&["pool", "add-device", "tank", "--device", text(&large)]);
    let plan = daemon.json(&["pool", "remove-device", "tank", "--device", text(&first), "--dry-run"]);
    assert!(plan.to_string().contains("free there") && bytes(&plan, "needs_bytes") >= 80 * MIB, "{plan}");
    assert_eq!(devices(&show(&daemon)).len(), 3, "a plan changes nothing");
    let job = daemon.json(&["pool", "evacuate", "tank", "--device", text(&first), "--rate", "1M", "--no-wait"]);
    assert_eq!(job["kind"], "device-evacuate", "{job}");
    daemon.done(&["pool", "evacuate", "tank", "--device", text(&first), "--cancel"]);
    daemon.refused(
        &["pool", "evacuate", "tank", "--device", text(&first), "--cancel"],
        CONFLICT,
        &["not being evacuated"],
    );
    daemon.done(&["pool", "evacuate", "tank", "--device", text(&first), "--wait"]);
    let pool = show(&daemon);
    assert_eq!(pool["devices"][0]["state"], "evacuated", "{pool}");
    assert_eq!(pool["devices"][0]["used_bytes"], 0, "{pool}");
    assert!(client.read(79 * MIB, 4096).expect("a read") == [9; 4096]);
    daemon.done(&["pool", "remove-device", "tank", "--device", text(&first), "--yes", "--wait"]);
    assert_eq!(devices(&show(&daemon)).len(), 2);
    daemon.assert_clean("tank");
}

#[test]
fn a_file_that_became_larger_is_used_when_it_is_asked_for() {
    let mut daemon = Daemon::start(&["--bare"]);
    let path = tank(&daemon, 64 * MIB);
    let before = bytes(&show(&daemon), "physical_bytes");
    for size in [128, 192, 256] {
        let longer = File::options().write(true).open(&path).and_then(|file| file.set_len(size * MIB));
        longer.expect("the file is enlarged");
        daemon.done(&["pool", "grow", "tank"]);
        let now = bytes(&show(&daemon), "physical_bytes");
        assert!(now >= before + (size - 68) * MIB, "{now} bytes of a file of {size} MiB, from {before}");
    }
    let mut client = connect(&daemon, "tank/v0");
    for chunk in 0..200 {
        client.write(chunk * MIB, &vec![chunk as u8; MIB as usize], 0).expect("the new space is used");
    }
    daemon.kill9();
    daemon.restart();
    let mut client = connect(&daemon, "tank/v0");
    for chunk in 0..200 {
        assert!(client.read(chunk * MIB, 4096).expect("a read") == [chunk as u8; 4096], "MiB {chunk}");
    }
    daemon.assert_clean("tank");
}
