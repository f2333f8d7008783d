use std::collections::BTreeSet;

use super::*;
use crate::sim::{CrashDamage, CrashKind, Survival};

/// Two overlapping unflushed writes of two sectors each over flushed ones: 9 9 9 -> 1 1 9 -> 1 2 2.
fn overlapping(seed: u64) -> SimWorld {
    let world = world(seed);
    let machine = world.boot();
    machine
        .run(async {
            let disk = machine.open(0);
            write(&machine, &disk, 0, 1536, 9).await?;
            disk.flush().await?;
            write(&machine, &disk, 0, 1024, 1).await?;
            write(&machine, &disk, 512, 1024, 2).await
        })
        .done()
        .expect("no faults are on");
    world
}

#[test]
fn every_survival_is_enumerated_and_any_version_of_a_sector_can_be_the_last() {
    let world = overlapping(3);
    assert_eq!(world.pending_writes(), 2);
    let mut found = BTreeSet::new();
    let worlds = world.each_survival(10, &mut |fork| {
        found.insert(sectors(&fork, 0, 0, 1536, 512));
    });
    assert_eq!(worlds, 16);
    let expected: BTreeSet<Vec<u8>> =
        [9, 1].iter().flat_map(|a| [9, 1, 2].iter().flat_map(|b| [9, 2].map(|c| vec![*a, *b, c]))).collect();
    assert_eq!(found, expected);
    // The forks left the first world alone.
    assert_eq!(sectors(&world, 0, 0, 1536, 512), [1, 2, 2]);
}

#[test]
fn a_seed_reaches_every_survival_too() {
    let mut found = BTreeSet::new();
    for seed in 0..600 {
        let world = overlapping(seed);
        world.crash(CrashKind::Power);
        found.insert(sectors(&world, 0, 0, 1536, 512));
    }
    assert_eq!(found.len(), 12, "{found:?}");
}

#[test]
fn a_chosen_survival_is_what_happens() {
    let world = overlapping(1);
    world.crash_with(&mut |index, sectors| {
        assert_eq!(sectors, 2);
        if index == 0 { Survival::Kept } else { Survival::First(1) }
    });
    assert_eq!(sectors(&world, 0, 0, 1536, 512), [1, 2, 9]);
    assert!(world.pending().is_empty());
}

#[test]
fn four_fifths_of_the_writes_are_damaged_when_asked_for() {
    let (mut kept, mut torn, mut dropped) = (0, 0, 0);
    for seed in 0..200 {
        let world = world(seed);
        world.set_damage(CrashDamage::Share(80));
        let machine = world.boot();
        machine.run(async {
            let disk = machine.open(0);
            for at in 0..16 {
                let _ = write(&machine, &disk, at * 4096, 4096, 1).await;
            }
        });
        world.crash(CrashKind::Power);
        for at in 0..16 {
            match sectors(&world, 0, at * 4096, 4096, 512).iter().filter(|byte| **byte == 1).count() {
                0 => dropped += 1,
                8 => kept += 1,
                _ => torn += 1,
            }
        }
    }
    assert!((500..780).contains(&kept), "{kept} of 3200 kept");
    assert!(torn > 1000 && dropped > 1000, "{torn} torn, {dropped} dropped");
}

#[test]
fn a_disk_of_4096_byte_sectors_tears_only_between_them() {
    for seed in 0..200 {
        let spec = SimDiskSpec { logical_block: 4096, ..SimDiskSpec::new("sim0", 1 << 20) };
        let world = SimWorld::new(seed, vec![spec]);
        let machine = world.boot();
        machine.run(async { write(&machine, &machine.open(0), 0, 32768, 1).await }).done().expect("no faults are on");
        world.crash(CrashKind::Power);
        let _ = sectors(&world, 0, 0, 32768, 4096);
    }
}

#[test]
fn writes_in_flight_at_the_death_of_the_process_are_whole_torn_or_absent() {
    let mut found = [0; 3];
    for seed in 0..300 {
        let world = world(seed);
        let machine = world.boot();
        machine.crash_after_ops(2);
        let outcome = machine.run(async {
            let disk = machine.open(0);
            both(write(&machine, &disk, 0, 4096, 1), write(&machine, &disk, 8192, 4096, 2)).await
        });
        assert!(matches!(outcome, Outcome::Crashed));
        world.crash(CrashKind::Process);
        let written = sectors(&world, 0, 0, 4096, 512).iter().filter(|byte| **byte == 1).count();
        found[written.min(1) + usize::from(written == 8)] += 1;
    }
    assert!(found.iter().all(|count| *count > 60), "{found:?}");
}

#[test]
fn a_read_beside_a_write_sees_old_and_new_sectors() {
    let mut mixed = 0;
    for seed in 0..300 {
        let world = world(seed);
        let machine = world.boot();
        let (_, read) = machine
            .run(async {
                let disk = machine.open(0);
                both(write(&machine, &disk, 0, 4096, 1), disk.read(0, filled(&machine, 4096, 9))).await
            })
            .done();
        let read = read.expect("no faults are on");
        assert!(read.iter().all(|byte| *byte < 2));
        mixed += usize::from(read.contains(&0) && read.contains(&1));
    }
    assert!(mixed > 20, "{mixed} of 300 reads were mixed");
}

#[test]
fn overlapping_writes_in_flight_take_effect_in_any_order() {
    let mut last = BTreeSet::new();
    for seed in 0..50 {
        let world = world(seed);
        let machine = world.boot();
        machine.run(async {
            let disk = machine.open(0);
            both(write(&machine, &disk, 0, 4096, 1), write(&machine, &disk, 0, 4096, 2)).await
        });
        last.insert(sectors(&world, 0, 0, 512, 512)[0]);
    }
    assert_eq!(last.len(), 2);
}

#[test]
fn spoiling_helpers_change_what_they_say() {
    let world = world(5);
    world.write_raw(0, 0, &[1; 8192]);
    world.write_raw(0, 8192, &[2; 4096]);
    world.flip_bit(0, 4097, 3);
    assert_eq!(world.read_raw(0, 4096, 3), [1, 9, 1]);
    world.swap(0, 0, 8192, 4096);
    assert_eq!((world.read_raw(0, 0, 1), world.read_raw(0, 8192, 1)), (vec![2], vec![1]));
    let fork = world.fork();
    fork.scribble(0, 0, 4096);
    assert_ne!(fork.read_raw(0, 0, 4096), world.read_raw(0, 0, 4096));
    world.truncate(0, 4608);
    world.truncate(0, 1 << 20);
    assert_eq!(world.read_raw(0, 4608, 4096), [0; 4096]);
    assert_eq!(world.read_raw(0, 0, 4096), [2; 4096]);
}
