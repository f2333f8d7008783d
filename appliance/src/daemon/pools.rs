//! The pools of a configuration file: known ones are open already, others are imported by their labels, and made when
//! their devices hold nothing.

use super::Config;
use super::config::PoolConfig;
use crate::model::{CreatePool, ImportPool};
use crate::node::Node;
use crate::problem::{Cause, Problem};

/// Brings up all configured pools. One that does not come up is logged; the others serve.
pub(super) async fn configured(node: &Node, config: &Config) {
    for pool in &config.pool {
        node.note_configuration(&pool.name, &pool.devices);
        if node.pool_view(&pool.name).is_ok() {
            continue;
        }
        if pool.buffered {
            node.allow_buffered(&pool.devices);
        }
        if let Some(problem) = carries_another(node, pool).await {
            not_served(node, pool, problem).await;
            continue;
        }
        let import = ImportPool { paths: pool.devices.clone(), name: None, buffered: pool.buffered, force: Vec::new() };
        let result = match node.import_pool(import).await {
            Err(problem) if problem.cause() == Some(&Cause::NoLabel) => {
                let create = CreatePool {
                    name: pool.name.clone(),
                    devices: pool.devices.clone(),
                    extent_bytes: None,
                    force: Vec::new(),
                    buffered: pool.buffered,
                };
                node.create_pool(create).await
            }
            Ok(found) if found.name != pool.name => Err(another(pool, &pool.devices.join(", "), &found.name)),
            answer => answer,
        };
        if let Err(problem) = result {
            not_served(node, pool, in_a_file(problem, pool)).await;
        }
    }
}

async fn not_served(node: &Node, pool: &PoolConfig, problem: Problem) {
    tracing::error!(pool = pool.name, reason = problem.detail, "the configured pool is not served");
    node.note_not_served(&pool.name, &pool.devices, problem).await;
}

/// What is wrong when the devices of a pool belong to one of another name: that one is not served because of it.
async fn carries_another(node: &Node, pool: &PoolConfig) -> Option<Problem> {
    for path in &pool.devices {
        let found = node.pool_label_at(path).await.filter(|found| *found != pool.name);
        if let Some(found) = found {
            return Some(another(pool, path, &found));
        }
    }
    None
}

fn another(pool: &PoolConfig, path: &str, found: &str) -> Problem {
    let detail = format!("the configuration calls it {}, and {path} carries pool {found}", pool.name);
    Problem::new("conflict", detail).hint(format!("write name = \"{found}\" in its [[pool]], or other devices"))
}

/// With a hint that who wrote the file can follow: there are no options in it.
fn in_a_file(problem: Problem, pool: &PoolConfig) -> Problem {
    let name = &pool.name;
    let hint = match problem.cause() {
        // Its label alone may be damaged, and what is behind it whole.
        Some(Cause::BadLabel) => {
            "restore it from a copy, or write the devices of that pool in its [[pool]], and start again".to_owned()
        }
        // Whatever else is wrong, what it holds is a pool.
        Some(Cause::PartOf(_)) if problem.code == "in-use" => format!(
            "name the devices of that pool only, all of them; another joins it later: plimsoll pool add-device {name} --device PATH"
        ),
        Some(Cause::Guarded(check)) => {
            let devices: String = pool.devices.iter().map(|path| format!(" --device {path}")).collect();
            let buffered = if pool.buffered { " --buffered" } else { "" };
            let command = format!("plimsoll pool create {name}{devices}{buffered} --force={check}");
            format!("write other devices in its [[pool]]; or overwrite what they hold: {command}")
        }
        Some(Cause::NotThere) => format!(
            "connect it, and open it: plimsoll pool import --name {name}; if it is elsewhere: plimsoll pool import PATH..., and write \
             that in its [[pool]]"
        ),
        Some(Cause::Copies) => {
            "write only the one in its [[pool]] that was in use last, and keep the others in another directory"
                .to_owned()
        }
        _ if problem.code == "no-direct-io" => {
            "write buffered = true in its [[pool]], or devices in another file system".to_owned()
        }
        _ => return problem,
    };
    problem.hint(hint)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::embedded::tests::{NOT_DIRECT, with_node};
    use super::*;
    use crate::model::PoolState;

    /// With what is configured brought up and looked at.
    async fn looked(node: &Node, config: &Config) {
        configured(node, config).await;
        for pool in &config.pool {
            node.look_astray(&pool.name).await;
        }
    }

    fn configured_in(dir: &Path, config: &str, look: impl FnOnce(&Node)) {
        configured_then(dir, config, async |node| look(node));
    }

    /// The same, with what takes its time.
    fn configured_then(dir: &Path, config: &str, work: impl AsyncFnOnce(&Node)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let file = dir.join("config.toml");
        std::fs::write(&file, config).unwrap();
        with_node(dir, async |node| {
            looked(&node, &Config::load(&file).unwrap()).await;
            work(&node).await;
        });
    }

    fn pool(name: &str, device: &Path) -> String {
        format!("[[pool]]\nname = \"{name}\"\ndevices = [\"{}\"]\nbuffered = true\n", device.display())
    }

    #[test]
    fn a_pool_that_is_called_otherwise_on_its_devices_is_not_served_under_either_name() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let device = first.path().join("a.img");
        std::fs::File::create(&device).unwrap().set_len(128 << 20).unwrap();
        configured_in(first.path(), &pool("x", &device), |node| {
            assert_eq!(node.pool_view("x").unwrap().state, PoolState::Online);
        });
        configured_in(second.path(), &pool("z", &device), |node| {
            let pools: Vec<_> = node.pools().into_iter().map(|pool| (pool.name, pool.state)).collect();
            assert_eq!(pools, [("z".to_owned(), PoolState::Unavailable)]);
            let status = node.status();
            let [finding] = &status.findings[..] else { panic!("{:?}", status.findings) };
            assert!(finding.reason.contains("carries pool x"), "{finding:?}");
            assert!(finding.advice.contains("write name = \"x\""), "{finding:?}");
        });
        // One that is served already is no other.
        configured_in(first.path(), &pool("z", &device), |node| {
            assert_eq!(node.pool_view("x").unwrap().state, PoolState::Online);
            assert!(node.pool_view("z").unwrap().reason.is_some_and(|reason| reason.contains("carries pool x")));
        });
    }

    #[test]
    fn what_is_overwritten_only_if_somebody_says_so_is_hinted_at_with_a_command_that_does_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("foreign.img");
        let mut bytes = vec![0; 128 << 20];
        bytes[1080..1082].copy_from_slice(b"\x53\xef");
        std::fs::write(&device, bytes).unwrap();
        configured_in(dir.path(), &pool("x", &device), |node| {
            let advice = node.status().findings[0].advice.clone();
            let command = format!("plimsoll pool create x --device {} --buffered --force=foreign", device.display());
            assert!(advice.ends_with(&command), "{advice}");
            crate::cli::hints::assert_advice_can_be_followed(&advice);
        });
    }

    #[test]
    fn a_pool_that_was_never_seen_and_is_not_there_is_told_once_and_tried_again_by_its_name() {
        let (dir, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [device, there] = [dir.path(), made.path()].map(|dir| dir.join("a.img"));
        std::fs::File::create(&there).unwrap().set_len(128 << 20).unwrap();
        configured_in(made.path(), &pool("x", &there), |_| {});
        let kinds = async |node: &Node| {
            let page = node.events().list(crate::event::EventQuery::after(0, 100)).await.unwrap();
            page.items.into_iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        let again = || ImportPool { paths: Vec::new(), name: Some("x".into()), buffered: true, force: Vec::new() };
        for _ in 0..2 {
            configured_then(dir.path(), &pool("x", &device), async |node| {
                let finding = node.status().findings.remove(0);
                assert!(finding.reason.contains("pool x is not served") && finding.reason.contains("does not exist"));
                crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
                assert!(
                    finding.advice.starts_with("connect it, and open it: plimsoll pool import --name x;"),
                    "{finding:?}"
                );
                assert_eq!(super::super::serve::pool_to_try(&node.pools()), "pool show x", "it is there");
                assert_eq!(kinds(node).await, ["pool-not-served"], "once, whatever the number of starts");
                assert_eq!(node.import_pool(again()).await.unwrap_err().code, "not-found");
            });
        }
        configured_then(dir.path(), &pool("x", &device), async |node| {
            std::fs::rename(&there, &device).unwrap();
            assert_eq!(node.import_pool(again()).await.unwrap().state, PoolState::Online);
            assert_eq!(kinds(node).await.last().unwrap(), "pool-not-served-cleared");
            assert!(node.status().findings.is_empty(), "{:?}", node.status().findings);
        });
    }

    #[test]
    fn a_path_that_was_mistyped_is_not_why_a_configured_pool_is_not_served_and_that_it_cannot_be_opened_is() {
        use std::os::fd::AsRawFd as _;
        let (dir, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let there = made.path().join("a.img");
        std::fs::File::create(&there).unwrap().set_len(128 << 20).unwrap();
        configured_in(made.path(), &pool("x", &there), |_| {});
        // What it holds can be read, and not written.
        let sealed = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        let sealed_path = format!("/proc/{}/fd/{}", std::process::id(), sealed.as_raw_fd());
        std::fs::copy(&there, &sealed_path).unwrap();
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
        configured_then(dir.path(), &pool("x", &dir.path().join("gone.img")), async |node| {
            let reason = || node.pool_view("x").unwrap().reason.unwrap();
            let import = async |path: &str, name: Option<&str>| {
                let (paths, name) = (vec![path.to_owned()], name.map(str::to_owned));
                node.import_pool(ImportPool { paths, name, buffered: true, force: Vec::new() }).await.unwrap_err()
            };
            let told = async || node.events().list(crate::event::EventQuery::after(0, 100)).await.unwrap().items.len();
            import("/typo", Some("x")).await;
            assert!(reason().contains("gone.img"), "{}", reason());
            assert_eq!(told().await, 1);
            for name in [Some("x"), None] {
                let problem = import(&sealed_path, name).await;
                assert_eq!(reason(), problem.detail);
                assert!(!problem.detail.contains("gone.img"), "{problem:?}");
            }
            assert_eq!(told().await, 2);
        });
    }

    #[test]
    fn two_copies_of_one_device_are_refused_with_words_that_help_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["a.img", "b.img"].map(|name| dir.path().join(name));
        std::fs::File::create(&one).unwrap().set_len(128 << 20).unwrap();
        configured_in(dir.path(), &pool("x", &one), |_| {});
        std::fs::copy(&one, &two).unwrap();
        std::fs::remove_file(dir.path().join("state.json")).unwrap();
        let both = pool("x", &one).replace("a.img\"]", &format!("a.img\", \"{}\"]", two.display()));
        configured_in(dir.path(), &both, |node| {
            let finding = node.status().findings.remove(0);
            let named = [&one, &two].iter().all(|path| finding.reason.contains(&path.display().to_string()));
            assert!(named && finding.advice.contains("[[pool]]"), "{finding:?}");
        });
    }

    #[test]
    fn a_pool_that_is_served_from_elsewhere_than_the_configuration_has_it_is_a_finding_that_says_both() {
        let dir = tempfile::tempdir().unwrap();
        let (device, old) = (dir.path().join("a.img"), dir.path().join("old"));
        std::fs::File::create(&device).unwrap().set_len(128 << 20).unwrap();
        std::fs::create_dir(&old).unwrap();
        let copy = old.join("a.img");
        configured_in(dir.path(), &pool("x", &device), |node| {
            assert_eq!(node.status().findings, []);
        });
        std::fs::copy(&device, &copy).unwrap();
        let both = pool("x", &device).replace("a.img\"]", &format!("a.img\", \"{}\"]", copy.display()));
        for config in [pool("x", &copy), both] {
            configured_in(dir.path(), &config, |node| {
                assert_eq!(node.pool_view("x").unwrap().devices[0].path, device.display().to_string());
                let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
                let said = format!("on {}, and it is served from {}", copy.display(), device.display());
                assert!(
                    finding.reason.contains(&said)
                        && finding.reason.ends_with("holds a copy of it")
                        && finding.health == crate::model::Health::Warning,
                    "{finding:?}"
                );
                assert!(finding.advice.contains("serve what is there instead: plimsoll pool export x"), "{finding:?}");
                crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
            });
        }
        let never = dir.path().join("never.img");
        configured_in(dir.path(), &pool("x", &never), |node| {
            let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
            assert!(finding.reason.ends_with("never.img is not there"), "{finding:?}");
            assert!(finding.advice.starts_with("look first whether "), "{finding:?}");
        });
        // One that was cut off is not to be served, and what is may be an old copy of it.
        std::fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(64 << 20).unwrap();
        configured_in(dir.path(), &pool("x", &copy), |node| {
            let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
            assert!(finding.reason.contains(&format!("{} is shorter than it was", copy.display())), "{finding:?}");
            assert!(
                finding.advice.starts_with("look first whether ") && !finding.advice.contains("export"),
                "{finding:?}"
            );
        });
        // By another name of the file it is where it is said to be.
        let link = dir.path().join("link.img");
        std::os::unix::fs::symlink(&device, &link).unwrap();
        configured_in(dir.path(), &pool("x", &link), |node| assert_eq!(node.status().findings, []));
    }

    #[test]
    fn of_another_pool_on_a_configured_path_its_uuid_is_said_and_a_device_that_is_served_here_is_said_to_be() {
        let (dir, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [device, there] = [dir.path(), made.path()].map(|dir| dir.join("a.img"));
        for path in [&device, &there] {
            std::fs::File::create(path).unwrap().set_len(128 << 20).unwrap();
        }
        configured_in(dir.path(), &pool("x", &device), |_| {});
        let mut uuid = String::new();
        configured_in(made.path(), &pool("x", &there), |node| uuid = node.pool_view("x").unwrap().uuid);
        configured_in(dir.path(), &pool("x", &there), |node| {
            let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
            assert!(finding.reason.ends_with(&format!("holds another pool, x (UUID {uuid})")), "{finding:?}");
        });
        configured_then(dir.path(), &pool("y", &device), async |node| {
            let again = ImportPool { paths: Vec::new(), name: Some("y".into()), buffered: true, force: Vec::new() };
            let problem = node.import_pool(again).await.unwrap_err();
            assert_eq!(problem.code, "in-use", "{problem:?}");
            assert!(problem.detail.contains("is a device of pool x"), "{problem:?}");
        });
    }

    #[test]
    fn a_blank_device_that_is_written_into_the_configuration_joins_by_doing_what_is_advised() {
        let dir = tempfile::tempdir().unwrap();
        let [device, blank] = ["a.img", "n.img"].map(|name| dir.path().join(name));
        for path in [&device, &blank] {
            std::fs::File::create(path).unwrap().set_len(128 << 20).unwrap();
        }
        configured_in(dir.path(), &pool("x", &device), |_| {});
        let both = pool("x", &device).replace("a.img\"]", &format!("a.img\", \"{}\"]", blank.display()));
        configured_then(dir.path(), &both, async |node| {
            let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
            let command = format!("plimsoll pool add-device x --device {}", blank.display());
            assert!(finding.advice.ends_with(&command) && !finding.advice.contains("export"), "{finding:?}");
            let path = blank.display().to_string();
            let add = crate::model::AddDevice { path, force: Vec::new(), buffered: true };
            node.add_device("x", add).await.unwrap();
            node.look_astray("x").await;
            assert_eq!(node.status().findings, []);
        });
    }

    #[test]
    fn another_pool_of_the_same_name_is_served_by_doing_what_is_advised() {
        let (dir, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [device, there] = [dir.path(), made.path()].map(|dir| dir.join("a.img"));
        for path in [&device, &there] {
            std::fs::File::create(path).unwrap().set_len(128 << 20).unwrap();
        }
        configured_in(dir.path(), &pool("x", &device), |_| {});
        configured_in(made.path(), &pool("x", &there), |_| {});
        std::fs::rename(&there, &device).unwrap();
        configured_then(dir.path(), &pool("x", &device), async |node| {
            let finding = node.status().findings.remove(0);
            assert!(finding.reason.contains("belongs to pool x (UUID "), "{finding:?}");
            assert!(finding.advice.contains("plimsoll pool export x; then plimsoll pool import PATH"), "{finding:?}");
            crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
            let (paths, name) = (vec![device.display().to_string()], None);
            let import = ImportPool { paths, name, buffered: true, force: Vec::new() };
            assert!(node.import_pool(import.clone()).await.is_err());
            node.export_pool("x", &[]).await.unwrap();
            assert_eq!(node.import_pool(import).await.unwrap().state, PoolState::Online);
        });
    }

    #[test]
    fn that_a_pool_is_overwritten_is_never_advised() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [device, blank] = ["a.img", "z.img"].map(|name| dirs[0].path().join(name));
        for path in [&device, &blank] {
            std::fs::File::create(path).unwrap().set_len(128 << 20).unwrap();
        }
        configured_in(dirs[0].path(), &pool("x", &device), |node| {
            assert_eq!(node.pool_view("x").unwrap().state, PoolState::Online);
        });
        let both = pool("x", &device).replace("a.img\"]", &format!("a.img\", \"{}\"]", blank.display()));
        configured_in(dirs[1].path(), &both, |node| {
            let advice = node.status().findings.iter().map(|finding| finding.advice.clone()).collect::<String>();
            assert!(!advice.contains("--force") && !advice.contains("pool create"), "{advice}");
        });
        // Nor when its label is damaged: what is behind it may be whole.
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(&device).unwrap();
        for label in [0, (128 << 20) - 65_536] {
            file.write_all_at(&[0xff; 8], label + 99).unwrap();
        }
        let third = tempfile::tempdir().unwrap();
        configured_in(third.path(), &pool("x", &device), |node| {
            let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
            assert!(finding.reason.contains("its pool label cannot be used"), "{finding:?}");
            assert!(!finding.advice.contains("create") && finding.advice.contains("restore"), "{finding:?}");
        });
        let both = |one: &Path, other: &Path| pool("x", one).replace("\"]", &format!("\", \"{}\"]", other.display()));
        for config in [both(&blank, &device), both(&device, &blank)] {
            let dir = tempfile::tempdir().unwrap();
            configured_in(dir.path(), &config, |node| {
                let [finding] = &node.status().findings[..] else { panic!("{:?}", node.status().findings) };
                assert!(!finding.advice.contains("--force") && !finding.advice.contains("create"), "{finding:?}");
            });
        }
    }

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
