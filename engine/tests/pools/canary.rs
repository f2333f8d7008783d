//! Nobody reads what somebody else wrote. Extents go round between vdisks that are worked on at the same time, by discards,
//! zeroes, deletions, cuts, compactions, reclaims and devices that come and go, full of their owner's mark; what is read, whole, in crooked pieces, beside partial first writes and
//! after crashes, is the reader's own. The planted bug `skip-checksum` makes it fail (`tests/planted`); the rarer
//! `reuse-quarantined` is the simulation's to find.

use crate::support::{assert_clean, create, is_full, open, vdisk, world};
use plimsoll_engine::{Error, Evacuate, Pool, ReclaimSpec, Vdisk, VdiskState, Zeroes};
use plimsoll_hardware::sim::{CrashKind, Random, SimMachine};
use plimsoll_hardware::{Buffer, Machine};

const VDISKS: u64 = 3;
const EXTENTS: u64 = 40;
const EXTENT: u64 = 65_536;
const MARK: usize = 16;

/// The mark of a vdisk's writes. The factor is odd, so no two owners have one mark.
fn mark(owner: u64) -> [u8; MARK] {
    (u128::from(owner) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes()
}

/// Fails unless every sixteen bytes are the owner's mark or zeros.
fn assert_own(bytes: &[u8], owner: u64, when: &str) {
    let expected = mark(owner);
    for (index, found) in bytes.chunks_exact(MARK).enumerate() {
        let own = *found == expected || *found == [0; MARK];
        assert!(own, "{when}: the owner of {expected:02x?} reads {found:02x?} at {}", index * MARK);
    }
}

fn fill(buffer: &mut Buffer, owner: u64) {
    buffer.chunks_exact_mut(MARK).for_each(|chunk| chunk.copy_from_slice(&mark(owner)));
}

/// A vdisk and whose marks are in it.
struct Owned {
    name: String,
    owner: u64,
    disk: Vdisk<SimMachine>,
}

impl Owned {
    /// The vdisk in this place; its name ends with its owner's number.
    fn find(pool: &Pool<SimMachine>, place: u64) -> Option<Self> {
        let ready = pool.vdisks().into_iter().filter(|vdisk| vdisk.state != VdiskState::Deleting);
        let name = ready.map(|vdisk| vdisk.name).find(|name| name.starts_with(&format!("v{place}-")))?;
        let owner = name.split_once('-').and_then(|(_, owner)| owner.parse().ok())?;
        Some(Owned { disk: pool.vdisk(&name).ok()?, name, owner })
    }

    async fn make(pool: &Pool<SimMachine>, place: u64, owner: u64) -> plimsoll_engine::Result<()> {
        pool.create_vdisk(vdisk(&format!("v{place}-{owner}"), EXTENTS * EXTENT)).await.map(drop)
    }

    async fn read(&self, m: &SimMachine, offset: u64, length: u64, when: &str) {
        let bytes = self.disk.read(offset, m.buffers().alloc(length as usize).await).await.expect("a read");
        assert_own(&bytes, self.owner, when);
    }

    /// All of it, extent by extent and then in pieces that are aligned to nothing.
    async fn scan(&self, m: &SimMachine, random: &mut Random, when: &str) {
        let size = self.disk.size();
        for at in (0..size).step_by(EXTENT as usize) {
            self.read(m, at, EXTENT.min(size - at), when).await;
        }
        for _ in 0..12 {
            let at = random.below(size / 512) * 512;
            let length = (1 + random.below(300)) * 512;
            self.read(m, at, length.min(size - at), when).await;
        }
    }

    async fn write(&self, m: &SimMachine, offset: u64, sectors: u64, fua: bool) -> plimsoll_engine::Result<()> {
        let mut buffer = m.buffers().alloc(sectors as usize * 512).await;
        fill(&mut buffer, self.owner);
        self.disk.write(offset, buffer.freeze(), fua).await
    }
}

/// One step of the round: space is written, given back one way or another, and looked at.
async fn recycle(pool: &Pool<SimMachine>, m: &SimMachine, place: u64, random: &mut Random, when: &str) -> u64 {
    let Some(owned) = Owned::find(pool, place) else {
        // The one before may still be giving its space back.
        return u64::from(Owned::make(pool, place, random.below(1 << 30)).await.is_ok());
    };
    let disk = &owned.disk;
    let extents = disk.size() / EXTENT;
    let extent = random.below(extents) * EXTENT;
    let sectors = [1, 3, 8, 17, 128][random.below(5) as usize];
    let offset = extent + random.below(128 - sectors + 1) * 512;
    let result = match random.below(40) {
        0..5 => disk.discard(extent, EXTENT, false).await,
        5..9 => disk.discard(extent + 4096, 20_480, false).await,
        9..13 => disk.write_zeroes(offset, sectors * 512, Zeroes::Unmap, false).await,
        13..15 => disk.flush().await,
        15 => pool.delete_vdisk(&owned.name).await.map(drop),
        16 => pool.resize_vdisk(&owned.name, (4 + random.below(8)) * EXTENT + 1536, true).await.map(drop),
        17 => pool.resize_vdisk(&owned.name, EXTENTS * EXTENT, false).await.map(drop),
        18..24 => {
            // A part of a block, and at once all around it.
            let written = owned.write(m, offset, 1, false).await;
            owned.read(m, offset / EXTENT * EXTENT, EXTENT, when).await;
            written
        }
        24 => pool.compact().map(drop),
        25 => pool.reclaim(&owned.name, ReclaimSpec::default()).await.map(drop),
        _ => owned.write(m, offset, sectors, random.below(8) == 0).await,
    };
    match result {
        Ok(()) => 1,
        Err(Error::OutOfSpace { .. }) => disk.discard(0, extents / 2 * EXTENT, false).await.map_or(0, |()| 1),
        Err(Error::Busy { .. }) => 0,
        Err(error) => panic!("{when}: {error}"),
    }
}

/// A second device joins, or one of two is to leave, while all goes on.
async fn move_house(pool: &Pool<SimMachine>, m: &SimMachine, random: &mut Random, when: &str) -> u64 {
    let devices = pool.info().devices;
    let moved = if devices.len() == 1 {
        let other = usize::from(devices[0].path == "disk0");
        pool.add_device(m.open(other), true).await
    } else {
        pool.remove_device(devices[random.below(2) as usize].uuid, Evacuate::default()).await.map(drop)
    };
    match moved {
        Ok(()) => 1,
        Err(Error::Busy { .. } | Error::OutOfSpace { .. } | Error::InvalidArgument { .. }) => 0,
        Err(error) => panic!("{when}: {error}"),
    }
}

async fn scan_all(pool: &Pool<SimMachine>, m: &SimMachine, random: &mut Random, when: &str) {
    for place in 0..VDISKS {
        if let Some(owned) = Owned::find(pool, place) {
            owned.scan(m, random, when).await;
        }
    }
}

#[test]
fn a_recycled_extent_never_shows_its_former_owner() {
    let worlds = if is_full() { 400 } else { 40 };
    let (mut recycled, mut moves) = (0, 0);
    for seed in 0..worlds {
        let world = world(seed, 2, 5);
        let mut random = Random::new(seed);
        let machine = world.boot();
        let m = machine.clone();
        let made = machine.run(async move {
            let pool = create(&m).await;
            for place in 0..VDISKS {
                Owned::make(&pool, place, place).await.expect("a vdisk");
            }
        });
        made.done();
        world.crash(CrashKind::Process);
        for life in 0..5 {
            let machine = world.boot();
            let m = machine.clone();
            let mut dice = Random::new(seed << 8 | life);
            let crash = 200 + random.below(900);
            let opened = m.clone();
            let pool = machine.run(async move { open(&opened, 2).await }).done();
            machine.crash_after_ops(crash);
            let rounds = machine.run(async move {
                let when = format!("seed {seed}, life {life}");
                scan_all(&pool, &m, &mut dice, &when).await;
                let each = (0..VDISKS).map(|place| {
                    let (mut dice, pool, m, when) = (Random::new(dice.word()), &pool, &m, &when);
                    async move {
                        let mut rounds = 0;
                        for _ in 0..50 {
                            rounds += recycle(pool, m, place, &mut dice, when).await;
                        }
                        rounds
                    }
                });
                let each: Vec<_> = each.collect();
                let mut moving = Random::new(dice.word());
                let moves = move_house(&pool, &m, &mut moving, &when);
                let (rounds, moved) = futures_util::future::join(futures_util::future::join_all(each), moves).await;
                let rounds: u64 = rounds.into_iter().sum();
                scan_all(&pool, &m, &mut dice, &when).await;
                assert_clean(&pool, &when).await;
                (rounds, moved)
            });
            let (rounds, moved) = rounds.unless_crashed().unwrap_or((0, 0));
            (recycled, moves) = (recycled + rounds, moves + moved);
            world.crash(if random.coin() { CrashKind::Power } else { CrashKind::Process });
        }
        let machine = world.boot();
        let m = machine.clone();
        let looked = machine.run(async move {
            let (pool, when) = (open(&m, 2).await, format!("seed {seed}, after the last life"));
            scan_all(&pool, &m, &mut random, &when).await;
            assert_clean(&pool, &when).await;
        });
        looked.done();
    }
    println!("{recycled} operations and {moves} devices moved in lives that ended well, {worlds} worlds of 5 lives");
    assert!(recycled > 100 * worlds && moves > worlds / 4, "too little was recycled to mean anything");
}
