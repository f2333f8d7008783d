//! When the pool will be full, from the rate at which space is measured to be taken.
//!
//! Method. For each horizon H there are two windows: a long one of H/4 and a short one of H/20. The rate in a window is
//! what was allocated in it less what was freed, divided by its length; time to full is what is left divided by the rate.
//!
//! - *What counts* is what was both allocated and taken from what is available, from tick to tick. A promise that is made, a
//!   device that leaves or joins, take or give at one moment and are no rate; a write into a reservation takes nothing.
//! - *What is told* is the shortest of the horizons that have fired: who knows that the pool is full within 5 minutes need not be
//!   told that it is within the hour.
//! - *It fires* when the long window says that the pool is full within H and the short one says that it still goes on (full
//!   within 2 H at its rate). A steady writer is seen exactly. One that starts at once is announced when a fifth of its way to
//!   full is gone, at the latest: its rate in the window grows as its time runs out, and they meet at W / (W + H) = 1/5.
//! - *A burst* counts as what it is in the mean of the window. One alone fires only if it took a quarter of what is left,
//!   because only that, repeated every H/4, fills the pool within H.
//! - *It re-arms* when both windows said "not within 1.5 H" for all of a long window; so there is at most one event each way in
//!   H/4, whatever the writer does. Space that was added re-arms at once when the rate allows it: no time must pass to know
//!   that it is there.
//! - *A fall.* After a large delete the rate in the window is negative though somebody goes on writing. If use fell in the
//!   window by more than 1/32 of what is left, the rate is measured from the lowest point.
//! - *The beginning.* After a start the history is shorter than the window. The rate is measured over what there is, but
//!   divided by half a window at least, so that the first burst is not taken for a rate.
//!
//! Bounded memory: per horizon a ring of samples at a sixty-fourth of its long window, whatever the tick.
//!
//! Not here: seasons and trends. A nightly job is a burst each night.

use std::collections::VecDeque;
use std::time::Duration;

/// Most horizons of a pool.
pub const HORIZONS_MAX: usize = 4;
/// Shortest horizon: its short window still has several ticks.
pub const HORIZON_MIN: Duration = Duration::from_secs(1);
/// A year: what is farther away is no forecast.
pub const HORIZON_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Samples in a long window.
const SAMPLES: u32 = 64;
/// Long and short window, as parts of the horizon.
const LONG: u32 = 4;
const SHORT: u32 = 20;
/// A fall of more than this part of what is left begins the measurement anew.
const FALL: u64 = 32;
/// Growth of more than this part of all space re-arms at once.
const GROWTH: u64 = 100;

/// Horizons that were found to make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizons(Vec<Duration>);

/// Why horizons make no sense, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HorizonError {
    /// More than [`HORIZONS_MAX`].
    #[error("{0} horizons are too many; give at most {HORIZONS_MAX}")]
    TooMany(usize),
    /// Too short or too long.
    #[error("a horizon of {} cannot be forecast; give 1 second to 366 days", words(*.0))]
    OutOfRange(Duration),
    /// Not descending.
    #[error("the horizons {} and {} are out of order; give them from long to short, each once", words(*.0), words(*.1))]
    OutOfOrder(Duration, Duration),
}

/// A time in the largest unit of which it is a whole number.
fn words(time: Duration) -> String {
    let units = [(24 * 3600, "days"), (3600, "h"), (60, "min"), (1, "s")];
    let whole = |(unit, _): &(u64, _)| time.as_secs() >= *unit && time.as_secs().is_multiple_of(*unit);
    match units.into_iter().find(whole).filter(|_| time.subsec_nanos() == 0) {
        Some((unit, name)) => format!("{} {name}", time.as_secs() / unit),
        None => format!("{} s", time.as_secs_f64()),
    }
}

impl Default for Horizons {
    /// 24 hours, 1 hour and 5 minutes.
    fn default() -> Self {
        Self([24 * 3600, 3600, 300].map(Duration::from_secs).to_vec())
    }
}

impl Horizons {
    /// From long to short; none turns the forecast off.
    ///
    /// # Errors
    /// By what is wrong.
    pub fn new(horizons: Vec<Duration>) -> Result<Self, HorizonError> {
        if horizons.len() > HORIZONS_MAX {
            return Err(HorizonError::TooMany(horizons.len()));
        }
        if let Some(horizon) = horizons.iter().find(|horizon| !(HORIZON_MIN..=HORIZON_MAX).contains(horizon)) {
            return Err(HorizonError::OutOfRange(*horizon));
        }
        match horizons.windows(2).find(|pair| pair[0] <= pair[1]) {
            Some(pair) => Err(HorizonError::OutOfOrder(pair[0], pair[1])),
            None => Ok(Self(horizons)),
        }
    }

    /// The horizons, from long to short.
    pub fn get(&self) -> &[Duration] {
        &self.0
    }

    /// How often the forecast wants to be told the figures: four times in the shortest short window, at most every 50 ms
    /// and at least every second.
    pub fn tick(&self) -> Duration {
        let shortest = self.0.last().map_or(Duration::MAX, |shortest| *shortest / SHORT / 4);
        shortest.clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

/// What the rate of a window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// None: use does not grow.
    pub(crate) time_to_full: Option<Duration>,
    pub(crate) rate_bytes_per_s: u64,
}

const NO_GROWTH: Estimate = Estimate { time_to_full: None, rate_bytes_per_s: 0 };

/// A horizon that was reached or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) horizon: Duration,
    /// When it was left: the shortest that has fired still.
    pub(crate) still: Option<Duration>,
    pub(crate) estimate: Estimate,
    pub(crate) available: u64,
    pub(crate) rising: bool,
}

/// The space of a pool at a tick, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Whatever it is that has it: data, metadata, writes under way.
    pub(crate) allocated: u64,
    pub(crate) total: u64,
    pub(crate) available: u64,
}

impl Figures {
    /// What of the change since `before` is due to writes and frees.
    fn written_since(&self, before: &Figures) -> i64 {
        let change = |now: u64, before: u64| i64::try_from(i128::from(now) - i128::from(before)).unwrap_or(0);
        let taken = change(self.total - self.available, before.total - before.available);
        let allocated = change(self.allocated, before.allocated);
        match taken.signum() == allocated.signum() {
            true => taken.signum() * taken.abs().min(allocated.abs()),
            false => 0,
        }
    }
}

/// The forecast of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Forecast {
    watches: Vec<Watch>,
    /// The shortest horizon that has fired, as far as it was told.
    told: Option<Duration>,
    /// One that has fired at the last tick, and is told, as it was then, if no shorter one does at the next.
    next: Option<(Duration, Estimate)>,
    /// At the last tick, and what was written until then.
    before: Option<(Figures, u64)>,
}

/// One horizon.
#[derive(Clone, Debug)]
struct Watch {
    horizon: Duration,
    fired: bool,
    /// Since when both windows say that it is far away.
    calm_since: Option<Duration>,
    /// When, and the bytes in use: the oldest first.
    samples: VecDeque<(Duration, u64)>,
    last: Option<Estimate>,
}

impl Forecast {
    pub(crate) fn new(horizons: &Horizons) -> Self {
        let watches = horizons.0.iter().map(|horizon| Watch::new(*horizon)).collect();
        Self { watches, told: None, next: None, before: None }
    }

    /// Takes the figures at `now` over, whose order is that of the calls; answers what has changed.
    pub(crate) fn tick(&mut self, now: Duration, figures: Figures) -> Option<Outlook> {
        let available = figures.available;
        let (before, written) = self.before.unwrap_or((figures, figures.total - available));
        let written = written.saturating_add_signed(figures.written_since(&before));
        self.before = Some((figures, written));
        // What is available now and would not be but for what was freed.
        let freed = before.allocated.saturating_sub(figures.allocated);
        let grown = available.saturating_sub(before.available + freed) > before.total / GROWTH;
        self.watches.iter_mut().for_each(|watch| watch.tick(now, written, available, grown));
        self.news(available)
    }

    /// What differs from what was told.
    fn news(&mut self, available: u64) -> Option<Outlook> {
        let told = self.told;
        let fired = self.watches.iter().filter(|watch| watch.fired).map(|watch| watch.horizon).min();
        if fired == told {
            return None;
        }
        let rising = fired.is_some_and(|fired| told.is_none_or(|told| fired < told));
        if rising && available == 0 {
            // It is full: others say so.
            return None;
        }
        let shortest = self.watches.iter().map(|watch| watch.horizon).min();
        let horizon = if rising { fired } else { told }?;
        let watch = self.watches.iter().find(|watch| watch.horizon == horizon);
        let estimate = watch.and_then(|watch| watch.last).unwrap_or(NO_GROWTH);
        let next = self.next.take().filter(|(next, _)| *next == horizon);
        if rising && fired != shortest && next.is_none() {
            self.next = Some((horizon, estimate));
            return None;
        }
        self.told = fired;
        let estimate = next.map_or(estimate, |(_, then)| if rising { then } else { estimate });
        Some(Outlook { horizon, still: fired.filter(|_| !rising), estimate, available, rising })
    }

    /// The soonest that any horizon's long window says. None before the first tick or without horizons.
    pub(crate) fn estimate(&self) -> Option<Estimate> {
        let all = self.watches.iter().filter_map(|watch| watch.last);
        all.min_by_key(|estimate| estimate.time_to_full.unwrap_or(Duration::MAX))
    }

    /// Takes over what was told in an earlier life; it holds for every longer horizon. What differs is told when the windows know
    /// it.
    pub(crate) fn restore(&mut self, told: Option<Duration>) {
        self.told = told;
        for watch in &mut self.watches {
            watch.fired = told.is_some_and(|told| told <= watch.horizon);
            watch.calm_since = None;
        }
    }

    /// Changes the horizons; those that both have go on.
    pub(crate) fn set(&mut self, horizons: &Horizons) {
        let mut old = std::mem::take(&mut self.watches);
        for &horizon in &horizons.0 {
            let kept = old.iter().position(|watch| watch.horizon == horizon).map(|index| old.swap_remove(index));
            self.watches.push(kept.unwrap_or_else(|| Watch::new(horizon)));
        }
    }
}

impl Watch {
    fn new(horizon: Duration) -> Self {
        let samples = VecDeque::with_capacity(SAMPLES as usize + 2);
        Self { horizon, fired: false, calm_since: None, samples, last: None }
    }

    fn tick(&mut self, now: Duration, used: u64, available: u64, grown: bool) {
        let long = self.estimate(now, used, available, self.horizon / LONG);
        let short = self.estimate(now, used, available, self.horizon / SHORT);
        self.last = Some(long);
        self.keep(now, used);
        let far = self.horizon + self.horizon / 2;
        // A full pool is not far from full because nobody can write.
        let is_far = |estimate: Estimate| available > 0 && estimate.time_to_full.is_none_or(|time| time > far);
        let is_near = |estimate: Estimate, bound| estimate.time_to_full.is_some_and(|time| time <= bound);
        if !self.fired {
            self.fired = is_near(long, self.horizon) && is_near(short, 2 * self.horizon);
            self.calm_since = None;
            return;
        }
        if !(is_far(long) && is_far(short)) {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if grown || now.saturating_sub(since) >= self.horizon / LONG {
            self.fired = false;
        }
    }

    fn estimate(&self, now: Duration, used: u64, available: u64, window: Duration) -> Estimate {
        let begin = now.saturating_sub(window);
        // The newest sample that is as old as the window, else the oldest.
        let after = self.samples.partition_point(|(at, _)| *at <= begin);
        let first = after.saturating_sub(1);
        let Some(&(mut from_at, mut from)) = self.samples.get(first) else { return NO_GROWTH };
        let lowest = self.samples.range(first..).min_by_key(|(_, used)| *used);
        if let Some(&(at, lowest)) = lowest
            && from - lowest.min(from) > available / FALL
        {
            (from_at, from) = (at, lowest);
        }
        let over = now.saturating_sub(from_at).max(window / 2).as_nanos().max(1);
        let taken = used.saturating_sub(from);
        if taken == 0 {
            return NO_GROWTH;
        }
        let second = Duration::from_secs(1).as_nanos();
        let rate = u64::try_from(u128::from(taken) * second / over).unwrap_or(u64::MAX);
        // 2^64 bytes in a year of nanoseconds stay below 2^120.
        let nanos = u128::from(available) * over / u128::from(taken);
        let time = u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos);
        Estimate { time_to_full: Some(time), rate_bytes_per_s: rate }
    }

    /// Keeps a sample if the last one is old enough, and lets those go that no window needs.
    fn keep(&mut self, now: Duration, used: u64) {
        let window = self.horizon / LONG;
        let slot = window / SAMPLES;
        // Half a millisecond less, or a tick that comes a little early would be as good as none.
        let due = |(at, _): &(Duration, u64)| now.saturating_sub(*at) + Duration::from_micros(500) >= slot;
        if self.samples.back().is_none_or(due) {
            self.samples.push_back((now, used));
        }
        // One sample older than the window stays, to measure all of the window from.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= window)
            || self.samples.len() > SAMPLES as usize + 2
        {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
