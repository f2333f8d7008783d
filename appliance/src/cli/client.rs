//! HTTP/1.1 over the control socket, one request per connection: no runtime, no pool, nothing to close.

mod stream;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::node::directory::control_socket;
use crate::problem::{Answer, Problem};

/// The daemon answers at once or with a job; opening a pool waits for device locks, which takes up to 5 s per device.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// A stream says something every 15 s, if only that it is there.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(60);
/// As the largest list: 10,000 vdisks of less than 1 KiB, with room to grow.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The API of the daemon of one state directory.
pub(super) struct Client {
    dir: PathBuf,
    key: String,
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
}

impl Client {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), key: uuid::Uuid::now_v7().to_string() }
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
        let (status, body) = self.exchange(&path, &request).map_err(|error| self.explain(&path, &error))?;
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
        let lost = |error: io::Error| Problem { code: "unreachable".to_owned(), ..self.explain(&path, &error) };
        let mut stream = UnixStream::connect(&path).map_err(|error| self.explain(&path, &error))?;
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

    fn exchange(&self, path: &Path, request: &Request<'_>) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
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

    fn explain(&self, path: &Path, error: &io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let detail = format!("the daemon did not answer within {} s", ANSWER_TIME_MAX.as_secs());
                Problem::new("timeout", detail).hint("plimsoll job list; journalctl -u plimsoll")
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
    fn a_path_becomes_one_segment() {
        assert_eq!(segment("/dev/a b"), "%2Fdev%2Fa%20b");
    }
}
