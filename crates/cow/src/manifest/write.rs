//! Writing what was walked: a file that appears as a whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{OFlags, fstat, fsync};
use sha2::{Digest as _, Sha256};

use super::format::Head;
use super::take::{Refusal, TakeError};
use super::walk::{Trees, Walked, rounded};
use crate::dir::Snapshot;
use crate::layer::{Layer, Timestamp};

/// Writes what was walked: a temporary name, synced, renamed, and the folder synced.
pub(super) fn write(layer: &Layer, walked: Walked) -> Result<Result<u64, Refusal>, TakeError> {
    let path = layer.manifest_path();
    let temporary = layer.manifest_temporary();
    let fail = |source: io::Error| TakeError::Write {
        path: path.clone(),
        source,
    };
    let Walked { outcome, mut head } = walked;
    let done = || -> io::Result<Result<u64, Refusal>> {
        let mut result = outcome.as_ref().map(|t| t.objects).map_err(|r| *r);
        let file = head_of(&mut head, &result);
        let stamp = write_file(&temporary, file, outcome.as_ref().ok())?;
        if result.is_ok() && stamp < rounded(layer.base, stamp) {
            // Its own change time is a reading of the clock: all that was "before the base" is moot.
            result = Err(Refusal::Clock);
            write_file(&temporary, head_of(&mut head, &result), None)?;
        }
        std::fs::rename(&temporary, &path)?;
        let folder = path.parent().unwrap_or(&path);
        fsync(File::open(folder)?)?;
        Ok(result)
    }();
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        fail(e)
    })
}

fn head_of(head: &mut Head, result: &Result<u64, Refusal>) -> Head {
    match result {
        Ok(objects) => (head.state, head.objects) = (0, *objects),
        Err(refusal) => (head.state, head.objects) = (refusal.number(), 0),
    }
    *head
}

/// Writes and syncs one file, and answers its change time.
fn write_file(path: &Path, head: Head, trees: Option<&Trees>) -> io::Result<Timestamp> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let mut out = Summed {
        file: BufWriter::with_capacity(1 << 16, file),
        sum: Sha256::new(),
    };
    out.put(&head.to_bytes())?;
    if let Some(trees) = trees {
        // Whoever walked which directory: the file has them in the order of the tree.
        let mut place = vec![(0usize, 0usize); trees.outputs.iter().map(|o| o.done.len()).sum()];
        for (walker, output) in trees.outputs.iter().enumerate() {
            for (n, done) in output.done.iter().enumerate() {
                let slot = place.get_mut(done.block as usize);
                *slot.ok_or_else(incomplete)? = (walker, n);
            }
        }
        let mut stack = vec![0u32];
        while let Some(block) = stack.pop() {
            let (walker, n) = *place.get(block as usize).ok_or_else(incomplete)?;
            let output = trees.outputs.get(walker).ok_or_else(incomplete)?;
            let done = output.done.get(n).filter(|done| done.block == block);
            let done = done.ok_or_else(incomplete)?;
            out.put(&output.bytes[done.start..done.end])?;
            stack.extend((done.first_child..done.first_child + done.children).rev());
        }
    }
    let sum = out.sum.finalize();
    out.file.write_all(&sum)?;
    let file = out
        .file
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(Snapshot::new(&fstat(&file)?).ctime)
}

fn incomplete() -> io::Error {
    io::Error::other("a directory was left out of the walk")
}

struct Summed {
    file: BufWriter<File>,
    sum: Sha256,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }
}
