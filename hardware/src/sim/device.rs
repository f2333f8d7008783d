//! A simulated disk as a life of the process sees it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::io::{Answer, Request};
use super::life::Life;
use crate::{Buffer, Device, Durability, Frozen, Geometry, IoError};

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDevice {
    pub(super) life: Rc<Life>,
    disk: usize,
    geometry: Rc<Geometry>,
    /// It was noticed that it has become smaller: it takes no change any more.
    cut_off: Rc<Cell<bool>>,
    /// Bytes that are used of it, as far as anybody has said.
    used: Rc<Cell<u64>>,
}

impl SimDevice {
    pub(super) fn new(life: Rc<Life>, disk: usize) -> Self {
        let geometry = life.core.borrow().disks[disk].geometry.clone();
        let used = Rc::new(Cell::new(geometry.size));
        Self { life, disk, geometry, cut_off: Rc::default(), used }
    }

    /// Its index among the disks of the world.
    pub fn index(&self) -> usize {
        self.disk
    }

    fn start(&self, offset: u64, length: u64, request: Request) -> Io<'_> {
        Io { device: self, offset, length, stage: Stage::New(request) }
    }

    /// As [`SimDevice::start`], unless it takes no change any more.
    async fn change(&self, offset: u64, length: u64, request: Request) -> Result<(), IoError> {
        if self.cut_off.get() {
            let (path, operation) = (self.geometry.path.clone(), request.name());
            let reason = "it has become smaller than it was and is not written to any more".to_owned();
            return Err(IoError::Failed { path, operation, offset, reason });
        }
        self.start(offset, length, request).await.map(drop)
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn measure(&self, used: u64) -> Result<u64, IoError> {
        let core = self.life.core.borrow();
        let disk = &core.disks[self.disk];
        let path = self.geometry.path.clone();
        if disk.gone {
            return Err(IoError::Gone { path });
        }
        self.used.set(used);
        if disk.size < used || self.cut_off.get() {
            self.cut_off.set(true);
            return Err(IoError::Shrunk { path, size: disk.size, used });
        }
        Ok(disk.size)
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, IoError> {
        let length = buffer.len() as u64;
        let answer = self.start(offset, length, Request::Read(buffer)).await;
        let size = self.life.core.borrow().disks[self.disk].size;
        self.cut_off.set(self.cut_off.get() || (answer.is_err() && offset + length > size));
        Ok(answer?.expect("a read answers with its buffer"))
    }

    async fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Result<(), IoError> {
        let (length, fua) = (data.len() as u64, durability == Durability::Fua);
        self.change(offset, length, Request::Write { data, fua }).await
    }

    async fn flush(&self) -> Result<(), IoError> {
        let (mark, gone) = {
            let core = self.life.core.borrow();
            (core.disks[self.disk].mark(), core.disks[self.disk].gone)
        };
        if !self.geometry.volatile_cache {
            return if gone { Err(IoError::Gone { path: self.geometry.path.clone() }) } else { Ok(()) };
        }
        // As a file: what was cut off is not durable.
        if !gone {
            self.measure(self.used.get())?;
        }
        self.start(0, 0, Request::Flush(mark)).await.map(drop)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.change(offset, length, Request::Discard).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.change(offset, length, Request::Zeroes).await
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), IoError> {
        {
            let disk = &mut self.life.core.borrow_mut().disks[self.disk];
            if disk.room.is_none() && !disk.gone && offset + length <= disk.size {
                disk.occupy(offset, length);
                return Ok(());
            }
        }
        self.start(offset, length, Request::Allocate).await.map(drop)
    }
}

/// An operation from its first poll to its answer.
struct Io<'a> {
    device: &'a SimDevice,
    offset: u64,
    length: u64,
    stage: Stage,
}

enum Stage {
    New(Request),
    Flying(usize),
    /// Answered, or never to be answered.
    Over,
}

impl Future for Io<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let life = &self.device.life;
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(request) => match life.submit(self.device, self.offset, self.length, request, context.waker()) {
                Ok(Some(slot)) => self.stage = Stage::Flying(slot),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            },
            Stage::Flying(slot) if !life.dead() => {
                let mut operations = life.operations.borrow_mut();
                if operations[slot].answer.is_some() {
                    return match operations.remove(slot).answer {
                        Some(answer) => Poll::Ready(answer),
                        None => Poll::Pending,
                    };
                }
                match &mut operations[slot].waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                drop(operations);
                self.stage = Stage::Flying(slot);
            }
            Stage::Flying(_) | Stage::Over => {}
        }
        Poll::Pending
    }
}

impl Drop for Io<'_> {
    fn drop(&mut self) {
        if let Stage::Flying(slot) = self.stage {
            self.device.life.abandon(slot);
        }
    }
}
