//! `plimsoll serve`: the state directory is locked, the reactor starts, known pools are opened, exports and the API are
//! served, and at a signal all of it ends in the opposite order.

pub mod config;
mod descriptors;
mod embedded;
mod listen;
mod logging;
mod pools;
mod serve;
mod signals;

pub use config::Config;
pub use logging::start_logging;
pub use serve::{STATE_DIR_DEFAULT, ServeOptions, serve};
