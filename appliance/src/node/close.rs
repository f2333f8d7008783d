//! The end: nobody new is served, what is under way is finished within a bound, every pool is closed cleanly.

use std::time::Duration;

use super::{Node, Slot};

/// Requests under way may take this long at a stop.
const GRACE: Duration = Duration::from_secs(2);
/// A clean close of a pool is a flush and a checkpoint; a device that takes longer is left to recovery.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);

impl Node {
    /// Stops serving and closes all pools. Answers whether all of them were closed cleanly.
    pub async fn close(&self) -> bool {
        self.0.closing.set(true);
        self.stop_exports(GRACE).await;
        let pools = std::mem::take(&mut *self.0.pools.borrow_mut());
        let mut clean = true;
        for (name, slot) in pools {
            let Slot::Open(pool) = slot else { continue };
            match self.machine().timeout(CLOSE_TIME_MAX, pool.close()).await {
                Ok(Ok(())) => tracing::info!(pool = name, "pool closed"),
                Ok(Err(error)) => {
                    clean = false;
                    tracing::error!(pool = name, %error, "the pool could not be closed cleanly; it recovers when opened");
                }
                Err(late) => {
                    clean = false;
                    tracing::error!(pool = name, %late, "the pool could not be closed in time; it recovers when opened");
                }
            }
        }
        clean
    }
}
