//! Zeros and patterns that are written and need no space: whatever is done, a vdisk reads as a model of its bytes says, what the pool
//! says of its space is what a check counts, and what can be saved is.

mod support;

use plimsoll_engine::{
    Error, JobState, OnFull, PatternSpec, PatternUse, Pool, StatusRange, Vdisk, VdiskPolicy, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, Random, SimMachine};
use proptest::prelude::*;
use support::{assert_clean, create, filled, live, open, vdisk, world};

const EXTENT: u64 = 65_536;
const BLOCK: u64 = 4096;
const EXTENTS: u64 = 6;
const UNITS: [&[u8]; 2] = [b"PLIMSOLL", &[0xA5]];

/// What blocks are filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Data(u8),
    Zeros,
    Pattern(usize),
}

impl What {
    /// The bytes from `inside` a block on; patterns begin with the block.
    fn put(self, bytes: &mut [u8], inside: u64) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = match self {
                What::Data(mark) => mark | 1,
                What::Zeros => 0,
                What::Pattern(number) => UNITS[number][(inside as usize + index) % UNITS[number].len()],
            };
        }
    }
}

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

/// The bytes of a request, cut at the vdisk's end.
fn bytes_of(first: u64, parts: &[(u64, What)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sectors, what) in parts {
        let (from, at) = (bytes.len(), first * 512 + bytes.len() as u64);
        bytes.resize(from + *sectors as usize * 512, 0);
        what.put(&mut bytes[from..], at % BLOCK);
    }
    bytes.truncate((EXTENTS * EXTENT - first * 512) as usize);
    bytes
}

async fn write(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, bytes: &[u8]) {
    let mut buffer = m.buffers().alloc(bytes.len()).await;
    buffer.copy_from_slice(bytes);
    disk.write(at, buffer.freeze(), false).await.expect("a write");
}

async fn read(disk: &Vdisk<SimMachine>, m: &SimMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in 0..EXTENTS {
        let buffer = m.buffers().alloc(EXTENT as usize).await;
        bytes.extend_from_slice(&disk.read(extent * EXTENT, buffer).await.expect("a read"));
    }
    bytes
}

fn first_difference(found: &[u8], model: &[u8]) -> Option<String> {
    let at = found.iter().zip(model).position(|(a, b)| a != b)?;
    Some(format!(
        "byte {at} (extent {}, block {}) is {} and should be {}",
        at as u64 / EXTENT,
        at as u64 % EXTENT / BLOCK,
        found[at],
        model[at]
    ))
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
        cases: if support::is_full() { 3000 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_writes_and_discards_reads_as_the_model_says(steps in proptest::collection::vec(steps(), 1..40)) {
        run(&steps);
    }
}

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

/// In a full pool zeros and patterns can always be written, and give back what data then gets.
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
        put(&disk, &m, 510 * EXTENT, 4 * EXTENT, What::Pattern(1)).await;
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
            m.sleep(std::time::Duration::from_millis(1)).await;
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
