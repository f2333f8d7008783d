//! Places of connections: how many there are at once, and which one has to go when a new client comes.
//!
//! A connection is busy from the end of a request's headers until hyper has taken the last of the answer, of a stream of events until
//! that ends. Else it is idle: silent from its beginning, with headers that do not end, with the last of an answer buffered that its
//! client has not read yet, or kept open after one. An idle one goes for a new one, the oldest first; a busy one is left alone. Streams
//! are bounded where they begin, so that requests find places.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// All places.
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
    /// A place became free, or its connection idle.
    eased: Notify,
}

#[derive(Default)]
struct Taken {
    connections: BTreeMap<u64, Connection>,
    /// The next number, in the order in which connections came and became idle.
    next: u64,
}

struct Connection {
    /// Requests under way: one, as they come one after the other, or none.
    busy: u32,
    idle_since: u64,
    /// Closes it when it is dropped.
    _open: oneshot::Sender<()>,
}

/// The place of one connection; free when it is dropped.
pub(super) struct Place {
    number: u64,
    places: Arc<Places>,
}

/// A request under way on a connection, which is busy until this is dropped.
pub(super) struct Busy(Arc<Place>);

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Places { max, taken: Mutex::default(), eased: Notify::new() })
    }

    /// A place, and what ends when its connection has to go. Takes that of the connection which is idle longest when there is no other;
    /// waits while none is idle.
    pub(super) async fn enter(self: &Arc<Self>) -> (Arc<Place>, oneshot::Receiver<()>) {
        loop {
            let eased = self.eased.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            eased.await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<(Arc<Place>, oneshot::Receiver<()>)> {
        let mut taken = self.taken();
        if taken.connections.len() >= self.max {
            let idle = taken.connections.iter().filter(|(_, connection)| connection.busy == 0);
            let oldest = *idle.min_by_key(|(_, connection)| connection.idle_since)?.0;
            taken.connections.remove(&oldest);
        }
        let number = taken.number();
        let (open, closed) = oneshot::channel();
        taken.connections.insert(number, Connection { busy: 0, idle_since: number, _open: open });
        Some((Arc::new(Place { number, places: self.clone() }), closed))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here leaves it half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Place {
    /// Says, until the answer is dropped, that a request is under way.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        if let Some(connection) = self.places.taken().connections.get_mut(&self.number) {
            connection.busy += 1;
        }
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let (number, places) = (self.0.number, &self.0.places);
        let mut taken = places.taken();
        let now = taken.number();
        if let Some(connection) = taken.connections.get_mut(&number) {
            connection.busy -= 1;
            connection.idle_since = now;
        }
        drop(taken);
        places.eased.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().connections.remove(&self.number);
        self.places.eased.notify_one();
    }
}
