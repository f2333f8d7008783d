//! The server: listeners, who is connected, and how all of it ends.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Duration;

use plimsoll_engine::Ticket;
use plimsoll_hardware::Machine;
use plimsoll_hardware::reactor::{Handle, Listener, Peer, Stream};
use uuid::Uuid;

use super::NbdLimits;
use super::connection::Connection;
use super::exports::Exports;
use super::gate::Gate;
use super::inbox::Inbox;
use super::negotiate::{Agreed, negotiate};
use super::outbox::Outbox;
use super::session::{ConnectionInfo, Session};
use super::waiters::{Waiters, unless};
use super::watch::watch;
use super::worker::Jobs;

/// How long a listener rests after the system refused it a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Server<M: Machine> {
    pub(super) handle: Handle,
    pub(super) limits: Rc<NbdLimits>,
    exports: Rc<dyn Exports<M>>,
    /// In the order in which they came.
    pub(super) sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    gates: RefCell<HashMap<Uuid, Weak<Gate>>>,
    next_id: Cell<u64>,
    listeners: Cell<usize>,
    open_listeners: Cell<usize>,
    stopping: Cell<bool>,
    pub(super) watching: Cell<bool>,
    changed: Waiters,
}

/// Serves exports over NBD. All listeners of one server share its connections' safety against each other, so an
/// appliance has one server.
pub struct NbdServer;

/// A running server. Cheap to clone; dropping it does not stop the server, [`NbdServerHandle::stop`] does.
pub struct NbdServerHandle<M: Machine> {
    server: Rc<Server<M>>,
}

impl<M: Machine> Clone for NbdServerHandle<M> {
    fn clone(&self) -> Self {
        Self { server: self.server.clone() }
    }
}

impl NbdServer {
    /// Starts to serve `exports` to whoever connects to `listener`.
    pub fn start<M: Machine>(
        handle: Handle,
        listener: Listener,
        exports: Rc<dyn Exports<M>>,
        limits: NbdLimits,
    ) -> NbdServerHandle<M> {
        let server = Rc::new(Server {
            handle,
            limits: Rc::new(limits),
            exports,
            sessions: RefCell::default(),
            gates: RefCell::default(),
            next_id: Cell::default(),
            listeners: Cell::default(),
            open_listeners: Cell::default(),
            stopping: Cell::default(),
            watching: Cell::default(),
            changed: Waiters::default(),
        });
        let started = NbdServerHandle { server };
        started.listen(listener);
        started
    }
}

impl<M: Machine> NbdServerHandle<M> {
    /// Serves another listener too, with limits of its own on the number of connections.
    pub fn listen(&self, listener: Listener) {
        let server = self.server.clone();
        let number = server.listeners.get();
        server.listeners.set(number + 1);
        server.open_listeners.set(server.open_listeners.get() + 1);
        server.handle.clone().spawn(accept(server, listener, number));
    }

    /// Everybody who is connected.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.server.sessions.borrow().values().map(|session| session.info()).collect()
    }

    /// How many connections each export has.
    pub fn clients_by_export(&self) -> HashMap<String, u64> {
        let mut clients = HashMap::new();
        for session in self.server.sessions.borrow().values() {
            if let Some((name, _)) = &*session.export.borrow() {
                *clients.entry(name.clone()).or_default() += 1;
            }
        }
        clients
    }

    /// Closes every connection to the export `name` and waits until none of their requests is carried out any more.
    /// Answers how many there were. Whoever connects meanwhile is not among them: refuse the name in
    /// [`Exports::open`] first.
    pub async fn close_export(&self, name: &str) -> usize {
        let sessions = &self.server.sessions;
        let of_export = |session: &Session| session.export.borrow().as_ref().is_some_and(|(own, _)| own == name);
        let ids: Vec<u64> =
            sessions.borrow().values().filter(|session| of_export(session)).map(|session| session.id).collect();
        for id in &ids {
            let session = sessions.borrow().get(id).cloned();
            if let Some(session) = session {
                session.end();
            }
        }
        self.server.changed.until(|| ids.iter().all(|id| !sessions.borrow().contains_key(id))).await;
        ids.len()
    }

    /// Stops: nobody is accepted any more, requests that were read are answered, no new ones are read, and every connection
    /// is closed when its last answer was taken, or after `grace`. Writes that wait for space are given up and not answered:
    /// a client that reconnects sends them again to whoever serves the export then. Answers whether all requests had ended by
    /// twice that time.
    pub async fn stop(&self, grace: Duration) -> bool {
        let server = &self.server;
        server.stopping.set(true);
        server.changed.wake();
        let sessions = || server.sessions.borrow().values().cloned().collect::<Vec<_>>();
        sessions().iter().for_each(|session| session.drain());
        let gone = || server.changed.until(|| server.sessions.borrow().is_empty() && server.open_listeners.get() == 0);
        if server.handle.timeout(grace, gone()).await.is_ok() {
            return true;
        }
        sessions().iter().for_each(|session| session.end());
        server.handle.timeout(grace, gone()).await.is_ok()
    }
}

/// Whether both come from one address of a network, or from one process.
fn is_same_host(one: Peer, other: Peer) -> bool {
    match (one, other) {
        (Peer::Tcp(one), Peer::Tcp(other)) => one.ip() == other.ip(),
        (Peer::Unix { pid: one, .. }, Peer::Unix { pid: other, .. }) => one == other,
        _ => false,
    }
}

async fn accept<M: Machine>(server: Rc<Server<M>>, listener: Listener, number: usize) {
    loop {
        let accepted = unless(&server.changed, || server.stopping.get(), listener.accept()).await;
        match accepted {
            None => break,
            Some(Ok(stream)) => server.admit(stream, number),
            Some(Err(error)) => {
                tracing::warn!(%error, "NBD listener could not accept a connection");
                server.handle.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    server.open_listeners.set(server.open_listeners.get() - 1);
    server.changed.wake();
}

impl<M: Machine> Server<M> {
    /// Takes a connection in, at the expense of one that has got least far when there are too many.
    fn admit(self: &Rc<Self>, stream: Stream, listener: usize) {
        let id = self.next_id.get() + 1;
        self.next_id.set(id);
        let (mut all, mut negotiating, mut of_peer) = (0, 0, 0);
        let mut least: Option<Rc<Session>> = None;
        for session in self.sessions.borrow().values().filter(|other| other.listener == listener && !other.ended()) {
            all += 1;
            of_peer += usize::from(is_same_host(session.peer, stream.peer()));
            if session.is_negotiating() {
                negotiating += 1;
                if least.as_ref().is_none_or(|least| session.options.get() < least.options.get()) {
                    least = Some(session.clone());
                }
            }
        }
        if of_peer >= self.limits.connections_of_peer {
            tracing::warn!(peer = %stream.peer(), of_peer, "NBD connection refused: too many of this address or process");
            return;
        }
        if all >= self.limits.connections || negotiating >= self.limits.negotiating {
            let Some(least) = least else {
                tracing::warn!(peer = %stream.peer(), all, "NBD connection refused: too many");
                return;
            };
            least.end();
        }
        let session = Session::new(id, listener, stream, self.handle.now(), self.handle.wall_clock_ms());
        let session = Rc::new(session);
        self.sessions.borrow_mut().insert(id, session.clone());
        self.handle.spawn(converse(self.clone(), session));
        if !self.watching.replace(true) {
            self.handle.spawn(watch(self.clone()));
        }
    }

    fn gate(&self, vdisk: Uuid) -> Rc<Gate> {
        let mut gates = self.gates.borrow_mut();
        if let Some(gate) = gates.get(&vdisk).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Rc::<Gate>::default();
        gates.insert(vdisk, Rc::downgrade(&gate));
        gate
    }

    fn connect(&self, session: Rc<Session>, agreed: Agreed<M>) -> Rc<Connection<M>> {
        let Agreed { export, structured, block_status } = agreed;
        let vdisk = export.vdisk.info();
        tracing::info!(peer = %session.peer, export = export.name, "NBD connection");
        *session.export.borrow_mut() = Some((export.name, vdisk.uuid));
        let of = Rc::downgrade(&session);
        let held = Ticket::listening(move || {
            if let Some(session) = of.upgrade() {
                session.changed.wake();
            }
        });
        session.held.replace(held.clone());
        Rc::new(Connection {
            handle: self.handle.clone(),
            limits: self.limits.clone(),
            session,
            gate: self.gate(vdisk.uuid),
            sector: vdisk.sector,
            vdisk: export.vdisk,
            read_only: export.read_only,
            structured,
            block_status,
            outbox: Outbox::default(),
            jobs: Jobs::new(),
            held,
        })
    }
}

/// A connection from its first byte to its last.
async fn converse<M: Machine>(server: Rc<Server<M>>, session: Rc<Session>) {
    let mut inbox = Inbox::new(session.stream.clone(), server.handle.buffers().clone()).await;
    match negotiate(&server.handle, &session, &server.exports, &server.limits, &mut inbox).await {
        Ok(Some(agreed)) if !session.ended() => {
            let connection = server.connect(session.clone(), agreed);
            connection.run(inbox).await;
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(peer = %session.peer, %error, "an NBD handshake failed"),
    }
    session.end();
    server.sessions.borrow_mut().remove(&session.id);
    server.changed.wake();
}
