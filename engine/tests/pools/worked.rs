//! What the mission says in numbers and in plain sentences, with MiB in place of its GB.

use std::time::Duration;

use crate::support::full::{EXTENT, byte_at, fill, write};
use crate::support::{assert_clean, create, failing, filled, live, vdisk, with, world};
use futures_util::future::join;
use plimsoll_engine::{AlarmState, CreateVdisk, Level, Levels, Measure, ReclaimSpec, SpaceEvent, Subject, VdiskPolicy};
use plimsoll_hardware::Machine;

/// Checklist 2.01, 2.02, 2.07: ten disks of a fifth of the pool each overcommit it by itself, and so do two of its size.
#[test]
fn overcommit_is_what_is_designated_beyond_what_there_is() {
    for (vdisks, share) in [(10, 5), (2, 1)] {
        live(&world(1, 1, 50), |m| async move {
            let pool = create(&m).await;
            let physical = pool.info().physical_bytes;
            for index in 0..vdisks {
                pool.create_vdisk(vdisk(&format!("v{index}"), physical / share / 512 * 512)).await.expect("a vdisk");
            }
            let info = pool.info();
            let rounded = physical / share / 512 * 512 * share;
            assert_eq!(info.designated_bytes, 2 * rounded);
            assert_eq!(info.overcommit_bytes, 2 * rounded as i64 - physical as i64);
            assert_eq!(info.utilized_bytes, 0, "nobody has written");
            assert_eq!(info.physical_bytes, physical);
        });
    }
}

/// Checklist 0.01, 0.02, 2.02, 2.06, 2.08, 2.09, 4.40.
#[test]
fn vdisks_begin_with_nothing_and_share_the_pool_extent_by_extent_as_they_write() {
    live(&world(2, 2, 32), |m| async move {
        let pool =
            plimsoll_engine::Pool::create(&m, plimsoll_engine::CreatePool::named("tank"), vec![m.open(0), m.open(1)])
                .await
                .expect("a pool of two devices");
        for name in ["a", "b"] {
            pool.create_vdisk(vdisk(name, 1 << 40)).await.expect("a vdisk");
        }
        let backed = |name: &str| {
            let infos = pool.vdisks();
            let info = infos.iter().find(|info| info.name == name).expect("a vdisk");
            assert_eq!(info.size, 1 << 40, "what the guest sees does not change");
            info.backed_bytes
        };
        assert_eq!((backed("a"), backed("b")), (0, 0));
        let before = pool.info();
        // By turns and far apart, so that nobody's extents are neighbours.
        let place = |index: u64| (index * 7919 % 4096) << 28;
        for index in 0..40u64 {
            let name = if index % 2 == 0 { "a" } else { "b" };
            write(&pool, &m, name, place(index), index as u8 + 1).await.expect("a write");
            write(&pool, &m, name, place(index) + 8192, index as u8 + 1).await.expect("a write into the same extent");
            assert_eq!(backed("a") + backed("b"), (index + 1) * EXTENT, "the backing grows with use");
        }
        assert_eq!((backed("a"), backed("b")), (20 * EXTENT, 20 * EXTENT));
        let info = pool.info();
        assert_eq!(info.utilized_bytes, 40 * EXTENT);
        assert!(info.available_bytes <= before.available_bytes - 40 * EXTENT);
        for index in 0..40u64 {
            let (name, other) = if index % 2 == 0 { ("a", "b") } else { ("b", "a") };
            assert_eq!(byte_at(&pool, &m, name, place(index)).await, index as u8 + 1);
            assert_eq!(byte_at(&pool, &m, other, place(index)).await, 0, "the other's stays its own");
        }
        assert_clean(&pool, "by turns").await;
    });
}

/// Checklist 0.22, 2.31, 2.53, 2.54: what one disk marks as spare goes to another that waits for it, and is ordinary space afterwards.
#[test]
fn what_one_vdisk_fills_with_zeros_goes_to_another_that_waits() {
    live(&world(3, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("first", VdiskPolicy { keep_zeros: true, ..failing() })).await.expect("a vdisk");
        pool.create_vdisk(with("second", VdiskPolicy::default())).await.expect("a vdisk");
        let first = pool.vdisk("first").expect("a vdisk");
        let spare = 8 * EXTENT;
        first.write(0, filled(&m, 0, spare as usize).await, false).await.expect("zeros that are stored");
        first.write(spare, filled(&m, 5, EXTENT as usize).await, false).await.expect("data");
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        fill(&pool, &m, "hog").await;
        let waiting = write(&pool, &m, "second", 0, 9);
        let reclaiming = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 1);
            pool.reclaim("first", ReclaimSpec::default()).await.expect("a reclaim");
        };
        let (written, ()) = join(waiting, reclaiming).await;
        written.expect("it goes through");
        while pool.reclaim_info("first").expect("a vdisk").is_some_and(|info| info.running) {
            m.sleep(Duration::from_millis(1)).await;
        }
        let mut taken = 1;
        while taken < 8 && write(&pool, &m, "second", taken * EXTENT, 9).await.is_ok() {
            taken += 1;
        }
        assert!(taken >= 7, "{taken} extents of the 8 that were spare");
        for extent in 0..8 {
            assert_eq!(byte_at(&pool, &m, "first", extent * EXTENT).await, 0, "it reads as it was written");
        }
        assert_eq!(byte_at(&pool, &m, "first", spare).await, 5);
        pool.vdisk("second").expect("a vdisk").discard(0, 8 * EXTENT, false).await.expect("a discard");
        write(&pool, &m, "first", EXTENT, 6).await.expect("an ordinary write into what was spare");
        assert_eq!(byte_at(&pool, &m, "first", EXTENT).await, 6);
        assert_clean(&pool, "after it changed hands").await;
    });
}

/// Checklist 4.47: one that takes a significant share of what it may have is told, with its name, once until it has gone well below.
#[test]
fn a_vdisk_that_takes_a_significant_share_is_told_by_name() {
    live(&world(4, 1, 64), |m| async move {
        let pool = create(&m).await;
        pool.arm(&AlarmState::default());
        let levels = Levels::At(vec![Level::Percent(50)]);
        let policy = VdiskPolicy { levels, ..failing() };
        pool.create_vdisk(CreateVdisk { policy, ..vdisk("greedy", 10 * EXTENT) }).await.expect("a vdisk");
        pool.create_vdisk(vdisk("modest", 10 * EXTENT)).await.expect("a vdisk");
        for extent in 0..8 {
            write(&pool, &m, "greedy", extent * EXTENT, 1).await.expect("a write");
        }
        let [
            SpaceEvent::Threshold {
                subject: Subject::Vdisk(who),
                measure,
                level,
                used_bytes,
                total_bytes,
                rising: true,
            },
        ] = &pool.events().await[..]
        else {
            panic!("one event, of its level")
        };
        assert_eq!((who.name.as_str(), *measure, *level), ("greedy", Measure::Designated, Level::Percent(50)));
        assert_eq!((*used_bytes, *total_bytes), (5 * EXTENT, 10 * EXTENT));
        pool.vdisk("greedy").expect("a vdisk").discard(0, 8 * EXTENT, false).await.expect("a discard");
        for extent in 0..5 {
            write(&pool, &m, "greedy", extent * EXTENT, 1).await.expect("a write");
        }
        let rising: Vec<_> = pool
            .events()
            .await
            .into_iter()
            .map(|event| match event {
                SpaceEvent::Threshold { subject: Subject::Vdisk(who), rising, .. } if who.name == "greedy" => rising,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(rising, [false, true], "it fell, was armed again, and rose");
    });
}
