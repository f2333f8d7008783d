//! `webhook add` and `webhook remove`.

use super::{SECRET_BYTES, Target, WEBHOOKS_MAX, WebhookRecord, Webhooks, find};
use crate::event::log::time_now;
use crate::event::store::Change;
use crate::model::{AddWebhook, Plan, Severity, WebhookView};
use crate::name;
use crate::problem::{Answer, Problem};

impl Webhooks {
    /// Adds a webhook. One of its name that the log has lost, or whose record makes no sense, gives way.
    ///
    /// # Errors
    /// By what is wrong with it; `exists`; `internal` when it cannot be kept in the file. Nothing is changed then.
    pub async fn add(&self, request: AddWebhook) -> Answer<WebhookView> {
        let _turn = self.0.changes.lock().await;
        let target = self.check(&request).await?;
        let last = self.0.log.summary().last_seq;
        let webhook = WebhookRecord {
            name: request.name,
            url: request.url,
            secret: request.secret,
            severity: request.severity.unwrap_or(Severity::Info),
            created_at: time_now(),
            delivered_seq: request.after.unwrap_or(last).min(last),
            gap_seq: 0,
            given_up: 0,
        };
        self.0.log.change(Change::PutWebhook(Box::new(webhook.clone()))).await?;
        self.run(webhook.clone(), target);
        self.run_all().await;
        Ok(self.view(&webhook))
    }

    /// What [`Self::add`] would do.
    ///
    /// # Errors
    /// The same.
    pub async fn plan_add(&self, request: &AddWebhook) -> Answer<Plan> {
        self.0.log.check_lasting()?;
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
        let webhooks = self.0.log.webhooks().await?.webhooks;
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

    /// Removes a webhook; what it has not got by now it never gets. Also one that is served although the log has lost it, and one whose
    /// record makes no sense.
    ///
    /// # Errors
    /// `not-found`; `internal` when that cannot be kept in the file. Nothing is changed then.
    pub async fn remove(&self, name: &str) -> Answer<()> {
        let _turn = self.0.changes.lock().await;
        // First it is gone for good; what is under way is cut off then.
        let removed = self.0.log.change(Change::RemoveWebhook(name.to_owned())).await?.changed;
        let running = self.running().remove(name);
        if let Some(running) = &running {
            running.task.abort();
        }
        if removed == 0 && running.is_none() {
            return Err(Problem::not_found("webhook", name));
        }
        self.run_all().await;
        Ok(())
    }

    /// What [`Self::remove`] would do.
    ///
    /// # Errors
    /// The same.
    pub async fn plan_remove(&self, name: &str) -> Answer<Plan> {
        self.0.log.check_lasting()?;
        let known = self.known().await?;
        if known.unreadable.iter().any(|unreadable| unreadable == name) {
            return Ok(Plan::of([format!("forget webhook {name}, whose record makes no sense")]));
        }
        let webhook = self.view(&find(known, name)?);
        let missing = webhook.last_seq.saturating_sub(webhook.delivered_seq);
        Ok(Plan::of([format!("send nothing more to {}; {missing} events are not delivered yet", webhook.url)]))
    }
}
