//! What operations move on the devices, counted.

use crate::support::{create, filled, live, open, vdisk, world};
use plimsoll_engine::Vdisk;
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};

const EXTENT: u64 = 65_536;

/// Writes, bytes written and reads of the only disk.
fn moved(world: &SimWorld) -> [u64; 3] {
    let counters = world.counters(0);
    [counters.writes, counters.bytes_written, counters.reads]
}

/// What `work` moves.
async fn during(world: &SimWorld, work: impl Future) -> [u64; 3] {
    let before = moved(world);
    let _ = work.await;
    let after = moved(world);
    std::array::from_fn(|index| after[index] - before[index])
}

async fn write(a: &Vdisk<SimMachine>, m: &SimMachine, at: u64, bytes: usize) {
    a.write(at, filled(m, 7, bytes).await, false).await.expect("a write");
}

/// A vdisk of a pool that has just been opened: its journal has begun, and its first leaf and group were read.
async fn opened(m: &SimMachine) -> Vdisk<SimMachine> {
    let pool = open(m, 1).await;
    let a = pool.vdisk("a").expect("a vdisk");
    // Two, so that nobody expects a flush after the next one.
    write(&a, m, 0, 4096).await;
    write(&a, m, 4096, 4096).await;
    a.flush().await.expect("a flush");
    a
}

fn prepared() -> SimWorld {
    let world = world(1, 1, 64);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", 1 << 40)).await.expect("a vdisk");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Process);
    world
}

#[test]
fn a_first_write_of_4_kib_moves_4_kib() {
    let world = prepared();
    let machine = world.boot();
    let m = machine.clone();
    let seen = &world;
    machine
        .run(async move {
            let a = opened(&m).await;
            for extent in 1..9 {
                let cost = during(seen, write(&a, &m, extent * EXTENT, 4096)).await;
                assert_eq!(cost, [1, 4096, 0], "the first write of extent {extent}");
                let cost = during(seen, write(&a, &m, extent * EXTENT + 8192, 4096)).await;
                assert_eq!(cost, [1, 4096, 0], "the first write of another block of extent {extent}");
            }
            // Their records: both rings, once, for all of them.
            let cost = during(seen, a.flush()).await;
            assert_eq!(cost, [2, 8192, 0], "the flush of sixteen first writes");
        })
        .done();
}

#[test]
fn writing_and_flushing_by_turns_moves_the_data_and_one_batch_for_each() {
    let world = prepared();
    let machine = world.boot();
    let m = machine.clone();
    let seen = &world;
    machine
        .run(async move {
            let a = opened(&m).await;
            for extent in 1..9 {
                let both = async {
                    write(&a, &m, extent * EXTENT, 4096).await;
                    a.flush().await.expect("a flush");
                };
                assert_eq!(during(seen, both).await, [3, 12_288, 0], "extent {extent}, its record in both rings");
            }
        })
        .done();
}

#[test]
fn a_first_write_in_a_leaf_that_nobody_wrote_before_moves_its_data_only() {
    let world = prepared();
    let machine = world.boot();
    let m = machine.clone();
    let seen = &world;
    machine
        .run(async move {
            let a = opened(&m).await;
            for bytes in [512, 4096, 12_288, 65_536] {
                let at = (bytes as u64) << 20;
                let cost = during(seen, write(&a, &m, at, bytes)).await;
                // Less than a block is filled up with zeros.
                assert_eq!(cost, [1, bytes.next_multiple_of(4096) as u64, 0], "a first write of {bytes} bytes");
            }
        })
        .done();
}
