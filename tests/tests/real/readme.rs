//! What the README and a first start say to type, typed: every line as it stands there, by a shell, beside a daemon as
//! `cargo run --release` starts it. Paths are replaced, and nothing else.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::files::{file, text};
use crate::tank::{EXTENT, MIB, PATIENCE};
use plimsoll_tests::daemon;
use plimsoll_tests::nbd_client::{Address, NbdClient, Options};
use serde_json::{Value, json};

const PAGE: usize = 4096;
const README: &str = include_str!("../../../README.md");

/// The lines of the README's indented block that begins with `first`.
fn block(first: &str) -> Vec<&'static str> {
    let lines = README.lines().map(|line| line.strip_prefix("    "));
    let lines = lines.skip_while(|line| line.is_none_or(|line| !line.starts_with(first)));
    let lines: Vec<_> = lines.map_while(|line| line).collect();
    assert!(!lines.is_empty(), "the README has no block that begins with {first}");
    lines
}

/// A daemon that was started by hand, and what it said before `ready`; killed when dropped.
struct ByHand(Child, Vec<String>);

impl ByHand {
    /// Runs the program in `folder` and waits until it is ready.
    fn run(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(daemon::program()).args(arguments);
        command.current_dir(folder).env_remove("PLIMSOLL_STATE_DIR").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start the daemon");
        let mut lines =
            BufReader::new(child.stdout.take().expect("its output is a pipe")).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| line != "ready").collect();
        let mut by_hand = Self(child, said);
        let ended = by_hand.0.try_wait().expect("look at the daemon");
        assert!(ended.is_none(), "plimsoll {arguments:?} ended: {ended:?}, and had said {:#?}", by_hand.1);
        by_hand
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is typed in a folder in which a daemon was started without arguments.
struct Terminal {
    folder: tempfile::TempDir,
    daemon: ByHand,
    /// With the program's folder in it.
    path: String,
}

impl Terminal {
    fn open() -> Self {
        let folder = daemon::test_folder("plimsoll-");
        let daemon = ByHand::run(folder.path(), &[]);
        let program = daemon::program().canonicalize().expect("where the program is");
        let path = std::env::var("PATH").expect("PATH is set");
        let path = format!("{}:{path}", text(program.parent().expect("a folder")));
        Self { folder, daemon, path }
    }

    fn shell(&self, before: &[&str], line: &str) -> Command {
        let mut shell = Command::new(before[0]);
        shell.args(&before[1..]).args(["sh", "-c", line]).current_dir(self.folder.path()).env("PATH", &self.path);
        shell.env_remove("PLIMSOLL_STATE_DIR").stdin(Stdio::null());
        shell
    }

    /// What a line that must succeed says on standard output.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        let output = self.shell(&["timeout", "--kill-after=5", "60"], line).output().expect("run a shell");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {}\n{said}\n{complained}", output.status);
        assert!(!said.is_empty(), "{line} says nothing");
        said.into_owned()
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let said = self.run(&format!("{line} --json"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line}: {error} in {said}"))
    }

    /// Starts a line that goes on by itself, with what it says going to a file.
    fn begin(&self, line: &str, output: &Path) -> Background {
        let output = File::create(output).expect("make a file");
        let mut shell = self.shell(&["setpriv", "--pdeathsig", "KILL", "--"], &format!("exec {line}"));
        Background(shell.stdout(output).spawn().expect("run a shell"))
    }

    fn connect(&self, vdisk: &str) -> NbdClient {
        let address = Address::Unix(self.folder.path().join("plimsoll-data/nbd.sock"));
        NbdClient::connect(&address, vdisk, Options::default()).expect("connect")
    }

    /// Waits until the last job of a kind for an object has ended well.
    #[track_caller]
    fn ended(&self, kind: &str, object: &str) {
        let began = Instant::now();
        loop {
            let list = self.json("plimsoll job list");
            let jobs = list["items"].as_array().expect("jobs");
            let job = jobs.iter().rfind(|job| job["kind"] == kind && job["object"] == object);
            let job = job.unwrap_or_else(|| panic!("no {kind} of {object} in {list:#}"));
            if job["state"] == "done" {
                return;
            }
            assert!(job["problem"].is_null() && began.elapsed() < PATIENCE, "it does not end: {job:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn backed(&self, vdisk: &str) -> u64 {
        let shown = self.json(&format!("plimsoll vdisk show {vdisk}"));
        shown["backed_bytes"].as_u64().unwrap_or_else(|| panic!("backed_bytes in {shown:#}"))
    }
}

/// A program that is killed when dropped.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file in the place of a device that a line names; the line with it, and the file's path.
fn with_file(folder: &Path, line: &str, device: &str) -> (String, String) {
    let name = device.rsplit('/').next().expect("a name");
    let path = text(&file(folder, name, 1 << 30)).to_owned();
    assert!(line.contains(device), "{line} names no {device}");
    (line.replace(device, &path), path)
}

/// Whether a pool that was shown has the device.
fn has_device(pool: &Value, path: &str) -> bool {
    pool["devices"].as_array().expect("devices").iter().any(|device| device["path"] == path)
}

#[test]
fn what_the_embedded_default_prints_to_try_works_as_it_is_printed() {
    let terminal = Terminal::open();
    let said = &terminal.daemon.1;
    let tries: Vec<&String> = said.iter().skip_while(|line| *line != "try:").skip(1).collect();
    assert_eq!(tries.len(), 3, "{said:#?}");
    for line in tries {
        terminal.run(line);
    }
    assert!(terminal.folder.path().join("plimsoll-data/tank.img").is_file());
}

#[test]
fn the_three_things_to_try_in_the_readme_show_what_it_says_of_them() {
    let terminal = Terminal::open();
    let [glance, create, map] = block("plimsoll status")[..] else { panic!("there are not three things to try") };
    let said = terminal.run(glance);
    let health = said.lines().find(|line| line.starts_with("health")).unwrap_or_else(|| panic!("no health in {said}"));
    assert_eq!(health.split_whitespace().collect::<Vec<_>>(), ["health", "ok"]);
    terminal.run(create);
    let (vdisk, pool) = (terminal.json("plimsoll vdisk show tank/big"), terminal.json("plimsoll pool show tank"));
    assert_eq!(vdisk["designated_bytes"], 1u64 << 40);
    assert!(vdisk["designated_bytes"].as_u64() > pool["physical_bytes"].as_u64(), "{vdisk:#}\n{pool:#}");
    let mapped = || terminal.run(map).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(mapped(), Vec::<String>::new(), "it takes space before anything is written");
    terminal.connect("tank/big").write(MIB, &[1; PAGE], 0).expect("a write");
    assert_eq!(mapped().len(), 1, "it would show what does take space");
}

/// What the text names lacks its arguments here and there, which its help does not need.
#[test]
fn every_command_that_the_readme_names_exists() {
    let terminal = Terminal::open();
    let text = README.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join(" ");
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("plimsoll ")).collect();
    assert!(named.len() >= 6, "{named:?}");
    for line in named.into_iter().chain(block("plimsoll event watch")) {
        let help = terminal.run(&format!("{line} --help"));
        assert!(help.contains("Usage: plimsoll "), "{line} --help: {help}");
    }
}

#[test]
fn the_commands_of_the_readme_for_a_pool_that_fills_up_do_what_it_says_of_them() {
    let terminal = Terminal::open();
    let folder = terminal.folder.path();
    let [watch, levels, hold, grow, add, survey, reclaim, compact] = block("plimsoll event watch")[..] else {
        panic!("the README has other than eight commands for a pool that fills up")
    };
    // 2 MiB of zeros that are stored, and 16 extents with a block each.
    terminal.run("plimsoll vdisk set tank/disk1 --detect zeros=off");
    let mut client = terminal.connect("tank/disk1");
    client.write(0, &[0; 2 * MIB as usize], 0).expect("a write");
    for extent in 0..16 {
        client.write(16 * MIB + extent * EXTENT, &[extent as u8 + 1; EXTENT as usize], 0).expect("a write");
        client.trim(16 * MIB + extent * EXTENT + PAGE as u64, EXTENT as u32 - PAGE as u32).expect("a trim");
    }
    client.flush().expect("a flush");

    // It tells only what comes from when it listens on, and that shows when it tells something.
    let events = folder.join("events");
    let told = |word: &str| {
        let said = fs::read_to_string(&events).expect("read what was told");
        said.lines().any(|line| line.contains(word))
    };
    let began = Instant::now();
    let _watch = terminal.begin(watch, &events);
    terminal.run("plimsoll vdisk create tank/bell --size 16M");
    terminal.connect("tank/bell").write(0, &[1; MIB as usize], 0).expect("a write");
    while !told("tank/bell") {
        assert!(began.elapsed() < PATIENCE, "{watch} shows nothing");
        terminal.run("plimsoll vdisk set tank/bell --thresholds 1%");
        terminal.run("plimsoll vdisk set tank/bell --thresholds off");
    }

    let pool = || terminal.json("plimsoll pool show tank");
    terminal.run("plimsoll pool set tank --thresholds off --horizons off");
    terminal.run(levels);
    assert_eq!([&pool()["thresholds"], &pool()["horizons"]], ["70%,85%,95%", "1d,1h,5m"]);

    terminal.run(hold);
    let vdisk = terminal.json("plimsoll vdisk show tank/disk1");
    assert_eq!([&vdisk["on_full"], &vdisk["reservation_bytes"]], [&json!("hold(1m)"), &json!(1 << 30)], "{vdisk:#}");

    let (line, spare) = with_file(folder, grow, "/dev/sdc");
    terminal.run(&line);
    let policy = pool()["growth"]["policy"].take();
    assert_eq!([&policy["at_pct"], &policy["spares"]], [&json!(85), &json!([spare])], "{policy:#}");

    let (line, device) = with_file(folder, add, "/dev/sdd");
    assert!(!has_device(&pool(), &device) && !told("pool-grown"));
    terminal.run(&line);
    assert!(has_device(&pool(), &device), "{:#}", pool());
    let began = Instant::now();
    while !told("pool-grown") {
        assert!(began.elapsed() < PATIENCE, "{watch} does not show that the pool has grown");
        std::thread::sleep(Duration::from_millis(10));
    }

    assert_eq!(pool()["survey"], Value::Null);
    terminal.run(survey);
    terminal.ended("survey", "tank");
    let found = pool()["survey"].take();
    let packable = found["packable_bytes"].as_u64().expect("a figure");
    assert!(packable >= 8 * EXTENT && found["zero_bytes"] == 2 * MIB, "{found:#}");

    let before = terminal.backed("tank/disk1");
    assert_eq!(before, 2 * MIB + 16 * EXTENT);
    terminal.run(reclaim);
    terminal.ended("reclaim", "tank/disk1");
    assert_eq!(terminal.backed("tank/disk1"), before - 2 * MIB, "the zeros are stored still");

    terminal.run(compact);
    terminal.ended("compact", "tank");
    client.flush().expect("a flush");
    assert_eq!(terminal.backed("tank/disk1"), before - 2 * MIB - packable, "nothing was put together");
    let report = terminal.json("plimsoll pool check tank");
    assert_eq!(report["findings"], json!([]), "{report:#}");
}

/// The README's example of a configuration, with its paths and its port replaced.
#[test]
fn the_configuration_of_the_readme_serves() {
    let folder = daemon::test_folder("plimsoll-");
    let mut config = block("state_dir = ").join("\n");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let state = folder.path().join("state");
    let devices = ["one", "two"].map(|name| folder.path().join(name));
    let replacements = [
        ("/var/lib/plimsoll", text(&state).to_owned()),
        ("/dev/nvme0n1", text(&devices[0]).to_owned()),
        ("/dev/nvme1n1", text(&devices[1]).to_owned()),
        ("127.0.0.1:10809", port.to_string()),
    ];
    for (from, to) in replacements {
        assert!(config.contains(from), "the README's configuration has no {from}:\n{config}");
        config = config.replace(from, &to);
    }
    for device in &devices {
        File::create_new(device).and_then(|file| file.set_len(64 * MIB)).expect("make a device");
    }
    let path = folder.path().join("plimsoll.toml");
    fs::write(&path, config).expect("write the configuration");
    let client = |arguments: &[&str]| {
        let output = Command::new(daemon::program()).arg("--state-dir").arg(&state).args(arguments).output();
        let output = output.expect("run the client");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "plimsoll {arguments:?}: {said}{complained}");
        said.into_owned()
    };
    // Once to make the pool, once to find it.
    for start in 0..2 {
        let _daemon = ByHand::run(folder.path(), &["serve", "--config", text(&path)]);
        let pool: Value = serde_json::from_str(&client(&["pool", "show", "tank", "--json"])).expect("JSON");
        assert_eq!((&pool["state"], pool["devices"].as_array().map(Vec::len)), (&json!("online"), Some(2)), "{pool:#}");
        if start == 0 {
            client(&["vdisk", "create", "tank/a", "--size", "1G"]);
        }
        let address = Address::Tcp(port);
        let mut export = NbdClient::connect(&address, "tank/a", Options::ALL).expect("connect where the file says");
        if start == 0 {
            export.write(0, &[3; PAGE], 0).expect("a write");
        }
        assert!(export.read(0, PAGE as u32).expect("a read") == [3; PAGE], "start {start}");
    }
}
