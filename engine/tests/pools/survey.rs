//! A survey: what could come back is found without changing anything, beside writes, and what is told is what then comes (2.01, 2.06, 4.46).

use std::time::Duration;

use crate::support::{assert_clean, create, filled, live, open, vdisk, world};
use futures_util::future::join;
use plimsoll_engine::{
    AlarmState, Error, JobState, Level, PatternSpec, PatternUse, Pool, ReclaimSpec, Reclaimable, SpaceEvent, Subject,
    Surveyed, Vdisk,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{FaultProfile, Random, SimMachine};

const EXTENT: u64 = 65_536;
const BLOCK: u64 = 4096;
const UNIT: &[u8] = b"survey..";

fn job_of(pool: &Pool<SimMachine>, id: u64) -> JobState {
    pool.jobs().into_iter().find(|job| job.id == id).expect("the job").state
}

async fn ended(pool: &Pool<SimMachine>, m: &SimMachine, id: u64) {
    while job_of(pool, id) == JobState::Running {
        m.sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(job_of(pool, id), JobState::Done);
}

async fn survey(pool: &Pool<SimMachine>, m: &SimMachine) -> Surveyed {
    let id = pool.survey().expect("a survey").id;
    assert_eq!(pool.survey().expect("a survey").id, id, "there is one at a time");
    ended(pool, m, id).await;
    pool.surveyed().expect("it has ended")
}

async fn compact(pool: &Pool<SimMachine>, m: &SimMachine) {
    ended(pool, m, pool.compact().expect("a job").id).await;
}

async fn reclaim(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) -> (u64, u64, u64) {
    let id = pool.reclaim(name, ReclaimSpec::default()).await.expect("a reclaim").id;
    ended(pool, m, id).await;
    let info = pool.reclaim_info(name).expect("a vdisk").expect("a reclaim");
    (info.zero_bytes, info.pattern_bytes, info.freed_bytes)
}

/// A vdisk that stores whatever it is given.
async fn plain(pool: &Pool<SimMachine>, name: &str, size: u64) -> Vdisk<SimMachine> {
    pool.create_vdisk(vdisk(name, size)).await.expect("a vdisk");
    pool.set_detection(name, Some(false), Some(false)).await.expect("a change");
    pool.vdisk(name).expect("a vdisk")
}

async fn put(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, length: u64, byte: u8) {
    disk.write(at, filled(m, byte, length as usize).await, false).await.expect("a write");
}

fn backed(disk: &Vdisk<SimMachine>) -> u64 {
    disk.info().backed_bytes
}

/// Discards blocks here and there, so that extents are left with all numbers of blocks.
async fn fragment(disk: &Vdisk<SimMachine>, extents: u64, random: &mut Random) {
    for extent in 0..extents {
        let kept = random.below(16);
        for block in (0..16).filter(|block| *block != kept) {
            if random.below(4) > extent % 4 {
                disk.discard(extent * EXTENT + block * BLOCK, BLOCK, false).await.expect("a discard");
            }
        }
    }
}

#[test]
fn what_is_packable_is_what_a_compaction_then_frees() {
    for seed in 0..4 {
        live(&world(seed, 1, 128), |m| async move {
            let (pool, mut random) = (create(&m).await, Random::new(seed));
            let mut disks = Vec::new();
            for name in ["a", "b"] {
                let disk = plain(&pool, name, 1 << 30).await;
                // More than a leaf, with a hole between.
                for extent in (0..500).chain(900..1100) {
                    put(&disk, &m, extent * EXTENT, EXTENT, 1 + (extent % 250) as u8).await;
                }
                fragment(&disk, 1100, &mut random).await;
                disks.push(disk);
            }
            assert_eq!(pool.surveyed(), None);
            let before: Vec<u64> = disks.iter().map(backed).collect();
            let found = survey(&pool, &m).await;
            assert!(found.total.packable_bytes > 100 * EXTENT, "{found:?}");
            assert_eq!((found.total.zero_bytes, found.total.pattern_bytes), (0, 0));
            assert_eq!(disks.iter().map(backed).collect::<Vec<_>>(), before, "it changes nothing");
            compact(&pool, &m).await;
            for (disk, before) in disks.iter().zip(before) {
                assert_eq!(before - backed(disk), found.vdisks[&disk.info().name].packable_bytes);
            }
            // It is known at once that nothing is left, and so it is.
            assert_eq!(pool.surveyed().expect("a survey").total.packable_bytes, 0);
            assert_clean(&pool, "compacted").await;
        });
    }
}

#[test]
fn what_a_reclaim_would_give_up_is_found_exactly_where_all_is_read() {
    live(&world(1, 1, 64), |m| async move {
        let pool = create(&m).await;
        pool.add_pattern(PatternSpec::Unit(UNIT.to_vec()), PatternUse::Everywhere).await.expect("a pattern");
        let (disk, other) = (plain(&pool, "a", 1 << 30).await, plain(&pool, "b", 1 << 30).await);
        let mut unit = m.buffers().alloc(EXTENT as usize).await;
        unit.chunks_mut(UNIT.len()).for_each(|chunk| chunk.copy_from_slice(UNIT));
        let unit = unit.freeze();
        // Zeros; data; a pattern; data with zeros in it; the pattern with data in it; a thin extent of zeros.
        put(&disk, &m, 0, EXTENT, 0).await;
        put(&disk, &m, EXTENT, EXTENT, 1).await;
        for extent in [2, 4] {
            disk.write(extent * EXTENT, unit.clone(), false).await.expect("a write");
        }
        put(&disk, &m, 3 * EXTENT, EXTENT, 3).await;
        put(&disk, &m, 3 * EXTENT + BLOCK, 2 * BLOCK, 0).await;
        put(&disk, &m, 4 * EXTENT + 5 * BLOCK, BLOCK, 4).await;
        put(&disk, &m, 5 * EXTENT, BLOCK, 0).await;
        put(&other, &m, 0, 8 * EXTENT, 9).await;
        let found = survey(&pool, &m).await;
        let expected = Reclaimable {
            zero_bytes: 19 * BLOCK,
            pattern_bytes: 16 * BLOCK,
            whole_bytes: 33 * BLOCK,
            sampled_bytes: 6 * EXTENT,
            ..found.vdisks["a"]
        };
        assert_eq!(found.vdisks["a"], expected);
        assert_eq!((expected.margin_bytes, expected.packable_bytes), (0, 0));
        assert_eq!(found.vdisks["b"].bytes(), 0);
        assert_eq!((found.total.bytes(), found.total.sampled_bytes), (33 * BLOCK, 14 * EXTENT));
        assert_eq!(backed(&disk), 6 * EXTENT, "it changes nothing");
        // What was found is what is given back, and known to be then.
        m.sleep(Duration::from_secs(60)).await;
        assert_eq!(reclaim(&pool, &m, "a").await, (19 * BLOCK, 16 * BLOCK, 3 * EXTENT));
        let after = pool.surveyed().expect("a survey");
        assert_eq!(after.vdisks["a"].bytes(), 0);
        assert!(after.vdisks["a"].at > found.total.at && after.total.at == found.vdisks["b"].at);
    });
}

#[test]
fn zeros_of_which_a_reclaim_leaves_holes_are_packable_afterwards() {
    live(&world(2, 1, 64), |m| async move {
        let pool = create(&m).await;
        let disk = plain(&pool, "a", 1 << 30).await;
        for extent in 0..32 {
            put(&disk, &m, extent * EXTENT, EXTENT, 1).await;
            put(&disk, &m, extent * EXTENT + 8 * BLOCK, 8 * BLOCK, 0).await;
        }
        let found = survey(&pool, &m).await.total;
        assert_eq!((found.zero_bytes, found.whole_bytes, found.packable_bytes), (16 * EXTENT, 0, 0));
        assert_eq!(reclaim(&pool, &m, "a").await, (16 * EXTENT, 0, 0));
        let left = pool.surveyed().expect("a survey").total;
        assert_eq!((left.zero_bytes, left.packable_bytes), (0, 16 * EXTENT));
        compact(&pool, &m).await;
        assert_eq!(backed(&disk), 16 * EXTENT);
        assert_eq!(pool.surveyed().expect("a survey").total.bytes(), 0);
    });
}

#[test]
fn of_a_large_vdisk_a_sample_is_read_and_the_truth_lies_within_its_margin() {
    live(&world(3, 1, 512), |m| async move {
        let (pool, mut random) = (create(&m).await, Random::new(7));
        // Sparse: holes are not read.
        let disk = plain(&pool, "a", 8 << 40).await;
        let (extents, mut zeros) = (4096u64, 0);
        for extent in 0..extents {
            let zero = random.below(3) == 0;
            zeros += u64::from(zero) * EXTENT;
            put(&disk, &m, (extent * 1000 + extent % 7) * EXTENT, EXTENT, if zero { 0 } else { 1 }).await;
        }
        let before = m.now();
        let found = survey(&pool, &m).await.total;
        assert!(found.at > before);
        assert_eq!(found.sampled_bytes, 1024 * EXTENT);
        assert!(found.zero_bytes.abs_diff(zeros) <= found.margin_bytes, "{found:?}, of {zeros}");
        assert!(found.margin_bytes > 0 && found.margin_bytes < zeros / 4, "{found:?}");
        assert_eq!(found.whole_bytes, found.zero_bytes);
        disk.discard(0, 8 << 40, false).await.expect("a discard");
        assert_eq!(pool.surveyed().expect("a survey").total.bytes(), 0, "no more than is stored by now");
    });
}

#[test]
fn what_is_written_discarded_and_deleted_meanwhile_is_not_held_up_and_spoils_nothing() {
    for seed in 0..8 {
        live(&world(seed, 1, 128), |m| async move {
            let (pool, mut random) = (create(&m).await, Random::new(seed));
            let disk = plain(&pool, "a", 1 << 30).await;
            let gone = plain(&pool, "b", 1 << 30).await;
            for extent in 0..300 {
                put(&disk, &m, extent * EXTENT, EXTENT, 1).await;
                put(&gone, &m, extent * EXTENT, EXTENT, 0).await;
            }
            let (pool, m) = (&pool, &m);
            let id = pool.survey().expect("a survey").id;
            let busy = async {
                let mut steps = 0;
                while job_of(pool, id) == JobState::Running {
                    let (extent, block) = (random.below(300), random.below(16));
                    match random.below(4) {
                        0 => disk.discard(extent * EXTENT, EXTENT, false).await.expect("a discard"),
                        1 => disk.discard(extent * EXTENT + block * BLOCK, BLOCK, false).await.expect("a discard"),
                        _ => put(&disk, m, extent * EXTENT, EXTENT, 1 + block as u8).await,
                    }
                    steps += 1;
                    if steps == 10 {
                        pool.delete_vdisk("b").await.expect("a delete");
                    }
                    m.sleep(Duration::from_micros(random.below(300))).await;
                }
                steps
            };
            let (steps, ()) = join(busy, ended(pool, m, id)).await;
            assert!(steps >= 10, "{steps} steps beside it");
            let found = pool.surveyed().expect("a survey");
            assert!(!found.vdisks.contains_key("b"), "{found:?}");
            let a = found.vdisks["a"];
            assert_eq!((a.zero_bytes, a.pattern_bytes), (0, 0), "nobody wrote zeros to it: {a:?}");
            assert!(a.bytes() <= backed(&disk));
            // Another one of its name, and in its place, has no figures of its.
            let again = plain(pool, "b", 1 << 30).await;
            put(&again, m, 0, EXTENT, 0).await;
            assert!(!pool.surveyed().expect("a survey").vdisks.contains_key("b"));
            assert_clean(pool, &format!("seed {seed}")).await;
        });
    }
}

#[test]
fn what_was_somebody_elses_by_the_time_it_was_read_is_not_counted() {
    for seed in 0..8 {
        let machines = world(seed, 1, 32);
        live(&machines, |m| {
            let faulty = &machines;
            async move {
                let (pool, mut random) = (create(&m).await, Random::new(seed));
                let (disk, other) = (plain(&pool, "a", 1 << 30).await, plain(&pool, "b", 1 << 30).await);
                let mut extents = 0;
                while pool.info().available_bytes > 2 * EXTENT {
                    put(&disk, &m, extents * EXTENT, EXTENT, 1).await;
                    extents += 1;
                }
                // Reads of several extents take so long that what they read is freed and written by others meanwhile.
                faulty.set_faults(FaultProfile { slow: 8000, ..FaultProfile::NONE });
                faulty.filter_faults(|site| site.length > EXTENT);
                let (pool, m) = (&pool, &m);
                let id = pool.survey().expect("a survey").id;
                let busy = async {
                    while job_of(pool, id) == JobState::Running {
                        let extent = random.below(extents);
                        disk.discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
                        disk.flush().await.expect("a flush");
                        put(&other, m, extent * EXTENT, EXTENT, 0).await;
                    }
                };
                join(busy, ended(pool, m, id)).await;
                let found = pool.surveyed().expect("a survey").vdisks["a"];
                assert_eq!(found.zero_bytes, 0, "seed {seed}: {found:?}");
                faulty.heal();
            }
        });
    }
}

#[test]
fn what_cannot_be_read_is_passed_over_and_widens_the_margin() {
    let machines = world(9, 1, 128);
    live(&machines, |m| {
        let faulty = &machines;
        async move {
            let pool = create(&m).await;
            let disk = plain(&pool, "a", 1 << 30).await;
            for extent in 0..200 {
                put(&disk, &m, extent * EXTENT, EXTENT, 0).await;
            }
            let all = survey(&pool, &m).await.total;
            assert_eq!((all.zero_bytes, all.margin_bytes), (200 * EXTENT, 0));
            // In 10,000: of reads of a whole extent, a third.
            faulty.set_faults(FaultProfile { read_error: 3300, ..FaultProfile::NONE });
            let id = pool.survey().expect("a survey").id;
            ended(&pool, &m, id).await;
            let some = pool.surveyed().expect("a survey").total;
            assert!(
                some.at > all.at && some.sampled_bytes < 200 * EXTENT && some.sampled_bytes > 100 * EXTENT,
                "{some:?}"
            );
            assert_eq!(some.zero_bytes, 200 * EXTENT, "all that was seen is zeros");
            assert!(some.margin_bytes > 0 && some.margin_bytes <= 200 * EXTENT - some.sampled_bytes, "{some:?}");
            faulty.heal();
        }
    });
}

#[test]
fn a_close_ends_it_and_nothing_is_known_afterwards() {
    let machines = world(5, 1, 128);
    for point in [0, 1, 3, 10, 40] {
        live(&machines, |m| async move {
            let pool = if point == 0 { create(&m).await } else { open(&m, 1).await };
            if point == 0 {
                let disk = plain(&pool, "a", 1 << 40).await;
                for extent in 0..400 {
                    put(&disk, &m, extent * 400 * EXTENT, EXTENT, 0).await;
                }
            }
            let id = pool.survey().expect("a survey").id;
            m.sleep(Duration::from_millis(point)).await;
            pool.close().await.expect("a close");
            m.sleep(Duration::from_secs(1)).await;
            assert!(matches!(job_of(&pool, id), JobState::Failed(_)), "{:?}", job_of(&pool, id));
            assert_eq!(pool.surveyed(), None);
            assert!(matches!(pool.survey(), Err(Error::Closing(_))));
        });
    }
}

#[test]
fn it_begins_by_itself_when_the_pool_reaches_a_level_and_nobody_looked_for_an_hour() {
    live(&world(6, 1, 128), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        let disk = plain(&pool, "a", 1 << 30).await;
        let surveys = |pool: &Pool<SimMachine>| pool.jobs().iter().filter(|job| job.kind == "survey").count();
        let fill_to = async |percent: u64, from: u64| {
            let mut extent = from;
            let used = |pool: &Pool<SimMachine>| 100 - 100 * pool.info().available_bytes / pool.info().physical_bytes;
            while used(&pool) < percent {
                put(&disk, &m, extent * EXTENT, EXTENT, 0).await;
                extent += 1;
            }
            m.sleep(Duration::from_secs(30)).await;
            extent
        };
        let below = fill_to(60, 0).await;
        assert_eq!(surveys(&pool), 0);
        let at_70 = fill_to(72, below).await;
        assert_eq!(surveys(&pool), 1);
        let found = pool.surveyed().expect("a survey").total;
        assert!(found.zero_bytes + found.margin_bytes >= at_70 * EXTENT * 9 / 10, "{found:?}");
        // The next level comes too soon for another look; the one after that does not.
        let at_85 = fill_to(87, at_70).await;
        assert_eq!(surveys(&pool), 1);
        m.sleep(Duration::from_secs(3600)).await;
        fill_to(96, at_85).await;
        assert_eq!(surveys(&pool), 2);
        assert!(pool.surveyed().expect("a survey").total.at > found.at);
        let told = pool.events().await;
        let reached = |percent| {
            told.iter().any(|event| {
                matches!(event, SpaceEvent::Threshold { subject: Subject::Pool, level, rising: true, .. }
                    if *level == Level::Percent(percent))
            })
        };
        assert!(reached(70) && reached(85) && reached(95));
    });
}
