//! What the daemon must remember across restarts: which pools it has, where their devices were seen, what is exported how.
//!
//! One JSON file, `state.json`, replaced as a whole: written to `state.json.new`, synced, renamed, directory synced. So a
//! crash at any moment leaves the old state or the new one; a torn `state.json.new` is never read. The bytes carry a
//! CRC-32, so that damage is told from an edit by hand and never half believed.
//!
//! Not here: anything that the pools themselves know. Losing this file loses no data; `pool import` brings pools back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::GrowthPolicy;
use crate::problem::{Answer, Problem};

const FILE: &str = "state.json";
const NEW: &str = "state.json.new";
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
    /// `internal` with the system's words; the former state is then still in place.
    pub fn save(&self, dir: &Path) -> Answer<()> {
        let write = || -> io::Result<()> {
            let mut file = File::create(dir.join(NEW))?;
            file.write_all(&encode(self)?)?;
            file.sync_all()?;
            fs::rename(dir.join(NEW), dir.join(FILE))?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| {
            Problem::new("internal", format!("the state cannot be kept in {}: {error}", dir.join(FILE).display()))
                .hint(format!("df -h {}", dir.display()))
        })
    }
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
                devices: vec![DeviceRecord { uuid: Uuid::from_u128(8), path: "/dev/\u{fc}".into(), buffered: true }],
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
