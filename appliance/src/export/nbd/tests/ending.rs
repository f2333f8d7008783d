//! How connections and the server end.

use std::io::Read;
use std::time::Duration;

use super::client::*;
use super::rig::*;

#[test]
fn a_disconnect_is_not_answered_and_what_came_before_it_is() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    let cookie = client.send(0, WRITE, 0, 512, &[5; 512]);
    client.send(0, DISC, 0, 0, &[]);
    assert!(matches!(client.message(), Message::Chunk { cookie: answered, .. } if answered == cookie));
    assert!(client.is_closed());
    rig.until("nobody is connected", |connections| connections.is_empty());
    assert_eq!(rig.structured(SMALL_SECTORS).read(0, 512), vec![5; 512]);
}

#[test]
fn closing_an_export_ends_its_connections_and_no_others() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.structured(SMALL_SECTORS), rig.simple(SMALL_SECTORS));
    let mut other = rig.structured(LARGE_SECTORS);
    a.write(0, &[1; 512]);
    assert_eq!(rig.order(|done| Order::CloseExport(SMALL_SECTORS, done)), 2);
    assert!(a.is_closed() && b.is_closed());
    other.write(0, &[1; 4096]);
    assert_eq!(rig.connections().len(), 1);
}

/// Who was in the middle of a handshake when the export was closed may find the vdisk gone.
#[test]
fn whatever_is_asked_of_a_vdisk_that_was_deleted_is_answered_with_eshutdown() {
    let rig = Rig::new();
    let (mut client, mut other) = (rig.structured(SMALL_SECTORS), rig.structured(LARGE_SECTORS));
    client.write(0, &[1; 512]);
    rig.order(|done| Order::Delete("small", done));
    let cases: [(u16, &[u8]); 6] =
        [(READ, &[]), (WRITE, &[1; 512]), (FLUSH, &[]), (TRIM, &[]), (WRITE_ZEROES, &[]), (BLOCK_STATUS, &[])];
    for (kind, payload) in cases {
        let length = if kind == FLUSH { 0 } else { 512 };
        let answer = client.call(0, kind, 0, length, payload);
        assert_eq!(answer.err(), Some(108), "command {kind}");
    }
    other.write(0, &[1; 4096]);
}

#[test]
fn a_stopped_server_lets_idle_clients_go_at_once_and_accepts_nobody() {
    let rig = Rig::new();
    let mut established = rig.structured(SMALL_SECTORS);
    established.write(0, &[1; 512]);
    let mut greeted = rig.client();
    assert!(rig.order(|done| Order::Stop(Duration::from_secs(10), done)));
    assert!(established.is_closed() && greeted.is_closed());
    assert!(std::os::unix::net::UnixStream::connect(&rig.path).is_err(), "the socket is gone");
    assert!(rig.connections().is_empty());
}

#[test]
fn a_server_stops_within_its_grace_although_a_client_takes_no_answers() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    client.write(0, &pattern(1, 4 << 20));
    for _ in 0..8 {
        client.send(4, READ, 0, 1 << 20, &[]);
    }
    rig.until("answers wait", |connections| connections[0].unanswered > 0 && connections[0].requests == 9);
    assert!(rig.order(|done| Order::Stop(Duration::from_millis(300), done)));
    assert!(client.is_closed());
}

#[test]
fn a_draining_server_takes_no_new_requests() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    client.write(0, &pattern(1, 1 << 20));
    // An answer that is not taken keeps the connection draining.
    let reads: Vec<u64> = (0..4).map(|_| client.send(4, READ, 0, 1 << 20, &[])).collect();
    rig.until("answers wait", |connections| connections[0].requests == 5 && connections[0].unanswered > 0);
    let stopped = rig.start(|done| Order::Stop(Duration::from_secs(10), done));
    std::thread::sleep(Duration::from_millis(100));
    client.send(0, WRITE, 0, 512, &[9; 512]);
    for _ in 0..4 {
        let Message::Chunk { kind: 1, cookie, .. } = client.message() else { panic!("not an answer to a READ") };
        assert!(reads.contains(&cookie), "{cookie} was answered");
    }
    // Whoever sent it sends it again to the next server.
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{} bytes were sent", rest.len());
    assert_eq!(stopped.recv_timeout(Duration::from_secs(5)), Ok(true));
    assert_eq!(rig.again().structured(SMALL_SECTORS).read(0, 512), pattern(1, 512));
}
