//! The program itself, daemon and client, in the ways that only the whole program shows: exit codes, what is printed in
//! each format, closed pipes, probes and metrics, limits of the process.

#[path = "program/webhooks.rs"]
mod webhooks;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plimsoll");

/// `plimsoll serve`; ended when dropped.
struct Daemon {
    child: Child,
    state: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), "")
    }

    /// In a state directory that may have something in it, with a configuration.
    fn start_in(state: tempfile::TempDir, config: &str) -> Self {
        Self::start_with(state, config, Stdio::inherit())
    }

    fn start_with(state: tempfile::TempDir, config: &str, log: Stdio) -> Self {
        std::fs::write(state.path().join("config.toml"), config).expect("a file");
        // As a shell that allows few files at first.
        let script = "ulimit -S -n 256; \
            exec \"$0\" --state-dir \"$1\" serve --bare --config \"$1/config.toml\" --nbd-listen 127.0.0.1:0";
        let mut child = Command::new("sh")
            .args(["-c", script, PROGRAM])
            .arg(state.path())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "it did not become ready");
        Self { child, state }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let command = || Command::new(PROGRAM).arg("--state-dir").arg(self.state.path()).args(arguments).output();
        command().expect("the program runs")
    }

    /// What a command prints that must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.says(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text:?}"))
    }

    fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.run(arguments).status.code()
    }

    fn get(&self, target: &str) -> String {
        let mut stream = UnixStream::connect(self.state.path().join("control.sock")).expect("the daemon listens");
        let request = format!("GET {target} HTTP/1.1\r\nHost: plimsoll\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the daemon reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the daemon answers");
        answer
    }

    fn file(&self, name: &str) -> String {
        let path = self.state.path().join(name);
        std::fs::File::create(&path).and_then(|file| file.set_len(128 << 20)).expect("a sparse file");
        path.display().to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
        let status = self.child.wait().expect("it ends");
        if !std::thread::panicking() {
            assert!(status.success(), "a clean stop exits with {status}");
        }
    }
}

#[test]
fn everything_an_operator_does_to_vdisks_and_exports_works_and_shows_in_every_format() {
    let daemon = Daemon::start();
    let device = daemon.file("a.img");
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    for name in ["tank/a", "tank/b"] {
        daemon.says(&["vdisk", "create", name, "--size", "1G"]);
    }
    daemon.says(&["vdisk", "set", "tank/a", "--size", "+1G"]);
    assert_eq!(daemon.json(&["vdisk", "show", "tank/a"])["designated_bytes"], 2_u64 << 30);
    daemon.says(&["vdisk", "set", "tank/a", "--size", "512M", "--discard-tail", "--yes"]);
    assert_eq!(daemon.json(&["vdisk", "show", "tank/a"])["designated_bytes"], 512 << 20);
    assert_eq!(daemon.code(&["vdisk", "set", "tank/a", "--size", "1"]), Some(2), "no multiple of a sector");

    let added = daemon.json(&["export", "add", "tank/b", "--nbd", "--read-only"]);
    assert_eq!((&added["read_only"], &added["implicit"]), (&true.into(), &false.into()));
    assert_eq!(daemon.says(&["export", "list", "-o", "name"]), "tank/a\ntank/b\n");
    let csv = daemon.says(&["export", "list", "-o", "csv", "--columns", "name,read_only"]);
    assert_eq!(csv, "name,read_only\ntank/a,false\ntank/b,true\n");
    let lines = daemon.says(&["export", "list", "-o", "jsonl"]);
    let names: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].take()).collect();
    assert_eq!(names, ["tank/a", "tank/b"]);
    assert!(daemon.says(&["export", "list", "-o", "wide"]).lines().count() > 2);

    let devices = daemon.json(&["device", "list"]);
    let is_ours = |item: &&Value| item["path"] == device.as_str();
    let listed = devices["items"].as_array().unwrap().iter().find(is_ours).unwrap();
    assert_eq!((&listed["pool"], &listed["size_bytes"]), (&"tank".into(), &(128 << 20).into()));
    assert_eq!(daemon.json(&["device", "show", &device])["pool"], "tank");
    assert_eq!(daemon.code(&["device", "show", "/dev/none"]), Some(3));

    for (arguments, schema) in [
        (&["export", "remove", "tank/b"][..], "done/v1"),
        (&["vdisk", "delete", "tank/a", "--yes", "--wait"], "job/v1"),
        (&["vdisk", "delete", "tank/b", "--yes", "--wait"], "job/v1"),
        (&["pool", "delete", "tank", "--yes"], "done/v1"),
    ] {
        let printed = daemon.json(arguments);
        assert!(printed.is_object(), "{arguments:?} printed {printed}");
        if schema == "done/v1" {
            assert_eq!(printed["schema"], schema, "{arguments:?}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_no_service() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let state = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::start_with(state, "", full.into());
    let device = daemon.file("a.img");
    // Each is logged.
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    daemon.says(&["vdisk", "create", "tank/a", "--size", "1G"]);
    assert_eq!(daemon.json(&["status"])["health"], "ok");
}

#[test]
fn probes_and_metrics_say_how_it_is() {
    let daemon = Daemon::start();
    let device = daemon.file("a.img");
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    daemon.says(&[
        "vdisk",
        "create",
        "tank/a",
        "--size",
        "1G",
        "--reservation",
        "1M",
        "--quota",
        "8M",
        "--tenant",
        "acme",
    ]);
    daemon.says(&["tenant", "set", "acme", "--pool", "tank", "--quota", "32M", "--thresholds", "80%"]);
    daemon.says(&["pool", "set", "tank", "--overcommit-limit", "20x"]);
    for target in ["/healthz", "/readyz"] {
        let answer = daemon.get(target);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"status\":\"ok\"}"), "{target}: {answer}");
    }
    let metrics = daemon.get("/metrics");
    for line in [
        "plimsoll_node_ready{} 1.0",
        "plimsoll_pool_online{pool=\"tank\"} 1.0",
        "plimsoll_vdisk_designated_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 1073741824.0",
        "plimsoll_vdisk_clients{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 0.0",
        "plimsoll_vdisk_reservation_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 1048576.0",
        "plimsoll_vdisk_reserved_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 1048576.0",
        "plimsoll_vdisk_quota_bytes{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 8388608.0",
        "plimsoll_vdisk_exhausted{pool=\"tank\",vdisk=\"a\",tenant=\"acme\",vm=\"\"} 0.0",
        "plimsoll_tenant_used_bytes{pool=\"tank\",tenant=\"acme\"} 0.0",
        "plimsoll_tenant_quota_bytes{pool=\"tank\",tenant=\"acme\"} 33554432.0",
        "plimsoll_tenant_reservation_bytes{pool=\"tank\",tenant=\"acme\"} 1048576.0",
        "plimsoll_pool_held_writes{pool=\"tank\"} 0.0",
        "plimsoll_pool_held_writes_bytes{pool=\"tank\"} 0.0",
        "plimsoll_pool_writes_held_total{pool=\"tank\"} 0",
        "plimsoll_pool_writes_held_bytes_total{pool=\"tank\"} 0",
        "plimsoll_node_health{} 0.0",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    let pool = daemon.json(&["pool", "show", "tank"]);
    for (name, field) in [("overcommit_bytes", "overcommit_bytes"), ("designated_max_bytes", "designated_bytes_max")] {
        let line = format!("plimsoll_pool_{name}{{pool=\"tank\"}} {:.1}", pool[field].as_f64().unwrap());
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    // Each family says what it is, once.
    let families: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let named: std::collections::BTreeSet<_> = families.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(named.len(), families.len(), "{families:?}");
    for line in metrics.lines().filter(|line| line.starts_with("plimsoll")) {
        let name = line.split('{').next().unwrap();
        assert!(named.contains(name.strip_suffix("_total").unwrap_or(name)), "{line}");
    }
    assert!(named.iter().all(|name| metrics.contains(&format!("# HELP {name} "))));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
    let files: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    let (soft, hard): (u64, u64) = (files[3].parse().unwrap(), files[4].parse().unwrap_or(u64::MAX));
    assert_eq!(soft, hard.min(1 << 20), "as many files as the system allows");
}

#[test]
fn completions_go_to_a_reader_that_leaves_and_to_one_that_stays() {
    for shell in ["bash", "zsh", "fish"] {
        let mut child = Command::new(PROGRAM)
            .args(["completions", shell])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        let whole = Command::new(PROGRAM).args(["completions", shell]).output().unwrap();
        assert!(whole.stdout.len() > 1000 && whole.status.success(), "{shell}");
    }
}

#[test]
fn what_keeps_it_from_working_has_its_exit_code_and_says_what_to_do() {
    let daemon = Daemon::start();
    let state = daemon.state.path();
    let serve = |more: &[&str], dir: &Path| {
        Command::new(PROGRAM).arg("--state-dir").arg(dir).arg("serve").args(more).output().unwrap()
    };
    let second = serve(&["--bare"], state);
    assert_eq!(second.status.code(), Some(4), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains(&format!("process {}", daemon.child.id())), "{second:?}");
    let config = state.join("plimsoll.toml");
    for text in ["[nbd]\nrequests = 0", "[memory]\nbuffer_bytes = \"20T\"", "[memory]\nbuffer_bytes = \"16E\""] {
        std::fs::write(&config, text).unwrap();
        let refused = serve(&["--config", config.to_str().unwrap()], &state.join("other"));
        assert_eq!(refused.status.code(), Some(2), "{text}: {refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("hint:") || text.contains("16E"),
            "{text}: {refused:?}"
        );
    }
    assert_eq!(daemon.code(&["vdisk", "show", "tank/a"]), Some(3));
    assert_eq!(daemon.code(&["pool", "list", "--nonsense"]), Some(2));
    assert_eq!(daemon.json(&["status"])["health"], "ok", "the first one is unharmed");
    let nobody = Command::new(PROGRAM).args(["--state-dir", "/nonexistent", "status"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(6));
}

#[test]
fn events_and_webhooks_are_managed_from_the_command_line_and_secrets_stay_secret() {
    let daemon = Daemon::start();
    let empty = daemon.json(&["event", "list"]);
    assert_eq!((&empty["schema"], empty["items"].as_array().map(Vec::len)), (&"event.list/v1".into(), Some(0)));
    assert_eq!(daemon.json(&["status"])["unacknowledged_criticals"], 0);
    assert_eq!(daemon.code(&["event", "show", "7"]), Some(3));
    assert_eq!(daemon.code(&["event", "ack"]), Some(2));
    assert_eq!(daemon.code(&["event", "ack", "7"]), Some(3));
    assert!(daemon.says(&["event", "ack", "--up-to", "7"]).starts_with("0 events"));

    let secret = daemon.state.path().join("secret.txt");
    std::fs::write(&secret, "correct horse battery\n").expect("a file");
    let secret = secret.display().to_string();
    // Nobody listens at port 9 here.
    let add = ["webhook", "add", "ops", "--url", "http://127.0.0.1:9/hook", "--secret-file", &secret];
    assert!(daemon.says(&[&add[..], &["--dry-run"]].concat()).starts_with("would send events"));
    assert_eq!(daemon.json(&["webhook", "list"])["items"].as_array().map(Vec::len), Some(0));
    let mut said = daemon.says(&[&add[..], &["--json"]].concat());
    assert_eq!(daemon.code(&add), Some(4), "it exists");
    daemon.says(&[&add[..], &["--if-not-exists"]].concat());
    for output in [&["webhook", "list"][..], &["webhook", "list", "-o", "wide"], &["webhook", "show", "ops", "--json"]]
    {
        said += &daemon.says(output);
    }
    assert!(said.contains("ops") && !said.contains("correct horse"), "{said}");
    let test = daemon.run(&["webhook", "test", "ops"]);
    assert_eq!(test.status.code(), Some(8));
    let why = String::from_utf8_lossy(&test.stderr).into_owned();
    assert!(why.contains("webhook-failed") && why.contains("not reachable"), "{why}");
    let mut https = add;
    https[4] = "https://example.org/";
    assert_eq!(daemon.code(&https), Some(2));
    assert!(daemon.says(&["webhook", "remove", "ops", "--dry-run"]).starts_with("would send nothing more"));
    daemon.says(&["webhook", "remove", "ops"]);
    assert_eq!(daemon.code(&["webhook", "remove", "ops"]), Some(3));
    daemon.says(&["webhook", "rm", "ops", "--if-exists"]);
}

/// Asks until there is an answer.
#[track_caller]
fn until<T>(patience: std::time::Duration, mut answer: impl FnMut() -> Result<T, String>) -> T {
    let begin = std::time::Instant::now();
    loop {
        match answer() {
            Ok(answer) => return answer,
            Err(now) => assert!(begin.elapsed() < patience, "{now}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_daemon_with_somebody_who_watches_events_stops_at_once() {
    let daemon = Daemon::start();
    let mut watch = Command::new(PROGRAM)
        .arg("--state-dir")
        .arg(daemon.state.path())
        .args(["event", "watch", "--after", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let begin = std::time::Instant::now();
    drop(daemon);
    assert!(begin.elapsed() < std::time::Duration::from_secs(3), "{:?}", begin.elapsed());
    watch.kill().expect("it lives");
    watch.wait().expect("it ends");
}

/// Writes bytes that are neither zeros nor a pattern to the start of an export, over NBD.
fn store(daemon: &Daemon, export: &str, bytes: u32) {
    let mut nbd = UnixStream::connect(daemon.state.path().join("nbd.sock")).expect("NBD is served");
    nbd.read_exact(&mut [0; 18]).expect("a greeting");
    let name = u32::try_from(export.len()).expect("a short name").to_be_bytes();
    // Fixed newstyle, no zeroes; the option EXPORT_NAME.
    let choice = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &name, export.as_bytes()].concat();
    nbd.write_all(&choice).expect("it reads");
    nbd.read_exact(&mut [0; 10]).expect("the export");
    let mut write = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0, 0, 1], &[0; 16], &bytes.to_be_bytes()].concat();
    write.extend((0..bytes).map(|at| (at % 251) as u8 | 1));
    nbd.write_all(&write).expect("it reads");
    let mut answer = [0; 16];
    nbd.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer[4..8], [0; 4], "the write failed");
}

#[test]
fn a_reclaim_that_is_resumed_is_waited_for_like_one_that_begins() {
    let daemon = Daemon::start();
    let device = daemon.file("a.img");
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    daemon.says(&["vdisk", "create", "tank/a", "--size", "1G"]);
    store(&daemon, "tank/a", 8 << 20);
    // Of eight stretches all but the first wait a second each, or half of one: it does not end by itself before it is paused.
    daemon.says(&["reclaim", "tank/a", "--rate", "1M", "--no-wait"]);
    // Nothing is begun by that: it is a pace for the one that goes on.
    assert_eq!(
        daemon.says(&["reclaim", "tank/a", "--rate", "2M", "--no-wait"]),
        "reclaim of tank/a has another pace\n"
    );
    assert_eq!(daemon.json(&["reclaim", "tank/a", "--show"])["rate_bytes"], 2 << 20);
    daemon.says(&["reclaim", "tank/a", "--rate", "1M", "--no-wait"]);
    daemon.says(&["reclaim", "tank/a", "--pause"]);
    let said = daemon.says(&["reclaim", "tank/a", "--resume", "--rate", "4M", "--wait"]);
    assert!(said.contains("of tank/a looked through"), "{said}");
    let shown = daemon.json(&["reclaim", "tank/a", "--show"]);
    assert_eq!(
        (&shown["running"], &shown["paused"], &shown["done_pct"]),
        (&false.into(), &false.into(), &100.0.into())
    );
    assert_eq!(daemon.json(&["job", "show", shown["job"].as_str().unwrap()])["state"], "done");
    assert!(daemon.says(&["reclaim", "tank/a", "--show"]).contains("counted since the pool was opened"));
}

#[test]
fn the_embedded_pool_says_what_to_do_where_its_file_system_has_no_direct_io() {
    let state = tempfile::tempdir().expect("a temporary directory");
    std::os::unix::fs::symlink("/proc/self/comm", state.path().join("tank.img")).expect("a link");
    let output = Command::new(PROGRAM).arg("--state-dir").arg(state.path()).arg("serve").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let hint = said.lines().find_map(|line| line.strip_prefix("hint: ")).expect("a hint");
    let command = hint.split(" goes through").next().expect("a command");
    assert!(command.ends_with("serve --buffered") && command.starts_with(PROGRAM), "{said}");
    // It is a command that can be given, and comes further: what is there has no bytes.
    let output = Command::new("sh").args(["-c", command]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("[too-small]"), "{output:?}");
}
