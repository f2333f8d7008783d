//! Zeros and patterns that are written and need no space: whatever is done, a vdisk reads as a model of its bytes says, what the pool
//! says of its space is what a check counts, and what can be saved is.

use std::time::Duration;

use crate::support::contents::{BLOCK, EXTENT, EXTENTS, UNITS, What, bytes_of, first_difference, read, write};
use crate::support::{assert_clean, create, failing, filled, live, open, vdisk, with, world};
use plimsoll_engine::{CreateVdisk, Error, PatternSpec, PatternUse, Pool, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// First sector, and what the blocks and parts of blocks behind it get, so many sectors each.
    Write(u64, Vec<(u64, What)>),
    /// Both at the same time, over each other.
    Beside(u64, Vec<(u64, What)>, u64, Vec<(u64, What)>),
    Discard(u64, u64),
    Zeroes(u64, u64, bool),
    Detect(bool, bool),
    Flush,
    Kill,
    Power,
}

fn whats() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => any::<u8>().prop_map(What::Data),
        3 => Just(What::Zeros),
        4 => (0..UNITS.len()).prop_map(What::Pattern),
    ]
}

/// Mostly whole blocks and whole extents.
fn requests() -> impl Strategy<Value = (u64, Vec<(u64, What)>)> {
    let sectors = prop_oneof![4 => Just(8u64), 2 => Just(16), 2 => Just(128), 1 => 1u64..40];
    let first = prop_oneof![
        3 => (0..EXTENTS).prop_map(|extent| extent * 128),
        4 => (0..EXTENTS * 16).prop_map(|block| block * 8),
        1 => 0..EXTENTS * 128,
    ];
    (first, proptest::collection::vec((sectors, whats()), 1..5))
}

fn steps() -> impl Strategy<Value = Step> {
    let ranges = || (0..EXTENTS * 128, 1u64..200);
    prop_oneof![
        12 => requests().prop_map(|(first, parts)| Step::Write(first, parts)),
        3 => (requests(), requests()).prop_map(|((a, first), (b, second))| Step::Beside(a, first, b, second)),
        3 => ranges().prop_map(|(first, sectors)| Step::Discard(first, sectors)),
        2 => (ranges(), any::<bool>()).prop_map(|((first, sectors), unmap)| Step::Zeroes(first, sectors, unmap)),
        1 => any::<[bool; 2]>().prop_map(|[zeros, patterns]| Step::Detect(zeros, patterns)),
        2 => Just(Step::Flush),
        1 => Just(Step::Kill),
        1 => Just(Step::Power),
    ]
}

/// One step on the pool and on the model. Answers whether a crash follows, and whether of power.
async fn perform(pool: &Pool<SimMachine>, m: &SimMachine, step: &Step, model: &mut Vec<u8>) -> Option<bool> {
    let disk = pool.vdisk("a").expect("a vdisk");
    let size = EXTENTS * EXTENT;
    match step {
        Step::Write(first, parts) => {
            let bytes = bytes_of(*first, parts);
            write(&disk, m, first * 512, &bytes).await;
            let at = *first as usize * 512;
            model[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Step::Beside(first, parts, second, others) => {
            let (one, two) = (bytes_of(*first, parts), bytes_of(*second, others));
            let (a, b) = (*first as usize * 512, *second as usize * 512);
            futures_util::future::join(write(&disk, m, a as u64, &one), write(&disk, m, b as u64, &two)).await;
            let found = read(&disk, m).await;
            for (index, byte) in found.iter().enumerate() {
                // Where they overlap either may be there, sector by sector; elsewhere there is no choice.
                let allowed =
                    [(a, &one), (b, &two)].into_iter().filter_map(|(at, bytes)| bytes.get(index.wrapping_sub(at)));
                let allowed: Vec<u8> = allowed.copied().collect();
                let sound = if allowed.is_empty() { *byte == model[index] } else { allowed.contains(byte) };
                assert!(sound, "byte {index} is {byte}, of {allowed:?} or {}", model[index]);
            }
            *model = found;
        }
        Step::Discard(first, sectors) => {
            let (at, length) = (first * 512, (sectors * 512).min(size - first * 512));
            disk.discard(at, length, false).await.expect("a discard");
            let (from, until) = (at.next_multiple_of(BLOCK), (at + length) / BLOCK * BLOCK);
            if from < until {
                model[from as usize..until as usize].fill(0);
            }
        }
        Step::Zeroes(first, sectors, unmap) => {
            let (at, length) = (first * 512, (sectors * 512).min(size - first * 512));
            let how = if *unmap { Zeroes::Unmap } else { Zeroes::Allocate };
            disk.write_zeroes(at, length, how, false).await.expect("zeroes");
            model[at as usize..(at + length) as usize].fill(0);
        }
        Step::Detect(zeros, patterns) => {
            pool.set_detection("a", Some(*zeros), Some(*patterns)).await.expect("a change");
        }
        Step::Flush => disk.flush().await.expect("a flush"),
        Step::Kill => return Some(false),
        Step::Power => {
            disk.flush().await.expect("a flush");
            return Some(true);
        }
    }
    None
}

/// Runs steps in as many lives as they need.
fn run(steps: &[Step]) {
    let world = world(7, 1, 6);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(vdisk("a", EXTENTS * EXTENT)).await.expect("a vdisk");
        for unit in UNITS {
            pool.add_pattern(PatternSpec::Unit(unit.to_vec()), PatternUse::Everywhere).await.expect("a pattern");
        }
    });
    world.crash(CrashKind::Process);
    let mut model = vec![0u8; (EXTENTS * EXTENT) as usize];
    let mut rest = steps;
    loop {
        let machine = world.boot();
        let m = machine.clone();
        let (now, mut then) = (rest.to_vec(), model.clone());
        let (done, crash, after) = machine
            .run(async move {
                let pool = open(&m, 1).await;
                let disk = pool.vdisk("a").expect("a vdisk");
                assert_eq!(first_difference(&read(&disk, &m).await, &then), None, "after a start");
                for (index, step) in now.iter().enumerate() {
                    if let Some(power) = perform(&pool, &m, step, &mut then).await {
                        return (index + 1, Some(power), then);
                    }
                    assert_eq!(first_difference(&read(&disk, &m).await, &then), None, "step {index} of {now:?}");
                }
                assert_clean(&pool, "in the end").await;
                (now.len(), None, then)
            })
            .done();
        (rest, model) = (&rest[done..], after);
        match crash {
            None => return,
            Some(power) => world.crash(if power { CrashKind::Power } else { CrashKind::Process }),
        }
    }
}

#[test]
fn what_a_block_was_before_its_fill_had_an_extent_does_not_come_back() {
    run(&[
        Step::Write(512, vec![(8, What::Pattern(0))]),
        Step::Power,
        Step::Zeroes(513, 16, false),
        Step::Write(512, vec![(8, What::Zeros), (16, What::Pattern(0))]),
        Step::Power,
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if crate::support::is_full() { 3000 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_writes_and_discards_reads_as_the_model_says(steps in proptest::collection::vec(steps(), 1..40)) {
        run(&steps);
    }
}

/// Patterns need no extents, but leaves to be named in; whoever writes them everywhere must not have what is kept for checkpoints.
#[test]
fn patterns_in_a_full_pool_leave_what_checkpoints_need() {
    const LEAF_BYTES: u64 = 512 * EXTENT;
    let pattern = |m: &SimMachine| {
        let m = m.clone();
        async move { filled(&m, 0x41, EXTENT as usize).await }
    };
    for (seed, full) in [(1, true), (2, false)] {
        let world = world(seed, 1, 64);
        live(&world, async |m: SimMachine| {
            let pool = create(&m).await;
            pool.add_pattern(PatternSpec::Unit(vec![0x41]), PatternUse::Everywhere).await.expect("a pattern");
            for name in ["data", "guest"] {
                let spec = CreateVdisk { size: 1 << 44, ..with(name, failing()) };
                pool.create_vdisk(spec).await.expect("a vdisk");
            }
            let (data, guest) = (pool.vdisk("data").expect("a vdisk"), pool.vdisk("guest").expect("a vdisk"));
            let mut extents = 0;
            while full && data.write(extents * EXTENT, filled(&m, 7, EXTENT as usize).await, false).await.is_ok() {
                extents += 1;
            }
            // Ever new leaves, until there is nothing for them.
            let leaves = futures_util::future::join_all((0..20).map(async |client| {
                let mut leaves = 0u64;
                loop {
                    m.sleep(Duration::from_micros(1)).await;
                    let at = (leaves * 20 + client) * LEAF_BYTES;
                    match guest.write(at, pattern(&m).await, false).await {
                        Ok(()) => leaves += 1,
                        Err(error) => {
                            assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
                            return leaves;
                        }
                    }
                }
            }));
            let leaves: u64 = leaves.await.iter().sum();
            assert!(full == (leaves < 100), "{leaves} leaves");
            if full {
                let refused =
                    pool.add_pattern(PatternSpec::Random, PatternUse::Everywhere).await.expect_err("a pattern");
                assert!(matches!(refused, Error::OutOfSpace { .. }), "{refused}");
            }
            // What needs nothing goes on, over many checkpoints.
            let before = pool.info().counters.checkpoints;
            for round in 0..300 {
                let at = round % 20 * LEAF_BYTES;
                if !full {
                    guest.discard(at, BLOCK, false).await.expect("a discard");
                    guest.write(at, pattern(&m).await, false).await.expect("a pattern where one was");
                }
                if full {
                    let data_at = round % extents * EXTENT;
                    data.write(data_at, filled(&m, round as u8, EXTENT as usize).await, false)
                        .await
                        .expect("an overwrite");
                }
                if round % 10 == 0 {
                    guest.flush().await.expect("a flush");
                    assert_clean(&pool, "full of patterns").await;
                }
            }
            assert!(pool.info().counters.checkpoints > before + 3 && pool.read_only().is_none());
        });
        world.crash(CrashKind::Power);
        live(&world, async |m: SimMachine| {
            let pool = open(&m, 1).await;
            assert_clean(&pool, "after power loss").await;
            let guest = pool.vdisk("guest").expect("a vdisk");
            guest.discard(0, 1 << 44, false).await.expect("a discard");
            assert_clean(&pool, "without patterns").await;
        });
    }
}
