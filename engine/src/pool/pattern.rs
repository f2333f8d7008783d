//! The patterns of a pool: adding one, taking it out of use, removing it. Each is a record, durable before it is answered.
//!
//! A pattern is removed only when nothing is stored by its number any more: it is disabled first, so that nothing new is, and then
//! every vdisk is looked through. What took its place in a word is made durable before the removal is written down, so no
//! crash brings back a word that names it.

use std::collections::BTreeMap;
use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::{Error, Result};
use crate::format::{
    LEAF_WORDS, PATTERNS_MAX, PatternId, PatternRecord, PatternState, Record, UNIT_BYTES_MAX, Word, is_unit,
};
use crate::mapping::Pattern;
use crate::tree::Found;
use crate::vdisk::{Store, VdiskCore};

/// Dirty pages of a change to the table: a pattern, the directory, the node above them.
const PATTERN_PAGES: usize = 4;
/// Bytes of the record of a pattern.
const RECORD_BYTES: usize = 16 + UNIT_BYTES_MAX;
/// Bytes of a random unit: nobody else's data begins like it, ever.
const RANDOM_BYTES: usize = 64;

/// What a pattern is matched against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternUse {
    /// What is written to any vdisk of the pool.
    Everywhere,
    /// What is written to the vdisks whose own pattern it is.
    OwnOnly,
    /// Nothing. What is stored by it reads as ever.
    Disabled,
}

/// A pattern to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternSpec {
    /// This unit, over and over: 1 to 4096 bytes, a power of two, not all zeros.
    Unit(Vec<u8>),
    /// A unit of 64 random bytes.
    Random,
}

/// What is known of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternInfo {
    /// Its number, from 1; used again after it is removed.
    pub number: u16,
    /// What is repeated; the shortest unit that says the same as what was given.
    pub unit: Vec<u8>,
    /// What it is matched against.
    pub used: PatternUse,
    /// Vdisks whose own it is.
    pub vdisks: Vec<String>,
    /// When it was added, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl<M: Machine> Pool<M> {
    /// Adds a pattern. Blocks that repeat it and are written from now on may be stored by its number.
    ///
    /// # Errors
    /// `InvalidArgument` when the unit cannot be a pattern's or there are 255 patterns, `Exists`, `OutOfSpace`, `ReadOnly`, `Device`.
    pub async fn add_pattern(&self, spec: PatternSpec, used: PatternUse) -> Result<PatternInfo> {
        let store = &self.store;
        let unit = match spec {
            PatternSpec::Unit(unit) => unit,
            PatternSpec::Random => random_unit(&store.media.machine),
        };
        check_unit(&unit)?;
        store.writable()?;
        let _room = store.room(PATTERN_PAGES).await?;
        let mut permit = store.permit(RECORD_BYTES).await?;
        let unit = shortened(unit);
        if let Some(known) = store.patterns.all().iter().find(|pattern| pattern.unit() == unit) {
            let name = format!("{} of pool {}", known.id.0, store.identity.name);
            return Err(Error::Exists { kind: "pattern", name });
        }
        store.has_space()?;
        let Some(id) = store.patterns.free().filter(|_| store.patterns.is_sound()) else {
            return Err(Error::InvalidArgument(format!(
                "pool {0} has no place for a pattern: there are at most {PATTERNS_MAX}, and the table must be whole; remove one \
                 (plimsoll pattern remove {0} NUMBER) or see plimsoll pool check {0}",
                store.identity.name
            )));
        };
        let created_ms = store.media.machine.wall_clock_ms();
        let now = PatternRecord { state: Some(state_of(used)), created_ms, unit };
        self.put_pattern(id, now, &mut permit);
        drop(permit);
        store.flush_journal().await?;
        self.pattern(id.0)
    }

    /// Says whether a unit can be a pattern's, and adds nothing.
    ///
    /// # Errors
    /// As [`Pool::add_pattern`].
    pub fn check_pattern(&self, unit: &[u8]) -> Result<()> {
        check_unit(unit)
    }

    /// All patterns, by number.
    pub fn patterns(&self) -> Vec<PatternInfo> {
        self.store.patterns.all().iter().map(|pattern| self.describe_pattern(pattern)).collect()
    }

    /// The pattern of this number.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn pattern(&self, number: u16) -> Result<PatternInfo> {
        Ok(self.describe_pattern(&*self.known_pattern(number)?))
    }

    /// Changes what a pattern is matched against.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `Device`.
    pub async fn set_pattern(&self, number: u16, used: PatternUse) -> Result<PatternInfo> {
        let store = &self.store;
        store.writable()?;
        let _room = store.room(PATTERN_PAGES).await?;
        let mut permit = store.permit(RECORD_BYTES).await?;
        let id = self.known_pattern(number)?.id;
        if let Some(now) = store.patterns.record_of(id, state_of(used)) {
            self.put_pattern(id, now, &mut permit);
        }
        drop(permit);
        store.flush_journal().await?;
        self.pattern(number)
    }

    /// Removes a pattern that nothing is stored by. It must be disabled.
    ///
    /// # Errors
    /// `NotFound`, `Busy` when it is matched, a vdisk's own, or still in use, with where; `Damaged` when that cannot be known; `ReadOnly`,
    /// `Device`.
    pub async fn remove_pattern(&self, number: u16) -> Result<()> {
        let store = &self.store;
        store.writable()?;
        let pool = store.identity.name.clone();
        let known = self.known_pattern(number)?;
        let id = known.id;
        let busy = |reason| Err(Error::Busy { object: format!("pattern {number} of pool {pool}"), reason });
        let info = self.pattern(number)?;
        if let Some(vdisk) = info.vdisks.first() {
            return busy(format!(
                "it is {pool}/{vdisk}'s own; give that another first (plimsoll vdisk set {pool}/{vdisk} --pattern none)"
            ));
        }
        if info.used != PatternUse::Disabled {
            return busy(format!("it is matched; disable it first (plimsoll pattern disable {pool} {number})"));
        }
        let vdisks: Vec<_> = store.vdisks.borrow().values().cloned().collect();
        for vdisk in vdisks {
            let words = store.fills_of(&vdisk).await?;
            if let Some(&(count, first)) = words.get(&id) {
                let offset = first * store.media.extent_bytes;
                return busy(format!(
                    "{count} extents of {pool}/{} are stored by it, the first at byte {offset}; discard or overwrite them, or keep \
                     it disabled",
                    vdisk.name()
                ));
            }
        }
        // What took the pattern's place must not be taken back once the pattern is gone: not by power loss, and not by a proof that
        // fails, which a batch that is only durable may still meet.
        store.flush_journal().await?;
        let durable = store.journal.durable();
        store.confirm(durable).await?;
        let _room = store.room(PATTERN_PAGES).await?;
        let mut permit = store.permit(RECORD_BYTES).await?;
        // It may have been put to use since it was looked for. A pattern that is changed is another in memory.
        if !Rc::ptr_eq(&known, &self.known_pattern(number)?) || !self.pattern(number)?.vdisks.is_empty() {
            return busy("the patterns were changed meanwhile; try again".to_owned());
        }
        self.put_pattern(id, PatternRecord { state: None, created_ms: 0, unit: Vec::new() }, &mut permit);
        drop(permit);
        store.flush_journal().await
    }

    pub(super) fn known_pattern(&self, number: u16) -> Result<Rc<Pattern>> {
        let known = self.store.patterns.get(PatternId(number));
        let name = || format!("{number} of pool {}", self.store.identity.name);
        known.ok_or_else(|| Error::NotFound { kind: "pattern", name: name() })
    }

    fn put_pattern(&self, id: PatternId, now: PatternRecord, permit: &mut crate::journal::Permit<M>) {
        self.store.patterns.put(id, &now);
        self.store.journal.append(permit, &[Record::Pattern { pattern: id, now }]);
    }

    fn describe_pattern(&self, pattern: &Pattern) -> PatternInfo {
        let is_own = |vdisk: &&Rc<VdiskCore>| vdisk.ready.get() && vdisk.entry.borrow().pattern == Some(pattern.id);
        PatternInfo {
            number: pattern.id.0,
            unit: pattern.unit().to_vec(),
            used: match pattern.state {
                PatternState::Everywhere => PatternUse::Everywhere,
                PatternState::OwnOnly => PatternUse::OwnOnly,
                PatternState::Disabled => PatternUse::Disabled,
            },
            vdisks: self.store.vdisks.borrow().values().filter(is_own).map(|vdisk| vdisk.name()).collect(),
            created_ms: pattern.created_ms,
        }
    }
}

impl<M: Machine> Store<M> {
    /// How many words of a vdisk each pattern has, and the first of them.
    async fn fills_of(&self, vdisk: &VdiskCore) -> Result<BTreeMap<PatternId, (u64, u64)>> {
        let mut found = BTreeMap::new();
        let mut next = vdisk.mapping.next_present(0);
        while let Some(leaf) = next {
            let loaded = vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await;
            loaded.map_err(|lost| self.damaged(vdisk, lost))?;
            if let Found::Page(page) = vdisk.mapping.tree.borrow().get(leaf) {
                for (slot, word) in page.iter().enumerate().filter(|(_, word)| word.is_fill()) {
                    found.entry(word.pattern()).or_insert((0, leaf * LEAF_WORDS as u64 + slot as u64)).0 += 1;
                }
            }
            self.trim_cache();
            next = vdisk.mapping.next_present(leaf + 1);
        }
        Ok(found)
    }

    /// Gives up the blocks of a vdisk that repeat patterns which are gone. For a repair; a checkpoint follows.
    pub(super) async fn forget_fills(&self, vdisk: &Rc<VdiskCore>) {
        let mut next = vdisk.mapping.tree.borrow().next_sound(0);
        while let Some(leaf) = next {
            if vdisk.mapping.load_leaf(&self.media, &self.cache, leaf).await.is_ok() {
                let first = leaf * LEAF_WORDS as u64;
                let words: Vec<Word> = match vdisk.mapping.tree.borrow().get(leaf) {
                    Found::Page(page) => page.iter().collect(),
                    _ => Vec::new(),
                };
                for (slot, word) in words.into_iter().enumerate() {
                    if word.is_fill() && self.patterns.get(word.pattern()).is_none() {
                        let at = crate::format::VirtualExtent(first + slot as u64);
                        vdisk.mapping.set(&self.cache, at, Word::UNMAPPED);
                    }
                }
            }
            next = vdisk.mapping.tree.borrow().next_sound(leaf + 1);
        }
        self.put_in_table(vdisk);
    }
}

fn state_of(used: PatternUse) -> PatternState {
    match used {
        PatternUse::Everywhere => PatternState::Everywhere,
        PatternUse::OwnOnly => PatternState::OwnOnly,
        PatternUse::Disabled => PatternState::Disabled,
    }
}

fn random_unit<M: Machine>(machine: &M) -> Vec<u8> {
    (0..RANDOM_BYTES / 8).flat_map(|_| machine.random().to_le_bytes()).collect()
}

fn check_unit(unit: &[u8]) -> Result<()> {
    let problem = if unit.is_empty() {
        "a pattern of no bytes repeats nothing; name 1 to 4096 bytes".to_owned()
    } else if unit.len() > UNIT_BYTES_MAX {
        format!("a pattern of {} bytes is longer than a block; name 1 to {UNIT_BYTES_MAX} bytes", unit.len())
    } else if unit.iter().all(|&byte| byte == 0) {
        "a pattern of zeros is not needed: zeros that are written are not stored (plimsoll vdisk set --detect zeros=on)"
            .to_owned()
    } else if !is_unit(unit) {
        format!(
            "a pattern of {} bytes does not fill a block a whole number of times; name a power of two, 1 to {UNIT_BYTES_MAX} bytes",
            unit.len()
        )
    } else {
        return Ok(());
    };
    Err(Error::InvalidArgument(problem))
}

/// The shortest unit that repeats to the same.
fn shortened(mut unit: Vec<u8>) -> Vec<u8> {
    while unit.len() > 1 && unit[..unit.len() / 2] == unit[unit.len() / 2..] {
        unit.truncate(unit.len() / 2);
    }
    unit
}
