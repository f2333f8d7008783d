//! A vdisk that becomes smaller over what it has: refused, unless the tail is to be discarded.

use std::time::Duration;

use crate::support::full::{BLOCK, EXTENT, byte_at, write};
use crate::support::{assert_clean, create, filled, live, vdisk, world};
use plimsoll_engine::{Error, PatternSpec, PatternUse, Pool};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

const OLD: u64 = 64 * EXTENT;
const NEW: u64 = 8 * EXTENT;
const BLOCK_BYTES: u64 = BLOCK as u64;

async fn pool_with_v(m: &SimMachine) -> Pool<SimMachine> {
    let pool = create(m).await;
    pool.create_vdisk(vdisk("v", OLD)).await.expect("a vdisk");
    pool
}

/// Fails unless a cut to `size` is refused because of so many bytes, and changes nothing.
async fn assert_refused(pool: &Pool<SimMachine>, size: u64, backed: u64) {
    let before = pool.vdisk("v").expect("a vdisk").info();
    let error = pool.resize_vdisk("v", size, false).await.expect_err("it would cut something off");
    let told = matches!(&error, Error::WouldCutOff { vdisk, size: to, backed: bytes }
        if vdisk == "tank/v" && (*to, *bytes) == (size, backed));
    assert!(told, "{error:?}");
    assert!(error.to_string().contains("tank/v") && error.to_string().contains("--discard-tail"), "{error}");
    assert_eq!(pool.vdisk("v").expect("a vdisk").info(), before);
}

#[test]
fn a_block_at_the_new_end_is_not_cut_off_unless_that_is_said() {
    live(&world(1, 1, 16), |m| async move {
        let pool = pool_with_v(&m).await;
        write(&pool, &m, "v", NEW - BLOCK_BYTES, 1).await.expect("the last block that stays");
        write(&pool, &m, "v", NEW, 2).await.expect("the first one that would go");
        assert_refused(&pool, NEW, BLOCK_BYTES).await;
        // A part of it, too.
        assert_refused(&pool, NEW + BLOCK_BYTES - 512, 512).await;
        assert_eq!(byte_at(&pool, &m, "v", NEW).await, 2);
        pool.resize_vdisk("v", NEW + BLOCK_BYTES, false).await.expect("nothing is behind that");
        m.sleep(Duration::from_secs(1)).await;
        pool.resize_vdisk("v", NEW, true).await.expect("that was said");
        m.sleep(Duration::from_secs(1)).await;
        pool.resize_vdisk("v", OLD, false).await.expect("it grows");
        let bytes = [NEW - BLOCK_BYTES, NEW, OLD - BLOCK_BYTES].map(|offset| byte_at(&pool, &m, "v", offset));
        assert_eq!(futures_util::future::join_all(bytes).await, [1, 0, 0]);
        assert_clean(&pool, "after a cut").await;
    });
}

#[test]
fn a_tail_without_contents_is_cut_off_without_a_word() {
    live(&world(2, 1, 16), |m| async move {
        let pool = pool_with_v(&m).await;
        write(&pool, &m, "v", 0, 1).await.expect("a write");
        // What was discarded, and zeros that were never stored.
        for extent in [9, 40] {
            write(&pool, &m, "v", extent * EXTENT, 1).await.expect("a write");
            pool.vdisk("v").expect("a vdisk").discard(extent * EXTENT, EXTENT, false).await.expect("a discard");
        }
        write(&pool, &m, "v", 20 * EXTENT, 0).await.expect("zeros");
        let info = pool.resize_vdisk("v", NEW, false).await.expect("there is nothing in the tail");
        assert_eq!(info.size, NEW);
    });
}

#[test]
fn a_fill_and_a_block_that_shares_its_extent_are_not_cut_off_either() {
    live(&world(3, 1, 16), |m| async move {
        let pool = pool_with_v(&m).await;
        pool.add_pattern(PatternSpec::Unit(vec![0xA5]), PatternUse::Everywhere).await.expect("a pattern");
        let v = pool.vdisk("v").expect("a vdisk");
        v.write(20 * EXTENT, filled(&m, 0xA5, EXTENT as usize).await, false).await.expect("a pattern");
        assert_eq!(v.info().backed_bytes, 0, "it is stored as data");
        assert_refused(&pool, NEW, EXTENT).await;
        v.discard(20 * EXTENT, EXTENT, false).await.expect("a discard");
        // Extents with a block each, which are put together.
        for extent in 0..16 {
            v.write(extent * EXTENT, filled(&m, 3, EXTENT as usize).await, false).await.expect("a write");
            v.discard(extent * EXTENT + BLOCK_BYTES, EXTENT - BLOCK_BYTES, true).await.expect("a discard");
        }
        pool.compact().expect("a job");
        m.sleep(Duration::from_secs(10)).await;
        assert!(v.info().backed_bytes < 16 * EXTENT, "nothing was put together: {:?}", v.info());
        assert_refused(&pool, NEW, 8 * BLOCK_BYTES).await;
        assert_refused(&pool, 15 * EXTENT, BLOCK_BYTES).await;
        pool.resize_vdisk("v", 15 * EXTENT, true).await.expect("that was said");
        assert_clean(&pool, "after a cut").await;
        assert_eq!(byte_at(&pool, &m, "v", 14 * EXTENT).await, 3);
    });
}
