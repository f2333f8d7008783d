//! The block devices of this machine and what uses them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::QueueLimits;

/// A block device as `plimsoll device list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSummary {
    /// The kernel's name, such as `nvme0n1p1`.
    pub name: String,
    /// Its device file, such as `/dev/nvme0n1p1`.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// The maker's words, trimmed; empty when there are none.
    pub model: String,
    /// A magnetic disk.
    pub rotational: bool,
    /// Write-protected.
    pub read_only: bool,
    /// A part of another device.
    pub is_partition: bool,
    /// What uses it: `mounted at /srv`, `part of dm-0`, `has partition sda1`, `swap`. Empty when it is free.
    pub users: Vec<String>,
}

/// All block devices with a size, by name. Devices that vanish while they are listed are left out.
pub fn list_devices() -> Vec<DeviceSummary> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    list(Path::new("/sys/class/block"), &mounts, &swaps)
}

fn list(class: &Path, mountinfo: &str, swaps: &str) -> Vec<DeviceSummary> {
    let mounts = mounts_by_device(mountinfo);
    let names = fs::read_dir(class).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names.iter().filter_map(|name| summarize(class, name, &mounts, swaps)).collect()
}

fn summarize(class: &Path, name: &str, mounts: &BTreeMap<String, Vec<String>>, swaps: &str) -> Option<DeviceSummary> {
    let directory = fs::canonicalize(class.join(name)).ok()?;
    let text = |file: &str| fs::read_to_string(directory.join(file)).map(|text| text.trim().to_owned());
    // Always in units of 512 bytes, whatever the device's blocks are (Documentation/ABI/stable/sysfs-block).
    let size = text("size").ok()?.parse::<u64>().ok()?.saturating_mul(512);
    if size == 0 {
        return None;
    }
    // In sysfs a `!` stands for a `/` in the name of the device file.
    let path = Path::new("/dev").join(name.replace('!', "/"));
    let mut users = Vec::new();
    if let Ok(number) = text("dev") {
        users.extend(mounts.get(&number).into_iter().flatten().map(|place| format!("mounted at {place}")));
    }
    let device_file = path.display().to_string();
    if swaps.lines().skip(1).any(|line| line.split_whitespace().next() == Some(&*device_file)) {
        users.push("swap".into());
    }
    users.extend(children(&directory.join("holders")).map(|holder| format!("part of {holder}")));
    let partitions = children(&directory).filter(|child| directory.join(child).join("partition").exists());
    users.extend(partitions.map(|partition| format!("has partition {partition}")));
    Some(DeviceSummary {
        name: name.to_owned(),
        path,
        size,
        model: text("device/model").unwrap_or_default(),
        rotational: QueueLimits::read(&directory).rotational,
        read_only: text("ro").is_ok_and(|text| text == "1"),
        is_partition: directory.join("partition").exists(),
        users,
    })
}

fn children(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names.into_iter()
}

/// Mount points by `major:minor`, from proc_pid_mountinfo(5).
fn mounts_by_device(mountinfo: &str) -> BTreeMap<String, Vec<String>> {
    let mut mounts = BTreeMap::<_, Vec<_>>::new();
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        if let (Some(device), Some(place)) = (fields.nth(2), fields.nth(1)) {
            mounts.entry(device.to_owned()).or_default().push(place.replace("\\040", " "));
        }
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_listed_with_its_partitions_mounts_and_holders() -> std::io::Result<()> {
        let root = tempfile::tempdir()?;
        let disk = root.path().join("devices/sda");
        for folder in ["holders", "device", "queue", "sda1/holders/dm-0"] {
            fs::create_dir_all(disk.join(folder))?;
        }
        let files = [
            ("size", "2048\n"),
            ("dev", "8:0\n"),
            ("ro", "0\n"),
            ("device/model", "Great Disk  \n"),
            ("queue/rotational", "1\n"),
            ("sda1/size", "1024\n"),
            ("sda1/dev", "8:1\n"),
            ("sda1/partition", "1\n"),
        ];
        for (name, text) in files {
            fs::write(disk.join(name), text)?;
        }
        let class = root.path().join("class");
        fs::create_dir(&class)?;
        std::os::unix::fs::symlink(&disk, class.join("sda"))?;
        std::os::unix::fs::symlink(disk.join("sda1"), class.join("sda1"))?;
        let mounts = "36 35 8:1 / /srv/with\\040space rw,noatime master:1 - ext4 /dev/sda1 rw\n";
        let found = list(&class, mounts, "Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n");
        let [whole, part] = &found[..] else { panic!("two devices were made, {found:?} were found") };
        assert_eq!((whole.size, &*whole.model, whole.rotational), (1 << 20, "Great Disk", true));
        assert_eq!(whole.users, ["swap", "has partition sda1"]);
        assert!(part.is_partition && part.rotational);
        assert_eq!(part.users, ["mounted at /srv/with space", "part of dm-0"]);
        Ok(())
    }
}
