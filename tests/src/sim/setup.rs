//! What a seed makes of its world: devices, extents, how much goes wrong.

use plimsoll_hardware::sim::{FaultKind, FaultProfile, Mirror, Random, SimDiskSpec, SimWorld};

/// The make of one world.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Devices the pool is made of; the last of the world's is a spare.
    pub devices: usize,
    /// Bytes of an extent.
    pub extent: u64,
    /// The largest logical block of all devices, in bytes.
    pub logical_block: u64,
    /// Something goes wrong with devices.
    pub faults: Option<FaultProfile>,
    /// Vdisks at most.
    pub disks_max: usize,
    /// Windows of a vdisk.
    pub windows: usize,
    /// Lives of the image.
    pub lives: u32,
    /// Clients at most.
    pub clients: usize,
    /// Memory for the mapping is as small as it can be.
    pub small_cache: bool,
    /// Devices are files, whose file system may be full for a while.
    pub files: bool,
    /// Bytes of each device of the world.
    pub sizes: Vec<u64>,
}

/// Bytes at both ends of a device that hold labels and roots.
const END: u64 = 65_536;

impl Setup {
    /// Draws a setup and makes its world.
    pub fn draw(seed: u64, random: &mut Random) -> (Setup, SimWorld) {
        let extent = match random.below(10) {
            0 => 128 << 10,
            1 if random.coin() => 1 << 20,
            _ => 64 << 10,
        };
        let devices = [1, 1, 1, 2, 2, 3][random.below(6) as usize];
        let volatile = random.below(4) != 0;
        let large_blocks = random.below(4) == 0;
        let mut logical_block = 512;
        let disks: Vec<SimDiskSpec> = (0..=devices)
            .map(|index| {
                let least = (4 << 20).max(extent * 40 + (1 << 20));
                let mut spec = SimDiskSpec::new(&format!("disk{index}"), least + random.below(5) * (1 << 20));
                spec.volatile_cache = volatile != (random.below(8) == 0);
                spec.fua = random.coin();
                if large_blocks && random.below(4) != 0 {
                    spec.logical_block = 4096;
                    logical_block = 4096;
                }
                spec
            })
            .collect();
        let sizes = disks.iter().map(|disk| disk.size).collect();
        let world = SimWorld::new(seed, disks);
        let faulty = random.below(4) == 0;
        let setup = Setup {
            devices,
            extent,
            logical_block,
            faults: faulty.then(|| draw_faults(random)),
            disks_max: 1 + random.below(4) as usize,
            windows: 1 + random.below(4) as usize,
            lives: 8,
            clients: 1 + random.below(6) as usize,
            small_cache: random.below(3) == 0,
            files: !faulty && random.below(3) == 0,
            sizes,
        };
        (setup, world)
    }

    /// Bytes of the engine's block.
    pub fn block(&self) -> u64 {
        self.extent / 16
    }

    /// Whether devices may drop what was answered: with a flush or a durable write that fails, and when they go away.
    pub fn drops(&self) -> bool {
        self.faults.is_some_and(|faults| faults.flush_error > 0 || faults.write_error > 0 || faults.vanish > 0)
    }

    /// Whether devices do damage without a word. Where it may strike is told by places, so the pool's devices must stay as they are.
    pub fn silent_damage(&self) -> bool {
        self.faults.is_some_and(|faults| faults.bit_flip > 0 || faults.misdirect > 0 || faults.lost > 0)
    }

    /// Lets faults strike where the engine promises to bear them: silent damage only in the second copies of labels, roots and
    /// rings at the end of devices, and never both copies of anything there. Metadata pages have no fixed places: what
    /// a start cannot read of both copies is known by its counters.
    pub fn allow_faults(&self, world: &SimWorld) {
        let Some(profile) = self.faults else { return };
        let (single, sizes, ring) = (self.devices == 1, self.sizes.clone(), ring_bytes(self.sizes[0]));
        for (disk, size) in sizes.iter().enumerate() {
            world.add_mirror(Mirror { copies: vec![(disk, 0), (disk, size - END)], length: END });
        }
        let rings = if single { vec![(0, END), (0, sizes[0] - END - ring)] } else { vec![(0, END), (1, END)] };
        let length = sizes[..self.devices.min(2)].iter().map(|size| ring_bytes(*size)).min().unwrap_or(ring);
        world.add_mirror(Mirror { copies: rings, length });
        world.filter_faults(move |site| match site.kind {
            FaultKind::BitFlip | FaultKind::Misdirect | FaultKind::Lost => {
                site.offset >= sizes[site.disk] - END - if single { ring } else { 0 }
            }
            _ => true,
        });
        world.set_faults(profile);
    }
}

/// Bytes of a ring on a device of `size` bytes: as in `engine/src/pool/layout.rs`.
fn ring_bytes(size: u64) -> u64 {
    (size / 256).clamp(128 << 10, 32 << 20)
}

/// Rates in ten-thousandths, each fault absent from half the seeds, and all silent ones from half of them.
fn draw_faults(random: &mut Random) -> FaultProfile {
    let silent = u64::from(random.coin());
    let mut rate = |bound: u64| if bound == 0 || random.coin() { 0 } else { random.below(bound + 1) as u16 };
    FaultProfile {
        read_error: rate(300),
        write_error: rate(300),
        flush_error: rate(500),
        flush_lie: 0,
        bit_flip: rate(1000 * silent),
        misdirect: rate(1000 * silent),
        lost: rate(1000 * silent),
        slow: rate(1000),
        vanish: rate(30),
    }
}
