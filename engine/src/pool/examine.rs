//! What a check looks at, and how that stands still.
//!
//! Open, it is the last checkpoint, through a second set of trees, while I/O goes on. When something is found, checkpoints are held
//! up and it is looked for again: what is found then counts. Inspected, or read-only, it is what recovery made of the pool.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use plimsoll_hardware::Machine;

use super::Pool;
use super::check::{CheckReport, Checker};
use super::mend::Mend;
use crate::error::{Error, Result};
use crate::vdisk::Store;

impl<M: Machine> Pool<M> {
    /// Looks at the last checkpoint without holding anything up; when that finds something, again with checkpoints held up,
    /// which is what counts. The pin is answered with it: as long as it lives what was found stays true.
    pub(super) async fn examine(&self) -> Result<(CheckReport, Vec<Mend>, Option<Pin<M>>)> {
        let warnings = self.warnings.borrow().clone();
        if self.store.inspect || self.store.writable().is_err() {
            // A repair that lets writers in must not find us half way.
            let pin = if self.store.inspect { None } else { Some(self.hold_up().await?) };
            let (report, mends) = Checker::run(&self.store, &self.store, &warnings).await;
            return Ok((report, mends, pin));
        }
        if self.store.lacks_groups().await {
            // Lost groups leave no place for a page, and the repair of them must not wait for one: the pool itself is looked at.
            let pin = self.hold_up().await?;
            let (report, mends) = Checker::run(&self.store, &self.store, &warnings).await;
            return Ok((report, mends, Some(pin)));
        }
        match select(pin!(self.store.after_checkpoint()), pin!(self.store.starved())).await {
            Either::Left((stands, _)) => stands?,
            Either::Right(_) => {
                let object = format!("pool {}", self.store.identity.name);
                let reason = "what is on its devices is behind what is in memory, because their file system is full; \
                              free space there, then check it again";
                return Err(Error::Busy { object, reason: reason.into() });
            }
        }
        let view = self.store.second_view(true).await;
        let (report, mends) = Checker::run(&self.store, &view, &warnings).await;
        if report.clean() {
            return Ok((report, mends, None));
        }
        let pin = self.hold_up().await?;
        let view = self.store.second_view(false).await;
        let (report, mends) = Checker::run(&self.store, &view, &warnings).await;
        Ok((report, mends, Some(pin)))
    }

    /// Holds checkpoints up, once that under way has ended.
    async fn hold_up(&self) -> Result<Pin<M>> {
        let pin = Pin::new(&self.store);
        while self.store.checkpoint.running.get() {
            if self.store.closing.get() {
                return Err(Error::Closing(self.store.identity.name.clone()));
            }
            self.store.checkpoint.done.changed().await;
        }
        Ok(pin)
    }
}

/// Holds checkpoints up, so that no page of the last one is used for something else.
pub(super) struct Pin<M: Machine> {
    store: Rc<Store<M>>,
}

impl<M: Machine> Pin<M> {
    fn new(store: &Rc<Store<M>>) -> Self {
        store.checkpoint.pins.set(store.checkpoint.pins.get() + 1);
        Pin { store: store.clone() }
    }
}

impl<M: Machine> Drop for Pin<M> {
    fn drop(&mut self) {
        self.store.checkpoint.pins.set(self.store.checkpoint.pins.get() - 1);
        self.store.checkpoint.request.notify();
        self.store.checkpoint.done.notify();
    }
}
