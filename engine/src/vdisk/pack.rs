//! Words that share an extent: putting thinly used extents of a leaf together, moving what shares one, and taking a word out again.
//!
//! All three are one change ([`Remapping`]), of words that are claimed whole (no first write is under way to them) and watched with
//! overwrites held for the time of a copy:
//! 1. copy the blocks of the words to their places in another extent;
//! 2. at one instant, if the words are as they were: words, groups and one REMAP record change together.
//!
//! *Packing* copies to places of an extent in use that nobody names. No start may come to a state in which somebody does: so first
//! every record before is confirmed and every operation under way has ended, and the claims stand until the REMAP itself is confirmed.
//! The words that have the host are claimed too: while one that is has it still, it has not been freed and given to somebody else.
//! To a packed word nothing is written for the first time: it is taken out before. So nothing but overwrites and discards ever meets
//! a REMAP in doubt, and the places of a packed extent that are not named stay free until this job fills them.
//!
//! What a packed word leaves rests until that is confirmed: others may leave the same extent by a record that a start drops.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::future::join_all;
use plimsoll_hardware::{Durability, Frozen, IoError, Machine};

use super::plan::Refused;
use super::relocate::{Hold, Relocated};
use super::ticket::Asked;
use super::wait_for_space::{Grant, Need, RoomFor};
use super::write::InFlight;
use super::{Store, VdiskCore, count};
use crate::error::{Error, Result};
use crate::event::Shortage;
use crate::format::{Blocks, ExtentId, GROUP_EXTENTS, Leaf, Record, VirtualExtent, Word, remap_record_bytes};
use crate::journal::{Gate, Permit};
use crate::mapping::Packing;
use crate::space::Rest;
use crate::tree::Found;

/// Dirty pages that one remapping may cause beside groups: a leaf, the nodes above it, a table page and its node, two groups' nodes.
const PAGES: usize = 12;
/// Times that discards may spoil a copy before it is left for another time.
const ATTEMPTS: u32 = 4;

/// How a word is to lie in its new extent.
#[derive(Clone, Copy)]
enum Lay {
    /// It is there already, and shares it from now on.
    Stays,
    /// Beside others, turned by so many blocks.
    Packed(u32),
    /// Alone.
    Alone,
}

/// A word to be changed.
struct Rider<M: Machine> {
    hold: Hold<M>,
    lay: Lay,
}

/// Where the words go, and what becomes of the space.
#[derive(Clone, Copy)]
enum Goal {
    /// To places of an extent in use; to these at most.
    Host(Blocks),
    /// All words of an extent to another one, which no account knows of.
    Elsewhere,
    /// To an extent of its own, which was taken for it.
    Own,
}

/// Words of a leaf that are to be in another extent.
struct Remapping<'a, M: Machine> {
    store: &'a Rc<Store<M>>,
    vdisk: &'a Rc<VdiskCore>,
    leaf: u64,
    riders: Vec<Rider<M>>,
    to: ExtentId,
    goal: Goal,
    /// The extent that was taken for it is in use, or being written: it is not given back.
    used: Option<&'a Cell<bool>>,
}

/// The contents of blocks, by their place in the extent where they go.
type Contents = Vec<(u32, Frozen)>;

impl<M: Machine> Store<M> {
    /// Carries out what was planned for a leaf, as far as it is as it was. Answers how many extents came free.
    pub(crate) async fn pack(self: &Rc<Self>, vdisk: &Rc<VdiskCore>, leaf: u64, plan: &[Packing]) -> Result<u64> {
        self.writable()?;
        let words = |packing: &Packing| packing.guests.len() + packing.owners.len();
        let groups = plan.iter().map(words).sum::<usize>().min(self.space.group_count() as usize);
        let _room = self.room(PAGES + groups).await?;
        let mut permit = self.permit(plan.iter().map(|packing| remap_record_bytes(words(packing))).sum()).await?;
        let mut packings = self.board(vdisk, leaf, plan).await?;
        // What is free in a host now must be free in every state that a start can come to, and nothing on its way there.
        packings.iter_mut().for_each(Remapping::look_for_room);
        self.confirm_all().await?;
        self.settle_overwrites(vdisk).await?;
        let (mut freed, mut failed) = (0, None);
        for packing in &mut packings {
            match packing.run(&mut permit).await {
                Ok(extents) => freed += extents.unwrap_or(0),
                // What was done before is confirmed all the same.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.confirm_all().await?;
        self.release_freed();
        match failed {
            Some(error) if freed == 0 => Err(error),
            _ => Ok(freed),
        }
    }

    /// Claims the words of a plan, in order; leaves out the packings of which a word has changed.
    async fn board<'a>(
        self: &'a Rc<Self>,
        vdisk: &'a Rc<VdiskCore>,
        leaf: u64,
        plan: &[Packing],
    ) -> Result<Vec<Remapping<'a, M>>> {
        let mut wanted: Vec<(usize, usize, ExtentId, Lay)> = Vec::new();
        for (index, packing) in plan.iter().enumerate() {
            wanted.extend(packing.owners.iter().map(|&slot| (slot, index, packing.host, Lay::Stays)));
            let guests = packing.guests.iter();
            wanted.extend(guests.map(|&(slot, turn, from)| (slot, index, from, Lay::Packed(turn))));
        }
        wanted.sort_by_key(|(slot, ..)| *slot);
        let goal = Goal::Host(Blocks::NONE);
        let empty = |to| Remapping { store: self, vdisk, leaf, riders: Vec::new(), to, goal, used: None };
        let mut packings: Vec<_> = plan.iter().map(|packing| empty(packing.host)).collect();
        let mut changed = vec![false; plan.len()];
        for (slot, index, extent, lay) in wanted {
            let at = VirtualExtent::in_leaf(leaf, slot);
            let packed = plan[index].packed;
            let as_planned =
                |word: Word| word.extent() == extent && (!matches!(lay, Lay::Stays) || word.is_packed() == packed);
            match self.claim_whole(vdisk, at, &as_planned).await? {
                Some(hold) => packings[index].riders.push(Rider { hold, lay }),
                None => changed[index] = true,
            }
        }
        let kept = packings.into_iter().zip(changed).filter(|(_, changed)| !changed).map(|(packing, _)| packing);
        Ok(kept.collect())
    }

    /// Moves all that shares `from` to another extent.
    pub(super) async fn relocate_packed(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        leaf: u64,
        from: ExtentId,
    ) -> Result<Relocated> {
        let _room = self.room(PAGES).await?;
        let mut permit = self.permit(remap_record_bytes(16)).await?;
        let mut riders = Vec::new();
        for at in self.named_by(vdisk, leaf, from) {
            let Some(hold) = self.claim_whole(vdisk, at, &|word| word.extent() == from).await? else { continue };
            let Some(Ok(word)) = vdisk.mapping.peek(at) else { return Ok(Relocated::Nothing) };
            riders.push(Rider { hold, lay: Lay::Packed(word.turn()) });
        }
        let Some(first) = riders.first().map(|rider| rider.hold.at) else { return Ok(Relocated::Nothing) };
        let target = self.take_target(vdisk, first).await?;
        let (goal, used) = (Goal::Elsewhere, Some(&target.used));
        let mut remapping = Remapping { store: self, vdisk, leaf, riders, to: target.extent, goal, used };
        let moved = remapping.run(&mut permit).await?;
        Ok(moved.map_or(Relocated::Nothing, |_| Relocated::Moved(self.media.extent_bytes)))
    }

    /// Gives a packed word an extent of its own, so that more of its blocks can get contents. Waits for space as the write of `bytes`
    /// does that needs it.
    pub(super) async fn unpack(
        self: &Rc<Self>,
        vdisk: &Rc<VdiskCore>,
        at: VirtualExtent,
        bytes: usize,
        asked: &Asked<'_>,
    ) -> Result<()> {
        let mut grant: Option<Grant<M>> = None;
        loop {
            self.writable()?;
            let _room = self.room(PAGES).await?;
            let mut permit = self.permit(remap_record_bytes(1)).await?;
            let Some(hold) = self.claim_whole(vdisk, at, &Word::is_packed).await? else { return Ok(()) };
            let shortage = match self.take_extent(vdisk, at, (asked, grant.as_ref())).await {
                Ok(extent) => {
                    let own = Own { store: self.clone(), vdisk: vdisk.clone(), extent, used: Cell::new(false) };
                    let (leaf, goal, used) = (at.leaf(), Goal::Own, Some(&own.used));
                    let riders = vec![Rider { hold, lay: Lay::Alone }];
                    let mut remapping = Remapping { store: self, vdisk, leaf, riders, to: extent, goal, used };
                    match remapping.run(&mut permit).await {
                        // It is as it was.
                        Err(Error::Device(IoError::NoSpace { .. })) => {
                            self.space.note_full_at([extent]);
                            Shortage::DeviceFull
                        }
                        done => {
                            if done?.is_some() {
                                count(&self.counters.unpacked_extents, 1);
                            }
                            return Ok(());
                        }
                    }
                }
                Err(Refused::Short(shortage)) => {
                    drop(hold);
                    shortage
                }
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Packed(_)) => continue,
            };
            // Who waits for space has nothing that others could need.
            drop((permit, _room, grant.take()));
            let (of, shortage) = (vec![(at, Blocks::ALL)], Cell::new(shortage));
            let need = Need { of, bytes: bytes as u64, shortage, room: RoomFor::Nothing };
            grant = Some(self.hold(vdisk, need, asked).await?);
        }
    }

    /// The virtual extents of a leaf in memory that `extent` is behind.
    fn named_by(&self, vdisk: &VdiskCore, leaf: u64, extent: ExtentId) -> Vec<VirtualExtent> {
        match vdisk.mapping.tree.borrow().get(leaf) {
            Found::Page(page) => names(page, extent).map(|(slot, _)| VirtualExtent::in_leaf(leaf, slot)).collect(),
            _ => Vec::new(),
        }
    }
}

impl<M: Machine> Remapping<'_, M> {
    /// Copies what the riders have, and makes the copy theirs. Answers how many extents came free; `None`: nothing was changed, because
    /// the words are not what they were, or keep being discarded.
    async fn run(&mut self, permit: &mut Permit<M>) -> Result<Option<u64>> {
        let (store, watches) = (self.store, &self.vdisk.mapping.watches);
        let moving = self.riders.iter().filter(|rider| rider.moves());
        let _held: Vec<_> = moving
            .map(|rider| {
                let mut watch = watches.watch(rider.hold.at);
                watch.hold();
                watch
            })
            .collect();
        store.settle_overwrites(self.vdisk).await?;
        for _ in 0..ATTEMPTS {
            let Some(before) = self.words().await? else { return Ok(None) };
            let Some(contents) = self.copy(&before).await? else { return Ok(None) };
            for extent in self.riders.iter().map(|rider| rider.hold.extent).chain([self.to]) {
                if store.space.load_group(extent.0 / GROUP_EXTENTS).await.is_err() {
                    return Err(store.group_lost());
                }
            }
            // No `await` from the look at the words to the change. What a device may have lost must not be shown as the vdisk's.
            let Some(now) = self.words().await? else { return Ok(None) };
            store.writable()?;
            if store.media.is_lossy() {
                return Err(store.doubtful(self.vdisk, self.riders[0].hold.at));
            }
            let mut pairs = self.riders.iter().zip(before.iter().zip(&now));
            if pairs.any(|(rider, (before, now))| rider.moves() && before != now) {
                continue;
            }
            if !self.has_room(&now) {
                return Ok(None);
            }
            let (sequence, freed) = self.switch(&now, &contents, permit);
            // Overwrites are held until then: one that is answered must not be where only a record in memory leads.
            store.outlast(sequence).await?;
            return Ok(Some(freed));
        }
        Ok(None)
    }

    /// The words of all riders; `None` when one is gone. No `await` when their leaf is in memory.
    async fn words(&self) -> Result<Option<Vec<Word>>> {
        let mut words = Vec::with_capacity(self.riders.len());
        for rider in &self.riders {
            match self.store.word_of(&rider.hold).await? {
                Some(word) => words.push(word),
                None => return Ok(None),
            }
        }
        Ok(Some(words))
    }

    /// Notes which places of the host nobody has now.
    fn look_for_room(&mut self) {
        let free = self.free();
        self.goal = Goal::Host(free.unwrap_or_default());
    }

    /// Places of the host that no word names; `None`: a word that had it when it was claimed has it no more.
    fn free(&self) -> Option<Blocks> {
        let tree = self.vdisk.mapping.tree.borrow();
        let Found::Page(page) = tree.get(self.leaf) else { return None };
        let mut words = names(page, self.to).map(|(_, word)| Blocks::ALL.without(word.places(word.valid()))).peekable();
        words.peek()?;
        let stay = self.riders.iter().filter(|rider| !rider.moves()).map(|rider| page.get(rider.hold.at.slot()));
        if !stay.into_iter().all(|word| word.is_mapped() && word.extent() == self.to) {
            return None;
        }
        Some(words.fold(Blocks::ALL, |free, others| Blocks(free.0 & others.0)))
    }

    /// Whether nobody else has the places where the riders are to be; and, when all that shares an extent is moved, that all is here.
    fn has_room(&self, words: &[Word]) -> bool {
        match self.goal {
            Goal::Own => true,
            Goal::Elsewhere => {
                let from = self.riders[0].hold.extent;
                self.store.named_by(self.vdisk, self.leaf, from).len() == self.riders.len()
            }
            Goal::Host(at_first) => {
                let Some(now) = self.free() else { return false };
                let mut free = Blocks(at_first.0 & now.0);
                self.riders.iter().zip(words).filter(|(rider, _)| rider.moves()).all(|(rider, word)| {
                    let places = rider.lie(*word, self.to).places(word.valid());
                    let fits = free.contains(places);
                    free = free.without(places);
                    fits
                })
            }
        }
    }

    /// Copies the contents of the riders' words; `None`: there is no room any more.
    async fn copy(&self, words: &[Word]) -> Result<Option<Contents>> {
        let (store, block_bytes) = (self.store, self.store.media.block_bytes());
        let mut contents: Contents = Vec::new();
        for (rider, &word) in self.riders.iter().zip(words).filter(|(rider, _)| rider.moves()) {
            let turn = rider.lie(word, self.to).turn() + 16 - word.turn();
            for (from, run) in store.read_extent(&rider.hold, word.places(word.valid())).await? {
                for (index, start) in (0..run.len()).step_by(block_bytes as usize).enumerate() {
                    let place = ((from / block_bytes) as u32 + index as u32 + turn) % 16;
                    contents.push((place, run.slice(start..start + block_bytes as usize)));
                }
            }
        }
        contents.sort_by_key(|(place, _)| *place);
        while let Gate::Closed(batch) = store.journal.gate(self.to, places(&contents)) {
            store.confirm(batch).await?;
        }
        // No `await` up to the writes: as long as they are under way, what they are written to is nobody else's.
        let located = store.media.locate(self.to).filter(|_| self.has_room(words));
        let Some((drive, start)) = located else { return Ok(None) };
        let mut in_flight = InFlight(Some(store.space.epochs.enter()));
        self.note_used(true);
        let writes = contents.iter().map(|(place, data)| {
            drive.write(start + u64::from(*place) * block_bytes, data.clone(), Durability::Cached)
        });
        let written: std::result::Result<(), IoError> = join_all(writes).await.into_iter().collect();
        drop(in_flight.0.take());
        self.note_used(false);
        written?;
        Ok(Some(contents))
    }

    /// Words, groups, claims and record change together. Answers the batch of the record, and how many extents came free.
    fn switch(&mut self, words: &[Word], contents: &Contents, permit: &mut Permit<M>) -> (u64, u64) {
        let (space, mapping, to) = (&self.store.space, &self.vdisk.mapping, self.to);
        let mut left: Vec<ExtentId> = Vec::new();
        let mut changed = Vec::with_capacity(self.riders.len());
        for (rider, &word) in self.riders.iter_mut().zip(words) {
            let now = rider.lie(word, to);
            mapping.set(&self.store.cache, rider.hold.at, now);
            mapping.claims.supply(rider.hold.at, Blocks::ALL, to);
            left.push(std::mem::replace(&mut rider.hold.extent, to));
            rider.hold.packed = true;
            changed.push((rider.hold.at.slot() as u16, now));
        }
        left.sort_unstable();
        left.dedup();
        left.retain(|&extent| extent != to && !mapping.names(self.leaf, extent));
        let places = places(contents);
        let (vdisk, leaf, proof) =
            (self.vdisk.id, self.leaf, self.store.proof_over(contents.iter().map(|(_, data)| data)));
        let record = Record::Remap { vdisk, leaf, to, places, proof, words: changed };
        let sequence = self.store.journal.append_map(permit, &record, to, places);
        let freed = left.len() as u64;
        self.note_used(true);
        match self.goal {
            Goal::Elsewhere => left.iter().for_each(|&from| space.relocate(from, to, sequence)),
            Goal::Own => {
                space.allocate(&mapping.account, to);
                space.free(&mapping.account, left, sequence, Rest::Confirmed);
                self.store.note_supplied(self.vdisk);
            }
            Goal::Host(_) => space.free(&mapping.account, left, sequence, Rest::Confirmed),
        }
        (sequence, freed)
    }

    fn note_used(&self, used: bool) {
        if let Some(cell) = self.used {
            cell.set(used);
        }
    }
}

impl<M: Machine> Rider<M> {
    /// Whether its contents are copied.
    fn moves(&self) -> bool {
        !matches!(self.lay, Lay::Stays)
    }

    /// Its word as it is to be.
    fn lie(&self, word: Word, to: ExtentId) -> Word {
        match self.lay {
            Lay::Stays => Word::packed(to, word.valid(), word.turn()),
            Lay::Packed(turn) => Word::packed(to, word.valid(), turn),
            Lay::Alone => Word::mapped(to, word.valid()),
        }
    }
}

/// An extent taken for a word that shares one; given back unless it was used.
struct Own<M: Machine> {
    store: Rc<Store<M>>,
    vdisk: Rc<VdiskCore>,
    extent: ExtentId,
    used: Cell<bool>,
}

impl<M: Machine> Drop for Own<M> {
    fn drop(&mut self) {
        if !self.used.get() {
            self.store.space.forfeit(&self.vdisk.mapping.account, self.extent);
        }
    }
}

/// The words of a leaf that name `extent`, with their slots.
fn names(leaf: &Leaf, extent: ExtentId) -> impl Iterator<Item = (usize, Word)> + '_ {
    leaf.iter().enumerate().filter(move |(_, word)| word.is_mapped() && word.extent() == extent)
}

/// The places where these go.
fn places(contents: &Contents) -> Blocks {
    contents.iter().fold(Blocks::NONE, |places, &(place, _)| places.with(Blocks::range(place, place + 1)))
}
