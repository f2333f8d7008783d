//! Memory for I/O: one aligned region of bounded size, handed out in power-of-two runs of 4 KiB pages.
//!
//! Method: a buddy allocator over one anonymous mapping. Every allocation starts on a page, so every buffer is fit for
//! `O_DIRECT`, and the whole region can be registered with a ring once. Nothing here grows: when the region is used up
//! [`BufferPool::alloc`] waits, which is how a busy machine stops reading from its sockets.
//!
//! Ownership: a [`Buffer`] is the only one that sees its bytes and may change them; it can be split into parts that are
//! filled by different devices and joined again. [`Buffer::freeze`] makes it a [`Frozen`], which is shared and never
//! changes. Both give their pages back when the last part of an allocation is dropped.
//!
//! Not here: sharing between threads. A pool belongs to one reactor.

use std::cell::{Cell, RefCell};
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
const NONE: u32 = u32::MAX;

/// The region. Cheap to clone; all clones are the same region.
///
/// An eighth of it is kept for privileged handles: requests hold memory while those below them need some to finish.
#[derive(Clone)]
pub struct BufferPool {
    region: Rc<Region>,
    /// Pages that this handle leaves alone.
    kept_pages: usize,
}

struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// References per allocation, kept at its first page.
    references: Box<[Cell<u32>]>,
    buddies: RefCell<Buddies>,
    /// Who waits for memory, by ticket, first come first: those with a privileged handle, and the others.
    waiters: [RefCell<BTreeMap<u64, Waker>>; 2],
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

    fn take(&mut self, order: usize) -> Option<u32> {
        let found = (order..=ORDER_MAX).find(|&candidate| self.heads[candidate] != NONE)?;
        let page = self.heads[found];
        self.unlink(page, found);
        for split in (order..found).rev() {
            self.link(page + (1 << split), split);
        }
        self.order[page as usize] = order as u8;
        self.free_pages -= 1 << order;
        Some(page)
    }

    fn give(&mut self, mut page: u32) {
        let mut order = self.order[page as usize] as usize;
        self.free_pages += 1 << order;
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
        };
        for page in (0..pages as u32).step_by(1 << ORDER_MAX).rev() {
            buddies.link(page, ORDER_MAX);
        }
        Ok(Self {
            kept_pages: pages / 8,
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
    /// process, or `None` when the region is used up.
    pub fn try_alloc(&self, len: usize) -> Option<Buffer> {
        assert!((1..=BUFFER_MAX).contains(&len), "a buffer of {len} bytes was asked for; 1 to {BUFFER_MAX} exist");
        let order = len.div_ceil(PAGE).next_power_of_two().trailing_zeros() as usize;
        if self.kept_pages + (1 << order) > self.region.buddies.borrow().free_pages {
            return None;
        }
        let page = self.region.buddies.borrow_mut().take(order)?;
        self.region.references[page as usize].set(1);
        // SAFETY: `page` lies inside the region.
        let start = unsafe { self.region.base.add(page as usize * PAGE) };
        Some(Buffer { part: Part { region: self.region.clone(), page, start, len: len as u32 } })
    }

    /// As [`BufferPool::try_alloc`], but waits, first come first served, until there is memory.
    pub async fn alloc(&self, len: usize) -> Buffer {
        let mut place = Waiting { region: &self.region, class: usize::from(self.kept_pages > 0), ticket: None };
        std::future::poll_fn(|context| {
            if place.is_first()
                && let Some(buffer) = self.try_alloc(len)
            {
                return Poll::Ready(buffer);
            }
            place.wait(context.waker());
            Poll::Pending
        })
        .await
    }

    /// A buffer of `len` bytes or, where no run of so many is free, of a half, a quarter and so on, rounded up to whole pages;
    /// only one page is waited for. Runs can be missing for good, however much is free; pages come back.
    pub async fn alloc_up_to(&self, len: usize) -> Buffer {
        let mut wanted = len;
        while wanted > PAGE {
            if let Some(buffer) = self.try_alloc(wanted) {
                return buffer;
            }
            wanted = (wanted / 2).next_multiple_of(PAGE);
        }
        self.alloc(wanted).await
    }

    /// A buffer of `len` zeros; see [`BufferPool::alloc`].
    pub async fn zeroed(&self, len: usize) -> Buffer {
        let mut buffer = self.alloc(len).await;
        buffer.fill(0);
        buffer
    }

    /// A handle to the same region that may use all of it, for I/O that others' requests wait for.
    pub fn privileged(&self) -> Self {
        BufferPool { region: self.region.clone(), kept_pages: 0 }
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
    fn wake_one(&self) {
        for waiters in &self.waiters {
            if let Some(waker) = waiters.borrow().values().next() {
                waker.wake_by_ref();
            }
        }
    }
}

/// A place in the queue for memory; left when it is dropped, so that nobody waits behind one who went away.
struct Waiting<'a> {
    region: &'a Region,
    class: usize,
    ticket: Option<u64>,
}

impl Waiting<'_> {
    fn is_first(&self) -> bool {
        match self.region.waiters[self.class].borrow().keys().next() {
            None => true,
            Some(&first) => self.ticket == Some(first),
        }
    }

    fn wait(&mut self, waker: &Waker) {
        let ticket = *self.ticket.get_or_insert_with(|| {
            let ticket = self.region.next_ticket.get();
            self.region.next_ticket.set(ticket + 1);
            ticket
        });
        self.region.waiters[self.class].borrow_mut().insert(ticket, waker.clone());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.region.waiters[self.class].borrow_mut().remove(&ticket);
            // There may be memory for the next one too.
            self.region.wake_one();
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
            self.region.wake_one();
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
