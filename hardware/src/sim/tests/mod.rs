//! The simulated machine's own tests: a simulator that never tears anything proves nothing.

mod crashes;
mod cut;
mod durability;
mod executor;
mod faults;
mod full;
mod memory;
mod model;

use super::{Outcome, SimDevice, SimDiskSpec, SimMachine, SimWorld};
use crate::{Buffer, Device, Durability, IoError, Machine};

/// A world of one 1 MiB disk.
fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, vec![SimDiskSpec::new("sim0", 1 << 20)])
}

fn filled(machine: &SimMachine, length: usize, byte: u8) -> Buffer {
    let mut buffer = machine.buffers().try_alloc(length).expect("the test's buffers suffice");
    buffer.fill(byte);
    buffer
}

async fn write(machine: &SimMachine, disk: &SimDevice, at: u64, length: usize, byte: u8) -> Result<(), IoError> {
    disk.write(at, filled(machine, length, byte).freeze(), Durability::Cached).await
}

/// The first byte of each sector of a range, after checking that no sector is a mixture.
fn sectors(world: &SimWorld, disk: usize, offset: u64, length: u64, sector: usize) -> Vec<u8> {
    let bytes = world.read_raw(disk, offset, length);
    let whole = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is a mixture");
        sector[0]
    };
    bytes.chunks(sector).map(whole).collect()
}

/// Polls both to their ends, the first one first.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|context| {
        use std::task::Poll;
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(context)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(context)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}
