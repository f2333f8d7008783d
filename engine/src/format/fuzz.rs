//! Entry points for fuzzing: each takes any bytes and must neither panic nor take memory out of proportion.

use super::{Batch, Group, LabelPage, Leaf, NodePage, Payload, RootPage, TablePage};

/// Feeds `bytes` to the parser that the first byte chooses.
pub(crate) fn parse_anything(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 7 {
        0 => drop(LabelPage::decode(bytes)),
        1 => drop(RootPage::decode(bytes)),
        2 => drop(Batch::decode(bytes)),
        3 => drop(Leaf::decode(bytes)),
        4 => drop(NodePage::decode(bytes)),
        5 => drop(Group::decode(bytes)),
        _ => drop(TablePage::decode(bytes)),
    }
}
