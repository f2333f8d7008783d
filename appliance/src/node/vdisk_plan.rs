//! What a change of what is decided for a vdisk comes to, a sentence for each part of it, with the figures of before and after.

use plimsoll_engine::{VdiskInfo, VdiskPolicy};

use crate::policy::{levels_text, on_full_text};
use crate::units::{counted, iec};

/// The steps from `before` to `after` of vdisk `name`; `now` is what is known of it when it is there already.
pub(super) fn policy_steps(
    name: &str,
    extent_bytes: u64,
    now: Option<&VdiskInfo>,
    before: &VdiskPolicy,
    after: &VdiskPolicy,
) -> Vec<String> {
    let mut steps = Vec::new();
    let mut step = |differs: bool, text: String| steps.extend(differs.then_some(text));
    let backed = now.map_or(0, |now| now.backed_bytes);
    let whose = |label: &Option<String>| label.clone().unwrap_or_else(|| "none".to_owned());
    for (what, before, after) in [("tenant", &before.tenant, &after.tenant), ("vm", &before.vm, &after.vm)] {
        step(before != after, format!("make {what} of vdisk {name} {} instead of {}", whose(after), whose(before)));
    }
    let waiting = match now.map_or(0, |now| now.held_writes) {
        0 => String::new(),
        held => format!("; {} too", counted(held, "waiting write")),
    };
    let (was, will) = (on_full_text(before.on_full), on_full_text(after.on_full));
    step(
        before.on_full != after.on_full,
        format!("{will} writes of vdisk {name} when there is no space, instead of {was}{waiting}"),
    );
    step(
        before.reservation != after.reservation,
        format!(
            "reserve {} for vdisk {name} instead of {}; {} are in use",
            iec(after.reservation),
            iec(before.reservation),
            iec(backed)
        ),
    );
    let bound = |quota: Option<u64>| match quota {
        None => "as much as there is".to_owned(),
        Some(quota) if quota.is_multiple_of(extent_bytes) => iec(quota),
        Some(quota) => format!("{} ({} in whole extents)", iec(quota), iec(quota / extent_bytes * extent_bytes)),
    };
    let exceeded = if after.quota.is_some_and(|quota| quota < backed) { ", which is more" } else { "" };
    let (was, will) = (bound(before.quota), bound(after.quota));
    step(
        before.quota != after.quota,
        format!("let vdisk {name} use {will} instead of {was}; {} are in use{exceeded}", iec(backed)),
    );
    let levels = [("size", &before.levels, &after.levels), ("quota", &before.quota_levels, &after.quota_levels)];
    for (of, before, after) in levels {
        let (was, will) = (levels_text(before), levels_text(after));
        step(before != after, format!("tell when vdisk {name} uses so much of its {of}: {will} instead of {was}"));
    }
    let looked_for =
        [("zeros", before.keep_zeros, after.keep_zeros), ("patterns", before.keep_patterns, after.keep_patterns)];
    for (what, before, after) in looked_for {
        let word = if after { "off" } else { "on" };
        step(before != after, format!("turn detection of {what} {word} for vdisk {name}"));
    }
    steps
}
