//! Checking a pool: every metadata page in both copies, every word against the groups, every figure against a recount.
//!
//! What it looks at is chosen in `examine.rs`. It reads metadata only. It heals a bad copy from a good one when the pool may be written; it repairs nothing else. Every
//! finding brings its [`Mend`], or says that there is none.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bitvec::vec::BitVec;
use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::Machine;

use super::Pool;
use super::ends::Problem;
use super::mend::Mend;
use super::warning::Warning;
use crate::error::Result;
use crate::format::{Blocks, Detail, ExtentId, GROUP_EXTENTS, LEAF_WORDS, PageRef, PageType, Payload, Word};
use crate::media::Scrubbed;
use crate::tree::{Found, Loader, PageSeen, Tree, load, load_nodes};
use crate::vdisk::{Store, VdiskCore};

/// Pages read at the same time.
const READS_AT_ONCE: usize = 32;
/// Allocation groups that are compared between two turns of others, a millisecond at most.
const GROUPS_AT_ONCE: u64 = 16;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable kebab-case word: `bad-copy`, `lost-page`, `doubly-owned-extent`, `leaked-extent`, `unallocated-extent`,
    /// `impossible-extent`, `doubly-used-page`, `leaked-page`, `unallocated-page`, `count-mismatch`, `journal-damaged`,
    /// `unknown-pattern`, `end-lost`.
    pub kind: &'static str,
    /// Data was lost or is at risk.
    pub loss: bool,
    /// A copy was bad, and has been written again from another.
    pub healed: bool,
    /// The vdisk it concerns.
    pub vdisk: Option<String>,
    /// First byte of that vdisk.
    pub offset: Option<u64>,
    /// Bytes of that vdisk.
    pub length: Option<u64>,
    /// The same in words, with figures.
    pub message: String,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Everything that is not as it should be; empty when all is well.
    pub findings: Vec<Finding>,
    /// Metadata pages read, each copy counted.
    pub pages_read: u64,
    /// Extents compared.
    pub extents_checked: u64,
    /// Vdisks walked.
    pub vdisks_checked: u64,
    /// Extents of vdisks that repeat a pattern and have no space behind them.
    pub filled_extents: u64,
    /// Extents allocated that nobody has.
    pub leaked_extents: u64,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether data was lost or is at risk.
    pub fn lost(&self) -> bool {
        self.findings.iter().any(|finding| finding.loss)
    }
}

/// A check under way.
pub(super) struct Checker<'a, M: Machine> {
    store: &'a Rc<Store<M>>,
    report: CheckReport,
    mends: Vec<Mend>,
    /// Who has each extent.
    owned: BitVec,
    /// Metadata pages that are named.
    named: BTreeMap<ExtentId, u16>,
    lost_pages: bool,
}

impl<M: Machine> Pool<M> {
    /// Checks every invariant of the format. The pool goes on serving.
    ///
    /// # Errors
    /// `ReadOnly`, `Device` when the checkpoint that it looks at cannot be written.
    pub async fn check(&self) -> Result<CheckReport> {
        let (report, _, _pin) = self.examine().await?;
        Ok(report)
    }
}

/// The words of a leaf, with what is pending for it; none if it cannot be had. It takes no place in memory that it did not have before.
async fn words_of<M: Machine>(
    store: &Rc<Store<M>>,
    vdisk: &VdiskCore,
    loader: &Loader,
    index: u64,
) -> (u64, Vec<Word>) {
    let (media, mapping) = (&store.media, &vdisk.mapping);
    let was_resident = matches!(mapping.tree.borrow().get(index), Found::Page(_));
    if load(media, loader, &mapping.tree, index).await.is_err()
        || mapping.load_leaf(media, &store.cache, index).await.is_err()
    {
        return (index, Vec::new());
    }
    let words = match mapping.tree.borrow().get(index) {
        Found::Page(page) => page.iter().collect(),
        _ => Vec::new(),
    };
    if !was_resident {
        mapping.tree.borrow_mut().evict(index);
    }
    (index, words)
}

impl<'a, M: Machine> Checker<'a, M> {
    /// Checks `store`, which is the live pool or a view of it.
    pub(super) async fn run(
        live: &Rc<Store<M>>,
        store: &'a Rc<Store<M>>,
        warnings: &[Warning],
    ) -> (CheckReport, Vec<Mend>) {
        let before = store.media.pages.read.get();
        let mut checker = Checker {
            store,
            report: CheckReport::default(),
            mends: Vec::new(),
            owned: BitVec::repeat(false, (store.space.group_count() * GROUP_EXTENTS) as usize),
            named: BTreeMap::new(),
            lost_pages: false,
        };
        // Other damage is found by looking.
        for warning in warnings.iter().filter(|warning| warning.is_of_journal()) {
            checker.find("journal-damaged", true, None, warning.to_string());
        }
        if warnings.iter().any(Warning::is_of_journal) {
            checker.mends.push(Mend::AcceptJournal);
        }
        // Whoever serves a pool without its end has accepted that.
        for warning in warnings.iter().filter(|warning| live.inspect && matches!(warning, Warning::EndLost(_))) {
            checker.refuse("end-lost", None, warning.to_string());
        }
        checker.check_ends(live).await;
        let lost_table = checker
            .check_tree(&store.table, &|page| format!("vdisks {} to {}", page.first * 8, page.first * 8 + 7))
            .await;
        checker.mends.extend(lost_table.iter().map(|page| Mend::ForgetTable(page.first, page.leaves)));
        let name = |page: &PageSeen| format!("the pattern table from {} on", page.first);
        let lost_patterns = checker.check_tree(&store.patterns.tree, &name).await;
        checker.mends.extend(lost_patterns.iter().map(|page| Mend::ForgetPatterns(page.first, page.leaves)));
        let lost_groups =
            checker.check_tree(&store.space.tree, &|page| format!("allocation group {}", page.first)).await;
        let vdisks: Vec<_> = store.vdisks.borrow().values().cloned().collect();
        for vdisk in &vdisks {
            checker.check_vdisk(vdisk).await;
        }
        checker.check_groups().await;
        for page in &lost_groups {
            checker.rebuild_groups(page.first, page.leaves);
        }
        if checker.lost_pages {
            checker.mends.push(Mend::GiveBack);
        }
        checker.check_figures(live, lost_groups.is_empty());
        checker.report.vdisks_checked = vdisks.len() as u64;
        checker.report.pages_read += store.media.pages.read.get() - before;
        (checker.report, checker.mends)
    }

    fn find(&mut self, kind: &'static str, loss: bool, place: Option<(String, u64, u64)>, message: String) {
        let (vdisk, offset, length) = match place {
            Some((vdisk, offset, length)) => (Some(vdisk), Some(offset), Some(length)),
            None => (None, None, None),
        };
        self.report.findings.push(Finding { kind, loss, healed: false, vdisk, offset, length, message });
    }

    /// A finding that no repair can decide.
    fn refuse(&mut self, kind: &'static str, place: Option<(String, u64, u64)>, message: String) {
        self.mends.push(Mend::Refuse(message.clone()));
        self.find(kind, true, place, message);
    }

    /// Reads both copies of every page of a tree; answers the pages that are lost.
    async fn check_tree<P: Payload>(
        &mut self,
        tree: &std::cell::RefCell<Tree<P>>,
        name: &dyn Fn(&PageSeen) -> String,
    ) -> Vec<PageSeen> {
        let store = self.store;
        load_nodes(&store.media, tree).await;
        let pages = tree.borrow().pages();
        let mut scrubs = stream::iter(pages)
            .map(|page| async move { (store.media.scrub_page(&page.reference, page.kind).await, page) })
            .buffer_unordered(READS_AT_ONCE);
        let mut lost = Vec::new();
        let mut done = Vec::new();
        while let Some(result) = scrubs.next().await {
            done.push(result);
        }
        drop(scrubs);
        for (bad, page) in done {
            self.report.pages_read += 2;
            self.note_page(&page.reference);
            match bad {
                Scrubbed::Sound => {}
                Scrubbed::Bad { healed } => {
                    let (what, outcome) =
                        (name(&page), if healed { "healed from the other" } else { "the other is good" });
                    self.find_copy(format!("one copy of a metadata page of {what} was bad; {outcome}"), healed);
                }
                Scrubbed::Lost => lost.push(page),
            }
        }
        self.lost_pages |= !lost.is_empty();
        if P::TYPE != PageType::Leaf {
            for page in &lost {
                let message = format!("both copies of a metadata page of {} are lost", name(page));
                self.find("lost-page", true, None, message);
            }
        }
        lost
    }

    /// Notes where a page is, and that nobody else is there.
    fn note_page(&mut self, reference: &PageRef) {
        for address in [reference.a, reference.b] {
            let Some((extent, page)) = self.store.media.extent_of(address) else {
                let message = format!("a metadata page is named at {:#x}, where no extent is", address.0);
                self.refuse("impossible-extent", None, message);
                continue;
            };
            let pages = self.named.entry(extent).or_insert(0);
            if *pages >> page & 1 == 1 {
                let message = format!("page {page} of extent {} is named twice", extent.0);
                *pages |= 1 << page;
                self.refuse("doubly-used-page", None, message);
            } else {
                *pages |= 1 << page;
            }
        }
    }

    async fn check_vdisk(&mut self, vdisk: &Rc<VdiskCore>) {
        let name = format!("{}/{}", self.store.identity.name, vdisk.name());
        let extent_bytes = self.store.media.extent_bytes;
        let tree = &vdisk.mapping.tree;
        let lost = self
            .check_tree(tree, &|page| format!("{name} from byte {}", page.first * LEAF_WORDS as u64 * extent_bytes))
            .await;
        for page in &lost {
            let offset = page.first * LEAF_WORDS as u64 * extent_bytes;
            let length = (page.leaves * LEAF_WORDS as u64)
                .saturating_mul(extent_bytes)
                .min(vdisk.size.get().saturating_sub(offset));
            let message = format!("the mapping of {name} at {offset}..+{length} is lost in both copies");
            self.find("lost-page", true, Some((name.clone(), offset, length)), message);
            self.mends.push(Mend::ForgetLeaf(vdisk.id, page.first));
        }
        let loader = Loader::default();
        let (mut backed, mut unknown) = (0, Vec::new());
        let mut from = 0;
        let present = std::iter::from_fn(|| {
            let present = tree.borrow().next_sound(from);
            let index = present.into_iter().chain(vdisk.mapping.next_pending(from)).min()?;
            from = index + 1;
            Some(index)
        });
        let leaves = present.map(|index| words_of(self.store, vdisk, &loader, index));
        let mut leaves = pin!(stream::iter(leaves).buffered(READS_AT_ONCE));
        while let Some((index, words)) = leaves.next().await {
            let mut packed: BTreeMap<ExtentId, Blocks> = BTreeMap::new();
            for (slot, word) in words.into_iter().enumerate() {
                let offset = (index * LEAF_WORDS as u64 + slot as u64) * extent_bytes;
                if word.is_packed() {
                    let known = packed.entry(word.extent()).or_default();
                    let (others, places) = (*known, word.places(word.valid()));
                    *known = others.with(places);
                    if others.is_empty() {
                        backed += 1;
                        self.own(&name, offset, word.extent());
                    } else if others.overlaps(places) {
                        self.share_a_place(&name, offset, word.extent());
                    }
                } else if word.is_mapped() {
                    backed += 1;
                    self.own(&name, offset, word.extent());
                } else if word.is_fill() {
                    self.report.filled_extents += 1;
                    if self.store.patterns.get(word.pattern()).is_none() {
                        unknown.push((offset, word.pattern()));
                    }
                }
            }
        }
        for (offset, pattern) in &unknown {
            let message = format!("{name} at {offset} repeats pattern {}, which the pool does not have", pattern.0);
            self.find("unknown-pattern", true, Some((name.clone(), *offset, extent_bytes)), message);
        }
        if !unknown.is_empty() {
            self.mends.push(Mend::ForgetFills(vdisk.id));
        }
        let said = vdisk.mapping.account.backed.get();
        if said != backed && lost.is_empty() {
            let message = format!("{name} says that {said} extents are behind it and has {backed}");
            self.find("count-mismatch", false, Some((name, 0, vdisk.size.get())), message);
            self.mends.push(Mend::Backed(vdisk.id, backed as i64 - said as i64));
        }
    }

    fn own(&mut self, vdisk: &str, offset: u64, extent: ExtentId) {
        let extent_bytes = self.store.media.extent_bytes;
        let place = Some((vdisk.to_owned(), offset, extent_bytes));
        if self.store.media.locate(extent).is_none() {
            let message = format!("{vdisk} at {offset} is mapped to extent {}, which no device has", extent.0);
            self.refuse("impossible-extent", place, message);
        } else if self.owned.replace(extent.0 as usize, true) {
            let message = format!("extent {} behind {vdisk} at {offset} is behind something else too", extent.0);
            self.refuse("doubly-owned-extent", place, message);
        }
    }

    fn share_a_place(&mut self, vdisk: &str, offset: u64, extent: ExtentId) {
        let place = Some((vdisk.to_owned(), offset, self.store.media.extent_bytes));
        let message = format!("places of extent {} behind {vdisk} at {offset} are behind something else too", extent.0);
        self.refuse("doubly-owned-extent", place, message);
    }

    /// Compares the figures of the live pool with a recount.
    fn check_figures(&mut self, live: &Rc<Store<M>>, all_read: bool) {
        let mut wrong = Vec::new();
        live.recount(all_read, &mut |figure| {
            if !figure.is_right() {
                wrong.push(figure.to_string());
            }
        });
        if !wrong.is_empty() {
            // The last one: others change what is counted.
            self.mends.push(Mend::Recount);
        }
        wrong.into_iter().for_each(|message| self.find("count-mismatch", false, None, message));
    }

    /// Looks for labels, roots and journal batches that have lost a copy.
    async fn check_ends(&mut self, live: &Rc<Store<M>>) {
        for problem in super::ends::check(live, !self.store.inspect).await {
            match problem {
                Problem::Copy { message, healed } => self.find_copy(message, healed),
                Problem::Lost(message) => self.refuse("end-lost", None, message),
            }
        }
    }

    fn find_copy(&mut self, message: String, healed: bool) {
        self.mends.push(Mend::Copy(message.clone()));
        let (vdisk, offset, length) = (None, None, None);
        self.report.findings.push(Finding { kind: "bad-copy", loss: false, healed, vdisk, offset, length, message });
    }

    fn rebuild_groups(&mut self, first: u64, count: u64) {
        for group in first..(first + count).min(self.store.space.group_count()) {
            let range = group * GROUP_EXTENTS..(group + 1) * GROUP_EXTENTS;
            let data = range.clone().filter(|&extent| self.owned[extent as usize]).map(ExtentId).collect();
            let meta = self.named.range(ExtentId(range.start)..ExtentId(range.end)).map(|(&e, &p)| (e, p)).collect();
            self.mends.push(Mend::RebuildGroup(group, data, meta));
        }
    }

    /// Compares the groups with who has what.
    async fn check_groups(&mut self) {
        let (mut data, mut meta) = (0, 0);
        for group in 0..self.store.space.group_count() {
            if group % GROUPS_AT_ONCE == GROUPS_AT_ONCE - 1 {
                // What is in memory, or was never written, is looked at without a wait: others have their turn.
                self.store.media.machine.sleep(Duration::from_micros(1)).await;
            }
            if self.store.space.load_group(group).await.is_err() {
                continue;
            }
            for slot in 0..u64::from(self.store.space.group_size(group)) {
                let extent = ExtentId(group * GROUP_EXTENTS + slot);
                self.report.extents_checked += 1;
                let allocated = self.store.space.is_allocated(extent);
                let detail = self.store.space.detail(extent);
                let pages = match detail {
                    Some(Detail::Meta(pages)) => Some(pages),
                    _ => None,
                };
                data += u64::from(allocated && pages.is_none());
                meta += u64::from(pages.is_some());
                self.compare(extent, allocated, pages);
            }
        }
        let space = &self.store.space;
        let said = (space.data(), space.meta_extents());
        if said != (data, meta) && space.lost_groups.get() == 0 {
            let message =
                format!("the pool says {} data and {} metadata extents; there are {data} and {meta}", said.0, said.1);
            self.find("count-mismatch", false, None, message);
            self.mends.push(Mend::Totals(data as i64 - said.0 as i64, meta as i64 - said.1 as i64));
        }
    }

    fn compare(&mut self, extent: ExtentId, allocated: bool, pages: Option<u16>) {
        let owned = self.owned[extent.0 as usize];
        let named = self.named.get(&extent).copied().unwrap_or(0);
        let number = extent.0;
        if owned && (!allocated || pages.is_some()) {
            let what = if pages.is_some() { "metadata" } else { "free" };
            let message = format!("extent {number} holds data and its group says {what}");
            if named == 0 && (pages.is_none() || !self.lost_pages) {
                self.find("unallocated-extent", true, None, message);
                self.mends.push(Mend::Allocate(extent));
            } else {
                self.refuse("unallocated-extent", None, message);
            }
            return;
        }
        // What nobody names may be behind a page that is lost; that is decided first.
        if allocated && pages.is_none() && !owned && !self.lost_pages {
            self.report.leaked_extents += 1;
            self.find("leaked-extent", false, None, format!("extent {number} is allocated and nobody has it"));
            self.mends.push(Mend::Free(extent));
        }
        let used = pages.unwrap_or(0);
        if named & !used != 0 {
            let message =
                format!("pages {:#06x} of extent {number} are in use and its group says they are free", named & !used);
            self.find("unallocated-page", true, None, message);
            // Whoever names the others may be behind a page that is lost.
            let kept = if self.lost_pages { used } else { 0 };
            self.mends.push(Mend::Pages(extent, named | kept));
        } else if used & !named != 0 && !self.lost_pages {
            let message = format!("pages {:#06x} of extent {number} are kept and nobody names them", used & !named);
            self.find("leaked-page", false, None, message);
            self.mends.push(Mend::Pages(extent, named));
        }
    }
}
