//! Webhooks: where events are sent to. Secrets go in and never come out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Listed, Severity};

/// Whether a webhook takes its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookState {
    /// The last delivery went well, or there was none yet.
    Ok,
    /// The last delivery failed; it is tried again.
    Failing,
}

/// A webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its name.
    pub name: String,
    /// Where events are POSTed.
    pub url: String,
    /// Least severity that is sent.
    pub severity: Severity,
    /// When it was added.
    pub created_at: String,
    /// Whether it takes its events.
    pub state: WebhookState,
    /// All events up to this one were delivered, were not meant for it, or were given up.
    pub delivered_seq: u64,
    /// The newest event.
    pub last_seq: u64,
    /// Failed attempts since the last success.
    pub failures: u64,
    /// Events given up after a day of attempts.
    pub given_up: u64,
    /// What went wrong last.
    pub error: Option<String>,
    /// When the next attempt is made.
    pub retry_at: Option<String>,
}

impl Listed for WebhookView {
    const SCHEMA: &'static str = "webhook.list/v1";
}

/// A new webhook.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddWebhook {
    /// Its name.
    pub name: String,
    /// `http://HOST[:PORT]/PATH`.
    pub url: String,
    /// The key of the signatures, 16 to 256 bytes. It is kept with mode 0600 and never shown.
    pub secret: String,
    /// Least severity that is sent; `info` when absent.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// Send what came after this event, too; what comes from now on when absent.
    #[serde(default)]
    pub after: Option<u64>,
}

/// What a test delivery met.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookTested {
    /// `webhook-test/v1`.
    pub schema: String,
    /// The webhook.
    pub name: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How long it took.
    pub milliseconds: u64,
}
