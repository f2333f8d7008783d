//! Growing a pool by a device.

use std::rc::Rc;

use plimsoll_hardware::{Device, Machine};

use super::Pool;
use super::create::{device_slot, new_uuid, refuse_used, wipe, write_label};
use super::layout::{lay_out, next_base};
use crate::error::{Error, Result};
use crate::format::{DEVICES_MAX, ExtentId, LabelPage, PAGE_BYTES, WRITTEN_FEATURES};
use crate::media::Drive;
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
        let Some(_growing) = Growing::begin(store) else {
            let object = format!("pool {}", store.identity.name);
            return Err(Error::Busy { object, reason: "another device is being added; try again when it is".into() });
        };
        let machine = store.media.machine.clone();
        let drives = store.media.drives();
        if drives.len() >= DEVICES_MAX {
            let problem = format!("pool {} has {DEVICES_MAX} devices, the most there can be", store.identity.name);
            return Err(Error::InvalidArgument(problem));
        }
        refuse_used(&machine, &device, force).await?;
        let extent_bytes = store.media.extent_bytes as u32;
        let layout = lay_out(device.geometry(), extent_bytes, 0, 0)?;
        let end = drives.last().map_or(0, |drive| drive.slot.extent_base + drive.slot.extents);
        let label = LabelPage {
            features: WRITTEN_FEATURES,
            pool: store.identity.uuid,
            device: new_uuid(&machine),
            index: drives.len() as u16,
            devices: drives.len() as u16 + 1,
            extent_bytes,
            size: device.geometry().size / PAGE_BYTES as u64 * PAGE_BYTES as u64,
            extents_page: layout.extents_page,
            extents: layout.extents,
            extent_base: next_base(end),
            rings: store.identity.rings,
            created_ms: store.identity.created_ms,
            name: store.identity.name.clone(),
        };
        if label.extent_base + label.extents > ExtentId::MAX {
            let problem = format!("pool {} has as many extents as can be numbered", store.identity.name);
            return Err(Error::InvalidArgument(problem));
        }
        wipe(&machine, &device).await?;
        write_label(&machine, &device, &label).await?;
        device.flush().await?;
        // No `await` up to the checkpoint's request: the new extents are known everywhere at once. Until the checkpoint stands
        // a crash forgets the device, and nothing durable names it: first writes to it are records that replay needs it for.
        store.media.push(Drive::new(device, device_slot(&label), store.media.lossy_hook()));
        store.checkpoint.narrow_writes.set(Some(store.space.epochs.advance()));
        store.journal.void_proofs();
        store.after_checkpoint().await?;
        store.space.resize();
        store.space.divide_meta();
        Ok(())
    }
}

/// One device is added at a time.
struct Growing<M: Machine>(Rc<Store<M>>);

impl<M: Machine> Growing<M> {
    fn begin(store: &Rc<Store<M>>) -> Option<Self> {
        (!store.checkpoint.growing.replace(true)).then(|| Growing(store.clone()))
    }
}

impl<M: Machine> Drop for Growing<M> {
    fn drop(&mut self) {
        self.0.checkpoint.growing.set(false);
    }
}
