//! Tables for people: which fields of an object are shown, and how a value is written.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::filter::{found, text};
use crate::event::time;
use crate::units::{cut, iec, printable};

/// Fields of a kind of object: those of a table, those of its sentences, which stand below its line, and those that `-o wide` adds, where
/// all of them are columns.
pub(super) struct Columns {
    pub(super) normal: &'static [&'static str],
    pub(super) below: &'static [&'static str],
    pub(super) wide: &'static [&'static str],
}

pub(super) const POOL: Columns = Columns {
    normal: &[
        "name",
        "state",
        "physical_bytes",
        "utilized_bytes",
        "available_bytes",
        "used_pct",
        "designated_bytes",
        "overcommit_ratio",
        "vdisks",
    ],
    below: &[],
    wide: &[
        "metadata_bytes",
        "reserved_bytes",
        "reclaimable_bytes",
        "held_writes",
        "counters.refused_writes",
        "time_to_full_seconds",
        "extent_bytes",
        "uuid",
        "reason",
    ],
};
pub(super) const VDISK: Columns = Columns {
    normal: &["name", "state", "designated_bytes", "backed_bytes", "backed_pct", "clients"],
    below: &[],
    wide: &[
        "tenant",
        "vm",
        "reservation_bytes",
        "quota_bytes",
        "reclaimable_bytes",
        "on_full",
        "held_writes",
        "sector_bytes",
        "write_cache",
        "created_at",
        "uuid",
        "version",
    ],
};
pub(super) const SPACE: Columns = Columns {
    normal: &[
        "pool",
        "what",
        "name",
        "physical_bytes",
        "share_pct",
        "designated_bytes",
        "reserved_bytes",
        "reclaimable_bytes",
        "reclaimed_bytes",
    ],
    below: &[],
    wide: &[
        "tenant",
        "vm",
        "exclusive_bytes",
        "shared_bytes",
        "survey.packable_bytes",
        "survey.whole_bytes",
        "survey.zero_bytes",
        "survey.pattern_bytes",
        "survey.margin_bytes",
        "held_writes",
    ],
};
/// Of the pools below that.
pub(super) const PROMISED: [&str; 8] = [
    "pool",
    "physical_bytes",
    "designated_bytes",
    "designated_bytes_max",
    "overcommit_bytes",
    "overcommit_ratio",
    "reclaimable_bytes",
    "packed_bytes",
];
pub(super) const TENANT: Columns = Columns {
    normal: &["name", "pool", "used_bytes", "quota_bytes", "used_pct", "vdisks", "designated_bytes"],
    below: &[],
    wide: &["reservation_bytes", "reserved_bytes", "reclaimable_bytes", "thresholds"],
};
pub(super) const EXPORT: Columns = Columns {
    normal: &["name", "protocol", "visible", "read_only", "clients"],
    below: &[],
    wide: &["implicit", "uris"],
};
pub(super) const DEVICE: Columns = Columns {
    normal: &["path", "kind", "size_bytes", "pool", "holds", "users"],
    below: &[],
    wide: &["model", "rotational", "read_only"],
};
pub(super) const JOB: Columns = Columns {
    normal: &["id", "kind", "object", "state", "done", "total", "unit", "done_pct"],
    below: &[],
    wide: &["problem"],
};
pub(super) const EVENT: Columns = Columns {
    normal: &["seq", "time", "severity", "kind", "object"],
    below: &["cause", "advice"],
    wide: &["vm", "acknowledged_at", "acknowledged_by"],
};
pub(super) const WEBHOOK: Columns = Columns {
    normal: &["name", "url", "severity", "state", "delivered_seq", "last_seq", "failures", "error"],
    below: &[],
    wide: &["given_up", "retry_at", "created_at"],
};
pub(super) const PATTERN: Columns =
    Columns { normal: &["name", "use", "unit_bytes", "unit_hex", "vdisks"], below: &[], wide: &["created_at"] };
pub(super) const FINDING: Columns =
    Columns { normal: &["kind", "loss", "vdisk", "offset_bytes", "length_bytes", "message"], below: &[], wide: &[] };

/// How a field is written for people.
pub(super) fn human(field: &str, value: &Value, exact: bool) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(number) if (field.ends_with("_bytes") || field.contains("_bytes_")) && !exact => {
            match number.as_i64() {
                Some(negative) if negative < 0 => format!("-{}", iec(negative.unsigned_abs())),
                _ => iec(number.as_u64().unwrap_or(0)),
            }
        }
        Value::Number(number) if field.ends_with("_seconds") => {
            let duration = number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            duration.map_or_else(|| number.to_string(), time)
        }
        Value::Number(number) if field.ends_with("_pct") => format!("{:.1} %", number.as_f64().unwrap_or(0.0)),
        Value::Number(number) if field.ends_with("_ratio") => format!("{:.2}", number.as_f64().unwrap_or(0.0)),
        Value::Object(object) => match object.get("detail") {
            Some(detail) => printable(&text(detail)),
            None => value.to_string(),
        },
        other => printable(&text(other)),
    }
}

/// Fields that can be long, and how much of them a table shows; `-o wide` and `show` have all.
const SHORTENED: [(&str, usize); 1] = [("unit_hex", 32)];

/// Columns of a terminal that sentences are broken for, and how far they are moved to the right.
const SENTENCE_COLUMNS: (usize, usize) = (100, 6);

/// A list as a table in which nothing is long, with sentences below the line of what they are about.
pub(super) fn list_with_sentences(items: &[Value], columns: &Columns, headings: bool, exact: bool) -> String {
    let table = short_list(items, columns.normal, headings, exact);
    let mut lines = table.lines();
    let mut text: String = lines.by_ref().take(usize::from(headings)).map(|line| format!("{line}\n")).collect();
    for (item, line) in items.iter().zip(lines) {
        text += &format!("{line}\n");
        let sentences = columns.below.iter().filter_map(|field| found(item, field)?.as_str());
        sentences.for_each(|sentence| text += &broken(sentence));
    }
    text
}

/// A sentence in lines, moved to the right.
fn broken(sentence: &str) -> String {
    let (columns, indent) = SENTENCE_COLUMNS;
    let mut lines: Vec<String> = Vec::new();
    for word in sentence.split_whitespace().map(printable) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => *line += &format!(" {word}"),
            _ => lines.push(" ".repeat(indent) + &word),
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A list as a table in which nothing is long.
pub(super) fn short_list(items: &[Value], fields: &[&str], headings: bool, exact: bool) -> String {
    let short = |item: &Value| {
        let mut item = item.clone();
        for (field, chars) in SHORTENED {
            if let Some(Value::String(text)) = item.get_mut(field) {
                *text = cut(text, chars);
            }
        }
        item
    };
    list(&items.iter().map(short).collect::<Vec<_>>(), fields, headings, exact)
}

/// A list as a table.
pub(super) fn list(items: &[Value], fields: &[&str], headings: bool, exact: bool) -> String {
    let mut table = plain();
    if headings {
        table.set_header(fields.iter().map(|field| heading(field)));
    }
    for item in items {
        table.add_row(fields.iter().map(|field| human(field, found(item, field).unwrap_or(&Value::Null), exact)));
    }
    for (index, field) in fields.iter().enumerate() {
        let is_number = |item: &Value| found(item, field).is_none_or(|value| value.is_number() || value.is_null());
        if !items.is_empty()
            && items.iter().all(is_number)
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    finish(&table)
}

/// Below the lines of `space`: what the pools have promised, and what to do about it.
pub(super) fn promised(pools: &[Value], exact: bool) -> String {
    let mut text = format!("\nOVERCOMMIT\n{}", list(pools, &PROMISED, true, exact));
    let below = |pool: &Value| {
        let room = pool.get("available_below_bytes").filter(|room| room.is_number())?;
        let [room, has] = [room, pool.get("available_bytes")?].map(|bytes| human("available_bytes", bytes, exact));
        Some(format!(
            "{}: the file systems under it have room for {room} of the {has} available\n",
            pool.get("pool")?.as_str()?
        ))
    };
    let short: String = pools.iter().filter_map(below).collect();
    if !short.is_empty() {
        text += &format!("\nBELOW\n{short}");
    }
    let advice = pools.iter().filter_map(|pool| Some((pool.get("pool")?.as_str()?, pool.get("advice")?.as_str()?)));
    for (index, (pool, advice)) in advice.enumerate() {
        let heading = if index == 0 { "\nRECLAIM\n" } else { "" };
        text += &format!("{heading}{pool}: {advice}\n");
    }
    text
}

/// One object as lines of field and value; what is inside it behind, as tables.
pub(super) fn object(value: &Value, exact: bool) -> String {
    let mut table = plain();
    let mut inner = String::new();
    for (field, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let fields: Vec<&str> =
                    items[0].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                inner += &format!("\n{}\n{}", heading(field), list(items, &fields, true, exact));
            }
            Value::Object(_) if value.get("detail").is_none() => {
                inner += &format!("\n{}\n{}", heading(field), object(value, exact));
            }
            _ if field == "schema" => {}
            _ => {
                table.add_row([field.clone(), human(field, value, exact)]);
            }
        }
    }
    finish(&table) + &inner
}

fn heading(field: &str) -> String {
    let field = field.rsplit('.').next().unwrap_or(field);
    let unit = ["_bytes", "_seconds", "_at"].iter().find_map(|unit| field.strip_suffix(unit));
    let short = unit.unwrap_or(field);
    short.replace("_bytes_", "_").replace("_pct", " %").replace('_', " ").to_uppercase()
}

/// No lines, two spaces between columns: easy to read, cut and search.
fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn finish(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        text += line.strip_prefix(' ').unwrap_or(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_with_units_and_right_aligned_numbers() {
        let items = [
            json!({"name": "tank/db1", "designated_bytes": 10737418240_u64, "backed_pct": 0.5, "clients": 2, "x": null}),
            json!({"name": "tank/web", "designated_bytes": 512, "backed_pct": 100.0, "clients": 10, "x": true}),
        ];
        let fields = ["name", "designated_bytes", "backed_pct", "clients", "x"];
        let expected = "\
NAME      DESIGNATED  BACKED %  CLIENTS  X
tank/db1      10 GiB     0.5 %        2  -
tank/web       512 B   100.0 %       10  yes
";
        assert_eq!(list(&items, &fields, true, false), expected);
        let exact = list(&items, &fields[..2], false, true);
        assert_eq!(exact, "tank/db1  10737418240\ntank/web          512\n");
    }

    #[test]
    fn what_is_long_in_a_list_is_shortened_unless_it_is_wide() {
        let digits = "a5".repeat(4096);
        let items = [json!({"name": "tank/1", "unit_hex": digits})];
        let fields = ["name", "unit_hex"];
        let expected = format!("tank/1  {}...\n", &digits[..29]);
        assert_eq!(short_list(&items, &fields, false, false), expected);
        assert_eq!(list(&items, &fields, false, false), format!("tank/1  {digits}\n"));
    }

    #[test]
    fn what_events_say_stands_below_their_line_as_a_whole_and_fits_a_terminal() {
        let advice = "Only 5 GiB are left: add a device now (plimsoll pool add-device tank --device PATH), and create no more vdisks.";
        let event = |seq: u64, cause: &str, advice: Option<&str>| {
            json!({"seq": seq, "time": "2026-11-26T16:24:05.123Z", "severity": "critical", "kind": "limit-exceeded-cleared",
                "object": "tank", "cause": cause, "advice": advice})
        };
        let items = [event(9, "tank is full", Some(advice)), event(10, "it is over", None)];
        let expected = "\
SEQ  TIME                      SEVERITY  KIND                    OBJECT
  9  2026-11-26T16:24:05.123Z  critical  limit-exceeded-cleared  tank
      tank is full
      Only 5 GiB are left: add a device now (plimsoll pool add-device tank --device PATH), and
      create no more vdisks.
 10  2026-11-26T16:24:05.123Z  critical  limit-exceeded-cleared  tank
      it is over
";
        assert_eq!(list_with_sentences(&items, &EVENT, true, false), expected);
        assert!(expected.lines().all(|line| line.len() <= 100));
        assert_eq!(list_with_sentences(&items[1..], &EVENT, false, false).lines().count(), 2);
        assert_eq!(list_with_sentences(&[], &EVENT, true, false).lines().count(), 1);
    }

    #[test]
    fn what_terminals_obey_is_shown_in_tables_and_not_done() {
        let item = json!({"path": "/a\u{1b}[2J\n", "cause": "see \u{7}", "reason": {"detail": "\u{9b}"}});
        let shown = [
            list(std::slice::from_ref(&item), &["path", "reason"], true, false),
            object(&item, false),
            broken("see \u{7}"),
        ];
        assert!(shown[0].contains("/a\\u{1b}[2J\\n") && shown[2].contains("\\u{7}"), "{shown:?}");
        assert!(shown.iter().all(|text| text.lines().all(|line| !line.contains(char::is_control))), "{shown:?}");
    }

    #[test]
    fn times_are_in_units_that_people_read() {
        let value = json!({"time_to_full_seconds": 7500.25, "age_seconds": 40, "x_seconds": -1.0, "y_seconds": null});
        let expected = "time_to_full_seconds  2 h 5 min\nage_seconds           40 s\nx_seconds             -1.0\ny_seconds             -\n";
        assert_eq!(object(&value, false), expected);
        assert_eq!(list(&[value], &["time_to_full_seconds"], true, false), "TIME TO FULL\n   2 h 5 min\n");
    }

    #[test]
    fn what_pools_promised_is_below_their_space_with_its_limit_and_what_to_do() {
        let pools = [
            json!({"pool": "lake", "physical_bytes": 1024, "designated_bytes": 0, "designated_bytes_max": null,
                "overcommit_bytes": -1024, "overcommit_ratio": 0.0, "reclaimable_bytes": null, "packed_bytes": 0,
                "advice": null}),
            json!({"pool": "tank", "physical_bytes": 1024, "designated_bytes": 2048, "designated_bytes_max": 4096,
                "overcommit_bytes": 1024, "overcommit_ratio": 2.0, "reclaimable_bytes": 512, "packed_bytes": 0,
                "available_bytes": 512, "available_below_bytes": 256, "advice": "look"}),
        ];
        let expected = "
OVERCOMMIT
POOL  PHYSICAL  DESIGNATED  DESIGNATED MAX  OVERCOMMIT  OVERCOMMIT RATIO  RECLAIMABLE  PACKED
lake     1 KiB         0 B               -      -1 KiB              0.00            -     0 B
tank     1 KiB       2 KiB           4 KiB       1 KiB              2.00        512 B     0 B

BELOW
tank: the file systems under it have room for 256 B of the 512 B available

RECLAIM
tank: look
";
        assert_eq!(promised(&pools, false), expected);
    }

    #[test]
    fn an_object_is_lines_and_its_parts_are_tables_behind() {
        let value = json!({"schema": "s", "name": "tank", "overcommit_bytes": -1024, "reason": null,
            "devices": [{"path": "/dev/a", "size_bytes": 1024}]});
        let expected = "\
name              tank
overcommit_bytes  -1 KiB
reason            -

DEVICES
PATH     SIZE
/dev/a  1 KiB
";
        assert_eq!(object(&value, false), expected);
    }
}
