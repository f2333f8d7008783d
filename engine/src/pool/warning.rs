//! Damage that a start met, as far as it goes on without what is lost.

use crate::format::TABLE_ENTRIES;

/// What could not be read. The words are for people; programs look at the variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Warning {
    /// The end of a device is gone, and zeros are there.
    EndLost(String),
    /// Both copies of a page of the vdisk table are bad.
    TablePageLost(u64),
    /// Of so many pages no copy was good, and one could not be read.
    PagesUnread(u64),
    /// A batch of the journal that a later one covers is not there.
    JournalDamaged,
    /// Crash memory goes on behind its end.
    TailAhead,
    /// It ends where no copy of it can be read.
    JournalUnread,
    /// So many first writes need their data as proof, and it cannot be read.
    ProofsUnread(usize),
    /// So many allocation groups are lost, and a checkpoint finds no place in the others.
    GroupsLost(u64),
}

impl Warning {
    /// Whether the end of a device is gone.
    pub(super) fn is_of_end(&self) -> bool {
        matches!(self, Warning::EndLost(_))
    }

    /// Whether the journal was not believed to its end; the pool is read-only until that is accepted.
    pub(super) fn is_of_journal(&self) -> bool {
        matches!(self, Warning::JournalDamaged | Warning::TailAhead | Warning::JournalUnread | Warning::ProofsUnread(_))
    }

    /// Whether the pool is read-only because of this until a repair.
    pub(super) fn keeps_read_only(&self) -> bool {
        self.is_of_journal() || matches!(self, Warning::GroupsLost(_))
    }
}

impl Warning {
    /// In words, for people who look after the pool of that name.
    pub(super) fn says(&self, pool: &str) -> String {
        match self {
            Warning::EndLost(path) => format!(
                "the end of {path} is gone: what vdisks stored there reads as zeros; compare them with a backup, and do not reclaim \
                 them before that"
            ),
            Warning::TablePageLost(page) => {
                let first = page * TABLE_ENTRIES as u64;
                let last = first + TABLE_ENTRIES as u64 - 1;
                format!(
                    "a page of the vdisk table is lost in both copies: vdisks {first} to {last} cannot be opened; \
                     give them up with plimsoll pool check {pool} --repair"
                )
            }
            Warning::PagesUnread(pages) => format!(
                "{pages} metadata pages cannot be read in either copy; mend the device, then open the pool again \
                 (plimsoll pool import --name {pool})"
            ),
            Warning::JournalDamaged => format!(
                "its journal is damaged in both copies: changes that were flushed are lost; look at it with plimsoll \
                 pool check {pool}, accept the loss with --repair"
            ),
            Warning::TailAhead => format!(
                "its crash memory goes on from changes that are not on its devices: these were put back to an earlier state, or the \
                 journal is damaged in both copies; look at it with plimsoll pool check {pool}, accept the loss with --repair"
            ),
            Warning::JournalUnread => format!(
                "its journal cannot be read to its end, in either copy: changes that were flushed may be there; mend the device \
                 and open the pool again, or give them up with plimsoll pool check {pool} --repair"
            ),
            Warning::GroupsLost(groups) => format!(
                "allocation groups are damaged in both copies ({groups}), and a checkpoint finds no place in others; make them anew \
                 with plimsoll pool check {pool} --repair"
            ),
            Warning::ProofsUnread(records) => format!(
                "its journal is damaged: {records} first writes need their data as proof and it cannot be read; mend \
                 the device and open the pool again, or give them up with plimsoll pool check {pool} --repair"
            ),
        }
    }
}
