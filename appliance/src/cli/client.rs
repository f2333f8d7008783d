//! HTTP/1.1 over the control socket, one request per connection: no runtime, no pool, nothing to close.

mod stream;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::Serialize;
use serde_json::Value;

use crate::node::directory::control_socket;
use crate::problem::{Answer, Problem};

/// What is asked is answered at once: who says nothing for so long does not answer any more.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// A change may wait for those before it, which may wait for the locks of devices, up to 5 s for each; a test of a webhook for its receiver.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(120);
/// A stream says something every 15 s, if only that it is there.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(60);
/// As the largest list: 10,000 vdisks of less than 1 KiB, with room to grow.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The API of the daemon of one state directory.
pub(super) struct Client {
    dir: PathBuf,
    key: String,
    answer_time_max: Duration,
}

/// A request.
pub(super) struct Request<'a> {
    method: &'static str,
    target: &'a str,
    body: Option<String>,
    if_match: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: &'static str, target: &'a str) -> Self {
        Self { method, target, body: None, if_match: None }
    }

    pub(super) fn body(mut self, body: &impl Serialize) -> Answer<Self> {
        let text = serde_json::to_string(body).map_err(|error| Problem::new("internal", error.to_string()))?;
        self.body = Some(text);
        Ok(self)
    }

    pub(super) fn if_match(mut self, version: Option<&'a str>) -> Self {
        self.if_match = version;
        self
    }

    /// Whether the answer may wait until others are done, or for devices that are opened, closed or written.
    fn waits_for_others(&self) -> bool {
        self.method != "GET"
    }
}

impl Client {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), key: uuid::Uuid::now_v7().to_string(), answer_time_max: ANSWER_TIME_MAX }
    }

    /// The directory of the daemon that is talked to.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn get(&self, target: &str) -> Answer<Value> {
        self.send(Request::new("GET", target))
    }

    /// Sends a request. An answer without a body is null.
    ///
    /// # Errors
    /// The daemon's problem; `unreachable`, `timeout`.
    pub(super) fn send(&self, request: Request<'_>) -> Answer<Value> {
        let path = control_socket(&self.dir);
        let patience = if request.waits_for_others() { CHANGE_TIME_MAX } else { self.answer_time_max };
        let stream = connect(&path, patience).map_err(|error| self.explain(&path, &error, (patience, None)))?;
        let peer = peer(&stream);
        let answer = self.exchange(stream, &request, patience);
        let (status, body) = answer.map_err(|error| self.explain(&path, &error, (patience, peer)))?;
        if body.is_empty() && status < 400 {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| Problem::new("internal", format!("the daemon's answer {status} is no JSON: {error}")))?;
        if status < 400 {
            return Ok(value);
        }
        Err(serde_json::from_value(value)
            .unwrap_or_else(|_| Problem::new("internal", format!("the daemon answered {status} without saying why"))))
    }

    /// Reads a stream of lines until `take` answers false or the daemon ends it.
    ///
    /// # Errors
    /// The daemon's problem; `unreachable` when the connection is lost or nobody is there; what `take` answers.
    pub(super) fn stream(&self, target: &str, mut take: impl FnMut(&str) -> Answer<bool>) -> Answer<()> {
        let path = control_socket(&self.dir);
        let explain = |error: &io::Error| self.explain(&path, error, (STREAM_SILENCE_MAX, None));
        let lost = |error: io::Error| Problem { code: "unreachable".to_owned(), ..explain(&error) };
        let mut stream = connect(&path, STREAM_SILENCE_MAX).map_err(|error| explain(&error))?;
        stream.set_read_timeout(Some(STREAM_SILENCE_MAX)).map_err(lost)?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: plimsoll\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(lost)?;
        let mut from = BufReader::new(stream);
        let (status, chunked) = stream::head(&mut from).map_err(lost)?;
        if status >= 400 || !chunked {
            let mut body = Vec::new();
            from.take(ANSWER_BYTES_MAX).read_to_end(&mut body).map_err(lost)?;
            let unknown = |_| Problem::new("internal", format!("the daemon answered {status} and no stream"));
            return Err(serde_json::from_slice(&body).unwrap_or_else(unknown));
        }
        for line in BufReader::new(stream::Chunks::new(from)).lines() {
            if !take(&line.map_err(lost)?)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn exchange(
        &self,
        mut stream: UnixStream,
        request: &Request<'_>,
        patience: Duration,
    ) -> io::Result<(u16, Vec<u8>)> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: plimsoll\r\nConnection: close\r\n", request.method, request.target);
        if request.method != "GET" {
            head += &format!("Idempotency-Key: {}-{}\r\n", self.key, crc32fast::hash(request.target.as_bytes()));
        }
        if let Some(version) = request.if_match {
            head += &format!("If-Match: \"{version}\"\r\n");
        }
        let body = request.body.as_deref().unwrap_or_default();
        if request.body.is_some() {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        let sent = stream.write_all(format!("{head}\r\n{body}").as_bytes());
        let answer = read_answer(BufReader::new(stream));
        match sent {
            // What is too large is refused before all of it was read: the answer says why.
            Err(error) => answer.map_err(|_| error),
            Ok(()) => answer,
        }
    }

    /// Why there is no answer. Waited so long, for the process that listens.
    fn explain(&self, path: &Path, error: &io::Error, (waited, peer): (Duration, Option<i32>)) -> Problem {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let who = peer.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                let detail = format!("the daemon{who} does not answer: nothing came within {} s", waited.as_secs());
                let see = peer.map(|pid| format!("ps -o pid,stat,wchan,args -p {pid}; ")).unwrap_or_default();
                Problem::new("timeout", detail).hint(format!("{see}journalctl -u plimsoll"))
            }
            io::ErrorKind::PermissionDenied => {
                let detail = format!("{}: permission denied", path.display());
                Problem::new("permission", detail).hint("run it as root or as the daemon's user")
            }
            _ => {
                let detail = format!("no daemon answers at {}: {error}", path.display());
                let hint = format!("plimsoll serve --state-dir {}; or name another --state-dir", self.dir.display());
                Problem::new("unreachable", detail).hint(hint)
            }
        }
    }
}

/// Connects; one whose places are all taken by those who wait already may leave us waiting, too.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The process that listens.
fn peer(stream: &UnixStream) -> Option<i32> {
    sockopt::socket_peercred(stream).ok().map(|peer| peer.pid.as_raw_nonzero().get())
}

fn read_answer(mut from: impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| broken("no HTTP"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Err(broken("the answer ends in its head"));
        }
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = Some(value.trim().parse::<u64>().map_err(|_| broken("a length that is none"))?)
            }
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        from.take(length.unwrap_or(ANSWER_BYTES_MAX).min(ANSWER_BYTES_MAX)).read_to_end(&mut body)?;
        return match length {
            Some(length) if length != body.len() as u64 => Err(broken("the answer was cut off")),
            _ => Ok((status, body)),
        };
    }
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| broken("a chunk without a size"))?;
        if body.len() as u64 + size > ANSWER_BYTES_MAX {
            return Err(broken("the answer is too large"));
        }
        if size == 0 {
            return Ok((status, body));
        }
        let before = body.len() as u64;
        from.by_ref().take(size).read_to_end(&mut body)?;
        if body.len() as u64 != before + size {
            return Err(broken("the answer was cut off"));
        }
        from.read_line(&mut line)?;
    }
}

/// A part of a path, percent-encoded.
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_a_length_in_chunks_and_without_a_body() {
        let read = |text: &str| read_answer(text.as_bytes());
        let (status, body) = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}rest").unwrap();
        assert_eq!((status, body.as_slice()), (200, &b"{}"[..]));
        let chunks = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(read(chunks).unwrap(), (404, b"abcd".to_vec()));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, Vec::new()));
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").is_err());
        assert!(read("").is_err() && read("SSH-2.0\r\n").is_err());
    }

    #[test]
    fn who_listens_and_says_nothing_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let _silent = std::os::unix::net::UnixListener::bind(control_socket(dir.path())).unwrap();
        let client = Client { answer_time_max: Duration::from_millis(50), ..Client::new(dir.path()) };
        let problem = client.get("/api/v1/status").unwrap_err();
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("timeout", 9));
        let who = format!("the daemon (process {}) does not answer", std::process::id());
        assert!(problem.detail.starts_with(&who), "{}", problem.detail);
    }

    #[test]
    fn who_has_no_place_for_us_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = control_socket(dir.path());
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let short = Duration::from_millis(50);
        let waiting: Vec<_> = (0..3).map(|_| connect(&path, short)).collect();
        assert!(waiting.iter().any(Result::is_err), "all of them found a place");
        let client = Client { answer_time_max: short, ..Client::new(dir.path()) };
        assert_eq!(client.get("/api/v1/status").unwrap_err().code, "timeout");
    }

    #[test]
    fn a_change_is_waited_for_longer_than_a_question() {
        let waits = |method| Request::new(method, "/api/v1/pools/tank").waits_for_others();
        assert_eq!(["GET", "PATCH", "POST", "PUT", "DELETE"].map(waits), [false, true, true, true, true]);
    }

    #[test]
    fn a_path_becomes_one_segment() {
        assert_eq!(segment("/dev/a b"), "%2Fdev%2Fa%20b");
    }
}
