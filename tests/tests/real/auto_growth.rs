//! Pools that grow by themselves: at their level and before they are full, by spares and by their file; what cannot be taken is passed
//! over, and what cannot be done is told.
//! Checklist 0.08, 0.17, 0.21-0.23.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use crate::files::{file, text};
use crate::tank::{LONG, MIB, PATIENCE, Tank};
use plimsoll_tests::nbd_client::NbdClient;
use plimsoll_tests::root::LoopDevice;
use rustix::fs::OFlags;
use serde_json::{Value, json};

/// Exit codes.
const USAGE: i32 = 2;
const CONFLICT: i32 = 4;

impl Tank {
    fn show(&self) -> Value {
        self.daemon.json(&["pool", "show", "tank"])
    }

    fn devices(&self) -> Vec<String> {
        let pool = self.show();
        let devices = pool["devices"].as_array().expect("devices");
        devices.iter().map(|device| device["path"].as_str().expect("a path").to_owned()).collect()
    }

    /// Waits until a sum of what the pool has told that it grew by is there.
    #[track_caller]
    fn grown(&self, times: usize) -> u64 {
        let events = self.daemon.events("pool-grown", "tank", times);
        assert_eq!(events.len(), times, "{events:#?}");
        events.iter().map(|event| event["figures"]["added_bytes"].as_u64().expect("bytes")).sum()
    }

    /// Waits until the pool says that it cannot grow by itself.
    #[track_caller]
    fn impossible(&self) -> String {
        let began = Instant::now();
        loop {
            if let Some(reason) = self.show()["growth"]["impossible"].as_str() {
                return reason.to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "it could grow\n{}", self.daemon.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Writes MiB after MiB from one on, until the pool is used to `level` per cent; gives the next. None of these writes may fail.
#[track_caller]
fn write_up_to(tank: &Tank, client: &mut NbdClient, level: f64, mut next: u64) -> u64 {
    let used = |pool: &Value| pool["used_pct"].as_f64().expect("a use");
    let mut before = tank.show();
    loop {
        client.write(next * MIB, &vec![next as u8 + 1; MIB as usize], 0).expect("there is space");
        next += 1;
        let now = tank.show();
        let has_grown = now["physical_bytes"] != before["physical_bytes"];
        // A write is a hundredth or two of it, and metadata something.
        assert!(!has_grown || used(&before) > level - 4.0, "it grew when it was not used to {level} %: {before:#}");
        if has_grown || used(&now) >= level {
            return next;
        }
        before = now;
    }
}

#[test]
fn a_pool_grows_by_itself_at_its_level_by_its_file_and_by_spares_and_says_when_it_cannot() {
    const LEVEL: f64 = 50.0;
    let tank = Tank::new();
    let daemon = &tank.daemon;
    // What finds no space fails: a pool that grew only when it is full would be too late.
    tank.vdisk("v", &["--on-full", "fail"]);
    let path = daemon.folder().join("a.img");
    let spare = file(daemon.folder(), "spare.img", 128 * MIB);
    let set = ["pool", "set", "tank", "--auto-grow-at", "50%"];
    daemon.refused(&set, USAGE, &["nothing to grow by"]);
    daemon.refused(&[&set[..], &["--spare", text(&path)]].concat(), CONFLICT, &["is a device of pool tank"]);
    daemon.done(&[&set[..], &["--spare", text(&spare), "--grow-file-to", "192M", "--keep-free", "1M"]].concat());
    let before = tank.show()["physical_bytes"].as_u64().expect("bytes");
    let (mut client, mut next) = (tank.connect("v"), 0);
    // By the spare, and by that, which is the last file now; each time at the level, for nobody writes until it has grown.
    for times in 1..=2 {
        next = write_up_to(&tank, &mut client, LEVEL, next);
        let grown = tank.grown(times);
        let now = tank.show();
        assert_eq!(now["physical_bytes"], before + grown, "{now:#}");
        assert!(now["growth"]["impossible"].is_null() && now["available_bytes"] != 0, "{now:#}");
    }
    assert_eq!(tank.devices(), [text(&path), text(&spare)]);
    assert_eq!(tank.show()["growth"]["policy"]["spares"], json!([]));
    assert!(daemon.events("growth-impossible", "tank", 0).is_empty(), "it could, so far");

    next = write_up_to(&tank, &mut client, LEVEL, next);
    let reason = tank.impossible();
    assert!(reason.contains(text(&spare)) && reason.contains("the most that it may have"), "{reason}");
    let told = daemon.events("growth-impossible", "tank", 1);
    let word = |name: &str| told[0][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((told.len(), word("severity")), (1, "critical".to_owned()), "{told:#?}");
    assert!(word("cause").contains(&reason) && word("cause").contains("pool tank"), "{told:#?}");
    assert!(word("advice").contains("plimsoll pool add-device tank --device PATH"), "{told:#?}");
    assert_eq!(fs::metadata(&spare).expect("the file").len(), 192 * MIB, "never more than it may");

    // Who follows the advice is told that it helped.
    tank.grow(256);
    tank.grown(3);
    let last = daemon.events("pool-grown", "tank", 3).pop().expect("an event");
    assert!(last["seq"].as_u64() > told[0]["seq"].as_u64(), "{last:#}");
    assert!(last["cause"].as_str().is_some_and(|cause| cause.contains("more.img")), "{last:#}");
    assert!(tank.show()["growth"]["impossible"].is_null());
    assert_eq!(daemon.events("growth-impossible", "tank", 0).len(), 1, "told once");
    daemon.done(&["pool", "set", "tank", "--no-auto-grow"]);
    assert!(tank.show()["growth"].is_null());
    for mebibyte in 0..next {
        assert!(client.read(mebibyte * MIB, 4096).expect("a read") == [mebibyte as u8 + 1; 4096], "MiB {mebibyte}");
    }
    daemon.assert_clean("tank");
}

/// Opens a device as a mount does: nobody else may.
fn claim(device: &str) -> File {
    let flags = OFlags::EXCL.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(device).expect("claim the device")
}

/// Locks a file as another daemon does.
fn lock(path: &Path) -> File {
    let locked = OpenOptions::new().read(true).write(true).open(path).expect("open the file");
    locked.try_lock().expect("lock the file");
    locked
}

#[test]
fn spares_that_came_into_use_are_passed_over_and_said_and_held_writes_go_on_with_the_next() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("v", &["--on-full", LONG]);
    let spares = ["gone.img", "under.img", "locked.img", "good.img"].map(|name| file(daemon.folder(), name, 64 * MIB));
    let [gone, under, locked, good] = &spares;
    let device = LoopDevice::over(under, false);
    let named = [text(gone), device.path(), text(locked), text(good)];
    let mut set = vec!["pool", "set", "tank", "--auto-grow-at", "80%"];
    set.extend(named.iter().flat_map(|spare| ["--spare", spare]));
    // Not while somebody has one of them.
    for (spare, taken) in [(device.path(), claim(device.path())), (text(locked), lock(locked))] {
        daemon.refused(&set, CONFLICT, &[spare]);
        drop(taken);
    }
    daemon.done(&set);

    // After they were named.
    fs::remove_file(gone).expect("remove a spare");
    let (claimed, flock) = (claim(device.path()), lock(locked));
    let mut client = tank.connect("v");
    // More than the pool has: they are held until a spare has been taken.
    for mebibyte in 0..70 {
        client.write(mebibyte * MIB, &vec![mebibyte as u8 + 1; MIB as usize], 0).expect("the pool grows");
    }
    assert_eq!(tank.told("v", [1, 1, 0]), [1, 1, 0], "they were held, and went on");
    tank.grown(1);
    assert_eq!(tank.devices().last().map(String::as_str), Some(text(good)));
    assert_eq!(tank.show()["growth"]["policy"]["spares"], json!(named[..3]), "the others are spares still");

    let log = daemon.log();
    for spare in &named[..3] {
        assert!(log.contains(spare), "{spare} was passed over without a word\n{log}");
    }

    // None is left that can be taken: that is told, with the one that was tried last.
    for mebibyte in 70..115 {
        client.write(mebibyte * MIB, &vec![mebibyte as u8 + 1; MIB as usize], 0).expect("there is space");
    }
    let reason = tank.impossible();
    assert!(reason.contains(&format!("spare {}: ", text(locked))), "{reason}");
    let told = daemon.events("growth-impossible", "tank", 1);
    assert!(told[0]["cause"].as_str().is_some_and(|cause| cause.contains(&reason)), "{told:#?}");

    // One is let go: it is found without a word, and what is held by then goes on.
    drop(claimed);
    for mebibyte in 115..135 {
        client.write(mebibyte * MIB, &vec![mebibyte as u8 + 1; MIB as usize], 0).expect("the pool grows");
    }
    tank.grown(2);
    assert_eq!(tank.devices().last().map(String::as_str), Some(device.path()));
    assert!(tank.show()["growth"]["impossible"].is_null());
    drop(flock);
    for mebibyte in 0..135 {
        assert!(client.read(mebibyte * MIB, 4096).expect("a read") == [mebibyte as u8 + 1; 4096], "MiB {mebibyte}");
    }
    daemon.assert_clean("tank");
}
