//! Webhooks that take nothing.

use crate::model::{Health, HealthFinding, WebhookState, WebhookView};
use crate::units::counted;

/// So many attempts in a row are more than a restart of the receiver: the pauses between them are 1 + 2 + 4 + 8 + 16 s, or half of that.
const FAILURES_MIN: u64 = 6;

/// Those that have failed for a while.
pub fn failing_webhooks(webhooks: &[WebhookView]) -> Vec<HealthFinding> {
    let failing = |webhook: &&WebhookView| webhook.state == WebhookState::Failing && webhook.failures >= FAILURES_MIN;
    webhooks.iter().filter(failing).map(finding).collect()
}

fn finding(webhook: &WebhookView) -> HealthFinding {
    let name = &webhook.name;
    let behind = webhook.last_seq.saturating_sub(webhook.delivered_seq);
    let reason = format!(
        "webhook {name} has taken nothing in {}, and is {} behind: {}",
        counted(webhook.failures, "attempt"),
        counted(behind, "event"),
        webhook.error.as_deref().unwrap_or("no reason is known")
    );
    let advice = format!("plimsoll webhook test {name}; plimsoll webhook show {name}");
    HealthFinding { health: Health::Warning, object: name.clone(), reason, advice }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Severity;

    #[test]
    fn a_webhook_that_fails_for_a_while_is_a_finding_and_one_that_has_just_begun_to_is_not() {
        let webhook = |failures: u64| WebhookView {
            name: "ops".into(),
            url: "http://127.0.0.1/".into(),
            severity: Severity::Info,
            created_at: String::new(),
            state: if failures > 0 { WebhookState::Failing } else { WebhookState::Ok },
            delivered_seq: 7,
            last_seq: 8,
            failures,
            given_up: 0,
            error: (failures > 0).then(|| "connection refused".into()),
            retry_at: None,
        };
        assert_eq!(failing_webhooks(&[webhook(0), webhook(FAILURES_MIN - 1)]), []);
        let [finding] = &failing_webhooks(&[webhook(FAILURES_MIN)])[..] else { panic!("not one finding") };
        let expected = "webhook ops has taken nothing in 6 attempts, and is 1 event behind: connection refused";
        assert_eq!((finding.health, finding.reason.as_str()), (Health::Warning, expected));
        crate::cli::hints::assert_advice_can_be_followed(&finding.advice);
    }
}
