//! The transmission phase of NBD in bytes: requests and the heads of replies. Pure, no I/O.
//!
//! Numbers are big-endian and are read and written field by field. A [`Request`] is what the client claims; it becomes a
//! [`Command`](super::command::Command) only when it was checked against the export. Layout and constants: NBD protocol
//! (doc/proto.md of the NBD project), "Transmission phase" and "Structured reply types".
//!
//! Not here: extended headers (64-bit lengths); the option that asks for them is refused.

use bytes::{Buf, BufMut};

/// Bytes of one request without its payload.
pub const REQUEST_BYTES: usize = 28;
/// Longest head of a reply: 20 bytes of chunk header, 12 of a hole's offset and length, and room for an error's text.
pub const HEAD_BYTES_MAX: usize = 20 + 12 + TEXT_BYTES_MAX;
/// Longest text of an error; all texts are fixed, see [`status`](super::status).
pub const TEXT_BYTES_MAX: usize = 48;
/// Longest payload of one READ or WRITE in bytes, as advertised: 32 MiB, what clients assume when nobody tells them.
pub const PAYLOAD_MAX: u32 = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The only context served by BLOCK_STATUS, and the number it is given.
pub const CONTEXT_NAME: &str = "base:allocation";
/// Number that stands for [`CONTEXT_NAME`] in replies.
pub const CONTEXT_ID: u32 = 1;

/// Flags of a command.
pub mod command_flag {
    /// Answer when the data is on the medium.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES keeps or allocates backing.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ is answered in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS answers one range, not longer than asked for.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES fails at once when it would be as slow as writing zeros.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Bits of the transmission flags, which say what an export can do.
pub mod transmission_flag {
    /// The others mean something.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES and NO_HOLE.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF; only after structured replies were agreed on.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what others were answered.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// FAST_ZERO.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// What a client asks for. Unknown numbers are kept: they are answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Bytes out.
    Read,
    /// Bytes in; the only one with a payload.
    Write,
    /// Goodbye; has no answer.
    Disconnect,
    /// Everything answered before survives power loss.
    Flush,
    /// A range is not needed.
    Trim,
    /// A range will be read soon.
    Cache,
    /// A range becomes zeros.
    WriteZeroes,
    /// Which parts of a range are holes.
    BlockStatus,
    /// None of the above.
    Unknown(u16),
}

impl Verb {
    fn decode(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }

    fn encode(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(other) => other,
        }
    }
}

/// The client's own number for a request, given back in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// A request as it was read: nothing in it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// What to do.
    pub verb: Verb,
    /// Names the request.
    pub cookie: Cookie,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// The bytes are no request, so where the next one starts is unknown and the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the magic number of a request is {0:#010x}")]
pub struct NotARequest(u32);

/// Reads the fixed part of a request.
///
/// # Errors
/// [`NotARequest`] when the magic number is wrong.
pub fn decode_request(bytes: &[u8; REQUEST_BYTES]) -> Result<Request, NotARequest> {
    let mut bytes = &bytes[..];
    let magic = bytes.get_u32();
    if magic != REQUEST_MAGIC {
        return Err(NotARequest(magic));
    }
    Ok(Request {
        flags: bytes.get_u16(),
        verb: Verb::decode(bytes.get_u16()),
        cookie: Cookie(bytes.get_u64()),
        offset: bytes.get_u64(),
        length: bytes.get_u32(),
    })
}

/// The inverse of [`decode_request`], for tests and for our own clients.
pub fn encode_request(request: &Request) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    let mut into = &mut bytes[..];
    into.put_u32(REQUEST_MAGIC);
    into.put_u16(request.flags);
    into.put_u16(request.verb.encode());
    into.put_u64(request.cookie.0);
    into.put_u64(request.offset);
    into.put_u32(request.length);
    bytes
}

/// Error numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub enum Errno {
    Perm = 1,
    Io = 5,
    NoMem = 12,
    Inval = 22,
    NoSpc = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

/// One message to the client, apart from the bytes that follow its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A simple reply: done, or failed. A READ's data follows.
    Simple(Option<Errno>),
    /// A structured reply with nothing in it.
    None,
    /// `length` bytes that were read from `offset` follow.
    Data {
        /// First byte.
        offset: u64,
        /// Bytes that follow.
        length: u32,
    },
    /// `length` bytes from `offset` are zeros; nothing follows.
    Hole {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Ranges follow, `length` bytes of them, as [`encode_range`] writes them.
    Ranges {
        /// Bytes that follow.
        length: u32,
    },
    /// The request failed.
    Error {
        /// Why.
        errno: Errno,
        /// The same in words, at most [`TEXT_BYTES_MAX`] bytes.
        text: &'static str,
    },
}

/// Writes the head of a reply. `last` ends the answer to the request; it has no meaning for a simple reply.
pub fn encode_head(cookie: Cookie, head: Head, last: bool, into: &mut impl BufMut) {
    let chunk = |into: &mut dyn BufMut, kind: u16, length: u32| {
        into.put_u32(CHUNK_MAGIC);
        into.put_u16(last as u16);
        into.put_u16(kind);
        into.put_u64(cookie.0);
        into.put_u32(length);
    };
    match head {
        Head::Simple(errno) => {
            into.put_u32(SIMPLE_MAGIC);
            into.put_u32(errno.map_or(0, |errno| errno as u32));
            into.put_u64(cookie.0);
        }
        Head::None => chunk(into, 0, 0),
        Head::Data { offset, length } => {
            chunk(into, 1, 8 + length);
            into.put_u64(offset);
        }
        Head::Hole { offset, length } => {
            chunk(into, 2, 12);
            into.put_u64(offset);
            into.put_u32(length);
        }
        Head::Ranges { length } => {
            chunk(into, 5, 4 + length);
            into.put_u32(CONTEXT_ID);
        }
        Head::Error { errno, text } => {
            let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
            chunk(into, (1 << 15) | 1, 6 + text.len() as u32);
            into.put_u32(errno as u32);
            into.put_u16(text.len() as u16);
            into.put_slice(text);
        }
    }
}

/// Bytes of one range of a BLOCK_STATUS reply.
pub const RANGE_BYTES: usize = 8;

/// Writes one range of [`CONTEXT_NAME`]: data, or a hole that reads as zeros.
pub fn encode_range(length: u32, data: bool, into: &mut impl BufMut) {
    const HOLE: u32 = 1 << 0;
    const ZERO: u32 = 1 << 1;
    into.put_u32(length);
    into.put_u32(if data { 0 } else { HOLE | ZERO });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none_and_a_request_keeps_its_bytes(bytes: [u8; REQUEST_BYTES], honest: bool) {
            let mut bytes = bytes;
            if honest {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            }
            match decode_request(&bytes) {
                Ok(request) => prop_assert_eq!(encode_request(&request), bytes),
                Err(_) => prop_assert_ne!(&bytes[..4], &REQUEST_MAGIC.to_be_bytes()),
            }
        }

        #[test]
        fn no_head_is_longer_than_its_bound(cookie: u64, offset: u64, length in 0..=PAYLOAD_MAX, last: bool) {
            let text = "a text that is a good deal longer than the forty-eight bytes that exist for it";
            for head in [
                Head::Simple(None), Head::Simple(Some(Errno::Io)), Head::None, Head::Data { offset, length },
                Head::Hole { offset, length }, Head::Ranges { length }, Head::Error { errno: Errno::NoSpc, text },
            ] {
                let mut bytes = Vec::new();
                encode_head(Cookie(cookie), head, last, &mut bytes);
                prop_assert!(bytes.len() <= HEAD_BYTES_MAX);
                prop_assert_eq!(&bytes[8..16], &cookie.to_be_bytes());
            }
        }
    }

    #[test]
    fn a_request_and_a_reply_look_as_the_protocol_draws_them() {
        let request = Request { flags: 1, verb: Verb::Write, cookie: Cookie(7), offset: 4096, length: 512 };
        assert_eq!(
            encode_request(&request),
            [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]
        );
        let mut bytes = Vec::new();
        encode_head(Cookie(7), Head::Error { errno: Errno::NoSpc, text: "full" }, true, &mut bytes);
        assert_eq!(
            bytes,
            [
                0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 10, 0, 0, 0, 28, 0, 4, b'f',
                b'u', b'l', b'l'
            ]
        );
    }
}
