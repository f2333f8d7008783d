//! `pool` and its words.

use clap::{Args, Subcommand};

use super::vdisk::bound;
use super::{Danger, DryRun, Force, Wait};
use crate::policy::HYSTERESIS_PCT_MAX;
use crate::units::Size;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Pool {
    /// List pools
    #[command(visible_alias = "ls", before_help = examples!["plimsoll pool list", "plimsoll pool list --filter 'used_pct>80'"])]
    List,
    /// Show a pool
    ///
    /// physical is utilized (data), metadata, metadata reserve (kept so that metadata never runs out), reserved (promised and not in use),
    /// held (space for writes under way), quarantined (freed, usable as soon as that is durable) and available. held writes wait for
    /// space, with their data in memory, up to hold_bytes_max; refused writes (COUNTERS) got none. designated is what all vdisks may come to; overcommit is designated minus physical.
    #[command(before_help = examples!["plimsoll pool show tank", "plimsoll pool show tank --json"])]
    Show { pool: String },
    /// Make a pool
    #[command(before_help = examples!["plimsoll pool create tank --device /dev/nvme0n1", "plimsoll pool create tank --device /dev/sda --device /dev/sdb --dry-run"])]
    Create(PoolCreate),
    /// Decide what a pool may promise, when it warns, and how it grows by itself
    #[command(before_help = examples!["plimsoll pool set tank --overcommit-limit 2x --thresholds 70%,85%,95%", "plimsoll pool set tank --auto-grow-at 85% --spare /dev/sdc"])]
    Set(PoolSet),
    /// Add a device to a pool
    #[command(before_help = examples!["plimsoll pool add-device tank --device /dev/nvme1n1", "plimsoll pool add-device tank --device /srv/more.img"])]
    AddDevice(PoolAddDevice),
    /// Use what devices of a pool have become larger by
    #[command(before_help = examples!["plimsoll pool grow tank", "plimsoll pool grow tank --device /srv/pool.img --dry-run"])]
    Grow(PoolGrow),
    /// Move everything off a device while all goes on; --dry-run says whether it fits
    #[command(before_help = examples!["plimsoll pool evacuate tank --device /dev/sdb --rate 100M", "plimsoll pool evacuate tank --device /dev/sdb --cancel"])]
    Evacuate(PoolEvacuate),
    /// Take a device out of a pool, after moving everything off it
    #[command(before_help = examples!["plimsoll pool remove-device tank --device /dev/sdb", "plimsoll pool remove-device tank --device /dev/sdb --dry-run"])]
    RemoveDevice(PoolRemoveDevice),
    /// Put thinly used extents together, as a pool that is short of space does by itself
    #[command(before_help = examples!["plimsoll pool compact tank", "plimsoll pool compact tank --no-wait"])]
    Compact {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        wait: Wait,
    },
    /// Find out how much space compaction and reclaims would bring back; changes nothing
    ///
    /// It reads all of the mapping, and of each vdisk a sample of at most 64 MiB; so what zeros and patterns take is an estimate, shown with
    /// its margin of 95 %. The figures are in space, pool show and vdisk show until the pool is closed, with their age. A pool that
    /// reaches one of its thresholds is surveyed by itself, once an hour at most.
    #[command(before_help = examples!["plimsoll pool survey tank", "plimsoll pool survey tank --no-wait"])]
    Survey {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        wait: Wait,
    },
    /// Serve a pool that was made elsewhere, or try an unavailable one again
    #[command(before_help = examples!["plimsoll pool import /dev/nvme0n1", "plimsoll pool import --name tank"])]
    Import(PoolImport),
    /// Close a pool and let it go
    #[command(before_help = examples!["plimsoll pool export tank", "plimsoll pool export tank --yes"])]
    Export(PoolEnd),
    /// Check all metadata of a pool; exit code 8 when there are findings
    #[command(before_help = examples!["plimsoll pool check tank", "plimsoll pool check --device /dev/nvme0n1"])]
    Check(PoolCheck),
    /// Destroy a pool
    #[command(visible_alias = "rm", before_help = examples!["plimsoll pool delete tank", "plimsoll pool delete tank --yes --force=not-empty"])]
    Delete {
        #[command(flatten)]
        end: PoolEnd,
        /// Succeed when it is not there
        #[arg(long)]
        if_exists: bool,
    },
}

/// A pool that is changed, or only looked at for it.
#[derive(Debug, Args)]
pub(in crate::cli) struct Change {
    /// Its name
    pub(in crate::cli) pool: String,
    #[command(flatten)]
    pub(in crate::cli) how: DryRun,
}

/// A pool that goes away.
#[derive(Debug, Args)]
pub(in crate::cli) struct PoolEnd {
    /// Its name
    pub(in crate::cli) pool: String,
    #[command(flatten)]
    pub(in crate::cli) danger: Danger,
}

/// How new devices are taken.
#[derive(Debug, Args)]
pub(in crate::cli) struct Taken {
    /// Go through the page cache, for file systems without direct I/O
    #[arg(long)]
    pub(in crate::cli) buffered: bool,
    #[command(flatten)]
    pub(in crate::cli) force: Force,
}

/// A device that is emptied.
#[derive(Debug, Args)]
pub(in crate::cli) struct Leaving {
    /// The device, by its path or UUID
    #[arg(long = "device", value_name = "PATH")]
    pub(in crate::cli) device: String,
    /// Bytes a second at most, 256M unless said, or none; said again, it changes the pace, which stays as it is otherwise
    #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, value_parser = bound)]
    pub(in crate::cli) rate: Option<Size>,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolCreate {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    /// A block device, or a regular file that exists; may be given several times
    #[arg(long = "device", value_name = "PATH", required = true)]
    pub(in crate::cli) devices: Vec<String>,
    /// Unit of allocation: a power of two from 64K to 1M
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) extent_size: Option<Size>,
    #[command(flatten)]
    pub(in crate::cli) taken: Taken,
    /// Succeed when it is there already
    #[arg(long)]
    pub(in crate::cli) if_not_exists: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolSet {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    /// What it may promise beyond what it has: 1.5x, a size, or none
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true)]
    pub(in crate::cli) overcommit_limit: Option<String>,
    /// Levels of use at which events rise: 70%,85%,95%, sizes, off or default
    #[arg(long, value_name = "LEVELS", allow_hyphen_values = true)]
    pub(in crate::cli) thresholds: Option<String>,
    /// How far below a level the use must fall before it is armed again, 0 to 50
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true, value_parser = hysteresis)]
    pub(in crate::cli) hysteresis: Option<u8>,
    /// Times to full at which events rise: 24h,1h,5m, off or default
    #[arg(long, value_name = "TIMES", allow_hyphen_values = true)]
    pub(in crate::cli) horizons: Option<String>,
    /// What held writes may take of the memory for I/O together, at most half of it; 0: a quarter
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) hold_bytes: Option<Size>,
    /// Grow when so much of it is used: 85%; of growing by itself, what is not said stays as it is
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub(in crate::cli) auto_grow_at: Option<Size>,
    /// A device that may be added then; may be given several times, and takes the place of all there were; none takes them away
    #[arg(long = "spare", value_name = "PATH|none")]
    pub(in crate::cli) spares: Vec<String>,
    /// Enlarge the pool's last file that stays in it then, up to this size; none ends that
    #[arg(long, value_name = "SIZE|none", allow_hyphen_values = true, value_parser = bound)]
    pub(in crate::cli) grow_file_to: Option<Size>,
    /// By how much at a time, 64M at least [default: an eighth]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) grow_file_step: Option<Size>,
    /// What of the file system is left free [default: 1G]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) keep_free: Option<Size>,
    /// Do not grow by itself any more
    #[arg(long, conflicts_with_all = ["auto_grow_at", "spares", "grow_file_to", "grow_file_step", "keep_free"])]
    pub(in crate::cli) no_auto_grow: bool,
    #[command(flatten)]
    pub(in crate::cli) force: Force,
}

/// The number of `2`, `2%`, and `2.0 %` as it is shown.
fn percent_digits(text: &str) -> &str {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    number.strip_suffix(".0").unwrap_or(number)
}

fn hysteresis(text: &str) -> Result<u8, String> {
    let percent = percent_digits(text).parse().ok().filter(|percent| *percent <= HYSTERESIS_PCT_MAX);
    percent.ok_or_else(|| format!("it is 0 to {HYSTERESIS_PCT_MAX} per cent of the pool"))
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolGrow {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    /// Only this device, by its path or UUID
    #[arg(long = "device", value_name = "PATH")]
    pub(in crate::cli) device: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolEvacuate {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    #[command(flatten)]
    pub(in crate::cli) leaving: Leaving,
    /// Keep the device; what has moved stays where it is
    #[arg(long, conflicts_with = "rate")]
    pub(in crate::cli) cancel: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolRemoveDevice {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    #[command(flatten)]
    pub(in crate::cli) leaving: Leaving,
    /// Do not ask
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolAddDevice {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    /// A block device, or a regular file that exists
    #[arg(long = "device", value_name = "PATH")]
    pub(in crate::cli) device: String,
    #[command(flatten)]
    pub(in crate::cli) taken: Taken,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolImport {
    /// Paths of its devices; others are found by their labels
    #[arg(value_name = "PATH", required_unless_present = "name")]
    pub(in crate::cli) paths: Vec<String>,
    /// A known pool that is unavailable
    #[arg(long, value_name = "POOL")]
    pub(in crate::cli) name: Option<String>,
    /// Go through the page cache, for file systems without direct I/O
    #[arg(long)]
    pub(in crate::cli) buffered: bool,
    /// truncated: serve what is left of a device that was cut off and made long again; what was behind the cut reads as zeros, or is lost
    #[arg(long, value_name = "CHECK", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_delimiter = ',')]
    pub(in crate::cli) force: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) how: DryRun,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PoolCheck {
    /// The pool
    #[arg(required_unless_present = "devices")]
    pub(in crate::cli) pool: Option<String>,
    /// Check offline, without a daemon, the pool on these devices
    #[arg(long = "device", value_name = "PATH", conflicts_with = "pool")]
    pub(in crate::cli) devices: Vec<String>,
    /// List what a repair would do; with --yes, do it
    #[arg(long)]
    pub(in crate::cli) repair: bool,
    /// Repair without asking
    #[arg(short, long, requires = "repair")]
    pub(in crate::cli) yes: bool,
    /// Only list what a repair would do
    #[arg(long, requires = "repair")]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hysteresis_is_taken_as_it_is_shown() {
        for text in ["2", "2%", "2.0", "2.0 %"] {
            assert_eq!(hysteresis(text), Ok(2), "{text}");
        }
        for text in ["", "%", "2.5%", "51", "-1", ".0"] {
            assert!(hysteresis(text).is_err(), "{text}");
        }
    }
}
