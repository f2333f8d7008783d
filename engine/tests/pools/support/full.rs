//! Full pools, and writes of one block in them.

use plimsoll_engine::{Error, Pool, VdiskPolicy};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

use super::{create, failing, filled, with};

pub const EXTENT: u64 = 65_536;
pub const BLOCK: usize = 4096;

pub async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64, byte: u8) -> Result<(), Error> {
    pool.vdisk(name)?.write(offset, filled(m, byte, BLOCK).await, false).await
}

pub async fn byte_at(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64) -> u8 {
    let buffer = m.buffers().alloc(BLOCK).await;
    pool.vdisk(name).expect("a vdisk").read(offset, buffer).await.expect("a read")[0]
}

/// Writes a block to extent after extent until there is no space; answers how many there were.
pub async fn fill(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) -> u64 {
    // Whole extents, in which nothing could be put together.
    let (vdisk, data) = (pool.vdisk(name).expect("a vdisk"), filled(m, 7, EXTENT as usize).await);
    for extent in 0.. {
        match vdisk.write(extent * EXTENT, data.clone(), false).await {
            Ok(()) => {}
            Err(Error::OutOfSpace { .. } | Error::QuotaExceeded { .. }) => return extent,
            Err(error) => panic!("extent {extent}: {error}"),
        }
    }
    unreachable!("a pool is finite")
}

/// A pool whose space all belongs to `hog`, and `v` beside it with a first extent of its own.
pub async fn full_pool(m: &SimMachine, policy: VdiskPolicy) -> Pool<SimMachine> {
    let pool = create(m).await;
    pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
    pool.create_vdisk(with("v", policy)).await.expect("a vdisk");
    write(&pool, m, "v", 0, 1).await.expect("a first write");
    fill(&pool, m, "hog").await;
    pool
}
