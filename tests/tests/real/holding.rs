//! Writes that find no space, as clients of the real program meet them: held, in order, bounded, given up with their client,
//! resumed by whatever gives space; and what goes on meanwhile.
//! Checklist 0.05-0.07, 0.09, 0.21-0.24, 2.08, 2.51.

use std::fs::File;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::files::{file, text};
use crate::tank::{ENOSPC, EXTENT, LONG, MIB, PATIENCE, Tank, assert_holds, send, success};
use plimsoll_tests::nbd_client::{Kind, NbdClient, Reply};
use serde_json::Value;

#[test]
fn held_writes_stop_nothing_else_of_their_connection() {
    const HELD: u64 = 200;
    let tank = Tank::new();
    tank.vdisk("v", &["--on-full", LONG]);
    let mut client = tank.connect("v");
    client.write(0, &[1; MIB as usize], 0).expect("a first write");
    tank.fill();
    // More than a connection may have requests: those that wait do not count.
    for index in 0..HELD {
        send(&mut client, 16 * MIB + index * EXTENT, 4096, 2);
    }
    tank.held(HELD);
    for round in 3..10 {
        client.write(0, &[round; MIB as usize], 0).expect("an overwrite");
        assert_holds(&mut client, 0, MIB, round);
        assert_holds(&mut client, 16 * MIB, MIB, 0);
        client.flush().expect("a flush");
        client.trim(512 * MIB, MIB as u32).expect("a trim where there is nothing");
        client.write_zeroes(512 * MIB, MIB as u32, 0).expect("zeros where there is nothing");
        client.write(512 * MIB, &[0; MIB as usize], 0).expect("zeros as data need no space");
        assert_holds(&mut client, 512 * MIB, MIB, 0);
    }
    tank.held(HELD);
    assert_eq!(client.in_flight(), HELD as usize);
    // Its own trim lets as many go on as it gave space to, and in their order.
    let trim = client.submit(Kind::Trim, 0, 0, 4 * EXTENT as u32, &[]).expect("a trim is sent");
    let mut order: Vec<u64> = (0..5).map(|_| success(client.receive().expect("an answer"))).collect();
    order.retain(|cookie| *cookie != trim);
    assert!(order.len() == 4 && order.is_sorted(), "{order:?}");
    tank.held(HELD - 4);
    tank.grow(64);
    for _ in 4..HELD {
        success(client.receive().expect("an answer"));
    }
    for index in 0..HELD {
        assert_holds(&mut client, 16 * MIB + index * EXTENT, 4096, 2);
    }
    assert_eq!(tank.told("v", [1, 1, 0]), [1, 1, 0]);
    tank.daemon.assert_clean("tank");
}

#[test]
fn a_held_write_of_a_client_that_is_gone_is_never_applied() {
    let mut tank = Tank::new();
    tank.vdisk("v", &["--on-full", LONG]);
    // One extent of each write has contents, the next needs space.
    let mut client = tank.connect("v");
    for index in 0..4u64 {
        client.write(4 * index * EXTENT, &[1; EXTENT as usize], 0).expect("a first write");
    }
    client.flush().expect("a flush");
    tank.fill();
    let write = |client: &mut NbdClient, index: u64| send(client, 4 * index * EXTENT, 2 * EXTENT, 2);

    // It says goodbye; it vanishes; its process is killed; and one that stays.
    let mut goodbye = tank.connect("v");
    write(&mut goodbye, 0);
    let mut vanishes = tank.connect("v");
    write(&mut vanishes, 1);
    let mut process = Command::new("setpriv");
    process.args(["--pdeathsig", "KILL", "--", "qemu-io", "-f", "raw", "-c"]);
    process.arg(format!("write -P 2 {} {}", 8 * EXTENT, 2 * EXTENT)).arg(tank.daemon.nbd_uri("tank/v"));
    let mut process = process.stdout(Stdio::null()).spawn().expect("start qemu-io (qemu-utils)");
    write(&mut client, 3);
    tank.held(4);
    goodbye.submit(Kind::Disconnect, 0, 0, 0, &[]).expect("a goodbye");
    // What was not written is not answered.
    assert_eq!(goodbye.receive().map_err(|error| error.kind()), Err(ErrorKind::UnexpectedEof));
    tank.held(3);
    drop(vanishes);
    tank.held(2);
    process.kill().and_then(|()| process.wait()).expect("kill qemu-io");
    tank.held(1);

    tank.grow(64);
    success(client.receive().expect("an answer"));
    let check = |tank: &Tank| {
        let mut client = tank.connect("v");
        for index in 0..3 {
            assert_holds(&mut client, 4 * index * EXTENT, EXTENT, 1);
            assert_holds(&mut client, (4 * index + 1) * EXTENT, EXTENT, 0);
        }
        assert_holds(&mut client, 12 * EXTENT, 2 * EXTENT, 2);
    };
    check(&tank);
    tank.daemon.kill9();
    tank.daemon.restart();
    check(&tank);
    tank.daemon.assert_clean("tank");
}

#[test]
fn a_connection_on_which_many_writes_were_held_again_and_again_ends_with_its_client() {
    let tank = Tank::new();
    tank.vdisk("v", &["--on-full", LONG]);
    let mut client = tank.connect("v");
    let mut extent = 0;
    for round in 0..2 {
        tank.fill();
        let writes = 400;
        for _ in 0..writes {
            send(&mut client, extent * EXTENT, 4096, 5);
            extent += 1;
        }
        tank.held(writes);
        // What is read meanwhile is answered, however many wait.
        assert_holds(&mut tank.connect("v"), (extent + 1) * EXTENT, 4096, 0);
        tank.free(round * 500, 500);
        for _ in 0..writes {
            success(client.receive().expect("an answer"));
        }
    }
    drop(client);
    let began = Instant::now();
    while tank.daemon.json(&["status"])["clients"] != 0 {
        assert!(began.elapsed() < PATIENCE, "a connection never ends\n{}", tank.daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    tank.daemon.done(&["pool", "export", "tank", "--yes"]);
}

#[test]
fn a_write_that_waits_for_a_held_one_finer_than_a_sector_goes_with_its_client_too() {
    let tank = Tank::new();
    tank.vdisk("v", &["--on-full", LONG]);
    tank.connect("v").write(0, &[1; EXTENT as usize], 0).expect("a first write");
    tank.fill();
    // Finer than a sector, and held; behind it, in the same sectors, others.
    let (mut first, mut second, mut stays) = (tank.connect("v"), tank.connect("v"), tank.connect("v"));
    send(&mut first, EXTENT + 10, 20, 2);
    tank.held(1);
    send(&mut second, EXTENT, 512, 3);
    send(&mut second, EXTENT + 40, 20, 4);
    send(&mut stays, EXTENT + 100, 7, 5);
    // They wait at the gate before they could be held.
    std::thread::sleep(Duration::from_millis(200));
    tank.held(1);
    drop(second);
    // Its end is noticed within a second.
    std::thread::sleep(Duration::from_secs(3));
    drop(first);
    tank.held(1);
    tank.grow(64);
    success(stays.receive().expect("an answer"));
    let mut sector = [0u8; 512];
    sector[100..107].fill(5);
    let found = tank.connect("v").read(EXTENT, 512).expect("a read");
    assert_eq!(found, sector);
    tank.daemon.assert_clean("tank");
}

#[test]
fn at_its_bound_a_held_write_fails_as_no_space_and_the_next_is_held_again() {
    let tank = Tank::new();
    tank.vdisk("v", &["--on-full", "hold(2s)"]);
    let mut client = tank.connect("v");
    client.write(0, &[1; EXTENT as usize], 0).expect("a first write");
    tank.fill();
    for round in 1..=2 {
        let began = Instant::now();
        let sent: Vec<u64> = (0..4).map(|index| send(&mut client, index * 2 * EXTENT, 2 * EXTENT, 2)).collect();
        let replies: Vec<Reply> = sent.iter().map(|_| client.receive().expect("an answer")).collect();
        let waited = began.elapsed();
        assert!(replies.iter().all(|reply| reply.error == ENOSPC), "{replies:?}");
        assert!(waited >= Duration::from_secs(2) && waited < PATIENCE, "{waited:?}");
        println!("round {round}: four writes failed after {waited:?}");
        assert_holds(&mut client, 0, EXTENT, 1);
        assert_holds(&mut client, EXTENT, EXTENT, 0);
        tank.held(0);
        assert_eq!(tank.told("v", [1, 0, 1]), [1, 0, 1], "it is exhausted until it is resumed");
    }
    // The same is said by the command line: a policy may change while writes are held by the one before.
    tank.daemon.done(&["vdisk", "set", "tank/v", "--on-full", "fail"]);
    let began = Instant::now();
    let reply = client.call(Kind::Write, 0, 16 * EXTENT, EXTENT as u32, &[2; EXTENT as usize]).expect("an answer");
    assert_eq!(reply.error, ENOSPC);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    tank.free(0, 4);
    client.write(16 * EXTENT, &[2; EXTENT as usize], 0).expect("there is space");
    assert_eq!(tank.told("v", [1, 1, 1]), [1, 1, 1]);
    assert_eq!(tank.daemon.events("vdisk-resumed", "tank/v", 1)[0]["figures"]["expired_writes"], 8);
    tank.daemon.assert_clean("tank");
}

#[test]
fn a_daemon_that_ends_while_writes_are_held_loses_nothing_acknowledged_and_serves_again() {
    let mut tank = Tank::new();
    tank.vdisk("v", &["--on-full", LONG]);
    let mut acknowledged = Vec::new();
    for life in 0..6u64 {
        tank.fill();
        let mut client = tank.connect("v");
        let own = life * 64 * EXTENT;
        // What this life is acknowledged, in space that the hog gives back.
        tank.free(life * 32, 16);
        let byte = life as u8 + 1;
        for index in 0..8 {
            client.write(own + index * EXTENT, &[byte; EXTENT as usize], 0).expect("a write in the space given back");
            acknowledged.push((own + index * EXTENT, byte));
        }
        tank.fill();
        for index in 0..8 {
            send(&mut client, own + (16 + index) * EXTENT, EXTENT, 0xee);
        }
        tank.held(8);
        client.write(own, &[0x80 + byte; 4096], 0).expect("an overwrite");
        if life % 2 == 0 {
            tank.daemon.kill9();
        } else {
            assert!(tank.daemon.terminate().success(), "a graceful stop\n{}", tank.daemon.log());
        }
        // Held writes are not answered: who connects again sends them again.
        let end = client.receive().expect_err("a held write was answered");
        assert!(matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{end}");
        tank.daemon.restart();
        tank.held(0);
        let mut client = tank.connect("v");
        for &(offset, byte) in &acknowledged {
            assert_holds(&mut client, offset + 4096, EXTENT - 4096, byte);
            let first = if offset % (64 * EXTENT) == 0 { 0x80 + byte } else { byte };
            assert_holds(&mut client, offset, 4096, first);
        }
        assert_holds(&mut client, own + 16 * EXTENT, 8 * EXTENT, 0);
        tank.free(life * 32 + 16, 16);
        for index in 0..8 {
            let offset = own + (16 + index) * EXTENT;
            client.write(offset, &[0x40 + byte; EXTENT as usize], 0).expect("there is space for what is sent again");
            acknowledged.push((offset, 0x40 + byte));
        }
        tank.daemon.assert_clean("tank");
    }
    // A write after all these starts is held as the first was, and goes on.
    let mut client = tank.connect("v");
    tank.fill();
    send(&mut client, 512 * MIB, EXTENT, 0xdd);
    tank.held(1);
    tank.grow(64);
    success(client.receive().expect("an answer"));
    assert_holds(&mut client, 512 * MIB, EXTENT, 0xdd);
}

#[test]
fn held_writes_of_several_connections_go_on_in_the_order_in_which_they_came() {
    let tank = Tank::new();
    for name in ["a", "b"] {
        tank.vdisk(name, &["--on-full", LONG]);
    }
    // Two connections to one vdisk and one to another.
    let mut clients = [tank.connect("a"), tank.connect("b"), tank.connect("a")];
    // A leaf of each is there, so that no metadata is in the way of counting.
    for client in &mut clients[..2] {
        client.write(0, &[1; EXTENT as usize], 0).expect("a first write");
    }
    tank.fill();
    const WRITES: u64 = 9;
    let mut sent = Vec::new();
    for index in 0..WRITES {
        // The first needs four extents, the others one; a small one does not overtake.
        let extents = if index == 0 { 4 } else { 1 };
        let client = (index % 3) as usize;
        sent.push((client, send(&mut clients[client], (8 + 8 * index) * EXTENT, extents * EXTENT, 2)));
        tank.held(index + 1);
    }
    let mut freed = 0;
    let mut free_one = || {
        tank.free(2 * freed, 1);
        freed += 1;
    };
    for _ in 0..3 {
        free_one();
        tank.held(WRITES);
    }
    for (index, &(client, cookie)) in (0..).zip(&sent) {
        // One extent lets one go on, but for one that metadata takes now and then.
        let left = WRITES - index - 1;
        for _ in 0..3 {
            free_one();
            let began = Instant::now();
            while tank.figure("held_writes") > left && began.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if tank.figure("held_writes") <= left {
                break;
            }
        }
        tank.held(left);
        assert_eq!(success(clients[client].receive().expect("an answer")), cookie, "write {index}");
    }
    println!("{freed} extents were freed for {} that were needed", WRITES + 3);
    tank.daemon.assert_clean("tank");
}

#[test]
fn whatever_gives_space_lets_held_writes_go_on() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("v", &["--on-full", LONG]);
    tank.vdisk("doomed", &[]);
    tank.vdisk("zeros", &["--on-full", LONG]);
    daemon.done(&["vdisk", "set", "tank/zeros", "--detect", "zeros=off"]);
    tank.vdisk("bounded", &["--on-full", LONG, "--quota", "1M"]);
    tank.vdisk("owned", &["--on-full", LONG, "--tenant", "acme"]);
    daemon.done(&["tenant", "set", "acme", "--pool", "tank", "--quota", "1M"]);
    for (name, byte) in [("doomed", 1), ("zeros", 0), ("bounded", 1), ("owned", 1)] {
        tank.connect(name).write(0, &[byte; MIB as usize], 0).expect("a first write");
    }
    tank.connect("v").write(0, &[1; EXTENT as usize], 0).expect("a first write");

    // Writes of the vdisk are held, for the reason, until something is done.
    let resumes = |name: &str, shortage: &str, what: &dyn Fn()| {
        let [before, resumed, _] = tank.told(name, [0; 3]);
        assert_eq!(before, resumed, "what was told before is over");
        let offset = (16 + 16 * before as u64) * MIB;
        let mut client = tank.connect(name);
        for index in 0..4 {
            send(&mut client, offset + index * EXTENT, EXTENT, 7);
        }
        tank.held(4);
        let exhausted = daemon.events("vdisk-exhausted", &format!("tank/{name}"), before + 1);
        let last = exhausted.last().expect("it is exhausted");
        assert_eq!((exhausted.len(), &last["details"]["shortage"]), (before + 1, &Value::from(shortage)), "{last:#}");
        let began = Instant::now();
        what();
        for _ in 0..4 {
            success(client.receive().expect("an answer"));
        }
        println!("{name}, {shortage}: goes on {:?} after what was done began", began.elapsed());
        assert_holds(&mut client, offset, 4 * EXTENT, 7);
        tank.held(0);
        assert_eq!(tank.told(name, [before + 1, before + 1, 0]), [before + 1, before + 1, 0]);
    };

    resumes("bounded", "vdisk-quota", &|| drop(daemon.done(&["vdisk", "set", "tank/bounded", "--quota", "2M"])));
    resumes("owned", "tenant-quota", &|| {
        drop(daemon.done(&["tenant", "set", "acme", "--pool", "tank", "--quota", "2M"]));
    });
    tank.fill();
    resumes("v", "pool-full", &|| tank.free(0, 16));
    tank.fill();
    resumes("v", "pool-full", &|| drop(daemon.done(&["vdisk", "delete", "tank/doomed", "--yes"])));
    tank.fill();
    resumes("v", "pool-full", &|| drop(daemon.done(&["reclaim", "tank/zeros", "--yes", "--wait"])));
    assert_holds(&mut tank.connect("zeros"), 0, MIB, 0);
    tank.fill();
    resumes("v", "pool-full", &|| {
        let path = daemon.folder().join("a.img");
        File::options().write(true).open(path).and_then(|file| file.set_len(96 * MIB)).expect("enlarge the file");
        daemon.done(&["pool", "grow", "tank"]);
    });
    tank.fill();
    resumes("v", "pool-full", &|| tank.grow(64));
    // By itself: a spare is named while they wait.
    tank.fill();
    resumes("v", "pool-full", &|| {
        let spare = file(daemon.folder(), "spare.img", 64 * MIB);
        daemon.done(&["pool", "set", "tank", "--auto-grow-at", "95%", "--spare", text(&spare)]);
    });
    // Its own trim, over another connection.
    tank.fill();
    resumes("v", "pool-full", &|| {
        let mut client = tank.connect("v");
        client.trim(16 * MIB, (4 * EXTENT) as u32).expect("a trim");
    });
    daemon.assert_clean("tank");
}
