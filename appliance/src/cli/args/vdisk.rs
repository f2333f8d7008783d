//! `vdisk`, `tenant`, and their words.

use clap::{Args, Subcommand};

use super::{Danger, DryRun, Wait};
use crate::name::VdiskName;
use crate::units::{Size, SizeError};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Vdisk {
    /// List vdisks
    #[command(visible_alias = "ls", before_help = examples!["plimsoll vdisk list", "plimsoll vdisk list --pool tank --sort -backed_bytes"])]
    List {
        /// Only those of this pool
        #[arg(long)]
        pool: Option<String>,
    },
    /// Show a vdisk
    ///
    /// backed is the physical space behind it; the reservation is space that is its own, reserved what of that is not in use yet.
    #[command(before_help = examples!["plimsoll vdisk show tank/db1", "plimsoll vdisk show tank/db1 --bytes"])]
    Show { vdisk: VdiskName },
    /// Make a vdisk
    #[command(before_help = examples!["plimsoll vdisk create tank/db1 --size 2T", "plimsoll vdisk create tank/db1 --size 100G --sector 4096"])]
    Create(VdiskCreate),
    /// Change a vdisk
    #[command(visible_alias = "resize", before_help = examples!["plimsoll vdisk set tank/db1 --size +10G", "plimsoll vdisk set tank/db1 --on-full fail --quota 500G"])]
    Set(VdiskSet),
    /// Delete a vdisk
    #[command(visible_alias = "rm", before_help = examples!["plimsoll vdisk delete tank/db1", "plimsoll vdisk delete tank/db1 --yes --force=in-use"])]
    Delete {
        vdisk: VdiskName,
        #[command(flatten)]
        danger: Danger,
        #[command(flatten)]
        wait: Wait,
        /// Succeed when it is not there
        #[arg(long)]
        if_exists: bool,
        /// Only if it has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VdiskCreate {
    pub(in crate::cli) vdisk: VdiskName,
    /// Size shown to the guest: 10G is 10 GiB, 10GB is 10^10 bytes, 80% is of the pool
    #[arg(long, allow_hyphen_values = true)]
    pub(in crate::cli) size: Size,
    /// What the initiator addresses: 512 or 4096
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(in crate::cli) sector: Option<Size>,
    /// off: every acknowledged write survives power loss
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    pub(in crate::cli) write_cache: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) promises: VdiskPromises,
    #[command(flatten)]
    pub(in crate::cli) how: DryRun,
    /// Succeed when it is there already
    #[arg(long)]
    pub(in crate::cli) if_not_exists: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VdiskSet {
    pub(in crate::cli) vdisk: VdiskName,
    /// New size; +10G is relative, 150% is of the size now
    #[arg(long, allow_hyphen_values = true)]
    pub(in crate::cli) size: Option<Size>,
    /// What writes are looked through for: zeros=on|off, patterns=on|off
    #[arg(long, value_name = "WHAT=on|off", value_delimiter = ',', value_parser = detection)]
    pub(in crate::cli) detect: Vec<(Detected, bool)>,
    /// Make a pattern of the pool this vdisk's own; none takes that away
    #[arg(long, value_name = "NUMBER|none", value_parser = own_pattern)]
    pub(in crate::cli) pattern: Option<u16>,
    #[command(flatten)]
    pub(in crate::cli) promises: VdiskPromises,
    /// Give up what is backed beyond the new size
    #[arg(long)]
    pub(in crate::cli) discard_tail: bool,
    /// Only if it has this version
    #[arg(long, value_name = "VERSION")]
    pub(in crate::cli) if_version: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    #[command(flatten)]
    pub(in crate::cli) how: DryRun,
}

/// What writes are looked through for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Detected {
    Zeros,
    Patterns,
}

fn detection(text: &str) -> Result<(Detected, bool), String> {
    let (what, on) = text.split_once('=').unwrap_or((text, ""));
    let what = match what {
        "zeros" => Detected::Zeros,
        "patterns" => Detected::Patterns,
        _ => return Err("say zeros=on, zeros=off, patterns=on or patterns=off".to_owned()),
    };
    match on {
        "on" => Ok((what, true)),
        "off" => Ok((what, false)),
        _ => Err("it is on or off".to_owned()),
    }
}

/// A size, or `none`, which the API writes as 0.
pub(in crate::cli) fn bound(text: &str) -> Result<Size, SizeError> {
    if text == "none" { Ok(Size::Exact(0)) } else { text.parse() }
}

/// As [`bound`]: a quota of nothing is surely not meant to be none.
fn quota(text: &str) -> Result<Size, String> {
    match bound(text).map_err(|error| error.to_string())? {
        Size::Exact(0) if text != "none" => Err("nothing at all cannot be a quota; none is no bound".to_owned()),
        size => Ok(size),
    }
}

fn own_pattern(text: &str) -> Result<u16, String> {
    match text {
        "none" => Ok(0),
        number => {
            number.parse().ok().filter(|&number| number > 0).ok_or_else(|| "a number from 1 on, or none".to_owned())
        }
    }
}

/// What is promised to a vdisk, and what becomes of its writes when there is no space.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct VdiskPromises {
    /// Whose it is; empty: nobody's
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) tenant: Option<String>,
    /// The virtual machine it belongs to; empty: none
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) vm: Option<String>,
    /// What becomes of writes when there is no space, those that wait already, too: hold(20s), hold for the usual time, which is the default, or fail
    #[arg(long, value_name = "POLICY", allow_hyphen_values = true)]
    pub(in crate::cli) on_full: Option<String>,
    /// Physical space that is its own whatever others take; none takes it away
    #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, value_parser = bound)]
    pub(in crate::cli) reservation: Option<Size>,
    /// Physical space that it may not exceed, in whole extents; none is no bound
    #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, value_parser = quota)]
    pub(in crate::cli) quota: Option<Size>,
    /// Shares of its size at which events rise: 70%,85%,95%; or sizes, off or default
    #[arg(long, value_name = "LEVELS", allow_hyphen_values = true)]
    pub(in crate::cli) thresholds: Option<String>,
    /// Shares of its quota at which events rise, the same
    #[arg(long, value_name = "LEVELS", allow_hyphen_values = true)]
    pub(in crate::cli) quota_thresholds: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Tenant {
    /// List tenants
    #[command(visible_alias = "ls", before_help = examples!["plimsoll tenant list", "plimsoll tenant list --filter 'used_pct>80'"])]
    List,
    /// Bound what a tenant may use of a pool, and decide when that is told
    #[command(before_help = examples!["plimsoll tenant set acme --pool tank --quota 2T", "plimsoll tenant set acme --pool tank --quota none"])]
    Set {
        tenant: String,
        /// The pool
        #[arg(long)]
        pool: String,
        /// Physical space that its vdisks there may not exceed together, in whole extents; none is no bound, and forgets a tenant that
        /// has no vdisks
        #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, required_unless_present = "thresholds", value_parser = quota)]
        quota: Option<Size>,
        /// Shares of its quota at which events rise: 70%,85%,95%; or sizes, off or default
        #[arg(long, value_name = "LEVELS", allow_hyphen_values = true)]
        thresholds: Option<String>,
        #[command(flatten)]
        how: DryRun,
    },
}
