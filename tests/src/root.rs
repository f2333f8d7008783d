//! Loop devices and mounts. They need root and a kernel that has loop devices; a test that cannot have them fails and says
//! so, because a pool on a block device is what the product is for.

use std::path::Path;
use std::process::Command;

/// Undoes what was done when it is dropped.
#[derive(Debug)]
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

/// A block device over a file.
#[derive(Debug)]
pub struct LoopDevice {
    path: String,
    _undo: Undo,
}

impl LoopDevice {
    /// Makes one over `file`.
    ///
    /// # Panics
    /// There are no loop devices here.
    pub fn over(file: &Path, read_only: bool) -> Self {
        let mut arguments = vec!["--find", "--show"];
        arguments.extend(read_only.then_some("--read-only"));
        let path = run("losetup", &[&arguments[..], &[text(file)]].concat());
        Self { _undo: Undo("losetup", vec!["--detach".into(), path.clone()]), path }
    }

    /// Its name in `/dev`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A folder of which nothing can be written to.
#[derive(Debug)]
pub struct ReadOnlyMount {
    _undo: Undo,
}

impl ReadOnlyMount {
    /// Mounts `folder` over itself, read-only.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn over(folder: &Path) -> Self {
        run("mount", &["--bind", "-o", "ro", text(folder), text(folder)]);
        Self { _undo: Undo("umount", vec!["--lazy".into(), text(folder).to_owned()]) }
    }
}

/// A file system of its own in memory.
#[derive(Debug)]
pub struct Tmpfs {
    _undo: Undo,
}

impl Tmpfs {
    /// Mounts one that has room for so many bytes on `folder`.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn on(folder: &Path, bytes: u64) -> Self {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text(folder)]);
        Self { _undo: Undo("umount", vec!["--lazy".into(), text(folder).to_owned()]) }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed; this test needs root and loop devices (modprobe loop): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
