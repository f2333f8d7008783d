//! Policies as people write them, and what the engine makes of them: levels, times, limits.
//!
//! One syntax for the command line and the API: `70%,85%,95%`, `800G,900G`, `off`, `default`; `hold(20s)`, `fail`; `24h,1h,5m`; `1.5x`,
//! `500G`, `none`. What is written is what is shown.

use std::ops::RangeInclusive;
use std::time::Duration;

use plimsoll_engine::{Level, Levels, OnFull, OvercommitLimit};

use crate::model::SetPool;
use crate::problem::{Answer, Problem};
use crate::units::{Size, iec, quoted};

/// Fastest pace of a job: faster than any device, so who says more means something else.
pub const RATE_BYTES_MAX: u64 = 1 << 40;
/// How long a write may be held: what the format has room for, 32 bits of milliseconds of which two words mean something else.
const HOLD_MS: RangeInclusive<u128> = 2..=49 * 86_400_000;
/// Widest hysteresis: half of the whole below a level is no change of use any more that anybody waits for.
pub const HYSTERESIS_PCT_MAX: u8 = 50;
/// Least that held writes may take together: one write of an extent.
const HOLD_BYTES_MIN: u64 = 64 << 10;
/// Thousandths of the largest overcommit ratio.
const RATIO_MAX: u64 = 1_000_000_000;

/// Refuses figures of a pool's policy that could never be in force; `memory` is the memory for I/O in bytes.
///
/// # Errors
/// `invalid-argument` with what can be.
pub fn check_pool(request: &SetPool, memory: u64) -> Answer<()> {
    let wrong = |detail, hint: &str| Err(Problem::new("invalid-argument", detail).hint(hint.to_owned()));
    if let Some(percent) = request.hysteresis_pct.filter(|percent| *percent > HYSTERESIS_PCT_MAX) {
        let detail = format!("a hysteresis of {percent} % makes no sense; 0 to {HYSTERESIS_PCT_MAX} % do");
        return wrong(detail, "say --hysteresis 2");
    }
    let most = memory / 2;
    match request.hold_bytes_max.filter(|bytes| *bytes > 0 && !(HOLD_BYTES_MIN..=most).contains(bytes)) {
        Some(bytes) => {
            let (asked, least, most, all) = (iec(bytes), iec(HOLD_BYTES_MIN), iec(most), iec(memory));
            let detail = format!(
                "held writes cannot take {asked} together; {least} to {most} can be, half of the {all} of memory for I/O"
            );
            wrong(detail, "say --hold-bytes 0 for a quarter of it")
        }
        None => Ok(()),
    }
}

fn refuse<T>(what: &str, text: &str, reason: &str, hint: &str) -> Answer<T> {
    Err(Problem::new("invalid-argument", format!("{} is no {what}: {reason}", quoted(text))).hint(hint.to_owned()))
}

/// `70%,85%,95%`, `800G,900G`, `off` or `default`.
///
/// # Errors
/// `invalid-argument`.
pub fn levels(text: &str) -> Answer<Levels> {
    match text.trim() {
        "default" => return Ok(Levels::Default),
        "off" => return Ok(Levels::Off),
        _ => {}
    }
    let mut levels = Vec::new();
    for part in text.split(',').map(str::trim) {
        let hint = "give 70%,85%,95%, or sizes such as 800G,900G, or off, or default";
        levels.push(match part.parse::<Size>() {
            Ok(Size::Share(share)) if share % 100 == 0 && share <= 25_500 => Level::Percent((share / 100) as u8),
            Ok(Size::Share(_)) => return refuse("threshold", part, "per cents are whole, 1 to 100", hint),
            Ok(Size::Exact(bytes)) if !part.bytes().all(|byte| byte.is_ascii_digit()) || bytes > 100 => {
                Level::Bytes(bytes)
            }
            // A bare small number is surely meant as a share.
            Ok(Size::Exact(_)) => return refuse("threshold", part, "it is a share without %, or very few bytes", hint),
            Ok(Size::More(_)) => return refuse("threshold", part, "there is nothing to add to", hint),
            Err(error) => return refuse("threshold", part, &error.to_string(), hint),
        });
    }
    Ok(Levels::At(levels))
}

/// As [`levels`] reads it.
pub fn levels_text(levels: &Levels) -> String {
    match levels {
        Levels::Default => "default".to_owned(),
        Levels::Off => "off".to_owned(),
        Levels::At(levels) => {
            let each = levels.iter().map(|level| match level {
                Level::Percent(percent) => format!("{percent}%"),
                Level::Bytes(bytes) => bytes.to_string(),
            });
            each.collect::<Vec<_>>().join(",")
        }
    }
}

/// `hold(20s)`, `hold` for the usual time, or `fail`.
///
/// # Errors
/// `invalid-argument`.
pub fn on_full(text: &str) -> Answer<OnFull> {
    let hint = "give hold(20s), hold(5m), hold(500ms), hold for the usual time, or fail";
    let text = text.trim();
    match text {
        "fail" => return Ok(OnFull::Fail),
        "hold" => return Ok(OnFull::default()),
        _ => {}
    }
    let inside = text.strip_prefix("hold(").and_then(|rest| rest.strip_suffix(')'));
    match inside {
        Some(time) => match duration(time, hint)? {
            time if HOLD_MS.contains(&time.as_millis()) => Ok(OnFull::Hold(time)),
            _ => refuse("policy for a full pool", text, "a write can be held for 2 ms to 49 days", hint),
        },
        None => refuse("policy for a full pool", text, "it is neither hold(TIME) nor fail", hint),
    }
}

/// As [`on_full`] reads it.
pub fn on_full_text(policy: OnFull) -> String {
    match policy {
        OnFull::Fail => "fail".to_owned(),
        OnFull::Hold(time) => format!("hold({})", duration_text(time)),
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `500ms`, `20s`, `5m`, `1h`, `7d`.
fn duration(text: &str, hint: &str) -> Answer<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
    match (number.parse::<u64>().ok(), unit) {
        (Some(number), Some(ms)) => match number.checked_mul(ms) {
            Some(ms) => Ok(Duration::from_millis(ms)),
            None => refuse("time", text, "it is too long", hint),
        },
        _ => refuse("time", text, "write a whole number and one of ms, s, m, h, d", hint),
    }
}

/// In the largest unit that it is a whole number of.
pub fn duration_text(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (unit, of) = UNITS.iter().find(|(_, of)| ms > 0 && ms.is_multiple_of(*of)).copied().unwrap_or(("ms", 1));
    format!("{}{unit}", ms / of)
}

/// `24h,1h,5m`, `off` (none) or `default`.
///
/// # Errors
/// `invalid-argument`.
pub fn horizons(text: &str) -> Answer<Option<Vec<Duration>>> {
    match text.trim() {
        "default" => Ok(None),
        "off" => Ok(Some(Vec::new())),
        list => list
            .split(',')
            .map(|part| duration(part, "give 24h,1h,5m, or off, or default"))
            .collect::<Answer<_>>()
            .map(Some),
    }
}

/// As [`horizons`] reads it.
pub fn horizons_text(horizons: Option<&[Duration]>) -> String {
    match horizons {
        None => "default".to_owned(),
        Some([]) => "off".to_owned(),
        Some(list) => list.iter().map(|time| duration_text(*time)).collect::<Vec<_>>().join(","),
    }
}

/// `none`, `1.5x`, or bytes beyond physical space.
///
/// # Errors
/// `invalid-argument`.
pub fn overcommit_limit(text: &str) -> Answer<Option<OvercommitLimit>> {
    let hint = "give a ratio such as 1.5x, a size such as 500G, or none";
    let text = text.trim();
    if text == "none" {
        return Ok(None);
    }
    if let Some(ratio) = text.strip_suffix('x') {
        let thousandths = ratio
            .parse::<f64>()
            .ok()
            .filter(|ratio| *ratio > 0.0 && *ratio <= RATIO_MAX as f64 / 1000.0)
            .map(|ratio| (ratio * 1000.0).round() as u64);
        return match thousandths.filter(|thousandths| *thousandths > 0) {
            Some(thousandths) => Ok(Some(OvercommitLimit::Ratio(thousandths))),
            None => refuse("overcommit limit", text, "the ratio can be 0.001 to 1000000", hint),
        };
    }
    match text.parse::<Size>() {
        Ok(Size::Exact(bytes)) if bytes < 1 << 63 => Ok(Some(OvercommitLimit::Bytes(bytes))),
        Ok(Size::Exact(_)) => refuse("overcommit limit", text, "it must be less than 8 EiB; none is no limit", hint),
        Ok(_) => refuse("overcommit limit", text, "it must be a ratio or a number of bytes", hint),
        Err(error) => refuse("overcommit limit", text, &error.to_string(), hint),
    }
}

/// That a pool has promised more than its overcommit limit allows, if it has; both in bytes, and the limit as it is written.
pub fn over_promised(pool: &str, promised: u64, allowed: u64, limit: &str) -> Option<String> {
    (promised > allowed).then(|| {
        format!(
            "pool {pool} has promised {}, more than its overcommit limit of {limit} allows, {}: no vdisk can be made or enlarged",
            iec(promised),
            iec(allowed)
        )
    })
}

/// As [`overcommit_limit`] reads it.
pub fn overcommit_limit_text(limit: Option<OvercommitLimit>) -> String {
    match limit {
        None => "none".to_owned(),
        Some(OvercommitLimit::Ratio(thousandths)) => format!("{}x", thousandths as f64 / 1000.0),
        Some(OvercommitLimit::Bytes(bytes)) => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_written() {
        for text in ["default", "off", "70%,85%,95%", "800000000,900000000"] {
            assert_eq!(levels_text(&levels(text).unwrap()), text);
        }
        for text in ["hold(20s)", "hold(500ms)", "hold(5m)", "hold(1h)", "fail"] {
            assert_eq!(on_full_text(on_full(text).unwrap()), text);
        }
        for text in ["default", "off", "1d,1h,5m", "90s"] {
            assert_eq!(horizons_text(horizons(text).unwrap().as_deref()), text);
        }
        for text in ["none", "1.5x", "2x", "536870912000"] {
            assert_eq!(overcommit_limit_text(overcommit_limit(text).unwrap()), text);
        }
        assert_eq!(on_full_text(on_full(" hold ").unwrap()), "hold(20s)");
        assert_eq!(levels("800G").unwrap(), Levels::At(vec![Level::Bytes(800 << 30)]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for text in ["", "70", "70%,x", "12.5%", "+5G", "70%;80%"] {
            let problem = levels(text).unwrap_err();
            assert!(
                problem.code == "invalid-argument" && problem.hint.is_some_and(|hint| hint.contains("70%")),
                "{text}"
            );
        }
        for text in [
            "",
            "hold()",
            "hold(20)",
            "hold(x)",
            "hold(99999999999999999d)",
            "hold(50d)",
            "hold(1ms)",
            "hold(0s)",
            "fails",
        ] {
            assert!(on_full(text).is_err(), "{text}");
        }
        for text in ["", "0x", "-1x", "x", "80%", "+1G", "2000000x", "NaNx", "9E"] {
            assert!(overcommit_limit(text).is_err(), "{text}");
        }
        assert!(horizons("1h,,5m").is_err());
    }

    #[test]
    fn figures_of_a_pool_are_refused_with_what_can_be() {
        let memory = 1 << 30;
        let hold = |bytes| SetPool { hold_bytes_max: Some(bytes), ..SetPool::default() };
        let hysteresis = |percent| SetPool { hysteresis_pct: Some(percent), ..SetPool::default() };
        for fits in [hold(0), hold(64 << 10), hold(512 << 20), hysteresis(0), hysteresis(50), SetPool::default()] {
            check_pool(&fits, memory).unwrap();
        }
        for (wrong, range) in [
            (hold(100 << 40), "64 KiB to 512 MiB can be"),
            (hold(1), "64 KiB to 512 MiB can be"),
            (hysteresis(99), "0 to 50 % do"),
        ] {
            let problem = check_pool(&wrong, memory).unwrap_err();
            assert!(problem.code == "invalid-argument" && problem.detail.contains(range), "{}", problem.detail);
        }
    }
}
