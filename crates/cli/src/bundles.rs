//! Bundles on this host: which keys are trusted, and what was used before.
//!
//! ```text
//! /etc/agentwall/trusted-keys        the host's keys, and what it demands
//! ~/.config/agentwall/trusted-keys   the user's
//! ROOT/bundles/<digest>              the newest bundle used, per key and name
//! ROOT/bundles/lock                  held while one of them is compared and replaced
//! ```
//!
//! Invariants: a file that cannot be read as it was meant (another's, writable for others, damaged)
//! stops what needs it; the counter of a key and name never goes down.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use agentwall_bundle::{BundleError, Kind, Opened, Seen, TrustedKeys};
use agentwall_ledger::{Verifier, entry::PolicyBundle};
use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};

use crate::{
    output::UsageError,
    session::write_atomically,
    state::{self, State, shown},
};

/// The host's trusted keys.
const HOST_KEYS: &str = "/etc/agentwall/trusted-keys";
/// The name of the user's, in the folder of the policies.
const USER_KEYS: &str = "trusted-keys";
/// The keys of logs whose layers the host imports.
const HOST_LOGS: &str = "/etc/agentwall/trusted-logs";
/// The name of the user's.
const USER_LOGS: &str = "trusted-logs";
/// Longest trusted-keys file, in bytes.
const MAX_TRUST: u64 = 1 << 20;

/// Whom this host trusts to issue policies.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<Verifier>,
    /// The file that demands bundles.
    demanded_by: Option<PathBuf>,
    /// The files that `--trust` named.
    given: Vec<PathBuf>,
}

impl Trust {
    /// The keys of the host's and the user's file, and those given with `--trust`.
    pub fn of_host(given: &[OsString]) -> Result<Trust> {
        let mut files = vec![PathBuf::from(HOST_KEYS)];
        files.extend(state::policy_dir().ok().map(|dir| dir.join(USER_KEYS)));
        Trust::of(&files, given)
    }

    /// The keys of the logs that may vouch for imported layers. They issue no policies, so they have
    /// files of their own.
    pub fn of_logs(given: &[OsString]) -> Result<Trust> {
        let mut files = vec![PathBuf::from(HOST_LOGS)];
        files.extend(state::policy_dir().ok().map(|dir| dir.join(USER_LOGS)));
        Trust::of(&files, given)
    }

    fn of(files: &[PathBuf], given: &[OsString]) -> Result<Trust> {
        let mut trust = Trust::default();
        for file in files {
            let Some(read) = trusted_file(file)? else {
                continue;
            };
            trust.keys.extend(read.keys);
            if read.require_signed {
                trust.demanded_by.get_or_insert_with(|| file.clone());
            }
        }
        for key in given {
            let (keys, file) = given_keys(key)?;
            trust.keys.extend(keys);
            trust.given.extend(file);
        }
        Ok(trust)
    }

    /// The keys.
    pub fn keys(&self) -> &[Verifier] {
        &self.keys
    }

    /// The files that `--trust` named: who can change one decides on the next session's policy.
    pub fn given(&self) -> &[PathBuf] {
        &self.given
    }

    /// Fails where a policy that no bundle vouches for is not to be used.
    pub fn unsigned_is_taken(&self, policy: &Path) -> Result<()> {
        let Some(file) = &self.demanded_by else {
            return Ok(());
        };
        bail!(
            "the policy {} is not signed, and {} demands that ('require-signed'); name a bundle with \
             --policy, or have one made with 'agentwall policy bundle sign'",
            shown(policy),
            shown(file)
        )
    }
}

/// Opens a bundle of policies that a trusted key has signed and that is not older than what was used
/// here.
pub fn open(path: &Path, bytes: &[u8], trust: &Trust) -> Result<Opened> {
    open_kind(path, bytes, trust, Kind::Policy)
}

/// The same for a bundle of any kind.
pub fn open_kind(path: &Path, bytes: &[u8], trust: &Trust, kind: Kind) -> Result<Opened> {
    let refused = || format!("the bundle {} is refused", shown(path));
    let opened = agentwall_bundle::open_kind(bytes, trust.keys(), kind).map_err(|e| {
        let none = trust.keys().is_empty() && matches!(e, BundleError::NotTrusted { .. });
        let hint = if none {
            " (no key is trusted here yet)"
        } else {
            ""
        };
        anyhow!("{}: {e}{hint}", refused())
    })?;
    let state = State::for_reading()
        .context("whether a bundle is the newest cannot be told without the state folder")?;
    compare(&state, &opened).with_context(refused)?;
    Ok(opened)
}

/// Fails if this host has used a newer bundle, or another one with the same counter. Whether it is
/// newer than what was used.
pub fn compare(state: &State, opened: &Opened) -> Result<bool> {
    let path = memory(state, opened);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => {
            return Err(e).with_context(|| format!("cannot read {}", shown(&path)));
        }
    };
    let seen = Seen::parse(&text, opened).map_err(|e| {
        anyhow!(
            "{} does not say which bundle was used last: {e}; if you know that this bundle is the \
             newest, remove that file",
            shown(&path)
        )
    })?;
    Ok(seen.admits(opened)?)
}

/// Remembers that a bundle is used. Compared once more, under a lock: of two that start at once the
/// older one must not be remembered last.
pub fn remember(state: &State, opened: &Opened) -> Result<()> {
    install(state, opened, || Ok(()))
}

/// Remembers that a bundle is used, and puts it in its place before that, under the same lock. A bundle
/// that is in its place and not remembered is newer than what is, and taken; never the reverse.
pub fn install(state: &State, opened: &Opened, put: impl FnOnce() -> Result<()>) -> Result<()> {
    let dir = folder(state);
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("cannot make {}", shown(&dir)));
        }
        _ => {}
    }
    let _locked = lock(&dir)?;
    let newer = compare(state, opened)?;
    put()?;
    if newer {
        let path = memory(state, opened);
        write_atomically(&path, Seen::of(opened).to_text().as_bytes())
            .with_context(|| format!("cannot write {}", shown(&path)))?;
    }
    Ok(())
}

/// A bundle as the ledger names it.
pub fn recorded(opened: &Opened) -> PolicyBundle {
    PolicyBundle {
        key: format!("{}+{:08x}", opened.key.name(), opened.key.id()),
        name: opened.bundle.name.clone(),
        counter: opened.bundle.counter,
        digest: opened.bundle.digest(),
    }
}

fn folder(state: &State) -> PathBuf {
    state.root().join("bundles")
}

fn memory(state: &State, opened: &Opened) -> PathBuf {
    folder(state).join(Seen::file_name(opened))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let locked = || -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    locked().with_context(|| format!("cannot lock {}", shown(&path)))
}

/// A trusted-keys file, if it exists.
fn trusted_file(path: &Path) -> Result<Option<TrustedKeys>> {
    let what = || format!("cannot use the trusted keys in {}", shown(path));
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e).with_context(what),
    };
    let meta = file.metadata().with_context(what)?;
    if !meta.is_file() {
        bail!("{}: it is not a regular file", what());
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own {
        bail!(
            "{}: it belongs to user {}, neither to you nor to root",
            what(),
            meta.uid()
        );
    }
    if meta.mode() & 0o022 != 0 {
        bail!(
            "{}: others can write to it (mode {:03o}); look who did, then run 'chmod go-w' on it",
            what(),
            meta.mode() & 0o777
        );
    }
    parse(file, meta.len()).with_context(what).map(Some)
}

fn parse(file: File, length: u64) -> Result<TrustedKeys> {
    if length > MAX_TRUST {
        bail!("it has {length} bytes, more than {MAX_TRUST}");
    }
    let mut text = String::new();
    file.take(MAX_TRUST).read_to_string(&mut text)?;
    Ok(TrustedKeys::parse(&text)?)
}

/// What `--trust` gives: a public key as text, or a file with keys, and that file.
fn given_keys(given: &OsStr) -> Result<(Vec<Verifier>, Option<PathBuf>)> {
    let path = Path::new(given);
    if let Some(text) = given.to_str().filter(|t| t.contains('+'))
        && !path.exists()
    {
        let key = Verifier::parse(text.trim()).map_err(|e| {
            UsageError(format!(
                "--trust is not a public key: {e}; expected NAME+ID+KEY, as 'agentwall policy bundle \
                 keygen' prints it, or a file with such lines"
            ))
        })?;
        return Ok((vec![key], None));
    }
    let file = File::open(path)
        .with_context(|| format!("cannot read the key file {} of --trust", shown(path)))?;
    let length = file.metadata().map_or(0, |m| m.len());
    let read = parse(file, length)
        .with_context(|| format!("cannot use the key file {} of --trust", shown(path)))?;
    if read.keys.is_empty() {
        bail!(
            "the key file {} of --trust has no key; it takes one NAME+ID+KEY a line",
            shown(path)
        );
    }
    Ok((read.keys, Some(path.to_owned())))
}

#[cfg(test)]
#[path = "bundles_tests.rs"]
mod tests;
