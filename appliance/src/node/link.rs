//! The way from other threads to the node: a closure goes in by mailbox, runs as a task on the reactor, and its answer
//! comes back through a one-shot channel. Neither side ever blocks on the other.

use std::future::Future;

use plimsoll_hardware::reactor::MailboxSender;
use tokio::sync::oneshot;

use super::Node;
use crate::event::{EventLog, Webhooks};
use crate::problem::{Answer, Problem};

/// What travels: something to start on the reactor.
pub(super) type Call = Box<dyn FnOnce(&Node) + Send>;

/// A node as other threads see it. Cheap to clone.
#[derive(Clone)]
pub struct NodeLink {
    calls: MailboxSender<Call>,
    events: EventLog,
    webhooks: Webhooks,
}

impl NodeLink {
    pub(super) fn new(calls: MailboxSender<Call>, events: EventLog, webhooks: Webhooks) -> Self {
        Self { calls, events, webhooks }
    }

    /// The event log, which any thread may ask.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The webhooks, likewise.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Runs `work` as a task on the reactor and waits for its answer. When the caller goes away the work goes on.
    ///
    /// # Errors
    /// What `work` answers; `closing` when the node is gone.
    pub async fn call<T, F>(&self, work: impl FnOnce(Node) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |node| {
            let task = work(node.clone());
            node.spawn(async move {
                // Nobody waits any more when the request was given up; the work itself is done all the same.
                let _ = reply.send(task.await);
            });
        });
        let gone = || Problem::new("closing", "the daemon is stopping").hint("start it again: plimsoll serve");
        self.calls.send(call).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
