//! A page of the vdisk table: eight entries.

use super::{ENTRY_BYTES, Entry, FormatError, PageType, Payload};

pub(crate) const TABLE_ENTRIES: usize = 8;

/// Eight vdisks, by their identifiers' low bits.
#[derive(Clone)]
pub(crate) struct TablePage {
    pub(crate) entries: [Option<Entry>; TABLE_ENTRIES],
}

impl Payload for TablePage {
    const TYPE: PageType = PageType::Table;

    fn empty() -> Self {
        TablePage { entries: [const { None }; TABLE_ENTRIES] }
    }

    fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    fn summary(&self) -> u32 {
        self.entries.iter().flatten().count() as u32
    }

    fn encode(&self, page: &mut [u8]) {
        for (entry, mut bytes) in self.entries.iter().zip(page.chunks_exact_mut(ENTRY_BYTES)) {
            match entry {
                Some(entry) => entry.encode(&mut bytes),
                None => bytes.fill(0),
            }
        }
    }

    fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let mut table = TablePage::empty();
        for (slot, bytes) in page.chunks_exact(ENTRY_BYTES).enumerate().take(TABLE_ENTRIES) {
            table.entries[slot] = Entry::decode(bytes)?;
        }
        Ok(table)
    }
}
