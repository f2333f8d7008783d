//! Printing what the API answered, in the format that was asked for.

use std::io::Write;

use serde_json::{Value, json};

use super::args::{Format, Global};
use super::filter::{Filter, field, found, sort, text};
use super::table::{self, Columns};
use crate::problem::{Answer, Problem};
use crate::units::printable;

/// How to print.
pub(super) struct Render<'a> {
    global: &'a Global,
}

impl<'a> Render<'a> {
    pub(super) fn new(global: &'a Global) -> Self {
        Self { global }
    }

    fn format(&self) -> Format {
        if self.global.json { Format::Json } else { self.global.output.unwrap_or(Format::Table) }
    }

    /// What `--filter` says.
    pub(super) fn filters(&self) -> Answer<Vec<Filter>> {
        self.global.filter.iter().map(|text| Filter::parse(text)).collect()
    }

    /// Prints one of many objects that come one by one: a line each. False when the reader has seen enough.
    pub(super) fn event(&self, value: &Value) -> Answer<bool> {
        let chosen: Vec<&str> = self.global.columns.iter().map(String::as_str).collect();
        let value = if chosen.is_empty() { value.clone() } else { pick(value, &chosen) };
        match self.format() {
            Format::Name => print_on(&(name_of(&value) + "\n")),
            Format::Csv => {
                let all = [table::EVENT.normal, table::EVENT.below].concat();
                print_on(&csv(std::slice::from_ref(&value), if chosen.is_empty() { &all } else { &chosen }, false))
            }
            _ => print_on(&line(&value)),
        }
    }

    /// Prints a list.
    pub(super) fn list(&self, columns: &Columns, mut answer: Value) -> Answer<()> {
        let filters = self.filters()?;
        let mut items = Vec::new();
        for item in answer.get_mut("items").and_then(Value::as_array_mut).into_iter().flat_map(std::mem::take) {
            let fits: Answer<Vec<bool>> = filters.iter().map(|filter| filter.fits(&item)).collect();
            if fits?.into_iter().all(|fits| fits) {
                items.push(item);
            }
        }
        if let Some(by) = &self.global.sort {
            sort(&mut items, by)?;
        }
        let chosen: Vec<&str> = self.global.columns.iter().map(String::as_str).collect();
        for item in &items {
            for name in &chosen {
                field(item, name)?;
            }
        }
        let fields: Vec<&str> = match (chosen.is_empty(), self.format()) {
            (false, _) => chosen.clone(),
            (true, Format::Wide) => [columns.normal, columns.below, columns.wide].concat(),
            (true, _) => [columns.normal, columns.below].concat(),
        };
        let headings = !self.global.no_headings;
        match self.format() {
            Format::Json => {
                if !chosen.is_empty() {
                    items = items.iter().map(|item| pick(item, &chosen)).collect();
                }
                answer["items"] = Value::Array(items);
                print(&line(&answer))
            }
            Format::Jsonl => {
                let pick = |item: &Value| if chosen.is_empty() { item.clone() } else { pick(item, &chosen) };
                print(&items.iter().map(|item| line(&pick(item))).collect::<String>())
            }
            Format::Name => print(&items.iter().map(|item| name_of(item) + "\n").collect::<String>()),
            Format::Csv => print(&csv(&items, &fields, headings)),
            // What somebody asks for by its name is shown as it is.
            Format::Table if chosen.is_empty() => {
                print(&table::list_with_sentences(&items, columns, headings, self.global.bytes))
            }
            Format::Table | Format::Wide => print(&table::list(&items, &fields, headings, self.global.bytes)),
        }
    }

    /// Prints what is below a list, for people who did not ask for a part of it.
    pub(super) fn below(&self, text: impl FnOnce(bool) -> String) -> Answer<()> {
        let all = self.global.columns.is_empty() && self.global.filter.is_empty() && !self.global.no_headings;
        if all && self.is_for_people() { print(&text(self.global.bytes)) } else { Ok(()) }
    }

    /// Prints one object.
    pub(super) fn object(&self, value: &Value) -> Answer<()> {
        let chosen: Vec<&str> = self.global.columns.iter().map(String::as_str).collect();
        for name in &chosen {
            field(value, name)?;
        }
        let value = if chosen.is_empty() { value.clone() } else { pick(value, &chosen) };
        match self.format() {
            Format::Json | Format::Jsonl => print(&line(&value)),
            Format::Name => print(&(name_of(&value) + "\n")),
            Format::Csv => {
                let fields: Vec<&str> =
                    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                print(&csv(std::slice::from_ref(&value), &fields, !self.global.no_headings))
            }
            Format::Table | Format::Wide => print(&table::object(&value, self.global.bytes)),
        }
    }

    /// Prints an object that was made or changed: a line for people, the object for programs.
    pub(super) fn changed(&self, what: &str, value: &Value) -> Answer<()> {
        match self.format() {
            Format::Table => print(&format!("{}\n", printable(what))),
            _ if value.is_null() => self.object(&json!({ "schema": "done/v1", "done": what })),
            _ => self.object(value),
        }
    }

    /// Prints a plan.
    pub(super) fn plan(&self, plan: &Value) -> Answer<()> {
        if self.format() != Format::Table {
            return self.object(plan);
        }
        let mut lines: String = steps(plan).iter().map(|step| format!("would {}\n", printable(step))).collect();
        if lines.is_empty() {
            lines = "would change nothing\n".to_owned();
        }
        for (field, word) in [("frees_bytes", "frees"), ("needs_bytes", "needs")] {
            if let Some(bytes) = plan.get(field).filter(|bytes| !bytes.is_null()) {
                lines += &format!("{word} {}\n", table::human(field, bytes, self.global.bytes));
            }
        }
        print(&lines)
    }

    /// Whether people read it.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self.format(), Format::Table | Format::Wide)
    }
}

/// The steps of a plan or repair.
pub(super) fn steps(plan: &Value) -> Vec<String> {
    plan.get("steps").and_then(Value::as_array).into_iter().flatten().map(text).collect()
}

fn pick(item: &Value, fields: &[&str]) -> Value {
    let mut picked = json!({});
    for field in fields {
        picked[*field] = found(item, field).cloned().unwrap_or(Value::Null);
    }
    picked
}

fn name_of(item: &Value) -> String {
    ["name", "seq", "id", "path"].iter().find_map(|field| item.get(field)).map(text).unwrap_or_default()
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// RFC 4180.
fn csv(items: &[Value], fields: &[&str], headings: bool) -> String {
    let quote = |value: String| {
        if value.contains([',', '"', '\n', '\r']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value }
    };
    let mut rows = Vec::new();
    if headings {
        rows.push(fields.join(","));
    }
    for item in items {
        let row = fields.iter().map(|field| quote(found(item, field).map(text).unwrap_or_default()));
        rows.push(row.collect::<Vec<_>>().join(","));
    }
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// To stdout. A reader that has seen enough is no error.
pub(super) fn print(text: &str) -> Answer<()> {
    print_on(text).map(drop)
}

/// To stdout; false when the reader has seen enough.
pub(super) fn print_on(text: &str) -> Answer<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Problem::new("internal", format!("the output cannot be written: {error}"))),
        Ok(()) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it() {
        let items = [json!({"a": "x,y", "b": 1, "c": null}), json!({"a": "say \"hi\"", "b": 2, "c": [1, 2]})];
        assert_eq!(csv(&items, &["a", "b", "c"], true), "a,b,c\n\"x,y\",1,\n\"say \"\"hi\"\"\",2,1 2\n");
    }
}
