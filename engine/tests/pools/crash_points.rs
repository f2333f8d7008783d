//! Every operation is stopped at every device operation it makes, by the death of the process and by power loss, and for each
//! power loss the legal survivals of the writes in the air are tried. Afterwards the operation happened or it did not. An
//! operation ends when the job that it began has: what a deletion or a cut gives back is stopped everywhere too.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{
    Seen, assert_clean, create, failing, filled, full::fill, is_full, live, look, open, vdisk, with, world,
};
use futures_util::future::join;
use plimsoll_engine::{
    Error, JobState, OnFull, PatternSpec, PatternUse, Pool, ReclaimSpec, Vdisk, VdiskPolicy, VdiskState, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};

const DISKS: usize = 2;
/// Where the vdisk has a fill, and of what.
const FILL: u64 = 384 << 10;
const PATTERN: u8 = 0xA5;
const EXTENT: u64 = 64 << 10;

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
    HeldUntilQuota,
    HeldUntilDevice,
    HeldUntilGrowth,
    HeldUntilDiscard,
    HeldUntilDelete,
    HeldUntilReclaim,
    ExpiredAtQuota,
    ExpiredInFullPool,
}

use Operation::*;

impl Operation {
    fn unit(self) -> Unit {
        match self {
            FirstWrite | PartialFirstWrite | WriteAhead | Open => Unit::Block,
            ZerosOver | PatternOver | Mixed | DataOverFill | BesideDataOverFill | HeldUntilQuota => Unit::Block,
            Overwrite | OverwriteFresh => Unit::Sector,
            _ if self.is_relief() => Unit::Block,
            _ => Unit::Whole,
        }
    }

    fn is_in_full_pool(self) -> bool {
        self.is_relief() || self == ExpiredInFullPool
    }

    /// A write is held until the operation makes room for it.
    fn is_relief(self) -> bool {
        matches!(self, HeldUntilDevice | HeldUntilGrowth | HeldUntilDiscard | HeldUntilDelete | HeldUntilReclaim)
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
        Reclaim => reclaim(pool, m, "a").await?,
        Patterns => {
            pool.set_pattern(2, PatternUse::Disabled).await?;
            pool.remove_pattern(2).await?;
            pool.add_pattern(PatternSpec::Unit(vec![3, 4]), PatternUse::OwnOnly).await?;
        }
        HeldUntilQuota => {
            let backed = a.info().backed_bytes;
            pool.set_vdisk_policy("a", held_at(backed, Duration::from_secs(5))).await?;
            let more = held_at(backed + 4 * EXTENT, Duration::from_secs(5));
            held_until(pool, m, &a, pool.set_vdisk_policy("a", more)).await?;
        }
        HeldUntilDevice => held_until(pool, m, &a, pool.add_device(m.open(1), false)).await?,
        HeldUntilGrowth => held_until(pool, m, &a, pool.grow_device(first_device(pool))).await?,
        HeldUntilDiscard => {
            let hog = pool.vdisk("hog")?;
            held_until(pool, m, &a, hog.discard(0, 16 * EXTENT, false)).await?;
        }
        HeldUntilDelete => held_until(pool, m, &a, pool.delete_vdisk("hog")).await?,
        HeldUntilReclaim => held_until(pool, m, &a, reclaim(pool, m, "worthless")).await?,
        ExpiredAtQuota | ExpiredInFullPool => {
            let quota = if operation == ExpiredAtQuota { a.info().backed_bytes } else { 1 << 30 };
            pool.set_vdisk_policy("a", held_at(quota, Duration::from_millis(2))).await?;
            let refused = a.write(128 << 10, filled(m, 7, 256 << 10).await, false).await;
            match operation {
                ExpiredAtQuota => assert!(matches!(refused, Err(Error::QuotaExceeded { .. })), "{refused:?}"),
                _ => assert!(matches!(refused, Err(Error::OutOfSpace { .. })), "{refused:?}"),
            }
            assert_eq!(pool.info().counters.held_writes, 1);
        }
        Open => {}
    }
    if !matches!(operation, Checkpoint | Open | DeleteVdisk) {
        a.flush().await?;
    }
    jobs_end(pool, m).await;
    Ok(())
}

/// Writes four extents, and makes room for them as `relief` says once they wait for it.
async fn held_until<T>(
    pool: &Pool<SimMachine>,
    m: &SimMachine,
    a: &Vdisk<SimMachine>,
    relief: impl Future<Output = plimsoll_engine::Result<T>>,
) -> plimsoll_engine::Result<()> {
    let relief = async {
        m.sleep(Duration::from_millis(20)).await;
        assert_eq!(pool.info().held_writes, 1, "there is room already");
        relief.await
    };
    let (held, relief) = join(a.write(128 << 10, filled(m, 7, 256 << 10).await, false), relief).await;
    held.and(relief.map(drop))
}

async fn reclaim(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) -> plimsoll_engine::Result<()> {
    pool.reclaim(name, ReclaimSpec::default()).await?;
    while pool.reclaim_info(name)?.is_some_and(|info| info.running) {
        m.sleep(Duration::from_micros(100)).await;
    }
    Ok(())
}

/// Takes all the space there is, and leaves something that gives some of it back.
async fn fill_up(pool: &Pool<SimMachine>, m: &SimMachine) {
    for name in ["worthless", "hog"] {
        pool.create_vdisk(with(name, failing())).await.expect("a vdisk");
    }
    pool.set_detection("worthless", Some(false), Some(false)).await.expect("a change");
    let worthless = pool.vdisk("worthless").expect("a vdisk");
    worthless.write(0, filled(m, 0, 16 * EXTENT as usize).await, false).await.expect("a write");
    fill(pool, m, "hog").await;
}

/// Takes all that there is, and what checkpoints leave, until there is nothing any more.
async fn top_up(pool: &Pool<SimMachine>, m: &SimMachine) {
    let (hog, data) = (pool.vdisk("hog").expect("a vdisk"), filled(m, 7, EXTENT as usize).await);
    let mut extent = hog.info().backed_bytes / EXTENT;
    for _ in 0..20 {
        loop {
            match hog.write(extent * EXTENT, data.clone(), false).await {
                Ok(()) => extent += 1,
                Err(Error::OutOfSpace { .. }) => break,
                Err(error) => panic!("extent {extent}: {error}"),
            }
        }
        m.sleep(Duration::from_millis(30)).await;
        if pool.info().available_bytes == 0 {
            return;
        }
    }
    panic!("it never fills: {:?}", pool.info());
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
        if operation.is_in_full_pool() {
            fill_up(&pool, &m).await;
        }
        a.flush().await.expect("a flush");
        a.write(64 << 10, filled(&m, 3, 4096).await, false).await.expect("a write");
        if operation != Open {
            pool.close().await.expect("a close");
        }
    });
    world.crash(CrashKind::Process);
    if matches!(operation, GrowDevice | GrowLastDevice | HeldUntilGrowth) {
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
    let ready = async move {
        let pool = open(&inner, DISKS).await;
        if operation.is_in_full_pool() {
            top_up(&pool, &inner).await;
        }
        pool
    };
    let pool = machine.run(ready).done();
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
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let [before, after, found] = [before, after, found].map(|seen| seen.get(name).map(|seen| &seen.1[..]));
        let Some(found) = found else {
            assert!(before.is_none() || after.is_none(), "{when}: {name} is gone");
            continue;
        };
        for (index, found) in found.chunks(sectors).enumerate() {
            let range = index * sectors..index * sectors + found.len();
            let allowed = [before, after].into_iter().flatten().any(|known| *found == known[range.clone()]);
            assert!(allowed, "{when}: sectors {range:?} of {name} hold {found:?}");
        }
    }
    // What was held is nowhere but in the room that was made.
    if operation.is_relief() && found["a"] != before["a"] {
        let others = |seen: &Seen| Seen::from_iter(seen.clone().into_iter().filter(|(name, _)| name != "a"));
        assert_eq!(others(found), others(after), "{when}: a held write is there before there was room for it");
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
    a_write_held_until_its_quota_is_raised_is_all_or_nothing_per_block: HeldUntilQuota;
    a_write_held_until_a_device_is_added_is_all_or_nothing_per_block: HeldUntilDevice;
    a_write_held_until_a_device_grows_is_all_or_nothing_per_block: HeldUntilGrowth;
    a_write_held_until_a_discard_is_all_or_nothing_per_block_and_never_there_without_it: HeldUntilDiscard;
    a_write_held_until_a_delete_is_all_or_nothing_per_block_and_never_there_without_it: HeldUntilDelete;
    a_write_held_until_a_reclaim_is_all_or_nothing_per_block: HeldUntilReclaim;
    a_write_held_at_its_quota_to_its_bound_changes_nothing: ExpiredAtQuota;
    a_write_held_in_a_full_pool_to_its_bound_changes_nothing: ExpiredInFullPool;
}
