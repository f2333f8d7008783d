//! The end: nobody new is served, what is under way is finished within a bound, every pool is closed cleanly.

use std::time::Duration;

use plimsoll_engine::Pool;
use plimsoll_hardware::SharedMemory;
use plimsoll_hardware::reactor::Handle;

use super::{Node, Slot};
use crate::problem::{Answer, Problem};

/// Requests under way may take this long at a stop.
const GRACE: Duration = Duration::from_secs(2);
/// A clean close of a pool is a flush and a checkpoint; a device that takes longer is left to recovery.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);

impl Node {
    /// Stops serving and closes all pools.
    ///
    /// # Errors
    /// `not-closed` with the pools that were not closed cleanly, and why.
    pub async fn close(&self) -> Answer<()> {
        self.0.closing.set(true);
        self.stop_exports(GRACE).await;
        let pools = std::mem::take(&mut *self.0.pools.borrow_mut());
        let mut unclean = Vec::new();
        for (name, slot) in pools {
            let Slot::Open(pool) = slot else { continue };
            match self.machine().timeout(CLOSE_TIME_MAX, pool.close()).await {
                Ok(Ok(())) => {
                    forget_crash_memory(&pool);
                    tracing::info!(pool = name, "pool closed");
                }
                Ok(Err(error)) => unclean.push(format!("pool {name}: {error}")),
                Err(late) => unclean.push(format!("pool {name}: {late}")),
            }
        }
        if unclean.is_empty() {
            return Ok(());
        }
        let detail = format!("not closed cleanly: {}", unclean.join("; "));
        Err(Problem::new("not-closed", detail).hint("start it again: pools recover when they are opened"))
    }
}

/// A pool that was closed cleanly needs nothing of it; one that takes no writes may. Its devices are still locked.
pub(super) fn forget_crash_memory(pool: &Pool<Handle>) {
    if pool.read_only().is_none()
        && let Err(error) = SharedMemory::remove(&pool.info().uuid.to_string())
    {
        tracing::debug!(%error, "crash memory of a closed pool stays behind");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use plimsoll_hardware::{Reactor, ReactorConfig};
    use rustix::fs::{MemfdFlags, SealFlags};

    use super::*;
    use crate::model::{CreatePool, CreateVdisk, Health};

    #[test]
    fn a_pool_whose_device_fails_at_the_end_is_said_to_be_not_closed() {
        let dir = tempfile::tempdir().unwrap();
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        let device = rustix::fs::memfd_create("device", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&device, 128 << 20).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), device.as_raw_fd());
        reactor.block_on(async {
            let (name, devices) = ("tank".to_owned(), vec![path]);
            let pool = CreatePool { name, devices, extent_bytes: None, force: Vec::new(), buffered: true };
            node.create_pool(pool).await.unwrap();
            let vdisk = CreateVdisk {
                name: "a".into(),
                designated_bytes: 1 << 30,
                sector_bytes: None,
                write_cache: None,
                policy: Default::default(),
            };
            node.create_vdisk("tank", vdisk.clone()).await.unwrap();
            // From now on every write fails.
            rustix::fs::fcntl_add_seals(&device, SealFlags::WRITE).unwrap();
            node.create_vdisk("tank", CreateVdisk { name: "b".into(), ..vdisk }).await.unwrap_err();
            let status = node.status();
            let finding = status.findings.first().map(|finding| finding.reason.as_str()).unwrap_or_default();
            assert!(status.health == Health::Critical && finding.contains("read-only"), "{finding}");
            let problem = node.close().await.unwrap_err();
            assert_eq!((problem.code.as_str(), problem.exit_code()), ("not-closed", 1));
            assert!(problem.detail.contains("pool tank"), "{}", problem.detail);
        });
    }
}
