//! `plimsoll event`

use std::time::{Duration, Instant};

use serde_json::Value;

use super::args::{Event, Events};
use super::client::{Request, segment};
use super::filter::{Filter, text};
use super::pool::with;
use super::render::print_on;
use super::run::Context;
use super::table;
use crate::model::{AcknowledgeEvents, Severity};
use crate::problem::{Answer, Problem};
use crate::units::{counted, printable};

/// As many as the API gives at once.
const PAGE_MAX: u64 = 10_000;
/// How long a watch waits for a daemon that is gone.
pub(super) struct Patience {
    /// It was stopped: when it is restarted it is back within this time.
    pub(super) stopped: Duration,
    /// It broke off.
    pub(super) lost: Duration,
}

const PATIENCE: Patience = Patience { stopped: Duration::from_secs(10), lost: Duration::from_secs(60) };
const RETURN_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(cx: &Context<'_>, command: Event) -> Answer<()> {
    match command {
        Event::List { events, unacknowledged, limit } => list(cx, &events, unacknowledged, limit),
        Event::Show { event } => cx.render.object(&cx.client.get(&format!("/api/v1/events/{}", segment(&event)))?),
        Event::Watch { events, count } => watch(cx, &events, count, &PATIENCE),
        Event::Ack { event, up_to, by, how } => {
            let by = by.or_else(who);
            let request = AcknowledgeEvents { seq: event, up_to, by };
            let at = with("/api/v1/events/acknowledge", how.dry_run);
            let answer = cx.client.send(Request::new("POST", &at).body(&request)?)?;
            if how.dry_run {
                return cx.render.plan(&answer);
            }
            let count = answer.get("acknowledged").and_then(Value::as_u64).unwrap_or(0);
            cx.render.changed(&format!("{} acknowledged", counted(count, "event")), &answer)
        }
    }
}

/// The person behind sudo, else the user.
fn who() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|name| !name.is_empty())
}

fn question(events: &Events) -> String {
    let severity = events.severity.map(|severity| Severity::from(severity).name().to_owned());
    let parts = [("severity", severity), ("kind", events.kind.clone()), ("object", events.object.clone())];
    let said = parts.iter().filter_map(|(name, value)| Some(format!("&{name}={}", segment(value.as_ref()?))));
    said.collect()
}

fn list(cx: &Context<'_>, events: &Events, unacknowledged: bool, limit: u64) -> Answer<()> {
    let mut question = question(events);
    if unacknowledged {
        question += "&unacknowledged=true";
    }
    let Some(after) = events.after else {
        // The API gives no more at once, and the newest have no next page.
        let target = format!("/api/v1/events?newest=true&limit={}{question}", limit.min(PAGE_MAX));
        return cx.render.list(&table::EVENT, cx.client.get(&target)?);
    };
    let (mut after, mut left, mut items) = (after, limit, Vec::new());
    let mut answer = loop {
        let target = format!("/api/v1/events?after={after}&limit={}{question}", left.min(PAGE_MAX));
        let mut page = cx.client.get(&target)?;
        let found = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        left = left.saturating_sub(found.len() as u64);
        items.extend(found);
        match page.get("next").and_then(Value::as_u64) {
            Some(next) if left > 0 => after = next,
            _ => break page,
        }
    };
    answer["items"] = Value::Array(items);
    cx.render.list(&table::EVENT, answer)
}

/// Prints events until there were enough, or, if any number is, the daemon was stopped and is not back. Comes back with the number of the
/// last one when the connection ends.
pub(super) fn watch(cx: &Context<'_>, events: &Events, count: Option<u64>, patience: &Patience) -> Answer<()> {
    let filters = cx.render.filters()?;
    let begin = match events.after {
        Some(after) => after,
        None => newest(cx)?,
    };
    let (mut last, mut left) = (begin, count);
    let mut lost: Option<Instant> = None;
    let (mut heard, mut stopped) = (false, false);
    loop {
        if left == Some(0) {
            return Ok(());
        }
        let target = format!("/api/v1/events/stream?after={last}{}", question(events));
        let result = cx.client.stream(&target, |line| {
            (lost, heard, stopped) = (None, true, false);
            take(cx, line, &filters, &mut last, &mut left)
        });
        match result {
            Ok(()) if left == Some(0) => continue,
            Ok(()) => {
                stopped = true;
                eprintln!("the daemon was stopped; waiting {} s for it to come back", patience.stopped.as_secs());
            }
            // Nobody was ever there, or it is not for want of a daemon.
            Err(problem) if !heard || problem.code != "unreachable" => return Err(problem),
            Err(problem) if stopped && lost.is_some_and(|lost| lost.elapsed() > patience.stopped) => {
                eprintln!("it is not back; plimsoll event watch --after {last} goes on from here");
                // Fewer than were waited for are no good end.
                return if left.is_some() { Err(problem) } else { Ok(()) };
            }
            Err(problem) if lost.is_some_and(|lost| lost.elapsed() > patience.lost) => return Err(problem),
            Err(_) => {}
        }
        lost.get_or_insert_with(Instant::now);
        std::thread::sleep(RETURN_PAUSE);
    }
}

/// The number of the newest event: a watch that loses the daemon before it saw one goes on from there.
fn newest(cx: &Context<'_>) -> Answer<u64> {
    let page = cx.client.get("/api/v1/events?newest=true&limit=1")?;
    Ok(page.pointer("/items/0/seq").and_then(Value::as_u64).unwrap_or(0))
}

/// Takes a line of the stream; false ends it.
fn take(cx: &Context<'_>, line: &str, filters: &[Filter], last: &mut u64, left: &mut Option<u64>) -> Answer<bool> {
    if line == "event: gap" {
        eprintln!("warning: older events were let go; the list begins later");
    }
    let Some(data) = line.strip_prefix("data: ") else { return Ok(true) };
    let broken = |error: serde_json::Error| Problem::new("internal", format!("the daemon sent no event: {error}"));
    let cloud: Value = serde_json::from_str(data).map_err(broken)?;
    let Some(event) = cloud.get("data") else { return Ok(true) };
    *last = event.get("seq").and_then(Value::as_u64).unwrap_or(*last);
    let fits: Answer<Vec<bool>> = filters.iter().map(|filter| filter.fits(event)).collect();
    if !fits?.into_iter().all(|fits| fits) {
        return Ok(true);
    }
    let read = if cx.render.is_for_people() { print_on(&for_people(event))? } else { cx.render.event(event)? };
    if !read {
        *left = Some(0);
        return Ok(false);
    }
    if let Some(left) = left {
        *left -= 1;
    }
    Ok(*left != Some(0))
}

/// An event in one line.
fn for_people(event: &Value) -> String {
    let part = |name: &str| printable(&event.get(name).filter(|value| !value.is_null()).map(text).unwrap_or_default());
    let [seq, time, severity, kind, object] = ["seq", "time", "severity", "kind", "object"].map(part);
    let why = [part("cause"), part("advice")].join("; ");
    format!("{seq} {time} {severity} {kind} {object}: {}\n", why.trim_matches([';', ' ']))
}
