//! Changing a vdisk: its size, what was decided for it, the pattern that is its own. All of a change is put in force in one step, or
//! nothing of it.
//!
//! What a change of the size needs (a look at what would be cut off, zeros in the last block) takes time. It is decided before that, so
//! that nothing is done for what is refused, and once more when the change is put in force: then by what is the case then.

use plimsoll_hardware::Machine;

use super::Pool;
use crate::error::{Error, Result};
use crate::format::{Entry, EntryState, PatternId, VdiskPolicy};
use crate::vdisk::{VdiskCore, VdiskInfo};

/// Attempts, before a vdisk that is written or resized all the while is called busy.
const LOOKS_MAX: u32 = 16;

/// What an operator sets of a vdisk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdiskSettings {
    /// Designated size in bytes.
    pub size: u64,
    /// What was decided for it.
    pub policy: VdiskPolicy,
    /// The number of the pattern that is its own.
    pub pattern: Option<u16>,
}

impl From<&VdiskInfo> for VdiskSettings {
    fn from(info: &VdiskInfo) -> Self {
        VdiskSettings { size: info.size, policy: info.policy.clone(), pattern: info.pattern }
    }
}

impl<M: Machine> Pool<M> {
    /// Changes a vdisk. `change` gets what is known of it and answers what it is to have; it is asked more than once, and what it
    /// answered last is in force before anything else can happen. A smaller size is refused when that would cut off backed blocks, unless
    /// `discard_tail`; then the size is cut at once and the space comes back in a job.
    ///
    /// # Errors
    /// What `change` answers. `NotFound` for the vdisk and its pattern, `InvalidArgument`, `LimitExceeded` when the pool may or can not
    /// promise so much, `WouldCutOff`, `Busy` while it is shrinking, `OutOfSpace` and `QuotaExceeded` when its last block is part of a
    /// fill and needs an extent, `ReadOnly`, `Device`. The vdisk is unchanged then.
    pub async fn change_vdisk<E: From<Error>>(
        &self,
        name: &str,
        discard_tail: bool,
        change: impl Fn(&VdiskInfo) -> Result<VdiskSettings, E>,
    ) -> Result<VdiskInfo, E> {
        let store = &self.store;
        let vdisk = self.find(name)?;
        let extent_bytes = store.media.extent_bytes;
        let decide = |before: &Entry| -> Result<Entry, E> {
            store.still_there(&vdisk)?;
            Ok(self.changed(&vdisk, before, change(&vdisk.info(extent_bytes))?)?)
        };
        for _ in 0..LOOKS_MAX {
            let before = vdisk.entry.borrow().clone();
            let (old, seen) = (before.size, vdisk.first_writes.get());
            let after = decide(&before)?;
            if after == before {
                return Ok(vdisk.info(extent_bytes));
            }
            let size = after.size;
            if size < old && !discard_tail {
                let backed = store.backed_beyond(&vdisk, size).await?;
                if backed > 0 {
                    return Err(Error::WouldCutOff { vdisk: self.object(&vdisk), size, backed }.into());
                }
            }
            if size > old {
                store.zero_tail(&vdisk).await?;
            }
            let mut again = false;
            let put = store.change_entry(&vdisk, |entry| -> Result<Entry, E> {
                let after = decide(&entry)?;
                // What was written since the look may lie beyond the new size.
                let written = size < old && !discard_tail && vdisk.first_writes.get() != seen;
                again = written || after.size != size || entry.size != old;
                if again { Err(self.restless(&vdisk).into()) } else { Ok(after) }
            });
            match put.await {
                Err(_) if again => continue,
                put => put?,
            }
            store.holds.look_again();
            if size < old {
                store.start_giving_back(&vdisk);
            }
            return Ok(vdisk.info(extent_bytes));
        }
        Err(self.restless(&vdisk).into())
    }

    /// Says whether a vdisk may have these settings, and changes nothing. What would be cut off is not looked for.
    ///
    /// # Errors
    /// As [`Pool::change_vdisk`].
    pub fn check_change(&self, name: &str, settings: VdiskSettings) -> Result<()> {
        let vdisk = self.find(name)?;
        let before = vdisk.entry.borrow().clone();
        self.changed(&vdisk, &before, settings).map(drop)
    }

    /// Changes the designated size only.
    ///
    /// # Errors
    /// As [`Pool::change_vdisk`].
    pub async fn resize_vdisk(&self, name: &str, size: u64, discard_tail: bool) -> Result<VdiskInfo> {
        self.change_vdisk(name, discard_tail, |now| Ok(VdiskSettings { size, ..now.into() })).await
    }

    /// Changes what was decided for a vdisk only.
    ///
    /// # Errors
    /// As [`Pool::change_vdisk`].
    pub async fn set_vdisk_policy(&self, name: &str, policy: VdiskPolicy) -> Result<VdiskInfo> {
        self.change_vdisk(name, false, |now| Ok(VdiskSettings { policy: policy.clone(), ..now.into() })).await
    }

    /// Changes what writes to a vdisk are looked through for only; `None` leaves it as it is.
    ///
    /// # Errors
    /// As [`Pool::change_vdisk`].
    pub async fn set_detection(&self, name: &str, zeros: Option<bool>, patterns: Option<bool>) -> Result<VdiskInfo> {
        let change = |now: &VdiskInfo| {
            let mut settings = VdiskSettings::from(now);
            settings.policy.keep_zeros = zeros.map_or(settings.policy.keep_zeros, |on| !on);
            settings.policy.keep_patterns = patterns.map_or(settings.policy.keep_patterns, |on| !on);
            Ok(settings)
        };
        self.change_vdisk(name, false, change).await
    }

    /// Makes a pattern the vdisk's own only, or takes that away.
    ///
    /// # Errors
    /// As [`Pool::change_vdisk`].
    pub async fn set_own_pattern(&self, name: &str, pattern: Option<u16>) -> Result<VdiskInfo> {
        self.change_vdisk(name, false, |now| Ok(VdiskSettings { pattern, ..now.into() })).await
    }

    /// What an entry becomes by settings that make sense and can be kept.
    fn changed(&self, vdisk: &VdiskCore, before: &Entry, settings: VdiskSettings) -> Result<Entry> {
        let store = &self.store;
        let VdiskSettings { size, policy, pattern } = settings;
        super::policy::verify(&policy)?;
        let pattern = match pattern {
            Some(number) if before.pattern != Some(PatternId(number)) => Some(self.known_pattern(number)?.id),
            pattern => pattern.map(PatternId),
        };
        let mut after = Entry { size, policy, pattern, ..before.clone() };
        if size != before.size {
            store.check_size(size, before.sector)?;
            if before.state != EntryState::Ready {
                let reason = "it is still giving back what lay beyond its last size; see plimsoll job list".into();
                return Err(Error::Busy { object: self.object(vdisk), reason });
            }
        }
        if size < before.size {
            let (object, reserved) = (self.object(vdisk), after.policy.reservation);
            if size < reserved {
                return Err(Error::InvalidArgument(format!(
                    "{object} has a reservation of {reserved} bytes, which is more than {size}; lower that first (plimsoll vdisk set \
                     {object} --reservation SIZE)"
                )));
            }
            (after.state, after.discard_from) = (EntryState::Shrinking, before.size);
        }
        store.check_promises(vdisk, Some(before), &after)?;
        Ok(after)
    }

    fn object(&self, vdisk: &VdiskCore) -> String {
        format!("{}/{}", self.store.identity.name, vdisk.name())
    }

    fn restless(&self, vdisk: &VdiskCore) -> Error {
        let reason = "it is being written or resized all the while; try again when it is quiet".into();
        Error::Busy { object: self.object(vdisk), reason }
    }
}
