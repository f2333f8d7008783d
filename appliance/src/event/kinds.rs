//! The kinds of events that there are: who asks for another one would wait for ever.

use crate::problem::{Answer, Problem};
use crate::units::quoted;

/// All of them, in order. Scripts rely on them.
pub(super) const KINDS: [&str; 35] = [
    "device-errors",
    "device-full",
    "event-log-behind",
    "event-log-lost",
    "growth-impossible",
    "growth-impossible-cleared",
    "limit-exceeded",
    "limit-exceeded-cleared",
    "pool-check",
    "pool-check-cleared",
    "pool-event",
    "pool-files-gone",
    "pool-files-gone-cleared",
    "pool-files-replaced",
    "pool-forecast",
    "pool-forecast-cleared",
    "pool-grown",
    "pool-not-served",
    "pool-not-served-cleared",
    "pool-read-only",
    "pool-read-only-cleared",
    "pool-room-below",
    "pool-room-below-cleared",
    "pool-threshold",
    "pool-threshold-cleared",
    "tenant-threshold",
    "tenant-threshold-cleared",
    "vdisk-deleted",
    "vdisk-exhausted",
    "vdisk-hold-expired",
    "vdisk-hold-overflow",
    "vdisk-resumed",
    "vdisk-threshold",
    "vdisk-threshold-cleared",
    "webhook-gave-up",
];

/// Refuses a kind that there is not.
///
/// # Errors
/// `invalid-argument` with those that there are.
pub fn check_kind(kind: Option<&str>) -> Answer<()> {
    match kind.filter(|kind| !KINDS.contains(kind)) {
        Some(kind) => Err(Problem::new("invalid-argument", format!("there are no events of kind {}", quoted(kind)))
            .hint(format!("there are {}", KINDS.join(", ")))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words that sources give to what makes events.
    fn told(source: &str) -> impl Iterator<Item = &str> {
        let makers = ["NewEvent::new(", "of_vdisk(", "out_of_service("];
        let calls = makers.into_iter().flat_map(move |maker| source.split(maker).skip(1));
        calls.filter_map(|call| {
            let call = &call[..call.find(')').unwrap_or(call.len())];
            let word = call.split('"').nth(1)?;
            word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-').then_some(word)
        })
    }

    #[test]
    fn every_kind_that_is_told_is_known() {
        let sources =
            [include_str!("describe.rs"), include_str!("webhook/deliver.rs"), include_str!("writer/trouble.rs")];
        let told: Vec<&str> = sources.into_iter().flat_map(told).collect();
        assert!(told.len() > 15, "{told:?}");
        for kind in told {
            assert!(check_kind(Some(kind)).is_ok(), "{kind}");
        }
        assert!(check_kind(None).is_ok() && check_kind(Some("news")).is_err());
    }
}
