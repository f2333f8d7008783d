//! The same work through the engine: a pool on the same file, and as many tasks as operations are wanted in flight.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use plimsoll_engine::{CreatePool, CreateVdisk, Pool, Vdisk};
use plimsoll_hardware::{Frozen, Handle, Machine, OpenOptions, Reactor, ReactorConfig, SharedMemory};

use crate::meter::{Histogram, Measured, Meter, SAMPLE};
use crate::work::{EXTENT, Kind, Run};

/// Makes a pool of the file and a vdisk in it, does the work, and closes the pool.
pub(crate) fn measure(path: &Path, run: &Run) -> Result<Measured, Box<dyn Error>> {
    measure_with(path, run, 0x5a, async |_, _| Ok(()))
}

/// As [`measure`], on a reactor made like that.
pub(crate) fn measure_on(config: ReactorConfig, path: &Path, run: &Run) -> Result<Measured, Box<dyn Error>> {
    on_reactor(config, path, run, 0x5a, async |_, _| Ok(()))
}

/// As [`measure`], writing nothing but this byte, after `decide` has decided something for the pool and its vdisk `v`.
pub(crate) fn measure_with(
    path: &Path,
    run: &Run,
    byte: u8,
    decide: impl AsyncFnOnce(&Handle, &Pool<Handle>) -> Result<(), Box<dyn Error>>,
) -> Result<Measured, Box<dyn Error>> {
    on_reactor(ReactorConfig::default(), path, run, byte, decide)
}

fn on_reactor(
    config: ReactorConfig,
    path: &Path,
    run: &Run,
    byte: u8,
    decide: impl AsyncFnOnce(&Handle, &Pool<Handle>) -> Result<(), Box<dyn Error>>,
) -> Result<Measured, Box<dyn Error>> {
    let reactor = Reactor::new(config)?;
    let handle = reactor.handle();
    let (measured, memory) = reactor.block_on(async {
        let device = handle.open_device(path, OpenOptions::default()).await?;
        let spec = CreatePool { force: true, ..CreatePool::named("bench") };
        let pool = Pool::create(&handle, spec, vec![device]).await?;
        let vdisk = prepare(&pool, run).await?;
        decide(&handle, &pool).await?;
        let measured = work(&handle, &vdisk, run, byte).await?;
        let memory = pool.crash_memory();
        pool.close().await?;
        Ok::<_, Box<dyn Error>>((measured, memory))
    })?;
    drop(reactor);
    // Crash memory that nobody will ask for again.
    memory.iter().for_each(|name| drop(SharedMemory::remove(name)));
    Ok(measured)
}

/// A fresh vdisk of the size of the run's area, mapped when the work wants it so.
pub(crate) async fn prepare<M: Machine>(pool: &Pool<M>, run: &Run) -> Result<Vdisk<M>, Box<dyn Error>> {
    let spec = CreateVdisk {
        name: "v".into(),
        size: run.area,
        sector: 4096,
        write_through: false,
        policy: Default::default(),
    };
    pool.create_vdisk(spec).await?;
    if run.case.kind.is_mapped() {
        pool.fill_for_test("v", 0, run.area / EXTENT).await?;
    }
    Ok(pool.vdisk("v")?)
}

/// What the tasks share.
struct Shared {
    offsets: RefCell<crate::work::Offsets>,
    latencies: RefCell<Histogram>,
    operations: Cell<u64>,
    /// Tasks that go on, and who waits for the last of them. No timer: the ring would wait with a time-out then, which
    /// the bare loop does not.
    running: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
    began: Instant,
    time: Duration,
    stop: Cell<bool>,
    failed: RefCell<Option<plimsoll_engine::Error>>,
}

/// Does the work with `depth` tasks.
pub(crate) async fn work<M: Machine>(
    machine: &M,
    vdisk: &Vdisk<M>,
    run: &Run,
    byte: u8,
) -> Result<Measured, Box<dyn Error>> {
    let shared = Rc::new(Shared {
        offsets: RefCell::new(run.offsets()),
        latencies: RefCell::new(Histogram::new()),
        operations: Cell::new(0),
        running: Cell::new(run.case.depth),
        waiting: RefCell::default(),
        began: Instant::now(),
        time: run.time,
        stop: Cell::new(false),
        failed: RefCell::default(),
    });
    let depth = run.case.depth;
    let mut buffers = Vec::with_capacity(depth);
    for _ in 0..depth {
        let mut buffer = machine.buffers().alloc(run.case.block as usize).await;
        buffer.fill(byte);
        buffers.push(buffer);
    }
    let meter = Meter::start();
    for buffer in buffers {
        let (vdisk, shared, kind) = (vdisk.clone(), shared.clone(), run.case.kind);
        machine.spawn(async move {
            let result = match kind.writes() {
                true => write_all(&vdisk, &shared, buffer.freeze(), kind == Kind::FirstWriteFlush).await,
                false => read_all(&vdisk, &shared, buffer).await,
            };
            if let Err(error) = result {
                shared.failed.borrow_mut().get_or_insert(error);
            }
            shared.running.set(shared.running.get() - 1);
            if shared.running.get() == 0 {
                shared.waiting.borrow_mut().take().into_iter().for_each(Waker::wake);
            }
        });
    }
    poll_fn(|context| {
        *shared.waiting.borrow_mut() = Some(context.waker().clone());
        if shared.running.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if let Some(error) = shared.failed.borrow_mut().take() {
        return Err(error.into());
    }
    let measured = meter.stop(shared.operations.get(), &shared.latencies.borrow());
    Ok(measured)
}

impl Shared {
    /// The next offset, and the time when this operation is one of those that are timed.
    fn next(&self, always: bool) -> Option<(u64, Option<Instant>)> {
        if self.stop.get() {
            return None;
        }
        let timed = always || self.operations.get().is_multiple_of(SAMPLE);
        let now = timed.then(Instant::now);
        if now.is_some_and(|now| now - self.began >= self.time) {
            self.stop.set(true);
            return None;
        }
        Some((self.offsets.borrow_mut().next()?, now))
    }

    fn done(&self, began: Option<Instant>) {
        self.operations.set(self.operations.get() + 1);
        if let Some(began) = began {
            self.latencies.borrow_mut().add(began.elapsed());
        }
    }
}

async fn read_all<M: Machine>(
    vdisk: &Vdisk<M>,
    shared: &Shared,
    mut buffer: plimsoll_hardware::Buffer,
) -> plimsoll_engine::Result<()> {
    while let Some((offset, began)) = shared.next(false) {
        buffer = vdisk.read(offset, buffer).await?;
        shared.done(began);
    }
    Ok(())
}

async fn write_all<M: Machine>(
    vdisk: &Vdisk<M>,
    shared: &Shared,
    data: Frozen,
    flush: bool,
) -> plimsoll_engine::Result<()> {
    while let Some((offset, began)) = shared.next(flush) {
        vdisk.write(offset, data.clone(), false).await?;
        if flush {
            vdisk.flush().await?;
        }
        shared.done(began);
    }
    Ok(())
}
