//! Keeping the state: what is decided is durable before it is in force; what is so already is in force whether it can be kept or not.

use std::time::Duration;

use plimsoll_hardware::Machine as _;

use super::Node;
use super::state::State;
use crate::model::{Health, HealthFinding};
use crate::problem::{Answer, Problem};

/// Between two attempts to keep what could not be kept: space is made without telling us.
const AGAIN: Duration = Duration::from_secs(5);

impl Node {
    /// Changes the state and makes it durable; when that fails nothing is changed.
    ///
    /// # Errors
    /// `state-no-space`, `state-not-kept`.
    pub(super) async fn remember(&self, change: impl FnOnce(&mut State)) -> Answer<()> {
        self.keep(change, false).await
    }

    /// Takes over what is so already. What cannot be made durable is tried again until it can, and is a finding meanwhile.
    ///
    /// # Errors
    /// As of [`Node::remember`]: it is in force, and a restart may not know it.
    pub(super) async fn note(&self, change: impl FnOnce(&mut State)) -> Answer<()> {
        let kept = self.keep(change, true).await;
        if let Err(problem) = &kept
            && self.0.unkept.replace(Some(problem.clone())).is_none()
        {
            tracing::error!(reason = problem.detail, "what has changed cannot be kept; trying again");
            self.keep_trying();
        }
        kept
    }

    /// Makes a changed state durable, and that of memory, which it becomes in any case if it `is_so` already.
    async fn keep(&self, change: impl FnOnce(&mut State), is_so: bool) -> Answer<()> {
        let _turn = self.0.saving.lock().await;
        let mut state = self.0.state.borrow().clone();
        change(&mut state);
        if *self.0.state.borrow() == state && self.unkept().is_none() {
            return Ok(());
        }
        let saved = self.save(&state).await;
        if is_so || saved.is_ok() {
            self.0.state.replace(state);
        }
        saved
    }

    /// Why what has changed last is not kept yet.
    pub(super) fn unkept(&self) -> Option<Problem> {
        self.0.unkept.borrow().clone()
    }

    /// Refuses to begin what will have to be remembered when there is no space for that.
    ///
    /// # Errors
    /// As of [`Node::remember`].
    pub(super) async fn room_to_remember(&self) -> Answer<()> {
        let _turn = self.0.saving.lock().await;
        let (dir, state) = (self.0.dir.clone(), self.0.state.borrow().clone());
        self.blocking(move || state.keep_room(&dir)).await?
    }

    pub(super) fn unkept_finding(&self) -> Option<HealthFinding> {
        let problem = self.unkept()?;
        let reason = format!("what has changed last may be unknown after a restart: {}", problem.detail);
        let advice = format!("make room there, {}; it is tried again by itself", problem.hint.unwrap_or_default());
        Some(HealthFinding { health: Health::Warning, object: "state".to_owned(), reason, advice })
    }

    async fn save(&self, state: &State) -> Answer<()> {
        let (dir, saved) = (self.0.dir.clone(), state.clone());
        self.blocking(move || saved.save(&dir)).await??;
        // It is all of it.
        self.0.unkept.replace(None);
        Ok(())
    }

    fn keep_trying(&self) {
        let node = self.clone();
        self.spawn(async move {
            while node.unkept().is_some() && !node.0.closing.get() {
                node.machine().sleep(AGAIN).await;
                // How it went is noted.
                let _ = node.note(|_| ()).await;
            }
        });
    }
}
