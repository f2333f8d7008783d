//! A small blocking client, written from the protocol and not from the server's code.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const DISC: u16 = 2;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const CACHE: u16 = 5;
pub(super) const WRITE_ZEROES: u16 = 6;
pub(super) const BLOCK_STATUS: u16 = 7;

pub(super) const ACK: u32 = 1;
pub(super) const ERROR: u32 = 1 << 31;

pub(super) struct Client {
    pub(super) stream: UnixStream,
    structured: bool,
    next: u64,
}

/// One message of the server's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Simple { errno: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64, data: Vec<u8> },
}

pub(super) fn request(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

pub(super) fn named(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat()
}

impl Client {
    pub(super) fn greet(stream: UnixStream) -> Self {
        let mut client = Self { stream, structured: false, next: 1 };
        assert_eq!(&client.take::<18>()[..], b"NBDMAGICIHAVEOPT\0\x03");
        client.put(&3u32.to_be_bytes());
        client
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    pub(super) fn take_vec(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Whether the server closed the connection, whatever it sent before.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub(super) fn put_option(&mut self, number: u32, data: &[u8]) {
        let head = [&b"IHAVEOPT"[..], &number.to_be_bytes(), &(data.len() as u32).to_be_bytes()].concat();
        self.put(&[&head, data].concat());
    }

    /// Sends an option; answers the replies to it, the last of which is an ACK or an error.
    pub(super) fn option(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.put_option(number, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(u64::from_be_bytes(self.take()), 0x0003_e889_0455_65a9);
            assert_eq!(u32::from_be_bytes(self.take()), number);
            let kind = u32::from_be_bytes(self.take());
            let length = u32::from_be_bytes(self.take());
            assert!(length < 5000, "a reply of {length} bytes");
            let data = self.take_vec(length as usize);
            replies.push((kind, data));
            if kind == ACK || kind & ERROR != 0 {
                return replies;
            }
        }
    }

    /// Agrees on structured replies; block status is set by [`Client::go`].
    pub(super) fn structured(&mut self) {
        assert_eq!(self.option(8, &[]), [(ACK, vec![])]);
        self.structured = true;
    }

    pub(super) fn go(&mut self, export: &str) {
        if self.structured {
            let query = [named(export), 1u32.to_be_bytes().to_vec(), named("base:allocation")].concat();
            let replies = self.option(10, &query);
            assert_eq!(replies[0], (4, [&[0, 0, 0, 1], &b"base:allocation"[..]].concat()));
        }
        let replies = self.option(7, &[named(export), vec![0, 1, 0, 3]].concat());
        assert_eq!(replies.last().map(|reply| reply.0), Some(ACK), "{replies:?}");
    }

    pub(super) fn send(&mut self, flags: u16, kind: u16, offset: u64, length: u32, payload: &[u8]) -> u64 {
        let cookie = self.next;
        self.next += 1;
        self.put(&[&request(flags, kind, cookie, offset, length), payload].concat());
        cookie
    }

    /// The next message, without the data that follows a simple reply.
    pub(super) fn message(&mut self) -> Message {
        match u32::from_be_bytes(self.take()) {
            0x6744_6698 => {
                Message::Simple { errno: u32::from_be_bytes(self.take()), cookie: u64::from_be_bytes(self.take()) }
            }
            0x668e_33ef => {
                let flags = u16::from_be_bytes(self.take());
                let kind = u16::from_be_bytes(self.take());
                let cookie = u64::from_be_bytes(self.take());
                let length = u32::from_be_bytes(self.take());
                Message::Chunk { flags, kind, cookie, data: self.take_vec(length as usize) }
            }
            other => panic!("the magic number of a reply is {other:#x}"),
        }
    }

    /// Sends a request and waits for its answer: READ's data or BLOCK_STATUS's ranges, or the error number.
    pub(super) fn call(
        &mut self,
        flags: u16,
        kind: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let sent = self.send(flags, kind, offset, length, payload);
        let mut answer = vec![0xee; if kind == READ { length as usize } else { 0 }];
        let mut failed = None;
        loop {
            match self.message() {
                Message::Simple { errno, cookie } => {
                    assert_eq!(cookie, sent);
                    assert!(
                        !self.structured || kind != READ,
                        "a READ must be answered in chunks once they are agreed on"
                    );
                    return match (errno, kind) {
                        (0, READ) => Ok(self.take_vec(length as usize)),
                        (0, _) => Ok(answer),
                        (errno, _) => Err(errno),
                    };
                }
                Message::Chunk { flags, kind, cookie, data } => {
                    assert_eq!(cookie, sent);
                    let place =
                        |bytes: &[u8]| (u64::from_be_bytes(bytes.try_into().expect("8 bytes")) - offset) as usize;
                    match kind {
                        0 => {}
                        1 => answer[place(&data[..8])..][..data.len() - 8].copy_from_slice(&data[8..]),
                        2 => {
                            let hole = u32::from_be_bytes(data[8..].try_into().expect("4 bytes"));
                            answer[place(&data[..8])..][..hole as usize].fill(0);
                        }
                        5 => answer = data[4..].to_vec(),
                        0x8001 => failed = Some(u32::from_be_bytes(data[..4].try_into().expect("4 bytes"))),
                        other => panic!("chunk of type {other}"),
                    }
                    if flags & 1 != 0 {
                        return failed.map_or(Ok(answer), Err);
                    }
                }
            }
        }
    }

    pub(super) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        self.call(0, READ, offset, length, &[]).expect("READ succeeds")
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.call(0, WRITE, offset, data.len() as u32, data), Ok(vec![]));
    }

    /// Length and flags of the ranges of a BLOCK_STATUS.
    pub(super) fn ranges(&mut self, flags: u16, offset: u64, length: u32) -> Vec<(u32, u32)> {
        let answer = self.call(flags, BLOCK_STATUS, offset, length, &[]).expect("BLOCK_STATUS succeeds");
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("4 bytes"));
        answer.chunks(8).map(|range| (word(&range[..4]), word(&range[4..]))).collect()
    }
}

/// Compares long data without printing all of it.
pub(super) fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        panic!("byte {at} of {} is {:#x} and should be {:#x}", found.len(), found[at], expected[at]);
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ (at >> 16) as u8 ^ seed | 1).collect()
}
