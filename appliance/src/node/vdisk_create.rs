//! `vdisk create`: a new thin vdisk. It needs no space until it is written to.

use plimsoll_engine as engine;

use super::Node;
use super::levels::check_vdisk_levels;
use super::promises::check_vdisk;
use super::vdisk_plan::policy_steps;
use super::vdisk_set::{policy_of, promise};
use crate::model::{CreateVdisk, Plan, VdiskView, WriteCache};
use crate::name::{self, VdiskName};
use crate::problem::{Answer, Problem};
use crate::units::{counted, iec};

/// Largest vdisk: 16 PiB, what the format's tree of mapping pages covers.
const VDISK_BYTES_MAX: u64 = 16 << 50;
const SECTOR_BYTES_DEFAULT: u32 = 512;

impl Node {
    /// Makes a vdisk.
    ///
    /// # Errors
    /// `invalid-name`, `invalid-argument`, `exists`, and the pool's reasons.
    pub async fn create_vdisk(&self, pool: &str, request: CreateVdisk) -> Answer<VdiskView> {
        let spec = self.prepare_vdisk(pool, &request)?;
        let pool = self.pool(pool)?;
        let info = pool.create_vdisk(spec).await?;
        let view = self.vdisk_view(&pool.info().name, &info);
        tracing::info!(vdisk = view.name, bytes = info.size, "vdisk created");
        Ok(view)
    }

    /// What [`Node::create_vdisk`] would do.
    ///
    /// # Errors
    /// As [`Node::create_vdisk`].
    pub fn plan_create_vdisk(&self, pool: &str, request: &CreateVdisk) -> Answer<Plan> {
        let spec = self.prepare_vdisk(pool, request)?;
        let info = self.pool(pool)?.info();
        let designated = info.designated_bytes.saturating_add(spec.size);
        let name = format!("{}/{}", info.name, spec.name);
        let made = format!("create vdisk {name} of {} ({} bytes)", iec(spec.size), spec.size);
        let mut plan = Plan::of([made, promise(&info, designated)]);
        let usual = engine::VdiskPolicy::default();
        plan.steps.extend(policy_steps(&name, info.extent_bytes.into(), None, &usual, &spec.policy));
        plan.needs_bytes = Some(spec.policy.reservation);
        Ok(plan)
    }

    fn prepare_vdisk(&self, pool: &str, request: &CreateVdisk) -> Answer<engine::CreateVdisk> {
        name::check("vdisk", &request.name)?;
        let pool = self.pool(pool)?;
        let full = format!("{}/{}", pool.info().name, request.name);
        if self.find_vdisk(&VdiskName { pool: pool.info().name, vdisk: request.name.clone() }).is_ok() {
            return Err(
                Problem::new("exists", format!("vdisk {full} exists")).hint(format!("plimsoll vdisk show {full}"))
            );
        }
        let sector = request.sector_bytes.unwrap_or(SECTOR_BYTES_DEFAULT);
        if sector != 512 && sector != 4096 {
            return Err(Problem::new(
                "invalid-argument",
                format!("sectors of {sector} bytes cannot be; 512 and 4096 can"),
            )
            .hint(format!("plimsoll vdisk create {full} --size 10G --sector 4096")));
        }
        check_size(request.designated_bytes, sector, &full)?;
        let policy = policy_of(engine::VdiskPolicy::default(), &request.policy)?;
        check_vdisk(&pool, &full, None, &request.policy, &policy)?;
        check_vdisk_levels(&full, &request.policy, &policy, request.designated_bytes)?;
        let spec = engine::CreateVdisk {
            name: request.name.clone(),
            size: request.designated_bytes,
            sector,
            write_through: request.write_cache == Some(WriteCache::Off),
            policy,
        };
        pool.check_create_vdisk(&spec)?;
        Ok(spec)
    }
}

/// Whether a vdisk can have this size.
pub(super) fn check_size(bytes: u64, sector: u32, vdisk: &str) -> Answer<()> {
    let reason = if bytes == 0 {
        "it must have at least one sector".to_owned()
    } else if !bytes.is_multiple_of(u64::from(sector)) {
        format!("it must be a multiple of the sector size, {sector} bytes")
    } else if bytes > VDISK_BYTES_MAX {
        format!("at most {} ({VDISK_BYTES_MAX} bytes) can be", iec(VDISK_BYTES_MAX))
    } else {
        return Ok(());
    };
    Err(Problem::new("invalid-argument", format!("vdisk {vdisk} cannot have {}: {reason}", counted(bytes, "byte")))
        .hint("give a size such as 10G, 2T or 512M"))
}
