//! Reclaims that are bounded, paused, resumed, and called off.

use std::time::Duration;

use crate::support::reclaim::{EXTENT, What, alone, ended, prepared, put, reclaim};
use crate::support::{assert_clean, live, open, world};
use plimsoll_engine::{JobState, Pool, ReclaimSpec, Vdisk};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::{CrashKind, SimMachine};

#[test]
fn a_reclaim_is_paused_and_goes_on_where_it_was_also_after_a_start() {
    let world = world(9, 1, 16);
    live(&world, |m| async move {
        let (pool, disk) = prepared(&m).await;
        // In leaves of their own.
        for leaf in 0..20 {
            put(&disk, &m, leaf * 512 * EXTENT, EXTENT, What::Zeros).await;
        }
        pool.reclaim("a", ReclaimSpec { rate: 1 << 20, ..ReclaimSpec::default() }).await.expect("a reclaim");
        let twice = pool.reclaim("a", ReclaimSpec::default()).await;
        assert_eq!(twice.err().map(|error| error.code()), Some("busy"));
        m.sleep(Duration::from_millis(300)).await;
        let info = pool.pause_reclaim("a").await.expect("a pause");
        assert!(info.paused && info.done_bytes > 0 && info.done_bytes < info.total_bytes, "{info:?}");
        let info = ended(&pool, &m).await;
        assert!((2..12).contains(&(info.freed_bytes / EXTENT)), "{info:?}");
        assert_eq!(pool.jobs().pop().map(|job| job.state), Some(JobState::Paused));
        disk.flush().await.expect("a flush");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        let info = pool.reclaim_info("a").expect("a vdisk").expect("the reclaim");
        assert!(info.paused && !info.running && info.done_bytes > 0 && info.rate == 1 << 20, "{info:?}");
        assert_eq!(pool.jobs().pop().map(|job| (job.kind, job.state)), Some(("reclaim", JobState::Paused)));
        pool.resume_reclaim("a").await.expect("it goes on");
    });
    // It dies while it goes on, and does so again without being asked.
    world.crash(CrashKind::Process);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        let info = ended(&pool, &m).await;
        assert_eq!(info.done_bytes, info.total_bytes);
        assert_eq!(pool.vdisk("a").expect("a vdisk").info().backed_bytes, 0);
        assert_clean(&pool, "in the end").await;
        pool.close().await.expect("a close");
    });
}

/// A slow reclaim of 640 extents, some way into it.
async fn slow(pool: &Pool<SimMachine>, disk: &Vdisk<SimMachine>, m: &SimMachine, ranges: Option<Vec<(u64, u64)>>) {
    for extent in 0..640 {
        put(disk, m, extent * EXTENT, EXTENT, What::Data(9)).await;
    }
    pool.reclaim("a", ReclaimSpec { ranges, rate: 1 << 20, ..ReclaimSpec::default() }).await.expect("a reclaim");
    m.sleep(Duration::from_millis(1500)).await;
}

#[test]
fn a_slow_reclaim_stops_when_it_is_told_to_and_not_when_it_may_read_again() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        slow(&pool, &disk, &m, None).await;
        let stops = async |what: &str| {
            let began = m.now();
            ended(&pool, &m).await;
            let took = m.now() - began;
            assert!(took < Duration::from_millis(100), "{what}: {took:?}");
        };
        pool.pause_reclaim("a").await.expect("a pause");
        stops("paused").await;
        pool.resume_reclaim("a").await.expect("it goes on");
        m.sleep(Duration::from_millis(1500)).await;
        pool.close().await.expect("a close");
        stops("closed").await;
    });
}

#[test]
fn a_reclaim_that_goes_on_takes_another_rate_at_once_and_for_good() {
    let world = world(9, 1, 64);
    live(&world, |m| async move {
        let (pool, disk) = prepared(&m).await;
        slow(&pool, &disk, &m, None).await;
        let read = || pool.reclaim_info("a").expect("a vdisk").expect("a reclaim").scanned_bytes >> 20;
        // 40 MiB, of which eight wait for their second each: these too go by the new rate, and not all at once.
        let before = read();
        pool.set_reclaim_rate("a", 4 << 20).await.expect("another rate");
        m.sleep(Duration::from_millis(3900)).await;
        assert!((before + 12..=before + 16).contains(&read()), "{before} MiB, and 3.9 s later {}", read());
        disk.flush().await.expect("a flush");
    });
    world.crash(CrashKind::Power);
    live(&world, |m| async move {
        let pool = open(&m, 1).await;
        assert_eq!(pool.pause_reclaim("a").await.expect("a pause").rate, 4 << 20);
        ended(&pool, &m).await;
        assert_eq!(pool.set_reclaim_rate("a", 0).await.expect("no limit").rate, 0);
        pool.resume_reclaim("a").await.expect("it goes on");
        ended(&pool, &m).await;
        assert_eq!(pool.set_reclaim_rate("a", 0).await.err().map(|error| error.code()), Some("not-found"));
        assert_clean(&pool, "in the end").await;
        pool.close().await.expect("a close");
    });
}

#[test]
fn a_reclaim_has_one_job_however_often_it_is_paused() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        slow(&pool, &disk, &m, None).await;
        let job = pool.jobs().pop().expect("its job");
        let paused = async || {
            pool.pause_reclaim("a").await.expect("a pause");
            ended(&pool, &m).await;
            let jobs: Vec<_> = pool.jobs().into_iter().map(|job| (job.id, job.state)).collect();
            assert_eq!(jobs, [(job.id, JobState::Paused)]);
        };
        paused().await;
        assert_eq!(pool.resume_reclaim("a").await.expect("it goes on").id, job.id);
        m.sleep(Duration::from_millis(1500)).await;
        paused().await;
        // A new one takes the place of one that waits.
        assert_eq!(reclaim(&pool, &m, ReclaimSpec::default()).await.scanned_bytes, 640 * EXTENT);
        assert_eq!(pool.jobs().len(), 1);
        // And one that waits does not outlive its vdisk.
        pool.reclaim("a", ReclaimSpec { rate: 1 << 20, ..ReclaimSpec::default() }).await.expect("a reclaim");
        m.sleep(Duration::from_millis(1500)).await;
        pool.pause_reclaim("a").await.expect("a pause");
        ended(&pool, &m).await;
        pool.delete_vdisk("a").await.expect("it is deleted");
        let reclaims = pool.jobs().into_iter().filter(|job| job.kind == "reclaim");
        assert_eq!(reclaims.map(|job| job.state).next_back(), Some(JobState::Cancelled));
    });
}

#[test]
fn a_reclaim_under_way_is_called_off_by_the_end_of_its_vdisk() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        slow(&pool, &disk, &m, None).await;
        pool.delete_vdisk("a").await.expect("it is deleted");
        m.sleep(Duration::from_secs(5)).await;
        let states = pool.jobs().into_iter().filter(|job| job.kind == "reclaim").map(|job| job.state);
        assert_eq!(states.collect::<Vec<_>>(), [JobState::Cancelled]);
    });
}

#[test]
fn ranges_go_on_after_a_pause_and_no_more_is_done_than_there_is() {
    alone(|m| async move {
        let (pool, disk) = prepared(&m).await;
        // In pieces that do not adjoin.
        let ranges: Vec<_> = (0..80).map(|range| (range * 8 * EXTENT, 7 * EXTENT)).collect();
        slow(&pool, &disk, &m, Some(ranges)).await;
        m.sleep(Duration::from_secs(20)).await;
        pool.pause_reclaim("a").await.expect("a pause");
        let half = ended(&pool, &m).await;
        assert!(half.done_bytes > 0 && half.done_bytes < half.total_bytes, "{half:?}");
        pool.resume_reclaim("a").await.expect("it goes on");
        let info = ended(&pool, &m).await;
        assert_eq!((info.done_bytes, info.total_bytes), (560 * EXTENT, 560 * EXTENT));
        // What was under way at the pause is read again; what had been passed is not.
        assert!(info.scanned_bytes <= half.scanned_bytes + info.total_bytes - half.done_bytes, "{half:?} {info:?}");
        let job = pool.jobs().pop().expect("its job");
        assert_eq!((job.state, job.done, job.total), (JobState::Done, 560 * EXTENT, 560 * EXTENT));
    });
}

#[test]
fn a_rate_is_kept_as_it_was_said_or_refused() {
    alone(|m| async move {
        let (pool, _) = prepared(&m).await;
        for rate in [1, 512 << 10, (3 << 20) + 1, u64::MAX, 1 << 60] {
            let refused = pool.reclaim("a", ReclaimSpec { rate, ..ReclaimSpec::default() }).await;
            let error = refused.expect_err("it could not be written down").to_string();
            assert!(error.contains("whole number of MiB"), "{error}");
        }
    });
}
