//! Zeros and patterns one by one: what takes no space, what is given back, what stays data, and what outlives a start.

use std::time::Duration;

use crate::support::contents::{BLOCK, EXTENT, UNITS, What, bytes_of, first_difference, write};
use crate::support::{assert_clean, create, failing, filled, full, live, open, vdisk, with, world};
use futures_util::future::join;
use plimsoll_engine::{
    AlarmState, Error, JobState, OnFull, PatternSpec, PatternUse, Pool, SpaceEvent, StatusRange, Vdisk, VdiskPolicy,
    Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, Random, SimMachine};

/// A pool with a vdisk `a` and the patterns.
async fn prepared(m: &SimMachine) -> (Pool<SimMachine>, Vdisk<SimMachine>) {
    let pool = create(m).await;
    pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
    for unit in UNITS {
        pool.add_pattern(PatternSpec::Unit(unit.to_vec()), PatternUse::Everywhere).await.expect("a pattern");
    }
    let disk = pool.vdisk("a").expect("a vdisk");
    (pool, disk)
}

async fn put(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, length: u64, what: What) {
    let mut bytes = vec![0; length as usize];
    what.put(&mut bytes, at % BLOCK);
    write(disk, m, at, &bytes).await;
}

fn backed(disk: &Vdisk<SimMachine>) -> u64 {
    disk.info().backed_bytes / EXTENT
}

fn alone<F>(work: impl FnOnce(SimMachine) -> F)
where
    F: Future<Output = ()>,
{
    let world = world(3, 1, 8);
    let machine = world.boot();
    machine.run(work(machine.clone())).done();
}

#[test]
fn zeros_take_no_space_and_give_back_what_they_are_written_over() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, 4 * EXTENT, What::Zeros).await;
        assert_eq!(backed(&disk), 0);
        put(&disk, &m, 0, 2 * EXTENT, What::Data(7)).await;
        assert_eq!(backed(&disk), 2);
        for block in 0..15 {
            put(&disk, &m, block * BLOCK, BLOCK, What::Zeros).await;
        }
        assert_eq!(backed(&disk), 2);
        let status = disk.block_status(0, 2 * EXTENT, 10).await.expect("a status");
        let expected = [(15 * BLOCK, false), (17 * BLOCK, true)];
        assert_eq!(status, expected.map(|(length, data)| StatusRange { length, data }));
        put(&disk, &m, 15 * BLOCK, BLOCK, What::Zeros).await;
        assert_eq!(backed(&disk), 1);
        assert_eq!(pool.info().counters.zero_bytes, 16 * BLOCK);
        assert_clean(&pool, "zeros").await;
    });
}

#[test]
fn zeros_among_data_are_holes() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        let parts = [(8, What::Data(1)), (16, What::Zeros), (8, What::Data(3)), (8, What::Zeros), (3, What::Data(5))];
        write(&disk, &m, 0, &bytes_of(0, &parts)).await;
        let status = disk.block_status(0, 8 * BLOCK, 10).await.expect("a status");
        let expected = [(1, true), (2, false), (1, true), (1, false), (1, true), (2, false)];
        assert_eq!(status, expected.map(|(blocks, data)| StatusRange { length: blocks * BLOCK, data }));
        assert_clean(&pool, "holes").await;
    });
}

#[test]
fn with_detection_off_zeros_are_stored() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        let info = pool.set_detection("a", Some(false), None).await.expect("a change");
        assert!(!info.zero_detection && info.pattern_detection);
        put(&disk, &m, 0, EXTENT, What::Zeros).await;
        assert_eq!(backed(&disk), 1);
    });
}

#[test]
fn zeroes_that_are_to_be_allocated_are_not_detected() {
    alone(|m| async move {
        let (_pool, disk) = prepared(&m).await;
        disk.write_zeroes(0, EXTENT, Zeroes::Allocate, false).await.expect("zeroes");
        assert_eq!(backed(&disk), 1);
    });
}

#[test]
fn a_pattern_takes_no_space_and_reads_as_it_was_written() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, 3 * EXTENT, What::Pattern(0)).await;
        assert_eq!(backed(&disk), 0);
        let mut expected = vec![0; 9000];
        What::Pattern(0).put(&mut expected, 1536);
        expected.truncate(8704);
        let found = disk.read(1536, m.buffers().alloc(8704).await).await.expect("a read");
        assert!(found[..] == expected[..]);
        // Data over what had contents takes the extent that the fill saved, once, also where it is written in parts.
        put(&disk, &m, EXTENT, 3 * EXTENT / 2, What::Data(9)).await;
        assert_eq!(backed(&disk), 2);
        put(&disk, &m, EXTENT, 2 * EXTENT, What::Pattern(1)).await;
        assert_eq!(backed(&disk), 0);
        let report = pool.check().await.expect("a check");
        assert!(report.clean() && report.filled_extents == 3, "{report:#?}");
    });
}

#[test]
fn a_pattern_beside_data_is_data() {
    alone(|m| async move {
        let (_pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, BLOCK, What::Data(1)).await;
        put(&disk, &m, BLOCK, 15 * BLOCK, What::Pattern(0)).await;
        assert_eq!(backed(&disk), 1);
        put(&disk, &m, 0, BLOCK, What::Pattern(0)).await;
        assert_eq!(backed(&disk), 1);
        // What covers all that is there frees it.
        put(&disk, &m, 0, EXTENT, What::Pattern(0)).await;
        assert_eq!(backed(&disk), 0);
    });
}

#[test]
fn a_pattern_that_is_a_vdisks_own_is_matched_there_only() {
    alone(|m| async move {
        let (pool, a) = prepared(&m).await;
        pool.create_vdisk(vdisk("b", 1 << 20)).await.expect("a vdisk");
        let b = pool.vdisk("b").expect("a vdisk");
        let own = pool.add_pattern(PatternSpec::Random, PatternUse::OwnOnly).await.expect("a pattern");
        assert_eq!(own.unit.len(), 64);
        pool.set_own_pattern("a", Some(own.number)).await.expect("its own");
        let bytes = own.unit.repeat(EXTENT as usize / 64);
        write(&a, &m, 0, &bytes).await;
        write(&b, &m, 0, &bytes).await;
        assert_eq!((backed(&a), backed(&b)), (0, 1));
        assert_eq!(pool.pattern(own.number).expect("it").vdisks, ["a"]);
        assert_eq!(pool.set_own_pattern("a", Some(99)).await.err().map(|error| error.code()), Some("not-found"));
    });
}

#[test]
fn a_pattern_is_removed_only_when_nothing_is_stored_by_it() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 5 * EXTENT, BLOCK, What::Pattern(0)).await;
        let refused = pool.remove_pattern(1).await.expect_err("it is matched").to_string();
        assert!(refused.contains("plimsoll pattern disable tank 1"), "{refused}");
        pool.set_pattern(1, PatternUse::Disabled).await.expect("disabled");
        put(&disk, &m, 9 * EXTENT, EXTENT, What::Pattern(0)).await;
        assert_eq!(backed(&disk), 1, "a disabled pattern was matched");
        let refused = pool.remove_pattern(1).await.expect_err("it is in use").to_string();
        assert!(refused.contains("1 extents of tank/a") && refused.contains(&(5 * EXTENT).to_string()), "{refused}");
        let found = disk.read(5 * EXTENT, m.buffers().alloc(512).await).await.expect("a read");
        assert_eq!(&found[..8], UNITS[0]);
        disk.discard(5 * EXTENT, EXTENT, false).await.expect("a discard");
        pool.remove_pattern(1).await.expect("nothing is stored by it");
        assert_eq!(pool.patterns().iter().map(|pattern| pattern.number).collect::<Vec<_>>(), [2]);
        assert_eq!(pool.remove_pattern(1).await.err().map(|error| error.code()), Some("not-found"));
        // Its number is free for another.
        let next = pool.add_pattern(PatternSpec::Unit(vec![1, 2]), PatternUse::Everywhere).await.expect("a pattern");
        assert_eq!(next.number, 1);
        pool.close().await.expect("a close");
    });
}

#[test]
fn what_cannot_be_a_pattern_is_refused_and_told_why() {
    alone(|m| async move {
        let (pool, _disk) = prepared(&m).await;
        for (unit, word) in [
            (vec![], "no bytes"),
            (vec![1; 4097], "longer than a block"),
            (vec![1, 2, 3], "whole number of times"),
            (vec![0; 64], "zeros"),
        ] {
            let refused = pool.add_pattern(PatternSpec::Unit(unit.clone()), PatternUse::Everywhere).await;
            let error = refused.expect_err("it is refused");
            assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains(word), "{error}");
        }
        let twice = pool.add_pattern(PatternSpec::Unit(b"PLIMSOLLPLIMSOLL".to_vec()), PatternUse::Everywhere).await;
        assert_eq!(twice.err().map(|error| error.code()), Some("exists"));
        for unit in 0..=255u8 {
            let added = pool.add_pattern(PatternSpec::Unit(vec![unit, 255 - unit, 1, 2]), PatternUse::OwnOnly).await;
            assert_eq!(added.is_ok(), unit < 253, "{unit}: {:?}", added.err());
        }
        assert_eq!(pool.patterns().len(), 255);
    });
}

#[test]
fn patterns_outlive_the_process_and_the_power() {
    for kind in [CrashKind::Process, CrashKind::Power] {
        let world = world(5, 1, 8);
        live(&world, |m| async move {
            let (pool, disk) = prepared(&m).await;
            put(&disk, &m, 0, EXTENT, What::Data(3)).await;
            put(&disk, &m, 0, EXTENT, What::Pattern(1)).await;
            pool.set_pattern(2, PatternUse::Disabled).await.expect("disabled");
            disk.flush().await.expect("a flush");
        });
        world.crash(kind);
        live(&world, |m| async move {
            let pool = open(&m, 1).await;
            let disk = pool.vdisk("a").expect("a vdisk");
            assert_eq!(backed(&disk), 0);
            let used: Vec<PatternUse> = pool.patterns().iter().map(|pattern| pattern.used).collect();
            assert_eq!(used, [PatternUse::Everywhere, PatternUse::Disabled]);
            let found = disk.read(0, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
            assert!(found.iter().all(|byte| *byte == 0xA5));
            assert_clean(&pool, "after a start").await;
        });
    }
}

/// In a full pool zeros and patterns can always be written where the mapping has leaves, and give back what data then gets.
#[test]
fn in_a_full_pool_zeros_and_patterns_go_on_and_make_room() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        let mut written = 0;
        let mut random = Random::new(1);
        loop {
            let data = filled(&m, 1 + random.below(200) as u8, EXTENT as usize).await;
            match disk.write(written * EXTENT, data, false).await {
                Ok(()) => written += 1,
                Err(Error::OutOfSpace { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        put(&disk, &m, 0, EXTENT, What::Pattern(0)).await;
        put(&disk, &m, EXTENT, EXTENT, What::Zeros).await;
        put(&disk, &m, 500 * EXTENT, 4 * EXTENT, What::Zeros).await;
        put(&disk, &m, 508 * EXTENT, 4 * EXTENT, What::Pattern(1)).await;
        assert_eq!(backed(&disk), written - 2);
        put(&disk, &m, written * EXTENT, 2 * EXTENT, What::Data(5)).await;
        assert_eq!(backed(&disk), written);
        assert_clean(&pool, "full").await;
    });
}

/// A vdisk is cut inside a block of a fill without any space, and what was cut off reads as zeros when it grows again.
#[test]
fn a_cut_inside_a_fill_needs_no_space_and_leaves_nothing_to_be_seen() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        put(&disk, &m, 0, EXTENT, What::Pattern(0)).await;
        pool.create_vdisk(vdisk("b", 1 << 30)).await.expect("a vdisk");
        let other = pool.vdisk("b").expect("a vdisk");
        pool.set_vdisk_policy("a", VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() })
            .await
            .expect("a policy");
        pool.set_vdisk_policy("b", VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() })
            .await
            .expect("a policy");
        let mut at = 0;
        while other.write(at, filled(&m, 9, EXTENT as usize).await, false).await.is_ok() {
            at += EXTENT;
        }
        pool.resize_vdisk("a", 3 * BLOCK + 512, true).await.expect("a cut");
        while pool.jobs().iter().any(|job| job.state == JobState::Running) {
            m.sleep(Duration::from_millis(1)).await;
        }
        assert!(pool.jobs().iter().all(|job| job.state == JobState::Done), "{:?}", pool.jobs());
        let refused = pool.resize_vdisk("a", EXTENT, false).await.expect_err("growing takes an extent for the block");
        assert_eq!((refused.code(), disk.size()), ("out-of-space", 3 * BLOCK + 512));
        other.discard(0, EXTENT, false).await.expect("a discard");
        pool.resize_vdisk("a", EXTENT, false).await.expect("it grows");
        let found = disk.read(0, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
        let mut expected = vec![0; EXTENT as usize];
        What::Pattern(0).put(&mut expected[..3 * BLOCK as usize + 512], 0);
        assert_eq!(first_difference(&found, &expected), None);
        assert_clean(&pool, "grown").await;
    });
}

/// Whoever makes a vdisk larger neither waits behind its guest's writes nor tells anybody that there is no space.
#[test]
fn growing_over_a_part_of_a_fill_takes_what_is_there_though_writes_wait_and_tells_nothing() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        let size = 16 * EXTENT + 3 * BLOCK + 512;
        put(&disk, &m, 16 * EXTENT, EXTENT, What::Pattern(0)).await;
        pool.resize_vdisk("a", size, true).await.expect("a cut");
        while pool.jobs().iter().any(|job| job.state == JobState::Running) {
            m.sleep(Duration::from_millis(1)).await;
        }
        pool.create_vdisk(with("b", failing())).await.expect("a vdisk");
        full::fill(&pool, &m, "b").await;
        pool.arm(&AlarmState::default());
        let (before, began) = (pool.info().counters.refused_writes, m.now());
        let refused = pool.resize_vdisk("a", 20 * EXTENT, false).await.expect_err("it takes an extent");
        assert_eq!((refused.code(), disk.size()), ("out-of-space", size));
        assert!(m.now() - began < Duration::from_secs(1), "it waited");
        assert_eq!(pool.info().counters.refused_writes, before, "no guest was refused anything");
        m.sleep(Duration::from_secs(2)).await;
        let events = pool.events().await;
        let exhausted = |event: &SpaceEvent| matches!(event, SpaceEvent::Exhausted { vdisk, .. } if vdisk.name == "a");
        assert!(!events.iter().any(exhausted), "{events:?}");

        // A write of another part of the vdisk waits for more than there is.
        let held = disk.write(0, filled(&m, 5, 16 * EXTENT as usize).await, false);
        let grow = async {
            m.sleep(Duration::from_secs(1)).await;
            let other = pool.vdisk("b").expect("a vdisk");
            let mut freed = 0;
            while pool.info().available_bytes == 0 {
                other.discard(freed, EXTENT, true).await.expect("a discard");
                freed += EXTENT;
            }
            assert_eq!(pool.info().held_writes, 1);
            pool.resize_vdisk("a", 20 * EXTENT, false).await.expect("there is space");
            assert_eq!(pool.info().held_writes, 1);
            other.discard(freed, 20 * EXTENT, true).await.expect("a discard");
        };
        let (held, ()) = join(held, grow).await;
        held.expect("it goes through");
        let found = disk.read(16 * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
        let mut expected = vec![0; EXTENT as usize];
        What::Pattern(0).put(&mut expected[..3 * BLOCK as usize + 512], 0);
        assert_eq!(first_difference(&found, &expected), None);
        assert_clean(&pool, "grown").await;
    });
}
