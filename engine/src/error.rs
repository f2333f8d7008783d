//! What the engine answers when it cannot do what was asked.

use plimsoll_hardware::IoError;
use uuid::Uuid;

/// Every failure of the engine. Messages say what happened, to which object, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A write needs extents and none is left. Never an I/O error.
    #[error(
        "pool {pool} cannot back the write: {needed} extents needed, {free} free beyond the metadata reserve; add a device \
         (plimsoll pool add-device {pool} --device PATH), or delete or discard something"
    )]
    OutOfSpace {
        /// The pool.
        pool: String,
        /// Extents the write needs.
        needed: u64,
        /// Extents that could be given.
        free: u64,
    },
    /// A write needs extents that its vdisk or tenant may not have. Never an I/O error.
    #[error(
        "{holder} is at its quota: {} needed, {} of {} in use; raise the quota, or delete or discard something",
        iec(*.needed), iec(*.used), iec(*.quota)
    )]
    QuotaExceeded {
        /// The vdisk or tenant.
        holder: String,
        /// Bytes the write needs.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes that may be.
        quota: u64,
    },
    /// A promise that would exceed a limit.
    #[error("{what} would exceed by {} {limit}; {advice}", iec(*.excess))]
    LimitExceeded {
        /// What was asked for.
        what: String,
        /// The limit, with its figures.
        limit: String,
        /// Bytes too many.
        excess: u64,
        /// What would help.
        advice: String,
    },
    /// A held write was given up by whoever asked for it. Nothing was written.
    #[error("the write was given up while it was waiting for space")]
    Cancelled,
    /// Misaligned, zero-length or beyond the end.
    #[error("{what} of {length} bytes at {offset}: {reason}")]
    InvalidRequest {
        /// The operation.
        what: &'static str,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A name, size or option that makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// No such object.
    #[error("{kind} {name} does not exist")]
    NotFound {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("{kind} {name} exists; choose another name, or delete it first")]
    Exists {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Wrong state: being deleted, shrinking, still in use.
    #[error("{object} is busy: {reason}")]
    Busy {
        /// The object.
        object: String,
        /// Why.
        reason: String,
    },
    /// The pool takes no writes.
    #[error("pool {pool} is read-only: {reason}")]
    ReadOnly {
        /// The pool.
        pool: String,
        /// Why, and behind a semicolon what to do.
        reason: String,
        /// What a device answered that made it so; none when it was opened like this.
        cause: Option<IoError>,
    },
    /// A device failed.
    #[error(transparent)]
    Device(#[from] IoError),
    /// Both copies of a mapping page are bad.
    #[error("the mapping of {vdisk} at {offset}..+{length} is damaged in both copies; see plimsoll pool check")]
    Damaged {
        /// The vdisk.
        vdisk: String,
        /// First byte that cannot be read.
        offset: u64,
        /// Bytes that cannot be read.
        length: u64,
    },
    /// A smaller size would lose data.
    #[error(
        "a resize of {vdisk} to {} would cut off {} that are backed; say --discard-tail to give them up",
        iec(*.size), iec(*.backed)
    )]
    WouldCutOff {
        /// The vdisk.
        vdisk: String,
        /// Size asked for.
        size: u64,
        /// Bytes with physical space behind them that would be lost.
        backed: u64,
    },
    /// A device of the pool was not found.
    #[error(
        "pool {pool}: device {index} ({device}) is missing; connect it, or name the paths of all of the pool's devices \
         (plimsoll pool import PATH...)"
    )]
    DeviceMissing {
        /// The pool.
        pool: String,
        /// The device's identity.
        device: Uuid,
        /// Its place in the pool.
        index: u16,
    },
    /// The device holds something.
    #[error("{path} holds {what}; say --force to overwrite it")]
    InUse {
        /// The device.
        path: String,
        /// What is on it.
        what: String,
    },
    /// The device holds no pool, or what it holds cannot be read.
    #[error("{path}: {reason}")]
    NotAPool {
        /// The device.
        path: String,
        /// Why not, and behind a semicolon what to do.
        reason: String,
    },
    /// The device is shorter than its label says.
    #[error(
        "{path} is shorter than it was: pool {pool} has {label} bytes on it and it has {size}, so it was cut off, or copied in part; restore \
         all of it from a copy, or make it long again and go on without what was there"
    )]
    Shortened {
        /// The device.
        path: String,
        /// The pool.
        pool: String,
        /// Its UUID, and the device's.
        uuids: (Uuid, Uuid),
        /// Its bytes by its label.
        label: u64,
        /// Its bytes.
        size: u64,
    },
    /// Devices were cut off, and made as long as they were.
    #[error(
        "the end of {} is gone: where pool {pool} has a label and roots there are zeros, so it was cut off, or copied in part, and \
         made long again; what was stored there would read as zeros", paths.join(", and of ")
    )]
    EndLost {
        /// The devices.
        paths: Vec<String>,
        /// The pool.
        pool: String,
    },
    /// Written by a newer version.
    #[error("pool {pool} was written by a newer version (unknown feature bits {bits:#x}); use that version")]
    UnsupportedFeature {
        /// The pool.
        pool: String,
        /// The bits.
        bits: u64,
    },
    /// The device cannot hold a pool.
    #[error("{path} is too small: it has {}; use one of at least {} ({minimum} bytes)", iec(*.size), iec(*.minimum))]
    TooSmall {
        /// The device.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// Smallest size in bytes.
        minimum: u64,
    },
    /// The file system that a device is a file of has no room for what a pool has on it from the beginning. Nothing was made;
    /// what space the file has got by then stays with it.
    #[error(
        "{path} needs {} of its file system at once, for the journal and the metadata reserve, and there is less; free space in it, or \
         use another",
        iec(*.needed)
    )]
    NoRoomBelow {
        /// The device.
        path: String,
        /// Bytes that it needs.
        needed: u64,
    },
    /// A pool is closed without a last checkpoint, which found no room. Nothing is lost: the next start goes on from the journal.
    #[error(
        "pool {pool} could not write its last checkpoint, because the file system that {path} is a file of is full; all that was \
         answered is safe, and the next start goes on from the journal; free space there before it"
    )]
    ClosedFull {
        /// The pool.
        pool: String,
        /// The device.
        path: String,
    },
    /// What is on a device does not fit the others.
    #[error(
        "{} of {device} do not fit the rest of pool {pool}: {} are free there, {} are missing; add a device \
         (plimsoll pool add-device {pool} --device PATH), or delete or discard something",
        iec(*.needed), iec(*.free), iec(*.missing)
    )]
    WouldNotFit {
        /// The pool.
        pool: String,
        /// The device's path.
        device: String,
        /// Bytes that would have to move.
        needed: u64,
        /// Bytes that are free elsewhere, beyond the metadata reserve and what is promised.
        free: u64,
        /// Bytes that are missing for them and for what the rest has promised.
        missing: u64,
    },
    /// The pool is being closed.
    #[error("pool {0} is being closed; wait for that, then open it again: plimsoll pool import PATH")]
    Closing(String),
}

/// Bytes for people: IEC with one decimal below 100 (`1.5 GiB`, `200 MiB`, `512 B`).
pub fn iec(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 || (value - value.round()).abs() < 0.05 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// What the engine's operations answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether there is no space for it now: none in the pool, or none below a device.
    pub(crate) fn is_want_of_space(&self) -> bool {
        matches!(self, Error::OutOfSpace { .. } | Error::Device(IoError::NoSpace { .. }))
    }

    /// A stable kebab-case word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Error::OutOfSpace { .. } => "out-of-space",
            Error::QuotaExceeded { .. } => "quota-exceeded",
            Error::LimitExceeded { .. } => "limit-exceeded",
            Error::Cancelled => "cancelled",
            Error::InvalidRequest { .. } => "invalid-request",
            Error::InvalidArgument(_) => "invalid-argument",
            Error::NotFound { .. } => "not-found",
            Error::Exists { .. } => "exists",
            Error::Busy { .. } => "busy",
            Error::ReadOnly { .. } => "read-only",
            Error::Device(IoError::NoSpace { .. }) | Error::NoRoomBelow { .. } | Error::ClosedFull { .. } => {
                "device-no-space"
            }
            Error::Device(_) => "device-error",
            Error::Damaged { .. } | Error::EndLost { .. } | Error::Shortened { .. } => "damaged",
            Error::WouldCutOff { .. } => "would-cut-off",
            Error::DeviceMissing { .. } => "device-missing",
            Error::InUse { .. } => "in-use",
            Error::NotAPool { .. } => "not-a-pool",
            Error::UnsupportedFeature { .. } => "unsupported-feature",
            Error::TooSmall { .. } => "too-small",
            Error::WouldNotFit { .. } => "would-not-fit",
            Error::Closing(_) => "closing",
        }
    }
}
