//! A pool whose device fails from some moment on: a file in memory that is sealed.

use std::os::fd::{AsRawFd as _, OwnedFd};

use plimsoll_hardware::{Reactor, ReactorConfig};
use rustix::fs::{MemfdFlags, SealFlags};

use super::{MIB, vdisk};
use crate::model::{CreatePool, Health, ImportPool};
use crate::node::Node;

pub(in crate::node) struct Failing {
    device: OwnedFd,
}

impl Failing {
    /// From now on every write fails.
    pub(in crate::node) fn fail(&self) {
        rustix::fs::fcntl_add_seals(&self.device, SealFlags::WRITE).unwrap();
    }
}

/// A node with a pool `tank` on such a device, which `work` closes.
pub(in crate::node) fn with_failing<F: Future<Output = ()>>(work: impl FnOnce(Node, Failing) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
    let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
    let device = rustix::fs::memfd_create("device", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&device, 128 * MIB).unwrap();
    let devices = vec![format!("/proc/{}/fd/{}", std::process::id(), device.as_raw_fd())];
    reactor.block_on(async {
        let name = "tank".to_owned();
        let pool = CreatePool { name, devices, extent_bytes: None, force: Vec::new(), buffered: true };
        node.create_pool(pool).await.unwrap();
        work(node, Failing { device }).await;
    });
}

#[test]
fn a_pool_whose_device_fails_at_the_end_is_said_to_be_not_closed() {
    with_failing(|node, device| async move {
        node.create_vdisk("tank", vdisk("a")).await.unwrap();
        device.fail();
        node.create_vdisk("tank", vdisk("b")).await.unwrap_err();
        let status = node.status();
        let finding = status.findings.first().map(|finding| finding.reason.as_str()).unwrap_or_default();
        assert!(status.health == Health::Critical && finding.contains("read-only"), "{finding}");
        let problem = node.close().await.unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("not-closed", 1));
        assert!(problem.detail.contains("pool tank"), "{}", problem.detail);
    });
}

#[test]
fn a_pool_that_cannot_be_closed_cleanly_is_let_go_only_when_that_is_asked_for_again() {
    with_failing(|node, device| async move {
        device.fail();
        node.create_vdisk("tank", vdisk("a")).await.unwrap_err();
        let problem = node.export_pool("tank", &[]).await.unwrap_err();
        assert_eq!(problem.code, "not-closed");
        crate::cli::hints::assert_advice_can_be_followed(problem.hint.as_deref().unwrap_or_default());
        let pool = node.pool_view("tank").unwrap();
        assert_eq!(pool.reason_code.as_deref(), Some("not-closed"), "{pool:?}");
        let again = ImportPool { paths: Vec::new(), name: Some("tank".into()), buffered: true, force: Vec::new() };
        node.import_pool(again).await.unwrap_err();
        node.export_pool("tank", &[]).await.unwrap();
        assert_eq!(node.pools().len(), 0);
        node.close().await.unwrap();
    });
}
