//! The log's private key on disk.
//!
//! One line in the signed-note private key text, `PRIVATE+KEY+<name>+<id>+<base64>`, as Go's
//! `sumdb/note` writes it: the key carries its name, so it cannot be used for another log by
//! accident. The file has mode 0600 and is refused with any other access.
//!
//! When the key is replaced ([`crate::rotation`]), the next one lies beside it as `<file>.next`, durable before the log
//! names it. As soon as the log does, it takes the name of the key file in one step, and the old key, which is
//! `<file>.old` from then on, is written over and removed. Each step can be the last one of a process: the next opening
//! of the log goes on from there. So the file always has one whole key, and the key that signs is never lost.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;

pub use crate::defect::KeyError;
use crate::{
    note::{Signer, Verifier},
    store::{Disk, FileError},
};

/// A fresh key from the system's randomness.
pub fn generate(name: &str) -> Result<Signer, KeyError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|e| KeyError::Random(e.to_string()))?;
    Signer::new(name, SigningKey::from_bytes(&seed)).map_err(KeyError::Name)
}

/// Reads a key file.
pub fn load(path: &Path) -> Result<Signer, KeyError> {
    let io = |e| KeyError::File(FileError::new("read", path, e));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match file {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(KeyError::NotAFile {
                path: path.to_owned(),
            });
        }
        other => other.map_err(io)?,
    };
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(KeyError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(io)?;
    Signer::parse_private(text.strip_suffix('\n').unwrap_or(&text)).map_err(|source| {
        KeyError::Text {
            path: path.to_owned(),
            source,
        }
    })
}

/// Reads the key file, or makes it with a fresh key named `name` when there is none. Two processes
/// that do so at once get the same key.
pub fn load_or_create(path: &Path, name: &str) -> Result<Signer, KeyError> {
    let signer = match load(path) {
        Err(KeyError::File(e)) if e.source.kind() == io::ErrorKind::NotFound => create(path, name)?,
        other => other?,
    };
    if signer.name() != name {
        return Err(KeyError::OtherName {
            path: path.to_owned(),
            expected: name.to_owned(),
            found: signer.name().to_owned(),
        });
    }
    Ok(signer)
}

fn create(path: &Path, name: &str) -> Result<Signer, KeyError> {
    match create_new(path, name) {
        // Another process was faster.
        Err(KeyError::Exists { .. }) => load(path),
        other => other,
    }
}

/// The key that is to follow the one in `path`, durable beside it; made if none is there yet.
///
/// # Errors
/// The key in `path` cannot be read, or the next one not be made.
pub fn prepare(path: &Path) -> Result<Signer, KeyError> {
    load_or_create(&beside(path, ".next"), load(path)?.name())
}

/// Makes the next key the one in `path` if it is `newest`, which is the one that the log has, and destroys the old one.
/// Whoever calls holds the log's lock. Does nothing where nothing is to be done.
pub(crate) fn succeed(disk: &dyn Disk, path: &Path, newest: &Verifier) -> Result<(), KeyError> {
    let (next, old) = (beside(path, ".next"), beside(path, ".old"));
    let there = |path: &Path| path.symlink_metadata().is_ok();
    if there(&next) && load(&next)?.verifier() == *newest {
        let follow = || -> io::Result<()> {
            // What has that name already is the old key, from an attempt that was cut off.
            if !there(&old) {
                disk.link(path, &old)?;
            }
            disk.sync_dir(folder(path))?;
            disk.rename(&next, path)?;
            disk.sync_dir(folder(path))
        };
        follow().map_err(|e| FileError::new("replace", path, e))?;
    }
    if there(&old) {
        let destroy = || -> io::Result<()> {
            let inode = |path: &Path| path.symlink_metadata().map(|meta| meta.ino());
            // Before the rename it is still the key itself.
            if inode(&old)? != inode(path)? {
                let file = disk.open(&old, false)?;
                let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
                disk.write_at(&old, &file, 0, &vec![0; length.min(4096)])?;
                disk.sync(&old, &file)?;
            }
            disk.remove(&old)?;
            disk.sync_dir(folder(path))
        };
        destroy().map_err(|e| FileError::new("destroy", &old, e))?;
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Makes the key file with a fresh key named `name`. Never replaces anything that is there.
pub fn create_new(path: &Path, name: &str) -> Result<Signer, KeyError> {
    let signer = generate(name)?;
    let mut suffix = [0u8; 8];
    getrandom::fill(&mut suffix).map_err(|e| KeyError::Random(e.to_string()))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}", u64::from_ne_bytes(suffix)));
    let temporary = Path::new(&temporary);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)?;
        writeln!(file, "{}", signer.private_text())?;
        file.sync_all()?;
        // Unlike a rename, a link fails when another process was faster.
        fs::hard_link(temporary, path)?;
        fs::File::open(folder(path))?.sync_all()
    };
    let result = write();
    let _ = fs::remove_file(temporary);
    match result {
        Ok(()) => Ok(signer),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(KeyError::Exists {
            path: path.to_owned(),
        }),
        Err(e) => Err(FileError::new("make", path, e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ledger.key");
        let keys: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|_| s.spawn(|| load_or_create(&path, "log.example").expect("a key")))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic").verifier().to_string())
                .collect()
        });
        assert!(keys.iter().all(|k| *k == keys[0]), "{keys:?}");
        let meta = fs::metadata(&path).expect("the key file");
        assert_eq!(meta.mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
        assert!(matches!(
            load_or_create(&path, "other.example"),
            Err(KeyError::OtherName { .. })
        ));
        let before = fs::read(&path).expect("the key file");
        for there in [&path, &dir.path().join("dangling")] {
            let _ = symlink("nowhere", dir.path().join("dangling"));
            assert!(matches!(
                create_new(there, "log.example"),
                Err(KeyError::Exists { .. })
            ));
        }
        assert_eq!(fs::read(&path).expect("the key file"), before);
        let link = dir.path().join("link");
        symlink(&path, &link).expect("a link");
        assert!(matches!(load(&link), Err(KeyError::NotAFile { .. })));
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            assert!(matches!(load(&path), Err(KeyError::Mode { mode: m, .. }) if m == mode));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::write(&path, "nonsense").expect("a file");
        assert!(matches!(load(&path), Err(KeyError::Text { .. })));
    }
}
