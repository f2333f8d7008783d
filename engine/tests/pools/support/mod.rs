//! What the tests of whole pools share: small worlds, vdisks full of known bytes, and a look at all of them.
#![allow(unreachable_pub, reason = "what several modules use")]

pub mod below;
pub mod contents;
pub mod full;
pub mod reclaim;

use std::collections::BTreeMap;

use plimsoll_engine::{CreatePool, CreateVdisk, OnFull, OpenPool, Pool, VdiskPolicy};
use plimsoll_hardware::sim::{SimDiskSpec, SimMachine, SimWorld};
use plimsoll_hardware::{Frozen, Machine};

/// Bytes at the start of every vdisk that [`look`] sees.
pub const SEEN: u64 = 512 << 10;

/// Whether the long form of a test is wanted.
pub fn is_full() -> bool {
    ["CI", "PLIMSOLL_FULL"].iter().any(|variable| std::env::var_os(variable).is_some())
}

/// A world of `disks` disks of `mib` MiB.
pub fn world(seed: u64, disks: usize, mib: u64) -> SimWorld {
    let disks = (0..disks).map(|index| SimDiskSpec::new(&format!("disk{index}"), mib << 20)).collect();
    SimWorld::new(seed, disks)
}

/// One life of a machine in `world`: from its boot to the end of what it is to do, which must not crash.
pub fn live<F: Future<Output = T>, T>(world: &SimWorld, life: impl FnOnce(SimMachine) -> F) -> T {
    let machine = world.boot();
    machine.run(life(machine.clone())).done()
}

/// A vdisk with sectors of 512 bytes.
pub fn vdisk(name: &str, size: u64) -> CreateVdisk {
    CreateVdisk { name: name.into(), size, sector: 512, write_through: false, policy: Default::default() }
}

/// A vdisk of a GiB with a policy.
pub fn with(name: &str, policy: VdiskPolicy) -> CreateVdisk {
    CreateVdisk { policy, ..vdisk(name, 1 << 30) }
}

/// Writes that find no space fail at once.
pub fn failing() -> VdiskPolicy {
    VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() }
}

/// A buffer of one byte, over and over.
pub async fn filled(machine: &SimMachine, byte: u8, len: usize) -> Frozen {
    let mut buffer = machine.buffers().alloc(len).await;
    buffer.fill(byte);
    buffer.freeze()
}

/// Makes the pool `tank` on the first disk.
pub async fn create(machine: &SimMachine) -> Pool<SimMachine> {
    Pool::create(machine, CreatePool::named("tank"), vec![machine.open(0)]).await.expect("the pool is made")
}

/// Opens the pool on all of `disks` disks that belong to it.
pub async fn open(machine: &SimMachine, disks: usize) -> Pool<SimMachine> {
    let mut devices = Vec::new();
    for index in 0..disks {
        let device = machine.open(index);
        if matches!(plimsoll_engine::identify(machine, &device).await, Ok(Some(_))) {
            devices.push(device);
        }
    }
    let first = Pool::open(machine, OpenPool::default(), devices).await;
    if let Err(plimsoll_engine::Error::NotAPool { .. }) = first {
        panic!("{first:?}", first = first.err());
    }
    first.unwrap_or_else(|error| panic!("the pool does not open: {error}"))
}

/// Every vdisk with its size and the first byte of each of its first sectors. A sector of mixed bytes fails.
pub type Seen = BTreeMap<String, (u64, Vec<u8>)>;

/// Looks at all vdisks that are in use.
pub async fn look(pool: &Pool<SimMachine>, machine: &SimMachine) -> Seen {
    let mut seen = Seen::new();
    for info in pool.vdisks() {
        let Ok(vdisk) = pool.vdisk(&info.name) else { continue };
        let length = SEEN.min(info.size);
        let buffer = machine.buffers().alloc(length as usize).await;
        let bytes = vdisk.read(0, buffer).await.expect("a vdisk is read");
        let sectors = bytes.chunks(512).enumerate().map(|(index, sector)| {
            let mixed = sector.iter().any(|byte| *byte != sector[0]);
            assert!(!mixed, "sector {index} of {} holds bytes of two writes", info.name);
            sector[0]
        });
        seen.insert(info.name.clone(), (info.size, sectors.collect()));
    }
    seen
}

/// Fails unless a check finds nothing.
pub async fn assert_clean(pool: &Pool<SimMachine>, when: &str) {
    let report = pool.check().await.expect("a check runs");
    assert!(report.clean(), "{when}: {:#?}", report.findings);
}
