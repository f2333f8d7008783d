//! Checkpoints: writing the state of one instant to new pages, and then a root that names them.
//!
//! 1. *Cut*: the pending batch is sealed and, at that very instant, the dirty pages are shared (not copied) and called clean.
//! 2. Leaves, then nodes, of every tree go to new places, twice; what they replace is released, not yet free.
//!    Where a place has no room below its device the page goes to another one, and the nodes above it are sealed anew.
//! 3. META records of this generation say which metadata pages are in use once the root stands; a second cut makes them
//!    and all pages durable.
//! 4. The root is written and flushed. Until that moment the old root and its journal are whole; from it on the new one is.
//! 5. The journal before the cut, and the replaced pages, are free.
//!
//! I/O goes on all the while: a leaf that changes again is copied by the first change, because it is shared.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::{IoError, Machine};

use crate::error::{Error, Result};
use crate::format::{
    Entry, ExtentId, Group, Leaf, PAGE_BYTES, PageAddr, PageRef, PageType, PatternPage, Payload, PoolPolicy, Record,
    RootPage, TablePage, TreeRoot, VdiskId,
};
use crate::journal::JournalFailed;
use crate::space::{NoMetaSpace, Space};
use crate::tree::{PageSeen, Sealer, Tree};
use crate::vdisk::{Store, VdiskCore, count};

/// Pages written at the same time.
const WRITES_AT_ONCE: usize = 16;
/// Places tried for a page before the checkpoint gives up: a write that fails is not tried again at the same place.
const PLACES_MAX: u32 = 4;

/// Pages prepared beyond those that are known to be needed.
const SLACK_PAGES: u64 = 16;

/// Leaves of a tree by index, shared with the tree.
type Leaves<P> = Vec<(u64, Rc<P>)>;

/// The dirty pages of one instant.
struct Snapshot {
    mappings: Vec<(Rc<VdiskCore>, Leaves<Leaf>)>,
    table: Leaves<TablePage>,
    groups: Leaves<Group>,
    patterns: Leaves<PatternPage>,
    /// Upper bound of the pages to be placed.
    pages: u64,
    data: u64,
    meta: u64,
    policy: PoolPolicy,
    /// The journal is written to its new places as well.
    rings_move: bool,
}

impl<M: Machine> Store<M> {
    /// Writes a checkpoint now. Only one runs at a time: the background's, or that of a close.
    pub(super) async fn write_checkpoint(self: &Rc<Self>, clean: bool) -> Result<()> {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        for vdisk in &vdisks {
            // A leaf that is lost keeps its records in the journal no longer than this: its range is lost anyway. One that
            // only cannot be read needs them.
            if !vdisk.mapping.settle_pending(&self.media, &self.cache).await {
                return Err(self.give_up(IoError::Failed {
                    path: format!("pool {}: the mapping of {}", self.identity.name, vdisk.name()),
                    operation: "read",
                    offset: 0,
                    reason: "neither copy of a page can be read, and the journal has changes to it".to_owned(),
                }));
            }
        }
        self.counts.waiting.set(0);
        self.checkpoint.wanted.set(false);
        let cut = self.journal.cut(|| self.snapshot()).await;
        let (start, snapshot) = cut.map_err(|failure| self.journal_failed(failure))?;
        // What was freed before the cut is durable now, and may be what the new pages need.
        self.release_freed();
        let generation = self.root.borrow().generation + 1;
        self.make_places(snapshot.pages).await.map_err(|error| self.give_up(error))?;
        let roots = self.write_trees(&snapshot, generation).await;
        let (groups, table, patterns, roots) = roots.map_err(|error| self.give_up(error))?;
        let changes = self.space.meta_changes().await;
        let meta_sequence = self.append_meta(generation, &changes).await?;
        let root = RootPage {
            pool: self.identity.uuid,
            generation,
            life: self.journal.life.get(),
            clean,
            meta_sequence,
            journal: start,
            groups,
            table,
            patterns,
            data_extents: snapshot.data,
            meta_extents: snapshot.meta,
            rings: self.named_rings(snapshot.rings_move),
            devices: self.media.slots(),
            policy: snapshot.policy.clone(),
        };
        let written = async {
            super::roots::write(&self.media, &root).await?;
            self.media.flush().await
        };
        // The tail stays: it goes on from either root. A flush that fails voids it by itself.
        written.await.map_err(|error| self.give_up(error))?;
        self.journal.settle_rings();
        *self.root.borrow_mut() = root;
        for (vdisk, tree) in roots {
            vdisk.entry.borrow_mut().tree = tree;
            vdisk.mapping.tree.borrow_mut().prune();
        }
        self.space.settle_meta(&changes);
        self.space.set_starved(false);
        self.counts.writing.set(0);
        self.checkpoint.floor.set(self.counts.dirty.get());
        self.journal.release(start.position);
        count(&self.counters.checkpoints, 1);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        let mut mappings = Vec::new();
        for vdisk in vdisks {
            if vdisk.mapping.tree.borrow().is_dirty() {
                self.put_in_table(&vdisk);
                mappings.push(vdisk);
            }
        }
        let pages = self.pages_at_most(mappings.len());
        let mappings: Vec<_> = mappings
            .into_iter()
            .map(|vdisk| {
                let leaves = vdisk.mapping.tree.borrow_mut().collect_dirty();
                (vdisk, leaves)
            })
            .collect();
        let mut table = self.table.borrow_mut().collect_dirty();
        for (page, entries) in &mut table {
            self.refresh(*page, Rc::make_mut(entries));
        }
        let groups = self.space.tree.borrow_mut().collect_dirty();
        let patterns = self.patterns.tree.borrow_mut().collect_dirty();
        let (data, meta, rings_move) = (self.space.data(), self.space.meta_extents(), self.journal.is_moving());
        let policy = self.policy.borrow().clone();
        Snapshot { mappings, table, groups, patterns, pages, data, meta, policy, rings_move }
    }

    /// The rings' first pages for the root, none where they are as the labels say.
    fn named_rings(&self, moved: bool) -> [PageAddr; 2] {
        let (places, labelled) = (self.journal.name_rings(moved), self.identity.rings);
        std::array::from_fn(|ring| match places[ring] == labelled[ring] {
            true => PageAddr::NONE,
            false => PageAddr::new(places[ring].device, places[ring].page),
        })
    }

    /// Brings the entries of a table page up to date.
    fn refresh(&self, page: u64, entries: &mut TablePage) {
        let vdisks = self.vdisks.borrow();
        for (slot, entry) in entries.entries.iter_mut().enumerate() {
            let id = VdiskId(page as u32 * crate::format::TABLE_ENTRIES as u32 + slot as u32);
            if let (Some(entry), Some(vdisk)) = (entry.as_mut(), vdisks.get(&id)) {
                *entry = Entry { backed: vdisk.mapping.account.backed.get(), ..vdisk.entry.borrow().clone() };
            }
        }
    }

    async fn write_trees(
        self: &Rc<Self>,
        snapshot: &Snapshot,
        generation: u64,
    ) -> std::result::Result<(TreeRoot, TreeRoot, TreeRoot, Vec<(Rc<VdiskCore>, TreeRoot)>), IoError> {
        let mut roots = Vec::with_capacity(snapshot.mappings.len());
        for (vdisk, leaves) in &snapshot.mappings {
            let root = self.write_tree(&vdisk.mapping.tree, leaves, generation).await?;
            roots.push((vdisk.clone(), root));
        }
        let mut table = snapshot.table.clone();
        for (page, entries) in &mut table {
            for (vdisk, root) in &roots {
                let (of, slot) = crate::vdisk::table_place(vdisk.id);
                if of == *page
                    && let Some(entry) = &mut Rc::make_mut(entries).entries[slot]
                    && entry.uuid == vdisk.entry.borrow().uuid
                {
                    entry.tree = *root;
                }
            }
        }
        let table = self.write_tree(&self.table, &table, generation).await?;
        let patterns = self.write_tree(&self.patterns.tree, &snapshot.patterns, generation).await?;
        let groups = self.write_tree(&self.space.tree, &snapshot.groups, generation).await?;
        Ok((groups, table, patterns, roots))
    }

    async fn write_tree<P: Payload>(
        self: &Rc<Self>,
        tree: &RefCell<Tree<P>>,
        leaves: &[(u64, Rc<P>)],
        generation: u64,
    ) -> std::result::Result<TreeRoot, IoError> {
        let writes = stream::iter(leaves).map(|(index, page)| async move {
            let home = match page.is_empty() {
                true => PageRef::NONE,
                false => {
                    let mut bytes = vec![0u8; PAGE_BYTES].into_boxed_slice();
                    page.encode(&mut bytes);
                    self.write_leaf::<P>(&bytes, page.summary(), generation).await?
                }
            };
            let before = tree.borrow_mut().set_home(*index, home);
            self.space.release_page(&before);
            Ok(())
        });
        let mut writes = writes.buffer_unordered(WRITES_AT_ONCE);
        while let Some(result) = writes.next().await {
            result?;
        }
        drop(writes);
        // Nodes that became dirty since the cut are sealed too, with the leaves of the cut.
        loop {
            self.make_places_for(tree).await?;
            let mut sealer = Collector { space: &self.space, generation, pages: Vec::new() };
            let root = tree.borrow_mut().seal_nodes(&mut sealer);
            let mut without_room = Vec::new();
            for (reference, bytes) in sealer.pages {
                match self.write_copies(&reference, &bytes).await {
                    Err(IoError::NoSpace { .. }) => without_room.push(reference),
                    // What else fails is not tried elsewhere: the place is in the parent already.
                    done => done?,
                }
            }
            if without_room.is_empty() {
                return Ok(root);
            }
            let mut tree = tree.borrow_mut();
            let is_to_move = |page: &PageSeen| page.kind == PageType::Node && without_room.contains(&page.reference);
            let nodes: Vec<_> = tree.pages().into_iter().filter(is_to_move).collect();
            nodes.iter().for_each(|node| tree.soil(node.first, node.level()));
        }
    }

    /// Makes places for all dirty pages of a tree: no `await` from then on, or there may be more of them.
    async fn make_places_for<P: Payload>(self: &Rc<Self>, tree: &RefCell<Tree<P>>) -> std::result::Result<(), IoError> {
        loop {
            let pages = tree.borrow().dirty_pages();
            if self.space.can_place(pages) {
                return Ok(());
            }
            self.make_places(pages).await?;
        }
    }

    async fn write_leaf<P: Payload>(
        self: &Rc<Self>,
        bytes: &[u8],
        summary: u32,
        generation: u64,
    ) -> std::result::Result<PageRef, IoError> {
        let mut tried = 1;
        loop {
            let places = loop {
                // What was prepared may have gone to nodes that became dirty since, and to pages tried twice.
                match self.space.place_page() {
                    Some(places) => break places,
                    None => self.make_places(WRITES_AT_ONCE as u64).await?,
                }
            };
            let reference = PageRef::seal(P::TYPE, places, generation, summary, bytes);
            match self.write_copies(&reference, bytes).await {
                Ok(()) => return Ok(reference),
                Err(IoError::NoSpace { .. }) => self.space.retract_page(&reference),
                Err(error) if tried == PLACES_MAX || matches!(error, IoError::Gone { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a metadata page is written to another place");
                    self.space.release_page(&reference);
                    tried += 1;
                }
            }
        }
    }

    /// Makes sure that so many pages can be placed. While there is no room for them below the devices it is waited for: what is in memory
    /// stays, and so does what is in the journal.
    async fn make_places(self: &Rc<Self>, pages: u64) -> std::result::Result<(), IoError> {
        loop {
            match self.space.prepare_meta(pages).await {
                Ok(()) => return Ok(()),
                Err(NoMetaSpace::DeviceFull) if self.starve().await => {}
                Err(NoMetaSpace::DeviceFull) => return Err(IoError::NoSpace { path: self.full_device_path() }),
                Err(NoMetaSpace::AllTaken) => return Err(self.no_meta_space()),
            }
        }
    }

    /// Writes a page to both of its places.
    ///
    /// # Errors
    /// `NoSpace` when there is no room for one of them below its device: no page is placed there again while that is so.
    async fn write_copies(self: &Rc<Self>, reference: &PageRef, bytes: &[u8]) -> std::result::Result<(), IoError> {
        let mut page = self.media.buffers().alloc(PAGE_BYTES).await;
        page.copy_from_slice(bytes);
        let page = page.freeze();
        let twice = |at: PageAddr| {
            let page = page.clone();
            async move {
                let mut written = self.media.write_page(at, page.clone()).await;
                if matches!(written, Err(IoError::Failed { .. })) {
                    // The device may remap a bad sector at the second attempt.
                    written = self.media.write_page(at, page).await;
                }
                if matches!(written, Err(IoError::NoSpace { .. })) {
                    // The file has lost blocks of this extent, or its file system has no means for keeping any.
                    self.space.shut_place(at);
                }
                written
            }
        };
        let (first, second) = join(twice(reference.a), twice(reference.b)).await;
        first.and(second)?;
        self.space.set_starved(false);
        Ok(())
    }

    async fn append_meta(self: &Rc<Self>, generation: u64, changes: &[(ExtentId, u16)]) -> Result<u64> {
        let failed = |failure: JournalFailed| self.journal_failed(failure);
        let room = (self.journal.change_bytes_max() - 16) / 8;
        for chunk in changes.chunks(room) {
            let record = Record::Meta { generation, extents: chunk.to_vec() };
            let permit = self.journal.reserve_for_checkpoint(record.encoded_len()).await;
            let mut permit = permit.map_err(failed)?;
            self.journal.append(&mut permit, &[record]);
        }
        self.journal.cut(|| ()).await.map(|(next, ())| next.sequence - 1).map_err(failed)
    }

    /// Whether a checkpoint now would find no places for its pages, because groups are lost. That one is lost may show only when it is
    /// wanted: `at_length` wants as much as the checkpoint would, and takes it.
    pub(super) async fn lacks_groups(&self, at_length: bool) -> bool {
        let _ = self.space.prepare_meta(SLACK_PAGES).await;
        if self.space.lost_groups.get() == 0 && !at_length {
            return false;
        }
        let vdisks: Vec<_> = self.vdisks.borrow().values().cloned().collect();
        for vdisk in &vdisks {
            vdisk.mapping.settle_pending(&self.media, &self.cache).await;
        }
        let dirty = vdisks.iter().filter(|vdisk| vdisk.mapping.tree.borrow().is_dirty()).count();
        let places = self.space.prepare_meta(self.pages_at_most(dirty)).await;
        matches!(places, Err(NoMetaSpace::AllTaken)) && self.space.lost_groups.get() > 0
    }

    /// Upper bound of the pages of a checkpoint now, with the mappings of so many vdisks. Between the cut and the sealing of nodes a tree may
    /// grow a level or two.
    fn pages_at_most(&self, mappings: usize) -> u64 {
        self.counts.dirty.get() as u64 + 2 * (mappings as u64 + 3) + SLACK_PAGES
    }

    fn no_meta_space(&self) -> IoError {
        let reason = match self.space.lost_groups.get() {
            // The reserve is to prevent that.
            0 => "no extent is left for it; open the pool again and add a device".to_owned(),
            lost => format!("{lost} allocation groups are damaged in both copies"),
        };
        let path = format!("pool {}: metadata", self.identity.name);
        IoError::Failed { path, operation: "place a page", offset: 0, reason }
    }

    /// A checkpoint failed: what is in memory is right and what is on the devices is that of the root before. Nothing more
    /// may be promised.
    fn give_up(&self, error: IoError) -> Error {
        self.stop_writing("a checkpoint failed: ", error)
    }

    /// Nothing is written any more in this life.
    pub(super) fn stop_writing(&self, what: &str, error: IoError) -> Error {
        let name = &self.identity.name;
        let help = match self.space.lost_groups.get() {
            0 => format!("mend the device, then open it again (plimsoll pool import --name {name})"),
            _ => format!(
                "open it again (plimsoll pool import --name {name}), then make the lost groups anew (plimsoll pool check {name} --repair)"
            ),
        };
        let reason = format!("{what}{error}; {help}");
        self.journal.stop(error);
        self.read_only.borrow_mut().get_or_insert(reason.clone());
        self.media.trouble.noticed.notify();
        self.checkpoint.done.notify();
        Error::ReadOnly { pool: self.identity.name.clone(), reason, cause: self.journal.failure() }
    }
}

/// Places nodes, and keeps their pages until they are written.
struct Collector<'a, M: Machine> {
    space: &'a Space<M>,
    generation: u64,
    pages: Vec<(PageRef, Box<[u8]>)>,
}

impl<M: Machine> Sealer for Collector<'_, M> {
    fn place(&mut self) -> (PageAddr, PageAddr) {
        let Some(places) = self.space.place_page() else { unreachable!("room for all dirty nodes was made before") };
        places
    }

    fn release(&mut self, reference: &PageRef) {
        match reference.generation == self.generation {
            // Of this very checkpoint: there was no room for it, or for a page that it names.
            true => self.space.retract_page(reference),
            false => self.space.release_page(reference),
        }
    }

    fn write(&mut self, reference: &PageRef, page: Box<[u8]>) {
        self.pages.push((*reference, page));
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}
