//! A Linux guest with Debian's kernel, emulated, uses a vdisk over NBD: the pool gives it space, and gets it back when the
//! guest trims. Checklist 0.01, 0.02, 2.08, 2.10.

use std::net::TcpListener;

use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::guest::{Disk, Guest};

/// What the guest writes, in MiB; the pool must grow by that.
const MEBIBYTES: u64 = 64;

#[test]
fn a_guest_makes_a_file_system_and_gives_space_back_when_it_trims() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let daemon = Daemon::start(&["--nbd-listen", &format!("127.0.0.1:{port}")]);
    daemon.done(&["vdisk", "create", "tank/guest", "--size", "1G"]);
    let utilized = || daemon.json(&["pool", "show", "tank"])["utilized_bytes"].as_u64().expect("utilized_bytes");
    let at_first = utilized();

    let mut guest = Guest::boot("files", Disk::Own { port, export: "tank/guest" }, MEBIBYTES);
    guest.until("written");
    let written = utilized();
    guest.go();
    guest.finish();

    let trimmed = utilized();
    println!("utilized: {at_first} at first, {written} with {MEBIBYTES} MiB written, {trimmed} after the trim");
    assert!(written >= at_first + (MEBIBYTES << 20), "the pool did not grow by {MEBIBYTES} MiB: {at_first}, {written}");
    let returned = written - trimmed.min(written);
    assert!(returned >= (MEBIBYTES << 20) * 9 / 10, "the trim gave {returned} of {} bytes back", MEBIBYTES << 20);
    daemon.assert_clean("tank");
}
