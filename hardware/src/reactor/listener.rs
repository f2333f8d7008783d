//! A listening socket on the ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use io_uring::opcode;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::operations::Accepted;
use super::{Descriptor, Handle, Stream, entry_on};

/// Connections that may wait for being accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// Accepts connections at one address. Dropping it stops listening and removes its Unix socket.
pub struct Listener {
    handle: Handle,
    descriptor: Rc<Descriptor>,
    socket_file: Option<SocketFile>,
}

struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that a successor's socket at the same path is left alone.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at a TCP address; port 0 means any free one, see [`Listener::local_addr`].
    ///
    /// # Errors
    /// The system's error, with the address.
    pub fn bind_tcp(handle: &Handle, address: SocketAddr) -> io::Result<Self> {
        let explain = |error: rustix::io::Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
        };
        let listen = || {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // A restarted process must not wait for the old connections to time out.
            sockopt::set_socket_reuseaddr(&fd, true)?;
            rustix::net::bind(&fd, &address)?;
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(fd)
        };
        let fd = listen().map_err(explain)?;
        Ok(Self { handle: handle.clone(), descriptor: Descriptor::new(handle.core(), fd), socket_file: None })
    }

    /// Listens at a Unix socket that only this user may connect to (mode 0600). A socket that a dead process left at
    /// `path` is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when something else is at `path` or somebody listens there; else the system's error. All name the
    /// path.
    pub fn bind_unix(handle: &Handle, path: &Path) -> io::Result<Self> {
        make_way(path)?;
        let listen = || {
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Linux gives the socket file the mode of the socket, so there is no moment at which others may connect.
            rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
            rustix::net::listen(&fd, BACKLOG)?;
            let made = rustix::fs::lstat(path)?;
            Ok((fd, (made.st_dev, made.st_ino)))
        };
        let (fd, identity) = listen().map_err(|error: rustix::io::Errno| about(path, error.into()))?;
        Ok(Self {
            handle: handle.clone(),
            descriptor: Descriptor::new(handle.core(), fd),
            socket_file: Some(SocketFile { path: path.to_owned(), identity }),
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system's error; too many open files (`EMFILE`) is one that passes, so a caller waits and tries again.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let descriptor = &self.descriptor;
            let null = std::ptr::null_mut();
            let entry = entry_on!(descriptor, |target| opcode::Accept::new(target, null, null.cast())
                .flags(libc::SOCK_CLOEXEC));
            // SAFETY: the entry names no memory.
            let operation = unsafe { descriptor.core().start(entry, Accepted, descriptor, true) };
            let (result, _) = operation.await;
            if result < 0 {
                // The other end was gone before it was accepted, or a signal came: not our listener's failure.
                if matches!(-result, libc::ECONNABORTED | libc::EINTR | libc::EPROTO) {
                    continue;
                }
                return Err(io::Error::from_raw_os_error(-result));
            }
            // SAFETY: the kernel just made this descriptor for us, and `Accepted` leaves it to whoever waits.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            match Stream::from_fd(&self.handle, fd) {
                Ok(stream) => return Ok(stream),
                Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
            }
        }
    }

    /// The address of a TCP listener.
    ///
    /// # Errors
    /// `Unsupported` for a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(self.descriptor.as_fd())?)
            .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "a Unix socket has a path and no address"))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(SocketFile { path, identity }) = &self.socket_file else { return };
        if rustix::fs::lstat(path).is_ok_and(|there| (there.st_dev, there.st_ino) == *identity) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket at `path` that nobody listens at.
fn make_way(path: &Path) -> io::Result<()> {
    let there = match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(about(path, error.into())),
        Ok(there) => there,
    };
    let in_use = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {why}", path.display()));
    if rustix::fs::FileType::from_raw_mode(there.st_mode) != rustix::fs::FileType::Socket {
        return Err(in_use("exists and is not a socket; remove it or choose another path"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(in_use("another process listens here; stop it or choose another path")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| about(path, error))
        }
        Err(error) => Err(about(path, error)),
    }
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen at {}: {error}", path.display()))
}
