//! A plan is refused as what it plans would be, and by the same words. Two copies of one device are never taken for one of them.

use plimsoll_hardware::Device as _;

use super::{MIB, code, file, tank, vdisk, with_node};
use crate::cli::hints::assert_advice_can_be_followed;
use crate::model::{AddDevice, CreatePool, CreateVdisk, ImportPool, Plan, PoolState, SetPool, VdiskPolicyChange};
use crate::node::Node;
use crate::problem::{Answer, Problem};

/// Why both were refused.
#[track_caller]
fn refused<T: std::fmt::Debug>(planned: Answer<Plan>, done: Answer<T>) -> Problem {
    let (planned, done) = (planned.unwrap_err(), done.unwrap_err());
    assert_eq!(planned, done);
    planned
}

fn pool(name: &str, devices: Vec<String>) -> CreatePool {
    CreatePool { name: name.into(), devices, extent_bytes: None, force: Vec::new(), buffered: true }
}

fn import(paths: &[&String]) -> ImportPool {
    let paths = paths.iter().map(|path| (*path).clone()).collect();
    ImportPool { paths, name: None, buffered: true, force: Vec::new() }
}

/// A pool that is not here any more, on this file.
async fn exported(node: &Node, name: &str, path: &str) {
    node.create_pool(pool(name, vec![path.to_owned()])).await.unwrap();
    node.export_pool(name, &[]).await.unwrap();
}

#[test]
fn plans_of_pools_are_refused_as_the_pools_are() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let small = file(&dir, "small.img", MIB);
        let refused_pool = async |request: CreatePool| {
            refused(node.plan_create_pool(request.clone()).await, node.create_pool(request).await).code
        };
        assert_eq!(refused_pool(pool("x", vec![small.clone()])).await, "too-small");
        let many: Vec<_> = (0..65).map(|number| file(&dir, &format!("{number}.img"), 64 * MIB)).collect();
        assert_eq!(refused_pool(pool("x", many)).await, "invalid-argument");
        let odd = CreatePool { extent_bytes: Some(96 << 10), ..pool("x", vec![file(&dir, "x.img", 128 * MIB)]) };
        assert_eq!(refused_pool(odd).await, "invalid-argument");
        let more = AddDevice { path: small, force: Vec::new(), buffered: true };
        let planned = node.plan_add_device("tank", more.clone()).await;
        assert_eq!(refused(planned, node.add_device("tank", more).await).code, "too-small");
    });
}

#[test]
fn plans_of_vdisks_are_refused_when_the_pool_may_or_can_not_promise_so_much() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let refused_vdisk = async |request: CreateVdisk| {
            refused(node.plan_create_vdisk("tank", &request), node.create_vdisk("tank", request).await).code
        };
        let policy = VdiskPolicyChange { reservation_bytes: Some(512 * MIB), ..VdiskPolicyChange::default() };
        assert_eq!(refused_vdisk(CreateVdisk { policy, ..vdisk("b") }).await, "limit-exceeded");
        let limit = SetPool { overcommit_limit: Some("9x".into()), ..SetPool::default() };
        node.set_pool("tank", limit).await.unwrap();
        assert_eq!(refused_vdisk(vdisk("b")).await, "limit-exceeded");
        assert_eq!(code(node.plan_create_vdisk("tank", &CreateVdisk { designated_bytes: MIB, ..vdisk("b") })), None);
    });
}

#[test]
fn a_plan_to_import_a_device_that_was_cut_off_is_refused_until_that_is_accepted() {
    with_node(|node, dir| async move {
        let path = file(&dir, "tank.img", 128 * MIB);
        exported(&node, "tank", &path).await;
        let cut = |bytes| std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        let both = async |request: ImportPool| {
            refused(node.plan_import_pool(request.clone()).await, node.import_pool(request).await)
        };
        let forced = ImportPool { force: vec!["truncated".into()], ..import(&[&path]) };
        cut(100 * MIB);
        for request in [import(&[&path]), forced.clone()] {
            let problem = both(request).await;
            let hint = problem.hint.clone().unwrap();
            assert!(
                hint.contains(&format!("first make it long again (a file: truncate -s {} {path})", 128 * MIB)),
                "{problem:?}"
            );
            assert_advice_can_be_followed(&hint);
        }
        cut(128 * MIB);
        assert_eq!(both(import(&[&path])).await.code, "damaged");
        let plan = node.plan_import_pool(forced.clone()).await.unwrap();
        assert!(
            plan.steps[1].contains(&format!("the end of {path} is gone: what vdisks stored there reads as zeros")),
            "{plan:?}"
        );
        assert_eq!(node.import_pool(forced).await.unwrap().state, PoolState::Online);
    });
}

#[test]
fn of_a_pool_of_several_the_device_that_was_cut_off_is_named_and_what_to_do_about_it() {
    with_node(|node, dir| async move {
        let paths = ["one.img", "two.img"].map(|name| file(&dir, name, 128 * MIB));
        node.create_pool(pool("tank", paths.to_vec())).await.unwrap();
        node.export_pool("tank", &[]).await.unwrap();
        let cut = |bytes| std::fs::OpenOptions::new().write(true).open(&paths[1]).unwrap().set_len(bytes).unwrap();
        let both = [&paths[0], &paths[1]];
        for known in [false, true] {
            cut(100 * MIB);
            for force in [Vec::new(), vec!["truncated".to_owned()]] {
                let request = ImportPool { force, ..import(&both) };
                let problem = refused(node.plan_import_pool(request.clone()).await, node.import_pool(request).await);
                assert_eq!((problem.code.as_str(), problem.exit_code()), ("damaged", 8), "{problem:?}");
                assert!(problem.detail.contains(&format!("{} is shorter than it was", paths[1])), "{problem:?}");
                let hint = problem.hint.unwrap();
                assert!(
                    hint.contains(&format!("make it long again (a file: truncate -s {} {})", 128 * MIB, paths[1])),
                    "{hint}"
                );
                assert_advice_can_be_followed(&hint);
                let all = format!("plimsoll pool import {} {} --force=truncated", paths[0], paths[1]);
                assert!(hint.contains(&all), "{hint}");
            }
            cut(128 * MIB);
            let request = ImportPool { force: vec!["truncated".into()], ..import(&both) };
            assert_eq!(node.import_pool(request).await.unwrap().state, PoolState::Online);
            if !known {
                // Known, and not served.
                node.take_out("tank").await.unwrap();
            }
        }
    });
}

#[test]
fn a_device_that_is_missing_is_named_whatever_else_is_where_it_was() {
    with_node(|node, dir| async move {
        let [one, two, other] = ["one.img", "two.img", "other.img"].map(|name| dir.join(name).display().to_string());
        let cut = |path: &str| {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100 * MIB).unwrap();
        };
        exported(&node, "other", &file(&dir, "other.img", 128 * MIB)).await;
        let paths = vec![file(&dir, "one.img", 128 * MIB), file(&dir, "two.img", 128 * MIB)];
        node.create_pool(pool("tank", paths)).await.unwrap();
        node.take_out("tank").await.unwrap();
        // Where no search finds it; in its place is one of another pool, which was cut off.
        let hidden = dir.join("hidden");
        std::fs::create_dir(&hidden).unwrap();
        std::fs::rename(&two, hidden.join("two.img")).unwrap();
        std::fs::rename(&other, &two).unwrap();
        cut(&two);
        let request = import(&[&one]);
        let problem = refused(node.plan_import_pool(request.clone()).await, node.import_pool(request.clone()).await);
        assert_eq!(problem.code, "device-missing", "{problem:?}");
        assert!(problem.detail.contains("device 1") && problem.detail.contains("two.img is shorter"), "{problem:?}");
        assert!(!problem.hint.as_ref().unwrap().contains("truncated"), "{problem:?}");
        // One of its own was cut off, and the other is gone.
        std::fs::remove_file(&two).unwrap();
        cut(&one);
        let problem = refused(node.plan_import_pool(request.clone()).await, node.import_pool(request).await);
        assert_eq!(problem.code, "damaged", "{problem:?}");
        let both = problem.detail.contains("one.img is shorter") && problem.detail.contains("two.img does not exist");
        assert!(both, "{problem:?}");
    });
}

#[test]
fn what_a_device_held_before_it_was_cut_off_or_scribbled_on_is_named_and_overwritten_only_by_force() {
    use std::os::unix::fs::FileExt as _;
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let cut_off = file(&dir, "cut.img", 128 * MIB);
        exported(&node, "old", &cut_off).await;
        let scribbled = file(&dir, "scribbled.img", 128 * MIB);
        exported(&node, "older", &scribbled).await;
        let open = |path: &str| std::fs::OpenOptions::new().write(true).open(path).unwrap();
        open(&cut_off).set_len(100 * MIB).unwrap();
        for label in [0, 128 * MIB - 65_536] {
            open(&scribbled).write_all_at(&[0xff; 8], label + 99).unwrap();
        }
        // Only the labels are gone: what is behind them may be whole.
        let nameless = file(&dir, "nameless.img", 128 * MIB);
        exported(&node, "oldest", &nameless).await;
        for label in [0, 128 * MIB - 65_536] {
            open(&nameless).write_all_at(&[0; 4096], label).unwrap();
        }
        let create = pool("new", vec![nameless]);
        let problem = refused(node.plan_create_pool(create.clone()).await, node.create_pool(create).await);
        assert!(problem.code == "in-use" && problem.detail.contains("whose label is gone"), "{problem:?}");
        let held = [(&cut_off, "pool old that was cut off"), (&scribbled, "a pool whose label cannot be used")];
        for (path, holds) in held {
            let create = pool("new", vec![path.clone()]);
            let problem = refused(node.plan_create_pool(create.clone()).await, node.create_pool(create).await);
            assert_eq!(problem.code, "in-use", "{problem:?}");
            assert!(problem.detail.ends_with(&format!("holds a device of {holds}")), "{problem:?}");
            assert!(problem.hint.as_ref().unwrap().contains("--force=foreign"), "{problem:?}");
            let add = |force: &[&str]| {
                let force = force.iter().map(|check| (*check).to_owned()).collect();
                AddDevice { path: path.clone(), force, buffered: true }
            };
            let problem =
                refused(node.plan_add_device("tank", add(&[])).await, node.add_device("tank", add(&[])).await);
            assert!(problem.code == "in-use" && problem.detail.contains(holds), "{problem:?}");
            assert_eq!(code(node.plan_add_device("tank", add(&["foreign"])).await), None);
            let forced = CreatePool { force: vec!["foreign".into()], ..pool("new", vec![path.clone()]) };
            assert_eq!(code(node.plan_create_pool(forced.clone()).await), None);
            assert_eq!(node.create_pool(forced).await.unwrap().state, PoolState::Online);
            node.export_pool("new", &[]).await.unwrap();
        }
    });
}

#[test]
fn two_copies_of_one_device_are_refused_and_either_can_be_named() {
    with_node(|node, dir| async move {
        let [one, two] = ["z.img", "z2.img"].map(|name| dir.join(name).display().to_string());
        exported(&node, "tank", &file(&dir, "z.img", 128 * MIB)).await;
        std::fs::copy(&one, &two).unwrap();
        let request = import(&[&one, &two]);
        let problem = refused(node.plan_import_pool(request.clone()).await, node.import_pool(request).await);
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("conflict", 4));
        assert!([&one, &two].iter().all(|path| problem.detail.contains(path.as_str())), "{problem:?}");
        assert_advice_can_be_followed(&problem.hint.unwrap());
        // The same one twice is no copy.
        let link = dir.join("link").display().to_string();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        node.import_pool(import(&[&one, &link])).await.unwrap();
        node.export_pool("tank", &[]).await.unwrap();
        node.import_pool(import(&[&two])).await.unwrap();
        assert_eq!(node.pool_view("tank").unwrap().devices[0].path, two);
    });
}

#[test]
fn of_a_known_pool_and_a_copy_that_is_named_the_copy_counts_and_of_two_that_are_found_none() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let known = dir.join("tank.img");
        let record = node.0.state.borrow().pools[0].clone();
        drop(node.take_out("tank").await);
        let copies = ["b.img", "c.img"].map(|name| dir.join(name).display().to_string());
        for copy in &copies {
            std::fs::copy(&known, copy).unwrap();
        }
        let found = |named: Vec<String>| node.find_known(&record, named, false);
        let path = |whole: crate::node::pool_open::Whole| whole.devices[0].geometry().path.clone();
        node.allow_buffered(&copies);
        assert_eq!(path(found(Vec::new()).await.unwrap()), known.display().to_string());
        assert_eq!(path(found(vec![copies[1].clone()]).await.unwrap()), copies[1]);
        std::fs::remove_file(&known).unwrap();
        let problem = found(Vec::new()).await.err().unwrap();
        assert_eq!(problem.code, "conflict");
        assert!(copies.iter().all(|copy| problem.detail.contains(copy)), "{problem:?}");
    });
}

#[test]
fn a_known_path_that_leads_to_a_device_that_is_there_already_keeps_no_pool_from_starting() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let second = AddDevice { path: file(&dir, "second.img", 64 * MIB), force: Vec::new(), buffered: true };
        node.add_device("tank", second).await.unwrap();
        let record = node.0.state.borrow().pools[0].clone();
        drop(node.take_out("tank").await);
        let [first, known, moved, copy] =
            ["tank.img", "second.img", "moved.img", "copy.img"].map(|name| dir.join(name).display().to_string());
        node.allow_buffered([&moved, &copy]);
        std::fs::rename(&known, &moved).unwrap();
        std::fs::copy(&first, &known).unwrap();
        let found = async |named: &[&String]| {
            let named = named.iter().map(|path| (*path).clone()).collect();
            let devices = node.find_known(&record, named, false).await?.devices;
            Ok::<_, Problem>(devices.iter().map(|device| device.geometry().path.clone()).collect::<Vec<_>>())
        };
        let mut paths = found(&[]).await.unwrap();
        paths.sort();
        assert_eq!(paths, [moved.clone(), first.clone()]);
        assert_eq!(found(&[&first, &known]).await.unwrap_err().code, "conflict", "who names both has not chosen");
        // A copy beside the one that was renamed is told from it.
        std::fs::copy(&moved, &copy).unwrap();
        let mut paths = found(&[]).await.unwrap();
        paths.sort();
        assert_eq!(paths, [moved.clone(), first.clone()]);
        // Of the one that is missing there are two, and neither is it: both are said.
        let again = dir.join("again.img").display().to_string();
        std::fs::copy(&copy, &again).unwrap();
        std::fs::remove_file(&moved).unwrap();
        let problem = found(&[]).await.unwrap_err();
        let all = [&first, &known, &again, &copy].iter().all(|path| problem.detail.contains(path.as_str()));
        assert!(problem.code == "device-missing" && all, "{problem:?}");
        assert!(problem.hint.clone().unwrap().contains("of copies the one that was in use last"), "{problem:?}");
        assert_advice_can_be_followed(&problem.hint.unwrap());
    });
}
