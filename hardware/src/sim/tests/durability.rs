use super::*;
use crate::sim::{CrashDamage, CrashKind};

#[test]
fn flushed_data_survives_power_loss() {
    for seed in 0..500 {
        let world = world(seed);
        let machine = world.boot();
        machine
            .run(async {
                let disk = machine.open(0);
                write(&machine, &disk, 4096, 8192, 1).await?;
                disk.flush().await?;
                write(&machine, &disk, 65536, 8192, 2).await
            })
            .done()
            .expect("no faults are on");
        world.crash(CrashKind::Power);
        assert_eq!(sectors(&world, 0, 4096, 8192, 512), [1; 16], "seed {seed}");
    }
}

#[test]
fn what_completed_survives_the_process_though_nothing_was_flushed() {
    for seed in 0..300 {
        let world = world(seed);
        let machine = world.boot();
        let outcome = machine.run(async {
            let disk = machine.open(0);
            for at in 0..8 {
                write(&machine, &disk, at * 4096, 4096, 7).await?;
            }
            machine.crash_after_ops(1);
            write(&machine, &disk, 0, 4096, 8).await
        });
        assert!(matches!(outcome, Outcome::Crashed));
        world.crash(CrashKind::Process);
        assert_eq!(sectors(&world, 0, 4096, 7 * 4096, 512), [7; 56], "seed {seed}");
        // And it is still only in the cache.
        world.set_damage(CrashDamage::Share(100));
        world.crash(CrashKind::Power);
        assert!(sectors(&world, 0, 4096, 7 * 4096, 512).contains(&0), "seed {seed}");
    }
}

#[test]
fn a_completed_fua_write_survives_power_loss_over_unflushed_ones() {
    for seed in 0..500 {
        let world = world(seed);
        let machine = world.boot();
        machine
            .run(async {
                let disk = machine.open(0);
                write(&machine, &disk, 0, 8192, 1).await?;
                disk.write(2048, filled(&machine, 4096, 2).freeze(), Durability::Fua).await?;
                write(&machine, &disk, 4096, 512, 3).await
            })
            .done()
            .expect("no faults are on");
        world.crash(CrashKind::Power);
        let found = sectors(&world, 0, 2048, 4096, 512);
        let (fua, over): (Vec<_>, Vec<_>) = found.iter().enumerate().partition(|(sector, _)| *sector != 4);
        assert!(fua.iter().all(|(_, byte)| **byte == 2), "seed {seed}: {found:?}");
        assert!([2, 3].contains(over[0].1), "seed {seed}: {found:?}");
    }
}

#[test]
fn a_disk_without_a_cache_loses_only_writes_in_flight() {
    let mut torn = 0;
    for seed in 0..300 {
        let spec = SimDiskSpec { volatile_cache: false, ..SimDiskSpec::new("sim0", 1 << 20) };
        let world = SimWorld::new(seed, vec![spec]);
        let machine = world.boot();
        let _ = machine.run(async {
            let disk = machine.open(0);
            write(&machine, &disk, 0, 8192, 1).await?;
            machine.crash_after_ops(1);
            write(&machine, &disk, 4096, 8192, 2).await
        });
        world.crash(CrashKind::Power);
        assert_eq!(sectors(&world, 0, 0, 4096, 512), [1; 8], "seed {seed}");
        let rest = sectors(&world, 0, 4096, 8192, 512);
        torn += usize::from(rest.contains(&2) && rest.iter().any(|byte| *byte != 2));
        assert!(world.pending().is_empty());
    }
    assert!(torn > 50, "only {torn} of 300 writes were torn");
}

#[test]
fn a_flush_does_not_cover_a_write_that_completes_after_it_was_submitted() {
    let mut lost = 0;
    for seed in 0..400 {
        let world = world(seed);
        world.set_damage(CrashDamage::Share(100));
        let machine = world.boot();
        machine
            .run(async {
                let disk = machine.open(0);
                both(write(&machine, &disk, 0, 512, 1), disk.flush()).await
            })
            .done()
            .0
            .expect("no faults are on");
        world.crash(CrashKind::Power);
        lost += usize::from(sectors(&world, 0, 0, 512, 512) == [0]);
    }
    assert_eq!(lost, 400);
}

#[test]
fn a_discarded_range_reads_as_zeros_as_before_or_as_garbage() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let world = world(seed);
        let machine = world.boot();
        machine
            .run(async {
                let disk = machine.open(0);
                write(&machine, &disk, 0, 8192, 1).await?;
                disk.discard(0, 4096).await?;
                disk.write_zeroes(4096, 2048).await
            })
            .done()
            .expect("no faults are on");
        seen.extend(sectors(&world, 0, 0, 4096, 512));
        assert_eq!(sectors(&world, 0, 4096, 4096, 512), [0, 0, 0, 0, 1, 1, 1, 1]);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 0xde]);
}

#[test]
fn requests_beyond_the_end_or_off_the_sectors_are_refused() {
    let world = world(1);
    let machine = world.boot();
    let disk = machine.open(0);
    for (at, length) in [(1 << 20, 512), (u64::MAX - 511, 512), (256, 512), (0, 100)] {
        let answer = machine.run(disk.write(at, filled(&machine, length, 1).freeze(), Durability::Cached)).done();
        assert!(matches!(answer, Err(IoError::OutOfRange { .. })), "{length} at {at}: {answer:?}");
    }
    assert_eq!(machine.ops(), 0);
}
