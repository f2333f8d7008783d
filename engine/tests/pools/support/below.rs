//! Writes of the vdisk `v` that may wait for room below the devices.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::{Either, select};
use plimsoll_engine::{Error, OnFull, Pool, VdiskPolicy};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

use super::filled;

pub const EXTENT: u64 = 65_536;
pub const BLOCK: u64 = 4096;
pub const SECOND: Duration = Duration::from_secs(1);

pub async fn write(pool: &Pool<SimMachine>, m: &SimMachine, offset: u64, byte: u8, length: u64) -> Result<(), Error> {
    pool.vdisk("v")?.write(offset, filled(m, byte, length as usize).await, false).await
}

pub async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, offset: u64) -> u8 {
    let buffer = m.buffers().alloc(BLOCK as usize).await;
    let bytes = pool.vdisk("v").expect("a vdisk").read(offset, buffer).await.expect("a read");
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "bytes of two writes at {offset}");
    bytes[0]
}

pub fn holding(seconds: u64) -> VdiskPolicy {
    VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(seconds)), ..VdiskPolicy::default() }
}

/// Whether `future` is not done within so many seconds; it goes on.
pub async fn waits<F: Future + Unpin>(m: &SimMachine, future: &mut F, seconds: u64) -> bool {
    matches!(select(future, pin!(m.sleep(Duration::from_secs(seconds)))).await, Either::Right(_))
}

pub type Writing<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// Writes the extents `number * step`, one `number` after the other, until one is held: a few may be there whose blocks the file has.
/// Answers that one.
pub async fn until_held<'a>(
    pool: &'a Pool<SimMachine>,
    m: &'a SimMachine,
    step: u64,
    number: &mut u64,
    byte: u8,
) -> Writing<'a> {
    loop {
        let mut next: Writing<'a> = Box::pin(write(pool, m, *number * step * EXTENT, byte, EXTENT));
        if waits(m, &mut next, 1).await {
            return next;
        }
        *number += 1;
    }
}
