//! The tail in crash memory: what is appended and not yet written.

use std::cell::{Cell, RefCell};

use plimsoll_hardware::CrashMemory;
use uuid::Uuid;

use crate::format::{BATCH_HEADER_BYTES, HALF_HEADER_BYTES, Record, TAIL_HEADER_BYTES, TailHeader, load_half};

/// What a tail held: the life that wrote it, and the records of each batch to come, oldest first.
pub(crate) type Left = (u64, Vec<(u64, Vec<Record>)>);

/// Crash memory as the journal uses it.
pub(crate) struct Tail<C> {
    memory: C,
    name: RefCell<String>,
    half_bytes: usize,
    active: Cell<usize>,
    used: Cell<usize>,
    /// It belongs to nobody: what is appended outlasts nothing.
    void: Cell<bool>,
}

impl<C: CrashMemory> Tail<C> {
    /// Bytes of crash memory for batches of `payload` bytes at most.
    pub(crate) fn bytes_for(payload: usize) -> usize {
        TAIL_HEADER_BYTES + 2 * (HALF_HEADER_BYTES + payload).next_multiple_of(8)
    }

    pub(crate) fn new(memory: C, name: String) -> Self {
        let half_bytes = (memory.len() - TAIL_HEADER_BYTES) / 16 * 8;
        Tail {
            memory,
            name: RefCell::new(name),
            half_bytes,
            active: Cell::new(0),
            used: Cell::new(0),
            void: Cell::new(true),
        }
    }

    /// What an earlier process of this machine's present uptime left.
    pub(crate) fn recover(&self, pool: Uuid) -> Option<Left> {
        if !self.memory.survived() {
            return None;
        }
        let header = TailHeader::load(&self.memory).filter(|header| header.pool == pool)?;
        let mut halves: Vec<_> =
            (0..2).filter_map(|half| load_half(&self.memory, self.offset(half), self.half_bytes).ok()).collect();
        halves.sort_by_key(|(sequence, _)| *sequence);
        Some((header.life, halves))
    }

    /// Starts a life whose first batch is `sequence`.
    pub(super) fn begin(&self, pool: Uuid, life: u64, sequence: u64) {
        TailHeader::clear(&self.memory);
        for half in 0..2 {
            self.memory.store_u64(self.offset(half) + 8, 0);
            self.memory.store_u64(self.offset(half), 0);
        }
        self.active.set(1);
        self.turn(sequence);
        TailHeader { pool, life }.store(&self.memory);
        self.void.set(false);
    }

    /// Adds encoded records. The caller has reserved the room.
    pub(super) fn append(&self, records: &[u8]) {
        let base = self.offset(self.active.get());
        self.memory.store(base + HALF_HEADER_BYTES + self.used.get(), records);
        self.used.set(self.used.get() + records.len());
        self.memory.store_u64(base + 8, self.used.get() as u64);
    }

    /// Adds the encoded records of the batch that was sealed last, which was sealed before they were true.
    pub(super) fn append_late(&self, records: &[u8]) {
        let base = self.offset(1 - self.active.get());
        self.memory.store(base + HALF_HEADER_BYTES, records);
        self.memory.store_u64(base + 8, records.len() as u64);
    }

    /// Goes on in the other half, whose batch is written, with the records of batch `sequence`.
    pub(super) fn turn(&self, sequence: u64) {
        self.active.set(1 - self.active.get());
        self.used.set(0);
        let base = self.offset(self.active.get());
        // At no instant is it the half of the batch before with fewer records than that has.
        self.memory.store_u64(base, 0);
        self.memory.store_u64(base + 8, 0);
        self.memory.store_u64(base, sequence);
    }

    pub(crate) fn forget(&self) {
        self.void.set(true);
        TailHeader::clear(&self.memory);
    }

    pub(super) fn is_void(&self) -> bool {
        self.void.get()
    }

    pub(crate) fn name(&self) -> String {
        self.name.borrow().clone()
    }

    pub(super) fn rename(&self, name: String) {
        self.name.replace(name);
    }

    fn offset(&self, half: usize) -> usize {
        TAIL_HEADER_BYTES + half * self.half_bytes
    }
}

const _: () = assert!(HALF_HEADER_BYTES <= BATCH_HEADER_BYTES);
