//! Making one store what another is: from the file to memory when the file can't be written, and back. Each can be done again after an
//! error that came too late: what is there already is not written twice.

use redb::{Key, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction};

use super::{ALARMS, BATCH, COUNTS, EVENTS, LAST, NUMBERS, OPEN, PRUNED, Store, Stored, WEBHOOKS, code_of, open_name};
use crate::model::{EventView, Severity};

/// What becomes of an entry that both have, and of one that the other has not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Stays,
    Goes,
}

impl Store {
    /// Becomes what `other` is, with its numbers and ids, all or nothing; only what differs is written.
    pub(in crate::event) fn take_over(&self, other: &Store) -> Stored<()> {
        let transaction = self.begin()?;
        copy_all(other, &transaction, Ours::Goes)?;
        copy(other, &transaction, COUNTS, Ours::Goes)?;
        count_open(&transaction)?;
        raise_numbers(other, &transaction)?;
        transaction.commit()?;
        Ok(())
    }

    /// Takes over what `other` has from before we began, but for events after number `told`: nobody was told of those, because keeping
    /// them was answered with an error, and they were kept here anew.
    pub(in crate::event) fn learn(&self, other: &Store, told: u64) -> Stored<()> {
        let transaction = self.begin()?;
        copy_all(other, &transaction, Ours::Stays)?;
        add_counts(other, &transaction)?;
        forget_after(other, &transaction, told)?;
        count_open(&transaction)?;
        raise_numbers(other, &transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

fn copy_all(from: &Store, to: &WriteTransaction, ours: Ours) -> Stored<()> {
    copy(from, to, EVENTS, ours)?;
    copy(from, to, OPEN, ours)?;
    copy(from, to, ALARMS, ours)?;
    copy(from, to, WEBHOOKS, ours)
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &Store,
    to: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
    ours: Ours,
) -> Stored<()> {
    let (from, mut to) = (from.database.begin_read()?.open_table(table)?, to.open_table(table)?);
    if ours == Ours::Goes {
        to.retain(|key, _| !matches!(from.get(key), Ok(None)))?;
    }
    for entry in from.iter()? {
        let (key, value) = entry?;
        let bytes = |value: &V::SelfType<'_>| V::as_bytes(value).as_ref().to_vec();
        let found = to.get(key.value())?.map(|found| bytes(&found.value()));
        let stands = found.is_some_and(|found| ours == Ours::Stays || found == bytes(&value.value()));
        if !stands {
            to.insert(key.value(), value.value())?;
        }
    }
    Ok(())
}

fn add_counts(from: &Store, to: &WriteTransaction) -> Stored<()> {
    let (from, mut to) = (from.database.begin_read()?.open_table(COUNTS)?, to.open_table(COUNTS)?);
    for entry in from.iter()? {
        let (key, count) = entry?;
        let ours = to.get(key.value())?.map_or(0, |ours| ours.value());
        to.insert(key.value(), ours + count.value())?;
    }
    Ok(())
}

/// Lets the events of `from` go that have greater numbers than `told`.
fn forget_after(from: &Store, to: &WriteTransaction, told: u64) -> Stored<()> {
    let theirs = from.database.begin_read()?.open_table(EVENTS)?;
    let (mut events, mut open) = (to.open_table(EVENTS)?, to.open_table(OPEN)?);
    let mut counts = to.open_table(COUNTS)?;
    for entry in theirs.range(told.saturating_add(1)..)? {
        let (seq, event) = entry?;
        events.remove(seq.value())?;
        open.remove(seq.value())?;
        let Ok(event) = serde_json::from_slice::<EventView>(event.value()) else { continue };
        let key = (event.kind.as_str(), code_of(event.severity));
        let count = counts.get(key)?.map_or(0, |count| count.value());
        counts.insert(key, count.saturating_sub(1))?;
    }
    Ok(())
}

/// Counts those that nobody acknowledged.
fn count_open(transaction: &WriteTransaction) -> Stored<()> {
    let (open, mut numbers) = (transaction.open_table(OPEN)?, transaction.open_table(NUMBERS)?);
    for severity in [Severity::Warning, Severity::Critical] {
        let mut count = 0;
        for entry in open.iter()? {
            count += u64::from(entry?.1.value() == code_of(severity));
        }
        numbers.insert(open_name(severity), count)?;
    }
    Ok(())
}

/// Lowers none of the numbers that only rise.
fn raise_numbers(from: &Store, to: &WriteTransaction) -> Stored<()> {
    let (from, mut to) = (from.database.begin_read()?.open_table(NUMBERS)?, to.open_table(NUMBERS)?);
    for name in [LAST, PRUNED, BATCH] {
        let ours = to.get(name)?.map_or(0, |number| number.value());
        let theirs = from.get(name)?.map_or(0, |number| number.value());
        to.insert(name, ours.max(theirs))?;
    }
    Ok(())
}
