//! A random load over NBD that knows what it must find after a crash.
//!
//! A [`Worker`] owns a region of one vdisk and one connection at a time: it writes, overwrites, discards, writes zeros,
//! flushes and reads, several requests in flight, until the connection dies; then it reads everything it touched and
//! holds it against the [`oracle`].

pub mod oracle;
pub mod pattern;

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use crate::nbd_client::{Address, Kind, NbdClient, Options, Reply, flags};
use crate::random::Random;
use oracle::{Covered, Oracle, Promise, ZEROS};
use pattern::{Identity, SECTOR_BYTES, identify};

/// Requests in flight per connection.
const DEPTH: usize = 8;
/// Discards are made of whole blocks, of which the engine can take back each one.
const BLOCK_SECTORS: u64 = 8;
/// The longest request, in sectors (256 KiB: four extents).
const REQUEST_SECTORS_MAX: u64 = 512;

/// How a life of the load went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Requests that were acknowledged.
    pub acknowledged: u64,
    /// Requests in flight when the connection died.
    pub in_flight: u64,
    /// Sectors read and compared afterwards.
    pub compared: u64,
}

/// Something in flight.
#[derive(Debug)]
enum Request {
    Change { sectors: Range<u64>, version: u32, fua: bool },
    Flush(Covered),
    Read(Range<u64>),
}

/// One client of one region.
#[derive(Debug)]
pub struct Worker {
    vdisk: u32,
    name: String,
    oracle: Oracle,
    random: Random,
    version: u32,
    touched: Vec<Range<u64>>,
    /// How often this life flushes, and writes with FUA, in percent: a crash after many flushes and one after none are
    /// different tests.
    flush_percent: u64,
    fua_percent: u64,
}

impl Worker {
    /// A client of the sectors `region` of the export `name`, which is vdisk number `vdisk` and reads as zeros there.
    /// The region begins and ends with a block of 4 KiB.
    pub fn new(vdisk: u32, name: &str, region: Range<u64>, promise: Promise, random: Random) -> Self {
        let oracle = Oracle::new(vdisk, promise, region);
        Self {
            vdisk,
            name: name.to_owned(),
            oracle,
            random,
            version: 0,
            touched: Vec::new(),
            flush_percent: 0,
            fua_percent: 0,
        }
    }

    /// Works until the connection dies. An error reply ends it too: after a power cut the daemon's device is gone, and
    /// `errors_allowed` tells whether that may be.
    ///
    /// # Errors
    /// What the daemon did wrong: a read with the wrong data, an error reply, a broken protocol.
    pub fn run(&mut self, address: &Address, errors_allowed: impl Fn() -> bool) -> Result<Tally, String> {
        let mut tally = Tally::default();
        self.flush_percent = [0, 1, 8][self.random.within(0..3) as usize];
        self.fua_percent = [0, 2, 15][self.random.within(0..3) as usize];
        let Ok(mut client) = NbdClient::connect(address, &self.name, Options::ALL) else { return Ok(tally) };
        let mut in_flight = HashMap::new();
        loop {
            while in_flight.len() < DEPTH {
                match self.submit(&mut client, &in_flight) {
                    Ok(Some((cookie, request))) => drop(in_flight.insert(cookie, request)),
                    Ok(None) => break,
                    Err(_) => {
                        tally.in_flight = in_flight.len() as u64;
                        return Ok(tally);
                    }
                }
            }
            let reply = match client.receive() {
                Ok(reply) => reply,
                Err(error) if connection_died(&error) => {
                    tally.in_flight = in_flight.len() as u64;
                    return Ok(tally);
                }
                Err(error) => return Err(format!("{}: {error}", self.name)),
            };
            let request = in_flight.remove(&reply.cookie).ok_or("a reply to nothing")?;
            if reply.error != 0 {
                if errors_allowed() {
                    tally.in_flight = in_flight.len() as u64 + 1;
                    return Ok(tally);
                }
                let error = io::Error::from_raw_os_error(reply.error as i32);
                return Err(format!("{}: {request:?} was answered with {error}", self.name));
            }
            self.finish(request, &reply)?;
            tally.acknowledged += 1;
        }
    }

    /// Reads what was touched since the last crash (or `everything`) over a new connection and compares it.
    ///
    /// # Errors
    /// A sector holds what it may not; the text names it.
    pub fn verify(&mut self, address: &Address, everything: bool) -> Result<u64, String> {
        let mut touched = std::mem::take(&mut self.touched);
        if everything {
            touched = vec![self.oracle.region()];
        }
        touched.sort_by_key(|range| range.start);
        let mut client = NbdClient::connect(address, &self.name, Options::ALL)
            .map_err(|error| format!("{}: cannot connect after the crash: {error}", self.name))?;
        let (mut next, mut compared) = (0, 0);
        for range in touched {
            let mut at = range.start.max(next);
            while at < range.end {
                let end = range.end.min(at + 2048);
                let data = client
                    .read(at * SECTOR_BYTES as u64, ((end - at) as usize * SECTOR_BYTES) as u32)
                    .map_err(|error| format!("{}: reading sectors {at}..{end} after the crash: {error}", self.name))?;
                for (sector, bytes) in (at..end).zip(data.chunks_exact(SECTOR_BYTES)) {
                    self.oracle
                        .after_crash(sector, identify(bytes))
                        .map_err(|error| format!("{}: {error}", self.name))?;
                }
                compared += end - at;
                at = end;
            }
            next = next.max(range.end);
        }
        client.disconnect().map_err(|error| format!("{}: disconnect: {error}", self.name))?;
        Ok(compared)
    }

    /// Submits one random request; `None` if its sectors are in use.
    fn submit(
        &mut self,
        client: &mut NbdClient,
        in_flight: &HashMap<u64, Request>,
    ) -> io::Result<Option<(u64, Request)>> {
        if self.random.percent(self.flush_percent) {
            let covered = self.oracle.flush_submitted();
            return Ok(Some((client.submit(Kind::Flush, 0, 0, 0, &[])?, Request::Flush(covered))));
        }
        let action = self.random.within(0..100);
        let discard = action < 10;
        let sectors = self.sectors(discard);
        let busy = |request: &Request| match request {
            Request::Change { sectors: other, .. } | Request::Read(other) => {
                other.start < sectors.end && sectors.start < other.end
            }
            Request::Flush(_) => false,
        };
        if in_flight.values().any(busy) {
            return Ok(None);
        }
        let (offset, count) = (sectors.start * SECTOR_BYTES as u64, (sectors.end - sectors.start) as usize);
        let length = (count * SECTOR_BYTES) as u32;
        if (10..20).contains(&action) {
            return Ok(Some((client.submit(Kind::Read, 0, offset, length, &[])?, Request::Read(sectors))));
        }
        let fua = self.random.percent(self.fua_percent);
        let mut flags = if fua { flags::FUA } else { 0 };
        self.version += 1;
        let (kind, version, data) = match action {
            0..10 => (Kind::Trim, ZEROS | self.version, Vec::new()),
            20..30 => {
                flags |= if self.random.percent(50) { flags::NO_HOLE } else { 0 };
                (Kind::WriteZeroes, ZEROS | self.version, Vec::new())
            }
            _ => (Kind::Write, self.version, self.data(&sectors)),
        };
        // The change may happen from the first byte on, even if sending fails.
        self.oracle.submitted(sectors.clone(), version);
        self.touched.push(sectors.clone());
        let cookie = client.submit(kind, flags, offset, length, &data)?;
        Ok(Some((cookie, Request::Change { sectors, version, fua })))
    }

    fn finish(&mut self, request: Request, reply: &Reply) -> Result<(), String> {
        match request {
            Request::Change { sectors, version, fua } => self.oracle.acknowledged(sectors, version, fua),
            Request::Flush(covered) => self.oracle.flushed(covered),
            Request::Read(sectors) => {
                let mut expected = [0; SECTOR_BYTES];
                for (sector, bytes) in sectors.zip(reply.data.chunks_exact(SECTOR_BYTES)) {
                    let version = self.oracle.expected(sector);
                    Identity { vdisk: self.vdisk, sector, version }.fill(&mut expected);
                    if bytes != expected {
                        let seen = identify(bytes);
                        return Err(format!("{}: sector {sector} reads {seen:?}, not version {version}", self.name));
                    }
                }
            }
        }
        Ok(())
    }

    /// A random range: mostly short, half of them whole blocks.
    fn sectors(&mut self, whole_blocks: bool) -> Range<u64> {
        let region = self.oracle.region();
        let longest = if self.random.percent(10) { REQUEST_SECTORS_MAX } else { 4 * BLOCK_SECTORS };
        let mut length = self.random.within(1..longest + 1);
        let mut start = self.random.within(region.start..region.end - length + 1);
        if whole_blocks || self.random.percent(50) {
            length = length.next_multiple_of(BLOCK_SECTORS);
            start = start / BLOCK_SECTORS * BLOCK_SECTORS;
        }
        start..(start + length).min(region.end)
    }

    fn data(&self, sectors: &Range<u64>) -> Vec<u8> {
        let mut data = vec![0; (sectors.end - sectors.start) as usize * SECTOR_BYTES];
        for (sector, bytes) in sectors.clone().zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            Identity { vdisk: self.vdisk, sector, version: self.version }.fill(bytes);
        }
        data
    }
}

/// True for what a socket gives when the process behind it dies; silence and nonsense are the daemon's fault.
fn connection_died(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
