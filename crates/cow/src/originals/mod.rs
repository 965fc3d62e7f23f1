//! What originals held when a session began, kept beside its layer (`UPPER.originals/`) by reflink: the
//! base of a three-way merge where git does not have it.
//!
//! A clone shares the blocks of its original (`FICLONE`, ioctl_ficlonerange(2)) and takes no room of its
//! own until the original is written to. Where the file system cannot do that nothing is kept: copies of
//! bytes would cost what reflinks do not.
//!
//! | module | does |
//! |---|---|
//! | `keep` | clones, beside the session and when it has ended |
//!
//! # Invariants
//! * A clone's name tells the version that it is of: device, inode and change time, as the base
//!   manifest has them. Programs cannot set a change time, so no clone is taken for another version.
//! * It counts only if the original, looked at after it was cloned, is exactly what the manifest says.
//!   A change sets the change time before it touches the content, so a clone that holds a later edit is
//!   never among them.
//! * The folder takes its name when every clone in it was checked and is durable. What a kill leaves
//!   has another name (`UPPER.originals.new`) and is never read.

mod keep;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, fstat, linkat};
use rustix::io::Errno;

use crate::content::read_full;
use crate::copy::sync_folder;
use crate::dir::{EntryKind, Snapshot, Tree, list_all, open_in};
use crate::layer::Layer;

pub use keep::{KeepLimits, Kept, NotKept};
pub(crate) use keep::{Keeping, can_clone, ficlone};

/// Whether originals are kept beside a layer.
pub fn keeps_originals(layer: &Layer) -> bool {
    layer.originals_path().is_dir()
}

/// What an original held when the base manifest saw it, if a clone of that version is kept.
///
/// # Errors
/// It is there and cannot be read, or is no regular file of the recorded size.
pub fn kept_original(layer: &Layer, seen: &Snapshot) -> io::Result<Option<Vec<u8>>> {
    let opened = Tree::open(&layer.originals_path(), false)
        .and_then(|folder| open_in(folder.dir(b"")?, name_of(seen).as_bytes(), OFlags::RDONLY));
    let clone = match opened {
        Ok(clone) => clone,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let found = Snapshot::new(&fstat(&clone)?);
    let wrong = || io::Error::other("it is not the file that was kept");
    if found.kind != EntryKind::File || found.size != seen.size {
        return Err(wrong());
    }
    let mut bytes = vec![0; usize::try_from(seen.size).map_err(|_| wrong())?];
    match read_full(clone.as_fd(), &mut bytes, 0)? == bytes.len() {
        true => Ok(Some(bytes)),
        false => Err(wrong()),
    }
}

/// Removes what is kept, finished or not.
pub(crate) fn remove(layer: &Layer) -> io::Result<()> {
    remove_folder(&layer.originals_temporary())?;
    remove_folder(&layer.originals_path())
}

/// Gives what one layer keeps to another one with the same base manifest, under further names of the
/// same clones, which nobody ever changes. On another file system it is left out. Durable on return.
pub(crate) fn share(from: &Layer, to: &Layer) -> io::Result<()> {
    let (temporary, path) = (to.originals_temporary(), to.originals_path());
    let source = match Tree::open(&from.originals_path(), false) {
        Ok(source) => source.dir(b"")?,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    remove(to)?;
    let target = made(&temporary)?;
    for name in list_all(source.as_fd())? {
        let name = name.as_slice();
        match linkat(&source, name, &target, name, AtFlags::empty()) {
            // Another file system, or as many names as a file can have.
            Err(Errno::XDEV | Errno::MLINK) => return remove_folder(&temporary),
            other => other?,
        }
    }
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, &path)?;
    sync_folder(&path)
}

/// The name of a clone: what the manifest says of the original, in hexadecimal digits.
fn name_of(seen: &Snapshot) -> String {
    let time = (seen.ctime.sec, seen.ctime.nsec);
    let id = seen.id;
    format!("{:x}-{:x}-{:x}-{:x}", id.dev, id.ino, time.0, time.1)
}

/// A new private folder.
fn made(path: &Path) -> io::Result<OwnedFd> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    Ok(Tree::open(path, false)?.dir(b"")?)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
