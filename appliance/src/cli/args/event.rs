//! `plimsoll event` and `plimsoll webhook` as clap parses them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::DryRun;
use crate::model::Severity;

/// Which events.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Events {
    /// Only events with a greater number
    #[arg(long, value_name = "SEQ")]
    pub(in crate::cli) after: Option<u64>,
    /// At least this bad
    #[arg(long, value_enum)]
    pub(in crate::cli) severity: Option<AtLeast>,
    /// Of this kind: pool-threshold, vdisk-exhausted, ...
    #[arg(long)]
    pub(in crate::cli) kind: Option<String>,
    /// Of this object: POOL (its vdisks too), POOL/VDISK or a tenant
    #[arg(long)]
    pub(in crate::cli) object: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AtLeast {
    Info,
    Warning,
    Critical,
}

impl From<AtLeast> for Severity {
    fn from(least: AtLeast) -> Self {
        match least {
            AtLeast::Info => Severity::Info,
            AtLeast::Warning => Severity::Warning,
            AtLeast::Critical => Severity::Critical,
        }
    }
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it is a number from 1 on".to_owned())
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Event {
    /// List events, the newest last
    #[command(visible_alias = "ls", before_help = examples!["plimsoll event list --unacknowledged", "plimsoll event list --severity critical --object tank"])]
    List {
        #[command(flatten)]
        events: Events,
        /// Only warnings and critical ones that nobody took note of
        #[arg(long)]
        unacknowledged: bool,
        /// At most so many: the newest, or with --after the oldest
        #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = count)]
        limit: u64,
    },
    /// Show an event
    #[command(before_help = examples!["plimsoll event show 17", "plimsoll event show 17 --json"])]
    Show {
        /// Its number or UUID
        event: String,
    },
    /// Print events as they happen; goes on when the daemon was restarted
    #[command(before_help = examples!["plimsoll event watch", "plimsoll event watch --after 0 --severity warning --json"])]
    Watch {
        #[command(flatten)]
        events: Events,
        /// End after so many
        #[arg(long, value_name = "COUNT", value_parser = count)]
        count: Option<u64>,
    },
    /// Take note of an event, or of all up to one
    #[command(visible_alias = "acknowledge", before_help = examples!["plimsoll event ack 17", "plimsoll event ack --up-to 17 --by anna"])]
    Ack {
        /// Its number
        #[arg(value_name = "SEQ", required_unless_present = "up_to")]
        event: Option<u64>,
        /// This one and all before it
        #[arg(long, value_name = "SEQ", conflicts_with = "event")]
        up_to: Option<u64>,
        /// Who takes note; the user of this shell when absent
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        how: DryRun,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Webhook {
    /// List webhooks, and how far each one is
    #[command(visible_alias = "ls", before_help = examples!["plimsoll webhook list", "plimsoll webhook list --filter state=failing"])]
    List,
    /// Show a webhook
    #[command(before_help = examples!["plimsoll webhook show ops", "plimsoll webhook show ops --json"])]
    Show { webhook: String },
    /// Send events to an address, signed with HMAC-SHA256
    #[command(before_help = examples!["plimsoll webhook add ops --url http://127.0.0.1:8080/events --secret-file secret.txt", "openssl rand -hex 32 | plimsoll webhook add ops --url http://127.0.0.1:8080/ --secret-file -"])]
    #[command(
        after_help = "Each event is a POST of a CloudEvent in JSON, in order, until it is answered with 2xx. It comes at least \
        once: the header Plimsoll-Event-Id is the same in every attempt. Plimsoll-Signature is sha256=HEX, the HMAC-SHA256 of \
        the header Plimsoll-Timestamp, a dot, and the body:\n  \
        printf '%s.%s' \"$TIMESTAMP\" \"$BODY\" | openssl dgst -sha256 -hmac \"$SECRET\""
    )]
    Add(WebhookAdd),
    /// Send nothing more there
    #[command(visible_alias = "rm", before_help = examples!["plimsoll webhook remove ops", "plimsoll webhook remove ops --dry-run"])]
    Remove {
        webhook: String,
        /// Succeed when it is not there
        #[arg(long)]
        if_exists: bool,
        #[command(flatten)]
        how: DryRun,
    },
    /// Send a test event, once; exit code 8 when it is not taken
    #[command(before_help = examples!["plimsoll webhook test ops", "plimsoll webhook test ops --json"])]
    Test {
        webhook: String,
        #[command(flatten)]
        how: DryRun,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WebhookAdd {
    /// Its name
    pub(in crate::cli) webhook: String,
    /// Where events are POSTed
    #[arg(long, value_name = "http://HOST:PORT/PATH")]
    pub(in crate::cli) url: String,
    /// A file with the secret, 16 to 256 bytes; - reads it from standard input. The last line end does not count.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) secret_file: PathBuf,
    /// Send only what is at least this bad
    #[arg(long, value_enum)]
    pub(in crate::cli) severity: Option<AtLeast>,
    /// Send what came after this event, too; 0 sends all that there is
    #[arg(long, value_name = "SEQ")]
    pub(in crate::cli) after: Option<u64>,
    #[command(flatten)]
    pub(in crate::cli) how: DryRun,
    /// Succeed when it is there already
    #[arg(long)]
    pub(in crate::cli) if_not_exists: bool,
}
