//! A disk that is full or damages what is on it, and the log on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_engine::{AlarmState, SpaceEvent};
use redb::StorageBackend;
use redb::backends::FileBackend;
use uuid::Uuid;

use super::*;
use crate::event::tests::{runtime, some};
use crate::event::{EventLimits, EventLog, EventQuery, NewEvent, PAGE_MAX, Webhooks, describe};
use crate::model::{AddWebhook, EventView, Severity};

const PAGE: u64 = 4096;
const POOL: Uuid = Uuid::from_u128(7);

/// A disk. When it is full, pages that have their place can be written and no others.
#[derive(Clone, Debug, Default)]
struct Disk {
    is_full: Arc<AtomicBool>,
    placed: Arc<Mutex<BTreeSet<u64>>>,
    failures: Arc<Mutex<Vec<Failing>>>,
    openings: Arc<AtomicU64>,
}

/// So many syncs go well, then one answers an error though all was written, and so many openings fail after it.
#[derive(Clone, Copy, Debug)]
struct Failing {
    after: u64,
    openings: u64,
}

#[derive(Debug)]
struct File {
    file: FileBackend,
    disk: Disk,
}

impl StorageBackend for File {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.file.sync_data()?;
        let mut failures = self.disk.failures.lock().unwrap();
        match failures.first_mut() {
            Some(Failing { after: 0, openings }) => {
                self.disk.openings.store(*openings, Relaxed);
                failures.remove(0);
                Err(std::io::ErrorKind::Other.into())
            }
            Some(Failing { after, .. }) => {
                *after -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let pages = offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE);
        let mut placed = self.disk.placed.lock().unwrap();
        if self.disk.is_full.load(Ordering::Relaxed) && !pages.clone().all(|page| placed.contains(&page)) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        placed.extend(pages);
        self.file.write(offset, data)
    }
}

impl Disk {
    fn fill(&self, full: bool) {
        self.is_full.store(full, Ordering::Relaxed);
    }

    fn open(&self, dir: &Path) -> EventLog {
        let disk = self.clone();
        let on = move |file| File { file, disk: disk.clone() };
        let openings = self.openings.clone();
        let open = move |path: &Path| match openings.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::Other).into()),
            Err(_) => Store::open_on(path, &on),
        };
        EventLog::open_with(dir, Box::new(open)).unwrap()
    }
}

async fn all(log: &EventLog) -> Vec<EventView> {
    log.list(EventQuery::after(0, PAGE_MAX)).await.unwrap().items
}

/// Large enough that the file has no place for many.
fn large(number: usize) -> NewEvent {
    some(Severity::Warning, number).cause("x".repeat(50_000))
}

fn alarmed(uuid: u128) -> AlarmState {
    AlarmState { exhausted: BTreeMap::from([(Uuid::from_u128(uuid), 65_536)]), ..AlarmState::default() }
}

async fn until_written(log: &EventLog) {
    let begin = Instant::now();
    while !log.warnings().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is never written again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_full_disk_keeps_the_log_in_memory_and_all_of_it_is_written_once_there_is_space() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    runtime().block_on(async {
        let log = disk.open(dir.path());
        log.append(vec![large(0), large(1)], Some((POOL, alarmed(1)))).await.unwrap();
        disk.fill(true);
        for index in 2..40 {
            log.append(vec![large(index)], Some((POOL, alarmed(index as u128)))).await.unwrap();
        }
        let warning = log.warnings().concat();
        assert!(warning.contains("can't be written") && warning.contains("free space in"), "{warning}");
        let refused = log.acknowledge(Some(1), None, "anna").await.unwrap_err();
        assert!(refused.detail.contains("cannot be kept") && refused.hint.is_some(), "{refused:?}");
        assert_eq!(log.plan_acknowledge(Some(1), None).await.unwrap_err(), refused);
        let meanwhile = all(&log).await;
        assert_eq!(meanwhile.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=41).collect::<Vec<_>>());
        assert_eq!(meanwhile.iter().filter(|event| event.kind == "event-log-behind").count(), 1);
        assert_eq!(log.alarms(POOL).unwrap(), alarmed(39));
        let figures = log.summary();
        disk.fill(false);
        until_written(&log).await;
        assert_eq!((all(&log).await, log.summary()), (meanwhile.clone(), figures.clone()));
        drop(log);
        // From the file.
        let log = EventLog::open(dir.path()).unwrap();
        assert_eq!((all(&log).await, log.summary()), (meanwhile, figures));
        assert_eq!(log.alarms(POOL).unwrap(), alarmed(39));
        assert_eq!(log.append(vec![some(Severity::Info, 0)], None).await.unwrap(), [42]);
    });
}

#[test]
fn a_disk_that_is_full_at_the_start_is_no_reason_not_to_start() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    runtime().block_on(async {
        disk.fill(true);
        let log = disk.open(dir.path());
        assert!(log.warnings().concat().contains("free space in"));
        let first = log.append(vec![some(Severity::Critical, 0)], Some((POOL, alarmed(1)))).await.unwrap();
        disk.fill(false);
        until_written(&log).await;
        drop(log);
        let log = EventLog::open(dir.path()).unwrap();
        let kept = all(&log).await;
        assert_eq!(kept.iter().map(|event| event.seq).collect::<Vec<_>>(), [first[0] - 1, first[0]]);
        assert_eq!(kept[0].kind, "event-log-behind");
        assert_eq!((log.alarms(POOL).unwrap(), log.summary().criticals), (alarmed(1), 1));
    });
}

#[test]
fn after_a_kill_on_a_full_disk_the_alarms_are_as_old_as_the_events_and_no_number_is_used_twice() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    runtime().block_on(async {
        let log = disk.open(dir.path());
        log.append(vec![large(0)], Some((POOL, alarmed(1)))).await.unwrap();
        disk.fill(true);
        let mut given = Vec::new();
        for index in 0..40 {
            given.extend(log.append(vec![large(index)], Some((POOL, AlarmState::default()))).await.unwrap());
        }
        // What the process leaves when it is killed: the disk is still full.
        drop(log);
        let log = EventLog::open(dir.path()).unwrap();
        assert_eq!(log.alarms(POOL).unwrap(), alarmed(1));
        let kept = all(&log).await.last().map(|event| event.seq).unwrap();
        assert!(kept < *given.last().unwrap(), "nothing was in memory alone");
        let again = SpaceEvent::GrowthImpossible { reason: "again".into() };
        let next = log.append(vec![describe("tank", &again)], None).await.unwrap()[0];
        assert!(next > *given.last().unwrap(), "{next} was given before");
        // The mark is gone: numbers go on one by one.
        drop(log);
        assert_eq!(EventLog::open(dir.path()).unwrap().append(vec![large(0)], None).await.unwrap(), [next + 1]);
    });
}

#[test]
fn after_a_kill_before_there_was_a_file_no_number_is_used_twice() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    runtime().block_on(async {
        disk.fill(true);
        let log = disk.open(dir.path());
        let given = log.append(vec![some(Severity::Info, 0)], None).await.unwrap()[0];
        // What the process leaves when it is killed: the disk is still full.
        drop(log);
        // More time goes by than there were events.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let log = EventLog::open(dir.path()).unwrap();
        let next = log.append(vec![some(Severity::Info, 1)], None).await.unwrap()[0];
        assert!(next > given, "{next} comes after {given}");
        assert!(log.warnings().is_empty() && all(&log).await.len() == 1);
    });
}

#[test]
fn a_file_that_is_damaged_anywhere_is_put_aside_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.redb");
    runtime().block_on(async {
        let log = EventLog::open(dir.path()).unwrap();
        for index in 0..50 {
            log.append(vec![large(index)], Some((POOL, alarmed(1)))).await.unwrap();
        }
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let damages = (0..64).map(|part| {
            let mut bytes = whole.clone();
            let at = whole.len() * part / 64;
            match part % 4 {
                3 => bytes.truncate(at),
                _ => bytes[at..].iter_mut().take(300).for_each(|byte| *byte ^= 0x5a),
            }
            bytes
        });
        let mut lost = 0;
        for (part, bytes) in damages.enumerate() {
            std::fs::write(&path, bytes).unwrap();
            let log = EventLog::open(dir.path()).unwrap();
            let last = log.append(vec![some(Severity::Info, 0)], None).await.unwrap()[0];
            let events = all(&log).await;
            assert!(events.last().is_some_and(|event| event.seq == last), "part {part}");
            log.alarms(POOL).unwrap();
            let is_lost = events.iter().any(|event| event.kind == "event-log-lost");
            let warnings = log.warnings();
            assert!(!warnings.iter().any(|warning| warning.contains("can't be written")), "part {part}: {warnings:?}");
            assert_eq!(warnings.len(), usize::from(is_lost), "part {part}: {warnings:?}");
            lost += usize::from(is_lost);
        }
        let aside = std::fs::read_dir(dir.path()).unwrap();
        let aside = aside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".bad"));
        assert_eq!(aside.count(), lost);
        assert!(lost > 0);
    });
}

#[test]
fn what_is_decided_while_it_could_not_last_is_refused_and_changes_nothing() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    runtime().block_on(async {
        let log = disk.open(dir.path());
        let webhooks = Webhooks::new(log.clone());
        webhooks.start(EventLimits::default()).await;
        // Nobody listens at port 9 here.
        let hook = |name: &str| {
            let (url, secret) = ("http://127.0.0.1:9/".to_owned(), "a secret of some length".to_owned());
            AddWebhook { name: name.to_owned(), url, secret, severity: None, after: None }
        };
        webhooks.add(hook("old")).await.unwrap();
        log.append(vec![large(0)], None).await.unwrap();
        disk.fill(true);
        while log.warnings().is_empty() {
            log.append(vec![large(1)], None).await.unwrap();
        }
        let refused = webhooks.add(hook("new")).await.unwrap_err();
        assert!(refused.code == "internal" && refused.detail.contains("cannot be kept"), "{refused:?}");
        assert!(refused.hint.as_ref().is_some_and(|hint| hint.contains("free space in")));
        let others = [
            webhooks.remove("old").await.unwrap_err(),
            webhooks.plan_add(&hook("new")).await.unwrap_err(),
            webhooks.plan_remove("old").await.unwrap_err(),
            log.acknowledge(None, Some(1), "anna").await.unwrap_err(),
        ];
        assert!(others.iter().all(|other| *other == refused), "{others:?}");
        let names = async || webhooks.list().await.unwrap().into_iter().map(|view| view.name).collect::<Vec<_>>();
        assert_eq!(names().await, ["old"]);
        assert!(all(&log).await.iter().all(|event| event.acknowledged_at.is_none()));
        disk.fill(false);
        until_written(&log).await;
        webhooks.add(hook("new")).await.unwrap();
        webhooks.remove("old").await.unwrap();
        assert_eq!(log.acknowledge(Some(1), None, "anna").await.unwrap().acknowledged, 1);
        assert_eq!(names().await, ["new"]);
        log.end();
    });
}

#[test]
fn what_was_written_although_an_error_was_answered_is_not_kept_twice() {
    let mut failed = 0;
    for case in 0..36 {
        let failing = Failing { after: case / 3, openings: [0, 1, 3][case as usize % 3] };
        let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        runtime().block_on(async {
            let log = disk.open(dir.path());
            log.append(vec![some(Severity::Warning, 0)], None).await.unwrap();
            // Once, and again on the way back.
            let failures = vec![failing; 1 + case as usize % 4];
            *disk.failures.lock().unwrap() = failures.clone();
            let mut given = Vec::new();
            for number in 1..4 {
                given.extend(log.append(vec![some(Severity::Warning, number)], None).await.unwrap());
            }
            until_written(&log).await;
            failed += failures.len() - disk.failures.lock().unwrap().len();
            let events = all(&log).await;
            let ours = || events.iter().filter(|event| event.kind == "test-warning");
            let numbers: Vec<u64> = ours().map(|event| event.figures["number"].as_u64().unwrap()).collect();
            assert_eq!(numbers, [0, 1, 2, 3], "{failures:?}");
            let seqs: Vec<u64> = ours().skip(1).map(|event| event.seq).collect();
            assert_eq!(seqs, given, "{failures:?}");
            let summary = log.summary();
            let count = summary.counts.iter().find(|(kind, ..)| kind == "test-warning").map(|count| count.2);
            assert_eq!(count, Some(4), "{failures:?}");
            assert_eq!(summary.warnings, events.len() as u64);
        });
    }
    assert!(failed > 20, "only {failed} syncs failed");
}
