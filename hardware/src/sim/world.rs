//! What outlives a process: the disks, the crash memory, the seed; and how a life begins and ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::counters::Trace;
use super::disk::{Disk, SimDiskSpec};
use super::fault::Faults;
use super::life::{Core, Life};
use super::machine::SimMachine;
use super::random::Random;
use super::survival::{CrashDamage, CrashKind, Draw, Survival, Survivals};
use crate::buffer::BUFFER_MAX;

/// A simulated world. One life of a process at a time runs in it.
pub struct SimWorld {
    pub(super) core: Rc<RefCell<Core>>,
    pub(super) life: RefCell<Option<Rc<Life>>>,
    seed: u64,
    buffer_bytes: Cell<usize>,
    fresh_buffers: Cell<bool>,
}

/// A write that power loss may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingWrite {
    /// Index of the disk.
    pub disk: usize,
    /// Byte offset.
    pub offset: u64,
    /// Logical blocks.
    pub sectors: u64,
}

impl SimWorld {
    /// A world with empty disks.
    pub fn new(seed: u64, disks: Vec<SimDiskSpec>) -> Self {
        let core = Core {
            random: Random::new(seed),
            now: 0,
            disks: disks.iter().map(Disk::new).collect(),
            memory: Vec::new(),
            faults: Faults::default(),
            trace: Trace::default(),
            damage: CrashDamage::Mixed,
            survivals: Survivals::default(),
            lives: 0,
            loss_at: None,
            unheard: false,
        };
        Self::with_core(core, seed, 8 * BUFFER_MAX, false)
    }

    fn with_core(core: Core, seed: u64, buffer_bytes: usize, fresh: bool) -> Self {
        Self {
            core: Rc::new(RefCell::new(core)),
            life: RefCell::default(),
            seed,
            buffer_bytes: Cell::new(buffer_bytes),
            fresh_buffers: Cell::new(fresh),
        }
    }

    /// Begins a life. A former one that was not ended by [`SimWorld::crash`] is killed as by [`CrashKind::Process`].
    ///
    /// # Panics
    /// When there is no memory for the buffers.
    pub fn boot(&self) -> SimMachine {
        if self.life.borrow().is_some() {
            self.crash(CrashKind::Process);
        }
        {
            let mut core = self.core.borrow_mut();
            core.lives += 1;
            core.note("-- boot --");
            for disk in &mut core.disks {
                // What nobody heard of in the life that ended, the crash has made up for.
                (disk.gone, disk.unheard) = (false, false);
            }
        }
        let life = Life::new(self.core.clone(), self.buffer_bytes.get(), self.fresh_buffers.get());
        let life = Rc::new(life.expect("there is no memory for the buffers of a simulated machine"));
        *self.life.borrow_mut() = Some(life.clone());
        SimMachine::new(life)
    }

    /// Ends the life, if there is one, and decides by the seed what is left of its writes.
    pub fn crash(&self, kind: CrashKind) {
        self.stop();
        let mut core = self.core.borrow_mut();
        core.note(if kind == CrashKind::Power { "-- power loss --" } else { "-- process death --" });
        let Core { disks, random, damage, survivals, memory, unheard, .. } = &mut *core;
        match kind {
            CrashKind::Process => {
                disks.iter_mut().for_each(|disk| disk.settle(random));
                if *unheard {
                    memory.clear();
                }
            }
            CrashKind::Power => {
                memory.clear();
                let writes = disks.iter().map(Disk::losable).sum();
                let draw = Draw::new(*damage, writes, random);
                let mut index = 0;
                for disk in disks {
                    disk.lose(&mut |sectors| {
                        index += 1;
                        let survival = draw.survival(index - 1, sectors, random);
                        survivals.count(survival);
                        survival
                    });
                }
            }
        }
    }

    /// Power loss of which `choose` decides for every write of [`SimWorld::pending`], by index there and count of
    /// sectors, what survives.
    pub fn crash_with(&self, choose: &mut dyn FnMut(usize, u64) -> Survival) {
        self.stop();
        let mut core = self.core.borrow_mut();
        core.note("-- chosen power loss --");
        core.memory.clear();
        let mut index = 0;
        for disk in &mut core.disks {
            disk.lose(&mut |sectors| {
                index += 1;
                choose(index - 1, sectors)
            });
        }
    }

    /// Ends the life, if there is one, and leaves all open what becomes of its writes until a crash is chosen.
    pub fn stop(&self) {
        let life = self.life.borrow_mut().take();
        if let Some(life) = life {
            life.end();
        }
    }

    /// The writes that power loss may take, completed or in flight. Ends the life, so that they are all known.
    pub fn pending(&self) -> Vec<PendingWrite> {
        self.stop();
        let core = self.core.borrow();
        let of_disk = |(disk, state): (usize, &Disk)| {
            let losable = state.pending.iter().filter(|write| write.standing != super::disk::Standing::Durable);
            let block = state.block;
            let writes =
                losable.map(move |write| PendingWrite { disk, offset: write.offset, sectors: write.length / block });
            writes.collect::<Vec<_>>()
        };
        core.disks.iter().enumerate().flat_map(of_disk).collect()
    }

    /// How many there are; see [`SimWorld::pending`].
    pub fn pending_writes(&self) -> usize {
        self.pending().len()
    }

    /// A copy that goes its own way from here, sharing what neither changes. Ends the life in both.
    pub fn fork(&self) -> SimWorld {
        self.stop();
        let core = self.core.borrow().clone();
        Self::with_core(core, self.seed, self.buffer_bytes.get(), self.fresh_buffers.get())
    }

    /// The seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How power loss treats writes; [`CrashDamage::Mixed`] at first.
    pub fn set_damage(&self, damage: CrashDamage) {
        self.core.borrow_mut().damage = damage;
    }

    /// Bytes of each later life's buffers, rounded up to whole mebibytes; 8 MiB at first.
    pub fn set_buffer_bytes(&self, bytes: usize) {
        self.buffer_bytes.set(bytes.div_ceil(BUFFER_MAX).max(1) * BUFFER_MAX);
    }

    /// Gives each later life buffers of zeros instead of a former life's, at the price of mapping them anew. A replay
    /// that differs without it and not with it reads a buffer before it was filled.
    pub fn set_fresh_buffers(&self, fresh: bool) {
        self.fresh_buffers.set(fresh);
    }
}

impl Drop for SimWorld {
    fn drop(&mut self) {
        // Tasks hold the life that holds them.
        self.stop();
    }
}
