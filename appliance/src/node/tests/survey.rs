//! What could come back is shown wherever space is, and told to who is short of it (2.01, 2.06, 4.46).

use std::time::Duration;

use plimsoll_hardware::Machine as _;

use super::failing::with_failing;
use super::{MIB, tank, vdisk, with_node};
use crate::cli::hints::assert_advice_can_be_followed;
use crate::model::{BeginReclaim, SetPool, SetVdisk, SpaceReport, SpaceView, VdiskPolicyChange};
use crate::name::VdiskName;
use crate::node::Node;

/// Writes so many MiB from the start of the vdisk, each of `byte`.
async fn fill(node: &Node, vdisk: &str, mib: u64, byte: u8) {
    let vdisk = node.pool("tank").unwrap().vdisk(vdisk).unwrap();
    for at in 0..mib {
        let mut buffer = node.machine().buffers().alloc(MIB as usize).await;
        buffer.fill(byte);
        vdisk.write(at * MIB, buffer.freeze(), false).await.unwrap();
    }
}

/// A pool whose vdisk stores what it is given.
async fn plain(node: &Node, dir: &std::path::Path) -> VdiskName {
    let a = tank(node, dir).await;
    let keep = SetVdisk { zero_detection: Some(false), ..SetVdisk::default() };
    node.set_vdisk(&a, keep, None).await.unwrap();
    a
}

async fn surveyed(node: &Node) {
    while node.pool("tank").unwrap().surveyed().is_none() {
        node.machine().sleep(Duration::from_millis(5)).await;
    }
}

fn line<'a>(report: &'a SpaceReport, what: &str) -> &'a SpaceView {
    report.items.iter().find(|line| line.what == what).unwrap()
}

#[test]
fn what_could_be_reclaimed_is_unknown_until_a_survey_and_shown_everywhere_afterwards() {
    with_node(|node, dir| async move {
        let a = plain(&node, &dir).await;
        fill(&node, "a", 8, 0).await;
        let plans = || {
            let compact = node.plan_compact_pool("tank").unwrap().steps.remove(0);
            (compact, node.plan_begin_reclaim(&a, BeginReclaim::default()).unwrap().steps.remove(0))
        };
        let before = (node.vdisk(&a).unwrap(), node.pool_view("tank").unwrap(), node.space(None).unwrap());
        assert_eq!((before.0.reclaimable_bytes, before.1.reclaimable_bytes), (None, None));
        assert_eq!(line(&before.2, "vdisk").reclaimable_bytes, None);
        assert_eq!((&before.0.survey, &before.1.survey), (&None, &None));
        let (compact, reclaim) = plans();
        for advice in [compact, reclaim, before.2.pools[0].advice.clone().unwrap()] {
            assert!(advice.contains("plimsoll pool survey tank"), "{advice}");
            assert_advice_can_be_followed(&advice);
        }

        assert!(node.plan_survey_pool("tank").unwrap().steps[0].contains("nothing is changed"));
        assert_eq!(node.survey_pool("tank").unwrap().kind, "survey");
        surveyed(&node).await;
        let after = (node.vdisk(&a).unwrap(), node.pool_view("tank").unwrap(), node.space(None).unwrap());
        let found = after.0.survey.clone().unwrap();
        assert_eq!((found.zero_bytes, found.whole_bytes, found.margin_bytes), (8 * MIB, 8 * MIB, 0));
        assert_eq!((after.0.reclaimable_bytes, after.1.reclaimable_bytes), (Some(8 * MIB), Some(8 * MIB)));
        assert_eq!(
            (line(&after.2, "vdisk").reclaimable_bytes, after.2.pools[0].reclaimable_bytes),
            (Some(8 * MIB), Some(8 * MIB))
        );
        assert_eq!(line(&after.2, "metadata").reclaimable_bytes, None);
        assert_eq!(after.0.version, before.0.version, "nobody has changed anything");
        let (compact, reclaim) = plans();
        assert!(compact.contains("ago, 0 B would come free"), "{compact}");
        assert!(reclaim.contains("ago, 8 MiB of that need not be stored") && !reclaim.contains("at once"), "{reclaim}");
        let advice = after.2.pools[0].advice.clone().unwrap();
        assert!(
            advice.contains("8 MiB in extents of nothing but zeros") && advice.contains("plimsoll reclaim tank/a"),
            "{advice}"
        );
        assert_advice_can_be_followed(&advice);
    });
}

#[test]
fn what_could_be_reclaimed_of_a_tenant_is_that_of_its_vdisks_together() {
    with_node(|node, dir| async move {
        plain(&node, &dir).await;
        for name in ["b", "c"] {
            node.create_vdisk("tank", vdisk(name)).await.unwrap();
        }
        for (name, tenant, mib) in [("a", "acme", 8), ("b", "acme", 4), ("c", "beta", 2)] {
            let policy = VdiskPolicyChange { tenant: Some(tenant.into()), ..VdiskPolicyChange::default() };
            let set = SetVdisk { zero_detection: Some(false), policy, ..SetVdisk::default() };
            node.set_vdisk(&format!("tank/{name}").parse().unwrap(), set, None).await.unwrap();
            fill(&node, name, mib, 0).await;
        }
        let tenants = || node.tenants().into_iter().map(|tenant| (tenant.name, tenant.reclaimable_bytes));
        assert!(tenants().all(|(_, bytes)| bytes.is_none()), "nobody has looked");
        node.survey_pool("tank").unwrap();
        surveyed(&node).await;
        let expected = [("acme".to_owned(), Some(12 * MIB)), ("beta".to_owned(), Some(2 * MIB))];
        assert_eq!(tenants().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_pool_that_is_read_only_refuses_the_plans_as_well() {
    with_failing(|node, device| async move {
        node.plan_survey_pool("tank").unwrap();
        node.plan_compact_pool("tank").unwrap();
        device.fail();
        let request = SetPool { thresholds: Some("60%".into()), ..SetPool::default() };
        node.set_pool("tank", request).await.unwrap_err();
        let pairs = [
            (node.plan_survey_pool("tank").unwrap_err(), node.survey_pool("tank").unwrap_err()),
            (node.plan_compact_pool("tank").unwrap_err(), node.compact_pool("tank").unwrap_err()),
        ];
        for (planned, done) in pairs {
            assert_eq!((&planned.code, &planned.detail, &planned.hint), (&done.code, &done.detail, &done.hint));
            assert_eq!(planned.code, "read-only");
        }
        node.close().await.unwrap_err();
    });
}

#[test]
fn a_pool_that_fills_up_finds_out_by_itself_and_its_alarms_say_what_could_be_reclaimed() {
    with_node(|node, dir| async move {
        plain(&node, &dir).await;
        // Of 128 MiB, with what metadata takes and keeps.
        fill(&node, "a", 100, 0).await;
        assert!(node.pool_view("tank").unwrap().used_pct.unwrap() > 70.0);
        surveyed(&node).await;
        let status = node.status();
        let full = status.findings.iter().find(|finding| finding.object == "tank").unwrap();
        assert!(full.advice.contains("of what tank stores could be reclaimed: plimsoll reclaim tank/a"), "{full}");
        assert_advice_can_be_followed(&full.advice);
    });
}
