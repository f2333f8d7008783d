//! Where the journal's copies can go when the device that they are on leaves: what lies between the ends of a device and its extents.

use std::rc::Rc;

use plimsoll_hardware::{Durability, Machine};

use super::add_device::Growing;
use super::create::clear_ring;
use super::evacuate::Member;
use super::layout::END_BYTES;
use crate::error::{Error, Result};
use crate::format::{PAGE_BYTES, RingPlace, Standing};
use crate::vdisk::Store;

/// Times that the journal's move is begun: one batch that cannot be written to the new place calls it off.
const MOVES_TRIED: u32 = 4;

impl<M: Machine> Store<M> {
    /// Places for the journal's copies with none on `leaving`, on two devices where that can be. Those that are elsewhere stay.
    pub(super) fn new_ring_places(&self, leaving: &Member<M>) -> Result<[RingPlace; 2]> {
        let mut places = self.journal.rings();
        for ring in 0..2 {
            if !leaving.is_at(places[ring].device) {
                continue;
            }
            let other = places[1 - ring];
            let stays =
                |member: &Member<M>| !member.is_at(leaving.drives[0].index) && member.standing() == Standing::InUse;
            let mut members: Vec<_> = self.members().into_iter().filter(stays).collect();
            members.sort_by_key(|member| member.is_at(other.device));
            let pages = places[ring].pages;
            let found = members.iter().find_map(|member| self.free_place(member, pages, &places));
            places[ring] = found.ok_or_else(|| {
                let bytes = pages * PAGE_BYTES as u64;
                Error::InvalidArgument(format!(
                    "a copy of the journal is on {} and no other device has the {bytes} bytes kept for it; add a device of at least \
                     {} bytes (plimsoll pool add-device {} --device PATH)",
                    leaving.path(),
                    16 * bytes,
                    self.identity.name
                ))
            })?;
        }
        Ok(places)
    }

    /// A stretch of `pages` pages of a device that neither extents nor a copy of the journal have.
    fn free_place(&self, member: &Member<M>, pages: u64, rings: &[RingPlace; 2]) -> Option<RingPlace> {
        let page = PAGE_BYTES as u64;
        let per_extent = self.media.extent_bytes / page;
        let end = member.drives[0].slot().size / page - END_BYTES / page;
        let of_extents =
            member.drives.iter().map(|drive| (drive.extents_page, drive.extents_page + drive.extents() * per_extent));
        let of_rings =
            rings.iter().filter(|ring| member.is_at(ring.device)).map(|ring| (ring.page, ring.page + ring.pages));
        let mut used: Vec<(u64, u64)> = of_extents.chain(of_rings).chain([(end, u64::MAX)]).collect();
        used.sort_unstable();
        let mut from = END_BYTES / page;
        for (first, behind) in used {
            if from + pages <= first {
                return Some(RingPlace { device: member.drives[0].index, page: from, pages });
            }
            from = from.max(behind);
        }
        None
    }

    /// Moves the journal's copies off a device, with a checkpoint.
    pub(super) async fn move_rings(self: &Rc<Self>, leaving: &Member<M>) -> Result<()> {
        // Until a root names a place that is free, nobody else may take it.
        let _growing = Growing::wait(self).await?;
        for _ in 0..MOVES_TRIED {
            if leaving.standing() == Standing::InUse {
                // It was decided meanwhile that it stays, and what is on it.
                return Ok(());
            }
            let (old, new) = (self.journal.rings(), self.new_ring_places(leaving)?);
            for ring in new.iter().filter(|ring| !old.contains(ring)) {
                let drive = self.media.drive_at(ring.device)?;
                // By way of the drive, which then knows that it has something to flush before a root names the place.
                let write = async |at, zeros| drive.write(at, zeros, Durability::Cached).await;
                clear_ring(&self.media.machine, ring, write).await?;
                // That root may be of a checkpoint that has begun, whose flush of all else is over.
                drive.flush().await?;
            }
            self.journal.begin_move(new);
            self.after_checkpoint().await?;
            if leaving.journal_copies(self) == 0 {
                break;
            }
        }
        if leaving.journal_copies(self) > 0 {
            return Err(Error::Busy {
                object: format!("the journal of pool {}", self.identity.name),
                reason: format!("it cannot be written to its new place, and stays on {}", leaving.path()),
            });
        }
        tracing::info!(device = leaving.path(), "the journal has left a device");
        Ok(())
    }
}
