//! What a pool may hold: its vdisks, and of each the stretches that are written to.

use std::collections::BTreeMap;

use plimsoll_engine::VdiskPolicy;

use super::decide::Decided;
use super::pattern::REPEATED;
use super::sector::{Moment, NEVER};
use super::trace::say;
use super::window::{Standing, Window};

/// What an operation does to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A write of this operation's own version.
    Write,
    /// A write of the pattern.
    Repeat,
    /// A write of zeros.
    Blank,
    /// Zeros that are stored.
    Zeros,
    /// Zeros by giving space back.
    Unmap,
    /// A discard: whole blocks only.
    Discard,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Answered with success.
    Done {
        /// It survives power loss from now on.
        durable: bool,
    },
    /// Failed; any part of it may have happened.
    Failed,
    /// Refused before anything happened.
    Refused,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Its number.
    pub id: u32,
    /// The vdisk.
    pub vdisk: u16,
    /// What it does.
    pub change: Change,
    /// First byte.
    pub from: u64,
    /// First byte behind.
    pub until: u64,
    /// When it began.
    pub began: Moment,
    /// It overwrites blocks that have space, alone: it cannot fail for space.
    pub must_fit: bool,
}

/// Whether a vdisk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It is.
    Certain,
    /// It is being created.
    Creating,
    /// It is being deleted.
    Deleting,
}

/// One vdisk.
#[derive(Clone)]
pub struct Disk {
    /// Its number in this world, never used again.
    pub serial: u16,
    /// Its name.
    pub name: String,
    /// Bytes of a sector.
    pub sector: u64,
    /// Every write is durable when answered.
    pub write_through: bool,
    /// Designated size in bytes.
    pub size: u64,
    /// The size that a resize under way asks for.
    pub size_asked: Option<u64>,
    /// When it was cut last, and to what size.
    pub cut: Option<(Moment, u64)>,
    /// Whether it is there.
    pub existence: Existence,
    /// Where it is written to; disjoint.
    pub windows: Vec<Window>,
    /// Operations under way.
    pub users: u32,
    /// Something wants it alone.
    pub exclusive: bool,
    /// Some of it is, or was, looked through for what need not be stored: zeros may have space or not.
    pub lax: bool,
    /// What was decided for it.
    pub decided: Decided<VdiskPolicy>,
    /// Bytes behind it when that was, which it may have whatever its quota.
    pub had: u64,
}

/// The whole of it.
#[derive(Clone, Default)]
pub struct Model {
    /// By serial number.
    pub disks: BTreeMap<u16, Disk>,
    /// Power was lost since the last start that was compared.
    pub power: bool,
    clock: Moment,
    ops: u32,
    serials: u16,
    flushed: Moment,
    reads: BTreeMap<Moment, u32>,
}

impl Model {
    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }

    /// When the last completed flush began.
    pub fn flushed(&self) -> Moment {
        self.flushed
    }

    /// A serial number for a new vdisk.
    pub fn serial(&mut self) -> u16 {
        self.serials += 1;
        self.serials
    }

    /// An operation begins. Discards are cut to whole blocks.
    pub fn begin(&mut self, vdisk: u16, change: Change, from: u64, until: u64) -> Op {
        self.ops += 1;
        let began = self.tick();
        let mut op = Op { id: self.ops, vdisk, change, from, until, began, must_fit: true };
        let version = match change {
            Change::Write => op.id,
            Change::Repeat => REPEATED,
            _ => 0,
        };
        if let Some(disk) = self.disks.get_mut(&vdisk) {
            disk.users += 1;
            let block = disk.windows.first().map_or(1, |window| window.block);
            if change == Change::Discard {
                (op.from, op.until) = (from.next_multiple_of(block), until / block * block);
                op.until = op.until.max(op.from);
            }
            for window in &mut disk.windows {
                if let Some((from, until)) = window.clip(op.from, op.until) {
                    op.must_fit &= window.is_quiet_data(from, until);
                    window.begin(from, until, &op, version);
                }
            }
        }
        say(|| format!("{began}: {op:?}"));
        op
    }

    /// It ends. Answers whether nothing overlapped it in time.
    pub fn end(&mut self, op: &Op, ended: Ended) -> bool {
        let now = self.tick();
        let mut alone = true;
        say(|| format!("{now}: operation {} ends: {ended:?}", op.id));
        let Some(disk) = self.disks.get_mut(&op.vdisk) else { return false };
        disk.users -= 1;
        // What was under way when it was cut may have come before the cut or after it.
        let crossed = disk.cut.is_some_and(|(when, size)| op.began < when && op.until > size);
        let ended = if crossed && matches!(ended, Ended::Done { .. }) { Ended::Failed } else { ended };
        let lax = disk.lax;
        for window in &mut disk.windows {
            let Some((from, until)) = window.clip(op.from, op.until) else { continue };
            alone &= window.is_unmixed(from, until);
            for sector in window.sectors_of(from, until) {
                match ended {
                    Ended::Done { durable } => sector.done(op.id, op.began, now, durable),
                    Ended::Failed => sector.failed(op.id, now),
                    Ended::Refused => sector.refused(op.id),
                }
            }
            match (ended, op.change) {
                (Ended::Refused, _) => window.refuse_blocks(from, until),
                (Ended::Failed, _) => window.end_blocks(from, until, None),
                // Whether it has space is the pool's affair.
                (_, Change::Repeat | Change::Blank) => window.end_blocks(from, until, None),
                (_, Change::Zeros) if lax => window.end_blocks(from, until, None),
                (_, Change::Write | Change::Zeros) => window.end_blocks(from, until, Some(Standing::Data)),
                (_, Change::Discard) => window.end_blocks(from, until, Some(Standing::Hole)),
                (_, Change::Unmap) => end_unmap(window, op, from, until),
            }
        }
        alone
    }

    /// A vdisk was cut to `size`: what lay beyond is gone.
    pub fn cut(&mut self, vdisk: u16, size: u64) {
        let now = self.tick();
        let Some(disk) = self.disks.get_mut(&vdisk) else { return };
        disk.cut = Some((now, size));
        disk.windows.iter_mut().for_each(|window| window.cut(size));
    }

    /// A read begins.
    pub fn begin_read(&mut self, vdisk: u16) -> Moment {
        let began = self.tick();
        if let Some(disk) = self.disks.get_mut(&vdisk) {
            disk.users += 1;
        }
        *self.reads.entry(began).or_default() += 1;
        began
    }

    /// It ends.
    pub fn end_read(&mut self, vdisk: u16, began: Moment) {
        if let Some(disk) = self.disks.get_mut(&vdisk) {
            disk.users -= 1;
        }
        self.reads.remove(&began);
    }

    /// A flush that began at `began` has completed.
    pub fn flush_done(&mut self, began: Moment) {
        self.flushed = self.flushed.max(began);
        say(|| format!("flush begun at {began} done"));
        let oldest_read = self.reads.keys().next().copied().unwrap_or(NEVER);
        for disk in self.disks.values_mut() {
            disk.windows.iter_mut().for_each(|window| window.prune(self.flushed, oldest_read));
        }
    }

    /// The machine stopped: nothing is under way any more, and what was is in doubt.
    pub fn stop(&mut self, power: bool) {
        self.power |= power;
        say(|| format!("stop, power lost: {power}"));
        self.reads.clear();
        for disk in self.disks.values_mut() {
            (disk.users, disk.exclusive) = (0, false);
        }
    }
}

/// Blocks at the ends of a range that is unmapped are written, if they have contents at all.
fn end_unmap(window: &mut Window, op: &Op, from: u64, until: u64) {
    let block = window.block;
    let (inner, inner_end) = (op.from.next_multiple_of(block), op.until / block * block);
    if inner >= inner_end {
        return window.end_blocks(from, until, None);
    }
    let (first, last) = (from.max(inner), until.min(inner_end));
    if from < first {
        window.end_blocks(from, first, None);
    }
    if first < last {
        window.end_blocks(first, last, Some(Standing::Hole));
    }
    if last < until {
        window.end_blocks(last, until, None);
    }
}
