//! Creating, finding and deleting vdisks, and how entries change. Each is one record, durable before it is answered.

use std::rc::Rc;

use plimsoll_hardware::Machine;
use uuid::Uuid;

use super::create::{check_name, new_uuid};
use super::{JobInfo, Pool};
use crate::error::{Error, Result};
use crate::format::{Entry, EntryState, Record, TreeRoot, VDISK_BYTES_MAX, VdiskId, VdiskPolicy};
use crate::vdisk::{PUT_BYTES, Store, Vdisk, VdiskCore, VdiskInfo};

/// Dirty pages of a change to the vdisk table: a page and the nodes above it.
const TABLE_PAGES: usize = 6;
/// Jobs remembered after they have ended.
const JOBS_MAX: usize = 64;

/// A vdisk to be made.
#[derive(Clone, Debug)]
pub struct CreateVdisk {
    /// Its name; rules as for a pool's.
    pub name: String,
    /// Designated size in bytes: a multiple of the sector, at most 16 PiB.
    pub size: u64,
    /// Sector size in bytes: 512 or 4096.
    pub sector: u32,
    /// Flush every write before it is answered.
    pub write_through: bool,
    /// Whose it is, what is promised to it, and what becomes of its writes when there is no space.
    pub policy: VdiskPolicy,
}

impl<M: Machine> Store<M> {
    /// Changes an entry, in memory and with a record, and waits until that is durable.
    pub(super) async fn put_entry(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        change: impl FnOnce(Entry) -> Result<Entry>,
    ) -> Result<()> {
        self.change_entry(vdisk, change).await
    }

    /// As [`Store::put_entry`], refused with errors of the caller's own.
    pub(super) async fn change_entry<E: From<Error>>(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        change: impl FnOnce(Entry) -> Result<Entry, E>,
    ) -> Result<(), E> {
        let _room = self.room(TABLE_PAGES).await?;
        let mut permit = self.permit(PUT_BYTES).await?;
        // No `await` from the look at the entry to the change.
        let entry = change(vdisk.entry.borrow().clone())?;
        self.put_now(vdisk, entry, &mut permit);
        drop(permit);
        Ok(self.flush_journal().await?)
    }

    fn put_now(&self, vdisk: &Rc<VdiskCore>, entry: Entry, permit: &mut crate::journal::Permit<M>) {
        // The tree's root belongs to checkpoints: only they know where it is.
        let tree = vdisk.entry.borrow().tree;
        vdisk.update(Entry { tree, ..entry });
        self.put_in_force(vdisk);
        self.put_in_table(vdisk);
        let entry = Box::new(vdisk.entry.borrow().clone());
        self.journal.append(permit, &[Record::Put { vdisk: vdisk.id, entry }]);
    }

    fn free_id(&self) -> VdiskId {
        let vdisks = self.vdisks.borrow();
        let mut free = VdiskId(self.free_from.get());
        // The identifiers on a lost page of the table are its vdisks', whoever they were.
        while vdisks.contains_key(&free) || self.is_table_lost(free) {
            free.0 += 1;
        }
        self.free_from.set(free.0);
        free
    }

    pub(super) fn check_size(&self, size: u64, sector: u32) -> Result<()> {
        let problem = if size == 0 {
            "a vdisk of 0 bytes makes no sense".to_owned()
        } else if size > VDISK_BYTES_MAX {
            format!("{size} bytes are more than a vdisk can have ({VDISK_BYTES_MAX}, 16 PiB)")
        } else if !size.is_multiple_of(u64::from(sector)) {
            format!("{size} bytes are no multiple of the sector size, {sector}")
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument(problem))
    }

    fn check_spec(&self, spec: &CreateVdisk) -> Result<()> {
        check_name("vdisk", &spec.name)?;
        if !matches!(spec.sector, 512 | 4096) {
            let problem = format!("a sector of {} bytes cannot be used: 512 or 4096", spec.sector);
            return Err(Error::InvalidArgument(problem));
        }
        self.check_size(spec.size, spec.sector)?;
        super::policy::verify(&spec.policy)?;
        self.writable()?;
        self.has_space()
    }

    /// Whether there is any space for what needs metadata that was never written.
    ///
    /// # Errors
    /// `OutOfSpace`.
    pub(super) fn has_space(&self) -> Result<()> {
        match self.space.available() {
            0 => Err(Error::OutOfSpace { pool: self.identity.name.clone(), needed: 1, free: 0 }),
            _ => Ok(()),
        }
    }

    /// A vdisk that nobody knows yet, whose name is free and whose promises can be kept.
    fn new_vdisk(&self, spec: &CreateVdisk) -> Result<Rc<VdiskCore>> {
        if self.names.borrow().contains_key(&spec.name) {
            let name = format!("{}/{}", self.identity.name, spec.name);
            return Err(Error::Exists { kind: "vdisk", name });
        }
        let entry = Entry {
            state: EntryState::Ready,
            write_through: spec.write_through,
            sector: spec.sector,
            size: spec.size,
            uuid: new_uuid(&self.media.machine),
            created_ms: self.media.machine.wall_clock_ms(),
            backed: 0,
            discard_from: 0,
            name: spec.name.clone(),
            tree: TreeRoot::EMPTY,
            policy: spec.policy.clone(),
            reclaim: None,
            pattern: None,
        };
        let vdisk = VdiskCore::new(self.free_id(), entry.clone(), self.counts.clone());
        self.check_promises(&vdisk, None, &entry)?;
        Ok(vdisk)
    }
}

impl<M: Machine> Pool<M> {
    /// Makes a vdisk, which reads as zeros and has no space behind it.
    ///
    /// # Errors
    /// `InvalidArgument`, `Exists`, `OutOfSpace` when there is no room for its metadata, `ReadOnly`, `Device`.
    pub async fn create_vdisk(&self, spec: CreateVdisk) -> Result<VdiskInfo> {
        let store = &self.store;
        store.check_spec(&spec)?;
        let _room = store.room(TABLE_PAGES).await?;
        let mut permit = store.permit(PUT_BYTES).await?;
        // No `await` from here to the change: two that are asked for together cannot both have what is there once.
        let vdisk = store.new_vdisk(&spec)?;
        let entry = vdisk.entry.borrow().clone();
        store.vdisks.borrow_mut().insert(vdisk.id, vdisk.clone());
        store.names.borrow_mut().insert(spec.name, vdisk.id);
        store.put_now(&vdisk, entry, &mut permit);
        drop(permit);
        store.flush_journal().await?;
        Ok(vdisk.info(store.media.extent_bytes))
    }

    /// Says whether a vdisk can be made, and changes nothing.
    ///
    /// # Errors
    /// As [`Pool::create_vdisk`].
    pub fn check_create_vdisk(&self, spec: &CreateVdisk) -> Result<()> {
        self.store.check_spec(spec)?;
        self.store.new_vdisk(spec).map(drop)
    }

    /// All vdisks, by name; those being deleted too. Who wants to know of one asks [`Pool::vdisk`]: this copies them all.
    pub fn vdisks(&self) -> Vec<VdiskInfo> {
        let extent_bytes = self.store.media.extent_bytes;
        let mut vdisks: Vec<_> = self.store.vdisks.borrow().values().map(|vdisk| vdisk.info(extent_bytes)).collect();
        vdisks.sort_by(|a, b| a.name.cmp(&b.name));
        vdisks
    }

    /// The vdisk of this name or UUID. By name it costs the same however many vdisks there are.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vdisk(&self, name: &str) -> Result<Vdisk<M>> {
        Ok(Vdisk::new(self.store.clone(), self.find(name)?))
    }

    pub(super) fn find(&self, name: &str) -> Result<Rc<VdiskCore>> {
        let by_name = self.store.names.borrow().get(name).copied();
        let vdisks = self.store.vdisks.borrow();
        let found = match by_name {
            Some(id) => vdisks.get(&id).cloned(),
            None => Uuid::parse_str(name)
                .ok()
                .and_then(|uuid| vdisks.values().find(|vdisk| vdisk.entry.borrow().uuid == uuid).cloned()),
        };
        found.filter(|vdisk| vdisk.ready.get()).ok_or_else(|| {
            let name = format!("{}/{name}", self.store.identity.name);
            Error::NotFound { kind: "vdisk", name }
        })
    }

    /// Deletes a vdisk: it is gone when this returns, and its space comes back in the job that is answered.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `Device`.
    pub async fn delete_vdisk(&self, name: &str) -> Result<JobInfo> {
        let store = &self.store;
        let vdisk = self.find(name)?;
        store.writable()?;
        let entry = Entry { state: EntryState::Deleting, ..vdisk.entry.borrow().clone() };
        let name = entry.name.clone();
        let _room = store.room(TABLE_PAGES).await?;
        let mut permit = store.permit(PUT_BYTES).await?;
        if !vdisk.ready.get() {
            return Err(Error::NotFound { kind: "vdisk", name: format!("{}/{name}", store.identity.name) });
        }
        store.names.borrow_mut().remove(&name);
        store.put_now(&vdisk, entry, &mut permit);
        store.holds.look_again();
        store.forget_reclaim(&vdisk);
        drop((permit, _room));
        store.flush_journal().await?;
        Ok(store.start_giving_back(&vdisk))
    }

    /// Jobs that run, and the last ones that have ended.
    pub fn jobs(&self) -> Vec<JobInfo> {
        self.store.jobs.borrow().iter().map(|job| job.info()).collect()
    }
}

impl<M: Machine> Store<M> {
    /// The pool's job of this kind that is under way.
    pub(super) fn running_job(&self, kind: &str) -> Option<Rc<super::Job>> {
        let jobs = self.jobs.borrow();
        jobs.iter().find(|job| job.is_running() && job.is_of(kind, &self.identity.name)).cloned()
    }

    pub(super) fn add_job(&self, kind: &'static str, object: String, total: u64) -> Rc<super::Job> {
        let mut jobs = self.jobs.borrow_mut();
        let id = jobs.back().map_or_else(|| self.media.machine.wall_clock_ms(), |job| job.info().id + 1);
        let job = Rc::new(super::Job::new(id, kind, object, total));
        jobs.push_back(job.clone());
        while jobs.len() > JOBS_MAX {
            let Some(ended) = jobs.iter().position(|job| job.has_ended()) else { break };
            jobs.remove(ended);
        }
        job
    }
}
