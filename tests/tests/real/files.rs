//! Files that tests make, and their names as arguments of programs.

use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A sparse file.
pub(crate) fn file(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    File::create_new(&path).and_then(|file| file.set_len(bytes)).expect("make a file");
    path
}
