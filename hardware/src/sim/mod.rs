//! A simulated machine: disks that lie, tear and vanish, time that jumps, and a process that dies at any point, all drawn
//! from one seed.
//!
//! A [`SimWorld`] is what outlives a process. [`SimWorld::boot`] begins a life of it, a [`SimMachine`], which the engine
//! takes for a real one. [`SimMachine::run`] polls the engine until a future ends or the machine crashes;
//! [`SimWorld::crash`] then decides what the disks still hold, and the next boot finds out.
//!
//! Invariants: the same seed and program give the same [`SimWorld::trace_hash`]. What a completed flush covers, and a
//! completed FUA write, survives every crash unless a fault hit it. What completed at all survives the process.
//!
//! What it deliberately does not do: threads, real time, and networks.

mod counters;
mod device;
mod disk;
mod effect;
mod executor;
mod fault;
mod handles;
mod io;
mod life;
mod machine;
mod memory;
mod pages;
mod parts;
mod random;
mod survival;
#[cfg(test)]
mod tests;
mod twins;
mod undo;
mod world;

pub use counters::Counters;
pub use device::SimDevice;
pub use disk::SimDiskSpec;
pub use fault::{FaultKind, FaultProfile, FaultSite};
pub use machine::{Outcome, SimMachine};
pub use memory::SimCrashMemory;
pub use random::Random;
pub use survival::{CrashDamage, CrashKind, Survival, Survivals};
pub use world::{PendingWrite, SimWorld};
