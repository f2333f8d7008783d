//! Failures of writes, flushes and starts that were found once, each with the shortest way to it.

use std::time::Duration;

use crate::support::{filled, live, vdisk, world};
use plimsoll_engine::{CreatePool, OpenPool, Pool, crash_memory_name, identify};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::CrashKind;

#[test]
fn a_map_after_a_discard_in_the_same_leaf_survives() {
    let world = world(1, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        let d = pool.vdisk("a").expect("open");
        d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
        d.discard(0, 65536, false).await.expect("d");
        d.write(0, filled(&m, 2, 4096).await, false).await.expect("w");
        d.flush().await.expect("flush");
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("vdisk");
        let back = d.read(0, m.buffers().alloc(4096).await).await.expect("read");
        assert_eq!(back[0], 2, "flushed write reads as {}", back[0]);
    });
}

#[test]
fn an_overwrite_beside_first_writes_ends() {
    for seed in 0..40 {
        eprintln!("seed {seed}");
        let world = world(seed, 1, 16);
        live(&world, |m| async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            for e in 0..4u64 {
                let base = e * 65536;
                d.write(base, filled(&m, 1, 4096).await, false).await.expect("w");
                d.flush().await.expect("f");
                let a = async {
                    for b in 1..16u64 {
                        d.write(base + b * 4096, filled(&m, 3, 4096).await, false).await.expect("w");
                    }
                };
                let o = async {
                    d.write(base, filled(&m, 2, 4096).await, false).await.expect("w");
                };
                futures_util::future::join(a, o).await;
            }
        });
    }
}

#[test]
fn a_close_beside_a_first_write_ends() {
    for seed in 0..20 {
        let world = world(seed, 1, 16);
        live(&world, |m| async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            let data = filled(&m, 1, 4096).await;
            let w = async {
                let _ = d.write(0, data, false).await;
            };
            let c = async {
                m.sleep(Duration::from_nanos(100)).await;
                pool.close().await.expect("close");
            };
            futures_util::future::join(w, c).await;
        });
    }
}

#[test]
fn a_write_of_1_mib_in_a_tiny_pool_ends() {
    let world = world(1, 1, 16);
    let machine = world.boot();
    let m = machine.clone();
    machine.set_idle_max(Duration::from_secs(60));
    machine
        .run(async move {
            let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
            pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
            let d = pool.vdisk("a").expect("open");
            d.write(0, filled(&m, 1, 65536).await, false).await.expect("w");
            pool.check().await.expect("check");
            let m2 = m.clone();
            let w = async {
                d.write(1 << 20, filled(&m, 1, 1 << 20).await, false).await.expect("w");
            };
            let t = async {
                m2.sleep(Duration::from_secs(5)).await;
            };
            let r = futures_util::future::select(Box::pin(w), Box::pin(t)).await;
            assert!(
                matches!(r, futures_util::future::Either::Left(_)),
                "did not end in 5 s; generation {}",
                pool.info().generation
            );
        })
        .done();
}

#[test]
fn a_flush_beside_a_checkpoint_is_a_flush() {
    let mut bad = vec![];
    for seed in 0..200 {
        let world = world(seed, 1, 16);
        world.set_damage(plimsoll_hardware::sim::CrashDamage::Share(100));
        let machine = world.boot();
        let m = machine.clone();
        let expected = machine
            .run(async move {
                let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
                pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
                let d = pool.vdisk("a").expect("open");
                d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
                d.flush().await.expect("f");
                pool.check().await.expect("settle");
                let p2 = pool.clone();
                let start = pool.info().generation;
                let c = Box::pin(async move {
                    let _ = p2.check().await;
                });
                let f = Box::pin(async {
                    let mut n = 1u8;
                    // overwrite and flush until the checkpoint has passed
                    loop {
                        n += 1;
                        d.write(0, filled(&m, n, 4096).await, false).await.expect("w");
                        d.flush().await.expect("f");
                        if pool.info().generation > start || n as u64 > 2 + seed % 40 {
                            return n;
                        }
                    }
                });
                match futures_util::future::select(f, c).await {
                    futures_util::future::Either::Left((n, _)) => n,
                    futures_util::future::Either::Right((_, f)) => f.await,
                }
            })
            .done();
        world.crash(CrashKind::Power);
        let machine = world.boot();
        let m = machine.clone();
        let back = machine
            .run(async move {
                let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
                let d = pool.vdisk("a").expect("vdisk");
                d.read(0, m.buffers().alloc(4096).await).await.expect("read")[0]
            })
            .done();
        if back != expected {
            bad.push((seed, expected, back));
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn without_crash_memory_an_overwrite_survives_a_kill() {
    let world = world(3, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        pool.close().await.expect("close");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let label = identify(&m, &m.open(0)).await.expect("identify").expect("label");
        let payload = (32 * 4096 / 4) - 64;
        let bytes = 4096 + 2 * ((16 + payload) as usize).next_multiple_of(8);
        let _hold = m.crash_memory(&crash_memory_name(label.pool, &m.open(0)), bytes).expect("memory");
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("open");
        d.write(0, filled(&m, 1, 4096).await, false).await.expect("w");
        d.write(0, filled(&m, 2, 4096).await, false).await.expect("w");
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let d = pool.vdisk("a").expect("vdisk");
        let back = d.read(0, m.buffers().alloc(4096).await).await.expect("read");
        assert_eq!(back[0], 2, "{:?}", pool.info().recovery);
    });
}
