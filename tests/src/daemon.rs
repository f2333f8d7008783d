//! The real program, started, killed and restarted.
//!
//! Which program: `PLIMSOLL_BIN`, else `target/release/plimsoll` of this workspace. Each [`Daemon`] has a state folder
//! and a crash memory of its own. It is started through `setpriv --pdeathsig`, so that it dies with the test even when
//! the test is killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A daemon that does not say `ready` in this time has failed.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// A client command that has not ended in this time has failed; `timeout` of coreutils ends it.
const CLI_SECONDS: &str = "60";

/// A new folder for a test's files on a disk file system, under `PLIMSOLL_TEST_DIR` (default `/var/tmp`, which is no
/// tmpfs and has short names, as sockets need). It is removed when dropped.
///
/// # Panics
/// The folder cannot be made.
pub fn test_folder(prefix: &str) -> tempfile::TempDir {
    let parent = std::env::var_os("PLIMSOLL_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot make a folder in {}: {error}", parent.display()))
}

/// The program under test.
///
/// # Panics
/// There is none.
pub fn program() -> PathBuf {
    let path = std::env::var_os("PLIMSOLL_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
        target.join("release/plimsoll")
    });
    assert!(path.is_file(), "no program {}: cargo build --release -p plimsoll-appliance, or set PLIMSOLL_BIN", {
        path.display()
    });
    path
}

/// What a client command did.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Asserts that the command `what` ended with `code` and said all of `words` on standard error.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn assert_refused(&self, what: &str, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{what} must end with {code}: {self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{what} must say {word:?}: {self:#?}");
        }
    }
}

/// A client command under way.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Waits until it has ended.
    ///
    /// # Panics
    /// Its output cannot be read.
    pub fn end(self) -> Outcome {
        let output = self.0.wait_with_output().expect("wait for the client");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A daemon and its folders.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    folder: tempfile::TempDir,
    crash_memory: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Daemon {
    /// Starts `plimsoll serve` with `arguments` behind it, on a state folder of its own.
    ///
    /// # Panics
    /// It does not say `ready` in [`READY_TIMEOUT`].
    pub fn start(arguments: &[&str]) -> Self {
        let crash_memory = tempfile::Builder::new().prefix("plimsoll-").tempdir_in("/dev/shm");
        let mut daemon = Self {
            child: None,
            folder: test_folder("plimsoll-"),
            crash_memory: crash_memory.expect("make a folder in /dev/shm"),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        daemon.restart();
        daemon
    }

    /// The folder for this test's own files; it goes with the daemon.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The socket of the NBD exports.
    pub fn nbd_socket(&self) -> PathBuf {
        self.state_dir().join("nbd.sock")
    }

    /// An NBD URI of the export `name`, as libnbd and QEMU write it.
    pub fn nbd_uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.nbd_socket().display())
    }

    /// The process id.
    ///
    /// # Panics
    /// It is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon is not running").id()
    }

    /// Runs `plimsoll --state-dir DIR` with `arguments` behind it.
    ///
    /// # Panics
    /// The program cannot be run.
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        self.begin(arguments).end()
    }

    /// As [`Self::cli`], without waiting for its end.
    ///
    /// # Panics
    /// The program cannot be run.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        let child = Command::new("timeout")
            .args(["--kill-after=5", CLI_SECONDS])
            .arg(program())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(arguments)
            .env("PLIMSOLL_CRASH_MEMORY_DIR", self.crash_memory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(child.expect("run the client"))
    }

    /// As [`Self::cli`], for a command that must succeed; gives its standard output.
    ///
    /// # Panics
    /// The exit code is not 0.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let outcome = self.cli(arguments);
        assert_eq!(outcome.code, 0, "plimsoll {arguments:?}: {outcome:#?}\n{}", self.log());
        outcome.stdout
    }

    /// As [`Self::done`] with `--json` behind it; gives the parsed output.
    ///
    /// # Panics
    /// The exit code is not 0, or the output is not JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.done(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("plimsoll {arguments:?}: {error} in {text}"))
    }

    /// Asserts that a command is refused with the exit code `code`, and that what it says on standard error has all of
    /// `words` in it; gives that.
    ///
    /// # Panics
    /// It is not, or has not.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) -> String {
        let outcome = self.cli(arguments);
        outcome.assert_refused(&format!("plimsoll {arguments:?}"), code, words);
        outcome.stderr
    }

    /// Asserts that `pool check` finds nothing, no leaked extent either.
    ///
    /// # Panics
    /// It does.
    #[track_caller]
    pub fn assert_clean(&self, pool: &str) {
        let report = self.json(&["pool", "check", pool]);
        let leaked = report["leaked_extents"].as_u64();
        assert_eq!(leaked, Some(0), "pool check {pool} must report leaked_extents 0: {report:#}");
    }

    /// Waits until there are so many events of a kind and an object, or more; gives all there are. An event is told before it is
    /// written.
    ///
    /// # Panics
    /// There are fewer for [`READY_TIMEOUT`].
    #[track_caller]
    pub fn events(&self, kind: &str, object: &str, least: usize) -> Vec<serde_json::Value> {
        let began = Instant::now();
        loop {
            let list = self.json(&["event", "list", "--kind", kind, "--object", object]);
            let events = list["items"].as_array().unwrap_or_else(|| panic!("events in {list:#}"));
            if events.len() >= least {
                return events.clone();
            }
            assert!(began.elapsed() < READY_TIMEOUT, "{kind} of {object} not {least} times: {list:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// It is not running, or has ended by itself: what a crash of its own leaves behind is no test of a kill.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the daemon is not running");
        let ended = child.try_wait().expect("look at the daemon");
        assert!(ended.is_none(), "the daemon ended by itself: {ended:?}\n{}", self.log());
        child.kill().expect("kill the daemon");
        child.wait().expect("wait for the daemon");
    }

    /// Asks it to stop (SIGTERM) and waits for it; gives its exit status.
    ///
    /// # Panics
    /// It is not running, or it has not stopped in 30 seconds.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon is not running");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the daemon");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = child.try_wait().expect("wait for the daemon") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the daemon did not stop in 30 s of SIGTERM\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Forgets what outlives the process but not the power.
    ///
    /// # Panics
    /// The folder cannot be emptied.
    pub fn lose_crash_memory(&self) {
        for entry in std::fs::read_dir(self.crash_memory.path()).expect("list the crash memory") {
            let path = entry.expect("list the crash memory").path();
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
                .expect("empty the crash memory");
        }
    }

    /// Starts it again on the same state; gives the time from then to `ready`.
    ///
    /// # Panics
    /// It is running, or does not say `ready` in [`READY_TIMEOUT`].
    pub fn restart(&mut self) -> Duration {
        assert!(self.child.is_none(), "the daemon is still running");
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).expect("open the log");
        let start = Instant::now();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("serve")
            .args(&self.arguments)
            .env("PLIMSOLL_CRASH_MEMORY_DIR", self.crash_memory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start setpriv (util-linux)");
        let stdout = child.stdout.take().expect("its output is a pipe");
        self.child = Some(child);
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the daemon never waits for a reader.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line == "ready" {
                    let _ = sender.send(Instant::now());
                }
            }
        });
        match receiver.recv_timeout(READY_TIMEOUT) {
            Ok(ready) => ready - start,
            Err(error) => panic!("the daemon did not say ready ({error}, limit {READY_TIMEOUT:?})\n{}", self.log()),
        }
    }

    /// The end of what it wrote to standard error, over all its lives.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the daemon's last lines ---\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
