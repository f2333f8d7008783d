//! `--if-not-exists`: what is there already is as good as made only if it is what was asked for.

use serde_json::Value;

use super::run::Context;
use super::table::human;
use crate::problem::{Answer, Problem};

/// Says that `kind` `name` exists, if `there` has each of the `wanted` values; what is `None` was not asked for.
///
/// # Errors
/// `conflict` with what differs.
pub(super) fn as_wanted(
    cx: &Context<'_>,
    (kind, name): (&str, &str),
    there: &Value,
    wanted: &[(&str, Option<Value>)],
) -> Answer<()> {
    let differs = differences(there, wanted);
    if differs.is_empty() {
        return cx.render.changed(&format!("{kind} {name} exists"), there);
    }
    Err(another((kind, name), &differs))
}

/// It exists and is another.
pub(super) fn another((kind, name): (&str, &str), differs: &[String]) -> Problem {
    Problem::new("conflict", format!("{kind} {name} exists, and is another: {}", differs.join("; ")))
        .hint(format!("plimsoll {kind} show {name}; or choose another name"))
}

fn differences(there: &Value, wanted: &[(&str, Option<Value>)]) -> Vec<String> {
    let asked = wanted.iter().filter_map(|(field, value)| Some((*field, value.as_ref()?)));
    let found = |field: &str| there.get(field).unwrap_or(&Value::Null);
    let differ = asked.filter(|(field, value)| found(field) != *value);
    let say = |field: &str, value: &Value| {
        let (rounded, exact) = (human(field, value, false), human(field, value, true));
        match value {
            Value::Null => "none".to_owned(),
            _ if rounded == exact => exact,
            _ => format!("{rounded} ({exact})"),
        }
    };
    let name = |field: &str| field.strip_suffix("_bytes").unwrap_or(field).replace('_', " ");
    let said = |(field, value): (&str, &Value)| {
        format!("{} is {}, not {}", name(field), say(field, found(field)), say(field, value))
    };
    differ.map(said).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_asked_for_is_compared_and_what_differs_is_said() {
        let there = json!({"designated_bytes": 1_u64 << 30, "sector_bytes": 512, "quota_bytes": null});
        let asked = |bytes: u64, quota: Option<Value>| {
            differences(
                &there,
                &[("designated_bytes", Some(json!(bytes))), ("sector_bytes", None), ("quota_bytes", quota)],
            )
        };
        assert_eq!(asked(1 << 30, None), [""; 0]);
        assert_eq!(asked(1 << 30, Some(Value::Null)), [""; 0]);
        assert_eq!(
            asked(2 << 30, Some(json!(4096))),
            ["designated is 1 GiB (1073741824), not 2 GiB (2147483648)", "quota is none, not 4 KiB (4096)"]
        );
        let problem = another(("vdisk", "tank/a"), &asked(1, None));
        assert_eq!((problem.code.as_str(), problem.exit_code()), ("conflict", 4));
        crate::cli::hints::assert_advice_can_be_followed(&problem.hint.unwrap());
    }
}
