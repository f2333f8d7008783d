//! Letting the oldest events go when there are too many, but not because one object has so much to say.
//!
//! Spared are, the newer before the older, and a quarter of what is kept at most of either: the newest [`FLOOR`] of each object; and what
//! nobody acknowledged if it is the newest of its kind of its object, because that may be an alarm that lasts, or critical and among so
//! many that are a tenth.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde::Deserialize;

use super::apply::add;
use super::{EVENTS, NUMBERS, OPEN, PRUNED, SLACK, Stored, code_of, open_name, severity_of};
use crate::model::Severity;

/// Enough to see what became of an object last.
const FLOOR: u64 = 10;

/// What of an event decides.
#[derive(Deserialize)]
struct About<'a> {
    #[serde(borrow)]
    object: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// Lets the oldest go when there are more than `keep`, and some.
pub(super) fn prune(transaction: &WriteTransaction, keep: u64) -> Stored<()> {
    let (mut events, mut open) = (transaction.open_table(EVENTS)?, transaction.open_table(OPEN)?);
    let kept = events.len()?;
    if kept <= keep + (keep / 10).min(SLACK) {
        return Ok(());
    }
    let spared = spared(&events, &open, keep)?;
    let mut going = Vec::new();
    for entry in events.iter()? {
        if going.len() as u64 == kept - keep {
            break;
        }
        let seq = entry?.0.value();
        if !spared.contains(&seq) {
            going.push((seq, open.get(seq)?.map(|code| code.value())));
        }
    }
    for &(seq, code) in &going {
        events.remove(seq)?;
        if let Some(code) = code {
            open.remove(seq)?;
            add(transaction, open_name(severity_of(code)), -1)?;
        }
    }
    if let Some((last, _)) = going.last() {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let before = numbers.get(PRUNED)?.map_or(0, |before| before.value());
        numbers.insert(PRUNED, before.max(*last))?;
    }
    Ok(())
}

fn spared(
    events: &impl ReadableTable<u64, &'static [u8]>,
    open: &impl ReadableTable<u64, u8>,
    keep: u64,
) -> Stored<BTreeSet<u64>> {
    let (mut of_object, mut told) = (HashMap::<String, u64>::new(), BTreeSet::new());
    let (mut alarms, mut criticals, mut others) = (0, 0, 0);
    let mut spared = BTreeSet::new();
    for entry in events.iter()?.rev() {
        if alarms >= keep / 4 && others >= keep / 4 {
            break;
        }
        let (seq, event) = entry?;
        let seq = seq.value();
        let Ok(about) = serde_json::from_slice::<About<'_>>(event.value()) else { continue };
        let code = open.get(seq)?.map(|code| code.value());
        let of_object = of_object.entry(about.object.clone().into_owned()).or_default();
        *of_object += 1;
        let is_newest = told.insert((about.object.into_owned(), about.kind.into_owned()));
        let is_critical = code == Some(code_of(Severity::Critical)) && criticals < keep / 10;
        criticals += u64::from(is_critical);
        if (is_critical || is_newest && code.is_some()) && alarms < keep / 4 {
            alarms += 1;
            spared.insert(seq);
        } else if *of_object <= FLOOR && others < keep / 4 {
            others += 1;
            spared.insert(seq);
        }
    }
    Ok(spared)
}
