//! `pool delete`: the end of a pool. Its labels are overwritten, so that no scan finds it again.

use plimsoll_engine::Error;
use plimsoll_hardware::{Device as _, Machine as _};
use uuid::Uuid;

use super::exports::connected;
use super::machine::{BLOCK_MARK, Purpose};
use super::pool_create::force_of;
use super::{Device, Node};
use crate::model::Plan;
use crate::problem::{Answer, Problem};
use crate::units::counted;

/// What is overwritten at both ends of a device. Labels and roots lie there (FORMAT.md); what lies between is worth
/// nothing without them.
const WIPE_BYTES: u64 = 4 << 20;

impl Node {
    /// Destroys a pool.
    ///
    /// # Errors
    /// `not-empty` while it has vdisks, unless `force` has `not-empty`; `in-use` while clients are connected, unless `force` has `in-use`;
    /// `device-missing` when a file of it was deleted or moved; `unavailable` when it is not open, because then its devices cannot be
    /// reached.
    pub async fn delete_pool(&self, name: &str, force: &[String]) -> Answer<()> {
        let _turn = self.turn().await?;
        // What cannot be opened again cannot be wiped.
        self.refuse_to_lose(name).await?;
        self.room_to_remember().await?;
        // Nothing may come between what this looks at and the end.
        let (name, paths) = self.prepare_delete(name, force)?;
        let pool = self.pool(&name)?;
        let uuid = pool.info().uuid;
        // One that is not closed cleanly is wiped as well.
        let _ = self.take_out(&name).await;
        self.forget(&name).await?;
        self.forget_losses(uuid).await;
        if let Some(memory) = pool.crash_memory() {
            self.machine().remove_crash_memory(&memory);
        }
        drop(pool);
        let mut wiped = Ok(());
        for path in &paths {
            wiped = wiped.and(self.wipe(path, uuid).await);
        }
        tracing::info!(pool = name, "pool deleted");
        wiped
    }

    /// What [`Node::delete_pool`] would do.
    ///
    /// # Errors
    /// As [`Node::delete_pool`].
    pub async fn plan_delete_pool(&self, name: &str, force: &[String]) -> Answer<Plan> {
        self.refuse_to_lose(name).await?;
        let (name, paths) = self.prepare_delete(name, force)?;
        let info = self.pool(&name)?.info();
        let mut plan = Plan::of([format!("destroy pool {name} with {}", counted(info.vdisks, "vdisk"))]);
        plan.steps.extend(paths.iter().map(|path| format!("overwrite the labels on {path}")));
        plan.frees_bytes = Some(info.utilized_bytes + info.metadata_bytes);
        Ok(plan)
    }

    fn prepare_delete(&self, name: &str, force: &[String]) -> Answer<(String, Vec<String>)> {
        let force = force_of(force, &["not-empty", "in-use"])?;
        let info = self.pool(name)?.info();
        let name = info.name;
        if info.vdisks > 0 && !force.contains(&"not-empty") {
            return Err(Problem::new("not-empty", format!("pool {name} has {}", counted(info.vdisks, "vdisk")))
                .hint(format!("plimsoll vdisk list --pool {name}; or plimsoll pool delete {name} --force=not-empty")));
        }
        let clients = self.pool_clients(&name);
        if clients > 0 && !force.contains(&"in-use") {
            return Err(connected(clients, &format!("vdisks of pool {name}"))
                .hint("plimsoll export list; or say --force=in-use as well"));
        }
        Ok((name, info.devices.into_iter().map(|device| device.path).collect()))
    }

    pub(super) async fn wipe(&self, path: &str, pool: Uuid) -> Answer<()> {
        // Its lock is free when the last I/O of the closed pool has ended, which the open waits for.
        let before = self.mark_of(path).filter(|mark| mark != BLOCK_MARK);
        let (device, label) = self.open_looked_at(path, Purpose::Serve).await?;
        match label {
            Ok(Some(label)) if label.pool == pool => {}
            // Its labels are damaged, and it is the file that the pool was open on.
            Err(Error::NotAPool { .. } | Error::Device(_)) | Ok(None)
                if before.is_some() && before == self.mark_of(path) => {}
            Err(Error::Shortened { uuids: (of, _), .. }) if of == pool => {}
            _ => {
                let detail = format!(
                    "the pool is gone, and {path} was left as it is: what it holds now is not a device of that pool"
                );
                return Err(Problem::new("conflict", detail).hint(format!("plimsoll device show {path}")));
            }
        }
        wipe_ends(&device).await.map_err(|error| Problem::from(plimsoll_engine::Error::Device(error)))?;
        match plimsoll_engine::identify(self.machine(), &device).await {
            Ok(Some(label)) => Err(Problem::new(
                "internal",
                format!("{path} still carries the label of pool {} after it was wiped", label.pool_name),
            )),
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

async fn wipe_ends(device: &Device) -> Result<(), plimsoll_hardware::IoError> {
    let size = device.geometry().size;
    let bytes = WIPE_BYTES.min(size);
    device.write_zeroes(0, bytes).await?;
    device.write_zeroes(size - bytes, bytes).await?;
    device.flush().await
}
