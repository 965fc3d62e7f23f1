//! The state folder: where the binary keeps sessions, the ledger and the ledger's key.
//!
//! ```text
//! ROOT/ledger/            the log, C2SP tlog-tiles layout
//! ROOT/keys/ledger.key    its private key      ROOT/keys/ledger.head   its newest checkpoint
//! ROOT/values/            the text of its entries, encrypted      ROOT/keys/subjects/   the keys of that
//! ROOT/sessions/<id>/     one folder per session
//! ROOT/locks/             commit locks, one per original tree
//! ```
//!
//! Invariants: everything below the root is reachable for its owner alone (0700), and no command
//! works on a root that belongs to, or can be changed by, somebody else. An agent never gets here:
//! inside the wall the folder is out of sight and [`State::open`] refuses.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use agentwall_action::escape_bytes;
use agentwall_ledger::{
    Entry, KeyError, Log, LogOptions, ReadError, Reader, Record, Signer, Subjects, TextFolders,
    Verifier, entry::rfc3339_ms as rfc3339, key, log, settle,
};
use anyhow::{Context as _, Result, bail};

/// The state folder of this user.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
}

/// How long a writer of the ledger may take before it is not waited for any more.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Whether this process runs inside the wall.
pub fn inside_wall() -> bool {
    Path::new(agentwall_wall::TRAIL_PATH).exists()
}

impl State {
    /// Finds the state folder, makes what is missing, and checks who can change it.
    pub fn open() -> Result<State> {
        State::open_at(&State::place()?)
    }

    /// Finds the state folder without making anything; it may not exist.
    pub fn locate() -> Result<State> {
        let root = State::place()?;
        let root = fs::canonicalize(&root).unwrap_or(root);
        if root.exists() {
            check_owner(&root)?;
        }
        Ok(State { root })
    }

    /// For a command that only reads: like [`State::open`], but a folder that cannot be written is
    /// taken as it is.
    pub fn for_reading() -> Result<State> {
        let root = State::place()?;
        let Ok(real) = fs::canonicalize(&root) else {
            return State::open_at(&root);
        };
        let readable = rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK;
        let only_readable = real.is_dir()
            && rustix::fs::access(&real, rustix::fs::Access::WRITE_OK).is_err()
            && rustix::fs::access(&real, readable).is_ok();
        if only_readable {
            check_owner(&real)?;
            return Ok(State { root: real });
        }
        State::open_at(&root)
    }

    /// [`State::open`] for a given folder.
    pub fn open_at(root: &Path) -> Result<State> {
        make(root)?;
        let root = fs::canonicalize(root)
            .with_context(|| format!("cannot use the state folder {}", shown(root)))?;
        check(&root)?;
        let state = State { root };
        for dir in [
            state.root.join("keys"),
            state.root.join("locks"),
            state.sessions_dir(),
        ] {
            make(&dir)?;
            let meta = fs::symlink_metadata(&dir)
                .with_context(|| format!("cannot examine {}", shown(&dir)))?;
            if !meta.is_dir() {
                bail!("{} is not a folder; move it away", shown(&dir));
            }
            if meta.uid() != own_uid() {
                bail!(
                    "{} belongs to user {}, not to you; set AGENTWALL_STATE to a folder of your own",
                    shown(&dir),
                    meta.uid()
                );
            }
            if meta.mode() & 0o077 != 0 {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
                    .with_context(|| format!("cannot make {} private", shown(&dir)))?;
            }
        }
        Ok(state)
    }

    /// `$AGENTWALL_STATE`, else `$XDG_STATE_HOME/agentwall`, else `~/.local/state/agentwall`.
    fn place() -> Result<PathBuf> {
        if inside_wall() {
            bail!(
                "this command does not work inside the wall: the state, the questions and the \
                 ledger are out of an agent's reach; 'agentwall why' tells why an action was refused"
            );
        }
        if let Some(dir) = env_path("AGENTWALL_STATE") {
            return std::path::absolute(&dir)
                .with_context(|| format!("cannot use AGENTWALL_STATE={}", shown(&dir)));
        }
        // The XDG Base Directory specification: a relative path is to be ignored.
        if let Some(dir) = env_path("XDG_STATE_HOME").filter(|d| d.is_absolute()) {
            return Ok(dir.join("agentwall"));
        }
        Ok(home()?.join(".local/state/agentwall"))
    }

    /// The folder, canonical.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The log's folder.
    pub fn ledger_dir(&self) -> PathBuf {
        self.root.join("ledger")
    }

    /// The log's private key.
    pub fn key_path(&self) -> PathBuf {
        self.root.join("keys/ledger.key")
    }

    /// The log's newest checkpoint as this host has seen it.
    pub fn head_path(&self) -> PathBuf {
        self.root.join("keys/ledger.head")
    }

    /// The text of the log's entries, and its keys.
    pub fn text(&self) -> TextFolders {
        TextFolders {
            values: self.root.join("values"),
            subjects: self.root.join("keys/subjects"),
        }
    }

    /// The keys of the text, by session.
    pub fn subjects(&self) -> Subjects {
        Subjects::new(&self.text().subjects)
    }

    /// One folder per session.
    pub fn sessions_dir(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// Commit locks, shared by all sessions.
    pub fn locks_dir(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// The log's key; made on first use. A log whose key is gone is not given a new one: it would
    /// never verify again.
    fn signer(&self) -> Result<Signer> {
        let path = self.key_path();
        match key::load(&path) {
            Err(KeyError::File(e)) if e.source.kind() == io::ErrorKind::NotFound => {}
            other => return other.context("cannot use the ledger's key"),
        }
        if self.ledger_dir().join("checkpoint").exists() {
            bail!(
                "the ledger {} exists but its key {} is gone; put the key back, or move the ledger \
                 folder away to begin a new one",
                shown(&self.ledger_dir()),
                shown(&path)
            );
        }
        let name = format!("agentwall.local/{}", random_text(12)?);
        match key::load_or_create(&path, &name) {
            // Another process was faster and chose another name.
            Err(KeyError::OtherName { .. }) => key::load(&path),
            other => other,
        }
        .with_context(|| format!("cannot make the ledger's key in {}", shown(&self.root)))
    }

    /// The log's public key. Fails when there is no log yet.
    pub fn verifier(&self) -> Result<Verifier> {
        let signer = key::load(&self.key_path()).with_context(|| {
            format!(
                "cannot read the ledger's key in {}; a first 'agentwall run' makes it, and \
                 'agentwall ledger verify DIR --key VKEY' checks a log of another host",
                shown(&self.root)
            )
        })?;
        Ok(signer.verifier())
    }

    /// Signs a text with the log's key. It must not be one that can be taken for a checkpoint.
    pub fn sign(&self, text: &str) -> Result<String> {
        let signer = key::load(&self.key_path()).context("cannot use the ledger's key")?;
        signer.sign(text).context("cannot sign")
    }

    /// Opens the log for writing; made on first use. Every commit is published at once.
    pub fn open_log(&self) -> Result<Log> {
        self.open_log_with(Duration::ZERO)
    }

    /// The same for a process that keeps the log open: entries are durable in the journal, tiles and checkpoint
    /// follow within 100 ms, when the log is flushed, or when somebody [settles](State::settle) it.
    pub fn keep_log(&self) -> Result<Log> {
        self.open_log_with(log::MAX_DELAY)
    }

    /// Brings what is durable in the journal alone to where readers see it. A writer that was stopped in the
    /// middle of a commit is waited for no longer than `patience`.
    ///
    /// # Errors
    /// Readers do not see all that is durable.
    pub fn settle(&self, patience: Duration) -> Result<()> {
        let dir = self.ledger_dir();
        let signer = match key::load(&self.key_path()) {
            Ok(signer) => signer,
            Err(_) if !dir.join("journal").exists() => return Ok(()),
            // Without it nobody can tell what of the journal counts.
            Err(e) => {
                return Err(e).with_context(|| format!("the ledger {} may be behind", shown(&dir)));
            }
        };
        settle(
            &dir,
            signer,
            Some(self.head_path()),
            Some(self.text()),
            patience,
        )
        .map(drop)
        .with_context(|| format!("the ledger {} is behind", shown(&dir)))
    }

    fn open_log_with(&self, lag: Duration) -> Result<Log> {
        let options = LogOptions {
            head: Some(self.head_path()),
            lag,
            text: Some(self.text()),
            key: Some(self.key_path()),
        };
        Log::open_with(&self.ledger_dir(), self.signer()?, options).with_context(|| {
            format!(
                "cannot write the ledger {}; 'agentwall ledger verify' says what is wrong with it",
                shown(&self.ledger_dir())
            )
        })
    }

    /// Opens the log for reading, its text with it.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        Ok(Reader::open(&self.ledger_dir())?.with_text(self.text()))
    }

    /// A reader of the log in this folder, with its text where it is this user's own log.
    pub fn with_own_text(reader: Reader, dir: &Path) -> Reader {
        let own = State::locate().ok();
        let own = own.filter(|own| {
            let same = fs::canonicalize(own.ledger_dir()).ok();
            same.is_some() && same == fs::canonicalize(dir).ok()
        });
        match own {
            Some(own) => reader.with_text(own.text()),
            None => reader,
        }
    }

    /// The number of the next entry of a session: one more than its newest entry has.
    pub fn next_seq(&self, session: &str) -> Result<u64> {
        if !self.ledger_dir().join("checkpoint").exists() {
            return Ok(0);
        }
        self.settle(PATIENCE)?;
        let reader = Reader::open(&self.ledger_dir()).context("cannot read the ledger")?;
        let first = reader.first().context("cannot read the ledger")?;
        for index in (first..reader.size()).rev() {
            let bytes = reader.entry(index).context("cannot read the ledger")?;
            let entry = Entry::from_bytes(&bytes).context("cannot read the ledger")?;
            if entry.session == session {
                return Ok(entry.seq + 1);
            }
        }
        Ok(0)
    }

    /// Appends records of a session that no supervisor is running for; durable on return.
    pub fn record(&self, session: &str, records: Vec<Record>) -> Result<()> {
        let log = self.open_log()?;
        let first = self.next_seq(session)?;
        let entries: Vec<Vec<u8>> = (first..)
            .zip(records)
            .map(|(seq, record)| Entry::now(session, seq, record).to_bytes())
            .collect();
        let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        log.append_batch(&slices)
            .context("cannot write the ledger")?;
        log.close().context("cannot write the ledger")
    }
}

/// The user's policies: `$XDG_CONFIG_HOME/agentwall`, else `~/.config/agentwall`.
pub fn policy_dir() -> Result<PathBuf> {
    let base = match env_path("XDG_CONFIG_HOME").filter(|d| d.is_absolute()) {
        Some(dir) => dir,
        None => home()?.join(".config"),
    };
    Ok(base.join("agentwall"))
}

/// The home folder, `$HOME`.
pub fn home() -> Result<PathBuf> {
    match env_path("HOME") {
        Some(home) if home.is_absolute() => Ok(home),
        _ => bail!("HOME is not set to an absolute path; set it, or set AGENTWALL_STATE"),
    }
}

/// The time now in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A point in time as RFC 3339 in UTC with milliseconds.
pub fn rfc3339_of(ms: u64) -> String {
    rfc3339(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms))
}

/// Random text of lower-case base32 (RFC 4648) without the letters that look like digits.
pub fn random_text(length: usize) -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0u8; length];
    let mut filled = 0;
    while filled < length {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .context("the system gives no random numbers")?;
    }
    Ok(bytes
        .iter()
        .map(|b| char::from(LETTERS[usize::from(b % 32)]))
        .collect())
}

/// A path for a person: escaped.
pub fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    escape_bytes(path.as_os_str().as_bytes())
}

fn env_path(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a folder with mode 0700, and its parents.
fn make(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|e| {
        let next = match e.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "something on this path is not a folder: set AGENTWALL_STATE to one"
            }
            io::ErrorKind::StorageFull => "the disk is full: make room",
            _ => "set AGENTWALL_STATE to a folder that you can write",
        };
        anyhow::anyhow!("cannot make the state folder {}: {e}; {next}", shown(dir))
    })
}

/// The root must be ours, writable for us and for nobody else.
fn check(root: &Path) -> Result<()> {
    check_owner(root)?;
    use rustix::fs::Access;
    if let Err(e) = rustix::fs::access(root, Access::WRITE_OK | Access::EXEC_OK) {
        bail!(
            "the state folder {} is not writable ({e}); make it writable, or set AGENTWALL_STATE to \
             a folder that you can write",
            shown(root)
        );
    }
    Ok(())
}

/// The root must be ours, and writable for nobody else.
fn check_owner(root: &Path) -> Result<()> {
    let meta = fs::metadata(root)
        .with_context(|| format!("cannot examine the state folder {}", shown(root)))?;
    if !meta.is_dir() {
        bail!(
            "the state folder {} is not a folder; set AGENTWALL_STATE",
            shown(root)
        );
    }
    if meta.uid() != own_uid() {
        bail!(
            "the state folder {} belongs to user {}, and you are user {}; set AGENTWALL_STATE to a \
             folder of your own",
            shown(root),
            meta.uid(),
            own_uid()
        );
    }
    if meta.mode() & 0o022 != 0 {
        bail!(
            "others can write to the state folder {} (mode {:03o}); run 'chmod 700' on it, or set \
             AGENTWALL_STATE to a private folder",
            shown(root),
            meta.mode() & 0o777
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_private_and_refused_when_others_can_write() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("a/state");
        let state = State::open_at(&root).unwrap();
        for dir in [
            state.root().to_owned(),
            state.sessions_dir(),
            state.root().join("keys"),
        ] {
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700, "{dir:?}");
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
        let error = State::open_at(&root).unwrap_err().to_string();
        assert!(error.contains("others can write"), "{error}");
        let file = tmp.path().join("file");
        fs::write(&file, "").unwrap();
        let error = State::open_at(&file).unwrap_err().to_string();
        assert!(error.contains("not a folder"), "{error}");
    }

    #[test]
    fn the_log_opens_twice_under_one_name_and_never_with_a_second_key() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let origin = state.signer().unwrap().name().to_owned();
        assert!(origin.starts_with("agentwall.local/"), "{origin}");
        let gap = || {
            Record::Gap(agentwall_ledger::entry::Gap {
                lost: 1,
                reason: "test".into(),
                ..Default::default()
            })
        };
        state.record("s1", vec![gap(), gap()]).unwrap();
        state.record("s2", vec![gap()]).unwrap();
        assert_eq!(state.next_seq("s1").unwrap(), 2);
        assert_eq!(state.next_seq("s3").unwrap(), 0);
        assert_eq!(state.verifier().unwrap().name(), origin);
        fs::remove_file(state.key_path()).unwrap();
        assert!(
            state
                .open_log()
                .unwrap_err()
                .to_string()
                .contains("is gone")
        );
        assert!(!state.key_path().exists());
    }
}
