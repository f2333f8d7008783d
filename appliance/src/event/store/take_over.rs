//! Making one store what another is: from the file to memory when the file can't be written, and back.

use redb::{Key, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction};

use super::{ALARMS, COUNTS, EVENTS, LAST, NUMBERS, OPEN, PRUNED, Store, Stored, WEBHOOKS, code_of, open_name};
use crate::model::Severity;

impl Store {
    /// Takes everything over that `other` has, with its numbers and ids, all or nothing; only what differs is written. What `other` has
    /// not goes, unless it did not know of it.
    pub(in crate::event) fn take_over(&self, other: &Store, knew: bool) -> Stored<()> {
        let transaction = self.begin()?;
        copy(other, &transaction, EVENTS, knew)?;
        copy(other, &transaction, OPEN, knew)?;
        copy(other, &transaction, ALARMS, knew)?;
        copy(other, &transaction, WEBHOOKS, knew)?;
        if knew {
            copy(other, &transaction, COUNTS, knew)?;
        } else {
            add_counts(other, &transaction)?;
        }
        count_open(&transaction)?;
        let others = other.database.begin_read()?.open_table(NUMBERS)?;
        let mut numbers = transaction.open_table(NUMBERS)?;
        for name in [LAST, PRUNED] {
            let ours = numbers.get(name)?.map_or(0, |number| number.value());
            let theirs = others.get(name)?.map_or(0, |number| number.value());
            numbers.insert(name, ours.max(theirs))?;
        }
        drop(numbers);
        transaction.commit()?;
        Ok(())
    }
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &Store,
    to: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
    knew: bool,
) -> Stored<()> {
    let (from, mut to) = (from.database.begin_read()?.open_table(table)?, to.open_table(table)?);
    if knew {
        to.retain(|key, _| !matches!(from.get(key), Ok(None)))?;
    }
    for entry in from.iter()? {
        let (key, value) = entry?;
        let bytes = |value: &V::SelfType<'_>| V::as_bytes(value).as_ref().to_vec();
        let ours = to.get(key.value())?.map(|ours| bytes(&ours.value()));
        if ours != Some(bytes(&value.value())) {
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
