//! What a seed makes of its world: devices, extents, how much goes wrong.

use plimsoll_hardware::sim::{FaultKind, FaultProfile, FaultSite, Random, SimDiskSpec, SimWorld};

use super::pattern::{SECTOR, Seen, look};

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
    /// The end of a device at which rings, labels and roots may be damaged without a word: its index, and whether it is the far end.
    pub frail_end: (usize, bool),
}

/// Bytes at both ends of a device that hold labels and roots.
const END: u64 = 65_536;
/// Bytes of a label, with which a device begins.
const LABEL_BYTES: u64 = 4096;

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
        let faulty = random.below(3) != 0;
        let setup = Setup {
            devices,
            extent,
            logical_block,
            faults: faulty.then(|| FaultProfile::draw(random)),
            disks_max: 1 + random.below(4) as usize,
            windows: 1 + random.below(4) as usize,
            lives: 8,
            clients: 1 + random.below(6) as usize,
            small_cache: random.below(3) == 0,
            files: !faulty && random.coin(),
            sizes,
            frail_end: (random.below(2) as usize % devices, random.coin()),
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

    /// Lets faults strike where the engine promises to bear them.
    ///
    /// Two seeds in three have faults, each kind at a rate of its own from 0 to 10 % (devices vanish in 1 % at most), absent from half of
    /// them; in the others errors are errors of the engine. What stays out, because nobody promises anything then:
    /// - Flushes that lie. All that is durable rests on them.
    /// - Silent damage to data, which has no checksums: a bit flips, and a write is lost or misdirected, only where metadata is or is to
    ///   be, and lands only on metadata. Told by its contents: clients write nothing that looks like it.
    /// - Silent damage to both copies of a page. Contents that are in one place only, and contents that were struck once, are spared
    ///   (`leave_a_copy`). Two pages of zeros that are written to clear a place are no two copies.
    /// - Silent damage to both rings: one page costs a whole batch, so another page of it must not be bad in the other. The rings lie at
    ///   different ends, wherever they move; so of what may be a ring only that at one end of one device is struck.
    /// - Silent damage to the label in front, as any device may become larger before the label is mended. Until the pool has grown by that,
    ///   nothing else says where the other label is (`FORMAT.md`, section 2). `damage.rs` damages it.
    pub fn allow_faults(&self, world: &SimWorld) {
        let Some(profile) = self.faults else { return };
        world.leave_a_copy(is_metadata);
        let (setup, end_bytes) = (self.clone(), END + ring_bytes(self.sizes[0]) + self.extent);
        world.filter_faults(move |site| match site.kind {
            FaultKind::BitFlip | FaultKind::Misdirect | FaultKind::Lost => setup.is_frail(&site, end_bytes),
            _ => true,
        });
        world.set_faults(profile);
    }

    /// Whether a place may be damaged without a word: among the extents, or at the end where all that is in no extent may.
    /// What a device has grown by may be either, and is taken for an end.
    fn is_frail(&self, site: &FaultSite, end_bytes: u64) -> bool {
        let (from, until, size) = (site.offset, site.offset + site.length, self.sizes[site.disk]);
        let inside = from >= end_bytes && until <= size - end_bytes;
        let (disk, far) = self.frail_end;
        from >= LABEL_BYTES && (inside || site.disk == disk && if far { from >= size / 2 } else { until <= size / 2 })
    }
}

/// Whether a page holds something that is neither zeros nor a client's.
fn is_metadata(page: &[u8]) -> bool {
    let mut own = false;
    page.chunks_exact(SECTOR as usize).all(|sector| {
        let seen = look(sector);
        own |= matches!(seen, Seen::Garbage(_));
        matches!(seen, Seen::Garbage(_) | Seen::Zeros)
    }) && own
}

/// Bytes of a ring on a device of `size` bytes: as in `engine/src/pool/layout.rs`.
fn ring_bytes(size: u64) -> u64 {
    (size / 256).clamp(128 << 10, 32 << 20)
}
