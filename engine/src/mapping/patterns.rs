//! The pool's patterns: what blocks repeat that are stored by a number and nothing else.
//!
//! All of them are in memory: 255 at most, a page each. Looking whether a block repeats one costs a test of its first eight bytes
//! against a mask of 64 bits, and for one block in many a look at the list.
//!
//! A pattern whose page is there can be read, whatever the directory says of it; one without its page cannot.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use plimsoll_hardware::Machine;

use crate::format::{
    PATTERNS_MAX, PatternEntry, PatternId, PatternPage, PatternRecord, PatternState, Payload, TreeRoot,
};
use crate::media::Media;
use crate::tree::{Found, Loader, PageCounts, Tree, load, load_nodes};

/// The leaf that holds the directory; pattern n is leaf n.
const DIRECTORY: u64 = 0;

/// One pattern.
pub(crate) struct Pattern {
    pub(crate) id: PatternId,
    pub(crate) state: PatternState,
    pub(crate) created_ms: u64,
    pub(crate) unit_bytes: usize,
    page: PatternPage,
}

impl Pattern {
    fn of_page(id: PatternId, page: PatternPage, entry: Option<PatternEntry>) -> Rc<Self> {
        let unit_bytes = period(page.bytes());
        // What a lost directory no longer says is not guessed: nothing new is stored by such a pattern.
        let (state, created_ms) = entry.map_or((PatternState::Disabled, 0), |entry| (entry.state, entry.created_ms));
        Rc::new(Pattern { id, state, created_ms, unit_bytes, page })
    }

    /// What is repeated.
    pub(crate) fn unit(&self) -> &[u8] {
        &self.page.bytes()[..self.unit_bytes]
    }

    /// Fills `bytes` as they read that begin `inside` bytes after the start of a block.
    pub(crate) fn fill(&self, bytes: &mut [u8], inside: u64) {
        let page = self.page.bytes();
        let mut at = inside as usize % page.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, after) = rest.split_at_mut((page.len() - at).min(rest.len()));
            now.copy_from_slice(&page[at..at + now.len()]);
            (at, rest) = (0, after);
        }
    }

    /// Whether a whole block repeats it.
    pub(crate) fn is(&self, block: &[u8]) -> bool {
        let page = &self.page.bytes()[..];
        block.chunks(page.len()).all(|chunk| *chunk == page[..chunk.len()])
    }

    fn record(&self) -> PatternRecord {
        PatternRecord { state: Some(self.state), created_ms: self.created_ms, unit: self.unit().to_vec() }
    }
}

/// Bytes of the shortest unit that a page repeats.
fn period(page: &[u8]) -> usize {
    let mut unit = page.len();
    while unit > 1 && page[..unit / 2] == page[unit / 2..unit] {
        unit /= 2;
    }
    unit
}

/// The patterns of a pool.
pub(crate) struct Patterns {
    pub(crate) tree: RefCell<Tree<PatternPage>>,
    loader: Loader,
    known: RefCell<Vec<Rc<Pattern>>>,
    /// Those that are matched, by the first eight bytes of their blocks.
    matched: RefCell<Vec<(u64, Rc<Pattern>)>>,
    /// A bit for each of these; 0: none is.
    mask: Cell<u64>,
}

impl Patterns {
    pub(crate) fn new(root: TreeRoot, counts: Rc<PageCounts>) -> Self {
        Patterns {
            tree: RefCell::new(Tree::new(root, counts)),
            loader: Loader::default(),
            known: RefCell::default(),
            matched: RefCell::default(),
            mask: Cell::new(0),
        }
    }

    /// Reads the whole table.
    pub(crate) async fn read<M: Machine>(&self, media: &Media<M>) {
        load_nodes(media, &self.tree, true).await;
        let mut next = self.tree.borrow().next_present(0);
        while let Some(leaf) = next {
            // What is lost is found by a check, and by who reads a block that needs it.
            let _ = load(media, &self.loader, &self.tree, leaf).await;
            next = self.tree.borrow().next_present(leaf + 1);
        }
        self.rebuild();
    }

    /// Makes the list from the pages in memory.
    fn rebuild(&self) {
        let tree = self.tree.borrow();
        let directory = match tree.get(DIRECTORY) {
            Found::Page(page) => Some(page),
            _ => None,
        };
        let mut known = Vec::new();
        for id in (1..=PATTERNS_MAX).map(PatternId) {
            let Found::Page(page) = tree.get(u64::from(id.0)) else { continue };
            if page.is_empty() {
                continue;
            }
            let entry = directory.and_then(|directory| directory.entry(id).ok().flatten());
            known.push(Pattern::of_page(id, page.clone(), entry));
        }
        let is_matched = |pattern: &&Rc<Pattern>| pattern.state != PatternState::Disabled;
        let matched: Vec<_> = known
            .iter()
            .filter(is_matched)
            .map(|pattern| (first_word(pattern.page.bytes()), pattern.clone()))
            .collect();
        self.mask.set(matched.iter().fold(0, |mask, (word, _)| mask | bit_of(*word)));
        *self.matched.borrow_mut() = matched;
        *self.known.borrow_mut() = known;
    }

    /// The pattern of this number.
    pub(crate) fn get(&self, id: PatternId) -> Option<Rc<Pattern>> {
        self.known.borrow().iter().find(|pattern| pattern.id == id).cloned()
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> Vec<Rc<Pattern>> {
        self.known.borrow().clone()
    }

    /// Whether any is matched.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.mask.get() != 0
    }

    /// Whether a block that begins with these eight bytes may repeat a pattern.
    #[inline]
    pub(crate) fn may_begin(&self, first: u64) -> bool {
        self.mask.get() & bit_of(first) != 0
    }

    /// The pattern that is matched and that a whole block repeats; `own` is that of the vdisk.
    pub(crate) fn find(&self, block: &[u8], own: Option<PatternId>) -> Option<PatternId> {
        let first = first_word(block);
        let matched = self.matched.borrow();
        let mut candidates = matched.iter().filter(|(word, _)| *word == first).map(|(_, pattern)| pattern);
        candidates
            .find(|pattern| {
                let matched = pattern.state == PatternState::Everywhere || own == Some(pattern.id);
                matched && pattern.is(block)
            })
            .map(|pattern| pattern.id)
    }

    /// Whether blocks of the pattern may be stored by its number now.
    pub(crate) fn is_matched(&self, id: PatternId) -> bool {
        self.get(id).is_some_and(|pattern| pattern.state != PatternState::Disabled)
    }

    /// A number that no pattern has, nor had when its page was lost.
    pub(crate) fn free(&self) -> Option<PatternId> {
        let tree = self.tree.borrow();
        let is_free = |id: &PatternId| match tree.get(u64::from(id.0)) {
            Found::Absent => true,
            Found::Page(page) => page.is_empty(),
            _ => false,
        };
        (1..=PATTERNS_MAX).map(PatternId).find(is_free)
    }

    /// Whether the directory can be changed.
    pub(crate) fn is_sound(&self) -> bool {
        !matches!(self.tree.borrow().get(DIRECTORY), Found::Lost | Found::Unread(..))
    }

    /// Puts a record in force. What a lost page would have to take is passed over: the page was reported.
    pub(crate) fn put(&self, id: PatternId, now: &PatternRecord) {
        {
            let mut tree = self.tree.borrow_mut();
            let can = |tree: &Tree<PatternPage>, leaf| matches!(tree.get(leaf), Found::Page(_) | Found::Absent);
            let leaf = u64::from(id.0);
            if can(&tree, leaf) {
                *tree.change(leaf) = match now.state {
                    Some(_) => PatternPage::repeating(&now.unit),
                    None => PatternPage::empty(),
                };
            }
            if can(&tree, DIRECTORY) {
                let entry = now.state.map(|state| PatternEntry {
                    state,
                    unit_bytes: now.unit.len() as u16,
                    created_ms: now.created_ms,
                });
                tree.change(DIRECTORY).set_entry(id, entry);
            }
        }
        self.rebuild();
    }

    /// Gives up what lost pages, the first and how many, held. A lost directory is made anew from the patterns that are there.
    pub(crate) fn forget(&self, first: u64, count: u64) {
        self.tree.borrow_mut().forget_lost(first);
        {
            let mut tree = self.tree.borrow_mut();
            let known = self.known.borrow();
            if matches!(tree.get(DIRECTORY), Found::Page(_) | Found::Absent) {
                let directory = tree.change(DIRECTORY);
                for id in
                    (1..=PATTERNS_MAX).map(PatternId).filter(|id| (first..first + count).contains(&u64::from(id.0)))
                {
                    directory.set_entry(id, None);
                }
                for pattern in known.iter() {
                    let now = pattern.record();
                    let entry = PatternEntry {
                        state: pattern.state,
                        unit_bytes: now.unit.len() as u16,
                        created_ms: now.created_ms,
                    };
                    directory.set_entry(pattern.id, Some(entry));
                }
            }
        }
        self.rebuild();
    }

    /// The record that says what a pattern is, in another state.
    pub(crate) fn record_of(&self, id: PatternId, state: PatternState) -> Option<PatternRecord> {
        self.get(id).map(|pattern| PatternRecord { state: Some(state), ..pattern.record() })
    }
}

/// The first eight bytes of a block.
#[inline]
pub(crate) fn first_word(block: &[u8]) -> u64 {
    block.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// One of 64 bits, by Fibonacci hashing.
fn bit_of(word: u64) -> u64 {
    1 << (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(unit: &[u8]) -> Rc<Pattern> {
        let entry = PatternEntry { state: PatternState::Everywhere, unit_bytes: unit.len() as u16, created_ms: 1 };
        Pattern::of_page(PatternId(1), PatternPage::repeating(unit), Some(entry))
    }

    #[test]
    fn a_pattern_fills_from_anywhere_in_a_block_and_knows_its_own() {
        let unit: Vec<u8> = (1..=64).collect();
        let pattern = pattern(&unit);
        assert_eq!(pattern.unit(), unit);
        let mut block = vec![0; 65_536];
        pattern.fill(&mut block, 0);
        assert!(pattern.is(&block) && pattern.is(&block[..4096]));
        for inside in [512, 4096 + 1536, 12_288] {
            let mut part = vec![0; 9000];
            pattern.fill(&mut part, inside as u64);
            assert!(part == block[inside..inside + 9000], "{inside}");
        }
        block[65_535] ^= 1;
        assert!(!pattern.is(&block));
    }

    #[test]
    fn a_unit_that_repeats_itself_is_shortened() {
        assert_eq!(pattern(&[7; 256]).unit(), [7]);
        assert_eq!(pattern(&[1, 2, 1, 2]).unit(), [1, 2]);
        let mut whole = vec![1; 4096];
        whole[4095] = 2;
        assert_eq!(pattern(&whole).unit().len(), 4096);
    }
}
