//! Reading what a look-up needs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use plimsoll_hardware::Machine;

use super::{Found, LeafSlot, Node, PageCounts, PageSeen, Slot, Tree};
use crate::format::{NodePage, PageAddr, PageRef, PageType, Payload};
use crate::media::{LostPage, Media};
use crate::wait::WaitQueue;

/// Pages on their way, so that a page that many want at once is read once.
#[derive(Default)]
pub(crate) struct Loader {
    reading: RefCell<HashSet<PageAddr>>,
    done: WaitQueue,
}

/// Takes a page off the list of those on their way, also when whoever read it was dropped.
struct Reading<'a> {
    loader: &'a Loader,
    address: PageAddr,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.loader.reading.borrow_mut().remove(&self.address);
        self.loader.done.notify();
    }
}

/// Reads all pages on the way to leaf `index`, and the leaf. Afterwards, and until the next `await`, a look-up finds it or
/// finds it absent.
pub(crate) async fn load<M: Machine, P: Payload>(
    media: &Media<M>,
    loader: &Loader,
    tree: &RefCell<Tree<P>>,
    index: u64,
) -> Result<(), LostPage> {
    let counts = tree.borrow().counts.clone();
    loop {
        let (reference, level) = match tree.borrow().get(index) {
            Found::Page(_) | Found::Absent => return Ok(()),
            Found::Lost => return Err(LostPage { unread: false }),
            Found::Unread(reference, level) => (reference, level),
        };
        if !loader.reading.borrow_mut().insert(reference.a) {
            loader.done.changed().await;
            continue;
        }
        let _reading = Reading { loader, address: reference.a };
        let slot = match read_slot(media, &counts, &reference, level).await {
            Ok(slot) => slot,
            // The next look tries again.
            Err(lost) if lost.unread => return Err(lost),
            Err(_) => Slot::Lost(reference),
        };
        tree.borrow_mut().install(index, &reference, slot);
    }
}

/// Reads one page as what its level says it is.
pub(super) async fn read_slot<M: Machine, P: Payload>(
    media: &Media<M>,
    counts: &Rc<PageCounts>,
    reference: &PageRef,
    level: u8,
) -> Result<Slot<P>, LostPage> {
    let kind = if level == 0 { P::TYPE } else { PageType::Node };
    let page = media.read_page(reference, kind).await?;
    let decoded = if level == 0 {
        P::decode(&page).map(|page| Slot::Leaf(Box::new(LeafSlot::new(*reference, page))))
    } else {
        NodePage::decode(&page).map(|references| {
            let mut node = Box::new(Node::empty(counts));
            node.home = *reference;
            for (slot, reference) in node.slots.iter_mut().zip(references) {
                if !reference.is_none() {
                    *slot = Slot::Unread(reference);
                }
            }
            Slot::Node(node)
        })
    };
    decoded.map_err(|error| {
        // The checksum is right and the contents are not: written by something that is not this version.
        tracing::error!(a = reference.a.0, %error, "a metadata page makes no sense");
        LostPage { unread: false }
    })
}

/// Reads all nodes of a tree, a level at a time. Those that are lost are marked so, and `for_good` those that cannot be read, too.
pub(crate) async fn load_nodes<M: Machine, P: Payload>(media: &Media<M>, tree: &RefCell<Tree<P>>, for_good: bool) {
    let counts = &tree.borrow().counts.clone();
    let mut passed_over = HashSet::new();
    loop {
        let is_wanted = |page: &PageSeen| page.is_unread_node() && !passed_over.contains(&page.reference.a);
        let unread: Vec<_> = tree.borrow().pages().into_iter().filter(is_wanted).collect();
        if unread.is_empty() {
            return;
        }
        for chunk in unread.chunks(32) {
            let reads = chunk
                .iter()
                .map(|page| async move { (page, read_slot(media, counts, &page.reference, page.level()).await) });
            for (page, slot) in futures_util::future::join_all(reads).await {
                let slot = match slot {
                    Ok(slot) => slot,
                    Err(lost) if lost.unread && !for_good => {
                        passed_over.insert(page.reference.a);
                        continue;
                    }
                    // One that cannot be read is lost for this life; who opens the pool looks at the counter of those.
                    Err(_) => Slot::Lost(page.reference),
                };
                tree.borrow_mut().install(page.first, &page.reference, slot);
            }
        }
    }
}
