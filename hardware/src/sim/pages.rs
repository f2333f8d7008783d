//! The contents of one simulated disk: a sparse, copy-on-write table of 4 KiB pages.
//!
//! Two levels, so that a fork copies one pointer per 512 KiB and a page that was never written costs nothing. A page that
//! is absent reads as zeros.

use std::rc::Rc;

pub(super) const PAGE: u64 = 4096;
const FAN: u64 = 128;

pub(super) type Page = Rc<[u8; PAGE as usize]>;
type Chunk = Rc<[Option<Page>; FAN as usize]>;

#[derive(Clone)]
pub(super) struct Pages {
    chunks: Vec<Option<Chunk>>,
}

impl Pages {
    pub(super) fn new(size: u64) -> Self {
        Self { chunks: vec![None; chunks(size)] }
    }

    /// Cuts or extends to `size` bytes; what was cut off reads as zeros when it is extended again.
    pub(super) fn resize(&mut self, size: u64) {
        self.chunks.resize(chunks(size), None);
        self.clear_from(size);
    }

    /// Lets everything from byte `size` on read as zeros.
    pub(super) fn clear_from(&mut self, size: u64) {
        let whole = chunks(size);
        self.chunks[whole..].fill(None);
        for page in size.div_ceil(PAGE)..whole as u64 * FAN {
            if self.get(page).is_some() {
                *self.slot(page) = None;
            }
        }
        if !size.is_multiple_of(PAGE) && self.get(size / PAGE).is_some() {
            self.change(size / PAGE)[(size % PAGE) as usize..].fill(0);
        }
    }

    pub(super) fn get(&self, page: u64) -> Option<&Page> {
        self.chunks[(page / FAN) as usize].as_ref()?[(page % FAN) as usize].as_ref()
    }

    /// The pages that are there, with their numbers.
    pub(super) fn present(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let chunks = (0..).step_by(FAN as usize).zip(&self.chunks);
        let pages = chunks.filter_map(|(first, chunk)| Some((first..).zip(chunk.as_ref()?.iter())));
        pages.flatten().filter_map(|(page, contents)| Some((page, &contents.as_ref()?[..])))
    }

    /// Whether the whole chunk of `page` is absent, and the first page behind that chunk.
    pub(super) fn chunk_absent(&self, page: u64) -> Option<u64> {
        self.chunks[(page / FAN) as usize].is_none().then_some((page / FAN + 1) * FAN)
    }

    pub(super) fn slot(&mut self, page: u64) -> &mut Option<Page> {
        let chunk = self.chunks[(page / FAN) as usize].get_or_insert_with(|| Rc::new([const { None }; FAN as usize]));
        &mut Rc::make_mut(chunk)[(page % FAN) as usize]
    }

    /// The bytes of `page`, to be changed in place; copies them when an undo entry or a fork shares them.
    pub(super) fn change(&mut self, page: u64) -> &mut [u8; PAGE as usize] {
        Rc::make_mut(self.slot(page).get_or_insert_with(|| Rc::new([0; PAGE as usize])))
    }

    pub(super) fn read(&self, mut offset: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let start = (offset % PAGE) as usize;
            let length = (PAGE as usize - start).min(into.len());
            let (front, rest) = into.split_at_mut(length);
            match self.get(offset / PAGE) {
                Some(page) => front.copy_from_slice(&page[start..start + length]),
                None => front.fill(0),
            }
            offset += length as u64;
            into = rest;
        }
    }

    /// Writes `bytes` at once and for good, with no way back.
    pub(super) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = (offset % PAGE) as usize;
            let (front, rest) = bytes.split_at((PAGE as usize - start).min(bytes.len()));
            self.change(offset / PAGE)[start..start + front.len()].copy_from_slice(front);
            offset += front.len() as u64;
            bytes = rest;
        }
    }
}

fn chunks(size: u64) -> usize {
    size.div_ceil(PAGE * FAN) as usize
}
