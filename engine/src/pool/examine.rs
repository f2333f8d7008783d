//! What a check looks at, and how that stands still.
//!
//! Open, it is the last checkpoint, through a second set of trees, while I/O goes on. When something is found, checkpoints are held
//! up and it is looked for again: what is found then counts. Inspected, or read-only since the start, it is what recovery made of the pool;
//! of a pool that failed later, it is the last checkpoint too: in memory there are pages of one that never stood.

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
        let store = &self.store;
        if store.journal.failure().is_some() {
            let pin = Pin::new(store);
            let (report, mends) = self.look_at(&store.second_view(true).await).await;
            return Ok((report, mends, Some(pin)));
        }
        let is_read_only = store.inspect || store.writable().is_err();
        if is_read_only || store.lacks_groups(true).await {
            // A repair that lets writers in must not find us half way; and where groups are lost it must not wait for a checkpoint, which
            // finds no place: the pool itself is looked at.
            let changes = !is_read_only || self.is_shut_until_repair();
            let pin = if changes { Some(self.hold_up().await?) } else { None };
            let (report, mends) = self.look_at(store).await;
            return Ok((report, mends, pin));
        }
        self.unless_starved(store.after_checkpoint()).await?;
        let (report, mends) = self.look_at(&store.second_view(true).await).await;
        if report.clean() {
            return Ok((report, mends, None));
        }
        let pin = self.hold_up().await?;
        let (report, mut mends) = self.look_at(&store.second_view(false).await).await;
        if mends.iter().any(Mend::rebuilds_group) && mends.iter().any(Mend::forgets) {
            // Memory may have what is lost on the devices, and names extents that nobody else does. Those of groups that are lost stay
            // where they are, whoever writes meanwhile.
            let (_, named) = self.look_at(store).await;
            Mend::join_groups(&mut mends, named);
        }
        Ok((report, mends, Some(pin)))
    }

    async fn look_at(&self, view: &Rc<Store<M>>) -> (CheckReport, Vec<Mend>) {
        let warnings = self.warnings.borrow().clone();
        Checker::run(&self.store, view, &warnings).await
    }

    /// Holds checkpoints up, once that under way has ended.
    async fn hold_up(&self) -> Result<Pin<M>> {
        let pin = Pin::new(&self.store);
        let ended = async {
            while self.store.checkpoint.running.get() {
                if self.store.closing.get() {
                    return Err(Error::Closing(self.store.identity.name.clone()));
                }
                self.store.checkpoint.done.changed().await;
            }
            Ok(())
        };
        self.unless_starved(ended).await?;
        Ok(pin)
    }

    /// What `checkpoint` comes to, unless that waits for room below a device.
    async fn unless_starved(&self, checkpoint: impl Future<Output = Result<()>>) -> Result<()> {
        match select(pin!(checkpoint), pin!(self.store.starved())).await {
            Either::Left((stands, _)) => stands,
            Either::Right(_) => {
                let object = format!("pool {}", self.store.identity.name);
                let reason = "what is on its devices is behind what is in memory, because their file system is full; \
                              free space there, then check it again";
                Err(Error::Busy { object, reason: reason.into() })
            }
        }
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
