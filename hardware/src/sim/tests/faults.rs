use super::*;
use crate::sim::{CrashDamage, CrashKind, FaultKind, FaultProfile};

const OPERATIONS: u64 = 2000;

/// Counts how `OPERATIONS` writes of 4 KiB, each read back, went: failed writes, failed reads, wrong reads.
fn outcomes(world: &SimWorld) -> (u64, u64, u64) {
    let machine = world.boot();
    machine
        .run(async {
            let disk = machine.open(0);
            let (mut unwritten, mut unread, mut wrong) = (0, 0, 0);
            for round in 0..OPERATIONS {
                let (at, byte) = (round % 64 * 8192, round as u8 | 1);
                if write(&machine, &disk, at, 4096, byte).await.is_err() {
                    unwritten += 1;
                    continue;
                }
                match disk.read(at, filled(&machine, 4096, 0)).await {
                    Ok(read) => wrong += u64::from(read.iter().any(|found| *found != byte)),
                    Err(_) => unread += 1,
                }
            }
            (unwritten, unread, wrong)
        })
        .done()
}

#[test]
fn faults_strike_at_their_rates() {
    let near = |count: u64| (130..280).contains(&count);
    let none = FaultProfile::NONE;
    let tenth = 1000;
    let run = |profile| {
        let world = world(7);
        world.set_faults(profile);
        (outcomes(&world), world)
    };
    assert_eq!(run(none).0, (0, 0, 0));
    let (found, _) = run(FaultProfile { write_error: tenth, ..none });
    assert!(near(found.0) && found.1 + found.2 == 0, "{found:?}");
    let (found, _) = run(FaultProfile { read_error: tenth, ..none });
    assert!(near(found.1) && found.0 + found.2 == 0, "{found:?}");
    let (found, world) = run(FaultProfile { bit_flip: tenth, ..none });
    assert!(near(found.2) && found.2 == world.faults_struck(FaultKind::BitFlip), "{found:?}");
    let (found, world) = run(FaultProfile { lost: tenth, ..none });
    assert!(near(found.2) && found.2 == world.faults_struck(FaultKind::Lost), "{found:?}");
    let (found, world) = run(FaultProfile { misdirect: tenth, ..none });
    assert!(near(world.faults_struck(FaultKind::Misdirect)) && near(found.2), "{found:?}");
    world.heal();
    assert_eq!(outcomes(&world), (0, 0, 0));
}

#[test]
fn a_slow_operation_takes_a_hundred_times_as_long() {
    let time = |slow| {
        let world = world(1);
        world.set_faults(FaultProfile { slow, ..FaultProfile::NONE });
        outcomes(&world);
        world.boot().now()
    };
    assert!(time(1000) > 5 * time(0));
}

#[test]
fn a_failed_flush_keeps_drops_or_half_drops_what_it_should_have_saved() {
    let mut found = [0; 3];
    for seed in 0..300 {
        let world = world(seed);
        world.set_faults(FaultProfile { flush_error: 10_000, ..FaultProfile::NONE });
        let machine = world.boot();
        let flushed = machine
            .run(async {
                let disk = machine.open(0);
                write(&machine, &disk, 0, 16384, 1).await?;
                disk.flush().await
            })
            .done();
        assert!(flushed.is_err());
        let kept = sectors(&world, 0, 0, 16384, 512).iter().filter(|byte| **byte == 1).count();
        found[kept.min(1) + usize::from(kept == 32)] += 1;
    }
    assert!(found.iter().all(|count| *count > 20), "{found:?}");
}

#[test]
fn a_lying_flush_saves_nothing() {
    let world = world(1);
    world.set_faults(FaultProfile { flush_lie: 10_000, ..FaultProfile::NONE });
    world.set_damage(CrashDamage::Share(100));
    let machine = world.boot();
    let flushed = machine.run(async {
        let disk = machine.open(0);
        write(&machine, &disk, 0, 512, 1).await?;
        disk.flush().await
    });
    assert_eq!(flushed.done(), Ok(()));
    world.crash(CrashKind::Power);
    assert_eq!(world.read_raw(0, 0, 1), [0]);
}

#[test]
fn a_vanished_disk_is_gone_until_it_is_healed_or_the_machine_boots() {
    let world = world(1);
    let machine = world.boot();
    let disk = machine.open(0);
    world.vanish(0);
    let gone = Err(IoError::Gone { path: "sim0".to_owned() });
    assert_eq!(machine.run(write(&machine, &disk, 0, 512, 1)).done(), gone);
    assert_eq!(machine.run(disk.flush()).done(), gone);
    world.heal();
    assert_eq!(machine.run(write(&machine, &disk, 0, 512, 1)).done(), Ok(()));
    world.set_faults(FaultProfile { vanish: 10_000, ..FaultProfile::NONE });
    assert_eq!(machine.run(disk.discard(0, 512)).done(), gone);
    drop(machine);
    world.set_faults(FaultProfile::NONE);
    let machine = world.boot();
    assert_eq!(machine.run(write(&machine, &machine.open(0), 0, 512, 1)).done(), Ok(()));
}

#[test]
fn the_nth_operation_fails_on_request() {
    let world = world(1);
    let machine = world.boot();
    machine.fail_op(2);
    let answers = machine
        .run(async {
            let disk = machine.open(0);
            [write(&machine, &disk, 0, 512, 1).await.is_ok(), disk.flush().await.is_ok(), disk.flush().await.is_ok()]
        })
        .done();
    assert_eq!(answers, [true, false, true]);
}

#[test]
fn a_filter_keeps_faults_out() {
    let world = world(1);
    world.set_faults(FaultProfile { bit_flip: 1000, misdirect: 1000, lost: 1000, ..FaultProfile::NONE });
    world.filter_faults(|site| site.offset >= 1 << 19);
    assert_eq!(outcomes(&world), (0, 0, 0));
}

#[test]
fn silent_faults_leave_a_copy_of_every_page_that_is_kept_twice() {
    let kinds = [FaultKind::BitFlip, FaultKind::Misdirect, FaultKind::Lost];
    let (mut spoiled, mut struck) = (0, [0; 3]);
    for seed in 0..40 {
        let world = SimWorld::new(seed, vec![SimDiskSpec::new("a", 1 << 20), SimDiskSpec::new("b", 1 << 20)]);
        // Pages of what is written twice begin with an odd byte.
        world.leave_a_copy(|page| page[0] % 2 == 1);
        world.set_faults(FaultProfile { bit_flip: 1000, misdirect: 1000, lost: 1000, ..FaultProfile::NONE });
        let machine = world.boot();
        let work = machine.run(async {
            let (one, other) = (machine.open(0), machine.open(1));
            for page in 0..120_u64 {
                write(&machine, &one, page * 8192, 4096, page as u8 * 2 + 1).await?;
                write(&machine, &other, page * 8192 + 4096, 4096, page as u8 * 2 + 1).await?;
                write(&machine, &one, page * 8192 + 4096, 4096, page as u8 * 2).await?;
                one.read(page / 2 * 8192, filled(&machine, 4096, 0)).await?;
                other.read(page / 2 * 8192 + 4096, filled(&machine, 4096, 0)).await?;
            }
            Ok::<_, IoError>(())
        });
        assert_eq!(work.done(), Ok(()));
        world.crash(CrashKind::Process);
        world.rot(200);
        for page in 0..120_u64 {
            let right = vec![page as u8 * 2 + 1; 4096];
            let copies = [world.read_raw(0, page * 8192, 4096), world.read_raw(1, page * 8192 + 4096, 4096)];
            assert!(copies.contains(&right), "seed {seed}: both copies of page {page} are spoiled");
            spoiled += usize::from(copies[0] != copies[1]);
            let single = world.read_raw(0, page * 8192 + 4096, 4096);
            assert!(single == vec![page as u8 * 2; 4096], "seed {seed}: the only copy of page {page} is spoiled");
        }
        kinds.iter().zip(&mut struck).for_each(|(kind, sum)| *sum += world.faults_struck(*kind));
    }
    assert!(
        spoiled > 1000 && struck.iter().all(|&count| count > 50),
        "{spoiled} of 4800 pages were spoiled: {struck:?}"
    );
}

#[test]
fn power_loss_counts_what_it_leaves() {
    let world = world(1);
    for (percent, is_damaged) in [(0, false), (100, true)] {
        world.set_damage(CrashDamage::Share(percent));
        let machine = world.boot();
        for page in 0..64 {
            machine.run(write(&machine, &machine.open(0), page * 4096, 4096, 1)).done().expect("no faults are on");
        }
        world.crash(CrashKind::Power);
        let survivals = world.survivals();
        assert_eq!(survivals.kept, 64);
        assert_eq!(survivals.dropped + survivals.torn, if is_damaged { 64 } else { 0 });
        assert_eq!(survivals.dropped > 0 && survivals.torn > 0, is_damaged);
    }
}

#[test]
fn a_bit_flip_stays_on_the_medium_through_power_loss() {
    let world = world(1);
    world.write_raw(0, 0, &[1; 4096]);
    world.set_faults(FaultProfile { bit_flip: 10_000, ..FaultProfile::NONE });
    let machine = world.boot();
    machine.run(machine.open(0).read(0, filled(&machine, 4096, 0))).done().expect("flips are silent");
    world.crash(CrashKind::Power);
    assert_ne!(world.read_raw(0, 0, 4096), [1; 4096]);
}
