//! One simulated disk: what reads see, and how to take back what is not durable yet.
//!
//! Method: there is one table of pages, always current, and a list of the writes that no flush covers, in the order in
//! which they took effect, each with the pages it replaced; `undo` takes them back.

use std::collections::VecDeque;
use std::rc::Rc;

use super::counters::Counters;
use super::pages::{PAGE, Page, Pages};
use super::random::mix;
use super::survival::Survival;
use crate::Geometry;

thread_local! {
    /// What a page that got its room reads as.
    static ZEROS: Page = Rc::new([0; PAGE as usize]);
}

/// A disk to simulate.
#[derive(Clone, Debug)]
pub struct SimDiskSpec {
    /// Its name in messages.
    pub path: String,
    /// Bytes; a multiple of `logical_block`.
    pub size: u64,
    /// Bytes of a sector: 512 or 4096. Tearing happens between sectors.
    pub logical_block: u32,
    /// Power loss may take completed writes that no flush covers.
    pub volatile_cache: bool,
    /// What [`Geometry::fua`] says. Writes with FUA are durable on every simulated disk.
    pub fua: bool,
}

impl SimDiskSpec {
    /// A disk of `size` bytes with 512-byte sectors, a volatile cache and FUA.
    pub fn new(path: &str, size: u64) -> Self {
        Self { path: path.to_owned(), size, logical_block: 512, volatile_cache: true, fua: true }
    }
}

/// What a write leaves in its range.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Data(&'a [u8]),
    Zeroes,
    /// Per sector zeros, the old bytes or garbage, drawn from this word.
    Undefined(u64),
}

/// How safe a write is when it takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Durable,
    Cached,
    /// It had not completed when the machine stopped; the crash decides.
    InFlight,
}

/// A write that can still be lost, or one that shields what lies under it.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) standing: Standing,
    /// The sectors that took effect.
    pub(super) live: Survival,
    pub(super) sequence: u64,
    /// Pages as they were before.
    pub(super) old: Vec<(u64, Option<Page>)>,
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) geometry: Rc<Geometry>,
    pub(super) size: u64,
    pub(super) block: u64,
    pub(super) gone: bool,
    /// It lost its cache when it vanished, and no operation has said so yet.
    pub(super) unheard: bool,
    pub(super) counters: Counters,
    /// It is a file, and its file system has so many pages left; none: it is not, or has as many as anybody wants.
    pub(super) room: Option<u64>,
    pub(super) pages: Pages,
    pub(super) pending: VecDeque<Pending>,
    sequence: u64,
}

impl Disk {
    pub(super) fn new(spec: &SimDiskSpec) -> Self {
        let block = u64::from(spec.logical_block);
        assert!(block == 512 || block == PAGE, "{}: sectors of {block} bytes; 512 and 4096 exist", spec.path);
        assert!(spec.size.is_multiple_of(block), "{}: {} bytes are no whole number of sectors", spec.path, spec.size);
        Self {
            geometry: Rc::new(Geometry {
                path: spec.path.clone(),
                identity: spec.path.clone(),
                size: spec.size,
                logical_block: spec.logical_block,
                physical_block: PAGE as u32,
                volatile_cache: spec.volatile_cache,
                fua: spec.fua,
                discard_max: spec.size,
                write_zeroes_max: spec.size,
                rotational: false,
                read_only: false,
            }),
            size: spec.size,
            block,
            gone: false,
            unheard: false,
            counters: Counters::default(),
            room: None,
            pages: Pages::new(spec.size),
            pending: VecDeque::new(),
            sequence: 0,
        }
    }

    /// The point in the list of writes up to which a flush submitted now makes durable.
    pub(super) fn mark(&self) -> u64 {
        self.sequence
    }

    /// Lets a write take effect on the sectors in `live`. One behind the end of a disk that was cut off makes it long again, as a file.
    pub(super) fn apply(&mut self, offset: u64, length: u64, content: Content, live: Survival, standing: Standing) {
        let standing = match standing {
            Standing::Cached if !self.geometry.volatile_cache => Standing::Durable,
            other => other,
        };
        if !matches!(content, Content::Undefined(_)) && live != Survival::Dropped && offset + length > self.size {
            self.set_size(offset + length);
        }
        if length == 0 || live == Survival::Dropped || standing == Standing::Durable && self.pending.is_empty() {
            self.put(offset, length, content, live, None);
            return;
        }
        let mut old = Vec::new();
        self.put(offset, length, content, live, (standing != Standing::Durable).then_some(&mut old));
        self.pending.push_back(Pending { offset, length, standing, live, sequence: self.sequence, old });
        self.sequence += 1;
    }

    /// Lets its file system have room for so many bytes more, rounded down to pages; none: for all.
    pub(super) fn set_room(&mut self, bytes: Option<u64>) {
        self.room = bytes.map(|bytes| bytes / PAGE);
    }

    /// Takes room for the pages of a range that have none; answers for how many of its bytes, from its start, there is some.
    pub(super) fn occupy(&mut self, offset: u64, length: u64) -> u64 {
        let mut room = self.room.unwrap_or(u64::MAX);
        let end = offset + length;
        let mut page = offset / PAGE;
        while page * PAGE < end {
            let slot = self.pages.slot(page);
            if slot.is_none() {
                if room == 0 {
                    break;
                }
                room -= 1;
                *slot = Some(ZEROS.with(Page::clone));
            }
            page += 1;
        }
        self.room = self.room.map(|_| room);
        (page * PAGE).clamp(offset, end) - offset
    }

    /// Makes it larger under whoever has it open.
    pub(super) fn extend(&mut self, size: u64) {
        assert!(size.is_multiple_of(self.block), "{size} bytes are no whole number of sectors");
        assert!(size >= self.size, "a disk of {} bytes is not extended to {size}", self.size);
        self.set_size(size);
        self.pages.resize(size);
    }

    /// Makes it smaller under whoever has it open. What was written before that is on the medium, as far as it is inside.
    pub(super) fn cut(&mut self, size: u64) {
        assert!(size.is_multiple_of(self.block), "{size} bytes are no whole number of sectors");
        assert!(size <= self.size, "a disk of {} bytes is not cut off at {size}", self.size);
        self.lose(&mut |_| Survival::Kept);
        self.set_size(size);
        // Writes in flight may still come behind the end.
        self.pages.clear_from(size);
    }

    /// Says how large it is from now on.
    fn set_size(&mut self, size: u64) {
        self.size = size;
        let geometry = Rc::make_mut(&mut self.geometry);
        (geometry.size, geometry.discard_max, geometry.write_zeroes_max) = (size, size, size);
    }

    fn put(
        &mut self,
        offset: u64,
        length: u64,
        content: Content,
        live: Survival,
        mut old: Option<&mut Vec<(u64, Option<Page>)>>,
    ) {
        if length == 0 || live == Survival::Dropped {
            return;
        }
        let absent_stays = match content {
            Content::Data(_) => false,
            Content::Zeroes => true,
            // Garbage over a terabyte would need a terabyte.
            Content::Undefined(_) => length > 1 << 20,
        };
        let mut page = offset / PAGE;
        while page * PAGE < offset + length {
            if absent_stays {
                if let Some(next) = self.pages.chunk_absent(page) {
                    page = next;
                    continue;
                }
                if self.pages.get(page).is_none() {
                    page += 1;
                    continue;
                }
            }
            let (start, end) = (offset.max(page * PAGE), (offset + length).min((page + 1) * PAGE));
            let whole = end - start == PAGE && live == Survival::Kept;
            let slot = self.pages.slot(page);
            match content {
                Content::Data(bytes) if whole => {
                    let bytes = &bytes[(start - offset) as usize..][..PAGE as usize];
                    match (&mut old, slot.as_mut().and_then(Rc::get_mut)) {
                        (None, Some(place)) => place.copy_from_slice(bytes),
                        (old, _) => {
                            let fresh = Page::try_from(Rc::<[u8]>::from(bytes)).expect("it is cut to a page");
                            let before = slot.replace(fresh);
                            if let Some(old) = old {
                                old.push((page, before));
                            }
                        }
                    }
                }
                Content::Zeroes if whole => {
                    let before = slot.take();
                    if let Some(old) = &mut old {
                        old.push((page, before));
                    }
                }
                _ => {
                    if let Some(old) = &mut old {
                        old.push((page, slot.clone()));
                    }
                    self.put_sectors(page, start..end, offset, content, live);
                }
            }
            page += 1;
        }
    }

    fn put_sectors(&mut self, page: u64, range: std::ops::Range<u64>, offset: u64, content: Content, live: Survival) {
        let block = self.block;
        let bytes = self.pages.change(page);
        let mut at = range.start;
        while at < range.end {
            let sector = (at - offset) / block;
            let place = &mut bytes[(at % PAGE) as usize..][..block as usize];
            if live.includes(sector) {
                match content {
                    Content::Data(data) => place.copy_from_slice(&data[(at - offset) as usize..][..block as usize]),
                    Content::Zeroes => place.fill(0),
                    Content::Undefined(word) => match mix(word ^ sector) % 3 {
                        0 => place.fill(0),
                        1 => place.fill(0xde),
                        _ => {}
                    },
                }
            }
            at += block;
        }
    }
}
