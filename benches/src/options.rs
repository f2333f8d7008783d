//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p plimsoll-benches -- --quick            everything, a minute or two, figures of little weight
  cargo run --release -p plimsoll-benches                       everything, about half an hour
  cargo run --release -p plimsoll-benches -- device --on disk --disk-dir /srv/scratch
  cargo run --release -p plimsoll-benches -- device memory --only 'random read'
  cargo run --release -p plimsoll-benches -- fill --on tmpfs
  cargo run --release -p plimsoll-benches -- restart check --tebibytes 1,10
  cargo run --release -p plimsoll-benches -- count --write-baseline

Each pair does the same work twice, first by the peer (A), then by Plimsoll (B), A B A B; ratios are medians of the pairs'
ratios. A ratio of operations is B/A (more is better); '+CPU us' is the processor time per operation that B needs more.
They mean nothing while the machine is busy with something else: look at `uptime` first.";

/// Measures Plimsoll beside raw devices and its peers, and prints ratios.
#[derive(Clone, Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// What to measure; without any, all but `count`.
    #[arg(value_enum)]
    pub(crate) parts: Vec<Part>,
    /// One short pair of each: whether it works, not how well.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Pairs of each kind of work.
    #[arg(long, default_value_t = 5)]
    pub(crate) pairs: u64,
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Size of the measured files in MiB.
    #[arg(long, default_value_t = 2048)]
    pub(crate) mebibytes: u64,
    /// Only work whose name contains this.
    #[arg(long, default_value = "")]
    pub(crate) only: String,
    /// Which file systems.
    #[arg(long, value_enum, default_value_t = Place::Both)]
    pub(crate) on: Place,
    /// Directory on a disk.
    #[arg(long, default_value = "target/bench")]
    pub(crate) disk_dir: PathBuf,
    /// Directory in memory (tmpfs).
    #[arg(long, default_value = "/dev/shm")]
    pub(crate) memory_dir: PathBuf,
    /// The daemon that `nbd` measures.
    #[arg(long, default_value = "target/release/plimsoll")]
    pub(crate) plimsoll: PathBuf,
    /// Mapped sizes for `restart` and `check`, in TiB.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10])]
    pub(crate) tebibytes: Vec<u64>,
    /// Where the JSON goes [default: benches/results/SECONDS.json].
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// Keep what `count` counts as the figures to compare with.
    #[arg(long)]
    pub(crate) write_baseline: bool,
    /// What this program runs itself as.
    #[arg(long, hide = true, num_args = 1..)]
    pub(crate) child: Option<Vec<String>>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The engine in-process against a bare io_uring loop on the same file.
    Device,
    /// The engine with memory and files registered with the ring, against itself without.
    Ring,
    /// The engine on a device of memory against that device.
    Memory,
    /// The NBD export under fio against qemu-storage-daemon.
    Nbd,
    /// Looking for zeros in what is written, writing zeros, and reclaiming.
    Fill,
    /// What promises and events cost a first write, and how soon held writes go on.
    Space,
    /// Opening a large pool, and the memory that its mapping takes.
    Restart,
    /// Checking a large pool: time against a raw read of as much, and memory.
    Check,
    /// Instructions of the mapping path, compared with benches/baseline.json.
    Count,
}

/// Where files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    Tmpfs,
    Disk,
    Both,
}

impl Options {
    /// The options with what `--quick` means worked in.
    pub(crate) fn read() -> Self {
        let mut options = Options::parse();
        if options.quick {
            options.pairs = 1;
            options.seconds = options.seconds.min(0.4);
            options.mebibytes = options.mebibytes.min(512);
            options.tebibytes.truncate(1);
        }
        options
    }

    pub(crate) fn wants(&self, part: Part) -> bool {
        if self.parts.is_empty() { part != Part::Count } else { self.parts.contains(&part) }
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.mebibytes << 20
    }

    /// Names and directories of the file systems.
    pub(crate) fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let all = [(Place::Tmpfs, "tmpfs", &self.memory_dir), (Place::Disk, "disk", &self.disk_dir)];
        let wanted = all.into_iter().filter(|(place, ..)| self.on == Place::Both || self.on == *place);
        wanted.map(|(_, name, directory)| (name, directory.clone())).collect()
    }
}
