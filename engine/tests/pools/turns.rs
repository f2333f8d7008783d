//! Who gets space when several want it, and what is left of a want when the space was never needed.

use std::time::Duration;

use crate::support::below::holding;
use crate::support::{assert_clean, create, failing, filled, live, vdisk, with, world};
use futures_util::future::{join, join_all, join3};
use plimsoll_engine::{
    AlarmState, CreateVdisk, Error, OvercommitLimit, PatternSpec, PatternUse, Pool, PoolPolicy, ReclaimSpec,
    SpaceEvent, Ticket, VdiskPolicy, WriteOptions, Zeroes,
};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

const EXTENT: u64 = 65_536;
const BLOCK: usize = 4096;

async fn write(pool: &Pool<SimMachine>, m: &SimMachine, name: &str, offset: u64, bytes: usize) -> Result<(), Error> {
    pool.vdisk(name)?.write(offset, filled(m, 1, bytes).await, false).await
}

/// Lets `hog` take what is free in whole extents, but for so many.
async fn fill_but(pool: &Pool<SimMachine>, m: &SimMachine, left: u64) {
    pool.create_vdisk(with("hog", failing())).await.expect("a vdisk");
    for extent in 0.. {
        if pool.info().available_bytes <= left * EXTENT
            || write(pool, m, "hog", extent * EXTENT, EXTENT as usize).await.is_err()
        {
            return;
        }
    }
}

async fn free(pool: &Pool<SimMachine>, from: u64, extents: u64) {
    let hog = pool.vdisk("hog").expect("a vdisk");
    hog.discard(from * EXTENT, extents * EXTENT, true).await.expect("a discard");
}

#[test]
fn held_writes_into_one_extent_need_it_once() {
    live(&world(1, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", holding(10))).await.expect("a vdisk");
        write(&pool, &m, "v", 1 << 20, BLOCK).await.expect("a first write");
        fill_but(&pool, &m, 0).await;
        let began = m.now();
        let first = write(&pool, &m, "v", 0, BLOCK);
        let second = write(&pool, &m, "v", 8 * BLOCK as u64, BLOCK);
        let relief = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 2);
            free(&pool, 0, 1).await;
        };
        let (first, second, ()) = join3(first, second, relief).await;
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        assert!(m.now() - began < Duration::from_secs(2), "it was held though it needed nothing any more");
        assert_clean(&pool, "after it").await;
    });
}

#[test]
fn a_write_that_may_not_wait_takes_what_is_there_though_a_larger_one_waits() {
    live(&world(2, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("patient", holding(10))).await.expect("a vdisk");
        pool.create_vdisk(with("other", holding(10))).await.expect("a vdisk");
        pool.create_vdisk(with("hasty", failing())).await.expect("a vdisk");
        fill_but(&pool, &m, 4).await;
        let large = write(&pool, &m, "patient", 0, 8 * EXTENT as usize);
        let others = async {
            m.sleep(Duration::from_secs(1)).await;
            assert_eq!(pool.info().held_writes, 1);
            let free = pool.info().available_bytes / EXTENT;
            assert!(free > 0);
            write(&pool, &m, "hasty", 0, BLOCK).await.expect("there is space");
            // One that may wait does: the large one came first.
            let began = m.now();
            let waiting = join(write(&pool, &m, "other", 0, BLOCK), async {
                m.sleep(Duration::from_secs(1)).await;
                assert_eq!(pool.info().held_writes, 2);
                self::free(&pool, 0, 12).await;
            });
            waiting.await.0.expect("it was held");
            assert!(m.now() - began >= Duration::from_secs(1));
        };
        let (large, ()) = join(large, others).await;
        large.expect("it was held");
        assert_clean(&pool, "after it").await;
    });
}

#[test]
fn a_held_write_that_is_given_up_when_it_is_just_granted_is_not_applied() {
    live(&world(3, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.set_tenant_quota("acme", Some(EXTENT));
        let of_acme = VdiskPolicy { tenant: Some("acme".into()), ..holding(10) };
        pool.create_vdisk(with("v", of_acme)).await.expect("a vdisk");
        write(&pool, &m, "v", 0, BLOCK).await.expect("a first write");
        let ticket = Ticket::default();
        let options = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
        let v = pool.vdisk("v").expect("a vdisk");
        let held = v.write_with(EXTENT, filled(&m, 7, BLOCK).await, &options);
        let both = async {
            m.sleep(Duration::from_secs(1)).await;
            // In one step: who grants is woken first, and then who waits.
            pool.set_tenant_quota("acme", Some(4 * EXTENT));
            assert_eq!(ticket.held(), 1);
            ticket.cancel();
        };
        let (result, ()) = join(held, both).await;
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        let bytes = v.read(EXTENT, m.buffers().alloc(BLOCK).await).await.expect("a read");
        assert_eq!(bytes[0], 0);
        // What was granted went back.
        assert_eq!(pool.info().held_writes, 0);
        for extent in 1..4 {
            write(&pool, &m, "v", extent * EXTENT, BLOCK).await.expect("it is within the quota");
        }
        assert_clean(&pool, "after it").await;
    });
}

#[test]
fn what_is_reserved_for_a_vdisk_of_a_tenant_no_other_of_the_tenant_takes() {
    live(&world(4, 1, 16), |m| async move {
        let pool = create(&m).await;
        let of_acme = |policy: VdiskPolicy| VdiskPolicy { tenant: Some("acme".into()), ..policy };
        pool.set_tenant_quota("acme", Some(10 * EXTENT));
        let reserved = VdiskPolicy { reservation: 5 * EXTENT, ..failing() };
        pool.create_vdisk(with("a", of_acme(reserved.clone()))).await.expect("a vdisk");
        pool.create_vdisk(with("b", of_acme(failing()))).await.expect("a vdisk");
        let too_much = VdiskPolicy { reservation: 6 * EXTENT, ..failing() };
        let refused = pool.create_vdisk(with("c", of_acme(too_much))).await;
        let Err(Error::LimitExceeded { excess, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(excess, EXTENT);
        for extent in 0..10 {
            let written = write(&pool, &m, "b", extent * EXTENT, BLOCK).await;
            assert_eq!(written.is_ok(), extent < 5, "extent {extent}: {written:?}");
        }
        for extent in 0..5 {
            write(&pool, &m, "a", extent * EXTENT, BLOCK).await.expect("it was reserved");
        }
        let refused = write(&pool, &m, "a", 5 * EXTENT, BLOCK).await;
        assert!(matches!(refused, Err(Error::QuotaExceeded { .. })), "{refused:?}");
        assert_clean(&pool, "after it").await;
    });
}

#[test]
fn a_held_write_beside_a_packed_word_ends_the_want_when_it_gets_an_extent() {
    live(&world(5, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", holding(10))).await.expect("a vdisk");
        for extent in 0..16 {
            write(&pool, &m, "v", extent * EXTENT, BLOCK).await.expect("a first write");
        }
        pool.compact().expect("a job");
        m.sleep(Duration::from_secs(1)).await;
        assert_eq!(pool.vdisk("v").expect("a vdisk").info().backed_bytes, 2 * EXTENT);
        fill_but(&pool, &m, 0).await;
        pool.arm(&AlarmState::default());
        let relief = async {
            m.sleep(Duration::from_secs(1)).await;
            free(&pool, 0, 1).await;
        };
        join(write(&pool, &m, "v", BLOCK as u64, BLOCK), relief).await.0.expect("it was held");
        assert_eq!(pool.info().available_bytes, 0);
        m.sleep(Duration::from_secs(2)).await;
        let resumed = pool.events().await.iter().filter(|event| matches!(event, SpaceEvent::Resumed { .. })).count();
        assert_eq!(resumed, 1);
    });
}

#[test]
fn a_held_write_beyond_an_end_that_is_cut_off_ends_at_once() {
    live(&world(6, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.create_vdisk(with("v", holding(600))).await.expect("a vdisk");
        fill_but(&pool, &m, 0).await;
        let began = m.now();
        let cut = async {
            m.sleep(Duration::from_secs(1)).await;
            pool.resize_vdisk("v", 1 << 20, false).await.expect("a resize");
        };
        let (held, ()) = join(write(&pool, &m, "v", 8 << 20, BLOCK), cut).await;
        assert!(matches!(held, Err(Error::InvalidRequest { .. })), "{held:?}");
        assert!(m.now() - began < Duration::from_secs(5));
    });
}

#[test]
fn worthless_ranges_in_as_many_leaves_as_there_are_never_stop_a_full_pool() {
    live(&world(7, 1, 64), |m| async move {
        let pool = create(&m).await;
        let leaf = 512 * EXTENT;
        pool.create_vdisk(vdisk("v", 256 * leaf)).await.expect("a vdisk");
        for index in 0..256 {
            write(&pool, &m, "v", index * leaf, EXTENT as usize).await.expect("a first write");
        }
        fill_but(&pool, &m, 0).await;
        // A block of each: no extent comes free.
        let ranges = (0..256).map(|index| (index * leaf, BLOCK as u64)).collect();
        let spec = ReclaimSpec { ranges: Some(ranges), worthless: true, rate: 0 };
        pool.reclaim("v", spec).await.expect("a job");
        m.sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.info().read_only, None);
        let info = pool.reclaim_info("v").expect("a vdisk").expect("it is known");
        assert_eq!((info.running, info.zero_bytes), (false, 256 * BLOCK as u64), "{info:?}");
        assert_clean(&pool, "after it").await;
        pool.close().await.expect("a close");
    });
}

/// Checklist 2.41.
#[test]
fn where_no_more_is_promised_than_there_is_no_write_ever_lacks_space() {
    for (mib, limit) in [(16, OvercommitLimit::Ratio(1000)), (256, OvercommitLimit::Bytes(0))] {
        live(&world(8, 1, mib), |m| async move {
            let pool = create(&m).await;
            let policy = PoolPolicy { overcommit_limit: Some(limit), ..pool.policy() };
            pool.set_policy(policy).await.expect("a policy");
            // As many as there may be, and all of each: whole extents, the last one first.
            let size = (mib << 20) / 5 / EXTENT * EXTENT;
            let mut vdisks = 0;
            while pool
                .create_vdisk(CreateVdisk { policy: failing(), ..vdisk(&format!("v{vdisks}"), size) })
                .await
                .is_ok()
            {
                vdisks += 1;
            }
            assert!(vdisks >= 4, "{vdisks} vdisks of a fifth each");
            // One more takes metadata of its own.
            let info = pool.info();
            let rest = info.designated_bytes_max.expect("a limit") - info.designated_bytes - 2 * EXTENT;
            if rest >= EXTENT {
                let spec = CreateVdisk { policy: failing(), ..vdisk("rest", rest / EXTENT * EXTENT) };
                pool.create_vdisk(spec).await.expect("it is within the limit");
            }
            for info in pool.vdisks() {
                for extent in (0..info.size / EXTENT).rev() {
                    let written = write(&pool, &m, &info.name, extent * EXTENT, EXTENT as usize).await;
                    assert!(written.is_ok(), "{} at {extent}: {written:?}, {:?}", info.name, pool.info());
                }
            }
            assert_clean(&pool, "all written").await;
            pool.close().await.expect("a close");
        });
    }
}

#[test]
fn zeros_over_two_extents_are_not_begun_while_one_of_them_waits_for_space() {
    live(&world(9, 1, 16), |m| async move {
        let pool = create(&m).await;
        pool.add_pattern(PatternSpec::Unit(vec![0xA5]), PatternUse::Everywhere).await.expect("a pattern");
        pool.create_vdisk(with("v", holding(600))).await.expect("a vdisk");
        let v = pool.vdisk("v").expect("a vdisk");
        // Data, then a fill; and a fill of which both ends are to be zeroed.
        v.write(0, filled(&m, 7, EXTENT as usize).await, false).await.expect("a write");
        v.write(EXTENT, filled(&m, 0xA5, 2 * EXTENT as usize).await, false).await.expect("a fill");
        fill_but(&pool, &m, 0).await;
        for (from, length) in [(EXTENT - 3072, 3584u64), (2 * EXTENT + 512, EXTENT - 1024)] {
            let ticket = Ticket::default();
            let options = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
            let before = v.read(0, m.buffers().alloc(3 * EXTENT as usize).await).await.expect("a read");
            let zeros = v.write_zeroes_with(from, length, Zeroes::Unmap, &options);
            let look = async {
                m.sleep(Duration::from_secs(1)).await;
                assert_eq!(ticket.held(), 1);
                let now = v.read(0, m.buffers().alloc(3 * EXTENT as usize).await).await.expect("a read");
                assert!(now[..] == before[..], "a part of it was done");
                ticket.cancel();
            };
            let (result, ()) = join(zeros, look).await;
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            let after = v.read(0, m.buffers().alloc(3 * EXTENT as usize).await).await.expect("a read");
            assert!(after[..] == before[..], "what was given up was done");
        }
        // With space all of it is done, and nothing beside it.
        free(&pool, 0, 4).await;
        for (from, length) in [(EXTENT - 3072, 3584u64), (2 * EXTENT + 512, EXTENT - 1024)] {
            let mut expected = v.read(0, m.buffers().alloc(3 * EXTENT as usize).await).await.expect("a read").to_vec();
            expected[from as usize..(from + length) as usize].fill(0);
            v.write_zeroes(from, length, Zeroes::Unmap, false).await.expect("zeros");
            let after = v.read(0, m.buffers().alloc(3 * EXTENT as usize).await).await.expect("a read");
            assert!(after[..] == expected[..], "from {from}");
        }
        assert_clean(&pool, "after it").await;
    });
}

#[test]
fn writes_that_no_memory_is_left_to_hold_are_told_and_a_vdisk_leaves_some_to_others() {
    let world = world(10, 1, 16);
    world.set_buffer_bytes(64 << 20);
    live(&world, |m| async move {
        let pool = create(&m).await;
        let policy = PoolPolicy { hold_bytes: Some(1 << 20), ..pool.policy() };
        pool.set_policy(policy).await.expect("a policy");
        for name in ["v", "other"] {
            pool.create_vdisk(with(name, holding(10))).await.expect("a vdisk");
        }
        fill_but(&pool, &m, 0).await;
        pool.arm(&AlarmState::default());
        let began = m.now();
        let greedy = join_all((0..30).map(|extent| {
            let (pool, m) = (pool.clone(), m.clone());
            async move { (write(&pool, &m, "v", extent * EXTENT, EXTENT as usize).await, m.now() - began) }
        }));
        let modest = async {
            m.sleep(Duration::from_secs(1)).await;
            let info = pool.vdisk("v").expect("a vdisk").info();
            assert!((1 << 19..1 << 20).contains(&info.held_writes_bytes), "{info:?}");
            assert!(pool.info().counters.refused_writes >= 14);
            let began = m.now();
            write(&pool, &m, "other", 0, EXTENT as usize).await.expect_err("there is no space");
            m.now() - began
        };
        let (greedy, modest) = join(greedy, modest).await;
        assert!(modest >= Duration::from_secs(10), "it was not held: {modest:?}");
        let at_once = greedy.iter().filter(|(_, waited)| *waited < Duration::from_secs(1)).count() as u64;
        assert!((14..25).contains(&at_once), "{at_once} of 30 failed at once");
        assert!(greedy.iter().all(|(result, _)| matches!(result, Err(Error::OutOfSpace { .. }))));
        free(&pool, 0, 40).await;
        m.sleep(Duration::from_secs(2)).await;
        let events = pool.events().await;
        let told = |event: &&SpaceEvent| matches!(event, SpaceEvent::HoldOverflow { vdisk, .. } if vdisk.name == "v");
        assert_eq!(events.iter().filter(told).count(), 1, "{events:?}");
        let failed = events.iter().find_map(|event| match event {
            SpaceEvent::Resumed { vdisk, expired, .. } if vdisk.name == "v" => Some(*expired),
            _ => None,
        });
        assert_eq!(failed, Some(30), "{events:?}");
    });
}

#[test]
fn held_writes_count_by_the_memory_that_they_take_however_small_they_are() {
    live(&world(12, 1, 16), |m| async move {
        let pool = create(&m).await;
        let policy = PoolPolicy { hold_bytes: Some(16 * BLOCK as u64), ..pool.policy() };
        pool.set_policy(policy).await.expect("a policy");
        pool.create_vdisk(with("v", holding(10))).await.expect("a vdisk");
        fill_but(&pool, &m, 0).await;
        let small = join_all((0..30).map(|extent| write(&pool, &m, "v", extent * EXTENT, 512)));
        let look = async {
            m.sleep(Duration::from_secs(1)).await;
            let info = pool.info();
            assert_eq!(info.held_writes_bytes, info.held_writes * BLOCK as u64);
            assert!((8..16).contains(&info.held_writes), "{} are held", info.held_writes);
            assert_eq!(pool.vdisk("v").expect("a vdisk").info().held_writes_bytes, info.held_writes_bytes);
        };
        join(small, look).await;
        assert_eq!(pool.info().held_writes_bytes, 0);
    });
}

#[test]
fn what_was_reserved_for_a_vdisk_is_its_own_also_after_it_was_held_for_its_quota() {
    live(&world(11, 1, 64), |m| async move {
        let pool = create(&m).await;
        let leaf = 512 * EXTENT;
        let own = 64;
        // Far apart, so that there is much metadata behind it, of which some stays promised until all of it is filled.
        let far = VdiskPolicy { reservation: 200 * EXTENT, ..failing() };
        pool.create_vdisk(CreateVdisk { policy: far, ..vdisk("far", 256 * leaf) }).await.expect("a vdisk");
        let bounded = VdiskPolicy { reservation: own * EXTENT, quota: Some(own * EXTENT), ..holding(10) };
        pool.create_vdisk(with("v", bounded)).await.expect("a vdisk");
        for index in 0..199 {
            write(&pool, &m, "far", index * leaf, BLOCK).await.expect("it was reserved");
        }
        for extent in 0..own {
            write(&pool, &m, "v", extent * EXTENT, EXTENT as usize).await.expect("it was reserved");
        }
        fill_but(&pool, &m, 0).await;
        let began = m.now();
        let relief = async {
            m.sleep(Duration::from_secs(1)).await;
            let v = pool.vdisk("v").expect("a vdisk");
            v.discard(0, EXTENT, false).await.expect("a discard");
        };
        let (held, ()) = join(write(&pool, &m, "v", own * EXTENT, BLOCK), relief).await;
        held.expect("it is its own");
        assert!(m.now() - began < Duration::from_secs(2));
        assert_clean(&pool, "after it").await;
    });
}
