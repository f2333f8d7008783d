//! Room below the devices: what becomes of a write, and of a checkpoint, whose device says that the file system that it is a file of is
//! full. Neither has failed: no contents are lost, and nothing was answered. Both wait for room, and ask for it now and then, because
//! nobody tells.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use plimsoll_hardware::{Device, IoError, Machine};

use super::wait_for_space::{Need, RoomFor};
use super::write::Parts;
use super::{Store, VdiskCore};
use crate::error::Result;
use crate::event::Shortage;
use crate::format::{Blocks, ExtentId, VirtualExtent, Word};

/// A flush takes so long at most when a pool is closed without a last checkpoint: its ring may be full as well.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(5);
/// Between two questions whether there is room again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When devices that are full may be asked again.
#[derive(Default)]
pub(crate) struct NextLook(Cell<Duration>);

impl<M: Machine> Store<M> {
    /// A device had no room for a write of `parts`, which has nothing now: makes it worth another try, or waits until it is.
    ///
    /// # Errors
    /// Those of [`Store::hold`], and of moving what is behind a part.
    pub(super) async fn outlast_full(self: &Rc<Self>, parts: &Parts<'_>) -> Result<()> {
        let (vdisk, block_bytes) = (parts.vdisk, self.media.block_bytes());
        let of: Vec<_> = parts.pieces.iter().map(|piece| (piece.at, piece.blocks(block_bytes))).collect();
        let stuck = of.iter().find(|(at, blocks)| self.is_stuck(vdisk, *at, *blocks)).map(|(at, _)| *at);
        match stuck {
            Some(at) if self.space.stuck().is_none() && self.move_off_full(vdisk, at).await? => return Ok(()),
            Some(_) => {}
            // It finds by itself whether there is another extent, and waits as for any that there is not.
            None if of.iter().any(|(at, blocks)| vdisk.needs_extent(*at, *blocks)) => return Ok(()),
            None => {}
        }
        let need = Need { room: RoomFor::Blocks(of), ..self.need(parts, Shortage::DeviceFull) };
        self.hold(vdisk, need, parts.asked).await.map(drop)
    }

    /// Whether `blocks` are to go to an extent of a full device that is the vdisk's already, without all of them.
    fn is_stuck(&self, vdisk: &VdiskCore, at: VirtualExtent, blocks: Blocks) -> bool {
        self.on_full(vdisk, at).is_some_and(|word| !word.valid().contains(blocks))
    }

    /// The word of an extent of a full device.
    fn on_full(&self, vdisk: &VdiskCore, at: VirtualExtent) -> Option<Word> {
        let word = vdisk.mapping.peek(at)?.ok()?;
        (word.is_mapped() && self.is_on_full(word.extent())).then_some(word)
    }

    /// What is still in the way of a write that found no room, or whose record none.
    pub(super) fn lacks_room(&self, vdisk: &VdiskCore, room: &RoomFor) -> Option<Shortage> {
        match room {
            RoomFor::Nothing => None,
            RoomFor::Checkpoint => self.space.is_starved().then_some(Shortage::DeviceFull),
            RoomFor::Blocks(of) if of.iter().any(|(at, blocks)| self.is_stuck(vdisk, *at, *blocks)) => {
                self.space.stuck()
            }
            RoomFor::Blocks(of) => {
                of.iter().any(|(at, _)| self.on_full(vdisk, *at).is_some()).then_some(Shortage::DeviceFull)
            }
        }
    }

    fn is_on_full(&self, extent: ExtentId) -> bool {
        self.media.locate(extent).is_some_and(|(drive, _)| drive.is_full())
    }

    /// Moves what is behind `at` to an extent of which there are all blocks, as far as is known; `false`: there is none.
    async fn move_off_full(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, at: VirtualExtent) -> Result<bool> {
        let before = Cell::new(None);
        let leaves = |extent| {
            before.set(Some(extent));
            self.is_on_full(extent)
        };
        match Box::pin(self.relocate(vdisk, at, &leaves)).await {
            Ok(_) => {}
            Err(error) if error.is_want_of_space() => return Ok(false),
            Err(error) => return Err(error),
        }
        if let Some(extent) = before.get() {
            // It lacks a block, or this would not have been done.
            self.space.set_backed(extent, false);
        }
        Ok(true)
    }

    /// Waits until devices that are full may be asked again.
    pub(crate) async fn until_next_look(&self) {
        let left = self.next_look.0.get().saturating_sub(self.media.machine.now());
        self.media.machine.sleep(left).await;
    }

    /// Asks the devices that are full whether they have room, unless that was just done; answers whether one has.
    pub(crate) async fn look_for_room(&self) -> bool {
        let now = self.media.machine.now();
        if now < self.next_look.0.get() {
            return false;
        }
        let mut some_has = false;
        self.next_look.0.set(now + LOOK_AGAIN);
        for disk in self.media.disks().iter().filter(|disk| disk.is_full()) {
            if self.space.has_room_below(disk).await {
                some_has = true;
                disk.try_again();
                self.space.note_full();
                self.space.ledger.eased.notify();
            }
        }
        some_has
    }

    /// A checkpoint finds no room for a page: waits for some, or for something that may bring it. `false`: the pool is closing, and what
    /// is in its journal has to do.
    pub(crate) async fn starve(self: &Rc<Self>) -> bool {
        if self.closing.get() {
            // So that a journal which only outlives the process is not all there is of what was answered.
            let (flush, late) = (self.journal.flush(), self.media.machine.sleep(LAST_FLUSH_MAX));
            select(pin!(flush), pin!(late)).await;
            return false;
        }
        let eased = self.space.ledger.eased.changed();
        if !self.space.is_starved() {
            self.space.set_starved(true);
            self.note_full_devices();
            // Who waits for this checkpoint may want to know.
            self.checkpoint.done.notify();
        }
        select(pin!(eased), pin!(self.until_next_look())).await;
        self.look_for_room().await;
        self.release_freed();
        true
    }

    /// Has it told which devices have no room, where that is more than a write's concern.
    pub(crate) fn note_full_devices(&self) {
        for disk in self.media.disks().iter().filter(|disk| disk.is_full()) {
            let path = disk.device.geometry().path.clone();
            self.media.trouble.note(&path.clone(), &IoError::NoSpace { path });
        }
    }

    /// Ends when a checkpoint finds no room for its pages.
    pub(crate) async fn starved(&self) {
        while !self.space.is_starved() {
            self.checkpoint.done.changed().await;
        }
    }

    /// Ends when a checkpoint has found no room for so long, of the time since this call.
    pub(super) async fn starved_for(&self, time: Duration) {
        let began = self.media.machine.now();
        loop {
            self.starved().await;
            let waited = self.media.machine.now().saturating_sub(began);
            match time.saturating_sub(self.space.starved_for().min(waited)) {
                Duration::ZERO => return,
                left => self.media.machine.sleep(left).await,
            }
        }
    }

    /// The path of the first device that is full; one may have been found to have room just now.
    pub(crate) fn full_device_path(&self) -> String {
        let disks = self.media.disks();
        let full = disks.iter().find(|disk| disk.is_full()).or(disks.first());
        full.map_or_else(String::new, |disk| disk.device.geometry().path.clone())
    }
}
