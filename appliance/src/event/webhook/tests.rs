//! Webhooks against receivers of all kinds, which verify signatures on their own. Checklist 4.48.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use super::*;
use crate::event::store::Change;
use crate::event::tests::{runtime, some, spoil};
use crate::model::AddWebhook;

const SECRET: &str = "a secret of some length";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status(u16),
    Hang,
    Close,
}

/// A request that came: number, kind, event id, and whether the signature is right.
#[derive(Clone, Debug, PartialEq)]
struct Came {
    seq: u64,
    kind: String,
    first_missing: Option<u64>,
    id: String,
    signed: bool,
}

/// Answers as the script says, then always that it was taken.
fn receive(listener: TcpListener, mut script: VecDeque<Reply>, came: mpsc::UnboundedSender<Came>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (reply, came) = (script.pop_front().unwrap_or(Reply::Status(204)), came.clone());
            std::thread::spawn(move || read(stream.unwrap(), &came, reply));
        }
    });
}

fn read(stream: TcpStream, came: &mpsc::UnboundedSender<Came>, reply: Reply) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), BTreeMap::new());
    while stream.read_line(&mut line).unwrap() > 2 {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        line.clear();
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let event: Value = serde_json::from_slice(&body).unwrap();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.", headers["plimsoll-timestamp"]).as_bytes());
    mac.update(&body);
    let digits = headers["plimsoll-signature"].strip_prefix("sha256=").unwrap();
    let given: Vec<u8> =
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    let signed = mac.verify_slice(&given).is_ok() && headers["plimsoll-event-id"] == event["id"];
    assert_eq!(headers["content-type"], "application/cloudevents+json");
    let (seq, id) = (event["data"]["seq"].as_u64().unwrap(), event["id"].as_str().unwrap().to_owned());
    let data = &event["data"];
    let kind = data["kind"].as_str().unwrap().to_owned();
    let first_missing = data["figures"]["first_missing_seq"].as_u64();
    // Nobody looks any more when the test has ended.
    let _ = came.send(Came { seq, kind, first_missing, id, signed });
    match reply {
        Reply::Status(status) => {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.get_mut().write_all(text.as_bytes());
        }
        // Until the other side has had enough.
        Reply::Hang => drop(stream.read(&mut [0])),
        Reply::Close => {}
    }
}

/// A receiver, and what comes to it.
fn receiver(script: impl IntoIterator<Item = Reply>) -> (SocketAddr, mpsc::UnboundedReceiver<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, (came, coming)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    receive(listener, script.into_iter().collect(), came);
    (address, coming)
}

/// An address that is somebody's who does not listen for now: whoever connects is refused.
fn gone() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// Listens there again.
fn back(socket: TcpSocket) -> mpsc::UnboundedReceiver<Came> {
    let listener = socket.listen(128).unwrap().into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    let (came, coming) = mpsc::unbounded_channel();
    receive(listener, VecDeque::new(), came);
    coming
}

async fn next(coming: &mut mpsc::UnboundedReceiver<Came>) -> Came {
    let came = tokio::time::timeout(PATIENCE, coming.recv()).await.expect("a request comes in time").unwrap();
    assert!(came.signed, "{came:?}");
    came
}

fn limits() -> EventLimits {
    EventLimits {
        webhook_timeout: Duration::from_millis(300),
        webhook_retry: (Duration::from_millis(2), Duration::from_millis(20)),
        ..EventLimits::default()
    }
}

fn hook(name: &str, address: SocketAddr) -> AddWebhook {
    let url = format!("http://{address}/hook?x=1");
    AddWebhook { name: name.into(), url, secret: SECRET.into(), severity: None, after: None }
}

async fn webhooks(dir: &std::path::Path, limits: EventLimits) -> (EventLog, Webhooks) {
    let log = EventLog::open(dir).unwrap();
    let webhooks = Webhooks::new(log.clone());
    webhooks.start(limits).await;
    (log, webhooks)
}

async fn append(log: &EventLog, count: usize) {
    for index in 0..count {
        log.append(vec![some(Severity::Warning, index)], None).await.unwrap();
    }
}

async fn until(webhooks: &Webhooks, name: &str, fits: impl Fn(&WebhookView) -> bool) -> WebhookView {
    let begin = Instant::now();
    loop {
        let view = webhooks.show(name).await.unwrap();
        if fits(&view) {
            return view;
        }
        assert!(begin.elapsed() < PATIENCE, "{view:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn events_come_signed_in_order_and_the_failed_ones_again_with_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let script = [Reply::Status(204), Reply::Status(500), Reply::Close, Reply::Hang, Reply::Status(302)];
        let (address, mut coming) = receiver(script);
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        append(&log, 3).await;
        webhooks.add(hook("ops", address)).await.unwrap();
        append(&log, 3).await;
        let mut came = Vec::new();
        while came.last().is_none_or(|came: &Came| came.seq < 6) {
            came.push(next(&mut coming).await);
        }
        // Those from before it was added are not sent; the second one that is was refused four times.
        assert_eq!(came.iter().map(|came| came.seq).collect::<Vec<_>>(), [4, 5, 5, 5, 5, 5, 6]);
        assert!(came[1..6].iter().all(|again| again.id == came[1].id));
        let view = until(&webhooks, "ops", |view| view.delivered_seq == 6).await;
        assert_eq!((view.state, view.failures, view.given_up), (WebhookState::Ok, 0, 0));
    });
}

#[test]
fn a_webhook_that_hangs_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (hanging, _hung) = receiver([Reply::Hang; 10_000]);
        let (failing, _failed) = receiver([Reply::Status(500); 10_000]);
        let (good, mut coming) = receiver([]);
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        for (name, address) in [("hanging", hanging), ("failing", failing), ("good", good)] {
            webhooks.add(hook(name, address)).await.unwrap();
        }
        let begin = Instant::now();
        append(&log, 100).await;
        for seq in 1..=100 {
            assert_eq!(next(&mut coming).await.seq, seq);
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let view = until(&webhooks, "failing", |view| view.failures > 3).await;
        assert_eq!((view.state, view.delivered_seq), (WebhookState::Failing, 0));
        assert!(view.error.is_some_and(|error| error.contains("500")) && view.retry_at.is_some());
        let view = until(&webhooks, "hanging", |view| view.failures > 0).await;
        assert!(view.error.is_some_and(|error| error.contains("0.3 s")));
    });
}

#[test]
fn a_receiver_that_was_gone_gets_everything_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, gone) = gone();
        {
            let (log, webhooks) = webhooks(dir.path(), limits()).await;
            webhooks.add(hook("ops", address)).await.unwrap();
            append(&log, 5).await;
            until(&webhooks, "ops", |view| view.failures > 3).await;
            log.end();
        }
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        append(&log, 5).await;
        let mut coming = back(gone);
        for seq in 1..=10 {
            assert_eq!(next(&mut coming).await.seq, seq);
        }
        until(&webhooks, "ops", |view| view.delivered_seq == 10).await;
        drop(log);
    });
}

#[test]
fn a_receiver_is_told_once_what_it_will_never_get() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, gone) = gone();
        {
            let (log, webhooks) = webhooks(dir.path(), limits()).await;
            webhooks.add(hook("ops", address)).await.unwrap();
            log.end();
        }
        let last = {
            let log = EventLog::open(dir.path()).unwrap();
            log.set_keep(50);
            append(&log, 200).await;
            log.summary().pruned_seq
        };
        let mut coming = back(gone);
        let gap = {
            let (log, webhooks) = webhooks(dir.path(), limits()).await;
            let gap = next(&mut coming).await;
            assert_eq!((gap.kind.as_str(), gap.first_missing, gap.seq), ("event-gap", Some(1), last));
            for seq in last + 1..=200 {
                assert_eq!(next(&mut coming).await.seq, seq);
            }
            until(&webhooks, "ops", |view| view.delivered_seq == 200).await;
            log.end();
            gap
        };
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        append(&log, 1).await;
        let after = next(&mut coming).await;
        assert_eq!((after.seq, after.kind == gap.kind), (201, false));
        until(&webhooks, "ops", |view| view.delivered_seq == 201).await;
    });
}

#[test]
fn a_restart_repeats_nothing_that_was_delivered() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, mut coming) = receiver([]);
        for life in 0..4 {
            let (log, webhooks) = webhooks(dir.path(), limits()).await;
            if life == 0 {
                webhooks.add(hook("ops", address)).await.unwrap();
            }
            append(&log, 3).await;
            for seq in 1..=3 {
                assert_eq!(next(&mut coming).await.seq, 3 * life + seq);
            }
            until(&webhooks, "ops", |view| view.delivered_seq == 3 * (life + 1)).await;
            log.end();
        }
        assert!(coming.try_recv().is_err());
    });
}

#[test]
fn an_event_that_nobody_takes_is_given_up_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, _coming) = receiver([Reply::Status(400); 10_000]);
        let day = Duration::from_millis(60);
        let (log, webhooks) = webhooks(dir.path(), EventLimits { webhook_give_up: day, ..limits() }).await;
        webhooks.add(hook("ops", address)).await.unwrap();
        append(&log, 1).await;
        // The event that tells it is given up, too, and makes no more.
        let view = until(&webhooks, "ops", |view| view.given_up == 2).await;
        assert_eq!((view.delivered_seq, view.state), (2, WebhookState::Failing));
        let told = log.event(2).await.unwrap();
        assert_eq!((told.kind.as_str(), told.object.as_str()), ("webhook-gave-up", "ops"));
        assert_eq!(log.summary().last_seq, 2);
    });
}

#[test]
fn a_severity_a_beginning_and_a_test_are_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, mut coming) = receiver([]);
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        for index in 0..4 {
            let severity = if index % 2 == 0 { Severity::Info } else { Severity::Critical };
            log.append(vec![some(severity, index)], None).await.unwrap();
        }
        let severe = AddWebhook { severity: Some(Severity::Critical), after: Some(2), ..hook("ops", address) };
        assert!(webhooks.plan_add(&severe).await.unwrap().steps[0].contains("after event 2"));
        webhooks.add(severe.clone()).await.unwrap();
        assert_eq!(next(&mut coming).await.seq, 4);
        assert_eq!(webhooks.add(severe).await.unwrap_err().code, "exists");
        let tested = webhooks.test("ops").await.unwrap();
        assert_eq!((tested.status, next(&mut coming).await.seq), (204, 0));
        log.append(vec![some(Severity::Info, 9)], None).await.unwrap();
        until(&webhooks, "ops", |view| view.delivered_seq == 5).await;
        webhooks.remove("ops").await.unwrap();
        assert_eq!(webhooks.remove("ops").await.unwrap_err().code, "not-found");
        append(&log, 3).await;
        assert!(webhooks.list().await.unwrap().is_empty() && coming.try_recv().is_err());
        let weak = AddWebhook { secret: "short".into(), ..hook("x", address) };
        let problem = webhooks.add(weak).await.unwrap_err();
        assert_eq!((problem.code.as_str(), problem.hint.is_some()), ("invalid-argument", true));
    });
}

#[test]
fn a_test_that_fails_says_why() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, _coming) = receiver([Reply::Status(403), Reply::Hang]);
        let (_log, webhooks) = webhooks(dir.path(), limits()).await;
        webhooks.add(hook("ops", address)).await.unwrap();
        for word in ["403", "0.3 s"] {
            let problem = webhooks.test("ops").await.unwrap_err();
            assert_eq!((problem.code.as_str(), problem.exit_code()), ("webhook-failed", 8));
            assert!(problem.detail.contains(word), "{}", problem.detail);
        }
    });
}

#[test]
fn a_record_that_makes_no_sense_is_told_and_costs_its_webhook_only() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        drop(EventLog::open(dir.path()).unwrap());
        spoil(dir.path(), "webhooks", "broken");
        let (address, mut coming) = receiver([]);
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        let told = || log.warnings().iter().filter(|warning| warning.contains("webhook broken is not served")).count();
        assert_eq!(told(), 1, "{:?}", log.warnings());
        webhooks.add(hook("ops", address)).await.unwrap();
        append(&log, 2).await;
        assert_eq!((next(&mut coming).await.seq, next(&mut coming).await.seq), (1, 2));
        assert_eq!((webhooks.list().await.unwrap().len(), told()), (1, 1));
        let advice = log.warnings().concat().split_once("; ").unwrap().1.to_owned();
        crate::cli::hints::assert_advice_can_be_followed(&advice);
        assert!(webhooks.plan_remove("broken").await.unwrap().steps[0].contains("makes no sense"));
        webhooks.remove("broken").await.unwrap();
        assert!(log.warnings().is_empty(), "{:?}", log.warnings());
        assert_eq!(webhooks.remove("broken").await.unwrap_err().code, "not-found");
    });
}

#[test]
fn a_webhook_that_the_log_has_lost_is_still_there_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, mut coming) = receiver([]);
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        webhooks.add(hook("ops", address)).await.unwrap();
        log.change(Change::RemoveWebhook("ops".into())).await.unwrap();
        append(&log, 1).await;
        assert_eq!(next(&mut coming).await.seq, 1);
        assert_eq!(webhooks.list().await.unwrap().len(), 1);
        assert!(webhooks.plan_remove("ops").await.unwrap().steps[0].starts_with("send nothing more"));
        webhooks.remove("ops").await.unwrap();
        append(&log, 3).await;
        assert!(webhooks.list().await.unwrap().is_empty() && coming.try_recv().is_err());
        assert_eq!(webhooks.remove("ops").await.unwrap_err().code, "not-found");
    });
}

#[test]
fn a_receiver_that_is_too_slow_for_a_full_log_is_told_of_the_gap_while_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (address, gone) = gone();
        let (log, webhooks) = webhooks(dir.path(), limits()).await;
        log.set_keep(50);
        webhooks.add(hook("ops", address)).await.unwrap();
        append(&log, 200).await;
        until(&webhooks, "ops", |view| view.failures > 0).await;
        let mut coming = back(gone);
        // What was under way when they were let go still comes; what it is told to miss and what it gets is all there was.
        let mut next_seq = 1;
        while next_seq <= 200 {
            let came = next(&mut coming).await;
            match came.first_missing {
                Some(first) => assert!(came.kind == "event-gap" && first <= next_seq, "{came:?} at {next_seq}"),
                None => assert_eq!(came.seq, next_seq),
            }
            next_seq = came.seq + 1;
        }
        until(&webhooks, "ops", |view| view.delivered_seq == 200 && view.state == WebhookState::Ok).await;
    });
}
