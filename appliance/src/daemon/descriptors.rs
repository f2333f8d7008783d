//! File descriptors. Clients take one each, and when they took the last one the daemon could open no device, save no state
//! and accept no operator; so the soft limit is raised to the hard one, and clients have only what is left beside a reserve.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::export::nbd::NbdLimits;

/// Kept for the daemon: 128 connections of the API, 64 devices with their lock and journal, and as much again for
/// listeners, io_uring, the state file and whoever is accepted only to be refused.
const RESERVE: u64 = 512;
/// Above it the limit is as good as none.
const LIMIT_MAX: u64 = 1 << 20;

/// Raises the soft limit as far as we may. Answers what holds then.
pub(super) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let soft = current.unwrap_or(LIMIT_MAX);
    let wanted = maximum.unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    if soft >= wanted {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, soft, wanted, "the limit of open files cannot be raised");
            soft
        }
    }
}

/// `limits` for each of `listeners` listeners, so that all their clients leave the reserve alone. Half of the
/// descriptors serve clients when there are fewer than two reserves.
pub(super) fn share(limits: NbdLimits, descriptors: u64, listeners: usize) -> NbdLimits {
    let all = descriptors.saturating_sub(RESERVE).max(descriptors / 2);
    let each = (all / listeners.max(1) as u64).max(1);
    let each = usize::try_from(each).unwrap_or(usize::MAX);
    if each >= limits.connections {
        return limits;
    }
    tracing::warn!(
        wanted = limits.connections,
        connections = each,
        descriptors,
        "fewer clients are served: raise the limit of open files (LimitNOFILE=, ulimit -n)"
    );
    limits.with_connections(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let found = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current.unwrap_or(LIMIT_MAX), found);
        assert!(found >= maximum.unwrap_or(LIMIT_MAX).min(LIMIT_MAX));
    }

    #[test]
    fn clients_never_have_what_the_daemon_needs() {
        for descriptors in [64, 1024, 4096, 20_000, LIMIT_MAX] {
            for listeners in 1..5 {
                let limits = share(NbdLimits::default(), descriptors, listeners);
                let clients = (limits.connections * listeners) as u64;
                assert!(clients + RESERVE.min(descriptors / 2) <= descriptors, "{descriptors} for {listeners}");
                assert!(limits.connections >= 1 && limits.negotiating <= NbdLimits::default().negotiating);
            }
        }
        assert_eq!(share(NbdLimits::default(), 20_000, 2).connections, NbdLimits::default().connections);
    }
}
