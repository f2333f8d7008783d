//! Linux guests in a pool that fills up: held while it grows, stopped by their emulator, giving zeros and patterns back.
//! Checklist 0.05, 0.07, 0.09, 0.21-0.23, 2.08, 2.29, 2.30, 2.51, 2.53, 2.54.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::files::{file, text};
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::guest::{Disk, Guest, Monitor};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What is waited for takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(60);
/// The neighbour's longest round while others are held is no longer than so many of its longest before, within these bounds: it always
/// competes with another guest and its emulator, and a wait for the usual time of a held write, 20 s, would show.
const LONGER_AT_MOST: u32 = 10;
const LONGEST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(18));
/// Blocks of the neighbour, in MiB, and rounds of it while writes are held: each overwritten three times, flushed and read.
const STEADY_MEBIBYTES: u64 = 8;
const BEATS: u64 = 3 * STEADY_MEBIBYTES;

/// A daemon with a pool `tank` of so many MiB, and its TCP port.
fn tank(mebibytes: u64) -> (Daemon, u16) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let daemon = Daemon::start(&["--bare", "--nbd-listen", &format!("127.0.0.1:{port}")]);
    let path = file(daemon.folder(), "a.img", mebibytes * MIB);
    daemon.done(&["pool", "create", "tank", "--device", text(&path)]);
    (daemon, port)
}

fn vdisk(daemon: &Daemon, name: &str, on_full: &str) {
    daemon.done(&["vdisk", "create", name, "--size", "1G", "--on-full", on_full]);
}

fn grow(daemon: &Daemon, mebibytes: u64) {
    let path = file(daemon.folder(), "b.img", mebibytes * MIB);
    daemon.done(&["pool", "add-device", "tank", "--device", text(&path)]);
}

fn figure(daemon: &Daemon, name: &str) -> u64 {
    let pool = daemon.json(&["pool", "show", "tank"]);
    pool[name].as_u64().unwrap_or_else(|| panic!("{name} in {pool:#}"))
}

/// Waits until writes are held.
#[track_caller]
fn until_held(daemon: &Daemon) {
    let began = Instant::now();
    while figure(daemon, "held_writes") == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is held\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The longest time between two that follow one another.
fn longest(moments: &[Instant]) -> Duration {
    let between = moments.windows(2).map(|pair| pair[1] - pair[0]);
    between.max().expect("two moments")
}

#[test]
fn a_guest_is_held_while_the_pool_is_full_and_its_neighbour_does_not_notice() {
    let (daemon, port) = tank(96);
    vdisk(&daemon, "tank/grows", "hold(10m)");
    vdisk(&daemon, "tank/steady", "hold(10m)");
    let mut steady = Guest::boot("steady", Disk::Own { port, export: "tank/steady" }, STEADY_MEBIBYTES);
    let mut grows = Guest::boot("fill", Disk::Own { port, export: "tank/grows" }, 128);
    let (ready, _) = steady.step("ready");
    grows.until("ready");
    grows.go();

    until_held(&daemon);
    let held = Instant::now();
    // Said before the other's writes were held, while both worked.
    let mut beats = vec![ready];
    while let Some((at, _)) = steady.step_within(Duration::ZERO) {
        beats.push(at);
    }
    let (longest_before, last) = (longest(&beats), beats[beats.len() - 1]);
    let mut beats = vec![last];
    // The pool grows only after these: a neighbour that waited with the others would never come to them. What is full stays full
    // meanwhile, and every write that is held still is.
    for _ in 0..BEATS {
        let (at, beat) = steady.step("beat");
        beats.push(at);
        assert!(figure(&daemon, "held_writes") > 0, "nothing is held any more at {beat}");
        assert_eq!(daemon.json(&["vdisk", "show", "tank/steady"])["held_writes"], 0, "the neighbour is held at {beat}");
    }
    assert_eq!(daemon.events("vdisk-exhausted", "tank/grows", 1).len(), 1, "told once");
    assert!(daemon.events("vdisk-resumed", "tank/grows", 0).is_empty(), "it has been held all the while");
    assert!(grows.step_within(Duration::ZERO).is_none(), "the guest saw the end of a write that is held");
    let lasted_at_least = held.elapsed();
    let longest_then = longest(&beats);
    println!(
        "{BEATS} rounds of the neighbour in {lasted_at_least:?}, in which the others were held: {longest_then:?} at most, and \
         {longest_before:?} before"
    );
    let bound = (longest_before * LONGER_AT_MOST).clamp(LONGEST.0, LONGEST.1);
    assert!(
        longest_then <= bound,
        "the neighbour stalled: {longest_then:?}, and {longest_before:?} before the pool was full"
    );

    grow(&daemon, 192);
    grows.until("written");
    println!("written {:?} after it was held", held.elapsed());
    grows.finish();
    steady.go();
    steady.finish();
    let resumed = daemon.events("vdisk-resumed", "tank/grows", 1);
    let lasted = resumed.first().and_then(|event| event["figures"]["lasted_seconds"].as_f64()).expect("resumed");
    assert!(resumed.len() == 1 && lasted >= lasted_at_least.as_secs_f64(), "{resumed:#?}");
    assert!(daemon.events("vdisk-exhausted", "tank/steady", 0).is_empty(), "the neighbour needed no space");
    assert!(daemon.events("vdisk-hold-expired", "tank", 0).is_empty());
    daemon.assert_clean("tank");
}

#[test]
fn an_emulator_stops_its_guest_for_want_of_space_and_goes_on_when_there_is_some() {
    let (daemon, _) = tank(64);
    vdisk(&daemon, "tank/guest", "fail");
    let monitor = daemon.folder().join("monitor");
    let disk = Disk::Emulated { socket: &daemon.nbd_socket(), export: "tank/guest", monitor: &monitor };
    let mut guest = Guest::boot("fill", disk, 96);
    let mut monitor = Monitor::connect(&monitor);
    guest.until("ready");
    guest.go();
    let error = monitor.event("BLOCK_IO_ERROR");
    println!("{error}");
    assert_eq!((&error["nospace"], &error["action"]), (&Value::from(true), &Value::from("stop")), "{error}");
    monitor.event("STOP");
    let status = monitor.run("query-status");
    assert_eq!(status["status"], "io-error", "{status}");
    let block = monitor.run("query-block");
    assert_eq!(block[0]["io-status"], "nospace", "{block}");
    let exhausted = daemon.events("vdisk-exhausted", "tank/guest", 1);
    assert_eq!(exhausted.first().map(|event| &event["details"]["on_full"]), Some(&Value::from("fail")));
    // Without space it is stopped again at once.
    monitor.run("cont");
    monitor.event("RESUME");
    monitor.event("STOP");
    assert!(guest.step_within(Duration::ZERO).is_none(), "the guest went on without space");

    grow(&daemon, 128);
    monitor.run("cont");
    guest.until("written");
    guest.finish();
    // At the edge a small write may still find what a large one did not.
    let exhausted = daemon.events("vdisk-exhausted", "tank/guest", 1).len();
    assert_eq!(daemon.events("vdisk-resumed", "tank/guest", exhausted).len(), exhausted, "what was told is over");
    daemon.assert_clean("tank");
}

/// The emulator's own client without its guest: it connects again, and tells whoever waits for a request nothing of that.
#[test]
fn an_emulator_whose_writes_are_held_sees_nothing_of_a_daemon_that_ends_and_starts_again() {
    let (mut daemon, _) = tank(64);
    vdisk(&daemon, "tank/guest", "hold(10m)");
    let socket = daemon.nbd_socket();
    let disk =
        format!("driver=nbd,server.type=unix,server.path={},export=tank/guest,reconnect-delay=100", text(&socket));
    let mut emulator = Command::new("setpriv");
    emulator.args(["--pdeathsig", "KILL", "--", "qemu-io", "--image-opts", &disk]);
    // The second finds no space for some of it.
    for request in ["write -P 7 0 32M", "write -P 8 32M 32M", "flush", "read -P 7 0 32M", "read -P 8 32M 32M"] {
        emulator.args(["-c", request]);
    }
    let emulator = emulator.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut emulator = emulator.expect("start qemu-io (qemu-utils)");
    until_held(&daemon);
    for graceful in [true, false, true] {
        if graceful {
            assert!(daemon.terminate().success(), "a graceful stop\n{}", daemon.log());
        } else {
            daemon.kill9();
        }
        daemon.restart();
        // What has no answer is sent again, and is held again.
        until_held(&daemon);
        assert!(emulator.try_wait().expect("look at qemu-io").is_none(), "it was told of an end");
    }
    grow(&daemon, 64);
    let output = emulator.wait_with_output().expect("wait for qemu-io");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{said}");
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    // A request that fails does not change its status.
    let ends = |what: &str| said.matches(&format!("{what} {}/{}", 32 * MIB, 32 * MIB)).count();
    assert_eq!((ends("wrote"), ends("read")), (2, 2), "{said}");
    assert!(!said.contains("failed"), "{said}");
    assert!(daemon.events("vdisk-hold-expired", "tank", 0).is_empty());
    daemon.assert_clean("tank");
}

#[test]
fn files_of_zeros_and_of_the_pattern_give_their_space_back_and_read_as_they_were_written() {
    const MEBIBYTES: u64 = 32;
    let (daemon, port) = tank(192);
    vdisk(&daemon, "tank/guest", "fail");
    daemon.done(&["pattern", "add", "tank", "--text", "PLIMSOLL"]);
    daemon.done(&["vdisk", "set", "tank/guest", "--detect", "zeros=on,patterns=on"]);
    let mut guest = Guest::boot("worthless", Disk::Own { port, export: "tank/guest" }, MEBIBYTES);
    guest.until("written");
    let mut available = figure(&daemon, "available_bytes");
    for file in ["zeros", "pattern"] {
        guest.go();
        guest.until("overwritten");
        let after = figure(&daemon, "available_bytes");
        let returned = after.saturating_sub(available);
        println!("{file}: {available} bytes were available, {after} are: {returned} of {} returned", MEBIBYTES * MIB);
        assert!(returned * 100 >= MEBIBYTES * MIB * 95, "{file}: {returned} of {} bytes", MEBIBYTES * MIB);
        available = after;
    }
    guest.go();
    guest.until("rewritten");
    let rewritten = figure(&daemon, "available_bytes");
    println!("{rewritten} bytes are available when data has their place");
    guest.go();
    guest.finish();
    daemon.assert_clean("tank");
}
