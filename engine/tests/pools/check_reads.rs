//! A check reads metadata, journal and the ends of the devices, and not one byte of data.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use crate::support::{create, filled, live, open, vdisk, world};
use plimsoll_engine::{JobState, OpenPool, PatternSpec, PatternUse, Pool, Vdisk};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine, SimWorld};

const EXTENT: u64 = 65_536;
const BLOCK: u64 = 4096;
/// Extents that a leaf covers.
const LEAF: u64 = 512;
/// Of every block of data, so that it is known on the device from metadata.
const MARK: u8 = 0xd7;
/// Whole extents side by side, whole ones of which each has a leaf of its own, and thin ones.
const TOGETHER: u64 = 200;
const APART: u64 = 48;
const THIN: u64 = 32;

/// Pages of the only disk that hold data.
fn data(world: &SimWorld) -> BTreeSet<u64> {
    let bytes = world.read_raw(0, 0, world.size(0));
    let pages = bytes.chunks_exact(BLOCK as usize).enumerate();
    pages.filter(|(_, page)| page.iter().all(|byte| *byte == MARK)).map(|(number, _)| number as u64).collect()
}

/// What the disk was asked to read, in bytes, since it is traced.
fn reads(world: &SimWorld) -> Vec<Range<u64>> {
    let number = |hex: &str| u64::from_str_radix(hex.trim_start_matches("0x"), 16).expect("a number");
    let trace = world.trace();
    let lines = trace.lines().filter_map(|line| line.split_once(" disk 0  read ")).map(|(_, place)| place.trim());
    let places = lines.filter_map(|place| place.split_once('+'));
    places.map(|(offset, length)| number(offset)..number(offset) + number(length)).collect()
}

/// What was read during some work.
struct Read {
    /// Pages of data.
    data: BTreeSet<u64>,
    /// Bytes in all.
    bytes: u64,
    /// And in how many reads.
    reads: u64,
}

async fn read_during<T>(world: &SimWorld, work: impl Future<Output = T>) -> (Read, T) {
    world.set_trace(true);
    let before = world.counters(0).bytes_read;
    let done = work.await;
    let (read, all) = (reads(world), world.counters(0).bytes_read - before);
    world.set_trace(false);
    assert_eq!(read.iter().map(|range| range.end - range.start).sum::<u64>(), all, "the trace tells all reads");
    let (data, reads) = (data(world), read.len() as u64);
    let pages = read.into_iter().flat_map(|range| range.start / BLOCK..range.end.div_ceil(BLOCK));
    (Read { data: pages.filter(|page| data.contains(page)).collect(), bytes: all, reads }, done)
}

/// Checks, which must find nothing; answers what it read, and the pages that it says it read.
async fn check(world: &SimWorld, pool: &Pool<SimMachine>) -> (Read, u64) {
    let (read, report) = read_during(world, pool.check()).await;
    let report = report.expect("a check runs");
    assert!(report.clean(), "{:#?}", report.findings);
    assert_eq!(report.vdisks_checked, 2);
    (read, report.pages_read)
}

#[track_caller]
fn assert_metadata_only((read, pages_read): (Read, u64), when: &str) {
    let Read { data, bytes, reads } = read;
    assert_eq!(data, BTreeSet::new(), "{when}: pages of data were read");
    // Both copies of each leaf at least, and less than there is of data, which would be 1000 pages and more.
    assert!(bytes >= 2 * APART * BLOCK && pages_read >= 2 * APART, "{when}: {bytes} bytes, {pages_read} pages");
    assert!(reads < pages_read / 2, "{when}: {pages_read} pages took {reads} reads: neighbours are read together");
}

/// Data of every kind: whole extents, packed ones, fills and zeros.
async fn fill(pool: &Pool<SimMachine>, m: &SimMachine) {
    for name in ["whole", "thin"] {
        pool.create_vdisk(vdisk(name, 1 << 40)).await.expect("a vdisk");
    }
    pool.add_pattern(PatternSpec::Unit(b"PLIMSOLL".to_vec()), PatternUse::Everywhere).await.expect("a pattern");
    let (whole, thin) = (pool.vdisk("whole").expect("a vdisk"), pool.vdisk("thin").expect("a vdisk"));
    let extent = filled(m, MARK, EXTENT as usize).await;
    for number in (0..TOGETHER).chain((1..=APART).map(|leaf| leaf * LEAF)) {
        whole.write(number * EXTENT, extent.clone(), false).await.expect("a write");
    }
    for number in 0..THIN {
        thin.write(number * EXTENT, extent.clone(), false).await.expect("a write");
        thin.discard(number * EXTENT + BLOCK, EXTENT - BLOCK, false).await.expect("a discard");
    }
    let mut fills = m.buffers().alloc(EXTENT as usize).await;
    fills.chunks_exact_mut(8).for_each(|unit| unit.copy_from_slice(b"PLIMSOLL"));
    thin.write(LEAF * EXTENT, fills.freeze(), false).await.expect("a write");
    thin.flush().await.expect("a flush");
    let job = pool.compact().expect("a job").id;
    while pool.jobs().iter().any(|other| other.id == job && other.state == JobState::Running) {
        m.sleep(Duration::from_millis(1)).await;
    }
    assert!(pool.info().counters.packed_bytes > 0);
}

async fn read_extent(disk: &Vdisk<SimMachine>, m: &SimMachine, extent: u64) {
    disk.read(extent * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
}

#[test]
fn a_check_reads_no_data_of_an_open_pool_nor_of_one_that_was_closed_or_killed() {
    let world = world(1, 1, 64);
    let seen = &world;
    let inspected = async |m: &SimMachine| {
        let options = OpenPool { inspect: true, ..OpenPool::default() };
        Pool::open(m, options, vec![m.open(0)]).await.expect("a pool to look at")
    };
    live(&world, async |m| {
        let pool = create(&m).await;
        fill(&pool, &m).await;
        assert_metadata_only(check(seen, &pool).await, "open, what is mapped is in memory");
        pool.close().await.expect("a close");
    });
    world.crash(CrashKind::Process);
    let stored = data(&world).len() as u64;
    assert!(stored >= (TOGETHER + APART) * EXTENT / BLOCK, "{stored} pages of data are known");
    live(&world, async |m| {
        let (read, pool) = read_during(seen, inspected(&m)).await;
        assert_eq!(read.data, BTreeSet::new(), "opening a pool to look at it reads data");
        assert_metadata_only(check(seen, &pool).await, "closed");
    });
    world.crash(CrashKind::Process);
    live(&world, async |m| {
        let pool = open(&m, 1).await;
        assert_metadata_only(check(seen, &pool).await, "open, nothing of the mapping is in memory");
        let (whole, thin) = (pool.vdisk("whole").expect("a vdisk"), pool.vdisk("thin").expect("a vdisk"));
        // What reads data is seen, and to the page.
        let looked = async {
            for number in 0..TOGETHER {
                read_extent(&whole, &m, number).await;
            }
            for number in 0..THIN {
                read_extent(&thin, &m, number).await;
            }
        };
        let (read, ()) = read_during(seen, looked).await;
        assert_eq!(read.data.len() as u64, TOGETHER * EXTENT / BLOCK + THIN, "pages of data were read");
        let extent = filled(&m, MARK, EXTENT as usize).await;
        whole.write(TOGETHER * EXTENT, extent.clone(), false).await.expect("a first write");
        whole.flush().await.expect("a flush");
        whole.write((TOGETHER + 1) * EXTENT, extent, false).await.expect("a first write that is not flushed");
    });
    world.crash(CrashKind::Process);
    live(&world, async |m| {
        let pool = inspected(&m).await;
        assert!(pool.info().recovery.records_replayed > 0);
        assert_metadata_only(check(seen, &pool).await, "killed");
    });
}
