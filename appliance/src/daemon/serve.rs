//! The life of the daemon, in order.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_hardware::{Reactor, ReactorConfig};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::descriptors::raise_limit;
use super::embedded::embedded;
use super::listen::bind;
use super::{Config, pools, signals};
use crate::api;
use crate::model::{PoolState, PoolView};
use crate::node::Node;
use crate::node::directory::{StateDir, control_socket};
use crate::problem::{Answer, Problem};
use crate::units::printable;

/// Threads of the API: it does little and waits a lot.
const API_THREADS: usize = 2;
/// Memory for I/O: at the default limits 8 connections can be as busy as they may be, and more share it.
const BUFFER_BYTES_DEFAULT: u64 = 128 << 20;
/// A stop takes no longer than this.
const STOP_TIME_MAX: Duration = Duration::from_secs(40);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// `--state-dir`, else the configuration's, else `./plimsoll-data`.
    pub state_dir: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--bare`: no embedded pool.
    pub bare: bool,
    /// `--buffered`: the embedded pool may go through the page cache.
    pub buffered: bool,
    /// `--nbd-listen`, instead of loopback port 10809.
    pub nbd_listen: Vec<SocketAddr>,
}

/// The state directory when nobody names one.
pub const STATE_DIR_DEFAULT: &str = "plimsoll-data";

/// Serves until a signal comes.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn serve(options: &ServeOptions) -> Answer<()> {
    let config = options.config.as_deref().map(Config::load).transpose()?.unwrap_or_default();
    super::start_logging(config.log.as_deref());
    let dir = options.state_dir.clone().or_else(|| config.state_dir.clone());
    let dir = StateDir::lock(&dir.unwrap_or_else(|| STATE_DIR_DEFAULT.into()))?;
    let internal = |what: &str, error: &dyn std::fmt::Display| Problem::new("internal", format!("{what}: {error}"));
    let buffer_bytes = config.memory.buffer_bytes.unwrap_or(BUFFER_BYTES_DEFAULT);
    let buffer_bytes = usize::try_from(buffer_bytes).unwrap_or(usize::MAX);
    let reactor = Reactor::new(ReactorConfig { buffer_bytes, ..ReactorConfig::default() })
        .map_err(|error| internal("the reactor does not start", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(API_THREADS)
        .thread_name("plimsoll-api")
        .enable_all()
        .build()
        .map_err(|error| internal("the API's threads do not start", &error))?;
    let node = Node::new(reactor.handle(), dir.path(), config.memory.mapping_cache_bytes)?;
    let served = reactor.block_on(live(&node, &runtime, options, &config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(node);
    drop(reactor);
    served
}

async fn live(node: &Node, runtime: &Runtime, options: &ServeOptions, config: &Config) -> Answer<()> {
    let _inside = runtime.enter();
    let stop = signals::first_signal()
        .map_err(|error| Problem::new("internal", format!("signals cannot be waited for: {error}")))?;
    let started = start(node, runtime, options, config).await;
    let (server, lines) = match started {
        Ok(started) => started,
        Err(problem) => {
            if let Err(unclean) = node.close().await {
                tracing::error!(reason = unclean.detail, "the daemon that did not start did not stop cleanly");
            }
            return Err(problem);
        }
    };
    node.set_ready();
    say(&lines);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that we are ready");
    }
    let signal = stop.await.unwrap_or("the end of the signal task");
    tracing::info!(signal, "stopping");
    // Who waits for us is told; whether systemd is there or not makes no difference.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let ending = async {
        // Who listens to events would listen for ever.
        node.events().end();
        on(runtime, server.stop()).await;
        node.close().await
    };
    match node.machine().timeout(STOP_TIME_MAX, ending).await {
        Ok(Ok(())) => tracing::info!("stopped cleanly"),
        Ok(Err(unclean)) => return Err(unclean),
        Err(late) => {
            tracing::error!(%late, "the stop takes too long; pools recover when they are opened");
            // Dropping the reactor would wait for what does not end.
            std::process::exit(1);
        }
    }
    Ok(())
}

async fn start(
    node: &Node,
    runtime: &Runtime,
    options: &ServeOptions,
    config: &Config,
) -> Answer<(api::ApiServer, Vec<String>)> {
    let asked = Some(&options.nbd_listen).filter(|asked| !asked.is_empty()).or(config.nbd.listen.as_ref());
    let bound = bind(node, asked.map(Vec::as_slice))?;
    let limits = config.event_limits();
    node.events().set_keep(limits.keep);
    if let Some(seconds) = config.audit.every_seconds {
        node.set_audit_every(Some(Duration::from_secs(seconds)).filter(|every| !every.is_zero()));
    }
    node.webhooks().start(limits).await;
    for pool in &config.pool {
        // A known one that is not where it was may be there.
        node.note_configuration(&pool.name, &pool.devices);
    }
    node.open_known_pools().await;
    pools::configured(node, config).await;
    let mut lines = vec![format!("plimsoll {}, state in {}", env!("CARGO_PKG_VERSION"), node.dir().display())];
    let embed = !options.bare && options.config.is_none();
    if embed {
        lines.extend(embedded(node, options.buffered).await?);
    }
    let notes = bound.serve(node, config.nbd_limits(), raise_limit());
    let _inside = runtime.enter();
    let server = api::serve(&control_socket(node.dir()), api::router(node.link()))?;
    lines.extend(node.status().findings.iter().map(ToString::to_string));
    lines.extend(notes);
    lines.push(format!("NBD at {}", node.nbd_uris().join(" and ")));
    lines.push("try:".to_owned());
    lines.extend(to_try(node).into_iter().map(|line| format!("  {line}")));
    Ok((server, lines))
}

/// Three commands that work now.
fn to_try(node: &Node) -> [String; 3] {
    let same = Path::new(STATE_DIR_DEFAULT).canonicalize().is_ok_and(|default| default == node.dir());
    let plimsoll = if same { "plimsoll".to_owned() } else { format!("plimsoll --state-dir {}", node.dir().display()) };
    let vdisks = node.vdisks(None).unwrap_or_default();
    let exports = node.exports().unwrap_or_default();
    let second = match (vdisks.first(), exports.first().and_then(|export| export.uris.first())) {
        (Some(_), Some(uri)) => format!("qemu-img info '{uri}'"),
        _ => format!("{plimsoll} device list"),
    };
    [format!("{plimsoll} status"), second, format!("{plimsoll} {}", pool_to_try(&node.pools()))]
}

/// A command for a pool that takes writes, else for one that is there and has to be looked at, else for the first.
pub(super) fn pool_to_try(pools: &[PoolView]) -> String {
    match (pools.iter().find(|pool| pool.state == PoolState::Online), pools.first()) {
        (Some(pool), _) => format!("vdisk create {}/db1 --size 100G", pool.name),
        (None, Some(pool)) => format!("pool show {}", pool.name),
        (None, None) => "pool create tank --device PATH".to_owned(),
    }
}

/// Prints lines and `ready`. A reader that went away is no reason to stop serving.
fn say(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    let all = lines.iter().map(String::as_str).chain(["ready"]);
    for line in all {
        if let Err(error) = writeln!(out, "{}", printable(line)).and_then(|()| out.flush()) {
            tracing::debug!(%error, "nobody reads stdout");
            return;
        }
    }
}

/// Runs a future on the runtime and waits for it on the reactor.
async fn on<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) {
    let (done, ended) = oneshot::channel();
    runtime.spawn(async move {
        // The receiver waits for it below.
        let _ = done.send(work.await);
    });
    // A task that panicked has ended as well.
    let _ = ended.await;
}
