//! Levels of one figure: told once when reached, told once when left, and silent in between.
//!
//! Method: a level fires when the figure is at or above it, and re-arms when the figure falls below level - hysteresis, a share of the
//! total, or of the level itself where that is a size: of a small one in something large it would never be left otherwise.
//! Between two events the figure is inside an interval that is known in advance, so the hot path is two comparisons
//! ([`Levels::is_quiet`]); only a figure outside it, or a new total, calls for [`Levels::update`].
//!
//! A figure that goes up and down again and again is one matter: after [`QUICK_MAX`] times within a minute of each other no level is left
//! before another minute has gone by ([`Levels::is_resting`]).
//!
//! Invariant: after an update a level is fired if the figure is at or above it, and not fired if the figure is below
//! level - hysteresis and it may be left; between the two it is as it was. This holds after [`Levels::restore`] and new thresholds too: the
//! next update tells what differs, levels that no longer exist included.

use std::time::Duration;

use crate::event::Level;

/// Most levels of one figure: as many as a vdisk's entry has room for.
pub const LEVELS_MAX: usize = 4;
/// Of the total, or of a level in bytes.
const HYSTERESIS_PCT_DEFAULT: u8 = 2;

/// Nobody looks more often than once a minute at what is left and reached in turn.
const PAUSE: Duration = Duration::from_secs(60);
/// Times that levels are left within [`PAUSE`] of each other before they rest: somebody who makes space step by step is told of each.
const QUICK_MAX: u32 = 10;

/// Levels and hysteresis that were found to make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    levels: Vec<Level>,
    hysteresis_pct: u8,
}

/// Why thresholds make no sense, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// More than [`LEVELS_MAX`].
    #[error("{0} thresholds are too many; give at most {LEVELS_MAX}")]
    TooMany(usize),
    /// 0 % or 0 bytes.
    #[error("a threshold of 0 would always be reached; leave it out, or say off to have none")]
    Zero,
    /// Above 100 %.
    #[error("a threshold of {0} % can never be reached; give 1 to 100 %")]
    AboveTotal(u8),
    /// Per cent and bytes in one list, whose order would depend on the total.
    #[error("thresholds in per cent and in bytes cannot be mixed; give all in per cent, or all in bytes")]
    Mixed,
    /// Not ascending.
    #[error("the thresholds {0} and {1} are out of order; give them from low to high, each once")]
    OutOfOrder(Level, Level),
    /// So wide that the lowest level could not re-arm.
    #[error("a hysteresis of {hysteresis} % is not below the lowest threshold, {level} %; give 0 to {} %", level - 1)]
    TooWide {
        /// The hysteresis.
        hysteresis: u8,
        /// The lowest level.
        level: u8,
    },
    /// 100 % or more.
    #[error("a hysteresis of {0} % would never let a threshold re-arm; give less than 100 %")]
    Hysteresis(u8),
}

impl Default for Thresholds {
    /// 70, 85 and 95 %, hysteresis 2 %.
    fn default() -> Self {
        let levels = [70, 85, 95].map(Level::Percent).to_vec();
        Self { levels, hysteresis_pct: HYSTERESIS_PCT_DEFAULT }
    }
}

impl Thresholds {
    /// `levels` ascending, all per cent or all bytes; none turns them off. Hysteresis in per cent of the total, for bytes of the level.
    ///
    /// # Errors
    /// By what is wrong.
    pub fn new(levels: Vec<Level>, hysteresis_pct: u8) -> Result<Self, ThresholdError> {
        if levels.len() > LEVELS_MAX {
            return Err(ThresholdError::TooMany(levels.len()));
        }
        for level in &levels {
            match level {
                Level::Percent(0) | Level::Bytes(0) => return Err(ThresholdError::Zero),
                Level::Percent(percent @ 101..) => return Err(ThresholdError::AboveTotal(*percent)),
                _ => {}
            }
        }
        for pair in levels.windows(2) {
            match pair {
                [Level::Percent(_), Level::Bytes(_)] | [Level::Bytes(_), Level::Percent(_)] => {
                    return Err(ThresholdError::Mixed);
                }
                [low, high] if low >= high => return Err(ThresholdError::OutOfOrder(*low, *high)),
                _ => {}
            }
        }
        match levels.first() {
            Some(&Level::Percent(level)) if hysteresis_pct >= level => {
                Err(ThresholdError::TooWide { hysteresis: hysteresis_pct, level })
            }
            _ if hysteresis_pct >= 100 => Err(ThresholdError::Hysteresis(hysteresis_pct)),
            _ => Ok(Self { levels, hysteresis_pct }),
        }
    }

    /// With the default hysteresis, or a smaller one where the lowest level asks for it.
    ///
    /// # Errors
    /// By what is wrong.
    pub fn with_levels(levels: Vec<Level>) -> Result<Self, ThresholdError> {
        let widest = match levels.first() {
            Some(&Level::Percent(level)) => level.saturating_sub(1),
            _ => HYSTERESIS_PCT_DEFAULT,
        };
        Self::new(levels, HYSTERESIS_PCT_DEFAULT.min(widest))
    }

    /// None: nothing is told.
    pub fn off() -> Self {
        Self { levels: Vec::new(), hysteresis_pct: HYSTERESIS_PCT_DEFAULT }
    }

    /// The levels, ascending.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// In per cent of the total, or of a level in bytes.
    pub fn hysteresis_pct(&self) -> u8 {
        self.hysteresis_pct
    }
}

/// A level that was reached or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) level: Level,
    pub(crate) rising: bool,
}

/// One figure, watched.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    thresholds: Thresholds,
    /// Bit `n`: level `n` has fired.
    fired: u8,
    /// Fired levels that the thresholds no longer have.
    orphans: Vec<Level>,
    /// Nothing is to be told while `low <= used < high`.
    low: u64,
    high: u64,
    /// When a level was left last, and how often before within [`PAUSE`] of each other.
    left_at: Option<Duration>,
    quick: u32,
    /// A level would have been left, and may not be yet.
    resting: bool,
}

impl Levels {
    /// Nothing has fired; the first figure is not quiet, so that it gets its bounds.
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        let (fired, orphans, left_at) = (0, Vec::new(), None);
        Self { thresholds, fired, orphans, low: u64::MAX, high: 0, left_at, quick: 0, resting: false }
    }

    /// Whether [`Levels::update`] would tell nothing, as long as the total is the last one.
    #[cfg(test)]
    fn is_quiet(&self, used: u64) -> bool {
        used >= self.low && used < self.high
    }

    /// The figures, from and up to but not with, between which there is nothing to tell.
    pub(crate) fn quiet(&self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// Takes a figure and its total over, at a time; answers what was crossed: falling ones from high to low, then rising ones from
    /// low to high. A total of 0 means that there is nothing to watch.
    pub(crate) fn update(&mut self, now: Duration, used: u64, total: u64) -> Vec<Crossing> {
        let mut crossings: Vec<Crossing> =
            self.orphans.drain(..).rev().map(|level| Crossing { level, rising: false }).collect();
        let mut rising = Vec::new();
        (self.low, self.high, self.resting) = (0, u64::MAX, false);
        let pauses = self.left_at.map_or(u64::MAX, |before| now.saturating_sub(before).as_secs() / PAUSE.as_secs());
        let quick = self.quick.saturating_sub(u32::try_from(pauses).unwrap_or(u32::MAX));
        for (index, &level) in self.thresholds.levels.iter().enumerate().rev() {
            let bit = 1 << index;
            let (reached, left) = bounds(level, self.thresholds.hysteresis_pct, total);
            if self.fired & bit == 0 && used >= reached {
                self.fired |= bit;
                rising.push(Crossing { level, rising: true });
            } else if self.fired & bit != 0 && used < left {
                if quick >= QUICK_MAX {
                    self.resting = true;
                    continue;
                }
                (self.left_at, self.quick) = (Some(now), quick + 1);
                self.fired &= !bit;
                crossings.push(Crossing { level, rising: false });
            }
            if self.fired & bit == 0 {
                self.high = self.high.min(reached);
            } else {
                self.low = self.low.max(left);
            }
        }
        crossings.extend(rising.into_iter().rev());
        crossings
    }

    /// Whether an update is to be made now and then though the figure stays where it is.
    pub(crate) fn is_resting(&self) -> bool {
        self.resting
    }

    /// The levels that have fired, ascending.
    pub(crate) fn fired(&self) -> Vec<Level> {
        let all = self.thresholds.levels.iter().enumerate();
        let fired = all.filter(|(index, _)| self.fired & (1 << index) != 0).map(|(_, level)| *level);
        let mut fired: Vec<Level> = self.orphans.iter().copied().chain(fired).collect();
        fired.sort();
        fired
    }

    /// Takes over what had fired in an earlier life; the next update tells the difference.
    pub(crate) fn restore(&mut self, fired: &[Level]) {
        let levels = &self.thresholds.levels;
        let has = |level: &Level| fired.contains(level);
        self.fired = levels.iter().enumerate().filter(|(_, level)| has(level)).map(|(index, _)| 1 << index).sum();
        self.orphans = fired.iter().copied().filter(|level| !levels.contains(level)).collect();
        self.orphans.sort();
        self.orphans.dedup();
        (self.low, self.high) = (u64::MAX, 0);
    }

    /// Changes the thresholds; what both have stays as it is, the next update tells the difference.
    pub(crate) fn set(&mut self, thresholds: Thresholds) {
        let fired = self.fired();
        self.thresholds = thresholds;
        self.restore(&fired);
    }

    pub(crate) fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }
}

/// Where a level fires, and below what it re-arms. An empty figure re-arms everything.
fn bounds(level: Level, hysteresis_pct: u8, total: u64) -> (u64, u64) {
    if total == 0 {
        return (u64::MAX, u64::MAX);
    }
    // Rounded up: "70 %" is not said of 69.99. At most 100 % of a u64, so it fits again.
    let share = |of: u64, percent: u8| (u128::from(of) * u128::from(percent)).div_ceil(100) as u64;
    let (reached, hysteresis) = match level {
        Level::Percent(percent) => (share(total, percent), share(total, hysteresis_pct)),
        Level::Bytes(bytes) => (bytes, share(bytes, hysteresis_pct)),
    };
    (reached, reached.saturating_sub(hysteresis).max(1))
}

#[cfg(test)]
mod tests;
