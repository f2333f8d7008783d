//! Pools that grow by themselves: when so much of one is used, or its devices have no room below them, a spare device is added, or the
//! file that it is made of enlarged. A spare that could not be added is refused when it is named.
//!
//! One task for each open pool waits for the level to be reached; nothing is asked again and again but, after it could not grow,
//! whether it can by now. What could not be done is said once, and once more when the reason changes.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use plimsoll_engine::{DEVICE_BYTES_MIN, DeviceInfo, DeviceState, GrowthPlan, Pool, SpaceEvent};
use plimsoll_hardware::reactor::Handle;
use plimsoll_hardware::{Device as _, Machine as _};
use uuid::Uuid;

use super::Node;
use super::machine::{Purpose, absolute, same_file};
use super::pool_create::force_of;
use super::state::GrowthRecord;
use crate::model::{AddDevice, GrowPool, GrowthPolicy, GrowthView};
use crate::problem::{Answer, Problem};
use crate::units::iec;

/// Between two attempts while it is impossible: spares come back and file systems are tidied without telling us.
const AGAIN: Duration = Duration::from_secs(5);
/// Least that a file is enlarged by.
const STEP_BYTES_MIN: u64 = 64 << 20;
/// Left free in the file system, unless said otherwise.
const KEEP_FREE_BYTES: u64 = 1 << 30;

/// What is known of a pool that grows by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Growing {
    pub(super) impossible: Option<String>,
}

impl Node {
    /// The policy of a pool, and whether it works.
    pub(super) fn growth_view(&self, pool: Uuid) -> Option<GrowthView> {
        let policy = self.growth_policy(pool)?;
        let impossible = self.0.growing.borrow().get(&pool).and_then(|growing| growing.impossible.clone());
        Some(GrowthView { policy, impossible })
    }

    /// Refuses a policy that makes no sense or cannot be followed; answers it as it is to be remembered.
    pub(super) async fn check_growth(
        &self,
        pool: &Pool<Handle>,
        growth: Option<GrowthPolicy>,
    ) -> Answer<Option<GrowthPolicy>> {
        match growth {
            Some(policy) => self.checked(pool, policy).await.map(Some),
            None => Ok(None),
        }
    }

    /// Remembers how a pool grows by itself from now on, which was checked.
    pub(super) async fn set_growth(&self, pool: Uuid, checked: Option<GrowthPolicy>) -> Answer<()> {
        self.remember(|state| {
            state.growth.retain(|known| known.pool != pool);
            state.growth.extend(checked.map(|policy| GrowthRecord { pool, policy }));
        })
        .await?;
        self.0.growing.borrow_mut().remove(&pool);
        let open = self.open_pools().into_iter().find(|open| open.info().uuid == pool);
        if let Some(pool) = open.filter(|open| !self.must_grow(open)) {
            // What was told of it is over; if it must grow, the next attempt says how that goes.
            pool.raise(SpaceEvent::GrowthPossible);
        }
        self.0.growth_changed.notify_waiters();
        Ok(())
    }

    /// Whether a pool is to grow by itself now.
    fn must_grow(&self, pool: &Pool<Handle>) -> bool {
        let info = pool.info();
        let used = u128::from(info.physical_bytes - info.available_bytes) * 100;
        self.growth_policy(info.uuid)
            .is_some_and(|policy| used >= u128::from(info.physical_bytes) * u128::from(policy.at_pct))
    }

    /// What [`Node::set_growth`] would lead to, a sentence each.
    pub(super) async fn plan_growth(&self, pool: &Pool<Handle>, growth: Option<GrowthPolicy>) -> Answer<Vec<String>> {
        let name = pool.info().name;
        let Some(policy) = growth else {
            return Ok(vec![format!("let pool {name} grow only when it is told to")]);
        };
        let policy = self.checked(pool, policy).await?;
        let mut steps = vec![format!("grow pool {name} when {} % of it are used", policy.at_pct)];
        steps.extend(policy.spares.iter().map(|path| format!("then add {path}, which loses what is on it")));
        steps
            .extend(policy.grow_file_to_bytes.map(|bytes| format!("then enlarge its last file, up to {}", iec(bytes))));
        Ok(steps)
    }

    async fn checked(&self, pool: &Pool<Handle>, policy: GrowthPolicy) -> Answer<GrowthPolicy> {
        let name = pool.info().name;
        let refuse = |detail: String| Err(Problem::new("invalid-argument", detail).hint("plimsoll pool set --help"));
        if !(1..=99).contains(&policy.at_pct) {
            return refuse(format!("a pool cannot grow at {} %; 1 to 99 make sense", policy.at_pct));
        }
        if policy.spares.is_empty() && policy.grow_file_to_bytes.is_none() {
            return refuse(format!(
                "pool {name} has nothing to grow by: neither a spare device nor a size of its file"
            ));
        }
        let limit = policy.grow_file_to_bytes.unwrap_or(u64::MAX);
        let known = self.growth_policy(pool.info().uuid);
        let is_new = known.as_ref().is_none_or(|known| known.grow_file_to_bytes != policy.grow_file_to_bytes);
        if let Some(file) = last_file(pool)?.filter(|file| is_new && limit < file.found_bytes) {
            let (path, has, limit) = (file.path, iec(file.found_bytes), iec(limit));
            return refuse(format!(
                "{path} has {has} already: it cannot grow to {limit}, and files are never made smaller"
            ));
        }
        if let Some(step) = policy.step_bytes.filter(|step| !(STEP_BYTES_MIN.min(limit)..=limit).contains(step)) {
            return refuse(format!(
                "a file cannot grow by {} at a time; {} to {} make sense",
                iec(step),
                iec(STEP_BYTES_MIN.min(limit)),
                iec(limit)
            ));
        }
        let spares: Vec<String> = policy.spares.iter().map(|path| absolute(path)).collect();
        if let Some((_, twice)) =
            spares.iter().enumerate().find(|(index, path)| spares[..*index].iter().any(|other| same_file(other, path)))
        {
            return refuse(format!("{twice} is named twice"));
        }
        let force = force_of(&policy.force, &["foreign"])?.contains(&"foreign");
        for path in &spares {
            self.check_spare(pool.info().uuid, path, force).await?;
            // One that is a spare already may be in use for a while.
            if known.as_ref().is_none_or(|known| !known.spares.contains(path)) {
                drop(self.open_device(path, Purpose::Claim).await?);
            }
        }
        Ok(GrowthPolicy { spares, ..policy })
    }

    /// Refuses a spare that could not be added if it were needed now, and one that somebody else counts on.
    async fn check_spare(&self, pool: Uuid, path: &str, force: bool) -> Answer<()> {
        if let Some(other) = self.spare_of(path, Some(pool)) {
            return Err(Problem::new("in-use", format!("{path} is a spare of pool {other}"))
                .hint(format!("plimsoll pool show {other}")));
        }
        let device = self.look_at_new(path, Purpose::Look, force).await?;
        let (size, minimum) = (device.geometry().size, DEVICE_BYTES_MIN);
        if size < minimum {
            return Err(plimsoll_engine::Error::TooSmall { path: path.to_owned(), size, minimum }.into());
        }
        Ok(())
    }

    /// The pool here, other than `own`, that counts on a device; none when it is a spare of `own` as well.
    pub(super) fn spare_of(&self, path: &str, own: Option<Uuid>) -> Option<String> {
        let state = self.0.state.borrow();
        let names = |known: &&GrowthRecord| known.policy.spares.iter().any(|spare| same_file(spare, path));
        let counting: Vec<Uuid> = state.growth.iter().filter(names).map(|known| known.pool).collect();
        if own.is_some_and(|own| counting.contains(&own)) {
            return None;
        }
        state.pools.iter().find(|known| counting.contains(&known.uuid)).map(|known| known.name.clone())
    }

    /// How a pool grows by itself.
    pub(super) fn growth_policy(&self, pool: Uuid) -> Option<GrowthPolicy> {
        let state = self.0.state.borrow();
        state.growth.iter().find(|known| known.pool == pool).map(|known| known.policy.clone())
    }

    /// Lets an open pool grow by itself as long as it is open.
    pub(super) fn follow_growth(&self, pool: &Pool<Handle>) {
        let (node, pool) = (self.clone(), pool.clone());
        self.spawn(async move {
            let uuid = pool.info().uuid;
            loop {
                let changed = node.0.growth_changed.notified();
                let Some(policy) = node.growth_policy(uuid) else {
                    // Closing a pool changes its members as far as we hear.
                    tokio::select! {
                        () = changed => continue,
                        open = pool.members_changed() => if open { continue } else { return },
                    }
                };
                tokio::select! {
                    () = changed => continue,
                    open = pool.used_reaches(policy.at_pct) => if !open { return },
                }
                let grown = node.grow_by(&pool, &policy).await;
                if node.note_growth(&pool, grown) {
                    // Not when it is needed again, but in time to give it another.
                    if node.growth_policy(uuid).is_some_and(|policy| is_spent(&policy)) {
                        node.note_growth(&pool, Err(no_spare(&pool.info().name, policy.at_pct)));
                    }
                    continue;
                }
                let changed = node.0.growth_changed.notified();
                tokio::select! {
                    () = changed => {}
                    () = node.machine().sleep(AGAIN) => {}
                    open = pool.members_changed() => {
                        if !open {
                            return;
                        }
                        // Somebody has helped.
                        node.0.growing.borrow_mut().remove(&uuid);
                    }
                }
            }
        });
    }

    /// Remembers how it went; answers whether it went well.
    fn note_growth(&self, pool: &Pool<Handle>, grown: Answer<()>) -> bool {
        if grown.as_ref().is_err_and(|problem| problem.code == "closing") {
            return false;
        }
        let info = pool.info();
        let mut all = self.0.growing.borrow_mut();
        let growing = all.entry(info.uuid).or_default();
        let impossible = grown.err().map(|problem| problem.detail);
        if let Some(reason) = &impossible {
            if growing.impossible != impossible {
                tracing::warn!(pool = info.name, reason, "a pool cannot grow by itself");
            }
            // Told once for a reason; after growth by hand it is news again.
            pool.raise(SpaceEvent::GrowthImpossible { reason: reason.clone() });
        }
        growing.impossible = impossible;
        growing.impossible.is_none()
    }

    /// Grows a pool by one step: what its file has become larger by, the first spare that can be added, else a larger file. When another
    /// policy is in force by the time it is our turn, nothing is done: what was a spare may be somebody's data now.
    pub(super) async fn grow_by(&self, pool: &Pool<Handle>, policy: &GrowthPolicy) -> Answer<()> {
        let _turn = self.turn().await?;
        let (name, uuid) = (pool.info().name, pool.info().uuid);
        if !self.pool(&name).is_ok_and(|served| served.info().uuid == uuid) {
            return Err(Problem::new("closing", format!("pool {name} is closing")));
        }
        if self.growth_policy(uuid).as_ref() != Some(policy) {
            return Ok(());
        }
        let (mut problem, mut is_unused) = (None, false);
        // A crash may have come between making it larger and using that.
        if let (Some(limit), Some(file)) = (policy.grow_file_to_bytes, last_file(pool)?)
            && file.gained_bytes > 0
            && file.found_bytes <= limit
        {
            match self.use_growth(&name, &file).await {
                Ok(()) => return Ok(()),
                Err(error) => (problem, is_unused) = (Some(error), true),
            }
        }
        for path in &policy.spares {
            let (force, buffered) = (policy.force.clone(), self.is_buffered(path));
            match self.add_in_turn(&name, AddDevice { path: path.clone(), force, buffered }).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let detail = format!("spare {path}: {}", error.detail);
                    tracing::warn!(pool = name, reason = detail, "a spare cannot be added");
                    let detail =
                        problem.map_or(detail.clone(), |before: Problem| format!("{}; {detail}", before.detail));
                    problem = Some(Problem { detail, ..error });
                }
            }
        }
        if let Some(limit) = policy.grow_file_to_bytes.filter(|_| !is_unused) {
            return self.enlarge(pool, limit, policy).await;
        }
        Err(problem.unwrap_or_else(|| no_spare(&name, policy.at_pct)))
    }

    /// Enlarges the pool's last file by a step, and uses that.
    async fn enlarge(&self, pool: &Pool<Handle>, limit: u64, policy: &GrowthPolicy) -> Answer<()> {
        let name = pool.info().name;
        let Some(file) = last_file(pool)? else {
            let detail = format!("pool {name} is made of no file that could be enlarged and stays in it");
            return Err(Problem::new("conflict", detail));
        };
        let step = policy.step_bytes.unwrap_or_else(|| (file.size_bytes / 8).max(STEP_BYTES_MIN.min(limit)));
        let (path, keep) = (file.path.clone(), policy.keep_free_bytes.unwrap_or(KEEP_FREE_BYTES));
        self.blocking(move || extend_file(&path, step, limit, keep)).await??;
        self.use_growth(&name, &file).await
    }

    async fn use_growth(&self, pool: &str, file: &GrowthPlan) -> Answer<()> {
        self.grow_in_turn(pool, GrowPool { device: Some(file.device.to_string()) }).await.map(drop)
    }
}

/// Whether nothing is left to grow by.
fn is_spent(policy: &GrowthPolicy) -> bool {
    policy.spares.is_empty() && policy.grow_file_to_bytes.is_none()
}

fn no_spare(pool: &str, at_pct: u8) -> Problem {
    Problem::new("conflict", format!("pool {pool} has no spare device left"))
        .hint(format!("plimsoll pool set {pool} --auto-grow-at {at_pct}% --spare PATH"))
}

/// The last device of a pool that is a file and is not leaving it.
fn last_file(pool: &Pool<Handle>) -> Answer<Option<GrowthPlan>> {
    let (info, plans) = (pool.info(), pool.growth_plans()?);
    let stays = |device: &&DeviceInfo| device.state == DeviceState::InUse && is_file(&device.path);
    let last = info.devices.iter().rev().find(stays);
    Ok(last.and_then(|device| plans.into_iter().find(|plan| plan.device == device.uuid)))
}

fn is_file(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && !found.file_type().is_block_device())
}

/// Enlarges a file by `step`, at most to `limit`, and leaves `keep` bytes of its file system free. Blocks.
fn extend_file(path: &str, step: u64, limit: u64, keep: u64) -> Answer<()> {
    let failed = |error: std::io::Error| Problem::new("device-error", format!("{path} cannot be enlarged: {error}"));
    let file = std::fs::OpenOptions::new().write(true).open(Path::new(path)).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size >= limit {
        return Err(Problem::new("conflict", format!("{path} has {}, the most that it may have", iec(size)))
            .hint("plimsoll pool set POOL --grow-file-to SIZE, or --spare PATH"));
    }
    let wanted = (size.saturating_add(step)).min(limit) / 4096 * 4096;
    let found = rustix::fs::fstatvfs(&file).map_err(|errno| failed(errno.into()))?;
    let free = found.f_bavail * found.f_frsize;
    if wanted <= size {
        return Err(Problem::new("conflict", format!("{path} has {}, nearly the most that it may have", iec(size)))
            .hint("plimsoll pool set POOL --grow-file-to SIZE, or --spare PATH"));
    }
    if free < keep.saturating_add(wanted - size) {
        // Without what is free: that moves, and a reason is told anew when it changes.
        let (more, keep) = (iec(wanted - size), iec(keep));
        let detail = format!(
            "{path} cannot be enlarged by {more}: its file system has not so much beyond the {keep} that are to stay free"
        );
        return Err(
            Problem::new("device-no-space", detail).hint("free space there; plimsoll pool set POOL --spare PATH")
        );
    }
    file.set_len(wanted).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_by_steps_up_to_its_limit_and_never_fills_its_file_system() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pool.img");
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a file");
        let text = path.display().to_string();
        let size = || std::fs::metadata(&path).expect("the file").len();
        extend_file(&text, 1 << 20, 3 << 20, 0).expect("a step");
        assert_eq!(size(), 2 << 20);
        extend_file(&text, 5 << 20, 3 << 20, 0).expect("the rest");
        assert_eq!(size(), 3 << 20);
        assert_eq!(extend_file(&text, 1 << 20, 3 << 20, 0).expect_err("the limit").code, "conflict");
        let full = extend_file(&text, 1 << 20, 9 << 20, u64::MAX / 2).expect_err("the file system");
        assert_eq!(full.code, "device-no-space");
        assert_eq!(size(), 3 << 20);
    }
}
