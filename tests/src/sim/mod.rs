//! Deterministic simulation of a whole pool: a random workload on a simulated machine that crashes, compared with a model of
//! what may be there.
//!
//! A seed decides everything: [`setup`] the world, [`client`] and [`control`] the work, [`decide`] what is promised and [`promises`] what
//! never is, [`room`] what there is below the devices, the machine the interleaving, the faults and what a crash leaves. [`model`] knows,
//! for every sector, all values that are allowed; [`verify`] compares after every start and runs the engine's own check; [`alarms`]
//! listens to what it tells; [`life`] goes through the lives of one image; [`runner`] runs many seeds, and [`tally`] says whether enough
//! was done. [`damage`] has a pool of its own.

pub mod alarms;
pub mod client;
pub mod control;
pub mod damage;
pub mod decide;
pub mod full;
pub mod image;
pub mod life;
pub mod members;
pub mod model;
pub mod pattern;
pub mod promises;
pub mod room;
pub mod runner;
pub mod sector;
pub mod session;
pub mod setup;
pub mod tally;
pub mod trace;
pub mod verify;
pub mod window;
