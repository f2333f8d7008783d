//! Simulated crash memory: bytes in the world, which a life borrows by name.
//!
//! A process that dies in the middle of a poll computes on until the poll returns. It goes on to see its own stores, so
//! that it has no reason to panic, but they are undone when its life ends.

use std::rc::Rc;

use super::life::Life;
use super::random::Random;
use crate::CrashMemory;

#[derive(Clone)]
pub(super) struct Region {
    name: String,
    bytes: Rc<Vec<u8>>,
    /// The life that holds it open.
    owner: Option<u64>,
}

/// Crash memory of a simulated machine.
pub struct SimCrashMemory {
    life: Rc<Life>,
    region: usize,
    survived: bool,
    len: usize,
}

impl SimCrashMemory {
    pub(super) fn open(life: &Rc<Life>, name: &str, bytes: usize) -> Result<Self, String> {
        let mut core = life.core.borrow_mut();
        let found = core.memory.iter().position(|region| region.name == name);
        let region = found.unwrap_or_else(|| {
            core.memory.push(Region { name: name.to_owned(), bytes: Rc::new(vec![0; bytes]), owner: None });
            core.memory.len() - 1
        });
        let place = &mut core.memory[region];
        if place.bytes.len() != bytes {
            return Err(format!("crash memory {name} has {} bytes, not {bytes}", place.bytes.len()));
        }
        if place.owner == Some(life.number) {
            return Err(format!("crash memory {name} is open already"));
        }
        place.owner = Some(life.number);
        Ok(Self { life: life.clone(), region, survived: found.is_some(), len: bytes })
    }

    pub(super) fn exists(life: &Rc<Life>, name: &str) -> bool {
        life.core.borrow().memory.iter().any(|region| region.name == name)
    }

    pub(super) fn remove(life: &Rc<Life>, name: &str) {
        if !life.dead() {
            // Who has it open goes by its place, so it stays there without a name.
            let memory = &mut life.core.borrow_mut().memory;
            memory.iter_mut().filter(|region| region.name == name).for_each(|region| region.name.clear());
        }
    }

    pub(super) fn rename(life: &Rc<Life>, from: &str, to: &str) -> Result<(), String> {
        if life.dead() {
            return Ok(());
        }
        if !Self::exists(life, from) {
            return Err(format!("{from} is not there"));
        }
        Self::remove(life, to);
        for region in life.core.borrow_mut().memory.iter_mut().filter(|region| region.name == from) {
            to.clone_into(&mut region.name);
        }
        Ok(())
    }

    /// Stores, and dies when this is the store to die in; `change` is told.
    fn change(&self, change: impl FnOnce(&mut Random, &mut [u8], bool)) {
        if self.life.ended() {
            return;
        }
        let torn = !self.life.dead() && self.life.tear_at_store.reached();
        {
            let core = &mut *self.life.core.borrow_mut();
            change(&mut core.random, Rc::<Vec<u8>>::make_mut(&mut core.memory[self.region].bytes), torn);
        }
        if torn {
            self.life.stop();
        }
    }
}

impl CrashMemory for SimCrashMemory {
    fn survived(&self) -> bool {
        self.survived
    }

    fn len(&self) -> usize {
        self.len
    }

    fn load(&self, offset: usize, into: &mut [u8]) {
        let core = self.life.core.borrow();
        assert!(offset + into.len() <= self.len, "{} bytes at {offset} lie outside {}", into.len(), self.len);
        if self.life.ended() {
            // The bytes belong to another life now.
            into.fill(0);
        } else {
            into.copy_from_slice(&core.memory[self.region].bytes[offset..offset + into.len()]);
        }
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "{} bytes at {offset} lie outside {}", bytes.len(), self.len);
        self.change(|random, memory, torn| {
            let place = &mut memory[offset..offset + bytes.len()];
            if !torn {
                place.copy_from_slice(bytes);
            } else if random.coin() {
                let front = random.below(bytes.len() as u64 + 1) as usize;
                place[..front].copy_from_slice(&bytes[..front]);
            } else {
                for (old, new) in place.chunks_mut(8).zip(bytes.chunks(8)) {
                    if random.coin() {
                        old.copy_from_slice(new);
                    }
                }
            }
        });
    }

    fn store_u64(&self, offset: usize, word: u64) {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.len,
            "a word at {offset} does not fit {} bytes",
            self.len
        );
        self.change(|random, memory, torn| {
            if !torn || random.coin() {
                memory[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
            }
        });
    }
}

impl Drop for SimCrashMemory {
    fn drop(&mut self) {
        let mut core = self.life.core.borrow_mut();
        let own = |region: &&mut Region| region.owner == Some(self.life.number);
        if let Some(region) = core.memory.get_mut(self.region).filter(own) {
            region.owner = None;
        }
    }
}
