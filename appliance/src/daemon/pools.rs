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

#[cfg(test)]
mod tests {
    use super::super::embedded::tests::{NOT_DIRECT, with_node};
    use super::*;
    use crate::model::PoolState;

    #[test]
    fn a_configured_pool_goes_through_the_page_cache_when_that_is_said_and_is_refused_where_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("tank.img");
        std::fs::File::create_new(&device).and_then(|file| file.set_len(128 << 20)).unwrap();
        let file = dir.path().join("config.toml");
        let config = |device: &str, buffered: &str| {
            std::fs::write(&file, format!("[[pool]]\nname = \"tank\"\ndevices = [\"{device}\"]\n{buffered}")).unwrap();
            Config::load(&file).unwrap()
        };
        with_node(dir.path(), async |node| {
            configured(&node, &config(NOT_DIRECT, "")).await;
            let findings = node.status().findings;
            let told = |words: &str| findings.iter().any(|finding| finding.to_string().contains(words));
            assert!(told("refuses direct I/O") && told("buffered = true"), "{findings:?}");
        });
        with_node(dir.path(), async |node| {
            configured(&node, &config(&device.display().to_string(), "buffered = true")).await;
            assert_eq!(node.pool_view("tank").unwrap().state, PoolState::Online);
        });
        let state = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
        assert!(state.contains(r#""buffered": true"#), "{state}");
    }
}
