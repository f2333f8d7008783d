//! What an operator decides: contradictions are refused with their figures, what is below the present use is told, and plans say what they
//! come to. Checklist 2.36, 2.38.

use std::time::Duration;

use plimsoll_engine::Error;
use plimsoll_hardware::Machine as _;

use super::{MIB, code, file, set, tank, with_node};
use crate::cli::hints::assert_advice_can_be_followed;
use crate::event::EventQuery;
use crate::model::{
    AddDevice, BeginReclaim, Health, HealthFinding, JobState, LeaveDevice, SetPool, SetReclaim, SetTenant,
    VdiskPolicyChange,
};
use crate::node::Node;
use crate::node::below::Below;
use crate::problem::Problem;

const EXTENT: u64 = 65_536;

async fn write(node: &Node, offset: u64, bytes: usize) -> Result<(), Error> {
    let vdisk = node.pool("tank").unwrap().vdisk("a").unwrap();
    let mut buffer = node.machine().buffers().alloc(bytes).await;
    buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8 | 1);
    vdisk.write(offset, buffer.freeze(), false).await
}

fn quota(bytes: u64) -> VdiskPolicyChange {
    VdiskPolicyChange { quota_bytes: Some(bytes), ..VdiskPolicyChange::default() }
}

fn reserve(bytes: u64) -> VdiskPolicyChange {
    VdiskPolicyChange { reservation_bytes: Some(bytes), ..VdiskPolicyChange::default() }
}

fn of_tenant(tenant: &str) -> VdiskPolicyChange {
    VdiskPolicyChange { tenant: Some(tenant.into()), ..VdiskPolicyChange::default() }
}

fn tenant_quota(bytes: u64) -> SetTenant {
    SetTenant { quota_bytes: Some(bytes), thresholds: None }
}

fn found<'a>(findings: &'a [HealthFinding], object: &str, words: &str) -> &'a HealthFinding {
    let finding = findings.iter().find(|finding| finding.object == object && finding.reason.contains(words));
    let finding = finding.unwrap_or_else(|| panic!("no {words:?} of {object} in {findings:#?}"));
    assert_advice_can_be_followed(&finding.advice);
    finding
}

#[test]
fn a_vdisk_whose_tenant_is_at_its_quota_is_told_so_and_not_of_its_own_quota_or_the_pool() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let own = VdiskPolicyChange { on_full: Some("fail".into()), tenant: Some("acme".into()), ..quota(64 * MIB) };
        node.set_vdisk(&a, set(own), None).await.unwrap();
        node.set_tenant("tank", "acme", tenant_quota(EXTENT)).await.unwrap();
        write(&node, 0, 4096).await.unwrap();
        write(&node, EXTENT, 4096).await.unwrap_err();
        let status = node.status();
        let finding =
            found(&status.findings, "tank/a", "its tenant acme has 64 KiB of its quota of 64 KiB in pool tank");
        assert_eq!((finding.health, status.findings.len()), (Health::Critical, 1));
        assert!(finding.advice.contains("tenant set acme") && !finding.advice.contains("add-device"), "{finding}");
    });
}

#[test]
fn a_vdisk_is_without_space_only_when_the_file_systems_below_have_no_room_for_an_extent() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let short = VdiskPolicyChange { on_full: Some("hold(1s)".into()), ..quota(EXTENT) };
        node.set_vdisk(&a, set(short), None).await.unwrap();
        write(&node, 0, 4096).await.unwrap();
        write(&node, EXTENT, 4096).await.unwrap_err();
        node.set_vdisk(&a, set(quota(64 * MIB)), None).await.unwrap();
        assert_eq!(node.status().health, Health::Ok, "nobody has tried again, and it would go through");
        let info = node.pool("tank").unwrap().info();
        let is_without = |room: u64| {
            let room_bytes = room + info.metadata_reserve_bytes;
            node.set_below([(info.uuid, Below { room_bytes, path: "/srv/tank.img".into() })].into());
            node.status().findings.iter().any(|finding| finding.object == "tank/a")
        };
        // What metadata keeps is taken off, and what is as good as nothing.
        let scarce = crate::node::health::SCARCE_BYTES;
        assert_eq!([scarce + EXTENT, scarce + EXTENT - 1, EXTENT, 0].map(is_without), [false, true, true, true]);
    });
}

#[test]
fn limits_below_what_is_in_use_or_promised_are_taken_and_told() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        write(&node, 0, 3 * EXTENT as usize).await.unwrap();
        node.set_vdisk(&a, set(VdiskPolicyChange { tenant: Some("acme".into()), ..quota(EXTENT) }), None)
            .await
            .unwrap();
        node.set_tenant("tank", "acme", tenant_quota(2 * EXTENT)).await.unwrap();
        let limit = SetPool { overcommit_limit: Some("1.5x".into()), ..SetPool::default() };
        let plan = node.plan_set_pool("tank", limit.clone()).await.unwrap();
        assert!(
            plan.steps.iter().any(|step| step.starts_with("go on although pool tank has promised 1 GiB, more than")),
            "{plan:?}"
        );
        node.set_pool("tank", limit).await.unwrap();
        let status = node.status();
        found(&status.findings, "tank/a", "has 192 KiB, more than its quota of 64 KiB");
        found(&status.findings, "acme", "has 192 KiB in pool tank, more than its quota of 128 KiB");
        found(&status.findings, "tank", "has promised 1 GiB, more than its overcommit limit of 1.5x allows");
        assert_eq!((status.health, status.findings.len()), (Health::Warning, 3), "{:#?}", status.findings);
    });
}

#[test]
fn a_quota_that_contradicts_what_is_reserved_is_refused_with_both_figures() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let refused = async |policy: VdiskPolicyChange, words: [&str; 2]| {
            let planned = node.plan_set_vdisk(&a, set(policy.clone()), None).await.unwrap_err();
            let problem = node.set_vdisk(&a, set(policy), None).await.unwrap_err();
            assert!(words.iter().all(|word| problem.detail.contains(word)), "{}", problem.detail);
            assert!(problem.hint.is_some());
            assert_eq!(planned, problem);
            problem.code
        };
        assert_eq!(refused(quota(1), ["1 B", "64 KiB"]).await, "invalid-argument");
        node.set_vdisk(&a, set(VdiskPolicyChange { tenant: Some("acme".into()), ..reserve(8 * MIB) }), None)
            .await
            .unwrap();
        assert_eq!(refused(quota(4 * MIB), ["4 MiB", "8 MiB"]).await, "invalid-argument");
        for (bytes, code) in [(1, "invalid-argument"), (4 * MIB, "limit-exceeded")] {
            let planned = node.plan_set_tenant("tank", "acme", &tenant_quota(bytes)).unwrap_err();
            let problem = node.set_tenant("tank", "acme", tenant_quota(bytes)).await.unwrap_err();
            assert_eq!((problem.code.as_str(), &problem), (code, &planned), "{}", problem.detail);
        }
        node.set_tenant("tank", "acme", tenant_quota(8 * MIB)).await.unwrap();
        assert_eq!(refused(reserve(9 * MIB), ["9 MiB", "8 MiB"]).await, "limit-exceeded");
        // What contradicts nothing goes on.
        node.set_vdisk(&a, set(quota(8 * MIB)), None).await.unwrap();
        node.set_vdisk(&a, set(reserve(MIB)), None).await.unwrap();
        node.set_tenant("tank", "beta", tenant_quota(EXTENT)).await.unwrap();
        assert_eq!(refused(of_tenant("beta"), ["1 MiB", "64 KiB"]).await, "limit-exceeded");
        let unchanged = node.vdisk(&a).unwrap();
        assert_eq!((unchanged.tenant.as_deref(), unchanged.reservation_bytes), (Some("acme"), MIB));
    });
}

#[test]
fn a_tenant_that_has_neither_a_quota_nor_vdisks_is_listed_no_more() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let names = || node.tenants().into_iter().map(|tenant| tenant.name).collect::<Vec<_>>();
        node.set_vdisk(&a, set(of_tenant("acme")), None).await.unwrap();
        let both = SetTenant { thresholds: Some("50%".into()), ..tenant_quota(64 * MIB) };
        node.set_tenant("tank", "acme", both).await.unwrap();
        node.set_vdisk(&a, set(of_tenant("")), None).await.unwrap();
        assert_eq!(names(), ["acme"], "it has a quota");
        let answer = node.set_tenant("tank", "acme", tenant_quota(0)).await.unwrap();
        assert_eq!((answer.quota_bytes, answer.thresholds.as_str()), (None, "default"));
        assert_eq!(names(), [""; 0]);
        assert!(node.0.state.borrow().tenants.is_empty());
    });
}

#[test]
fn plans_say_what_is_changed_with_the_figures_of_before_and_after() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        write(&node, 0, 3 * EXTENT as usize).await.unwrap();
        let policy = VdiskPolicyChange {
            on_full: Some("fail".into()),
            reservation_bytes: Some(MIB),
            tenant: Some("acme".into()),
            ..quota(MIB + 1)
        };
        let plan = node.plan_set_vdisk(&a, set(policy), None).await.unwrap();
        let expected = [
            "make tenant of vdisk tank/a acme instead of none",
            "fail writes of vdisk tank/a when there is no space, instead of hold(20s)",
            "reserve 1 MiB for vdisk tank/a instead of 0 B; 192 KiB are in use",
            "let vdisk tank/a use 1 MiB (1 MiB in whole extents) instead of as much as there is; 192 KiB are in use",
        ];
        assert_eq!((plan.steps, plan.needs_bytes), (expected.map(str::to_owned).to_vec(), Some(MIB - 3 * EXTENT)));
        let plan = node.plan_set_tenant("tank", "acme", &tenant_quota(MIB)).unwrap();
        let expected =
            "let tenant acme use 1 MiB of pool tank instead of as much as there is; 0 B of 0 vdisks are in use";
        assert_eq!(plan.steps, [expected]);
        let plan = node.plan_compact_pool("tank").unwrap();
        assert!(plan.steps[0].contains("192 KiB that 1 vdisk"), "{:?}", plan.steps);
    });
}

#[test]
fn a_reclaim_that_is_paused_is_given_up_only_when_that_is_said() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        for megabyte in 0..8 {
            write(&node, megabyte * MIB, MIB as usize).await.unwrap();
        }
        let begin = |anew| BeginReclaim { rate_bytes: Some(MIB), anew, ..BeginReclaim::default() };
        for (paused, which) in [(false, "paused"), (true, "running")] {
            let planned = node.plan_pause_reclaim(&a, paused).unwrap_err();
            let refused = node.pause_reclaim(&a, paused).await.unwrap_err();
            assert_eq!((&planned, refused.code.as_str()), (&refused, "not-found"));
            assert_eq!(refused.detail, format!("there is no {which} reclaim of tank/a"));
            assert_eq!(refused.hint.as_deref(), Some("plimsoll reclaim tank/a"));
        }
        let first = node.begin_reclaim(&a, begin(false)).await.unwrap();
        assert_eq!(
            node.plan_pause_reclaim(&a, false).unwrap_err().hint.as_deref(),
            Some("plimsoll reclaim tank/a --show")
        );
        assert_eq!(code(node.begin_reclaim(&a, begin(true)).await).as_deref(), Some("busy"));
        let rate = |rate_bytes| SetReclaim { rate_bytes: Some(rate_bytes), ..SetReclaim::default() };
        let steps = node.plan_set_reclaim(&a, rate(2 * MIB)).unwrap().steps;
        assert_eq!(steps, ["have the reclaim of tank/a read at most 2 MiB a second instead of at most 1 MiB a second"]);
        assert_eq!(node.set_reclaim(&a, rate(2 * MIB)).await.unwrap().rate_bytes, Some(2 * MIB));
        for wrong in [rate(1), rate(u64::MAX), SetReclaim::default()] {
            let planned = node.plan_set_reclaim(&a, wrong).unwrap_err();
            let refused = node.set_reclaim(&a, wrong).await.unwrap_err();
            assert_eq!((&planned, refused.code.as_str()), (&refused, "invalid-argument"));
        }
        assert_eq!(node.reclaim(&a).unwrap().rate_bytes, Some(2 * MIB));
        node.pause_reclaim(&a, true).await.unwrap();
        while node.job(&first.id).unwrap().state == JobState::Running {
            node.machine().sleep(Duration::from_millis(5)).await;
        }
        let planned = node.plan_begin_reclaim(&a, begin(false)).unwrap_err();
        let refused: Problem = node.begin_reclaim(&a, begin(false)).await.unwrap_err();
        assert_eq!((&planned, refused.code.as_str()), (&refused, "conflict"));
        assert_advice_can_be_followed(refused.hint.as_deref().unwrap_or_default());
        assert!(node.reclaim(&a).unwrap().paused);
        assert_eq!(node.plan_begin_reclaim(&a, begin(true)).unwrap().steps.len(), 2);
        node.begin_reclaim(&a, begin(true)).await.unwrap();
        assert!(node.reclaim(&a).unwrap().running);
        for rate in [MIB + 1, 1 << 50] {
            let wrong = BeginReclaim { rate_bytes: Some(rate), ..BeginReclaim::default() };
            assert_eq!(code(node.plan_begin_reclaim(&a, wrong)).as_deref(), Some("invalid-argument"));
        }
    });
}

#[test]
fn an_evacuation_that_was_called_off_is_cancelled_and_not_failed() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        for extent in 0..64 {
            write(&node, extent * EXTENT, 4096).await.unwrap();
        }
        let path = file(&dir, "second.img", 64 * MIB);
        let second = AddDevice { path, force: Vec::new(), buffered: true };
        node.add_device("tank", second).await.unwrap();
        let first = dir.join("tank.img").display().to_string();
        let leave = |rate| LeaveDevice { device: first.clone(), rate_bytes: rate };
        for rate in [1, 1 << 50] {
            let refused = node.evacuate_device("tank", leave(Some(rate))).await;
            assert_eq!(code(refused).as_deref(), Some("invalid-argument"));
        }
        let planned = node.plan_cancel_evacuation("tank", &leave(None)).unwrap_err();
        let refused = node.cancel_evacuation("tank", leave(None)).await.unwrap_err();
        assert_eq!((&planned, refused.code.as_str()), (&refused, "busy"));
        assert_eq!(
            refused.detail,
            format!("there is no evacuation to call off: {first} of pool tank is not being evacuated")
        );
        let job = node.evacuate_device("tank", leave(Some(64 << 10))).await.unwrap();
        node.cancel_evacuation("tank", leave(None)).await.unwrap();
        while node.job(&job.id).unwrap().state == JobState::Running {
            node.machine().sleep(Duration::from_millis(5)).await;
        }
        let job = node.job(&job.id).unwrap();
        assert_eq!((job.state, job.problem), (JobState::Cancelled, None));
    });
}

#[test]
fn a_reclaim_whose_vdisk_is_deleted_is_cancelled_and_says_why() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        for paused in [false, true] {
            for stretch in 0..3 {
                write(&node, stretch * MIB, MIB as usize).await.unwrap();
            }
            let slow = BeginReclaim { rate_bytes: Some(MIB), ..BeginReclaim::default() };
            let job = node.begin_reclaim(&a, slow).await.unwrap();
            if paused {
                node.pause_reclaim(&a, true).await.unwrap();
            }
            node.delete_vdisk(&a, &[], None).await.unwrap();
            while matches!(node.job(&job.id).unwrap().state, JobState::Running | JobState::Paused) {
                node.machine().sleep(std::time::Duration::from_millis(5)).await;
            }
            let job = node.job(&job.id).unwrap();
            let problem = job.problem.unwrap();
            assert_eq!((job.state, problem.code.as_str(), problem.exit_code()), (JobState::Cancelled, "conflict", 4));
            assert_eq!(problem.detail, "vdisk tank/a was deleted before its reclaim had ended");
            node.create_vdisk("tank", super::vdisk("a")).await.unwrap();
        }
    });
}

#[test]
fn a_vdisk_that_is_at_its_quota_since_before_a_start_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..2 {
        let config = plimsoll_hardware::ReactorConfig { buffer_bytes: 16 << 20, ..Default::default() };
        let reactor = plimsoll_hardware::Reactor::new(config).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            node.open_known_pools().await;
            if life == 0 {
                let a = tank(&node, dir.path()).await;
                let own = VdiskPolicyChange { on_full: Some("fail".into()), ..quota(EXTENT) };
                node.set_vdisk(&a, set(own), None).await.unwrap();
                write(&node, 0, 4096).await.unwrap();
                write(&node, EXTENT, 4096).await.unwrap_err();
            }
            // After a start what was told before is known again in a moment.
            while node.status().findings.is_empty() {
                node.machine().sleep(std::time::Duration::from_millis(5)).await;
            }
            found(&node.status().findings, "tank/a", "it has 64 KiB of its quota of 64 KiB");
            node.close().await.unwrap();
        });
    }
}

#[test]
fn the_space_report_has_the_overcommit_and_says_how_to_find_what_could_come_free() {
    with_node(|node, dir| async move {
        let a = tank(&node, &dir).await;
        let limit = SetPool { overcommit_limit: Some("20x".into()), ..SetPool::default() };
        let pool = node.set_pool("tank", limit).await.unwrap();
        let promised = || node.space(Some("tank")).unwrap().pools.remove(0);
        let now = promised();
        assert_eq!(
            (Some(now.designated_bytes), Some(now.physical_bytes)),
            (pool.designated_bytes, pool.physical_bytes)
        );
        assert_eq!(
            (now.designated_bytes_max, Some(now.overcommit_bytes)),
            (pool.designated_bytes_max, pool.overcommit_bytes)
        );
        assert!(now.designated_bytes_max.is_some() && Some(now.overcommit_ratio) == pool.overcommit_ratio);
        assert_eq!(now.advice, None, "nothing is stored");
        write(&node, 0, EXTENT as usize).await.unwrap();
        let advice = promised().advice.unwrap();
        assert_advice_can_be_followed(&advice);
        assert!(advice.contains("not known yet: plimsoll pool survey tank"), "{advice}");
        let freed = || node.space(None).unwrap().items[0].reclaimed_bytes;
        assert_eq!(freed(), None, "there was no reclaim");
        let range = crate::model::Range { offset_bytes: 0, length_bytes: EXTENT };
        let worthless = BeginReclaim { ranges: Some(vec![range]), worthless: true, ..BeginReclaim::default() };
        let job = node.begin_reclaim(&a, worthless).await.unwrap();
        while node.job(&job.id).unwrap().state == JobState::Running {
            node.machine().sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(freed(), Some(EXTENT));
    });
}

#[test]
fn a_pool_shows_the_bound_of_held_writes_and_whether_it_was_set() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let shown = || {
            let pool = node.pool_view("tank").unwrap();
            (pool.hold_bytes_max, pool.hold_bytes_by_default)
        };
        assert_eq!(shown(), (Some(4 * MIB), Some(true)), "a quarter of 16 MiB");
        let set = |bytes| SetPool { hold_bytes_max: Some(bytes), ..SetPool::default() };
        node.set_pool("tank", set(3 * MIB)).await.unwrap();
        assert_eq!(shown(), (Some(3 * MIB), Some(false)));
        node.set_pool("tank", set(0)).await.unwrap();
        assert_eq!(shown(), (Some(4 * MIB), Some(true)));
    });
}

#[test]
fn no_job_has_the_id_that_one_had_before_a_restart() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    for _ in 0..2 {
        let seen = seen.clone();
        with_node(|node, dir| async move {
            tank(&node, &dir).await;
            for job in [node.check_pool("tank"), node.check_pool("tank"), node.compact_pool("tank")] {
                let id = job.unwrap().id;
                assert!(!seen.borrow().contains(&id), "{id} and {:?}", seen.borrow());
                seen.borrow_mut().push(id);
            }
            while node.jobs().iter().any(|job| job.state == JobState::Running) {
                node.machine().sleep(Duration::from_millis(5)).await;
            }
        });
    }
}

#[test]
fn more_cannot_be_left_free_than_the_file_system_has() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let keep = |bytes| {
            let growth = crate::model::GrowthPolicy {
                at_pct: 80,
                spares: Vec::new(),
                grow_file_to_bytes: Some(1 << 30),
                step_bytes: None,
                keep_free_bytes: Some(bytes),
                force: Vec::new(),
            };
            SetPool { growth: Some(Some(growth.into())), ..SetPool::default() }
        };
        node.check_pool_bounds("tank", &keep(1 << 20)).await.unwrap();
        let problem = node.check_pool_bounds("tank", &keep(1000 << 40)).await.unwrap_err();
        assert!(problem.detail.contains("1000 TiB cannot be left free"), "{}", problem.detail);
    });
}

#[test]
fn that_a_file_system_has_less_room_than_the_pool_is_told_once_before_anybody_lacks_it() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let pool = node.pool("tank").unwrap();
        let kinds = async || {
            let page = node.events().list(EventQuery::after(0, 100)).await.unwrap();
            page.items
                .into_iter()
                .map(|event| event.kind)
                .filter(|kind| kind.starts_with("pool-room"))
                .collect::<Vec<_>>()
        };
        // The look that comes with its opening is over.
        while node.0.below_told.borrow().is_empty() {
            node.machine().sleep(Duration::from_millis(5)).await;
        }
        let expected = ["pool-room-below", "pool-room-below-cleared"];
        for (told, below) in [Some(32 * MIB), None].into_iter().enumerate() {
            let found = below.map(|room_bytes| (pool.info().uuid, Below { room_bytes, path: "/srv/tank.img".into() }));
            node.set_below(found.into_iter().collect());
            for _ in 0..2 {
                node.tell_below(&pool).await;
                while kinds().await.len() <= told {
                    node.machine().sleep(Duration::from_millis(5)).await;
                }
            }
            node.machine().sleep(Duration::from_millis(50)).await;
            assert_eq!(kinds().await, expected[..=told]);
        }
    });
}
