//! Which values a sector may have: all that somebody has written and nothing has certainly replaced.
//!
//! Every operation that touches a sector leaves an entry. When it is answered, it supersedes those that were answered before it
//! began. A superseded value is not read again; after power loss it may come back until a flush that began after the
//! superseding operation was answered has completed.

/// A moment of the model, counted in events. Nothing happens at 0.
pub type Moment = u64;

/// Later than everything.
pub const NEVER: Moment = Moment::MAX;

/// A value and the operation that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// 0 for zeros.
    pub version: u32,
    /// The operation.
    pub op: u32,
    /// It changes whole blocks all at once.
    pub atomic: bool,
    /// When it began.
    pub began: Moment,
    /// When it was answered.
    pub answered: Moment,
    /// When the first operation that began after that was answered.
    pub superseded: Moment,
    /// A durable operation has replaced it.
    pub dead: bool,
}

impl Entry {
    /// Whether a power loss may bring it back.
    pub fn survives(&self, flushed: Moment) -> bool {
        !self.dead && self.superseded >= flushed
    }
}

/// What is allowed of one sector.
#[derive(Clone, Default)]
pub struct Sector {
    /// The only value, when there is no doubt.
    pub value: u32,
    /// All values that are possible, the settled one first.
    pub doubt: Option<Box<Vec<Entry>>>,
}

impl Sector {
    /// The only value it has.
    pub fn settle(&mut self, value: u32) {
        (self.value, self.doubt) = (value, None);
    }

    /// An operation begins.
    pub fn begin(&mut self, op: u32, version: u32, now: Moment, atomic: bool) {
        let value = self.value;
        let base =
            Entry { version: value, op: 0, atomic: false, began: 0, answered: 0, superseded: NEVER, dead: false };
        let list = self.doubt.get_or_insert_with(|| Box::new(vec![base]));
        list.push(Entry { version, op, atomic, began: now, answered: NEVER, ..base });
    }

    /// The operation, begun at `began`, was answered.
    pub fn done(&mut self, op: u32, began: Moment, now: Moment, durable: bool) {
        let Some(list) = &mut self.doubt else { return };
        for entry in list.iter_mut() {
            if entry.op == op {
                entry.answered = now;
            } else if entry.answered < began {
                entry.superseded = entry.superseded.min(now);
                entry.dead |= durable;
            }
        }
    }

    /// The operation failed and may have had its effect.
    pub fn failed(&mut self, op: u32, now: Moment) {
        for entry in self.doubt.iter_mut().flat_map(|list| list.iter_mut()).filter(|entry| entry.op == op) {
            entry.answered = now;
        }
    }

    /// The operation was refused and had no effect.
    pub fn refused(&mut self, op: u32) {
        if let Some(list) = &mut self.doubt {
            list.retain(|entry| entry.op != op);
        }
    }

    /// Forgets what cannot come back and no read begun at `oldest_read` or later may see. Answers whether doubt is left.
    pub fn prune(&mut self, flushed: Moment, oldest_read: Moment) -> bool {
        let Some(list) = &mut self.doubt else { return false };
        list.retain(|entry| entry.survives(flushed) || entry.superseded >= oldest_read);
        match &list[..] {
            [only] if only.answered != NEVER => {
                self.value = only.version;
                self.doubt = None;
                false
            }
            _ => true,
        }
    }

    /// Whether a read begun at `began` that ends now may see `version`.
    pub fn may_read(&self, version: u32, began: Moment) -> bool {
        self.any(version, |entry| entry.superseded >= began)
    }

    /// Whether a start may find `version`, after power loss or only a process's death.
    pub fn may_find(&self, version: u32, power: bool, flushed: Moment) -> bool {
        self.any(version, |entry| if power { entry.survives(flushed) } else { entry.superseded == NEVER })
    }

    fn any(&self, version: u32, allowed: impl Fn(&Entry) -> bool) -> bool {
        match &self.doubt {
            None => self.value == version,
            Some(list) => list.iter().any(|entry| entry.version == version && allowed(entry)),
        }
    }
}
