//! `vdisk delete`: at once for the caller; its space comes back in a job.

use plimsoll_engine::{Pool, VdiskInfo};
use plimsoll_hardware::Handle;

use super::Node;
use super::exports::connected;
use super::jobs::view;
use super::pool_create::force_of;
use super::vdisk_set::check_version;
use crate::model::{JobView, Plan};
use crate::name::VdiskName;
use crate::problem::Answer;
use crate::units::iec;

impl Node {
    /// Deletes a vdisk. `version`, when given, must be the one that it has.
    ///
    /// # Errors
    /// `in-use` while clients are connected, unless `force` has `in-use`; `version-mismatch`.
    pub async fn delete_vdisk(&self, name: &VdiskName, force: &[String], version: Option<String>) -> Answer<JobView> {
        let uuid = self.find_vdisk(name)?.1.uuid;
        self.set_leaving(uuid);
        let deleted = self.delete_leaving(name, force, version).await;
        self.set_staying(uuid);
        deleted
    }

    async fn delete_leaving(&self, name: &VdiskName, force: &[String], version: Option<String>) -> Answer<JobView> {
        let (pool, info) = self.prepare_delete_vdisk(name, force, version)?;
        let pool_name = pool.info().name;
        self.close_export(&format!("{pool_name}/{}", info.name)).await;
        let job = pool.delete_vdisk(&info.name).await?;
        tracing::info!(vdisk = format!("{pool_name}/{}", info.name), "vdisk deleted");
        if let Err(problem) = self.forget_exports(info.uuid).await {
            // A record of a vdisk that is gone does nothing: UUIDs never come back.
            tracing::warn!(reason = problem.detail, "its export could not be forgotten");
        }
        Ok(view(&pool_name, &job))
    }

    /// What [`Node::delete_vdisk`] would do.
    ///
    /// # Errors
    /// As [`Node::delete_vdisk`].
    pub fn plan_delete_vdisk(&self, name: &VdiskName, force: &[String], version: Option<String>) -> Answer<Plan> {
        let (pool, info) = self.prepare_delete_vdisk(name, force, version)?;
        let full = format!("{}/{}", pool.info().name, info.name);
        let mut plan = Plan::of([format!("delete vdisk {full} of {}", iec(info.size))]);
        plan.frees_bytes = Some(info.backed_bytes);
        Ok(plan)
    }

    fn prepare_delete_vdisk(
        &self,
        name: &VdiskName,
        force: &[String],
        version: Option<String>,
    ) -> Answer<(Pool<Handle>, VdiskInfo)> {
        let force = force_of(force, &["in-use"])?;
        let (pool, info) = self.find_vdisk(name)?;
        let full = format!("{}/{}", pool.info().name, info.name);
        check_version(&self.vdisk_view(&pool.info().name, &info), version.as_deref())?;
        let clients = self.clients_of(&full);
        if clients > 0 && !force.contains(&"in-use") {
            return Err(connected(clients, &format!("vdisk {full}"))
                .hint(format!("disconnect them; or plimsoll vdisk delete {full} --force=in-use")));
        }
        Ok((pool, info))
    }
}
