//! The allocator, its quarantine and the epochs against a model: nobody gets what another has, had, or may still be writing to.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use plimsoll_hardware::sim::{SimDiskSpec, SimMachine, SimWorld};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Account, EpochGuard, Epochs, NoMetaSpace, Quarantine, Rest, Space};
use crate::event::Shortage;
use crate::format::{
    DeviceSlot, ExtentId, META_PAGES_PER_EXTENT, PAGE_BYTES, PageRef, PageType, Standing, TreeRoot, VdiskId,
    VirtualExtent,
};
use crate::media::{Disk, Drive, Media};

/// Space of `extents` extents on one simulated disk; nothing is read or written.
fn space(machine: &SimMachine, extents: u64) -> Space<SimMachine> {
    let media = Rc::new(Media::new(machine.clone(), 65_536));
    let slot = DeviceSlot { size: extents << 16, extents, standing: Standing::InUse, ..DeviceSlot::HOLE };
    media.put(Drive::new(Disk::new(machine.open(0), &media.trouble), 0, slot));
    let space = Space::new(media, TreeRoot::EMPTY, 0, 0, Rc::default());
    space.adopt_summaries();
    space.divide_meta();
    space
}

/// A world and a life in it, which ends with the world.
fn machine() -> (SimWorld, SimMachine) {
    let world = SimWorld::new(1, vec![SimDiskSpec::new("disk0", 4 << 20)]);
    let machine = world.boot();
    (world, machine)
}

#[derive(Clone, Debug)]
enum Step {
    /// Takes an extent for a virtual one.
    Take(u64),
    /// The record of the n-th held extent is appended.
    Allocate(usize),
    /// The n-th held extent is given up.
    Forfeit(usize),
    /// The n-th allocated extent is freed.
    Free(usize),
    /// An operation begins, and the n-th that runs ends.
    Enter,
    Leave(usize),
    /// All records so far are durable.
    Durable,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..4096).prop_map(Step::Take),
        5 => any::<usize>().prop_map(Step::Allocate),
        1 => any::<usize>().prop_map(Step::Forfeit),
        4 => any::<usize>().prop_map(Step::Free),
        2 => Just(Step::Enter),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => Just(Step::Durable),
    ]
}

/// An extent that was freed: the batch of its record, and the operations that ran then.
struct Freed {
    sequence: u64,
    running: HashSet<u64>,
    rest: Rest,
}

#[derive(Default)]
struct Model {
    held: Vec<ExtentId>,
    allocated: Vec<ExtentId>,
    freed: HashMap<ExtentId, Freed>,
    running: Vec<(u64, EpochGuard)>,
    operations: u64,
    sequence: u64,
    durable: u64,
    confirmed: u64,
}

impl Model {
    fn may_be_given(&self, extent: ExtentId) -> bool {
        let owned = self.held.contains(&extent) || self.allocated.contains(&extent);
        let barred = self.freed.get(&extent).is_some_and(|freed| {
            let safe = if freed.rest == Rest::Durable { self.durable } else { self.confirmed };
            freed.sequence > safe || self.running.iter().any(|(number, _)| freed.running.contains(number))
        });
        !owned && !barred
    }
}

async fn play(space: &Space<SimMachine>, steps: Vec<Step>, extents: u64) {
    let mut model = Model { sequence: 1, ..Model::default() };
    let account = Account::new(VdiskId(1), 0);
    let pick = |n: usize, length: usize| (length > 0).then(|| n % length.max(1));
    for step in steps {
        match step {
            Step::Take(at) => {
                let available = space.available();
                match space.take(&account, VdiskId(1), VirtualExtent(at), false).await {
                    Ok(extent) => {
                        assert!(available > 0, "an extent of the reserve was given out");
                        assert!(extent.0 < extents, "extent {} is beyond the device", extent.0);
                        assert!(model.may_be_given(extent), "extent {} was given out and is not free", extent.0);
                        model.freed.remove(&extent);
                        model.held.push(extent);
                    }
                    Err(shortage) => {
                        assert_eq!((available, shortage), (0, Shortage::PoolFull), "refused with space left")
                    }
                }
            }
            Step::Allocate(n) => {
                if let Some(n) = pick(n, model.held.len()) {
                    let extent = model.held.swap_remove(n);
                    space.allocate(&account, extent);
                    model.allocated.push(extent);
                }
            }
            Step::Forfeit(n) => {
                if let Some(n) = pick(n, model.held.len()) {
                    space.forfeit(&account, model.held.swap_remove(n));
                }
            }
            Step::Free(n) => {
                if let Some(n) = pick(n, model.allocated.len()) {
                    let extent = model.allocated.swap_remove(n);
                    let rest = if n % 2 == 0 { Rest::Durable } else { Rest::Confirmed };
                    space.free(&account, vec![extent], model.sequence, rest);
                    let running = model.running.iter().map(|(number, _)| *number).collect();
                    model.freed.insert(extent, Freed { sequence: model.sequence, running, rest });
                }
            }
            Step::Enter => {
                model.operations += 1;
                model.running.push((model.operations, space.epochs.enter()));
            }
            Step::Leave(n) => {
                if let Some(n) = pick(n, model.running.len()) {
                    drop(model.running.swap_remove(n));
                }
            }
            Step::Durable => {
                model.confirmed = model.durable;
                model.durable = model.sequence;
                model.sequence += 1;
            }
        }
        space.release_quarantine(model.durable, model.confirmed);
        let (held, data) = (model.held.len() as u64, model.allocated.len() as u64);
        assert_eq!(space.data(), data);
        assert_eq!(space.unused() + data + held + space.quarantined(), extents, "the sums do not add up");
        assert!(model.allocated.iter().all(|&extent| space.is_allocated(extent)));
    }
    // Whatever was freed comes back when everything has ended and is durable.
    model.running.clear();
    space.release_quarantine(model.sequence, model.sequence);
    assert_eq!(space.quarantined(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_extent_has_one_owner_and_comes_back_only_when_nobody_can_reach_it(
        steps in vec(steps(), 1..400), extents in 40u64..120,
    ) {
        let (_world, machine) = machine();
        let space = space(&machine, extents);
        machine.run(play(&space, steps, extents)).done();
    }

    #[test]
    fn an_epoch_is_over_exactly_when_all_that_began_in_it_or_before_has_ended(steps in vec((0u8..3, any::<usize>()), 1..200)) {
        let epochs = Epochs::default();
        let mut running: Vec<(u64, EpochGuard)> = Vec::new();
        let mut ended: Vec<(u64, HashSet<u64>)> = Vec::new();
        let mut number = 0;
        for (step, n) in steps {
            match step {
                0 => {
                    number += 1;
                    running.push((number, epochs.enter()));
                }
                1 if !running.is_empty() => drop(running.swap_remove(n % running.len())),
                _ => ended.push((epochs.advance(), running.iter().map(|(number, _)| *number).collect())),
            }
            prop_assert_eq!(epochs.in_flight(), running.len() as u64);
            for (epoch, waits_for) in &ended {
                let over = !running.iter().any(|(number, _)| waits_for.contains(number));
                prop_assert_eq!(epochs.is_over(*epoch), over);
            }
        }
    }
}

#[test]
fn lots_leave_quarantine_in_order_and_only_when_durable() {
    let (mut quarantine, epochs) = (Quarantine::default(), Epochs::default());
    let guard = epochs.enter();
    quarantine.push(vec![ExtentId(1), ExtentId(2)], 5, epochs.advance());
    quarantine.push(vec![ExtentId(3)], 6, epochs.advance());
    assert_eq!(quarantine.waits_for(), Some(5));
    assert!(quarantine.release(9, &epochs).is_empty(), "an operation that began before is in flight");
    drop(guard);
    assert!(quarantine.release(4, &epochs).is_empty(), "the record is not durable");
    assert_eq!(quarantine.release(5, &epochs), [ExtentId(1), ExtentId(2)]);
    assert_eq!((quarantine.extents(), quarantine.waits_for()), (1, Some(6)));
    assert_eq!(quarantine.release(6, &epochs), [ExtentId(3)]);
}

#[test]
fn what_moves_takes_no_blocks_of_a_full_device_that_the_metadata_reserve_or_a_grant_lacks() {
    let (_world, machine) = machine();
    let done = machine.run(async {
        let space = space(&machine, 1024);
        space.load_group(0).await.expect("nothing is lost");
        machine.set_room(0, Some(0));
        let drive = space.media.drive_at(0).expect("a device");
        drive.allocate(0, 4096).await.expect_err("there is no room");
        space.note_full();
        let backed = |count| (0..count).for_each(|extent| space.set_backed(ExtentId(extent), true));
        let reserve = space.kept_short();
        backed(reserve);
        assert!(reserve > 0 && space.available() > 0);
        assert_eq!(space.take_for_move(VdiskId(0), VirtualExtent(0)).await, None, "the reserve lacks it");
        backed(reserve + 1);
        let account = Account::new(VdiskId(1), 0);
        space.ledger.grant(&account, 1);
        assert_eq!(space.take_for_move(VdiskId(0), VirtualExtent(0)).await, None, "it was granted");
        backed(reserve + 2);
        space.set_starved(true);
        assert_eq!(space.take_for_move(VdiskId(0), VirtualExtent(0)).await, None, "a checkpoint lacks it");
        space.set_starved(false);
        assert!(space.take_for_move(VdiskId(0), VirtualExtent(0)).await.is_some());
        assert_eq!(space.take_for_move(VdiskId(0), VirtualExtent(0)).await, None, "there was one");
    });
    done.done();
}

#[test]
fn where_a_page_found_no_room_none_is_placed_until_the_device_has_some() {
    let (_world, machine) = machine();
    let done = machine.run(async {
        let space = space(&machine, 2048);
        space.prepare_meta(4).await.expect("there is room");
        let free = || space.meta.borrow().free_pages();
        let (prepared, places) = (free(), space.place_page().expect("there is room"));
        let reference = PageRef::seal(PageType::Node, places, 1, 0, &[0; PAGE_BYTES]);
        let drive = space.media.drive_at(0).expect("a device");
        machine.set_room(0, Some(0));
        drive.allocate(1 << 20, 4096).await.expect_err("there is no room");
        space.shut_place(reference.a);
        space.retract_page(&reference);
        assert_eq!(free(), prepared - u64::from(META_PAGES_PER_EXTENT), "the extent of the other copy is left");
        assert!(!space.can_place(1), "two copies would share an extent");
        assert_eq!(space.prepare_meta(1).await, Err(NoMetaSpace::DeviceFull));
        machine.set_room(0, None);
        drive.try_again();
        space.note_full();
        assert_eq!((free(), space.can_place(4)), (prepared, true));
    });
    done.done();
}

#[test]
fn neighbours_of_a_vdisk_get_neighbouring_extents() {
    let (_world, machine) = machine();
    let space = space(&machine, 3000);
    let account = Account::new(VdiskId(1), 0);
    machine
        .run(async {
            let mut runs = HashSet::new();
            for at in 0..64u64 {
                let extent = space.take(&account, VdiskId(1), VirtualExtent(at), false).await.expect("space");
                space.allocate(&account, extent);
                assert_eq!(extent.0 % 16, at % 16, "virtual extent {at} is not at its place in a run");
                runs.insert((at / 16, extent.0 / 16));
            }
            assert_eq!(runs.len(), 4, "64 neighbours take four runs of sixteen");
        })
        .done();
}
