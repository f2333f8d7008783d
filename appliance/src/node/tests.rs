//! The node against real files: changes that come at once, and what it says of itself.

use std::path::{Path, PathBuf};

use futures_util::future::join;
use plimsoll_hardware::{Reactor, ReactorConfig};

use super::Node;
use crate::model::{
    AddDevice, CreatePool, CreateVdisk, GrowthPolicy, LeaveDevice, SetPool, SetVdisk, VdiskPolicyChange, VdiskView,
};
use crate::name::VdiskName;
use crate::problem::Answer;

const MIB: u64 = 1 << 20;

/// A node in a folder of its own, closed at the end.
fn with_node<F: Future<Output = ()>>(work: impl FnOnce(Node, PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
    let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
    reactor.block_on(async {
        work(node.clone(), dir.path().to_owned()).await;
        node.close().await.unwrap();
    });
}

/// A sparse file.
fn file(dir: &Path, name: &str, bytes: u64) -> String {
    let path = dir.join(name);
    std::fs::File::create_new(&path).and_then(|file| file.set_len(bytes)).unwrap();
    path.display().to_string()
}

/// A pool `tank` on a file of 128 MiB, with a vdisk `a` of 1 GiB.
async fn tank(node: &Node, dir: &Path) -> VdiskName {
    let devices = vec![file(dir, "tank.img", 128 * MIB)];
    let request = CreatePool { name: "tank".into(), devices, extent_bytes: None, force: Vec::new(), buffered: true };
    node.create_pool(request).await.unwrap();
    let vdisk = CreateVdisk {
        name: "a".into(),
        designated_bytes: 1 << 30,
        sector_bytes: None,
        write_cache: None,
        policy: VdiskPolicyChange::default(),
    };
    node.create_vdisk("tank", vdisk).await.unwrap();
    "tank/a".parse().unwrap()
}

fn set(policy: VdiskPolicyChange) -> SetVdisk {
    SetVdisk { policy, ..SetVdisk::default() }
}

fn code<T>(answer: Answer<T>) -> Option<String> {
    answer.err().map(|problem| problem.code)
}

#[test]
fn changes_of_a_vdisk_that_come_at_once_are_all_in_force() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let vm = set(VdiskPolicyChange { vm: Some("web".into()), ..VdiskPolicyChange::default() });
        let quota = set(VdiskPolicyChange { quota_bytes: Some(64 * MIB), ..VdiskPolicyChange::default() });
        let both = join(node.set_vdisk(&a, vm.clone(), None), node.set_vdisk(&a, quota.clone(), None));
        let (first, second) = both.await;
        first.unwrap();
        second.unwrap();
        let VdiskView { vm: now, quota_bytes, version, .. } = node.vdisk(&a).unwrap();
        assert_eq!((now.as_deref(), quota_bytes), (Some("web"), Some(64 * MIB)));
        // Of two that rely on the same version one comes late.
        let other = set(VdiskPolicyChange { vm: Some("db".into()), ..VdiskPolicyChange::default() });
        let lower = set(VdiskPolicyChange { quota_bytes: Some(32 * MIB), ..VdiskPolicyChange::default() });
        let version = Some(version);
        let both = join(node.set_vdisk(&a, other, version.clone()), node.set_vdisk(&a, lower, version));
        let (first, second) = both.await;
        let codes = [code(first), code(second)];
        assert!(codes.contains(&None) && codes.contains(&Some("version-mismatch".to_owned())), "{codes:?}");
    });
}

#[test]
fn of_a_change_that_is_refused_nothing_is_in_force() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let before = node.vdisk(&a).unwrap();
        let reserve = |bytes| VdiskPolicyChange { reservation_bytes: Some(bytes), ..VdiskPolicyChange::default() };
        let refused = [
            (SetVdisk { zero_detection: Some(false), ..set(reserve(1 << 30)) }, "limit-exceeded"),
            (SetVdisk { zero_detection: Some(false), pattern: Some(7), ..SetVdisk::default() }, "not-found"),
            (SetVdisk { designated_bytes: Some(2 << 30), ..set(reserve(1 << 30)) }, "limit-exceeded"),
            (SetVdisk { designated_bytes: Some(MIB), ..set(reserve(2 * MIB)) }, "invalid-argument"),
        ];
        for (request, expected) in refused {
            assert_eq!(code(node.plan_set_vdisk(&a, request.clone(), None).await).as_deref(), Some(expected));
            assert_eq!(code(node.set_vdisk(&a, request, None).await).as_deref(), Some(expected));
            let now = node.vdisk(&a).unwrap();
            assert_eq!((now.version, now.zero_detection), (before.version.clone(), true), "{expected}");
        }
        // Of a pool, both ways round: the growth and the rest.
        let growth = GrowthPolicy {
            at_pct: 80,
            spares: Vec::new(),
            grow_file_to_bytes: Some(1 << 30),
            step_bytes: None,
            keep_free_bytes: None,
            force: Vec::new(),
        };
        let thresholds = |text: &str| Some(text.to_owned());
        let wrong =
            SetPool { thresholds: thresholds("80%,70%"), growth: Some(Some(growth.clone())), ..SetPool::default() };
        assert_eq!(code(node.set_pool("tank", wrong).await).as_deref(), Some("invalid-argument"));
        let growth = Some(Some(GrowthPolicy { at_pct: 0, ..growth }));
        let wrong = SetPool { thresholds: thresholds("60%"), growth, ..SetPool::default() };
        assert_eq!(code(node.set_pool("tank", wrong).await).as_deref(), Some("invalid-argument"));
        let pool = node.pool_view("tank").unwrap();
        assert_eq!((pool.growth, pool.thresholds.as_deref()), (None, Some("default")));
    });
}

#[test]
fn changes_of_a_pool_that_come_at_once_are_all_in_force() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let one = SetPool { thresholds: Some("60%".into()), ..SetPool::default() };
        let two = SetPool { overcommit_limit: Some("20x".into()), ..SetPool::default() };
        let (first, second) = join(node.set_pool("tank", one), node.set_pool("tank", two)).await;
        first.unwrap();
        second.unwrap();
        let pool = node.pool_view("tank").unwrap();
        assert_eq!((pool.thresholds.as_deref(), pool.overcommit_limit.as_deref()), (Some("60%"), Some("20x")));
    });
}

fn growing(spares: &[&str], grow_file_to_bytes: Option<u64>) -> GrowthPolicy {
    GrowthPolicy {
        at_pct: 99,
        spares: spares.iter().map(|path| (*path).to_owned()).collect(),
        grow_file_to_bytes,
        step_bytes: None,
        keep_free_bytes: Some(0),
        force: Vec::new(),
    }
}

fn sizes(node: &Node) -> Vec<Option<u64>> {
    node.pool_view("tank").unwrap().devices.iter().map(|device| device.size_bytes.map(|bytes| bytes / MIB)).collect()
}

#[test]
fn a_file_that_was_enlarged_right_before_a_crash_is_grown_into() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let file = std::fs::File::options().write(true).open(dir.join("tank.img")).unwrap();
        file.set_len(192 * MIB).unwrap();
        let pool = node.pool("tank").unwrap();
        let policy = growing(&[], Some(192 * MIB));
        node.grow_by(&pool, &policy).await.unwrap();
        assert_eq!(sizes(&node), [Some(192)]);
        assert!(node.grow_by(&pool, &policy).await.is_err_and(|problem| problem.detail.contains("the most")));
        // What somebody else made larger than it may become is left alone.
        file.set_len(256 * MIB).unwrap();
        assert!(node.grow_by(&pool, &policy).await.is_err());
        assert_eq!(sizes(&node), [Some(192)]);
    });
}

#[test]
fn a_file_that_is_leaving_is_not_enlarged() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let path = file(&dir, "second.img", 128 * MIB);
        let second = AddDevice { path: path.clone(), force: Vec::new(), buffered: true };
        node.add_device("tank", second).await.unwrap();
        node.evacuate_device("tank", LeaveDevice { device: path, rate_bytes: None }).await.unwrap();
        node.grow_by(&node.pool("tank").unwrap(), &growing(&[], Some(192 * MIB))).await.unwrap();
        assert_eq!(sizes(&node), [Some(192), Some(128)]);
    });
}

#[test]
fn spares_and_steps_that_could_not_be_used_are_refused_when_they_are_named() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let good = file(&dir, "good.img", 64 * MIB);
        let (small, foreign) = (file(&dir, "small.img", MIB), file(&dir, "foreign.img", 64 * MIB));
        let mut bytes = vec![0; 4096];
        bytes[1080..1082].copy_from_slice(b"\x53\xef");
        let at = std::fs::File::options().write(true).open(&foreign).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&at, &bytes, 0).unwrap();
        let other = file(&dir, "other.img", 64 * MIB);
        let (name, devices) = ("other".into(), vec![other.clone()]);
        let pool = CreatePool { name, devices, extent_bytes: None, force: Vec::new(), buffered: true };
        node.create_pool(pool).await.unwrap();
        let none = dir.join("none.img").display().to_string();
        node.allow_buffered([&good, &small, &foreign]);
        let set = |growth| SetPool { growth: Some(Some(growth)), ..SetPool::default() };
        for (spare, expected, words) in [
            (&none, "not-found", "does not exist"),
            (&small, "too-small", "small.img"),
            (&foreign, "in-use", "holds an ext"),
            (&other, "in-use", "is a device of pool other"),
        ] {
            let growth = growing(&[&good, spare], None);
            let planned = node.plan_set_pool("tank", set(growth.clone())).await;
            assert_eq!(code(planned).as_deref(), Some(expected), "{spare}");
            let problem = node.set_pool("tank", set(growth)).await.unwrap_err();
            assert!(problem.code == expected && problem.detail.contains(words), "{problem:?}");
        }
        assert_eq!(node.pool_view("tank").unwrap().growth, None);
        let forced = GrowthPolicy { force: vec!["foreign".into()], ..growing(&[&good, &foreign], None) };
        node.set_pool("tank", set(forced.clone())).await.unwrap();
        let problem = node.set_pool("other", set(growing(&[&good], None))).await.unwrap_err();
        assert!(problem.code == "in-use" && problem.detail.contains("spare of pool tank"), "{problem:?}");
        let only = GrowthPolicy { spares: vec![foreign], ..forced };
        node.grow_by(&node.pool("tank").unwrap(), &only).await.unwrap();
        assert_eq!(sizes(&node), [Some(128), Some(64)]);
        for step in [1, 64 * MIB - 1, 193 * MIB] {
            let growth = GrowthPolicy { step_bytes: Some(step), ..growing(&[], Some(192 * MIB)) };
            let problem = node.set_pool("tank", set(growth)).await.unwrap_err();
            assert!(problem.detail.contains("64 MiB to 192 MiB"), "{problem:?}");
        }
    });
}
