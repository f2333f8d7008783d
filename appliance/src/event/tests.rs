//! The log in one process: order, restarts, alarms, acknowledgement, pruning, damage.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plimsoll_engine::{AlarmState, Level, Measure, SpaceEvent, Subject};
use uuid::Uuid;

use super::*;
use crate::model::EventView;

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(super) fn some(severity: Severity, number: usize) -> NewEvent {
    NewEvent::new(severity, &format!("test-{}", severity.name()), "tank").figure("number", number)
}

/// Puts an entry that makes no sense into a table with names of a log that is closed.
pub(super) fn spoil(dir: &Path, table: &str, name: &str) {
    let table = redb::TableDefinition::<&str, &[u8]>::new(table);
    let database = redb::Database::open(dir.join("events.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(name, &b"{\"name\":7}"[..]).unwrap();
    transaction.commit().unwrap();
}

async fn all(log: &EventLog) -> Vec<EventView> {
    log.list(EventQuery::after(0, PAGE_MAX)).await.unwrap().items
}

fn number(event: &EventView) -> u64 {
    event.figures["number"].as_u64().unwrap()
}

fn open(dir: &Path) -> EventLog {
    EventLog::open(dir).unwrap()
}

#[test]
fn events_keep_their_order_and_their_numbers_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        for life in 0..5 {
            let log = open(dir.path());
            let appends = (0..20).map(|index| log.append(vec![some(Severity::Info, life * 20 + index)], None));
            let seqs = futures_util::future::join_all(appends).await;
            let seqs: Vec<u64> = seqs.into_iter().flat_map(Result::unwrap).collect();
            assert!(seqs.is_sorted() && seqs.len() == 20, "{seqs:?}");
        }
        let events = all(&open(dir.path())).await;
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
        assert_eq!(events.iter().map(number).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        let mut ids: Vec<&String> = events.iter().map(|event| &event.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 100);
    });
}

#[test]
fn the_file_is_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mode = std::fs::metadata(dir.path().join("events.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(log);
}

#[test]
fn a_burst_from_many_is_written_in_few_batches_and_in_order_for_each() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(dir.path());
        let tasks = (0..50).map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for index in 0..20 {
                    log.append(vec![some(Severity::Info, task * 1000 + index)], None).await.unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let events = all(&log).await;
        assert_eq!(events.len(), 1000);
        for task in 0..50 {
            let of: Vec<u64> = events.iter().map(number).filter(|number| number / 1000 == task).collect();
            assert!(of.is_sorted() && of.len() == 20);
        }
    });
}

#[test]
fn events_and_alarms_are_kept_together() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Uuid::from_u128(7);
    let fired = SpaceEvent::Threshold {
        subject: Subject::Pool,
        measure: Measure::Physical,
        level: Level::Percent(85),
        used_bytes: 85,
        total_bytes: 100,
        rising: true,
    };
    let mut alarms = AlarmState::default();
    alarms.apply(&fired);
    runtime().block_on(async {
        let log = open(dir.path());
        assert_eq!(log.alarms(pool).unwrap(), AlarmState::default());
        log.append(vec![describe("tank", &fired)], Some((pool, alarms.clone()))).await.unwrap();
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.alarms(pool).unwrap(), alarms);
        assert_eq!(log.alarms(Uuid::from_u128(8)).unwrap(), AlarmState::default());
        log.forget_alarms(pool).await.unwrap();
        assert_eq!(log.alarms(pool).unwrap(), AlarmState::default());
        assert_eq!(all(&log).await.len(), 1);
    });
}

#[test]
fn one_takes_note_of_one_event_or_of_all_up_to_one() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(dir.path());
        for index in 0..4 {
            let all = [Severity::Info, Severity::Warning, Severity::Critical];
            log.append(all.map(|severity| some(severity, index)).into(), None).await.unwrap();
        }
        let figures = |log: &EventLog| (log.summary().warnings, log.summary().criticals);
        assert_eq!(figures(&log), (4, 4));
        let open_ones = EventQuery { unacknowledged: true, ..EventQuery::after(0, 100) };
        assert_eq!(log.list(open_ones.clone()).await.unwrap().items.len(), 8);
        assert_eq!(log.plan_acknowledge(Some(2), None).await.unwrap(), 1);
        assert_eq!(log.acknowledge(Some(2), None, "anna").await.unwrap().acknowledged, 1);
        assert_eq!(log.acknowledge(Some(2), None, "otto").await.unwrap().acknowledged, 0);
        assert_eq!(log.event(2).await.unwrap().acknowledged_by.as_deref(), Some("anna"));
        assert_eq!(log.acknowledge(Some(99), None, "anna").await.unwrap_err().code, "not-found");
        assert_eq!(log.plan_acknowledge(None, Some(6)).await.unwrap(), 3);
        let answer = log.acknowledge(None, Some(6), "anna").await.unwrap();
        assert_eq!((answer.acknowledged, answer.unacknowledged_criticals), (3, 2));
        assert!(
            log.acknowledge(None, None, "x").await.is_err() && log.acknowledge(Some(1), Some(1), "x").await.is_err()
        );
        drop(log);
        let log = open(dir.path());
        assert_eq!(figures(&log), (2, 2));
        let left = log.list(open_ones).await.unwrap().items;
        assert_eq!(left.iter().map(|event| event.seq).collect::<Vec<_>>(), [8, 9, 11, 12]);
    });
}

#[test]
fn pages_and_filters_give_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(dir.path());
        for index in 0..30 {
            let object = if index % 2 == 0 { "tank/a" } else { "lake/a" };
            let severity = [Severity::Info, Severity::Warning, Severity::Critical][index % 3];
            let pool = Some(object[..4].to_owned());
            let event = NewEvent { object: object.to_owned(), pool, ..some(severity, index) };
            log.append(vec![event], None).await.unwrap();
        }
        let count = async |query: EventQuery| log.list(EventQuery { limit: 100, ..query }).await.unwrap().items.len();
        assert_eq!(count(EventQuery::default()).await, 30);
        assert_eq!(count(EventQuery { severity: Some(Severity::Warning), ..EventQuery::default() }).await, 20);
        assert_eq!(count(EventQuery { kind: Some("test-critical".into()), ..EventQuery::default() }).await, 10);
        assert_eq!(count(EventQuery { object: Some("tank".into()), ..EventQuery::default() }).await, 15);
        assert_eq!(count(EventQuery { object: Some("lake/a".into()), after: 20, ..EventQuery::default() }).await, 5);
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = log.list(EventQuery::after(after, 7)).await.unwrap();
            seen.extend(page.items.iter().map(|event| event.seq));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(seen, (1..=30).collect::<Vec<_>>());
        let newest = log.list(EventQuery { newest: true, limit: 3, ..EventQuery::default() }).await.unwrap();
        assert_eq!(
            (newest.items.iter().map(|event| event.seq).collect::<Vec<_>>(), newest.next),
            (vec![28, 29, 30], None)
        );
    });
}

#[test]
fn the_oldest_go_when_there_are_too_many_but_unacknowledged_critical_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(dir.path());
        log.set_keep(100);
        log.append((0..5).map(|index| some(Severity::Critical, index)).collect(), None).await.unwrap();
        log.acknowledge(Some(3), None, "anna").await.unwrap();
        for _ in 0..10 {
            log.append((0..50).map(|index| some(Severity::Warning, index)).collect(), None).await.unwrap();
        }
        let events = all(&log).await;
        assert!(events.len() <= 110, "{}", events.len());
        assert_eq!(events[..4].iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(events.last().map(|event| event.seq), Some(505));
        assert_eq!(log.summary().criticals, 4);
        assert_eq!(log.summary().warnings, events.len() as u64 - 4);
        let pruned = log.summary().pruned_seq;
        assert_eq!(events[4].seq, pruned + 1);
        // As many as they may be: then the oldest go, whatever they are.
        log.append((0..300).map(|index| some(Severity::Critical, index)).collect(), None).await.unwrap();
        assert_eq!(all(&log).await.len(), 100);
        assert_eq!(log.append(vec![some(Severity::Info, 0)], None).await.unwrap(), [806], "no number is used twice");
    });
}

#[test]
fn an_object_that_has_much_to_say_pushes_out_nothing_that_lasts_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let of = |object: &str, kind: &str, severity| NewEvent::new(severity, kind, object);
    runtime().block_on(async {
        let log = open(dir.path());
        log.set_keep(200);
        // An alarm of each of 20 objects that nobody took note of, and some news of one of them.
        let alarms = (0..20).map(|index| of(&format!("tank/v{index}"), "vdisk-threshold", Severity::Warning));
        log.append(alarms.collect(), None).await.unwrap();
        let news = (0..12).map(|_| of("tank/v0", "news", Severity::Info));
        log.append(news.collect(), None).await.unwrap();
        for _ in 0..40 {
            let noise = (0..50).map(|_| of("noise", "vdisk-exhausted", Severity::Critical));
            log.append(noise.collect(), None).await.unwrap();
        }
        let events = all(&log).await;
        let count = |object: &str| events.iter().filter(|event| event.object == object).count();
        assert!((200..=220).contains(&events.len()), "{}", events.len());
        assert!((1..20).all(|index| count(&format!("tank/v{index}")) == 1));
        assert_eq!(count("tank/v0"), 11, "the newest ten, and the alarm");
        assert_eq!(events[0].kind, "vdisk-threshold");
        // Other objects are no way to have everything kept.
        for part in 0..20 {
            let many = (0..100).map(|index| of(&format!("many/v{}", part * 100 + index), "news", Severity::Info));
            log.append(many.collect(), None).await.unwrap();
        }
        let alarms = all(&log).await.iter().filter(|event| event.kind == "vdisk-threshold").count();
        assert!(all(&log).await.len() <= 220 && alarms == 20, "{alarms} alarms");
        // What is missing is known to the number.
        let pruned = log.summary().pruned_seq;
        let kept: Vec<u64> = all(&log).await.iter().map(|event| event.seq).collect();
        let (first, last) = log.gap(0, 0).await.unwrap().expect("some were let go");
        assert_eq!(first, (1..).find(|seq| !kept.contains(seq)).unwrap());
        assert_eq!(last, pruned);
        assert_eq!(log.gap(last - 1, 0).await.unwrap(), Some((last, last)));
        assert_eq!((log.gap(last, 0).await.unwrap(), log.gap(0, last).await.unwrap()), (None, None));
    });
}

#[test]
fn what_waits_for_news_is_woken_and_counts_survive() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let log = open(dir.path());
        let mut newest = log.newest();
        assert_eq!(*newest.borrow_and_update(), 0);
        log.append(vec![some(Severity::Info, 0), some(Severity::Info, 1)], None).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), newest.changed()).await.unwrap().unwrap();
        assert_eq!(*newest.borrow(), 2);
        drop(log);
        let summary = open(dir.path()).summary();
        assert_eq!((summary.last_seq, summary.counts), (2, vec![("test-info".to_owned(), Severity::Info, 2)]));
    });
}

#[test]
fn a_damaged_log_is_put_aside_and_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("events.redb"), vec![0x5a; 100_000]).unwrap();
    runtime().block_on(async {
        let events = all(&open(dir.path())).await;
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].kind.as_str(), events[0].severity), ("event-log-lost", Severity::Critical));
        let aside = dir.path().join("events.redb.bad");
        assert_eq!(std::fs::read(&aside).unwrap(), vec![0x5a; 100_000]);
        assert!(events[0].cause.as_ref().is_some_and(|cause| cause.contains(&aside.display().to_string())));
        assert!(events[0].seq > 1_700_000_000_000, "no number is used twice: {}", events[0].seq);
    });
}

#[test]
fn a_log_that_opens_but_is_not_what_it_should_be_is_put_aside_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.redb");
    runtime().block_on(async {
        open(dir.path()).append(vec![some(Severity::Info, 7)], None).await.unwrap();
        {
            let database = redb::Database::open(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.delete_table(redb::TableDefinition::<&str, u64>::new("numbers")).unwrap();
            let other = redb::TableDefinition::<u64, &str>::new("numbers");
            transaction.open_table(other).unwrap().insert(7, "none").unwrap();
            transaction.commit().unwrap();
        }
        let log = open(dir.path());
        let events = all(&log).await;
        assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["event-log-lost"]);
        let aside = dir.path().join("events.redb.bad");
        let words = aside.display().to_string();
        assert!(events[0].cause.as_ref().is_some_and(|cause| cause.contains(&words)), "{:?}", events[0].cause);
        let warnings = log.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(&words), "{warnings:?}");
        log.append(vec![some(Severity::Info, 8)], None).await.unwrap();
        drop(log);
        assert_eq!(all(&open(dir.path())).await.len(), 2, "the new file is whole");
        let old = redb::Database::open(&aside).unwrap();
        let events = redb::TableDefinition::<u64, &[u8]>::new("events");
        use redb::{ReadableDatabase, ReadableTableMetadata};
        assert_eq!(old.begin_read().unwrap().open_table(events).unwrap().len().unwrap(), 1, "the old one is kept");
    });
}

const CHILD_DIR: &str = "PLIMSOLL_TEST_EVENT_DIR";
const LEVEL: Level = Level::Percent(85);

fn crossing(rising: bool) -> SpaceEvent {
    let (subject, measure) = (Subject::Pool, Measure::Physical);
    SpaceEvent::Threshold { subject, measure, level: LEVEL, used_bytes: 85, total_bytes: 100, rising }
}

fn is_fired(alarms: &AlarmState) -> bool {
    alarms.fired_levels(&Subject::Pool.key(), Measure::Physical) == [LEVEL]
}

/// The process that the next test kills; alone it does nothing. As an engine would, it raises what differs from the alarms
/// it was given: up and down, for ever.
#[test]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let pool = Uuid::from_u128(7);
    runtime().block_on(async {
        let log = open(Path::new(&dir));
        let mut alarms = log.alarms(pool).unwrap();
        loop {
            let event = crossing(!is_fired(&alarms));
            alarms.apply(&event);
            log.append(vec![describe("tank", &event)], Some((pool, alarms.clone()))).await.unwrap();
        }
    });
}

#[test]
fn a_process_that_is_killed_again_and_again_loses_and_repeats_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Uuid::from_u128(7);
    let (mut seen, mut lives) = (0, 0);
    let begin = Instant::now();
    // Thirty kills, each after something was written, at times that have nothing to do with it.
    while lives < 30 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "event::tests::the_process_that_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + 7 * (lives % 11)));
        child.kill().unwrap();
        child.wait().unwrap();
        lives += 1;
        runtime().block_on(async {
            let log = open(dir.path());
            let events = log.list(EventQuery::after(seen, PAGE_MAX)).await.unwrap().items;
            for event in &events {
                seen += 1;
                assert_eq!(event.seq, seen, "a number is missing or there twice");
                let expected = if seen % 2 == 1 { "pool-threshold" } else { "pool-threshold-cleared" };
                assert_eq!(event.kind, expected, "event {seen} of life {lives}");
            }
            assert_eq!(is_fired(&log.alarms(pool).unwrap()), seen % 2 == 1, "alarms and events are one");
        });
        assert!(begin.elapsed() < Duration::from_secs(120));
    }
    assert!(seen > lives, "{seen} events in {lives} lives");
}
