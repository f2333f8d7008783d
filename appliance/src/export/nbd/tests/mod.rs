//! The server over a real Unix socket, against clients that behave and clients that do not.

mod client;
mod ending;
mod handshake;
mod held;
mod hostile;
mod many;
mod rig;
mod transmission;
