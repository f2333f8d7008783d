//! Opening a pool: find the devices, read the newest root, replay the journal, begin a new life.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::select;
use plimsoll_hardware::{Device, IoError, Machine};
use uuid::Uuid;

use super::identify::{check_features, read_label, read_page};
use super::layout::{END_PAGES, label_places};
use super::warning::Warning;
use super::{Pool, RecoveryInfo, roots};
use crate::error::{Error, Result};
use crate::event::SpaceEvent;
use crate::format::{EntryState, JournalStart, LabelPage, PAGE_BYTES, Record, RootPage, TABLE_ENTRIES, VdiskId};
use crate::journal::{self, Journal, Tail};
use crate::mapping::{Cache, Patterns};
use crate::media::{Disk, Drive, Media};
use crate::space::Space;
use crate::tree::{Found, Loader, PageCounts, Tree, load, load_nodes};
use crate::vdisk::{Alarms, CheckpointControl, Counters, HoldQueue, Identity, NextLook, Store, Surveys, VdiskCore};

/// Bytes of mapping kept in memory unless said otherwise: 1 GiB, the whole map of 8 TiB at 64 KiB.
const CACHE_BYTES: u64 = 1 << 30;

/// Checkpoints by which a device is behind when it cannot be the one that was in use: a root goes to all devices before the next one
/// is begun, so a crash leaves some one behind. A close writes two.
const OUTDATED: u64 = 2;

/// How to open.
#[derive(Clone, Debug, Default)]
pub struct OpenPool {
    /// Write nothing at all, not even to heal: for looking at a pool.
    pub inspect: bool,
    /// Memory for the mapping in bytes; `None` is 1 GiB.
    pub cache_bytes: Option<u64>,
    /// Open it though the end of a device is gone: what was stored there reads as zeros, or is lost.
    pub accept_lost_ends: bool,
}

/// The devices of a pool in order, and what they say.
pub(super) struct Members<D> {
    pub(super) label: LabelPage,
    pub(super) root: RootPage,
    /// As in the root's table; the first stretch of a device brings it.
    pub(super) devices: Vec<Option<D>>,
    pub(super) read_only: Option<String>,
    pub(super) heal: Healing,
    /// What was accepted.
    pub(super) warnings: Vec<Warning>,
}

/// What the ends of the devices lack.
pub(super) struct Healing {
    /// Not every copy of the root is there.
    pub(super) root: bool,
    /// Labels as they should be where a copy is bad, or the one in front says the size before a device grew: a crash came before it was
    /// written.
    pub(super) labels: Vec<LabelPage>,
    /// What of it no crash leaves behind, in words.
    pub(super) damage: Vec<String>,
}

impl<M: Machine> Pool<M> {
    /// Opens the pool that `devices` are; all of them, in any order.
    ///
    /// # Errors
    /// `NotAPool` also when no root can be read, `Shortened`, `EndLost`, `DeviceMissing`, `UnsupportedFeature`, `Device`. Other damage of
    /// metadata costs what it covers, and is reported by [`Pool::check`].
    pub async fn open(machine: &M, options: OpenPool, devices: Vec<M::Device>) -> Result<Self> {
        let found = find(machine, devices, options.inspect || options.accept_lost_ends).await?;
        let media = Rc::new(Media::new(machine.clone(), found.label.extent_bytes));
        let frozen = options.inspect || found.read_only.is_some();
        media.pages.inspect.set(frozen);
        put_devices(&media, found.devices, &found.root);
        let tails = if frozen { Vec::new() } else { open_tails(&media, &found.label) };
        let all = tails.clone();
        media.when_lossy_at_start(move || all.iter().for_each(|tail| tail.forget()));
        let rings = found.root.ring_places(&found.label.rings);
        let recovered = journal::read(&media, found.root.pool, &rings, found.root.journal, frozen).await;
        if let Some(gone) = media.trouble.gone() {
            // The journal was not read, and must not be written over for an empty one.
            return Err(Error::Device(gone.clone()));
        }
        let identity = Identity {
            name: found.label.name.clone(),
            uuid: found.label.pool,
            created_ms: found.label.created_ms,
            rings: found.label.rings,
        };
        let store = assemble(media, identity, &found.root, recovered.next, recovered.covered(), &options);
        let looked_at = || "it is only looked at; open it to write (plimsoll pool import)".to_owned();
        *store.read_only.borrow_mut() = found.read_only.or_else(|| options.inspect.then(looked_at));
        let root = &found.root;
        let clean = root.clean && recovered.batches.iter().all(|batch| batch.header.life == root.life);
        let mut info = RecoveryInfo { clean, ..RecoveryInfo::default() };
        let mut warnings = found.warnings;
        warnings.extend(store.read_table().await);
        store.read_groups().await;
        store.patterns.read(&store.media).await;
        warnings.extend(store.recover(recovered, tails, found.heal, &mut info).await?);
        store.open_ledger();
        if store.vdisks.borrow().is_empty() {
            // What is in use from now on is seen when it becomes thinner.
            store.space.thinned.take();
        }
        let pool = Pool { store, recovery: info, warnings: Rc::new(RefCell::new(warnings)) };
        if !options.inspect && pool.store.read_only.borrow().is_none() {
            pool.tell_accepted();
            let store = &pool.store;
            if (!pool.recovery.clean || store.space.lost_groups.get() > 0) && store.lacks_groups(false).await {
                // The first checkpoint would fail, and the journal with it. As it is, all that there is was written down.
                let lost = match store.media.pages.unread.get() {
                    0 => Warning::GroupsLost(store.space.lost_groups.get()),
                    pages => Warning::PagesUnread(pages),
                };
                store.read_only.borrow_mut().get_or_insert(lost.says(&store.identity.name));
                pool.warnings.borrow_mut().push(lost);
                return Ok(pool);
            }
            pool.start_background();
            if pool.store.journal.is_nearly_full() {
                // Starts that were cut short have filled it. Without a checkpoint the pool serves, and says that it is read-only.
                // If it finds no room below the devices, what the journal has room for goes on.
                let stands = std::pin::pin!(pool.store.after_checkpoint());
                select(stands, std::pin::pin!(pool.store.starved())).await;
            }
        }
        Ok(pool)
    }

    /// Says whether a pool can be opened on `devices`, and changes nothing. Answers those of them that it is on, and what of it would be
    /// lost, in sentences.
    ///
    /// # Errors
    /// As [`Pool::open`], as far as the ends of the devices tell.
    pub async fn check_open(
        machine: &M,
        options: &OpenPool,
        devices: Vec<M::Device>,
    ) -> Result<(Vec<M::Device>, Vec<String>)> {
        let found = find(machine, devices, options.inspect || options.accept_lost_ends).await?;
        let lost = found.warnings.iter().map(|warning| warning.says(&found.label.name)).collect();
        Ok((found.devices.into_iter().flatten().collect(), lost))
    }

    /// The next start finds the ends written again: that they were lost, and that this was accepted, stays with who listens.
    pub(super) fn tell_accepted(&self) {
        let lost = self.info().recovery.ends_lost;
        if !lost.is_empty() {
            let reason = format!("the start found that {}", lost.join("; and that "));
            self.raise(SpaceEvent::CheckFound { reason, loss: true, rising: true });
        }
    }
}

/// Puts devices into their places of the root's table, further stretches of a device with the first.
fn put_devices<M: Machine>(media: &Media<M>, devices: Vec<Option<M::Device>>, root: &RootPage) {
    for (index, (device, slot)) in devices.into_iter().zip(&root.devices).enumerate() {
        let known = || media.drives().iter().find(|drive| drive.slot().device == slot.device).map(|d| d.disk.clone());
        let disk = match device {
            Some(device) => Some(Disk::new(device, &media.trouble)),
            None => known().filter(|_| !slot.is_hole()),
        };
        if let Some(disk) = disk {
            media.put(Drive::new(disk, index as u16, *slot));
        }
    }
}

/// The layers of a pool at `root`, with nothing replayed.
fn assemble<M: Machine>(
    media: Rc<Media<M>>,
    identity: Identity,
    root: &RootPage,
    next: JournalStart,
    covered: u64,
    options: &OpenPool,
) -> Rc<Store<M>> {
    let counts = Rc::new(PageCounts::default());
    let life = media.machine.random();
    let space = Space::new(media.clone(), root.groups, root.data_extents, root.meta_extents, counts.clone());
    let rings = root.ring_places(&identity.rings);
    let journal = Journal::new(media.clone(), root.pool, life, rings, root.journal.position, next, covered);
    let store = Rc::new(Store {
        identity,
        media,
        journal: Rc::new(journal),
        space,
        table: RefCell::new(Tree::new(root.table, counts.clone())),
        patterns: Patterns::new(root.patterns, counts.clone()),
        vdisks: RefCell::default(),
        names: RefCell::default(),
        free_from: Cell::new(0),
        cache: Cache::new(options.cache_bytes.unwrap_or(CACHE_BYTES), counts.clone()),
        counts,
        promised: Cell::new(0),
        root: RefCell::new(root.clone()),
        checkpoint: CheckpointControl::default(),
        counters: Counters::default(),
        policy: RefCell::new(root.policy.clone()),
        holds: HoldQueue::default(),
        next_look: NextLook::default(),
        alarms: Alarms::default(),
        jobs: RefCell::default(),
        reclaims: RefCell::default(),
        surveys: Surveys::default(),
        closing: Cell::new(false),
        read_only: RefCell::default(),
        inspect: options.inspect,
        undecided: RefCell::default(),
    });
    let journal = Rc::downgrade(&store.journal);
    store.media.when_lossy(move || {
        if let Some(journal) = journal.upgrade() {
            journal.lose_tail();
        }
    });
    store
}

/// Sorts devices into the places of their pool and reads its newest root; `without_ends`: even if the end of one is gone.
async fn find<M: Machine>(machine: &M, devices: Vec<M::Device>, without_ends: bool) -> Result<Members<M::Device>> {
    let mut labelled = Vec::with_capacity(devices.len());
    let identities: Vec<String> = devices.iter().map(|device| device.geometry().identity.clone()).collect();
    let mut gone = None;
    for device in devices {
        let path = device.geometry().path.clone();
        match read_label(machine, &device).await {
            Err(Error::Device(error @ IoError::Gone { .. })) => gone = Some(error),
            Err(error) => return Err(error),
            Ok(Some(label)) => labelled.push((label, device)),
            Ok(None) => {
                let reason = "no pool's label is on it; name the devices of a pool, or restore them from a copy";
                return Err(Error::NotAPool { path, reason: reason.into() });
            }
        }
    }
    if let Some(gone) = gone {
        return Err(disown(machine, &labelled, &identities, gone));
    }
    let Some((label, _)) = labelled.first() else {
        return Err(Error::InvalidArgument("a pool is opened with its devices; none was named".into()));
    };
    let label = label.clone();
    if let Some((other, device)) = labelled.iter().find(|(other, _)| other.pool != label.pool) {
        let reason = format!("it belongs to pool {} ({}), not to {}; leave it out", other.name, other.pool, label.name);
        return Err(Error::NotAPool { path: device.geometry().path.clone(), reason });
    }
    let mut read_only = None;
    for (label, _) in &labelled {
        read_only = check_features(label)?.or(read_only);
    }
    let references: Vec<(&M::Device, u64)> = labelled.iter().map(|(label, device)| (device, label.size)).collect();
    let found = match roots::read_newest(machine, &references, label.pool).await {
        Ok(found) => found,
        Err(gone) => return Err(disown(machine, &labelled, &identities, gone)),
    };
    let Some(root) = found.newest else {
        let path = labelled[0].1.geometry().path.clone();
        let reason = "no copy of the pool's root can be read; restore the device from a copy of it".into();
        return Err(Error::NotAPool { path, reason });
    };
    for ((label, device), generation) in labelled.iter().zip(&found.generations) {
        let belongs = root.devices.iter().any(|slot| slot.device == label.device);
        if let Some(generation) = generation.filter(|generation| belongs && generation + OUTDATED <= root.generation) {
            let reason = format!(
                "it is an old copy of device {} of pool {}: it was left at checkpoint {generation} and the pool is at {}; name \
                 the device that was in use last",
                label.index, label.name, root.generation
            );
            return Err(Error::NotAPool { path: device.geometry().path.clone(), reason });
        }
    }
    refuse_twins(&labelled)?;
    let mut heal = Healing { root: found.incomplete, labels: Vec::new(), damage: Vec::new() };
    // A power loss while a root is written may leave a part of it.
    heal.damage.extend(found.bad.iter().filter(|_| root.clean).map(|path| format!("a root of {path} was bad")));
    let mut ends_lost = Vec::new();
    for (label, device) in &labelled {
        let Some(slot) = root.devices.iter().find(|slot| slot.device == label.device) else { continue };
        let right = LabelPage { size: slot.size, ..label.clone() };
        if *label == right {
            if has_both_labels(machine, device, label).await? {
                continue;
            }
            if is_end_lost(machine, device, label.size).await? {
                ends_lost.push(device.geometry().path.clone());
            } else {
                heal.damage.push(format!("a label of {} was bad", device.geometry().path));
            }
        }
        heal.labels.push(right);
    }
    if !ends_lost.is_empty() && !without_ends {
        return Err(Error::EndLost { paths: ends_lost, pool: label.name });
    }
    let warnings = ends_lost.into_iter().map(Warning::EndLost).collect();
    let mut ordered = Vec::with_capacity(root.devices.len());
    for (index, slot) in root.devices.iter().enumerate() {
        let before = &root.devices[..index];
        if slot.is_hole() || before.iter().any(|other| other.device == slot.device) {
            ordered.push(None);
            continue;
        }
        let position = labelled.iter().position(|(label, _)| label.device == slot.device);
        let Some(position) = position else {
            return Err(Error::DeviceMissing { pool: label.name, device: slot.device, index: index as u16 });
        };
        ordered.push(Some(labelled.swap_remove(position).1));
    }
    // The first label's rings are everybody's; a device that was added later carries a copy of them.
    Ok(Members { label, root, devices: ordered, read_only, heal, warnings })
}

/// Refuses two of which one is a copy of the other: only their owner knows which of them was written to last.
fn refuse_twins<D: Device>(labelled: &[(LabelPage, D)]) -> Result<()> {
    for (index, (label, device)) in labelled.iter().enumerate() {
        if let Some((_, twin)) = labelled[..index].iter().find(|(other, _)| other.device == label.device) {
            let (path, twin) = (device.geometry().path.clone(), &twin.geometry().path);
            let reason = format!(
                "it and {twin} both say that they are device {} of pool {}: one is a copy of the other; name only the one \
                 that was in use last",
                label.index, label.name
            );
            return Err(Error::NotAPool { path, reason });
        }
    }
    Ok(())
}

/// Whether both copies of its label are on a device. One alone must not stay alone: when the device becomes larger, nothing else says
/// where the other is.
async fn has_both_labels<M: Machine>(machine: &M, device: &M::Device, label: &LabelPage) -> Result<bool> {
    for place in label_places(label.size) {
        match read_page(machine, device, place).await {
            Ok(page)
                if LabelPage::decode(&page)
                    .is_ok_and(|found| found.device == label.device && found.size == label.size) => {}
            Err(gone @ IoError::Gone { .. }) => return Err(Error::Device(gone)),
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether zeros are where a device has its label and both roots at its end. The label is durable before a root names the device, or that
/// end of it, so no crash leaves none of them.
async fn is_end_lost<M: Machine>(machine: &M, device: &M::Device, size: u64) -> Result<bool> {
    let end = label_places(size)[1];
    for page in 0..END_PAGES as u64 {
        match read_page(machine, device, end + page * PAGE_BYTES as u64).await {
            Ok(page) if page.iter().all(|byte| *byte == 0) => {}
            Err(gone @ IoError::Gone { .. }) => return Err(Error::Device(gone)),
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// A device went away, with whatever it had not flushed: what is in crash memory must not be believed when it comes back.
fn disown<M: Machine>(machine: &M, labelled: &[(LabelPage, M::Device)], identities: &[String], gone: IoError) -> Error {
    if let Some((label, _)) = labelled.first() {
        let names = identities.iter().map(|identity| tail_name(label.pool, identity));
        let tails = names.filter(|name| machine.has_crash_memory(name)).filter_map(|name| tail(machine, label, name));
        tails.for_each(|tail| tail.forget());
    }
    Error::Device(gone)
}

/// The tails that are called after one of the devices, of which one is the last life's; where there is none, a new one after the first.
fn open_tails<M: Machine>(media: &Media<M>, label: &LabelPage) -> Vec<Rc<Tail<M::CrashMemory>>> {
    let machine = &media.machine;
    let all: Vec<String> = media.disks().iter().map(|disk| crash_memory_name(label.pool, &disk.device)).collect();
    let mut names: Vec<&String> = all.iter().filter(|name| machine.has_crash_memory(name)).collect();
    if names.is_empty() {
        names.extend(all.first());
    }
    names.into_iter().filter_map(|name| tail(machine, label, name.clone())).map(Rc::new).collect()
}

fn tail<M: Machine>(machine: &M, label: &LabelPage, name: String) -> Option<Tail<M::CrashMemory>> {
    let payload = Journal::<M>::batch_bytes_max(label.rings[0].pages);
    let bytes = Tail::<M::CrashMemory>::bytes_for(payload);
    match machine.crash_memory(&name, bytes) {
        Ok(memory) => Some(Tail::new(memory, name)),
        Err(error) => {
            tracing::warn!(%error, "no crash memory: every first write waits for the journal");
            None
        }
    }
}

/// What the crash memory of a pool is called after one of its devices. A copy of that device has another: what is not yet written to one
/// is nothing to the other.
pub fn crash_memory_name(pool: Uuid, device: &impl Device) -> String {
    tail_name(pool, &device.geometry().identity)
}

fn tail_name(pool: Uuid, identity: &str) -> String {
    format!("{pool}-{identity}")
}

impl<M: Machine> Pool<M> {
    /// The name of its crash memory, if it has some.
    pub fn crash_memory(&self) -> Option<String> {
        self.store.journal.tail_name()
    }
}

impl<M: Machine> Store<M> {
    /// The last checkpoint again, through trees of its own: what is changed since is not in it.
    pub(super) async fn second_view(&self, write_nothing: bool) -> Rc<Store<M>> {
        let root = self.root.borrow().clone();
        let identity = Identity { name: self.identity.name.clone(), ..self.identity };
        let options = OpenPool { inspect: write_nothing, cache_bytes: Some(1 << 20), ..OpenPool::default() };
        let media = if write_nothing { Rc::new(self.media.view()) } else { self.media.clone() };
        let view = assemble(media, identity, &root, root.journal, 0, &options);
        view.read_table().await;
        view.read_groups().await;
        view.patterns.read(&view.media).await;
        let rings = root.ring_places(&self.identity.rings);
        let end = crate::journal::read(&self.media, root.pool, &rings, root.journal, true).await;
        for record in end.batches.iter().flat_map(|batch| &batch.records) {
            if matches!(record, Record::Meta { .. }) {
                view.replay(record, root.generation).await;
            }
        }
        view
    }

    /// Reads the vdisk table. A page that is lost costs its eight vdisks, which is said.
    async fn read_table(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let loader = Loader::default();
        load_nodes(&self.media, &self.table, true).await;
        let mut pages = Vec::new();
        let mut next = self.table.borrow().next_present(0);
        while let Some(page) = next {
            pages.push(page);
            next = self.table.borrow().next_present(page + 1);
        }
        for chunk in pages.chunks(32) {
            let loads = chunk.iter().map(|&page| load(&self.media, &loader, &self.table, page));
            for (page, result) in chunk.iter().zip(futures_util::future::join_all(loads).await) {
                if result.is_err_and(|lost| !lost.unread) {
                    warnings.push(Warning::TablePageLost(*page));
                }
            }
        }
        let mut vdisks = BTreeMap::new();
        let table = self.table.borrow();
        for page in pages {
            let Found::Page(entries) = table.get(page) else { continue };
            for (slot, entry) in entries.entries.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let id = VdiskId((page * TABLE_ENTRIES as u64) as u32 + slot as u32);
                if entry.state != EntryState::Deleting {
                    self.names.borrow_mut().insert(entry.name.clone(), id);
                }
                vdisks.insert(id, VdiskCore::new(id, entry.clone(), self.counts.clone()));
            }
        }
        *self.vdisks.borrow_mut() = vdisks;
        warnings
    }

    /// Reads the nodes of the group tree: they say how full each group is.
    async fn read_groups(&self) {
        load_nodes(&self.media, &self.space.tree, true).await;
        self.space.adopt_summaries();
        self.space.divide_meta();
    }
}
