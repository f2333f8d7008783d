//! What the daemon must remember across restarts: which pools it has, where their devices were seen, what is exported how.
//!
//! One JSON file, `state.json`, replaced as a whole: written to `state.json.new`, synced, exchanged with that, directory synced. So a
//! crash at any moment leaves the old state or the new one; `state.json.new` is never read. The bytes carry a
//! CRC-32, so that damage is told from an edit by hand and never half believed.
//!
//! Both files stay, and are filled up with blanks: the next state is written over the last but one, into blocks that the file has
//! already. So the state can be kept when the file system is full, which is when devices are added.
//!
//! Not here: anything that the pools themselves know. Losing this file loses no data; `pool import` brings pools back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::machine::same_file;
use crate::model::GrowthPolicy;
use crate::problem::{Answer, Problem};

const FILE: &str = "state.json";
const NEW: &str = "state.json.new";
/// The files have whole multiples of this.
const UNIT_BYTES: usize = 16 << 10;
/// And so many blanks at least: one more record, whose path is as long as a path can be (PATH_MAX is 4096) and has quotes in it.
const ROOM_BYTES: usize = 9 << 10;
const SCHEMA: &str = "plimsoll-state/v1";

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The embedded default was set up once; what an operator then deletes stays deleted.
    #[serde(default)]
    pub embedded_made: bool,
    /// Known pools.
    #[serde(default)]
    pub pools: Vec<PoolRecord>,
    /// Exports that differ from the default.
    #[serde(default)]
    pub exports: Vec<ExportRecord>,
    /// What was decided for tenants.
    #[serde(default)]
    pub tenants: Vec<TenantRecord>,
    /// How pools grow by themselves.
    #[serde(default)]
    pub growth: Vec<GrowthRecord>,
    /// What pools were served without, until somebody has seen to it.
    #[serde(default)]
    pub losses: Vec<LossRecord>,
}

/// What a pool is served without: nothing on its devices says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRecord {
    /// The pool.
    pub pool: Uuid,
    /// In a sentence.
    pub what: String,
}

/// What was decided for a tenant of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// UUID of the pool.
    pub pool: Uuid,
    /// Its name.
    pub tenant: String,
    /// Physical bytes that it may not exceed; 0: none.
    pub quota_bytes: u64,
    /// Shares of that at which something is told; the usual ones when absent.
    #[serde(default)]
    pub thresholds: Option<String>,
}

/// How a pool grows by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthRecord {
    /// The pool.
    pub pool: Uuid,
    /// What was asked for.
    pub policy: GrowthPolicy,
}

/// A known pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its name.
    pub name: String,
    /// Its UUID: the name may have been given to another one meanwhile.
    pub uuid: Uuid,
    /// Its devices.
    pub devices: Vec<DeviceRecord>,
    /// Number of its last checkpoint when it was opened or closed last: what has fewer is older.
    #[serde(default)]
    pub generation: u64,
}

/// A device of a known pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// From its label.
    pub uuid: Uuid,
    /// Where it was seen last.
    pub path: String,
    /// It may go through the page cache.
    #[serde(default)]
    pub buffered: bool,
    /// What a copy of it has not, and what it keeps when it is renamed.
    #[serde(default)]
    pub mark: Option<String>,
}

/// An export that differs from the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// POOL/VDISK when it was recorded.
    pub name: String,
    /// Which vdisk: a new one of the same name does not inherit it.
    pub vdisk: Uuid,
    /// Not offered.
    pub hidden: bool,
    /// Writes are refused.
    pub read_only: bool,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    schema: String,
    crc32: u32,
    state: serde_json::Value,
}

impl State {
    /// Takes spares that have become devices of a pool off all lists.
    pub(super) fn forget_spare(&mut self, is_taken: impl Fn(&str) -> bool) {
        self.growth.iter_mut().for_each(|known| known.policy.spares.retain(|spare| !is_taken(spare)));
    }

    /// Takes over a pool that is served, in place of one of the same name. What were spares and are its devices are spares no more.
    pub(super) fn put(&mut self, record: PoolRecord) {
        self.forget_spare(|spare| record.devices.iter().any(|device| same_file(spare, &device.path)));
        self.pools.retain(|known| known.uuid != record.uuid && known.name != record.name);
        self.pools.push(record);
        self.pools.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Takes over where the devices of a known pool are.
    pub(super) fn update(&mut self, record: PoolRecord) {
        if let Some(known) = self.pools.iter_mut().find(|known| known.uuid == record.uuid) {
            *known = record;
        }
    }

    /// Reads it from `dir`; an empty one when there is none yet.
    ///
    /// # Errors
    /// `invalid-config` when it is damaged or of another version, `internal` when it cannot be read.
    pub fn load(dir: &Path) -> Answer<State> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(Problem::new("internal", format!("{} cannot be read: {error}", path.display()))),
        };
        decode(&bytes).map_err(|reason| {
            Problem::new("invalid-config", format!("{} is not to be trusted: {reason}", path.display())).hint(format!(
                "mv {0} {0}.bad; then start again and run plimsoll pool import PATH for each device: no data is lost",
                path.display()
            ))
        })
    }

    /// Makes it durable in `dir`.
    ///
    /// # Errors
    /// `state-no-space`, `state-not-kept` with the system's words; the former state is then still in place.
    pub fn save(&self, dir: &Path) -> Answer<()> {
        self.save_with(dir, |dir| File::open(dir)?.sync_all())
    }

    fn save_with(&self, dir: &Path, sync_directory: impl Fn(&Path) -> io::Result<()>) -> Answer<()> {
        let write = || {
            write_new(dir, encode(self)?)?;
            put_in_place(&dir.join(NEW), &dir.join(FILE))?;
            let durable = sync_directory(dir);
            if durable.is_err() {
                // Either may be the state that a power loss leaves: neither is written over.
                fs::remove_file(dir.join(NEW))?;
            }
            durable
        };
        write().map_err(|error| not_kept(dir, &error))?;
        // What of this does not succeed is said when it is needed.
        let _ = self.keep_room(dir);
        Ok(())
    }

    /// Makes sure that the next [`State::save`] finds its space, with a record more than there are now.
    ///
    /// # Errors
    /// As of [`State::save`]: there is none.
    pub fn keep_room(&self, dir: &Path) -> Answer<()> {
        let keep = || {
            let bytes = filled_up(encode(self)?);
            let there = fs::metadata(dir.join(NEW)).is_ok_and(|found| found.len() >= bytes.len() as u64);
            if there { Ok(()) } else { write_new(dir, bytes) }
        };
        keep().map_err(|error| not_kept(dir, &error))
    }
}

fn not_kept(dir: &Path, error: &io::Error) -> Problem {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { "state-no-space" } else { "state-not-kept" };
    Problem::new(code, format!("the state cannot be kept in {}: {error}", dir.join(FILE).display()))
        .hint(format!("df -h {}", dir.display()))
}

/// Over what is there, and never shorter than that: a file that is cut gives its blocks back.
fn write_new(dir: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join(NEW))?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if bytes.len() > length {
        bytes = filled_up(bytes);
    }
    bytes.resize(bytes.len().max(length), b' ');
    file.write_all(&bytes)?;
    file.sync_all()
}

/// The first one has nothing to be exchanged with, and some file systems cannot exchange.
fn put_in_place(new: &Path, file: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, file, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(new, file),
        exchanged => Ok(exchanged?),
    }
}

fn filled_up(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize((bytes.len() + ROOM_BYTES).next_multiple_of(UNIT_BYTES), b' ');
    bytes
}

fn encode(state: &State) -> io::Result<Vec<u8>> {
    let state = serde_json::to_value(state)?;
    let crc32 = crc32fast::hash(state.to_string().as_bytes());
    let mut bytes = serde_json::to_vec_pretty(&Envelope { schema: SCHEMA.to_owned(), crc32, state })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<State, String> {
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if envelope.schema != SCHEMA {
        return Err(format!("it is of version {:?}, this program knows {SCHEMA:?}", envelope.schema));
    }
    let found = crc32fast::hash(envelope.state.to_string().as_bytes());
    if found != envelope.crc32 {
        return Err(format!("its checksum is {found}, it says {}", envelope.crc32));
    }
    serde_json::from_value(envelope.state).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        State {
            embedded_made: true,
            pools: vec![PoolRecord {
                name: "tank".into(),
                uuid: Uuid::from_u128(7),
                devices: vec![DeviceRecord {
                    uuid: Uuid::from_u128(8),
                    path: "/dev/\u{fc}".into(),
                    buffered: true,
                    mark: Some("7".into()),
                }],
                generation: 5,
            }],
            exports: vec![ExportRecord {
                name: "tank/db1".into(),
                vdisk: Uuid::from_u128(9),
                hidden: false,
                read_only: true,
            }],
            tenants: vec![TenantRecord {
                pool: Uuid::from_u128(7),
                tenant: "acme".into(),
                quota_bytes: 1 << 40,
                thresholds: Some("80%".into()),
            }],
            losses: vec![LossRecord { pool: Uuid::from_u128(7), what: "the end of it".into() }],
            growth: vec![GrowthRecord {
                pool: Uuid::from_u128(7),
                policy: GrowthPolicy {
                    at_pct: 85,
                    spares: vec!["/dev/sdc".into()],
                    grow_file_to_bytes: None,
                    step_bytes: None,
                    keep_free_bytes: None,
                    force: Vec::new(),
                },
            }],
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
        sample().save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), sample());
    }

    #[test]
    fn a_torn_write_of_the_new_state_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        sample().save(dir.path()).unwrap();
        let whole = encode(&State::default()).unwrap();
        for length in 0..whole.len() {
            fs::write(dir.path().join(NEW), &whole[..length]).unwrap();
            assert_eq!(State::load(dir.path()).unwrap(), sample());
        }
        State::default().save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
    }

    #[test]
    fn a_state_with_one_record_more_is_written_into_the_blocks_of_the_last_but_one() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
        let blocks = |name: &str| fs::metadata(dir.path().join(name)).unwrap().blocks();
        let mut state = sample();
        state.save(dir.path()).unwrap();
        let (one, other, before) = (inode(FILE), inode(NEW), blocks(NEW));
        // As long as it is open, no other file gets its number.
        let _first = File::open(dir.path().join(FILE)).unwrap();
        let path = format!("/{}", "\"".repeat(4095));
        state.pools[0].devices.push(DeviceRecord { uuid: Uuid::from_u128(10), path, buffered: false, mark: None });
        state.save(dir.path()).unwrap();
        assert_eq!((inode(FILE), inode(NEW), blocks(FILE)), (other, one, before));
        assert!(blocks(NEW) > before, "and there is room for one more again");
        assert_eq!(State::load(dir.path()).unwrap(), state);
        State::default().save(dir.path()).unwrap();
        assert_eq!((inode(FILE), inode(NEW)), (one, other));
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
    }

    #[test]
    fn a_state_that_finds_no_space_leaves_the_old_one_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        sample().save(dir.path()).unwrap();
        fs::remove_file(dir.path().join(NEW)).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join(NEW)).unwrap();
        for problem in [State::default().save(dir.path()).unwrap_err(), sample().keep_room(dir.path()).unwrap_err()] {
            assert_eq!((problem.code.as_str(), problem.exit_code()), ("state-no-space", 7));
            assert!(problem.detail.contains("state.json") && problem.hint.is_some(), "{problem:?}");
        }
        assert_eq!(State::load(dir.path()).unwrap(), sample());
        fs::remove_file(dir.path().join(NEW)).unwrap();
        fs::create_dir(dir.path().join(NEW)).unwrap();
        assert_eq!(State::default().save(dir.path()).unwrap_err().code, "state-not-kept");
    }

    #[test]
    fn after_a_directory_that_could_not_be_synced_neither_state_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        sample().save(dir.path()).unwrap();
        // Both are open as what a power loss may leave finds them.
        let [mut old, mut new] = [FILE, NEW].map(|name| File::open(dir.path().join(name)).unwrap());
        let failed = State::default().save_with(dir.path(), |_| Err(io::Error::other("the disk is gone")));
        assert_eq!(failed.unwrap_err().code, "state-not-kept");
        State { embedded_made: true, ..State::default() }.save(dir.path()).unwrap();
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(file, &mut bytes).unwrap();
            decode(&bytes).unwrap()
        };
        assert_eq!((read(&mut old), read(&mut new)), (sample(), State::default()));
        assert!(State::load(dir.path()).unwrap().embedded_made);
    }

    #[test]
    fn a_damaged_state_is_refused_with_advice_and_never_half_believed() {
        let dir = tempfile::tempdir().unwrap();
        let whole = encode(&sample()).unwrap();
        for length in 0..whole.len() - 2 {
            fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
            assert_eq!(State::load(dir.path()).unwrap_err().code, "invalid-config", "{length} bytes");
        }
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x04;
            fs::write(dir.path().join(FILE), &damaged).unwrap();
            match State::load(dir.path()) {
                Err(problem) => assert!(problem.hint.is_some()),
                Ok(state) => assert_eq!(state, sample(), "a flip in byte {byte} changed the state"),
            }
        }
    }
}
