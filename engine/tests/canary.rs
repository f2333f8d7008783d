//! Nobody reads what somebody else wrote: extents go round between vdisks, full of their owner's mark.

mod support;

use plimsoll_engine::{Error, Vdisk, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, Random, SimMachine};
use support::{create, open, vdisk, world};

const VDISKS: u64 = 3;
const EXTENTS: u64 = 40;
const EXTENT: u64 = 65_536;

/// The mark of a vdisk's writes: its number, sixteen bytes long, over and over.
fn mark(owner: u64) -> u8 {
    0xa0 + owner as u8
}

/// Every byte is the reader's mark or zero.
async fn scan(disk: &Vdisk<SimMachine>, owner: u64, m: &SimMachine, seed: u64) {
    for extent in 0..EXTENTS {
        let bytes = disk.read(extent * EXTENT, m.buffers().alloc(EXTENT as usize).await).await.expect("a read");
        let foreign = bytes.iter().position(|byte| *byte != 0 && *byte != mark(owner));
        assert!(
            foreign.is_none(),
            "seed {seed}: vdisk {owner} reads {:#x} at {extent}+{foreign:?}",
            bytes[foreign.unwrap_or(0)]
        );
    }
}

async fn recycle(disk: &Vdisk<SimMachine>, owner: u64, m: &SimMachine, random: &mut Random) -> u64 {
    let extent = random.below(EXTENTS) * EXTENT;
    let sectors = [1, 3, 8, 17, 128][random.below(5) as usize];
    let offset = extent + random.below(128 - sectors + 1) * 512;
    let result = match random.below(7) {
        0 => disk.discard(extent, EXTENT, false).await,
        1 => disk.discard(extent + 4096, 20_480, false).await,
        2 => disk.write_zeroes(offset, sectors * 512, Zeroes::Unmap, false).await,
        3 if random.below(3) == 0 => disk.flush().await,
        _ => {
            let mut buffer = m.buffers().alloc(sectors as usize * 512).await;
            buffer.fill(mark(owner));
            disk.write(offset, buffer.freeze(), random.below(8) == 0).await
        }
    };
    match result {
        Ok(()) => 1,
        Err(Error::OutOfSpace { .. }) => disk.discard(0, EXTENTS * EXTENT / 2, false).await.map_or(0, |()| 1),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_recycled_extent_never_shows_its_former_owner() {
    let worlds = if std::env::var_os("CI").is_some() { 400 } else { 40 };
    let mut recycled = 0;
    for seed in 0..worlds {
        let world = world(seed, 1, 5);
        let mut random = Random::new(seed);
        let machine = world.boot();
        let m = machine.clone();
        let made = machine.run(async move {
            let pool = create(&m).await;
            for owner in 0..VDISKS {
                pool.create_vdisk(vdisk(&format!("v{owner}"), EXTENTS * EXTENT)).await.expect("a vdisk");
            }
        });
        made.done();
        world.crash(CrashKind::Process);
        for life in 0..5 {
            let machine = world.boot();
            let m = machine.clone();
            let mut dice = Random::new(seed << 8 | life);
            let crash = 200 + random.below(600);
            let opened = m.clone();
            let pool = machine.run(async move { open(&opened, 1).await }).done();
            machine.crash_after_ops(crash);
            let rounds = machine.run(async move {
                let disks: Vec<_> =
                    (0..VDISKS).map(|owner| pool.vdisk(&format!("v{owner}")).expect("a vdisk")).collect();
                let mut rounds = 0;
                for owner in 0..VDISKS {
                    scan(&disks[owner as usize], owner, &m, seed).await;
                }
                for _ in 0..150 {
                    let owner = dice.below(VDISKS);
                    rounds += recycle(&disks[owner as usize], owner, &m, &mut dice).await;
                }
                for owner in 0..VDISKS {
                    scan(&disks[owner as usize], owner, &m, seed).await;
                }
                rounds
            });
            recycled += rounds.unless_crashed().unwrap_or(0);
            world.crash(if random.coin() { CrashKind::Power } else { CrashKind::Process });
        }
    }
    println!("{recycled} operations in lives that ended well, {worlds} worlds of 5 lives");
    assert!(recycled > 1000, "too little was recycled to mean anything");
}
