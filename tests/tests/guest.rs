//! A Linux guest with Debian's kernel, emulated, uses a vdisk over NBD: the pool gives it space, and gets it back when the
//! guest trims.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plimsoll_tests::daemon::Daemon;

/// What the guest writes, in MiB; the pool must grow by that.
const MEBIBYTES: u64 = 64;

#[test]
fn a_guest_makes_a_file_system_and_gives_space_back_when_it_trims() {
    let guest = guest_folder();
    let port = free_port();
    let daemon = Daemon::start(&["--nbd-listen", &format!("127.0.0.1:{port}")]);
    daemon.done(&["vdisk", "create", "tank/guest", "--size", "1G"]);
    let utilized = || daemon.json(&["pool", "show", "tank"])["utilized_bytes"].as_u64().expect("utilized_bytes");
    let at_first = utilized();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/boot.sh");
    let mut emulator = Command::new(script)
        .arg(&guest)
        .args([&port.to_string(), "tank/guest", &MEBIBYTES.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the emulator");
    let mut console = emulator.stdin.take().expect("the console is a pipe");
    let output = BufReader::new(emulator.stdout.take().expect("the console is a pipe"));
    let (mut lines, mut written) = (Vec::new(), None);
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        println!("{line}");
        if line.contains("GUEST written") {
            written = Some(utilized());
            writeln!(console, "go").expect("let the guest go on");
        }
        lines.push(line);
    }
    let status = emulator.wait().expect("wait for the emulator");
    let console = lines.join("\n");
    assert!(status.success(), "the emulator ended with {status}:\n{console}");
    assert!(lines.iter().any(|line| line.ends_with("GUEST ok")), "the guest did not finish:\n{console}");

    let (written, trimmed) = (written.expect("the guest wrote"), utilized());
    println!("utilized: {at_first} at first, {written} with {MEBIBYTES} MiB written, {trimmed} after the trim");
    assert!(written >= at_first + (MEBIBYTES << 20), "the pool did not grow by {MEBIBYTES} MiB: {at_first}, {written}");
    let returned = written - trimmed.min(written);
    assert!(returned >= (MEBIBYTES << 20) * 9 / 10, "the trim gave {returned} of {} bytes back", MEBIBYTES << 20);
    daemon.assert_clean("tank");
}

/// The folder that `guest/fetch.sh` and `guest/build.sh` filled.
fn guest_folder() -> PathBuf {
    let folder = std::env::var_os("PLIMSOLL_GUEST_DIR").expect("PLIMSOLL_GUEST_DIR is not set; tests/run sets it");
    let folder = PathBuf::from(folder);
    assert!(folder.join("vmlinux").is_file(), "{} holds no guest; run tests/guest/build.sh", folder.display());
    folder
}

/// A TCP port that nobody uses now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("a bound port").port()
}
