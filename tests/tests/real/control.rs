//! The daemon's control socket, as a program that is not ours asks it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use plimsoll_tests::daemon::Daemon;

/// The body of an answer that must be good.
#[track_caller]
pub(crate) fn get(daemon: &Daemon, target: &str) -> String {
    let mut stream = UnixStream::connect(daemon.state_dir().join("control.sock")).expect("the daemon listens");
    let request = format!("GET {target} HTTP/1.0\r\nHost: plimsoll\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the daemon reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the daemon answers");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {target}: {answer}"));
    assert!(head.contains(" 200 "), "{target}: {answer}");
    body.to_owned()
}
