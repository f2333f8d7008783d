//! What is refused is refused with words that say what to do.

use crate::support::{create, filled, live, vdisk, world};
use plimsoll_engine::{CreatePool, Error, OpenPool, Pool, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, FaultProfile, SimDiskSpec, SimMachine, SimWorld};

const MIB: u64 = 16;

/// Advice stands behind a semicolon; the object comes before it.
fn assert_advises(error: Option<Error>, code: &str, object: &str) {
    let error = error.unwrap_or_else(|| panic!("{code} was expected"));
    assert_eq!(error.code(), code, "{error}");
    let text = error.to_string();
    let (what, advice) = text.split_once("; ").unwrap_or_else(|| panic!("no advice: {text}"));
    assert!(what.contains(object) && advice.len() > 10, "{text}");
}

async fn opened(m: &SimMachine, disks: &[usize]) -> Option<Error> {
    let devices = disks.iter().map(|&disk| m.open(disk)).collect();
    Pool::open(m, OpenPool::default(), devices).await.err()
}

async fn created(m: &SimMachine, disk: usize) -> Option<Error> {
    Pool::create(m, CreatePool::named("other"), vec![m.open(disk)]).await.err()
}

/// A world with the closed pool `tank` on the first `members` of three disks; the last has 1 MiB.
fn prepared(members: usize) -> SimWorld {
    let mut disks: Vec<_> = (0..3).map(|index| SimDiskSpec::new(&format!("disk{index}"), MIB << 20)).collect();
    disks.push(SimDiskSpec::new("small", 1 << 20));
    let world = SimWorld::new(1, disks);
    live(&world, |m| async move {
        let devices = (0..members).map(|disk| m.open(disk)).collect();
        let pool = Pool::create(&m, CreatePool::named("tank"), devices).await.expect("a pool");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Power);
    world
}

#[test]
fn a_device_that_cannot_be_used_is_refused_with_advice() {
    let world = prepared(2);
    live(&world, |m| async move {
        assert_advises(opened(&m, &[0]).await, "device-missing", "device 1");
        assert_advises(opened(&m, &[2]).await, "not-a-pool", "disk2");
        assert_advises(created(&m, 3).await, "too-small", "1 MiB");
        assert_advises(created(&m, 1).await, "in-use", "tank");
        drop(Pool::create(&m, CreatePool::named("other"), vec![m.open(2)]).await.expect("a pool"));
        assert_advises(opened(&m, &[0, 2]).await, "not-a-pool", "other");
    });
}

#[test]
fn a_device_that_lost_bytes_is_refused_with_advice() {
    type Spoil = fn(&SimWorld);
    let spoils: [(Spoil, &str); 3] = [
        (|world| world.truncate(0, 8 << 20), "damaged"),
        (
            |world| [0, (MIB << 20) - 65_536].into_iter().for_each(|label| world.flip_bit(0, label + 99, 1)),
            "not-a-pool",
        ),
        (
            |world| [0, (MIB << 20) - 65_536].into_iter().for_each(|label| world.scribble(0, label + 4096, 8192)),
            "not-a-pool",
        ),
    ];
    for (spoil, code) in spoils {
        let world = prepared(1);
        spoil(&world);
        let machine = world.boot();
        let m = machine.clone();
        machine.run(async move { assert_advises(opened(&m, &[0]).await, code, "disk0") }).done();
    }
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_changes_nothing() {
    let world = world(1, 1, MIB);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", 1 << 20)).await.expect("a vdisk");
        let a = pool.vdisk("a").expect("a vdisk");
        for (offset, bytes) in [(0, 100), (256, 512), (1 << 20, 512), ((1 << 20) - 512, 1024), (u64::MAX - 511, 512)] {
            let refused = [
                a.write(offset, filled(&m, 1, bytes).await, false).await.err(),
                a.read(offset, m.buffers().alloc(bytes).await).await.err(),
                a.discard(offset, bytes as u64, false).await.err(),
                a.write_zeroes(offset, bytes as u64, Zeroes::Unmap, false).await.err(),
                a.block_status(offset, bytes as u64, 8).await.err(),
            ];
            for (operation, error) in refused.into_iter().enumerate() {
                let code = error.map(|error| error.code());
                assert_eq!(code, Some("invalid-request"), "operation {operation}, {bytes} bytes at {offset}");
            }
        }
        let none = [
            a.discard(0, 0, false).await.err(),
            a.write_zeroes(0, 0, Zeroes::Unmap, false).await.err(),
            a.block_status(0, 0, 8).await.err(),
        ];
        for (operation, error) in none.into_iter().enumerate() {
            assert_eq!(error.map(|error| error.code()), Some("invalid-request"), "operation {operation} of nothing");
        }
        assert_eq!(a.info().backed_bytes, 0);
    });
}

#[test]
fn a_pool_that_takes_nothing_says_what_to_do() {
    let world = world(1, 1, MIB);
    let machine = world.boot();
    let m = machine.clone();
    let faulty = &world;
    machine
        .run(async move {
            let pool = create(&m).await;
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
            assert_advises(pool.create_vdisk(vdisk("a", 1 << 30)).await.err(), "exists", "tank/a");
            let a = pool.vdisk("a").expect("a vdisk");
            a.write(0, filled(&m, 1, 4096).await, false).await.expect("a write");
            faulty.set_faults(FaultProfile { flush_error: 10_000, ..FaultProfile::NONE });
            a.flush().await.expect_err("the device fails");
            assert_advises(a.write(0, filled(&m, 1, 4096).await, false).await.err(), "read-only", "tank");
            faulty.heal();
            assert_advises(pool.close().await.err(), "read-only", "tank");
            assert_advises(a.write(0, filled(&m, 1, 4096).await, false).await.err(), "closing", "tank");
        })
        .done();
}
