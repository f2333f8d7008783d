//! What was done, counted by name, and what must have been done for a run to mean anything.

use std::collections::BTreeMap;

use plimsoll_hardware::sim::{FaultKind, SimWorld};

/// Crashes, each followed by a start and a comparison, for which [`EXPECTED`] says how often things happen.
pub const CYCLES: u64 = 100_000;

/// What happens at least so often in [`CYCLES`]: about a fifth of what was seen, so that only what is hardly ever done any more falls short.
const EXPECTED: &[(&str, u64)] = &[
    // Faults of devices.
    ("reads that failed", 4_000),
    ("writes that failed", 6_000),
    ("flushes that failed", 1_500),
    ("bits flipped", 1_000),
    ("writes misdirected", 250),
    ("writes lost", 800),
    ("operations that were slow", 12_000),
    ("devices that vanished", 1_200),
    // What crashes did.
    ("writes dropped by power loss", 10_000),
    ("writes torn by power loss", 4_000),
    ("crashes inside a start", 5_000),
    ("clean closes", 1_500),
    // What clients did.
    ("writes", 100_000),
    ("writes of zeros", 10_000),
    ("writes of the pattern", 20_000),
    ("zeros stored", 5_000),
    ("zeros by unmapping", 10_000),
    ("discards", 20_000),
    ("reads", 30_000),
    ("flushes", 40_000),
    ("block statuses", 4_000),
    ("vdisks created", 4_000),
    ("vdisks deleted", 1_500),
    ("vdisks resized", 1_200),
    ("checks beside work", 1_000),
    ("patterns changed", 800),
    ("reclaims asked for", 300),
    ("compactions asked for", 900),
    ("devices added", 600),
    ("devices grown", 600),
    ("evacuations asked for", 400),
    ("removals asked for", 400),
    ("devices kept", 10),
    ("paces changed", 20),
    ("decisions", 1_500),
    ("decisions for tenants", 500),
    ("quotas of tenants judged", 90),
    ("overcommit limits judged", 100),
    ("times without room below", 1_400),
    ("pools filled", 250),
    // What the engine did.
    ("journal batches ahead of their data", 2_000),
    ("writes held", 1_500),
    ("writes refused", 2_000),
    ("evacuations done", 2_000),
    ("reclaims done", 250),
    ("KiB packed", 500_000),
    ("times grown by itself", 50),
    ("vdisks held for room below", 200),
    ("writes that went on with room below", 100),
];

/// Counts of what was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Crashes, each followed by a start and a comparison.
    pub cycles: u64,
    /// All else, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// It was done so many times.
    pub fn did(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// Adds what was done elsewhere.
    pub fn add(&mut self, other: &Tally) {
        self.cycles += other.cycles;
        other.counts.iter().for_each(|(what, times)| self.did(what, *times));
    }

    /// Adds the faults and crashes of all lives of a world.
    pub fn add_world(&mut self, world: &SimWorld) {
        let kinds = [
            ("reads that failed", FaultKind::ReadError),
            ("writes that failed", FaultKind::WriteError),
            ("flushes that failed", FaultKind::FlushError),
            ("bits flipped", FaultKind::BitFlip),
            ("writes misdirected", FaultKind::Misdirect),
            ("writes lost", FaultKind::Lost),
            ("operations that were slow", FaultKind::Slow),
            ("devices that vanished", FaultKind::Vanish),
        ];
        kinds.into_iter().for_each(|(what, kind)| self.did(what, world.faults_struck(kind)));
        self.did("writes dropped by power loss", world.survivals().dropped);
        self.did("writes torn by power loss", world.survivals().torn);
    }

    /// What was done less often than is expected of so many cycles.
    pub fn missing(&self) -> Vec<String> {
        let lacking = EXPECTED.iter().filter_map(|&(what, least)| {
            let (least, done) = (least * self.cycles / CYCLES, self.counts.get(what).copied().unwrap_or(0));
            (done < least).then(|| format!("{done} {what}, at least {least} were expected"))
        });
        lacking.collect()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts: Vec<_> = self.counts.iter().map(|(what, times)| format!("{times} {what}")).collect();
        write!(f, "{}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_done_is_missed_in_a_full_run() {
        let mut tally = Tally { cycles: CYCLES, ..Tally::default() };
        EXPECTED.iter().for_each(|(what, least)| tally.did(what, *least));
        assert_eq!(tally.missing(), Vec::<String>::new());
        tally.counts.remove("bits flipped");
        assert!(matches!(&tally.missing()[..], [one] if one.contains("bits flipped")), "{:?}", tally.missing());
        tally.cycles = 1;
        assert_eq!(tally.missing(), Vec::<String>::new(), "one cycle need not do everything");
    }
}
