//! `/metrics` against what the commands show, in a pool where no figure is zero that need not be.
//! Checklist 2.01, 2.02, 2.05-2.07, 4.40.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::get;
use crate::tank::{EXTENT, LONG, MIB, PATIENCE, Tank, send};
use plimsoll_tests::nbd_client::Kind;
use serde_json::{Value, json};

/// Series that are named otherwise than their field, and fields that are one deeper.
const NAMES: [(&str, &str); 28] = [
    ("pool_check_findings", "/last_check/findings"),
    ("pool_designated_max_bytes", "/designated_bytes_max"),
    ("pool_reads", "/counters/reads"),
    ("pool_read_bytes", "/counters/read_bytes"),
    ("pool_writes", "/counters/writes"),
    ("pool_written_bytes", "/counters/write_bytes"),
    ("pool_first_writes", "/counters/first_writes"),
    ("pool_discards", "/counters/discards"),
    ("pool_flushes", "/counters/flushes"),
    ("pool_journal_commits", "/counters/journal_commits"),
    ("pool_journal_commits_ahead", "/counters/journal_commits_ahead"),
    ("pool_checkpoints", "/counters/checkpoints"),
    ("pool_writes_held", "/counters/held_writes"),
    ("pool_writes_held_bytes", "/counters/held_write_bytes"),
    ("pool_writes_refused", "/counters/refused_writes"),
    ("pool_zero_bytes", "/counters/zero_bytes"),
    ("pool_pattern_bytes", "/counters/pattern_bytes"),
    ("pool_packed_bytes", "/counters/packed_bytes"),
    ("pool_pages_healed", "/counters/pages_healed"),
    ("pool_pages_lost", "/counters/pages_lost"),
    ("reclaimable_packable_bytes", "/survey/packable_bytes"),
    ("reclaimable_whole_bytes", "/survey/whole_bytes"),
    ("reclaimable_zero_bytes", "/survey/zero_bytes"),
    ("reclaimable_pattern_bytes", "/survey/pattern_bytes"),
    ("reclaimable_margin_bytes", "/survey/margin_bytes"),
    ("survey_age_seconds", "/survey/age_seconds"),
    ("pool_available_below_bytes", "/available_bytes"),
    ("pool_online", "/state"),
];
/// What is zero here: no two vdisks name the same space yet, guests have no regulation files, all that was looked at was read, nothing was
/// compacted or is damaged, and writes under way and a journal that is ahead of them come and go.
const ZERO: [&str; 11] = [
    "pool_shared_bytes",
    "pool_regulation_bytes",
    "pool_starved",
    "pool_held_bytes",
    "pool_pages_healed",
    "pool_pages_lost",
    "pool_check_findings",
    "pool_packed_bytes",
    "pool_journal_commits_ahead",
    "reclaimable_margin_bytes",
    "survey_age_seconds",
];

/// The field of a series of an object.
fn field<'a>(object: &'a Value, series: &str) -> Option<&'a Value> {
    let bare = series.split_once('_').map_or(series, |(_, bare)| bare);
    let name = NAMES.iter().find(|(name, _)| *name == series || *name == bare);
    object.pointer(&name.map_or_else(|| format!("/{bare}"), |(_, pointer)| (*pointer).to_owned()))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        Value::String(state) => Some(f64::from(u8::from(state == "online"))),
        // Of a pool that starves: the path of the device.
        Value::Null => Some(0.0),
        value => value.as_f64(),
    }
}

/// The series of a text that begin with a noun: name without `plimsoll_` and `_total`, labels, and value.
fn series(text: &str, noun: &str) -> Vec<(String, String, f64)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("plimsoll_")).filter(|line| line.starts_with(noun));
    let parts = lines.map(|line| {
        let (name, rest) = line.split_once('{').expect(line);
        let (labels, value) = rest.rsplit_once("} ").expect(line);
        (name.strip_suffix("_total").unwrap_or(name).to_owned(), labels.to_owned(), value.parse().expect(line))
    });
    parts.collect()
}

/// All objects there are, with the labels of their series.
fn shown(tank: &Tank) -> BTreeMap<String, Value> {
    let mut shown = BTreeMap::from([("pool=\"tank\"".to_owned(), tank.daemon.json(&["pool", "show", "tank"]))]);
    let word = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    for (list, labels) in [("vdisk", ["vdisk", "tenant", "vm"].as_slice()), ("tenant", ["name"].as_slice())] {
        for object in tank.daemon.json(&[list, "list"])["items"].as_array().expect("a list") {
            let own = labels.iter().map(|label| {
                format!(",{}=\"{}\"", if *label == "name" { "tenant" } else { label }, word(object, label))
            });
            shown.insert(format!("pool=\"tank\"{}", own.collect::<String>()), object.clone());
        }
    }
    shown
}

#[test]
fn every_figure_of_metrics_is_the_one_that_the_commands_show_under_its_name() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    tank.vdisk("a", &["--tenant", "acme", "--vm", "web", "--reservation", "3M", "--quota", "9M"]);
    daemon.done(&["vdisk", "set", "tank/a", "--detect", "zeros=off"]);
    tank.vdisk("b", &["--tenant", "acme", "--on-full", LONG, "--quota", "1M"]);
    tank.vdisk("gone", &["--on-full", "fail", "--quota", "64K"]);
    daemon.done(&["tenant", "set", "acme", "--pool", "tank", "--quota", "20M"]);
    daemon.done(&["pool", "set", "tank", "--overcommit-limit", "100x"]);
    let (mut a, mut b, mut hog) = (tank.connect("a"), tank.connect("b"), tank.connect("hog"));
    // Zeros that are stored, a pattern before it is known, and extents of which little is left.
    a.write(0, &[0; MIB as usize / 2], 0).expect("a write");
    a.write(MIB, &[0x5a; MIB as usize / 4], 0).expect("a write");
    for extent in 0..8 {
        a.write(16 * MIB + extent * EXTENT, &[extent as u8 + 1; EXTENT as usize], 0).expect("a write");
        a.trim(16 * MIB + extent * EXTENT + 4096, EXTENT as u32 - 4096).expect("a trim");
    }
    b.write(0, &[1; MIB as usize], 0).expect("a write");
    daemon.done(&["pattern", "add", "tank", "--hex", "5a"]);
    b.write(32 * MIB, &[0x5a; 5 * 4096], 0).expect("a pattern needs no extent");
    b.write(0, &[0; 7 * 4096], 0).expect("zeros need none");
    b.read(0, 3 * 4096).expect("a read");
    b.flush().expect("a flush");
    // Some are held, and one fails.
    for index in 0..3 {
        send(&mut b, 64 * MIB + index * EXTENT, 4096, 1);
    }
    tank.held(3);
    let mut gone = tank.connect("gone");
    gone.write(0, &[1; 4096], 0).expect("a write within its quota");
    assert_eq!(gone.call(Kind::Write, 0, MIB, 4096, &[1; 4096]).expect("an answer").error, 28);
    daemon.done(&["pool", "check", "tank"]);
    daemon.done(&["pool", "survey", "tank", "--wait"]);
    // Its use grows, so that there is a time to full; and what is freed last waits for a flush.
    let began = Instant::now();
    let mut mebibyte = 0;
    loop {
        hog.write(mebibyte * EXTENT, &[7; EXTENT as usize], 0).expect("a write");
        mebibyte += 1;
        let pool = tank.daemon.json(&["pool", "show", "tank"]);
        if pool["time_to_full_seconds"].is_number() && mebibyte > 8 {
            break;
        }
        assert!(began.elapsed() < PATIENCE && mebibyte < 400, "no time to full: {pool:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    hog.trim(0, 2 * EXTENT as u32).expect("a trim");

    // Between two looks that saw the same.
    let (text, shown) = loop {
        let before = shown(&tank);
        let text = get(daemon, "/metrics");
        if shown(&tank) == before {
            break (text, before);
        }
        assert!(began.elapsed() < PATIENCE, "it never rests\n{}", daemon.log());
    };
    let (mut seen, mut not_zero) = (BTreeMap::new(), BTreeMap::new());
    for noun in ["pool_", "vdisk_", "tenant_"] {
        for (name, labels, value) in series(&text, noun) {
            let object = shown.get(&labels).unwrap_or_else(|| panic!("{name}{{{labels}}} is of nothing that is shown"));
            let field = field(object, &name).unwrap_or_else(|| panic!("{name} in {object:#}"));
            assert_eq!(Some(value), number(field), "{name}{{{labels}}} in\n{object:#}");
            *seen.entry(name.clone()).or_insert(0) += 1;
            *not_zero.entry(name).or_insert(0) += u32::from(value != 0.0);
        }
    }
    println!("{} series of {} names", seen.values().sum::<i32>(), seen.len());
    assert!(seen.len() > 70, "{seen:#?}");
    for (name, times) in not_zero {
        let bare = name.split_once('_').map_or("", |(_, bare)| bare);
        let may = ZERO.iter().any(|zero| *zero == name || *zero == bare || zero.strip_prefix("pool_") == Some(bare));
        assert!(times > 0 || may, "{name} is zero everywhere: it could be another figure");
    }
    // Some of them by numbers of their own.
    let pool = &shown["pool=\"tank\""];
    let physical = pool["physical_bytes"].as_f64().expect("bytes");
    let ratio = pool["overcommit_ratio"].as_f64().expect("a ratio");
    assert!((ratio - 4.0 * 1024.0 * MIB as f64 / physical).abs() < 1e-3, "{ratio} of four vdisks of 1 GiB");
    let vdisk = |name: &str, tenant: &str, vm: &str| {
        &shown[&format!("pool=\"tank\",vdisk=\"{name}\",tenant=\"{tenant}\",vm=\"{vm}\"")]
    };
    let (a, b) = (vdisk("a", "acme", "web"), vdisk("b", "acme", ""));
    assert_eq!((&b["held_writes"], &b["exhausted"], &b["backed_bytes"]), (&json!(3), &json!(true), &json!(MIB)));
    let own = [&a["backed_bytes"], &a["exclusive_bytes"], &a["reserved_bytes"]];
    let used = MIB / 2 + MIB / 4 + 8 * EXTENT;
    assert_eq!(own, [&json!(used), &json!(used), &json!(3 * MIB - used)]);
    assert_eq!(shown["pool=\"tank\",tenant=\"acme\""]["used_bytes"], used + MIB);
    let clients = text
        .lines()
        .any(|line| line.starts_with("plimsoll_vdisk_clients{pool=\"tank\",vdisk=\"a\"") && line.ends_with(" 1.0"));
    assert!(clients, "{text}");
}
