//! The device of memory.

use std::cell::RefCell;

use plimsoll_hardware::{Buffer, Device, Durability, Frozen, Geometry, IoError};

/// Bytes at either end that are kept exactly: labels, roots and journals of a pool, and its first metadata.
const EXACT: u64 = 96 << 20;

/// Memory as a drive. Beyond what it really has, the middle repeats.
pub(crate) struct MemoryDevice {
    geometry: Geometry,
    memory: RefCell<Vec<u8>>,
    window: u64,
}

impl MemoryDevice {
    /// A device of `size` bytes, all of them real when they are no more than `window` and both ends.
    pub(crate) fn new(size: u64, window: u64) -> Self {
        let geometry = Geometry {
            path: "memory".into(),
            identity: "memory".into(),
            size,
            logical_block: 512,
            physical_block: 4096,
            volatile_cache: false,
            fua: false,
            discard_max: 0,
            write_zeroes_max: 0,
            rotational: false,
            read_only: false,
        };
        // Touched now: pages that the system has yet to give would be charged to whoever comes first.
        let mut memory = vec![0; size.min(window + 2 * EXACT) as usize];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 0xa5);
        MemoryDevice { geometry, memory: RefCell::new(memory), window }
    }

    #[inline]
    fn place(&self, offset: u64, length: usize) -> usize {
        let size = self.geometry.size;
        assert!(offset + length as u64 <= size, "{length} bytes at {offset} lie beyond a device of {size}");
        if size <= self.window + 2 * EXACT || offset < EXACT {
            return offset as usize;
        }
        if offset >= size - EXACT {
            return (EXACT + self.window + offset - (size - EXACT)) as usize;
        }
        let inside = (offset - EXACT) % self.window;
        // A transfer never wraps around inside the window: it is moved down instead.
        (EXACT + inside.min(self.window - length as u64)) as usize
    }
}

impl Device for MemoryDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn measure(&self, _used: u64) -> Result<u64, IoError> {
        Ok(self.geometry.size)
    }

    async fn read(&self, offset: u64, mut buffer: Buffer) -> Result<Buffer, IoError> {
        let length = buffer.len();
        let start = self.place(offset, length);
        buffer.copy_from_slice(&self.memory.borrow()[start..start + length]);
        Ok(buffer)
    }

    async fn write(&self, offset: u64, data: Frozen, _durability: Durability) -> Result<(), IoError> {
        let start = self.place(offset, data.len());
        self.memory.borrow_mut()[start..start + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    async fn discard(&self, _offset: u64, _length: u64) -> Result<(), IoError> {
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let start = self.place(offset, length as usize);
        self.memory.borrow_mut()[start..start + length as usize].fill(0);
        Ok(())
    }

    async fn allocate(&self, _offset: u64, _length: u64) -> Result<(), IoError> {
        Ok(())
    }
}
