//! `webhook test`.

use std::time::Instant;

use super::{Target, Webhooks, send, unlogged};
use crate::model::{CloudEvent, EventView, Plan, WebhookTested};
use crate::problem::{Answer, Problem};

impl Webhooks {
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
}

fn test_event(name: &str) -> EventView {
    EventView { cause: Some("somebody asked for a test".to_owned()), ..unlogged(0, "webhook-test", name) }
}
