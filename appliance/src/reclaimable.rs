//! What could come back of a pool's space, as the API shows it and in words.

use std::time::Duration;

use plimsoll_engine::{Reclaimable, Surveyed};

use crate::event::time;
use crate::model::SurveyView;
use crate::units::iec;

/// Vdisks whose reclaim is advised by name.
const NAMED_MAX: usize = 2;
/// One in so many bytes of a pool, or less, is not worth an advice to somebody who is short of space.
const WORTH: u64 = 200;

/// As the API shows it, at the time `now` of the machine.
pub fn view(found: &Reclaimable, now: Duration) -> SurveyView {
    SurveyView {
        packable_bytes: found.packable_bytes,
        zero_bytes: found.zero_bytes,
        pattern_bytes: found.pattern_bytes,
        whole_bytes: found.whole_bytes,
        margin_bytes: found.margin_bytes,
        sampled_bytes: found.sampled_bytes,
        age_seconds: now.saturating_sub(found.at).as_secs(),
    }
}

/// The command that finds out.
pub fn command(pool: &str) -> String {
    format!("plimsoll pool survey {pool}")
}

/// So much; how far that is an estimate.
pub fn amount(bytes: u64, margin: u64) -> String {
    match margin {
        0 => iec(bytes),
        margin => format!("about {} (give or take {})", iec(bytes), iec(margin)),
    }
}

/// Zeros in extents that hold data too: a reclaim makes holes of them, which is no space by itself.
pub fn between_data(found: &Reclaimable) -> u64 {
    (found.zero_bytes + found.pattern_bytes).saturating_sub(found.whole_bytes)
}

/// So much of `what` could be reclaimed: what comes back for sure; apart from it what may.
pub fn said(found: &Reclaimable, what: &str) -> String {
    let between = between_data(found);
    if between == 0 {
        return format!("{}{what} could be reclaimed", amount(found.bytes(), found.margin_bytes));
    }
    let margin = match found.margin_bytes {
        0 => String::new(),
        margin => format!(" (together give or take {})", iec(margin)),
    };
    format!(
        "{}{what} could be reclaimed, and {} of zeros between data, which compaction may bring back after a reclaim{margin}",
        iec(found.bytes()),
        iec(between)
    )
}

/// When it was found, seen from `now`.
pub fn as_of(found: &Reclaimable, now: Duration) -> String {
    format!("as of {} ago", time(now.saturating_sub(found.at)))
}

/// How it is brought back: the commands, what gives most first; none where there is nothing.
pub fn commands(pool: &str, surveyed: &Surveyed) -> Vec<String> {
    let worthless = |found: &Reclaimable| found.zero_bytes + found.pattern_bytes;
    let mut vdisks: Vec<_> = surveyed.vdisks.iter().filter(|(_, found)| worthless(found) > 0).collect();
    vdisks.sort_by_key(|(_, found)| std::cmp::Reverse((found.whole_bytes, worthless(found))));
    let reclaims = vdisks.iter().take(NAMED_MAX).map(|(name, _)| format!("plimsoll reclaim {pool}/{name}"));
    let total = &surveyed.total;
    let compacts = total.packable_bytes > 0 || between_data(total) > 0;
    let compact = compacts.then(|| format!("plimsoll pool compact {pool}"));
    match total.packable_bytes > worthless(total) {
        true => compact.into_iter().chain(reclaims).collect(),
        false => reclaims.chain(compact).collect(),
    }
}

/// What could come back and how, for who is short of space in a pool of `total` bytes; `None` when that is nothing to speak of.
pub fn could(pool: &str, surveyed: &Surveyed, total: u64) -> Option<String> {
    let found = &surveyed.total;
    let at_best = found.bytes() + between_data(found);
    if at_best == 0 || at_best < total / WORTH {
        return None;
    }
    let said = said(found, &format!(" of what {pool} stores"));
    Some(format!("{said}: {}", commands(pool, surveyed).join(", ")))
}

/// The same before anybody has found out. Who is the first to be short of space is told while it is looked for.
pub fn not_known(pool: &str) -> String {
    format!("what could be reclaimed is not known yet, and then shown by plimsoll space --pool {pool}")
}

/// The same of everything, for the report of who has the space.
pub fn report(pool: &str, surveyed: Option<&Surveyed>, now: Duration) -> String {
    let Some(surveyed) = surveyed else {
        return format!("what could be reclaimed is not known yet: {}", command(pool));
    };
    let found = &surveyed.total;
    let mut text = format!("{}, {}", as_of(found, now), said(found, ""));
    if found.bytes() > 0 {
        let (packable, whole) = (iec(found.packable_bytes), iec(found.whole_bytes));
        text += &format!("; {packable} of that by compaction, {whole} in extents of nothing but zeros and patterns");
    }
    let commands = commands(pool, surveyed);
    if !commands.is_empty() {
        text += &format!(": {}", commands.join(", "));
    }
    format!("{text}; to look again: {}", command(pool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::hints::assert_advice_can_be_followed;

    const NOW: Duration = Duration::from_secs(200);

    /// Zeros in extents that hold nothing else.
    fn found(packable_bytes: u64, zero_bytes: u64, margin_bytes: u64) -> Reclaimable {
        let (at, whole_bytes) = (Duration::from_secs(20), zero_bytes);
        Reclaimable { packable_bytes, zero_bytes, whole_bytes, margin_bytes, at, ..Reclaimable::default() }
    }

    fn surveyed(vdisks: &[(&str, Reclaimable)], total: Reclaimable) -> Surveyed {
        Surveyed { total, vdisks: vdisks.iter().map(|(name, found)| ((*name).to_owned(), *found)).collect() }
    }

    #[test]
    fn what_could_come_back_is_said_with_its_margin_and_the_commands_that_give_most_first() {
        let vdisks = [("a", found(0, 1 << 30, 0)), ("b", found(1 << 30, 0, 0)), ("c", found(0, 3 << 30, 1 << 28))];
        let some = surveyed(&vdisks, found(1 << 30, 4 << 30, 1 << 28));
        let could = could("tank", &some, 100 << 30).unwrap();
        let expected = "about 5 GiB (give or take 256 MiB) of what tank stores could be reclaimed: plimsoll reclaim tank/c, \
                        plimsoll reclaim tank/a, plimsoll pool compact tank";
        assert_eq!(could, expected);
        assert_advice_can_be_followed(&could);
        assert_eq!(super::could("tank", &some, 2000 << 30), None, "not worth the trouble");
        let report = report("tank", Some(&some), NOW);
        assert!(
            report.starts_with("as of 3 min ago, about 5 GiB")
                && report.contains("1 GiB of that by compaction, 4 GiB in"),
            "{report}"
        );
        assert_advice_can_be_followed(&report);
        let thin = surveyed(&vdisks[1..2], found(1 << 30, 0, 0));
        let could = super::could("tank", &thin, 100 << 30).unwrap();
        assert_eq!(could, "1 GiB of what tank stores could be reclaimed: plimsoll pool compact tank");
    }

    #[test]
    fn zeros_between_data_are_told_apart_from_what_comes_back_for_sure() {
        let some = Reclaimable { whole_bytes: 1 << 30, ..found(1 << 30, 4 << 30, 1 << 28) };
        let could = could("tank", &surveyed(&[("a", some)], some), 100 << 30).unwrap();
        let expected = "2 GiB of what tank stores could be reclaimed, and 3 GiB of zeros between data, which compaction may bring back \
                        after a reclaim (together give or take 256 MiB): plimsoll reclaim tank/a, plimsoll pool compact tank";
        assert_eq!(could, expected);
        assert_advice_can_be_followed(&could);
        // Where there is nothing else, both commands are advised as well.
        let only = Reclaimable { whole_bytes: 0, ..found(0, 4 << 30, 0) };
        let only = surveyed(&[("a", only)], only);
        for text in [super::could("tank", &only, 100 << 30).unwrap(), report("tank", Some(&only), NOW)] {
            assert!(text.contains("0 B") && text.contains("and 4 GiB of zeros between data"), "{text}");
            assert!(text.contains(": plimsoll reclaim tank/a, plimsoll pool compact tank"), "{text}");
            assert_advice_can_be_followed(&text);
        }
    }

    #[test]
    fn what_is_not_known_is_said_with_the_command_that_finds_out() {
        let unknown = report("tank", None, NOW);
        assert_eq!(unknown, "what could be reclaimed is not known yet: plimsoll pool survey tank");
        assert_advice_can_be_followed(&unknown);
        let nothing = surveyed(&[], found(0, 0, 0));
        assert_eq!(could("tank", &nothing, 0), None);
        assert!(report("tank", Some(&nothing), NOW).contains("0 B could be reclaimed"));
    }
}
