//! A stretch of a vdisk that the workload writes to, sector by sector and block by block.

use std::collections::BTreeMap;

use super::model::{Change, Op};
use super::pattern::{REPEATED, SECTOR, Seen, look};
use super::sector::{Moment, Sector};

/// Whether a block has space behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It reads as zeros and `block_status` says so.
    Hole,
    /// It was written.
    Data,
    /// Operations that overlapped in time decide.
    Unknown,
}

/// What is known of one block of the engine.
#[derive(Clone, Debug)]
pub struct Block {
    /// Space behind it.
    pub standing: Standing,
    /// Operations under way on it.
    pending: u16,
    /// Two of those under way overlapped.
    mixed: bool,
    /// It was a hole when all was settled.
    was_hole: bool,
    /// Operations begun on it since.
    ops: u16,
}

/// What a restart left of discards that were in doubt, by operation and step of it: seen undone, seen done.
pub type Votes = BTreeMap<(u32, u64), (bool, bool)>;

/// A stretch of a vdisk. Starts at a multiple of the engine's block.
#[derive(Clone)]
pub struct Window {
    /// First byte.
    pub start: u64,
    /// Bytes of an engine's block.
    pub block: u64,
    /// Its sectors.
    pub sectors: Vec<Sector>,
    /// Its blocks.
    pub blocks: Vec<Block>,
    doubtful: bool,
}

impl Window {
    /// A hole of `length` bytes.
    pub fn hole(start: u64, length: u64, block: u64) -> Self {
        let fresh = Block { standing: Standing::Hole, pending: 0, mixed: false, was_hole: true, ops: 0 };
        Window {
            start,
            block,
            sectors: vec![Sector::default(); (length / SECTOR) as usize],
            blocks: vec![fresh; (length / block) as usize],
            doubtful: false,
        }
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR
    }

    /// First byte behind it.
    pub fn end(&self) -> u64 {
        self.start + self.length()
    }

    /// The part of `from..until` that lies in it.
    pub fn clip(&self, from: u64, until: u64) -> Option<(u64, u64)> {
        let (from, until) = (from.max(self.start), until.min(self.end()));
        (from < until).then_some((from, until))
    }

    fn indexes(&self, from: u64, until: u64, unit: u64) -> std::ops::Range<usize> {
        ((from - self.start) / unit) as usize..(until - self.start).div_ceil(unit) as usize
    }

    /// The sectors of a range inside it.
    pub fn sectors_of(&mut self, from: u64, until: u64) -> &mut [Sector] {
        let range = self.indexes(from, until, SECTOR);
        &mut self.sectors[range]
    }

    /// The blocks of a range inside it.
    pub fn blocks_of(&mut self, from: u64, until: u64) -> &mut [Block] {
        let range = self.indexes(from, until, self.block);
        &mut self.blocks[range]
    }

    /// An operation on a range inside it begins.
    pub fn begin(&mut self, from: u64, until: u64, op: &Op, version: u32) {
        self.doubtful = true;
        let atomic = matches!(op.change, Change::Discard | Change::Unmap);
        self.sectors_of(from, until).iter_mut().for_each(|sector| sector.begin(op.id, version, op.began, atomic));
        for block in self.blocks_of(from, until) {
            block.mixed |= block.pending > 0;
            block.pending += 1;
            block.ops = block.ops.saturating_add(1);
        }
    }

    /// An operation ends; `left` is what it leaves of blocks, `None` when that is not known.
    pub fn end_blocks(&mut self, from: u64, until: u64, left: Option<Standing>) {
        for block in self.blocks_of(from, until) {
            block.pending -= 1;
            block.standing = match left {
                Some(left) if !block.mixed => left,
                _ => Standing::Unknown,
            };
            if block.pending == 0 {
                block.mixed = false;
            }
        }
    }

    /// An operation that had no effect ends.
    pub fn refuse_blocks(&mut self, from: u64, until: u64) {
        for block in self.blocks_of(from, until) {
            block.pending -= 1;
            if block.pending == 0 {
                block.mixed = false;
            }
        }
    }

    /// Whether every block of a range has data and nothing else is under way there.
    pub fn is_quiet_data(&mut self, from: u64, until: u64) -> bool {
        self.blocks_of(from, until).iter().all(|block| block.standing == Standing::Data && block.pending == 0)
    }

    /// Whether nothing overlapped the operations under way on a range.
    pub fn is_unmixed(&mut self, from: u64, until: u64) -> bool {
        self.blocks_of(from, until).iter().all(|block| !block.mixed && block.pending == 1)
    }

    /// Forgets what is not possible any more.
    pub fn prune(&mut self, flushed: Moment, oldest_read: Moment) {
        if self.doubtful {
            let doubts = self.sectors.iter_mut().map(|sector| usize::from(sector.prune(flushed, oldest_read)));
            self.doubtful = doubts.sum::<usize>() > 0;
        }
    }

    /// Everything from `from` on is gone and reads as zeros if it ever comes back.
    pub fn cut(&mut self, from: u64) {
        let Some((from, until)) = self.clip(from, u64::MAX) else { return };
        self.sectors_of(from, until).iter_mut().for_each(|sector| sector.settle(0));
        let whole = from.next_multiple_of(self.block);
        if from < whole {
            self.blocks_of(from, whole)[0].standing = Standing::Unknown;
        }
        if whole < until {
            self.blocks_of(whole, until).iter_mut().for_each(|block| block.standing = Standing::Hole);
        }
    }

    /// It is looked through for zeros and patterns that are stored.
    pub fn doubt_space(&mut self) {
        for block in self.blocks.iter_mut().filter(|block| block.standing == Standing::Data) {
            block.standing = Standing::Unknown;
        }
    }

    /// What `bytes`, read at `at`, show sector by sector: the versions, or what is wrong with the first bad one.
    pub fn versions(&self, owner: u16, at: u64, bytes: &[u8]) -> Result<Vec<u32>, String> {
        let mut versions = Vec::with_capacity(bytes.len() / SECTOR as usize);
        for (index, bytes) in bytes.chunks_exact(SECTOR as usize).enumerate() {
            let sector = at / SECTOR + index as u64;
            versions.push(match look(bytes) {
                Seen::Zeros => 0,
                Seen::Repeated => REPEATED,
                Seen::Written { owner: of, sector: place, version } if of == owner && place == sector => version,
                other => {
                    let known = &self.sectors[(sector - self.start / SECTOR) as usize];
                    return Err(format!(
                        "sector {sector} holds what was never written to it: {other:x?}, allowed {}",
                        describe(known)
                    ));
                }
            });
        }
        Ok(versions)
    }

    /// Compares what a read that began at `began` returned. `dropped` is given where devices may have dropped what was answered:
    /// when the last completed flush began.
    pub fn check_read(
        &self,
        owner: u16,
        at: u64,
        bytes: &[u8],
        began: Moment,
        dropped: Option<Moment>,
    ) -> Result<(), String> {
        let first = ((at - self.start) / SECTOR) as usize;
        for (index, version) in self.versions(owner, at, bytes)?.into_iter().enumerate() {
            let known = &self.sectors[first + index];
            let came_back = dropped.is_some_and(|flushed| known.may_find(version, true, flushed));
            if !known.may_read(version, began) && !came_back {
                let sector = at / SECTOR + index as u64;
                return Err(format!(
                    "sector {sector} was read as version {version} by a read begun at {began}; allowed {}",
                    describe(known)
                ));
            }
        }
        Ok(())
    }

    /// Compares what a start left with what it may have left, and settles it. `holes` answers whether a block is a hole.
    pub fn settle(
        &mut self,
        owner: u16,
        bytes: &[u8],
        found: &Found,
        holes: &[bool],
        votes: &mut Votes,
    ) -> Result<(), String> {
        let versions = self.versions(owner, self.start, bytes)?;
        let per_block = (self.block / SECTOR) as usize;
        for (index, (version, known)) in versions.iter().zip(&self.sectors).enumerate() {
            if !known.may_find(*version, found.power, found.flushed) {
                let sector = self.start / SECTOR + index as u64;
                return Err(format!(
                    "after a start (power lost: {}, flushed at {}) sector {sector} is version {version}; allowed {}",
                    found.power,
                    found.flushed,
                    describe(known)
                ));
            }
        }
        for (number, block) in self.blocks.iter().enumerate() {
            let range = number * per_block..((number + 1) * per_block).min(versions.len());
            let (seen, known) = (&versions[range.clone()], &self.sectors[range]);
            let place = self.start + number as u64 * self.block;
            if *holes.get(number).unwrap_or(&false) && seen.iter().any(|&version| version != 0) {
                return Err(format!("the block at {place} is said to be a hole and reads as something"));
            }
            if block.was_hole && block.ops == 1 {
                check_whole(seen, known).map_err(|error| format!("the block at {place}: {error}"))?;
            }
            vote(seen, known, found, place / found.step, votes);
        }
        let settled = versions.clone();
        for (sector, version) in self.sectors.iter_mut().zip(versions) {
            sector.settle(version);
        }
        for (number, block) in self.blocks.iter_mut().enumerate() {
            let hole = *holes.get(number).unwrap_or(&false);
            let seen = &settled[(number * per_block).min(settled.len())..((number + 1) * per_block).min(settled.len())];
            // What may be stored by a number has no space, and a reclaim may free stored zeros.
            let doubtful = seen.contains(&REPEATED) || seen.iter().all(|&version| version == 0);
            let standing = match hole {
                true => Standing::Hole,
                false if doubtful => Standing::Unknown,
                false => Standing::Data,
            };
            *block = Block { standing, pending: 0, mixed: false, was_hole: hole, ops: 0 };
        }
        self.doubtful = false;
        Ok(())
    }
}

/// How the machine stopped, for judging what a start found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Power was lost.
    pub power: bool,
    /// When the last completed flush began.
    pub flushed: Moment,
    /// Bytes of a vdisk that one discard changes at once.
    pub step: u64,
}

/// A first write is there for all of its sectors of a block, or for none.
fn check_whole(seen: &[u32], known: &[Sector]) -> Result<(), String> {
    let mut verdict = None;
    for (version, known) in seen.iter().zip(known) {
        let Some([base, write]) = known.doubt.as_ref().map(|list| &list[..]) else { continue };
        if base.version != 0 || write.version == 0 {
            continue;
        }
        let new = *version == write.version;
        if *verdict.get_or_insert(new) != new {
            return Err(format!("only a part of first write {} is there: {seen:?}", write.version));
        }
    }
    Ok(())
}

/// Notes which way a discard in doubt went for this block, where that can be told.
fn vote(seen: &[u32], known: &[Sector], found: &Found, step: u64, votes: &mut Votes) {
    let mut of = None;
    for known in known {
        let Some([base, discard]) = known.doubt.as_ref().map(|list| &list[..]) else { return };
        let open = if found.power { base.survives(found.flushed) } else { base.superseded == super::sector::NEVER };
        let ordered = base.answered < discard.began;
        if base.version == 0 || !discard.atomic || !open || !ordered || of.is_some_and(|op| op != discard.op) {
            return;
        }
        of = Some(discard.op);
    }
    let Some(op) = of else { return };
    let vote = votes.entry((op, step)).or_default();
    vote.0 |= seen.iter().any(|&version| version != 0);
    vote.1 |= seen.contains(&0);
}

fn describe(sector: &Sector) -> String {
    match &sector.doubt {
        None => format!("only version {}", sector.value),
        Some(list) => {
            let entries = list.iter().map(|entry| {
                let moment = |at| if at == super::sector::NEVER { "never".to_owned() } else { format!("{at}") };
                let (answered, superseded) = (moment(entry.answered), moment(entry.superseded));
                let dead = if entry.dead { ", dead" } else { "" };
                format!("{} (answered {answered}, superseded {superseded}{dead})", entry.version)
            });
            entries.collect::<Vec<_>>().join(", ")
        }
    }
}
