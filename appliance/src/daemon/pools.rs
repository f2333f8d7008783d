//! The pools of a configuration file: known ones are open already, others are imported by their labels, and made when
//! their devices hold nothing.

use super::Config;
use crate::model::{CreatePool, ImportPool};
use crate::node::Node;
use crate::problem::Problem;

/// Brings up all configured pools. One that does not come up is logged; the others serve.
pub(super) async fn configured(node: &Node, config: &Config) {
    for pool in &config.pool {
        if node.pool_view(&pool.name).is_ok() {
            continue;
        }
        let import = ImportPool { paths: pool.devices.clone(), name: None, buffered: pool.buffered };
        let result = match node.import_pool(import).await {
            Ok(found) if found.name == pool.name => Ok(found),
            Ok(found) => {
                let detail = format!("the devices of pool {} carry pool {}, which is served", pool.name, found.name);
                Err(Problem::new("conflict", detail))
            }
            Err(problem) if problem.code == "not-a-pool" => {
                let create = CreatePool {
                    name: pool.name.clone(),
                    devices: pool.devices.clone(),
                    extent_bytes: None,
                    force: Vec::new(),
                    buffered: pool.buffered,
                };
                node.create_pool(create).await
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = result {
            tracing::error!(pool = pool.name, reason = problem.detail, "the configured pool is not served");
            node.note_not_served(&pool.name, problem);
        }
    }
}
