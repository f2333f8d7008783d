//! From a claim to a command: a [`Request`] is checked against what the export is and what was agreed on. Pure.
//!
//! What passes here lies inside the export, is not empty, has only flags that its command has, and is allowed. It need
//! not be aligned: [`gate`](super::gate) serves requests that are finer than a sector.

use plimsoll_engine::Zeroes;
use plimsoll_hardware::buffer::BUFFER_MAX;

use super::status::{self, Status};
use super::wire::{PAYLOAD_MAX, Request, Verb, command_flag as flag};

/// A range of bytes inside the export, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least 1.
    pub length: u32,
}

impl Span {
    /// The byte behind the last.
    pub fn end(self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Bytes of the first of the pieces in which the span is read or written: the whole of it when that, with the
    /// sectors at its ends made whole, fits one buffer; otherwise so many that the next piece begins on a sector.
    pub fn first_piece(self, sector: u32) -> u32 {
        let before = (self.offset & u64::from(sector - 1)) as u32;
        let widened = (u64::from(before) + u64::from(self.length)).next_multiple_of(u64::from(sector));
        // Beside a misaligned write lie the two sectors at its ends as they were.
        let most = if self.is_aligned(sector) { BUFFER_MAX as u32 } else { BUFFER_MAX as u32 - 2 * sector };
        if widened <= u64::from(most) { self.length } else { most - before }
    }

    /// The smallest span of whole sectors around this one.
    pub fn widened(self, sector: u32) -> (u64, u64) {
        let mask = u64::from(sector - 1);
        (self.offset & !mask, (self.end() + mask) & !mask)
    }

    /// Cuts the span into a first piece and the rest.
    pub fn cut(self, sector: u32) -> (Span, Option<Span>) {
        self.cut_after(self.first_piece(sector))
    }

    /// Cuts the span into a first piece, the sectors around which are at most `most` bytes (a multiple of `sector`), and the rest.
    pub fn cut_at(self, sector: u32, most: u32) -> (Span, Option<Span>) {
        let (start, end) = self.widened(sector);
        let is_all = end - start <= u64::from(most);
        self.cut_after(if is_all { self.length } else { most - (self.offset - start) as u32 })
    }

    fn cut_after(self, length: u32) -> (Span, Option<Span>) {
        let rest = Span { offset: self.offset + u64::from(length), length: self.length - length };
        (Span { length, ..self }, (rest.length > 0).then_some(rest))
    }

    /// Whether both ends are multiples of `sector` (a power of two).
    pub fn is_aligned(self, sector: u32) -> bool {
        (self.offset | u64::from(self.length)) & u64::from(sector - 1) == 0
    }
}

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; `whole`: in one chunk.
    Read {
        /// Where.
        span: Span,
        /// The client set DF.
        whole: bool,
    },
    /// Write the payload that follows.
    Write {
        /// Where.
        span: Span,
        /// Survives power loss when answered.
        fua: bool,
    },
    /// Make what was answered survive power loss.
    Flush,
    /// Give space back.
    Trim {
        /// Where.
        span: Span,
        /// Survives power loss when answered.
        fua: bool,
    },
    /// Zeros.
    WriteZeroes {
        /// Where.
        span: Span,
        /// With or without backing.
        how: Zeroes,
        /// Survives power loss when answered.
        fua: bool,
    },
    /// Will be read soon.
    Cache {
        /// Where.
        span: Span,
    },
    /// Holes.
    BlockStatus {
        /// Where.
        span: Span,
        /// One range only.
        one: bool,
    },
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Bytes of the export now.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Structured replies were agreed on.
    pub structured: bool,
    /// The context of block status was agreed on.
    pub block_status: bool,
    /// Bytes of a sector.
    pub sector: u32,
}

/// Checks `request`. A WRITE that is refused is still followed by its payload.
///
/// # Errors
/// The status to answer with.
pub fn verify(request: &Request, facts: &Facts) -> Result<Command, Status> {
    let has = |bit: u16| request.flags & bit != 0;
    let fua = has(flag::FUA);
    // Only what was agreed on exists.
    let known = match request.verb {
        Verb::Read if facts.structured => flag::DF | flag::FUA,
        // FUA means nothing to a READ or a FLUSH, and the protocol has clients that set it on every command.
        Verb::Read | Verb::Flush | Verb::Cache | Verb::Write | Verb::Trim => flag::FUA,
        Verb::WriteZeroes => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
        Verb::BlockStatus if facts.block_status => flag::FUA | flag::REQ_ONE,
        Verb::BlockStatus | Verb::Disconnect | Verb::Unknown(_) => return Err(status::UNKNOWN_COMMAND),
    };
    if request.flags & !known != 0 {
        return Err(status::UNKNOWN_FLAG);
    }
    if request.verb == Verb::Flush {
        return Ok(Command::Flush);
    }
    let writes = matches!(request.verb, Verb::Write | Verb::Trim | Verb::WriteZeroes);
    if writes && facts.read_only {
        return Err(status::READ_ONLY);
    }
    let span = Span { offset: request.offset, length: request.length };
    if span.length == 0 {
        return Err(status::ZERO_LENGTH);
    }
    if matches!(request.verb, Verb::Read | Verb::Write) && span.length > PAYLOAD_MAX {
        return Err(status::TOO_LONG);
    }
    if request.verb == Verb::Read && has(flag::DF) && span.first_piece(facts.sector) < span.length {
        return Err(status::TOO_LONG_FOR_ONE);
    }
    let inside = request.offset.checked_add(u64::from(request.length)).is_some_and(|end| end <= facts.size);
    if !inside {
        let grows = matches!(request.verb, Verb::Write | Verb::WriteZeroes);
        return Err(if grows { status::WRITE_BEYOND_END } else { status::BEYOND_END });
    }
    Ok(match request.verb {
        Verb::Read => Command::Read { span, whole: has(flag::DF) },
        Verb::Write => Command::Write { span, fua },
        Verb::Trim => Command::Trim { span, fua },
        Verb::WriteZeroes if has(flag::NO_HOLE) && has(flag::FAST_ZERO) => return Err(status::NOT_FAST),
        Verb::WriteZeroes => {
            Command::WriteZeroes { span, how: if has(flag::NO_HOLE) { Zeroes::Allocate } else { Zeroes::Unmap }, fua }
        }
        Verb::Cache => Command::Cache { span },
        Verb::BlockStatus => Command::BlockStatus { span, one: has(flag::REQ_ONE) },
        Verb::Flush | Verb::Disconnect | Verb::Unknown(_) => return Err(status::UNKNOWN_COMMAND),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{Cookie, Errno, REQUEST_BYTES, decode_request};
    use super::*;

    fn request(verb: Verb, flags: u16, offset: u64, length: u32) -> Request {
        Request { flags, verb, cookie: Cookie(1), offset, length }
    }

    const FACTS: Facts = Facts { size: 1 << 20, read_only: false, structured: true, block_status: true, sector: 512 };

    proptest! {
        #[test]
        fn whatever_passes_lies_inside_the_export(
            bytes: [u8; REQUEST_BYTES], size in 0..1u64 << 33, verb in 0..9u8, near: bool, structured: bool,
            block_status: bool, read_only: bool,
        ) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
            let flags = bytes[5] & 0x1f;
            bytes[4..8].copy_from_slice(&[0, flags, 0, verb]);
            if near {
                bytes[16..20].fill(0);
                bytes[24..26].fill(0);
            }
            let Ok(request) = decode_request(&bytes) else { return Ok(()) };
            let facts = Facts { size, read_only, structured, block_status, sector: 4096 };
            let Ok(command) = verify(&request, &facts) else { return Ok(()) };
            let (span, changes) = match command {
                Command::Flush => return Ok(()),
                Command::Read { span, .. } => { prop_assert!(span.length <= PAYLOAD_MAX); (span, false) }
                Command::Write { span, .. } => { prop_assert!(span.length <= PAYLOAD_MAX); (span, true) }
                Command::Trim { span, .. } | Command::WriteZeroes { span, .. } => (span, true),
                Command::Cache { span } | Command::BlockStatus { span, .. } => (span, false),
            };
            prop_assert!(span.length > 0 && span.end() <= size);
            prop_assert!(!(changes && read_only));
        }
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_span_are_the_span_and_each_fits_a_buffer(
            offset in 0..1u64 << 40, length in 1..=PAYLOAD_MAX, small: bool,
        ) {
            let sector = if small { 512 } else { 4096 };
            let (mut rest, mut at) = (Some(Span { offset, length }), offset);
            while let Some(span) = rest {
                let (piece, next) = span.cut(sector);
                prop_assert_eq!(piece.offset, at);
                let mask = u64::from(sector) - 1;
                prop_assert!(((piece.end() + mask) & !mask) - (piece.offset & !mask) <= BUFFER_MAX as u64);
                prop_assert!(piece.length > 0 && (next.is_none() || piece.end() & mask == 0));
                at = piece.end();
                rest = next;
            }
            prop_assert_eq!(at, offset + u64::from(length));
        }
    }

    #[test]
    fn each_refusal_has_its_own_number() {
        let errno = |verb, flags, offset, length, facts: &Facts| {
            verify(&request(verb, flags, offset, length), facts).expect_err("it must be refused").errno
        };
        assert_eq!(errno(Verb::Read, 0, 1 << 20, 1, &FACTS), Errno::Inval);
        assert_eq!(errno(Verb::Write, 0, u64::MAX, 512, &FACTS), Errno::NoSpc);
        assert_eq!(errno(Verb::Read, 0, 0, 0, &FACTS), Errno::Inval);
        assert_eq!(errno(Verb::Read, 0, 0, PAYLOAD_MAX + 1, &FACTS), Errno::Inval);
        let large = Facts { size: 1 << 30, ..FACTS };
        assert_eq!(errno(Verb::Read, flag::DF, 0, (1 << 20) + 512, &large), Errno::Overflow);
        assert_eq!(errno(Verb::Read, flag::DF, 1, 1 << 20, &large), Errno::Overflow);
        assert_eq!(errno(Verb::WriteZeroes, flag::NO_HOLE | flag::FAST_ZERO, 0, 512, &FACTS), Errno::NotSup);
        assert_eq!(errno(Verb::Read, flag::NO_HOLE, 0, 512, &FACTS), Errno::Inval);
        assert_eq!(errno(Verb::Unknown(9), 0, 0, 512, &FACTS), Errno::Inval);
        assert_eq!(errno(Verb::Trim, 0, 0, 512, &Facts { read_only: true, ..FACTS }), Errno::Perm);
        assert_eq!(errno(Verb::Read, flag::DF, 0, 512, &Facts { structured: false, ..FACTS }), Errno::Inval);
        assert_eq!(errno(Verb::BlockStatus, 0, 0, 512, &Facts { block_status: false, ..FACTS }), Errno::Inval);
    }
}
