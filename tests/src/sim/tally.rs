//! What was done, counted by name, and what must have been done for a run to mean anything.

use std::collections::BTreeMap;

use plimsoll_hardware::sim::{FaultKind, SimWorld};

/// Crashes, each followed by a start and a comparison, for which [`EXPECTED`] says how often things happen.
pub const CYCLES: u64 = 100_000;

/// What happens at least so often in [`CYCLES`]: a good deal less than what was seen, so that only what is never or hardly ever done,
/// though the simulation is supposed to, falls short.
const EXPECTED: &[(&str, u64)] = &[
    // Faults of devices.
    ("reads that failed", 1),
    ("writes that failed", 1),
    ("flushes that failed", 1),
    ("bits flipped", 1),
    ("writes misdirected", 1),
    ("writes lost", 1),
    ("operations that were slow", 1),
    ("devices that vanished", 1),
    // What crashes did.
    ("writes dropped by power loss", 1),
    ("writes torn by power loss", 1),
    ("crashes inside a start", 1),
    ("clean closes", 1),
    // What clients did.
    ("writes", 1),
    ("writes of zeros", 1),
    ("writes of the pattern", 1),
    ("zeros stored", 1),
    ("zeros by unmapping", 1),
    ("discards", 1),
    ("reads", 1),
    ("flushes", 1),
    ("block statuses", 1),
    ("vdisks created", 1),
    ("vdisks deleted", 1),
    ("vdisks resized", 1),
    ("checks beside work", 1),
    ("patterns changed", 1),
    ("reclaims asked for", 1),
    ("compactions asked for", 1),
    ("devices added", 1),
    ("devices grown", 1),
    ("evacuations asked for", 1),
    ("removals asked for", 1),
    ("devices kept", 1),
    ("paces changed", 1),
    ("decisions", 1),
    ("decisions for tenants", 1),
    ("times without room below", 1),
    ("pools filled", 1),
    // What the engine did.
    ("journal batches ahead of their data", 1),
    ("writes held", 1),
    ("writes refused", 1),
    ("evacuations done", 1),
    ("reclaims done", 1),
    ("KiB packed", 1),
    ("times grown by itself", 1),
    ("vdisks held for room below", 1),
    ("writes that went on with room below", 1),
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
