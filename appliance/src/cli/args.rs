//! The command line as clap parses it. Every help text starts with two examples.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::name::VdiskName;

/// Examples in front of a help text.
macro_rules! examples {
    ($($line:literal),+) => { concat!("Examples:\n", $("  ", $line, "\n"),+) };
}

mod event;
mod pool;
mod vdisk;

pub(super) use event::{Event, Events, Webhook, WebhookAdd};
pub(super) use pool::{
    Change as PoolChange, Leaving, Pool, PoolAddDevice, PoolCheck, PoolCreate, PoolEnd, PoolEvacuate, PoolGrow,
    PoolImport, PoolRemoveDevice, PoolSet,
};
pub(super) use vdisk::{Detected, Tenant, Vdisk, VdiskCreate, VdiskPromises, VdiskSet, bound};

/// Thin-provisioned block storage: daemon and client in one.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, before_help = examples!["plimsoll serve", "plimsoll vdisk create tank/db1 --size 2T"])]
#[command(after_help = "Without a command it serves the embedded default under ./plimsoll-data.\n\
    Exit codes: 0 done, 1 internal, 2 usage, 3 not found, 4 conflict, 5 refused, 6 daemon unreachable, 7 out of space, \
    8 damaged, or a check has findings, 9 timeout.")]
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
    /// Show who has the space of the pools: a line for each use, together all of it
    ///
    /// metadata-reserve is kept so that metadata never runs out; reserved is promised and not in use, reserved-metadata what metadata may
    /// need of it then; held is for writes under way; quarantine was freed and can be used as soon as that is durable. RECLAIMABLE is
    /// what of it could come back, as the last plimsoll pool survey found it: extents that compaction would free, zeros, and patterns (-o
    /// wide tells them apart, with the margin of the estimate). RECLAIMED is what the last reclaim of a vdisk freed, PACKED what came free by compaction, both since the pool was opened.
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
    #[command(subcommand, before_help = examples!["plimsoll job list", "plimsoll job watch tank.1795659731123"])]
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
    /// Have the embedded pool go through the page cache, where its file system refuses direct I/O
    #[arg(long, conflicts_with_all = ["bare", "config"])]
    pub(super) buffered: bool,
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
    /// Wait until the job has ended (the default on a terminal, and of a check)
    #[arg(long, overrides_with = "no_wait")]
    pub(super) wait: bool,
    /// Print the job and leave it alone
    #[arg(long)]
    pub(super) no_wait: bool,
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
    #[command(before_help = examples!["plimsoll job show tank.1795659731123", "plimsoll job show tank.1795659731123 --json"])]
    Show { id: String },
    /// Wait until a job has ended
    #[command(before_help = examples!["plimsoll job watch 1795659731123", "plimsoll job watch tank.1795659731123"])]
    Watch { id: String },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::units::Size;

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
        assert_eq!((create.devices.len(), create.taken.force.force), (2, vec!["all".to_owned()]));
        assert!(parse("plimsoll").unwrap().command.is_none());
    }

    #[test]
    fn a_bound_can_be_none() {
        for line in ["vdisk set tank/a --quota none --reservation none", "tenant set acme --pool tank --quota none"] {
            match parse(&format!("plimsoll {line}")).unwrap().command {
                Some(Command::Vdisk(Vdisk::Set(set))) => {
                    let promises = set.promises;
                    assert_eq!((promises.quota, promises.reservation), (Some(Size::Exact(0)), Some(Size::Exact(0))));
                }
                Some(Command::Tenant(Tenant::Set { quota, .. })) => assert_eq!(quota, Some(Size::Exact(0))),
                other => panic!("{other:?}"),
            }
        }
        let none = Some(Size::Exact(0));
        match parse("plimsoll pool evacuate tank --device a --rate none").unwrap().command {
            Some(Command::Pool(Pool::Evacuate(args))) => assert_eq!(args.leaving.rate, none),
            other => panic!("{other:?}"),
        }
        assert!(parse("plimsoll reclaim tank/a --rate none").is_ok());
        let error = parse("plimsoll pool set tank --hysteresis 51").unwrap_err().to_string();
        assert!(error.contains("0 to 50"), "{error}");
        for line in ["vdisk set tank/a --quota 0", "tenant set acme --pool tank --quota 0G"] {
            let error = parse(&format!("plimsoll {line}")).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("none is no bound"), "{line}: {error}");
        }
    }

    #[test]
    fn a_negative_size_is_called_negative() {
        for line in [
            "vdisk create tank/a --size -10G",
            "vdisk set tank/a --size -1",
            "vdisk set tank/a --quota -1G",
            "vdisk set tank/a --reservation -5%",
            "pool create tank --device a --extent-size -64K",
            "pool set tank --hold-bytes -1M",
            "pool set tank --auto-grow-at -85%",
            "pool evacuate tank --device a --rate -100M",
            "tenant set acme --pool tank --quota -2T",
            "reclaim tank/a --rate -1M",
        ] {
            let error = parse(&format!("plimsoll {line}")).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("it is negative"), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_no_number_of_a_pattern_is_said_so() {
        for line in ["pattern show tank x", "pattern remove tank 70000"] {
            let error = parse(&format!("plimsoll {line}")).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("number of a pattern"), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_tried_with_a_reclaim_is_named_as_it_is() {
        for (option, named) in [("--show", "show the"), ("--pause", "pause the"), ("--resume", "resume the")] {
            let cli = parse(&format!("plimsoll reclaim tank/a {option}")).unwrap();
            let Some(Command::Reclaim(reclaim)) = cli.command else { panic!("not a reclaim") };
            assert_eq!(reclaim.named(), format!("{named} reclaim of tank/a"));
        }
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
            "plimsoll pool set tank --hysteresis 51",
            "plimsoll event list --limit 0",
            "plimsoll event watch --count 0",
            "plimsoll reclaim tank/db1 --anew --resume",
            "plimsoll pol list",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
        for (line, known) in
            [("plimsoll vdsk list", "vdisk"), ("plimsoll foo", "pool"), ("plimsoll pool creat", "create")]
        {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(&format!("exists: '{known}'")), "{error}");
        }
    }
}
