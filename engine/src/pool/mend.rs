//! What can be done about what a check finds. Every finding has its mend, be it the words that there is none.

use std::collections::BTreeMap;

use crate::format::{ExtentId, VdiskId};

/// What a repair would do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    Free(ExtentId),
    Allocate(ExtentId),
    Pages(ExtentId, u16),
    ForgetLeaf(VdiskId, u64),
    /// Pages of the vdisk table, the first and how many: their vdisks are given up.
    ForgetTable(u64, u64),
    /// Pages of the pattern table, the first and how many: the patterns are given up; a lost directory is made anew.
    ForgetPatterns(u64, u64),
    /// Blocks of the vdisk that repeat patterns which are gone: they are given up.
    ForgetFills(VdiskId),
    /// A group, with its extents of data, and of metadata with their pages, as everybody else names them.
    RebuildGroup(u64, Vec<ExtentId>, Vec<(ExtentId, u16)>),
    Backed(VdiskId, i64),
    /// The pool's counts of data and metadata extents.
    Totals(i64, i64),
    /// Figures that a recount does not come to are set right.
    Recount,
    AcceptJournal,
    /// A checkpoint, for which there was no place before groups were made anew.
    TakeWrites,
    /// What only the pages given up had named is freed, and the counts are corrected: known when they are given up.
    GiveBack,
    /// A copy is written again from the other; the examination does that itself.
    Copy(String),
    /// Nothing helps but what people decide.
    Refuse(String),
}

impl Mend {
    /// Whether a repair has something to do.
    pub(super) fn is_work(&self) -> bool {
        !matches!(self, Mend::Copy(_) | Mend::Refuse(_))
    }

    pub(super) fn rebuilds_group(&self) -> bool {
        matches!(self, Mend::RebuildGroup(..))
    }

    /// Whether this gives up pages that memory may have.
    pub(super) fn forgets(&self) -> bool {
        matches!(self, Mend::ForgetLeaf(..) | Mend::ForgetTable(..) | Mend::ForgetPatterns(..))
    }

    /// Adds to the groups of `mends` what `others` have of the same groups.
    pub(super) fn join_groups(mends: &mut [Mend], others: Vec<Mend>) {
        let of_group = |mend| match mend {
            Mend::RebuildGroup(group, data, meta) => Some((group, (data, meta))),
            _ => None,
        };
        let mut others: BTreeMap<u64, _> = others.into_iter().filter_map(of_group).collect();
        for mend in mends {
            let Mend::RebuildGroup(group, data, meta) = mend else { continue };
            let Some((more_data, more_meta)) = others.remove(group) else { continue };
            data.extend(more_data);
            data.sort_unstable();
            data.dedup();
            let mut pages: BTreeMap<ExtentId, u16> = meta.drain(..).collect();
            more_meta.into_iter().for_each(|(extent, mask)| *pages.entry(extent).or_default() |= mask);
            meta.extend(pages);
        }
    }

    /// Whether this is a part of [`Mend::GiveBack`].
    pub(super) fn gives_back(&self) -> bool {
        matches!(self, Mend::Free(_) | Mend::Pages(..) | Mend::Backed(..) | Mend::Totals(..))
    }
}
