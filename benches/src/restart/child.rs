//! What the children do. Each prints one line of numbers when it is where it was sent.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plimsoll_engine::{CreatePool, CreateVdisk, OpenPool, Pool};
use plimsoll_hardware::{Handle, Machine as _, OpenOptions, Reactor, ReactorConfig, SharedMemory};

use crate::child::resident;
use crate::work::{Kind, Offsets};

const MIB: u64 = 1 << 20;
const EXTENTS_PER_TIB: u64 = (1 << 40) / crate::work::EXTENT;
/// Bytes that one mapping leaf covers.
const LEAF_COVERS: u64 = 512 * crate::work::EXTENT;
/// Vdisk for first writes: 64 GiB, so that their records touch two thousand leaves.
const FRESH_BYTES: u64 = 64 << 30;

/// Does what `arguments` say: a verb, the pool's file, and numbers.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [verb, path, numbers @ ..] = arguments else { return Err("a child needs a verb and a file".into()) };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let number = |index: usize| numbers.get(index).copied().ok_or("a number is missing");
    let reactor = Reactor::new(ReactorConfig::default())?;
    let handle = reactor.handle();
    let path = Path::new(path);
    reactor.block_on(async {
        match verb.as_str() {
            "fill" => fill(&handle, path, number(0)?).await,
            "open" => open(&handle, path).await,
            "write" => write(&handle, path, number(0)?).await,
            "forget" => forget(&handle, path).await,
            "memory" => memory(&handle, path, number(0)?, number(1)?).await,
            _ => Err(format!("there is no child for {verb}").into()),
        }
    })
}

/// Makes a pool and maps so many TiB; prints the seconds that took.
async fn fill(handle: &Handle, path: &Path, tebibytes: u64) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let device = handle.open_device(path, OpenOptions::default()).await?;
    let spec = CreatePool { force: true, ..CreatePool::named("large") };
    let pool = Pool::create(handle, spec, vec![device]).await?;
    for (name, size) in [("v", tebibytes << 40), ("fresh", FRESH_BYTES)] {
        let spec =
            CreateVdisk { name: name.into(), size, sector: 4096, write_through: false, policy: Default::default() };
        pool.create_vdisk(spec).await?;
    }
    pool.fill_for_test("v", 0, tebibytes * EXTENTS_PER_TIB).await?;
    pool.close().await?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}

async fn opened(handle: &Handle, path: &Path, cache_mib: u64) -> Result<Pool<Handle>, Box<dyn Error>> {
    let device = handle.open_device(path, OpenOptions::default()).await?;
    let options = OpenPool { cache_bytes: Some(cache_mib * MIB), ..OpenPool::default() };
    Ok(Pool::open(handle, options, vec![device]).await?)
}

/// Opens the pool and reads a mapped block; prints the milliseconds until then, and the records replayed from the devices and from
/// crash memory.
async fn open(handle: &Handle, path: &Path) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let pool = opened(handle, path, 1024).await?;
    let vdisk = pool.vdisk("v")?;
    vdisk.read(0, handle.buffers().alloc(4096).await).await?;
    let elapsed = began.elapsed();
    let recovery = pool.info().recovery;
    println!("{} {} {}", elapsed.as_secs_f64() * 1e3, recovery.records_replayed, recovery.from_crash_memory);
    pool.close().await?;
    Ok(())
}

/// Opens the pool and writes so many blocks for the first time; prints their number, and of how many there is certainly nothing but the
/// journal to know of; goes on until it is killed.
async fn write(handle: &Handle, path: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let pool = opened(handle, path, 1024).await?;
    if pool.vdisk("fresh").is_ok() {
        pool.delete_vdisk("fresh").await?;
        while pool.vdisk("fresh").is_ok() || pool.vdisks().len() > 1 {
            handle.sleep(Duration::from_millis(5)).await;
        }
    }
    let spec = CreateVdisk {
        name: "fresh".into(),
        size: FRESH_BYTES,
        sector: 4096,
        write_through: false,
        policy: Default::default(),
    };
    pool.create_vdisk(spec).await?;
    pool.checkpoint_for_test().await?;
    let vdisk = pool.vdisk("fresh")?;
    let done = Rc::new(Cell::new(0u64));
    let offsets = Rc::new(std::cell::RefCell::new(Offsets::new(Kind::FirstWrite, FRESH_BYTES, 4096, 1)));
    for _ in 0..32 {
        let (vdisk, done, offsets) = (vdisk.clone(), done.clone(), offsets.clone());
        let mut buffer = handle.buffers().alloc(4096).await;
        buffer.fill(1);
        let data = buffer.freeze();
        handle.spawn(async move {
            while let Some(offset) = { offsets.borrow_mut().next() } {
                if done.get() >= count || vdisk.write(offset, data.clone(), false).await.is_err() {
                    return;
                }
                done.set(done.get() + 1);
            }
        });
    }
    let checkpoints = || pool.info().counters.checkpoints;
    let (mut seen, mut covered) = (checkpoints(), 0);
    while done.get() < count {
        handle.sleep(Duration::from_millis(1)).await;
        if checkpoints() != seen {
            (seen, covered) = (checkpoints(), done.get());
        }
    }
    println!("{} {}", done.get(), done.get() - covered);
    loop {
        handle.sleep(Duration::from_secs(1)).await;
    }
}

/// Brings every mapping leaf into memory; prints the MiB that this took.
async fn memory(handle: &Handle, path: &Path, tebibytes: u64, cache_mib: u64) -> Result<(), Box<dyn Error>> {
    let pool = opened(handle, path, cache_mib).await?;
    let vdisk = pool.vdisk("v")?;
    let mut buffer = handle.buffers().alloc(4096).await;
    let before = resident()?;
    for leaf in 0..(tebibytes << 40) / LEAF_COVERS {
        buffer = vdisk.read(leaf * LEAF_COVERS, buffer).await?;
    }
    println!("{}", (resident()? - before) as f64 / MIB as f64);
    pool.close().await?;
    Ok(())
}

/// Removes the pool's crash memory: its file goes next.
async fn forget(handle: &Handle, path: &Path) -> Result<(), Box<dyn Error>> {
    let pool = opened(handle, path, 64).await?;
    let memory = pool.crash_memory();
    pool.close().await?;
    memory.iter().try_for_each(|name| SharedMemory::remove(name))?;
    println!("1");
    Ok(())
}
