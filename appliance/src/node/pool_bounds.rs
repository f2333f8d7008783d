//! What the figures of a pool's policy can be here: by the memory of this daemon, and the file system below the pool.

use std::path::Path;

use plimsoll_hardware::Machine;

use super::Node;
use crate::model::SetPool;
use crate::policy::check_pool;
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
        let Some(keep) = request.growth.as_ref().and_then(|growth| growth.as_ref()?.keep_free_bytes?) else {
            return Ok(());
        };
        let paths: Vec<String> = pool.devices.into_iter().rev().map(|device| device.path).collect();
        let total = self.blocking(move || paths.iter().find_map(|path| file_system_bytes(Path::new(path)))).await?;
        match total.filter(|total| keep >= *total) {
            Some(total) => {
                let (keep, total) = (iec(keep), iec(total));
                let detail = format!("{keep} cannot be left free: the file system of pool {name} has {total} in all");
                Err(Problem::new("invalid-argument", detail).hint("say less than that: --keep-free 1G"))
            }
            None => Ok(()),
        }
    }
}

/// All of the file system that a regular file is on.
fn file_system_bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_blocks * found.f_frsize)
}
