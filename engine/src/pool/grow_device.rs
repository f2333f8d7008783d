//! Using what a device has become larger by.
//!
//! Where nothing but the device's end lies behind its last extents, and no other device's extents follow in the numbering, these
//! become more. Else what is new becomes a further stretch of the device, with a place of its own in the root's table, because the
//! numbers of the others' extents stay. So a file that is enlarged step by step takes two places and not one for each step.
//!
//! 1. The label goes to the new end; flush. The old end stays as it is.
//! 2. A checkpoint whose root has the new size, and is written to the new end, too.
//! 3. The new extents are given out, which may write over the old end; the label at the front is written again.
//!
//! A crash before 2 leaves the device as it was, for a root that knows no other end. After it the front, which a start reads first, and
//! the new end say who it is.

use plimsoll_hardware::{Durability, Machine};
use uuid::Uuid;

use super::Pool;
use super::add_device::Growing;
use super::evacuate::Member;
use super::identify::read_page;
use super::layout::{END_BYTES, label_places, rings_kept};
use crate::error::{Error, Result};
use crate::event::SpaceEvent;
use crate::format::{DeviceSlot, LabelPage, PAGE_BYTES, Standing};
use crate::media::Drive;
use crate::vdisk::Store;

/// What a device that became larger can be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthPlan {
    /// The device.
    pub device: Uuid,
    /// Its path.
    pub path: String,
    /// Bytes that the pool uses of it.
    pub size_bytes: u64,
    /// Bytes that it has.
    pub found_bytes: u64,
    /// Space for extents that it would give the pool.
    pub gained_bytes: u64,
}

/// Where the new extents go.
enum Place {
    /// To the last stretch, which then has so many.
    Behind { index: u16, extents: u64 },
    /// To a stretch of their own.
    Apart { extents_page: u64, extents: u64 },
}

impl<M: Machine> Pool<M> {
    /// What [`Pool::grow_device`] would gain of each device now.
    ///
    /// # Errors
    /// `Device` when a device does not say how large it is.
    pub fn growth_plans(&self) -> Result<Vec<GrowthPlan>> {
        self.store.members().iter().map(|member| self.growth_plan(member).map(|(plan, _)| plan)).collect()
    }

    /// Uses what a device has become larger by; answers the space for extents that the pool has gained, in bytes: 0 when it did not
    /// grow by an extent.
    ///
    /// # Errors
    /// `NotFound`, `Busy` when it is leaving, `InvalidArgument` when the pool has no place for a further stretch, `ReadOnly`,
    /// `Device`. The pool is unchanged then.
    pub async fn grow_device(&self, device: Uuid) -> Result<u64> {
        let store = &self.store;
        store.writable()?;
        store.not_starved()?;
        let _growing = Growing::begin(store)?;
        let member = store.member(device)?;
        if member.standing() != Standing::InUse {
            let reason =
                "it is leaving the pool; cancel that first (plimsoll pool evacuate POOL --device PATH --cancel)";
            return Err(Error::Busy { object: member.path(), reason: reason.into() });
        }
        // Where its end is later, nobody would look for it where it was.
        let root = store.root.borrow().clone();
        let ends = super::roots::all_have_ends(&store.media, &root).await;
        ends.map_err(|error| store.stop_writing("", error))?;
        let (plan, place) = self.growth_plan(&member)?;
        let Some(place) = place else { return Ok(0) };
        let apart = match &place {
            Place::Apart { extents, .. } => Some(self.place_for(*extents)?),
            Place::Behind { .. } => None,
        };
        let label = self.read_own_label(&member).await?;
        let label = LabelPage { size: plan.found_bytes, ..label };
        let [front, end] = label_places(plan.found_bytes);
        write_end(store, &member, end, &label).await?;
        member.disk.flush().await?;
        // No `await` up to the checkpoint's request. The space is not given out before the root stands, so until then nothing durable
        // names it.
        for drive in &member.drives {
            drive.change(|slot| slot.size = plan.found_bytes);
        }
        match (place, apart) {
            (Place::Apart { extents_page, extents }, Some((index, extent_base))) => {
                let slot = DeviceSlot {
                    device,
                    size: plan.found_bytes,
                    extents_page,
                    extents,
                    extent_base,
                    standing: Standing::InUse,
                    rate_kib: 0,
                };
                store.media.put(Drive::new(member.disk.clone(), index, slot));
            }
            (Place::Behind { index, extents }, _) => {
                if let Some(drive) = store.media.drive(index) {
                    drive.change(|slot| slot.extents = extents);
                }
            }
            (Place::Apart { .. }, None) => unreachable!("a stretch apart has a place"),
        }
        store.after_checkpoint().await?;
        store.space.resize();
        store.space.divide_meta();
        let written = async {
            write_label_page(store, &member, front, &label).await?;
            member.disk.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "the label at the front of a device that grew says its former size");
        }
        self.raise(SpaceEvent::Grown { device: plan.path, bytes: plan.gained_bytes });
        Ok(plan.gained_bytes)
    }

    fn growth_plan(&self, member: &Member<M>) -> Result<(GrowthPlan, Option<Place>)> {
        let store = &self.store;
        let page = PAGE_BYTES as u64;
        let size_bytes = member.drives[0].slot().size;
        let found_bytes = (member.disk.measure(size_bytes)? / page * page).max(size_bytes);
        let place = self.place_of_growth(member, found_bytes);
        let gained = match &place {
            None => 0,
            Some(Place::Apart { extents, .. }) => *extents,
            Some(Place::Behind { index, extents }) => {
                extents - store.media.drive(*index).map_or(0, |drive| drive.extents())
            }
        };
        let plan = GrowthPlan {
            device: member.drives[0].slot().device,
            path: member.path(),
            size_bytes,
            found_bytes,
            gained_bytes: gained * store.media.extent_bytes,
        };
        Ok((plan, place))
    }

    fn place_of_growth(&self, member: &Member<M>, size: u64) -> Option<Place> {
        let store = &self.store;
        let page = PAGE_BYTES as u64;
        let per_extent = store.media.extent_bytes / page;
        let ring_pages = store.identity.rings[0].pages;
        let kept = if rings_kept(size, ring_pages) == 2 { ring_pages } else { 0 };
        let end = (size / page).checked_sub(END_BYTES / page + kept)?;
        let last = member.drives.iter().max_by_key(|drive| drive.extents_page)?;
        let behind = last.extents_page + last.extents() * per_extent;
        let is_last = store.media.drives().iter().all(|other| other.extent_base <= last.extent_base);
        let mut rings = store.journal.rings().into_iter().filter(|ring| member.is_at(ring.device));
        if is_last && !rings.any(|ring| ring.page >= behind) {
            let extents = end.checked_sub(last.extents_page)? / per_extent;
            return (extents > last.extents()).then_some(Place::Behind { index: last.index, extents });
        }
        let extents_page = (member.drives[0].slot().size / page).next_multiple_of(per_extent);
        let extents = end.checked_sub(extents_page)? / per_extent;
        (extents > 0).then_some(Place::Apart { extents_page, extents })
    }

    /// The label as one of its copies says it.
    async fn read_own_label(&self, member: &Member<M>) -> Result<LabelPage> {
        let slot = member.drives[0].slot();
        for place in label_places(slot.size) {
            let page = read_page(&self.store.media.machine, &member.disk.device, place).await?;
            if let Some(label) = LabelPage::decode(&page).ok().filter(|label| label.device == slot.device) {
                return Ok(label);
            }
        }
        let reason = "both copies of its label are bad; plimsoll pool check says what else is";
        Err(Error::NotAPool { path: member.path(), reason: reason.into() })
    }
}

/// Zeros the end of a device at `place`, and writes its label there.
async fn write_end<M: Machine>(store: &Store<M>, member: &Member<M>, place: u64, label: &LabelPage) -> Result<()> {
    let mut end = store.media.buffers().alloc(END_BYTES as usize).await;
    end.fill(0);
    label.encode(&mut end[..PAGE_BYTES]);
    Ok(member.disk.write(place, end.freeze(), Durability::Cached).await?)
}

async fn write_label_page<M: Machine>(
    store: &Store<M>,
    member: &Member<M>,
    place: u64,
    label: &LabelPage,
) -> std::result::Result<(), plimsoll_hardware::IoError> {
    let mut page = store.media.buffers().alloc(PAGE_BYTES).await;
    label.encode(&mut page);
    member.disk.write(place, page.freeze(), Durability::Cached).await
}
