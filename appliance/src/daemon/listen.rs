//! Where NBD is served: always at `nbd.sock` in the state directory, and at TCP addresses. One that was asked for must
//! work; the default one may be taken by somebody, which is said and gone without.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use plimsoll_hardware::Listener;

use super::descriptors::share;
use crate::export::nbd::NbdLimits;
use crate::node::directory::{clear_socket, control_socket, nbd_socket};
use crate::node::{Listening, Node};
use crate::problem::{Answer, Problem};

/// The port registered for NBD (IANA).
const PORT_DEFAULT: u16 = 10809;
/// Longest wait for a port that a process which was killed still has: three times what was seen on a busy machine.
const PORT_TIME_MAX: Duration = Duration::from_millis(500);

/// Sockets that are bound; who connects waits until they are served.
pub(super) struct Bound {
    listeners: Vec<(Listener, Listening)>,
    /// What the operator should know.
    notes: Vec<String>,
}

/// Binds all sockets, before anything is made or opened, so that a daemon that cannot listen leaves nothing behind.
pub(super) fn bind(node: &Node, asked: Option<&[SocketAddr]>) -> Answer<Bound> {
    let path = nbd_socket(node.dir());
    clear_socket(&path)?;
    clear_socket(&control_socket(node.dir()))?;
    let listener = Listener::bind_unix(node.machine(), &path)
        .map_err(|error| Problem::new("internal", format!("NBD cannot be served: {error}")))?;
    let mut bound = Bound { listeners: vec![(listener, Listening::Unix(path))], notes: Vec::new() };
    let default = [SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT))];
    for address in asked.unwrap_or(&default) {
        match bind_tcp(node, *address) {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(*address);
                bound.listeners.push((listener, Listening::Tcp(address)));
            }
            Err(error) if asked.is_none() => {
                tracing::warn!(%error, "the default NBD address is not served");
                bound.notes.push(format!("no NBD over TCP: {error}; choose another with --nbd-listen 127.0.0.1:PORT"));
            }
            Err(error) => return Err(cannot_listen(*address, &error)),
        }
    }
    Ok(bound)
}

/// A process that was killed holds its port until its io_uring is gone, some ten milliseconds after it.
fn bind_tcp(node: &Node, address: SocketAddr) -> std::io::Result<Listener> {
    let begin = Instant::now();
    loop {
        match Listener::bind_tcp(node.machine(), address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < PORT_TIME_MAX => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound,
        }
    }
}

/// The words hold for the command line and for a configuration file.
fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Problem {
    let problem = |code| Problem::new(code, format!("NBD cannot be served: {error}"));
    match error.kind() {
        ErrorKind::AddrNotAvailable => {
            let detail = format!("NBD cannot be served at {address}: {} is no address of this machine", address.ip());
            Problem::new("invalid-argument", detail).hint("ip -brief address; then listen at one of these")
        }
        ErrorKind::PermissionDenied => problem("permission").hint("listen at a port from 1024 on"),
        _ => problem("in-use").hint(format!("ss -ltnp 'sport = :{}'; or listen at another port", address.port())),
    }
}

impl Bound {
    /// Serves whoever connects, as far as `descriptors` go.
    pub(super) fn serve(self, node: &Node, limits: NbdLimits, descriptors: u64) -> Vec<String> {
        let limits = share(limits, descriptors, self.listeners.len());
        for (listener, at) in self.listeners {
            node.serve_nbd(listener, at, &limits);
        }
        self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_a_killed_process_still_has_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        crate::daemon::embedded::tests::with_node(dir.path(), async |node| {
            let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = other.local_addr().unwrap();
            let killed = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                drop(other);
            });
            assert_eq!(bind_tcp(&node, address).unwrap().local_addr().unwrap(), address);
            killed.join().unwrap();
            // One that stays is not waited for without end.
            let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let refused = bind_tcp(&node, other.local_addr().unwrap()).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        });
    }

    #[test]
    fn an_address_of_another_machine_is_not_called_in_use() {
        // For documentation (RFC 5737).
        let address: SocketAddr = "192.0.2.1:10809".parse().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let problem = cannot_listen(address, &error);
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("invalid-argument", 2));
        assert!(problem.detail.contains("192.0.2.1 is no address of this machine"), "{}", problem.detail);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let problem = cannot_listen(address, &std::net::TcpListener::bind(address).unwrap_err());
        assert!(problem.code == "in-use" && problem.hint.is_some_and(|hint| hint.starts_with("ss -ltnp")));
    }
}
