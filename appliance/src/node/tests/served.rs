//! A device that a pool is served from, by another path than the pool's own: no force overwrites it.

use super::growth::{add, create, set_growth};
use super::*;

/// Refused as a device of pool tank, and nothing of it is changed.
#[track_caller]
fn assert_of_tank(answer: Answer<()>, what: &str) {
    let problem = answer.map_or_else(|problem| problem, |()| panic!("{what}: it was overwritten"));
    assert!(problem.code == "in-use" && problem.detail.contains("is a device of pool tank"), "{what}: {problem:?}");
    assert!(!problem.hint.unwrap_or_default().contains("--force"), "{what}: no force helps");
}

#[test]
fn a_device_that_is_served_is_overwritten_by_no_force_whatever_path_it_is_named_by() {
    with_node(|node, dir| async move {
        let first = file(&dir, "tank.img", 128 * MIB);
        create(&node, "tank", vec![first.clone()], &[]).await.unwrap();
        create(&node, "lake", vec![file(&dir, "lake.img", 128 * MIB)], &[]).await.unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        std::os::unix::fs::symlink(&first, path("symlink.img")).unwrap();
        std::fs::hard_link(&first, path("hardlink.img")).unwrap();
        // Another inode with the same label, as a loop device over it has.
        std::fs::copy(&first, path("other.img")).unwrap();
        let before = std::fs::read(path("other.img")).unwrap();
        for name in ["tank.img", "symlink.img", "hardlink.img", "other.img"] {
            for force in [&[][..], &["foreign"], &["spare"], &["foreign", "spare"], &["all"]] {
                let what = format!("{name} with {force:?}");
                assert_of_tank(create(&node, "sea", vec![path(name)], force).await, &what);
                assert_of_tank(add(&node, "lake", &path(name), force).await, &what);
                assert_of_tank(add(&node, "tank", &path(name), force).await, &what);
            }
            let spare = GrowthPolicy { force: vec!["all".into()], ..growing(&[&path(name)], None) };
            assert_of_tank(node.set_pool("lake", set_growth(spare)).await.map(drop), &format!("{name} as a spare"));
        }
        assert!(std::fs::read(path("other.img")).unwrap() == before, "it was written to");
        let report = node.pool("tank").unwrap().check().await.unwrap();
        assert!(report.clean(), "{:#?}", report.findings);
        // Once its pool is let go it is only a device that holds something.
        node.export_pool("tank", &[]).await.unwrap();
        assert_eq!(code(create(&node, "sea", vec![path("other.img")], &[]).await).as_deref(), Some("in-use"));
        create(&node, "sea", vec![path("other.img")], &["foreign"]).await.unwrap();
    });
}
