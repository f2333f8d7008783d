//! The job that empties a device, and lets it go.
//!
//! In passes, until nothing is left on it: every mapping leaf is read, and what it names there is moved, extent by extent
//! (`vdisk/relocate.rs`); every metadata page there is called dirty, so that checkpoints write it elsewhere; the journal's copies move
//! with a checkpoint (`journal/move_rings.rs`). Nothing new comes to the device, so each pass finds less.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::Machine;

use super::add_device::Growing;
use super::evacuate::Member;
use super::{Job, JobInfo, JobState, crash_memory_name};
use crate::error::{Error, Result};
use crate::format::{ExtentId, GROUP_EXTENTS, LEAF_WORDS, Payload, RATE_UNLIMITED, Standing, VirtualExtent};
use crate::media::Disk;
use crate::tree::{Found, PageSeen, Tree};
use crate::vdisk::{Relocated, Store, VdiskCore};

/// Extents moved at the same time.
const MOVES_AT_ONCE: usize = 4;
/// Dirty pages that calling one dirty may cause: it and the nodes above it.
const PAGES: usize = 6;
/// Longest rest between two passes that moved nothing.
const REST_MAX: Duration = Duration::from_secs(1);
/// Passes in a row that may find nothing to move on a device that is not empty: others hold on to it, but not for long.
const IDLE_PASSES_MAX: u32 = 64;

/// A device being emptied.
struct MoveOut<M: Machine> {
    store: Rc<Store<M>>,
    member: Member<M>,
    job: Rc<Job>,
    total: u64,
    /// When the next extent may be read.
    next: Cell<Duration>,
    /// Bytes a second by which that was reckoned.
    pace: Cell<u64>,
}

/// What a pass did.
#[derive(Default)]
struct Pass {
    /// Bytes that the device had been rid of when it began.
    before: u64,
    moved: u64,
    /// Somebody must give space back first.
    full: bool,
    /// What cannot be moved, and the first reason.
    failed: u64,
    failure: Option<Error>,
}

impl<M: Machine> Store<M> {
    /// Starts, or goes on with, emptying a device that is leaving; answers the job that does it.
    pub(super) fn start_moving_out(self: &Rc<Self>, member: &Member<M>) -> JobInfo {
        let object = format!("{} {}", self.identity.name, member.path());
        let running = self.jobs.borrow().iter().find(|job| job.is_running() && job.is_of(KIND, &object)).cloned();
        if let Some(job) = running {
            return job.info();
        }
        let total = member.taken(self) * self.media.extent_bytes;
        let job = self.add_job(KIND, object, total);
        let next = Cell::new(Duration::ZERO);
        let work =
            MoveOut { store: self.clone(), member: member.clone(), job: job.clone(), total, next, pace: Cell::new(0) };
        let running = job.clone();
        self.media.machine.spawn(async move {
            running.end(match work.run().await {
                Ok(true) => JobState::Done,
                // Closing: the next start goes on.
                Ok(false) => JobState::Running,
                Err(Error::Cancelled) => JobState::Cancelled,
                Err(error) => JobState::Failed(error.to_string()),
            });
        });
        job.info()
    }
}

/// What the job is called.
const KIND: &str = "device-evacuate";
/// Bytes a second that are moved when nobody says how many: 512 MiB read and written leave guests most of an NVMe device.
const RATE_DEFAULT: u64 = 256 << 20;
/// So much that timers come late is made good.
const LATE_MAX: Duration = Duration::from_millis(10);

impl<M: Machine> MoveOut<M> {
    /// `false`: the pool is closing.
    async fn run(&self) -> Result<bool> {
        let (store, mut idle) = (&self.store, 0u32);
        loop {
            match self.round(&mut idle).await {
                Ok(None) => {}
                Ok(Some(emptied)) => return Ok(emptied),
                // Whatever a close took away from it.
                Err(_) if store.closing.get() => return Ok(false),
                Err(error) if error.is_want_of_space() => {
                    self.job.wait_for(Some(self.no_room(self.member.taken(store))));
                    store.media.machine.sleep(REST_MAX).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what can be moved now. Answers how all of it ends, as [`MoveOut::run`] does, when it has; a round that moved nothing rests,
    /// the longer the more there were of these (`idle`).
    async fn round(&self, idle: &mut u32) -> Result<Option<bool>> {
        let store = &self.store;
        if !self.still_leaves()? {
            return Ok(Some(false));
        }
        if store.space.is_some_full() {
            store.look_for_room().await;
        }
        let pass = self.pass().await?;
        if !self.still_leaves()? {
            return Ok(Some(false));
        }
        self.settle().await?;
        let left = self.member.taken(store);
        self.job.progress(self.gone());
        if left == 0 {
            return match self.leaving()? {
                Standing::Leaving { remove: true } => self.let_go().await.map(Some),
                _ => Ok(Some(true)),
            };
        }
        self.job.wait_for((pass.full && pass.moved == 0).then(|| self.no_room(left)));
        *idle = if pass.moved > 0 || pass.full { 0 } else { *idle + 1 };
        if let Some(error) = pass.failure.filter(|_| *idle > 1) {
            return Err(self.unmovable(pass.failed, &error));
        }
        if *idle > IDLE_PASSES_MAX {
            return Err(self.stuck(left));
        }
        if pass.moved == 0 {
            let rest = Duration::from_millis(10 << (*idle).min(7));
            store.media.machine.sleep(if pass.full { REST_MAX } else { rest.min(REST_MAX) }).await;
        }
        Ok(None)
    }

    /// Fails as [`MoveOut::leaving`]; `false`: the pool is closing.
    fn still_leaves(&self) -> Result<bool> {
        if self.store.closing.get() {
            return Ok(false);
        }
        self.leaving().map(|_| true)
    }

    /// Makes what was moved so, and gives the journal other places; not without bound, because the device may be kept meanwhile.
    async fn settle(&self) -> Result<()> {
        let store = &self.store;
        store.unless_starved(store.after_checkpoint()).await?;
        store.release_freed();
        if self.member.journal_copies(store) > 0 {
            store.move_rings(&self.member).await?;
        }
        Ok(())
    }

    /// Fails when somebody has decided that the device stays.
    fn leaving(&self) -> Result<Standing> {
        match self.member.standing() {
            Standing::InUse => Err(Error::Cancelled),
            leaving => Ok(leaving),
        }
    }

    fn goes_on(&self) -> bool {
        !self.store.closing.get() && self.member.standing() != Standing::InUse
    }

    async fn pass(&self) -> Result<Pass> {
        let mut pass = Pass { before: self.gone(), ..Pass::default() };
        let vdisks: Vec<_> = self.store.vdisks.borrow().values().cloned().collect();
        for vdisk in &vdisks {
            self.move_extents(vdisk, &mut pass).await?;
        }
        for vdisk in &vdisks {
            let pages = self.pages_here(&vdisk.mapping.tree.borrow(), &mut pass);
            for page in pages {
                if page.level() == 0 {
                    let mapping = &vdisk.mapping;
                    let _ = mapping.load_leaf(&self.store.media, &self.store.cache, page.first).await;
                }
                let _room = self.store.room(PAGES).await?;
                vdisk.mapping.tree.borrow_mut().soil(page.first, page.level());
            }
        }
        let table = self.pages_here(&self.store.table.borrow(), &mut pass);
        for page in table {
            let _room = self.store.room(PAGES).await?;
            self.store.table.borrow_mut().soil(page.first, page.level());
        }
        let patterns = self.pages_here(&self.store.patterns.tree.borrow(), &mut pass);
        for page in patterns {
            let _room = self.store.room(PAGES).await?;
            self.store.patterns.tree.borrow_mut().soil(page.first, page.level());
        }
        let groups = self.pages_here(&self.store.space.tree.borrow(), &mut pass);
        for page in groups {
            if page.level() == 0 {
                let _ = self.store.space.load_group(page.first).await;
            }
            let _room = self.store.room(PAGES).await?;
            self.store.space.tree.borrow_mut().soil(page.first, page.level());
        }
        Ok(pass)
    }

    /// Pages of a tree that have a copy on the device.
    fn pages_here<P: Payload>(&self, tree: &Tree<P>, pass: &mut Pass) -> Vec<PageSeen> {
        let here = |page: &PageSeen| {
            [page.reference.a, page.reference.b].iter().any(|address| self.member.is_at(address.device()))
        };
        let (lost, sound): (Vec<_>, Vec<_>) = tree.pages().into_iter().filter(here).partition(|page| page.lost);
        if !lost.is_empty() {
            pass.failed += lost.len() as u64;
            pass.failure.get_or_insert(Error::Busy {
                object: self.member.path(),
                reason: format!(
                    "a page of metadata on it is lost; see plimsoll pool check {}",
                    self.store.identity.name
                ),
            });
        }
        sound
    }

    /// Moves what a vdisk has on the device.
    async fn move_extents(&self, vdisk: &Rc<VdiskCore>, pass: &mut Pass) -> Result<()> {
        let store = &self.store;
        let leaves = |extent: ExtentId| self.member.has_group(extent.0 / GROUP_EXTENTS);
        if let Some(lost) = vdisk.mapping.first_lost() {
            pass.failed += 1;
            pass.failure.get_or_insert(store.damaged(vdisk, lost));
        }
        let mut next = vdisk.mapping.next_sound(0);
        while let Some(leaf) = next
            && self.goes_on()
            && vdisk.ready.get()
        {
            if let Err(lost) = vdisk.mapping.load_leaf(&store.media, &store.cache, leaf).await {
                pass.failed += 1;
                pass.failure.get_or_insert(store.damaged(vdisk, lost));
            }
            let first = leaf * LEAF_WORDS as u64;
            let here: Vec<VirtualExtent> = match vdisk.mapping.tree.borrow().get(leaf) {
                Found::Page(page) => {
                    let words = page.iter().enumerate();
                    words
                        .filter(|(_, word)| word.is_mapped() && leaves(word.extent()))
                        .map(|(slot, _)| VirtualExtent(first + slot as u64))
                        .collect()
                }
                _ => Vec::new(),
            };
            let moves = stream::iter(here).map(|at| async move {
                self.pay().await;
                if self.goes_on() { store.relocate(vdisk, at, &leaves).await } else { Ok(Relocated::Nothing) }
            });
            let mut moves = std::pin::pin!(moves.buffer_unordered(MOVES_AT_ONCE));
            let mut fatal = None;
            // To the end, whatever happens: a device may be writing for those that are left.
            while let Some(moved) = moves.next().await {
                match moved {
                    Ok(Relocated::Moved(_)) => {
                        pass.moved += 1;
                        self.tell(pass);
                    }
                    Ok(Relocated::Nothing) => {}
                    Err(error) if error.is_want_of_space() => pass.full = true,
                    Err(error @ (Error::Closing(_) | Error::ReadOnly { .. })) => fatal = Some(error),
                    Err(error) => {
                        pass.failed += 1;
                        pass.failure.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = fatal {
                return Err(error);
            }
            store.trim_cache();
            next = vdisk.mapping.next_sound(leaf + 1);
        }
        Ok(())
    }

    /// Bytes that the device is rid of.
    fn gone(&self) -> u64 {
        self.total.saturating_sub(self.member.taken(&self.store) * self.store.media.extent_bytes)
    }

    /// What has moved counts at once: the space that it had stays taken until that is durable.
    fn tell(&self, pass: &Pass) {
        self.job.progress(pass.before + pass.moved * self.store.media.extent_bytes);
    }

    /// Bytes a second that may be moved now; 0 is as many as the devices can.
    fn rate(&self) -> u64 {
        match self.member.drives[0].slot().rate_kib {
            RATE_UNLIMITED => 0,
            // Writes that wait for space may be waiting for this.
            0 if self.store.holds.is_short_of_pool() => 0,
            0 => RATE_DEFAULT,
            rate => u64::from(rate) * 1024,
        }
    }

    /// Waits until an extent more may be moved. The rate may change meanwhile.
    async fn pay(&self) {
        let machine = &self.store.media.machine;
        loop {
            let rate = self.rate();
            let now = machine.now();
            if self.pace.replace(rate) != rate {
                // What the former pace would still have waited for is nobody's wish any more.
                self.next.set(now);
            }
            if rate == 0 || self.next.get() <= now || !self.goes_on() {
                let cost = (self.store.media.extent_bytes * 1_000_000_000).checked_div(rate).unwrap_or(0);
                self.next.set(self.next.get().max(now.saturating_sub(LATE_MAX)) + Duration::from_nanos(cost));
                return;
            }
            machine.sleep((self.next.get() - now).min(REST_MAX)).await;
        }
    }

    /// Takes the empty device out of the pool.
    async fn let_go(&self) -> Result<bool> {
        let store = &self.store;
        let _growing = Growing::wait(store).await?;
        self.leaving()?;
        // Twice: what the first checkpoint replaced is free only in the second.
        for _ in 0..2 {
            store.unless_starved(store.after_checkpoint()).await?;
        }
        // The root without the device must be of a cut at which nothing was on it.
        while store.checkpoint.running.get() {
            store.checkpoint.done.changed().await;
        }
        store.writable()?;
        let left = self.member.taken(store);
        if left > 0 || self.member.journal_copies(store) > 0 {
            return Err(self.stuck(left));
        }
        // The next start looks for the tail by the names of the devices that are left; by this one's too until the root stands.
        let called_after = |disk: &Rc<Disk<M::Device>>| crash_memory_name(store.identity.uuid, &disk.device);
        let others = store.media.disks();
        let heir = others.iter().find(|disk| !Rc::ptr_eq(disk, &self.member.disk));
        if let Some(heir) = heir.filter(|_| store.journal.tail_name() == Some(called_after(&self.member.disk))) {
            store.journal.rename_tail(called_after(heir)).map_err(|error| self.keeps_its_name(&error))?;
        }
        store.media.remove(&self.member.disk);
        store.space.resize();
        store.space.divide_meta();
        store.after_checkpoint().await?;
        let wiped = async {
            // Not as it was when it was opened: it may have grown since.
            let size = self.member.drives[0].slot().size;
            super::create::wipe(&store.media.machine, &self.member.disk.device, size).await?;
            self.member.disk.flush().await.map_err(Error::from)
        };
        if let Err(error) = wiped.await {
            tracing::warn!(%error, "a device has left the pool and its labels could not be wiped");
        }
        store.checkpoint.members.notify();
        tracing::info!(pool = store.identity.name, device = self.member.path(), "a device has left the pool");
        Ok(true)
    }

    fn no_room(&self, left: u64) -> String {
        let pool = &self.store.identity.name;
        if self.store.space.is_some_full() {
            let path = self.store.full_device_path();
            return format!(
                "{left} extents on it find no room: the file system that {path} is a file of is full; free space there, or add a device \
                 that is elsewhere (plimsoll pool add-device {pool} --device PATH)"
            );
        }
        format!(
            "{left} extents on it find no room on the other devices: others have taken it since this began; add a device \
             (plimsoll pool add-device {pool} --device PATH), or delete or discard something"
        )
    }

    fn unmovable(&self, count: u64, error: &Error) -> Error {
        let path = self.member.path();
        let reason = format!(
            "{count} extents or pages cannot be moved, the first because: {error}; discard or write over what cannot be read, then \
             evacuate it again"
        );
        Error::Busy { object: path, reason }
    }

    /// What only crash memory has would be looked for under the name of a device that is gone.
    fn keeps_its_name(&self, error: &str) -> Error {
        let pool = &self.store.identity.name;
        let reason = format!(
            "what crash memory has of it cannot be renamed: {error}; restart plimsoll, then take the device out again (plimsoll pool \
             remove-device {pool} {})",
            self.member.path()
        );
        Error::Busy { object: self.member.path(), reason }
    }

    fn stuck(&self, left: u64) -> Error {
        let reason = format!(
            "{left} extents on it are in use and nobody names them; see plimsoll pool check {}",
            self.store.identity.name
        );
        Error::Busy { object: self.member.path(), reason }
    }
}
