//! Writes that wait for space when their server goes: they are not answered, and whoever sends them again to the next one loses nothing.

use std::io::Read;
use std::time::Duration;

use super::client::*;
use super::rig::*;

const EXTENT: u64 = 64 << 10;

/// Fails when the server says anything more before it closes the connection.
fn assert_no_more(client: &mut Client) {
    let mut rest = Vec::new();
    let end = client.stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{} bytes were sent, {end:?}", rest.len());
}

#[test]
fn a_server_that_stops_does_not_answer_held_writes_and_the_next_one_takes_them() {
    let rig = Rig::new();
    let mut clients: Vec<_> = (0..4).map(|_| rig.structured(SMALL_SECTORS)).collect();
    // Acknowledged, and all that there may be.
    let known = pattern(1, 4 << 20);
    clients[0].write(0, &known);
    rig.order(|done| Order::Quota(4 << 20, done));
    let (small, large) = (pattern(2, 4096), pattern(3, 3 << 20));
    let (narrow, nothing) = ([4; 100], vec![0; 2 * EXTENT as usize]);
    let zeros_kept = 2; // NO_HOLE
    let requests: [(u16, u16, u64, &[u8]); 4] = [
        (0, WRITE, 8 << 20, &large),
        (0, WRITE, 16 << 20, &small),
        (0, WRITE, (24 << 20) + 10, &narrow),
        (zeros_kept, WRITE_ZEROES, 32 << 20, &nothing),
    ];
    let send = |client: &mut Client, (flags, kind, offset, data): (u16, u16, u64, &[u8])| {
        let payload = if kind == WRITE { data } else { &[] };
        client.send(flags, kind, offset, data.len() as u32, payload)
    };
    for (client, request) in clients.iter_mut().zip(requests) {
        send(client, request);
    }
    // Of the large one, each of its pieces.
    rig.until_held(6);
    clients[1].write(4096, &small);
    // What does not wait for space is answered, though nobody takes the answer yet.
    let reads: Vec<u64> = (0..4).map(|part| clients[0].send(4, READ, part << 20, 1 << 20, &[])).collect();
    rig.until("the reads were read", |connections| connections.iter().any(|of| of.requests == 6));
    let stopped = rig.start(|done| Order::Stop(Duration::from_secs(10), done));
    for _ in &reads {
        let Message::Chunk { kind: 1, cookie, .. } = clients[0].message() else { panic!("not an answer to a READ") };
        assert!(reads.contains(&cookie), "{cookie} was answered");
    }
    clients.iter_mut().for_each(assert_no_more);
    assert_eq!(stopped.recv_timeout(Duration::from_secs(20)), Ok(true));
    drop(clients);

    let rig = rig.again();
    rig.order(|done| Order::Quota(32 << 20, done));
    let mut client = rig.structured(SMALL_SECTORS);
    assert_same(&client.read(0, 4096), &known[..4096]);
    assert_same(&client.read(4096, 4096), &small);
    assert_same(&client.read(8192, (4 << 20) - 8192), &known[8192..]);
    for (_, _, offset, data) in &requests[1..] {
        assert_same(&client.read(*offset, data.len() as u32), &vec![0; data.len()]);
    }
    for request in requests {
        send(&mut client, request);
        assert!(matches!(client.message(), Message::Chunk { kind: 0, .. }), "it is done");
        assert_same(&client.read(request.2, request.3.len() as u32), request.3);
    }
}

#[test]
fn a_pool_that_is_closed_leaves_held_writes_unanswered() {
    let rig = Rig::new();
    rig.order(|done| Order::Quota(EXTENT, done));
    let mut client = rig.structured(SMALL_SECTORS);
    client.write(0, &[1; 512]);
    client.send(0, WRITE, EXTENT, 512, &[2; 512]);
    rig.until_held(1);
    rig.order(Order::ClosePool);
    assert_no_more(&mut client);
    rig.until("nobody is connected", |connections| connections.is_empty());
}
