//! Every page that a pool of some thousand extents keeps about itself is damaged in turn, in one copy: nothing is lost, and a
//! check mends it. The pool was not closed, so the rings count as well. Pages lost in both copies are the matter of
//! `engine/tests/pools/damage.rs`.

use std::rc::Rc;

use super::pattern::{SECTOR, Seen, fill, look};
use plimsoll_engine::{CreatePool, CreateVdisk, OpenPool, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimMachine, SimWorld};

const PAGE: u64 = 4096;
const DEVICES: usize = 2;
const DEVICE_BYTES: u64 = 96 << 20;
/// Leaves of 32 MiB, and extents of 64 KiB in each that are written.
const LEAVES: u64 = 60;
const EXTENTS: u64 = 36;
/// Of them written after the last checkpoint.
const FRESH: u64 = 2;

/// Where the data of an extent lies in the vdisk.
fn place(leaf: u64, extent: u64) -> u64 {
    leaf * (32 << 20) + extent * 7 * 65_536
}

fn devices(machine: &SimMachine) -> Vec<plimsoll_hardware::sim::SimDevice> {
    (0..DEVICES).map(|index| machine.open(index)).collect()
}

async fn write(pool: &Pool<SimMachine>, machine: &SimMachine, extents: std::ops::Range<u64>) {
    let disk = pool.vdisk("a").expect("the vdisk");
    for extent in extents {
        for leaf in 0..LEAVES {
            let at = place(leaf, extent);
            let mut buffer = machine.buffers().alloc(PAGE as usize).await;
            fill(&mut buffer, 1, at / SECTOR, 1 + extent as u32);
            disk.write(at, buffer.freeze(), false).await.expect("a write");
        }
    }
    disk.flush().await.expect("a flush");
}

/// A pool with thousands of extents and a journal that counts, after a power loss.
fn prepared() -> SimWorld {
    let specs = (0..DEVICES).map(|index| SimDiskSpec::new(&format!("disk{index}"), DEVICE_BYTES)).collect();
    let world = SimWorld::new(77, specs);
    let machine = world.boot();
    let shared = machine.clone();
    machine
        .run(async move {
            let pool = Pool::create(&shared, CreatePool::named("tank"), devices(&shared)).await.expect("a pool");
            let spec = CreateVdisk {
                name: "a".into(),
                size: 1 << 50,
                sector: 512,
                write_through: false,
                policy: Default::default(),
            };
            pool.create_vdisk(spec).await.expect("a vdisk");
            write(&pool, &shared, 0..EXTENTS - FRESH).await;
            assert!(pool.check().await.expect("a check").clean());
            write(&pool, &shared, EXTENTS - FRESH..EXTENTS).await;
        })
        .done();
    world.crash(CrashKind::Power);
    world
}

/// What is on the disks and is neither zeros nor the vdisk's.
fn own_pages(world: &SimWorld) -> Vec<(usize, u64)> {
    let world = world.fork();
    let places = (0..DEVICES).flat_map(|disk| (0..DEVICE_BYTES).step_by(PAGE as usize).map(move |page| (disk, page)));
    places
        .filter(|&(disk, page)| {
            let bytes = world.read_raw(disk, page, PAGE);
            bytes.chunks_exact(SECTOR as usize).any(|sector| matches!(look(sector), Seen::Garbage(_)))
        })
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit,
    ZeroSector,
    ZeroPage,
    NoisePage,
    Swap,
}

fn damage(world: &SimWorld, kind: Damage, (disk, page): (usize, u64), other: u64) {
    match kind {
        Damage::Bit => world.flip_bit(disk, page + page / PAGE % PAGE, (page / PAGE % 8) as u8),
        Damage::ZeroSector => world.write_raw(disk, page + page / PAGE % 8 * SECTOR, &[0; SECTOR as usize]),
        Damage::ZeroPage => world.write_raw(disk, page, &[0; PAGE as usize]),
        Damage::NoisePage => world.scribble(disk, page, PAGE),
        Damage::Swap => world.swap(disk, page, other, PAGE),
    }
}

/// A page of the same disk to swap with the one at `index`: neither itself nor one that holds the same.
fn partner(world: &SimWorld, pages: &[(usize, u64)], index: usize) -> u64 {
    let (disk, page) = pages[index];
    let own = world.read_raw(disk, page, PAGE);
    let from = index * 31 + 7;
    let mut others = (from..from + pages.len()).map(|index| pages[index % pages.len()]);
    let other = others.find(|other| other.0 == disk && world.read_raw(disk, other.1, PAGE) != own);
    other.expect("another page").1
}

/// Opens, reads all data, checks twice.
async fn nothing_is_lost(machine: SimMachine, when: Rc<str>) {
    let pool = Pool::open(&machine, OpenPool::default(), devices(&machine)).await;
    let pool = pool.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(pool.info().read_only.is_none(), "{when}: read-only, {:?}", pool.info().recovery);
    let disk = pool.vdisk("a").unwrap_or_else(|error| panic!("{when}: {error}"));
    for leaf in 0..LEAVES {
        for extent in 0..EXTENTS {
            let at = place(leaf, extent);
            let read = disk.read(at, machine.buffers().alloc(PAGE as usize).await).await;
            let read = read.unwrap_or_else(|error| panic!("{when}: {at} cannot be read: {error}"));
            for (index, sector) in read.chunks_exact(SECTOR as usize).enumerate() {
                let expected =
                    Seen::Written { owner: 1, sector: at / SECTOR + index as u64, version: 1 + extent as u32 };
                assert_eq!(look(sector), expected, "{when}: at {at}");
            }
        }
    }
    let first = pool.check().await.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(!first.lost(), "{when}: {:#?}", first.findings);
    pool.close().await.unwrap_or_else(|error| panic!("{when}: {error}"));
    drop((disk, pool));
    let pool = Pool::open(&machine, OpenPool::default(), devices(&machine)).await;
    let pool = pool.unwrap_or_else(|error| panic!("{when}, after a close: {error}"));
    let second = pool.check().await.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(second.clean(), "{when}: the first check found {:#?}, the second {:#?}", first.findings, second.findings);
}

/// Damages every page in one copy, in one way or in all of them if `every_way`, and says how much was done.
///
/// # Panics
/// When something is lost or is not mended.
pub fn every_page_in_one_copy(every_way: bool) -> String {
    let base = prepared();
    let pages = own_pages(&base);
    assert!(pages.len() > 150, "only {} pages were found", pages.len());
    let mut damages = 0;
    for (index, &page) in pages.iter().enumerate() {
        let kinds = [Damage::Bit, Damage::ZeroSector, Damage::ZeroPage, Damage::NoisePage, Damage::Swap];
        for (number, kind) in kinds.into_iter().enumerate() {
            if !every_way && number != index % kinds.len() {
                continue;
            }
            let world = base.fork();
            damage(&world, kind, page, partner(&world, &pages, index));
            let machine = world.boot();
            let when = format!("{kind:?} at {:#x} of disk {}", page.1, page.0).into();
            machine.run(nothing_is_lost(machine.clone(), when)).done();
            damages += 1;
        }
    }
    format!("{} extents, {} pages, {damages} damages", LEAVES * EXTENTS, pages.len())
}
