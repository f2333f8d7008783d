//! The embedded default: one pool in a sparse file and one sample vdisk, so that `plimsoll serve` shows something at
//! once. Made only once: what an operator deletes stays deleted.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::model::{CreatePool, CreateVdisk, ImportPool};
use crate::node::Node;
use crate::problem::{Answer, Problem};
use crate::units::iec;

const POOL: &str = "tank";
const FILE: &str = "tank.img";
const VDISK: &str = "disk1";
const VDISK_BYTES: u64 = 10 << 30;
const FILE_BYTES_MAX: u64 = 64 << 30;
/// Of what is free in the file system, the pool may promise itself this much: a pool whose file cannot grow answers
/// "no space under the device", which is worse for everybody than a pool that knows that it is full.
const SHARE_OF_FREE_PCT: u64 = 80;
/// Sizes are rounded down to this.
const ROUND_BYTES: u64 = 64 << 20;

/// Makes what is not there yet. Answers what was made, in lines for people.
pub(super) async fn embedded(node: &Node) -> Answer<Vec<String>> {
    if node.embedded_made() || !node.pools().is_empty() {
        return Ok(Vec::new());
    }
    let path = node.dir().join(FILE);
    let device = path.to_string_lossy().into_owned();
    let mut made = Vec::new();
    if path.exists() {
        node.import_pool(ImportPool { paths: vec![device.clone()], name: None, buffered: false }).await?;
        made.push(format!("found pool {POOL} in {device}"));
    } else {
        let (bytes, free) = sparse_file(&path)?;
        let buffered = create(node, &device).await?;
        let cache = if buffered { ", through the page cache because its file system has no direct I/O" } else { "" };
        made.push(format!("made pool {POOL}: {device}, a sparse file of {}{cache}", iec(bytes)));
        if bytes > free / 100 * SHARE_OF_FREE_PCT {
            made.push(format!("  that is the least a pool needs; only {} are free in its file system", iec(free)));
        } else if bytes < FILE_BYTES_MAX {
            let share = format!("{SHARE_OF_FREE_PCT} % of the {} free in its file system", iec(free));
            made.push(format!("  its size is {share}; they are not set aside, others can still take them"));
        }
        let vdisk = CreateVdisk {
            name: VDISK.to_owned(),
            designated_bytes: VDISK_BYTES,
            sector_bytes: None,
            write_cache: None,
            policy: Default::default(),
        };
        let vdisk = node.create_vdisk(POOL, vdisk).await?;
        made.push(format!("made vdisk {}: {}, which takes no space until it is written", vdisk.name, iec(VDISK_BYTES)));
    }
    node.set_embedded_made().await?;
    Ok(made)
}

async fn create(node: &Node, device: &str) -> Answer<bool> {
    let request = |buffered| CreatePool {
        name: POOL.to_owned(),
        devices: vec![device.to_owned()],
        extent_bytes: None,
        force: Vec::new(),
        buffered,
    };
    let (created, buffered) = match node.create_pool(request(false)).await {
        Err(problem) if problem.code == "no-direct-io" => {
            tracing::warn!(device, "no direct I/O here, the page cache is used");
            (node.create_pool(request(true)).await, true)
        }
        created => (created, false),
    };
    if let Err(problem) = created {
        // The next start is to try again, not to find an empty file.
        if let Err(error) = std::fs::remove_file(device) {
            tracing::warn!(device, %error, "the file of the embedded pool stays");
        }
        return Err(problem);
    }
    Ok(buffered)
}

/// Makes the file; answers its size and what was free.
fn sparse_file(path: &Path) -> Answer<(u64, u64)> {
    let cannot = |error: std::io::Error| {
        Problem::new("internal", format!("the file {} of the embedded pool cannot be made: {error}", path.display()))
            .hint("plimsoll serve --bare starts without it")
    };
    let directory = path.parent().unwrap_or(path);
    let system = rustix::fs::statvfs(directory).map_err(|error| cannot(error.into()))?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let share = free / 100 * SHARE_OF_FREE_PCT / ROUND_BYTES * ROUND_BYTES;
    let bytes = share.clamp(ROUND_BYTES, FILE_BYTES_MAX);
    // What guests write is nobody else's business.
    let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.set_len(bytes);
    make().map_err(cannot)?;
    Ok((bytes, free))
}
