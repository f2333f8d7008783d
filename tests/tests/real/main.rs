//! The real program, with real clients, guests, disks and crashes. They measure time and use whole devices, so nothing may run beside
//! any of them; `tests/run` installs what they need.

mod alarms;
mod auto_growth;
mod clients;
mod commands;
mod control;
mod devices;
mod fault_disk;
mod faults;
mod files;
mod forecast;
mod full_device;
mod growth;
mod guest;
mod guest_space;
mod holding;
mod kill;
mod metrics;
mod power;
mod program;
mod promises;
mod readme;
mod tank;
