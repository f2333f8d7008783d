//! Compaction: what small discards left thin is put together, beside writes, and nothing of it is lost or seen by others (0.22, 2.07).

use std::time::Duration;

use crate::support::{assert_clean, create, filled, is_full, live, open, vdisk, world};
use plimsoll_engine::{
    CreateVdisk, Error, Evacuate, JobState, OnFull, PatternSpec, PatternUse, Pool, Vdisk, VdiskPolicy, WriteOptions,
    Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, Random, SimMachine};

const EXTENT: u64 = 65_536;
const BLOCK: u64 = 4096;

/// Extents that are written, each with its number as its bytes.
const EXTENTS: u64 = 64;

async fn compact(pool: &Pool<SimMachine>, m: &SimMachine) {
    let id = pool.compact().expect("a job").id;
    loop {
        match pool.jobs().into_iter().find(|job| job.id == id).expect("the job").state {
            JobState::Running => m.sleep(Duration::from_micros(200)).await,
            state => return assert_eq!(state, JobState::Done),
        }
    }
}

fn backed(disk: &Vdisk<SimMachine>) -> u64 {
    disk.info().backed_bytes / EXTENT
}

fn mark(extent: u64) -> u8 {
    1 + (extent % 251) as u8
}

/// A vdisk of which every extent holds one block, the one that `block` says.
async fn thin(pool: &Pool<SimMachine>, m: &SimMachine, block: impl Fn(u64) -> u64) -> Vdisk<SimMachine> {
    pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
    let disk = pool.vdisk("a").expect("a vdisk");
    for extent in 0..EXTENTS {
        let at = extent * EXTENT;
        disk.write(at, filled(m, mark(extent), EXTENT as usize).await, false).await.expect("a write");
        let kept = block(extent) * BLOCK;
        for (from, until) in [(0, kept), (kept + BLOCK, EXTENT)] {
            if from < until {
                disk.discard(at + from, until - from, false).await.expect("a discard");
            }
        }
    }
    assert_eq!(backed(&disk), EXTENTS);
    disk
}

async fn assert_thin(disk: &Vdisk<SimMachine>, m: &SimMachine, block: impl Fn(u64) -> u64) {
    for extent in 0..EXTENTS {
        let found = disk.read(extent * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
        for (index, bytes) in found.chunks(BLOCK as usize).enumerate() {
            let expected = if index as u64 == block(extent) { mark(extent) } else { 0 };
            assert!(bytes.iter().all(|&byte| byte == expected), "block {index} of extent {extent}");
        }
    }
}

#[test]
fn thin_extents_are_put_together_wherever_their_blocks_lie() {
    // The same block everywhere, and all over the place.
    for (block, left) in [((|_| 3) as fn(u64) -> u64, EXTENTS / 8), (|extent| extent * 7 % 16, EXTENTS / 16)] {
        let machines = world(1, 1, 64);
        live(&machines, |m| async move {
            let pool = create(&m).await;
            let disk = thin(&pool, &m, block).await;
            let before = pool.info().available_bytes;
            compact(&pool, &m).await;
            assert_eq!(backed(&disk), left);
            let gained = pool.info().available_bytes - before;
            assert_eq!(gained, (EXTENTS - left) * EXTENT, "it is available at once");
            assert_eq!(pool.info().counters.packed_bytes, gained);
            assert_thin(&disk, &m, block).await;
            assert_clean(&pool, "packed").await;
            // Once more changes nothing.
            compact(&pool, &m).await;
            assert_eq!(backed(&disk), left);
            // Over what is there in place, over what is not in an extent of its own.
            let after = filled(&m, 200, 2 * BLOCK as usize).await;
            let at = 5 * EXTENT + block(5).saturating_sub(1) * BLOCK;
            disk.write(at, after, false).await.expect("a write");
            assert_eq!(backed(&disk), left + 1);
            let seen = disk.read(at, m.buffers().alloc(2 * BLOCK as usize).await).await.expect("a read");
            assert!(seen.iter().all(|&byte| byte == 200));
            disk.write(5 * EXTENT, filled(&m, mark(5), EXTENT as usize).await, false).await.expect("a write");
            disk.discard(5 * EXTENT, block(5) * BLOCK, false).await.ok();
            disk.discard(5 * EXTENT + (block(5) + 1) * BLOCK, EXTENT - (block(5) + 1) * BLOCK, false).await.ok();
            assert_thin(&disk, &m, block).await;
            assert_clean(&pool, "written to").await;
            pool.close().await.expect("it closes");
        });
        for kind in [CrashKind::Process, CrashKind::Power] {
            live(&machines, |m| async move {
                let pool = open(&m, 1).await;
                let disk = pool.vdisk("a").expect("a vdisk");
                assert_thin(&disk, &m, block).await;
                assert_clean(&pool, "opened").await;
                compact(&pool, &m).await;
                // Half of what shares an extent goes, then all.
                for extent in (0..EXTENTS).step_by(2) {
                    disk.discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
                }
                assert!(backed(&disk) <= left + 1);
                for extent in (0..EXTENTS).step_by(2) {
                    let at = extent * EXTENT + block(extent) * BLOCK;
                    disk.write(at, filled(&m, mark(extent), BLOCK as usize).await, false).await.expect("a write");
                }
                assert_thin(&disk, &m, block).await;
                compact(&pool, &m).await;
                assert_eq!(backed(&disk), left);
                assert_thin(&disk, &m, block).await;
                disk.flush().await.expect("a flush");
                assert_clean(&pool, "thinner and packed again").await;
            });
            machines.crash(kind);
        }
        live(&machines, |m| async move {
            let pool = open(&m, 1).await;
            let disk = pool.vdisk("a").expect("a vdisk");
            assert_thin(&disk, &m, block).await;
            assert_eq!(backed(&disk), left);
            disk.discard(0, 1 << 30, false).await.expect("a discard");
            assert_eq!(backed(&disk), 0);
            assert_clean(&pool, "emptied").await;
        });
    }
}

#[test]
fn a_pool_that_is_short_of_space_packs_by_itself_and_held_writes_go_on() {
    let machines = world(2, 1, 8);
    live(&machines, |m| async move {
        let pool = create(&m).await;
        let disk = thin(&pool, &m, |_| 0).await;
        pool.create_vdisk(vdisk("b", 1 << 30)).await.expect("a vdisk");
        let other = pool.vdisk("b").expect("a vdisk");
        let mut written = 0;
        let fail = WriteOptions { on_full: Some(OnFull::Fail), ..WriteOptions::default() };
        // It goes on beyond what was available at first, some time after the pool was full.
        let first = pool.info().available_bytes / EXTENT;
        let mut refused = 0;
        while refused < 10 {
            let data = filled(&m, 9, EXTENT as usize).await;
            match other.write_with(written * EXTENT, data, &fail).await {
                Ok(()) => (written, refused) = (written + 1, 0),
                Err(Error::OutOfSpace { .. }) => {
                    refused += 1;
                    m.sleep(Duration::from_millis(500)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(backed(&disk), EXTENTS / 8);
        assert!(written >= first + EXTENTS * 3 / 4, "{written} after {first}");
        assert_thin(&disk, &m, |_| 0).await;
        // Over what is there needs nothing, also in a full pool; beside it, it is held until there is space.
        for extent in 0..EXTENTS {
            let data = filled(&m, mark(extent), BLOCK as usize).await;
            disk.write_with(extent * EXTENT, data, &fail).await.expect("an overwrite in a full pool");
        }
        let beside = filled(&m, 7, BLOCK as usize).await;
        let refused = disk.write_with(BLOCK, beside.clone(), &fail).await;
        assert!(matches!(refused, Err(Error::OutOfSpace { .. })), "{refused:?}");
        let held = disk.write(BLOCK, beside, false);
        let eased = async {
            m.sleep(Duration::from_millis(100)).await;
            other.discard(0, 2 * EXTENT, false).await.expect("a discard");
        };
        let (held, ()) = futures_util::future::join(held, eased).await;
        held.expect("a held write");
        assert_clean(&pool, "full").await;
    });
}

/// Takes whole extents until so many are available.
async fn fill_up_to(pool: &Pool<SimMachine>, m: &SimMachine, left: u64) {
    pool.create_vdisk(vdisk("b", 1 << 30)).await.expect("a vdisk");
    let other = pool.vdisk("b").expect("a vdisk");
    for extent in 0.. {
        if pool.info().available_bytes <= left * EXTENT {
            return;
        }
        let data = filled(m, 9, EXTENT as usize).await;
        other.write(extent * EXTENT, data, false).await.expect("there is space");
    }
}

fn compactions(pool: &Pool<SimMachine>) -> u64 {
    pool.jobs().iter().filter(|job| job.kind == "compact").map(|job| job.id).max().unwrap_or(0)
}

#[test]
fn what_first_writes_have_not_filled_yet_is_left_alone_by_a_pool_that_becomes_short() {
    let machines = world(3, 1, 8);
    live(&machines, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
        let disk = pool.vdisk("a").expect("a vdisk");
        let mut extents = 0;
        while pool.info().available_bytes > EXTENT {
            disk.write(extents * EXTENT, filled(&m, 9, BLOCK as usize).await, false).await.expect("a first write");
            extents += 1;
        }
        m.sleep(Duration::from_secs(5)).await;
        assert_eq!((compactions(&pool), pool.info().counters.packed_bytes), (0, 0));
        // One discard, and its leaf is looked at.
        disk.write(0, filled(&m, 9, 2 * BLOCK as usize).await, false).await.expect("a first write");
        disk.discard(0, BLOCK, false).await.expect("a discard");
        m.sleep(Duration::from_secs(5)).await;
        assert!(pool.info().counters.packed_bytes > 0);
    });
}

#[test]
fn packing_that_first_writes_undo_at_once_becomes_rare() {
    let machines = world(4, 1, 8);
    live(&machines, |m| async move {
        let pool = create(&m).await;
        let disk = thin(&pool, &m, |_| 0).await;
        compact(&pool, &m).await;
        fill_up_to(&pool, &m, 3).await;
        let before = compactions(&pool);
        let began = m.now();
        while m.now() - began < Duration::from_secs(120) {
            for extent in 0..2 {
                let at = extent * EXTENT + BLOCK;
                disk.write(at, filled(&m, 1, BLOCK as usize).await, false).await.expect("there is space");
                disk.discard(at, BLOCK, false).await.expect("a discard");
            }
            m.sleep(Duration::from_millis(250)).await;
        }
        // After 1, 2, 4, 8, 16, 16 seconds, and so on.
        let done = compactions(&pool) - before;
        assert!((4..=14).contains(&done), "{done} compactions in two minutes");
        assert_thin(&disk, &m, |_| 0).await;
        assert_clean(&pool, "after it all").await;
    });
}

#[test]
fn what_shares_an_extent_moves_from_a_device_that_leaves_and_takes_patterns_and_zeros() {
    let machines = world(3, 2, 48);
    live(&machines, |m| async move {
        let pool = create(&m).await;
        let block = |extent| extent * 5 % 16;
        let disk = thin(&pool, &m, block).await;
        compact(&pool, &m).await;
        pool.add_device(m.open(1), false).await.expect("a device");
        let away = pool.info().devices[0].uuid;
        let job = pool.evacuate_device(away, Evacuate::default()).await.expect("an evacuation").id;
        while pool.jobs().iter().any(|info| info.id == job && info.state == JobState::Running) {
            m.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(pool.jobs().into_iter().find(|info| info.id == job).map(|info| info.state), Some(JobState::Done));
        assert_eq!(backed(&disk), EXTENTS / 16, "they go on sharing");
        assert_thin(&disk, &m, block).await;
        assert_clean(&pool, "moved").await;
        // A pattern over all that a word has, zeros over another, and a pattern over a part.
        pool.add_pattern(PatternSpec::Unit(vec![0xab, 0xcd]), PatternUse::Everywhere).await.expect("a pattern");
        let mut unit = m.buffers().alloc(EXTENT as usize).await;
        unit.chunks_mut(2).for_each(|unit| unit.copy_from_slice(&[0xab, 0xcd]));
        let unit = unit.freeze();
        let at = |extent: u64| extent * EXTENT + block(extent) * BLOCK;
        for extent in [1, 2, 3] {
            disk.write(at(extent), unit.slice(0..BLOCK as usize), false).await.expect("a write");
        }
        disk.write(4 * EXTENT, unit.clone(), false).await.expect("a write");
        disk.write(at(5), filled(&m, 0, BLOCK as usize).await, false).await.expect("a write");
        disk.write_zeroes(at(6) + 512, 1024, Zeroes::Unmap, false).await.expect("zeros");
        disk.flush().await.expect("a flush");
        assert_clean(&pool, "patterns").await;
        let holds = async |at: u64, length: u64, seen: &dyn Fn(usize, u8) -> bool| {
            let found = disk.read(at, m.buffers().alloc(length as usize).await).await.expect("a read");
            found.iter().enumerate().all(|(index, &byte)| seen(index, byte))
        };
        for (at, length) in [(at(1), BLOCK), (at(2), BLOCK), (at(3), BLOCK), (4 * EXTENT, EXTENT)] {
            assert!(holds(at, length, &|index, byte| byte == [0xab, 0xcd][index % 2]).await, "the pattern at {at}");
        }
        assert!(holds(at(5), BLOCK, &|_, byte| byte == 0).await);
        let zeroed = |index: usize, byte| byte == if (512..1536).contains(&index) { 0 } else { mark(6) };
        assert!(holds(at(6), BLOCK, &zeroed).await, "a part of a block in its turned place");
    });
    machines.crash(CrashKind::Power);
    live(&machines, |m| async move {
        let pool = open(&m, 2).await;
        assert_clean(&pool, "opened").await;
        let disk = pool.vdisk("a").expect("a vdisk");
        let found = disk.read(4 * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
        assert!(found.chunks(2).all(|unit| unit == [0xab, 0xcd]));
    });
}

/// Compaction beside discards and writes, cut short after every so many device operations: nothing that was flushed is lost, and
/// nobody sees what is another's.
#[test]
fn a_crash_at_any_point_of_a_compaction_loses_nothing() {
    let block = |extent: u64| extent * 3 % 16;
    for (kind, most) in [(CrashKind::Power, 400), (CrashKind::Process, 400)] {
        let mut point = 1;
        while point < most {
            let machines = world(point, 1, 24);
            live(&machines, |m| async move {
                let pool = create(&m).await;
                thin(&pool, &m, block).await.flush().await.expect("a flush");
            });
            let machine = machines.boot();
            machine.crash_after_ops(point);
            let life = machine.clone();
            // Whether it ended is not asked: beyond the last operation nothing is cut short any more.
            let _ = machine.run(async move {
                let pool = open(&life, 1).await;
                let disk = pool.vdisk("a").expect("a vdisk");
                let _ = pool.compact();
                for extent in 0..EXTENTS {
                    // Over what is there with the same, and beside it zeros, which are not stored.
                    let data = filled(&life, mark(extent), BLOCK as usize).await;
                    let _ = disk.write(extent * EXTENT + block(extent) * BLOCK, data, extent % 7 == 0).await;
                    let _ = disk.discard(extent * EXTENT, block(extent) * BLOCK, false).await;
                }
                compact(&pool, &life).await;
                let _ = disk.flush().await;
                std::future::pending::<()>().await;
            });
            machines.crash(kind);
            live(&machines, |m| async move {
                let pool = open(&m, 1).await;
                let disk = pool.vdisk("a").expect("a vdisk");
                assert_thin(&disk, &m, block).await;
                assert_clean(&pool, &format!("after operation {point}")).await;
                compact(&pool, &m).await;
                assert_thin(&disk, &m, block).await;
                assert_clean(&pool, &format!("packed after operation {point}")).await;
            });
            point += if is_full() { 1 } else { 7 };
        }
    }
}

/// One client of a small and crowded pool beside compactions that never end: what it wrote last is what it reads, wherever extents
/// come and go.
#[test]
fn beside_compactions_everybody_reads_what_was_written_last() {
    for seed in 1..=if is_full() { 150 } else { 15 } {
        let machines = world(seed, 1, 6);
        live(&machines, |m| async move {
            let (pool, mut random) = (create(&m).await, Random::new(seed));
            let spec = CreateVdisk {
                policy: VdiskPolicy { on_full: OnFull::Fail, ..Default::default() },
                ..vdisk("a", 64 * EXTENT)
            };
            pool.create_vdisk(spec).await.expect("a vdisk");
            let disk = pool.vdisk("a").expect("a vdisk");
            let mut known = vec![[0u8; 16]; 64];
            for step in 0..1500u64 {
                let (extent, block) = (random.below(64), random.below(16));
                let mark = 1 + (step % 250) as u8;
                match random.below(16) {
                    0..7 => {
                        let data = filled(&m, mark, BLOCK as usize).await;
                        match disk.write(extent * EXTENT + block * BLOCK, data, false).await {
                            Ok(()) => known[extent as usize][block as usize] = mark,
                            Err(Error::OutOfSpace { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    7..10 => {
                        disk.discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
                        known[extent as usize] = [0; 16];
                    }
                    10..12 => {
                        disk.discard(extent * EXTENT + block * BLOCK, BLOCK, false).await.expect("a discard");
                        known[extent as usize][block as usize] = 0;
                    }
                    12 => disk.flush().await.expect("a flush"),
                    13 => m.sleep(Duration::from_micros(random.below(2000))).await,
                    _ => drop(pool.compact()),
                }
                let seen = disk.read(extent * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
                let seen: Vec<u8> = seen.chunks(BLOCK as usize).map(|block| block[0]).collect();
                assert_eq!(seen, known[extent as usize], "extent {extent} at step {step} of seed {seed}");
            }
            assert_clean(&pool, &format!("seed {seed}")).await;
            for (extent, known) in known.iter().enumerate() {
                let at = extent as u64 * EXTENT;
                let seen = disk.read(at, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
                assert!(
                    seen.chunks(BLOCK as usize).zip(known).all(|(block, &mark)| block.iter().all(|&byte| byte == mark))
                );
            }
        });
    }
}
