//! Devices over real files. Those over a loop device and a full file system are in `root`.

use std::cell::Cell;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::machine::Machine as _;
use crate::reactor::{Handle, Reactor, ReactorConfig};

#[cfg(feature = "real")]
mod root;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;

fn reactor(ring_entries: u32) -> Result<Reactor, crate::reactor::ReactorError> {
    Reactor::new(ReactorConfig { buffer_bytes: 4 << 20, ring_entries, ..ReactorConfig::default() })
}

fn file(directory: &Path, bytes: u64) -> std::io::Result<std::path::PathBuf> {
    let path = directory.join("device");
    File::create(&path)?.set_len(bytes)?;
    Ok(path)
}

fn impatient() -> OpenOptions {
    OpenOptions { lock_patience: Duration::from_millis(20), ..OpenOptions::default() }
}

async fn pattern(handle: &Handle, seed: u8, len: usize) -> Frozen {
    let mut buffer = handle.buffers().alloc(len).await;
    buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(31).wrapping_add(seed));
    buffer.freeze()
}

/// Writes, reads, zeroes and discards, by all sizes and ways.
async fn exercise(handle: &Handle, device: &FileDevice) -> Outcome {
    let block = device.geometry().logical_block as u64;
    for (seed, offset, len) in [(1, 0, 4096), (2, MIB, 1 << 20), (3, 4096, 65536), (4, 8 * MIB - 4096, 4096)] {
        for durability in [Durability::Cached, Durability::Fua] {
            let data = pattern(handle, seed, len).await;
            device.write(offset, data.clone(), durability).await?;
            device.flush().await?;
            let back = device.read(offset, handle.buffers().alloc(len).await).await?;
            assert!(*back == *data, "{len} bytes at {offset} differ");
        }
    }
    device.write_zeroes(MIB + block, 3 * block).await?;
    let back = device.read(MIB, handle.buffers().alloc(16384).await).await?;
    let zeros = block as usize..4 * block as usize;
    assert!(back[zeros.clone()].iter().all(|&byte| byte == 0), "not zeroed");
    let expected = pattern(handle, 2, 16384).await;
    assert!(back[..zeros.start] == expected[..zeros.start] && back[zeros.end..] == expected[zeros.end..]);
    device.discard(MIB, MIB).await?;
    device.discard(0, 0).await?;
    Ok(())
}

/// A regular file that may be written and whose file system has no direct I/O, wherever the tests run.
const NOT_DIRECT: &str = "/proc/self/comm";

#[test]
fn a_file_system_without_direct_io_is_named_and_refused_unless_the_page_cache_is_allowed() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    reactor.block_on(async {
        let refused =
            handle.open_device(Path::new(NOT_DIRECT), OpenOptions::default()).await.err().expect("no direct I/O");
        assert!(matches!(&refused, OpenError::NoDirectIo { path } if path == Path::new(NOT_DIRECT)), "{refused:?}");
        assert!(refused.to_string().contains(NOT_DIRECT) && refused.to_string().contains("buffered=yes"), "{refused}");
        // It is opened then, and found to be empty.
        let buffered = OpenOptions { buffered: true, ..OpenOptions::default() };
        let empty = handle.open_device(Path::new(NOT_DIRECT), buffered).await.err().expect("no bytes");
        assert!(matches!(empty, OpenError::Empty { .. }), "{empty:?}");
        Ok(())
    })
}

#[test]
fn a_file_on_disk_and_one_in_memory_keep_what_was_written() -> Outcome {
    for directory in [tempfile::tempdir()?, tempfile::tempdir_in("/dev/shm")?] {
        let reactor = reactor(64)?;
        let handle = reactor.handle();
        let path = file(directory.path(), 8 * MIB + 100)?;
        reactor.block_on(async {
            let device = handle.open_device(&path, OpenOptions::default()).await?;
            assert_eq!(device.geometry().size, 8 * MIB, "the size is not whole blocks");
            exercise(&handle, &device).await
        })?;
    }
    Ok(())
}

#[test]
fn memory_that_the_ring_does_not_know_works_as_well() -> Outcome {
    let config = ReactorConfig { buffer_bytes: 4 << 20, file_slots: 0, register_buffers: false, ..Default::default() };
    let reactor = Reactor::new(config)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), 8 * MIB)?;
    reactor.block_on(async { exercise(&handle, &handle.open_device(&path, OpenOptions::default()).await?).await })
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_tried() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), MIB)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        for (offset, len) in [(1, 512), (0, 100), (MIB, 512), (MIB - 512, 1024), (u64::MAX - 511, 512)] {
            let buffer = handle.buffers().alloc(len).await;
            let read = device.read(offset, buffer).await.err();
            assert!(matches!(read, Some(IoError::OutOfRange { .. })), "read {len} at {offset}: {read:?}");
            let data = pattern(&handle, 0, len).await;
            let written = device.write(offset, data, Durability::Cached).await.err();
            assert!(matches!(written, Some(IoError::OutOfRange { .. })), "write {len} at {offset}: {written:?}");
            let discarded = device.discard(offset, len as u64).await.err();
            assert!(matches!(discarded, Some(IoError::OutOfRange { .. })), "{discarded:?}");
        }
        Ok(())
    })
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_not_an_endless_loop() -> Outcome {
    for end in [4096, 5000] {
        let reactor = reactor(64)?;
        let handle = reactor.handle();
        let directory = tempfile::tempdir()?;
        let path = file(directory.path(), MIB)?;
        reactor.block_on(async {
            let device = handle.open_device(&path, OpenOptions::default()).await?;
            File::options().write(true).open(&path)?.set_len(end)?;
            for offset in [0, 65536] {
                let error =
                    device.read(offset, handle.buffers().alloc(16384).await).await.err().ok_or("it was read")?;
                assert!(error.to_string().contains("it ends at"), "{error}");
            }
            // A write behind the end would make it long again, and what was lost would read as zeros.
            let end_of_it = MIB - 4096;
            let written = device.write(end_of_it, pattern(&handle, 0, 4096).await, Durability::Cached).await;
            assert!(
                written.is_err()
                    && device.discard(0, 4096).await.is_err()
                    && device.write_zeroes(end_of_it, 4096).await.is_err()
            );
            assert_eq!(std::fs::metadata(&path)?.len(), end);
            // Somebody else makes it long again.
            File::options().write(true).open(&path)?.set_len(MIB)?;
            device.read(0, handle.buffers().alloc(4096).await).await?;
            let lost = device.read(65536, handle.buffers().alloc(4096).await).await.err().ok_or("zeros were read")?;
            assert!(lost.to_string().contains(&format!("it ends at {end} now and had {MIB}")), "{lost}");
            assert!(device.measure(MIB).is_err());
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}

#[test]
fn a_file_that_became_shorter_is_noticed_by_a_flush_and_when_it_is_measured() -> Outcome {
    for flush in [false, true] {
        let reactor = reactor(64)?;
        let handle = reactor.handle();
        let directory = tempfile::tempdir()?;
        let path = file(directory.path(), MIB)?;
        reactor.block_on(async {
            let device = handle.open_device(&path, OpenOptions { buffered: true, ..OpenOptions::default() }).await?;
            // Where nothing is volatile a flush asks nothing.
            let flush = flush && device.geometry().volatile_cache;
            assert_eq!(device.measure(MIB)?, MIB);
            File::options().write(true).open(&path)?.set_len(8192)?;
            let noticed = if flush { device.flush().await } else { device.measure(MIB).map(drop) };
            assert!(noticed.is_err_and(|error| error.to_string().contains("it ends at 8192")));
            assert!(device.write(0, pattern(&handle, 0, 4096).await, Durability::Cached).await.is_err());
            assert_eq!(std::fs::metadata(&path)?.len(), 8192);
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}

#[test]
fn a_second_opener_is_refused_until_the_first_has_closed() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), MIB)?;
    reactor.block_on(async {
        let first = handle.open_device(&path, impatient()).await?;
        for _ in 0..2 {
            let refused = handle.open_device(&path, impatient()).await.err().ok_or("two openers")?;
            assert!(matches!(refused, OpenError::Held { .. }), "{refused}");
        }
        let closer = handle.clone();
        handle.spawn(async move {
            closer.sleep(Duration::from_millis(30)).await;
            drop(first);
        });
        let second = handle.open_device(&path, OpenOptions::default()).await?;
        let unlocked = OpenOptions { lock: false, read_only: true, ..impatient() };
        let reader = handle.open_device(&path, unlocked).await?;
        let written = reader.write(0, pattern(&handle, 0, 4096).await, Durability::Cached).await.err();
        assert!(matches!(written, Some(IoError::Failed { .. })), "{written:?}");
        drop(second);
        Ok(())
    })
}

#[test]
fn what_is_no_device_is_refused_by_name() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let empty = file(directory.path(), 100)?;
    reactor.block_on(async {
        let open = async |path: &Path| handle.open_device(path, impatient()).await.err();
        assert!(matches!(open(&directory.path().join("none")).await, Some(OpenError::Missing { .. })));
        assert!(matches!(open(directory.path()).await, Some(OpenError::WrongKind { .. })));
        assert!(matches!(open(Path::new("/dev/null")).await, Some(OpenError::WrongKind { .. })));
        assert!(matches!(open(&empty).await, Some(OpenError::Empty { bytes: 100, .. })));
        let refused = open(Path::new("/proc/version")).await;
        assert!(refused.is_some(), "a file of procfs is no device");
    });
    Ok(())
}

#[test]
fn ten_thousand_operations_at_once_pass_through_a_queue_of_64() -> Outcome {
    const COUNT: u64 = 10_000;
    let config = ReactorConfig { buffer_bytes: 8 << 20, ring_entries: 64, ..ReactorConfig::default() };
    let reactor = Reactor::new(config)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), COUNT * 512)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        let done = Rc::new(Cell::new(0));
        let mut whole = handle.buffers().alloc(1 << 20).await;
        for number in 0..COUNT {
            if whole.is_empty() {
                whole = handle.buffers().alloc(1 << 20).await;
            }
            // A sector each: ten thousand pages would be more than the pool has.
            let mut sector = whole.split_to(512);
            sector.fill(number as u8 | 1);
            let (device, done) = (device.clone(), done.clone());
            handle.spawn(async move {
                let written = device.write(number * 512, sector.freeze(), Durability::Cached).await;
                assert_eq!(written, Ok(()));
                done.set(done.get() + 1);
            });
        }
        drop(whole);
        while done.get() < COUNT {
            handle.sleep(Duration::from_millis(1)).await;
        }
        let contents = std::fs::read(&path)?;
        let stray = contents
            .chunks(512)
            .enumerate()
            .find(|(number, sector)| sector.iter().any(|&byte| byte != *number as u8 | 1));
        assert!(stray.is_none(), "sector {:?} is not what was written", stray.map(|(number, _)| number));
        assert_eq!(handle.buffers().free_bytes(), handle.buffers().bytes());
        Ok(())
    })
}

#[test]
fn a_reader_waits_when_all_memory_is_used_and_goes_on_when_there_is_some() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), MIB)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        let done = Rc::new(Cell::new(0));
        // 64 x 256 KiB through a pool of 4 MiB.
        for _ in 0..64 {
            let (device, task, done) = (device.clone(), handle.clone(), done.clone());
            handle.spawn(async move {
                let buffer = task.buffers().alloc(256 << 10).await;
                assert!(device.read(0, buffer).await.is_ok());
                done.set(done.get() + 1);
            });
        }
        while done.get() < 64 {
            handle.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(handle.buffers().free_bytes(), handle.buffers().bytes());
        Ok(())
    })
}

#[test]
fn a_write_whose_future_is_dropped_is_done_nevertheless() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), MIB)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        let data = pattern(&handle, 9, 4096).await;
        {
            let mut write = std::pin::pin!(device.write(8192, data, Durability::Cached));
            std::future::poll_fn(|context| {
                assert!(write.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        drop(device);
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        let back = device.read(8192, handle.buffers().alloc(4096).await).await?;
        assert!(*back == *pattern(&handle, 9, 4096).await, "the write was lost");
        Ok(())
    })
}

/// In the child, when set: the device to lock and to write to until killed.
const VICTIM: &str = "PLIMSOLL_TEST_VICTIM";

#[test]
fn a_device_whose_holder_was_killed_amid_io_can_be_opened_at_once() -> Outcome {
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    if let Some(path) = std::env::var_os(VICTIM) {
        return reactor.block_on(async {
            let device = handle.open_device(&path, OpenOptions::default()).await?;
            for _ in 0..32 {
                let (device, task) = (device.clone(), handle.clone());
                handle.spawn(async move {
                    loop {
                        let data = pattern(&task, 1, 65536).await;
                        let offset = task.random() % 64 * 65536;
                        assert!(device.write(offset, data, Durability::Fua).await.is_ok());
                    }
                });
            }
            println!("writing");
            handle.sleep(Duration::from_secs(60)).await;
            Ok(())
        });
    }
    let directory = tempfile::tempdir()?;
    let path = file(directory.path(), 8 * MIB)?;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "--nocapture"])
            .arg("file::tests::a_device_whose_holder_was_killed_amid_io_can_be_opened_at_once")
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().ok_or("no output")?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"writing\n") {
            let mut byte = [0];
            output.read_exact(&mut byte)?;
            seen.push(byte[0]);
        }
        std::thread::sleep(Duration::from_millis(20 * round));
        reactor.block_on(async {
            let held = handle.open_device(&path, impatient()).await.err();
            assert!(matches!(held, Some(OpenError::Held { .. })), "{held:?}");
        });
        child.kill()?;
        let opened = reactor.block_on(handle.open_device(&path, OpenOptions::default()));
        assert_eq!(child.wait()?.signal(), Some(9));
        opened?;
    }
    Ok(())
}
