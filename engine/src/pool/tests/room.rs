//! What the last checkpoint that stands does not have is bounded, whoever changed it.

use std::time::Duration;

use super::*;

const LEAVES: u64 = 26;
const LEAF_BYTES: u64 = LEAF_WORDS as u64 * 65_536;

/// Writes a block of each leaf.
async fn write(pool: &Pool<SimMachine>, m: &SimMachine, block: u64) {
    let v = pool.vdisk("v").expect("a vdisk");
    for leaf in 0..LEAVES {
        let mut data = m.buffers().alloc(4096).await;
        data.fill(7);
        v.write(leaf * LEAF_BYTES + block * 4096, data.freeze(), false).await.expect("a write");
    }
    v.flush().await.expect("a flush");
}

/// A pool whose vdisk `v` has a block in each leaf.
async fn written(m: &SimMachine) -> Pool<SimMachine> {
    let pool = Pool::create(m, CreatePool::named("tank"), vec![m.open(0)]).await.expect("a pool");
    let (name, policy) = ("v".into(), Default::default());
    let v = CreateVdisk { name, size: 1 << 40, sector: 512, write_through: false, policy };
    pool.create_vdisk(v).await.expect("a vdisk");
    write(&pool, m, 0).await;
    pool
}

#[test]
fn what_a_kill_has_left_and_what_a_checkpoint_writes_counts_until_it_stands() {
    let world = SimWorld::new(3, vec![SimDiskSpec::new("disk0", 64 << 20)]);
    let machine = world.boot();
    let m = machine.clone();
    machine
        .run(async move {
            let pool = written(&m).await;
            pool.check().await.expect("a check");
            write(&pool, &m, 1).await;
        })
        .done();
    world.crash(CrashKind::Process);
    let machine = world.boot();
    let m = machine.clone();
    machine
        .run(async move {
            let pool = Pool::open(&m, OpenPool::default(), vec![m.open(0)]).await.expect("a pool");
            let (store, left) = (&pool.store, LEAVES as usize);
            let unwritten = || store.counts.unwritten();
            assert!(store.counts.dirty.get() < left && unwritten() >= left, "{} count", unwritten());
            // It takes what others may have.
            let most = store.space.dirty_max();
            let half = store.room_at_once(most / 2);
            assert!(half.is_some() && store.room_at_once(most / 2 - left + 1).is_none());
            drop(half);
            let beside = async {
                for _ in 0..10_000 {
                    if store.counts.writing.get() > 0 {
                        break;
                    }
                    m.sleep(Duration::from_micros(1)).await;
                }
                assert!(store.counts.writing.get() > 0, "no checkpoint writes");
                assert!(unwritten() >= left, "{} count while a checkpoint writes", unwritten());
            };
            let (checked, ()) = futures_util::future::join(pool.check(), beside).await;
            assert!(checked.expect("a check").clean());
            assert!(unwritten() < left, "{} count when it stands", unwritten());
            assert!(store.room_at_once(most / 2).is_some());
        })
        .done();
}

#[test]
fn clients_that_never_rest_leave_a_checkpoint_no_more_than_the_reserve_is_for() {
    let world = SimWorld::new(4, vec![SimDiskSpec::new("disk0", 32 << 20)]);
    let machine = world.boot();
    let m = machine.clone();
    machine
        .run(async move {
            let pool = written(&m).await;
            let (store, v) = (&pool.store, pool.vdisk("v").expect("a vdisk"));
            let most = store.space.dirty_max();
            let client = async |first: u64| {
                for step in 0..2000 {
                    let at = (first + 2 * step) % LEAVES * LEAF_BYTES + step % 16 * 4096;
                    v.discard(at, 4096, false).await.expect("a discard");
                    let left = store.counts.unwritten();
                    assert!(left <= most, "{left} pages are to be written, of {most}");
                    let mut data = m.buffers().alloc(4096).await;
                    data.fill(7);
                    v.write(at, data.freeze(), false).await.expect("a write");
                }
            };
            futures_util::future::join4(client(0), client(1), client(6), client(13)).await;
            assert!(store.counters.checkpoints.get() > 20, "{} checkpoints", store.counters.checkpoints.get());
        })
        .done();
}
