//! Receivers of webhooks that hang, fail and recover.

use super::*;

/// Answers requests with what it is given for each (`None`: not at all); gives that (or 0) and the id of the event in it.
fn receiver(
    answers: impl Iterator<Item = Option<u16>> + Send + 'static,
) -> (String, std::sync::mpsc::Receiver<(u16, String)>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let (came, coming) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (stream, answer) in listener.incoming().zip(answers) {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let (mut line, mut length, mut id) = (String::new(), 0, String::new());
            while stream.read_line(&mut line).expect("a header") > 2 {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                } else if let Some(value) = lower.strip_prefix("plimsoll-event-id:") {
                    id = value.trim().to_owned();
                }
                line.clear();
            }
            stream.read_exact(&mut vec![0; length]).expect("a body");
            came.send((answer.unwrap_or(0), id)).expect("the test goes on");
            match answer {
                Some(status) => {
                    let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    stream.get_mut().write_all(text.as_bytes()).expect("an answer");
                }
                // Until the other side has had enough.
                None => drop(stream.read(&mut [0])),
            }
        }
    });
    (url, coming)
}

#[test]
fn a_receiver_that_hangs_and_fails_and_recovers_gets_each_event_and_a_broken_webhook_keeps_nobody_from_starting() {
    let state = tempfile::tempdir().expect("a temporary directory");
    {
        let log = redb::Database::create(state.path().join("events.redb")).expect("a log");
        let transaction = log.begin_write().expect("a transaction");
        let webhooks = redb::TableDefinition::<&str, &[u8]>::new("webhooks");
        transaction.open_table(webhooks).expect("a table").insert("broken", &b"{}"[..]).expect("an entry");
        transaction.commit().expect("it is kept");
    }
    let config = "[events]\nwebhook_timeout_ms = 200\nwebhook_retry_first_ms = 10\nwebhook_retry_longest_ms = 50\n";
    let daemon = Daemon::start_in(state, config);
    let status = daemon.json(&["status"]);
    let reason = status["findings"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("webhook broken is not served"), "{status}");
    daemon.says(&["webhook", "remove", "broken"]);
    assert_eq!(daemon.json(&["status"])["health"], "ok");

    let secret = daemon.state.path().join("secret.txt");
    std::fs::write(&secret, "correct horse battery").expect("a file");
    let script = [None, Some(500), None, Some(503)].into_iter().chain(std::iter::repeat(Some(204)));
    let (url, coming) = receiver(script);
    daemon.says(&["webhook", "add", "ops", "--url", &url, "--secret-file", &secret.display().to_string()]);
    let device = daemon.file("a.img");
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    let free = daemon.json(&["pool", "show", "tank"])["available_bytes"].as_u64().expect("a size");
    let reserve = format!("{}", free / 4 * 3 / 65_536 * 65_536);
    daemon.says(&["vdisk", "create", "tank/a", "--size", "1G", "--reservation", &reserve]);
    let patience = std::time::Duration::from_secs(20);
    let first: Vec<String> = (0..5).map(|_| coming.recv_timeout(patience).expect("a request in time").1).collect();
    assert!(first.iter().all(|id| *id == first[0]), "the same event until it is taken: {first:?}");
    let begin = std::time::Instant::now();
    let taken = loop {
        let webhook = daemon.json(&["webhook", "show", "ops"]);
        if webhook["delivered_seq"] == webhook["last_seq"] && webhook["state"] == "ok" {
            break webhook;
        }
        assert!(begin.elapsed() < patience, "{webhook}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!((&taken["failures"], &taken["given_up"]), (&0.into(), &0.into()), "{taken}");
    let events = daemon.json(&["event", "list"]);
    let ids: Vec<&str> =
        events["items"].as_array().expect("events").iter().filter_map(|event| event["id"].as_str()).collect();
    let got: Vec<String> = first[4..].iter().cloned().chain(coming.try_iter().map(|(_, id)| id)).collect();
    assert_eq!(got, ids, "each once and in order after that");
    daemon.says(&["webhook", "remove", "ops"]);
}

#[test]
fn a_receiver_that_answers_500_until_an_event_is_given_up_gets_the_next_ones_when_it_has_recovered() {
    let config = "[events]\nwebhook_retry_first_ms = 20\nwebhook_retry_longest_ms = 100\nwebhook_give_up_seconds = 1\n";
    let daemon = Daemon::start_in(tempfile::tempdir().expect("a temporary directory"), config);
    let secret = daemon.state.path().join("secret.txt");
    std::fs::write(&secret, "correct horse battery").expect("a file");
    // Recovered when the test says so.
    let recovered = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_well = recovered.clone();
    let status = move || Some(if is_well.load(std::sync::atomic::Ordering::SeqCst) { 204 } else { 500 });
    let (url, coming) = receiver(std::iter::repeat_with(status));
    daemon.says(&["webhook", "add", "ops", "--url", &url, "--secret-file", &secret.display().to_string()]);
    let device = daemon.file("a.img");
    daemon.says(&["pool", "create", "tank", "--device", &device, "--buffered"]);
    // Promises alone reach a level.
    let free = daemon.json(&["pool", "show", "tank"])["available_bytes"].as_u64().expect("a size");
    let reserve = format!("{}", free / 4 * 3 / 65_536 * 65_536);
    daemon.says(&["vdisk", "create", "tank/a", "--size", "1G", "--reservation", &reserve]);
    let patience = std::time::Duration::from_secs(20);
    let told = until(patience, || {
        let list = daemon.json(&["event", "list", "--kind", "webhook-gave-up"]);
        let item = list["items"].as_array().expect("events").first().cloned();
        item.ok_or_else(|| list.to_string())
    });
    let given_up = &daemon.json(&["event", "list", "--after", "0"])["items"][0];
    assert_eq!((&told["figures"]["event_seq"], &told["object"]), (&given_up["seq"], &"ops".into()), "{told}");
    let cause = told["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("did not take event") && cause.contains("in 1 s") && cause.contains("500"), "{cause}");
    assert!(told["advice"].as_str().is_some_and(|advice| advice.contains("plimsoll webhook test ops")), "{told}");
    let failing = daemon.json(&["webhook", "show", "ops"]);
    assert_eq!((&failing["state"], failing["given_up"].as_u64() >= Some(1)), (&"failing".into(), true), "{failing}");
    until(patience, || {
        let status = daemon.json(&["status"])["findings"].to_string();
        if status.contains("webhook ops has taken nothing") { Ok(()) } else { Err(status) }
    });

    recovered.store(true, std::sync::atomic::Ordering::SeqCst);
    daemon.says(&["vdisk", "set", "tank/a", "--reservation", "0"]);
    let taken = until(patience, || {
        let webhook = daemon.json(&["webhook", "show", "ops"]);
        let is_through = webhook["delivered_seq"] == webhook["last_seq"] && webhook["state"] == "ok";
        if is_through { Ok(webhook) } else { Err(webhook.to_string()) }
    });
    let given_up = taken["given_up"].as_u64().expect("a count") as usize;
    let list = daemon.json(&["event", "list", "--after", "0"]);
    let ids: Vec<&str> =
        list["items"].as_array().expect("events").iter().filter_map(|event| event["id"].as_str()).collect();
    let came: Vec<(u16, String)> = coming.try_iter().collect();
    let attempts = came.iter().filter(|(status, id)| *status == 500 && id == ids[0]).count();
    assert!(attempts > 3, "it was tried again and again: {came:?}");
    let good: Vec<&str> = came.iter().filter(|(status, _)| *status == 204).map(|(_, id)| id.as_str()).collect();
    assert_eq!(good, ids[given_up..], "what was not given up came once each, in order");
    assert!(!good.is_empty() && !daemon.json(&["status"])["findings"].to_string().contains("webhook"));
}
