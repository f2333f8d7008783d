//! The command line as clap parses it. Every help text starts with two examples.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::name::VdiskName;
use crate::units::Size;

/// Examples in front of a help text.
macro_rules! examples {
    ($($line:literal),+) => { concat!("Examples:\n", $("  ", $line, "\n"),+) };
}

mod event;

pub(super) use event::{Event, Events, Webhook, WebhookAdd};

/// Thin-provisioned block storage: daemon and client in one.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, before_help = examples!["plimsoll serve", "plimsoll vdisk create tank/db1 --size 2T"])]
#[command(after_help = "Without a command it serves the embedded default under ./plimsoll-data.\n\
    Exit codes: 0 done, 1 internal, 2 usage, 3 not found, 4 conflict, 5 refused, 6 daemon unreachable, 7 out of space, \
    8 degraded, 9 timeout.")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Global {
    /// Where the daemon keeps its state and its sockets [default: plimsoll-data]
    #[arg(long, global = true, env = "PLIMSOLL_STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", help_heading = "Output")]
    pub(super) output: Option<Format>,
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output", help_heading = "Output")]
    pub(super) json: bool,
    /// Fields to print, in this order
    #[arg(long, global = true, value_delimiter = ',', value_name = "FIELD,...", help_heading = "Output")]
    pub(super) columns: Vec<String>,
    /// Sort by a field; -FIELD for the other way round
    #[arg(long, global = true, value_name = "FIELD", allow_hyphen_values = true, help_heading = "Output")]
    pub(super) sort: Option<String>,
    /// Print only what fits: 'used_pct>80', 'state=online', 'name~db'
    #[arg(long, global = true, value_name = "EXPRESSION", help_heading = "Output")]
    pub(super) filter: Vec<String>,
    /// No headings
    #[arg(long, global = true, help_heading = "Output")]
    pub(super) no_headings: bool,
    /// Exact numbers of bytes
    #[arg(long, global = true, help_heading = "Output")]
    pub(super) bytes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
    Jsonl,
    Csv,
    Name,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon
    #[command(before_help = examples!["plimsoll serve", "plimsoll serve --config /etc/plimsoll.toml"])]
    Serve(Serve),
    /// Show the daemon at a glance
    #[command(before_help = examples!["plimsoll status", "plimsoll status --json"])]
    Status,
    /// Pools: devices managed as one body of space
    #[command(subcommand, before_help = examples!["plimsoll pool create tank --device /dev/nvme0n1", "plimsoll pool check tank"])]
    Pool(Pool),
    /// Vdisks: virtual disks that take space when they are written
    #[command(subcommand, before_help = examples!["plimsoll vdisk create tank/db1 --size 2T", "plimsoll vdisk list"])]
    Vdisk(Vdisk),
    /// Show who has the space of the pools
    #[command(before_help = examples!["plimsoll space", "plimsoll space --pool tank --sort -physical_bytes"])]
    Space {
        /// Only of this pool
        #[arg(long)]
        pool: Option<String>,
    },
    /// Tenants: whose vdisks are, and what they may use together
    #[command(subcommand, before_help = examples!["plimsoll tenant list", "plimsoll tenant set acme --pool tank --quota 2T"])]
    Tenant(Tenant),
    /// Patterns: what blocks repeat that are stored by a number
    #[command(subcommand, before_help = examples!["plimsoll pattern add tank --text PLIMSOLL", "plimsoll pattern list tank"])]
    Pattern(super::pattern::Pattern),
    /// Give back zeros and patterns that a vdisk stores
    #[command(before_help = examples!["plimsoll reclaim tank/db1 --rate 200M", "plimsoll reclaim tank/db1 --ranges sectors.txt"])]
    Reclaim(super::reclaim::Reclaim),
    /// Exports: how vdisks are offered to initiators
    #[command(subcommand, before_help = examples!["plimsoll export list", "plimsoll export add tank/db1 --nbd --read-only"])]
    Export(Export),
    /// Devices of this machine
    #[command(subcommand, before_help = examples!["plimsoll device list", "plimsoll device show /dev/nvme0n1"])]
    Device(Device),
    /// Long work
    #[command(subcommand, before_help = examples!["plimsoll job list", "plimsoll job watch tank.7"])]
    Job(Job),
    /// Events: what happened, and what to do about it
    #[command(subcommand, before_help = examples!["plimsoll event list --unacknowledged", "plimsoll event watch"])]
    Event(Event),
    /// Webhooks: where events are sent to
    #[command(subcommand, before_help = examples!["plimsoll webhook add ops --url http://127.0.0.1:8080/events --secret-file secret.txt", "plimsoll webhook list"])]
    Webhook(Webhook),
    /// Print a completion script
    #[command(before_help = examples!["plimsoll completions bash > /etc/bash_completion.d/plimsoll", "plimsoll completions zsh"])]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct Serve {
    /// A TOML file with pools, addresses and limits; with one there is no embedded pool
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Make no embedded pool
    #[arg(long)]
    pub(super) bare: bool,
    /// Serve NBD at this address instead of loopback port 10809; may be given several times
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) nbd_listen: Vec<SocketAddr>,
}

/// What commands that change something take.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct DryRun {
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// What commands that destroy something take.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Danger {
    #[command(flatten)]
    pub(super) how: DryRun,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) force: Force,
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct Force {
    /// Override a check by its name; without a name, all that can be
    #[arg(long, value_name = "CHECK", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_delimiter = ',')]
    pub(super) force: Vec<String>,
}

/// Whether to wait for a job.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Wait {
    /// Wait until the job has ended (the default on a terminal)
    #[arg(long, overrides_with = "no_wait")]
    pub(super) wait: bool,
    /// Print the job and leave it alone
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Pool {
    /// List pools
    #[command(visible_alias = "ls", before_help = examples!["plimsoll pool list", "plimsoll pool list --filter 'used_pct>80'"])]
    List,
    /// Show a pool
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
    /// Serve a pool that was made elsewhere, or try an unavailable one again
    #[command(before_help = examples!["plimsoll pool import /dev/nvme0n1", "plimsoll pool import --name tank"])]
    Import(PoolImport),
    /// Close a pool and let it go
    #[command(before_help = examples!["plimsoll pool export tank", "plimsoll pool export tank --yes"])]
    Export {
        pool: String,
        #[command(flatten)]
        danger: Danger,
    },
    /// Check all metadata of a pool; exit code 8 when there are findings
    #[command(before_help = examples!["plimsoll pool check tank", "plimsoll pool check --device /dev/nvme0n1"])]
    Check(PoolCheck),
    /// Destroy a pool
    #[command(visible_alias = "rm", before_help = examples!["plimsoll pool delete tank", "plimsoll pool delete tank --yes --force=not-empty"])]
    Delete {
        pool: String,
        #[command(flatten)]
        danger: Danger,
        /// Succeed when it is not there
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct PoolCreate {
    /// Its name
    pub(super) pool: String,
    /// A block device, or a regular file that exists; may be given several times
    #[arg(long = "device", value_name = "PATH", required = true)]
    pub(super) devices: Vec<String>,
    /// Unit of allocation: a power of two from 64K to 1M
    #[arg(long, value_name = "SIZE")]
    pub(super) extent_size: Option<Size>,
    /// Go through the page cache, for file systems without direct I/O
    #[arg(long)]
    pub(super) buffered: bool,
    #[command(flatten)]
    pub(super) force: Force,
    #[command(flatten)]
    pub(super) how: DryRun,
    /// Succeed when it is there already
    #[arg(long)]
    pub(super) if_not_exists: bool,
}

#[derive(Debug, Args)]
pub(super) struct PoolSet {
    pub(super) pool: String,
    /// What it may promise beyond what it has: 1.5x, a size, or none
    #[arg(long, value_name = "LIMIT")]
    pub(super) overcommit_limit: Option<String>,
    /// Levels of use at which events rise: 70%,85%,95%, sizes, off or default
    #[arg(long, value_name = "LEVELS")]
    pub(super) thresholds: Option<String>,
    /// How far below a level the use must fall before it is armed again
    #[arg(long, value_name = "PERCENT")]
    pub(super) hysteresis: Option<u8>,
    /// Times to full at which events rise: 24h,1h,5m, off or default
    #[arg(long, value_name = "TIMES")]
    pub(super) horizons: Option<String>,
    /// What held writes may take of the memory for I/O together; 0: a quarter
    #[arg(long, value_name = "SIZE")]
    pub(super) hold_bytes: Option<Size>,
    /// Grow when so much of it is used: 85%
    #[arg(long, value_name = "PERCENT")]
    pub(super) auto_grow_at: Option<Size>,
    /// A device that may be added then; may be given several times
    #[arg(long = "spare", value_name = "PATH", requires = "auto_grow_at")]
    pub(super) spares: Vec<String>,
    /// Enlarge the pool's last file then, up to this size
    #[arg(long, value_name = "SIZE", requires = "auto_grow_at")]
    pub(super) grow_file_to: Option<Size>,
    /// By how much at a time [default: an eighth, 64M at least]
    #[arg(long, value_name = "SIZE", requires = "grow_file_to")]
    pub(super) grow_file_step: Option<Size>,
    /// What of the file system is left free [default: 1G]
    #[arg(long, value_name = "SIZE", requires = "grow_file_to")]
    pub(super) keep_free: Option<Size>,
    /// Do not grow by itself any more
    #[arg(long, conflicts_with = "auto_grow_at")]
    pub(super) no_auto_grow: bool,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct PoolGrow {
    pub(super) pool: String,
    /// Only this device, by its path or UUID
    #[arg(long = "device", value_name = "PATH")]
    pub(super) device: Option<String>,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct PoolEvacuate {
    pub(super) pool: String,
    /// The device, by its path or UUID
    #[arg(long = "device", value_name = "PATH")]
    pub(super) device: String,
    /// Bytes a second at most; said again, it changes the pace
    #[arg(long, value_name = "SIZE")]
    pub(super) rate: Option<Size>,
    /// Keep the device; what has moved stays where it is
    #[arg(long, conflicts_with = "rate")]
    pub(super) cancel: bool,
    #[command(flatten)]
    pub(super) wait: Wait,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct PoolRemoveDevice {
    pub(super) pool: String,
    /// The device, by its path or UUID
    #[arg(long = "device", value_name = "PATH")]
    pub(super) device: String,
    /// Bytes a second at most
    #[arg(long, value_name = "SIZE")]
    pub(super) rate: Option<Size>,
    #[command(flatten)]
    pub(super) wait: Wait,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Subcommand)]
pub(super) enum Tenant {
    /// List tenants
    #[command(visible_alias = "ls", before_help = examples!["plimsoll tenant list", "plimsoll tenant list --filter 'used_pct>80'"])]
    List,
    /// Bound what a tenant may use of a pool
    #[command(before_help = examples!["plimsoll tenant set acme --pool tank --quota 2T", "plimsoll tenant set acme --pool tank --quota 0"])]
    Set {
        tenant: String,
        /// The pool
        #[arg(long)]
        pool: String,
        /// Physical space that its vdisks there may not exceed together; 0: no bound
        #[arg(long)]
        quota: Size,
        #[command(flatten)]
        how: DryRun,
    },
}

/// What is promised to a vdisk, and what becomes of its writes when there is no space.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct VdiskPromises {
    /// Whose it is; empty: nobody's
    #[arg(long, value_name = "NAME")]
    pub(super) tenant: Option<String>,
    /// The virtual machine it belongs to; empty: none
    #[arg(long, value_name = "NAME")]
    pub(super) vm: Option<String>,
    /// What becomes of writes when there is no space: hold(20s), which is the default, or fail
    #[arg(long, value_name = "POLICY")]
    pub(super) on_full: Option<String>,
    /// Physical space that is its own whatever others take
    #[arg(long, value_name = "SIZE")]
    pub(super) reservation: Option<Size>,
    /// Physical space that it may not exceed; 0: no bound
    #[arg(long, value_name = "SIZE")]
    pub(super) quota: Option<Size>,
    /// Shares of its size at which events rise: 70%,85%,95%, off or default
    #[arg(long, value_name = "LEVELS")]
    pub(super) thresholds: Option<String>,
    /// Shares of its quota at which events rise
    #[arg(long, value_name = "LEVELS")]
    pub(super) quota_thresholds: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PoolAddDevice {
    pub(super) pool: String,
    /// A block device, or a regular file that exists
    #[arg(long = "device", value_name = "PATH")]
    pub(super) device: String,
    /// Go through the page cache, for file systems without direct I/O
    #[arg(long)]
    pub(super) buffered: bool,
    #[command(flatten)]
    pub(super) force: Force,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct PoolImport {
    /// Paths of its devices; others are found by their labels
    #[arg(value_name = "PATH", required_unless_present = "name")]
    pub(super) paths: Vec<String>,
    /// A known pool that is unavailable
    #[arg(long, value_name = "POOL")]
    pub(super) name: Option<String>,
    /// Go through the page cache, for file systems without direct I/O
    #[arg(long)]
    pub(super) buffered: bool,
    #[command(flatten)]
    pub(super) how: DryRun,
}

#[derive(Debug, Args)]
pub(super) struct PoolCheck {
    /// The pool
    #[arg(required_unless_present = "devices")]
    pub(super) pool: Option<String>,
    /// Check offline, without a daemon, the pool on these devices
    #[arg(long = "device", value_name = "PATH", conflicts_with = "pool")]
    pub(super) devices: Vec<String>,
    /// List what a repair would do; with --yes, do it
    #[arg(long)]
    pub(super) repair: bool,
    /// Repair without asking
    #[arg(short, long, requires = "repair")]
    pub(super) yes: bool,
    /// Only list what a repair would do
    #[arg(long, requires = "repair")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Subcommand)]
pub(super) enum Vdisk {
    /// List vdisks
    #[command(visible_alias = "ls", before_help = examples!["plimsoll vdisk list", "plimsoll vdisk list --pool tank --sort -backed_bytes"])]
    List {
        /// Only those of this pool
        #[arg(long)]
        pool: Option<String>,
    },
    /// Show a vdisk
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
pub(super) struct VdiskCreate {
    pub(super) vdisk: VdiskName,
    /// Size shown to the guest: 10G is 10 GiB, 10GB is 10^10 bytes, 80% is of the pool
    #[arg(long)]
    pub(super) size: Size,
    /// What the initiator addresses: 512 or 4096
    #[arg(long, value_name = "BYTES")]
    pub(super) sector: Option<Size>,
    /// off: every acknowledged write survives power loss
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    pub(super) write_cache: Option<String>,
    #[command(flatten)]
    pub(super) promises: VdiskPromises,
    #[command(flatten)]
    pub(super) how: DryRun,
    /// Succeed when it is there already
    #[arg(long)]
    pub(super) if_not_exists: bool,
}

#[derive(Debug, Args)]
pub(super) struct VdiskSet {
    pub(super) vdisk: VdiskName,
    /// New size; +10G is relative, 150% is of the size now
    #[arg(long)]
    pub(super) size: Option<Size>,
    /// What writes are looked through for: zeros=on|off, patterns=on|off
    #[arg(long, value_name = "WHAT=on|off", value_delimiter = ',', value_parser = detection)]
    pub(super) detect: Vec<(Detected, bool)>,
    /// Make a pattern of the pool this vdisk's own; none takes that away
    #[arg(long, value_name = "NUMBER|none", value_parser = own_pattern)]
    pub(super) pattern: Option<u16>,
    #[command(flatten)]
    pub(super) promises: VdiskPromises,
    /// Give up what is backed beyond the new size
    #[arg(long)]
    pub(super) discard_tail: bool,
    /// Only if it has this version
    #[arg(long, value_name = "VERSION")]
    pub(super) if_version: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) how: DryRun,
}

/// What writes are looked through for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
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

fn own_pattern(text: &str) -> Result<u16, String> {
    match text {
        "none" => Ok(0),
        number => {
            number.parse().ok().filter(|&number| number > 0).ok_or_else(|| "a number from 1 on, or none".to_owned())
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Export {
    /// List exports
    #[command(visible_alias = "ls", before_help = examples!["plimsoll export list", "plimsoll export list -o wide"])]
    List,
    /// Offer a vdisk, or change how it is offered
    #[command(before_help = examples!["plimsoll export add tank/db1 --nbd", "plimsoll export add tank/db1 --nbd --read-only"])]
    Add {
        vdisk: VdiskName,
        /// Over NBD, which is the default
        #[arg(long)]
        nbd: bool,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        #[command(flatten)]
        how: DryRun,
    },
    /// Offer a vdisk no longer
    #[command(visible_alias = "rm", before_help = examples!["plimsoll export remove tank/db1", "plimsoll export remove tank/db1 --nbd --force=in-use"])]
    Remove {
        vdisk: VdiskName,
        /// Over NBD, which is the default
        #[arg(long)]
        nbd: bool,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        how: DryRun,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Device {
    /// List the block devices of this machine
    #[command(visible_alias = "ls", before_help = examples!["plimsoll device list", "plimsoll device list -o wide"])]
    List,
    /// Show a device
    #[command(before_help = examples!["plimsoll device show /dev/nvme0n1", "plimsoll device show /srv/pool.img --json"])]
    Show { path: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Job {
    /// List jobs
    #[command(visible_alias = "ls", before_help = examples!["plimsoll job list", "plimsoll job list --filter state=running"])]
    List,
    /// Show a job
    #[command(before_help = examples!["plimsoll job show 1", "plimsoll job show tank.7 --json"])]
    Show { id: String },
    /// Wait until a job has ended
    #[command(before_help = examples!["plimsoll job watch 1", "plimsoll job watch tank.7"])]
    Watch { id: String },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_help_starts_with_examples() {
        fn visit(command: &clap::Command) {
            let mut command = command.clone();
            let help = command.render_help().to_string();
            assert!(help.starts_with("Examples:\n  plimsoll "), "{}: {help}", command.get_name());
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                visit(inner);
            }
        }
        Cli::command().debug_assert();
        visit(&Cli::command());
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn objects_sizes_and_checks_are_parsed() {
        let cli = parse("plimsoll vdisk create tank/db1 --size 10G --sector 4096 --state-dir /x --json").unwrap();
        assert!(cli.global.json);
        let Some(Command::Vdisk(Vdisk::Create(create))) = cli.command else { panic!("not a create") };
        assert_eq!((create.vdisk.to_string().as_str(), create.size), ("tank/db1", Size::Exact(10 << 30)));
        let cli = parse("plimsoll vdisk resize tank/db1 --size +10G").unwrap();
        assert!(matches!(cli.command, Some(Command::Vdisk(Vdisk::Set(set))) if set.size == Some(Size::More(10 << 30))));
        let cli = parse("plimsoll vdisk rm tank/db1 --yes --force=in-use").unwrap();
        let Some(Command::Vdisk(Vdisk::Delete { danger, .. })) = cli.command else { panic!("not a delete") };
        assert_eq!(danger.force.force, ["in-use"]);
        let cli = parse("plimsoll pool create tank --device a --device b --force").unwrap();
        let Some(Command::Pool(Pool::Create(create))) = cli.command else { panic!("not a create") };
        assert_eq!((create.devices.len(), create.force.force), (2, vec!["all".to_owned()]));
        assert!(parse("plimsoll").unwrap().command.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "plimsoll vdisk create tank --size 10G",
            "plimsoll vdisk create tank/db1",
            "plimsoll vdisk create tank/db1 --size lots",
            "plimsoll pool create tank",
            "plimsoll pool check",
            "plimsoll pool check tank --device x",
            "plimsoll pool import",
            "plimsoll vdisk set tank/db1 --detect zero",
            "plimsoll pattern add tank",
            "plimsoll pattern add tank --random --text x",
            "plimsoll reclaim tank/db1 --worthless",
            "plimsoll reclaim tank/db1 --pause --resume",
            "plimsoll serve --nbd-listen nowhere",
            "plimsoll pol list",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
        let error = parse("plimsoll vdsk list").unwrap_err().to_string();
        assert!(error.contains("vdisk"), "{error}");
    }
}
