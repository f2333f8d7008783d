//! Events about space through `kill -9`: levels are crossed up and down while the daemon dies again and again, and in the end every
//! alarm was raised and cleared in turn, with none lost and none repeated.
//! Checklist 0.08, 0.24, 4.46, 4.49; `PLIMSOLL_ALARM_KILLS` (default 40) says how often, `PLIMSOLL_SEED` after how much work.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plimsoll_tests::daemon::{Daemon, READY_TIMEOUT};
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options};
use plimsoll_tests::random::{Random, count, seed};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// The levels of the pool, of the vdisk's size and of its quota, in per cent, with the pool's hysteresis.
const LEVELS: [u64; 4] = [10, 30, 50, 70];
const HYSTERESIS: u64 = 5;
const POOL_MIB: u64 = 64;
/// What the writer fills and trims.
const VDISK_MIB: u64 = 56;
const QUOTA_MIB: u64 = 52;
const CHUNK: u64 = MIB;

/// An alarm: what it is about, and the level.
type Alarm = (String, String, u64);

#[test]
fn alarms_alternate_and_none_is_lost_or_repeated_through_kill_9() {
    let (seed, kills) = (seed(), count("PLIMSOLL_ALARM_KILLS", 40));
    println!("{kills} kills, seed {seed}; again: PLIMSOLL_SEED={seed} PLIMSOLL_ALARM_KILLS={kills} tests/run alarms");
    let mut random = Random::new(seed);
    let mut daemon = Daemon::start(&["--bare"]);
    let path = daemon.folder().join("a.img");
    File::create_new(&path).and_then(|file| file.set_len(POOL_MIB * MIB)).expect("make the pool's file");
    daemon.done(&["pool", "create", "tank", "--device", &path.display().to_string()]);
    let levels = LEVELS.map(|level| format!("{level}%")).join(",");
    let hysteresis = HYSTERESIS.to_string();
    // Without horizons: those are told of when time passes, and here it hardly does.
    let set = ["pool", "set", "tank", "--thresholds", &levels, "--hysteresis", &hysteresis, "--horizons", "off"];
    daemon.done(&set);
    let (size, quota) = (format!("{VDISK_MIB}M"), format!("{QUOTA_MIB}M"));
    let promises = ["--quota", &quota, "--on-full", "fail", "--thresholds", &levels, "--quota-thresholds", &levels];
    daemon.done(&[&["vdisk", "create", "tank/v", "--size", &size], &promises[..]].concat());

    let (mut rounds, mut last_seq) = (0, 0);
    for kill in 0..kills {
        // By its work, so that a slow machine has the same, and then anywhere in the next of it.
        let (work, moment) = (random.within(1..150), Duration::from_micros(random.within(0..2_000)));
        let address = Address::Unix(daemon.nbd_socket());
        let worker = random.part(kill);
        let done = Arc::new(AtomicU64::new(0));
        let counter = done.clone();
        let writer = std::thread::spawn(move || fill_and_trim(&address, worker, &counter));
        let began = Instant::now();
        while done.load(Ordering::Relaxed) < work && !writer.is_finished() {
            assert!(began.elapsed() < READY_TIMEOUT, "kill {kill}: stuck\n{}", daemon.log());
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(moment);
        daemon.kill9();
        rounds += writer.join().expect("the writer panicked");
        daemon.restart();
        // Numbers go on where they were; nothing that could be read is gone or another now.
        let seqs = all(&daemon).iter().map(|event| event["seq"].as_u64().expect("a number")).collect::<Vec<_>>();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "kill {kill}: not ascending: {seqs:?}");
        let newest = seqs.last().copied().unwrap_or(0);
        assert!(newest >= last_seq, "kill {kill}: events are gone: {last_seq} was there, {newest} is the last");
        last_seq = newest;
    }

    // In the end full, empty, and somewhere between.
    let mut client =
        NbdClient::connect(&Address::Unix(daemon.nbd_socket()), "tank/v", Options::default()).expect("connect");
    for end in [VDISK_MIB, 0, random.within(0..VDISK_MIB - 8)] {
        client.trim(0, (VDISK_MIB * MIB) as u32).expect("a trim");
        client.flush().expect("a flush");
        for chunk in 0..end * MIB / CHUNK {
            let reply = client.call(Kind::Write, 0, chunk * CHUNK, CHUNK as u32, &vec![7; CHUNK as usize]);
            if reply.expect("an answer").error != 0 {
                break;
            }
        }
        client.flush().expect("a flush");
        let expected = expected(&daemon);
        settle(&daemon, &expected);
    }
    let events = all(&daemon);
    let mut raised: BTreeMap<Alarm, (bool, u64)> = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for event in &events {
        let id = event["id"].as_str().expect("an id").to_owned();
        assert!(ids.insert(id, event["seq"].clone()).is_none(), "an id twice: {event:#}");
        let Some((alarm, rising)) = alarm(event) else { continue };
        let (is, changes) = raised.entry(alarm.clone()).or_default();
        assert!(*is != rising, "{alarm:?} was told twice to be {rising}: {event:#}");
        (*is, *changes) = (rising, *changes + 1);
    }
    let most = raised.values().map(|(_, changes)| *changes).max().unwrap_or(0);
    println!("{kills} kills, {rounds} fills, {} events, up to {most} of one alarm", events.len());
    assert_eq!(raised.len(), 3 * LEVELS.len() + 1, "each alarm there is was raised: {raised:#?}");
    assert!(most > kills / 2 && rounds > kills / 2, "the load was no load");
    daemon.assert_clean("tank");
}

#[test]
fn a_level_is_told_once_in_all_lives_of_the_daemon_and_anew_when_a_pool_comes_back() {
    let mut daemon = Daemon::start(&["--bare"]);
    let path = daemon.folder().join("a.img");
    let path = path.to_str().expect("a path in UTF-8").to_owned();
    File::create_new(&path).and_then(|file| file.set_len(POOL_MIB * MIB)).expect("make the pool's file");
    daemon.done(&["pool", "create", "tank", "--device", &path]);
    daemon.done(&["pool", "set", "tank", "--thresholds", "50%", "--horizons", "off"]);
    daemon.done(&["vdisk", "create", "tank/v", "--size", "1G"]);
    let connect = |daemon: &Daemon| {
        NbdClient::connect(&Address::Unix(daemon.nbd_socket()), "tank/v", Options::default()).expect("connect")
    };
    let mut client = connect(&daemon);
    for chunk in 0..POOL_MIB * 6 / 10 {
        client.write(chunk * MIB, &[7; MIB as usize], 0).expect("a write");
    }
    daemon.events("pool-threshold", "tank", 1);
    for life in 0..4 {
        if life % 2 == 0 {
            daemon.kill9();
        } else {
            assert!(daemon.terminate().success(), "a graceful stop\n{}", daemon.log());
        }
        daemon.restart();
        // Behind this whatever the start had to tell is told.
        daemon.done(&["vdisk", "set", "tank/v", "--thresholds", if life % 2 == 0 { "1%" } else { "off" }]);
        daemon.events("vdisk-threshold", "tank/v", 1 + life / 2);
        assert_eq!(daemon.events("pool-threshold", "tank", 1).len(), 1, "told again in life {life}");
    }
    daemon.done(&["pool", "export", "tank", "--yes"]);
    daemon.done(&["pool", "import", &path]);
    assert_eq!(daemon.events("pool-threshold", "tank", 2).len(), 2);
    assert!(daemon.events("pool-threshold-cleared", "tank", 0).is_empty());
    let mut client = connect(&daemon);
    client.trim(0, (POOL_MIB * MIB) as u32).expect("a trim");
    client.flush().expect("a flush");
    assert_eq!(daemon.events("pool-threshold-cleared", "tank", 1).len(), 1);
}

/// Fills the vdisk to a random place and trims it from a random place, until the daemon is gone; counts in `done` what was answered.
fn fill_and_trim(address: &Address, mut random: Random, done: &AtomicU64) -> u64 {
    let mut rounds = 0;
    let mut round = || -> std::io::Result<()> {
        let mut client = NbdClient::connect(address, "tank/v", Options::default())?;
        loop {
            for chunk in 0..random.within(1..VDISK_MIB * MIB / CHUNK) {
                let reply = client.call(Kind::Write, 0, chunk * CHUNK, CHUNK as u32, &vec![7; CHUNK as usize])?;
                assert!([0, 28].contains(&reply.error), "{reply:?}");
                done.fetch_add(1, Ordering::Relaxed);
            }
            rounds += 1;
            if random.within(0..2) == 0 {
                client.flush()?;
            }
            let from = random.within(0..VDISK_MIB) * MIB;
            client.trim(from, (VDISK_MIB * MIB - from) as u32)?;
            done.fetch_add(1, Ordering::Relaxed);
            if random.within(0..2) == 0 {
                client.flush()?;
            }
        }
    };
    round().expect_err("the daemon is killed");
    rounds
}

fn all(daemon: &Daemon) -> Vec<Value> {
    let list = daemon.json(&["event", "list", "--limit", "100000"]);
    list["items"].as_array().expect("events").clone()
}

/// The alarm that an event of a level is about, and whether it rises.
fn alarm(event: &Value) -> Option<(Alarm, bool)> {
    let kind = event["kind"].as_str().expect("a kind");
    let (name, rising) = match kind.strip_suffix("-cleared") {
        Some(name) => (name, false),
        None => (kind, true),
    };
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    if kind == "vdisk-exhausted" || kind == "vdisk-resumed" {
        return Some(((word(&event["object"]), "exhausted".to_owned(), 0), kind == "vdisk-exhausted"));
    }
    name.ends_with("-threshold").then(|| {
        let level = event["figures"]["level_pct"].as_u64().expect("a level");
        ((word(&event["object"]), word(&event["details"]["measure"]), level), rising)
    })
}

/// What the present use says of each alarm: raised, not, or either, when it is within the hysteresis.
fn expected(daemon: &Daemon) -> BTreeMap<Alarm, Option<bool>> {
    let figure = |view: &Value, name: &str| view[name].as_u64().unwrap_or_else(|| panic!("{name} in {view:#}"));
    let (pool, vdisk) = (daemon.json(&["pool", "show", "tank"]), daemon.json(&["vdisk", "show", "tank/v"]));
    let physical = figure(&pool, "physical_bytes");
    let backed = figure(&vdisk, "backed_bytes");
    let figures = [
        ("tank", "physical", physical - figure(&pool, "available_bytes"), physical, HYSTERESIS),
        // Vdisks have the usual hysteresis.
        ("tank/v", "designated", backed, figure(&vdisk, "designated_bytes"), 2),
        ("tank/v", "quota", backed, figure(&vdisk, "quota_bytes"), 2),
    ];
    let exhausted = ("tank/v".to_owned(), "exhausted".to_owned(), 0);
    let mut expected = BTreeMap::from([(exhausted, vdisk["exhausted"].as_bool())]);
    for (object, measure, used, total, hysteresis) in figures {
        for level in LEVELS {
            let is = match () {
                () if used * 100 >= level * total => Some(true),
                () if used * 100 < (level - hysteresis) * total => Some(false),
                () => None,
            };
            expected.insert((object.to_owned(), measure.to_owned(), level), is);
        }
    }
    expected
}

/// Waits until the alarms that are raised are those that are expected.
#[track_caller]
fn settle(daemon: &Daemon, expected: &BTreeMap<Alarm, Option<bool>>) {
    let began = Instant::now();
    loop {
        let mut raised: BTreeMap<Alarm, bool> = BTreeMap::new();
        raised.extend(all(daemon).iter().filter_map(alarm));
        let is = |alarm: &Alarm| raised.get(alarm).copied().unwrap_or(false);
        let wrong: Vec<_> = expected.iter().filter(|(alarm, due)| due.is_some_and(|due| is(alarm) != due)).collect();
        if wrong.is_empty() {
            return;
        }
        assert!(began.elapsed() < READY_TIMEOUT, "wrong after all has settled: {wrong:#?}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
