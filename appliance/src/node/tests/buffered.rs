//! Whether a device goes through the page cache: what is shown and remembered is how it was opened, and what was refused or planned
//! changes nothing of that.

use super::*;
use crate::model::ImportPool;

/// Whether each device of the pool does, as it is shown and as it is remembered.
fn told(node: &Node) -> (Vec<bool>, Vec<bool>) {
    let shown = node.pool_view("tank").unwrap().devices.iter().map(|device| device.buffered).collect();
    let remembered = node.0.state.borrow().pools[0].devices.iter().map(|device| device.buffered).collect();
    (shown, remembered)
}

fn direct(dir: &Path, name: &str) -> CreatePool {
    let devices = vec![file(dir, &format!("{name}.img"), 128 * MIB)];
    CreatePool { name: name.into(), devices, extent_bytes: None, force: Vec::new(), buffered: false }
}

#[test]
fn an_import_that_is_refused_does_not_have_an_open_pool_go_through_the_page_cache() {
    with_node(|node, dir| async move {
        let pool = direct(&dir, "tank");
        let path = pool.devices[0].clone();
        node.create_pool(pool).await.unwrap();
        let import = |buffered| ImportPool { paths: vec![path.clone()], name: None, buffered, force: Vec::new() };
        assert_eq!(node.import_pool(import(true)).await.unwrap_err().code, "exists");
        assert!(!node.is_buffered(&path));
        // The configuration may say so of a pool that is open already.
        node.allow_buffered([&path]);
        let second = file(&dir, "second.img", 64 * MIB);
        node.add_device("tank", AddDevice { path: second, force: Vec::new(), buffered: true }).await.unwrap();
        assert_eq!(told(&node), (vec![false, true], vec![false, true]));
    });
}

#[test]
fn a_plan_or_a_refusal_does_not_have_the_change_after_it_go_through_the_page_cache() {
    with_node(|node, dir| async move {
        let pool = direct(&dir, "tank");
        let through = CreatePool { buffered: true, ..pool.clone() };
        node.plan_create_pool(through.clone()).await.unwrap();
        let odd = CreatePool { extent_bytes: Some(1), ..through.clone() };
        node.create_pool(odd).await.unwrap_err();
        node.create_pool(pool).await.unwrap();
        let second = AddDevice { path: file(&dir, "second.img", 64 * MIB), force: Vec::new(), buffered: true };
        node.plan_add_device("tank", second.clone()).await.unwrap();
        node.add_device("nope", second.clone()).await.unwrap_err();
        node.add_device("tank", AddDevice { buffered: false, ..second }).await.unwrap();
        assert_eq!(told(&node), (vec![false; 2], vec![false; 2]));
        let paths = through.devices;
        node.export_pool("tank", &[]).await.unwrap();
        let import = |buffered| ImportPool { paths: paths.clone(), name: None, buffered, force: Vec::new() };
        node.plan_import_pool(import(true)).await.unwrap();
        node.import_pool(import(false)).await.unwrap();
        assert_eq!(told(&node), (vec![false; 2], vec![false; 2]));
        node.export_pool("tank", &[]).await.unwrap();
        node.import_pool(import(true)).await.unwrap();
        assert_eq!(told(&node), (vec![true, false], vec![true, false]), "only what was named");
    });
}
