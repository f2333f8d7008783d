//! What is done with a vdisk: read, write, write zeroes, discard, flush, look where its holes are. One operation a file.
//!
//! [`Store`] is an open pool seen from here: the layers below, and the vdisks. The layer above (`pool`) makes it and keeps it in order.

mod alarms;
mod below;
mod change;
mod detect;
mod discard;
mod exhaustion;
mod flush;
mod handle;
mod hold;
mod last_look;
mod pack;
mod plan;
mod range;
mod read;
mod reclaim;
mod records;
mod relocate;
mod room;
mod sample;
mod status;
mod store;
mod straight;
mod ticket;
mod wait_for_space;
mod watch_devices;
mod write;
mod zero;

pub(crate) use alarms::{Alarms, horizons, thresholds};
pub(crate) use below::{LOOK_AGAIN, NextLook};
pub(crate) use discard::PUT_BYTES;
pub use handle::{StatusRange, Vdisk, VdiskInfo, VdiskState, Zeroes};
pub(crate) use hold::HoldQueue;
pub(crate) use range::pieces;
pub(crate) use reclaim::{Part, Progress};
pub(crate) use relocate::Relocated;
pub(crate) use room::Room;
pub use sample::Reclaimable;
pub(crate) use sample::{Sample, Seen, estimate};
pub(crate) use store::{CheckpointControl, Counters, Identity, Store, Surveys, VdiskCore, count, table_place};
pub use ticket::{Ticket, WriteOptions};
