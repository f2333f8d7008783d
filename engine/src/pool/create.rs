//! Making a pool: labels and a first root, on devices that hold nothing else.

use plimsoll_hardware::{Device, Durability, Frozen, IoError, Machine};
use uuid::Uuid;

use super::identify::read_label;
use super::layout::{END_BYTES, Layout, label_places, lay_out, next_base, ring_pages, rings_kept, root_places};
use super::{OpenPool, Pool};
use crate::error::{Error, Result};
use crate::format::{
    DEVICES_MAX, DeviceSlot, EXTENT_BYTES, JournalStart, LabelPage, NAME_BYTES_MAX, PAGE_BYTES, PageAddr, PoolPolicy,
    RingPlace, RootPage, Standing, TreeRoot, WRITTEN_FEATURES, is_name,
};
use crate::space::{META_EXTENT_BYTES, reserve_extents};
use crate::vdisk::Store;

/// Bytes written at once while a ring is cleared.
const CLEAR_BYTES: usize = 1 << 20;

/// What to make.
#[derive(Clone, Debug)]
pub struct CreatePool {
    /// 1 to 64 bytes: letters, digits, `-`, `_`, `.`; the first a letter or digit.
    pub name: String,
    /// Bytes of an extent: a power of two from 65,536 to 1,048,576.
    pub extent_bytes: u32,
    /// Take devices that belong to another pool.
    pub force: bool,
}

impl CreatePool {
    /// A pool with extents of 64 KiB.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), extent_bytes: *EXTENT_BYTES.start(), force: false }
    }
}

/// Refuses names that shells, URLs and protocols would trip over.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "{what} name {name:?} cannot be used: 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', beginning with a \
         letter or digit"
    )))
}

impl<M: Machine> Pool<M> {
    /// Makes a pool of `devices` and opens it.
    ///
    /// # Errors
    /// `InvalidArgument`, `TooSmall`, `InUse` when a device belongs to a pool and `force` is not set, `NoRoomBelow`, `Device`.
    pub async fn create(machine: &M, spec: CreatePool, devices: Vec<M::Device>) -> Result<Self> {
        let labels = Self::plan_labels(machine, &spec, &devices).await?;
        for (device, label) in devices.iter().zip(&labels) {
            have_room(device, label, &labels).await?;
        }
        let root = first_root(&labels);
        // The root goes first: a label without a root would be a damaged pool, a root without a label is nothing.
        for (device, label) in devices.iter().zip(&labels) {
            wipe(machine, device, label.size).await?;
            let mut page = machine.buffers().zeroed(PAGE_BYTES).await;
            root.encode(&mut page);
            let page = page.freeze();
            for place in root_places(label.size, root.generation) {
                device.write(place, page.clone(), Durability::Cached).await?;
            }
        }
        for ring in &labels[0].rings {
            let device = &devices[usize::from(ring.device)];
            clear_ring(machine, ring, async |at, zeros| device.write(at, zeros, Durability::Cached).await).await?;
        }
        for device in &devices {
            device.flush().await?;
        }
        for (device, label) in devices.iter().zip(&labels) {
            write_label(machine, label, async |at, page| device.write(at, page, Durability::Cached).await).await?;
        }
        for device in &devices {
            device.flush().await?;
        }
        Pool::open(machine, OpenPool::default(), devices).await
    }

    /// Says whether a pool can be made of `devices`, and changes nothing. Whether there is room below them is not looked for.
    ///
    /// # Errors
    /// As [`Pool::create`].
    pub async fn check_create(machine: &M, spec: &CreatePool, devices: &[M::Device]) -> Result<()> {
        Self::plan_labels(machine, spec, devices).await.map(drop)
    }

    async fn plan_labels(machine: &M, spec: &CreatePool, devices: &[M::Device]) -> Result<Vec<LabelPage>> {
        check_name("pool", &spec.name)?;
        if !EXTENT_BYTES.contains(&spec.extent_bytes) || !spec.extent_bytes.is_power_of_two() {
            return Err(Error::InvalidArgument(format!(
                "an extent of {} bytes cannot be used: a power of two from 64 KiB to 1 MiB",
                spec.extent_bytes
            )));
        }
        if devices.is_empty() || devices.len() > DEVICES_MAX {
            return Err(Error::InvalidArgument(format!(
                "a pool has 1 to {DEVICES_MAX} devices, not {}",
                devices.len()
            )));
        }
        for device in devices {
            refuse_used(machine, device, spec.force).await?;
        }
        labels(machine, spec, devices)
    }
}

/// Has a file's file system keep space for all that a pool without contents has on it: its ends, journal and metadata reserve. Nothing is
/// written.
async fn have_room<D: Device>(device: &D, label: &LabelPage, all: &[LabelPage]) -> Result<()> {
    let page = PAGE_BYTES as u64;
    let mut ranges: Vec<(u64, u64)> = label_places(label.size).map(|end| (end, END_BYTES)).into();
    let rings = label.rings.iter().filter(|ring| ring.device == label.index);
    ranges.extend(rings.map(|ring| (ring.page * page, ring.pages * page)));
    // Metadata begins at both ends of the pool.
    let half = reserve_extents(all.iter().map(|label| label.extents).sum()).div_ceil(2).min(label.extents);
    let (start, extent) = (label.extents_page * page, u64::from(label.extent_bytes));
    let (is_first, is_last) = (label.index == 0, usize::from(label.index) + 1 == all.len());
    let at_start = (0..half).filter(|_| is_first);
    let at_end = (label.extents - half..label.extents).filter(|&number| is_last && !(is_first && number < half));
    ranges.extend(at_start.chain(at_end).map(|number| (start + number * extent, META_EXTENT_BYTES)));
    for &(offset, length) in &ranges {
        match device.allocate(offset, length).await {
            Err(IoError::NoSpace { path }) => {
                return Err(Error::NoRoomBelow { path, needed: ranges.iter().map(|(_, length)| length).sum() });
            }
            done => done?,
        }
    }
    Ok(())
}

/// Refuses a device that belongs to a pool, and one that cannot be written.
pub(super) async fn refuse_used<M: Machine>(machine: &M, device: &M::Device, force: bool) -> Result<()> {
    let geometry = device.geometry();
    if geometry.read_only {
        let reason = "the device cannot be written; make it writable".to_owned();
        return Err(Error::NotAPool { path: geometry.path.clone(), reason });
    }
    let found = match read_label(machine, device).await {
        Ok(None) => return Ok(()),
        Ok(Some(label)) => format!("device {} of pool {} ({})", label.index, label.name, label.pool),
        // Without its advice: another is given here.
        Err(Error::NotAPool { reason, .. }) => format!("a pool, but {}", reason.split("; ").next().unwrap_or(&reason)),
        Err(Error::Shortened { pool, .. }) => format!("a device of pool {pool} that was cut off"),
        Err(error) => return Err(error),
    };
    if force { Ok(()) } else { Err(Error::InUse { path: geometry.path.clone(), what: found }) }
}

fn labels<M: Machine>(machine: &M, spec: &CreatePool, devices: &[M::Device]) -> Result<Vec<LabelPage>> {
    let single = devices.len() == 1;
    let pages = ring_pages(devices.iter().take(2).map(|device| device.geometry().size).min().unwrap_or(0));
    let mut base = 0;
    let mut labels: Vec<LabelPage> = Vec::with_capacity(devices.len());
    let now = machine.wall_clock_ms();
    let pool = new_uuid(machine);
    let mut layouts: Vec<Layout> = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        let needed = if single { 2 } else { u64::from(index < 2) };
        // Room for the journal, should it have to leave the device that it is on.
        let rings = needed.max(rings_kept(device.geometry().size, pages));
        layouts.push(lay_out(device.geometry(), spec.extent_bytes, rings, pages)?);
    }
    let rings = layouts[0].rings(single);
    for (index, (device, layout)) in devices.iter().zip(&layouts).enumerate() {
        let size = device.geometry().size / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        labels.push(LabelPage {
            features: WRITTEN_FEATURES,
            pool,
            device: new_uuid(machine),
            index: index as u16,
            devices: devices.len() as u16,
            extent_bytes: spec.extent_bytes,
            size,
            extents_page: layout.extents_page,
            extents: layout.extents,
            extent_base: base,
            rings,
            created_ms: now,
            name: spec.name.clone(),
        });
        base = next_base(base + layout.extents);
    }
    Ok(labels)
}

fn first_root(labels: &[LabelPage]) -> RootPage {
    RootPage {
        pool: labels[0].pool,
        generation: 1,
        life: 0,
        clean: true,
        meta_sequence: 0,
        journal: JournalStart { sequence: 1, position: 0, previous: 0 },
        groups: TreeRoot::EMPTY,
        table: TreeRoot::EMPTY,
        patterns: TreeRoot::EMPTY,
        data_extents: 0,
        meta_extents: 0,
        rings: [PageAddr::NONE; 2],
        devices: labels.iter().map(device_slot).collect(),
        policy: PoolPolicy::default(),
    }
}

pub(super) fn device_slot(label: &LabelPage) -> DeviceSlot {
    DeviceSlot {
        device: label.device,
        size: label.size,
        extents_page: label.extents_page,
        extents: label.extents,
        extent_base: label.extent_base,
        standing: Standing::InUse,
        rate_kib: 0,
    }
}

impl<M: Machine> Store<M> {
    /// The label of a device of this pool at `index`, one of `devices`: what [`device_slot`] takes from it, and what all labels say.
    pub(super) fn label_of(&self, index: u16, devices: usize, slot: &DeviceSlot) -> LabelPage {
        LabelPage {
            features: WRITTEN_FEATURES,
            pool: self.identity.uuid,
            device: slot.device,
            index,
            devices: devices as u16,
            extent_bytes: self.media.extent_bytes as u32,
            size: slot.size,
            extents_page: slot.extents_page,
            extents: slot.extents,
            extent_base: slot.extent_base,
            rings: self.identity.rings,
            created_ms: self.identity.created_ms,
            name: self.identity.name.clone(),
        }
    }
}

/// Zeros both ends of a device of `size` bytes, so that nothing of a former pool or file system is found there.
pub(super) async fn wipe<M: Machine>(machine: &M, device: &M::Device, size: u64) -> Result<()> {
    let zeros = machine.buffers().privileged().zeroed(END_BYTES as usize).await.freeze();
    for place in label_places(size) {
        device.write(place, zeros.clone(), Durability::Cached).await?;
    }
    Ok(())
}

/// Writes zeros over a ring: in a sparse file that gives it its space, so the journal never meets a full file system.
pub(super) async fn clear_ring<M: Machine>(
    machine: &M,
    ring: &RingPlace,
    write: impl AsyncFn(u64, Frozen) -> Result<(), IoError>,
) -> Result<()> {
    let (mut page, end) = (ring.page, ring.page + ring.pages);
    let mut zeros = machine.buffers().privileged().alloc_up_to(CLEAR_BYTES).await;
    zeros.fill(0);
    let zeros = zeros.freeze();
    while page < end {
        let bytes = zeros.len().min((end - page) as usize * PAGE_BYTES);
        write(page * PAGE_BYTES as u64, zeros.slice(0..bytes)).await?;
        page += (bytes / PAGE_BYTES) as u64;
    }
    Ok(())
}

/// Writes a label to both ends of its device.
pub(super) async fn write_label<M: Machine>(
    machine: &M,
    label: &LabelPage,
    write: impl AsyncFn(u64, Frozen) -> Result<(), IoError>,
) -> Result<()> {
    let mut page = machine.buffers().privileged().zeroed(PAGE_BYTES).await;
    label.encode(&mut page);
    let page = page.freeze();
    for place in label_places(label.size) {
        write(place, page.clone()).await?;
    }
    Ok(())
}

/// A UUID of version 7 from the machine's clock and randomness.
pub(super) fn new_uuid<M: Machine>(machine: &M) -> Uuid {
    let random = (u128::from(machine.random()) << 64 | u128::from(machine.random())).to_be_bytes();
    let mut bytes = [0u8; 10];
    bytes.copy_from_slice(&random[..10]);
    uuid::Builder::from_unix_timestamp_millis(machine.wall_clock_ms(), &bytes).into_uuid()
}
