//! What may be asked before an export is chosen.

use super::client::*;
use super::rig::*;

#[test]
fn exports_are_listed_and_described_and_then_used() {
    let rig = Rig::new();
    let mut client = rig.client();
    let names: Vec<_> = [SMALL_SECTORS, LARGE_SECTORS, READ_ONLY].map(|name| (2, named(name))).to_vec();
    let mut replies = client.option(3, &[]);
    assert_eq!(replies.pop(), Some((ACK, vec![])));
    assert_eq!(replies, names);

    let replies = client.option(6, &[named(LARGE_SECTORS), vec![0, 3, 0, 1, 0, 2, 0, 3]].concat());
    let export = [&[0, 0], &SIZE.to_be_bytes()[..], &0b1101_0110_1101u16.to_be_bytes()].concat();
    let block_sizes =
        [&[0, 3], &4096u32.to_be_bytes()[..], &4096u32.to_be_bytes(), &(32u32 << 20).to_be_bytes()].concat();
    assert_eq!(
        replies,
        [
            (3, export),
            (3, [&[0, 1], LARGE_SECTORS.as_bytes()].concat()),
            (3, [&[0, 2], &b"for tests"[..]].concat()),
            (3, block_sizes),
            (ACK, vec![])
        ]
    );
    client.go(LARGE_SECTORS);
    client.write(4096, &[7; 4096]);
    assert_same(&client.read(4096, 4096), &[7; 4096]);
    let connections = rig.connections();
    assert_eq!((connections.len(), connections[0].export.as_deref()), (1, Some(LARGE_SECTORS)));
    assert_eq!((connections[0].requests, connections[0].read_bytes, connections[0].written_bytes), (2, 4096, 4096));
}

#[test]
fn a_client_of_the_old_way_is_served() {
    let rig = Rig::new();
    for (flags, zeroes) in [(3u32, 0), (1, 124), (0, 124)] {
        let mut client = rig.client();
        // Greets once more by hand, to choose the flags.
        client.stream = rig.socket();
        client.take::<18>();
        client.put(&flags.to_be_bytes());
        client.put_option(1, SMALL_SECTORS.as_bytes());
        assert_eq!(u64::from_be_bytes(client.take()), SIZE);
        assert_eq!(u16::from_be_bytes(client.take()) & 1, 1);
        assert_eq!(client.take_vec(zeroes), vec![0; zeroes]);
        client.write(512, &[flags as u8 + 1; 512]);
        assert_same(&client.read(512, 512), &[flags as u8 + 1; 512]);
    }
    let mut client = rig.client();
    client.put_option(1, b"tank/none");
    assert!(client.is_closed());
}

#[test]
fn what_cannot_be_had_is_refused_by_its_reason_and_the_handshake_goes_on() {
    let rig = Rig::new();
    let mut client = rig.client();
    let kind = |replies: Vec<(u32, Vec<u8>)>| {
        let (kind, text) = replies.into_iter().next_back().expect("a reply");
        assert!(text.len() < 64, "the text of an error is fixed and short");
        kind & !ERROR
    };
    assert_eq!(kind(client.option(5, &[])), 2, "STARTTLS");
    assert_eq!(kind(client.option(11, &[])), 1, "extended headers");
    assert_eq!(kind(client.option(99, &[0; 5000])), 1, "an unknown option with data");
    assert_eq!(kind(client.option(6, &[named("tank/none"), vec![0, 0]].concat())), 6);
    assert_eq!(kind(client.option(6, &[named("tank/secret"), vec![0, 0]].concat())), 2);
    assert_eq!(kind(client.option(6, &[named(&"x".repeat(4096)), vec![0, 0]].concat())), 6, "the longest name");
    assert_eq!(kind(client.option(6, &[named(&"x".repeat(4097)), vec![0, 0]].concat())), 3, "a name too long");
    assert_eq!(kind(client.option(7, &[0, 0, 0, 9, b'x'])), 3, "a name longer than the option");
    assert_eq!(kind(client.option(8, &[1])), 3, "data where none belongs");
    let query = [named(SMALL_SECTORS), 1u32.to_be_bytes().to_vec(), named("base:allocation")].concat();
    assert_eq!(kind(client.option(10, &query)), 3, "contexts before structured replies");
    client.structured();
    let other = [named(SMALL_SECTORS), 1u32.to_be_bytes().to_vec(), named("qemu:dirty-bitmap:x")].concat();
    assert_eq!(client.option(10, &other), [(ACK, vec![])]);
    assert_eq!(client.option(9, &[named(SMALL_SECTORS), vec![0; 4]].concat())[0].0, 4);
    client.go(SMALL_SECTORS);
    assert_eq!(client.read(0, 512), vec![0; 512]);
}

#[test]
fn contexts_hold_only_for_the_export_they_were_asked_for() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.structured();
    let query = [named(LARGE_SECTORS), 1u32.to_be_bytes().to_vec(), named("base:allocation")].concat();
    assert_eq!(client.option(10, &query).len(), 2);
    client.option(7, &[named(SMALL_SECTORS), vec![0, 0]].concat());
    assert_eq!(client.call(0, BLOCK_STATUS, 0, 4096, &[]), Err(22));
}

#[test]
fn a_client_that_says_goodbye_is_answered_and_let_go() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.option(2, &[]), [(ACK, vec![])]);
    assert!(client.is_closed());
    rig.until("nobody is connected", |connections| connections.is_empty());
}
