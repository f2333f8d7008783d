//! A disk whose power can be cut while a real process uses it.
//!
//! The program `fault-disk` serves one file, `disk`, from a FUSE file system of its own; [`FaultDisk`] starts it in a
//! temporary folder, sends it commands, and takes the file system down when dropped. The program ends when its
//! standard input does, so a test that dies leaves no mount behind.
//!
//! It flips no bits and misdirects no writes: the simulated machine does that, deterministically and much faster.

pub mod control;
pub mod filesystem;
pub mod media;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running fault disk.
#[derive(Debug)]
pub struct FaultDisk {
    program: Child,
    folder: tempfile::TempDir,
}

impl FaultDisk {
    /// Starts `program` (in an integration test `env!("CARGO_BIN_EXE_fault-disk")`) with an empty disk of `size`
    /// bytes.
    ///
    /// # Panics
    /// FUSE does not work here: no `/dev/fuse`, or no right to mount.
    pub fn start(program: impl AsRef<Path>, size: u64) -> Self {
        let folder = crate::daemon::test_folder("fault-disk-");
        std::fs::create_dir(folder.path().join("mount")).expect("create the mount point");
        let mut child = Command::new(program.as_ref())
            .arg(folder.path().join("mount"))
            .args(["--size", &size.to_string()])
            .arg("--backing")
            .arg(folder.path().join("backing"))
            .arg("--control")
            .arg(folder.path().join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal to the test's process group must not end it before it has unmounted.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.as_ref().display()));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("read from fault-disk");
        assert_eq!(line, "ready\n", "fault-disk did not come up; FUSE needs /dev/fuse and the right to mount");
        Self { program: child, folder }
    }

    /// The file that behaves as a disk.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mount").join(filesystem::FILE_NAME)
    }

    /// Sends one command (see [`control::COMMANDS`]) and gives its answer.
    ///
    /// # Panics
    /// The command is refused.
    pub fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.folder.path().join("control")).expect("reach fault-disk");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set a time limit");
        writeln!(stream, "{command}").expect("send the command");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("read the answer");
        let text = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("fault-disk {command}: {answer:?}"));
        text.trim_end().to_owned()
    }

    /// How many operations have failed because the disk was told to fail them.
    ///
    /// # Panics
    /// The disk does not answer.
    pub fn faults(&self) -> u64 {
        let answer = self.command("faults");
        answer.parse().unwrap_or_else(|_| panic!("{answer:?} is no number of faults"))
    }

    /// Cuts the power: of the changes that no flush covers most are lost or torn, as `seed` says, and every handle
    /// that is open now fails with EIO from here on. Tells how many changes were pending.
    pub fn cut(&self, seed: u64) -> u64 {
        let answer = self.command(&format!("cut {seed}"));
        answer.strip_prefix("pending=").and_then(|number| number.parse().ok()).expect("an answer to cut")
    }
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.program.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                let _ = self.program.kill();
                let _ = self.program.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Unmounted already, unless it had to be killed.
        let _ = rustix::mount::unmount(self.folder.path().join("mount"), rustix::mount::UnmountFlags::DETACH);
    }
}
