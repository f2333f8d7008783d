//! What a close answers: whether the pool is marked clean.

use crate::support::{create, filled, live, open, vdisk, world};
use plimsoll_hardware::sim::{CrashKind, FaultProfile};

#[test]
fn a_close_that_leaves_no_clean_root_is_an_error() {
    let faults = [
        FaultProfile { flush_error: 10_000, ..FaultProfile::NONE },
        FaultProfile { write_error: 10_000, ..FaultProfile::NONE },
    ];
    for (seed, fault) in faults.into_iter().enumerate() {
        for failed_before in [true, false] {
            let world = world(seed as u64, 1, 16);
            let machine = world.boot();
            let m = machine.clone();
            let faulty = &world;
            machine
                .run(async move {
                    let pool = create(&m).await;
                    pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("a vdisk");
                    let a = pool.vdisk("a").expect("a vdisk");
                    a.write(0, filled(&m, 1, 4096).await, false).await.expect("a write");
                    faulty.set_faults(fault);
                    if failed_before {
                        a.flush().await.expect_err("the device fails");
                        faulty.heal();
                    }
                    let error = pool.close().await.expect_err("nothing says that the pool is clean");
                    assert!(matches!(error.code(), "read-only" | "device-error"), "{error}");
                })
                .done();
            world.heal();
            world.crash(CrashKind::Process);
            live(&world, |m| async move {
                let pool = open(&m, 1).await;
                assert!(!pool.info().recovery.clean, "{:?}", pool.info().recovery);
                pool.close().await.expect("a close");
                drop(pool);
                let pool = open(&m, 1).await;
                assert!(pool.info().recovery.clean, "{:?}", pool.info().recovery);
            });
        }
    }
}
