//! Events: a durable, ordered log of what happened, and everybody who listens to it.
//!
//! - [`describe`] makes words, severity and advice of what the engine raises;
//! - [`store`] keeps events, alarms and webhooks in one file, each change all or nothing;
//! - [`writer`] is the thread that writes, in batches, and what it does when the file can't be written;
//! - [`EventLog`] is all that as the rest of the program sees it;
//! - [`webhook`] sends events to others.
//!
//! Invariants:
//! 1. An event and the alarm state that it leaves behind are one transaction, so that a kill at any instant neither loses
//!    nor repeats an event: the engine gets the alarm state back and raises what differs.
//! 2. Numbers ascend in the order of the transactions and are never used again, not even when the event is long gone.
//! 3. Listeners hold a number, not a queue: who is slow or gone costs no memory, and goes on where it was.
//! 4. No thread but the writer waits for a disk because of an event that is written.

mod alarms;
mod describe;
mod kinds;
mod log;
mod query;
mod store;
#[cfg(test)]
mod tests;
mod webhook;
mod writer;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(crate) use describe::time;
pub use describe::{CRITICAL_PCT, bring_back, describe, describe_all, replaced};
pub use kinds::check_kind;
pub use log::{EventLimits, EventLog, Summary};
pub use query::{EventQuery, PAGE_DEFAULT, PAGE_MAX};
pub use webhook::Webhooks;

use crate::model::Severity;

/// An event that has no number yet.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as in EventView")]
pub struct NewEvent {
    pub severity: Severity,
    pub kind: String,
    pub object: String,
    pub pool: Option<String>,
    pub vm: Option<String>,
    pub figures: Map<String, Value>,
    pub details: BTreeMap<String, String>,
    pub cause: Option<String>,
    pub advice: Option<String>,
}

impl NewEvent {
    /// An event without figures.
    pub fn new(severity: Severity, kind: &str, object: &str) -> Self {
        Self {
            severity,
            kind: kind.to_owned(),
            object: object.to_owned(),
            pool: None,
            vm: None,
            figures: Map::new(),
            details: BTreeMap::new(),
            cause: None,
            advice: None,
        }
    }

    /// With a number, whose unit is in its name.
    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// With a word for programs.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// With the reason.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// With what to do.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}
