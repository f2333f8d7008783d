//! The way from other threads to the node: a closure goes in by mailbox, runs as a task on the reactor, and its answer
//! comes back through a one-shot channel. Neither side ever blocks on the other.
//!
//! Who asks may go away meanwhile. What was begun goes on to its end; what has not begun by then never does.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use plimsoll_hardware::reactor::MailboxSender;
use tokio::sync::oneshot;

use super::{Node, below};
use crate::event::{EventLog, Webhooks};
use crate::problem::{Answer, Problem};

/// A file system that takes longer to say what it has is not waited for.
pub(super) const LOOK_TIME_MAX: Duration = Duration::from_secs(1);

/// Alive as long as somebody waits for the answer.
pub(crate) type Asker = Weak<()>;

tokio::task_local! {
    static ASKER: Option<Asker>;
}

/// Does `work` for somebody who may stop waiting, if for anybody: what it asks of a node begins only while they do.
pub(crate) fn asked_by<T>(asker: Option<Asker>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    ASKER.scope(asker, work)
}

/// Who asked for what the present task does. The daemon itself always waits, and is nobody.
pub(crate) fn asker() -> Option<Asker> {
    ASKER.try_with(Clone::clone).ok().flatten()
}

/// Refuses to begin what nobody waits for any more.
pub(super) fn still_wanted() -> Answer<()> {
    match asker().is_some_and(|asker| asker.strong_count() == 0) {
        true => Err(Problem::new("given-up", "it had not begun when its client went away, and was not done")),
        false => Ok(()),
    }
}

/// What travels: something to start on the reactor.
pub(super) type Call = Box<dyn FnOnce(&Node) + Send>;

/// A node as other threads see it. Cheap to clone.
#[derive(Clone)]
pub struct NodeLink {
    calls: MailboxSender<Call>,
    events: EventLog,
    webhooks: Webhooks,
    /// Who looks below the pools. One that hangs keeps others from hanging as well.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl NodeLink {
    pub(super) fn new(calls: MailboxSender<Call>, events: EventLog, webhooks: Webhooks) -> Self {
        Self { calls, events, webhooks, looking: Arc::default() }
    }

    /// Looks what room there is below the pools, for figures and findings that are asked for next.
    pub async fn look_below(&self) {
        let Ok(turn) = self.looking.clone().try_lock_owned() else { return };
        let Ok(asked) = self.call(|node| async move { Ok(node.asked_below()) }).await else { return };
        let look = tokio::task::spawn_blocking(move || {
            let found = below::look(asked);
            drop(turn);
            found
        });
        if let Ok(Ok(found)) = tokio::time::timeout(LOOK_TIME_MAX, look).await {
            // A node that is gone needs it no more.
            let keep = |node: Node| async move {
                node.set_seen(found);
                for pool in node.open_pools() {
                    node.tell_below(&pool).await;
                    node.tell_gone(&pool).await;
                }
                Ok(())
            };
            let _ = self.call(keep).await;
        }
    }

    /// The event log, which any thread may ask.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The webhooks, likewise.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Runs `work` as a task on the reactor and waits for its answer. When the caller goes away, work that has begun goes on.
    ///
    /// # Errors
    /// What `work` answers; `closing` when the node is gone.
    pub async fn call<T, F>(&self, work: impl FnOnce(Node) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let asker = asker();
        let call: Call = Box::new(move |node| {
            let task = work(node.clone());
            node.spawn(async move {
                let begin = async {
                    still_wanted()?;
                    task.await
                };
                // Nobody waits any more when the request was given up; the work itself is done all the same.
                let _ = reply.send(asked_by(asker, begin).await);
            });
        });
        let gone = || Problem::new("closing", "the daemon is stopping").hint("start it again: plimsoll serve");
        self.calls.send(call).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
