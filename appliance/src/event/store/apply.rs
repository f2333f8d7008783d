//! What a change does inside a transaction.

use redb::{ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::{
    ALARMS, COUNTS, Change, Done, EVENTS, LAST, NUMBERS, OPEN, Stored, WEBHOOKS, Which, code_of, open_name, severity_of,
};
use crate::event::NewEvent;
use crate::event::alarms::Alarms;
use crate::event::webhook::WebhookRecord;
use crate::model::{EventView, Severity};

pub(super) fn apply(transaction: &WriteTransaction, change: &Change) -> Stored<Done> {
    match change {
        Change::Append { time, events, alarms } => {
            let seqs = events.iter().map(|event| append(transaction, time, event)).collect::<Stored<Vec<_>>>()?;
            if let Some((pool, alarms)) = alarms {
                let json = serde_json::to_vec(&Alarms::from(alarms))?;
                transaction.open_table(ALARMS)?.insert(pool.to_string().as_str(), json.as_slice())?;
            }
            Ok(Done { changed: seqs.len() as u64, seqs })
        }
        Change::Acknowledge { which, by, at } => acknowledge(transaction, *which, by, at),
        Change::ForgetAlarms(pool) => {
            let changed = u64::from(transaction.open_table(ALARMS)?.remove(pool.to_string().as_str())?.is_some());
            Ok(Done { changed, ..Done::default() })
        }
        Change::PutWebhook(webhook) => {
            let json = serde_json::to_vec(webhook)?;
            transaction.open_table(WEBHOOKS)?.insert(webhook.name.as_str(), json.as_slice())?;
            Ok(Done { changed: 1, ..Done::default() })
        }
        Change::RemoveWebhook(name) => {
            let changed = u64::from(transaction.open_table(WEBHOOKS)?.remove(name.as_str())?.is_some());
            Ok(Done { changed, ..Done::default() })
        }
        Change::Delivered { name, seq, gap_seq, given_up } => {
            let mut webhooks = transaction.open_table(WEBHOOKS)?;
            let found = webhooks.get(name.as_str())?.map(|webhook| webhook.value().to_vec());
            let Some(found) = found else { return Ok(Done::default()) };
            let Ok(mut webhook) = serde_json::from_slice::<WebhookRecord>(&found) else { return Ok(Done::default()) };
            webhook.delivered_seq = webhook.delivered_seq.max(*seq);
            webhook.gap_seq = webhook.gap_seq.max(*gap_seq);
            webhook.given_up += given_up;
            webhooks.insert(name.as_str(), serde_json::to_vec(&webhook)?.as_slice())?;
            Ok(Done { changed: 1, ..Done::default() })
        }
    }
}

fn append(transaction: &WriteTransaction, time: &str, event: &NewEvent) -> Stored<u64> {
    let seq = add(transaction, LAST, 1)?;
    let view = EventView {
        seq,
        id: Uuid::now_v7().to_string(),
        time: time.to_owned(),
        severity: event.severity,
        kind: event.kind.clone(),
        object: event.object.clone(),
        pool: event.pool.clone(),
        vm: event.vm.clone(),
        figures: event.figures.clone(),
        details: event.details.clone(),
        cause: event.cause.clone(),
        advice: event.advice.clone(),
        acknowledged_at: None,
        acknowledged_by: None,
    };
    transaction.open_table(EVENTS)?.insert(seq, serde_json::to_vec(&view)?.as_slice())?;
    let code = code_of(event.severity);
    let mut counts = transaction.open_table(COUNTS)?;
    let before = counts.get((event.kind.as_str(), code))?.map_or(0, |count| count.value());
    counts.insert((event.kind.as_str(), code), before + 1)?;
    if event.severity > Severity::Info {
        transaction.open_table(OPEN)?.insert(seq, code)?;
        add(transaction, open_name(event.severity), 1)?;
    }
    Ok(seq)
}

fn acknowledge(transaction: &WriteTransaction, which: Which, by: &str, at: &str) -> Stored<Done> {
    let (mut events, mut open) = (transaction.open_table(EVENTS)?, transaction.open_table(OPEN)?);
    let range = match which {
        Which::One(seq) => seq..=seq,
        Which::UpTo(seq) => 0..=seq,
    };
    let mut seqs = Vec::new();
    for entry in open.range(range)? {
        let (seq, code) = entry?;
        seqs.push((seq.value(), code.value()));
    }
    for &(seq, code) in &seqs {
        open.remove(seq)?;
        add(transaction, open_name(severity_of(code)), -1)?;
        let event = events.get(seq)?.map(|event| event.value().to_vec());
        let Some(event) = event else { continue };
        let Ok(mut event) = serde_json::from_slice::<EventView>(&event) else { continue };
        (event.acknowledged_at, event.acknowledged_by) = (Some(at.to_owned()), Some(by.to_owned()));
        events.insert(seq, serde_json::to_vec(&event)?.as_slice())?;
    }
    Ok(Done { changed: seqs.len() as u64, seqs: seqs.into_iter().map(|(seq, _)| seq).collect() })
}

/// Adds to a number; answers what it is then.
pub(super) fn add(transaction: &WriteTransaction, name: &str, by: i64) -> Stored<u64> {
    let mut numbers = transaction.open_table(NUMBERS)?;
    let now = numbers.get(name)?.map_or(0, |number| number.value()).saturating_add_signed(by);
    numbers.insert(name, now)?;
    Ok(now)
}
