//! A connected stream socket on the ring.
//!
//! One task may receive while another sends; two that send, or two that receive, at once would mix their bytes. The
//! future of an operation that is dropped cancels it, and the stream's position is unknown from then on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use io_uring::opcode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use super::{Descriptor, Handle, Message, entry_on};
use crate::buffer::{Buffer, Frozen};

/// Messages with their lists that a reactor keeps for the next sender.
const SPARE_MESSAGES_MAX: usize = 256;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine, as it was when it connected.
    Unix {
        /// Its process id.
        pid: i32,
        /// Its effective user.
        uid: u32,
        /// Its effective group.
        gid: u32,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(formatter, "{address}"),
            Peer::Unix { pid, uid, .. } => write!(formatter, "process {pid} of user {uid}"),
        }
    }
}

/// One connection. Cheap to clone; it is closed when the last clone is dropped.
#[derive(Clone)]
pub struct Stream {
    inner: Rc<Inner>,
}

struct Inner {
    descriptor: Rc<Descriptor>,
    peer: Peer,
}

impl Stream {
    /// Takes over a connected socket, which must be a blocking one.
    ///
    /// # Errors
    /// The system's error when the socket is not connected.
    pub fn from_fd(handle: &Handle, fd: OwnedFd) -> io::Result<Self> {
        let peer = match SocketAddr::try_from(rustix::net::getpeername(&fd)?.ok_or(io::ErrorKind::NotConnected)?) {
            Ok(address) => {
                // Small answers must not wait for the acknowledgement of earlier ones.
                sockopt::set_tcp_nodelay(&fd, true)?;
                Peer::Tcp(address)
            }
            Err(_) => {
                let other = sockopt::socket_peercred(&fd)?;
                Peer::Unix { pid: other.pid.as_raw_nonzero().get(), uid: other.uid.as_raw(), gid: other.gid.as_raw() }
            }
        };
        Ok(Self { inner: Rc::new(Inner { descriptor: Descriptor::new(handle.core(), fd), peer }) })
    }

    /// Connects to the Unix socket at `path`.
    ///
    /// # Errors
    /// The system's error, with the path.
    pub fn connect_unix(handle: &Handle, path: &Path) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::connect(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Self::from_fd(handle, stream.into())
    }

    /// Connects to a TCP address, on the helper thread.
    ///
    /// # Errors
    /// The system's error, with the address.
    pub async fn connect_tcp(handle: &Handle, address: SocketAddr) -> io::Result<Self> {
        let stream = handle
            .blocking(move || std::net::TcpStream::connect(address))
            .await?
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        Self::from_fd(handle, stream.into())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.inner.peer
    }

    /// Receives what has come, at least one byte, into the front of `buffer`; answers how many, 0 at the end of the
    /// stream.
    ///
    /// # Errors
    /// The system's error; `ConnectionReset` is the usual one.
    pub async fn recv(&self, buffer: Buffer) -> io::Result<(Buffer, usize)> {
        let (buffer, received) = self.recv_once(buffer, 0, 0).await;
        Ok((buffer, received?))
    }

    /// Receives until `buffer` is full.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream ends before, and the system's errors.
    pub async fn recv_exact(&self, mut buffer: Buffer) -> io::Result<Buffer> {
        let mut filled = 0;
        loop {
            let (back, received) = self.recv_once(buffer, filled, libc::MSG_WAITALL).await;
            buffer = back;
            match received? {
                0 => {
                    let message = format!("{}: the stream ended after {filled} of {} bytes", self.peer(), buffer.len());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                received => filled += received,
            }
            if filled == buffer.len() {
                return Ok(buffer);
            }
        }
    }

    #[inline]
    async fn recv_once(&self, mut buffer: Buffer, from: usize, flags: i32) -> (Buffer, io::Result<usize>) {
        let descriptor = &self.inner.descriptor;
        loop {
            let (start, len) = (buffer[from..].as_mut_ptr(), (buffer.len() - from) as u32);
            let entry = entry_on!(descriptor, |target| opcode::Recv::new(target, start, len).flags(flags));
            // SAFETY: the entry names the rest of the buffer that is held.
            let operation = unsafe { descriptor.core().start(entry, buffer, descriptor, true) };
            let (result, back) = operation.await;
            buffer = back;
            if result != -libc::EINTR {
                return (buffer, length(result));
            }
        }
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// The system's error; `BrokenPipe` and `ConnectionReset` are the usual ones.
    pub async fn send(&self, mut data: Frozen) -> io::Result<()> {
        let descriptor = &self.inner.descriptor;
        let mut sent = 0;
        while sent < data.len() {
            let (start, len) = (data[sent..].as_ptr(), (data.len() - sent) as u32);
            let entry = entry_on!(descriptor, |target| opcode::Send::new(target, start, len).flags(SEND_FLAGS));
            // SAFETY: the entry names the rest of the bytes that are held.
            let operation = unsafe { descriptor.core().start(entry, data, descriptor, true) };
            let (result, back) = operation.await;
            data = back;
            sent += sent_length(result)?;
        }
        Ok(())
    }

    /// Sends all of `parts`, one behind the other, in as few messages as the system allows.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub async fn send_vectored(&self, parts: impl IntoIterator<Item = Frozen>) -> io::Result<()> {
        let descriptor = &self.inner.descriptor;
        let core = descriptor.core();
        let mut message = core.spare_messages.borrow_mut().pop().unwrap_or_else(Message::new);
        let mut rest = message.fill(parts);
        while rest > 0 {
            let header = message.prepare();
            let flags = SEND_FLAGS as u32;
            let entry = entry_on!(descriptor, |target| opcode::SendMsg::new(target, header).flags(flags));
            // SAFETY: the header lies in the box that is held, and points to lists and bytes that the box owns.
            let operation = unsafe { core.start(entry, message, descriptor, true) };
            let (result, back) = operation.await;
            message = back;
            let sent = sent_length(result)?;
            rest -= sent;
            if rest > 0 {
                message.advance(sent);
            }
        }
        message.clear();
        let mut spare = core.spare_messages.borrow_mut();
        if spare.len() < SPARE_MESSAGES_MAX {
            spare.push(message);
        }
        Ok(())
    }

    /// Whether the other end has closed the connection, or will send no more, as far as is known at this moment.
    pub fn is_hung_up(&self) -> bool {
        let flags = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut look = [PollFd::from_borrowed_fd(self.inner.descriptor.as_fd(), flags)];
        poll(&mut look, Some(&Timespec::default())).is_ok() && look[0].revents().intersects(flags)
    }

    /// Ends the connection in both directions; whoever receives or sends on it here is answered.
    ///
    /// # Errors
    /// `NotConnected` when it was over already.
    pub fn shutdown(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.inner.descriptor.as_fd(), rustix::net::Shutdown::Both)?)
    }
}

/// All or an error, and no signal when the other end is gone.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

fn length(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// As [`length`], where being interrupted means that nothing was sent.
fn sent_length(result: i32) -> io::Result<usize> {
    if result == -libc::EINTR { Ok(0) } else { length(result) }
}
