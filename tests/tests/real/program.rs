//! The real program as a script meets it: starting it twice or wrongly, its exit codes, and `pool check` with and without a daemon.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::files::text;
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
/// Bytes of a vdisk that one page of the mapping covers.
const LEAF_BYTES: u64 = 32 * MIB;
/// Exit codes.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const REFUSED: i32 = 5;
const UNREACHABLE: i32 = 6;
const DEGRADED: i32 = 8;

/// A pool `tank` in a file.
fn with_pool() -> (Daemon, PathBuf) {
    let daemon = Daemon::start(&["--bare"]);
    let path = daemon.folder().join("tank.img");
    File::create_new(&path).and_then(|file| file.set_len(64 * MIB)).expect("make the pool's file");
    daemon.done(&["pool", "create", "tank", "--device", text(&path)]);
    (daemon, path)
}

fn connect(daemon: &Daemon, vdisk: &str) -> NbdClient {
    NbdClient::connect(&Address::Unix(daemon.nbd_socket()), vdisk, Options::ALL).expect("connect")
}

#[test]
fn a_second_daemon_on_a_state_folder_is_refused_and_the_first_goes_on() {
    let (daemon, _) = with_pool();
    daemon.done(&["vdisk", "create", "tank/a", "--size", "64M"]);
    let mut client = connect(&daemon, "tank/a");
    let holder = format!("process {} serves", daemon.pid());
    let status = format!("hint: plimsoll --state-dir {} status", daemon.state_dir().display());
    for serve in [&["serve"][..], &["serve", "--bare"], &[]] {
        daemon.refused(serve, CONFLICT, &["error: cannot serve [locked]", &holder, &status]);
    }
    client.write(0, &[1; PAGE], 0).expect("a write over the old connection");
    connect(&daemon, "tank/a").flush().expect("a flush over a new connection");
    daemon.assert_clean("tank");
}

#[test]
fn a_vdisk_is_not_cut_where_something_is_stored_unless_that_is_said_and_a_stop_closes_the_pool() {
    let (mut daemon, _) = with_pool();
    daemon.done(&["vdisk", "create", "tank/a", "--size", "64M"]);
    let mut client = connect(&daemon, "tank/a");
    client.write(32 << 20, &[7; PAGE], 0).expect("a write");
    for how in
        [&["vdisk", "set", "tank/a", "--size", "32M"][..], &["vdisk", "set", "tank/a", "--size", "32M", "--dry-run"]]
    {
        daemon.refused(how, CONFLICT, &["[would-cut-off]", "--discard-tail"]);
    }
    assert_eq!(client.read(32 << 20, PAGE as u32).expect("a read"), [7; PAGE]);
    drop(client);
    daemon.done(&["vdisk", "set", "tank/a", "--size", "32M", "--discard-tail", "--yes"]);
    assert_eq!(daemon.json(&["vdisk", "show", "tank/a"])["designated_bytes"], 32 << 20);
    let recovery = |daemon: &Daemon| daemon.json(&["pool", "show", "tank"])["recovery"]["clean"].clone();
    assert!(daemon.terminate().success());
    daemon.restart();
    assert_eq!(recovery(&daemon), true, "a stop closes the pool");
    daemon.kill9();
    daemon.restart();
    assert_eq!(recovery(&daemon), false, "a kill does not");
}

#[test]
fn a_socket_path_that_is_taken_is_refused_and_a_stale_socket_is_replaced() {
    for socket in ["nbd.sock", "control.sock"] {
        let mut daemon = Daemon::start(&["--bare"]);
        assert!(daemon.terminate().success());
        let path = daemon.state_dir().join(socket);
        let _ = fs::remove_file(&path);
        fs::write(&path, "mine").expect("write a file");
        let taken = [text(&path), "exists and is no socket", "hint: mv "];
        daemon.refused(&["serve", "--bare"], CONFLICT, &taken);
        assert_eq!(fs::read_to_string(&path).expect("read the file"), "mine");
        fs::remove_file(&path).expect("remove the file");
        let living = UnixListener::bind(&path).expect("listen");
        daemon.refused(&["serve", "--bare"], CONFLICT, &[text(&path), "somebody serves on the socket", "hint: fuser "]);
        drop(living);
        assert!(path.exists(), "a socket stays when its listener goes");
        daemon.restart();
        daemon.done(&["status"]);
    }
}

#[test]
fn wrong_arguments_and_wrong_states_have_their_exit_codes() {
    let (mut daemon, _) = with_pool();
    let config = daemon.folder().join("config.toml");
    fs::write(&config, "[memory]\nbufer_bytes = \"1M\"\n").expect("write the configuration");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = port.local_addr().expect("an address").to_string();
    daemon.done(&["vdisk", "create", "tank/a", "--size", "64M"]);
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&["serve", "--nonsense"], USAGE, &["--nonsense"]),
        (&["serve", "--nbd-listen", "nowhere"], USAGE, &["nowhere"]),
        (&["serve", "--config", "/none/at/all"], USAGE, &["error: cannot serve [invalid-config]", "/none/at/all"]),
        (
            &["serve", "--config", text(&config)],
            USAGE,
            &[text(&config), "bufer_bytes", "hint: did you mean buffer_bytes?"],
        ),
        (&["pool", "create", "b"], USAGE, &["--device"]),
        (&["vdisk", "create", "tank/b"], USAGE, &["--size"]),
        (&["vdisk", "create", "tank/b", "--size", "10X"], USAGE, &["10X"]),
        (&["vdisk", "create", "tank/../b", "--size", "1G"], USAGE, &["tank/../b"]),
        (
            &["vdisk", "show", "tank/none"],
            NOT_FOUND,
            &["error: cannot show vdisk tank/none [not-found]", "plimsoll vdisk list"],
        ),
        (&["pool", "check", "none"], NOT_FOUND, &["[not-found]", "hint: plimsoll pool list"]),
        (&["vdisk", "create", "tank/a", "--size", "1G"], CONFLICT, &["[exists]", "hint: plimsoll vdisk show tank/a"]),
        (&["vdisk", "delete", "tank/a"], REFUSED, &["[not-confirmed]", "hint: plimsoll vdisk delete tank/a --yes"]),
        (&["pool", "delete", "tank", "--yes"], CONFLICT, &["[not-empty]", "hint: "]),
        // What was overridden stays so when it is confirmed.
        (
            &["pool", "delete", "tank", "--force=not-empty"],
            REFUSED,
            &["plimsoll pool delete tank --force=not-empty --yes"],
        ),
    ];
    for (arguments, code, words) in cases {
        daemon.refused(arguments, code, words);
    }
    assert!(daemon.terminate().success());
    let taken = ["error: cannot serve [in-use]", &listen, "another port"];
    daemon.refused(&["serve", "--bare", "--nbd-listen", &listen], CONFLICT, &taken);
    daemon.refused(&["status"], UNREACHABLE, &["[unreachable]", "hint: plimsoll serve --state-dir"]);
    daemon.restart();
    assert_eq!(daemon.json(&["vdisk", "list"])["items"].as_array().map(Vec::len), Some(1), "nothing was changed");
}

/// Deleting a vdisk is refused while somebody uses it. Who is disconnected for it gets no answers any more, and no way back.
#[test]
fn a_vdisk_that_is_deleted_under_its_clients_lets_them_go() {
    let (daemon, _) = with_pool();
    for name in ["tank/a", "tank/b"] {
        daemon.done(&["vdisk", "create", name, "--size", "64M"]);
    }
    let (mut client, mut other) = (connect(&daemon, "tank/a"), connect(&daemon, "tank/b"));
    client.write(0, &[1; PAGE], 0).expect("a write");
    let refused = ["[in-use]", "1 client is connected", "--force=in-use"];
    daemon.refused(&["vdisk", "delete", "tank/a", "--yes"], CONFLICT, &refused);
    client.write(0, &[2; PAGE], 0).expect("a write after a deletion that was refused");
    daemon.done(&["vdisk", "delete", "tank/a", "--yes", "--force=in-use"]);
    let answer = client.call(Kind::Write, 0, 0, PAGE as u32, &[3; PAGE]);
    assert!(answer.is_err(), "the connection must be over: {answer:?}");
    let again = NbdClient::connect(&Address::Unix(daemon.nbd_socket()), "tank/a", Options::ALL);
    assert_eq!(again.map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    other.write(0, &[4; PAGE], 0).expect("a write to another vdisk over the old connection");
    daemon.assert_clean("tank");
}

/// A block of data that is no metadata and like no other.
fn data(number: u8) -> Vec<u8> {
    (0..PAGE).map(|index| if index % 2 == 0 { 0xd7 } else { number }).collect()
}

/// Where the pages are of which there are exactly two copies: the pool's metadata, without its rings and empty parts.
fn pairs(image: &[u8]) -> Vec<[usize; 2]> {
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (index, page) in image.chunks_exact(PAGE).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            places.entry(page).or_default().push(index * PAGE);
        }
    }
    let mut pairs: Vec<[usize; 2]> = places.into_values().filter_map(|places| places.try_into().ok()).collect();
    pairs.sort_unstable();
    pairs
}

fn damage(path: &Path, places: &[usize]) {
    let file = File::options().write(true).open(path).expect("open the pool");
    for place in places {
        file.write_all_at(&[0x5a; 64], *place as u64 + 100).expect("damage the pool");
    }
}

/// What a check says, with its exit code: kind, loss, vdisk and range of each finding.
fn findings(daemon: &Daemon, arguments: &[&str]) -> (i32, Vec<[Value; 5]>) {
    let outcome = daemon.cli(&[&["pool", "check"], arguments, &["--json"]].concat());
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error} in {outcome:#?}"));
    let list = report["findings"].as_array().unwrap_or_else(|| panic!("no findings in {report:#}"));
    let fields = ["kind", "loss", "vdisk", "offset_bytes", "length_bytes"];
    (outcome.code, list.iter().map(|finding| fields.map(|field| finding[field].clone())).collect())
}

#[test]
fn a_check_finds_the_same_with_and_without_a_daemon_and_repairs_when_told_to() {
    let (mut daemon, path) = with_pool();
    let image = text(&path);
    let blocks = [("tank/a", 0, 1), ("tank/a", LEAF_BYTES, 2), ("tank/b", 0, 3)];
    for vdisk in ["tank/a", "tank/b"] {
        daemon.done(&["vdisk", "create", vdisk, "--size", "1G"]);
    }
    for (vdisk, offset, number) in blocks {
        connect(&daemon, vdisk).write(offset, &data(number), 0).expect("a write");
    }
    assert_eq!(findings(&daemon, &["tank"]), (0, Vec::new()));
    daemon.refused(&["pool", "check", "--device", image], CONFLICT, &["[locked]", "plimsoll pool check tank"]);
    assert!(daemon.terminate().success());
    let offline = ["--device", image];
    assert_eq!(findings(&daemon, &offline), (0, Vec::new()));
    let whole = fs::read(&path).expect("read the pool");

    // A page of the mapping, found by what a check says when both its copies are damaged.
    let leaf = pairs(&whole).into_iter().find_map(|pair| {
        damage(&path, &pair);
        let outcome = daemon.cli(&["pool", "check", "--device", image, "--json"]);
        let lost =
            outcome.code == DEGRADED && outcome.stdout.contains("\"lost-page\"") && outcome.stdout.contains("tank/a");
        let damaged = fs::read(&path).expect("read the pool");
        fs::write(&path, &whole).expect("restore the pool");
        lost.then_some((pair, damaged))
    });
    let (pair, damaged) = leaf.expect("no page of the mapping was found");

    // One copy: nothing is lost. A repair says what it has written again, whether it was opening the pool that did it or not.
    for bad in [&pair[..1], &[0]] {
        damage(&path, bad);
        let repaired = daemon.cli(&["pool", "check", "--device", image, "--repair", "--yes"]);
        assert!(repaired.code == 0 && repaired.stdout.contains("\ndone: "), "{repaired:#?}");
        fs::write(&path, &whole).expect("restore the pool");
    }

    // The daemon heals it.
    damage(&path, &pair[..1]);
    let (code, one) = findings(&daemon, &offline);
    assert!(code == DEGRADED && one.iter().all(|finding| finding[1] == false), "exit {code}, {one:?}");
    daemon.restart();
    let (code, online) = findings(&daemon, &["tank"]);
    assert_eq!((code, &online), (DEGRADED, &one), "online and offline differ");
    assert_eq!(findings(&daemon, &["tank"]), (0, Vec::new()), "the copy was not healed");
    assert!(daemon.terminate().success());

    // Both copies, without a daemon. Only a repair that was confirmed may write.
    fs::write(&path, &damaged).expect("damage the pool");
    let (code, lost) = findings(&daemon, &offline);
    assert!(code == DEGRADED && lost.iter().any(|finding| finding[1] == true), "exit {code}, {lost:?}");
    assert_eq!(findings(&daemon, &["tank"]), (code, lost.clone()), "by the pool's name");
    let dry = daemon.cli(&["pool", "check", "--device", image, "--repair", "--dry-run", "--json"]);
    let plan: Value = serde_json::from_str(&dry.stdout).unwrap_or_else(|error| panic!("{error} in {dry:#?}"));
    assert!(dry.code == DEGRADED && plan["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{dry:#?}");
    daemon.refused(&["pool", "check", "--device", image, "--repair"], REFUSED, &["[not-confirmed]", "--yes"]);
    assert!(fs::read(&path).expect("read the pool") == damaged, "a check without a confirmed repair wrote to the pool");
    daemon.done(&["pool", "check", "--device", image, "--repair", "--yes"]);
    assert_eq!(findings(&daemon, &offline), (0, Vec::new()), "after the repair");

    // The same by the daemon.
    fs::write(&path, &damaged).expect("damage the pool");
    daemon.restart();
    assert_eq!(findings(&daemon, &["tank"]), (DEGRADED, lost.clone()), "online and offline differ");
    let dry = daemon.cli(&["pool", "check", "tank", "--repair", "--dry-run", "--json"]);
    let online: Value = serde_json::from_str(&dry.stdout).unwrap_or_else(|error| panic!("{error} in {dry:#?}"));
    assert_eq!((dry.code, &online["steps"]), (DEGRADED, &plan["steps"]), "{dry:#?}");
    assert_eq!(findings(&daemon, &["tank"]), (DEGRADED, lost.clone()), "a dry run repaired something");
    daemon.refused(&["pool", "check", "tank", "--repair"], REFUSED, &["[not-confirmed]", "--yes"]);
    daemon.done(&["pool", "check", "tank", "--repair", "--yes"]);
    daemon.assert_clean("tank");
    let there =
        |(vdisk, offset, number)| connect(&daemon, vdisk).read(offset, PAGE as u32).expect("a read") == data(number);
    let kept = blocks.into_iter().filter(|block| there(*block)).count();
    assert_eq!(kept, blocks.len() - 1, "one page of the mapping was lost, and it had one block");
}

#[test]
fn what_a_daemon_was_to_repair_is_not_repaired_without_it() {
    let (mut daemon, path) = with_pool();
    daemon.done(&["vdisk", "create", "tank/a", "--size", "1G"]);
    connect(&daemon, "tank/a").write(0, &data(1), 0).expect("a write");
    assert!(daemon.terminate().success());
    // Half of the metadata's pairs: something for a repair to do.
    let whole = fs::read(&path).expect("read the pool");
    damage(&path, &pairs(&whole).into_iter().map(|pair| pair[0]).collect::<Vec<_>>());
    let damaged = fs::read(&path).expect("read the pool");
    // One that dies when it has begun the check.
    let socket = daemon.state_dir().join("control.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let dies = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            asked.push(byte[0]);
        }
        let job = r#"{"id":"1","state":"running"}"#;
        let head = format!("HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}", job.len());
        fs::remove_file(socket).expect("remove the socket");
        drop(listener);
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n{job}").as_bytes()).expect("an answer");
    });
    let outcome = daemon.cli(&["pool", "check", "tank", "--repair", "--yes"]);
    dies.join().expect("the one that dies");
    outcome.assert_refused("a repair by a daemon that dies", UNREACHABLE, &["[unreachable]"]);
    assert!(fs::read(&path).expect("read the pool") == damaged, "it was repaired without its daemon");
    daemon.done(&["pool", "check", "tank", "--repair", "--yes"]);
    assert_eq!(findings(&daemon, &["tank"]), (0, Vec::new()), "without a daemon from the beginning");
}
