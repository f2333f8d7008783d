//! The appliance: everything of Plimsoll that people, programs and initiators touch.
//!
//! - [`export`]: protocols by which initiators reach vdisks
//! - [`node`]: pools, jobs and exports on the reactor's thread, and what is remembered of them
//! - [`api`]: the REST API; [`model`]: what it says; [`problem`]: how it says no
//! - [`daemon`]: `plimsoll serve`, which puts those together
//! - [`cli`]: the command line, a client of the API that can do nothing that the API can't
//!
//! Two threads of control: the reactor serves I/O and owns all state; a small tokio runtime speaks HTTP and passes what it
//! is asked to the reactor by message. Neither waits for the other while holding anything.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod daemon;
pub mod event;
pub mod export;
pub mod model;
pub mod name;
pub mod node;
pub mod policy;
pub mod problem;
pub mod reclaimable;
pub mod units;
