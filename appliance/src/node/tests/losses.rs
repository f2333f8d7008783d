//! What a pool is served without stays said, through restarts, until somebody has seen to it; and files that are not there any more.

use std::time::Duration;

use super::*;
use crate::model::{CheckView, FindingView, HealthFinding, ImportPool, JobState, JobView, PoolState};

/// A life of a node in `dir` that ends as if it were killed: nothing is closed.
fn live(dir: &Path, work: impl AsyncFnOnce(Node)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
    let node = Node::new(reactor.handle(), dir, None).unwrap();
    reactor.block_on(async {
        node.open_known_pools().await;
        work(node.clone()).await;
    });
}

/// Waits, though not for ever.
async fn until(node: &Node, is: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if is() {
            return;
        }
        node.machine().sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not come true: {:?}", node.status().findings);
}

async fn ended(node: &Node, job: JobView) -> JobView {
    until(node, || node.job(&job.id).unwrap().state != JobState::Running).await;
    let now = node.job(&job.id).unwrap();
    assert_eq!(now.state, JobState::Done, "{now:?}");
    now
}

async fn check(node: &Node) -> CheckView {
    ended(node, node.check_pool("tank").unwrap()).await.check.unwrap()
}

/// What is said of the loss.
fn said(node: &Node) -> Vec<HealthFinding> {
    node.status().findings.into_iter().filter(|finding| finding.reason.contains("the end of ")).collect()
}

#[track_caller]
fn assert_said(node: &Node, device: &str) {
    let [said] = &said(node)[..] else { panic!("{:?}", node.status().findings) };
    assert!(said.reason.contains(&format!("the end of {device} is gone")), "{said:?}");
    assert_eq!((said.health, node.status().health), (Health::Critical, Health::Critical));
    assert!(said.advice.ends_with("plimsoll pool check tank --repair"), "{said:?}");
    crate::cli::hints::assert_advice_can_be_followed(&said.advice);
}

#[test]
fn that_an_end_was_lost_is_said_in_every_life_until_a_repair_says_that_it_was_seen_to() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tank.img").display().to_string();
    let import = |force: &[&str]| {
        let force = force.iter().map(|check| (*check).to_owned()).collect();
        ImportPool { paths: vec![device.clone()], name: None, buffered: true, force }
    };
    live(dir.path(), async |node| {
        tank(&node, dir.path()).await;
        node.export_pool("tank", &[]).await.unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&device).unwrap();
        file.set_len(100 * MIB).and_then(|()| file.set_len(128 * MIB)).unwrap();
        assert_eq!(node.import_pool(import(&[])).await.unwrap_err().code, "damaged");
        assert_eq!(said(&node), []);
        assert_eq!(node.import_pool(import(&["truncated"])).await.unwrap().state, PoolState::Online);
        assert_said(&node, &device);
    });
    live(dir.path(), async |node| {
        assert_said(&node, &device);
        let found = check(&node).await;
        let [FindingView { kind, loss: true, .. }, ..] = &found.findings[..] else { panic!("{found:?}") };
        assert!(kind == "end-lost" && !found.clean, "{found:?}");
        // Once, though a check has found it too.
        assert_said(&node, &device);
        let plan = ended(&node, node.repair_pool("tank", true).unwrap()).await.repair.unwrap();
        assert!(plan.steps.iter().any(|step| step.starts_with("say no more of this: the end of ")), "{plan:?}");
        assert_said(&node, &device);
        ended(&node, node.repair_pool("tank", false).unwrap()).await;
        assert_eq!(said(&node), []);
        assert!(check(&node).await.clean);
    });
    live(dir.path(), async |node| {
        assert_eq!(node.status().findings, []);
        assert!(check(&node).await.clean);
    });
}

#[test]
fn a_file_that_was_deleted_under_its_pool_is_critical_and_keeps_the_pool_from_being_closed_by_mistake() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let [path, away, copy] = ["tank.img", "elsewhere/away.img", "copy.img"].map(|name| dir.join(name));
        std::fs::create_dir(dir.join("elsewhere")).unwrap();
        // The look that comes with its opening is over.
        until(&node, || !node.0.below_told.borrow().is_empty()).await;
        std::fs::copy(&path, &copy).unwrap();
        node.allow_buffered(&[copy.display().to_string()]);
        let look = || node.set_seen(super::super::below::look(node.asked_below()));
        look();
        assert_eq!(node.status().findings, []);
        let pool = node.pool("tank").unwrap();
        let kinds = async || {
            let page = node.events().list(crate::event::EventQuery::after(0, 100)).await.unwrap();
            let is_of_files = |kind: &String| kind.starts_with("pool-files-gone");
            page.items.into_iter().map(|event| event.kind).filter(is_of_files).collect::<Vec<_>>()
        };
        let told = async |expected: &[&str]| {
            node.tell_gone(&pool).await;
            for _ in 0..6000 {
                if kinds().await.len() >= expected.len() {
                    break;
                }
                node.machine().sleep(Duration::from_millis(5)).await;
            }
            node.tell_gone(&pool).await;
            assert_eq!(kinds().await, expected);
        };
        std::fs::rename(&path, &away).unwrap();
        look();
        told(&["pool-files-gone"]).await;
        let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
        let named = finding.reason.contains(&path.display().to_string());
        assert!(named && finding.health == Health::Critical, "{finding:?}");
        crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
        let refused = node.export_pool("tank", &[]).await.unwrap_err();
        assert_eq!(refused, node.plan_export_pool("tank", &[]).await.unwrap_err());
        assert_eq!((refused.code.as_str(), refused.exit_code()), ("device-missing", 4));
        crate::cli::hints::assert_advice_can_be_followed(refused.hint.as_ref().unwrap());
        assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online, "it is served as before");
        std::fs::rename(&away, &path).unwrap();
        look();
        told(&["pool-files-gone", "pool-files-gone-cleared"]).await;
        assert_eq!(node.status().findings, []);
        // As long as its name leads anywhere.
        std::fs::rename(&path, &away).unwrap();
        std::os::unix::fs::symlink(&away, &path).unwrap();
        look();
        assert_eq!(node.status().findings, []);
        std::fs::remove_file(&away).unwrap();
        look();
        assert_eq!(node.status().findings.len(), 1);
        assert_eq!(code(node.plan_delete_pool("tank", &[]).await), code(node.delete_pool("tank", &[]).await));
        assert!(node.status().findings.len() == 1 && dir.join("tank.img").is_symlink(), "nothing was deleted");
        // Another file in its place is not it.
        std::fs::remove_file(&path).unwrap();
        file(&dir, "tank.img", 128 * MIB);
        look();
        assert_eq!(node.status().findings.len(), 1);
        // That a pool is opened again there is refused, and not when what is there or is named belongs to it.
        let record = node.0.state.borrow().pools[0].clone();
        let named = [copy.display().to_string()];
        let refused = node.refuse_to_lose_unless_mended(&record, &[]).await;
        assert_eq!(code(refused).as_deref(), Some("device-missing"));
        assert_eq!(code(node.refuse_to_lose_unless_mended(&record, &named).await), None);
        std::fs::copy(&copy, &path).unwrap();
        assert_eq!(code(node.refuse_to_lose_unless_mended(&record, &[]).await), None);
        let force = ["not-empty".to_owned()];
        assert_eq!(code(node.delete_pool("tank", &force).await).as_deref(), Some("device-missing"));
        let plan = node.plan_export_pool("tank", &["missing".to_owned()]).await.unwrap();
        assert!(plan.steps.iter().all(|step| !step.contains("keep all data")), "{plan:?}");
        std::fs::remove_file(&path).unwrap();
        node.export_pool("tank", &["missing".to_owned()]).await.unwrap();
    });
}

#[test]
fn a_copy_beside_what_was_in_use_last_is_served_only_by_its_name_and_what_was_renamed_by_itself() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let [device, copy, renamed] = ["tank.img", "tank.bak", "new.img"].map(|name| dir.path().join(name));
    let open = || std::fs::OpenOptions::new().write(true).open(&device).unwrap();
    let state = |node: &Node| node.pool_view("tank").unwrap();
    live(dir.path(), async |node| {
        tank(&node, dir.path()).await;
        node.close().await.unwrap();
    });
    std::fs::copy(&device, &copy).unwrap();
    type Spoil<'a> = &'a dyn Fn();
    let whole = std::fs::read(&device).unwrap();
    let mend = || open().write_all_at(&whole, 0).unwrap();
    let cut = || open().set_len(100 * MIB).unwrap();
    let scribble =
        || [0, 128 * MIB - 65_536].iter().for_each(|label| open().write_all_at(&[0xff; 8], label + 99).unwrap());
    let remove = || std::fs::rename(&device, &renamed).unwrap();
    let spoils: [(Spoil<'_>, &str); 2] = [(&cut, "is shorter than it was"), (&scribble, "label cannot be used")];
    for (spoil, words) in spoils {
        spoil();
        live(dir.path(), async |node| {
            let view = state(&node);
            assert_eq!(view.state, PoolState::Unavailable, "{words}: {view:?}");
            let reason = view.reason.unwrap();
            assert!(reason.contains(words) && reason.contains("tank.bak"), "{reason}");
        });
        mend();
        live(dir.path(), async |node| {
            assert_eq!(state(&node).state, PoolState::Online);
            node.close().await.unwrap();
        });
    }
    // What was renamed is found by itself, with the copy beside it.
    remove();
    live(dir.path(), async |node| {
        assert_eq!(state(&node).devices[0].path, renamed.display().to_string());
        node.close().await.unwrap();
    });
    std::fs::remove_file(&renamed).unwrap();
    live(dir.path(), async |node| {
        let reason = state(&node).reason.unwrap();
        assert!(reason.contains("is not the one that was in use last"), "{reason}");
        let (paths, name) = (vec![copy.display().to_string()], Some("tank".to_owned()));
        let import = ImportPool { paths, name, buffered: true, force: Vec::new() };
        assert_eq!(node.import_pool(import).await.unwrap().state, PoolState::Online);
        node.close().await.unwrap();
    });
}

/// The words behind a command in advice, as far as they are paths.
fn paths_in(advice: &str, command: &str) -> Vec<String> {
    let (_, arguments) = advice.split_once(command).expect("the command");
    arguments.split_whitespace().take_while(|word| word.starts_with('/')).map(str::to_owned).collect()
}

#[test]
fn copies_of_all_devices_of_a_pool_are_served_by_doing_what_is_advised() {
    let dir = tempfile::tempdir().unwrap();
    let all = ["tank.img", "b.img", "c.img"].map(|name| dir.path().join(name));
    let copy = |path: &Path| path.with_extension("bak");
    let import =
        |paths: Vec<String>| ImportPool { paths, name: Some("tank".to_owned()), buffered: true, force: Vec::new() };
    live(dir.path(), async |node| {
        tank(&node, dir.path()).await;
        for path in &all[1..] {
            std::fs::File::create(path).unwrap().set_len(128 * MIB).unwrap();
            let path = path.display().to_string();
            let add = crate::model::AddDevice { path, force: Vec::new(), buffered: true };
            node.add_device("tank", add).await.unwrap();
        }
        node.close().await.unwrap();
    });
    for path in &all {
        std::fs::rename(path, copy(path)).and_then(|()| std::fs::copy(copy(path), path)).unwrap();
        std::fs::remove_file(copy(path)).unwrap();
    }
    // Each is another file by now, under the name that is known: nobody has to ask.
    live(dir.path(), async |node| {
        assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online);
        node.close().await.unwrap();
    });
    for path in &all {
        std::fs::copy(path, copy(path)).unwrap();
        std::fs::remove_file(path).unwrap();
    }
    live(dir.path(), async |node| {
        let named = vec![copy(&all[1]).display().to_string()];
        let problem = node.import_pool(import(named.clone())).await.unwrap_err();
        let hint = problem.hint.unwrap();
        crate::cli::hints::assert_advice_can_be_followed(&hint);
        let advised = paths_in(&hint, "plimsoll pool import --name tank ");
        assert!(advised.len() == 3 && advised.contains(&named[0]), "{hint}");
        assert_eq!(node.import_pool(import(advised)).await.unwrap().state, PoolState::Online);
        node.close().await.unwrap();
    });
    // By whichever of its names: they lead to one file.
    let other = dir.path().join("other.img");
    std::fs::rename(copy(&all[0]), dir.path().join("new.img")).unwrap();
    std::fs::hard_link(dir.path().join("new.img"), &other).unwrap();
    live(dir.path(), async |node| {
        assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online, "{:?}", node.pool_view("tank"));
        node.close().await.unwrap();
    });
}

#[test]
fn a_file_beside_a_block_device_that_is_missed_is_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tank.img");
    live(dir.path(), async |node| {
        tank(&node, dir.path()).await;
        // As a block device is remembered.
        node.remember(|state| state.pools[0].devices[0].mark = Some("block".into())).await.unwrap();
        node.close().await.unwrap();
    });
    std::fs::rename(&device, dir.path().join("image.img")).unwrap();
    live(dir.path(), async |node| {
        let reason = node.pool_view("tank").unwrap().reason.unwrap();
        assert!(
            reason.contains("image.img says") && reason.contains("is not the one that was in use last"),
            "{reason}"
        );
    });
}

/// A pool on these files in `dir`, closed.
fn closed_pool(dir: &Path, files: &[&str]) {
    live(dir, async |node| {
        tank(&node, dir).await;
        for name in files {
            let path = file(dir, name, 128 * MIB);
            node.add_device("tank", crate::model::AddDevice { path, force: Vec::new(), buffered: true }).await.unwrap();
        }
        node.close().await.unwrap();
    });
}

#[test]
fn another_file_where_one_was_in_use_last_is_told_of_and_refused_beside_what_it_does_not_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let state = |node: &Node| node.pool_view("tank").unwrap();
    closed_pool(dir.path(), &["b.img"]);
    std::fs::copy(path("b.img"), path("old")).unwrap();
    std::fs::rename(path("b.img"), path("b.new")).and_then(|()| std::fs::rename(path("old"), path("b.img"))).unwrap();
    live(dir.path(), async |node| {
        // The other device is as it was.
        let view = state(&node);
        assert_eq!(view.state, PoolState::Unavailable, "{view:?}");
        assert!(view.reason.unwrap().contains("is not the one that was in use last"));
        let advice = node.status().findings.remove(0).advice;
        crate::cli::hints::assert_advice_can_be_followed(&advice);
        let paths = paths_in(&advice, "plimsoll pool import --name tank ");
        assert_eq!(paths, [path("b.new").display().to_string()], "the copy is not to be served");
        // As it was put back it is served without a word.
        std::fs::rename(path("b.new"), path("b.img")).unwrap();
        let import = |paths| ImportPool { paths, name: Some("tank".into()), buffered: true, force: Vec::new() };
        assert_eq!(node.import_pool(import(Vec::new())).await.unwrap().state, PoolState::Online);
        assert_eq!(node.status().findings, []);
        node.close().await.unwrap();
    });

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    closed_pool(dir.path(), &[]);
    std::fs::rename(path("tank.img"), path("newest"))
        .and_then(|()| std::fs::copy(path("newest"), path("tank.img")))
        .unwrap();
    live(dir.path(), async |node| {
        let reason = state(&node).reason.unwrap();
        assert!(reason.contains(&format!("that one is {} now", path("newest").display())), "{reason}");
    });
    // Nothing else is there: somebody has brought it back from a copy.
    std::fs::remove_file(path("newest")).unwrap();
    live(dir.path(), async |node| {
        assert_eq!(state(&node).state, PoolState::Online);
        let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
        assert!(finding.reason.contains("not what it was open on before"), "{finding:?}");
        crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
        let told = async || {
            let page = node.events().list(crate::event::EventQuery::after(0, 100)).await.unwrap();
            page.items.iter().any(|event| event.kind == "pool-files-replaced")
        };
        for _ in 0..6000 {
            if told().await {
                break;
            }
            node.machine().sleep(Duration::from_millis(5)).await;
        }
        assert!(told().await);
        node.close().await.unwrap();
    });
    live(dir.path(), async |node| assert_eq!(node.status().findings, []));
}

#[test]
fn a_pool_that_was_moved_is_found_where_the_configuration_has_it() {
    let (dir, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed_pool(dir.path(), &["b.img"]);
    let all = ["tank.img", "b.img"].map(|name| there.path().join(name));
    for (name, path) in ["tank.img", "b.img"].iter().zip(&all) {
        std::fs::rename(dir.path().join(name), path).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
    let node = Node::new(reactor.handle(), dir.path(), None).unwrap();
    reactor.block_on(async {
        let configured = all.map(|path| path.display().to_string());
        node.allow_buffered(&configured);
        node.note_configuration("tank", &configured);
        node.open_known_pools().await;
        assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online, "{:?}", node.status().findings);
        node.close().await.unwrap();
    });
}

#[test]
fn nothing_is_reclaimed_of_a_pool_that_lost_an_end_until_somebody_has_seen_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tank.img").display().to_string();
    live(dir.path(), async |node| {
        let name = tank(&node, dir.path()).await;
        node.export_pool("tank", &[]).await.unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&device).unwrap();
        file.set_len(100 * MIB).and_then(|()| file.set_len(128 * MIB)).unwrap();
        let force = vec!["truncated".to_owned()];
        node.import_pool(ImportPool { paths: vec![device.clone()], name: None, buffered: true, force }).await.unwrap();
        let refused = node.begin_reclaim(&name, Default::default()).await.unwrap_err();
        assert_eq!(refused, node.plan_begin_reclaim(&name, Default::default()).unwrap_err());
        assert_eq!(refused.code, "conflict");
        crate::cli::hints::assert_advice_can_be_followed(refused.hint.as_ref().unwrap());
        ended(&node, node.repair_pool("tank", false).unwrap()).await;
        node.begin_reclaim(&name, Default::default()).await.unwrap();
    });
}

#[test]
fn a_delete_leaves_alone_what_is_no_device_of_the_pool() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        let other = file(&dir, "other.img", 128 * MIB);
        std::fs::write(&other, vec![0x5a; 8 << 20]).unwrap();
        let path = dir.join("tank.img");
        // As if a disk had been replaced while its pool was being closed.
        std::fs::rename(&other, &path).unwrap();
        let uuid = node.pool("tank").unwrap().info().uuid;
        let problem = node.wipe(&path.display().to_string(), uuid).await.unwrap_err();
        assert_eq!(problem.code, "conflict", "{problem:?}");
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0x5a), "it was written to");
    });
}

#[test]
fn an_older_copy_in_the_very_file_is_told_of_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tank.img");
    closed_pool(dir.path(), &[]);
    let old = std::fs::read(&device).unwrap();
    live(dir.path(), async |node| {
        assert_eq!(node.status().findings, []);
        let pool = node.pool("tank").unwrap();
        let mut data = node.machine().buffers().alloc(65_536).await;
        data.fill(7);
        pool.vdisk("a").unwrap().write(0, data.freeze(), true).await.unwrap();
        drop(pool);
        node.close().await.unwrap();
    });
    let new = std::fs::read(&device).unwrap();
    for (bytes, is_old) in [(&new, false), (&old, true)] {
        std::fs::write(&device, bytes).unwrap();
        live(dir.path(), async |node| {
            assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online);
            let findings = node.status().findings;
            let told = findings.iter().any(|finding| finding.reason.contains("not what it was open on before"));
            assert_eq!(told, is_old, "{findings:?}");
            node.close().await.unwrap();
        });
    }
}
