//! The embedded default: one pool in a sparse file and one sample vdisk, so that `plimsoll serve` shows something at
//! once. Made only once: what an operator deletes stays deleted.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::model::{CreatePool, CreateVdisk, ImportPool, PoolState, PoolView};
use crate::node::Node;
use crate::problem::{Answer, Problem};
use crate::units::iec;

const POOL: &str = "tank";
const FILE: &str = "tank.img";
/// Is there while the file is being made a pool: what was killed meanwhile is begun again.
const UNFINISHED: &str = "tank.img.unfinished";
const VDISK: &str = "disk1";
const VDISK_BYTES: u64 = 10 << 30;
const FILE_BYTES_MAX: u64 = 64 << 30;
/// Of what is free in the file system, the pool may promise itself this much: a pool whose file cannot grow answers
/// "no space under the device", which is worse for everybody than a pool that knows that it is full.
const SHARE_OF_FREE_PCT: u64 = 80;
/// Sizes are rounded down to this.
const ROUND_BYTES: u64 = 64 << 20;

/// Makes what is not there yet, through the page cache if that is allowed. Answers what was made, in lines for people.
///
/// # Errors
/// `no-direct-io` when it is not allowed and the file system has nothing else: the page cache is nobody's choice but the operator's.
pub(super) async fn embedded(node: &Node, buffered: bool) -> Answer<Vec<String>> {
    let path = node.dir().join(FILE);
    // A start that was killed behind the pool has left the vdisk to the next.
    let is_served = |pool: &PoolView| pool.name == POOL && pool.state == PoolState::Online;
    let begun = path.with_file_name(UNFINISHED).exists() && node.pools().iter().any(is_served);
    if node.embedded_made() || !(begun || node.pools().is_empty()) {
        return Ok(Vec::new());
    }
    let device = path.to_string_lossy().into_owned();
    let mut made = Vec::new();
    if path.exists() && !begun {
        let import = ImportPool { paths: vec![device.clone()], name: None, buffered, force: Vec::new() };
        match node.import_pool(import).await {
            Err(problem) if problem.code == "not-a-pool" && is_unfinished(&path) => {
                std::fs::remove_file(&path).map_err(|error| cannot_make(&path, &error))?;
            }
            // The daemon serves, so that what helps can be asked of it.
            Err(problem) if matches!(problem.code.as_str(), "damaged" | "not-a-pool") => {
                node.note_not_served(POOL, &[device], problem).await;
                return Ok(made);
            }
            imported => {
                imported.map_err(|problem| with_a_way_out(problem, node.dir()))?;
                made.push(format!("found pool {POOL} in {device}"));
            }
        }
    }
    let is_new = made.is_empty() && !begun;
    if is_new {
        let (bytes, free) = sparse_file(&path)?;
        create(node, &device, buffered).await?;
        let cache = if buffered { ", through the page cache" } else { "" };
        made.push(format!("made pool {POOL}: {device}, a sparse file of {}{cache}", iec(bytes)));
        if bytes > free / 100 * SHARE_OF_FREE_PCT {
            made.push(format!("  that is the least a pool needs; only {} are free in its file system", iec(free)));
        } else if bytes < FILE_BYTES_MAX {
            let share = format!("{SHARE_OF_FREE_PCT} % of the {} free in its file system", iec(free));
            made.push(format!("  its size is {share}; they are not set aside, others can still take them"));
        }
    }
    if path.with_file_name(UNFINISHED).exists() && node.vdisks(Some(POOL))?.is_empty() {
        let vdisk = CreateVdisk {
            name: VDISK.to_owned(),
            designated_bytes: VDISK_BYTES,
            sector_bytes: None,
            write_cache: None,
            policy: Default::default(),
        };
        let vdisk = match node.create_vdisk(POOL, vdisk).await {
            Err(problem) if !is_new => {
                // The daemon serves, so that what is wrong can be seen to.
                tracing::warn!(reason = problem.detail, "the sample vdisk is not made");
                return Ok(made);
            }
            made => made?,
        };
        made.push(format!("made vdisk {}: {}, which takes no space until it is written", vdisk.name, iec(VDISK_BYTES)));
    }
    let _ = std::fs::remove_file(path.with_file_name(UNFINISHED));
    node.set_embedded_made().await?;
    Ok(made)
}

/// Whether a start was killed before the file at `path` was a pool: it was being made one, or nothing was ever written to it.
fn is_unfinished(path: &Path) -> bool {
    let is_blank = || {
        let file = std::fs::File::open(path)?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).map_err(std::io::Error::from)
    };
    let no_data = rustix::io::Errno::NXIO.raw_os_error();
    path.with_file_name(UNFINISHED).exists() || is_blank().is_err_and(|error| error.raw_os_error() == Some(no_data))
}

async fn create(node: &Node, device: &str, buffered: bool) -> Answer<()> {
    let (name, devices) = (POOL.to_owned(), vec![device.to_owned()]);
    let request = CreatePool { name, devices, extent_bytes: None, force: Vec::new(), buffered };
    let created = node.create_pool(request).await;
    if created.is_err() {
        // The next start is to try again, not to find an empty file.
        if let Err(error) = std::fs::remove_file(device) {
            tracing::warn!(device, %error, "the file of the embedded pool stays");
        }
        let _ = std::fs::remove_file(Path::new(device).with_file_name(UNFINISHED));
    }
    created.map(drop).map_err(|problem| with_a_way_out(problem, node.dir()))
}

/// Where there is no direct I/O: a command that works here, by the name that this program was called by.
fn with_a_way_out(problem: Problem, dir: &Path) -> Problem {
    if problem.code != "no-direct-io" {
        return problem;
    }
    let program = std::env::args().next().unwrap_or_else(|| "plimsoll".to_owned());
    problem.hint(format!(
        "{program} --state-dir {0} serve --buffered goes through the page cache; or name a directory of another file system",
        dir.display()
    ))
}

fn cannot_make(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new("internal", format!("the file {} of the embedded pool cannot be made: {error}", path.display()))
        .hint("plimsoll serve --bare starts without it")
}

/// Makes the file; answers its size and what was free.
fn sparse_file(path: &Path) -> Answer<(u64, u64)> {
    let cannot = |error: std::io::Error| cannot_make(path, &error);
    let directory = path.parent().unwrap_or(path);
    let system = rustix::fs::statvfs(directory).map_err(|error| cannot(error.into()))?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let share = free / 100 * SHARE_OF_FREE_PCT / ROUND_BYTES * ROUND_BYTES;
    let bytes = share.clamp(ROUND_BYTES, FILE_BYTES_MAX);
    // What guests write is nobody else's business.
    let make = || {
        std::fs::write(path.with_file_name(UNFINISHED), "")?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.set_len(bytes)
    };
    make().map_err(cannot)?;
    Ok((bytes, free))
}

#[cfg(test)]
pub(super) mod tests {
    use plimsoll_hardware::{Reactor, ReactorConfig};

    use super::*;
    use crate::cli::hints::assert_advice_can_be_followed;

    /// A regular file whose file system has no direct I/O, and which cannot be removed.
    pub(in crate::daemon) const NOT_DIRECT: &str = "/proc/self/comm";

    pub(in crate::daemon) fn with_node<F: Future<Output = ()>>(dir: &Path, work: impl FnOnce(Node) -> F) {
        let reactor = Reactor::new(ReactorConfig { buffer_bytes: 16 << 20, ..ReactorConfig::default() }).unwrap();
        let node = Node::new(reactor.handle(), dir, None).unwrap();
        reactor.block_on(async {
            node.open_known_pools().await;
            work(node.clone()).await;
            node.close().await.unwrap();
        });
    }

    #[track_caller]
    fn assert_a_way_out(problem: &Problem, dir: &Path) {
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("no-direct-io", 4));
        assert!(problem.detail.contains("refuses direct I/O"), "{problem:?}");
        let hint = problem.hint.clone().unwrap();
        let command = format!("--state-dir {} serve --buffered", dir.display());
        assert!(hint.contains(&command), "{hint}");
        assert_advice_can_be_followed(&format!("plimsoll {command}"));
    }

    #[test]
    fn the_page_cache_is_not_taken_by_itself_where_there_is_no_direct_io() {
        let dir = tempfile::tempdir().unwrap();
        with_node(dir.path(), async |node| {
            assert_a_way_out(&create(&node, NOT_DIRECT, false).await.unwrap_err(), dir.path());
            // With the page cache it comes as far as that there is nothing in this file.
            assert_eq!(create(&node, NOT_DIRECT, true).await.unwrap_err().code, "too-small");
            assert!(node.pools().is_empty() && !node.embedded_made());
            std::os::unix::fs::symlink(NOT_DIRECT, dir.path().join(FILE)).unwrap();
            assert_a_way_out(&embedded(&node, false).await.unwrap_err(), dir.path());
        });
    }

    #[test]
    fn a_pool_whose_end_is_lost_is_not_served_and_the_daemon_is_so_that_the_hint_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        with_node(dir.path(), async |node| drop(embedded(&node, true).await.unwrap()));
        std::fs::remove_file(dir.path().join("state.json")).unwrap();
        let file = OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
        let bytes = file.metadata().unwrap().len();
        file.set_len(bytes - (32 << 20)).and_then(|()| file.set_len(bytes)).unwrap();
        with_node(dir.path(), async |node| {
            assert_eq!(embedded(&node, true).await.unwrap(), Vec::<String>::new());
            let advice = node.status().findings[0].advice.clone();
            assert!(advice.contains("plimsoll pool import") && advice.ends_with("--force=truncated"), "{advice}");
            assert_advice_can_be_followed(&advice);
            let force = vec!["truncated".to_owned()];
            let again = ImportPool { paths: Vec::new(), name: Some(POOL.into()), buffered: true, force };
            assert_eq!(node.import_pool(again).await.unwrap().state, crate::model::PoolState::Online);
        });
    }

    #[test]
    fn a_first_start_that_was_killed_before_there_was_a_pool_is_made_up_for_by_the_next() {
        use std::os::unix::fs::FileExt as _;
        for (is_marked, is_written, is_made) in
            [(true, false, true), (true, true, true), (false, false, true), (false, true, false)]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            sparse_file(&path).unwrap();
            if !is_marked {
                std::fs::remove_file(dir.path().join(UNFINISHED)).unwrap();
            }
            if is_written {
                OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"a root, or anything", 8192).unwrap();
            }
            with_node(dir.path(), async |node| {
                let made = embedded(&node, true).await.unwrap().join(" ");
                let which = format!("marked {is_marked}, written {is_written}: {made}");
                assert_eq!(
                    made.contains("made pool tank") && made.contains("made vdisk tank/disk1"),
                    is_made,
                    "{which}"
                );
                let online = node.pools().first().is_some_and(|pool| pool.state == crate::model::PoolState::Online);
                assert_eq!((online, node.embedded_made()), (is_made, is_made), "{which}");
                assert!(!dir.path().join(UNFINISHED).exists(), "{which}");
            });
        }
    }

    #[test]
    fn a_first_start_that_was_killed_behind_its_pool_is_ended_by_the_next() {
        for is_known in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let device = dir.path().join(FILE).to_string_lossy().into_owned();
            with_node(dir.path(), async |node| {
                sparse_file(&dir.path().join(FILE)).unwrap();
                create(&node, &device, true).await.unwrap();
            });
            if !is_known {
                std::fs::remove_file(dir.path().join("state.json")).unwrap();
            }
            for is_first in [true, false] {
                with_node(dir.path(), async |node| {
                    let made = embedded(&node, true).await.unwrap().join(" ");
                    assert_eq!(made.contains("made vdisk tank/disk1"), is_first, "{made}");
                    assert_eq!((node.vdisks(Some(POOL)).unwrap().len(), node.embedded_made()), (1, true));
                });
            }
        }
    }

    #[test]
    fn what_was_made_to_go_through_the_page_cache_does_so_for_good() {
        let dir = tempfile::tempdir().unwrap();
        with_node(dir.path(), async |node| {
            let made = embedded(&node, true).await.unwrap().join(" ");
            assert!(made.contains("made pool tank") && made.contains("through the page cache"), "{made}");
        });
        let state = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(state.contains(r#""buffered": true"#), "{state}");
        with_node(dir.path(), async |node| {
            assert_eq!(embedded(&node, false).await.unwrap(), Vec::<String>::new());
            assert_eq!(node.pools().first().map(|pool| pool.state), Some(crate::model::PoolState::Online));
        });
    }
}
