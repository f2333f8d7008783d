//! The task of one webhook: the next event, until it is taken, then the one after it.
//!
//! Pauses between attempts double from the first to the longest, each shortened by up to a half at random, so that
//! receivers that come back are not met by everybody at once. An event that was not taken in a day is given up, which is
//! an event of its own; then the next one has its day.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::url::Target;
use super::{WebhookRecord, send, unlogged};
use crate::event::describe::time;
use crate::event::store::Change;
use crate::event::{EventLimits, EventLog, EventQuery, NewEvent};
use crate::model::{CloudEvent, EventView, Severity};

/// Events read at once.
const PAGE: usize = 32;
/// After the log could not be read or written.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// How it goes.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) position: u64,
    pub(super) failures: u64,
    pub(super) given_up: u64,
    pub(super) error: Option<String>,
    pub(super) retry_at: Option<String>,
}

impl Status {
    pub(super) fn new(position: u64, given_up: u64) -> Self {
        Self { position, failures: 0, given_up, error: None, retry_at: None }
    }
}

/// A webhook that is served.
pub(super) struct Delivery {
    pub(super) log: EventLog,
    pub(super) limits: EventLimits,
    pub(super) webhook: WebhookRecord,
    pub(super) target: Target,
    pub(super) status: Arc<Mutex<Status>>,
}

/// The daemon stops.
struct Ended;

impl Delivery {
    pub(super) async fn run(self) {
        let (mut newest, mut ended) = (self.log.newest(), self.log.ended());
        let (mut position, mut known) = (self.webhook.delivered_seq, self.webhook.gap_seq);
        while !*ended.borrow_and_update() {
            // Seen before the look: what comes during it wakes us again.
            let last = *newest.borrow_and_update();
            let severity = Some(self.webhook.severity);
            let query = EventQuery { severity, ..EventQuery::after(position, PAGE) };
            // The page first: what is let go after it is found the next time.
            let page = match self.log.list(query).await {
                Ok(page) => self.log.gap(position, known).await.map(|gap| (page, gap)),
                Err(problem) => Err(problem),
            };
            let (page, gap) = match page {
                Ok(found) => found,
                Err(problem) => {
                    tracing::warn!(webhook = self.webhook.name, reason = problem.detail, "events cannot be read");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                    continue;
                }
            };
            if let Some(gap) = gap {
                let Ok(given_up) = self.deliver(self.says_gap(gap), &mut ended).await else { return };
                known = gap.1;
                self.advance(position, known, given_up).await;
            }
            if page.items.is_empty() {
                position = position.max(last);
                self.note(|status| status.position = position);
                tokio::select! {
                    _ = newest.changed() => {}
                    _ = ended.changed() => {}
                }
            }
            for event in page.items {
                let seq = event.seq;
                let Ok(given_up) = self.deliver(event, &mut ended).await else { return };
                position = seq;
                self.advance(position, known, given_up).await;
            }
        }
    }

    /// An event about those that were let go.
    fn says_gap(&self, (first, last): (u64, u64)) -> EventView {
        let mut event = unlogged(last, "event-gap", &self.webhook.name);
        event.severity = Severity::Warning;
        // The same after a kill.
        event.id = uuid::Uuid::from_u64_pair(first, last).to_string();
        event
            .figures
            .extend([("first_missing_seq".to_owned(), first.into()), ("last_missing_seq".to_owned(), last.into())]);
        event.cause = Some(format!(
            "of the events {first} to {last} some were let go before they could be sent: the log was full"
        ));
        event.advice =
            Some("See what is left (plimsoll event list), and let the receiver take events in time.".to_owned());
        event
    }

    /// Returns when the event was taken (0) or given up (1).
    async fn deliver(&self, event: EventView, ended: &mut watch::Receiver<bool>) -> Result<u64, Ended> {
        let (begin, (first, longest)) = (Instant::now(), self.limits.webhook_retry);
        let event = CloudEvent::from(event);
        let mut pause = first;
        loop {
            let attempt = send::post(&self.target, &self.webhook.secret, &event, self.limits.webhook_timeout);
            let result = tokio::select! {
                result = attempt => result,
                _ = ended.changed() => return Err(Ended),
            };
            let reason = match result {
                Ok(_) => return Ok(0),
                Err(reason) => reason,
            };
            tracing::debug!(webhook = self.webhook.name, seq = event.data.seq, reason, "an event was not taken");
            if begin.elapsed() >= self.limits.webhook_give_up {
                self.give_up(&event.data, &reason).await;
                return Ok(1);
            }
            let wait = shortened(pause);
            pause = (pause * 2).min(longest);
            self.note(|status| {
                status.failures += 1;
                status.error = Some(reason);
                status.retry_at = Some(crate::event::log::time_after(wait));
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = ended.changed() => return Err(Ended),
            }
        }
    }

    async fn advance(&self, seq: u64, gap_seq: u64, given_up: u64) {
        let name = self.webhook.name.clone();
        if let Err(problem) = self.log.change(Change::Delivered { name, seq, gap_seq, given_up }).await {
            // It is delivered all the same; after a restart it may be again.
            tracing::warn!(webhook = self.webhook.name, reason = problem.detail, "a delivery cannot be remembered");
        }
        self.note(|status| {
            let given_up = status.given_up + given_up;
            *status = Status {
                error: status.error.take().filter(|_| given_up > status.given_up),
                ..Status::new(seq, given_up)
            };
        });
    }

    async fn give_up(&self, event: &EventView, reason: &str) {
        let name = &self.webhook.name;
        tracing::error!(webhook = name, seq = event.seq, reason, "an event is given up");
        let told = NewEvent::new(Severity::Warning, "webhook-gave-up", name)
            .figure("event_seq", event.seq)
            .cause(format!(
                "webhook {name} did not take event {} in {}: {reason}",
                event.seq,
                time(self.limits.webhook_give_up)
            ))
            .advice(format!(
                "Look at the receiver (plimsoll webhook test {name}) and at the event (plimsoll event show {}).",
                event.seq
            ));
        // One that a webhook did not take because of itself makes no more of its kind.
        if !["webhook-gave-up", "event-gap"].contains(&event.kind.as_str())
            && let Err(problem) = self.log.append(vec![told], None).await
        {
            tracing::warn!(reason = problem.detail, "an event cannot be kept");
        }
    }

    fn note(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Half of it to all of it.
fn shortened(pause: Duration) -> Duration {
    let random = (uuid::Uuid::new_v4().as_u128() & 0xff) as u32;
    pause / 2 + pause / 512 * random
}
