//! What a `FileDevice` read through tasks costs over a bare io_uring loop that does the same.
//!
//! Both read 4 KiB at random offsets of one file, 32 at a time, with a registered buffer and file and the same flags.
//! They run in turns (bare, tasks, bare, ...), 2 s each, and each pair gives a ratio; the median is the claim.
//!
//! Usage: `overhead [PATH [PAIRS [buffered]]]`. Without PATH, a file of 256 MiB in /dev/shm. There the kernel hands reads
//! to worker threads, whose pace depends on the machine's other work; a cached file on disk with `buffered` is read in
//! line, by this thread alone, and shows the difference most sharply.

use std::cell::Cell;
use std::error::Error;
use std::fs::{File, OpenOptions as Files};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{EnterFlags, IoUring, opcode, types};
use plimsoll_hardware::{BufferPool, Device as _, Machine as _, OpenOptions, Reactor, ReactorConfig};

const DEPTH: usize = 32;
const BLOCK: u64 = 4096;
const RUN: Duration = Duration::from_secs(2);
const FILE_BYTES: u64 = 256 << 20;

struct Measured {
    operations: u64,
    seconds: f64,
    /// Processor time of this thread, user and system.
    user: f64,
    system: f64,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    fn cpu_us(&self) -> f64 {
        (self.user + self.system) * 1e6 / self.operations as f64
    }
}

struct Meter {
    began: Instant,
    user: f64,
    system: f64,
}

fn processor_time() -> (f64, f64) {
    // SAFETY: all zeros is a valid `rusage`, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}

impl Meter {
    fn start() -> Self {
        let (user, system) = processor_time();
        Self { began: Instant::now(), user, system }
    }

    fn stop(self, operations: u64) -> Measured {
        let (user, system) = processor_time();
        let seconds = self.began.elapsed().as_secs_f64();
        Measured { operations, seconds, user: user - self.user, system: system - self.system }
    }
}

struct Offsets {
    state: u64,
    blocks: u64,
}

impl Offsets {
    fn next(&mut self) -> u64 {
        // xorshift64: random enough for offsets, and next to nothing beside a read.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % self.blocks * BLOCK
    }
}

fn bare(path: &Path, blocks: u64, buffered: bool) -> Result<Measured, Box<dyn Error>> {
    let file = Files::new().read(true).custom_flags(if buffered { 0 } else { libc::O_DIRECT }).open(path)?;
    let pool = BufferPool::new(64 << 20)?;
    let mut ring: IoUring = IoUring::builder()
        .setup_cqsize(4096)
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(1024)?;
    let (start, bytes) = pool.region();
    // SAFETY: advice about our own mapping; the pool outlives the ring, which is dropped before it.
    unsafe {
        libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        ring.submitter().register_buffers(&[libc::iovec { iov_base: start.cast(), iov_len: bytes }])?;
    }
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut buffers = Vec::new();
    for _ in 0..DEPTH {
        buffers.push(pool.try_alloc(BLOCK as usize).ok_or("no memory")?);
    }
    let mut flags = EnterFlags::GETEVENTS;
    if ring.params().is_feature_no_iowait() {
        flags |= EnterFlags::NO_IOWAIT;
    }
    let mut offsets = Offsets { state: 88_172_645_463_325_252, blocks };
    let mut push = |ring: &mut IoUring, number: usize| {
        let entry = opcode::ReadFixed::new(types::Fixed(0), buffers[number].as_mut_ptr(), BLOCK as u32, 0)
            .offset(offsets.next())
            .build()
            .user_data(number as u64);
        // SAFETY: the buffers live until all reads have ended.
        unsafe { ring.submission().push(&entry) }
    };
    let meter = Meter::start();
    for number in 0..DEPTH {
        push(&mut ring, number)?;
    }
    let (mut operations, mut in_flight) = (0, DEPTH);
    let mut done = Vec::with_capacity(DEPTH);
    while in_flight > 0 {
        let queued = ring.submission().len() as u32;
        // SAFETY: no argument is passed and none is announced by the flags.
        unsafe { ring.submitter().enter::<()>(queued, 1, flags.bits(), None)? };
        let go_on = meter.began.elapsed() < RUN;
        done.extend(ring.completion().map(|completion| (completion.user_data(), completion.result())));
        for (number, result) in done.drain(..) {
            assert_eq!(result as u64, BLOCK);
            operations += 1;
            if go_on {
                push(&mut ring, number as usize)?;
            } else {
                in_flight -= 1;
            }
        }
    }
    let measured = meter.stop(operations);
    drop(ring);
    Ok(measured)
}

fn tasks(path: &Path, blocks: u64, buffered: bool) -> Result<Measured, Box<dyn Error>> {
    let reactor = Reactor::new(ReactorConfig::default())?;
    let handle = reactor.handle();
    reactor.block_on(async {
        let device = handle
            .open_device(path, OpenOptions { buffered, read_only: true, lock: false, ..Default::default() })
            .await?;
        let (operations, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let stop = Rc::new(Cell::new(false));
        let meter = Meter::start();
        for number in 0..DEPTH {
            let (device, machine) = (device.clone(), handle.clone());
            let (operations, ended, stop) = (operations.clone(), ended.clone(), stop.clone());
            handle.spawn(async move {
                let mut offsets = Offsets { state: 88_172_645_463_325_252 + number as u64, blocks };
                let mut buffer = machine.buffers().alloc(BLOCK as usize).await;
                while !stop.get() {
                    match device.read(offsets.next(), buffer).await {
                        Ok(back) => buffer = back,
                        Err(error) => panic!("{error}"),
                    }
                    operations.set(operations.get() + 1);
                }
                ended.set(ended.get() + 1);
            });
        }
        handle.sleep(RUN).await;
        stop.set(true);
        while ended.get() < DEPTH {
            handle.yield_now().await;
        }
        Ok(meter.stop(operations.get()))
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let given = arguments.next().map(PathBuf::from);
    let pairs = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(5);
    let buffered = arguments.next().is_some();
    let own = PathBuf::from(format!("/dev/shm/plimsoll-overhead-{}", std::process::id()));
    let path = given.clone().unwrap_or(own.clone());
    if given.is_none() {
        let mut file = File::create(&own)?;
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&[7; 1 << 20])?;
        }
    }
    let blocks = std::io::Seek::seek(&mut File::open(&path)?, std::io::SeekFrom::End(0))? / BLOCK;
    let (mut ratios, mut extra) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let (bare, tasks) = (bare(&path, blocks, buffered)?, tasks(&path, blocks, buffered)?);
        for (name, measured) in [("bare ", &bare), ("tasks", &tasks)] {
            println!(
                "{pair} {name} {:9.0} op/s  {:.3} us CPU per op (user {:.3})",
                measured.per_second(),
                measured.cpu_us(),
                measured.user * 1e6 / measured.operations as f64
            );
        }
        ratios.push(tasks.per_second() / bare.per_second());
        extra.push(tasks.cpu_us() - bare.cpu_us());
    }
    println!("ratio of operations per second, median of {pairs}: {:.3}", median(ratios));
    println!("more CPU per operation, median of {pairs}: {:.3} us", median(extra));
    if given.is_none() {
        std::fs::remove_file(&own)?;
    }
    Ok(())
}
