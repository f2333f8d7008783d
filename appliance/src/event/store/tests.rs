//! Entries that make no sense.

use super::*;
use crate::event::EventQuery;
use crate::event::tests::some;

fn append(store: &Store, count: usize) {
    let events = (0..count).map(|index| some(Severity::Warning, index)).collect();
    let change = Change::Append { time: String::new(), events, alarms: None };
    store.commit([change].iter(), 100).unwrap();
}

#[test]
fn an_event_that_makes_no_sense_is_passed_over_by_all_that_is_done_to_the_others() {
    let store = Store::in_memory().unwrap();
    append(&store, 3);
    let transaction = store.begin().unwrap();
    transaction.open_table(EVENTS).unwrap().insert(2, &b"{}"[..]).unwrap();
    transaction.commit().unwrap();
    let seqs = || -> Vec<u64> {
        let (events, more) = store.read(&EventQuery::after(0, 1000)).unwrap();
        assert!(!more);
        events.iter().map(|event| event.seq).collect()
    };
    assert_eq!(seqs(), [1, 3]);
    let change = Change::Acknowledge { which: Which::UpTo(3), by: "anna".into(), at: String::new() };
    assert_eq!(store.commit([change].iter(), 100).unwrap()[0].changed, 3);
    append(&store, 200);
    assert_eq!(seqs(), (104..=203).collect::<Vec<_>>(), "it is let go with the oldest");
}

#[test]
fn a_webhook_that_makes_no_sense_is_named_and_takes_no_deliveries() {
    let store = Store::in_memory().unwrap();
    let transaction = store.begin().unwrap();
    transaction.open_table(WEBHOOKS).unwrap().insert("ops", &b"{}"[..]).unwrap();
    transaction.commit().unwrap();
    let known = store.webhooks().unwrap();
    assert_eq!((known.webhooks.len(), known.unreadable), (0, vec!["ops".to_owned()]));
    let change = Change::Delivered { name: "ops".into(), seq: 1, gap_seq: 0, given_up: 0 };
    assert_eq!(store.commit([change].iter(), 100).unwrap(), [Done::default()]);
}
