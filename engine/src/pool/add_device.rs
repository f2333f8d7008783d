//! Growing a pool by a device.

use std::rc::Rc;

use plimsoll_hardware::{Device, Durability, Machine};

use super::Pool;
use super::create::{device_slot, new_uuid, refuse_used, wipe, write_label};
use super::identify::read_label;
use super::layout::{lay_out, next_base, rings_kept};
use super::open::crash_memory_name;
use crate::error::{Error, Result};
use crate::event::SpaceEvent;
use crate::format::{DEVICES_MAX, DeviceSlot, ExtentId, LabelPage, PAGE_BYTES, Standing};
use crate::media::{Disk, Drive};
use crate::vdisk::Store;

impl<M: Machine> Pool<M> {
    /// Adds `device`; its space can be used when this returns. What was on it is lost.
    ///
    /// # Errors
    /// `InUse` when it belongs to a pool and `force` is not set, `TooSmall`, `InvalidArgument` when the pool has 64 devices,
    /// `ReadOnly`, `Device`. The pool is unchanged then.
    pub async fn add_device(&self, device: M::Device, force: bool) -> Result<()> {
        let store = &self.store;
        store.writable()?;
        let _growing = Growing::begin(store)?;
        let machine = store.media.machine.clone();
        let label = self.plan_label(&device, force).await?;
        let index = label.index;
        wipe(&machine, &device, label.size).await?;
        write_label(&machine, &label, async |at, page| device.write(at, page, Durability::Cached).await).await?;
        device.flush().await?;
        // No `await` up to the checkpoint's request: the new extents are known everywhere at once. Until the checkpoint stands
        // a crash forgets the device, and nothing durable names it: first writes to it are records that replay needs it for.
        let path = device.geometry().path.clone();
        let disk = Disk::new(device, &store.media.trouble);
        let drive = Drive::new(disk, index, device_slot(&label));
        // The checkpoint that names it may find room nowhere else: its pages may go there, which nothing names before its root.
        drive.set_joining(true);
        // Of a former time at which it was a member, if it was.
        store.media.machine.remove_crash_memory(&crash_memory_name(store.identity.uuid, &drive.disk.device));
        store.media.put(drive);
        let drive = store.media.drive_at(index)?;
        store.checkpoint.narrow_writes.set(Some(store.space.epochs.advance()));
        store.journal.void_proofs();
        store.space.resize();
        store.space.divide_meta();
        store.after_checkpoint().await?;
        drive.set_joining(false);
        store.space.resize();
        store.space.divide_meta();
        store.checkpoint.members.notify();
        let bytes = label.extents * store.media.extent_bytes;
        self.raise(SpaceEvent::Grown { device: path, bytes });
        Ok(())
    }

    /// Says whether a device can be added, and changes nothing.
    ///
    /// # Errors
    /// As [`Pool::add_device`].
    pub async fn check_add_device(&self, device: &M::Device, force: bool) -> Result<()> {
        self.store.writable()?;
        let _growing = Growing::begin(&self.store)?;
        self.plan_label(device, force).await.map(drop)
    }

    /// What the label of a device will say when it joins.
    async fn plan_label(&self, device: &M::Device, force: bool) -> Result<LabelPage> {
        let store = &self.store;
        let machine = &store.media.machine;
        if let Ok(Some(label)) = read_label(machine, device).await
            && label.pool == store.identity.uuid
            && store.member(label.device).is_ok()
        {
            // Whatever is forced, a member is not wiped.
            let what = format!("device {} of this very pool, {}", label.index, label.name);
            return Err(Error::Busy { object: device.geometry().path.clone(), reason: format!("it is {what}") });
        }
        refuse_used(machine, device, force).await?;
        let extent_bytes = store.media.extent_bytes as u32;
        let ring_pages = store.identity.rings[0].pages;
        let kept = rings_kept(device.geometry().size, ring_pages);
        let layout = lay_out(device.geometry(), extent_bytes, kept, ring_pages)?;
        let (index, extent_base) = self.place_for(layout.extents)?;
        let slot = DeviceSlot {
            device: new_uuid(machine),
            size: device.geometry().size / PAGE_BYTES as u64 * PAGE_BYTES as u64,
            extents_page: layout.extents_page,
            extents: layout.extents,
            extent_base,
            standing: Standing::InUse,
            rate_kib: 0,
        };
        Ok(store.label_of(index, store.media.disks().len() + 1, &slot))
    }

    /// Where in the root's table a stretch of so many extents goes, and its first extent: the place of a device that has left if it
    /// fits between its neighbours' extents, else one behind all.
    pub(super) fn place_for(&self, extents: u64) -> Result<(u16, u64)> {
        let (slots, name) = (self.store.media.slots(), &self.store.identity.name);
        let mut end = 0;
        for (index, slot) in slots.iter().enumerate() {
            if !slot.is_hole() {
                end = slot.end();
                continue;
            }
            let next = slots[index..].iter().find(|slot| !slot.is_hole());
            if next.is_none_or(|next| next_base(end) + extents <= next.extent_base) {
                return check_numbers(name, index as u16, next_base(end), extents);
            }
        }
        if slots.len() >= DEVICES_MAX {
            let problem = format!("pool {name} has {DEVICES_MAX} devices, the most there can be");
            return Err(Error::InvalidArgument(problem));
        }
        check_numbers(name, slots.len() as u16, next_base(end), extents)
    }
}

fn check_numbers(name: &str, index: u16, base: u64, extents: u64) -> Result<(u16, u64)> {
    if base + extents > ExtentId::MAX {
        return Err(Error::InvalidArgument(format!("pool {name} has as many extents as can be numbered")));
    }
    Ok((index, base))
}

/// The devices of a pool change one at a time.
pub(super) struct Growing<M: Machine>(Rc<Store<M>>);

impl<M: Machine> Growing<M> {
    pub(super) fn begin(store: &Rc<Store<M>>) -> Result<Self> {
        if store.checkpoint.growing.replace(true) {
            let object = format!("pool {}", store.identity.name);
            return Err(Error::Busy {
                object,
                reason: "another device is being added or leaves; try again then".into(),
            });
        }
        Ok(Growing(store.clone()))
    }

    /// As [`Growing::begin`], when the change under way has ended.
    pub(super) async fn wait(store: &Rc<Store<M>>) -> Result<Self> {
        loop {
            match Growing::begin(store) {
                Err(Error::Busy { .. }) => store.checkpoint.done.changed().await,
                begun => return begun,
            }
            store.writable()?;
        }
    }
}

impl<M: Machine> Drop for Growing<M> {
    fn drop(&mut self) {
        self.0.checkpoint.growing.set(false);
        self.0.checkpoint.done.notify();
    }
}
