//! A small NBD client for tests: blocking, pipelined, and free to break the rules.
//!
//! [`NbdClient::connect`] negotiates (fixed newstyle, `NBD_OPT_GO`, structured replies, `base:allocation`);
//! [`NbdClient::submit`] sends a request without waiting, [`NbdClient::receive`] takes the next finished one in the
//! server's order. A server that breaks the protocol, or is silent for 30 s, is an [`io::Error`].
//!
//! Numbers are from the protocol document (`doc/proto.md` of the NBD project), sections "Constants" and "Values".

mod handshake;

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

pub use handshake::{Export, Options};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668E_33EF;
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Request flags.
pub mod flags {
    /// `NBD_CMD_FLAG_FUA`
    pub const FUA: u16 = 1;
    /// `NBD_CMD_FLAG_NO_HOLE`
    pub const NO_HOLE: u16 = 1 << 1;
    /// `NBD_CMD_FLAG_DF`
    pub const DF: u16 = 1 << 2;
    /// `NBD_CMD_FLAG_REQ_ONE`
    pub const REQ_ONE: u16 = 1 << 3;
    /// `NBD_CMD_FLAG_FAST_ZERO`
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Request types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub enum Kind {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    Cache = 5,
    WriteZeroes = 6,
    BlockStatus = 7,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// A finished request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// What [`NbdClient::submit`] returned for it.
    pub cookie: u64,
    /// The error number of the protocol (which are Linux's); 0 is success.
    pub error: u32,
    /// The data of a read.
    pub data: Vec<u8>,
    /// The extents of a block status: length in bytes, flags (1 hole, 2 reads as zeros).
    pub extents: Vec<(u32, u32)>,
}

/// A connection in transmission.
#[derive(Debug)]
pub struct NbdClient {
    reader: BufReader<Stream>,
    writer: Stream,
    export: Export,
    next_cookie: u64,
    in_flight: HashMap<u64, Pending>,
}

/// A request on its way, and as much of its reply as is here.
#[derive(Debug)]
struct Pending {
    offset: u64,
    reply: Reply,
}

impl NbdClient {
    /// Connects to the export `name`.
    ///
    /// # Errors
    /// Nobody listens, or the server refuses the export (`NotFound`) or breaks the protocol.
    pub fn connect(address: &Address, name: &str, options: Options) -> io::Result<Self> {
        let stream = Stream::connect(address)?;
        let mut reader = BufReader::with_capacity(1 << 18, stream.try_clone()?);
        let mut writer = stream;
        let export = handshake::negotiate(&mut reader, &mut writer, name, options)?;
        Ok(Self { reader, writer, export, next_cookie: 1, in_flight: HashMap::new() })
    }

    /// What the server said of the export.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// How many requests wait for their reply.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request; `data` belongs to a write only. Returns its cookie.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn submit(&mut self, kind: Kind, flags: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&(kind as u16).to_be_bytes());
        request.extend_from_slice(&cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&length.to_be_bytes());
        request.extend_from_slice(data);
        if kind != Kind::Disconnect {
            let buffer = if kind == Kind::Read { vec![0; length as usize] } else { Vec::new() };
            let reply = Reply { cookie, data: buffer, ..Reply::default() };
            self.in_flight.insert(cookie, Pending { offset, reply });
        }
        self.writer.write_all(&request)?;
        Ok(cookie)
    }

    /// Waits for the next request to finish.
    ///
    /// # Errors
    /// The connection is gone, the server was silent for 30 s, or it broke the protocol.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let magic = self.number::<4>()? as u32;
            let finished = match magic {
                SIMPLE_REPLY_MAGIC => Some(self.simple_reply()?),
                STRUCTURED_REPLY_MAGIC => self.chunk()?,
                _ => return Err(protocol(format!("a reply begins with {magic:#x}"))),
            };
            if let Some(reply) = finished {
                return Ok(reply);
            }
        }
    }

    /// Sends a request and waits for it; nothing else may be in flight.
    ///
    /// # Errors
    /// As [`Self::receive`]. An error reply is no such error.
    pub fn call(&mut self, kind: Kind, flags: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<Reply> {
        let cookie = self.submit(kind, flags, offset, length, data)?;
        let reply = self.receive()?;
        if reply.cookie == cookie { Ok(reply) } else { Err(protocol(format!("a reply to {}", reply.cookie))) }
    }

    /// Reads `length` bytes.
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        Ok(success(self.call(Kind::Read, 0, offset, length, &[])?)?.data)
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> io::Result<()> {
        success(self.call(Kind::Write, flags, offset, data.len() as u32, data)?).map(drop)
    }

    /// Makes everything that was answered before it durable.
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn flush(&mut self) -> io::Result<()> {
        success(self.call(Kind::Flush, 0, 0, 0, &[])?).map(drop)
    }

    /// Discards a range.
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn trim(&mut self, offset: u64, length: u32) -> io::Result<()> {
        success(self.call(Kind::Trim, 0, offset, length, &[])?).map(drop)
    }

    /// Writes zeros.
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn write_zeroes(&mut self, offset: u64, length: u32, flags: u16) -> io::Result<()> {
        success(self.call(Kind::WriteZeroes, flags, offset, length, &[])?).map(drop)
    }

    /// The extents of `base:allocation` from `offset` on: length in bytes, flags (1 hole, 2 reads as zeros).
    ///
    /// # Errors
    /// As [`Self::call`], and an error reply.
    pub fn block_status(&mut self, offset: u64, length: u32) -> io::Result<Vec<(u32, u32)>> {
        Ok(success(self.call(Kind::BlockStatus, 0, offset, length, &[])?)?.extents)
    }

    /// Says goodbye and waits until the server has closed the connection.
    ///
    /// # Errors
    /// The connection is gone already, or the server does not close it.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.submit(Kind::Disconnect, 0, 0, 0, &[])?;
        match self.reader.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(protocol("an answer to a disconnect".into())),
        }
    }

    /// Sends bytes as they are, for tests of a hostile client.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    fn simple_reply(&mut self) -> io::Result<Reply> {
        let error = self.number::<4>()? as u32;
        let cookie = self.number::<8>()?;
        let mut reply = self.take(cookie)?.reply;
        reply.error = error;
        if error == 0 {
            self.reader.read_exact(&mut reply.data)?;
        }
        Ok(reply)
    }

    /// One chunk of a structured reply; the reply, if it was the last one.
    fn chunk(&mut self) -> io::Result<Option<Reply>> {
        let last = self.number::<2>()? & 1 == 1;
        let kind = self.number::<2>()?;
        let cookie = self.number::<8>()?;
        let length = self.number::<4>()? as usize;
        if length > self.export.block_max as usize + 64 {
            return Err(protocol(format!("a chunk of {length} bytes")));
        }
        let mut payload = vec![0; length];
        self.reader.read_exact(&mut payload)?;
        let mut pending = self.take(cookie)?;
        apply_chunk(&mut pending, kind, &payload)?;
        if last {
            return Ok(Some(pending.reply));
        }
        self.in_flight.insert(cookie, pending);
        Ok(None)
    }

    fn take(&mut self, cookie: u64) -> io::Result<Pending> {
        self.in_flight.remove(&cookie).ok_or_else(|| protocol(format!("a reply to {cookie}, which nobody sent")))
    }

    fn number<const BYTES: usize>(&mut self) -> io::Result<u64> {
        number::<BYTES>(&mut self.reader)
    }
}

/// Adds one chunk's payload to its reply.
fn apply_chunk(Pending { offset: base, reply }: &mut Pending, kind: u64, payload: &[u8]) -> io::Result<()> {
    let mut rest = payload;
    match kind {
        // NBD_REPLY_TYPE_NONE
        0 => {}
        // NBD_REPLY_TYPE_OFFSET_DATA and OFFSET_HOLE: where in the export, and then the data or a length of zeros.
        1 | 2 => {
            let offset = number::<8>(&mut rest)?;
            let length = if kind == 1 { rest.len() } else { number::<4>(&mut rest)? as usize };
            let at = offset.checked_sub(*base).and_then(|at| usize::try_from(at).ok());
            let place = at.and_then(|at| reply.data.get_mut(at..at.checked_add(length)?));
            let place = place.ok_or_else(|| protocol(format!("{length} bytes at {offset}, outside the read")))?;
            if kind == 1 { place.copy_from_slice(rest) } else { place.fill(0) }
        }
        // NBD_REPLY_TYPE_BLOCK_STATUS: the context's number, then pairs of length and flags.
        5 => {
            let _context = number::<4>(&mut rest)?;
            while !rest.is_empty() {
                reply.extents.push((number::<4>(&mut rest)? as u32, number::<4>(&mut rest)? as u32));
            }
        }
        // NBD_REPLY_TYPE_ERROR and ERROR_OFFSET
        0x8001 | 0x8002 => reply.error = number::<4>(&mut rest)? as u32,
        _ => return Err(protocol(format!("a chunk of type {kind:#x}"))),
    }
    Ok(())
}

fn success(reply: Reply) -> io::Result<Reply> {
    if reply.error == 0 { Ok(reply) } else { Err(io::Error::from_raw_os_error(reply.error as i32)) }
}

fn protocol(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the NBD server sent {what}"))
}

fn number<const BYTES: usize>(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes[8 - BYTES..])?;
    Ok(u64::from_be_bytes(bytes))
}

/// A socket of either kind.
#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Ok(Self::Unix(stream))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, SILENCE_MAX)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(data),
            Self::Tcp(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
