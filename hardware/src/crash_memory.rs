//! Bytes that outlive the process but not the power: a file in a tmpfs, mapped.
//!
//! Method: the file carries a header of one page with the boot id under which it was made. Another boot, another size or
//! a file that was never finished means that nothing survived, and all is zeroed before the header is written again.
//! Stores go to memory that the kernel owns, so a killed process loses none of them; their order needs only the
//! compiler's cooperation, since whoever reads them runs after the writer's death.
//!
//! Not here: locking. A name carries the identity of a device, whose lock its user holds; a copy of that is another device.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::machine::CrashMemory;

/// Names the directory; it must be on a tmpfs or ramfs.
pub const DIRECTORY_VARIABLE: &str = "PLIMSOLL_CRASH_MEMORY_DIR";
const DEFAULT_DIRECTORY: &str = "/dev/shm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// First bytes of a finished file: magic and version.
const MAGIC: [u8; 8] = *b"PLIMCM01";
/// Bytes before the contents: a page, so that the contents are page-aligned.
const HEADER: usize = 4096;
/// Where the header keeps the boot id, 36 characters of a UUID, behind the magic and the size.
const BOOT_ID_AT: usize = 16;
const BOOT_ID_LEN: usize = 36;

/// `f_type` of the file systems that live in memory: linux/magic.h.
pub(crate) const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Why there is no crash memory.
#[derive(Debug, thiserror::Error)]
pub enum CrashMemoryError {
    /// A system call failed.
    #[error("{path}: {operation} failed: {source}")]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// No directory in memory.
    #[error(
        "{path} is not a directory on tmpfs or ramfs; mount one (mount -t tmpfs tmpfs /dev/shm) or name one in \
         PLIMSOLL_CRASH_MEMORY_DIR"
    )]
    NotInMemory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is not safely ours.
    #[error("{path}: {what}; somebody else made it: look at it, then remove it (rm {path})")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The name cannot be a file name.
    #[error("{name:?} cannot name crash memory; use letters, digits, '-', '_' and '.', at most 200")]
    BadName {
        /// The name.
        name: String,
    },
}

/// A mapped file in a tmpfs.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<u8>,
    len: usize,
    survived: bool,
}

impl SharedMemory {
    /// Opens or makes the memory `name` of `bytes` bytes.
    ///
    /// # Errors
    /// [`CrashMemoryError`], by what stands in the way.
    pub fn open(name: &str, bytes: usize) -> Result<Self, CrashMemoryError> {
        Self::open_in(&directory(), name, bytes)
    }

    /// As [`SharedMemory::open`], in a directory of the caller's choice.
    ///
    /// # Errors
    /// [`CrashMemoryError`], by what stands in the way.
    pub fn open_in(directory: &Path, name: &str, bytes: usize) -> Result<Self, CrashMemoryError> {
        let path = file_path(directory, name)?;
        check_directory(directory)?;
        let system = |operation: &'static str| {
            let path = path.clone();
            move |errno: rustix::io::Errno| CrashMemoryError::System { path, operation, source: errno.into() }
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::LOOP) => {
                return Err(CrashMemoryError::NotOurs { path, what: "is a symbolic link".into() });
            }
            Err(errno) => return Err(system("opening it")(errno)),
        };
        let found = check_owner(&fd, &path)?;
        let size = HEADER + bytes;
        let boot_id = boot_id()?;
        let fits = found == size as u64;
        if !fits {
            // To nothing first: what is made longer again is zeros.
            rustix::fs::ftruncate(&fd, 0).map_err(system("emptying it"))?;
            // Reserved now, so that no later store can meet a full tmpfs, which would kill the process.
            rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, size as u64)
                .map_err(system("reserving its memory"))?;
        }
        // SAFETY: a new shared mapping at an address of the kernel's choice. Only this user may open the file, and
        // whoever uses the name holds the lock of the device that it names.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), size, protection, MapFlags::SHARED, &fd, 0)
        }
        .map_err(system("mapping it"))?;
        let start = NonNull::new(start.cast::<u8>()).expect("a mapping is not at address 0");
        let mut memory = Self { start, len: bytes, survived: false };
        let expected = header(bytes, &boot_id);
        let mut found = [0; BOOT_ID_AT + BOOT_ID_LEN];
        memory.copy_out(0, &mut found);
        memory.survived = fits && found == expected;
        if !memory.survived {
            // The magic goes first and comes last: a death in between leaves a file that nobody believes.
            memory.copy_in(0, &[0; 8]);
            compiler_fence(Ordering::SeqCst);
            // SAFETY: the range behind the header is inside the mapping, which is ours.
            unsafe { start.add(HEADER).as_ptr().write_bytes(0, bytes) };
            memory.copy_in(8, &expected[8..]);
            compiler_fence(Ordering::SeqCst);
            memory.copy_in(0, &MAGIC);
            compiler_fence(Ordering::SeqCst);
        }
        Ok(memory)
    }

    /// Removes the memory `name`; there need be none. Whoever has it mapped keeps what is mapped.
    ///
    /// # Errors
    /// [`CrashMemoryError`] when the system refuses.
    pub fn remove(name: &str) -> Result<(), CrashMemoryError> {
        let path = file_path(&directory(), name)?;
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CrashMemoryError::System { path, operation: "removing it", source })
            }
            _ => Ok(()),
        }
    }

    /// Whether there is memory `name`.
    pub fn exists(name: &str) -> bool {
        file_path(&directory(), name).is_ok_and(|path| path.exists())
    }

    /// Calls the memory `from` `to`, in place of what is called so.
    ///
    /// # Errors
    /// [`CrashMemoryError`] when the system refuses.
    pub fn rename(from: &str, to: &str) -> Result<(), CrashMemoryError> {
        let (path, other) = (file_path(&directory(), from)?, file_path(&directory(), to)?);
        let failed = |source| CrashMemoryError::System { path: path.clone(), operation: "renaming it", source };
        std::fs::rename(&path, other).map_err(failed)
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset} lie outside a crash memory of {} bytes", self.len);
    }

    fn copy_out(&self, at: usize, into: &mut [u8]) {
        debug_assert!(at + into.len() <= HEADER + self.len, "inside the mapping");
        // SAFETY: callers stay inside the mapping; `into` is ordinary memory and cannot overlap it.
        unsafe { self.start.as_ptr().add(at).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
    }

    fn copy_in(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= HEADER + self.len, "inside the mapping");
        // SAFETY: callers stay inside the mapping; `bytes` is ordinary memory and cannot overlap it.
        unsafe { self.start.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl CrashMemory for SharedMemory {
    fn survived(&self) -> bool {
        self.survived
    }

    fn len(&self) -> usize {
        self.len
    }

    fn load(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        compiler_fence(Ordering::SeqCst);
        self.copy_out(HEADER + offset, into);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // A killed process has executed a prefix of its instructions, so keeping the compiler from moving or merging
        // stores is all that the order needs.
        compiler_fence(Ordering::SeqCst);
        self.copy_in(HEADER + offset, bytes);
        compiler_fence(Ordering::SeqCst);
    }

    fn store_u64(&self, offset: usize, word: u64) {
        self.check(offset, 8);
        assert!(offset.is_multiple_of(8), "a word at {offset} is not aligned to 8 bytes");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: inside the mapping and aligned, since the mapping starts on a page; nobody holds a reference to it.
        let place = unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(HEADER + offset).cast()) };
        place.store(word.to_le(), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), HEADER + self.len) };
    }
}

fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY_VARIABLE).map_or_else(|| DEFAULT_DIRECTORY.into(), PathBuf::from)
}

fn file_path(directory: &Path, name: &str) -> Result<PathBuf, CrashMemoryError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 200 || !name.bytes().all(good) {
        return Err(CrashMemoryError::BadName { name: name.into() });
    }
    Ok(directory.join(format!("plimsoll-{name}")))
}

fn check_directory(directory: &Path) -> Result<(), CrashMemoryError> {
    let in_memory = || -> rustix::io::Result<bool> {
        let kind = FileType::from_raw_mode(rustix::fs::stat(directory)?.st_mode);
        let file_system = rustix::fs::statfs(directory)?.f_type as u64;
        Ok(kind == FileType::Directory && MEMORY_FILE_SYSTEMS.contains(&file_system))
    };
    match in_memory() {
        Ok(true) => Ok(()),
        _ => Err(CrashMemoryError::NotInMemory { path: directory.to_owned() }),
    }
}

/// Refuses what another user could read or have prepared; answers the size.
fn check_owner(fd: &OwnedFd, path: &Path) -> Result<u64, CrashMemoryError> {
    let found = rustix::fs::fstat(fd).map_err(|errno| CrashMemoryError::System {
        path: path.to_owned(),
        operation: "looking at it",
        source: errno.into(),
    })?;
    let us = rustix::process::geteuid().as_raw();
    let what = if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        "is not a regular file".to_owned()
    } else if found.st_uid != us {
        format!("belongs to user {}, not to user {us}", found.st_uid)
    } else if found.st_mode & 0o077 != 0 {
        format!("is open to others (mode {:o})", found.st_mode & 0o777)
    } else if found.st_nlink != 1 {
        format!("has {} names", found.st_nlink)
    } else {
        return Ok(found.st_size as u64);
    };
    Err(CrashMemoryError::NotOurs { path: path.to_owned(), what })
}

fn header(bytes: usize, boot_id: &[u8; BOOT_ID_LEN]) -> [u8; BOOT_ID_AT + BOOT_ID_LEN] {
    let mut header = [0; BOOT_ID_AT + BOOT_ID_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..BOOT_ID_AT].copy_from_slice(&(bytes as u64).to_le_bytes());
    header[BOOT_ID_AT..].copy_from_slice(boot_id);
    header
}

fn boot_id() -> Result<[u8; BOOT_ID_LEN], CrashMemoryError> {
    let mut boot_id = [0; BOOT_ID_LEN];
    File::open(BOOT_ID).and_then(|mut file| file.read_exact(&mut boot_id)).map_err(|source| {
        CrashMemoryError::System { path: BOOT_ID.into(), operation: "reading the boot id", source }
    })?;
    Ok(boot_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn memory_directory() -> io::Result<tempfile::TempDir> {
        tempfile::tempdir_in(DEFAULT_DIRECTORY)
    }

    #[test]
    fn bytes_survive_a_reopening_and_nothing_survives_another_size_or_boot() -> Outcome {
        let directory = memory_directory()?;
        let open = |bytes| SharedMemory::open_in(directory.path(), "pool-1", bytes);
        let memory = open(8192)?;
        assert!(!memory.survived());
        memory.store(100, b"journal tail");
        memory.store_u64(8, 0x0102_0304);
        drop(memory);

        let memory = open(8192)?;
        assert!(memory.survived());
        let (mut text, mut word) = ([0; 12], [0; 8]);
        memory.load(100, &mut text);
        memory.load(8, &mut word);
        assert_eq!((&text, u64::from_le_bytes(word)), (b"journal tail", 0x0102_0304));
        drop(memory);

        let memory = open(4096)?;
        memory.load(100, &mut text);
        assert_eq!((memory.survived(), text), (false, [0; 12]));
        memory.store(0, b"x");
        drop(memory);
        let path = directory.path().join("plimsoll-pool-1");
        let mut contents = std::fs::read(&path)?;
        contents[BOOT_ID_AT] ^= 1;
        std::fs::write(&path, contents)?;
        let memory = open(4096)?;
        memory.load(0, &mut text);
        assert_eq!((memory.survived(), text), (false, [0; 12]));
        Ok(())
    }

    #[test]
    fn a_file_that_others_could_touch_is_refused() -> Outcome {
        let directory = memory_directory()?;
        let open = || SharedMemory::open_in(directory.path(), "x", 4096);
        let path = directory.path().join("plimsoll-x");
        drop(open()?);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
        assert!(matches!(open(), Err(CrashMemoryError::NotOurs { .. })));
        std::fs::remove_file(&path)?;
        std::os::unix::fs::symlink("/dev/null", &path)?;
        assert!(matches!(open(), Err(CrashMemoryError::NotOurs { .. })));
        Ok(())
    }

    #[test]
    fn a_directory_on_a_disk_and_a_name_with_a_slash_are_refused() {
        let on_proc = SharedMemory::open_in(Path::new("/proc"), "x", 4096);
        assert!(matches!(on_proc, Err(CrashMemoryError::NotInMemory { .. })));
        let named = SharedMemory::open_in(Path::new(DEFAULT_DIRECTORY), "../x", 4096);
        assert!(matches!(named, Err(CrashMemoryError::BadName { .. })));
    }

    #[test]
    #[should_panic(expected = "lie outside a crash memory of 4096 bytes")]
    fn a_store_outside_panics() {
        let directory = memory_directory().expect("a directory in memory");
        let memory = SharedMemory::open_in(directory.path(), "x", 4096).expect("memory");
        memory.store(4090, &[0; 7]);
    }
}
