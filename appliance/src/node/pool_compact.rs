//! `pool compact`: putting thinly used extents together.

use super::Node;
use crate::model::JobView;
use crate::problem::Answer;

impl Node {
    /// Begins to put thinly used extents of a pool together; the job that is under way, if there is one.
    ///
    /// # Errors
    /// `not-found`, the engine's reasons.
    pub fn compact_pool(&self, name: &str) -> Answer<JobView> {
        let pool = self.pool(name)?;
        let job = pool.compact()?;
        tracing::info!(pool = name, "thinly used extents are put together");
        Ok(super::jobs::view(&pool.info().name, &job))
    }
}
