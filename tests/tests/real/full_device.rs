//! A pool in a file whose file system has less room than the file promises: writes are held, nothing fails, and the pool goes on as soon
//! as there is room, with everything that it had. Checklist 0.05-0.07, 0.24.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use crate::files::text;
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options};
use plimsoll_tests::root::Tmpfs;

const MIB: u64 = 1 << 20;
/// What is waited for takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(60);
const ENOSPC: u32 = 28;

/// What a mebibyte of the vdisk holds.
fn contents(number: u64) -> Vec<u8> {
    (0..MIB).map(|at| (number * 7 + at / 512 + 1) as u8 | 1).collect()
}

/// A pool `tank` with a vdisk `v` in a file of 256 MiB, in a file system of 64 MiB of which others have 16.
struct Promised {
    _mount: Tmpfs,
    daemon: Daemon,
}

impl Promised {
    fn new() -> Self {
        let daemon = Daemon::start(&["--bare"]);
        let folder = daemon.folder().join("small");
        fs::create_dir(&folder).expect("make a folder");
        let mount = Tmpfs::on(&folder, 64 * MIB);
        let pool = folder.join("pool.img");
        File::create_new(&pool).and_then(|file| file.set_len(256 * MIB)).expect("make a file");
        fs::write(folder.join("ballast"), vec![1; 16 * MIB as usize]).expect("write a file");
        daemon.done(&["pool", "create", "tank", "--device", text(&pool)]);
        daemon.done(&["vdisk", "create", "tank/v", "--size", "1G", "--on-full", "fail"]);
        Self { _mount: mount, daemon }
    }

    fn connect(&self) -> NbdClient {
        let address = Address::Unix(self.daemon.nbd_socket());
        NbdClient::connect(&address, "tank/v", Options::default()).expect("connect")
    }

    /// Writes mebibyte after mebibyte until there is no room; answers how many there are.
    fn fill(&self, client: &mut NbdClient) -> u64 {
        self.fill_from(client, 0)
    }

    /// The same, behind so many.
    fn fill_from(&self, client: &mut NbdClient, first: u64) -> u64 {
        for number in first.. {
            match client.call(Kind::Write, 0, number * MIB, MIB as u32, &contents(number)).expect("an answer").error {
                0 => {}
                error => {
                    assert_eq!(error, ENOSPC);
                    return number;
                }
            }
        }
        unreachable!("a file system has an end")
    }

    fn pool(&self) -> serde_json::Value {
        self.daemon.json(&["pool", "show", "tank"])
    }

    /// Waits until so many writes are held.
    #[track_caller]
    fn held(&self, writes: u64) {
        let began = Instant::now();
        while self.pool()["held_writes"] != writes {
            assert!(began.elapsed() < PATIENCE, "{:#}\n{}", self.pool(), self.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.daemon.folder().join("small/ballast")).expect("remove the ballast");
    }
}

#[test]
fn writes_are_held_while_the_file_system_is_full_and_all_is_there_when_it_has_room() {
    let promised = Promised::new();
    let daemon = &promised.daemon;
    let mut client = promised.connect();
    let sent = promised.fill(&mut client);
    daemon.done(&["vdisk", "set", "tank/v", "--on-full", "hold(10m)"]);
    for number in sent..sent + 4 {
        client.submit(Kind::Write, 0, number * MIB, MIB as u32, &contents(number)).expect("a write is sent");
    }
    promised.held(4);
    // Everything else goes on, and nothing is said to be wrong with the device.
    let mut other = promised.connect();
    other.write(0, &contents(0), 0).expect("an overwrite");
    other.flush().expect("a flush");
    assert!(other.read(MIB, MIB as u32).expect("a read") == contents(1));
    assert!(promised.pool()["read_only"].is_null(), "{:#}", promised.pool());
    // Once for the write that failed, and not again for those that are held: nobody has made space meanwhile.
    let told = daemon.events("vdisk-exhausted", "tank/v", 1);
    assert_eq!((told.len(), &told[0]["details"]["shortage"]), (1, &"device-full".into()), "{told:#?}");
    assert!(told[0]["cause"].as_str().is_some_and(|cause| cause.contains("small/pool.img is full")), "{told:#?}");
    assert_eq!(daemon.events("device-errors", "tank", 0).len(), 0);
    promised.make_room();
    for _ in 0..4 {
        assert_eq!(client.receive().expect("an answer").error, 0);
    }
    client.flush().expect("a flush");
    assert_eq!(daemon.events("vdisk-resumed", "tank/v", 1).len(), 1);
    for number in 0..sent + 4 {
        assert!(client.read(number * MIB, MIB as u32).expect("a read") == contents(number), "mebibyte {number}");
    }
    daemon.assert_clean("tank");
}

#[test]
fn a_write_that_finds_no_room_fails_as_no_space_and_a_restart_finds_everything() {
    let mut promised = Promised::new();
    let mut client = promised.connect();
    let written = promised.fill(&mut client);
    client.flush().expect("a flush");
    promised.daemon.kill9();
    promised.daemon.restart();
    let mut client = promised.connect();
    assert!(promised.pool()["read_only"].is_null(), "{:#}", promised.pool());
    // Blocks that nothing needed any more when it was killed are there for one or the other.
    let before = written;
    let written = promised.fill_from(&mut client, before);
    println!("{before} MiB before the kill, {} more after it", written - before);
    assert!(written - before < 8, "{written} MiB went in after a restart, and {before} before it");
    for number in 0..written {
        assert!(client.read(number * MIB, MIB as u32).expect("a read") == contents(number), "mebibyte {number}");
    }
    promised.make_room();
    let began = Instant::now();
    // It is asked for now and then; who does not want to wait may be too early.
    while client.call(Kind::Write, 0, written * MIB, MIB as u32, &contents(written)).expect("an answer").error != 0 {
        assert!(began.elapsed() < PATIENCE, "there is room\n{}", promised.daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(client.read(written * MIB, MIB as u32).expect("a read") == contents(written));
    promised.daemon.assert_clean("tank");
}

#[test]
fn room_that_others_have_taken_is_a_finding_and_room_that_is_made_ends_it_without_a_write() {
    let mut promised = Promised::new();
    let mut client = promised.connect();
    promised.fill(&mut client);
    let of_vdisk = |promised: &Promised| {
        let status = promised.daemon.json(&["status"]);
        let findings = status["findings"].as_array().expect("findings").clone();
        findings.iter().any(|finding| finding["object"] == "tank/v")
    };
    assert!(of_vdisk(&promised));
    let pool = promised.pool();
    let figure = |name: &str| pool[name].as_u64().unwrap_or_else(|| panic!("{name} of {pool:#}"));
    assert!(figure("available_below_bytes") < figure("available_bytes").min(8 * MIB), "{pool:#}");
    // What has been told is known after a kill, too.
    promised.daemon.events("vdisk-exhausted", "tank/v", 1);
    promised.daemon.kill9();
    promised.daemon.restart();
    assert!(of_vdisk(&promised), "as long as there is no room");
    // Told when the pool was made, before anybody lacked it, and not again by a restart.
    assert_eq!(promised.daemon.events("pool-room-below", "tank", 1).len(), 1);
    promised.make_room();
    assert!(!of_vdisk(&promised));
    assert!(
        promised.pool()["available_below_bytes"].as_u64().is_some_and(|bytes| bytes >= 15 * MIB),
        "{:#}",
        promised.pool()
    );
}

#[test]
fn a_device_joins_for_good_while_the_file_system_of_the_state_is_full() {
    let mut daemon = Daemon::start(&["--bare"]);
    assert!(daemon.terminate().success());
    let _mount = Tmpfs::on(&daemon.state_dir(), 16 * MIB);
    daemon.restart();
    let device = |folder: &str| {
        let folder = daemon.folder().join(folder);
        fs::create_dir(&folder).expect("make a folder");
        let path = folder.join("device.img");
        File::create_new(&path).and_then(|file| file.set_len(128 * MIB)).expect("make a file");
        path
    };
    let (first, second) = (device("first"), device("second"));
    daemon.done(&["pool", "create", "tank", "--device", text(&first)]);
    fs::write(daemon.state_dir().join("ballast"), vec![1; 16 * MIB as usize]).expect_err("it is full");
    daemon.done(&["pool", "add-device", "tank", "--device", text(&second)]);
    daemon.kill9();
    daemon.restart();
    let pool = daemon.json(&["pool", "show", "tank"]);
    assert_eq!((&pool["state"], pool["devices"].as_array().map(Vec::len)), (&"online".into(), Some(2)), "{pool:#}");
}

#[test]
fn a_pool_without_room_below_it_takes_its_spare_by_itself() {
    let promised = Promised::new();
    let daemon = &promised.daemon;
    let spare = daemon.folder().join("spare.img");
    File::create_new(&spare).and_then(|file| file.set_len(256 * MIB)).expect("make a file");
    daemon.done(&["pool", "set", "tank", "--auto-grow-at", "90%", "--spare", text(&spare)]);
    daemon.done(&["vdisk", "set", "tank/v", "--on-full", "hold(10m)"]);
    let mut client = promised.connect();
    // More than there is room for, and less than the level.
    for number in 0..80 {
        client.write(number * MIB, &contents(number), 0).expect("it grows");
    }
    assert_eq!(daemon.events("pool-grown", "tank", 1).len(), 1);
    let told = daemon.events("vdisk-exhausted", "tank/v", 1);
    assert_eq!(told[0]["details"]["shortage"], "device-full", "{told:#?}");
    assert_eq!(promised.pool()["devices"].as_array().map(Vec::len), Some(2), "{:#}", promised.pool());
    for number in 0..80 {
        assert!(client.read(number * MIB, MIB as u32).expect("a read") == contents(number), "mebibyte {number}");
    }
    daemon.assert_clean("tank");
}
