//! A random load over NBD that knows what it must find after a crash.
//!
//! A [`Worker`] owns a region of one vdisk and one connection at a time: it writes, overwrites, discards, writes zeros,
//! flushes and reads, several requests in flight, until the connection dies; then it reads everything it touched and
//! holds it against the [`oracle`].

pub mod churn;
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
    /// Requests in flight at its end, the one that was answered with an error among them.
    pub in_flight: u64,
    /// The error number (of the protocol, which are Linux's) that ended it; 0 when the connection's death did.
    pub error: u32,
}

/// What ends a life of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nobody answered the connection, or it was closed.
    Died,
    /// A request was answered with this error number.
    Error(u32),
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
    /// different tests. Each life chooses of `flush_percents`.
    flush_percents: &'static [u64],
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
            flush_percents: &[0, 1, 8],
            flush_percent: 0,
            fua_percent: 0,
        }
    }

    /// The same client, which flushes often in every life.
    pub fn flushing(self) -> Self {
        Self { flush_percents: &[8], ..self }
    }

    /// Works until the connection dies or a request is answered with an error; `expected` tells whether it may end so
    /// now, because the test has killed the daemon or broken its disk.
    ///
    /// # Errors
    /// What the daemon did wrong: an end that is not `expected`, a read with the wrong data, a broken protocol.
    pub fn run(&mut self, address: &Address, expected: impl Fn(End) -> bool) -> Result<Tally, String> {
        let mut tally = Tally::default();
        self.flush_percent = self.flush_percents[self.random.within(0..self.flush_percents.len() as u64) as usize];
        self.fua_percent = [0, 2, 15][self.random.within(0..3) as usize];
        let name = self.name.clone();
        let ended = |tally: Tally, end: End, why: &dyn std::fmt::Display| {
            if expected(end) { Ok(tally) } else { Err(format!("{name}, {tally:?}, ended by itself: {why}")) }
        };
        let mut client = match NbdClient::connect(address, &self.name, Options::ALL) {
            Ok(client) => client,
            Err(error) => return ended(tally, End::Died, &error),
        };
        let mut in_flight = HashMap::new();
        loop {
            tally.in_flight = in_flight.len() as u64;
            while in_flight.len() < DEPTH {
                match self.submit(&mut client, &in_flight) {
                    Ok(Some((cookie, request))) => drop(in_flight.insert(cookie, request)),
                    Ok(None) => break,
                    Err(error) => return ended(tally, End::Died, &error),
                }
            }
            tally.in_flight = in_flight.len() as u64;
            let reply = match client.receive() {
                Ok(reply) => reply,
                Err(error) if connection_died(&error) => return ended(tally, End::Died, &error),
                Err(error) => return Err(format!("{name}: {error}")),
            };
            let request = in_flight.remove(&reply.cookie).ok_or("a reply to nothing")?;
            if reply.error != 0 {
                tally.error = reply.error;
                let error = io::Error::from_raw_os_error(reply.error as i32);
                return ended(tally, End::Error(reply.error), &format!("{request:?} was answered with {error}"));
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
