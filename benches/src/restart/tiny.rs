//! Opening a tiny pool in the simulated machine after a power cut: the engine's own part of every simulated crash, of which there are to
//! be a million.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Instant;

use plimsoll_engine::{CreatePool, CreateVdisk, OpenPool, Pool};
use plimsoll_hardware::Machine as _;
use plimsoll_hardware::sim::{CrashKind, SimDiskSpec, SimWorld};

use crate::pairs::median;
use crate::report::Report;

/// Longest opening wanted, in milliseconds: a million in ten minutes on two cores, with the work and the check between two.
const OPEN_MS_MAX: f64 = 1.0;
const POOL_MIB: u64 = 16;
const WRITES: u64 = 100;
const OPENINGS: u64 = 200;

/// Measures the median of many openings, each of another crash of the same work.
pub(super) fn measure(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    for seed in 0..OPENINGS {
        let world = SimWorld::new(seed, vec![SimDiskSpec::new("disk", POOL_MIB << 20)]);
        let machine = world.boot();
        let of_work = machine.clone();
        machine.run(async move { work(&of_work).await.map_err(|error| error.to_string()) }).done()?;
        world.crash(CrashKind::Power);
        let machine = world.boot();
        let (of_open, took) = (machine.clone(), Rc::new(Cell::new(0.0)));
        let told = took.clone();
        let open = async move {
            let device = of_open.open(0);
            let began = Instant::now();
            let pool =
                Pool::open(&of_open, OpenPool::default(), vec![device]).await.map_err(|error| error.to_string())?;
            told.set(began.elapsed().as_secs_f64() * 1e3);
            // Else it is not an opening after a crash that was measured.
            let replayed = pool.info().recovery.records_replayed;
            if replayed == 0 { Err("nothing was replayed".to_owned()) } else { Ok(()) }
        };
        machine.run(open).done()?;
        times.push(took.get());
    }
    let name = format!("{POOL_MIB} MiB, simulated machine: open after a power cut at {WRITES} first writes");
    report.figure("restart", name, median(times.into_iter()), "ms", Some(OPEN_MS_MAX));
    Ok(())
}

async fn work(machine: &plimsoll_hardware::sim::SimMachine) -> Result<(), plimsoll_engine::Error> {
    let pool = Pool::create(machine, CreatePool::named("tiny"), vec![machine.open(0)]).await?;
    let (name, size) = ("v".into(), 1 << 30);
    pool.create_vdisk(CreateVdisk { name, size, sector: 4096, write_through: false, policy: Default::default() })
        .await?;
    let vdisk = pool.vdisk("v")?;
    for extent in 0..WRITES {
        let mut buffer = machine.buffers().alloc(4096).await;
        buffer.fill(1);
        vdisk.write(extent * crate::work::EXTENT, buffer.freeze(), false).await?;
    }
    vdisk.flush().await
}
