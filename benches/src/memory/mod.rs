//! A device of memory on a machine without a kernel: what is left of an operation is the engine's own cost.
//!
//! Operations end at once, so nothing ever waits for I/O. Where the device is larger than its memory, its middle shows
//! the same bytes over and over: only the mapping is real then, which is what is looked at.

mod device;
mod machine;

pub(crate) use device::MemoryDevice;
pub(crate) use machine::MemoryMachine;

use std::error::Error;
use std::time::Instant;

use plimsoll_engine::{CreatePool, Pool, Vdisk};
use plimsoll_hardware::{Device as _, Durability, Machine};

use crate::engine;
use crate::meter::{Histogram, Measured, Meter, SAMPLE};
use crate::work::{Kind, Run};

/// Memory behind a device.
const WINDOW: u64 = 256 << 20;

/// Writes of data by one task, for as long as the run lasts; none of them is timed by itself.
pub(crate) async fn writes(
    machine: &MemoryMachine,
    vdisk: &Vdisk<MemoryMachine>,
    run: &Run,
) -> Result<Measured, Box<dyn Error>> {
    let mut buffer = machine.buffers().alloc(run.case.block as usize).await;
    buffer.fill(0x5a);
    let (data, mut offsets, mut operations) = (buffer.freeze(), run.offsets(), 0u64);
    let meter = Meter::start();
    while let Some(offset) = offsets.next() {
        if operations.is_multiple_of(64) && meter.began.elapsed() >= run.time {
            break;
        }
        vdisk.write(offset, data.clone(), false).await?;
        operations += 1;
    }
    Ok(meter.stop(operations, &Histogram::new()))
}

/// Does the work on the device itself.
pub(crate) fn bare(size: u64, run: &Run) -> Result<Measured, Box<dyn Error>> {
    let machine = MemoryMachine::new()?;
    let device = MemoryDevice::new(size, WINDOW);
    machine.clone().run(async move {
        let mut buffer = machine.buffers().alloc(run.case.block as usize).await;
        buffer.fill(0x5a);
        let (mut offsets, mut latencies, mut operations) = (run.offsets(), Histogram::new(), 0u64);
        let meter = Meter::start();
        if run.case.kind.writes() {
            let data = buffer.freeze();
            while let Some((offset, began)) = next(&mut offsets, operations, &meter, run) {
                device.write(offset, data.clone(), Durability::Cached).await?;
                operations += 1;
                began.into_iter().for_each(|began| latencies.add(began.elapsed()));
            }
        } else {
            while let Some((offset, began)) = next(&mut offsets, operations, &meter, run) {
                buffer = device.read(offset, buffer).await?;
                operations += 1;
                began.into_iter().for_each(|began| latencies.add(began.elapsed()));
            }
        }
        Ok(meter.stop(operations, &latencies))
    })
}

/// Does the work through a pool on the device.
pub(crate) fn through_engine(size: u64, run: &Run) -> Result<Measured, Box<dyn Error>> {
    let machine = MemoryMachine::new()?;
    let device = MemoryDevice::new(size, WINDOW);
    machine.clone().run(async move {
        let pool = Pool::create(&machine, CreatePool::named("bench"), vec![device]).await?;
        let vdisk = engine::prepare(&pool, run).await?;
        let mut buffer = machine.buffers().alloc(run.case.block as usize).await;
        buffer.fill(0x5a);
        let (mut offsets, mut latencies, mut operations) = (run.offsets(), Histogram::new(), 0u64);
        let meter = Meter::start();
        if run.case.kind.writes() {
            let data = buffer.freeze();
            while let Some((offset, began)) = next(&mut offsets, operations, &meter, run) {
                vdisk.write(offset, data.clone(), false).await?;
                if run.case.kind == Kind::FirstWriteFlush {
                    vdisk.flush().await?;
                }
                operations += 1;
                began.into_iter().for_each(|began| latencies.add(began.elapsed()));
            }
        } else {
            while let Some((offset, began)) = next(&mut offsets, operations, &meter, run) {
                buffer = vdisk.read(offset, buffer).await?;
                operations += 1;
                began.into_iter().for_each(|began| latencies.add(began.elapsed()));
            }
        }
        Ok(meter.stop(operations, &latencies))
    })
}

/// The next offset while there is time, and the time of operations that are timed. The clock is asked rarely.
fn next(
    offsets: &mut crate::work::Offsets,
    operations: u64,
    meter: &Meter,
    run: &Run,
) -> Option<(u64, Option<Instant>)> {
    if operations >= run.operations {
        return None;
    }
    let began = operations.is_multiple_of(8 * SAMPLE).then(Instant::now);
    if began.is_some_and(|now| now - meter.began >= run.time) {
        return None;
    }
    Some((offsets.next()?, began))
}
