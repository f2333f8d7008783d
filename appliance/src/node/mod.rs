//! The node: everything that lives on the reactor's thread. Pools, jobs, exports, and what is remembered of them.
//!
//! Invariants:
//! 1. Only this thread touches a pool. Others come by [`NodeLink`].
//! 2. What is changed is durable in the state file before it is answered ([`Node::remember`]); where that fails, the
//!    answer says what is so.
//! 3. Changes to the set of pools and their devices come one after the other ([`Inner::changes`]); everything else runs
//!    side by side.
//! 4. No `RefCell` is borrowed across an await.
//!
//! Each operation is a file named by its verb.

mod astray;
mod audit;
mod below;
mod close;
pub mod directory;
mod division;
mod events;
mod exports;
mod growth;
mod health;
mod jobs;
mod levels;
mod link;
mod losses;
mod machine;
mod pattern;
mod pool_add_device;
mod pool_bounds;
mod pool_check;
mod pool_compact;
mod pool_create;
mod pool_delete;
mod pool_evacuate;
mod pool_export;
mod pool_grow;
mod pool_import;
mod pool_list;
mod pool_open;
mod pool_set;
mod pool_survey;
mod promises;
mod reclaim;
mod remember;
mod scan;
mod space;
pub mod state;
mod status;
mod tenant_set;
#[cfg(test)]
mod tests;
mod vdisk_create;
mod vdisk_delete;
mod vdisk_list;
mod vdisk_plan;
mod vdisk_set;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use plimsoll_engine::{Error, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::reactor::{Handle, mailbox};
use uuid::Uuid;

use crate::event::{EventLog, Webhooks};
use crate::model::LastCheckView;
use crate::problem::{Answer, Problem};
pub use exports::Listening;
pub use health::failing_webhooks;
pub use link::NodeLink;
pub(crate) use link::{asked_by, asker};
pub use machine::Device;
pub(crate) use machine::{cannot_open, same_file};
pub use pool_check::{check_view, repair_view};
use state::State;

/// Everything on the reactor's thread. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node(Rc<Inner>);

struct Inner {
    machine: Handle,
    dir: PathBuf,
    started_ms: u64,
    /// Memory for mapping pages per pool.
    cache_bytes: Option<u64>,
    state: RefCell<State>,
    /// Writers of the state file, in turn.
    saving: tokio::sync::Mutex<()>,
    /// Why what has changed last is not in the state file.
    unkept: RefCell<Option<Problem>>,
    /// Whoever changes the set of pools or their devices, in turn.
    changes: tokio::sync::Mutex<()>,
    pools: RefCell<BTreeMap<String, Slot>>,
    jobs: RefCell<jobs::Jobs>,
    /// Pools that the configuration names and nobody has seen yet, and their devices there.
    configured: RefCell<BTreeMap<String, Vec<String>>>,
    /// Where the configuration has pools.
    in_configuration: RefCell<BTreeMap<String, Vec<String>>>,
    /// Of open pools that are served from elsewhere, what to say.
    astray: RefCell<BTreeMap<String, (String, String)>>,
    /// Who looks, one after the other.
    astray_turn: tokio::sync::Mutex<()>,
    /// Paths of devices that may go through the page cache.
    buffered: RefCell<BTreeSet<String>>,
    /// Whether they do, of all that were opened to be served from.
    opened: RefCell<BTreeMap<String, machine::Opened>>,
    exports: exports::Exports,
    events: EventLog,
    /// Pools that were let go: what still comes from them leaves no alarms behind.
    gone: RefCell<BTreeSet<Uuid>>,
    /// Tasks that keep what a pool tells: one, or none.
    listening: RefCell<BTreeMap<Uuid, u32>>,
    listener_ended: tokio::sync::Notify,
    webhooks: Webhooks,
    /// Pools that grow by themselves, and who waits for a change of how.
    growing: RefCell<BTreeMap<Uuid, growth::Growing>>,
    growth_changed: tokio::sync::Notify,
    /// Metadata pages of a pool that were lost before its last repair.
    repaired: RefCell<BTreeMap<Uuid, u64>>,
    audits: audit::Audits,
    /// What the last check of each open pool found.
    checked: RefCell<BTreeMap<Uuid, LastCheckView>>,
    /// Open pools that have more available than there is room for below them.
    below: RefCell<BTreeMap<Uuid, below::Below>>,
    /// Files of open pools that are not where they were.
    files_gone: RefCell<BTreeMap<Uuid, Vec<String>>>,
    /// Files of open pools that are others than those that they were open on before.
    replaced: RefCell<BTreeMap<Uuid, String>>,
    /// What of that was told of a pool.
    below_told: RefCell<BTreeMap<Uuid, below::Told>>,
    ready: Cell<bool>,
    closing: Cell<bool>,
}

/// A pool by its name.
enum Slot {
    Open(Pool<Handle>),
    /// Known from the state file, but not open.
    Unavailable(Problem),
}

impl Node {
    /// A node that remembers in `dir`, which the caller has locked. No pool is open yet.
    ///
    /// # Errors
    /// When the state file is not to be trusted, or events cannot be kept.
    pub fn new(machine: Handle, dir: &Path, cache_bytes: Option<u64>) -> Answer<Self> {
        let state = State::load(dir)?;
        // What of this does not succeed is said when it is needed.
        let _ = state.keep_room(dir);
        let events = EventLog::open(dir)?;
        let devices = state.pools.iter().flat_map(|pool| &pool.devices);
        let buffered = devices.filter(|device| device.buffered).map(|device| device.path.clone()).collect();
        Ok(Self(Rc::new(Inner {
            started_ms: machine.wall_clock_ms(),
            machine,
            dir: dir.to_owned(),
            cache_bytes,
            state: RefCell::new(state),
            saving: tokio::sync::Mutex::new(()),
            unkept: RefCell::default(),
            changes: tokio::sync::Mutex::new(()),
            pools: RefCell::default(),
            jobs: RefCell::default(),
            configured: RefCell::default(),
            in_configuration: RefCell::default(),
            astray: RefCell::default(),
            astray_turn: tokio::sync::Mutex::new(()),
            buffered: RefCell::new(buffered),
            opened: RefCell::default(),
            exports: exports::Exports::default(),
            webhooks: Webhooks::new(events.clone()),
            events,
            gone: RefCell::default(),
            listening: RefCell::default(),
            listener_ended: tokio::sync::Notify::new(),
            growing: RefCell::default(),
            growth_changed: tokio::sync::Notify::new(),
            repaired: RefCell::default(),
            audits: audit::Audits::default(),
            checked: RefCell::default(),
            below: RefCell::default(),
            files_gone: RefCell::default(),
            replaced: RefCell::default(),
            below_told: RefCell::default(),
            ready: Cell::new(false),
            closing: Cell::new(false),
        })))
    }

    /// The way in for other threads.
    pub fn link(&self) -> NodeLink {
        let (sender, mut calls) = mailbox::<link::Call>(&self.0.machine);
        let node = self.clone();
        self.spawn(async move {
            while let Some(call) = calls.recv().await {
                call(&node);
            }
        });
        NodeLink::new(sender, self.0.events.clone(), self.0.webhooks.clone())
    }

    /// The turn to change the set of pools or their devices.
    ///
    /// # Errors
    /// `given-up` when whoever asked waits no more: nothing has begun, and nobody would hear how it ended.
    pub(crate) async fn turn(&self) -> Answer<tokio::sync::MutexGuard<'_, ()>> {
        let turn = self.0.changes.lock().await;
        link::still_wanted()?;
        Ok(turn)
    }

    /// The machine that it runs on.
    pub fn machine(&self) -> &Handle {
        &self.0.machine
    }

    /// Its state directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Says that it serves.
    pub fn set_ready(&self) {
        self.0.ready.set(true);
    }

    /// Whether it serves: everything was opened, and it is not stopping.
    pub fn is_ready(&self) -> bool {
        self.0.ready.get() && !self.0.closing.get()
    }

    /// Whether the embedded default was set up before.
    pub fn embedded_made(&self) -> bool {
        self.0.state.borrow().embedded_made
    }

    /// Remembers that the embedded default was set up.
    ///
    /// # Errors
    /// When the state cannot be kept.
    pub async fn set_embedded_made(&self) -> Answer<()> {
        self.remember(|state| state.embedded_made = true).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.machine.spawn(task);
    }

    /// Runs a task until it ends, or the pool that it is for is closing.
    fn spawn_while_open(&self, pool: &Pool<Handle>, task: impl Future<Output = ()> + 'static) {
        let pool = pool.clone();
        self.spawn(async move {
            tokio::select! {
                () = pool.closed() => {}
                () = task => {}
            }
        });
    }

    /// Runs what may block beside the reactor.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
        self.0.machine.blocking(work).await.map_err(|error| Problem::new("internal", error.to_string()))
    }

    /// The open pool `name`: its name, its UUID or an unambiguous prefix of that.
    fn pool(&self, name: &str) -> Answer<Pool<Handle>> {
        let name = self.pool_name(name)?;
        match self.0.pools.borrow().get(&name) {
            Some(Slot::Open(pool)) => Ok(pool.clone()),
            Some(Slot::Unavailable(reason)) => {
                Err(Problem::new("unavailable", format!("pool {name} is unavailable: {}", reason.detail))
                    .hint(format!("plimsoll pool import --name {name}")))
            }
            None => Err(Problem::not_found("pool", &name)),
        }
    }

    /// The same, unless it takes no changes: for plans, so that they refuse what would be refused.
    ///
    /// # Errors
    /// As [`Node::pool`], and `read-only`.
    fn writable_pool(&self, name: &str) -> Answer<Pool<Handle>> {
        let pool = self.pool(name)?;
        match pool.read_only() {
            Some(reason) => Err(Error::ReadOnly { pool: pool.info().name, reason, cause: None }.into()),
            None => Ok(pool),
        }
    }

    /// The name of the pool that `text` means.
    fn pool_name(&self, text: &str) -> Answer<String> {
        let pools = self.0.pools.borrow();
        if pools.contains_key(text) {
            return Ok(text.to_owned());
        }
        let known = self.0.state.borrow();
        let found = match uuid_prefix(text) {
            Some(prefix) => by_uuid_prefix(&prefix, known.pools.iter().map(|pool| (pool.uuid, pool.name.as_str())))?,
            None => None,
        };
        found.filter(|name| pools.contains_key(name)).ok_or_else(|| {
            let hint = match pools.keys().next() {
                Some(first) => format!("plimsoll pool list (there is {first})"),
                None => "no pool is here; one that was made before: plimsoll pool import PATH...".to_owned(),
            };
            Problem::not_found("pool", text).hint(hint)
        })
    }
}

/// The digits of `text` if it may be a UUID or a prefix of one: at least 4 of them.
fn uuid_prefix(text: &str) -> Option<String> {
    let prefix = text.replace('-', "").to_ascii_lowercase();
    (prefix.len() >= 4 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(prefix)
}

/// What has the only UUID that begins with `prefix`.
fn by_uuid_prefix<'a>(prefix: &str, known: impl Iterator<Item = (Uuid, &'a str)>) -> Answer<Option<String>> {
    let mut found = known.filter(|(uuid, _)| uuid.simple().to_string().starts_with(prefix)).map(|(_, name)| name);
    let first = found.next().map(str::to_owned);
    match (first, found.next()) {
        (Some(first), Some(second)) => {
            Err(Problem::new("conflict", format!("{prefix} may mean {first} or {second}")).hint("give more digits"))
        }
        (first, _) => Ok(first),
    }
}
