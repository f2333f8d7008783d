//! What is offered to initiators. The default policy: every vdisk of every open pool is exported over NBD by its name
//! POOL/VDISK on every NBD listener. A record in the state file says where that is changed: hidden, or read-only.
//!
//! Invariants: an export's own name is always POOL/VDISK, whatever it was asked for by, so clients are counted by it; a
//! vdisk that is being deleted is opened by nobody, from before its clients are counted.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_engine::{VdiskInfo, VdiskState};
use plimsoll_hardware::reactor::Peer;
use plimsoll_hardware::{Handle, Listener};
use uuid::Uuid;

use super::Node;
use super::pool_create::force_of;
use super::state::ExportRecord;
use crate::export::nbd::{Export, Exports as NbdExports, NbdLimits, NbdServer, NbdServerHandle, Refused};
use crate::model::{AddExport, ExportView, Plan};
use crate::name::VdiskName;
use crate::problem::{Answer, Problem};
use crate::units::counted;

/// Where exports are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    /// At a Unix socket.
    Unix(PathBuf),
    /// At a TCP address.
    Tcp(SocketAddr),
}

impl Listening {
    /// As a URI, of one export or (with an empty name) of all.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Listening::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Listening::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

/// The part of the node that knows of servers and clients.
#[derive(Default)]
pub(super) struct Exports {
    server: RefCell<Option<NbdServerHandle<Handle>>>,
    listening: RefCell<Vec<Listening>>,
    /// Vdisks that are being deleted.
    leaving: RefCell<BTreeSet<Uuid>>,
    closed: Cell<bool>,
}

/// The node as the NBD server asks it.
struct Offered(Node);

impl NbdExports<Handle> for Offered {
    fn list(&self, _peer: Peer) -> Vec<String> {
        self.0.visible_exports()
    }

    fn open(&self, name: &str, _peer: Peer) -> Result<Export<Handle>, Refused> {
        if self.0.0.exports.closed.get() {
            return Err(Refused::Closing);
        }
        let name = self.0.default_export(name).ok_or(Refused::Unknown)?;
        // By name or whole UUID, which costs the same however many vdisks there are; a prefix would not.
        let pool_name = self.0.pool_name(&name.pool).map_err(|_| Refused::Unknown)?;
        let pool = self.0.pool(&pool_name).map_err(|_| Refused::Unknown)?;
        let vdisk = pool.vdisk(&name.vdisk).map_err(|_| Refused::Unknown)?;
        let info = vdisk.info();
        let record = self.0.export_record(info.uuid);
        let hidden = record.as_ref().is_some_and(|record| record.hidden);
        if hidden || self.0.0.exports.leaving.borrow().contains(&info.uuid) {
            return Err(Refused::Unknown);
        }
        Ok(Export {
            name: format!("{pool_name}/{}", info.name),
            description: Some(format!("Plimsoll vdisk {}", info.uuid)),
            vdisk,
            read_only: record.is_some_and(|record| record.read_only) || pool.read_only().is_some(),
        })
    }
}

/// Somebody would lose what is in use.
pub(super) fn connected(clients: u64, to: &str) -> Problem {
    let are = if clients == 1 { "is" } else { "are" };
    Problem::new("in-use", format!("{} {are} connected to {to}", counted(clients, "client")))
}

impl Node {
    /// Serves the exports to whoever connects to `listener`.
    pub fn serve_nbd(&self, listener: Listener, at: Listening, limits: &NbdLimits) {
        let mut server = self.0.exports.server.borrow_mut();
        match &*server {
            Some(server) => server.listen(listener),
            None => {
                let exports = Rc::new(Offered(self.clone()));
                *server = Some(NbdServer::start(self.machine().clone(), listener, exports, limits.clone()));
            }
        }
        self.0.exports.listening.borrow_mut().push(at);
    }

    /// All exports by name, hidden ones too.
    ///
    /// # Errors
    /// None of its own.
    pub fn exports(&self) -> Answer<Vec<ExportView>> {
        let clients = self.clients_by_export();
        let state = self.0.state.borrow();
        let records: HashMap<Uuid, &ExportRecord> = state.exports.iter().map(|record| (record.vdisk, record)).collect();
        let mut exports = Vec::new();
        for pool in self.open_pools() {
            let name = pool.info().name;
            for vdisk in pool.vdisks().iter().filter(|vdisk| vdisk.state != VdiskState::Deleting) {
                let connected = clients.get(&format!("{name}/{}", vdisk.name)).copied().unwrap_or(0);
                exports.push(self.export_view(&name, vdisk, records.get(&vdisk.uuid).copied(), connected));
            }
        }
        exports.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(exports)
    }

    /// Offers a vdisk, or changes how it is offered. Clients that are connected keep what they have.
    ///
    /// # Errors
    /// `not-found`; `invalid-argument` for a protocol that there is not.
    pub async fn add_export(&self, request: AddExport) -> Answer<ExportView> {
        let (pool, info) = self.prepare_add(&request)?;
        let record = ExportRecord {
            name: format!("{pool}/{}", info.name),
            vdisk: info.uuid,
            hidden: false,
            read_only: request.read_only,
        };
        self.put_export(record).await?;
        let (record, clients) = (self.export_record(info.uuid), self.clients_of(&format!("{pool}/{}", info.name)));
        Ok(self.export_view(&pool, &info, record.as_ref(), clients))
    }

    /// What [`Node::add_export`] would do.
    ///
    /// # Errors
    /// As [`Node::add_export`].
    pub fn plan_add_export(&self, request: &AddExport) -> Answer<Plan> {
        let (pool, info) = self.prepare_add(request)?;
        let how = if request.read_only { "read-only" } else { "for reading and writing" };
        Ok(Plan::of([format!("export {pool}/{} over NBD, {how}", info.name)]))
    }

    /// Offers a vdisk no longer, and disconnects its clients.
    ///
    /// # Errors
    /// `in-use` while clients are connected, unless `force` has `in-use`.
    pub async fn remove_export(&self, protocol: &str, name: &VdiskName, force: &[String]) -> Answer<()> {
        let (pool, info) = self.prepare_remove(protocol, name, force)?;
        let read_only = self.export_record(info.uuid).is_some_and(|record| record.read_only);
        let name = format!("{pool}/{}", info.name);
        self.put_export(ExportRecord { name: name.clone(), vdisk: info.uuid, hidden: true, read_only }).await?;
        self.close_export(&name).await;
        Ok(())
    }

    /// What [`Node::remove_export`] would do.
    ///
    /// # Errors
    /// As [`Node::remove_export`].
    pub fn plan_remove_export(&self, protocol: &str, name: &VdiskName, force: &[String]) -> Answer<Plan> {
        let (pool, info) = self.prepare_remove(protocol, name, force)?;
        let name = format!("{pool}/{}", info.name);
        let clients = self.clients_of(&name);
        Ok(Plan::of([format!("hide {name} from NBD"), format!("disconnect {clients} clients")]))
    }

    /// Clients of a vdisk.
    pub(super) fn clients_of(&self, name: &str) -> u64 {
        self.count_clients(|export| export == name)
    }

    /// Clients of all vdisks of a pool.
    pub(super) fn pool_clients(&self, pool: &str) -> u64 {
        let prefix = format!("{pool}/");
        self.count_clients(|export| export.starts_with(&prefix))
    }

    /// All clients.
    pub(super) fn clients(&self) -> u64 {
        self.count_clients(|_| true)
    }

    /// Where NBD is served.
    pub fn nbd_uris(&self) -> Vec<String> {
        self.0.exports.listening.borrow().iter().map(|at| at.uri("")).collect()
    }

    /// Lets nobody open a vdisk until [`Node::set_staying`].
    pub(super) fn set_leaving(&self, vdisk: Uuid) {
        self.0.exports.leaving.borrow_mut().insert(vdisk);
    }

    pub(super) fn set_staying(&self, vdisk: Uuid) {
        self.0.exports.leaving.borrow_mut().remove(&vdisk);
    }

    /// Ends all connections to an export and waits until none of their requests is carried out any more.
    pub(super) async fn close_export(&self, name: &str) {
        let server = self.0.exports.server.borrow().clone();
        if let Some(server) = server {
            let clients = server.close_export(name).await;
            if clients > 0 {
                tracing::warn!(export = name, clients, "clients were disconnected");
            }
        }
    }

    /// Ends all connections to a pool that is out of service already.
    pub(super) async fn disconnect_pool(&self, pool: &str) {
        let prefix = format!("{pool}/");
        for name in self.clients_by_export().into_keys().filter(|name| name.starts_with(&prefix)) {
            self.close_export(&name).await;
        }
    }

    /// Forgets how a vdisk was exported.
    pub(super) async fn forget_exports(&self, vdisk: Uuid) -> Answer<()> {
        self.remember(|state| state.exports.retain(|record| record.vdisk != vdisk)).await
    }

    /// Stops serving; requests under way are answered within `grace`.
    pub(super) async fn stop_exports(&self, grace: Duration) {
        self.0.exports.closed.set(true);
        let server = self.0.exports.server.borrow().clone();
        if let Some(server) = server
            && !server.stop(grace).await
        {
            tracing::warn!("requests of NBD clients were still under way when the server stopped");
        }
    }

    /// Clients of each export that has some.
    pub(super) fn clients_by_export(&self) -> HashMap<String, u64> {
        self.0.exports.server.borrow().as_ref().map(NbdServerHandle::clients_by_export).unwrap_or_default()
    }

    fn count_clients(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        self.clients_by_export().iter().filter(|(name, _)| wanted(name)).map(|(_, clients)| clients).sum()
    }

    /// What a client means by `name`; an empty name means the only visible export, when there is only one.
    fn default_export(&self, name: &str) -> Option<VdiskName> {
        if !name.is_empty() {
            return name.parse().ok();
        }
        match &self.visible_exports()[..] {
            [only] => only.parse().ok(),
            _ => None,
        }
    }

    fn visible_exports(&self) -> Vec<String> {
        let state = self.0.state.borrow();
        let hidden: HashSet<Uuid> =
            state.exports.iter().filter(|record| record.hidden).map(|record| record.vdisk).collect();
        let mut names = Vec::new();
        for pool in self.open_pools() {
            let name = pool.info().name;
            let vdisks = pool.vdisks().into_iter();
            let visible = vdisks.filter(|vdisk| vdisk.state != VdiskState::Deleting && !hidden.contains(&vdisk.uuid));
            names.extend(visible.map(|vdisk| format!("{name}/{}", vdisk.name)));
        }
        names
    }

    fn export_record(&self, vdisk: Uuid) -> Option<ExportRecord> {
        self.0.state.borrow().exports.iter().find(|record| record.vdisk == vdisk).cloned()
    }

    async fn put_export(&self, record: ExportRecord) -> Answer<()> {
        self.remember(|state| {
            state.exports.retain(|known| known.vdisk != record.vdisk);
            // A record that says what the default says is none.
            if record.hidden || record.read_only {
                state.exports.push(record);
            }
        })
        .await
    }

    fn prepare_add(&self, request: &AddExport) -> Answer<(String, VdiskInfo)> {
        check_protocol(request.protocol.as_deref().unwrap_or("nbd"))?;
        let name: VdiskName = request.name.parse().map_err(|reason| Problem::new("invalid-name", reason))?;
        let (pool, info) = self.find_vdisk(&name)?;
        Ok((pool.info().name, info))
    }

    fn prepare_remove(&self, protocol: &str, name: &VdiskName, force: &[String]) -> Answer<(String, VdiskInfo)> {
        check_protocol(protocol)?;
        let force = force_of(force, &["in-use"])?;
        let (pool, info) = self.find_vdisk(name)?;
        let pool = pool.info().name;
        let full = format!("{pool}/{}", info.name);
        let clients = self.clients_of(&full);
        if clients > 0 && !force.contains(&"in-use") {
            return Err(connected(clients, &full)
                .hint(format!("disconnect them; or plimsoll export remove {full} --force=in-use")));
        }
        Ok((pool, info))
    }

    fn export_view(&self, pool: &str, info: &VdiskInfo, record: Option<&ExportRecord>, clients: u64) -> ExportView {
        let name = format!("{pool}/{}", info.name);
        let visible = !record.is_some_and(|record| record.hidden);
        let listening = self.0.exports.listening.borrow();
        ExportView {
            clients,
            uris: if visible { listening.iter().map(|at| at.uri(&name)).collect() } else { Vec::new() },
            pool: pool.to_owned(),
            vdisk: info.name.clone(),
            protocol: "nbd".to_owned(),
            visible,
            read_only: record.is_some_and(|record| record.read_only),
            implicit: record.is_none(),
            name,
        }
    }
}

fn check_protocol(protocol: &str) -> Answer<()> {
    if protocol == "nbd" {
        return Ok(());
    }
    Err(Problem::new("invalid-argument", format!("there are no exports over {protocol:?}, only over nbd"))
        .hint("plimsoll export add POOL/VDISK --nbd"))
}
