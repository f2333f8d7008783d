//! A node of any tree: 128 references, one page.

use super::{Cursor, FormatError, NODE_FANOUT, PageRef};

/// The references of one node, read or to be written.
pub(crate) struct NodePage;

impl NodePage {
    pub(crate) fn encode(references: impl ExactSizeIterator<Item = PageRef>, mut page: &mut [u8]) {
        assert_eq!(references.len(), NODE_FANOUT);
        for reference in references {
            reference.encode(&mut page);
        }
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Vec<PageRef>, FormatError> {
        let mut cursor = Cursor::new(page, "a node");
        (0..NODE_FANOUT).map(|_| PageRef::decode(&mut cursor)).collect()
    }
}

/// Whether no reference names a page.
pub(crate) fn node_is_empty(references: &[PageRef]) -> bool {
    references.iter().all(PageRef::is_none)
}
