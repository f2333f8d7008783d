//! The end: nobody new is served, what is under way is finished within a bound, every pool is closed cleanly.

use std::time::Duration;

use plimsoll_engine::{Error, Pool};
use plimsoll_hardware::SharedMemory;
use plimsoll_hardware::reactor::Handle;

use super::{Node, Slot};
use crate::problem::{Answer, Problem};

/// Requests under way may take this long at a stop.
const GRACE: Duration = Duration::from_secs(2);
/// A clean close of a pool is a flush and a checkpoint; a device that takes longer is left to recovery.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);

impl Node {
    /// Stops serving and closes all pools.
    ///
    /// # Errors
    /// `not-closed` with the pools that were not closed cleanly, and why.
    pub async fn close(&self) -> Answer<()> {
        self.0.closing.set(true);
        self.stop_exports(GRACE).await;
        let pools = std::mem::take(&mut *self.0.pools.borrow_mut());
        let mut unclean = Vec::new();
        let mut is_broken = false;
        let mut generations = Vec::new();
        for (name, slot) in pools {
            let Slot::Open(pool) = slot else { continue };
            match self.machine().timeout(CLOSE_TIME_MAX, pool.close()).await {
                Ok(Ok(())) => {
                    forget_crash_memory(&pool);
                    let info = pool.info();
                    generations.push((info.uuid, info.generation));
                    tracing::info!(pool = name, "pool closed");
                }
                Ok(Err(error)) => {
                    is_broken |= !matches!(error, Error::ClosedFull { .. });
                    unclean.push(not_closed(&name, &error));
                }
                Err(late) => unclean.push(format!("pool {name}: {late}")),
            }
        }
        if self.unkept().is_some() || !generations.is_empty() {
            // Once more what could not be kept, now that it counts. How it went is noted.
            let _ = self
                .note(|state| {
                    for pool in &mut state.pools {
                        let closed = generations.iter().find(|(uuid, _)| *uuid == pool.uuid);
                        pool.generation = closed.map_or(pool.generation, |(_, generation)| *generation);
                    }
                })
                .await;
        }
        if unclean.is_empty() {
            return Ok(());
        }
        let detail = format!("not closed cleanly: {}", unclean.join("; "));
        let first = if is_broken { "mend that first; then " } else { "" };
        Err(Problem::new("not-closed", detail)
            .hint(format!("{first}start it again: pools recover when they are opened")))
    }
}

/// Why a pool was not closed cleanly.
pub(super) fn not_closed(pool: &str, error: &Error) -> String {
    match error {
        // It names the pool, and nothing has to be mended.
        Error::ClosedFull { .. } => error.to_string(),
        _ => format!("pool {pool}: {error}"),
    }
}

/// A pool that was closed cleanly needs nothing of it; one that takes no writes may. Its devices are still locked.
pub(super) fn forget_crash_memory(pool: &Pool<Handle>) {
    if pool.read_only().is_none()
        && let Some(name) = pool.crash_memory()
        && let Err(error) = SharedMemory::remove(&name)
    {
        tracing::debug!(%error, "crash memory of a closed pool stays behind");
    }
}
