//! Reclaim: what was stored and need not be is given back, beside writes and after crashes.

use std::time::Duration;

use crate::support::reclaim::{
    BLOCK, EXTENT, What, alone, assert_holds, backed, ended, ended_or_not, prepared, put, reclaim,
};
use crate::support::{assert_clean, is_full, world};
use plimsoll_engine::{Error, ReclaimSpec, Vdisk, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{Random, SimMachine};

/// Six extents: zeros, data, pattern, data with zeros, pattern with zeros, pattern with data.
async fn six(disk: &Vdisk<SimMachine>, m: &SimMachine) {
    put(disk, m, 0, EXTENT, What::Zeros).await;
    put(disk, m, EXTENT, EXTENT, What::Data(1)).await;
    put(disk, m, 2 * EXTENT, EXTENT, What::Pattern).await;
    put(disk, m, 3 * EXTENT, EXTENT, What::Data(3)).await;
    put(disk, m, 3 * EXTENT + BLOCK, 2 * BLOCK, What::Zeros).await;
    put(disk, m, 4 * EXTENT, EXTENT, What::Pattern).await;
    put(disk, m, 4 * EXTENT + BLOCK, BLOCK, What::Zeros).await;
    put(disk, m, 5 * EXTENT, EXTENT, What::Pattern).await;
    put(disk, m, 5 * EXTENT, BLOCK, What::Data(5)).await;
}

async fn assert_six(disk: &Vdisk<SimMachine>, m: &SimMachine) {
    let blocks = |extent: u64, first: u64, count: u64| (extent * EXTENT + first * BLOCK, count * BLOCK);
    for ((at, length), what) in [
        (blocks(0, 0, 16), What::Zeros),
        (blocks(1, 0, 16), What::Data(1)),
        (blocks(2, 0, 16), What::Pattern),
        (blocks(3, 0, 1), What::Data(3)),
        (blocks(3, 1, 2), What::Zeros),
        (blocks(3, 3, 13), What::Data(3)),
        (blocks(4, 0, 1), What::Pattern),
        (blocks(4, 1, 1), What::Zeros),
        (blocks(4, 2, 14), What::Pattern),
        (blocks(5, 0, 1), What::Data(5)),
        (blocks(5, 1, 15), What::Pattern),
    ] {
        assert_holds(disk, m, at, length, what).await;
    }
}

#[test]
fn zeros_and_patterns_that_were_stored_are_given_back_and_read_the_same() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        six(&disk, &m).await;
        assert_eq!(backed(&disk), 6);
        let info = reclaim(&pool, &m, ReclaimSpec::default()).await;
        assert_eq!(backed(&disk), 3);
        assert_eq!((info.scanned_bytes, info.freed_bytes), (6 * EXTENT, 3 * EXTENT));
        assert_eq!((info.zero_bytes, info.pattern_bytes), (19 * BLOCK, 31 * BLOCK));
        assert_six(&disk, &m).await;
        assert_clean(&pool, "reclaimed").await;
        // There is nothing left.
        let again = reclaim(&pool, &m, ReclaimSpec::default()).await;
        assert_eq!((again.scanned_bytes, again.freed_bytes, again.zero_bytes), (3 * EXTENT, 0, 0));
    });
}

#[test]
fn of_ranges_only_whole_blocks_that_hold_nothing_are_freed() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        six(&disk, &m).await;
        // From the middle of a block of zeros on, and all of the data.
        let ranges = Some(vec![(EXTENT, EXTENT), (512, EXTENT - 512)]);
        let info = reclaim(&pool, &m, ReclaimSpec { ranges, ..ReclaimSpec::default() }).await;
        assert_eq!((info.zero_bytes, info.freed_bytes), (15 * BLOCK, 0));
        let ranges = Some(vec![(EXTENT, EXTENT), (5 * EXTENT + 512, 2 * BLOCK)]);
        let info = reclaim(&pool, &m, ReclaimSpec { ranges, worthless: true, rate: 0 }).await;
        assert_eq!((info.zero_bytes, info.freed_bytes), (17 * BLOCK, EXTENT));
        assert_holds(&disk, &m, EXTENT, EXTENT, What::Zeros).await;
        assert_holds(&disk, &m, 5 * EXTENT + BLOCK, BLOCK, What::Zeros).await;
        assert_holds(&disk, &m, 5 * EXTENT, BLOCK, What::Data(5)).await;
        assert_holds(&disk, &m, 5 * EXTENT + 2 * BLOCK, BLOCK, What::Pattern).await;
        assert_clean(&pool, "reclaimed").await;
    });
}

#[test]
fn ranges_that_make_no_sense_are_refused_and_nothing_is_touched() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, EXTENT, What::Zeros).await;
        let end = 1 << 30;
        for (ranges, word) in [
            (vec![], "no range"),
            (vec![(0, 4096), (8192, 0)], "range 2 of tank/a (8192..+0): it has no bytes"),
            (vec![(100, 4096)], "multiples of the sector, 512"),
            (vec![(0, 1000)], "multiples of the sector, 512"),
            (vec![(end, 512)], "ends at byte 1073741824"),
            (vec![(end - 512, 1024)], "ends at byte"),
            (vec![(u64::MAX - 511, 1024)], "ends at byte"),
            (vec![(65_536, 4096), (0, 65_536), (69_120, 512)], "range 3 of tank/a (69120..+512): it overlaps range 1"),
        ] {
            let refused = pool.reclaim("a", ReclaimSpec { ranges: Some(ranges), ..ReclaimSpec::default() }).await;
            let error = refused.expect_err("it is refused");
            assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains(word), "{error}");
        }
        let all = pool.reclaim("a", ReclaimSpec { worthless: true, ..ReclaimSpec::default() }).await;
        assert_eq!(all.err().map(|error| error.code()), Some("invalid-argument"));
        assert_eq!(pool.reclaim_info("a").expect("a vdisk"), None);
        assert_eq!(
            (backed(&disk), pool.pause_reclaim("a").await.err().map(|error| error.code())),
            (1, Some("not-found"))
        );
    });
}

#[test]
fn a_rate_bounds_what_is_read_in_a_second() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        for extent in 0..64 {
            put(&disk, &m, extent * EXTENT, EXTENT, What::Data(9)).await;
        }
        let began = m.now();
        let info = reclaim(&pool, &m, ReclaimSpec { rate: 1 << 20, ..ReclaimSpec::default() }).await;
        assert_eq!(info.scanned_bytes, 4 << 20);
        let took = (m.now() - began).as_secs_f64();
        assert!((3.0..4.5).contains(&took), "4 MiB took {took} s");
    });
}

#[test]
fn how_far_a_reclaim_is_shows_before_its_first_leaf_or_stretch_of_ranges_is_done() {
    for ranges in [None, Some(vec![(0, 12 << 20)])] {
        alone(|m| async move {
            let (pool, disk) = prepared(&m).await;
            for megabyte in 0..12 {
                put(&disk, &m, megabyte << 20, 1 << 20, What::Data(1)).await;
            }
            let ranged = ranges.is_some();
            let spec = ReclaimSpec { ranges, rate: 1 << 20, ..ReclaimSpec::default() };
            pool.reclaim("a", spec).await.expect("a reclaim");
            let mut before = 0;
            for second in 1..10 {
                m.sleep(Duration::from_secs(1)).await;
                let (job, info) = (pool.jobs().pop().expect("its job"), ended_or_not(&pool));
                assert!(job.done > before && job.done < job.total, "second {second}, ranges: {ranged}: {job:?}");
                assert_eq!(job.done, info.done_bytes);
                before = job.done;
            }
            ended(&pool, &m).await;
        });
    }
}

#[test]
fn holes_in_ranges_are_not_waited_for() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 511 * EXTENT, EXTENT, What::Zeros).await;
        let began = m.now();
        let spec = ReclaimSpec { ranges: Some(vec![(0, 1 << 30)]), rate: 1 << 20, ..ReclaimSpec::default() };
        let info = reclaim(&pool, &m, spec).await;
        assert_eq!((info.done_bytes, info.scanned_bytes, info.freed_bytes), (1 << 30, EXTENT, EXTENT));
        assert!(m.now() - began < Duration::from_secs(1), "{:?}", m.now() - began);
    });
}

#[test]
fn ranges_of_single_blocks_are_looked_at_together() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, EXTENT, What::Pattern).await;
        // The other way round, half of a block at a time; and all of an extent but for what is not stored.
        let ranges = (0..32).rev().map(|half| (half * BLOCK / 2, BLOCK / 2)).collect();
        let info = reclaim(&pool, &m, ReclaimSpec { ranges: Some(ranges), ..ReclaimSpec::default() }).await;
        assert_eq!((info.pattern_bytes, info.freed_bytes, backed(&disk)), (EXTENT, EXTENT, 0));
        put(&disk, &m, EXTENT, 4 * BLOCK, What::Pattern).await;
        put(&disk, &m, EXTENT + 8 * BLOCK, 8 * BLOCK, What::Pattern).await;
        let ranges = Some(vec![(EXTENT, 4 * BLOCK), (EXTENT + 8 * BLOCK, 8 * BLOCK)]);
        let info = reclaim(&pool, &m, ReclaimSpec { ranges, ..ReclaimSpec::default() }).await;
        assert_eq!((info.pattern_bytes, info.freed_bytes, backed(&disk)), (12 * BLOCK, EXTENT, 0));
        assert_clean(&pool, "reclaimed").await;
    });
}

/// Writers on all sides of a reclaim: whatever they wrote last is what is read.
#[test]
fn a_reclaim_beside_writes_loses_none_of_them() {
    let worlds = if is_full() { 600 } else { 60 };
    let (mut freed, mut written) = (0, 0);
    for seed in 0..worlds {
        let world = world(seed, 1, 8);
        let machine = world.boot();
        let m = machine.clone();
        let (free, writes) = machine
            .run(async move {
                let (pool, disk) = prepared(&m).await;
                let (extents, mut random) = (12, Random::new(seed));
                for extent in 0..extents {
                    let what = [What::Zeros, What::Pattern, What::Data(1)][random.below(3) as usize];
                    put(&disk, &m, extent * EXTENT, EXTENT, what).await;
                }
                pool.set_detection("a", Some(random.coin()), Some(random.coin())).await.expect("a change");
                // Each writer has blocks of its own.
                let writers = 5;
                let each = (0..writers).map(|writer| {
                    let (mut dice, m, disk) = (Random::new(random.word()), &m, &disk);
                    async move {
                        let mut last = std::collections::BTreeMap::new();
                        for _ in 0..60 {
                            let block = dice.below(extents * 16 / writers) * writers + writer;
                            let what = [What::Zeros, What::Pattern, What::Data(dice.below(250) as u8)];
                            let what = what[dice.below(3) as usize];
                            match dice.below(6) {
                                0 => {
                                    disk.discard(block * BLOCK, BLOCK, false).await.expect("a discard");
                                    last.insert(block, What::Zeros);
                                }
                                1 => {
                                    let how = Zeroes::Allocate;
                                    disk.write_zeroes(block * BLOCK, BLOCK, how, false).await.expect("zeroes");
                                    last.insert(block, What::Zeros);
                                }
                                _ => {
                                    put(disk, m, block * BLOCK, BLOCK, what).await;
                                    last.insert(block, what);
                                }
                            }
                            if let Some((&block, &what)) = last.iter().nth(dice.below(last.len() as u64) as usize) {
                                assert_holds(disk, m, block * BLOCK, BLOCK, what).await;
                            }
                            m.sleep(Duration::from_micros(dice.below(200))).await;
                        }
                        last
                    }
                });
                let each: Vec<_> = each.collect();
                let over = std::cell::Cell::new(false);
                let reclaims = async {
                    let mut freed = 0;
                    while !over.get() {
                        freed += reclaim(&pool, &m, ReclaimSpec::default()).await.freed_bytes;
                        m.sleep(Duration::from_micros(50)).await;
                    }
                    freed
                };
                let writers = async {
                    let last = futures_util::future::join_all(each).await;
                    over.set(true);
                    last
                };
                let (last, freed) = futures_util::future::join(writers, reclaims).await;
                let mut written = 0;
                for (block, what) in last.into_iter().flatten() {
                    assert_holds(&disk, &m, block * BLOCK, BLOCK, what).await;
                    written += 1;
                }
                assert_clean(&pool, "in the end").await;
                (freed, written)
            })
            .done();
        (freed, written) = (freed + free, written + writes);
    }
    println!("{worlds} worlds: {} extents freed beside writes, {written} blocks compared", freed / EXTENT);
    assert!(freed > worlds * EXTENT, "too little was reclaimed to mean anything");
}
