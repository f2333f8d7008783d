//! A disk with a volatile write cache, and the faults it can be told to have.
//!
//! Two images: `current` is what a read returns, `durable` is what a power cut leaves behind. A write or a discard
//! changes `current` and joins the list of pending changes; a flush applies the list to `durable` and empties it. A
//! power cut applies any part of the list, in any order and sector by sector, to `durable`, and makes `current` equal
//! to it. So two writes to one sector may leave the older one, as on a disk that had written it back already.
//!
//! A write with FUA first writes back the pending changes that it overlaps, which a disk may do at any time; nothing
//! that is pending afterwards can undo it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom, fallocate, memfd_create, seek};
use rustix::io::Errno;

use crate::random::Random;

/// The unit that a power cut tears at, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// What reaches the disk with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// The change may stay in the volatile cache.
    Volatile,
    /// The change is durable when it completes (FUA).
    Through,
}

/// A change that a power cut may still undo.
#[derive(Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Discard { offset: u64, length: u64 },
}

impl Change {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Write { offset, data } => *offset..offset + data.len() as u64,
            Self::Discard { offset, length } => *offset..offset + length,
        }
    }

    /// Applies the part of the change inside `part`, given in bytes of the disk.
    fn apply(&self, image: &File, part: Range<u64>) -> io::Result<()> {
        match self {
            Self::Write { offset, data } => {
                image.write_all_at(&data[(part.start - offset) as usize..(part.end - offset) as usize], part.start)
            }
            Self::Discard { .. } => punch(image, part),
        }
    }
}

/// How long a fault lasts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// For one operation.
    #[default]
    Once,
    /// At its place: what touches it fails as well.
    There,
    /// From then on.
    Everywhere,
}

/// Faults to come: for each kind, how many operations from now (1 is the next) the failing one is.
#[derive(Debug, Default)]
pub struct Faults {
    /// The read that fails with EIO.
    pub read: Option<u64>,
    /// The write or discard that fails with EIO and changes nothing.
    pub write: Option<u64>,
    /// The flush that fails with EIO; the cache keeps what it holds.
    pub flush: Option<u64>,
    /// A failing flush also forgets the pending changes: reads show them, but no later flush makes them durable.
    pub flush_loses: bool,
    /// Which writes behind the one that fails do so too.
    pub write_stays: Stays,
    /// Where the write failed that made a place bad.
    bad_place: Option<Range<u64>>,
    /// The write from which on they fail with ENOSPC.
    pub no_space: Option<u64>,
    /// Every operation fails with EIO.
    pub vanished: bool,
    /// Milliseconds that each answer is late.
    pub slow_ms: u64,
}

impl Faults {
    /// The `nth` write from now on fails, and what else `stays` says. `None` ends all that.
    pub fn fail_writes(&mut self, nth: Option<u64>, stays: Stays) {
        (self.write, self.write_stays, self.bad_place) = (nth, stays, None);
    }
}

/// What the disk has done since it was opened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Discards answered.
    pub discards: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Pending changes that power cuts dropped or tore.
    pub damaged: u64,
    /// Pending changes that power cuts left whole.
    pub kept: u64,
    /// Operations that failed because they were told to.
    pub faults: u64,
}

/// The disk.
#[derive(Debug)]
pub struct Media {
    size: u64,
    current: File,
    durable: File,
    pending: Vec<Change>,
    /// Faults to come.
    pub faults: Faults,
    stats: Stats,
}

impl Media {
    /// A disk of `size` bytes whose durable image is `backing`, which is grown to the size.
    ///
    /// # Errors
    /// The file cannot be grown or read, or the machine has no memory for the current image.
    pub fn open(backing: File, size: u64) -> io::Result<Self> {
        if !size.is_multiple_of(SECTOR_BYTES) {
            return Err(io::Error::other(format!("the size {size} is no multiple of {SECTOR_BYTES} bytes")));
        }
        backing.set_len(size)?;
        let current = File::from(memfd_create("fault-disk", MemfdFlags::CLOEXEC)?);
        current.set_len(size)?;
        copy_data(&backing, &current, 0..size)?;
        Ok(Self {
            size,
            current,
            durable: backing,
            pending: Vec::new(),
            faults: Faults::default(),
            stats: Stats::default(),
        })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The number of changes that a power cut may undo now.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Reads into `buffer`; returns how many bytes lie inside the disk.
    ///
    /// # Errors
    /// EIO by an injected fault.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.present()?;
        fail_nth(&mut self.faults.read, false, &mut self.stats)?;
        self.stats.reads += 1;
        let length = (buffer.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        self.current.read_exact_at(&mut buffer[..length], offset).map_err(errno)?;
        Ok(length)
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// EINVAL for a range that is misaligned or ends behind the disk; EIO and ENOSPC by injected faults.
    pub fn write(&mut self, offset: u64, data: &[u8], cache: Cache) -> Result<(), Errno> {
        self.present()?;
        self.aligned(offset, data.len() as u64)?;
        fail_nth(&mut self.faults.no_space, true, &mut self.stats).map_err(|_| Errno::NOSPC)?;
        self.fail_write(offset..offset + data.len() as u64)?;
        self.stats.writes += 1;
        self.change(Change::Write { offset, data: data.to_vec() }, cache).map_err(errno)
    }

    /// Makes whole sectors read as zeros.
    ///
    /// # Errors
    /// EINVAL for a range that is misaligned or ends behind the disk; EIO by injected faults.
    pub fn discard(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        self.present()?;
        self.aligned(offset, length)?;
        self.fail_write(offset..offset + length)?;
        self.stats.discards += 1;
        self.change(Change::Discard { offset, length }, Cache::Volatile).map_err(errno)
    }

    /// Makes everything before it durable.
    ///
    /// # Errors
    /// EIO by an injected fault.
    pub fn flush(&mut self) -> Result<(), Errno> {
        self.present()?;
        if let Err(error) = fail_nth(&mut self.faults.flush, false, &mut self.stats) {
            if self.faults.flush_loses {
                self.pending.clear();
            }
            return Err(error);
        }
        self.stats.flushes += 1;
        for change in std::mem::take(&mut self.pending) {
            change.apply(&self.durable, change.range()).map_err(errno)?;
        }
        Ok(())
    }

    /// Cuts the power: of each pending change nothing, a part or all survives, as `seed` says. Returns how many
    /// changes were pending.
    ///
    /// # Errors
    /// An image cannot be read or written.
    pub fn cut(&mut self, seed: u64) -> io::Result<usize> {
        let mut random = Random::new(seed);
        let mut pending = std::mem::take(&mut self.pending);
        let touched: Vec<Range<u64>> = pending.iter().map(Change::range).collect();
        random.shuffle(&mut pending);
        // Now and then the cache is lost as a whole.
        let survivors = if random.percent(10) { 0 } else { pending.len() };
        for change in &pending[..survivors] {
            if self.survive(change, &mut random)? {
                self.stats.kept += 1;
            } else {
                self.stats.damaged += 1;
            }
        }
        self.stats.damaged += (pending.len() - survivors) as u64;
        self.stats.cuts += 1;
        for range in touched {
            punch(&self.current, range.clone())?;
            copy_data(&self.durable, &self.current, range)?;
        }
        Ok(pending.len())
    }

    /// Lets a part of `change` become durable; tells whether it was all of it.
    fn survive(&self, change: &Change, random: &mut Random) -> io::Result<bool> {
        let range = change.range();
        match random.within(0..100) {
            0..25 => {
                change.apply(&self.durable, range)?;
                Ok(true)
            }
            25..60 => Ok(false),
            _ => {
                let keep_percent = random.within(5..95);
                let mut whole = true;
                for start in range.clone().step_by(SECTOR_BYTES as usize) {
                    if random.percent(keep_percent) {
                        change.apply(&self.durable, start..start + SECTOR_BYTES)?;
                    } else {
                        whole = false;
                    }
                }
                Ok(whole)
            }
        }
    }

    fn change(&mut self, change: Change, cache: Cache) -> io::Result<()> {
        let range = change.range();
        change.apply(&self.current, range.clone())?;
        if cache == Cache::Volatile {
            self.pending.push(change);
            return Ok(());
        }
        let (overlapping, rest) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|other| other.range().start < range.end && range.start < other.range().end);
        self.pending = rest;
        for older in Vec::<Change>::from_iter::<Vec<_>>(overlapping) {
            older.apply(&self.durable, older.range())?;
        }
        change.apply(&self.durable, range)
    }

    /// Fails a write or discard of `range` if it is to fail.
    fn fail_write(&mut self, range: Range<u64>) -> Result<(), Errno> {
        let faults = &mut self.faults;
        if faults.bad_place.as_ref().is_some_and(|bad| bad.start < range.end && range.start < bad.end) {
            self.stats.faults += 1;
            return Err(Errno::IO);
        }
        let result = fail_nth(&mut faults.write, faults.write_stays == Stays::Everywhere, &mut self.stats);
        if result.is_err() && faults.write_stays == Stays::There {
            faults.bad_place = Some(range);
        }
        result
    }

    fn present(&mut self) -> Result<(), Errno> {
        self.stats.faults += u64::from(self.faults.vanished);
        if self.faults.vanished { Err(Errno::IO) } else { Ok(()) }
    }

    fn aligned(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let aligned = offset.is_multiple_of(SECTOR_BYTES) && length.is_multiple_of(SECTOR_BYTES);
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        if aligned && inside { Ok(()) } else { Err(Errno::INVAL) }
    }
}

/// Counts one operation down and fails it if it is the one, or if that one `stays` and was before it.
fn fail_nth(countdown: &mut Option<u64>, stays: bool, stats: &mut Stats) -> Result<(), Errno> {
    match countdown {
        Some(1) => {
            *countdown = stays.then_some(1);
            stats.faults += 1;
            Err(Errno::IO)
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn punch(image: &File, range: Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(image, flags, range.start, range.end - range.start)?)
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; (range.end - range.start).min(1 << 20) as usize];
    let mut at = range.start;
    while at < range.end {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data.max(at),
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if at >= range.end {
            return Ok(());
        }
        let length = (range.end - at).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..length], at)?;
        to.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Media {
        Media::open(tempfile::tempfile().expect("a temporary file"), 1 << 20).expect("a disk")
    }

    fn first_byte(media: &mut Media, sector: u64) -> u8 {
        let mut buffer = [0; SECTOR_BYTES as usize];
        media.read(sector * SECTOR_BYTES, &mut buffer).expect("a read");
        assert!(buffer.iter().all(|byte| *byte == buffer[0]), "sector {sector} is mixed");
        buffer[0]
    }

    #[test]
    fn what_was_flushed_survives_every_cut() {
        let mut media = disk();
        media.write(0, &[7; 65536], Cache::Volatile).expect("a write");
        media.flush().expect("a flush");
        for seed in 0..100 {
            media.cut(seed).expect("a cut");
            assert!((0..128).all(|sector| first_byte(&mut media, sector) == 7), "cut {seed} lost flushed data");
        }
    }

    #[test]
    fn what_was_not_flushed_is_old_or_new_by_sector_and_mostly_damaged() {
        let mut media = disk();
        for seed in 0..200 {
            media.write(0, &[1; 8192], Cache::Through).expect("a write through");
            media.write(0, &[2; 8192], Cache::Volatile).expect("a write");
            media.cut(seed).expect("a cut");
            assert!((0..16).all(|sector| [1, 2].contains(&first_byte(&mut media, sector))), "cut {seed}");
        }
        let stats = media.stats();
        assert!(stats.damaged > stats.kept && stats.kept > 0, "{stats:?}");
    }

    #[test]
    fn a_write_through_is_not_undone_by_an_older_pending_write() {
        let mut media = disk();
        for seed in 0..100 {
            media.write(0, &[1; 4096], Cache::Volatile).expect("a write");
            media.write(512, &[2; 512], Cache::Through).expect("a write through");
            media.cut(seed).expect("a cut");
            assert_eq!(first_byte(&mut media, 1), 2, "cut {seed}");
        }
    }

    #[test]
    fn a_discard_reads_as_zeros_and_is_volatile_too() {
        let mut media = disk();
        media.write(0, &[5; 65536], Cache::Through).expect("a write");
        media.discard(0, 65536).expect("a discard");
        assert_eq!(first_byte(&mut media, 3), 0);
        let undone = (0..40).any(|seed| {
            media.cut(seed).expect("a cut");
            let undone = first_byte(&mut media, 3) == 5;
            media.write(0, &[5; 65536], Cache::Through).expect("a write");
            media.discard(0, 65536).expect("a discard");
            undone
        });
        assert!(undone, "no cut undid a discard");
    }

    #[test]
    fn the_nth_operation_fails_and_the_next_one_does_not() {
        let mut media = disk();
        media.faults.write = Some(2);
        assert_eq!(media.write(0, &[1; 512], Cache::Volatile), Ok(()));
        assert_eq!(media.write(0, &[2; 512], Cache::Volatile), Err(Errno::IO));
        assert_eq!(first_byte(&mut media, 0), 1);
        media.faults.flush = Some(1);
        assert_eq!(media.flush(), Err(Errno::IO));
        assert_eq!((media.pending(), media.flush(), media.pending()), (1, Ok(()), 0));
        assert_eq!(media.stats().faults, 2);
    }

    #[test]
    fn a_fault_that_stays_fails_every_write_from_the_nth_on() {
        let mut media = disk();
        media.faults.fail_writes(Some(2), Stays::Everywhere);
        let write = |media: &mut Media| media.write(0, &[1; 512], Cache::Volatile);
        assert_eq!([write(&mut media), write(&mut media), write(&mut media)], [Ok(()), Err(Errno::IO), Err(Errno::IO)]);
        media.faults.fail_writes(None, Stays::Once);
        media.faults.no_space = Some(2);
        let expected = [Ok(()), Err(Errno::NOSPC), Err(Errno::NOSPC)];
        assert_eq!([write(&mut media), write(&mut media), write(&mut media)], expected);
        assert_eq!(media.stats().faults, 4);
    }

    #[test]
    fn a_bad_place_stays_bad_and_the_others_are_good() {
        let mut media = disk();
        media.faults.fail_writes(Some(1), Stays::There);
        let write = |media: &mut Media, offset| media.write(offset, &[1; 1024], Cache::Volatile);
        let results = [0, 512, 1024, 0].map(|offset| write(&mut media, offset));
        assert_eq!(results, [Err(Errno::IO), Err(Errno::IO), Ok(()), Err(Errno::IO)]);
        media.faults.fail_writes(None, Stays::Once);
        assert_eq!(write(&mut media, 0), Ok(()));
    }

    #[test]
    fn a_misaligned_write_is_refused() {
        let mut media = disk();
        assert_eq!(media.write(1, &[1; 512], Cache::Volatile), Err(Errno::INVAL));
        assert_eq!(media.write(0, &[1; 100], Cache::Volatile), Err(Errno::INVAL));
        assert_eq!(media.write(1 << 20, &[1; 512], Cache::Volatile), Err(Errno::INVAL));
    }
}
