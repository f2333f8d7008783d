//! The one table that turns what the engine answers into what an NBD client reads.
//!
//! "No space" keeps its name up to here and becomes a number only here. Every text is fixed: nothing that a client sent,
//! and nothing of the appliance's inside, is ever echoed.

use plimsoll_engine::Error;
use plimsoll_hardware::IoError;

use super::wire::{Errno, TEXT_BYTES_MAX};

/// Why a request was refused or failed: a number for programs and a few words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The protocol's number.
    pub errno: Errno,
    /// At most [`TEXT_BYTES_MAX`] bytes.
    pub text: &'static str,
}

const fn status(errno: Errno, text: &'static str) -> Status {
    assert!(text.len() <= TEXT_BYTES_MAX);
    Status { errno, text }
}

/// A write to a read-only export.
pub const READ_ONLY: Status = status(Errno::Perm, "the export is read-only");
/// A command that does not exist or was not agreed on.
pub const UNKNOWN_COMMAND: Status = status(Errno::Inval, "unknown command");
/// A flag that the command does not have.
pub const UNKNOWN_FLAG: Status = status(Errno::Inval, "a flag does not fit the command");
/// Zero bytes.
pub const ZERO_LENGTH: Status = status(Errno::Inval, "the length is zero");
/// Longer than [`PAYLOAD_MAX`](super::wire::PAYLOAD_MAX).
pub const TOO_LONG: Status = status(Errno::Inval, "longer than 32 MiB");
/// A READ that must be answered in one chunk and is longer than one buffer.
pub const TOO_LONG_FOR_ONE: Status = status(Errno::Overflow, "too long for one chunk");
/// Reading or discarding beyond the end.
pub const BEYOND_END: Status = status(Errno::Inval, "beyond the end of the export");
/// Writing beyond the end, which the protocol tells apart.
pub const WRITE_BEYOND_END: Status = status(Errno::NoSpc, "beyond the end of the export");
/// FAST_ZERO where zeros would have to be written.
pub const NOT_FAST: Status = status(Errno::NotSup, "zeros would have to be written as data");
/// A broken answer from below that has no better name.
pub const INTERNAL: Status = status(Errno::Io, "input/output error");

fn of_device(failure: &IoError) -> Status {
    match failure {
        IoError::NoSpace { .. } => status(Errno::NoSpc, "the device under the pool is full"),
        IoError::Gone { .. } => status(Errno::Io, "a device of the pool is gone"),
        IoError::OutOfRange { .. } | IoError::Shrunk { .. } | IoError::Failed { .. } => {
            status(Errno::Io, "a device of the pool failed")
        }
    }
}

/// How a request that was not carried out ends for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is answered.
    Answered(Status),
    /// It is not, and its connection is closed. A server that goes may answer what it does not finish with ESHUTDOWN (NBD protocol,
    /// "Terminating the transmission phase"), but to a guest any answer is an input/output error. What has none is sent again by a
    /// client that reconnects, to the server that comes then.
    Unanswered,
}

impl From<Status> for Ending {
    fn from(status: Status) -> Self {
        Ending::Answered(status)
    }
}

impl From<&Error> for Ending {
    fn from(error: &Error) -> Self {
        match error {
            Error::Cancelled | Error::Closing(_) => Ending::Unanswered,
            error => Ending::Answered(answer(error)),
        }
    }
}

fn answer(error: &Error) -> Status {
    match error {
        Error::OutOfSpace { .. } => status(Errno::NoSpc, "the pool is out of space"),
        Error::QuotaExceeded { .. } => status(Errno::NoSpc, "the quota is used up"),
        // A pool that a device's failure made read-only answers like the first who met the failure.
        Error::Device(failure) | Error::ReadOnly { cause: Some(failure), .. } => of_device(failure),
        Error::Damaged { .. } => status(Errno::Io, "the mapping of this range is damaged"),
        Error::InvalidRequest { .. } | Error::InvalidArgument(_) => status(Errno::Inval, "invalid request"),
        Error::ReadOnly { cause: None, .. } => status(Errno::Perm, "the pool is read-only"),
        Error::NotFound { .. } => status(Errno::Shutdown, "the vdisk was deleted"),
        _ => INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_is_never_an_input_output_error_and_an_input_output_error_never_no_space() {
        let no_space = Error::OutOfSpace { pool: "tank".into(), needed: 1, free: 0 };
        assert_eq!(errno(&no_space), Some(Errno::NoSpc));
        assert_eq!(errno(&Error::Device(IoError::NoSpace { path: "/p".into() })), Some(Errno::NoSpc));
        assert_eq!(errno(&Error::Device(IoError::Gone { path: "/p".into() })), Some(Errno::Io));
        let damaged = Error::Damaged { vdisk: "tank/db1".into(), offset: 0, length: 4096 };
        assert_eq!(errno(&damaged), Some(Errno::Io));
        let read_only = |cause| errno(&Error::ReadOnly { pool: "tank".into(), reason: String::new(), cause });
        assert_eq!(read_only(None), Some(Errno::Perm));
        assert_eq!(read_only(Some(IoError::NoSpace { path: "/p".into() })), Some(Errno::NoSpc));
        assert_eq!(read_only(Some(IoError::Gone { path: "/p".into() })), Some(Errno::Io));
    }

    #[test]
    fn what_a_server_that_goes_has_not_done_is_not_answered() {
        assert_eq!(errno(&Error::Cancelled), None);
        assert_eq!(errno(&Error::Closing("tank".into())), None);
    }

    fn errno(error: &Error) -> Option<Errno> {
        match Ending::from(error) {
            Ending::Answered(status) => Some(status.errno),
            Ending::Unanswered => None,
        }
    }
}
