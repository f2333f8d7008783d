//! Sizes as people write and read them: `10G` is 10 GiB, `10GB` is 10^10 bytes, bare numbers are bytes.
//!
//! Parsing never rounds: a fraction that is no whole number of bytes is refused. Printing is IEC with one decimal, or
//! exact digits.

use std::fmt;
use std::str::FromStr;

pub use plimsoll_engine::iec;

/// A size as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes.
    Exact(u64),
    /// `+10G`: bytes more than now.
    More(u64),
    /// `80%`: hundredths of a percent of a whole that the command names.
    Share(u32),
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a size: {reason}; write 10G (GiB), 10GB (10^9 bytes) or a number of bytes", quoted(.text))]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

impl Size {
    /// Bytes, relative to `now` for `+10G` and `80%`. `None` when it is beyond 64 bits.
    pub fn against(self, now: u64) -> Option<u64> {
        match self {
            Size::Exact(bytes) => Some(bytes),
            Size::More(bytes) => now.checked_add(bytes),
            Size::Share(hundredths) => u64::try_from(u128::from(now) * u128::from(hundredths) / 10_000).ok(),
        }
    }

    /// Bytes of a size that may not be relative.
    ///
    /// # Errors
    /// When it is relative.
    pub fn exact(self) -> Result<u64, SizeError> {
        match self {
            Size::Exact(bytes) => Ok(bytes),
            Size::More(_) => Err(SizeError { text: self.to_string(), reason: "there is nothing to add to" }),
            Size::Share(_) => Err(SizeError { text: self.to_string(), reason: "there is nothing to take a share of" }),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Exact(bytes) => write!(to, "{bytes}"),
            Size::More(bytes) => write!(to, "+{bytes}"),
            Size::Share(hundredths) => write!(to, "{}%", f64::from(*hundredths) / 100.0),
        }
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let refuse = |reason| SizeError { text: text.to_owned(), reason };
        let trimmed = text.trim();
        if trimmed.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.')) {
            return Err(refuse("it is negative"));
        }
        if let Some(share) = trimmed.strip_suffix('%') {
            let hundredths = scaled(share, 100).map_err(refuse)?;
            return u32::try_from(hundredths).map(Size::Share).map_err(|_| refuse("the share is too large"));
        }
        match trimmed.strip_prefix('+') {
            Some(more) => bytes(more).map(Size::More).map_err(refuse),
            None => bytes(trimmed).map(Size::Exact).map_err(refuse),
        }
    }
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    scaled(number, unit_bytes(unit.trim())?)
}

fn unit_bytes(unit: &str) -> Result<u64, &'static str> {
    let unit = unit.to_ascii_uppercase();
    if unit.is_empty() || unit == "B" {
        return Ok(1);
    }
    let mut letters = unit.chars();
    let prefix = letters.next().and_then(|first| "KMGTPE".find(first));
    let power = prefix.ok_or("the unit is unknown")? as u32 + 1;
    match letters.as_str() {
        "" | "I" | "IB" => Ok(1024_u64.pow(power)),
        "B" => Ok(1000_u64.pow(power)),
        _ => Err("the unit is unknown"),
    }
}

/// `number`, which may have a fraction, times `factor`.
fn scaled(number: &str, factor: u64) -> Result<u64, &'static str> {
    const TOO_LARGE: &str = "it is larger than 16 EiB";
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err("there is no number in front");
    }
    if fraction.len() > 18 {
        return Err("it has more than 18 decimals");
    }
    let whole: u64 = whole.parse().map_err(|_| TOO_LARGE)?;
    let mut total = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(fraction.len() as u32);
        let part = fraction.parse::<u128>().map_err(|_| "there is no number in front")? * u128::from(factor);
        if part % scale != 0 && factor < 1024 {
            return Err("it is not a whole number of bytes");
        }
        total += part / scale;
    }
    u64::try_from(total).map_err(|_| TOO_LARGE)
}

/// `1 event`, `2 events`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as they are given on the command line: in the largest unit that they are a whole number of.
pub fn written(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let unit = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10).min(6) };
    format!("{}{}", bytes >> (10 * unit), UNITS[unit as usize])
}

/// Characters of somebody's words that are said again.
const QUOTED_MAX: usize = 60;

/// What somebody wrote, in quotes, for an error: its beginning when it is long.
pub fn quoted(text: &str) -> String {
    match beginning(text, QUOTED_MAX) {
        Some(begins) => format!("{begins:?}... ({} bytes)", text.len()),
        None => format!("{text:?}"),
    }
}

/// What somebody has named may hold what terminals obey: that is shown, and not done.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// At most `chars` characters of a text, three dots instead of the last when it has more.
pub fn cut(text: &str, chars: usize) -> String {
    match beginning(text, chars) {
        Some(_) => format!("{}...", beginning(text, chars.saturating_sub(3)).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The first characters of a text that has more.
fn beginning(text: &str, chars: usize) -> Option<&str> {
    text.char_indices().nth(chars).map(|(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for (bytes, text) in [
            (0, "0"),
            (1 << 20, "1M"),
            (100 << 20, "100M"),
            (1536, "1536"),
            (16 << 50, "16P"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!((written(bytes).as_str(), text.parse()), (text, Ok(Size::Exact(bytes))));
        }
    }

    #[test]
    fn what_is_long_is_quoted_by_its_beginning() {
        assert_eq!((quoted("ten"), cut("ten", 3), cut("eleven", 5)), ("\"ten\"".into(), "ten".into(), "el...".into()));
        let long = "\u{e4}".repeat(10_000_000);
        assert_eq!(quoted(&long), format!("\"{}\"... (20000000 bytes)", "\u{e4}".repeat(QUOTED_MAX)));
        assert!(long.parse::<Size>().is_err_and(|error| error.to_string().len() < 300));
    }

    fn exact(text: &str) -> u64 {
        match text.parse() {
            Ok(Size::Exact(bytes)) => bytes,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_letter_alone_is_binary_and_with_a_b_decimal() {
        assert_eq!(exact("10G"), 10 << 30);
        assert_eq!(exact("10GiB"), 10 << 30);
        assert_eq!(exact("10GB"), 10_000_000_000);
        assert_eq!(exact("16P"), 16 << 50);
        assert_eq!(exact("512"), 512);
        assert_eq!(exact("1.5k"), 1536);
        assert_eq!(exact("4 MiB"), 4 << 20);
    }

    #[test]
    fn relative_sizes_need_something_to_be_relative_to() {
        assert_eq!("+10G".parse(), Ok(Size::More(10 << 30)));
        assert_eq!("80%".parse(), Ok(Size::Share(8000)));
        assert_eq!(Size::More(5).against(10), Some(15));
        assert_eq!(Size::Share(8000).against(1000), Some(800));
        assert_eq!(Size::More(u64::MAX).against(1), None);
        assert!(Size::More(5).exact().is_err());
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in
            ["", "G", "-1", "1.G", "10X", "10GX", "1..5G", "99999999E", "+", "%", "1.5", "ten", "10\u{e4}", "\u{20ac}"]
        {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken for a size");
        }
    }

    #[test]
    fn sizes_are_printed_so_that_they_can_be_read_back() {
        assert_eq!(iec(0), "0 B");
        assert_eq!(iec(1023), "1023 B");
        assert_eq!(iec(1536), "1.5 KiB");
        assert_eq!(iec(10 << 30), "10 GiB");
        assert_eq!(iec((1 << 40) - 1), "1 TiB");
        assert_eq!(exact(&iec(200 << 20)), 200 << 20);
    }
}
