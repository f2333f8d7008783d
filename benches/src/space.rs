//! What promises and events cost a first write, and how soon held writes go on.
//!
//! Cost: first writes to a device of memory with nothing decided (A), and with reservation, quota, tenant, levels and times to full
//! in force and somebody listening (B); and these against the bare device, where they must reach what first writes must. Resume: many
//! writes of many vdisks wait in a full pool; space comes; how long until each is answered, from the moment that whoever made the space
//! was answered, and from when it asked; beside it, how long as many writes take the bare device.

use std::cell::RefCell;
use std::error::Error;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plimsoll_engine::{AlarmState, CreatePool, CreateVdisk, Levels, OnFull, Pool, PoolPolicy, VdiskPolicy};
use plimsoll_hardware::{Machine, OpenOptions, Reactor, ReactorConfig, SharedMemory};

use crate::area::Area;
use crate::memory::{self, MemoryDevice, MemoryMachine};
use crate::meter::{Histogram, Measured};
use crate::options::Options;
use crate::pairs::{self, Line};
use crate::report::Report;
use crate::work::{CASES, EXTENT, Run};

/// Memory behind the device of memory.
const MEMORY: u64 = 256 << 20;
/// The pool that fills, and what is added to it.
const POOL_BYTES: u64 = 1 << 30;
const ADDED_BYTES: u64 = 256 << 20;
/// Writes that wait, and their vdisks: the figures of the promise.
const HELD: u64 = 1_000;
const VDISKS: u64 = 100;
/// Longest wait for the answer of a held write at the 99th percentile, in milliseconds.
const RESUME_MS_MAX: f64 = 10.0;

/// Most processor time that all of that may add to a first write, in microseconds: what the engine may add to the device at all where
/// space is mapped.
const PROMISES_US_MAX: f64 = 0.2;

/// How space comes.
#[derive(Clone, Copy)]
enum Relief {
    Device,
    Discard,
}

/// Measures all of it.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let name = "4k first write qd32";
    let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such case")?;
    let area = MEMORY / 16 * 15 / EXTENT * EXTENT;
    let run = |seed| Run { case: *case, area, time: options.time(), operations: u64::MAX, seed };
    let measured =
        pairs::measure(options.pairs, |pair| first_writes(&run(pair), false), |pair| first_writes(&run(pair), true))?;
    let line = Line::new("space", "memory", name, "no promises", measured);
    let more = line.more_cpu_us;
    report.line(line);
    report.figure("space", format!("memory: {name}: promises and events cost"), more, "us", Some(PROMISES_US_MAX));
    for (place, directory) in options.places() {
        let area = Area::written(&directory, "space", POOL_BYTES)?;
        let more = Area::written(&directory, "space-more", ADDED_BYTES)?;
        let run =
            |seed| Run { case: *case, area: POOL_BYTES / 16 * 15, time: options.time(), operations: u64::MAX, seed };
        let measured = pairs::measure(
            options.pairs,
            |pair| crate::bare::measure(area.path(), &run(pair)),
            |pair| {
                let run = run(pair);
                crate::engine::measure_with(area.path(), &run, 0x5a, async |machine, pool| {
                    decide(machine, pool, &run, true).await
                })
            },
        )?;
        report.line(Line::new("space", place, &format!("promises, {name}"), "io_uring", measured).judged(case));
        for (relief, how) in [(Relief::Device, "device added"), (Relief::Discard, "discard")] {
            let (mut answered, mut asked) = (Histogram::new(), Histogram::new());
            for _ in 0..options.pairs {
                resume(area.path(), more.path(), relief, (&mut answered, &mut asked))?;
            }
            let name = |part| format!("{place}: {HELD} held writes of {VDISKS} vdisks, {how}, {part}");
            report.figure("space", name("p50"), answered.percentile(0.50) / 1e3, "ms", None);
            report.figure("space", name("p99"), answered.percentile(0.99) / 1e3, "ms", Some(RESUME_MS_MAX));
            report.figure("space", name("p99 from the command"), asked.percentile(0.99) / 1e3, "ms", None);
        }
        let run = |seed| Run { case: *case, area: ADDED_BYTES, time: options.time(), operations: HELD, seed };
        let bare = (0..options.pairs).map(|pair| crate::bare::measure(more.path(), &run(pair)));
        let rates = bare.collect::<Result<Vec<_>, _>>()?.into_iter().map(|measured| measured.per_second);
        let all = HELD as f64 / pairs::median(rates) * 1e3;
        report.figure("space", format!("{place}: {HELD} writes of the bare device"), all, "ms", None);
    }
    Ok(())
}

/// First writes through a pool on a device of memory, with or without promises.
fn first_writes(run: &Run, promises: bool) -> Result<Measured, Box<dyn Error>> {
    let machine = MemoryMachine::new()?;
    let device = MemoryDevice::new(MEMORY, MEMORY);
    machine.clone().run(async move {
        let pool = Pool::create(&machine, CreatePool::named("bench"), vec![device]).await?;
        let vdisk = crate::engine::prepare(&pool, run).await?;
        decide(&machine, &pool, run, promises).await?;
        let measured = memory::writes(&machine, &vdisk, run).await?;
        pool.close().await?;
        Ok(measured)
    })
}

/// Promises something to the vdisk `v` and listens to what is told; or promises and tells nothing.
async fn decide<M: Machine>(machine: &M, pool: &Pool<M>, run: &Run, promises: bool) -> Result<(), Box<dyn Error>> {
    if promises {
        let policy = VdiskPolicy {
            tenant: Some("acme".into()),
            reservation: run.area / 2,
            quota: Some(run.area * 2),
            ..VdiskPolicy::default()
        };
        pool.set_vdisk_policy("v", policy).await?;
        let listener = pool.clone();
        machine.spawn(async move { while !listener.events().await.is_empty() {} });
    } else {
        let off = PoolPolicy { levels: Levels::Off, horizons: Some(Vec::new()), ..PoolPolicy::default() };
        pool.set_policy(off).await?;
        let policy = VdiskPolicy { levels: Levels::Off, quota_levels: Levels::Off, ..VdiskPolicy::default() };
        pool.set_vdisk_policy("v", policy).await?;
    }
    pool.arm(&AlarmState::default());
    Ok(())
}

/// Fills a pool, lets [`HELD`] writes wait in it, makes space, and adds how long each still took, from the answer and from the question.
fn resume(
    path: &Path,
    more: &Path,
    relief: Relief,
    (from_answer, from_question): (&mut Histogram, &mut Histogram),
) -> Result<(), Box<dyn Error>> {
    let reactor = Reactor::new(ReactorConfig::default())?;
    let handle = reactor.handle();
    let (ends, asked, relieved, memory) = reactor.block_on(async {
        let device = handle.open_device(path, OpenOptions::default()).await?;
        let spec = CreatePool { force: true, ..CreatePool::named("bench") };
        let pool = Pool::create(&handle, spec, vec![device]).await?;
        let policy = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(60)), ..VdiskPolicy::default() };
        let create =
            |name: String, size| CreateVdisk { name, size, sector: 4096, write_through: false, policy: policy.clone() };
        pool.create_vdisk(create("full".into(), POOL_BYTES)).await?;
        for vdisk in 0..VDISKS {
            pool.create_vdisk(create(format!("v{vdisk}"), 1 << 30)).await?;
        }
        pool.fill_for_test("full", 0, pool.info().available_bytes / EXTENT).await?;
        let mut buffer = handle.buffers().alloc(4096).await;
        buffer.fill(0x5a);
        let data = buffer.freeze();
        let ends: Rc<RefCell<Vec<Instant>>> = Rc::default();
        let failed: Rc<RefCell<Option<plimsoll_engine::Error>>> = Rc::default();
        for write in 0..HELD {
            let vdisk = pool.vdisk(&format!("v{}", write % VDISKS))?;
            let (data, ends, failed) = (data.clone(), ends.clone(), failed.clone());
            handle.spawn(async move {
                match vdisk.write(write / VDISKS * EXTENT, data, false).await {
                    Ok(()) => ends.borrow_mut().push(Instant::now()),
                    Err(error) => drop(failed.borrow_mut().get_or_insert(error)),
                }
            });
        }
        let began = Instant::now();
        while pool.info().held_writes + (ends.borrow().len() as u64) < HELD {
            if began.elapsed() > Duration::from_secs(30) {
                return Err(format!("only {} writes came to be held", pool.info().held_writes).into());
            }
            handle.sleep(Duration::from_millis(1)).await;
        }
        let early = ends.borrow_mut().drain(..).count();
        if early as u64 > HELD / 10 {
            return Err(format!("{early} of {HELD} writes found space in a full pool").into());
        }
        let asked = Instant::now();
        match relief {
            Relief::Device => {
                let device = handle.open_device(more, OpenOptions::default()).await?;
                pool.add_device(device, true).await?;
            }
            Relief::Discard => pool.vdisk("full")?.discard(0, ADDED_BYTES, false).await?,
        }
        let relieved = Instant::now();
        while pool.info().held_writes > 0 || ends.borrow().len() < HELD as usize - early {
            if let Some(error) = failed.borrow_mut().take() {
                return Err(error.into());
            }
            if relieved.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} of {HELD} writes went on; {:?}", ends.borrow().len(), pool.info()).into());
            }
            handle.sleep(Duration::from_millis(1)).await;
        }
        let memory = pool.crash_memory();
        pool.close().await?;
        Ok::<_, Box<dyn Error>>((ends.take(), asked, relieved, memory))
    })?;
    drop(reactor);
    // Crash memory that nobody will ask for again.
    memory.iter().for_each(|name| drop(SharedMemory::remove(name)));
    for end in ends {
        from_answer.add(end.saturating_duration_since(relieved));
        from_question.add(end.saturating_duration_since(asked));
    }
    Ok(())
}
