//! Webhooks: events are POSTed to an address, one by one and in order, signed, until they are taken.
//!
//! The promise is *at least once*: a receiver that has taken an event while we were killed gets it again, with the same
//! id, which is the idempotency key. What was let go before it could be delivered is said by an event of the kind `event-gap`, which is
//! in no log and has the last missing number. Each webhook has a task and a number up to which all is delivered, which is durable; so
//! one that hangs, fails or is gone for a long time costs only itself, and no memory.
//!
//! A request carries a CloudEvent (structured mode, JSON) and:
//! - `Plimsoll-Event-Id`: the event's UUID, the same in every attempt;
//! - `Plimsoll-Timestamp`: Unix seconds of this attempt;
//! - `Plimsoll-Signature: sha256=HEX`: HMAC-SHA256, with the webhook's secret, of timestamp, a dot, and the body.
//!
//! Taken means any status from 200 to 299. Redirections are not followed, because the address is what the operator chose.

mod change;
mod deliver;
mod send;
mod sign;
mod test;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::store::Known;
use super::{EventLimits, EventLog};
use crate::model::{EventView, Severity, WebhookState, WebhookView};
use crate::problem::{Answer, Problem};
use deliver::{Delivery, Status};
use url::Target;

/// Webhooks at once; each has a task and at most one connection.
const WEBHOOKS_MAX: usize = 64;
/// Of a secret; the least is what can't be guessed, the most is longer than HMAC uses.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// A webhook as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct WebhookRecord {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) secret: String,
    pub(super) severity: Severity,
    pub(super) created_at: String,
    pub(super) delivered_seq: u64,
    /// What is missing up to this one was told.
    #[serde(default)]
    pub(super) gap_seq: u64,
    #[serde(default)]
    pub(super) given_up: u64,
}

/// All webhooks, with their tasks. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    log: EventLog,
    limits: Mutex<EventLimits>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Whoever adds or removes one, in turn.
    changes: tokio::sync::Mutex<()>,
}

struct Running {
    webhook: WebhookRecord,
    task: AbortHandle,
    status: Arc<Mutex<Status>>,
}

impl Webhooks {
    /// Knows the webhooks of `log`; nothing is sent yet.
    pub fn new(log: EventLog) -> Self {
        Self(Arc::new(Inner {
            log,
            limits: Mutex::default(),
            running: Mutex::default(),
            changes: tokio::sync::Mutex::default(),
        }))
    }

    /// Begins to deliver. What cannot be served is a warning of the log, and no reason not to start. Needs tokio's runtime around it.
    pub async fn start(&self, limits: EventLimits) {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        let (webhooks, mut returned, mut ended) = (self.clone(), self.0.log.returned(), self.0.log.ended());
        tokio::spawn(async move {
            // A log that could not be read at first may know some that are not served yet.
            loop {
                tokio::select! {
                    back = returned.changed() => if back.is_err() { return },
                    _ = ended.changed() => return,
                }
                let _turn = webhooks.0.changes.lock().await;
                webhooks.run_all().await;
            }
        });
        let _turn = self.0.changes.lock().await;
        self.run_all().await;
    }

    /// Serves those that are not served yet, and says which cannot be. Whoever calls it has the turn.
    async fn run_all(&self) {
        let known = match self.0.log.webhooks().await {
            Ok(known) => known,
            Err(problem) => {
                tracing::error!(reason = problem.detail, "webhooks cannot be read");
                let warning = format!("webhooks are not served: {}; plimsoll webhook list", problem.detail);
                return self.0.log.set_unserved(vec![warning]);
            }
        };
        let no_sense = |name| (name, "its record makes no sense".to_owned());
        let mut unserved: Vec<(String, String)> = known.unreadable.into_iter().map(no_sense).collect();
        for webhook in known.webhooks {
            if self.running().contains_key(&webhook.name) {
                continue;
            }
            match Target::parse(&webhook.url) {
                Ok(target) => self.run(webhook, target),
                Err(problem) => unserved.push((webhook.name, problem.detail)),
            }
        }
        let warning = |(name, reason): (String, String)| {
            tracing::error!(webhook = name, reason, "a webhook is not served");
            format!(
                "webhook {name} is not served: {reason}; remove it (plimsoll webhook remove {name}), then add it anew"
            )
        };
        self.0.log.set_unserved(unserved.into_iter().map(warning).collect());
    }

    fn run(&self, webhook: WebhookRecord, target: Target) {
        let status = Arc::new(Mutex::new(Status::new(webhook.delivered_seq, webhook.given_up)));
        let name = webhook.name.clone();
        let (log, limits) = (self.0.log.clone(), self.limits());
        let delivery = Delivery { log, limits, webhook: webhook.clone(), target, status: status.clone() };
        let task = tokio::spawn(delivery.run()).abort_handle();
        if let Some(old) = self.running().insert(name, Running { webhook, task, status }) {
            // The log may have lost it, and somebody has added it anew.
            old.task.abort();
        }
    }

    /// All webhooks.
    ///
    /// # Errors
    /// `internal` when they cannot be read.
    pub async fn list(&self) -> Answer<Vec<WebhookView>> {
        Ok(self.known().await?.webhooks.iter().map(|webhook| self.view(webhook)).collect())
    }

    /// One webhook.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn show(&self, name: &str) -> Answer<WebhookView> {
        Ok(self.view(&self.find(name).await?))
    }

    async fn find(&self, name: &str) -> Answer<WebhookRecord> {
        find(self.known().await?, name)
    }

    /// Those of the log, and those that are served although the log has lost them.
    async fn known(&self) -> Answer<Known> {
        let mut known = self.0.log.webhooks().await?;
        let is_there = |name: &String| known.webhooks.iter().any(|webhook| webhook.name == *name);
        let running: Vec<WebhookRecord> = self.running().values().map(|running| running.webhook.clone()).collect();
        let lost: Vec<_> = running.into_iter().filter(|webhook| !is_there(&webhook.name)).collect();
        known.webhooks.extend(lost);
        Ok(known)
    }

    fn view(&self, webhook: &WebhookRecord) -> WebhookView {
        let unknown = || Status::new(webhook.delivered_seq, webhook.given_up);
        let status = self
            .running()
            .get(&webhook.name)
            .map_or_else(unknown, |running| running.status.lock().unwrap_or_else(PoisonError::into_inner).clone());
        WebhookView {
            name: webhook.name.clone(),
            url: webhook.url.clone(),
            severity: webhook.severity,
            created_at: webhook.created_at.clone(),
            state: if status.error.is_none() { WebhookState::Ok } else { WebhookState::Failing },
            delivered_seq: status.position,
            last_seq: self.0.log.summary().last_seq,
            failures: status.failures,
            given_up: status.given_up,
            error: status.error,
            retry_at: status.retry_at,
        }
    }

    fn limits(&self) -> EventLimits {
        self.0.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        // Each change is one step, so a panic elsewhere has left nothing half done.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(known: Known, name: &str) -> Answer<WebhookRecord> {
    let found = known.webhooks.into_iter().find(|webhook| webhook.name == name);
    found.ok_or_else(|| Problem::not_found("webhook", name))
}

/// An event that is in no log.
fn unlogged(seq: u64, kind: &str, name: &str) -> EventView {
    EventView {
        seq,
        id: uuid::Uuid::now_v7().to_string(),
        time: super::log::time_now(),
        severity: Severity::Info,
        kind: kind.to_owned(),
        object: name.to_owned(),
        pool: None,
        vm: None,
        figures: serde_json::Map::new(),
        details: BTreeMap::new(),
        cause: None,
        advice: None,
        acknowledged_at: None,
        acknowledged_by: None,
    }
}
