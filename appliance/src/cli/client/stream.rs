//! An answer that does not end: its head, and its chunks as one stream of bytes.

use std::io::{self, BufRead, Read};

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads the head of an answer: its status, and whether the body comes in chunks.
pub(super) fn head(from: &mut impl BufRead) -> io::Result<(u16, bool)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| broken("no HTTP"))?;
    let mut chunked = false;
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Err(broken("the answer ends in its head"));
        }
        let Some((name, value)) = line.split_once(':') else { return Ok((status, chunked)) };
        if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
}

/// The bytes in the chunks.
pub(super) struct Chunks<R> {
    from: R,
    /// Of the chunk that is being read.
    left: u64,
    ended: bool,
}

impl<R: BufRead> Chunks<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, left: 0, ended: false }
    }
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut line = String::new();
            // A chunk ends with a line end of its own.
            while line.trim().is_empty() {
                line.clear();
                if self.from.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(size, 16).map_err(|_| broken("a chunk without a size"))?;
            self.ended = self.left == 0;
        }
        let want = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut into[..want])?;
        if read == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_one_stream_and_a_cut_off_one_is_an_error() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\n2;x=y\r\ncd\r\n0\r\n\r\n";
        let mut from = text.as_bytes();
        assert_eq!(head(&mut from).unwrap(), (200, true));
        let mut read = String::new();
        Chunks::new(from).read_to_string(&mut read).unwrap();
        assert_eq!(read, "ab\ncd");
        for cut in 1..from.len() - 2 {
            let cut_off = Chunks::new(&from[..from.len() - 2 - cut]).read_to_string(&mut String::new());
            assert!(cut_off.is_err(), "{cut}");
        }
    }
}
