//! Devices over a loop device and a full tmpfs. They need root, so they are there only where `tests/run` demands them, and
//! fail where they cannot run.

use super::*;

fn run(program: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Undoes something when dropped.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

#[test]
fn a_full_file_system_is_no_space_and_not_a_failure() -> Outcome {
    let directory = tempfile::tempdir()?;
    let place = directory.path().display().to_string();
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &place])?;
    let _undo = Undo("umount", vec!["-l".into(), place]);
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    let path = file(directory.path(), 8 * MIB)?;
    reactor.block_on(async {
        let device = handle.open_device(&path, OpenOptions::default()).await?;
        device.write(0, pattern(&handle, 1, 32768).await, Durability::Cached).await?;
        let no_space = Err(IoError::NoSpace { path: path.display().to_string() });
        device.allocate(2 * MIB, 8192).await?;
        assert_eq!(device.write(MIB, pattern(&handle, 1, 1 << 20).await, Durability::Cached).await, no_space);
        assert_eq!(device.allocate(4 * MIB, 8192).await, no_space);
        // What was allocated is there, and what was written still is.
        device.write(2 * MIB, pattern(&handle, 2, 8192).await, Durability::Cached).await?;
        device.allocate(0, 32768).await?;
        assert_eq!(*device.read(0, handle.buffers().alloc(32768).await).await?, *pattern(&handle, 1, 32768).await);
        Ok(())
    })
}

#[test]
fn a_block_device_is_written_discarded_and_locked_against_mounts() -> Outcome {
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let path = file(directory.path(), 8 * MIB)?;
    let device_file = run("losetup", &["-f", "--show", &path.display().to_string()])?;
    let _undo = Undo("losetup", vec!["-d".into(), device_file.clone()]);
    let reactor = reactor(64)?;
    let handle = reactor.handle();
    reactor.block_on(async {
        let device = handle.open_device(&device_file, OpenOptions::default()).await?;
        assert_eq!(device.geometry().size, 8 * MIB);
        assert!(device.geometry().discard_max > 0, "a loop device over tmpfs discards: {:?}", device.geometry());
        exercise(&handle, &device).await?;
        let back = device.read(MIB, handle.buffers().alloc(4096).await).await?;
        assert!(back.iter().all(|&byte| byte == 0), "the discard did nothing");
        device.inner.discard_by.set(DiscardBy::Ioctl);
        exercise(&handle, &device).await?;
        assert_eq!(device.inner.discard_by.get(), DiscardBy::Ioctl, "the ioctl was refused");
        let refused = handle.open_device(&device_file, impatient()).await.err();
        assert!(matches!(refused, Some(OpenError::Held { .. })), "{refused:?}");
        Ok(())
    })
}
