//! A pool filled to its end, by one client, so that every answer can be told exactly.

use plimsoll_engine::{CreateVdisk, Error, OnFull, VdiskPolicy};

use super::client::write_at;
use super::decide::Decided;
use super::model::{Disk, Existence};
use super::session::Session;
use super::window::Window;

/// Writes to a vdisk of its own until there is no space. Then what needs none must succeed.
pub async fn fill(session: &Session) {
    super::members::settle(session).await;
    let extent = session.setup.extent;
    let extents = session.pool.info().physical_bytes / extent + 1;
    // Side by side, or each in a leaf of its own, so that leaves leave memory.
    let stride = if session.below(4) == 0 { 512 * extent } else { extent };
    let size = extents * stride;
    let block = session.setup.block();
    // So much of each extent that no two have room in one; or so little that a pool which is short of space puts them together.
    let thin = session.below(3) == 0;
    let length = if thin { block } else { 9 * block };
    let failing = VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() };
    let (serial, name) = {
        let model = &mut session.state.borrow_mut().model;
        let serial = model.serial();
        let name = format!("full{serial}");
        let windows = (0..extents).map(|index| Window::hole(index * stride, length, block)).collect();
        let disk = Disk {
            serial,
            name: name.clone(),
            sector: 4096,
            write_through: false,
            size,
            size_asked: None,
            cut: None,
            existence: Existence::Creating,
            windows,
            users: 0,
            exclusive: true,
            lax: false,
            decided: Decided::new(failing.clone()),
            had: 0,
        };
        model.disks.insert(serial, disk);
        (serial, name)
    };
    let spec = CreateVdisk { name: name.clone(), size, sector: 4096, write_through: false, policy: failing };
    match session.ask(session.pool.create_vdisk(spec)).await {
        Ok(_) => {}
        // A limit may have been set below what is promised.
        Err(Error::OutOfSpace { .. } | Error::LimitExceeded { .. }) => {
            session.state.borrow_mut().model.disks.remove(&serial);
            return;
        }
        Err(error) => return session.bear("a create", &error),
    }
    if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&serial) {
        disk.existence = Existence::Certain;
    }
    let mut written = 0;
    while written < extents {
        let free = session.pool.info().available_bytes / extent;
        let good = write_at(session, serial, &name, written * stride, written * stride + length).await;
        if session.broken.get() || (!good && session.setup.faults.is_some()) {
            return;
        }
        if !good {
            let info = session.pool.info();
            // A checkpoint under way may take an extent of each half in between, and many when there are many leaves.
            assert!(free <= 2 || stride > extent, "a write was refused with {free} extents available: {info:?}");
            assert!(info.quarantined_bytes <= 2 * extent, "freed extents were not used before a refusal: {info:?}");
            break;
        }
        written += 1;
        assert!(thin || written < extents, "a pool gave out more space than it has: {:?}", session.pool.info());
    }
    session.did("pools filled");
    if written > 0 {
        let at = session.below(written) * stride;
        let good = write_at(session, serial, &name, at, at + 4096).await;
        assert!(good || session.setup.faults.is_some(), "an overwrite failed in a full pool");
    }
    let Some(handle) = session.vdisk(&name) else { return };
    let began = session.state.borrow_mut().model.tick();
    match session.ask(handle.flush()).await {
        Ok(()) => session.state.borrow_mut().model.flush_done(began),
        Err(error) => return session.bear("a flush of a full pool", &error),
    }
    if session.below(2) == 0 {
        super::verify::check_online(session).await;
    }
    if let Some(disk) = session.state.borrow_mut().model.disks.get_mut(&serial) {
        disk.existence = Existence::Deleting;
    }
    match session.ask(session.pool.delete_vdisk(&name)).await {
        Ok(_) => drop(session.state.borrow_mut().model.disks.remove(&serial)),
        Err(error) => return session.bear("a delete in a full pool", &error),
    }
    super::verify::figures(session).await;
}
