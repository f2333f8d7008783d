//! Opening devices, and what the machine says of a path. Everything a person can get wrong about a path gets its own
//! words here, before the engine sees it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use plimsoll_engine::{DeviceInfo, Label, identify};
use plimsoll_hardware::probe::{SIGNATURE_BYTES, signature};
use plimsoll_hardware::{Device as _, Machine, OpenError, OpenOptions};

use super::Node;
use crate::problem::{Answer, Cause, Problem};
use crate::units::iec;

/// A device of the machine that the node runs on.
pub type Device = <plimsoll_hardware::reactor::Handle as Machine>::Device;

/// A file by its path, and by its file system and number there.
pub(super) type File = (String, (u64, u64));

/// What is known of a device that was opened to be served from.
pub(super) struct Opened {
    /// It goes through the page cache.
    buffered: bool,
    /// What it is, if it is a file.
    file: Option<(u64, u64)>,
    /// What tells it from a copy, at the next start too.
    mark: Option<String>,
}

/// What for a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To serve from it. Waits for a lock that a dying predecessor still holds.
    Serve,
    /// To read it only, whoever holds it.
    Look,
    /// To see whether it could be served from: not if somebody holds it.
    Claim,
}

impl Node {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// `not-found`, `not-a-device`, `read-only`, `locked`, `device-error`, each with the path.
    pub(super) async fn open_device(&self, path: &str, purpose: Purpose) -> Answer<Device> {
        let checked = path.to_owned();
        self.blocking(move || check_path(&checked)).await??;
        let options = OpenOptions {
            buffered: self.is_buffered(path),
            read_only: purpose != Purpose::Serve,
            lock: purpose != Purpose::Look,
            lock_patience: if purpose == Purpose::Claim {
                Duration::ZERO
            } else {
                OpenOptions::default().lock_patience
            },
        };
        let buffered = options.buffered;
        let opened = self.machine().open_device(path, options).await.map_err(|error| cannot_open(path, &error))?;
        if purpose == Purpose::Serve {
            let found = fs::metadata(path).ok();
            let mark = found.as_ref().and_then(|found| mark(Path::new(path), found));
            // What has no name in a file system is nobody's to delete.
            let found = found.filter(|found| found.is_file() && !path.starts_with("/proc/"));
            let file = found.map(|found| (found.dev(), found.ino()));
            self.0.opened.borrow_mut().insert(absolute(path), Opened { buffered, file, mark });
        }
        Ok(opened)
    }

    /// Whether the device at `path` goes through the page cache, as it was opened to be served from last.
    pub(super) fn goes_buffered(&self, path: &str) -> bool {
        self.0.opened.borrow().get(&absolute(path)).is_some_and(|opened| opened.buffered)
    }

    /// What tells the device at `path` from a copy, as it was opened to be served from last.
    pub(super) fn mark_of(&self, path: &str) -> Option<String> {
        self.0.opened.borrow().get(&absolute(path)).and_then(|opened| opened.mark.clone())
    }

    /// Those of the devices that are files, and which.
    pub(super) fn files_of(&self, devices: &[DeviceInfo]) -> Vec<File> {
        let opened = self.0.opened.borrow();
        let file = |device: &DeviceInfo| Some((device.path.clone(), opened.get(&device.path)?.file?));
        devices.iter().filter_map(file).collect()
    }

    /// Whether `path` was allowed to go through the page cache.
    pub(super) fn is_buffered(&self, path: &str) -> bool {
        self.0.buffered.borrow().contains(path)
    }

    /// Allows paths to go through the page cache from now on.
    pub fn allow_buffered<'a>(&self, paths: impl IntoIterator<Item = &'a String>) {
        self.0.buffered.borrow_mut().extend(paths.into_iter().map(|path| absolute(path)));
    }

    /// The same for one change, if that was `asked` for: for good only if it succeeds.
    pub(super) fn allow_for(&self, asked: bool, paths: &[String]) -> Allowed<'_> {
        let mut buffered = self.0.buffered.borrow_mut();
        let mut added: Vec<String> = paths.iter().filter(|_| asked).map(|path| absolute(path)).collect();
        added.retain(|path| buffered.insert(path.clone()));
        Allowed { node: self, added }
    }

    /// What is on an open device besides a pool, in words; `None` when nothing is recognised.
    pub(super) async fn contents(&self, device: &Device) -> Answer<Option<&'static str>> {
        let geometry = device.geometry();
        let block = u64::from(geometry.logical_block);
        let bytes = (SIGNATURE_BYTES as u64).min(geometry.size) / block * block;
        let buffer = self.machine().buffers().alloc(bytes as usize).await;
        let first = device.read(0, buffer).await.map_err(plimsoll_engine::Error::Device)?;
        Ok(signature(&first))
    }

    /// Opens the device at `path` and reads its label.
    pub(super) async fn open_labelled(&self, path: &str, purpose: Purpose) -> Answer<(Device, Option<Label>)> {
        let (device, label) = self.open_looked_at(path, purpose).await?;
        Ok((device, label?))
    }

    /// The same, and what is wrong with a label that cannot be used.
    pub(super) async fn open_looked_at(&self, path: &str, purpose: Purpose) -> Answer<(Device, Looked)> {
        let device = self.open_device(path, purpose).await?;
        let label = identify(self.machine(), &device).await;
        Ok((device, label))
    }
}

/// The label of a device, if there is one, or why it cannot be used.
pub(super) type Looked = plimsoll_engine::Result<Option<Label>>;

/// A permission to go through the page cache that is taken back unless it is kept.
#[must_use]
pub(super) struct Allowed<'a> {
    node: &'a Node,
    added: Vec<String>,
}

impl Allowed<'_> {
    pub(super) fn keep(mut self) {
        self.added.clear();
    }
}

impl Drop for Allowed<'_> {
    fn drop(&mut self) {
        let mut buffered = self.node.0.buffered.borrow_mut();
        for path in &self.added {
            buffered.remove(path);
        }
    }
}

/// `f_type` of file systems whose files keep their numbers when they are mounted anew: linux/magic.h; of bcachefs and ZFS their own headers.
const LASTING: [u64; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x0102_1994];

/// Of any block device.
pub(super) const BLOCK_MARK: &str = "block";

/// What a file keeps under another name, and a copy of it has not: its number, and when it was made, as the number of one that was
/// deleted is given to the next. All block devices are alike. `None` where that may be another at the next start.
pub(super) fn mark(path: &Path, found: &fs::Metadata) -> Option<String> {
    if found.file_type().is_block_device() {
        return Some(BLOCK_MARK.to_owned());
    }
    let system = rustix::fs::statfs(path).ok().filter(|_| found.is_file())?;
    let born = found.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let born = born.map_or_else(String::new, |born| format!("-{:x}", born.as_nanos()));
    LASTING.contains(&(system.f_type as u64)).then(|| format!("{:x}{born}", found.ino()))
}

/// Whether two marks are of one file. Where one does not say when it was made, its number has to do.
pub(super) fn is_same_mark(one: &str, other: &str) -> bool {
    let number = |mark: &str| mark.split('-').next().map(str::to_owned);
    one == other || number(one) == number(other) && !(one.contains('-') && other.contains('-'))
}

/// Refuses what can be no device at all, by what it is.
fn check_path(path: &str) -> Answer<()> {
    if path.is_empty() {
        return Err(Problem::new("invalid-argument", "the path of a device is empty").hint("plimsoll device list"));
    }
    let found = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::new("not-found", format!("{path} does not exist"))
            .because(Cause::NotThere)
            .hint(format!("plimsoll device list; for a pool in a sparse file first: truncate -s 64G {path}")),
        std::io::ErrorKind::PermissionDenied => {
            Problem::new("permission", format!("{path}: permission denied")).hint(format!("ls -l {path}"))
        }
        _ => Problem::new("device-error", format!("{path}: {error}")),
    })?;
    let kind = found.file_type();
    let wrong = if kind.is_dir() {
        "is a directory"
    } else if kind.is_char_device() {
        "is a character device"
    } else if kind.is_fifo() {
        "is a pipe"
    } else if kind.is_socket() {
        "is a socket"
    } else {
        return Ok(());
    };
    let detail = format!("{path} {wrong}, not a block device or regular file");
    let hint = if kind.is_dir() {
        format!("truncate -s 64G {0}/pool.img, and name that file", path.trim_end_matches('/'))
    } else {
        "plimsoll device list".to_owned()
    };
    Err(Problem::new("not-a-device", detail).hint(hint))
}

/// The hardware's words for a device that cannot be opened; what to do stands behind their last semicolon.
pub(crate) fn cannot_open(path: &str, error: &OpenError) -> Problem {
    let code = match error {
        OpenError::Missing { .. } => "not-found",
        OpenError::WrongKind { .. } => "not-a-device",
        OpenError::Held { .. } => "locked",
        OpenError::WriteProtected { .. } => "read-only",
        OpenError::Empty { .. } => "too-small",
        OpenError::NoDirectIo { .. } => "no-direct-io",
        OpenError::System { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => "permission",
        OpenError::System { .. } => "device-error",
    };
    let text = match error {
        OpenError::System { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    let problem = match text.rsplit_once("; ") {
        Some((detail, hint)) => Problem::new(code, detail).hint(hint),
        None => Problem::new(code, text),
    };
    match code {
        "not-found" => problem.because(Cause::NotThere),
        // Only a device has a protection of its own.
        "read-only" if fs::metadata(path).is_ok_and(|found| found.is_file()) => {
            problem.hint(format!("name a file of another file system, or mount that writable: findmnt -T {path}"))
        }
        "permission" => problem.hint(format!("ls -l {path}; run plimsoll as a user who may write to it")),
        "no-direct-io" => {
            problem.hint("choose another file system, or say --buffered (in a configuration: buffered = true)")
        }
        _ => problem,
    }
}

/// What is on the device at `path`, in words; `None` when nothing is recognised or it cannot be read. Blocks.
pub(super) fn contents_at(path: &Path) -> Option<&'static str> {
    let mut first = Vec::new();
    fs::File::open(path).ok()?.take(SIGNATURE_BYTES as u64).read_to_end(&mut first).ok()?;
    signature(&first)
}

/// Whether two paths lead to the same device or file: spelt in another way, by a link of either kind, or by another node of a device.
pub(crate) fn same_file(one: &str, other: &str) -> bool {
    match (identity(one), identity(other)) {
        (Some(one), Some(other)) => one == other,
        _ => absolute(one) == absolute(other),
    }
}

/// What a path leads to: a block device by its number, anything else by its file system and inode.
fn identity(path: &str) -> Option<(bool, u64, u64)> {
    let found = fs::metadata(path).ok()?;
    let is_device = found.file_type().is_block_device();
    Some(if is_device { (true, found.rdev(), 0) } else { (false, found.dev(), found.ino()) })
}

/// `path` as an absolute one, so that it means the same at the next start.
pub(super) fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// The size of a device for people.
pub(super) fn size_of(device: &Device) -> String {
    iec(device.geometry().size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::hints::assert_advice_can_be_followed;

    #[test]
    fn a_path_that_is_empty_is_not_said_to_be_missing() {
        let problem = check_path("").unwrap_err();
        assert_eq!(
            (problem.code.as_str(), problem.detail.as_str()),
            ("invalid-argument", "the path of a device is empty")
        );
        assert_advice_can_be_followed(&problem.hint.unwrap());
    }

    #[test]
    fn only_a_device_has_a_protection_that_can_be_lifted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let hint = |path: &str| cannot_open(path, &OpenError::WriteProtected { path: path.into() }).hint.unwrap();
        assert!(hint("/dev/null").contains("blockdev --setrw"));
        assert!(hint(&path).ends_with(&format!("findmnt -T {path}")), "{}", hint(&path));
    }
}
