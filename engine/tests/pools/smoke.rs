//! A pool's life from end to end on the simulated machine.
use crate::support::{filled, live, vdisk, world};
use plimsoll_engine::{CreatePool, OpenPool, Pool, Zeroes};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::CrashKind;

#[test]
fn what_was_written_is_read_back_after_a_clean_close() {
    let world = world(1, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        let disk = pool.vdisk("a").expect("open");
        disk.write(4096, filled(&m, 7, 128 << 10).await, false).await.expect("write");
        disk.write(512, filled(&m, 9, 512).await, true).await.expect("write");
        let back = disk.read(4096, m.buffers().alloc(128 << 10).await).await.expect("read");
        assert!(back.iter().all(|&byte| byte == 7));
        disk.discard(8192, 4096, false).await.expect("discard");
        disk.write_zeroes(65536, 65536, Zeroes::Unmap, false).await.expect("zeroes");
        let report = pool.check().await.expect("check");
        assert!(report.clean(), "{:?}", report.findings);
        pool.close().await.expect("close");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        assert!(pool.info().recovery.clean, "{:?}", pool.info().recovery);
        let disk = pool.vdisk("a").expect("vdisk");
        let back = disk.read(0, m.buffers().alloc(16384).await).await.expect("read");
        assert!(back[..512].iter().all(|&byte| byte == 0));
        assert!(back[512..1024].iter().all(|&byte| byte == 9));
        assert!(back[1024..4096].iter().all(|&byte| byte == 0));
        assert!(back[4096..8192].iter().all(|&byte| byte == 7));
        assert!(back[8192..12288].iter().all(|&byte| byte == 0));
        assert!(back[12288..].iter().all(|&byte| byte == 7));
        pool.delete_vdisk("a").await.expect("delete");
        while !pool.vdisks().is_empty() {
            m.sleep(std::time::Duration::from_millis(1)).await;
        }
        let report = pool.check().await.expect("check");
        assert!(report.clean(), "{:?}", report.findings);
        assert_eq!(pool.info().utilized_bytes, 0);
    });
}

#[test]
fn an_acknowledged_write_survives_the_death_of_the_process() {
    let world = world(2, 1, 16);
    live(&world, |m| async move {
        let pool = Pool::create(&m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("create");
        pool.create_vdisk(vdisk("a", 1 << 30)).await.expect("vdisk");
        let disk = pool.vdisk("a").expect("open");
        for at in 0..50u64 {
            disk.write(at * 8192, filled(&m, at as u8 + 1, 4096).await, false).await.expect("write");
        }
    });
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("open");
        let disk = pool.vdisk("a").expect("vdisk");
        for at in 0..50u64 {
            let back = disk.read(at * 8192, m.buffers().alloc(8192).await).await.expect("read");
            assert!(back[..4096].iter().all(|&byte| byte == at as u8 + 1));
            assert!(back[4096..].iter().all(|&byte| byte == 0));
        }
        let report = pool.check().await.expect("check");
        assert!(report.clean(), "{:?}", report.findings);
    });
}
