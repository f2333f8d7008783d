//! A Linux guest with Debian's kernel in an emulator, as the scripts in `guest/` make and boot it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A guest that says nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(100);

/// How the guest gets its disk.
#[derive(Debug, Clone, Copy)]
pub enum Disk<'a> {
    /// Over NBD by its own client, from this port of the loopback.
    Own {
        /// The port.
        port: u16,
        /// The export.
        export: &'a str,
    },
    /// A virtio disk, whose emulator is the NBD client and stops the guest when there is no space.
    Emulated {
        /// The server's socket.
        socket: &'a Path,
        /// The export.
        export: &'a str,
        /// Where the emulator's monitor listens.
        monitor: &'a Path,
    },
}

/// A guest that runs; its emulator is killed when it is dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    emulator: Child,
    console: ChildStdin,
    lines: Receiver<(Instant, String)>,
    seen: Vec<String>,
}

impl Guest {
    /// Boots a guest that does what the file `scenario` of `guest/scenario` says, with so much data.
    ///
    /// # Panics
    /// There is no guest in `PLIMSOLL_GUEST_DIR`, or the emulator does not start.
    pub fn boot(scenario: &str, disk: Disk<'_>, mebibytes: u64) -> Self {
        let mut words = format!("plimsoll.scenario={scenario} plimsoll.mebibytes={mebibytes}");
        let mut arguments = Vec::new();
        match disk {
            Disk::Own { port, export } => words += &format!(" plimsoll.port={port} plimsoll.export={export}"),
            Disk::Emulated { socket, export, monitor } => {
                let server = json!({"type": "unix", "path": socket});
                let drive = json!({"driver": "nbd", "node-name": "disk", "server": server, "export": export, "discard": "unmap"});
                arguments.extend(["-blockdev".to_owned(), drive.to_string()]);
                arguments.extend(["-device", "virtio-blk-pci,drive=disk,werror=enospc"].map(str::to_owned));
                arguments.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", monitor.display())]);
            }
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/boot.sh");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(script).arg(folder()).arg(words).args(arguments);
        let mut emulator =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start setpriv (util-linux)");
        let console = emulator.stdin.take().expect("the console is a pipe");
        let output = BufReader::new(emulator.stdout.take().expect("the console is a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self { name: scenario.to_owned(), emulator, console, lines, seen: Vec::new() }
    }

    /// The next line `GUEST <step>` of the console, as `<step>`, and when it came; `None` when there was none for `time`.
    ///
    /// # Panics
    /// The guest failed, or its emulator ended.
    #[track_caller]
    pub fn step_within(&mut self, time: Duration) -> Option<(Instant, String)> {
        let deadline = Instant::now() + time;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) => {
                    if !line.contains("GUEST beat") {
                        println!("{}: {line}", self.name);
                    }
                    let step = line.split_once("GUEST ").map(|(_, step)| step.to_owned());
                    self.seen.push(line);
                    let Some(step) = step else { continue };
                    assert!(!step.starts_with("FAILED"), "the guest failed:\n{}", self.said());
                    return Some((at, step));
                }
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the guest ended too early:\n{}", self.said()),
            }
        }
    }

    /// Waits for the step that begins with `what`; gives all of it.
    ///
    /// # Panics
    /// It does not come: the guest failed, ended, or said nothing for too long.
    #[track_caller]
    pub fn until(&mut self, what: &str) -> String {
        self.step(what).1
    }

    /// As [`Self::until`], with when it came.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn step(&mut self, what: &str) -> (Instant, String) {
        loop {
            match self.step_within(SILENCE_MAX) {
                Some((at, step)) if step.starts_with(what) => return (at, step),
                Some(_) => {}
                None => panic!("the guest did not say {what:?}:\n{}", self.said()),
            }
        }
    }

    /// Lets a guest that waits for a line go on.
    ///
    /// # Panics
    /// It has ended.
    pub fn go(&mut self) {
        writeln!(self.console, "go").expect("let the guest go on");
    }

    /// Waits for `GUEST ok` and the end of the emulator.
    ///
    /// # Panics
    /// The guest failed.
    #[track_caller]
    pub fn finish(mut self) {
        self.until("ok");
        let status = self.emulator.wait().expect("wait for the emulator");
        assert!(status.success(), "the emulator ended with {status}:\n{}", self.said());
    }

    /// Its console so far.
    pub fn said(&self) -> String {
        self.seen.join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // `timeout`, which this is after two `exec`s, passes SIGTERM on to the emulator; SIGKILL it could not.
        let pid = rustix::process::Pid::from_child(&self.emulator);
        if matches!(self.emulator.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = self.emulator.wait();
        }
    }
}

/// The emulator's monitor (QMP).
#[derive(Debug)]
pub struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Events that were not asked for yet.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects.
    ///
    /// # Panics
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Self {
        let began = Instant::now();
        let writer = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(began.elapsed() < SILENCE_MAX, "no monitor at {}: {error}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        writer.set_read_timeout(Some(SILENCE_MAX)).expect("a time-out");
        let reader = BufReader::new(writer.try_clone().expect("another handle"));
        let mut monitor = Self { reader, writer, events: Vec::new() };
        monitor.read();
        monitor.run("qmp_capabilities");
        monitor
    }

    /// Runs a command without arguments; gives what it returned.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> Value {
        writeln!(self.writer, "{}", json!({"execute": command})).expect("write to the monitor");
        loop {
            let mut message = self.read();
            if message.get("event").is_some() {
                self.events.push(message);
                continue;
            }
            assert!(message.get("error").is_none(), "{command}: {message}");
            return message["return"].take();
        }
    }

    /// Waits for the event `name`; gives its data.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(place) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(place)["data"].take();
            }
            let message = self.read();
            self.events.push(message);
        }
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("read from the monitor");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the monitor said {line:?}: {error}"))
    }
}

/// The folder that `guest/fetch.sh` and `guest/build.sh` filled.
fn folder() -> PathBuf {
    let folder = std::env::var_os("PLIMSOLL_GUEST_DIR").expect("PLIMSOLL_GUEST_DIR is not set; tests/run sets it");
    let folder = PathBuf::from(folder);
    assert!(folder.join("vmlinux").is_file(), "{} holds no guest; run tests/guest/build.sh", folder.display());
    folder
}
