//! Making everything written survive power loss.

use futures_util::future::join_all;
use plimsoll_hardware::{IoError, Machine};

use super::Media;

impl<M: Machine> Media<M> {
    /// Flushes every device that was written to. After one failure no flush succeeds any more in this life: the device
    /// may have dropped what it could not write, and would not say so again.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        if let Some(error) = self.flush_failed.borrow().clone() {
            return Err(error);
        }
        let disks = self.disks();
        let results = match &disks[..] {
            [only] => vec![only.flush().await],
            _ => join_all(disks.iter().map(|disk| disk.flush())).await,
        };
        for result in results {
            if let Err(error) = result {
                self.flush_failed.replace(Some(error.clone()));
                return Err(error);
            }
        }
        Ok(())
    }
}
