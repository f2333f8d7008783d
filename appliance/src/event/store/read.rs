//! Reading, beside whoever writes.

use plimsoll_engine::AlarmState;
use redb::{ReadableDatabase, ReadableTable};
use uuid::Uuid;

use super::{
    ALARMS, BATCH, COUNTS, EVENTS, Known, LAST, NUMBERS, OPEN, PRUNED, Store, Stored, Summary, WEBHOOKS, open_name,
    severity_of,
};
use crate::event::EventQuery;
use crate::event::alarms::Alarms;
use crate::model::{EventView, Severity};

impl Store {
    /// A page of events, and whether more may follow.
    pub(in crate::event) fn read(&self, query: &EventQuery) -> Stored<(Vec<EventView>, bool)> {
        let transaction = self.database.begin_read()?;
        let (events, open) = (transaction.open_table(EVENTS)?, transaction.open_table(OPEN)?);
        let mut found = Vec::new();
        let mut range = events.range(query.after.saturating_add(1)..)?;
        while let Some(entry) = if query.newest { range.next_back() } else { range.next() } {
            let (seq, event) = entry?;
            if query.unacknowledged && open.get(seq.value())?.is_none() {
                continue;
            }
            // One that makes no sense keeps nobody from the others.
            let Ok(event) = serde_json::from_slice::<EventView>(event.value()) else {
                tracing::warn!(seq = seq.value(), "an event makes no sense and is passed over");
                continue;
            };
            if !query.fits(&event) {
                continue;
            }
            if found.len() == query.limit {
                if query.newest {
                    found.reverse();
                }
                return Ok((found, true));
            }
            found.push(event);
        }
        if query.newest {
            found.reverse();
        }
        Ok((found, false))
    }

    /// The event of this number.
    pub(in crate::event) fn event(&self, seq: u64) -> Stored<Option<EventView>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let found = events.get(seq)?;
        Ok(found.map(|event| serde_json::from_slice(event.value())).transpose()?)
    }

    /// The first and the last number that events had after `after` and up to `until`, and have no more.
    pub(in crate::event) fn gap(&self, after: u64, until: u64) -> Stored<Option<(u64, u64)>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let (mut first, mut last) = (after + 1, until);
        for entry in events.range(first..=until)? {
            if entry?.0.value() != first {
                break;
            }
            first += 1;
        }
        for entry in events.range(first..=until.max(first))?.rev() {
            if entry?.0.value() != last {
                break;
            }
            last -= 1;
        }
        Ok((first <= last).then_some((first, last)))
    }

    /// What had fired in a pool.
    pub(in crate::event) fn alarms(&self, pool: Uuid) -> Stored<AlarmState> {
        let alarms = self.database.begin_read()?.open_table(ALARMS)?;
        let found = alarms.get(pool.to_string().as_str())?;
        let found = found.map(|alarms| serde_json::from_slice::<Alarms>(alarms.value())).transpose()?;
        Ok(found.map(AlarmState::from).unwrap_or_default())
    }

    /// All webhooks.
    pub(in crate::event) fn webhooks(&self) -> Stored<Known> {
        let webhooks = self.database.begin_read()?.open_table(WEBHOOKS)?;
        let mut known = Known::default();
        for entry in webhooks.iter()? {
            let (name, webhook) = entry?;
            match serde_json::from_slice(webhook.value()) {
                Ok(webhook) => known.webhooks.push(webhook),
                // The parser's words are not told: they may have the secret in them.
                Err(_) => known.unreadable.push(name.value().to_owned()),
            }
        }
        Ok(known)
    }

    /// How many lists of changes were kept in it.
    pub(in crate::event) fn batch(&self) -> Stored<u64> {
        let numbers = self.database.begin_read()?.open_table(NUMBERS)?;
        Ok(numbers.get(BATCH)?.map_or(0, |number| number.value()))
    }

    /// Its figures.
    pub(in crate::event) fn summary(&self) -> Stored<Summary> {
        let transaction = self.database.begin_read()?;
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |name: &str| -> Stored<u64> { Ok(numbers.get(name)?.map_or(0, |number| number.value())) };
        let mut counts = Vec::new();
        for entry in transaction.open_table(COUNTS)?.iter()? {
            let (key, count) = entry?;
            let (kind, code) = key.value();
            counts.push((kind.to_owned(), severity_of(code), count.value()));
        }
        Ok(Summary {
            last_seq: number(LAST)?,
            pruned_seq: number(PRUNED)?,
            warnings: number(open_name(Severity::Warning))?,
            criticals: number(open_name(Severity::Critical))?,
            counts,
        })
    }
}
