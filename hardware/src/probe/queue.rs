//! What the block layer publishes of a device's queue.

use std::path::Path;

/// Limits and abilities of a block device's queue, from the `queue` folder of its place in sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// The cache loses its contents with the power (`write_cache` is not `write through`).
    pub volatile_cache: bool,
    /// Single writes can go through the cache (`fua`).
    pub fua: bool,
    /// Bytes of the largest discard (`discard_max_bytes`), 0 for none.
    pub discard_max: u64,
    /// Bytes of the largest write-zeroes (`write_zeroes_max_bytes`), 0 for none.
    pub write_zeroes_max: u64,
    /// A magnetic disk (`rotational`).
    pub rotational: bool,
}

impl QueueLimits {
    /// Reads them for the device at `directory`, such as `/sys/dev/block/259:1`. A partition has no queue of its own;
    /// its parent's is read. What is missing is assumed to be the worst that is safe: a volatile cache, no FUA, no
    /// discard, no zeroing.
    pub fn read(directory: &Path) -> Self {
        // A partition's folder lies inside its disk's; the links of /sys/dev/block lead to the real places.
        let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        let own = directory.join("queue");
        let queue = match directory.parent() {
            Some(parent) if !own.is_dir() => parent.join("queue"),
            _ => own,
        };
        let text = |name| std::fs::read_to_string(queue.join(name)).ok().map(|text| text.trim().to_owned());
        let number = |name| text(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Self {
            volatile_cache: text("write_cache").is_none_or(|kind| kind != "write through"),
            fua: number("fua") != 0,
            discard_max: number("discard_max_bytes"),
            write_zeroes_max: number("write_zeroes_max_bytes"),
            rotational: number("rotational") != 0,
        }
    }

    /// What they come to through the page cache: that is volatile, whatever the device's own is, and a single write that is to be durable
    /// may fail there for what others have left.
    pub fn through_page_cache(self) -> Self {
        Self { volatile_cache: true, fua: false, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_is_volatile_whatever_the_device_says() {
        let safe =
            QueueLimits { volatile_cache: false, fua: true, discard_max: 8, write_zeroes_max: 4, rotational: true };
        let through = QueueLimits { volatile_cache: true, fua: false, ..safe.clone() };
        assert_eq!(safe.through_page_cache(), through);
    }

    #[test]
    fn a_partition_has_its_disks_queue() -> std::io::Result<()> {
        let sysfs = tempfile::tempdir()?;
        let disk = sysfs.path().join("devices/nvme0n1");
        std::fs::create_dir_all(disk.join("queue"))?;
        std::fs::create_dir_all(disk.join("nvme0n1p1"))?;
        let write = |name: &str, text: &str| std::fs::write(disk.join("queue").join(name), text);
        write("write_cache", "write back\n")?;
        write("fua", "1\n")?;
        write("discard_max_bytes", "2199023255040\n")?;
        write("write_zeroes_max_bytes", "131072\n")?;
        write("rotational", "0\n")?;
        let expected = QueueLimits {
            volatile_cache: true,
            fua: true,
            discard_max: 2_199_023_255_040,
            write_zeroes_max: 131_072,
            rotational: false,
        };
        assert_eq!(QueueLimits::read(&disk), expected);
        let link = sysfs.path().join("259:1");
        std::os::unix::fs::symlink(disk.join("nvme0n1p1"), &link)?;
        assert_eq!(QueueLimits::read(&link), expected);
        write("write_cache", "write through\n")?;
        assert!(!QueueLimits::read(&link).volatile_cache);
        Ok(())
    }

    #[test]
    fn what_is_not_published_is_assumed_to_be_the_worst() {
        let limits = QueueLimits::read(Path::new("/nowhere/0:0"));
        assert!(limits.volatile_cache && !limits.fua);
        assert_eq!((limits.discard_max, limits.write_zeroes_max), (0, 0));
    }
}
