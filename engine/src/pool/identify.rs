//! Who a device says it is.

use plimsoll_hardware::{Buffer, Device, IoError, Machine};
use uuid::Uuid;

use super::layout::label_places;
use crate::error::{Error, Result};
use crate::format::{FormatError, KNOWN_FEATURES, LabelPage, PAGE_BYTES};

/// Attempts at reading a label or root.
const READ_ATTEMPTS: u32 = 3;

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The pool's identity.
    pub pool: Uuid,
    /// The pool's name.
    pub pool_name: String,
    /// The device's identity.
    pub device: Uuid,
    /// Its place in the pool, from 0.
    pub index: u16,
    /// Devices that the pool had when this label was written.
    pub device_count: u16,
    /// Bytes of an extent: 65,536 to 1,048,576.
    pub extent_bytes: u32,
    /// Size in bytes that the device had.
    pub size: u64,
    /// When the pool was created, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Reads a device's label without opening its pool. `None`: there is none.
///
/// # Errors
/// `Device` when it cannot be read, `Shortened` when it is shorter than its label says, `NotAPool` when there is a label that is damaged
/// in both copies or of another version.
pub async fn identify<M: Machine>(machine: &M, device: &M::Device) -> Result<Option<Label>> {
    let label = read_label(machine, device).await?;
    Ok(label.map(|label| Label {
        pool: label.pool,
        pool_name: label.name,
        device: label.device,
        index: label.index,
        device_count: label.devices,
        extent_bytes: label.extent_bytes,
        size: label.size,
        created_ms: label.created_ms,
    }))
}

pub(super) async fn read_label<M: Machine>(machine: &M, device: &M::Device) -> Result<Option<LabelPage>> {
    let path = device.geometry().path.clone();
    let size = device.geometry().size;
    if size < 2 * super::layout::END_BYTES {
        return Ok(None);
    }
    let mut problem = None;
    for place in label_places(size) {
        match read_page(machine, device, place).await {
            Err(error) => problem = Some(Error::Device(error)),
            Ok(page) => match LabelPage::decode(&page) {
                Ok(label) if label.size > size => {
                    let uuids = (label.pool, label.device);
                    return Err(Error::Shortened { path, pool: label.name, uuids, label: label.size, size });
                }
                Ok(label) => return Ok(Some(label)),
                Err(FormatError::Magic) => {}
                Err(error) => {
                    let reason = format!(
                        "its pool label cannot be used: {error}; restore the device, or give up what it held (plimsoll pool create NAME \
                         --device {path} --force=foreign)"
                    );
                    problem = Some(Error::NotAPool { path: path.clone(), reason });
                }
            },
        }
    }
    match problem {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// Refuses a label with features that this version does not know. Answers why the pool may only be read, if so.
pub(super) fn check_features(label: &LabelPage) -> Result<Option<String>> {
    let unknown = |index: usize| label.features[index] & !KNOWN_FEATURES[index];
    if unknown(0) != 0 {
        return Err(Error::UnsupportedFeature { pool: label.name.clone(), bits: unknown(0) });
    }
    Ok((unknown(1) != 0).then(|| {
        format!("it was written by a newer version (unknown feature bits {:#x}); use that version to write", unknown(1))
    }))
}

pub(super) async fn read_page<M: Machine>(
    machine: &M,
    device: &M::Device,
    offset: u64,
) -> std::result::Result<Buffer, IoError> {
    let mut tried = 1;
    loop {
        let buffer = machine.buffers().privileged().alloc(PAGE_BYTES).await;
        match device.read(offset, buffer).await {
            // A label or root that cannot be read for a moment must not be taken for one that is not there.
            Err(IoError::Failed { .. }) if tried < READ_ATTEMPTS => tried += 1,
            result => return result,
        }
    }
}
