//! Writes of the vdisk `v` that may wait for room below the devices.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::{Either, select};
use plimsoll_engine::{AlarmState, CreateVdisk, Error, OnFull, Pool, VdiskPolicy};
use plimsoll_hardware::sim::{SimMachine, SimWorld};
use plimsoll_hardware::{Device, IoError, Machine};

use super::{assert_clean, create, filled, vdisk};

pub const EXTENT: u64 = 65_536;
pub const BLOCK: u64 = 4096;
/// Extents of a vdisk that a leaf covers.
pub const LEAF: u64 = 512;
pub const SECOND: Duration = Duration::from_secs(1);

/// A pool on the first disk with `v`, of which every `step`-th extent is full of ones, as many as `extents`; all of it is in a checkpoint.
pub async fn pool_with(m: &SimMachine, policy: VdiskPolicy, extents: u64, step: u64) -> Pool<SimMachine> {
    let pool = create(m).await;
    pool.create_vdisk(CreateVdisk { policy, ..vdisk("v", 1 << 40) }).await.expect("a vdisk");
    for number in 0..extents {
        write(&pool, m, number * step * EXTENT, 1, EXTENT).await.expect("a first write");
    }
    assert_clean(&pool, "by a checkpoint").await;
    pool.arm(&AlarmState::default());
    pool
}

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

/// What `future` comes to, which must not take so many seconds.
pub async fn within<F: Future>(m: &SimMachine, seconds: u64, what: &str, future: F) -> F::Output {
    match select(pin!(future), pin!(m.sleep(Duration::from_secs(seconds)))).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => panic!("{what} takes more than {seconds} seconds"),
    }
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

/// Label, roots and journal at either end of a device of 64 MiB.
pub const ENDS: u64 = (64 + 256) << 10;

/// Takes the blocks of all pages of zeros from a disk, as a sparse copy of a file does.
pub async fn make_sparse(world: &SimWorld, m: &SimMachine, disk: usize) {
    let device = m.open(disk);
    // Not of the journal, without which no start can write.
    let (from, end) = (ENDS / BLOCK, (device.geometry().size - ENDS) / BLOCK);
    for page in from..end {
        if world.read_raw(disk, page * BLOCK, BLOCK).iter().all(|byte| *byte == 0) {
            device.write_zeroes(page * BLOCK, BLOCK).await.expect("zeros");
        }
    }
    device.flush().await.expect("a flush");
}

/// Discards a block of leaf after leaf until that finds no room for what it has to write down; answers how many went.
pub async fn starve(pool: &Pool<SimMachine>, m: &SimMachine) -> u64 {
    let v = pool.vdisk("v").expect("a vdisk");
    for leaf in 0.. {
        match within(m, 25, "a discard", v.discard(leaf * LEAF * EXTENT, BLOCK, false)).await {
            Ok(()) => {}
            Err(Error::Device(IoError::NoSpace { path })) if path == "disk0" => return leaf,
            Err(error) => panic!("discard {leaf}: {error}"),
        }
    }
    unreachable!("dirty pages are bounded")
}
