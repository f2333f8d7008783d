//! Limits that are exceeded, as the real program tells them, and what it says where a promise is refused: which limit, by how much, and
//! what would help.
//! Checklist 2.07, 4.46, 4.49.

use crate::tank::{MIB, Tank};
use serde_json::Value;

/// An exit code.
const REFUSED: i32 = 5;
const GIB: u64 = 1 << 30;

/// The size behind `words`, in bytes; sizes are said with a decimal at most.
#[track_caller]
fn said_after(text: &str, words: &str) -> u64 {
    let units = [("KiB", 1 << 10), ("MiB", MIB), ("GiB", GIB)];
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let (number, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("no size after {words:?} in {text}"));
    let unit = units.into_iter().find(|(unit, _)| rest.starts_with(unit));
    let (unit, number) = (unit.unwrap_or_else(|| panic!("no unit in {text}")).1, number.parse::<f64>());
    (number.unwrap_or_else(|error| panic!("{error} in {text}")) * unit as f64) as u64
}

/// Asserts that a size that was said is another, but for its digits.
#[track_caller]
fn assert_about(said: u64, bytes: u64, text: &str) {
    assert!(said.abs_diff(bytes) <= bytes / 20, "{said} is said, and it is {bytes}: {text}");
}

impl Tank {
    fn bytes(&self, command: &[&str], field: &str) -> u64 {
        let object = self.daemon.json(command);
        object[field].as_u64().unwrap_or_else(|| panic!("{field} in {object:#}"))
    }

    /// The last event of a kind, of so many.
    #[track_caller]
    fn last(&self, kind: &str, object: &str, times: usize) -> Value {
        let mut events = self.daemon.events(kind, object, times);
        assert_eq!(events.len(), times, "{events:#?}");
        events.pop().expect("an event")
    }

    /// Exceeds a limit by setting it, and lifts it again; each is told, once.
    #[track_caller]
    fn exceeds(&self, object: &str, limit: &str, exceed: &[&str], figures: impl Fn() -> (u64, u64), lift: &[&str]) {
        assert!(self.daemon.events("limit-exceeded", object, 0).is_empty(), "{object}: nothing is exceeded yet");
        self.daemon.done(exceed);
        let event = self.last("limit-exceeded", object, 1);
        let (used, allowed) = figures();
        assert!(used > allowed, "{used} of {allowed}");
        assert_eq!((&event["severity"], &event["details"]["limit"]), (&"warning".into(), &limit.into()), "{event:#}");
        assert_eq!(
            (&event["figures"]["used_bytes"], &event["figures"]["limit_bytes"]),
            (&used.into(), &allowed.into())
        );
        let [cause, advice] = ["cause", "advice"].map(|name| event[name].as_str().unwrap_or_default());
        assert!(cause.starts_with(&format!("the {limit} of {object} is ")), "{cause}");
        // "… are promised: 1 GiB too much", or "used".
        assert_about(said_after(cause, "d: "), used - allowed, cause);
        assert!(advice.contains(&exceed[..3].join(" ")), "{advice}");
        assert!(self.daemon.events("limit-exceeded-cleared", object, 0).is_empty(), "{object}: it is exceeded still");
        self.daemon.done(lift);
        let cleared = self.last("limit-exceeded-cleared", object, 1);
        assert_eq!(
            (&cleared["severity"], &cleared["details"]["limit"]),
            (&"info".into(), &limit.into()),
            "{cleared:#}"
        );
        assert!(cleared["seq"].as_u64() > event["seq"].as_u64());
        self.last("limit-exceeded", object, 1);
    }
}

#[test]
fn a_limit_that_is_exceeded_is_told_by_how_much_and_so_is_its_end() {
    let tank = Tank::new();
    tank.vdisk("v", &["--tenant", "acme"]);
    let mut client = tank.connect("v");
    client.write(0, &[1; 8 * MIB as usize], 0).expect("a write");
    let of_pool = ["pool", "show", "tank"];
    // Two vdisks of 1 GiB are promised.
    let overcommit = ["pool", "set", "tank", "--overcommit-limit"];
    tank.daemon.done(&[&overcommit[..], &["100x"]].concat());
    let promised = || (tank.bytes(&of_pool, "designated_bytes"), tank.bytes(&of_pool, "designated_bytes_max"));
    assert_eq!(promised().0, 2 * GIB);
    let [exceed, lift] = [["2x"], ["none"]].map(|limit| [&overcommit[..], &limit].concat());
    tank.exceeds("tank", "overcommit limit", &exceed, promised, &lift);
    let of_vdisk = ["vdisk", "set", "tank/v", "--quota"];
    let used = || (tank.bytes(&["vdisk", "show", "tank/v"], "backed_bytes"), 3 * MIB);
    let [exceed, lift] = [["3M"], ["16M"]].map(|quota| [&of_vdisk[..], &quota].concat());
    tank.exceeds("tank/v", "quota", &exceed, used, &lift);
    let of_tenant = ["tenant", "set", "acme", "--pool", "tank", "--quota"];
    let [exceed, lift] = [["3M"], ["16M"]].map(|quota| [&of_tenant[..], &quota].concat());
    tank.exceeds("acme", "quota", &exceed, used, &lift);
    tank.daemon.assert_clean("tank");
}

#[test]
fn a_promise_that_is_refused_says_which_limit_by_how_much_and_what_would_help() {
    let tank = Tank::new();
    let daemon = &tank.daemon;
    let create = ["vdisk", "create", "tank/v", "--size", "1G"];
    let of_pool = ["pool", "show", "tank"];
    daemon.done(&["pool", "set", "tank", "--overcommit-limit", "20x"]);
    let allowed = tank.bytes(&of_pool, "designated_bytes_max");
    let words = ["the limit of pool tank", "add-device tank", "--overcommit-limit LIMIT"];
    let said = daemon.refused(&create, REFUSED, &words);
    assert_about(said_after(&said, "vdisk tank/v of 1 GiB would exceed by "), 2 * GIB - allowed, &said);
    daemon.done(&["pool", "set", "tank", "--overcommit-limit", "none"]);

    // More than there is, and than all that can be promised.
    let reserve = [&create[..], &["--reservation", "128M"]].concat();
    let words = [
        "a reservation of 128 MiB for vdisk tank/v",
        "what pool tank can still promise",
        "reserve less",
        "add-device tank",
    ];
    let said = daemon.refused(&reserve, REFUSED, &words);
    let missing = said_after(&said, "would exceed by ");
    let beyond = 128 * MIB - tank.bytes(&of_pool, "available_bytes");
    // With what metadata needs for it.
    assert!((beyond - MIB..beyond + 8 * MIB).contains(&missing), "{missing}, not {beyond}: {said}");

    // Of a tenant: alone more than its quota, and with what others of it use.
    daemon.done(&["tenant", "set", "acme", "--pool", "tank", "--quota", "8M"]);
    let alone = [&create[..], &["--tenant", "acme", "--reservation", "12M"]].concat();
    daemon.refused(
        &alone,
        REFUSED,
        &["12 MiB", "its quota of 8 MiB", "plimsoll tenant set acme --pool tank --quota SIZE"],
    );
    tank.vdisk("other", &["--tenant", "acme"]);
    tank.connect("other").write(0, &[1; 6 * MIB as usize], 0).expect("a write");
    let beside = [&create[..], &["--tenant", "acme", "--reservation", "5M"]].concat();
    let words =
        ["by 3 MiB the quota of tenant acme in pool tank: 8 MiB, of which 6 MiB are used or reserved by others"];
    let said = daemon.refused(&beside, REFUSED, &words);
    assert!(
        said.contains("reserve less") && said.contains("plimsoll tenant set acme --pool tank --quota SIZE"),
        "{said}"
    );
    assert_eq!(daemon.json(&["vdisk", "list"])["items"].as_array().map(Vec::len), Some(2), "nothing was made");
    daemon.assert_clean("tank");
}
