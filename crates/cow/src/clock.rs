//! Reading the clock that stamps files.
//!
//! File times come from a coarse clock that ticks every few milliseconds; from Linux 6.13 on, some
//! file systems hand out a fine stamp when the previous one has been looked at ("multigrain
//! timestamps", `Documentation/filesystems/multigrain-ts.rst`), with the guarantee that no later
//! change anywhere gets an earlier stamp. A clock system call would be ahead of both; only a probe
//! file reads the right clock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Timespec, Timestamps, futimens};

use crate::dir::random_hex;
use crate::layer::Timestamp;

/// Longest wait for a later tick: file systems that store whole seconds (or two) still pass.
const PATIENCE: Duration = Duration::from_secs(5);

/// A moment `base` on the clock of the file system that holds `dir`, such that every file changed
/// before this call has ctime < `base` and every file changed after it has ctime ≥ `base`.
///
/// `dir` should be on the same file system as the tree to watch (or one driven by the same kernel
/// clock: any local one with times as fine). `earlier` is a reading that the result must also exceed.
/// Takes one clock tick: below 20 ms on usual file systems.
///
/// # Errors
/// `dir` is not writable, or its clock does not advance within five seconds.
pub fn base_timestamp(dir: &Path, earlier: Option<Timestamp>) -> io::Result<Timestamp> {
    let path = dir.join(format!(".agentwall-clock-{}", random_hex()?));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let result = later_tick(&file, earlier);
    let removed = std::fs::remove_file(&path);
    let base = result?;
    removed?;
    Ok(base)
}

fn later_tick(file: &File, earlier: Option<Timestamp>) -> io::Result<Timestamp> {
    let first = ctime(file)?;
    let floor = earlier.map_or(first, |e| e.max(first));
    let start = Instant::now();
    loop {
        // Setting a time explicitly is what stamps ctime; the value itself does not matter.
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        futimens(
            file,
            &Timestamps {
                last_access: zero,
                last_modification: zero,
            },
        )?;
        let now = ctime(file)?;
        if now > floor {
            return Ok(now);
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other(
                "the file system clock did not advance within 5 s; use a folder on a local file system",
            ));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn ctime(file: &File) -> io::Result<Timestamp> {
    let meta = file.metadata()?;
    Ok(Timestamp {
        sec: meta.ctime(),
        nsec: u32::try_from(meta.ctime_nsec()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_before_from_after_every_time() {
        let tmp = tempfile::tempdir().unwrap();
        let mut last = None;
        for i in 0..400 {
            let before = File::create(tmp.path().join(format!("b{i}"))).unwrap();
            if i % 2 == 0 {
                // A looked-at stamp is what makes the next one fine-grained.
                ctime(&before).unwrap();
                std::fs::write(tmp.path().join(format!("b{i}")), b"x").unwrap();
            }
            let base = base_timestamp(tmp.path(), last).unwrap();
            let after = File::create(tmp.path().join(format!("a{i}"))).unwrap();
            assert!(ctime(&before).unwrap() < base, "round {i}: before");
            assert!(ctime(&after).unwrap() >= base, "round {i}: after");
            assert!(last.is_none_or(|l| l < base));
            last = Some(base);
        }
        let left = std::fs::read_dir(tmp.path()).unwrap().count();
        assert_eq!(left, 800, "the probe file is removed");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(base_timestamp(Path::new("/nonexistent-agentwall"), None).is_err());
    }
}
