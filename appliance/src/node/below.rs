//! What the file systems under the files of a pool have room for: a sparse file promises what others may have taken. Nothing tells of that,
//! so it is looked at when somebody asks for figures, and once a minute, in a thread that may hang with a file system that does not answer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use plimsoll_engine::{DeviceInfo, DeviceState, Pool, PoolInfo, SpaceEvent};
use plimsoll_hardware::Machine as _;
use plimsoll_hardware::reactor::Handle;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Node;
use super::machine::File;

/// Blocks of a file are counted in this unit, whatever its file system's are (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;
/// Between two looks that nobody asks for.
const EVERY: Duration = Duration::from_secs(60);

/// The devices of an open pool, and those of them that are files.
pub(super) struct AskedPool {
    pool: Uuid,
    devices: Vec<DeviceInfo>,
    files: Vec<File>,
}

/// Of all open pools.
pub(super) type Asked = Vec<AskedPool>;

/// Where there is less room below a pool than it has free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Below {
    /// Bytes that data and metadata can still get.
    pub(super) room_bytes: u64,
    /// A device whose file system lacks room.
    pub(super) path: String,
}

/// What was told of what is below a pool.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// There is less room than is promised.
    is_short: bool,
    /// These files are gone.
    gone: Option<String>,
}

/// What was seen below pools.
pub(super) struct Seen {
    /// Where there is less room than is promised.
    pub(super) below: BTreeMap<Uuid, Below>,
    /// Files of pools that are not where they were.
    pub(super) gone: BTreeMap<Uuid, Vec<String>>,
}

impl Node {
    /// What [`look`] is to look at.
    pub(super) fn asked_below(&self) -> Asked {
        self.open_pools().iter().map(|pool| self.asked_below_of(pool)).collect()
    }

    fn asked_below_of(&self, pool: &Pool<Handle>) -> AskedPool {
        let info = pool.info();
        AskedPool { pool: info.uuid, files: self.files_of(&info.devices), devices: info.devices }
    }

    /// What [`look`] has found.
    pub(super) fn set_seen(&self, seen: Seen) {
        self.0.files_gone.replace(seen.gone);
        self.set_below(seen.below);
    }

    pub(super) fn set_below(&self, found: BTreeMap<Uuid, Below>) {
        self.0.below.replace(found);
    }

    /// Looks at the file systems under a pool as long as it is open, so that who does not ask is told.
    pub(super) fn follow_below(&self, pool: &Pool<Handle>) {
        let (node, pool) = (self.clone(), pool.clone());
        self.spawn_while_open(&pool.clone(), async move {
            let uuid = pool.info().uuid;
            loop {
                let asked = vec![node.asked_below_of(&pool)];
                // A file system that does not answer keeps nobody waiting but this.
                if let Ok(mut seen) = aside(move || look(asked)).await {
                    match seen.gone.remove(&uuid) {
                        Some(gone) => drop(node.0.files_gone.borrow_mut().insert(uuid, gone)),
                        None => drop(node.0.files_gone.borrow_mut().remove(&uuid)),
                    }
                    match seen.below.remove(&uuid) {
                        Some(below) => drop(node.0.below.borrow_mut().insert(uuid, below)),
                        None => drop(node.0.below.borrow_mut().remove(&uuid)),
                    }
                    node.tell_below(&pool).await;
                    node.tell_gone(&pool).await;
                }
                node.machine().sleep(EVERY).await;
            }
        });
    }

    /// Tells whether there is less room below a pool than it has available, when that has changed. It is over when there is room for all
    /// that its files may still ask for, the metadata reserve too: a file system that others use is at the limit again and again.
    pub(super) async fn tell_below(&self, pool: &Pool<Handle>) {
        let uuid = pool.info().uuid;
        let told = self.told_below(uuid).await.is_short;
        let (info, is_short) = (pool.info(), self.0.below.borrow().contains_key(&uuid));
        let (below, available_bytes) = (self.available_below(&info), info.available_bytes);
        let now = if told { is_short } else { below.is_some() };
        self.0.below_told.borrow_mut().entry(uuid).or_default().is_short = now;
        if told != now {
            let (room_bytes, device) = below.unwrap_or((available_bytes, String::new()));
            pool.raise(SpaceEvent::RoomBelow { device, room_bytes, available_bytes, rising: now });
        }
    }

    /// Tells which files of a pool are gone, when that has changed.
    pub(super) async fn tell_gone(&self, pool: &Pool<Handle>) {
        let uuid = pool.info().uuid;
        let told = self.told_below(uuid).await.gone;
        let gone = self.0.files_gone.borrow().get(&uuid).map(|gone| gone.join(", "));
        if told != gone {
            self.0.below_told.borrow_mut().entry(uuid).or_default().gone = gone.clone();
            let (rising, files) = (gone.is_some(), gone.or(told).unwrap_or_default());
            pool.raise(SpaceEvent::FilesGone { files, rising });
        }
    }

    /// What was told last, in this life or before.
    async fn told_below(&self, pool: Uuid) -> Told {
        if let Some(told) = self.0.below_told.borrow().get(&pool) {
            return told.clone();
        }
        let alarms = self.alarms(pool).await.unwrap_or_default();
        let told = Told { is_short: alarms.room_below, gone: alarms.files_gone };
        self.0.below_told.borrow_mut().entry(pool).or_insert(told).clone()
    }

    /// What of a pool's available space its file systems have room for, and a device without; `None` where that is all of it.
    pub(super) fn available_below(&self, info: &PoolInfo) -> Option<(u64, String)> {
        let below = self.0.below.borrow().get(&info.uuid).cloned()?;
        let room_bytes = below.room_bytes.saturating_sub(info.metadata_reserve_bytes);
        (room_bytes < info.available_bytes).then_some((room_bytes, below.path))
    }
}

/// Runs what may hang with a file system, where nobody waits for it but who asked.
pub(super) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (reply, answer) = oneshot::channel();
    // Without a thread there is no answer.
    drop(std::thread::Builder::new().spawn(move || drop(reply.send(work()))));
    answer
}

/// Looks at the file systems of pools. Blocks.
pub(super) fn look(asked: Asked) -> Seen {
    let takes_more = |device: &&DeviceInfo| device.state == DeviceState::InUse;
    let taking = |devices: &[DeviceInfo]| devices.iter().filter(takes_more).cloned().collect::<Vec<_>>();
    let below = asked.iter().filter_map(|asked| Some((asked.pool, below(&taking(&asked.devices))?))).collect();
    let gone = asked.iter().map(|asked| (asked.pool, files_gone(&asked.files)));
    Seen { below, gone: gone.filter(|(_, gone)| !gone.is_empty()).collect() }
}

/// Those of the files whose name leads to nothing, or to another file: nobody could open them again by it. Blocks.
pub(super) fn files_gone(files: &[File]) -> Vec<String> {
    let is_gone = |(path, known): &&File| match std::fs::metadata(path) {
        Ok(found) => (found.dev(), found.ino()) != *known,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    files.iter().filter(is_gone).map(|(path, _)| path.clone()).collect()
}

/// What that means for a pool.
pub(super) fn open_on_gone(pool: &str, gone: &[String]) -> String {
    format!(
        "pool {pool} is open on {}, which is not there any more: if it was deleted, what it stores goes when the pool is closed",
        gone.join(", ")
    )
}

/// Where these devices have less room below them than they have free. Blocks.
pub(super) fn below(devices: &[DeviceInfo]) -> Option<Below> {
    let free: u64 = devices.iter().map(free_bytes).sum();
    // What the files of each file system may still ask of it, what it has, and one of the files.
    let mut systems: BTreeMap<u64, (u64, u64, &str)> = BTreeMap::new();
    for device in devices {
        let Some((system, unbacked, left)) = of_file(device) else { continue };
        systems.entry(system).or_insert((0, left, &device.path)).0 += unbacked;
    }
    let lacking = systems.values().map(|(unbacked, left, path)| (unbacked.saturating_sub(*left), *path));
    let (missing, path) = lacking.filter(|(missing, _)| *missing > 0).reduce(|one, other| (one.0 + other.0, one.1))?;
    Some(Below { room_bytes: free.saturating_sub(missing), path: path.to_owned() })
}

fn free_bytes(device: &DeviceInfo) -> u64 {
    device.extent_bytes_total.saturating_sub(device.used_bytes)
}

/// Of a device that is a file: its file system, what its free extents may still ask of that, and what that has for users. `None` for a
/// block device, and where nobody knows a bound.
fn of_file(device: &DeviceInfo) -> Option<(u64, u64, u64)> {
    let file = std::fs::metadata(&device.path).ok().filter(std::fs::Metadata::is_file)?;
    let system = rustix::fs::statvfs(&device.path).ok().filter(|system| system.f_blocks > 0)?;
    let unbacked = device.size_bytes.saturating_sub(file.blocks() * STAT_BLOCK_BYTES);
    Some((file.dev(), unbacked.min(free_bytes(device)), system.f_bavail.saturating_mul(system.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, size_bytes: u64, used_bytes: u64) -> DeviceInfo {
        DeviceInfo {
            uuid: Uuid::from_u128(1),
            path: path.to_owned(),
            index: 0,
            size_bytes,
            volatile_cache: false,
            rotational: false,
            extent_bytes_total: size_bytes,
            used_bytes,
            has_journal: true,
            state: DeviceState::InUse,
        }
    }

    #[test]
    fn room_is_what_the_files_have_already_and_what_their_file_system_has() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, bytes: u64| {
            let path = dir.path().join(name);
            std::fs::File::create_new(&path).and_then(|file| file.set_len(bytes)).unwrap();
            path.display().to_string()
        };
        let small = make("small.img", 1 << 20);
        assert_eq!(below(&[device(&small, 1 << 20, 0)]), None, "there is room for that");
        let system = rustix::fs::statvfs(dir.path()).unwrap();
        let all = system.f_blocks * system.f_frsize;
        let huge = make("huge.img", 2 * all);
        let found = below(&[device(&small, 1 << 20, 0), device(&huge, 2 * all, all)]).unwrap();
        assert!(found.room_bytes <= all && found.path == small, "{found:?}");
        // What it has no extents for is nothing that it asks for.
        assert_eq!(below(&[device(&huge, 2 * all, 2 * all)]), None);
        assert_eq!(below(&[device("/dev/null", 2 * all, 0)]), None, "no file");
    }
}
