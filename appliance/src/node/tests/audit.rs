//! Pools are audited while they serve; what is found is told, shown, and over when it is over (2.01, 2.04).

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::*;
use crate::event::EventQuery;
use crate::model::{HealthFinding, ImportPool, LastCheckView};

const EVERY: Duration = Duration::from_millis(20);

/// Spoils a copy of what the file has two of, its label, beside the open pool: a start would write it again.
fn spoil_one_copy(dir: &Path) {
    let file = std::fs::File::options().write(true).open(dir.join("tank.img")).unwrap();
    file.write_all_at(&[0x5a; 64], 100).unwrap();
}

async fn last_check(node: &Node, is: impl Fn(&LastCheckView) -> bool) -> LastCheckView {
    loop {
        if let Some(check) = node.pool_view("tank").unwrap().last_check.filter(&is) {
            return check;
        }
        node.machine().sleep(EVERY).await;
    }
}

/// Spoils a copy until a check has found it, one that is `asked` for or the audit: the pool looks at its labels itself, too, now and then.
async fn spoiled(node: &Node, dir: &Path, asked: bool) -> LastCheckView {
    for _ in 0..30 {
        spoil_one_copy(dir);
        if asked {
            node.check_pool("tank").unwrap();
        }
        for _ in 0..50 {
            if let Some(check) = node.pool_view("tank").unwrap().last_check.filter(|check| check.findings > 0) {
                return check;
            }
            node.machine().sleep(EVERY).await;
        }
    }
    panic!("no check finds it: {:?}", node.pool_view("tank"));
}

async fn kinds(node: &Node) -> Vec<String> {
    let page = node.events().list(EventQuery::after(0, 100)).await.unwrap();
    page.items.into_iter().map(|event| event.kind).filter(|kind| kind.starts_with("pool-check")).collect()
}

fn finding(node: &Node) -> Option<HealthFinding> {
    node.status().findings.into_iter().find(|finding| finding.reason.contains(" found "))
}

#[test]
fn an_audit_finds_a_bad_copy_that_nobody_asked_about_and_tells_it_once() {
    with_node(|node, dir| async move {
        node.set_audit_every(None);
        tank(&node, &dir).await;
        node.machine().sleep(5 * EVERY).await;
        assert_eq!(node.pool_view("tank").unwrap().last_check, None, "nobody wanted an audit");
        node.export_pool("tank", &[]).await.unwrap();
        node.set_audit_every(Some(EVERY));
        let paths = vec![dir.join("tank.img").display().to_string()];
        node.import_pool(ImportPool { paths, name: None, buffered: true, force: Vec::new() }).await.unwrap();
        let found = spoiled(&node, &dir, false).await;
        assert!(!found.loss, "{found:?}");
        // The next audits find nothing: it has healed.
        last_check(&node, |check| check.findings == 0).await;
        assert_eq!(finding(&node), None);
        while kinds(&node).await.len() < 2 {
            node.machine().sleep(EVERY).await;
        }
        node.machine().sleep(5 * EVERY).await;
        assert_eq!(kinds(&node).await, ["pool-check", "pool-check-cleared"]);
        assert!(node.jobs().iter().any(|job| job.kind == "audit"));
    });
}

#[test]
fn what_a_check_finds_is_a_finding_of_the_status_until_a_check_finds_it_no_more() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        spoiled(&node, &dir, true).await;
        let said = finding(&node).unwrap();
        assert!(said.reason.contains("the check found 1 thing and healed it: label 0 of "), "{said:?}");
        assert_eq!((said.health, node.status().health), (Health::Ok, Health::Ok), "nobody has to do anything");
        crate::cli::hints::assert_advice_can_be_followed(&said.advice);
        node.check_pool("tank").unwrap();
        last_check(&node, |check| check.findings == 0).await;
        assert_eq!(finding(&node), None);
    });
}

#[test]
fn what_a_start_heals_is_shown_and_told_and_is_over_when_a_check_finds_it_no_more() {
    with_node(|node, dir| async move {
        node.set_audit_every(None);
        tank(&node, &dir).await;
        node.export_pool("tank", &[]).await.unwrap();
        spoil_one_copy(&dir);
        // A root beside it: the pages behind the label are the roots'.
        let file = std::fs::File::options().write(true).open(dir.join("tank.img")).unwrap();
        file.write_all_at(&[0x5a; 8192], 4096).unwrap();
        let paths = vec![dir.join("tank.img").display().to_string()];
        let view = node.import_pool(ImportPool { paths, name: None, buffered: true, force: Vec::new() }).await.unwrap();
        let healed = view.recovery.unwrap().healed;
        assert!(healed.iter().any(|said| said.starts_with("a label of ")), "{healed:?}");
        assert!(healed.iter().any(|said| said.starts_with("a root of ")), "{healed:?}");
        assert_eq!(healed.len(), 2);
        let said = finding(&node).unwrap();
        assert_eq!((said.health, view.last_check.map(|found| found.at_start)), (Health::Ok, Some(true)));
        assert!(said.reason.contains("the start found 2 things and healed them"), "{said:?}");
        let checked = last_check(&node, |check| check.findings == 0).await;
        assert!(!checked.at_start, "{checked:?}");
        while kinds(&node).await.len() < 2 {
            node.machine().sleep(EVERY).await;
        }
        assert_eq!(kinds(&node).await, ["pool-check", "pool-check-cleared"]);
        assert_eq!(finding(&node), None);
    });
}

#[test]
fn a_start_that_has_nothing_to_heal_says_nothing_of_it() {
    with_node(|node, dir| async move {
        tank(&node, &dir).await;
        node.export_pool("tank", &[]).await.unwrap();
        let paths = vec![dir.join("tank.img").display().to_string()];
        let view = node.import_pool(ImportPool { paths, name: None, buffered: true, force: Vec::new() }).await.unwrap();
        assert_eq!((view.recovery.unwrap().healed, finding(&node)), (Vec::new(), None));
    });
}
