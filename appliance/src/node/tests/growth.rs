//! Spares: whose they are, when they are taken, and that a refused request changes nothing. Checklist 0.17.

use super::failing::with_failing;
use super::kept::{make_room, take_room};
use super::*;
use crate::model::GrowthChange;

/// A pool of this name on a file of its own.
async fn pool_on(node: &Node, dir: &Path, name: &str) {
    create(node, name, vec![file(dir, &format!("{name}-first.img"), 128 * MIB)], &[]).await.unwrap();
}

pub(super) async fn create(node: &Node, name: &str, devices: Vec<String>, force: &[&str]) -> Answer<()> {
    let force = force.iter().map(|check| (*check).to_owned()).collect();
    let request = CreatePool { name: name.into(), devices, extent_bytes: None, force, buffered: true };
    let planned = node.plan_create_pool(request.clone()).await;
    let created = node.create_pool(request).await.map(drop);
    assert_eq!(code(planned), code(created.clone()), "the plan says what happens");
    created
}

pub(super) async fn add(node: &Node, pool: &str, path: &str, force: &[&str]) -> Answer<()> {
    let force = force.iter().map(|check| (*check).to_owned()).collect();
    let request = AddDevice { path: path.to_owned(), force, buffered: true };
    let planned = node.plan_add_device(pool, request.clone()).await;
    let added = node.add_device(pool, request).await.map(drop);
    assert_eq!(code(planned), code(added.clone()), "the plan says what happens");
    added
}

pub(super) fn set_growth(growth: GrowthPolicy) -> SetPool {
    SetPool { growth: Some(Some(growth.into())), ..SetPool::default() }
}

fn spares(node: &Node, pool: &str) -> Vec<String> {
    node.pool_view(pool).unwrap().growth.expect("it grows by itself").policy.spares
}

#[track_caller]
fn assert_spare_of_tank(answer: Answer<()>) {
    let problem = answer.unwrap_err();
    assert!(problem.code == "in-use" && problem.detail.contains("is a spare of pool tank"), "{problem:?}");
    assert!(problem.hint.is_some_and(|hint| hint.contains("--force=spare")));
}

#[test]
fn a_spare_of_one_pool_is_taken_for_another_only_by_force_and_is_nobodys_spare_then() {
    with_node(|node, dir| async move {
        pool_on(&node, &dir, "tank").await;
        pool_on(&node, &dir, "lake").await;
        let all: Vec<String> = (0..4).map(|index| file(&dir, &format!("spare{index}.img"), 64 * MIB)).collect();
        node.allow_buffered(&all);
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        node.set_pool("tank", set_growth(growing(&names, None))).await.unwrap();
        let link = dir.join("link.img");
        std::os::unix::fs::symlink(&all[0], &link).unwrap();
        assert_spare_of_tank(create(&node, "sea", vec![all[0].clone()], &[]).await);
        assert_spare_of_tank(create(&node, "sea", vec![all[0].clone()], &["foreign"]).await);
        assert_spare_of_tank(add(&node, "lake", &all[1], &["foreign"]).await);
        assert_spare_of_tank(add(&node, "lake", &link.display().to_string(), &[]).await);
        assert_eq!(spares(&node, "tank"), all);
        create(&node, "sea", vec![all[0].clone()], &["spare"]).await.unwrap();
        assert_eq!(spares(&node, "tank"), all[1..]);
        add(&node, "lake", &all[1], &["spare"]).await.unwrap();
        assert_eq!(spares(&node, "tank"), all[2..]);
        add(&node, "tank", &all[2], &[]).await.unwrap();
        assert_eq!(spares(&node, "tank"), all[3..], "its own are a pool's to take");
    });
}

#[test]
fn a_spare_is_the_same_by_every_path_to_it() {
    with_node(|node, dir| async move {
        pool_on(&node, &dir, "tank").await;
        pool_on(&node, &dir, "lake").await;
        let good = file(&dir, "good.img", 64 * MIB);
        let (soft, hard) = (dir.join("soft.img"), dir.join("hard.img"));
        std::os::unix::fs::symlink(&good, &soft).unwrap();
        std::fs::hard_link(&good, &hard).unwrap();
        let others = [soft.display().to_string(), hard.display().to_string(), format!("{}/./good.img", dir.display())];
        node.allow_buffered([&good]);
        node.allow_buffered(&others);
        for other in &others {
            let problem = node.set_pool("tank", set_growth(growing(&[&good, other], None))).await.unwrap_err();
            assert!(problem.detail.contains("is named twice"), "{other}: {problem:?}");
        }
        node.set_pool("tank", set_growth(growing(&[&good], None))).await.unwrap();
        for other in &others {
            let problem = node.set_pool("lake", set_growth(growing(&[other], None))).await.unwrap_err();
            assert!(problem.detail.contains("is a spare of pool tank"), "{other}: {problem:?}");
        }
    });
}

#[test]
fn a_spare_that_is_taken_off_the_list_while_its_adding_waits_is_left_alone() {
    with_node(|node, dir| async move {
        pool_on(&node, &dir, "tank").await;
        let spare = file(&dir, "spare.img", 64 * MIB);
        node.allow_buffered([&spare]);
        let (pool, policy) = (node.pool("tank").unwrap(), growing(&[&spare], None));
        node.set_pool("tank", set_growth(policy.clone())).await.unwrap();
        let turn = node.0.changes.lock().await;
        let decide = async {
            node.set_growth(pool.info().uuid, None).await.unwrap();
            drop(turn);
        };
        let (grown, ()) = join(node.grow_by(&pool, &policy), decide).await;
        grown.unwrap();
        assert_eq!(sizes(&node), [Some(128)]);
        assert!(std::fs::read(&spare).unwrap().iter().all(|byte| *byte == 0), "it was written to");
    });
}

#[test]
fn of_growing_by_itself_what_is_not_named_stays_as_it_is() {
    with_node(|node, dir| async move {
        pool_on(&node, &dir, "tank").await;
        let spare = file(&dir, "spare.img", 64 * MIB);
        node.allow_buffered([&spare]);
        let change = |growth| SetPool { growth: Some(Some(growth)), ..SetPool::default() };
        let only_level = || change(GrowthChange { at_pct: Some(90), ..GrowthChange::default() });
        let problem = node.set_pool("tank", only_level()).await.unwrap_err();
        assert!(problem.detail.contains("nothing to grow by"), "{problem:?}");
        let spares = change(GrowthChange { spares: Some(vec![spare.clone()]), ..GrowthChange::default() });
        let problem = node.set_pool("tank", spares.clone()).await.unwrap_err();
        assert!(problem.detail.contains("nothing says when"), "{problem:?}");
        crate::cli::hints::assert_advice_can_be_followed(problem.hint.as_deref().unwrap_or_default());
        let before = GrowthPolicy { step_bytes: Some(64 * MIB), ..growing(&[&spare], Some(192 * MIB)) };
        node.set_pool("tank", set_growth(before.clone())).await.unwrap();
        let plan = node.plan_set_pool("tank", only_level()).await.unwrap();
        let expected = [
            "grow pool tank when 90 % of it are used".to_owned(),
            format!("then add {spare}, which loses what is on it"),
            "then enlarge its last file, up to 192 MiB".to_owned(),
        ];
        assert_eq!(plan.steps, expected);
        let now = node.set_pool("tank", only_level()).await.unwrap().growth.expect("it grows").policy;
        assert_eq!(now, GrowthPolicy { at_pct: 90, ..before.clone() });
        let file = GrowthChange { grow_file_to_bytes: Some(Some(256 * MIB)), ..GrowthChange::default() };
        let now = node.set_pool("tank", change(file)).await.unwrap().growth.expect("it grows").policy;
        assert_eq!(now, GrowthPolicy { at_pct: 90, grow_file_to_bytes: Some(256 * MIB), ..before });
        let before = GrowthPolicy { force: vec!["foreign".to_owned()], ..now };
        let named = GrowthChange { spares: Some(vec![spare.clone()]), ..GrowthChange::default() };
        let merged = named.merged(Some(before)).expect("it has a level");
        assert_eq!(merged.force, [""; 0], "that was for others");
        // As the API writes it: null ends, absent stays.
        let ends: SetPool = serde_json::from_str(r#"{"growth": {"grow_file_to_bytes": null}}"#).unwrap();
        let now = node.set_pool("tank", ends).await.unwrap().growth.expect("it grows").policy;
        assert_eq!((now.grow_file_to_bytes, now.spares), (None, vec![spare]));
    });
}

#[test]
fn of_a_pool_whose_growth_cannot_be_remembered_the_policy_stays_as_well() {
    with_node(|node, dir| async move {
        pool_on(&node, &dir, "tank").await;
        take_room(&dir);
        let request = SetPool { thresholds: Some("60%".into()), ..set_growth(growing(&[], Some(192 * MIB))) };
        let problem = node.set_pool("tank", request.clone()).await.unwrap_err();
        assert!(problem.detail.contains("state cannot be kept") && problem.hint.is_some(), "{problem:?}");
        let pool = node.pool_view("tank").unwrap();
        assert_eq!((pool.growth, pool.thresholds.as_deref()), (None, Some("default")));
        make_room(&dir);
        let pool = node.set_pool("tank", request).await.unwrap();
        assert_eq!((pool.growth.is_some(), pool.thresholds.as_deref()), (true, Some("60%")));
    });
}

#[test]
fn of_a_pool_that_refuses_its_policy_the_growth_stays_as_well() {
    with_failing(|node, device| async move {
        device.fail();
        let request = SetPool { thresholds: Some("60%".into()), ..set_growth(growing(&[], Some(192 * MIB))) };
        node.set_pool("tank", request).await.unwrap_err();
        assert_eq!(node.pool_view("tank").unwrap().growth, None);
        node.close().await.unwrap_err();
    });
}

#[test]
fn a_file_is_not_to_grow_to_less_than_it_has() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let grow = |bytes| set_growth(growing(&[], Some(bytes)));
        for bytes in [0, 1, 64 * MIB, 128 * MIB - 1] {
            let planned = node.plan_set_pool("tank", grow(bytes)).await;
            assert_eq!(code(planned).as_deref(), Some("invalid-argument"), "{bytes}");
            let problem = node.set_pool("tank", grow(bytes)).await.unwrap_err();
            assert!(problem.detail.contains("tank.img has 128 MiB already"), "{problem:?}");
        }
        assert!(node.pool_view("tank").unwrap().growth.is_none());
        // What it has already is a limit that makes sense: no further.
        node.set_pool("tank", grow(128 * MIB)).await.unwrap();
    });
}

#[test]
fn a_spare_that_somebody_holds_is_refused_when_it_is_named_and_told_of_with_the_others_when_none_can_be_added() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let spares: Vec<String> = (0..2).map(|index| file(&dir, &format!("spare{index}.img"), 64 * MIB)).collect();
        node.allow_buffered(&spares);
        let names: Vec<&str> = spares.iter().map(String::as_str).collect();
        let hold = |path: &String| {
            let file = std::fs::File::open(path).unwrap();
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
            file
        };
        let held = hold(&spares[1]);
        let problem = node.set_pool("tank", set_growth(growing(&names, None))).await.unwrap_err();
        assert!(problem.code == "locked" && problem.detail.contains("spare1.img"), "{problem:?}");
        drop(held);
        node.set_pool("tank", set_growth(growing(&names, None))).await.unwrap();
        let _held: Vec<_> = spares.iter().map(hold).collect();
        let pool = node.pool("tank").unwrap();
        let policy = node.growth_policy(pool.info().uuid).unwrap();
        let problem = node.grow_by(&pool, &policy).await.unwrap_err();
        let said = |name: &str| problem.detail.contains(name);
        assert!(said("spare0.img") && said("spare1.img"), "{problem:?}");
    });
}
