//! The real machine, whose devices count what is read from them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_hardware::{
    Buffer, BufferPool, Device, Durability, FileDevice, Frozen, Geometry, Handle, IoError, Machine, SharedMemory,
};

/// The machine. All clones are the same one.
#[derive(Clone)]
pub(super) struct Counted(pub(super) Handle);

/// A device, and the bytes that were read from it.
pub(super) struct CountedDevice {
    device: FileDevice,
    read: Rc<Cell<u64>>,
}

impl CountedDevice {
    pub(super) fn new(device: FileDevice) -> (Self, Rc<Cell<u64>>) {
        let read = Rc::new(Cell::new(0));
        (Self { device, read: read.clone() }, read)
    }
}

impl Device for CountedDevice {
    fn geometry(&self) -> &Geometry {
        self.device.geometry()
    }

    fn measure(&self, used: u64) -> Result<u64, IoError> {
        self.device.measure(used)
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Result<Buffer, IoError> {
        self.read.set(self.read.get() + buffer.len() as u64);
        self.device.read(offset, buffer).await
    }

    async fn write(&self, offset: u64, data: Frozen, durability: Durability) -> Result<(), IoError> {
        self.device.write(offset, data, durability).await
    }

    async fn flush(&self) -> Result<(), IoError> {
        self.device.flush().await
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.discard(offset, length).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.write_zeroes(offset, length).await
    }

    async fn allocate(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.allocate(offset, length).await
    }
}

impl Machine for Counted {
    type Device = CountedDevice;
    type CrashMemory = SharedMemory;

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn wall_clock_ms(&self) -> u64 {
        self.0.wall_clock_ms()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.0.sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(task);
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn buffers(&self) -> &BufferPool {
        self.0.buffers()
    }

    fn crash_memory(&self, name: &str, bytes: usize) -> Result<SharedMemory, String> {
        self.0.crash_memory(name, bytes)
    }

    fn has_crash_memory(&self, name: &str) -> bool {
        self.0.has_crash_memory(name)
    }

    fn remove_crash_memory(&self, name: &str) {
        self.0.remove_crash_memory(name);
    }

    fn rename_crash_memory(&self, from: &str, to: &str) -> Result<(), String> {
        self.0.rename_crash_memory(from, to)
    }
}
