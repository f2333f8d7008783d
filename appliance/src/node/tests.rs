//! The node against real files: changes that come at once, and what it says of itself.

mod audit;
mod buffered;
mod decided;
pub(super) mod failing;
mod growth;
mod kept;
mod losses;
mod plans;
mod served;
mod survey;

use std::path::{Path, PathBuf};

use futures_util::future::join;
use plimsoll_hardware::{Machine as _, Reactor, ReactorConfig};

use super::Node;
use crate::model::{
    AddDevice, CreatePool, CreateVdisk, GrowthPolicy, Health, LeaveDevice, SetPool, SetTenant, SetVdisk,
    VdiskPolicyChange, VdiskView,
};
use crate::name::VdiskName;
use crate::problem::{Answer, Problem};

const MIB: u64 = 1 << 20;

/// A node in a folder of its own, closed at the end.
fn with_node<F: Future<Output = ()>>(work: impl FnOnce(Node, PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    // Events are read on its threads.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
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
    node.create_vdisk("tank", vdisk("a")).await.unwrap();
    "tank/a".parse().unwrap()
}

/// A vdisk of 1 GiB.
pub(super) fn vdisk(name: &str) -> CreateVdisk {
    let (name, designated_bytes) = (name.to_owned(), 1 << 30);
    CreateVdisk { name, designated_bytes, sector_bytes: None, write_cache: None, policy: VdiskPolicyChange::default() }
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
fn of_a_quota_and_a_reservation_that_contradict_each_other_one_is_refused_when_they_come_at_once() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let quota = SetTenant { quota_bytes: Some(4 * MIB), ..SetTenant::default() };
        let reserve = set(VdiskPolicyChange {
            tenant: Some("acme".into()),
            reservation_bytes: Some(8 * MIB),
            ..VdiskPolicyChange::default()
        });
        let both =
            join(node.set_tenant("tank", "acme", quota.clone()), node.set_vdisk(&a, reserve.clone(), None)).await;
        let codes = [code(both.0), code(both.1)];
        assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 1, "{codes:?}");
        assert!(codes.contains(&Some("limit-exceeded".to_owned())), "{codes:?}");
        // What cannot be kept is not in force either.
        let none = set(VdiskPolicyChange { reservation_bytes: Some(0), ..VdiskPolicyChange::default() });
        node.set_vdisk(&a, none, None).await.unwrap();
        node.set_tenant("tank", "acme", SetTenant { quota_bytes: Some(0), ..SetTenant::default() }).await.unwrap();
        kept::take_room(&dir);
        assert_eq!(code(node.set_tenant("tank", "acme", quota).await).as_deref(), Some("state-no-space"));
        kept::make_room(&dir);
        node.set_vdisk(&a, reserve, None).await.unwrap();
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
        let wrong = SetPool {
            thresholds: thresholds("80%,70%"),
            growth: Some(Some(growth.clone().into())),
            ..SetPool::default()
        };
        assert_eq!(code(node.set_pool("tank", wrong).await).as_deref(), Some("invalid-argument"));
        let growth = Some(Some(GrowthPolicy { at_pct: 0, ..growth }.into()));
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
        node.set_growth(pool.info().uuid, Some(policy.clone())).await.unwrap();
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
        let (pool, policy) = (node.pool("tank").unwrap(), growing(&[], Some(192 * MIB)));
        node.set_growth(pool.info().uuid, Some(policy.clone())).await.unwrap();
        node.grow_by(&pool, &policy).await.unwrap();
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
        let set = |growth: GrowthPolicy| SetPool { growth: Some(Some(growth.into())), ..SetPool::default() };
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
        let (pool, only) = (node.pool("tank").unwrap(), GrowthPolicy { spares: vec![foreign], ..forced });
        node.set_growth(pool.info().uuid, Some(only.clone())).await.unwrap();
        node.grow_by(&pool, &only).await.unwrap();
        assert_eq!(sizes(&node), [Some(128), Some(64)]);
        for step in [1, 64 * MIB - 1, 193 * MIB] {
            let growth = GrowthPolicy { step_bytes: Some(step), ..growing(&[], Some(192 * MIB)) };
            let problem = node.set_pool("tank", set(growth)).await.unwrap_err();
            assert!(problem.detail.contains("64 MiB to 192 MiB"), "{problem:?}");
        }
    });
}

#[test]
fn thresholds_of_a_tenant_are_kept_beside_its_quota_and_told_to_the_pool_again() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..2 {
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            if life == 0 {
                tank(&node, dir.path()).await;
                let quota = SetTenant { quota_bytes: Some(64 * MIB), thresholds: None };
                let thresholds = |text: &str| SetTenant { quota_bytes: None, thresholds: Some(text.into()) };
                node.set_tenant("tank", "acme", quota).await.unwrap();
                node.set_tenant("tank", "acme", thresholds("16M,64M")).await.unwrap();
                node.set_tenant("tank", "acme", thresholds("50%,80%")).await.unwrap();
                for wrong in [SetTenant::default(), thresholds("80%,50%"), thresholds("65M"), thresholds("x")] {
                    let planned = node.plan_set_tenant("tank", "acme", &wrong);
                    assert_eq!(code(planned).as_deref(), Some("invalid-argument"), "{wrong:?}");
                    let refused = node.set_tenant("tank", "acme", wrong).await;
                    assert_eq!(code(refused).as_deref(), Some("invalid-argument"));
                }
            } else {
                node.open_known_pools().await;
            }
            let [acme] = &node.tenants()[..] else { panic!("{:?}", node.tenants()) };
            assert_eq!((acme.quota_bytes, acme.thresholds.as_str()), (Some(64 * MIB), "50%,80%"), "life {life}");
            node.close().await.unwrap();
        });
    }
}

#[test]
fn thresholds_of_a_vdisk_may_be_sizes_that_it_can_reach() {
    let dir = tempfile::tempdir().unwrap();
    let levels = |size: &str, quota: &str| VdiskPolicyChange {
        thresholds: Some(size.into()),
        quota_thresholds: Some(quota.into()),
        quota_bytes: Some(64 * MIB),
        ..VdiskPolicyChange::default()
    };
    for life in 0..2 {
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            if life == 0 {
                let a = tank(&node, dir.path()).await;
                node.set_vdisk(&a, set(levels("1M,512M", "32M,64M")), None).await.unwrap();
                let wrong = [("2T", "off"), ("off", "65M"), ("1M", "1500K"), ("2M,1M", "off"), ("1M,50%", "off")];
                for (size, quota) in wrong {
                    let planned = node.plan_set_vdisk(&a, set(levels(size, quota)), None).await;
                    assert_eq!(code(planned).as_deref(), Some("invalid-argument"), "{size} {quota}");
                    let refused = node.set_vdisk(&a, set(levels(size, quota)), None).await;
                    assert_eq!(code(refused).as_deref(), Some("invalid-argument"), "{size} {quota}");
                }
            } else {
                node.open_known_pools().await;
            }
            let vdisks = node.vdisks(None).unwrap();
            let [a] = &vdisks[..] else { panic!("{vdisks:?}") };
            let expected = ["1048576,536870912", "33554432,67108864"];
            assert_eq!([&a.thresholds, &a.quota_thresholds], expected, "life {life}");
            node.close().await.unwrap();
        });
    }
}

#[test]
fn the_lines_of_the_space_report_are_the_pools_figures_and_together_all_of_it() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let reserve = VdiskPolicyChange { reservation_bytes: Some(16 * MIB), ..VdiskPolicyChange::default() };
        node.set_vdisk(&a, set(reserve), None).await.unwrap();
        let (pool, report) = (node.pool_view("tank").unwrap(), node.space(None).unwrap());
        let lines = report.items;
        let line = |what: &str| lines.iter().find(|line| line.what == what).map(|line| line.physical_bytes);
        assert_eq!(line("metadata-reserve"), pool.metadata_reserve_bytes);
        // The row is the sum of its column; what metadata may need of it is a row of its own.
        let column = lines.iter().filter_map(|line| line.reserved_bytes).sum::<u64>();
        assert_eq!((line("reserved"), column), (Some(16 * MIB), 16 * MIB));
        assert_eq!(line("reserved-metadata"), pool.reserved_bytes.map(|bytes| bytes - column));
        assert!(line("reserved-metadata") > Some(0) && line("available") == pool.available_bytes);
        assert_eq!(lines.iter().map(|line| line.physical_bytes).sum::<u64>(), pool.physical_bytes.unwrap());
    });
}

#[test]
fn health_is_what_is_wrong_now_with_its_reason_and_what_to_do() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let health = |object: &str, words: &str| {
            let status = node.status();
            let finding = status.findings.first().cloned().expect("a finding");
            assert!(finding.object == object && finding.reason.contains(words), "{:?}", status.findings);
            crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
            assert_eq!(finding.health, status.health);
            status.health
        };
        assert_eq!((node.status().health, node.status().findings.len()), (Health::Ok, 0));
        // A reservation takes what others may have.
        let take = |bytes| set(VdiskPolicyChange { reservation_bytes: Some(bytes), ..VdiskPolicyChange::default() });
        let available = node.pool_view("tank").unwrap().available_bytes.unwrap();
        node.set_vdisk(&a, take(available * 3 / 4), None).await.unwrap();
        assert_eq!(health("tank", "nearly full"), Health::Warning);
        let off = |text: &str| SetPool { thresholds: Some(text.into()), ..SetPool::default() };
        node.set_pool("tank", off("off")).await.unwrap();
        assert_eq!(node.status().health, Health::Ok);
        node.set_pool("tank", off("default")).await.unwrap();
        let mut left = node.pool_view("tank").unwrap().available_bytes.unwrap();
        while left > 0 {
            let reserved = node.vdisk(&a).unwrap().reservation_bytes;
            node.set_vdisk(&a, take(reserved + (left / 2).max(65_536)), None).await.unwrap();
            left = node.pool_view("tank").unwrap().available_bytes.unwrap();
        }
        assert_eq!(health("tank", "is full"), Health::Critical);
        node.set_vdisk(&a, take(0), None).await.unwrap();
        assert_eq!(node.status().health, Health::Ok);
        // One that is only in the configuration.
        let gone = Problem::new("not-found", "/dev/x does not exist").hint("plimsoll device list");
        node.note_not_served("gone", &["/dev/x".to_owned()], gone).await;
        assert_eq!(health("gone", "is not served: /dev/x does not exist"), Health::Critical);
        let devices = vec![file(&dir, "gone.img", 64 * MIB)];
        let pool = CreatePool { name: "gone".into(), devices, extent_bytes: None, force: Vec::new(), buffered: true };
        node.create_pool(pool).await.unwrap();
        assert_eq!(node.status().health, Health::Ok);
    });
}

#[test]
fn a_vdisk_without_space_is_critical() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let policy = VdiskPolicyChange {
            quota_bytes: Some(65_536),
            on_full: Some("fail".into()),
            ..VdiskPolicyChange::default()
        };
        node.set_vdisk(&a, set(policy), None).await.unwrap();
        let vdisk = node.pool("tank").unwrap().vdisk("a").unwrap();
        let write = async |offset| {
            let mut buffer = node.machine().buffers().alloc(4096).await;
            buffer.fill(1);
            vdisk.write(offset, buffer.freeze(), false).await
        };
        write(0).await.unwrap();
        write(65_536).await.unwrap_err();
        let status = node.status();
        let [finding] = &status.findings[..] else { panic!("{:?}", status.findings) };
        assert_eq!((status.health, finding.object.as_str()), (Health::Critical, "tank/a"));
        assert!(finding.reason.contains("of its quota of 64 KiB") && finding.advice.contains("--quota"), "{finding}");
        // As soon as a write would go through, though none has.
        let more = VdiskPolicyChange { quota_bytes: Some(131_072), ..VdiskPolicyChange::default() };
        node.set_vdisk(&a, set(more), None).await.unwrap();
        assert_eq!(node.status().findings, []);
    });
}

#[test]
fn a_plan_of_an_evacuation_that_does_not_fit_is_refused_as_the_evacuation_is() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let path = file(&dir, "second.img", 64 * MIB);
        let second = AddDevice { path: path.clone(), force: Vec::new(), buffered: true };
        node.add_device("tank", second).await.unwrap();
        let leave = |device: &str| LeaveDevice { device: device.to_owned(), rate_bytes: None };
        let plan = node.plan_evacuation("tank", leave(&path), true).await.unwrap();
        assert!(plan.steps.iter().all(|step| ["move ", "let ", "leave "].iter().any(|verb| step.starts_with(verb))));
        let reserve = VdiskPolicyChange { reservation_bytes: Some(100 * MIB), ..VdiskPolicyChange::default() };
        node.set_vdisk(&a, set(reserve), None).await.unwrap();
        let first = dir.join("tank.img").display().to_string();
        let planned = node.plan_evacuation("tank", leave(&first), false).await.unwrap_err();
        let refused = node.evacuate_device("tank", leave(&first)).await.unwrap_err();
        assert_eq!((planned.code.as_str(), planned.exit_code()), ("would-not-fit", 7));
        assert_eq!(planned, refused);
    });
}
