//! Memory for I/O: one aligned region of bounded size, handed out in power-of-two runs of 4 KiB pages.
//!
//! Method: a buddy allocator over one anonymous mapping. Every allocation starts on a page, so every buffer is fit for
//! `O_DIRECT`, and the whole region can be registered with a ring once. Nothing here grows: when the region is used up
//! [`BufferPool::alloc`] waits, which is how a busy machine stops reading from its sockets.
//!
//! Whoever holds a page here and there for long must not keep runs from everybody else. So the region is divided into units of
//! [`UNIT`] bytes: what is shorter may cut up three quarters of them, and beyond that has one whole. So up to a unit, what is free can be
//! had. Longer runs can be missing for as long as somebody likes; who can do with less asks by [`BufferPool::alloc_up_to`].
//!
//! Ownership: a [`Buffer`] is the only one that sees its bytes and may change them; it can be split into parts that are
//! filled by different devices and joined again. [`Buffer::freeze`] makes it a [`Frozen`], which is shared and never
//! changes. Both give their pages back when the last part of an allocation is dropped.
//!
//! Not here: sharing between threads. A pool belongs to one reactor.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes of one page, the smallest allocation; enough alignment for every device (4096 is the largest logical block).
pub const PAGE: usize = 4096;
/// Largest allocation in pages, as a power of two: 2^8 x 4 KiB = 1 MiB.
const ORDER_MAX: usize = 8;
/// Bytes of the largest buffer: 1 MiB. Longer requests are served in pieces.
pub const BUFFER_MAX: usize = PAGE << ORDER_MAX;
/// Order of a unit.
const UNIT_ORDER: usize = 4;
/// Bytes that can be had as long as enough is free: 64 KiB, what guests and checks read at a time.
pub const UNIT: usize = PAGE << UNIT_ORDER;
const NONE: u32 = u32::MAX;

/// The region. Cheap to clone; all clones are the same region.
///
/// An eighth of it is kept for privileged handles: requests hold memory while those below them need some to finish.
#[derive(Clone)]
pub struct BufferPool {
    region: Rc<Region>,
    /// Whole units that this handle leaves alone.
    kept_units: usize,
}

struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// References per allocation, kept at its first page.
    references: Box<[Cell<u32>]>,
    buddies: RefCell<Buddies>,
    /// Who waits for memory, by ticket, first come first, in a queue for each [`Class`], of those with a privileged
    /// handle and of the others.
    waiters: [RefCell<BTreeMap<u64, Waker>>; 6],
    next_ticket: Cell<u64>,
    /// Bytes that are handed out for long.
    parked: Cell<usize>,
}

/// Free runs by order, as doubly linked lists threaded through arrays, so that a buddy is unlinked in constant time.
struct Buddies {
    heads: [u32; ORDER_MAX + 1],
    next: Box<[u32]>,
    previous: Box<[u32]>,
    /// Order of the run that starts here; free runs have `FREE` set.
    order: Box<[u8]>,
    free_pages: usize,
    /// Units of which all is free.
    free_units: usize,
    /// Units that are cut up.
    split_units: usize,
    split_units_max: usize,
}

const FREE: u8 = 0x80;
const INSIDE: u8 = 0x7f;

impl Buddies {
    fn link(&mut self, page: u32, order: usize) {
        let head = self.heads[order];
        self.next[page as usize] = head;
        self.previous[page as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = page;
        }
        self.heads[order] = page;
        self.order[page as usize] = order as u8 | FREE;
    }

    fn unlink(&mut self, page: u32, order: usize) {
        let (next, previous) = (self.next[page as usize], self.previous[page as usize]);
        if previous == NONE {
            self.heads[order] = next;
        } else {
            self.next[previous as usize] = next;
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.order[page as usize] = INSIDE;
    }

    /// A run of so many pages, which leaves `kept` whole units; with `cut` it may cut one up. Who need leave none may cut up all of them: what
    /// others wait for takes few pages, and not for long.
    fn take(&mut self, order: usize, kept: usize, cut: bool) -> Option<u32> {
        let heads = &self.heads;
        let find = |from: usize, to: usize| (from..=to).find(|&candidate| heads[candidate] != NONE);
        if let Some(found) = find(order, UNIT_ORDER - 1).filter(|_| order < UNIT_ORDER) {
            return Some(self.take_from(found, order));
        }
        let units = 1 << order.saturating_sub(UNIT_ORDER);
        if !cut || self.free_units < kept + units {
            return None;
        }
        let found = find(order.max(UNIT_ORDER), ORDER_MAX)?;
        let splits = order < UNIT_ORDER && (kept == 0 || self.split_units < self.split_units_max);
        self.split_units += usize::from(splits);
        self.free_units -= units;
        Some(self.take_from(found, if splits { order } else { order.max(UNIT_ORDER) }))
    }

    fn take_from(&mut self, found: usize, order: usize) -> u32 {
        let page = self.heads[found];
        self.unlink(page, found);
        for split in (order..found).rev() {
            self.link(page + (1 << split), split);
        }
        self.order[page as usize] = order as u8;
        self.free_pages -= 1 << order;
        page
    }

    fn give(&mut self, mut page: u32) {
        let mut order = self.order[page as usize] as usize;
        let was_split = order < UNIT_ORDER;
        self.free_pages += 1 << order;
        self.free_units += if was_split { 0 } else { 1 << (order - UNIT_ORDER) };
        self.order[page as usize] = INSIDE;
        while order < ORDER_MAX {
            let buddy = page ^ (1 << order);
            if self.order.get(buddy as usize) != Some(&(order as u8 | FREE)) {
                break;
            }
            self.unlink(buddy, order);
            page = page.min(buddy);
            order += 1;
        }
        if was_split && order >= UNIT_ORDER {
            self.split_units -= 1;
            self.free_units += 1;
        }
        self.link(page, order);
    }
}

impl BufferPool {
    /// A region of `bytes` bytes, rounded up to whole mebibytes.
    ///
    /// # Errors
    /// The system's error when it has no such memory.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let bytes = bytes.div_ceil(BUFFER_MAX).max(1) * BUFFER_MAX;
        let pages = bytes / PAGE;
        assert!(pages < NONE as usize, "a buffer pool of {bytes} bytes is beyond 16 TiB");
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut buddies = Buddies {
            heads: [NONE; ORDER_MAX + 1],
            next: vec![NONE; pages].into(),
            previous: vec![NONE; pages].into(),
            order: vec![INSIDE; pages].into(),
            free_pages: pages,
            free_units: pages >> UNIT_ORDER,
            split_units: 0,
            split_units_max: (pages >> UNIT_ORDER) / 4 * 3,
        };
        for page in (0..pages as u32).step_by(1 << ORDER_MAX).rev() {
            buddies.link(page, ORDER_MAX);
        }
        Ok(Self {
            kept_units: (pages >> UNIT_ORDER) / 8,
            region: Rc::new(Region {
                base,
                bytes,
                references: vec![Cell::new(0); pages].into(),
                buddies: RefCell::new(buddies),
                waiters: Default::default(),
                next_ticket: Cell::new(0),
                parked: Cell::new(0),
            }),
        })
    }

    /// A buffer of `len` bytes (1 to [`BUFFER_MAX`]) with unspecified contents left by its former owner in this
    /// process, or `None` when the region is used up, or others wait for as much.
    pub fn try_alloc(&self, len: usize) -> Option<Buffer> {
        let order = order_of(len);
        let class = Class::of(order);
        self.region
            .is_first(self.queue(class), None)
            .then(|| self.take(len, order, self.may_cut(class, None)))
            .flatten()
    }

    /// As [`BufferPool::try_alloc`], but waits until there is memory: up to [`UNIT`] bytes, first come first served, until enough is free;
    /// for more until a run of so many happens to be free. Those who want less do not wait for those who want more.
    pub async fn alloc(&self, len: usize) -> Buffer {
        let order = order_of(len);
        let class = Class::of(order);
        let mut place = Waiting { region: &self.region, queue: self.queue(class), ticket: None };
        std::future::poll_fn(|context| {
            if self.region.is_first(place.queue, place.ticket)
                && let Some(buffer) = self.take(len, order, self.may_cut(class, place.ticket))
            {
                return Poll::Ready(buffer);
            }
            place.wait(context.waker());
            Poll::Pending
        })
        .await
    }

    /// A buffer of `len` bytes or, where no run of so many is free, of a half, a quarter and so on, rounded up to whole pages;
    /// no more than a unit is waited for.
    pub async fn alloc_up_to(&self, len: usize) -> Buffer {
        let mut wanted = len;
        while wanted > UNIT {
            if let Some(buffer) = self.try_alloc(wanted) {
                return buffer;
            }
            wanted = (wanted / 2).next_multiple_of(PAGE);
        }
        self.alloc(wanted).await
    }

    fn take(&self, len: usize, order: usize, cut: bool) -> Option<Buffer> {
        let page = self.region.buddies.borrow_mut().take(order, self.kept_units, cut)?;
        self.region.references[page as usize].set(1);
        // SAFETY: `page` lies inside the region.
        let start = unsafe { self.region.base.add(page as usize * PAGE) };
        Some(Buffer { part: Part { region: self.region.clone(), page, start, len: len as u32 } })
    }

    fn queue(&self, class: Class) -> usize {
        class as usize * 2 + usize::from(self.kept_units > 0)
    }

    /// Whether a unit may be cut up: not that for which somebody waits who came before.
    fn may_cut(&self, class: Class, ticket: Option<u64>) -> bool {
        let first = || self.region.waiters[self.queue(Class::Unit)].borrow().keys().next().copied();
        class != Class::Short || first().is_none_or(|first| ticket.is_some_and(|ticket| ticket < first))
    }

    /// A buffer of `len` zeros; see [`BufferPool::alloc`].
    pub async fn zeroed(&self, len: usize) -> Buffer {
        let mut buffer = self.alloc(len).await;
        buffer.fill(0);
        buffer
    }

    /// A handle to the same region that may use all of it, for I/O that others' requests wait for.
    pub fn privileged(&self) -> Self {
        BufferPool { region: self.region.clone(), kept_units: 0 }
    }

    /// Says that so many bytes stay handed out for long; to be taken back with [`BufferPool::unpark`]. A count that its users keep, whatever
    /// handle they have: who parks much keeps everybody else waiting.
    pub fn park(&self, bytes: usize) {
        self.region.parked.set(self.region.parked.get() + bytes);
    }

    /// Takes back what was said by [`BufferPool::park`].
    pub fn unpark(&self, bytes: usize) {
        self.region.parked.set(self.region.parked.get() - bytes);
    }

    /// Bytes that are parked.
    pub fn parked(&self) -> usize {
        self.region.parked.get()
    }

    /// Whether there is little left for others: less than a quarter is free, or of whole units less than three sixteenths, or somebody
    /// waits for no more than a unit.
    pub fn is_scarce(&self) -> bool {
        let buddies = self.region.buddies.borrow();
        let pages = self.region.bytes / PAGE;
        let somebody_waits = || {
            [Class::Short, Class::Unit].iter().any(|class| !self.region.waiters[self.queue(*class)].borrow().is_empty())
        };
        buddies.free_pages < pages / 4 || buddies.free_units < (pages >> UNIT_ORDER) / 16 * 3 || somebody_waits()
    }

    /// Bytes that are not handed out.
    pub fn free_bytes(&self) -> usize {
        self.region.buddies.borrow().free_pages * PAGE
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.region.bytes
    }

    /// Where the region lies, for registering it with a ring.
    pub fn region(&self) -> (*mut u8, usize) {
        (self.region.base.as_ptr(), self.region.bytes)
    }
}

impl Region {
    /// Whether nobody waits in the queue before the holder of `ticket`.
    fn is_first(&self, queue: usize, ticket: Option<u64>) -> bool {
        match self.waiters[queue].borrow().keys().next() {
            None => true,
            Some(&first) => ticket == Some(first),
        }
    }

    fn wake_firsts(&self) {
        for waiters in &self.waiters {
            if let Some(waker) = waiters.borrow().values().next() {
                waker.wake_by_ref();
            }
        }
    }
}

/// What is asked for, as far as it waits for its own kind only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Less than a unit.
    Short,
    Unit,
    /// A run that may not come to be however much is free.
    Long,
}

impl Class {
    fn of(order: usize) -> Self {
        match order.cmp(&UNIT_ORDER) {
            Ordering::Less => Class::Short,
            Ordering::Equal => Class::Unit,
            Ordering::Greater => Class::Long,
        }
    }
}

/// The order of the run that `len` bytes need.
fn order_of(len: usize) -> usize {
    assert!((1..=BUFFER_MAX).contains(&len), "a buffer of {len} bytes was asked for; 1 to {BUFFER_MAX} exist");
    len.div_ceil(PAGE).next_power_of_two().trailing_zeros() as usize
}

/// A place in the queue for memory; left when it is dropped, so that nobody waits behind one who went away.
struct Waiting<'a> {
    region: &'a Region,
    queue: usize,
    ticket: Option<u64>,
}

impl Waiting<'_> {
    fn wait(&mut self, waker: &Waker) {
        let ticket = *self.ticket.get_or_insert_with(|| {
            let ticket = self.region.next_ticket.get();
            self.region.next_ticket.set(ticket + 1);
            ticket
        });
        self.region.waiters[self.queue].borrow_mut().insert(ticket, waker.clone());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.region.waiters[self.queue].borrow_mut().remove(&ticket);
            // There may be memory for the next one too.
            self.region.wake_firsts();
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: every buffer holds the region, so none is left; the mapping is ours alone.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A range of one allocation; holds one reference to it.
struct Part {
    region: Rc<Region>,
    page: u32,
    start: NonNull<u8>,
    len: u32,
}

impl Part {
    fn share(&self, range: Range<usize>) -> Part {
        assert!(
            range.start <= range.end && range.end <= self.len as usize,
            "{range:?} lies outside a buffer of {} bytes",
            self.len
        );
        let references = &self.region.references[self.page as usize];
        references.set(references.get() + 1);
        Part {
            region: self.region.clone(),
            page: self.page,
            // SAFETY: checked above to lie inside this part.
            start: unsafe { self.start.add(range.start) },
            len: (range.end - range.start) as u32,
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the part lies inside the mapping, which is initialised memory and lives as long as `region`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let references = &self.region.references[self.page as usize];
        references.set(references.get() - 1);
        if references.get() == 0 {
            self.region.buddies.borrow_mut().give(self.page);
            self.region.wake_firsts();
        }
    }
}

/// Bytes with one owner, who may change them.
pub struct Buffer {
    part: Part,
}

impl Buffer {
    /// Cuts off and returns the first `at` bytes; this buffer keeps the rest.
    pub fn split_to(&mut self, at: usize) -> Buffer {
        let front = self.part.share(0..at);
        // SAFETY: `share` checked that `at` lies inside this part.
        self.part.start = unsafe { self.part.start.add(at) };
        self.part.len -= at as u32;
        Buffer { part: front }
    }

    /// Joins `next`, which was split off directly behind this buffer.
    ///
    /// # Panics
    /// When `next` is not the part that follows.
    pub fn unsplit(&mut self, next: Buffer) {
        // SAFETY: one past the end of a part is inside or one past the end of the mapping.
        let end = unsafe { self.part.start.add(self.part.len as usize) };
        let adjacent = Rc::ptr_eq(&self.part.region, &next.part.region)
            && self.part.page == next.part.page
            && end == next.part.start;
        assert!(adjacent, "only neighbouring parts of one buffer can be joined");
        self.part.len += next.part.len;
    }

    /// Forgets all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "a buffer of {} bytes cannot be cut to {len}", self.len());
        self.part.len = len as u32;
    }

    /// Ends the right to change the bytes and makes them shareable.
    pub fn freeze(self) -> Frozen {
        Frozen { part: self.part }
    }

    /// Address of the first byte, for the kernel to write to. Valid while this buffer lives.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.part.start.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.part.bytes()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `Part::bytes`; parts of buffers never overlap, so `self` is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.part.start.as_ptr(), self.part.len as usize) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.len())
    }
}

/// Bytes that do not change any more and may have several owners.
pub struct Frozen {
    part: Part,
}

impl Frozen {
    /// The bytes of `range` of this one, sharing its memory.
    pub fn slice(&self, range: Range<usize>) -> Frozen {
        Frozen { part: self.part.share(range) }
    }

    /// The buffer again, when nobody else holds any part of the allocation.
    ///
    /// # Errors
    /// Itself, when somebody does.
    pub fn try_thaw(self) -> Result<Buffer, Frozen> {
        if self.part.region.references[self.part.page as usize].get() == 1 {
            Ok(Buffer { part: self.part })
        } else {
            Err(self)
        }
    }
}

impl Clone for Frozen {
    fn clone(&self) -> Self {
        self.slice(0..self.len())
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.part.bytes()
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Frozen({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests;
