//! Levels against a naive model, and what must not happen: storms, and silence after a restart.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn rising(percent: u8) -> Crossing {
    Crossing { level: Level::Percent(percent), rising: true }
}

fn falling(percent: u8) -> Crossing {
    Crossing { level: Level::Percent(percent), rising: false }
}

impl Levels {
    /// As [`Levels::update`], of a figure that never rests.
    fn told(&mut self, used: u64, total: u64) -> Vec<Crossing> {
        self.quick = 0;
        self.update(Duration::ZERO, used, total)
    }
}

#[test]
fn what_goes_up_and_down_all_the_time_rests_between_two_minutes_and_ends_as_it_is() {
    let mut levels = Levels::new(Thresholds::default());
    let mut told = 0;
    let mut now = Duration::ZERO;
    for step in 0..600_000 {
        now = Duration::from_millis(step);
        told += levels.update(now, if step % 2 == 0 { 990 } else { 10 }, 1000).len();
    }
    // Ten times at first, then once a minute: three levels up and down.
    assert!((100..=(10 + 11) * 6).contains(&told), "{told} events in ten minutes");
    assert!(levels.is_resting() && levels.fired().len() == 3, "{levels:?}");
    assert_eq!(levels.update(now + Duration::from_secs(70), 10, 1000).len(), 3, "what it is in the end is told");
    assert!(!levels.is_resting());
    assert_eq!(
        levels.update(now + Duration::from_secs(71), 990, 1000).len(),
        3,
        "a level that is reached is told at once"
    );
}

#[test]
fn each_level_is_told_once_on_the_way_up_and_once_on_the_way_down() {
    let mut levels = Levels::new(Thresholds::default());
    assert_eq!(levels.told(699, 1000), []);
    assert!(levels.is_quiet(0) && levels.is_quiet(699) && !levels.is_quiet(700));
    assert_eq!(levels.told(700, 1000), [rising(70)]);
    assert!(levels.is_quiet(680) && !levels.is_quiet(679) && !levels.is_quiet(850));
    assert_eq!(levels.told(980, 1000), [rising(85), rising(95)]);
    assert_eq!(levels.told(930, 1000), []);
    assert_eq!(levels.told(929, 1000), [falling(95)]);
    assert_eq!(levels.told(10, 1000), [falling(85), falling(70)]);
    assert_eq!(levels.told(1000, 1000), [rising(70), rising(85), rising(95)]);
}

#[test]
fn a_figure_that_trembles_around_a_level_is_told_once() {
    let mut levels = Levels::new(Thresholds::default());
    let told: usize = (0..10_000).map(|step| levels.told(850 + step % 20 - 10, 1000).len()).sum();
    assert_eq!(told, 2, "70 and 85 %, each once");
}

#[test]
fn growth_re_arms_and_a_full_pool_tells_again() {
    let mut levels = Levels::new(Thresholds::default());
    assert_eq!(levels.told(960, 1000).len(), 3);
    assert_eq!(levels.told(960, 2000), [falling(95), falling(85), falling(70)]);
    assert_eq!(levels.told(1900, 2000).len(), 3);
}

#[test]
fn a_restart_tells_only_what_differs() {
    let mut before = Levels::new(Thresholds::default());
    before.told(860, 1000);
    let mut after = Levels::new(Thresholds::default());
    after.restore(&before.fired());
    assert!(!after.is_quiet(860), "it has no bounds yet");
    assert_eq!(after.clone().told(860, 1000), []);
    assert_eq!(after.clone().told(960, 1000), [rising(95)]);
    assert_eq!(after.clone().told(700, 1000), [falling(85)]);
    assert_eq!(after.told(0, 0), [falling(85), falling(70)], "nothing is watched any more");
}

#[test]
fn a_level_that_is_taken_away_while_it_is_fired_falls() {
    let mut levels = Levels::new(Thresholds::default());
    levels.told(860, 1000);
    levels.set(Thresholds::with_levels(vec![Level::Percent(70), Level::Percent(80)]).unwrap());
    assert_eq!(levels.fired(), [Level::Percent(70), Level::Percent(85)]);
    assert_eq!(levels.told(860, 1000), [falling(85), rising(80)]);
    assert_eq!(levels.fired(), levels.thresholds().levels());
}

#[test]
fn levels_in_bytes_do_not_move_with_the_total() {
    let mut levels = Levels::new(Thresholds::with_levels(vec![Level::Bytes(500), Level::Bytes(900)]).unwrap());
    assert_eq!(levels.told(500, 1000), [Crossing { level: Level::Bytes(500), rising: true }]);
    assert_eq!(levels.told(500, 100_000), []);
    assert_eq!(levels.told(899, 1000), []);
    // They are left by two of their own per cents, however large the whole is.
    assert_eq!(levels.told(490, 100_000), []);
    assert_eq!(levels.told(489, 100_000), [Crossing { level: Level::Bytes(500), rising: false }]);
}

#[test]
fn thresholds_that_make_no_sense_are_refused_with_advice() {
    let percent = |levels: &[u8]| levels.iter().copied().map(Level::Percent).collect::<Vec<_>>();
    let refused = |levels, hysteresis| Thresholds::new(levels, hysteresis).unwrap_err().to_string();
    assert_eq!(
        refused(percent(&[85, 70]), 2),
        "the thresholds 85 % and 70 % are out of order; give them from low to high, each once"
    );
    assert!(refused(percent(&[70, 70]), 2).contains("out of order"));
    assert!(refused(percent(&[0, 70]), 2).contains("threshold of 0"));
    assert!(refused(percent(&[70, 101]), 2).contains("101 %"));
    assert!(refused(vec![Level::Bytes(0)], 2).contains("threshold of 0"));
    assert!(refused(vec![Level::Percent(70), Level::Bytes(1)], 2).contains("mixed"));
    assert!(refused(percent(&[1, 2, 3, 4, 5]), 0).contains("5 thresholds"));
    assert!(refused(percent(&[2]), 2).contains("give 0 to 1 %"));
    assert!(refused(vec![Level::Bytes(1)], 100).contains("100 %"));
    assert!(Thresholds::new(percent(&[1, 2, 3, 100]), 0).is_ok());
    assert_eq!(Thresholds::with_levels(percent(&[1])).unwrap().hysteresis_pct(), 0);
    assert_eq!(Levels::new(Thresholds::off()).told(7, 7), []);
}

fn thresholds() -> impl Strategy<Value = Thresholds> {
    let percent = vec(1u8..=100, 0..=LEVELS_MAX).prop_map(|levels| levels.into_iter().map(Level::Percent).collect());
    let bytes = vec(1u64..1200, 0..=LEVELS_MAX).prop_map(|levels| levels.into_iter().map(Level::Bytes).collect());
    (prop_oneof![percent, bytes], 0u8..20).prop_filter_map("", |(mut levels, hysteresis): (Vec<Level>, _)| {
        levels.sort();
        levels.dedup();
        Thresholds::new(levels, hysteresis).ok()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Used(u64),
    Total(u64),
    Restart,
    Thresholds(Thresholds),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u64..=1100).prop_map(Step::Used),
        1 => (0u64..=1100).prop_map(Step::Total),
        1 => Just(Step::Restart),
        1 => thresholds().prop_map(Step::Thresholds),
    ]
}

/// What is fired, by the rule and nothing else, in exact fractions.
fn model(fired: &[Level], thresholds: &Thresholds, used: u64, total: u64) -> Vec<Level> {
    let is_fired = |level: &&Level| {
        if total == 0 {
            return false;
        }
        let used = u128::from(used);
        let (at, of) = match level {
            Level::Percent(percent) => ((u128::from(*percent) * u128::from(total)).div_ceil(100), total),
            Level::Bytes(bytes) => (u128::from(*bytes), *bytes),
        };
        let hysteresis = (u128::from(thresholds.hysteresis_pct()) * u128::from(of)).div_ceil(100);
        let left = used == 0 || used + hysteresis < at;
        used >= at || (fired.contains(level) && !left)
    };
    thresholds.levels().iter().filter(is_fired).copied().collect()
}

proptest! {
    /// Whoever asks `is_quiet` first sees the same as the model that is asked every time.
    #[test]
    fn what_is_told_adds_up_to_what_a_naive_model_says(
        first in thresholds(), steps in vec(steps(), 1..200)
    ) {
        let mut levels = Levels::new(first.clone());
        let (mut thresholds, mut total, mut used) = (first, 1000, 0);
        let (mut told, mut expected): (Vec<Level>, Vec<Level>) = Default::default();
        for step in steps {
            let mut must_update = true;
            match step {
                Step::Used(figure) => (used, must_update) = (figure, !levels.is_quiet(figure)),
                Step::Total(figure) => total = figure,
                Step::Restart => {
                    let fired = levels.fired();
                    levels = Levels::new(thresholds.clone());
                    levels.restore(&fired);
                }
                Step::Thresholds(new) => {
                    levels.set(new.clone());
                    thresholds = new;
                }
            }
            expected = model(&expected, &thresholds, used, total);
            if must_update {
                for Crossing { level, rising } in levels.told(used, total) {
                    prop_assert_eq!(!told.contains(&level), rising, "told twice: {}", level);
                    if rising { told.push(level) } else { told.retain(|other| *other != level) }
                }
            }
            told.sort();
            prop_assert_eq!(&told, &expected);
            prop_assert_eq!(levels.fired(), expected.clone());
            prop_assert!(levels.is_quiet(used));
        }
    }

    #[test]
    fn a_figure_that_moves_less_than_the_hysteresis_tells_each_level_at_most_once(
        base in 0u64..1000, moves in vec(0u64..20, 1..300)
    ) {
        let mut levels = Levels::new(Thresholds::default());
        let told: Vec<_> = moves.iter().flat_map(|by| levels.told(base + by, 1000)).collect();
        prop_assert!(told.len() <= 3 && told.iter().all(|crossing| crossing.rising), "{told:?}");
    }
}
