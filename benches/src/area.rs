//! The file that is measured: made, written in full, and taken away afterwards.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file of its own in a directory.
pub(crate) struct Area {
    path: PathBuf,
}

impl Area {
    /// A file with contents in every byte, on the medium.
    pub(crate) fn written(directory: &Path, name: &str, bytes: u64) -> io::Result<Self> {
        let area = Area::sparse(directory, name, 0)?;
        let mut file = File::options().write(true).open(&area.path)?;
        let block = vec![0xa5; 1 << 20];
        for _ in 0..bytes.div_ceil(1 << 20) {
            file.write_all(&block)?;
        }
        file.set_len(bytes)?;
        file.sync_all()?;
        Ok(area)
    }

    /// A file of holes.
    pub(crate) fn sparse(directory: &Path, name: &str, bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("plimsoll-bench-{name}-{}", std::process::id()));
        File::create(&path)?.set_len(bytes)?;
        Ok(Area { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
