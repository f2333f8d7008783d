//! The undo list against a model that remembers every version each sector may still turn out to have.

use super::*;
use crate::sim::{CrashDamage, CrashKind, Random};

const SECTORS: u64 = 40;

/// Per sector the versions since the last flush, the durable one first, the one that reads see last.
type Versions = Vec<Vec<u8>>;

async fn life(machine: &SimMachine, model: &mut Versions, random: &mut Random, version: &mut u8, block: u64) {
    let disk = machine.open(0);
    for _ in 0..random.below(12) {
        let first = random.below(SECTORS);
        let sectors = (1 + random.below(20)).min(SECTORS - first);
        let range = first as usize..(first + sectors) as usize;
        let length = (sectors * block) as usize;
        *version = version.wrapping_add(1);
        match random.below(8) {
            0 => {
                disk.flush().await.expect("no faults are on");
                model.iter_mut().for_each(|versions| drop(versions.drain(..versions.len() - 1)));
            }
            1 => {
                let data = filled(machine, length, *version).freeze();
                disk.write(first * block, data, Durability::Fua).await.expect("no faults are on");
                model[range].fill(vec![*version]);
            }
            2 => {
                disk.write_zeroes(first * block, length as u64).await.expect("no faults are on");
                model[range].iter_mut().for_each(|versions| versions.push(0));
            }
            _ => {
                write(machine, &disk, first * block, length, *version).await.expect("no faults are on");
                model[range].iter_mut().for_each(|versions| versions.push(*version));
            }
        }
    }
    // The last one is cut off.
    machine.crash_after_ops(1);
    *version = version.wrapping_add(1);
    let _ = write(machine, &disk, 0, 8 * block as usize, *version).await;
}

#[test]
fn after_any_crashes_every_sector_is_a_version_it_had_since_the_last_flush() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let logical_block = if seed % 4 == 0 { 4096 } else { 512 };
        let block = u64::from(logical_block);
        let world = SimWorld::new(seed, vec![SimDiskSpec { logical_block, ..SimDiskSpec::new("sim0", 1 << 20) }]);
        if random.coin() {
            world.set_damage(CrashDamage::Share(80));
        }
        let (mut model, mut version) = (vec![vec![0]; SECTORS as usize], 0);
        for _ in 0..4 {
            let machine = world.boot();
            let outcome = machine.run(life(&machine, &mut model, &mut random, &mut version, block));
            assert!(matches!(outcome, Outcome::Crashed), "seed {seed}");
            let power = random.coin();
            world.crash(if power { CrashKind::Power } else { CrashKind::Process });
            let found = sectors(&world, 0, 0, SECTORS * block, block as usize);
            for (sector, (versions, found)) in model.iter_mut().zip(found).enumerate() {
                let in_flight = sector < 8 && found == version;
                let last = versions.last() == Some(&found);
                let known = if power { versions.contains(&found) } else { last };
                assert!(known || in_flight, "seed {seed}, sector {sector}: {found} is none of {versions:?}");
                (old, new) = (old + u64::from(!last && !in_flight), new + u64::from(last));
                if power {
                    *versions = vec![found];
                } else if in_flight {
                    versions.push(found);
                }
            }
        }
    }
    assert!(old > 10_000 && new > 10_000, "{old} sectors were set back, {new} were not");
}
