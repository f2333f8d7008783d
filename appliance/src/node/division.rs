//! How the space behind something, and the size that it shows, are divided. Everybody who shows such figures asks here.

use plimsoll_engine::VdiskInfo;

/// Parts of what is backed, and of what is designated: of a vdisk, of a tenant's, or of all of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Division {
    /// Of what is backed, what no other vdisk or snapshot names.
    pub(super) exclusive_bytes: u64,
    /// Of what is backed, what others name too.
    pub(super) shared_bytes: u64,
    /// Of what is designated, what regulation files hold back.
    pub(super) regulation_bytes: u64,
    /// Of what is designated, the rest.
    pub(super) effective_bytes: u64,
}

impl Division {
    /// Nothing is shared before there are snapshots, and nothing held back before there are links to guests.
    pub(super) fn of(backed_bytes: u64, designated_bytes: u64) -> Self {
        let (shared_bytes, regulation_bytes) = (0, 0);
        Self {
            exclusive_bytes: backed_bytes - shared_bytes,
            shared_bytes,
            regulation_bytes,
            effective_bytes: designated_bytes - regulation_bytes,
        }
    }

    /// Of a vdisk.
    pub(super) fn of_vdisk(vdisk: &VdiskInfo) -> Self {
        Self::of(vdisk.backed_bytes, vdisk.size)
    }
}
