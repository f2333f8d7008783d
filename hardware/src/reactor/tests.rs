//! The reactor on a real ring.

use std::cell::{Cell, RefCell};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;
use crate::machine::Machine as _;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MS: Duration = Duration::from_millis(1);

fn small() -> ReactorConfig {
    ReactorConfig { buffer_bytes: 1 << 20, ring_entries: 64, file_slots: 8, ..ReactorConfig::default() }
}

fn frozen(handle: &Handle, bytes: &[u8]) -> Result<Frozen, &'static str> {
    let mut buffer = handle.buffers().try_alloc(bytes.len()).ok_or("no memory")?;
    buffer.copy_from_slice(bytes);
    Ok(buffer.freeze())
}

#[test]
fn timers_fire_in_order_of_time_and_at_one_time_in_order_of_arrival() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let order = Rc::new(RefCell::new(Vec::new()));
    for (name, wait) in [("c", 30), ("a", 10), ("b", 20), ("z", 40)] {
        let (handle, order) = (handle.clone(), order.clone());
        let sleep = handle.sleep(wait * MS);
        handle.spawn(async move {
            sleep.await;
            order.borrow_mut().push(name);
        });
    }
    let began = Instant::now();
    reactor.block_on(handle.sleep(60 * MS));
    assert!(began.elapsed() >= 60 * MS);
    assert_eq!(*order.borrow(), ["a", "b", "c", "z"]);
    Ok(())
}

#[test]
fn a_waiting_reactor_uses_no_processor() -> Outcome {
    let reactor = Reactor::new(small())?;
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = used();
    reactor.block_on(reactor.handle().sleep(300 * MS));
    assert!(used() - before < 5 * MS, "{:?} of processor time for sleeping", used() - before);
    Ok(())
}

#[test]
fn a_task_that_yields_lets_others_and_the_kernel_have_a_turn() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let done = Rc::new(Cell::new(false));
    let (spinner, seen) = (handle.clone(), done.clone());
    handle.spawn(async move {
        while !seen.get() {
            spinner.yield_now().await;
        }
    });
    reactor.block_on(handle.sleep(5 * MS));
    done.set(true);
    Ok(())
}

#[test]
fn messages_from_many_threads_arrive_in_each_ones_order_until_the_last_sender_is_gone() -> Outcome {
    let reactor = Reactor::new(small())?;
    let (sender, mut mailbox) = mailbox::<(u32, u32)>(&reactor.handle());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || (0..10_000).try_for_each(|number| sender.send((thread, number))))
        })
        .collect();
    drop(sender);
    reactor.block_on(async {
        let mut next = [0; 4];
        while let Some((thread, number)) = mailbox.recv().await {
            assert_eq!(next[thread as usize], number);
            next[thread as usize] += 1;
        }
        assert_eq!(next, [10_000; 4]);
    });
    for thread in threads {
        assert_eq!(thread.join().map_err(|_| "a sender panicked")?, Ok(()));
    }
    Ok(())
}

#[test]
fn a_closed_mailbox_gives_the_message_back() -> Outcome {
    let reactor = Reactor::new(small())?;
    let (sender, mailbox) = mailbox(&reactor.handle());
    drop(mailbox);
    assert_eq!((sender.send(7), sender.is_closed()), (Err(7), true));
    Ok(())
}

#[test]
fn blocking_work_runs_elsewhere_and_a_panic_in_it_is_an_error() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let here = std::thread::current().id();
    reactor.block_on(async {
        let there = handle.blocking(|| std::thread::current().id()).await?;
        assert_ne!(here, there);
        let lost = handle.blocking(|| panic!("planted")).await;
        assert!(lost.is_err());
        Ok(())
    })
}

async fn echo(listener: Listener, handle: Handle) {
    while let Ok(stream) = listener.accept().await {
        let task = handle.clone();
        handle.spawn(async move {
            loop {
                let buffer = task.buffers().alloc(16 << 10).await;
                let Ok((mut buffer, received)) = stream.recv(buffer).await else { return };
                if received == 0 {
                    return;
                }
                buffer.truncate(received);
                if stream.send(buffer.freeze()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A megabyte in vectored pieces there and back, written by one task and read by another.
async fn exchange(handle: &Handle, stream: Stream) -> Outcome {
    let pattern: Vec<u8> = (0..64 << 10).map(|at| (at % 251) as u8).collect();
    let data = frozen(handle, &pattern)?;
    let writer = stream.clone();
    let wrote = Rc::new(Cell::new(false));
    let wrote_now = wrote.clone();
    handle.spawn(async move {
        for _ in 0..16 {
            let pieces = [data.slice(0..1), data.slice(1..1), data.slice(1..4000), data.slice(4000..data.len())];
            if writer.send_vectored(pieces).await.is_err() {
                return;
            }
        }
        wrote_now.set(true);
    });
    for _ in 0..16 {
        let buffer = handle.buffers().alloc(pattern.len()).await;
        let buffer = stream.recv_exact(buffer).await?;
        assert!(*buffer == *pattern, "the echo differs");
    }
    assert!(wrote.get());
    stream.shutdown()?;
    Ok(())
}

#[test]
fn an_echo_over_tcp_returns_every_byte() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let listener = Listener::bind_tcp(&handle, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    handle.spawn(echo(listener, handle.clone()));
    reactor.block_on(async {
        let stream = Stream::connect_tcp(&handle, address).await?;
        assert_eq!(stream.peer(), Peer::Tcp(address));
        exchange(&handle, stream).await
    })
}

#[test]
fn an_echo_over_a_unix_socket_returns_every_byte_and_the_socket_is_private() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    let listener = Listener::bind_unix(&handle, &path)?;
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    handle.spawn(echo(listener, handle.clone()));
    reactor.block_on(async {
        let stream = Stream::connect_unix(&handle, &path)?;
        assert!(matches!(stream.peer(), Peer::Unix { pid, .. } if pid == std::process::id() as i32));
        exchange(&handle, stream).await
    })
}

#[test]
fn a_stale_socket_is_replaced_and_anything_else_is_refused() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    let listener = Listener::bind_unix(&handle, &path)?;
    let refused = Listener::bind_unix(&handle, &path).err().ok_or("two listeners")?;
    assert!(refused.to_string().contains("another process listens here"), "{refused}");
    drop(listener);
    assert!(!path.exists(), "the socket stayed behind");
    std::fs::write(&path, "precious")?;
    let refused = Listener::bind_unix(&handle, &path).err().ok_or("a file was replaced")?;
    assert!(refused.to_string().contains("is not a socket"), "{refused}");
    Ok(())
}

fn pair(handle: &Handle) -> Result<(Stream, std::os::unix::net::UnixStream), std::io::Error> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    Ok((Stream::from_fd(handle, ours.into())?, theirs))
}

#[test]
fn a_receive_that_is_dropped_is_cancelled_and_its_memory_comes_back() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let (stream, mut theirs) = pair(&handle)?;
    let free = handle.buffers().free_bytes();
    reactor.block_on(async {
        let buffer = handle.buffers().alloc(4096).await;
        let late = handle.timeout(20 * MS, stream.recv(buffer)).await;
        assert_eq!(late.err(), Some(Elapsed(20 * MS)));
        handle.sleep(5 * MS).await;
        assert_eq!(handle.buffers().free_bytes(), free, "the operation lingers");
        theirs.write_all(b"after")?;
        let (buffer, received) = stream.recv(handle.buffers().alloc(4096).await).await?;
        assert_eq!(&buffer[..received], b"after");
        Ok(())
    })
}

#[test]
fn an_accept_that_is_dropped_leaves_no_connection_open() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let listener = Listener::bind_tcp(&handle, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    reactor.block_on(async {
        let mut accept = Box::pin(listener.accept());
        assert!(handle.timeout(5 * MS, &mut accept).await.is_err());
        let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        // Lets the kernel finish the accept before it is dropped, but not the loop see it.
        std::thread::sleep(5 * MS);
        drop(accept);
        handle.sleep(5 * MS).await;
        drop(listener);
        handle.sleep(5 * MS).await;
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "somebody holds the connection");
        Ok(())
    })
}

#[test]
fn the_end_of_a_stream_is_told_apart_from_a_cut_message() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let (stream, mut theirs) = pair(&handle)?;
    theirs.write_all(b"abc")?;
    drop(theirs);
    reactor.block_on(async {
        let cut = stream.recv_exact(handle.buffers().alloc(8).await).await.err().ok_or("eight bytes of three")?;
        assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
        let (_, received) = stream.recv(handle.buffers().alloc(8).await).await?;
        assert_eq!(received, 0);
        let broken = stream.send(frozen(&handle, b"x")?).await.err().ok_or("nobody is there")?;
        assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
        Ok(())
    })
}

#[test]
fn a_reactor_that_is_dropped_ends_its_tasks_and_operations() -> Outcome {
    let reactor = Reactor::new(small())?;
    let handle = reactor.handle();
    let (stream, _theirs) = pair(&handle)?;
    let free = handle.buffers().free_bytes();
    let receiver = stream.clone();
    let buffer = handle.buffers().try_alloc(4096).ok_or("no memory")?;
    handle.spawn(async move {
        let _ = receiver.recv(buffer).await;
        unreachable!("nothing is ever sent");
    });
    reactor.block_on(handle.yield_now());
    let began = Instant::now();
    drop(reactor);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(handle.buffers().free_bytes(), free);
    Ok(())
}

#[test]
fn a_waker_may_outlive_its_task_and_its_reactor() -> Outcome {
    let reactor = Reactor::new(small())?;
    let kept = Rc::new(RefCell::new(None));
    let keep = kept.clone();
    reactor.handle().spawn(async move {
        std::future::poll_fn(|context| Poll::Ready(keep.replace(Some(context.waker().clone())))).await;
    });
    reactor.block_on(reactor.handle().sleep(MS));
    let waker = kept.take().ok_or("the task did not run")?;
    std::thread::spawn({
        let waker = waker.clone();
        move || waker.wake()
    })
    .join()
    .map_err(|_| "the waker panicked")?;
    reactor.block_on(reactor.handle().sleep(MS));
    drop(reactor);
    waker.wake();
    Ok(())
}
