//! Emptying a device: what is on it moves elsewhere, while everything goes on.
//!
//! A device that is *leaving* gets nothing new from the instant that this is decided; its state is in the root, so a start after a
//! crash goes on with it. The work itself is a job (`move_out.rs`).

use std::rc::Rc;

use plimsoll_hardware::{Device, Machine};
use uuid::Uuid;

use super::add_device::Growing;
use super::{JobInfo, Pool};
use crate::error::{Error, Result};
use crate::format::{RATE_UNLIMITED, Standing};
use crate::media::{Disk, Drive};
use crate::vdisk::Store;

/// How a device is emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evacuate {
    /// Bytes of data moved in a second at most, in whole KiB; 0 is as fast as it goes. `None` leaves the pace as it is; what begins goes at
    /// 256 MiB a second then, and faster while writes wait for space.
    pub rate: Option<u64>,
}

/// What emptying a device would come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvacuationPlan {
    /// The device's path.
    pub device: String,
    /// Bytes that have to move, data and metadata.
    pub needed_bytes: u64,
    /// Bytes that are free elsewhere, beyond the metadata reserve.
    pub free_bytes: u64,
    /// Bytes that are missing for that, and for what the rest has promised; 0 when it fits.
    pub missing_bytes: u64,
    /// Copies of the journal that have to move.
    pub journal_copies: u32,
}

/// A device with all of its stretches.
pub(super) struct Member<M: Machine> {
    pub(super) disk: Rc<Disk<M::Device>>,
    pub(super) drives: Vec<Rc<Drive<M::Device>>>,
}

impl<M: Machine> Clone for Member<M> {
    fn clone(&self) -> Self {
        Member { disk: self.disk.clone(), drives: self.drives.clone() }
    }
}

impl<M: Machine> Member<M> {
    pub(super) fn path(&self) -> String {
        self.disk.device.geometry().path.clone()
    }

    pub(super) fn standing(&self) -> Standing {
        self.drives[0].slot().standing
    }

    pub(super) fn has_group(&self, group: u64) -> bool {
        self.drives.iter().any(|drive| drive.groups().contains(&group))
    }

    /// Whether a place of the root's table is one of its.
    pub(super) fn is_at(&self, index: u16) -> bool {
        self.drives.iter().any(|drive| drive.index == index)
    }

    /// Extents of it that are not free.
    pub(super) fn taken(&self, store: &Store<M>) -> u64 {
        self.drives.iter().map(|drive| store.space.taken_in(drive.groups())).sum()
    }

    /// Copies of the journal that are on it.
    pub(super) fn journal_copies(&self, store: &Store<M>) -> u32 {
        store.journal.rings().iter().filter(|ring| self.is_at(ring.device)).count() as u32
    }

    fn set(&self, store: &Store<M>, standing: Standing, rate_kib: u32) {
        for drive in &self.drives {
            drive.change(|slot| (slot.standing, slot.rate_kib) = (standing, rate_kib));
        }
        store.space.resize();
        // Groups that were closed without having been read are known by their summaries.
        store.space.adopt_summaries();
        store.space.divide_meta();
    }
}

impl<M: Machine> Store<M> {
    /// The pool's devices.
    pub(super) fn members(&self) -> Vec<Member<M>> {
        let drives = self.media.drives();
        let of = |disk: Rc<Disk<M::Device>>| {
            let drives = drives.iter().filter(|drive| drive.is_of(&disk)).cloned().collect();
            Member { disk, drives }
        };
        self.media.disks().into_iter().map(of).collect()
    }

    pub(super) fn member(&self, device: Uuid) -> Result<Member<M>> {
        let found = self.members().into_iter().find(|member| member.drives[0].slot().device == device);
        found.ok_or_else(|| Error::NotFound { kind: "device", name: format!("{}/{device}", self.identity.name) })
    }

    /// Closes a device and looks whether the rest has room for what is on it; opens it again when it has not, or for a plan.
    fn close(&self, member: &Member<M>, leave: Standing, rate_kib: u32, keep: bool) -> Result<EvacuationPlan> {
        let pool = &self.identity.name;
        let slot = member.drives[0].slot();
        let stays = |other: &Member<M>| !Rc::ptr_eq(&other.disk, &member.disk) && other.standing() == Standing::InUse;
        if !self.members().iter().any(stays) {
            let problem = format!(
                "{} is the last device of pool {pool}; add another first (plimsoll pool add-device {pool} --device PATH)",
                member.path()
            );
            return Err(Error::InvalidArgument(problem));
        }
        if member.drives.iter().any(|drive| self.space.has_lost(drive.groups())) {
            let object = member.path();
            let reason = format!("allocation groups on it are damaged; see plimsoll pool check {pool} --repair");
            return Err(Error::Busy { object, reason });
        }
        member.set(self, leave, rate_kib);
        let taken = member.taken(self);
        let plan = EvacuationPlan {
            device: member.path(),
            needed_bytes: taken * self.media.extent_bytes,
            free_bytes: self.space.available() * self.media.extent_bytes,
            missing_bytes: self.space.missing_for(taken) * self.media.extent_bytes,
            journal_copies: member.journal_copies(self),
        };
        let places = self.new_ring_places(member);
        if !keep || plan.missing_bytes > 0 || places.is_err() {
            member.set(self, slot.standing, slot.rate_kib);
        }
        places.map(|_| plan)
    }
}

impl<M: Machine> Pool<M> {
    /// What [`Pool::evacuate_device`] would come to now.
    ///
    /// # Errors
    /// As there, but for `WouldNotFit`, which the plan says.
    pub async fn evacuation_plan(&self, device: Uuid) -> Result<EvacuationPlan> {
        let store = &self.store;
        store.writable()?;
        store.not_starved()?;
        let _growing = Growing::begin(store)?;
        let member = store.member(device)?;
        store.free_quarantine().await?;
        store.close(&member, Standing::Leaving { remove: false }, 0, false)
    }

    /// Empties a device: nothing new goes to it when this returns, also after a crash, and the job that is answered moves what is on
    /// it elsewhere. When that has ended the device is still a member: [`Pool::remove_device`] lets it go, and
    /// [`Pool::cancel_evacuation`] keeps it.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for the last device, and when the journal has no other place, `WouldNotFit`, `Busy` (also while no
    /// checkpoint can be written, because the file system below a device is full), `ReadOnly`, `Device`. The pool is unchanged then.
    pub async fn evacuate_device(&self, device: Uuid, how: Evacuate) -> Result<JobInfo> {
        self.leave(device, how, false).await
    }

    /// Takes a device out of the pool: empties it as [`Pool::evacuate_device`] does, if it is not empty, then lets it go and wipes its
    /// labels. The job that is answered ends when it is no member any more.
    ///
    /// # Errors
    /// As [`Pool::evacuate_device`].
    pub async fn remove_device(&self, device: Uuid, how: Evacuate) -> Result<JobInfo> {
        self.leave(device, how, true).await
    }

    async fn leave(&self, device: Uuid, how: Evacuate, remove: bool) -> Result<JobInfo> {
        let store = &self.store;
        store.writable()?;
        store.not_starved()?;
        let _growing = Growing::begin(store)?;
        let member = store.member(device)?;
        let before = (member.standing(), member.drives[0].slot().rate_kib);
        let rate_kib = how.rate.map_or(before.1, kib);
        let leaving = Standing::Leaving { remove };
        match member.standing() {
            Standing::InUse => {
                store.free_quarantine().await?;
                let plan = store.close(&member, leaving, rate_kib, true)?;
                if plan.missing_bytes > 0 {
                    return Err(Error::WouldNotFit {
                        pool: store.identity.name.clone(),
                        device: plan.device,
                        needed: plan.needed_bytes,
                        free: plan.free_bytes,
                        missing: plan.missing_bytes,
                    });
                }
            }
            before => {
                // An evacuation may become a removal, and not the other way round.
                let leaving = if before == (Standing::Leaving { remove: true }) { before } else { leaving };
                member.drives.iter().for_each(|drive| {
                    drive.change(|slot| (slot.standing, slot.rate_kib) = (leaving, rate_kib));
                });
            }
        }
        if let Err(error) = store.unless_starved(store.after_checkpoint()).await {
            member.set(store, before.0, before.1);
            return Err(error);
        }
        Ok(store.start_moving_out(&member))
    }

    /// Changes how fast a device is emptied, at once.
    ///
    /// # Errors
    /// `NotFound`, `Busy` when it is not being emptied, `ReadOnly`.
    pub async fn set_evacuation_rate(&self, device: Uuid, how: Evacuate) -> Result<()> {
        let store = &self.store;
        store.writable()?;
        let member = store.member(device)?;
        if member.standing() == Standing::InUse {
            return Err(Error::Busy { object: member.path(), reason: "it is not being evacuated".into() });
        }
        if let Some(rate) = how.rate {
            member.drives.iter().for_each(|drive| drive.change(|slot| slot.rate_kib = kib(rate)));
        }
        store.unless_starved(store.after_checkpoint()).await
    }

    /// Keeps a device that was leaving. What has moved stays where it is now.
    ///
    /// # Errors
    /// `NotFound`, `Busy` when it is not being emptied or is just being let go, `ReadOnly`, `Device`.
    pub async fn cancel_evacuation(&self, device: Uuid) -> Result<()> {
        let store = &self.store;
        store.writable()?;
        let _growing = Growing::begin(store)?;
        let member = store.member(device)?;
        if member.standing() == Standing::InUse {
            return Err(Error::Busy { object: member.path(), reason: "it is not being evacuated".into() });
        }
        member.set(store, Standing::InUse, 0);
        store.unless_starved(store.after_checkpoint()).await?;
        store.release_freed();
        Ok(())
    }
}

impl<M: Machine> Store<M> {
    /// Makes freed extents free that only wait for their records to be durable.
    async fn free_quarantine(self: &Rc<Self>) -> Result<()> {
        if self.space.quarantined() > 0 {
            self.flush_journal().await?;
            self.release_freed();
        }
        Ok(())
    }
}

/// A pace in KiB a second as the root has it.
fn kib(rate: u64) -> u32 {
    match rate {
        0 => RATE_UNLIMITED,
        rate => u32::try_from(rate.div_ceil(1024)).unwrap_or(RATE_UNLIMITED),
    }
}
