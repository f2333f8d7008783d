//! Which events are asked for.

use crate::model::{EventView, Severity};

/// Events of a page when nothing is said, and at most.
pub const PAGE_DEFAULT: usize = 100;
/// One event has about 1 KiB.
pub const PAGE_MAX: usize = 10_000;

/// A question. The default asks for the oldest events of all kinds.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only those with a greater number.
    pub after: u64,
    /// At least this bad.
    pub severity: Option<Severity>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this object; a pool's name means its vdisks too.
    pub object: Option<String>,
    /// Warnings and critical ones that nobody took note of.
    pub unacknowledged: bool,
    /// The newest that fit instead of the oldest; still ascending.
    pub newest: bool,
    /// At most so many.
    pub limit: usize,
}

impl EventQuery {
    /// All after a number, at most so many.
    pub fn after(after: u64, limit: usize) -> Self {
        Self { after, limit, ..Self::default() }
    }

    /// Whether an event is asked for, apart from numbers and acknowledgement.
    pub(super) fn fits(&self, event: &EventView) -> bool {
        let object = |object: &String| {
            event.object == *object || event.pool.as_ref().is_some_and(|pool| pool == object) || event.id == *object
        };
        self.severity.is_none_or(|least| event.severity >= least)
            && self.kind.as_ref().is_none_or(|kind| event.kind == *kind)
            && self.object.as_ref().is_none_or(object)
    }
}
