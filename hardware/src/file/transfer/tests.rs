//! Answers of the system that a test cannot get of it: they are handed in.

use super::super::FileDevice;
use super::*;
use crate::device::Device as _;
use crate::file::OpenOptions;
use crate::machine::Machine as _;
use crate::reactor::{Reactor, ReactorConfig};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SIZE: u64 = 1 << 20;

/// Runs `work` with an open file of a MiB, and its path.
fn with_file(work: impl AsyncFnOnce(&FileDevice, &std::path::Path, Frozen) -> Outcome) -> Outcome {
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 4 << 20, ring_entries: 64, ..ReactorConfig::default() })?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = directory.path().join("device");
    std::fs::File::create(&path)?.set_len(SIZE)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        let mut data = handle.buffers().alloc(4096).await;
        data.fill(1);
        work(&device, &path, data.freeze()).await
    })
}

#[test]
fn a_transfer_that_stops_in_the_middle_of_a_block_of_a_whole_device_fails_and_the_device_goes_on() -> Outcome {
    for operation in ["read", "write"] {
        with_file(async |device, path, data| {
            let (mut done, mut repeats) = (0, 0);
            let mut answer = |result| device.inner.advance(operation, 8192, 16384, &mut done, result, &mut repeats);
            assert_eq!(answer(4096), Ok(()), "whole blocks go on");
            let error = answer(5000).err().ok_or("it goes on within a block")?;
            let said = error.to_string();
            assert!(said.contains("stopped at") && !said.contains("truncated"), "{operation}: {said}");
            device.write(0, data, Durability::Cached).await?;
            // Where it ends there, it has become smaller.
            std::fs::File::options().write(true).open(path)?.set_len(8192)?;
            let (mut done, mut repeats) = (0, 0);
            let error = device.inner.advance(operation, 8192, 4096, &mut done, 100, &mut repeats).err();
            assert!(error.as_ref().is_some_and(|error| error.to_string().contains("truncated")), "{error:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_block_device_without_a_size_was_taken_out_and_a_file_without_one_was_truncated() -> Outcome {
    with_file(async |device, path, data| {
        let inner = &device.inner;
        let block_device = FileDevice::new(inner.descriptor.clone(), inner.geometry.clone(), true);
        let gone = IoError::Gone { path: path.display().to_string() };
        assert_eq!(block_device.inner.judge(SIZE, 0), Err(gone));
        // It may come back: that is not having become smaller.
        assert_eq!(block_device.inner.judge(SIZE, SIZE), Ok(SIZE));
        block_device.write(0, data.clone(), Durability::Cached).await?;
        assert!(device.inner.judge(SIZE, 0).is_err_and(|error| error.to_string().contains("truncated")));
        assert!(device.write(0, data, Durability::Cached).await.is_err(), "what it lost would read as zeros");
        Ok(())
    })
}
