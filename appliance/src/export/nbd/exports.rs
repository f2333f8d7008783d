//! What the server asks of the rest of the appliance: which exports there are, and who may use them.

use plimsoll_engine::Vdisk;
use plimsoll_hardware::Machine;
use plimsoll_hardware::reactor::Peer;

/// An export that a client may use.
pub struct Export<M: Machine> {
    /// Its own name, which may differ from the one it was asked for by.
    pub name: String,
    /// In words, for people.
    pub description: Option<String>,
    /// The vdisk behind it. The handle is kept until the client is gone.
    pub vdisk: Vdisk<M>,
    /// Writes are refused.
    pub read_only: bool,
}

/// Why a client may not use an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none of that name, or none that this client may know of.
    Unknown,
    /// It is there and this client may know so, but not use it.
    Forbidden,
    /// The appliance is going away.
    Closing,
}

/// The exports of a server. Both answers are given at once: the server asks during the handshake, and a client that
/// only looks must cost little.
pub trait Exports<M: Machine> {
    /// Names that `peer` may see.
    fn list(&self, peer: Peer) -> Vec<String>;

    /// The export called `name`; an empty name is the protocol's default export, if there is one.
    ///
    /// # Errors
    /// [`Refused`]. A name that the peer may not see is [`Refused::Unknown`].
    fn open(&self, name: &str, peer: Peer) -> Result<Export<M>, Refused>;
}
