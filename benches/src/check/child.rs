//! What the children do. Each prints one line of numbers.

use std::error::Error;
use std::fs::File;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use plimsoll_engine::{OpenPool, Pool};
use plimsoll_hardware::{Device as _, Handle, IoError, Machine as _, OpenOptions, Reactor, ReactorConfig};
use rustix::fs::{SeekFrom, seek};

use super::counted::{Counted, CountedDevice};
use crate::child::{forget_peak, peak, resident};

/// As `plimsoll pool check` without a daemon has it.
const CACHE_BYTES: u64 = 256 << 20;
/// Of a raw read. Larger ones are no faster.
const BLOCK: u64 = 256 << 10;
/// Raw reads at the same time.
const DEPTH: usize = 8;

/// Does what `arguments` say: a verb, the pool's file, and a number.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [verb, path, rest @ ..] = arguments else { return Err("a child needs a verb and a file".into()) };
    let reactor = Reactor::new(ReactorConfig::default())?;
    let (handle, path) = (reactor.handle(), Path::new(path));
    reactor.block_on(async {
        match (verb.as_str(), rest) {
            ("check-pool", []) => check(&handle, path).await,
            ("check-raw", [bytes]) => raw(&handle, path, bytes.parse()?).await,
            _ => Err(format!("there is no child for {verb}").into()),
        }
    })
}

fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..OpenOptions::default() }
}

/// Opens the pool to look at it and checks it; prints the seconds that took, the bytes read, the pages of metadata of which these were
/// copies, and the bytes of memory that the check took beyond the open pool.
async fn check(handle: &Handle, path: &Path) -> Result<(), Box<dyn Error>> {
    let (device, read) = CountedDevice::new(handle.open_device(path, read_only()).await?);
    let options = OpenPool { inspect: true, cache_bytes: Some(CACHE_BYTES), ..OpenPool::default() };
    let pool = Pool::open(&Counted(handle.clone()), options, vec![device]).await?;
    forget_peak()?;
    let (resident, before, began) = (resident()?, read.get(), Instant::now());
    let report = pool.check().await?;
    let took = began.elapsed().as_secs_f64();
    if !report.clean() {
        return Err(format!("the check found {:?}", report.findings.first()).into());
    }
    println!("{took} {} {} {}", read.get() - before, report.pages_read, peak()? - resident);
    Ok(pool.close().await?)
}

/// Where the file has data, in blocks one after the other, over and over.
fn blocks(path: &Path) -> Result<Vec<(u64, u64)>, Box<dyn Error>> {
    let (file, mut at, mut blocks) = (File::open(path)?, 0, Vec::new());
    let size = file.metadata()?.len();
    while at < size {
        // None from here on.
        let Ok(from) = seek(&file, SeekFrom::Data(at)) else { break };
        let end = seek(&file, SeekFrom::Hole(from))? / 4096 * 4096;
        blocks.extend((from..end).step_by(BLOCK as usize).map(|offset| (offset, BLOCK.min(end - offset))));
        at = end.max(from + 1);
    }
    Ok(blocks)
}

/// Reads so many bytes of the file's data one after the other; prints the seconds that took.
async fn raw(handle: &Handle, path: &Path, bytes: u64) -> Result<(), Box<dyn Error>> {
    let device = handle.open_device(path, read_only()).await?;
    let blocks = blocks(path)?;
    if blocks.is_empty() {
        return Err("the file has no data".into());
    }
    let mut left = bytes;
    let mut places = Vec::new();
    for &(offset, length) in blocks.iter().cycle() {
        if left == 0 {
            break;
        }
        places.push((offset, length.min(left)));
        left -= length.min(left);
    }
    let places = std::cell::RefCell::new(places.into_iter());
    let began = Instant::now();
    let reader = async || -> Result<(), IoError> {
        let next = || places.borrow_mut().next();
        while let Some((offset, length)) = next() {
            let buffer = handle.buffers().alloc(length as usize).await;
            device.read(offset, buffer).await?;
        }
        Ok(())
    };
    let mut readers: Vec<Pin<Box<dyn Future<Output = _>>>> = (0..DEPTH).map(|_| Box::pin(reader()) as _).collect();
    let mut result = Ok(());
    poll_fn(|context| {
        readers.retain_mut(|reader| match reader.as_mut().poll(context) {
            Poll::Ready(ended) => {
                result = std::mem::replace(&mut result, Ok(())).and(ended);
                false
            }
            Poll::Pending => true,
        });
        if readers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    result?;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}
