//! The forecast in virtual time: writers of all kinds against what truly happens.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

/// A pool that is filled in virtual time.
struct Rig {
    forecast: Forecast,
    now: Duration,
    tick: Duration,
    used: u64,
    total: u64,
    /// Promised by reservations.
    promised: u64,
    told: Vec<(Duration, Outlook)>,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Rig {
    fn new(horizons: &[u64], total: u64) -> Self {
        let horizons = Horizons::new(horizons.iter().copied().map(seconds).collect()).unwrap();
        let tick = horizons.tick();
        let forecast = Forecast::new(&horizons);
        Self { forecast, now: seconds(1000), tick, used: 0, total, promised: 0, told: Vec::new() }
    }

    /// Lets time pass with a writer of so many bytes per second.
    fn write(&mut self, duration: Duration, rate: i64) {
        let end = self.now + duration;
        while self.now < end {
            self.now += self.tick;
            let bytes = i128::from(rate) * self.tick.as_nanos() as i128 / 1_000_000_000;
            self.used = (i128::from(self.used) + bytes).clamp(0, i128::from(self.total)) as u64;
            let available = self.total.saturating_sub(self.used + self.promised);
            let figures = Figures { allocated: self.used, total: self.total, available };
            let changes = self.forecast.tick(self.now, figures);
            self.told.extend(changes.into_iter().map(|change| (self.now, change)));
        }
    }

    fn rising(&self) -> Vec<(Duration, Duration)> {
        self.told.iter().filter(|(_, told)| told.rising).map(|(at, told)| (*at, told.horizon)).collect()
    }
}

#[test]
fn with_a_steady_writer_each_horizon_fires_within_a_tenth_of_the_true_time() {
    // An hour, six minutes and half a minute: the default horizons scaled down. Full after two hours.
    for idle in [0, 600, 7200] {
        let mut rig = Rig::new(&[3600, 360, 30], 100 * GIB);
        rig.write(seconds(idle), 0);
        let (rate, begin) = (100 * GIB / 7200, rig.now);
        rig.write(seconds(7210), rate as i64);
        let rising = rig.rising();
        assert_eq!(rising.iter().map(|told| told.1.as_secs()).collect::<Vec<_>>(), [3600, 360, 30], "idle {idle}");
        for (at, horizon) in rising {
            let left = (begin + seconds(7200) - at).as_secs_f64();
            let error = left / horizon.as_secs_f64() - 1.0;
            assert!(error.abs() < 0.1, "{horizon:?} fired with {left} s left, after {idle} s of idling");
        }
        for (_, told) in &rig.told {
            let error = told.estimate.rate_bytes_per_s as f64 / rate as f64 - 1.0;
            assert!(told.rising && error.abs() < 0.1, "{told:?}");
        }
    }
}

#[test]
fn a_writer_that_starts_at_once_is_announced_in_time() {
    for full_after in [4, 10, 60, 300, 3000] {
        let mut rig = Rig::new(&[3600], 100 * GIB);
        rig.tick = Duration::from_millis(100);
        rig.write(seconds(1000), 0);
        let begin = rig.now;
        rig.write(seconds(full_after), (100 * GIB / full_after) as i64);
        let (at, _) = rig.rising()[0];
        let part = (at - begin - rig.tick).as_secs_f64() / full_after as f64;
        assert!(part < 0.21, "full after {full_after} s, told when {part} of that was gone");
    }
}

#[test]
fn a_writer_that_starts_with_the_pool_is_announced_in_time() {
    for full_after in [10, 100, 1000] {
        let mut rig = Rig::new(&[3600], 100 * GIB);
        rig.write(seconds(full_after), (100 * GIB / full_after) as i64);
        let part = (rig.rising()[0].0 - seconds(1000)).as_secs_f64() / full_after as f64;
        assert!(part < 0.22, "full after {full_after} s, told when {part} of that was gone");
    }
}

#[test]
fn short_bursts_give_one_event_per_horizon_and_no_storm() {
    // One second in thirty; in the mean full after four hours.
    let mut rig = Rig::new(&[3600, 300], 480 * GIB);
    for _ in 0..470 {
        rig.write(seconds(1), GIB as i64);
        rig.write(seconds(29), 0);
    }
    let rising = rig.rising();
    assert_eq!(rising.len(), 2, "{rising:?}");
    assert_eq!(rig.told.len(), 2, "nothing fell: {:?}", rig.told);
    for (at, horizon) in rising {
        let left = (seconds(1000 + 480 * 30) - at).as_secs_f64();
        let error = left / horizon.as_secs_f64() - 1.0;
        assert!(error.abs() < 0.35, "{horizon:?} fired with {left} s left");
    }
}

#[test]
fn a_burst_that_takes_little_is_not_taken_for_a_rate() {
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    rig.write(seconds(600), 0);
    for _ in 0..24 {
        // At this rate the pool would be full in 100 s; the hour's mean says a day.
        rig.write(seconds(4), GIB as i64);
        rig.write(seconds(3596), 0);
    }
    // Only when what is left is no more than four such bursts: with the 21st.
    let first = rig.rising()[0].0 - seconds(1600);
    assert!(first > seconds(20 * 3600), "{first:?}");
    assert!(rig.told.len() <= 16, "each of the last four, there and back, for each horizon: {:?}", rig.told);
}

#[test]
fn idle_hours_re_arm_once_and_the_next_writer_is_told_again() {
    let mut rig = Rig::new(&[3600], 100 * GIB);
    let rate = (100 * GIB / 7200) as i64;
    rig.write(seconds(4000), rate);
    assert_eq!(rig.told.len(), 1);
    rig.write(seconds(6 * 3600), 0);
    assert_eq!(rig.told.iter().map(|(_, told)| told.rising).collect::<Vec<_>>(), [true, false]);
    rig.write(seconds(3000), rate);
    assert_eq!(rig.told.len(), 3);
    assert!(rig.told[2].1.rising);
}

#[test]
fn a_pool_that_is_emptied_re_arms_and_is_told_anew_while_the_writer_goes_on() {
    let mut rig = Rig::new(&[3600], 100 * GIB);
    let rate = (100 * GIB / 7200) as i64;
    rig.write(seconds(5000), rate);
    // A large vdisk is deleted; the writer never stops.
    rig.used -= 60 * GIB;
    let (begin, left) = (rig.now, rig.total - rig.used);
    rig.write(seconds(1200), rate);
    assert_eq!(rig.told.iter().map(|(_, told)| told.rising).collect::<Vec<_>>(), [true, false]);
    rig.write(seconds(5000), rate);
    let (at, told) = rig.told[2];
    assert!(told.rising);
    let left = begin.as_secs_f64() + left as f64 / rate as f64 - at.as_secs_f64();
    assert!((left / 3600.0 - 1.0).abs() < 0.1, "{left} s were left");
}

#[test]
fn a_delete_does_not_hide_the_writer_that_goes_on() {
    let mut rig = Rig::new(&[3600], 100 * GIB);
    rig.used = 80 * GIB;
    rig.write(seconds(2000), 0);
    rig.used -= 30 * GIB;
    let begin = rig.now;
    // Half is left and goes in 50 minutes: less than the window after the delete is needed to see it.
    rig.write(seconds(3000), (50 * GIB / 3000) as i64);
    assert!(rig.rising()[0].0 - begin < seconds(600), "{:?}", rig.told);
}

#[test]
fn space_that_is_added_re_arms_at_once() {
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    let rate = (100 * GIB / 3000) as i64;
    rig.write(seconds(2800), rate);
    assert_eq!(rig.forecast.told, Some(seconds(300)));
    rig.total += 100 * GIB;
    let begin = rig.now;
    rig.write(seconds(60), rate);
    let fell: Vec<_> = rig.told.iter().filter(|(_, told)| !told.rising).collect();
    assert_eq!(fell.len(), 1, "full in 50 minutes: within the hour, but no longer within 5 minutes");
    assert!(fell[0].0 - begin <= rig.tick && fell[0].1.horizon == seconds(300), "{fell:?}");
    assert_eq!(fell[0].1.still, Some(seconds(3600)));
}

#[test]
fn a_pool_that_fills_fast_is_told_for_the_most_urgent_horizon_alone() {
    for full_after in [5, 10, 30, 60, 120, 240] {
        let mut rig = Rig::new(&[86_400, 3600, 300], 100 * GIB);
        rig.write(seconds(2 * 86_400), 0);
        rig.write(seconds(full_after), (100 * GIB / full_after) as i64);
        rig.write(seconds(3600), 0);
        let rising = rig.rising();
        assert_eq!(rising.iter().map(|told| told.1).collect::<Vec<_>>(), [seconds(300)], "full after {full_after} s");
        assert!(rig.told.len() <= 3, "what is over is told once for a horizon: {:?}", rig.told);
    }
}

#[test]
fn what_is_promised_and_devices_that_come_and_go_are_no_rate() {
    let mut rig = Rig::new(&[86_400, 3600, 300], 100 * GIB);
    rig.used = 10 * GIB;
    rig.write(seconds(86_400), 0);
    let nothing = |rig: &Rig| rig.told.is_empty() && rig.forecast.estimate() == Some(NO_GROWTH);
    // A reservation, a device that leaves, one that joins, and a reservation that is filled by writes.
    rig.promised += 60 * GIB;
    rig.write(seconds(60), 0);
    assert!(nothing(&rig), "{:?}", rig.told);
    rig.total -= 20 * GIB;
    rig.write(seconds(60), 0);
    assert!(nothing(&rig), "{:?}", rig.told);
    rig.total += 40 * GIB;
    rig.write(seconds(60), 0);
    assert!(nothing(&rig), "{:?}", rig.told);
    for _ in 0..60 {
        rig.promised -= GIB;
        rig.write(rig.tick, i64::try_from(GIB).unwrap());
    }
    assert!(nothing(&rig), "{:?}", rig.told);
    // What is written beyond it counts, to the byte.
    rig.write(seconds(3600), 1 << 20);
    assert_eq!(rig.forecast.estimate().map(|estimate| estimate.rate_bytes_per_s), Some(1 << 20));
}

#[test]
fn a_full_pool_stays_told_though_nobody_can_write() {
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    rig.write(seconds(2000), (100 * GIB / 1500) as i64);
    rig.write(seconds(36_000), 0);
    assert_eq!(rig.told.len(), 2, "{:?}", rig.told);
    rig.used -= 50 * GIB;
    rig.write(seconds(2000), 0);
    assert_eq!(rig.told.len(), 4, "{:?}", rig.told);
}

#[test]
fn a_restart_repeats_nothing_and_forgets_nothing() {
    let rate = (100 * GIB / 7200) as i64;
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    rig.write(seconds(4000), rate);
    for _ in 0..20 {
        let told = rig.forecast.told;
        assert_eq!(told, Some(seconds(3600)));
        let mut forecast = Forecast::new(&Horizons::new(vec![seconds(3600), seconds(300)]).unwrap());
        forecast.restore(told);
        rig.forecast = forecast;
        rig.write(seconds(100), rate);
    }
    assert_eq!(rig.told.len(), 1);
    rig.write(seconds(2000), 0);
    assert_eq!(rig.told.len(), 2);
    assert_eq!(rig.forecast.estimate(), Some(NO_GROWTH));
}

#[test]
fn other_horizons_keep_what_both_have() {
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    let rate = (100 * GIB / 7200) as i64;
    rig.write(seconds(7000), rate);
    rig.forecast.set(&Horizons::new(vec![seconds(3600), seconds(10)]).unwrap());
    assert_eq!(rig.forecast.told, Some(seconds(300)));
    rig.write(seconds(5), rate);
    assert_eq!(rig.told.len(), 3);
    let gone = rig.told[2].1;
    assert_eq!((gone.rising, gone.horizon, gone.still), (false, seconds(300), Some(seconds(3600))));
    rig.write(seconds(250), rate);
    assert_eq!(rig.told.last().map(|(_, told)| (told.rising, told.horizon)), Some((true, seconds(10))));
}

#[test]
fn what_is_told_a_tick_later_is_what_was_the_case_when_it_fired() {
    let mut rig = Rig::new(&[3600, 300], 100 * GIB);
    let phases = [
        (2075, 0),
        (106, -74_575),
        (737, 4_760_149),
        (204, 51_489_915),
        (503, 0),
        (392, 41_290_615),
        (110, 0),
        (507, 10_424_765),
    ];
    phases.into_iter().for_each(|(duration, rate)| rig.write(seconds(duration), rate));
    let rising: Vec<_> = rig.told.iter().filter(|(_, told)| told.rising).collect();
    assert!(!rising.is_empty());
    for (at, told) in rising {
        assert!(told.estimate.time_to_full.is_some_and(|time| time <= told.horizon), "{told:?} at {at:?}");
    }
}

#[test]
fn a_pool_that_is_full_already_is_not_said_to_become_so() {
    let mut rig = Rig::new(&[3600, 60], GIB);
    // All of it between two ticks.
    rig.write(seconds(2), 1 << 30);
    rig.write(seconds(10), 0);
    assert!(rig.told.iter().all(|(_, told)| !told.rising || told.available > 0), "{:?}", rig.told);
}

#[test]
fn memory_is_bounded_whatever_the_tick() {
    let mut rig = Rig::new(&[86_400, 1], GIB);
    rig.write(seconds(7200), 1000);
    for watch in &rig.forecast.watches {
        assert!(watch.samples.len() <= SAMPLES as usize + 2 && watch.samples.capacity() < 256);
    }
}

#[test]
fn horizons_that_make_no_sense_are_refused_with_advice() {
    let refused = |all: &[u64]| Horizons::new(all.iter().copied().map(seconds).collect()).unwrap_err().to_string();
    assert_eq!(
        refused(&[300, 3600]),
        "the horizons 5 min and 1 h are out of order; give them from long to short, each once"
    );
    assert!(refused(&[300, 300]).contains("out of order"));
    assert!(refused(&[0]).contains("1 second to 366 days"));
    assert!(refused(&[400 * 86_400]).contains("1 second to 366 days"));
    assert!(refused(&[5, 4, 3, 2, 1]).contains("5 horizons"));
    assert_eq!(Horizons::default().tick(), seconds(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Writers that start, stop, burst and delete at random: never more than one event each way in a long window, always
    /// in turn, and none that the figures do not bear out.
    #[test]
    fn no_writer_makes_a_storm(
        phases in vec((1u64..900, prop_oneof![Just(0i64), 0i64..(1 << 26), (-(1i64 << 28))..(1 << 28)]), 1..60)
    ) {
        let mut rig = Rig::new(&[3600, 300], 100 * GIB);
        for (duration, rate) in phases {
            rig.write(seconds(duration), rate);
        }
        let spent = rig.now - seconds(1000);
        let mut within = None;
        for (_, told) in &rig.told {
            let follows = match told.rising {
                true => within.is_none_or(|within| told.horizon < within),
                false => within == Some(told.horizon) && told.still.is_none_or(|still| still > told.horizon),
            };
            prop_assert!(follows, "{:?} while within {:?}", told, within);
            within = if told.rising { Some(told.horizon) } else { told.still };
        }
        for horizon in [3600, 300] {
            let told: Vec<_> = rig.told.iter().filter(|(_, told)| told.horizon == seconds(horizon)).collect();
            let bound = 1 + 2 * (spent.as_secs() * u64::from(LONG) / horizon + 1);
            prop_assert!(told.len() as u64 <= bound, "{} events in {:?}", told.len(), spent);
            for (_, told) in told {
                let bound = if told.rising { horizon } else { u64::MAX };
                prop_assert!(told.estimate.time_to_full.unwrap_or(Duration::ZERO) <= seconds(bound));
            }
        }
    }
}
