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

mod deliver;
mod send;
mod sign;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::store::Change;
use super::{EventLimits, EventLog};
use crate::model::{AddWebhook, CloudEvent, EventView, Plan, Severity, WebhookState, WebhookTested, WebhookView};
use crate::name;
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

    /// Begins to deliver. Needs tokio's runtime around it.
    ///
    /// # Errors
    /// `internal` when the webhooks cannot be read.
    pub async fn start(&self, limits: EventLimits) -> Answer<()> {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        let (webhooks, mut returned, mut ended) = (self.clone(), self.0.log.returned(), self.0.log.ended());
        tokio::spawn(async move {
            // A log that could not be read at first may know some that are not served yet.
            loop {
                tokio::select! {
                    back = returned.changed() => if back.is_err() { return },
                    _ = ended.changed() => return,
                }
                if let Err(problem) = webhooks.run_all().await {
                    tracing::warn!(reason = problem.detail, "webhooks cannot be read");
                }
            }
        });
        self.run_all().await
    }

    /// Serves those that are not served yet.
    async fn run_all(&self) -> Answer<()> {
        let _turn = self.0.changes.lock().await;
        for webhook in self.0.log.webhooks().await? {
            if self.running().contains_key(&webhook.name) {
                continue;
            }
            match Target::parse(&webhook.url) {
                Ok(target) => self.run(webhook, target),
                Err(problem) => {
                    tracing::error!(webhook = webhook.name, reason = problem.detail, "a webhook is not served")
                }
            }
        }
        Ok(())
    }

    fn run(&self, webhook: WebhookRecord, target: Target) {
        let status = Arc::new(Mutex::new(Status::new(webhook.delivered_seq, webhook.given_up)));
        let name = webhook.name.clone();
        let delivery =
            Delivery { log: self.0.log.clone(), limits: self.limits(), webhook, target, status: status.clone() };
        let task = tokio::spawn(delivery.run()).abort_handle();
        if let Some(old) = self.running().insert(name, Running { task, status }) {
            // The log may have lost it, and somebody has added it anew.
            old.task.abort();
        }
    }

    /// All webhooks.
    ///
    /// # Errors
    /// `internal` when they cannot be read.
    pub async fn list(&self) -> Answer<Vec<WebhookView>> {
        let webhooks = self.0.log.webhooks().await?;
        Ok(webhooks.iter().map(|webhook| self.view(webhook)).collect())
    }

    /// One webhook.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn show(&self, name: &str) -> Answer<WebhookView> {
        Ok(self.view(&self.find(name).await?))
    }

    /// Adds a webhook.
    ///
    /// # Errors
    /// By what is wrong with it; `exists`.
    pub async fn add(&self, request: AddWebhook) -> Answer<WebhookView> {
        let _turn = self.0.changes.lock().await;
        let target = self.check(&request).await?;
        let last = self.0.log.summary().last_seq;
        let webhook = WebhookRecord {
            name: request.name,
            url: request.url,
            secret: request.secret,
            severity: request.severity.unwrap_or(Severity::Info),
            created_at: super::log::time_now(),
            delivered_seq: request.after.unwrap_or(last).min(last),
            gap_seq: 0,
            given_up: 0,
        };
        self.0.log.change(Change::PutWebhook(Box::new(webhook.clone()))).await?;
        self.run(webhook.clone(), target);
        Ok(self.view(&webhook))
    }

    /// What [`Self::add`] would do.
    ///
    /// # Errors
    /// The same.
    pub async fn plan_add(&self, request: &AddWebhook) -> Answer<Plan> {
        self.check(request).await?;
        let from = request.after.map_or("from now on".to_owned(), |after| format!("after event {after}"));
        Ok(Plan::of([format!("send events {from} to {}", request.url)]))
    }

    async fn check(&self, request: &AddWebhook) -> Answer<Target> {
        name::check("webhook", &request.name)?;
        let target = Target::parse(&request.url)?;
        if !SECRET_BYTES.contains(&request.secret.len()) {
            let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
            let detail = format!("the secret has {} bytes, {least} to {most} can be", request.secret.len());
            return Err(Problem::new("invalid-argument", detail).hint("openssl rand -hex 32 > secret.txt"));
        }
        let webhooks = self.0.log.webhooks().await?;
        if webhooks.iter().any(|webhook| webhook.name == request.name) {
            let detail = format!("webhook {} exists", request.name);
            return Err(Problem::new("exists", detail).hint(format!("plimsoll webhook remove {}", request.name)));
        }
        if webhooks.len() >= WEBHOOKS_MAX {
            let detail = format!("there are {} webhooks, no more can be", webhooks.len());
            return Err(Problem::new("conflict", detail).hint("plimsoll webhook list"));
        }
        Ok(target)
    }

    /// Removes a webhook; what it has not got by now it never gets.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn remove(&self, name: &str) -> Answer<()> {
        let _turn = self.0.changes.lock().await;
        self.find(name).await?;
        // First it is gone for good; what is under way is cut off then.
        self.0.log.change(Change::RemoveWebhook(name.to_owned())).await?;
        if let Some(running) = self.running().remove(name) {
            running.task.abort();
        }
        Ok(())
    }

    /// What [`Self::remove`] would do.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn plan_remove(&self, name: &str) -> Answer<Plan> {
        let webhook = self.show(name).await?;
        let missing = webhook.last_seq.saturating_sub(webhook.delivered_seq);
        Ok(Plan::of([format!("send nothing more to {}; {missing} events are not delivered yet", webhook.url)]))
    }

    /// Sends an event that is in no log, once.
    ///
    /// # Errors
    /// `not-found`; `webhook-failed` with what happened.
    pub async fn test(&self, name: &str) -> Answer<WebhookTested> {
        let webhook = self.find(name).await?;
        let target = Target::parse(&webhook.url)?;
        let (begin, timeout) = (Instant::now(), self.limits().webhook_timeout);
        let event = CloudEvent::from(test_event(name));
        let status = send::post(&target, &webhook.secret, &event, timeout).await.map_err(|reason| {
            Problem::new("webhook-failed", format!("{} did not take the test event: {reason}", webhook.url))
                .hint(format!("curl -v -X POST {}", webhook.url))
        })?;
        let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(WebhookTested { schema: "webhook-test/v1".to_owned(), name: name.to_owned(), status, milliseconds })
    }

    /// What [`Self::test`] would do.
    ///
    /// # Errors
    /// `not-found`.
    pub async fn plan_test(&self, name: &str) -> Answer<Plan> {
        let webhook = self.find(name).await?;
        Ok(Plan::of([format!("send an event of the kind webhook-test to {}, once", webhook.url)]))
    }

    async fn find(&self, name: &str) -> Answer<WebhookRecord> {
        let found = self.0.log.webhooks().await?.into_iter().find(|webhook| webhook.name == name);
        found.ok_or_else(|| Problem::not_found("webhook", name))
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

fn test_event(name: &str) -> EventView {
    EventView { cause: Some("somebody asked for a test".to_owned()), ..unlogged(0, "webhook-test", name) }
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
