//! Requests and their answers, as honest clients see them.

use super::super::NbdLimits;
use super::client::*;
use super::rig::*;

#[test]
fn everything_written_is_read_back_at_every_length_and_place() {
    let rig = Rig::new();
    for export in [SMALL_SECTORS, LARGE_SECTORS] {
        for structured in [true, false] {
            let mut client = if structured { rig.structured(export) } else { rig.simple(export) };
            let mut model = client.read(0, 6 << 20);
            let places = [
                (0, 4096),
                (8192, 65_536),
                (1, 1),
                (511, 2),
                (4095, 8194),
                (100_000, 33),
                (1 << 20, 1 << 20),
                ((1 << 20) - 512, (1 << 20) + 1024),
                ((1 << 20) + 77, 1 << 20),
                (123_457, (4 << 20) + 4321),
            ];
            for (round, (offset, length)) in places.into_iter().enumerate() {
                let data = pattern(round as u8 + 16 * structured as u8, length);
                client.write(offset, &data);
                model[offset as usize..][..length].copy_from_slice(&data);
                assert_same(&client.read(offset, length as u32), &data);
            }
            assert_same(&client.read(0, 6 << 20), &model);
            assert_same(&client.read(4097, 3 << 20), &model[4097..][..3 << 20]);
        }
    }
}

#[test]
fn the_longest_request_is_served_and_a_longer_read_is_refused() {
    let rig = Rig::new();
    let data = pattern(3, 32 << 20);
    for structured in [true, false] {
        let mut client = if structured { rig.structured(SMALL_SECTORS) } else { rig.simple(SMALL_SECTORS) };
        client.write(512, &data);
        assert_same(&client.read(512, 32 << 20), &data);
        assert_eq!(client.call(0, READ, 0, (32 << 20) + 1, &[]), Err(22));
        assert_eq!(client.read(0, 512), vec![0; 512]);
    }
}

#[test]
fn holes_are_shown_and_sent_as_holes() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    client.write(65_536, &[1; 65_536]);
    assert_eq!(client.ranges(0, 0, 1 << 20), [(65_536, 3), (65_536, 0), (917_504, 3)]);
    assert_eq!(client.ranges(8, 0, 1 << 20), [(65_536, 3)], "REQ_ONE");
    assert_eq!(client.ranges(0, 65_000, 1000), [(536, 3), (464, 0)], "in the middle of sectors");
    let sent = client.send(0, READ, 0, 196_608, &[]);
    let mut kinds = Vec::new();
    while let Message::Chunk { flags, kind, cookie, data } = client.message() {
        assert_eq!(cookie, sent);
        kinds.push((kind, data.len()));
        if flags & 1 != 0 {
            break;
        }
    }
    assert_eq!(kinds, [(2, 12), (1, 65_544), (2, 12)]);
    client.send(4, READ, 0, 196_608, &[]);
    let Message::Chunk { flags: 1, kind: 1, data, .. } = client.message() else { panic!("DF is one chunk") };
    assert_eq!(data.len(), 196_616);
    assert_eq!(client.call(4, READ, 0, 2 << 20, &[]), Err(75), "DF on more than a buffer");
}

#[test]
fn trim_and_write_zeroes_give_space_back_and_leave_zeros() {
    let rig = Rig::new();
    let mut client = rig.structured(LARGE_SECTORS);
    let data = pattern(9, 262_144);
    client.write(0, &data);
    assert_eq!(client.call(0, TRIM, 0, 65_536, &[]), Ok(vec![]));
    assert_eq!(client.call(1, WRITE_ZEROES, 65_536, 65_536, &[]), Ok(vec![]));
    assert_eq!(client.call(2, WRITE_ZEROES, 131_072, 65_536, &[]), Ok(vec![]), "NO_HOLE");
    assert_eq!(client.ranges(0, 0, 262_144), [(131_072, 3), (131_072, 0)]);
    assert_eq!(client.read(0, 196_608), vec![0; 196_608]);
    assert_eq!(client.call(16, WRITE_ZEROES, 0, 65_536, &[]), Ok(vec![]), "FAST_ZERO");
    assert_eq!(client.call(18, WRITE_ZEROES, 0, 65_536, &[]), Err(95), "FAST_ZERO with NO_HOLE");

    // Finer than a sector: a trim leaves the ends, zeros are exact.
    assert_eq!(client.call(0, TRIM, 200_000, 100, &[]), Ok(vec![]));
    assert_same(&client.read(196_608, 65_536), &data[196_608..]);
    assert_eq!(client.call(0, WRITE_ZEROES, 200_001, 20_000, &[]), Ok(vec![]));
    let mut expected = data[196_608..].to_vec();
    expected[200_001 - 196_608..][..20_000].fill(0);
    assert_same(&client.read(196_608, 65_536), &expected);
}

/// The protocol leaves open what a length of zero does, but wants that the connection goes on. Here it is refused.
#[test]
fn a_length_of_zero_is_refused_and_the_connection_goes_on() {
    let rig = Rig::new();
    for structured in [true, false] {
        let mut client = if structured { rig.structured(SMALL_SECTORS) } else { rig.simple(SMALL_SECTORS) };
        let data = pattern(1, 65_536);
        client.write(0, &data);
        for kind in [READ, WRITE, TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS] {
            // FUA or not, at the start, inside, and where nothing else would be refused: at the end.
            for (flags, offset) in [(0, 0), (1, 0), (0, 1), (1, 4096), (0, SIZE)] {
                assert_eq!(client.call(flags, kind, offset, 0, &[]), Err(22), "command {kind} at {offset}, {flags}");
            }
            assert_same(&client.read(0, 65_536), &data);
        }
        for (flags, kind) in [(2, WRITE_ZEROES), (16, WRITE_ZEROES), (8, BLOCK_STATUS)] {
            assert_eq!(client.call(flags, kind, 0, 0, &[]), Err(22), "command {kind} with flags {flags}");
        }
        assert_same(&client.read(0, 65_536), &data);
        if structured {
            assert_eq!(client.ranges(0, 0, 65_536), [(65_536, 0)]);
        }
    }
}

#[test]
fn each_kind_of_refusal_has_its_number_and_the_connection_lives_on() {
    let rig = Rig::new();
    for structured in [true, false] {
        let mut client = if structured { rig.structured(SMALL_SECTORS) } else { rig.simple(SMALL_SECTORS) };
        assert_eq!(client.call(0, READ, SIZE - 512, 1024, &[]), Err(22));
        assert_eq!(client.call(0, WRITE, SIZE - 512, 1024, &[1; 1024]), Err(28));
        assert_eq!(client.call(0, WRITE, u64::MAX - 5, 1 << 20, &vec![1; 1 << 20]), Err(28));
        assert_eq!(client.call(0, WRITE_ZEROES, SIZE, 512, &[]), Err(28));
        assert_eq!(client.call(0, TRIM, SIZE, 512, &[]), Err(22));
        assert_eq!(client.call(0x8000, READ, 0, 512, &[]), Err(22));
        assert_eq!(client.call(0, 77, 0, 512, &[]), Err(22));
        assert_eq!(client.call(0, FLUSH, 0, 0, &[]), Ok(vec![]));
        assert_eq!(client.call(0, CACHE, 0, 1 << 20, &[]), Ok(vec![]));
        assert_eq!(client.read(0, 512), vec![0; 512]);
    }
    let mut client = rig.structured(READ_ONLY);
    for (kind, payload) in [(WRITE, &[1u8; 70_000][..]), (TRIM, &[]), (WRITE_ZEROES, &[])] {
        assert_eq!(client.call(0, kind, 0, 70_000, payload), Err(1));
    }
    assert_eq!(client.read(0, 512), vec![0; 512]);
}

#[test]
fn a_full_pool_answers_no_space_by_its_number_and_goes_on_serving_what_is_there() {
    let rig = Rig::on(48 << 20, NbdLimits::default(), 64 << 20);
    for structured in [true, false] {
        let mut client = if structured { rig.structured(SMALL_SECTORS) } else { rig.simple(SMALL_SECTORS) };
        let data = pattern(7, 1 << 20);
        let write = |client: &mut Client, place: u64| client.call(0, WRITE, place << 20, 1 << 20, &data);
        let mut written = 0;
        let refused = loop {
            match write(&mut client, written) {
                Ok(_) => written += 1,
                Err(errno) => break errno,
            }
            assert!(written < 48, "48 MiB hold more than themselves");
        };
        assert_eq!(refused, 28, "after {written} MiB");
        assert!(written > 8, "{written} MiB of 48 could be written");
        assert_eq!(client.call(0, WRITE_ZEROES, 63 << 20, 1 << 20, &[]), Ok(vec![]), "zeros take no space");
        // What has space behind it is written and read as before, and what was refused is not there.
        assert_eq!(write(&mut client, 0), Ok(vec![]));
        assert_same(&client.read((written - 1) << 20, 1 << 20), &data);
        assert_eq!(rig.simple(LARGE_SECTORS).call(0, WRITE, 0, 1 << 20, &data), Err(28), "nor for the others");
        assert_eq!(client.call(0, TRIM, 0, written as u32 * (1 << 20), &[]), Ok(vec![]));
        assert_eq!(client.call(0, FLUSH, 0, 0, &[]), Ok(vec![]));
        assert_eq!(write(&mut client, 0), Ok(vec![]), "space that came back is used");
        assert_eq!(client.call(0, TRIM, 0, 64 << 20, &[]), Ok(vec![]));
        assert_eq!(client.call(0, FLUSH, 0, 0, &[]), Ok(vec![]));
    }
}

#[test]
fn what_is_asked_for_with_fua_is_durable_when_it_is_answered() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    let commits = || rig.order(Order::JournalCommits);
    let data = pattern(5, 65_536);
    for (round, (kind, payload)) in [(WRITE, &data[..]), (TRIM, &[]), (WRITE_ZEROES, &[])].into_iter().enumerate() {
        let offset = (round as u64 + 1) << 20;
        client.write(offset, &data);
        client.write(offset + 65_536, &data);
        assert_eq!(client.call(0, FLUSH, 0, 0, &[]), Ok(vec![]));
        // First writes and freed extents are in the journal only, so that a commit is what makes them durable.
        let place = if kind == WRITE { offset + 131_072 } else { offset };
        let before = commits();
        assert_eq!(client.call(1, kind, place, 65_536, payload), Ok(vec![]));
        assert!(commits() > before, "kind {kind} with FUA");
    }
    assert_same(&client.read((1 << 20) + 131_072, 65_536), &data);
}

#[test]
fn many_requests_at_once_are_all_answered_once() {
    let rig = Rig::new();
    let mut client = rig.structured(SMALL_SECTORS);
    let mut bytes = Vec::new();
    for cookie in 0..1000u64 {
        bytes.extend(request(0, WRITE, cookie, cookie * 4096, 4096));
        bytes.extend(pattern(cookie as u8, 4096));
    }
    let mut writer = client.stream.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    let mut answered = vec![false; 1000];
    for _ in 0..1000 {
        let Message::Chunk { flags: 1, kind: 0, cookie, .. } = client.message() else { panic!("a WRITE failed") };
        assert!(!std::mem::replace(&mut answered[cookie as usize], true), "{cookie} was answered twice");
    }
    sending.join().expect("it ran").expect("it sent");
    for cookie in 0..1000u64 {
        assert_same(&client.read(cookie * 4096, 4096), &pattern(cookie as u8, 4096));
    }
}

#[test]
fn writes_finer_than_a_sector_from_several_connections_lose_nothing() {
    let rig = Rig::new();
    let writers: Vec<_> = (0..4u8)
        .map(|writer| {
            let mut client = rig.structured(LARGE_SECTORS);
            std::thread::spawn(move || {
                for round in 0..200u64 {
                    // All in the same few sectors, each writer at its own byte of every four.
                    client.write(round * 16 + u64::from(writer), &[writer + 1]);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("it wrote"));
    let found = rig.structured(LARGE_SECTORS).read(0, 3200);
    for (at, byte) in found.into_iter().enumerate() {
        let expected = if at % 16 < 4 { at as u8 % 16 + 1 } else { 0 };
        assert_eq!(byte, expected, "byte {at}");
    }
}
