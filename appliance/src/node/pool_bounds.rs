//! What the figures of a pool's policy can be here: by the memory of this daemon, and the file system below the pool.

use std::path::Path;

use plimsoll_engine::PoolInfo;
use plimsoll_hardware::Machine;

use super::Node;
use super::levels::check_reachable;
use crate::model::SetPool;
use crate::policy::{check_pool, levels};
use crate::problem::{Answer, Problem};
use crate::units::iec;

impl Node {
    /// Refuses figures that could never be in force.
    ///
    /// # Errors
    /// `not-found`, `unavailable`, `invalid-argument` with what can be.
    pub async fn check_pool_bounds(&self, name: &str, request: &SetPool) -> Answer<()> {
        let pool = self.pool(name)?.info();
        check_pool(request, self.machine().buffers().bytes() as u64)?;
        check_levels(request, &pool)?;
        let Some(growth) = request.growth.as_ref().and_then(Option::as_ref) else { return Ok(()) };
        let (keep, grow_to) = (growth.keep_free_bytes.flatten(), growth.grow_file_to_bytes.flatten());
        let paths: Vec<String> = pool.devices.into_iter().rev().map(|device| device.path).collect();
        let total = self.blocking(move || paths.iter().find_map(|path| file_system_bytes(Path::new(path)))).await?;
        let Some(total) = total else { return Ok(()) };
        if let Some(keep) = keep.filter(|keep| *keep >= total) {
            let (keep, total) = (iec(keep), iec(total));
            let detail = format!("{keep} cannot be left free: the file system of pool {name} has {total} in all");
            return Err(Problem::new("invalid-argument", detail).hint("say less than that: --keep-free 1G"));
        }
        if let Some(bytes) = grow_to.filter(|bytes| *bytes > total) {
            let (bytes, total) = (iec(bytes), iec(total));
            let detail =
                format!("the file of pool {name} cannot grow to {bytes}: its file system can hold {total} in all");
            return Err(Problem::new("invalid-argument", detail).hint("say less than that: --grow-file-to SIZE"));
        }
        Ok(())
    }
}

fn check_levels(request: &SetPool, pool: &PoolInfo) -> Answer<()> {
    let levels = request.thresholds.as_deref().map(levels).transpose()?;
    levels.map_or(Ok(()), |levels| check_reachable(&levels, &format!("pool {} has", pool.name), pool.physical_bytes))
}

/// All of the file system that a regular file is on.
fn file_system_bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_blocks * found.f_frsize)
}
