//! What becomes of writes when there is no space: held in order, resumed; and what goes on meanwhile.
//! Checklist 0.05-0.09, 0.22-0.24, 2.51; rows 15, 25, 33 of what users ask for.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::full::{BLOCK, EXTENT, byte_at, fill, full_pool, write};
use crate::support::{assert_clean, create, failing, filled, live, vdisk, with, world};
use futures_util::future::{join, join_all};
use plimsoll_engine::{AlarmState, Shortage, SpaceEvent, VdiskPolicy, Zeroes};
use plimsoll_hardware::Machine;

#[test]
fn a_held_write_goes_through_when_space_appears_and_nothing_else_waits_for_it() {
    live(&world(1, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        pool.arm(&AlarmState::default());
        let held = write(&pool, &m, "v", EXTENT, 2);
        let others = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 1);
            let v = pool.vdisk("v").expect("a vdisk");
            let began = m.now();
            for round in 0..100 {
                assert_eq!(
                    byte_at(&pool, &m, "v", 0).await,
                    if round == 0 { 1 } else { 3 },
                    "a read of the same vdisk"
                );
                write(&pool, &m, "v", 0, 3).await.expect("an overwrite of the same vdisk");
                v.flush().await.expect("a flush of the same vdisk");
                v.discard(4 << 20, EXTENT, false).await.expect("a discard of what is not there");
                v.write_zeroes(8 << 20, EXTENT, Zeroes::Unmap, false).await.expect("zeros where there is nothing");
                write(&pool, &m, "hog", 0, 9).await.expect("an overwrite of the other vdisk");
                pool.vdisk("hog").expect("a vdisk").flush().await.expect("a flush of the other vdisk");
                assert_eq!(pool.info().held_writes, 1, "the write still waits");
            }
            // Of the machine's own time: the devices take some, and no timer that a held write waits for is in it.
            assert!(m.now() - began < Duration::from_secs(1), "seven hundred operations took {:?}", m.now() - began);
            assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 0, "a held write shows");
            let before = m.now();
            pool.vdisk("hog").expect("a vdisk").discard(0, 2 * EXTENT, false).await.expect("a discard in a full pool");
            before
        };
        let (result, freed_at) = join(held, others).await;
        result.expect("the held write goes through");
        assert!(m.now() - freed_at < Duration::from_millis(100), "{:?} after the space was there", m.now() - freed_at);
        assert_eq!(byte_at(&pool, &m, "v", EXTENT).await, 2);
        assert_eq!((pool.info().held_writes, pool.info().held_bytes), (0, 0));
        let events = pool.events().await;
        let exhausted = events.iter().filter(|event| {
            matches!(event, SpaceEvent::Exhausted { vdisk, held: true, cause: Shortage::PoolFull, .. } if vdisk.name == "v")
        });
        assert_eq!(exhausted.count(), 1, "{events:?}");
        let resumed = events.iter().any(|event| {
            matches!(event, SpaceEvent::Resumed { vdisk, lasted, writes: 1, .. } if vdisk.name == "v" && *lasted >= Some(Duration::from_secs(1)))
        });
        assert!(resumed, "{events:?}");
        assert_clean(&pool, "after holding").await;
    });
}

#[test]
fn held_writes_are_served_in_order_and_a_small_one_does_not_overtake() {
    live(&world(4, 1, 16), |m| async move {
        let pool = full_pool(&m, VdiskPolicy::default()).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let writes = (0..6u64).map(|index| {
            let (pool, m, order) = (pool.clone(), m.clone(), order.clone());
            async move {
                m.sleep(Duration::from_millis(10 * index)).await;
                // The first needs four extents, the others one.
                let extents = if index == 0 { 4 } else { 1 };
                let data = filled(&m, index as u8 + 1, (extents * EXTENT) as usize).await;
                let v = pool.vdisk("v").expect("a vdisk");
                v.write((1 + 10 * index) * EXTENT, data, false).await.expect("a held write");
                order.borrow_mut().push(index);
            }
        });
        let frees = async {
            m.sleep(Duration::from_secs(1)).await;
            let hog = pool.vdisk("hog").expect("a vdisk");
            for extent in 0..16 {
                hog.discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
                m.sleep(Duration::from_millis(100)).await;
            }
        };
        join(join_all(writes), frees).await;
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4, 5]);
        assert_clean(&pool, "after held writes").await;
    });
}

#[test]
fn a_thousand_held_writes_of_a_hundred_vdisks_resume_when_a_device_is_added() {
    // Never zero: zeros need no space.
    let mark = |index: u64| (index % 255) as u8 + 1;
    let world = world(5, 2, 128);
    world.set_buffer_bytes(64 << 20);
    live(&world, |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
        for index in 0..100 {
            pool.create_vdisk(vdisk(&format!("v{index}"), 1 << 30)).await.expect("a vdisk");
        }
        fill(&pool, &m, "hog").await;
        let writes = (0..1000u64).map(|index| {
            let (pool, m) = (pool.clone(), m.clone());
            async move {
                let name = format!("v{}", index % 100);
                write(&pool, &m, &name, index / 100 * EXTENT, mark(index)).await.expect("a held write");
            }
        });
        let grow = async {
            m.sleep(Duration::from_secs(2)).await;
            assert_eq!(pool.info().held_writes, 1000);
            pool.add_device(m.open(1), false).await.expect("a device");
        };
        join(join_all(writes), grow).await;
        for index in 0..1000u64 {
            let seen = byte_at(&pool, &m, &format!("v{}", index % 100), index / 100 * EXTENT).await;
            assert_eq!(seen, mark(index), "write {index}");
        }
        assert_clean(&pool, "after growth").await;
    });
}

#[test]
fn writes_that_wait_for_the_same_flush_all_get_what_it_frees() {
    live(&world(15, 1, 16), |m| async move {
        let pool = full_pool(&m, failing()).await;
        let hog = pool.vdisk("hog").expect("a vdisk");
        for round in 0..8u64 {
            // One more than they need, which metadata may take.
            hog.discard(8 * round * EXTENT, 5 * EXTENT, false).await.expect("a discard");
            // Whose flush it is does not matter: one of theirs, or a client's.
            let writes = join_all((0..4).map(|index| write(&pool, &m, "v", (4 * round + index + 1) * EXTENT, 2)));
            let flush = async {
                if round % 2 == 1 {
                    hog.flush().await.expect("a flush");
                }
            };
            let (results, ()) = join(writes, flush).await;
            assert!(results.iter().all(Result::is_ok), "round {round}: {results:?}");
            fill(&pool, &m, "hog").await;
        }
        assert_clean(&pool, "after full pools").await;
    });
}

#[test]
fn a_held_write_that_takes_a_packed_word_out_has_its_turn_as_any_other() {
    let (packed, plain) = (("packed", BLOCK as u64), ("plain", 0));
    for order in [[packed, plain], [plain, packed]] {
        live(&world(24, 1, 16), |m| async move {
            let pool = create(&m).await;
            for (name, _) in order {
                pool.create_vdisk(with(name, VdiskPolicy::default())).await.expect("a vdisk");
            }
            for extent in 0..16 {
                write(&pool, &m, "packed", extent * EXTENT, 1).await.expect("a first write");
            }
            pool.compact().expect("a job");
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.vdisk("packed").expect("a vdisk").info().backed_bytes, 2 * EXTENT);
            pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
            fill(&pool, &m, "hog").await;
            let writes = order.map(|(name, offset)| {
                let (pool, m) = (pool.clone(), m.clone());
                async move {
                    m.sleep(Duration::from_millis(if name == order[0].0 { 1 } else { 2 })).await;
                    write(&pool, &m, name, offset, 2).await.expect("it was held");
                }
            });
            let relief = async {
                m.sleep(Duration::from_secs(1)).await;
                assert_eq!(pool.info().held_writes, 2);
                write(&pool, &m, "packed", 0, 3).await.expect("what has contents is overwritten in place");
                let hog = pool.vdisk("hog").expect("a vdisk");
                hog.discard(0, EXTENT, true).await.expect("a discard");
                m.sleep(Duration::from_secs(1)).await;
                assert_eq!(pool.info().held_writes, 1);
                for ((name, offset), byte) in order.into_iter().zip([2, 0]) {
                    assert_eq!(byte_at(&pool, &m, name, offset).await, byte, "{name} of {order:?}");
                }
                hog.discard(EXTENT, EXTENT, true).await.expect("a discard");
            };
            join(join_all(writes), relief).await;
            for (name, offset, byte) in
                [("packed", 0, 3), ("packed", BLOCK as u64, 2), ("packed", EXTENT, 1), ("plain", 0, 2)]
            {
                assert_eq!(byte_at(&pool, &m, name, offset).await, byte, "{name} at {offset}");
            }
            assert_clean(&pool, "after held writes").await;
        });
    }
}

#[test]
fn what_is_reserved_passes_those_that_wait_for_the_pool_from_behind_in_the_queue_too() {
    live(&world(25, 1, 16), |m| async move {
        let pool = create(&m).await;
        let own = VdiskPolicy { reservation: 4 * EXTENT, quota: Some(4 * EXTENT), ..VdiskPolicy::default() };
        for (name, policy) in [("own", own), ("v", VdiskPolicy::default()), ("hog", failing())] {
            pool.create_vdisk(with(name, policy)).await.expect("a vdisk");
        }
        fill(&pool, &m, "hog").await;
        let others = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 1);
            for extent in 0..4 {
                write(&pool, &m, "own", extent * EXTENT, 1).await.expect("it was reserved");
                assert_eq!(pool.info().held_writes, 1);
            }
            // At its quota it waits behind the other; what it gives back is its own.
            let behind = write(&pool, &m, "own", 9 * EXTENT, 3);
            let gives_back = async {
                m.sleep(Duration::from_secs(1)).await;
                assert_eq!(pool.info().held_writes, 2);
                pool.vdisk("own").expect("a vdisk").discard(0, EXTENT, false).await.expect("a discard");
            };
            join(behind, gives_back).await.0.expect("it is its own");
            assert_eq!(pool.info().held_writes, 1, "who came first still waits for the pool");
            assert_eq!(byte_at(&pool, &m, "v", 0).await, 0);
            pool.vdisk("hog").expect("a vdisk").discard(0, 16 * EXTENT, false).await.expect("a discard");
        };
        // So large that what comes free of the reservation's metadata is not enough.
        let (v, data) = (pool.vdisk("v").expect("a vdisk"), filled(&m, 2, 16 * EXTENT as usize).await);
        join(v.write(0, data, false), others).await.0.expect("it was held");
        assert_clean(&pool, "after held writes").await;
    });
}
