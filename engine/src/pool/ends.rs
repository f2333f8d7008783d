//! Labels, roots and journal batches: are all their copies there?

use std::rc::Rc;

use plimsoll_hardware::{Buffer, Device, Durability, Machine};

use super::layout::{label_places, root_places};
use crate::format::{LabelPage, PAGE_BYTES, RootPage};
use crate::media::Drive;
use crate::vdisk::Store;

/// What is missing, a sentence each, and whether it is there again; with `heal` written again from what is known, unless the pool is only
/// looked at. To write, checkpoints must be held up: a root must not be written over a newer one.
pub(super) async fn check<M: Machine>(store: &Rc<Store<M>>, heal: bool) -> Vec<(String, bool)> {
    let mut problems = Vec::new();
    let root = store.root.borrow().clone();
    let whole = super::roots::all_have_ends(&store.media, &root).await;
    problems.extend(whole.as_ref().err().map(|error| (error.to_string(), false)));
    let frozen = !heal || store.inspect || store.media.pages.inspect.get() || whole.is_err();
    let say = |what: String, healed: bool| {
        (format!("{what} is bad; {}", if healed { "written again" } else { "another is good" }), healed)
    };
    // A device that is being added has no root yet, and one that has just left has an old one.
    let disks = super::roots::members(&store.media, &root);
    for (drive, size) in &disks {
        let (path, device) = (drive.device.geometry().path.clone(), drive.slot().device);
        for (copy, place) in label_places(*size).into_iter().enumerate() {
            let page = read(store, drive, place).await;
            let sound = page.is_some_and(|page| LabelPage::decode(&page).is_ok_and(|label| label.device == device));
            if !sound {
                let good = label_places(*size)[1 - copy];
                let mut healed = false;
                if let (false, Some(page)) = (frozen, read(store, drive, good).await)
                    && LabelPage::decode(&page).is_ok()
                {
                    // When this fails the other copy is still good.
                    healed = drive.write(place, page.freeze(), Durability::Cached).await.is_ok();
                }
                problems.push(say(format!("label {copy} of {path}"), healed));
            }
        }
        for (copy, place) in root_places(*size, root.generation).into_iter().enumerate() {
            let page = read(store, drive, place).await;
            let found = page.and_then(|page| RootPage::decode(&page).ok());
            // A crash between the copies of a root leaves some of the one before; the start that follows writes them.
            let left = store.inspect && found.as_ref().is_some_and(|found| is_before(found, &root));
            if found.as_ref() != Some(&root) && !left {
                if store.root.borrow().generation != root.generation {
                    return problems;
                }
                let healed = !frozen && super::roots::write(&store.media, &root).await.is_ok();
                problems.push(say(format!("root {copy} of {path}"), healed));
            }
        }
    }
    let rings = root.ring_places(&store.identity.rings);
    let end = crate::journal::read(&store.media, root.pool, &rings, root.journal, true).await;
    if end.one_sided > 0 {
        let batches = end.one_sided;
        let message = format!("{batches} journal batches were good in one ring only; the next start writes them again");
        problems.push((message, false));
    }
    problems
}

/// Whether a root is what stands in the place of `root` until that is written.
fn is_before(found: &RootPage, root: &RootPage) -> bool {
    found.pool == root.pool && found.generation + 2 == root.generation
}

async fn read<M: Machine>(store: &Rc<Store<M>>, drive: &Drive<M::Device>, place: u64) -> Option<Buffer> {
    let buffer = store.media.buffers().alloc(PAGE_BYTES).await;
    drive.read(place, buffer).await.ok()
}
