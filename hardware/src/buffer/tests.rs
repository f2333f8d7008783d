//! The pool under hands that take, wait and go away.

use super::*;

#[test]
fn a_pool_gives_out_every_byte_once_and_takes_it_all_back() -> std::io::Result<()> {
    let pool = BufferPool::new(2 * BUFFER_MAX)?.privileged();
    let mut held = Vec::new();
    for round in 0.. {
        let Some(mut buffer) = pool.try_alloc([4096, 8192, 20_000, 512][round % 4]) else { break };
        buffer.fill(round as u8);
        held.push((round as u8, buffer));
    }
    for (mark, buffer) in &held {
        assert!(buffer.iter().all(|byte| byte == mark), "buffer {mark} was shared");
    }
    held.clear();
    assert_eq!(pool.free_bytes(), 2 * BUFFER_MAX);
    assert!(pool.try_alloc(BUFFER_MAX).is_some(), "freed pages did not merge");
    Ok(())
}

/// Whether the allocation is there at once.
fn now<T>(allocation: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(Waker::noop());
    match std::pin::pin!(allocation).poll(&mut context) {
        Poll::Ready(buffer) => Some(buffer),
        Poll::Pending => None,
    }
}

/// A pool of which somebody holds every `nth` page of those that can be had one by one.
fn held_here_and_there(nth: usize) -> std::io::Result<(BufferPool, Vec<Buffer>)> {
    let pool = BufferPool::new(4 * BUFFER_MAX)?;
    let held: Vec<_> = std::iter::from_fn(|| pool.try_alloc(PAGE)).collect();
    assert!(held.len() > 700, "only {} pages were there", held.len());
    let held = held.into_iter().enumerate().filter_map(|(index, page)| (index % nth == 0).then_some(page)).collect();
    Ok((pool, held))
}

#[test]
fn whoever_holds_pages_here_and_there_keeps_no_unit_from_others() -> std::io::Result<()> {
    for nth in [2, 7, 16] {
        let (pool, held) = held_here_and_there(nth)?;
        assert!(pool.free_bytes() > pool.bytes() / 3 && !pool.is_scarce(), "{} bytes are free", pool.free_bytes());
        for length in [PAGE, 3 * PAGE, UNIT] {
            assert!(
                pool.try_alloc(length).is_some() && pool.privileged().try_alloc(length).is_some(),
                "{length} bytes"
            );
        }
        // A longer run may not be there, and may be for those who can do with less.
        assert!(now(pool.alloc_up_to(BUFFER_MAX)).is_some_and(|buffer| buffer.len() >= UNIT));
        drop(held);
        assert!(now(pool.alloc_up_to(BUFFER_MAX)).is_some_and(|buffer| buffer.len() == BUFFER_MAX));
    }
    Ok(())
}

#[test]
fn those_who_want_less_do_not_wait_for_those_who_want_more() -> std::io::Result<()> {
    let (pool, mut held) = held_here_and_there(16)?;
    let mut context = std::task::Context::from_waker(Waker::noop());
    let mut long = Box::pin(pool.alloc(BUFFER_MAX));
    let units: Vec<_> = std::iter::from_fn(|| pool.try_alloc(UNIT)).collect();
    assert!(long.as_mut().poll(&mut context).is_pending() && pool.is_scarce());
    let mut unit = Box::pin(pool.alloc(UNIT));
    assert!(unit.as_mut().poll(&mut context).is_pending());
    assert!(now(pool.alloc(PAGE)).is_some(), "a page waits for a unit");
    // What is cut up already is had by the page; the next unit is for him who came first.
    held.extend(std::iter::from_fn(|| pool.try_alloc(PAGE)));
    let mut page = Box::pin(pool.alloc(PAGE));
    assert!(page.as_mut().poll(&mut context).is_pending());
    let mut units = units.into_iter();
    drop(units.next());
    assert!(page.as_mut().poll(&mut context).is_pending(), "a page has cut up what another waited for");
    assert!(unit.as_mut().poll(&mut context).is_ready());
    drop(unit);
    assert!(page.as_mut().poll(&mut context).is_ready());
    drop((units, held));
    assert!(long.as_mut().poll(&mut context).is_ready());
    Ok(())
}

#[test]
fn a_waiter_that_goes_away_keeps_nobody_waiting() -> std::io::Result<()> {
    let pool = BufferPool::new(BUFFER_MAX)?.privileged();
    let all = pool.try_alloc(BUFFER_MAX);
    assert!(all.is_some());
    let mut context = std::task::Context::from_waker(Waker::noop());
    let mut gone = Box::pin(pool.alloc(PAGE));
    let mut stays = Box::pin(pool.alloc(PAGE));
    assert!(gone.as_mut().poll(&mut context).is_pending() && stays.as_mut().poll(&mut context).is_pending());
    drop(gone);
    drop(all);
    assert!(stays.as_mut().poll(&mut context).is_ready());
    assert!(Box::pin(pool.alloc(PAGE)).as_mut().poll(&mut context).is_ready());
    Ok(())
}

#[test]
fn an_eighth_is_kept_for_the_privileged() -> std::io::Result<()> {
    let pool = BufferPool::new(BUFFER_MAX)?;
    let mut held = Vec::new();
    held.extend(std::iter::from_fn(|| pool.try_alloc(PAGE)));
    assert_eq!(pool.free_bytes(), BUFFER_MAX / 8);
    assert!(pool.privileged().try_alloc(PAGE).is_some());
    Ok(())
}

#[test]
fn parts_join_again_and_the_last_one_frees_the_memory() -> std::io::Result<()> {
    let pool = BufferPool::new(BUFFER_MAX)?;
    let mut rest = pool.try_alloc(12_288).ok_or(std::io::ErrorKind::OutOfMemory)?;
    let mut front = rest.split_to(4096);
    front.fill(1);
    rest.fill(2);
    front.unsplit(rest);
    assert_eq!((front.len(), front[4095], front[4096]), (12_288, 1, 2));
    let frozen = front.freeze();
    let tail = frozen.slice(4096..8192);
    let frozen = frozen.try_thaw().expect_err("a slice is still held");
    drop(frozen);
    assert_eq!(tail[0], 2);
    drop(tail);
    assert_eq!(pool.free_bytes(), BUFFER_MAX);
    Ok(())
}
