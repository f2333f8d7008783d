//! What is so when the state cannot be kept, and what was asked for by somebody who is gone.

use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::growth::{add, create, set_growth};
use super::*;
use crate::model::{ImportPool, PoolState};
use crate::node::asked_by;
use crate::node::below::Below;
use crate::node::state::{ExportRecord, State};

/// From now on the state finds no space.
pub(super) fn take_room(dir: &Path) {
    let new = dir.join("state.json.new");
    std::fs::remove_file(&new).unwrap();
    std::os::unix::fs::symlink("/dev/full", &new).unwrap();
}

pub(super) fn make_room(dir: &Path) {
    std::fs::remove_file(dir.join("state.json.new")).unwrap();
}

fn devices(node: &Node) -> usize {
    node.pool_view("tank").unwrap().devices.len()
}

/// Adds a device as a pool does that grows by itself, which waits for nothing.
async fn join_unkept(node: &Node, path: &str) {
    let request = AddDevice { path: path.to_owned(), force: Vec::new(), buffered: true };
    node.add_in_turn("tank", request).await.unwrap();
    assert_eq!(node.unkept().map(|problem| problem.code).as_deref(), Some("state-no-space"));
}

#[test]
fn a_device_is_not_added_by_hand_when_the_state_has_no_room_for_it() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        // More than one unit of the file, so that the next state may not fit into what the last but one had.
        let exports = (0..200).map(|number| ExportRecord {
            name: format!("tank/{number}"),
            vdisk: uuid::Uuid::from_u128(number),
            hidden: true,
            read_only: false,
        });
        node.remember(|state| state.exports.extend(exports)).await.unwrap();
        let path = file(&dir, "second.img", 64 * MIB);
        let second = AddDevice { path: path.clone(), force: Vec::new(), buffered: true };
        take_room(&dir);
        let problem = node.add_device("tank", second.clone()).await.unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("state-no-space", 7));
        assert!(problem.detail.contains(&format!("{path} was not added to pool tank")), "{problem:?}");
        assert_eq!((devices(&node), node.unkept()), (1, None));
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0), "it was written to");
        make_room(&dir);
        node.add_device("tank", second).await.unwrap();
        assert_eq!(devices(&node), 2);
    });
}

#[test]
fn a_device_that_joined_elsewhere_and_could_not_be_noted_is_asked_for_and_brings_the_pool_back() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = file(elsewhere.path(), "second.img", 64 * MIB);
    for life in 0..2 {
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            if life == 0 {
                tank(&node, dir.path()).await;
                take_room(dir.path());
                join_unkept(&node, &path).await;
            } else {
                make_room(dir.path());
                node.open_known_pools().await;
                let pool = node.pool_view("tank").unwrap();
                let reason = pool.reason.unwrap_or_default();
                assert!(reason.contains("it joined when the state could not be kept"), "{reason}");
                let import = |paths, name| ImportPool { paths, name, buffered: true, force: Vec::new() };
                let problem = node.import_pool(import(Vec::new(), Some("tank".into()))).await.unwrap_err();
                assert!(problem.detail.contains("it joined when") && problem.hint.unwrap().contains("import PATH"));
                let pool = node.import_pool(import(vec![path.clone()], None)).await.unwrap();
                assert_eq!((pool.state, pool.devices.len()), (PoolState::Online, 2));
                let known = node.0.state.borrow().pools[0].devices.iter().any(|device| device.path == path);
                assert!(known && node.unkept().is_none());
            }
            node.close().await.unwrap();
        });
    }
}

#[test]
fn what_is_decided_while_something_is_unkept_is_not_said_to_be_kept_before_all_is() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        take_room(&dir);
        let noted = node.note(|state| state.embedded_made = true).await;
        assert_eq!(code(noted).as_deref(), Some("state-no-space"));
        // Nothing new, and yet not what a restart would find.
        let again = node.remember(|state| state.embedded_made = true).await;
        assert_eq!(code(again).as_deref(), Some("state-no-space"));
        assert!(node.embedded_made() && !State::load(&dir).unwrap().embedded_made);
        make_room(&dir);
        node.remember(|_| ()).await.unwrap();
        assert_eq!((node.unkept(), State::load(&dir).unwrap().embedded_made), (None, true));
    });
}

#[test]
fn a_device_that_joined_serves_also_after_a_restart_when_it_could_not_be_noted() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..3 {
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
        reactor.block_on(async {
            if life == 0 {
                tank(&node, dir.path()).await;
                take_room(dir.path());
                let path = file(dir.path(), "second.img", 64 * MIB);
                join_unkept(&node, &path).await;
                assert_eq!(node.pool_on(&path).as_deref(), Some("tank"), "nobody may take it");
            } else {
                node.open_known_pools().await;
            }
            let pool = node.pool_view("tank").unwrap();
            assert_eq!((pool.state, pool.devices.len()), (PoolState::Online, 2), "life {life}: {:?}", pool.reason);
            let status = node.status();
            let finding = status.findings.iter().find(|finding| finding.object == "state");
            assert_eq!(finding.is_some(), life < 2, "{:?}", status.findings);
            if life == 1 {
                make_room(dir.path());
                node.note(|_| ()).await.unwrap();
                assert_eq!((node.status().health, node.unkept()), (Health::Ok, None));
            }
            node.close().await.unwrap();
        });
    }
}

#[test]
fn a_pool_that_could_not_be_remembered_is_not_made_and_none_is_ended() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        take_room(&dir);
        let path = file(&dir, "lake.img", 64 * MIB);
        let lake = CreatePool {
            name: "lake".into(),
            devices: vec![path.clone()],
            extent_bytes: None,
            force: Vec::new(),
            buffered: true,
        };
        assert_eq!(code(node.create_pool(lake).await).as_deref(), Some("state-no-space"));
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0), "it was written to");
        assert_eq!(code(node.export_pool("tank", &[]).await).as_deref(), Some("state-no-space"));
        let force = ["not-empty".to_owned()];
        assert_eq!(code(node.delete_pool("tank", &force).await).as_deref(), Some("state-no-space"));
        assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online);
        make_room(&dir);
        create(&node, "lake", vec![path], &[]).await.unwrap();
        node.delete_pool("tank", &force).await.unwrap();
    });
}

#[test]
fn a_pool_that_grows_by_itself_takes_one_spare_also_when_that_cannot_be_noted() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let spares = ["one.img", "two.img"].map(|name| file(&dir, name, 64 * MIB));
        node.allow_buffered(&spares);
        let policy = growing(&[&spares[0], &spares[1]], None);
        node.set_pool("tank", set_growth(policy.clone())).await.unwrap();
        take_room(&dir);
        node.grow_by(&node.pool("tank").unwrap(), &policy).await.unwrap();
        assert_eq!(devices(&node), 2);
        let left = node.pool_view("tank").unwrap().growth.unwrap().policy.spares;
        assert_eq!(left, spares[1..]);
        make_room(&dir);
        add(&node, "tank", &spares[1], &[]).await.unwrap();
        assert_eq!(node.unkept(), None, "the whole state was written");
    });
}

#[test]
fn what_has_not_begun_when_its_client_goes_away_is_not_done() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let path = file(&dir, "second.img", 64 * MIB);
        let second = AddDevice { path, force: Vec::new(), buffered: true };
        for goes in [true, false] {
            let client = Arc::new(());
            let mut asked = pin!(asked_by(Some(Arc::downgrade(&client)), node.add_device("tank", second.clone())));
            let turn = node.turn().await.unwrap();
            assert!(asked.as_mut().now_or_never().is_none(), "somebody else has the turn");
            let waits = (!goes).then_some(client);
            drop(turn);
            assert_eq!(code(asked.await).as_deref(), goes.then_some("given-up"));
            assert_eq!(devices(&node), if goes { 1 } else { 2 });
            drop(waits);
        }
    });
}

#[test]
fn what_there_is_no_room_for_below_a_pool_is_shown_and_a_finding() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let info = node.pool("tank").unwrap().info();
        let (uuid, reserve) = (info.uuid, info.metadata_reserve_bytes);
        let shown = || {
            let report = node.space(None).unwrap().pools.remove(0);
            let pool = node.pool_view("tank").unwrap();
            assert_eq!(
                (report.available_below_bytes, Some(report.available_bytes)),
                (pool.available_below_bytes, pool.available_bytes)
            );
            (pool.available_below_bytes, node.status())
        };
        let (below, status) = shown();
        assert_eq!((below, status.health), (None, Health::Ok));
        for (room_bytes, health) in [(8 * MIB, Health::Warning), (8 * MIB - 1, Health::Critical), (1 << 40, Health::Ok)]
        {
            // What metadata keeps is nobody else's.
            let all = room_bytes + reserve;
            node.set_below([(uuid, Below { room_bytes: all, path: "/srv/tank.img".into() })].into());
            let (below, status) = shown();
            assert_eq!((below, status.health), (Some(room_bytes).filter(|_| health != Health::Ok), health));
            if let Some(finding) = status.findings.first() {
                assert!(finding.reason.contains("the file system of /srv/tank.img has no more"), "{finding}");
                crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
            }
        }
    });
}
