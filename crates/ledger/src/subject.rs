//! The keys of subjects: one random key per session, with which the text of its entries is encrypted. To
//! destroy the key is to erase the text, wherever copies of the ciphertext are.
//!
//! A file per session, 32 bytes, mode 0600, named after the session. Whoever writes entries of a session holds
//! a shared lock on its key; who erases takes it alone, so nothing is written with a key that is
//! being destroyed. The folder's own lock orders making and destroying.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    hash::sha256_hex,
    store::{Disk, FileError},
};

const KEY: usize = 32;

/// The key of one session.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SubjectKey(pub(crate) [u8; KEY]);

/// Does not show it.
impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey")
    }
}

/// The folder of the keys.
#[derive(Debug, Clone)]
pub struct Subjects {
    dir: PathBuf,
}

/// Why there is no key.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not 32 bytes in a regular file that is the owner's alone.
    #[error("{path} is not the key of a session: {expected}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Entries are being written with it.
    #[error("session {session} still runs: its text can be erased when it has ended")]
    InUse {
        /// The session.
        session: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl Subjects {
    /// The keys in this folder, which is made with the first key.
    pub fn new(dir: &Path) -> Self {
        Subjects {
            dir: dir.to_owned(),
        }
    }

    fn path(&self, session: &str) -> PathBuf {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_name = (1..=128).contains(&session.len()) && session.bytes().all(plain);
        match is_name {
            true => self.dir.join(format!("{session}.key")),
            // A dot is in no plain name.
            false => self
                .dir
                .join(format!("sha256.{}.key", sha256_hex(session.as_bytes()))),
        }
    }

    /// The key of a session, for reading; `None` when there is none (any more).
    pub(crate) fn load(&self, session: &str) -> Result<Option<SubjectKey>, SubjectError> {
        let path = self.path(session);
        let file = self.open(&path, false)?;
        Ok(file.map(|file| key_in(&path, &file)).transpose()?.flatten())
    }

    /// The key of a session, for writing; made, durably, if there is none.
    pub(crate) fn hold(&self, session: &str) -> Result<Held, SubjectError> {
        let path = self.path(session);
        if let Some(held) = self.try_hold(&path)? {
            return Ok(held);
        }
        let _making = self.lock()?;
        match self.try_hold(&path)? {
            Some(held) => Ok(held),
            None => self.make(&path),
        }
    }

    fn try_hold(&self, path: &Path) -> Result<Option<Held>, SubjectError> {
        let failed = |operation| move |e| FileError::new(operation, path, e);
        let Some(file) = self.open(path, false)? else {
            return Ok(None);
        };
        file.lock_shared().map_err(failed("lock"))?;
        // It may have been destroyed while this waited.
        let gone = file.metadata().map_err(failed("read"))?.nlink() == 0;
        let key = key_in(path, &file)?;
        Ok(key.filter(|_| !gone).map(|key| Held { key, file }))
    }

    fn make(&self, path: &Path) -> Result<Held, SubjectError> {
        let mut key = [0; KEY];
        getrandom::fill(&mut key).map_err(|e| SubjectError::Random(e.to_string()))?;
        let temporary = path.with_extension("tmp");
        let make = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary)?;
            file.write_all(&key)?;
            file.sync_all()?;
            file.lock_shared()?;
            fs::rename(&temporary, path)?;
            File::open(&self.dir)?.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|e| FileError::new("make", path, e))?;
        let key = SubjectKey(key);
        Ok(Held { key, file })
    }

    /// Takes the key of a session to destroy it; `None` when there is none.
    pub fn seize(&self, session: &str) -> Result<Option<Seized>, SubjectError> {
        let path = self.path(session);
        let dir = self.dir.clone();
        let Some(file) = self.open(&path, true)? else {
            return Ok(None);
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let session = session.to_owned();
                return Err(SubjectError::InUse { session });
            }
            Err(TryLockError::Error(e)) => return Err(FileError::new("lock", &path, e).into()),
        }
        let meta = file
            .metadata()
            .map_err(|e| FileError::new("read", &path, e))?;
        Ok((meta.nlink() > 0).then_some(Seized { dir, path, file }))
    }

    /// Held by whoever makes or destroys a key.
    fn lock(&self) -> Result<File, FileError> {
        let failed = |operation| move |e| FileError::new(operation, &self.dir, e);
        let dir = match File::open(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_folder(&self.dir).map_err(failed("make"))?;
                File::open(&self.dir)
            }
            other => other,
        };
        let dir = dir.map_err(failed("open"))?;
        dir.lock().map_err(failed("lock"))?;
        Ok(dir)
    }

    fn open(&self, path: &Path, write: bool) -> Result<Option<File>, SubjectError> {
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| FileError::new("open", path, e))?,
        };
        let meta = file
            .metadata()
            .map_err(|e| FileError::new("open", path, e))?;
        if !meta.is_file() || meta.mode() & 0o077 != 0 {
            return Err(SubjectError::NotAKey {
                path: path.to_owned(),
                expected: "expected a regular file of mode 0600",
            });
        }
        Ok(Some(file))
    }
}

/// A folder for its owner alone, and its name durable.
pub(crate) fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// `None` for one that is being destroyed: it is all zeros.
fn key_in(path: &Path, file: &File) -> Result<Option<SubjectKey>, SubjectError> {
    let mut bytes = Vec::with_capacity(KEY + 1);
    let read = file.take(KEY as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| FileError::new("read", path, e))?;
    let key = <[u8; KEY]>::try_from(bytes).map_err(|_| SubjectError::NotAKey {
        path: path.to_owned(),
        expected: "expected 32 bytes",
    })?;
    Ok((key != [0; KEY]).then_some(SubjectKey(key)))
}

/// A key that entries are written with; nobody destroys it meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: SubjectKey,
    file: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A child that has the file open, too, must not keep the lock.
        let _ = self.file.unlock();
    }
}

/// A key that nobody writes with, to be destroyed.
#[derive(Debug)]
pub struct Seized {
    dir: PathBuf,
    path: PathBuf,
    file: File,
}

impl Seized {
    /// Writes over the key, durably, and removes it. What a copy elsewhere, a snapshot or the cells of a flash
    /// disk still hold is not reached.
    pub(crate) fn destroy(self, disk: &dyn Disk) -> Result<(), FileError> {
        let failed = |operation| {
            let path = self.path.clone();
            move |e| FileError::new(operation, &path, e)
        };
        disk.write_at(&self.path, &self.file, 0, &[0; KEY])
            .and_then(|()| disk.sync(&self.path, &self.file))
            .map_err(failed("write over"))?;
        let dir = File::open(&self.dir).map_err(failed("remove"))?;
        let remove = || {
            dir.lock()?;
            // A key of the same name that was made meanwhile is another one.
            let (meant, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
            if (meant.dev(), meant.ino()) == (there.dev(), there.ino()) {
                disk.remove(&self.path)?;
            }
            disk.sync_dir(&self.dir)
        };
        match remove() {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove")(e)),
            _ => Ok(()),
        }
    }
}
