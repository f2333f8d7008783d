//! Which words of a leaf could share an extent: a plan, made of the words alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::{Blocks, ExtentId, Leaf, TURN_BLOCKS, Word};

/// An extent that takes in what others of its leaf have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) host: ExtentId,
    /// Slots of the words that have the host, and whether they share it already; else it is one that has it as its own.
    pub(crate) owners: Vec<usize>,
    pub(crate) packed: bool,
    /// Slots whose contents go there, by how many blocks they are to be turned, and the extents that they have.
    pub(crate) guests: Vec<(usize, u32, ExtentId)>,
}

struct Used {
    extent: ExtentId,
    places: Blocks,
    slots: Vec<usize>,
    packed: bool,
    /// It takes something in.
    host: bool,
}

/// How the words of a leaf can do with fewer extents: the emptiest give all they have to the fullest that have room for it. Only
/// extents that `stay` take anything in.
pub(crate) fn plan(leaf: &Leaf, stays: impl Fn(ExtentId) -> bool) -> Vec<Packing> {
    let mut used = thin(leaf);
    used.sort_by_key(|extent| extent.places.count());
    let mut packings: BTreeMap<ExtentId, Packing> = BTreeMap::new();
    for giver in 0..used.len() {
        // What has given all away is before this one.
        let hosts = (giver + 1..used.len()).rev();
        if used[giver].host || used.get(giver + 1).is_none_or(|next| !may_fit(leaf, &used[giver], next)) {
            continue;
        }
        let Some(seats) = seat(leaf, &used, giver, hosts.filter(|&host| stays(used[host].extent))) else { continue };
        let from = used[giver].extent;
        for (slot, turn, host) in seats {
            let taker = &mut used[host];
            taker.host = true;
            taker.places = taker.places.with(turned(leaf.get(slot), turn));
            let (host, owners, packed) = (taker.extent, taker.slots.clone(), taker.packed);
            let empty = Packing { host, owners, packed, guests: Vec::new() };
            packings.entry(taker.extent).or_insert(empty).guests.push((slot, turn, from));
        }
    }
    packings.into_values().collect()
}

/// Extents that come free by a plan: who gives anything gives all it has.
pub(crate) fn frees(plan: &[Packing]) -> u64 {
    let left: BTreeSet<ExtentId> = plan.iter().flat_map(|packing| &packing.guests).map(|(.., from)| *from).collect();
    left.len() as u64
}

/// The extents of a leaf that are not full.
fn thin(leaf: &Leaf) -> Vec<Used> {
    let mut used: BTreeMap<ExtentId, Used> = BTreeMap::new();
    for (slot, word) in leaf.iter().enumerate().filter(|(_, word)| word.is_mapped()) {
        let extent = word.extent();
        let fresh = Used { extent, places: Blocks::NONE, slots: Vec::new(), packed: word.is_packed(), host: false };
        let extent = used.entry(extent).or_insert(fresh);
        extent.places = extent.places.with(word.places(word.valid()));
        extent.slots.push(slot);
    }
    used.into_values().filter(|extent| extent.places != Blocks::ALL).collect()
}

/// Whether there may be room for the smallest word of `giver` in `host`, which has no more than all others that could take it.
fn may_fit(leaf: &Leaf, giver: &Used, host: &Used) -> bool {
    let smallest = giver.slots.iter().map(|&slot| leaf.get(slot).valid().count()).min();
    smallest.is_some_and(|blocks| blocks + host.places.count() <= 16)
}

/// A place for each word of `giver`; `None` when one finds none.
fn seat(
    leaf: &Leaf,
    used: &[Used],
    giver: usize,
    hosts: impl Iterator<Item = usize> + Clone,
) -> Option<Vec<(usize, u32, usize)>> {
    let mut seats: Vec<(usize, u32, usize)> = Vec::with_capacity(used[giver].slots.len());
    for &slot in &used[giver].slots {
        let word = leaf.get(slot);
        let seat = hosts.clone().find_map(|host| {
            let beside = seats.iter().filter(|(_, _, of)| *of == host);
            let taken =
                beside.fold(used[host].places, |taken, &(slot, turn, _)| taken.with(turned(leaf.get(slot), turn)));
            let mut turns = (0..16).step_by(TURN_BLOCKS as usize);
            turns.find(|&turn| !turned(word, turn).overlaps(taken)).map(|turn| (slot, turn, host))
        })?;
        seats.push(seat);
    }
    Some(seats)
}

/// The places that a word's blocks would have.
fn turned(word: Word, turn: u32) -> Blocks {
    Blocks(word.valid().0.rotate_left(turn))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::Payload;

    fn leaf(blocks: &[u16]) -> Leaf {
        let mut leaf = Leaf::empty();
        for (slot, &blocks) in blocks.iter().enumerate().filter(|(_, blocks)| **blocks != 0) {
            leaf.set(slot, Word::mapped(ExtentId(1000 + slot as u64), Blocks(blocks)));
        }
        leaf
    }

    /// The leaf as it is when a plan was carried out.
    fn carried_out(leaf: &Leaf, plan: &[Packing]) -> Leaf {
        let mut after = leaf.clone();
        for packing in plan {
            for &slot in &packing.owners {
                let word = leaf.get(slot);
                assert!(word.extent() == packing.host && word.is_packed() == packing.packed);
                after.set(slot, Word::packed(packing.host, word.valid(), word.turn()));
            }
            for &(slot, turn, from) in &packing.guests {
                assert_eq!(leaf.get(slot).extent(), from);
                after.set(slot, Word::packed(packing.host, leaf.get(slot).valid(), turn));
            }
        }
        after
    }

    /// Extents that are named; every place of each has one owner.
    fn extents(leaf: &Leaf) -> usize {
        let mut places: BTreeMap<ExtentId, (Blocks, bool)> = BTreeMap::new();
        for word in leaf.iter().filter(|word| word.is_mapped()) {
            let known = places.entry(word.extent()).or_insert((Blocks::NONE, word.is_packed()));
            assert!(known.1 == word.is_packed(), "an extent of its own is another's too");
            let here = word.places(word.valid());
            assert!(!known.0.overlaps(here), "two words have one place");
            known.0 = known.0.with(here);
        }
        places.len()
    }

    #[test]
    fn words_with_the_same_blocks_are_turned_until_they_fit() {
        // One block of each extent, always the same: turned by twos, eight fit.
        let thin = leaf(&[1; 16]);
        let plan = plan(&thin, |_| true);
        assert_eq!(extents(&carried_out(&thin, &plan)), 2);
    }

    #[test]
    fn what_is_full_or_fits_nowhere_is_left_alone() {
        assert_eq!(plan(&leaf(&[u16::MAX, 1, u16::MAX]), |_| true), []);
        assert_eq!(plan(&leaf(&[0x0FFF, 0x0FFF, 0x0FFF]), |_| true), []);
        assert_eq!(plan(&leaf(&[1, 2]), |_| false), []);
    }

    proptest! {
        #[test]
        fn a_plan_keeps_every_block_in_a_place_of_its_own(
            blocks in proptest::collection::vec(prop_oneof![Just(0u16), any::<u16>(), (0u32..16).prop_map(|bit| 1 << bit)], 1..512),
            again in any::<bool>(),
        ) {
            let before = leaf(&blocks);
            let planned = plan(&before, |_| true);
            let first = carried_out(&before, &planned);
            prop_assert_eq!(extents(&first) as u64 + frees(&planned), extents(&before) as u64);
            for (slot, &blocks) in blocks.iter().enumerate() {
                prop_assert_eq!(first.get(slot).valid(), Blocks(blocks));
            }
            if again {
                // Packed extents that have become thinner are packed again.
                let mut thinner = first.clone();
                for slot in (0..blocks.len()).step_by(2) {
                    thinner.set(slot, Word::UNMAPPED);
                }
                let planned = plan(&thinner, |_| true);
                let second = carried_out(&thinner, &planned);
                prop_assert_eq!(extents(&second) as u64 + frees(&planned), extents(&thinner) as u64);
            }
        }
    }
}
