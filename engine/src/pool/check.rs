//! Checking a pool: every metadata page in both copies, every word against the groups, every figure against a recount.
//!
//! What it looks at is chosen in `examine.rs`; vdisks and groups have files of their own. It reads metadata only. It heals a bad copy from a
//! good one when the pool may be written; it repairs nothing else. Every finding brings its [`Mend`], or says that there is none.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;

use bitvec::prelude::{BitVec, Lsb0};
use futures_util::stream::{self, StreamExt};
use plimsoll_hardware::Machine;

use super::Pool;
use super::ends::Problem;
use super::mend::Mend;
use super::warning::Warning;
use crate::error::Result;
use crate::format::{ExtentId, GROUP_EXTENTS, PageRef, PageType, Payload};
use crate::media::Scrubbed;
use crate::tree::{PageSeen, Tree, load_nodes};
use crate::vdisk::Store;

/// Pages of a tree between two turns of others, a millisecond at most.
const PAGES_AT_ONCE: usize = 4096;
/// Pages that are looked at one by one, at the same time.
const READS_AT_ONCE: usize = 32;

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
    pub(super) store: &'a Rc<Store<M>>,
    pub(super) report: CheckReport,
    pub(super) mends: Vec<Mend>,
    /// What it looks at may change meanwhile.
    pub(super) changes: bool,
    /// Who has each extent.
    pub(super) owned: BitVec<u64, Lsb0>,
    /// Metadata pages that are named.
    pub(super) named: BTreeMap<ExtentId, u16>,
    pub(super) lost_pages: bool,
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

/// Calls pages of the tree of groups after those of `count` that are under them.
fn name_of_groups(count: u64) -> impl Fn(&PageSeen) -> String {
    move |page| match page.first + page.leaves.min(count - page.first.min(count)) {
        end if end <= page.first + 1 => format!("allocation group {}", page.first),
        end => format!("allocation groups {} to {}", page.first, end - 1),
    }
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
            changes: Rc::ptr_eq(live, store) && !store.inspect && store.writable().is_ok(),
            owned: BitVec::repeat(false, (store.space.group_count() * GROUP_EXTENTS) as usize),
            named: BTreeMap::new(),
            lost_pages: false,
        };
        // Other damage is found by looking.
        for warning in warnings.iter().filter(|warning| warning.is_of_journal()) {
            checker.find("journal-damaged", true, None, warning.says(&store.identity.name));
        }
        if warnings.iter().any(Warning::is_of_journal) {
            checker.mends.push(Mend::AcceptJournal);
        } else if warnings.iter().any(|warning| matches!(warning, Warning::GroupsLost(_))) {
            checker.mends.push(Mend::TakeWrites);
        }
        // Whoever serves a pool without its end has accepted that.
        for warning in warnings.iter().filter(|warning| live.inspect && matches!(warning, Warning::EndLost(_))) {
            checker.refuse("end-lost", None, warning.says(&store.identity.name));
        }
        checker.check_ends(live).await;
        let mut ignore = |_: &mut Self, _: &PageSeen, _: &[u8]| ();
        let lost_table = checker
            .check_tree(
                &store.table,
                &|page| format!("vdisks {} to {}", page.first * 8, page.first * 8 + 7),
                &mut ignore,
            )
            .await;
        checker.mends.extend(lost_table.iter().map(|page| Mend::ForgetTable(page.first, page.leaves)));
        let name = |page: &PageSeen| format!("the pattern table from {} on", page.first);
        let lost_patterns = checker.check_tree(&store.patterns.tree, &name, &mut ignore).await;
        checker.mends.extend(lost_patterns.iter().map(|page| Mend::ForgetPatterns(page.first, page.leaves)));
        let lost_groups =
            checker.check_tree(&store.space.tree, &name_of_groups(store.space.group_count()), &mut ignore).await;
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

    pub(super) fn find(&mut self, kind: &'static str, loss: bool, place: Option<(String, u64, u64)>, message: String) {
        let (vdisk, offset, length) = match place {
            Some((vdisk, offset, length)) => (Some(vdisk), Some(offset), Some(length)),
            None => (None, None, None),
        };
        self.report.findings.push(Finding { kind, loss, healed: false, vdisk, offset, length, message });
    }

    /// A finding that no repair can decide.
    pub(super) fn refuse(&mut self, kind: &'static str, place: Option<(String, u64, u64)>, message: String) {
        self.mends.push(Mend::Refuse(message.clone()));
        self.find(kind, true, place, message);
    }

    /// Reads both copies of every page of a tree; answers the pages that are lost. What is read of pages that are not is given to `take`.
    pub(super) async fn check_tree<P: Payload>(
        &mut self,
        tree: &std::cell::RefCell<Tree<P>>,
        name: &dyn Fn(&PageSeen) -> String,
        take: &mut dyn FnMut(&mut Self, &PageSeen, &[u8]),
    ) -> Vec<PageSeen> {
        let media = &self.store.media;
        load_nodes(media, tree, false).await;
        let pages = tree.borrow().pages();
        let mut unsound = Vec::new();
        for pages in pages.chunks(PAGES_AT_ONCE) {
            let page = |index: usize| (pages[index].reference, pages[index].kind);
            let sound = media.sound(pages.len(), page, |index, bytes| take(self, &pages[index], bytes)).await;
            for (page, sound) in pages.iter().zip(sound) {
                self.report.pages_read += 2;
                self.note_page(&page.reference);
                unsound.extend((!sound).then(|| page.clone()));
            }
        }
        let scrubs = unsound.into_iter().map(async |page| (media.scrub_page(&page.reference, page.kind).await, page));
        let mut scrubs = pin!(stream::iter(scrubs).buffered(READS_AT_ONCE));
        let mut lost = Vec::new();
        while let Some((scrubbed, page)) = scrubs.next().await {
            match scrubbed {
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
}
