//! What needs no space: the cost of looking for it in data, the gain where it is found, and how fast a reclaim looks through a vdisk.
//!
//! Cost: the same writes of data to a device of memory and to files with detection off (A) and on (B); what B costs more is the
//! looking. Gain: writes of data (A) and of zeros (B) over a mapped vdisk. Reclaim: a raw sequential read of the file (A) and the
//! scan (B), bytes per second.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll_engine::{CreatePool, JobState, Pool, ReclaimSpec};
use plimsoll_hardware::{Machine, OpenOptions, Reactor, ReactorConfig, SharedMemory};

use crate::area::Area;
use crate::memory::{self, MemoryDevice, MemoryMachine};
use crate::meter::Measured;
use crate::options::Options;
use crate::pairs::Line;
use crate::report::Report;
use crate::work::{CASES, Case, EXTENT, Kind, Run};
use crate::{bare, engine, pairs};

/// Memory behind the device of memory.
const MEMORY: u64 = 256 << 20;
/// Writes looked through, of these kinds.
const LOOKED_THROUGH: [&str; 2] = ["4k overwrite qd32", "128k sequential write qd8"];
/// What looking for zeros and patterns may cost writes of data, in per cent of their processor time.
const LOOKING_PCT_MAX: f64 = 5.0;
/// As a reclaim reads: eight stretches of 1 MiB.
const RAW: Case = Case { name: "raw", kind: Kind::SequentialRead, block: 1 << 20, depth: 8, goal: None };

/// Measures all of it.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for name in LOOKED_THROUGH {
        let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such case")?;
        let area = MEMORY / 16 * 15 / EXTENT * EXTENT;
        let run = |seed| Run { case: *case, area, time: options.time(), operations: u64::MAX, seed };
        let measured =
            pairs::measure(options.pairs, |pair| in_memory(&run(pair), false), |pair| in_memory(&run(pair), true))?;
        let line = Line::new("fill", "memory", name, "no looking", measured);
        let more = (1.0 / line.per_cpu_ratio - 1.0) * 100.0;
        report.line(line);
        let what = format!("memory: {name}: looking costs of CPU");
        report.figure("fill", what, more, "%", Some(LOOKING_PCT_MAX));
    }
    for (place, directory) in options.places() {
        let area = Area::written(&directory, "fill", options.bytes())?;
        let touched = options.bytes() / 16 * 15 / EXTENT * EXTENT;
        for name in LOOKED_THROUGH {
            let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such case")?;
            let run = |seed| Run { case: *case, area: touched, time: options.time(), operations: u64::MAX, seed };
            let looking = |seed, on| {
                engine::measure_with(area.path(), &run(seed), 0x5a, async move |_, pool| {
                    pool.set_detection("v", Some(on), Some(on)).await?;
                    Ok(())
                })
            };
            let measured = pairs::measure(options.pairs, |pair| looking(pair, false), |pair| looking(pair, true))?;
            let line = Line::new("fill", place, name, "no looking", measured);
            let more = (1.0 / line.per_cpu_ratio - 1.0) * 100.0;
            report.line(line);
            report.figure("fill", format!("{place}: {name}: looking costs of CPU"), more, "%", Some(LOOKING_PCT_MAX));
            let measured = pairs::measure(
                options.pairs,
                |pair| engine::measure(area.path(), &run(pair)),
                |pair| engine::measure_with(area.path(), &run(pair), 0, async |_, _| Ok(())),
            )?;
            report.line(Line::new("fill", place, &format!("zeros, {name}"), "data", measured));
        }
        let run = |seed| Run { case: RAW, area: touched, time: options.time(), operations: u64::MAX, seed };
        let mut ratios = Vec::new();
        for pair in 0..options.pairs {
            let raw = bare::measure(area.path(), &run(pair))?.per_second * (1 << 20) as f64;
            ratios.push(scan(area.path(), touched)? / raw);
        }
        let ratio = pairs::median(ratios.into_iter());
        report.figure(
            "fill",
            format!("{place}: raw sequential read against a reclaim's scan"),
            1.0 / ratio,
            "times",
            Some(1.25),
        );
        let name = "4k random read qd32";
        let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such case")?;
        let (mut rates, mut reads) = (Vec::new(), Vec::new());
        for seed in 0..options.pairs {
            let run = Run { case: *case, area: touched, time: options.time(), operations: u64::MAX, seed };
            let (rate, before, after) = compaction(area.path(), touched, &run)?;
            rates.push(rate / (1 << 20) as f64);
            reads.push((before, after));
        }
        report.figure("fill", format!("{place}: compaction frees"), pairs::median(rates.into_iter()), "MiB/s", None);
        report.line(Line::new("fill", place, &format!("compacted, {name}"), "not compacted", reads));
    }
    Ok(())
}

/// The work through a pool on a device of memory, with writes looked through or not.
fn in_memory(run: &Run, detection: bool) -> Result<Measured, Box<dyn Error>> {
    let machine = MemoryMachine::new()?;
    let device = MemoryDevice::new(MEMORY, MEMORY);
    machine.clone().run(async move {
        let pool = Pool::create(&machine, CreatePool::named("bench"), vec![device]).await?;
        let vdisk = engine::prepare(&pool, run).await?;
        pool.set_detection("v", Some(detection), Some(detection)).await?;
        memory::writes(&machine, &vdisk, run).await
    })
}

/// Half of each extent was given up: bytes per second that come free by putting them together, and reads of a block before
/// and after it.
fn compaction(path: &Path, bytes: u64, run: &Run) -> Result<(f64, Measured, Measured), Box<dyn Error>> {
    let reactor = Reactor::new(ReactorConfig::default())?;
    let handle = reactor.handle();
    let (result, memory) = reactor.block_on(async {
        let device = handle.open_device(path, OpenOptions::default()).await?;
        let spec = CreatePool { force: true, ..CreatePool::named("bench") };
        let pool = Pool::create(&handle, spec, vec![device]).await?;
        let mapped = Run { case: RAW, area: bytes, time: Duration::MAX, operations: 0, seed: 1 };
        let vdisk = engine::prepare(&pool, &mapped).await?;
        for half in 0..bytes / (EXTENT / 2) {
            vdisk.discard((half / 2 * EXTENT) + (half % 2) * (EXTENT / 2), EXTENT / 4, false).await?;
        }
        vdisk.flush().await?;
        let before = engine::work(&handle, &vdisk, run, 0x5a).await?;
        let began = Instant::now();
        let job = pool.compact()?.id;
        while pool.jobs().iter().any(|known| known.id == job && known.state == JobState::Running) {
            handle.sleep(Duration::from_millis(1)).await;
        }
        let rate = pool.info().counters.packed_bytes as f64 / began.elapsed().as_secs_f64();
        let after = engine::work(&handle, &vdisk, run, 0x5a).await?;
        let memory = pool.crash_memory();
        pool.close().await?;
        Ok::<_, Box<dyn Error>>(((rate, before, after), memory))
    })?;
    drop(reactor);
    // Crash memory that nobody will ask for again.
    memory.iter().for_each(|name| drop(SharedMemory::remove(name)));
    Ok(result)
}

/// Bytes per second that a reclaim of a whole mapped vdisk looks through.
fn scan(path: &Path, bytes: u64) -> Result<f64, Box<dyn Error>> {
    let reactor = Reactor::new(ReactorConfig::default())?;
    let handle = reactor.handle();
    let (rate, memory) = reactor.block_on(async {
        let device = handle.open_device(path, OpenOptions::default()).await?;
        let spec = CreatePool { force: true, ..CreatePool::named("bench") };
        let pool = Pool::create(&handle, spec, vec![device]).await?;
        let run = Run { case: RAW, area: bytes, time: Duration::MAX, operations: 0, seed: 1 };
        engine::prepare(&pool, &run).await?;
        let began = Instant::now();
        pool.reclaim("v", ReclaimSpec::default()).await?;
        let info = loop {
            match pool.reclaim_info("v")? {
                Some(info) if !info.running => break info,
                _ => handle.sleep(Duration::from_millis(1)).await,
            }
        };
        let rate = info.scanned_bytes as f64 / began.elapsed().as_secs_f64();
        let memory = pool.crash_memory();
        pool.close().await?;
        Ok::<_, Box<dyn Error>>((rate, memory))
    })?;
    drop(reactor);
    // Crash memory that nobody will ask for again.
    memory.iter().for_each(|name| drop(SharedMemory::remove(name)));
    Ok(rate)
}
