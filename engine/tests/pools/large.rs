//! The largest vdisk there is: 16 PiB, to its last sector.

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use plimsoll_engine::{CreateVdisk, Error, Pool, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine};

const SIZE: u64 = 16 << 50;
const SECTOR: u64 = 4096;

async fn sectors_at(m: &SimMachine, pool: &Pool<SimMachine>, at: u64, expected: [u8; 2]) {
    let disk = pool.vdisk("large").expect("open");
    let back = disk.read(at, m.buffers().alloc(2 * SECTOR as usize).await).await.expect("a read");
    let (first, second) = back.split_at(SECTOR as usize);
    assert!(first.iter().all(|&byte| byte == expected[0]) && second.iter().all(|&byte| byte == expected[1]), "at {at}");
}

#[test]
fn a_vdisk_of_16_pib_is_written_to_its_last_sector_through_a_power_cut_and_no_larger_one_is_made() {
    let world = world(16, 1, 16);
    let last = SIZE - SECTOR;
    live(&world, |m| async move {
        let pool = create(&m).await;
        for (name, size) in [("larger", SIZE + SECTOR), ("endless", u64::MAX / SECTOR * SECTOR)] {
            let refused = pool.create_vdisk(CreateVdisk { sector: 4096, ..vdisk(name, size) }).await;
            assert!(matches!(&refused, Err(Error::InvalidArgument(said)) if said.contains("16 PiB")), "{refused:?}");
        }
        pool.create_vdisk(CreateVdisk { sector: 4096, ..vdisk("large", SIZE) }).await.expect("a vdisk");
        let disk = pool.vdisk("large").expect("open");
        // The ends, and the middle of both.
        for (at, byte) in [(0, 1), (SIZE / 2, 2), (last, 3)] {
            disk.write(at, filled(&m, byte, SECTOR as usize).await, false).await.expect("a write");
        }
        let beyond = disk.write(last, filled(&m, 9, 2 * SECTOR as usize).await, false).await;
        assert!(beyond.is_err(), "a write that ends beyond the end");
        disk.flush().await.expect("a flush");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        assert_clean(&pool, "after the power cut").await;
        sectors_at(&m, &pool, 0, [1, 0]).await;
        sectors_at(&m, &pool, SIZE / 2 - SECTOR, [0, 2]).await;
        sectors_at(&m, &pool, last - SECTOR, [0, 3]).await;
        let disk = pool.vdisk("large").expect("open");
        // All at once, and what is left is one sector.
        disk.write_zeroes(SIZE / 2, SIZE / 2 - SECTOR, Zeroes::Unmap, false).await.expect("zeroes");
        disk.discard(0, SIZE / 2, false).await.expect("a discard");
        let shrink = pool.resize_vdisk("large", last, false).await;
        assert!(matches!(shrink, Err(Error::WouldCutOff { .. })), "its last sector is backed: {shrink:?}");
        sectors_at(&m, &pool, last - SECTOR, [0, 3]).await;
        pool.close().await.expect("a close");
    });
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        sectors_at(&m, &pool, 0, [0, 0]).await;
        sectors_at(&m, &pool, SIZE / 2 - SECTOR, [0, 0]).await;
        sectors_at(&m, &pool, last - SECTOR, [0, 3]).await;
        assert_eq!(pool.info().utilized_bytes, 64 << 10);
        assert_clean(&pool, "in the end").await;
    });
}
