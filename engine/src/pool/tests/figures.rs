//! The figures that are kept: each of them is falsified in turn, and a check says which one it is and by how much.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::*;
use crate::format::{OnFull, VdiskPolicy};
use crate::space::Terms;

const EXTENT: u64 = 65_536;

/// What a recount shows, by name.
fn shown(store: &Sim) -> Vec<String> {
    let mut names = Vec::new();
    store.recount(true, &mut |figure| names.push(figure.what.clone()));
    names
}

/// Makes one figure larger, or smaller where it can be; answers what a check must say of it.
fn falsify(store: &Sim, name: &str) -> String {
    let mut said = None;
    store.recount(true, &mut |figure| {
        if figure.what == name {
            let by = if figure.kept >= 2 { "2 too few" } else { "3 too many" };
            figure.kept = if figure.kept >= 2 { figure.kept - 2 } else { figure.kept + 3 };
            said = Some(format!("{name}: the pool says {}, there are {}: {by}", figure.kept, figure.counted));
        }
    });
    said.unwrap_or_else(|| panic!("there is no figure of {name}"))
}

async fn write_extent(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, extent: u64) {
    let mut buffer = m.buffers().alloc(EXTENT as usize).await;
    buffer.fill(7);
    pool.vdisk(name).expect("a vdisk").write(extent * EXTENT, buffer.freeze(), false).await.expect("a write");
}

/// A full pool with a tenant, a reservation, writes that are held, and something in quarantine, as it is until `work` has ended.
async fn busy(m: SimMachine, work: impl AsyncFnOnce(&Pool<SimMachine>)) {
    let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("a pool");
    let spec = |name: &str, policy| CreateVdisk {
        name: name.into(),
        size: 1 << 30,
        sector: 512,
        write_through: false,
        policy,
    };
    let tenant = Some("acme".to_owned());
    let reserved = VdiskPolicy { reservation: 8 * EXTENT, tenant, ..VdiskPolicy::default() };
    pool.create_vdisk(spec("reserved", reserved)).await.expect("a vdisk");
    let hold = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(60)), ..VdiskPolicy::default() };
    pool.create_vdisk(spec("v", hold)).await.expect("a vdisk");
    write_extent(&pool, &m, "reserved", 0).await;
    let mut extents = 0;
    while pool.store.space.available() > 0 {
        write_extent(&pool, &m, "v", extents).await;
        extents += 1;
    }
    let held = join_all((0..5).map(|more| write_extent(&pool, &m, "v", extents + more)));
    let look = async {
        while pool.info().held_writes < 5 {
            m.sleep(Duration::from_millis(1)).await;
        }
        work(&pool).await;
        pool.vdisk("v").expect("a vdisk").discard(0, 16 * EXTENT, false).await.expect("a discard");
    };
    join(held, look).await;
    assert!(found(&pool).await.clean());
}

#[test]
fn every_figure_that_is_falsified_is_found_and_named_with_how_wrong_it_is_and_set_right_by_a_repair() {
    let world = SimWorld::new(5, vec![SimDiskSpec::new("disk0", 64 << 20)]);
    live(&world, async |m| {
        busy(m, async |pool| {
            let names = shown(&pool.store);
            for wanted in ["granted", "quarantine", "held", "reserved", "acme", "free", "nobody", "promised", "tank/v"]
            {
                assert!(names.iter().any(|name| name.contains(wanted)), "no figure of {wanted}: {names:#?}");
            }
            assert!(found(pool).await.clean(), "nothing is wrong yet");
            for name in names
                .iter()
                .filter(|name| !["extents that nobody has", "extents that vdisks hold"].contains(&name.as_str()))
            {
                let said = falsify(&pool.store, name);
                let report = found(pool).await;
                assert_eq!(kinds(&report), ["count-mismatch"], "{name}: {:#?}", report.findings);
                assert!(
                    report.findings.iter().any(|finding| finding.message == said),
                    "{said}: {:#?}",
                    report.findings
                );
                assert!(!report.lost());
                pool.repair().await.expect("a repair");
                let report = found(pool).await;
                assert!(report.clean(), "{name} after a repair: {:#?}", report.findings);
            }
        })
        .await;
    });
}

#[test]
fn what_an_account_goes_by_is_compared_with_what_was_decided_for_its_vdisk() {
    let world = SimWorld::new(5, vec![SimDiskSpec::new("disk0", 64 << 20)]);
    live(&world, async |m| {
        busy(m, async |pool| {
            let vdisk = pool.store.vdisks.borrow().values().find(|vdisk| vdisk.name() == "reserved").cloned();
            let account = &vdisk.expect("a vdisk").mapping.account;
            let reserved = pool.info().reserved_bytes;
            let terms = Terms { quota: Some(3), designated: 1 << 20, extent_bytes: EXTENT, ..Terms::default() };
            pool.store.space.ledger.set_terms(account, terms, Some("acme"));
            let report = found(pool).await;
            let said: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
            for wanted in ["extents reserved for", "metadata reserved for", "the quota of", "bytes promised by"] {
                let of = |said: &&str| said.contains(wanted) && said.contains("tank/reserved: the pool says ");
                assert!(said.iter().any(of), "{wanted}: {said:#?}");
            }
            pool.repair().await.expect("a repair");
            let report = found(pool).await;
            assert!(report.clean(), "{:#?}", report.findings);
            assert_eq!(pool.info().reserved_bytes, reserved);
        })
        .await;
    });
}

#[test]
fn the_space_that_nobody_has_is_what_is_free_in_the_groups() {
    live(&prepared(), async |m| {
        let pool = open(&m, false).await;
        assert!(found(&pool).await.clean());
        pool.store.space.correct(5, 0);
        let report = found(&pool).await;
        let said = report.findings.iter().find(|finding| finding.message.starts_with("extents that nobody has: "));
        assert!(said.is_some_and(|said| said.message.ends_with("5 too few")), "{:#?}", report.findings);
        pool.repair().await.expect("a repair");
        assert!(found(&pool).await.clean());
    });
}
