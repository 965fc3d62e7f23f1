//! Folders that targets work in: in memory where the host has a memory file system.

use std::{fs, path::PathBuf};

/// A fresh folder of this process.
pub fn folder(name: &str) -> PathBuf {
    let base = std::env::var_os("FUZZ_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = base.join(format!("agentwall-fuzz-{name}-{}", std::process::id()));
    // Left over from an older process of the same number.
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder for scratch files");
    path
}
