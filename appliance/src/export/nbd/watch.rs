//! Ends connections that use up what others need: handshakes that take too long, and clients that hold memory and stand
//! still while there is little of it. And notices clients that are gone while nothing is received of them, because their writes wait
//! for space and they may have no more under way.
//!
//! One task per server looks at all connections once in a while, so that no request pays for a timer.

use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::Machine;

use super::serve::Server;

/// Longest time between two looks.
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// Time between two looks while writes wait for space.
const PERIOD_HELD: Duration = Duration::from_millis(100);

/// Looks until there are no connections.
pub(super) async fn watch<M: Machine>(server: Rc<Server<M>>) {
    let limits = &server.limits;
    let period = PERIOD_MAX.min(limits.negotiation_time / 4).min(limits.stall_time / 4).max(Duration::from_millis(1));
    while !server.sessions.borrow().is_empty() {
        let held = server.sessions.borrow().values().any(|session| session.has_held_writes());
        server.handle.sleep(if held { period.min(PERIOD_HELD) } else { period }).await;
        let now = server.handle.now();
        let scarce = server.handle.buffers().is_scarce();
        let sessions: Vec<_> = server.sessions.borrow().values().cloned().collect();
        for session in sessions.into_iter().filter(|session| !session.ended()) {
            let late = session.is_negotiating() && now.saturating_sub(session.since) >= limits.negotiation_time;
            let stalled = session.is_stalled(now, limits.stall_time);
            if session.has_held_writes() && session.stream.is_hung_up() {
                tracing::info!(peer = %session.peer, "NBD client gone; its writes that waited for space are given up");
                session.end();
            } else if late || (stalled && scarce) {
                let reason =
                    if late { "no export chosen in time" } else { "memory is short and the client stands still" };
                tracing::info!(peer = %session.peer, reason, "NBD connection closed");
                session.end();
            }
        }
    }
    server.watching.set(false);
}
