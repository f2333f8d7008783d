//! Reading and writing roots.

use std::rc::Rc;

use plimsoll_hardware::{Device, Durability, IoError, Machine};
use uuid::Uuid;

use super::identify::read_page;
use super::layout::{END_PAGES, label_places, root_places};
use crate::format::{PAGE_BYTES, RootPage};
use crate::media::{Drive, Media};

/// What the devices of a pool have for roots.
pub(super) struct Roots {
    /// The newest that any of them has.
    pub(super) newest: Option<RootPage>,
    /// Some copy of it is missing.
    pub(super) incomplete: bool,
    /// The newest generation of each device; none where no root can be read.
    pub(super) generations: Vec<Option<u64>>,
    /// Devices with no root at all where a copy of the newest should be.
    pub(super) bad: Vec<String>,
}

/// Reads all roots of devices with these sizes, by their labels. Fails only when a device is gone.
pub(super) async fn read_newest<M: Machine>(
    machine: &M,
    devices: &[(&M::Device, u64)],
    pool: Uuid,
) -> Result<Roots, IoError> {
    let mut newest: Option<RootPage> = None;
    let mut copies = 0;
    let mut generations = vec![None; devices.len()];
    let mut none = Vec::new();
    for ((device, labelled), generation) in devices.iter().zip(&mut generations) {
        // A device that grew has an end where nothing of ours is yet, or a label that does not know of it.
        let mut ends: Vec<u64> =
            label_places(*labelled).into_iter().chain(label_places(device.geometry().size)).collect();
        ends.sort_unstable();
        ends.dedup();
        for label in ends {
            for slot in 1..=2u64 {
                let place = label + slot * PAGE_BYTES as u64;
                let page = match read_page(machine, device, place).await {
                    Ok(page) => page,
                    Err(gone @ IoError::Gone { .. }) => return Err(gone),
                    Err(_) => continue,
                };
                let Ok(root) = RootPage::decode(&page) else {
                    none.push((*device, *labelled, place));
                    continue;
                };
                if root.pool != pool {
                    continue;
                }
                *generation = Some(root.generation).max(*generation);
                match &newest {
                    Some(known) if known.generation > root.generation => {}
                    Some(known) if known.generation == root.generation => copies += 1,
                    _ => {
                        newest = Some(root);
                        copies = 1;
                    }
                }
            }
        }
    }
    let should_be =
        |size: u64, place: u64| newest.as_ref().is_some_and(|root| root_places(size, root.generation).contains(&place));
    none.retain(|(_, size, place)| should_be(*size, *place));
    let bad = none.into_iter().map(|(device, ..)| device.geometry().path.clone()).collect();
    Ok(Roots { newest, incomplete: copies < 2 * devices.len(), generations, bad })
}

/// The devices that a root names and their sizes: the first stretch of each.
pub(super) fn members<M: Machine>(media: &Media<M>, root: &RootPage) -> Vec<(Rc<Drive<M::Device>>, u64)> {
    let mut members: Vec<(Rc<Drive<M::Device>>, u64)> = Vec::new();
    for (index, slot) in root.devices.iter().enumerate() {
        let Some(drive) = media.drive(index as u16).filter(|drive| drive.slot().device == slot.device) else {
            continue;
        };
        if !members.iter().any(|(member, _)| member.is_of(&drive.disk)) {
            members.push((drive, slot.size));
        }
    }
    members
}

/// Whether every device still has what the pool uses of it: as many bytes, and not only zeros at its end where a label and roots were when
/// this looked last. Those mean that the end was cut off and made long again, or thrown away, by somebody else. An end that was never seen
/// proves nothing: its label may have been lost on the way.
pub(super) async fn all_have_ends<M: Machine>(media: &Media<M>, root: &RootPage) -> Result<(), IoError> {
    media.measure()?;
    for (drive, size) in members(media, root) {
        let (offset, pages) = (label_places(size)[1], media.buffers().alloc(END_PAGES * PAGE_BYTES).await);
        // One that cannot be read says nothing.
        let Ok(pages) = drive.read(offset, pages).await else { continue };
        if pages.iter().any(|byte| *byte != 0) {
            drive.end_seen_at.set(offset);
        } else if drive.end_seen_at.get() == offset && media.disks().iter().any(|disk| drive.is_of(disk)) {
            return Err(drive.lose_end(offset));
        }
    }
    Ok(())
}

/// Writes a root to both of its places on every device. A place that fails is tried again, then left, as long as the device has the
/// root in the other: one that missed two of them in a row would pass for an old copy. Answers whether it is in all places.
pub(super) async fn write<M: Machine>(media: &Media<M>, root: &RootPage) -> Result<bool, IoError> {
    // A write at its very end would make a file that was cut off as long as it was, and hide that it was. Nothing else is written there.
    all_have_ends(media, root).await?;
    let mut everywhere = true;
    for (drive, size) in members(media, root) {
        let (mut written, mut failure) = (0, None);
        for place in root_places(size, root.generation) {
            let mut page = media.buffers().alloc(PAGE_BYTES).await;
            root.encode(&mut page);
            let page = page.freeze();
            for _ in 0..3 {
                match drive.write(place, page.clone(), Durability::Cached).await {
                    Ok(()) => {
                        written += 1;
                        break;
                    }
                    Err(error) => failure = Some(error),
                }
            }
        }
        match failure {
            Some(error) if written == 0 => return Err(error),
            Some(error) if written == 1 => {
                everywhere = false;
                tracing::warn!(%error, "a copy of the root could not be written");
            }
            _ => {}
        }
    }
    Ok(everywhere)
}
