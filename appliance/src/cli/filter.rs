//! `--filter` and `--sort`: on the fields of the API, by their own names. Values of `_bytes` fields may be written as
//! sizes.

use std::cmp::Ordering;

use serde_json::Value;

use crate::problem::{Answer, Problem};
use crate::units::{Size, quoted};

const OPERATORS: [&str; 7] = [">=", "<=", "!=", "=", ">", "<", "~"];

/// One condition.
pub(super) struct Filter {
    field: String,
    operator: &'static str,
    value: String,
}

impl Filter {
    pub(super) fn parse(text: &str) -> Answer<Self> {
        let found = OPERATORS.iter().filter_map(|operator| Some((text.find(operator)?, *operator)));
        // The first in the text; of two at one place the longer one, which stands first in the list.
        let Some((at, operator)) = found.min_by_key(|(at, _)| *at).filter(|(at, _)| *at > 0) else {
            return Err(Problem::new("invalid-argument", format!("{} is not a condition", quoted(text)))
                .hint("--filter 'used_pct>80', with one of >= <= != = > < ~"));
        };
        let value = text[at + operator.len()..].trim().trim_start_matches('=');
        Ok(Self { field: text[..at].trim().to_owned(), operator, value: value.to_owned() })
    }

    /// Whether `item` fits. What is null fits `!=` only.
    pub(super) fn fits(&self, item: &Value) -> Answer<bool> {
        let found = field(item, &self.field)?;
        if found.is_null() {
            return Ok(if self.value == "null" { self.operator == "=" } else { self.operator == "!=" });
        }
        if self.operator == "~" {
            return Ok(text(found).contains(&self.value));
        }
        let wanted = match found {
            Value::Number(_) => Value::from(self.number()?),
            _ => Value::from(self.value.clone()),
        };
        let order = compare(found, &wanted);
        Ok(match self.operator {
            ">=" => order != Ordering::Less,
            "<=" => order != Ordering::Greater,
            ">" => order == Ordering::Greater,
            "<" => order == Ordering::Less,
            "!=" => order != Ordering::Equal,
            _ => order == Ordering::Equal,
        })
    }

    fn number(&self) -> Answer<f64> {
        if let Ok(number) = self.value.parse() {
            return Ok(number);
        }
        let size: Result<Size, _> = self.value.parse();
        let bytes = size.and_then(Size::exact);
        bytes.map(|bytes| bytes as f64).map_err(|error| Problem::new("invalid-argument", error.to_string()))
    }
}

/// Sorts by a field; `-field` the other way round.
pub(super) fn sort(items: &mut [Value], by: &str) -> Answer<()> {
    let (name, backwards) = by.strip_prefix('-').map_or((by, false), |name| (name, true));
    for item in items.iter() {
        field(item, name)?;
    }
    items.sort_by(|one, other| {
        let order = compare(found(one, name).unwrap_or(&Value::Null), found(other, name).unwrap_or(&Value::Null));
        if backwards { order.reverse() } else { order }
    });
    Ok(())
}

/// A field by its name, or a field of a part by both with a dot between; null when the part is.
pub(super) fn found<'a>(item: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(item, |at, part| if at.is_null() { Some(at) } else { at.get(part) })
}

/// As [`found`], and says which fields there are when there is no such.
pub(super) fn field<'a>(item: &'a Value, name: &str) -> Answer<&'a Value> {
    found(item, name).ok_or_else(|| {
        let known: Vec<&str> = item.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        Problem::new("invalid-argument", format!("there is no field {}", quoted(name)))
            .hint(format!("fields: {}", known.join(", ")))
    })
}

/// A value without quotes.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => text(one).cmp(&text(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_compare_numbers_sizes_and_words() {
        let item = json!({"name": "tank", "used_pct": 81.5, "free_bytes": 1073741824, "reason": null, "clean": true});
        let fits = |text: &str| Filter::parse(text).and_then(|filter| filter.fits(&item)).unwrap();
        for yes in
            ["used_pct>80", "used_pct>=81.5", "name=tank", "name==tank", "name~an", "free_bytes=1G", "clean=true"]
        {
            assert!(fits(yes), "{yes}");
        }
        for no in ["used_pct<80", "name!=tank", "free_bytes>2G", "reason=x", "used_pct > 90"] {
            assert!(!fits(no), "{no}");
        }
        assert!(fits("reason!=x") && fits("reason=null"));
    }

    #[test]
    fn a_field_of_a_part_is_named_with_a_dot() {
        let item = json!({"counters": {"refused_writes": 3}, "growth": null});
        assert_eq!(field(&item, "counters.refused_writes"), Ok(&json!(3)));
        assert_eq!(field(&item, "growth.policy.at_pct"), Ok(&Value::Null));
        assert!(field(&item, "counters.refused").is_err());
    }

    #[test]
    fn unknown_fields_and_no_conditions_are_refused() {
        assert!(Filter::parse("used_pct").is_err() && Filter::parse(">80").is_err());
        let problem = Filter::parse("usd_pct>80").unwrap().fits(&json!({"used_pct": 1})).unwrap_err();
        assert!(problem.hint.is_some_and(|hint| hint.contains("used_pct")));
    }

    #[test]
    fn sorting_goes_both_ways() {
        let mut items = vec![json!({"n": 2}), json!({"n": 10}), json!({"n": 1})];
        sort(&mut items, "n").unwrap();
        assert_eq!(items, [json!({"n": 1}), json!({"n": 2}), json!({"n": 10})]);
        sort(&mut items, "-n").unwrap();
        assert_eq!(items[0], json!({"n": 10}));
        assert!(sort(&mut items, "m").is_err());
    }
}
