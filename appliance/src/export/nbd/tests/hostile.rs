//! Clients that lie, stop half-way, flood, or do not read. Whoever behaves is served all the while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::NbdLimits;
use super::client::*;
use super::rig::*;

/// Somebody honest is served, and soon.
fn assert_served(rig: &Rig) {
    let start = Instant::now();
    let mut client = rig.structured(SMALL_SECTORS);
    let data = pattern(start.elapsed().subsec_nanos() as u8, 8192);
    client.write(1 << 20, &data);
    assert_same(&client.read(1 << 20, 8192), &data);
    assert!(start.elapsed() < Duration::from_secs(5), "served after {:?}", start.elapsed());
}

/// Whether the server closes a connection before it says anything.
fn is_refused(mut stream: impl Read) -> bool {
    match stream.read(&mut [0; 18]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn bytes_that_are_no_protocol_end_the_connection() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.put(b"GET / HTTP/1.1\r\n\r\n");
    assert!(client.is_closed());
    let mut client = rig.structured(SMALL_SECTORS);
    client.put(&[0x55; 28]);
    assert!(client.is_closed());
    let mut client = rig.client();
    client.stream = rig.socket();
    client.take::<18>();
    client.put(&0x8000_0003u32.to_be_bytes());
    assert!(client.is_closed(), "unknown client flags");
    assert_served(&rig);
}

#[test]
fn an_option_that_claims_too_much_ends_the_connection_before_its_data() {
    let rig = Rig::new();
    for length in [(64 << 10) + 1, u32::MAX] {
        let mut client = rig.client();
        client.put(&[&b"IHAVEOPT"[..], &7u32.to_be_bytes(), &length.to_be_bytes()].concat());
        assert!(client.is_closed());
    }
    assert_served(&rig);
}

#[test]
fn endless_options_end_and_a_list_earns_questions_about_its_names() {
    let rig = Rig::with(NbdLimits { options: 5, ..Default::default() }, 64 << 20);
    let mut client = rig.client();
    for _ in 0..5 {
        client.put_option(99, &[]);
    }
    client.put_option(99, &[]);
    assert!(client.is_closed());
    let mut client = rig.client();
    client.option(3, &[]);
    for _ in 0..12 {
        client.option(6, &[named(SMALL_SECTORS), vec![0, 0]].concat());
    }
    let start = Instant::now();
    for _ in 0..5 {
        client.put_option(3, &[]);
    }
    assert!(client.is_closed() && start.elapsed() < Duration::from_secs(5), "listing again and again earns nothing");
    assert_served(&rig);
}

#[test]
fn a_payload_that_breaks_off_writes_nothing_and_frees_everything() {
    let rig = Rig::new();
    let before = rig.order(Order::FreeBytes);
    let cases: [(u32, usize); 4] = [(4096, 100), (65_536, 65_535), (1 << 20, 700_000), (8 << 20, 3_500_000)];
    let offset = |case: usize| (case as u64) << 24;
    for (case, (length, sent)) in cases.into_iter().enumerate() {
        let mut client = rig.structured(LARGE_SECTORS);
        client.put(&request(0, WRITE, 1, offset(case), length));
        client.put(&vec![0xdd; sent]);
        drop(client);
    }
    rig.until("nobody is connected", |connections| connections.is_empty());
    assert_eq!(rig.order(Order::FreeBytes), before, "memory was leaked");
    let mut client = rig.structured(LARGE_SECTORS);
    for (case, (length, sent)) in cases.into_iter().enumerate() {
        let found = client.read(offset(case), length);
        for (number, piece) in found.chunks(1 << 20).enumerate() {
            // Of a write in several pieces those that came whole may be there; of all others nothing.
            let is_whole = (number + 1) << 20 <= sent && piece[0] == 0xdd;
            assert_same(piece, &vec![if is_whole { 0xdd } else { 0 }; piece.len()]);
        }
    }
}

#[test]
fn a_payload_beyond_the_bound_ends_the_connection() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    client.put(&request(0, WRITE, 1, 0, (32 << 20) + 1));
    assert!(client.is_closed());
    assert_served(&rig);
}

#[test]
fn ten_thousand_silent_connections_lock_nobody_out() {
    let rig = Rig::with(NbdLimits { negotiating: 32, ..Default::default() }, 64 << 20);
    let mut silent = std::collections::VecDeque::new();
    for round in 0..10_000 {
        silent.push_back(rig.socket());
        // The system lets one process have so many files.
        if silent.len() > 300 {
            silent.pop_front();
        }
        if round % 1000 == 999 {
            assert_served(&rig);
        }
    }
    assert!(rig.connections().len() <= 33);
}

#[test]
fn whoever_chooses_no_export_in_time_is_dropped_and_whoever_has_one_may_be_silent() {
    let limits = NbdLimits { negotiation_time: Duration::from_millis(300), ..Default::default() };
    let rig = Rig::with(limits, 64 << 20);
    let mut established = rig.structured(SMALL_SECTORS);
    let mut silent = Client::greet(rig.socket());
    let mut slow = rig.client();
    let start = Instant::now();
    // A byte of an option's head now and then is no progress.
    while slow.stream.write_all(b"I").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "who sends a byte now and then is kept");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() > Duration::from_millis(200), "it was given no time");
    assert!(silent.is_closed());
    established.write(0, &[1; 512]);
}

#[test]
fn connections_are_bounded_and_the_bound_spares_the_established() {
    let rig = Rig::with(NbdLimits { connections: 4, ..Default::default() }, 64 << 20);
    let mut established: Vec<_> = (0..3).map(|_| rig.structured(SMALL_SECTORS)).collect();
    let mut silent = rig.client();
    established.push(rig.structured(SMALL_SECTORS));
    assert!(silent.is_closed(), "it makes room");
    assert!(is_refused(rig.socket()), "there is no room");
    established.iter_mut().for_each(|client| client.write(0, &[1; 512]));
}

#[test]
fn one_address_cannot_take_all_connections() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let rig = Rig::with(NbdLimits { connections_of_peer: 3, ..Default::default() }, 64 << 20);
    let connect_from = |host: u8| {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&socket, &SocketAddr::from(([127, 0, 0, host], 0))).expect("an address");
        connect(&socket, &rig.address).expect("the server listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    };
    let mut greeted = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from(1);
        stream.read_exact(&mut [0; 18]).expect("the server greets");
        greeted.push(stream);
    }
    assert!(is_refused(connect_from(1)), "one more of the same address");
    connect_from(2).read_exact(&mut [0; 18]).expect("another address is served");
    assert_served(&rig);
}

#[test]
fn one_process_cannot_take_all_connections() {
    let rig = Rig::with(NbdLimits { connections_of_peer: 3, ..Default::default() }, 64 << 20);
    let greeted = [rig.client(), rig.client(), rig.client()];
    assert!(is_refused(rig.socket()), "one more of the same process");
    TcpStream::connect(rig.address).expect("it listens").read_exact(&mut [0; 18]).expect("another way is served");
    drop(greeted);
}

#[test]
fn memory_that_is_held_here_and_there_keeps_no_request_waiting() {
    for nth in [2, 16] {
        let rig = Rig::with(NbdLimits::default(), 16 << 20);
        rig.order(|done| Order::Scatter(nth, done));
        let clients = [rig.structured(SMALL_SECTORS), rig.simple(SMALL_SECTORS), rig.simple(LARGE_SECTORS)];
        for (mut client, seed) in clients.into_iter().zip(1..) {
            // Longer than any run that is free, whole sectors or not, and longer than a buffer.
            for (offset, length) in
                [(0, 1 << 20), (1 << 20, 256 << 10), (4097, (1 << 20) + 3), (511, 3 << 20), (8 << 20, 65_536)]
            {
                let data = pattern(seed, length);
                client.write(offset, &data);
                assert_same(&client.read(offset, length as u32), &data);
            }
        }
        rig.order(|done| Order::Memory(false, done));
    }
}

#[test]
fn a_client_that_takes_no_answers_is_not_read_from_and_costs_the_others_nothing() {
    let limits = NbdLimits { bytes: 4 << 20, ..Default::default() };
    let rig = Rig::with(limits, 64 << 20);
    let mut deaf = rig.structured(SMALL_SECTORS);
    deaf.write(0, &pattern(1, 1 << 20));
    let requests: Vec<u8> = (0..100_000).flat_map(|cookie| request(4, READ, cookie, 0, 1 << 20)).collect();
    let mut socket = deaf.stream.try_clone().expect("a second handle");
    let flood = std::thread::spawn(move || {
        socket.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket.write_all(&requests).is_err()
    });
    assert!(flood.join().expect("it ran"), "100,000 requests were taken in");
    for _ in 0..10 {
        assert_served(&rig);
    }
    let connections = rig.connections();
    assert!(connections[0].unanswered <= 128, "{connections:?}");
    assert!(rig.order(Order::FreeBytes) > 56 << 20);
}

#[test]
fn when_memory_is_short_clients_that_stand_still_give_theirs_back() {
    let limits = NbdLimits { stall_time: Duration::from_millis(200), ..Default::default() };
    let rig = Rig::with(limits, 8 << 20);
    rig.structured(SMALL_SECTORS).write(0, &pattern(1, 1 << 20));
    let mut standing = Vec::new();
    for round in 0..12 {
        let mut client = rig.structured(SMALL_SECTORS);
        if round % 2 == 0 {
            client.put(&request(0, WRITE, 1, 0, 1 << 20));
            client.put(&[1; 1000]);
        } else {
            for _ in 0..8 {
                client.send(4, READ, 0, 1 << 20, &[]);
            }
        }
        standing.push(client);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_served(&rig);
    let mut large = rig.simple(SMALL_SECTORS);
    assert_eq!(large.read(0, 32 << 20).len(), 32 << 20);
}

#[test]
fn while_there_is_no_memory_sockets_are_not_read_and_then_all_goes_on() {
    const WRITES: u64 = 32;
    let rig = Rig::with(NbdLimits { stall_time: Duration::from_millis(100), ..Default::default() }, 8 << 20);
    let mut client = rig.structured(SMALL_SECTORS);
    rig.order(|done| Order::Memory(true, done));
    let payload = |part: u64| pattern(part as u8, 1 << 20);
    let bytes: Vec<u8> =
        (0..WRITES).flat_map(|part| [request(0, WRITE, part, part << 20, 1 << 20), payload(part)].concat()).collect();
    client.stream.set_nonblocking(true).expect("a mode");
    // As much as the socket takes by itself; longer than a client may stand still that does so of its own.
    let (mut sent, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(700) {
        match client.stream.write(&bytes[sent..]) {
            Ok(more) => (sent, since) = (sent + more, Instant::now()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!((1..512 << 10).contains(&sent), "{sent} of {} bytes were taken in without memory for them", bytes.len());
    assert!(rig.connections()[0].unanswered <= 1, "one is being received");
    rig.order(|done| Order::Memory(false, done));
    client.stream.set_nonblocking(false).expect("a mode");
    let mut socket = client.stream.try_clone().expect("a second handle");
    let rest = std::thread::spawn(move || socket.write_all(&bytes[sent..]));
    let mut answered: Vec<u64> = (0..WRITES)
        .map(|_| match client.message() {
            Message::Chunk { cookie, .. } => cookie,
            other => panic!("{other:?}"),
        })
        .collect();
    rest.join().expect("it ran").expect("the rest is taken");
    answered.sort_unstable();
    assert_eq!(answered, (0..WRITES).collect::<Vec<_>>());
    for part in 0..WRITES {
        assert_same(&client.read(part << 20, 1 << 20), &payload(part));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn no_bytes_at_all_bring_the_server_down(
        bytes in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..600), phase in 0..3u8,
    ) {
        thread_local!(static RIG: Rig = Rig::new());
        RIG.with(|rig| {
            let mut client = match phase {
                0 => rig.client(),
                1 => rig.structured(SMALL_SECTORS),
                _ => rig.simple(LARGE_SECTORS),
            };
            // Behind an honest beginning, so that more than the magic number is looked at.
            let begin = match phase {
                0 => b"IHAVEOPT\0\0\0".to_vec(),
                _ => request(0, WRITE, 1, 32 << 20, 20)[..6].to_vec(),
            };
            let _ = client.stream.write_all(&[begin, bytes].concat());
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            assert!(client.is_closed());
            assert_served(rig);
        });
    }
}
