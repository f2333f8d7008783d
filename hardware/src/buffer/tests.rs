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

#[test]
fn memory_that_is_free_in_pieces_only_is_given_out_in_pieces() -> std::io::Result<()> {
    let pool = BufferPool::new(2 * BUFFER_MAX)?.privileged();
    let mut held = Vec::new();
    while let Some(buffer) = pool.try_alloc(PAGE) {
        held.push(buffer);
    }
    // No two pages side by side.
    let mut index = 0;
    held.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    let mut context = std::task::Context::from_waker(Waker::noop());
    assert!(std::pin::pin!(pool.alloc(BUFFER_MAX)).poll(&mut context).is_pending());
    let Poll::Ready(buffer) = std::pin::pin!(pool.alloc_up_to(BUFFER_MAX)).poll(&mut context) else {
        panic!("{} bytes are free and none is given", pool.free_bytes());
    };
    assert_eq!(buffer.len(), PAGE);
    drop((held, buffer));
    let Poll::Ready(buffer) = std::pin::pin!(pool.alloc_up_to(BUFFER_MAX)).poll(&mut context) else {
        panic!("all is free and none is given");
    };
    assert_eq!(buffer.len(), BUFFER_MAX);
    Ok(())
}

#[test]
fn a_waiter_that_goes_away_keeps_nobody_waiting() -> std::io::Result<()> {
    let pool = BufferPool::new(BUFFER_MAX)?.privileged();
    let all = pool.try_alloc(BUFFER_MAX);
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
