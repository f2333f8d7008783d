//! Ten thousand vdisks in a pool: each costs as much as the first one did.

use std::time::Duration;

use crate::support::{assert_clean, create, filled, open, vdisk, world};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};

const VDISKS: u64 = 10_000;
const DEVICE_MIB: u64 = 1024;
/// Vdisks that are written and read.
const SOME: usize = 997;

fn name(index: u64) -> String {
    format!("v{index:05}")
}

/// Device operations, and bytes, that the world has seen.
fn cost(world: &SimWorld) -> (u64, u64) {
    let counters = world.counters(0);
    (counters.reads + counters.writes + counters.flushes, counters.bytes_read + counters.bytes_written)
}

async fn create_all(world: &SimWorld, m: &SimMachine) {
    let pool = create(m).await;
    let mut thousands = Vec::new();
    for thousand in 0..VDISKS / 1000 {
        let before = cost(world);
        for index in thousand * 1000..(thousand + 1) * 1000 {
            let made = pool.create_vdisk(vdisk(&name(index), 1 << 30)).await.expect("a vdisk");
            assert_eq!(u64::from(made.id), index, "the lowest free place is taken");
        }
        let after = cost(world);
        thousands.push((after.0 - before.0, after.1 - before.1));
    }
    let (first, last) = (thousands[0], thousands[thousands.len() - 1]);
    println!("operations and bytes per thousand: {thousands:?}");
    assert!(last.0 < first.0 * 3 / 2, "the last thousand took {} operations, the first {}", last.0, first.0);
    assert!(last.1 < first.1 * 2, "the last thousand moved {} bytes, the first {}", last.1, first.1);
    for index in (0..VDISKS).step_by(SOME) {
        let a = pool.vdisk(&name(index)).expect("a vdisk");
        a.write(4096, filled(m, index as u8 | 1, 8192).await, true).await.expect("a write");
    }
    // The place of one that is gone is the next one's.
    pool.delete_vdisk(&name(5000)).await.expect("a deletion");
    while pool.info().vdisks == VDISKS {
        m.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pool.create_vdisk(vdisk("again", 1 << 30)).await.expect("a vdisk").id, 5000);
    pool.close().await.expect("a close");
}

async fn delete_all(world: &SimWorld, m: &SimMachine) {
    let before = cost(world);
    let pool = open(m, 1).await;
    let opened = cost(world);
    let pages = (opened.1 - before.1) / 4096;
    println!("{pages} pages moved by the start, {} operations", opened.0 - before.0);
    // A page of the table holds eight vdisks, a node 128 of these pages; both rings, a 256th of the device each; a few more.
    let rings = 2 * (DEVICE_MIB << 20) / 256 / 4096;
    assert!(pages < VDISKS / 8 + VDISKS / 1024 + rings + 64, "a start moves {pages} pages");
    assert_eq!(pool.info().vdisks, VDISKS);
    for index in (0..VDISKS).step_by(SOME) {
        let a = pool.vdisk(&name(index)).expect("a vdisk");
        let read = a.read(4096, m.buffers().alloc(8192).await).await.expect("a read");
        assert!(read.iter().all(|byte| *byte == index as u8 | 1), "vdisk {index} reads {}", read[0]);
        let uuid = a.info().uuid.to_string();
        assert_eq!(pool.vdisk(&uuid).expect("a vdisk by its UUID").info().name, name(index));
    }
    assert_clean(&pool, "with ten thousand vdisks").await;
    for vdisk in pool.vdisks() {
        pool.delete_vdisk(&vdisk.name).await.expect("a deletion");
    }
    while pool.info().vdisks > 0 {
        m.sleep(Duration::from_millis(1)).await;
    }
    assert_clean(&pool, "with no vdisk left").await;
    assert_eq!(pool.info().utilized_bytes, 0);
    pool.close().await.expect("a close");
}

#[test]
fn ten_thousand_vdisks_cost_each_as_much_as_the_first() {
    let world = world(7, 1, DEVICE_MIB);
    let machine = world.boot();
    machine.run(create_all(&world, &machine)).done();
    world.crash(CrashKind::Power);
    let machine = world.boot();
    machine.run(delete_all(&world, &machine)).done();
}
