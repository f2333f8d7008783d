//! Every operation is stopped at every device operation it makes, by the death of the process and by power loss, and for each
//! power loss the legal survivals of the writes in the air are tried. Afterwards the operation happened or it did not. An
//! operation ends when the job that it began has: what a deletion or a cut gives back is stopped everywhere too.

use std::time::Duration;

use crate::support::{Seen, assert_clean, create, filled, is_full, live, look, open, vdisk, world};
use futures_util::future::join;
use plimsoll_engine::{
    Error, JobState, OnFull, PatternSpec, PatternUse, Pool, ReclaimSpec, VdiskPolicy, VdiskState, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};

const DISKS: usize = 2;
/// Where the vdisk has a fill, and of what.
const FILL: u64 = 384 << 10;
const PATTERN: u8 = 0xA5;

/// How much of an operation is all or nothing.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Sector,
    Block,
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    FirstWrite,
    PartialFirstWrite,
    WriteAhead,
    Overwrite,
    OverwriteFresh,
    Discard,
    WriteZeroes,
    Grow,
    Shrink,
    CreateVdisk,
    DeleteVdisk,
    AddDevice,
    Evacuate,
    RemoveDevice,
    CancelEvacuation,
    GrowDevice,
    GrowLastDevice,
    Checkpoint,
    Open,
    ZerosOver,
    PatternOver,
    Mixed,
    DataOverFill,
    BesideDataOverFill,
    Reclaim,
    Patterns,
    HeldAndResumed,
    HeldAndExpired,
}

use Operation::*;

impl Operation {
    fn unit(self) -> Unit {
        match self {
            FirstWrite | PartialFirstWrite | WriteAhead | Open => Unit::Block,
            ZerosOver | PatternOver | Mixed | DataOverFill | BesideDataOverFill | HeldAndResumed => Unit::Block,
            Overwrite | OverwriteFresh => Unit::Sector,
            _ => Unit::Whole,
        }
    }
}

async fn perform(operation: Operation, pool: &Pool<SimMachine>, m: &SimMachine) -> plimsoll_engine::Result<()> {
    let a = pool.vdisk("a")?;
    match operation {
        FirstWrite => a.write(128 << 10, filled(m, 7, 192 << 10).await, false).await?,
        PartialFirstWrite => a.write((256 << 10) + 512, filled(m, 7, 2048).await, false).await?,
        WriteAhead => {
            // Writing and flushing by turns: from the second on, the journal's batch goes out beside the data.
            for block in 40..44 {
                a.write(block << 12, filled(m, 7, 4096).await, false).await?;
                a.flush().await?;
            }
            assert!(pool.info().counters.journal_commits_ahead >= 2, "no batch was written beside its data");
        }
        Overwrite => a.write(8192, filled(m, 7, 12_288).await, false).await?,
        OverwriteFresh => {
            // First contents, flushed on the strength of their proof, and then overwritten.
            a.write(300 << 10, filled(m, 7, 8192).await, false).await?;
            a.flush().await?;
            a.write(300 << 10, filled(m, 7, 4096).await, false).await?;
        }
        Discard => a.discard(4096, 100 << 10, false).await?,
        WriteZeroes => a.write_zeroes(0, 128 << 10, Zeroes::Unmap, false).await?,
        Grow => drop(pool.resize_vdisk("a", 2 << 30, false).await?),
        Shrink => drop(pool.resize_vdisk("a", 64 << 10, true).await?),
        CreateVdisk => drop(pool.create_vdisk(vdisk("b", 1 << 20)).await?),
        DeleteVdisk => drop(pool.delete_vdisk("a").await?),
        AddDevice => pool.add_device(m.open(1), false).await?,
        Evacuate => drop(pool.evacuate_device(first_device(pool), plimsoll_engine::Evacuate::default()).await?),
        RemoveDevice => drop(pool.remove_device(first_device(pool), plimsoll_engine::Evacuate::default()).await?),
        CancelEvacuation => {
            let device = first_device(pool);
            // So slow that it does not come to its end.
            pool.evacuate_device(device, plimsoll_engine::Evacuate { rate: Some(128 << 10) }).await?;
            pool.cancel_evacuation(device).await?;
        }
        GrowDevice => assert!(pool.grow_device(first_device(pool)).await? > 0, "the device grew"),
        GrowLastDevice => {
            let gained = pool.grow_device(pool.info().devices[1].uuid).await?;
            assert!(gained > 0, "the device grew");
        }
        Checkpoint => pool.close().await?,
        ZerosOver => a.write(8192, filled(m, 0, 100 << 10).await, false).await?,
        PatternOver => {
            a.write(0, filled(m, PATTERN, 64 << 10).await, false).await?;
            a.write(FILL + (64 << 10), filled(m, PATTERN, 16 << 10).await, false).await?;
        }
        Mixed => {
            // Data, zeros and the pattern in one request, over data, nothing and a fill.
            let mut buffer = m.buffers().alloc(192 << 10).await;
            for (index, block) in buffer.chunks_mut(4096).enumerate() {
                block.fill([7, 0, PATTERN][index / 4 % 3]);
            }
            a.write(FILL - (100 << 10), buffer.freeze(), false).await?;
        }
        DataOverFill => a.write(FILL + 4096 + 512, filled(m, 7, 6144).await, false).await?,
        BesideDataOverFill => {
            // What only adds a block says nothing without what took the fill's place.
            a.write(FILL + 8192, filled(m, 7, 4096).await, false).await?;
            a.write(FILL + (60 << 10), filled(m, 8, 4096).await, false).await?;
        }
        Reclaim => {
            pool.reclaim("a", ReclaimSpec::default()).await?;
            while pool.reclaim_info("a")?.is_some_and(|info| info.running) {
                m.sleep(Duration::from_micros(100)).await;
            }
        }
        Patterns => {
            pool.set_pattern(2, PatternUse::Disabled).await?;
            pool.remove_pattern(2).await?;
            pool.add_pattern(PatternSpec::Unit(vec![3, 4]), PatternUse::OwnOnly).await?;
        }
        HeldAndResumed => {
            let backed = a.info().backed_bytes;
            pool.set_vdisk_policy("a", held_at(backed, Duration::from_secs(5))).await?;
            let relief = async {
                m.sleep(Duration::from_millis(1)).await;
                assert_eq!(pool.info().held_writes, 1);
                pool.set_vdisk_policy("a", held_at(2 * backed, Duration::from_secs(5))).await
            };
            let (held, relief) = join(a.write(448 << 10, filled(m, 7, 64 << 10).await, false), relief).await;
            held?;
            relief?;
        }
        HeldAndExpired => {
            pool.set_vdisk_policy("a", held_at(a.info().backed_bytes, Duration::from_millis(2))).await?;
            let refused = a.write(448 << 10, filled(m, 7, 64 << 10).await, false).await;
            assert!(matches!(refused, Err(Error::QuotaExceeded { .. })), "{refused:?}");
        }
        Open => {}
    }
    if !matches!(operation, Checkpoint | Open | DeleteVdisk) {
        a.flush().await?;
    }
    jobs_end(pool, m).await;
    Ok(())
}

/// Writes that need more wait.
fn held_at(quota: u64, time: Duration) -> VdiskPolicy {
    VdiskPolicy { quota: Some(quota), on_full: OnFull::Hold(time), ..VdiskPolicy::default() }
}

fn first_device(pool: &Pool<SimMachine>) -> uuid::Uuid {
    pool.info().devices[0].uuid
}

/// Waits until what a deletion or a cut gives back has come back, and devices that leave are empty.
async fn jobs_end(pool: &Pool<SimMachine>, m: &SimMachine) {
    while pool.vdisks().iter().any(|vdisk| vdisk.state != VdiskState::Ready) {
        m.sleep(Duration::from_micros(100)).await;
    }
    while pool.jobs().iter().any(|job| job.kind == "device-evacuate" && job.state == JobState::Running) {
        m.sleep(Duration::from_micros(100)).await;
    }
    for job in pool.jobs().into_iter().filter(|job| job.kind == "device-evacuate") {
        assert!(matches!(job.state, JobState::Done | JobState::Cancelled), "{job:?}");
    }
}

/// A pool with a vdisk that has data, holes, and an extent with holes.
fn prepared(operation: Operation) -> SimWorld {
    let world = world(operation as u64 + 1, DISKS, 6);
    live(&world, |m| async move {
        let pool = create(&m).await;
        if matches!(operation, Evacuate | RemoveDevice | CancelEvacuation | GrowLastDevice) {
            pool.add_device(m.open(1), false).await.expect("a device is added");
        }
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
        let a = pool.vdisk("a").expect("a vdisk");
        a.write(0, filled(&m, 1, 64 << 10).await, false).await.expect("a write");
        a.write(96 << 10, filled(&m, 2, 16 << 10).await, false).await.expect("a write");
        for unit in [vec![PATTERN], vec![1, 2]] {
            pool.add_pattern(PatternSpec::Unit(unit), PatternUse::Everywhere).await.expect("a pattern");
        }
        // All but its last block.
        a.write(FILL, filled(&m, PATTERN, 60 << 10).await, false).await.expect("a write");
        if operation == Reclaim {
            pool.set_detection("a", Some(false), Some(false)).await.expect("a change");
            for (block, byte) in [(16, 0), (18, PATTERN), (19, 9)] {
                a.write((block * 16) << 10, filled(&m, byte, 16 << 10).await, false).await.expect("a write");
            }
        }
        a.flush().await.expect("a flush");
        a.write(64 << 10, filled(&m, 3, 4096).await, false).await.expect("a write");
        if operation != Open {
            pool.close().await.expect("a close");
        }
    });
    world.crash(CrashKind::Process);
    if matches!(operation, GrowDevice | GrowLastDevice) {
        world.extend(usize::from(operation == GrowLastDevice), 9 << 20);
    }
    world
}

/// What is seen after a start.
fn seen(world: &SimWorld, when: &str) -> Seen {
    let machine = world.boot();
    let m = machine.clone();
    let when = when.to_owned();
    let found = machine
        .run(async move {
            let pool = open(&m, DISKS).await;
            let seen = look(&pool, &m).await;
            assert_clean(&pool, &when).await;
            // What a start found half given back, it goes on with; what is seen does not change.
            jobs_end(&pool, &m).await;
            assert_clean(&pool, &format!("{when}, jobs ended")).await;
            assert_eq!(look(&pool, &m).await, seen, "{when}: a job changed what is seen");
            seen
        })
        .done();
    world.crash(CrashKind::Process);
    found
}

/// Runs the operation, stopped at its `stop`-th device operation; `true` when it ended before.
fn stopped(world: &SimWorld, operation: Operation, stop: u64) -> bool {
    let machine = world.boot();
    let m = machine.clone();
    if operation == Open {
        machine.crash_after_ops(stop);
        let ended = machine.run(async move { drop(open(&m, DISKS).await) }).unless_crashed();
        return ended.is_some();
    }
    let inner = machine.clone();
    let pool = machine.run(async move { open(&inner, DISKS).await }).done();
    machine.crash_after_ops(stop);
    let ended = machine.run(async move { perform(operation, &pool, &m).await.expect("the operation") });
    ended.unless_crashed().is_some()
}

fn assert_allowed(operation: Operation, before: &Seen, after: &Seen, found: &Seen, when: &str) {
    if found == before || found == after {
        return;
    }
    assert!(operation.unit() != Unit::Whole, "{when}: neither before nor after");
    let sectors = if operation.unit() == Unit::Block { 8 } else { 1 };
    let [before, after, found] = [before, after, found].map(|seen| &seen["a"].1);
    for (index, found) in found.chunks(sectors).enumerate() {
        let range = index * sectors..index * sectors + found.len();
        let allowed = *found == before[range.clone()] || *found == after[range.clone()];
        assert!(allowed, "{when}: sectors {range:?} hold {found:?}");
    }
}

fn enumerate(operation: Operation) {
    let sectors_max = if is_full() { 8 } else { 5 };
    let base = prepared(operation);
    let mut before = seen(&base.fork(), "before");
    if operation == Open {
        // The last write was not flushed: until a start has made it durable, power loss may take it.
        before.get_mut("a").expect("a vdisk").1[128..136].fill(0);
    }
    let done = base.fork();
    assert!(stopped(&done, operation, u64::MAX / 2), "{operation:?} ends when nothing stops it");
    done.crash(CrashKind::Process);
    let after = seen(&done, "after");
    let (mut stops, mut states) = (0, 0);
    for stop in 1.. {
        let world = base.fork();
        let ended = stopped(&world, operation, stop);
        let killed = world.fork();
        killed.crash(CrashKind::Process);
        let when = format!("{operation:?} stopped at {stop} by kill -9");
        let found = seen(&killed, &when);
        assert_allowed(operation, &before, &after, &found, &when);
        assert!(!ended || found == after, "{when}: it was answered and is not there");
        states += 1;
        states += world.each_survival(sectors_max, &mut |survivor| {
            let when = format!("{operation:?} stopped at {stop} by power loss");
            let found = seen(&survivor, &when);
            assert_allowed(operation, &before, &after, &found, &when);
            assert!(!ended || found == after, "{when}: it was flushed and is not there");
            assert_eq!(seen(&survivor, &when), found, "{when}: a second start sees something else");
        });
        stops = stop;
        if ended {
            break;
        }
    }
    println!("{operation:?}: {stops} stops, {states} states");
    assert!(stops > 1, "{operation:?} made no device operation");
}

macro_rules! enumerated {
    ($($name:ident: $operation:expr;)*) => {
        $(#[test]
        fn $name() {
            enumerate($operation);
        })*
    };
}

enumerated! {
    a_first_write_is_all_or_nothing_per_block: FirstWrite;
    a_first_write_of_a_part_of_a_block_is_all_or_nothing: PartialFirstWrite;
    a_first_write_whose_record_goes_ahead_of_it_is_all_or_nothing: WriteAhead;
    an_overwrite_is_old_or_new_per_sector: Overwrite;
    an_overwrite_of_fresh_contents_loses_nothing_flushed: OverwriteFresh;
    a_discard_happens_or_not: Discard;
    write_zeroes_happen_or_not: WriteZeroes;
    growing_happens_or_not: Grow;
    shrinking_happens_or_not: Shrink;
    creating_a_vdisk_happens_or_not: CreateVdisk;
    deleting_a_vdisk_happens_or_not: DeleteVdisk;
    adding_a_device_happens_or_not: AddDevice;
    evacuating_a_device_changes_nothing_that_is_seen: Evacuate;
    removing_a_device_changes_nothing_that_is_seen: RemoveDevice;
    cancelling_an_evacuation_changes_nothing_that_is_seen: CancelEvacuation;
    growing_a_device_changes_nothing_that_is_seen: GrowDevice;
    growing_the_last_device_changes_nothing_that_is_seen: GrowLastDevice;
    a_checkpoint_changes_nothing_that_is_seen: Checkpoint;
    opening_changes_nothing_that_is_seen: Open;
    zeros_over_data_are_all_or_nothing_per_block: ZerosOver;
    a_pattern_over_data_is_all_or_nothing_per_block: PatternOver;
    data_zeros_and_patterns_in_one_write_are_all_or_nothing_per_block: Mixed;
    data_over_a_fill_is_all_or_nothing_per_block: DataOverFill;
    data_beside_data_over_a_fill_never_takes_the_fill_away: BesideDataOverFill;
    a_reclaim_changes_nothing_that_is_seen: Reclaim;
    patterns_are_added_and_removed_or_not: Patterns;
    a_held_write_that_goes_on_is_all_or_nothing_per_block: HeldAndResumed;
    a_held_write_that_comes_to_its_bound_changes_nothing: HeldAndExpired;
}
