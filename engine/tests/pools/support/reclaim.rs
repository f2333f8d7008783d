//! A vdisk that stores whatever it is given, and reclaims of it.

use std::time::Duration;

use super::{create, vdisk, world};
use plimsoll_engine::{JobState, PatternSpec, PatternUse, Pool, ReclaimInfo, ReclaimSpec, Vdisk};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

pub const EXTENT: u64 = 65_536;
pub const BLOCK: u64 = 4096;
const UNIT: &[u8] = b"reclaim!";

/// What blocks are filled with: zeros, the pattern, or data that says who wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Zeros,
    Pattern,
    Data(u8),
}

impl What {
    fn fill(self, bytes: &mut [u8]) {
        match self {
            What::Zeros => bytes.fill(0),
            What::Pattern => bytes.chunks_exact_mut(UNIT.len()).for_each(|chunk| chunk.copy_from_slice(UNIT)),
            What::Data(mark) => bytes.fill(mark | 1),
        }
    }
}

pub async fn put(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, length: u64, what: What) {
    let mut buffer = m.buffers().alloc(length as usize).await;
    what.fill(&mut buffer);
    disk.write(at, buffer.freeze(), false).await.expect("a write");
}

pub async fn assert_holds(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, length: u64, what: What) {
    let found = disk.read(at, m.buffers().alloc(length as usize).await).await.expect("a read");
    let mut expected = vec![0; length as usize];
    what.fill(&mut expected);
    let first = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what:?} at {at}..+{length}");
}

/// A pool with a pattern and a vdisk that stores whatever it is given, so that there is something to reclaim.
pub async fn prepared(m: &SimMachine) -> (Pool<SimMachine>, Vdisk<SimMachine>) {
    let pool = create(m).await;
    pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
    pool.add_pattern(PatternSpec::Unit(UNIT.to_vec()), PatternUse::Everywhere).await.expect("a pattern");
    pool.set_detection("a", Some(false), Some(false)).await.expect("a change");
    let disk = pool.vdisk("a").expect("a vdisk");
    (pool, disk)
}

pub fn ended_or_not(pool: &Pool<SimMachine>) -> ReclaimInfo {
    pool.reclaim_info("a").expect("a vdisk").expect("a reclaim")
}

pub async fn ended(pool: &Pool<SimMachine>, m: &SimMachine) -> ReclaimInfo {
    loop {
        let info = ended_or_not(pool);
        if !info.running {
            return info;
        }
        m.sleep(Duration::from_micros(200)).await;
    }
}

pub async fn reclaim(pool: &Pool<SimMachine>, m: &SimMachine, spec: ReclaimSpec) -> ReclaimInfo {
    pool.reclaim("a", spec).await.expect("a reclaim");
    let info = ended(pool, m).await;
    let job = pool.jobs().pop().expect("its job");
    assert_eq!((job.kind, job.state), ("reclaim", JobState::Done));
    info
}

pub fn backed(disk: &Vdisk<SimMachine>) -> u64 {
    disk.info().backed_bytes / EXTENT
}

pub fn alone<F>(work: impl FnOnce(SimMachine) -> F)
where
    F: Future<Output = ()>,
{
    let world = world(3, 1, 64);
    let machine = world.boot();
    machine.run(work(machine.clone())).done();
}
