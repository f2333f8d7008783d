//! Labels, roots and journal batches: are all their copies there?

use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::{Buffer, Device, Durability, IoError, Machine};

use super::add_device::Growing;
use super::layout::{label_places, root_places};
use crate::format::{DeviceSlot, LabelPage, PAGE_BYTES, RootPage};
use crate::media::Drive;
use crate::vdisk::Store;

/// Time between two looks at the ends of the devices that nobody asked for.
const LOOK: Duration = Duration::from_secs(5);

impl<M: Machine> Store<M> {
    /// Looks whether the devices still have their ends: at their sizes always, and if it is time at what is there, beside all else, as a
    /// device may hang. Where one has not nothing more is written.
    pub(crate) fn look_at_ends(self: &Rc<Self>) {
        let (next, now) = (&self.alarms.look_at, self.media.machine.now());
        // Nobody may touch what was cut off, whether the pool takes writes or not.
        let measured = self.media.measure();
        if self.inspect || self.read_only.borrow().is_some() {
            return;
        }
        // One that is gone or does not say may be there again; until then its operations tell.
        if let Err(error @ IoError::Shrunk { .. }) = measured {
            self.stop_writing("", error);
            return;
        }
        if now < next.get() {
            return;
        }
        next.set(Duration::MAX);
        let store = self.clone();
        self.media.machine.spawn(async move {
            let root = store.root.borrow().clone();
            let looked = super::roots::all_have_ends(&store.media, &root).await;
            if let Err(error) = looked
                && store.media.disks().iter().any(|disk| disk.is_without_end())
            {
                store.stop_writing("", error);
            }
            mend_labels(&store).await;
            store.alarms.look_at.set(store.media.machine.now() + LOOK);
        });
    }
}

/// Writes labels again that somebody has written over: without one no start knows the device.
async fn mend_labels<M: Machine>(store: &Rc<Store<M>>) {
    if !has_bad_label(store).await {
        return;
    }
    // No device becomes larger, joins or leaves meanwhile: what is at its end may be somebody's data by then.
    let Ok(_growing) = Growing::begin(store) else { return };
    let root = store.root.borrow().clone();
    for (drive, size) in &super::roots::members(&store.media, &root) {
        for copy in 0..2 {
            let place = label_places(*size)[copy];
            if is_written_over(store, drive, place).await && store.writable().is_ok() {
                let written = write_label(store, drive, *size, copy).await;
                let outcome = if written { "it was written again" } else { "it could not be written again" };
                drive.misread(place, &format!("which is its label: {outcome}"));
            }
        }
    }
}

async fn has_bad_label<M: Machine>(store: &Rc<Store<M>>) -> bool {
    let root = store.root.borrow().clone();
    for (drive, size) in &super::roots::members(&store.media, &root) {
        for place in label_places(*size) {
            if is_written_over(store, drive, place).await {
                return true;
            }
        }
    }
    false
}

/// Whether something else is where a label of the device should be; where it cannot be read nobody knows.
async fn is_written_over<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, place: u64) -> bool {
    let found = read(store, drive, place).await;
    found.is_some_and(|page| !LabelPage::decode(&page).is_ok_and(|label| label.device == drive.slot().device))
}

/// Writes a copy of a label from the other one, or as the pool knows it; whether that was done.
async fn write_label<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, size: u64, copy: usize) -> bool {
    let places = label_places(size);
    let page = match label_at(store, drive, places[1 - copy]).await {
        Some(page) => page,
        None => known_label(store, drive, size).await,
    };
    drive.write(places[copy], page.freeze(), Durability::Cached).await.is_ok()
}

/// Something that is missing, in a sentence.
pub(super) enum Problem {
    /// One of two copies, and whether it is there again.
    Copy { message: String, healed: bool },
    /// What no other copy makes up for.
    Lost(String),
}

impl Problem {
    fn of_copy(what: &str, healed: bool, other_is_good: bool) -> Self {
        let outcome = match (healed, other_is_good) {
            (true, _) => "written again",
            (false, true) => "another is good",
            (false, false) => "so is the other",
        };
        Problem::Copy { message: format!("{what} is bad; {outcome}"), healed }
    }
}

/// What is missing; with `heal` written again from what is known, unless the pool is only looked at. To write, checkpoints must be held up:
/// a root must not be written over a newer one.
pub(super) async fn check<M: Machine>(store: &Rc<Store<M>>, heal: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let root = store.root.borrow().clone();
    if let Err(error) = super::roots::all_have_ends(&store.media, &root).await {
        return vec![Problem::Lost(error.to_string())];
    }
    let frozen = !heal || store.inspect || store.media.pages.inspect.get();
    // A device that is being added has no root yet, and one that has just left has an old one.
    let disks = super::roots::members(&store.media, &root);
    for (drive, size) in &disks {
        let path = drive.device.geometry().path.clone();
        let places = label_places(*size);
        for (copy, place) in places.into_iter().enumerate() {
            if label_at(store, drive, place).await.is_some() {
                continue;
            }
            let other_is_good = label_at(store, drive, places[1 - copy]).await.is_some();
            let healed = !frozen && write_label(store, drive, *size, copy).await;
            problems.push(Problem::of_copy(&format!("label {copy} of {path}"), healed, other_is_good));
        }
        let places = root_places(*size, root.generation);
        for (copy, place) in places.into_iter().enumerate() {
            let found = root_at(store, drive, place).await;
            // A crash between the copies of a root leaves some of the one before; the start that follows writes them.
            let left = store.inspect && found.as_ref().is_some_and(|found| is_before(found, &root));
            if found.as_ref() != Some(&root) && !left {
                if store.root.borrow().generation != root.generation {
                    return problems;
                }
                let other_is_good = root_at(store, drive, places[1 - copy]).await.as_ref() == Some(&root);
                let healed =
                    !frozen && super::roots::write(&store.media, &root).await.is_ok_and(|everywhere| everywhere);
                problems.push(Problem::of_copy(&format!("root {copy} of {path}"), healed, other_is_good));
            }
        }
    }
    let rings = root.ring_places(&store.identity.rings);
    let end = crate::journal::read(&store.media, root.pool, &rings, root.journal, true).await;
    if end.one_sided > 0 {
        let batches = end.one_sided;
        let message = format!("{batches} journal batches were good in one ring only; the next start writes them again");
        problems.push(Problem::Copy { message, healed: false });
    }
    problems
}

/// Whether a root is what stands in the place of `root` until that is written.
fn is_before(found: &RootPage, root: &RootPage) -> bool {
    found.pool == root.pool && found.generation + 2 == root.generation
}

/// The device's own label, if it is there.
async fn label_at<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, place: u64) -> Option<Buffer> {
    let page = read(store, drive, place).await?;
    LabelPage::decode(&page).is_ok_and(|label| label.device == drive.slot().device).then_some(page)
}

/// The label of a device as an open pool knows it.
async fn known_label<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, size: u64) -> Buffer {
    let slot = DeviceSlot { size, ..drive.slot() };
    let label = store.label_of(drive.index, store.media.disks().len(), &slot);
    let mut page = store.media.buffers().alloc(PAGE_BYTES).await;
    label.encode(&mut page);
    page
}

async fn root_at<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, place: u64) -> Option<RootPage> {
    RootPage::decode(&read(store, drive, place).await?).ok()
}

async fn read<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, place: u64) -> Option<Buffer> {
    let buffer = store.media.buffers().alloc(PAGE_BYTES).await;
    drive.read(place, buffer).await.ok()
}
