//! A vdisk that is made, resized and deleted while the daemon is killed.
//!
//! A command that was answered has happened. One that the kill cut off has happened or not, but nothing between: the
//! vdisk is there or not, and has the old size or the new one. Either way what was written below both sizes is still
//! there, and what a shrink gave up reads as zeros when the vdisk has grown over it again.

use super::pattern::{Identity, SECTOR_BYTES, Seen, identify};
use crate::daemon::{Daemon, Outcome, Running};
use crate::nbd_client::{Address, Kind, NbdClient, Options};
use crate::random::Random;

/// What the pattern says of these vdisks: this and their number.
const VDISK_FIRST: u32 = 1 << 16;
/// A sector is written in every step of so many bytes, two in each page of the mapping: a delete has work to do.
const STEP_BYTES: u64 = 16 << 20;
/// Sizes in steps.
const STEPS: std::ops::Range<u64> = 1..128;
/// The exit code of a client whose daemon has gone.
const UNREACHABLE: i32 = 6;

/// What became of the commands.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// They were answered, and have happened.
    pub answered: u64,
    /// They were cut off and have happened.
    pub happened: u64,
    /// They were cut off and have not happened.
    pub undone: u64,
}

/// The vdisk, as it is or as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vdisk {
    number: u32,
    steps: u64,
    /// The steps from the beginning on that are written; the others read as zeros.
    written: u64,
}

impl Vdisk {
    fn name(self) -> String {
        format!("tank/churn{}", self.number)
    }

    fn bytes(self) -> u64 {
        self.steps * STEP_BYTES
    }

    fn identity(self, step: u64) -> Identity {
        Identity { vdisk: VDISK_FIRST + self.number, sector: step * (STEP_BYTES / SECTOR_BYTES as u64), version: 1 }
    }
}

/// The vdisk and the command that changes it.
#[derive(Debug)]
pub struct Churn {
    random: Random,
    made: u32,
    now: Option<Vdisk>,
    running: Option<(Running, Option<Vdisk>)>,
    ended: Option<(Outcome, Option<Vdisk>)>,
    /// What became of the commands.
    pub tally: Tally,
}

impl Churn {
    /// There is no such vdisk yet.
    pub fn new(random: Random) -> Self {
        Self { random, made: 0, now: None, running: None, ended: None, tally: Tally::default() }
    }

    /// Writes what is not written yet of the vdisk, if there is one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn prepare(&mut self, address: &Address) -> Result<(), String> {
        let Some(vdisk) = &mut self.now else { return Ok(()) };
        let name = vdisk.name();
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let mut client = NbdClient::connect(address, &name, Options::default()).map_err(failed)?;
        let mut sector = [0; SECTOR_BYTES];
        for step in vdisk.written..vdisk.steps {
            vdisk.identity(step).fill(&mut sector);
            client.submit(Kind::Write, 0, step * STEP_BYTES, SECTOR_BYTES as u32, &sector).map_err(failed)?;
        }
        while client.in_flight() > 0 {
            let reply = client.receive().map_err(failed)?;
            if reply.error != 0 {
                return Err(format!("{name}: a write was answered with {}", reply.error));
            }
        }
        vdisk.written = vdisk.steps;
        client.disconnect().map_err(failed)
    }

    /// Begins a command: makes a vdisk where there is none, and else resizes or deletes it.
    pub fn begin(&mut self, daemon: &Daemon) {
        let steps = self.random.within(STEPS);
        let (running, after) = match self.now {
            None => {
                let vdisk = Vdisk { number: self.made, steps, written: 0 };
                self.made += 1;
                let size = vdisk.bytes().to_string();
                (daemon.begin(&["vdisk", "create", &vdisk.name(), "--size", &size]), Some(vdisk))
            }
            Some(vdisk) if self.random.percent(30) => {
                (daemon.begin(&["vdisk", "delete", &vdisk.name(), "--yes", "--force=in-use"]), None)
            }
            Some(vdisk) => {
                let after = Vdisk { steps, written: vdisk.written.min(steps), ..vdisk };
                let size = after.bytes().to_string();
                let resize = ["vdisk", "set", &vdisk.name(), "--size", &size, "--discard-tail", "--yes"];
                (daemon.begin(&resize), Some(after))
            }
        };
        self.running = Some((running, after));
    }

    /// Waits for the command's end, after the kill.
    ///
    /// # Errors
    /// It was neither done nor cut off.
    pub fn end(&mut self) -> Result<(), String> {
        let Some((running, after)) = self.running.take() else { return Ok(()) };
        let outcome = running.end();
        if ![0, UNREACHABLE].contains(&outcome.code) {
            return Err(format!("from {:?} to {after:?}: {outcome:#?}", self.now));
        }
        self.ended = Some((outcome, after));
        Ok(())
    }

    /// Checks what became of it, after the restart.
    ///
    /// # Errors
    /// The vdisk is neither what it was nor what it was to be, or not what the answer said.
    pub fn check(&mut self, daemon: &Daemon, address: &Address) -> Result<(), String> {
        let Some((outcome, after)) = self.ended.take() else { return Ok(()) };
        let list = daemon.json(&["vdisk", "list"]);
        let items = list["items"].as_array().ok_or("vdisk list has no items")?;
        let there: Vec<_> = items
            .iter()
            .filter(|item| item["name"].as_str().is_some_and(|name| name.starts_with("tank/churn")))
            .filter(|item| item["state"] != "deleting")
            .map(|item| (item["name"].as_str().unwrap_or_default().to_owned(), item["designated_bytes"].as_u64()))
            .collect();
        let as_listed = |vdisk: &Option<Vdisk>| -> Vec<_> {
            vdisk.iter().map(|vdisk| (vdisk.name(), Some(vdisk.bytes()))).collect()
        };
        let answered = outcome.code == 0;
        let before = self.now;
        if there == as_listed(&after) {
            self.now = after;
            let count = if answered { &mut self.tally.answered } else { &mut self.tally.happened };
            *count += 1;
        } else if there == as_listed(&before) && !answered {
            self.tally.undone += 1;
        } else {
            return Err(format!("there is {there:?}, from {before:?} to {after:?}: {outcome:#?}"));
        }
        self.now.map_or(Ok(()), |vdisk| compare(vdisk, address))
    }
}

fn compare(vdisk: Vdisk, address: &Address) -> Result<(), String> {
    let name = vdisk.name();
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let mut client = NbdClient::connect(address, &name, Options::default()).map_err(failed)?;
    let first = client.submit(Kind::Read, 0, 0, SECTOR_BYTES as u32, &[]).map_err(failed)?;
    for step in 1..vdisk.steps {
        client.submit(Kind::Read, 0, step * STEP_BYTES, SECTOR_BYTES as u32, &[]).map_err(failed)?;
    }
    while client.in_flight() > 0 {
        let reply = client.receive().map_err(failed)?;
        let step = reply.cookie - first;
        let expected = if step < vdisk.written { Seen::Written(vdisk.identity(step)) } else { Seen::Zeros };
        if reply.error != 0 || identify(&reply.data) != expected {
            let seen = identify(&reply.data);
            return Err(format!("{vdisk:?} holds {seen:?} at step {step} (error {}), not {expected:?}", reply.error));
        }
    }
    client.disconnect().map_err(failed)
}
