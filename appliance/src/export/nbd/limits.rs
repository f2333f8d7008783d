//! What one client, and all of them together, may ask of the server.

use std::time::Duration;

use plimsoll_hardware::buffer::BUFFER_MAX;

/// Bounds of one listener and of each connection on it.
#[derive(Clone, Debug)]
pub struct NbdLimits {
    /// Connections in all; one more is refused, or takes the place of one that has not chosen an export yet.
    pub connections: usize,
    /// Connections of one TCP address, so that whoever takes all that it can get leaves some to the others. Not for a
    /// Unix socket, where all clients are the same user's.
    pub connections_of_peer: usize,
    /// Connections that have not chosen an export yet. One more drops the one that has got least far, and of those the
    /// oldest, so idle sockets lock nobody out.
    pub negotiating: usize,
    /// From the first byte to the chosen export. Linux gives logins 15 s, so do we.
    pub negotiation_time: Duration,
    /// Options that one client may send; the first LIST allows four more for each name in it, because
    /// `qemu-nbd --list` asks that many questions about each.
    pub options: u32,
    /// Bytes of one option. 64 KiB hold 15 names of the longest kind (4096 bytes); more ends the connection.
    pub option_bytes: u32,
    /// Requests of one connection that are not answered yet, beside writes that wait for space, which the engine bounds. Its next one
    /// is not read before.
    pub requests: u32,
    /// Bytes of memory that the unanswered requests and unread replies of one connection hold, beside writes that wait for space.
    pub bytes: usize,
    /// How long a client that stopped in the middle of a payload, or reads no replies, keeps its memory once that is
    /// scarce (`BufferPool::is_scarce`). With memory to spare it may wait for ever.
    pub stall_time: Duration,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_of_peer: 768,
            negotiating: 64,
            negotiation_time: Duration::from_secs(15),
            options: 64,
            option_bytes: 64 << 10,
            requests: 128,
            // 128 requests of 128 KiB.
            bytes: 16 * BUFFER_MAX,
            stall_time: Duration::from_secs(5),
        }
    }
}

impl NbdLimits {
    /// With at most `connections`, of which one address may have three quarters.
    #[must_use]
    pub fn with_connections(self, connections: usize) -> Self {
        let connections_of_peer = (connections - connections / 4).max(1);
        Self { connections, connections_of_peer, ..self }
    }

    /// Tasks that one connection keeps busy at most beside those of writes that wait for space: one for each request, and one for each
    /// mebibyte of payloads that come in several pieces.
    pub(super) fn workers(&self) -> u32 {
        self.requests + (self.bytes / BUFFER_MAX) as u32
    }
}
