//! What vdisks are filled with: data, zeros and patterns, and bytes that are compared.

use plimsoll_engine::Vdisk;
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

pub const EXTENT: u64 = 65_536;
pub const BLOCK: u64 = 4096;
pub const EXTENTS: u64 = 6;
pub const UNITS: [&[u8]; 2] = [b"PLIMSOLL", &[0xA5]];

/// What blocks are filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Data(u8),
    Zeros,
    Pattern(usize),
}

impl What {
    /// The bytes from `inside` a block on; patterns begin with the block.
    pub fn put(self, bytes: &mut [u8], inside: u64) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = match self {
                What::Data(mark) => mark | 1,
                What::Zeros => 0,
                What::Pattern(number) => UNITS[number][(inside as usize + index) % UNITS[number].len()],
            };
        }
    }
}

/// The bytes of a request, cut at the vdisk's end.
pub fn bytes_of(first: u64, parts: &[(u64, What)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (sectors, what) in parts {
        let (from, at) = (bytes.len(), first * 512 + bytes.len() as u64);
        bytes.resize(from + *sectors as usize * 512, 0);
        what.put(&mut bytes[from..], at % BLOCK);
    }
    bytes.truncate((EXTENTS * EXTENT - first * 512) as usize);
    bytes
}

pub async fn write(disk: &Vdisk<SimMachine>, m: &SimMachine, at: u64, bytes: &[u8]) {
    let mut buffer = m.buffers().alloc(bytes.len()).await;
    buffer.copy_from_slice(bytes);
    disk.write(at, buffer.freeze(), false).await.expect("a write");
}

pub async fn read(disk: &Vdisk<SimMachine>, m: &SimMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in 0..EXTENTS {
        let buffer = m.buffers().alloc(EXTENT as usize).await;
        bytes.extend_from_slice(&disk.read(extent * EXTENT, buffer).await.expect("a read"));
    }
    bytes
}

pub fn first_difference(found: &[u8], model: &[u8]) -> Option<String> {
    let at = found.iter().zip(model).position(|(a, b)| a != b)?;
    Some(format!(
        "byte {at} (extent {}, block {}) is {} and should be {}",
        at as u64 / EXTENT,
        at as u64 % EXTENT / BLOCK,
        found[at],
        model[at]
    ))
}
