//! NBD: vdisks for QEMU, libnbd, the Linux kernel's client and everything that speaks the fixed newstyle handshake.
//!
//! Two layers, of which the lower knows no sockets: bytes to values and back ([`wire`], [`option`]), from claims to
//! commands ([`command`]), from the engine's errors to the protocol's ([`status`]); and the server, which is one
//! `Connection` per client between an inbox and an outbox, run by workers.
//!
//! The promise to clients: what READ answered was written or is zeros; what FLUSH or FUA answered survives power loss;
//! connections to one export are one disk (multi-conn); an error has the protocol's own number. Sectors are what should
//! be asked for and bytes are served.
//!
//! The promise to everybody else: a client that is slow, silent, lying or hostile costs only itself ([`NbdLimits`]).
//!
//! Left out on purpose: TLS and extended headers are refused in the way the protocol provides for, oldstyle is not
//! spoken.

pub mod command;
mod connection;
mod execute;
mod exports;
mod gate;
mod inbox;
mod limits;
mod negotiate;
pub mod option;
mod outbox;
mod serve;
mod session;
pub mod status;
#[cfg(test)]
mod tests;
mod waiters;
mod watch;
pub mod wire;
mod worker;

pub use exports::{Export, Exports, Refused};
pub use limits::NbdLimits;
pub use serve::{NbdServer, NbdServerHandle};
pub use session::ConnectionInfo;
