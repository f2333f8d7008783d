//! Feature bits of a newer version: which of them keep this one out, which let it read, and which mean nothing to it.

use crate::support::{create, filled, live, vdisk, world};
use plimsoll_engine::{OpenPool, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimWorld};

const MIB: u64 = 16;
const LABELS: [u64; 2] = [0, (MIB << 20) - 65_536];

/// A pool whose labels have an unknown bit in the mask at `offset`.
fn newer(offset: usize) -> SimWorld {
    let world = world(1, 1, MIB);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
        let a = pool.vdisk("a").expect("a vdisk");
        a.write(0, filled(&m, 9, 4096).await, false).await.expect("a write");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Power);
    for place in LABELS {
        let mut label = world.read_raw(0, place, 4096);
        label[offset + 3] |= 0x40;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&label[..12]);
        sum.update(&label[16..]);
        label[12..16].copy_from_slice(&sum.finalize().to_le_bytes());
        world.write_raw(0, place, &label);
    }
    world
}

#[test]
fn an_unknown_bit_of_the_refuse_mask_keeps_the_pool_closed() {
    let world = newer(16);
    let machine = world.boot();
    let m = machine.clone();
    let before = world.counters(0).writes;
    let error = machine.run(async move { Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.err() }).done();
    let error = error.expect("it is not opened");
    assert_eq!(error.code(), "unsupported-feature");
    assert!(error.to_string().contains("0x40000000"), "{error}");
    assert_eq!(world.counters(0).writes, before, "something was written");
}

#[test]
fn an_unknown_bit_of_the_read_only_mask_lets_it_be_read() {
    let world = newer(24);
    let machine = world.boot();
    let m = machine.clone();
    let before = world.counters(0).writes;
    machine
        .run(async move {
            let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("it is opened");
            assert!(pool.info().read_only.is_some_and(|reason| reason.contains("0x40000000")));
            let a = pool.vdisk("a").expect("a vdisk");
            let read = a.read(0, m.buffers().alloc(4096).await).await.expect("a read");
            assert!(read.iter().all(|byte| *byte == 9));
            let data = filled(&m, 1, 4096).await;
            let refused = [
                a.write(0, data.clone(), false).await.err(),
                a.write(1 << 20, data, false).await.err(),
                a.discard(0, 65_536, false).await.err(),
                pool.create_vdisk(vdisk("b", 1 << 20)).await.err(),
                pool.delete_vdisk("a").await.err(),
            ];
            for error in refused {
                assert_eq!(error.map(|error| error.code()), Some("read-only"));
            }
            assert!(pool.check().await.expect("a check").clean());
            pool.close().await.expect("nothing is to be written");
        })
        .done();
    assert_eq!(world.counters(0).writes, before, "something was written");
}

#[test]
fn an_unknown_bit_of_the_ignore_mask_means_nothing_and_is_kept() {
    let world = newer(32);
    let labels = LABELS.map(|place| world.read_raw(0, place, 4096));
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("it is opened");
        assert_eq!(pool.info().read_only, None);
        let a = pool.vdisk("a").expect("a vdisk");
        a.write(0, filled(&m, 1, 4096).await, true).await.expect("a write");
        assert!(pool.check().await.expect("a check").clean());
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Power);
    assert_eq!(LABELS.map(|place| world.read_raw(0, place, 4096)), labels, "the label changed");
}
