//! The state directory: one daemon at a time, and its sockets.
//!
//! The lock is an flock on `lock`, which the kernel drops when the holder dies, so it is never stale; the holder's process
//! id is in the file for the message only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::problem::{Answer, Problem};

/// Longest path of a Unix socket: `sun_path` has 108 bytes with the closing zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// A locked state directory. Unlocked when dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// The socket of the API in a state directory.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// The socket of all NBD exports in a state directory.
pub fn nbd_socket(dir: &Path) -> PathBuf {
    dir.join("nbd.sock")
}

/// How long a process that was killed may still have its files open.
const DYING_PATIENCE: Duration = Duration::from_secs(2);

impl StateDir {
    /// Makes the directory if needed (mode 0700) and locks it.
    ///
    /// # Errors
    /// `locked` naming the process that holds it, still after a while; `permission`, `read-only`, `invalid-argument` when it cannot be a
    /// state directory.
    pub fn lock(path: &Path) -> Answer<Self> {
        let cannot = |what: &str, error: std::io::Error| {
            use std::io::ErrorKind;
            let (code, why) = match error.kind() {
                ErrorKind::PermissionDenied => ("permission", error.to_string()),
                ErrorKind::ReadOnlyFilesystem => ("read-only", error.to_string()),
                ErrorKind::NotFound => ("not-found", error.to_string()),
                // Made by somebody else, and no directory.
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                    ("invalid-argument", "it is no directory".to_owned())
                }
                _ => ("invalid-argument", error.to_string()),
            };
            let detail = format!("{} {what}: {why}", path.display());
            Problem::new(code, detail).hint("name another one: plimsoll serve --state-dir DIR")
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| cannot("cannot be the state directory", error))?;
        let path = fs::canonicalize(path).map_err(|error| cannot("cannot be resolved", error))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|error| cannot("cannot be locked", error))?;
        let patience = Instant::now() + DYING_PATIENCE;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(&path, &mut lock)),
                Err(error) => return Err(cannot("cannot be locked", error.into())),
            }
        }
        // Over what is there, which needs no space; and only the message to others needs it.
        let note = format!("{}\n", std::process::id());
        let noted = lock.write_all(note.as_bytes()).and_then(|()| lock.set_len(note.len() as u64));
        if let Err(error) = noted {
            tracing::warn!(%error, "others cannot see which process serves from {}", path.display());
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn held(path: &Path, lock: &mut File) -> Problem {
    let mut text = String::new();
    let holder = match lock.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    };
    Problem::new("locked", format!("{holder} serves {} already", path.display()))
        .hint(format!("plimsoll --state-dir {} status", path.display()))
}

/// How long a listener may answer after its process has died: its io_uring holds the socket until the last I/O has ended.
const DEAD_LISTENER_PATIENCE: Duration = Duration::from_secs(5);

/// Makes room for a Unix socket at `path`: nothing is there, or a stale one that nobody answers is removed.
///
/// # Errors
/// `in-use` when a living socket or anything that is no socket is there; `invalid-argument` when the path is too long.
pub fn clear_socket(path: &Path) -> Answer<()> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let detail = format!("the socket path {} has {length} bytes, {SOCKET_PATH_MAX} are allowed", path.display());
        return Err(Problem::new("invalid-argument", detail).hint("use a shorter --state-dir"));
    }
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        let detail = format!("{} exists and is no socket", path.display());
        return Err(Problem::new("in-use", detail).hint(format!("mv {0} {0}.old", path.display())));
    }
    if is_listened_at(path) {
        let detail = format!("somebody serves on the socket {}", path.display());
        return Err(Problem::new("in-use", detail).hint(format!("fuser {}", path.display())));
    }
    fs::remove_file(path).map_err(|error| {
        Problem::new("in-use", format!("the stale socket {} cannot be removed: {error}", path.display()))
    })
}

/// Whether a living process listens at the socket `path`. A connection to one that has died is ended when its listener is; one to a
/// living one stays, also to one that takes no other after it.
fn is_listened_at(path: &Path) -> bool {
    let patience = Instant::now() + DEAD_LISTENER_PATIENCE;
    while let Ok(mut stream) = UnixStream::connect(path) {
        let left = patience.saturating_duration_since(Instant::now());
        let ended = |read: std::io::Result<usize>| match read {
            Ok(bytes) => bytes == 0,
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        };
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() || !ended(stream.read(&mut [0])) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_process_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::lock(&dir.path().join("state")).unwrap();
        let problem = StateDir::lock(first.path()).unwrap_err();
        assert_eq!(problem.code, "locked");
        assert!(problem.detail.contains(&format!("process {}", std::process::id())), "{}", problem.detail);
        let path = first.path().to_owned();
        let dies = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        StateDir::lock(&path).unwrap();
        dies.join().unwrap();
    }

    #[test]
    fn a_full_file_system_keeps_nobody_from_serving() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("lock")).unwrap();
        StateDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = control_socket(dir.path());
        clear_socket(&path).unwrap();
        let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(clear_socket(&path).unwrap_err().code, "in-use");
        drop(living);
        clear_socket(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "not a socket").unwrap();
        assert_eq!(clear_socket(&path).unwrap_err().code, "in-use");
        assert!(path.exists());
    }

    #[test]
    fn the_socket_of_somebody_who_takes_one_connection_only_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = control_socket(dir.path());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || {
            let taken = listener.accept().unwrap();
            drop(listener);
            // Until we hang up.
            let _ = (&taken.0).read(&mut [0]);
        });
        assert_eq!(clear_socket(&path).unwrap_err().code, "in-use");
        assert!(path.exists());
        other.join().unwrap();
    }

    #[test]
    fn a_file_is_no_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let problem = StateDir::lock(&path).unwrap_err();
        assert_eq!(problem.code, "invalid-argument");
        assert!(problem.detail.ends_with("it is no directory"), "{}", problem.detail);
        let beyond = StateDir::lock(Path::new("/proc/1/nothing")).unwrap_err();
        assert!(matches!(beyond.code.as_str(), "permission" | "not-found"), "{beyond:?}");
        let long = dir.path().join("x".repeat(120));
        assert_eq!(clear_socket(&long).unwrap_err().code, "invalid-argument");
    }
}
