//! Sessions on disk: one folder per run, with its record, its copy-on-write layers, the policy it
//! ran under, and the socket on which it answers questions while it runs.
//!
//! ```text
//! sessions/<id>/session.json   the record, replaced atomically
//!               policy.yaml    the policy; further sources, and those that were applied while it
//!                              ran, as policy-2.yaml, …
//!               layers/        upper and work directories
//!               control.sock   the approval channel, while it runs
//!               lock           held (flock) by the supervisor, while it runs
//! ```
//!
//! A session's id sorts by its start: `20261121-0259-k3f9`. Whether it runs is told by the lock
//! alone, which the kernel drops with its holder, never by a process id that may be another's. The
//! lock is taken before the session has a record, and is the last thing of it that is removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agentwall_action::escape_text;
use agentwall_cow::Layer;
use agentwall_policy::{Layer as PolicyLayer, Policy, Source, Variables};
use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::state::{State, now_ms, random_text, rfc3339_of, shown};

/// The mark in the folder of a session that leaves nothing.
pub const EPHEMERAL: &str = "ephemeral";

/// Whether the session in this folder leaves nothing.
pub fn is_ephemeral(dir: &Path) -> bool {
    dir.join(EPHEMERAL).exists()
}

/// What became of a session's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// They are still in the layer.
    #[default]
    Kept,
    /// All are in the original.
    Committed,
    /// All are dropped.
    Discarded,
    /// Some are, some are not.
    Partly,
}

impl Outcome {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Kept => "kept",
            Outcome::Committed => "committed",
            Outcome::Discarded => "discarded",
            Outcome::Partly => "partly",
        }
    }
}

/// One source of the session's policy, as copied into the session's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// The name it had, for messages.
    pub name: String,
    /// Who wrote it.
    pub layer: PolicyLayer,
    /// Its file in the session's folder.
    pub file: String,
}

/// The values the policy was loaded with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionVariables {
    /// `${home}`.
    #[serde(with = "agentwall_action::path_bytes")]
    pub home: PathBuf,
    /// `${tmp}`.
    #[serde(with = "agentwall_action::path_bytes")]
    pub tmp: PathBuf,
    /// `${state}`.
    #[serde(with = "agentwall_action::path_bytes")]
    pub state: PathBuf,
}

/// What is known about a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Version of the form, 1.
    pub v: u32,
    /// The id.
    pub id: String,
    /// The agent's name.
    pub name: String,
    /// The workspace folder, canonical.
    #[serde(with = "agentwall_action::path_bytes")]
    pub workspace: PathBuf,
    /// The command; bytes outside UTF-8 are escaped.
    pub command: Vec<String>,
    /// Where the policy came from, for a person. Like the next three it is about the newest policy:
    /// a running session's may change ('agentwall policy apply').
    pub policy_source: String,
    /// SHA-256 of the effective policy, lower-case hex.
    pub policy_digest: String,
    /// The copies of the policy's sources.
    #[serde(default)]
    pub policies: Vec<PolicyFile>,
    /// The values the policy was loaded with.
    #[serde(default)]
    pub variables: SessionVariables,
    /// The copy-on-write layers.
    pub layers: Vec<Layer>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it last went on ('run --on'), milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_ms: Option<u64>,
    /// Milliseconds since the Unix epoch; absent while it runs, or when its supervisor was killed.
    pub ended_ms: Option<u64>,
    /// The agent's exit status.
    pub exit: Option<i32>,
    /// For a person; see the module header.
    pub supervisor_pid: u32,
    /// What became of its changes.
    pub outcome: Outcome,
    /// What the ledger lacks of it: it could not be written, and the policy let the session go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<Unrecorded>,
}

/// Records that no ledger has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrecorded {
    /// Since when, RFC 3339.
    pub from: String,
    /// How many, at most.
    pub lost: u64,
    /// Why.
    pub reason: String,
}

/// A session and its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    dir: PathBuf,
    /// What is known about it; [`Session::save`] makes a change permanent.
    pub record: SessionRecord,
}

/// A session whose record cannot be read: its id, and why.
type Damaged = (String, anyhow::Error);

/// What a new session is about.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The agent's name.
    pub name: String,
    /// The workspace folder, canonical.
    pub workspace: PathBuf,
    /// The command.
    pub command: Vec<String>,
}

impl Session {
    /// Makes the folder of a new session of this process, and its record. Its lock is taken before it
    /// has one: nobody finds a session that is being made and is free.
    pub fn create(state: &State, new: NewSession) -> Result<(Session, File)> {
        let started_ms = now_ms();
        let minute = minute_of(started_ms);
        let mut tries = 0;
        let (id, dir) = loop {
            let id = format!("{minute}-{}", random_text(4)?);
            let dir = state.sessions_dir().join(&id);
            tries += 1;
            // The suffix alone names the session in the ids of its questions.
            let taken = ids(state)?.iter().any(|other| suffix(other) == suffix(&id));
            if !taken {
                match fs::DirBuilder::new().mode(0o700).create(&dir) {
                    Ok(()) => break (id, dir),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => {
                        return Err(e).with_context(|| {
                            format!("cannot make the session's folder {}", shown(&dir))
                        });
                    }
                }
            }
            if tries > 64 {
                bail!(
                    "no free session id was found in {}",
                    shown(&state.sessions_dir())
                );
            }
        };
        let session = Session {
            dir,
            record: SessionRecord {
                v: 1,
                id,
                name: new.name,
                workspace: new.workspace,
                command: new.command,
                policy_source: String::new(),
                policy_digest: String::new(),
                policies: Vec::new(),
                variables: SessionVariables::default(),
                layers: Vec::new(),
                started_ms,
                resumed_ms: None,
                ended_ms: None,
                exit: None,
                supervisor_pid: std::process::id(),
                outcome: Outcome::Kept,
                unrecorded: None,
            },
        };
        match session.furnish() {
            Ok(lock) => Ok((session, lock)),
            Err(e) => {
                // A session without a record is nobody's: it would never be listed nor removed.
                let _ = remove_tree(&session.dir);
                Err(e)
            }
        }
    }

    /// The lock, the folders and the record of a new session.
    fn furnish(&self) -> Result<File> {
        let lock = self.hold_lock()?;
        for part in [self.layers_dir(), self.dir.join("trash")] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&part)
                .with_context(|| format!("cannot make {}", shown(&part)))?;
        }
        self.save_soon()?;
        Ok(lock)
    }

    /// Reads a session by its exact id.
    pub fn load(state: &State, id: &str) -> Result<Session> {
        if !id_shaped(id) {
            bail!("'{}' is not a session id", escape_text(id));
        }
        let dir = state.sessions_dir().join(id);
        let path = dir.join("session.json");
        let text = fs::read(&path)
            .with_context(|| format!("cannot read the session's record {}", shown(&path)))?;
        let record: SessionRecord = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; 'layers' beside it holds the changes",
                shown(&path)
            )
        })?;
        if record.v != 1 || record.id != id {
            bail!(
                "{} was written by another version or belongs to another session",
                shown(&path)
            );
        }
        Ok(Session { dir, record })
    }

    /// All sessions, the one that ran last first. Damaged ones are told as errors beside them.
    pub fn list(state: &State) -> Result<(Vec<Session>, Vec<anyhow::Error>)> {
        let (sessions, damaged) = Session::all(state)?;
        Ok((sessions, damaged.into_iter().map(|(_, e)| e).collect()))
    }

    /// The same, the damaged ones with their ids.
    fn all(state: &State) -> Result<(Vec<Session>, Vec<Damaged>)> {
        let (mut sessions, mut errors) = (Vec::new(), Vec::new());
        for id in ids(state)? {
            match Session::load(state, &id) {
                // It is gone but for its folder.
                Ok(session) if is_ephemeral(&session.dir) && !session.is_running() => {}
                Ok(session) => sessions.push(session),
                // Removed or being made at this moment.
                Err(_) if !state.sessions_dir().join(&id).join("session.json").exists() => {}
                Err(e) => errors.push((id, e)),
            }
        }
        sessions.sort_by(|a, b| (b.latest_ms(), &b.record.id).cmp(&(a.latest_ms(), &a.record.id)));
        Ok((sessions, errors))
    }

    /// The newest session whose workspace is this folder or holds it.
    ///
    /// # Errors
    /// A newer session has a damaged record: it may be the one that is meant, and an older one must
    /// not be taken for it.
    pub fn newest_for(state: &State, dir: &Path) -> Result<Option<Session>> {
        let (sessions, damaged) = Session::all(state)?;
        let found = sessions
            .into_iter()
            .find(|s| dir.starts_with(&s.record.workspace));
        // Ids sort by the minute they began.
        let minute = |id: &str| id.get(..13).unwrap_or(id).to_owned();
        let since = found.as_ref().map(|s| match s.record.resumed_ms {
            Some(ms) => minute_of(ms),
            None => minute(s.id()),
        });
        let since = since.unwrap_or_default();
        match damaged.into_iter().find(|(id, _)| minute(id) >= since) {
            Some((id, e)) => Err(e.context(format!(
                "the newest session may be {id}, which cannot be read: name the session that you \
                 mean ('agentwall sessions --all')"
            ))),
            None => Ok(found),
        }
    }

    /// The session a person means: an id, a unique prefix or suffix of one, a name (its newest
    /// session), or `None` for the newest of the workspace that holds the current folder.
    pub fn resolve(state: &State, selector: Option<&str>) -> Result<Session> {
        let Some(text) = selector else {
            let cwd = std::env::current_dir()
                .and_then(fs::canonicalize)
                .context("cannot tell the current folder; name the session")?;
            return Session::newest_for(state, &cwd)?.ok_or_else(|| {
                anyhow!(
                    "there is no session of the workspace {}; 'agentwall sessions --all' lists those \
                     of other folders",
                    shown(&cwd)
                )
            });
        };
        let (mut sessions, errors) = Session::list(state)?;
        if let Some(at) = sessions.iter().position(|s| s.record.id == text) {
            return Ok(sessions.swap_remove(at));
        }
        let means =
            |s: &Session| !text.is_empty() && (s.record.id.starts_with(text) || s.suffix() == text);
        let by_id: Vec<&Session> = sessions.iter().filter(|s| means(s)).collect();
        match by_id.as_slice() {
            [one] => return Ok((*one).clone()),
            [] => {}
            many => {
                let ids: Vec<&str> = many.iter().take(5).map(|s| s.record.id.as_str()).collect();
                bail!(
                    "'{}' may be any of {} sessions: {}; give more of the id",
                    escape_text(text),
                    many.len(),
                    ids.join(", ")
                );
            }
        }
        if let Some(at) = sessions.iter().position(|s| s.record.name == text) {
            return Ok(sessions.swap_remove(at));
        }
        if let Some(error) = errors.into_iter().find(|e| format!("{e:#}").contains(text)) {
            return Err(error);
        }
        if sessions.is_empty() {
            bail!(
                "unknown session '{}': there are no sessions yet; 'agentwall run -- CMD' begins one",
                escape_text(text)
            );
        }
        bail!(
            "unknown session '{}'; the closest are {}; 'agentwall sessions --all' lists all",
            escape_text(text),
            closest(text, &sessions).join(", ")
        )
    }

    /// The session whose id ends in `-suffix`, among all.
    pub fn by_suffix(state: &State, wanted: &str) -> Result<Option<Session>> {
        let (sessions, _) = Session::list(state)?;
        Ok(sessions.into_iter().find(|s| s.suffix() == wanted))
    }

    /// The session's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The random end of the id, which begins the ids of its questions.
    pub fn suffix(&self) -> &str {
        suffix(&self.record.id)
    }

    /// When it last began to run, milliseconds since the Unix epoch.
    pub fn latest_ms(&self) -> u64 {
        self.record.resumed_ms.unwrap_or(self.record.started_ms)
    }

    /// Its folders outside of the state folder: of layers over a tree that holds the state folder.
    pub fn folders_outside(&self) -> Vec<PathBuf> {
        let uppers = self.record.layers.iter().map(|l| l.upper.as_path());
        let own = |p: &&Path| {
            p.file_name()
                .is_some_and(|n| n.as_encoded_bytes() == self.id().as_bytes())
        };
        let outside = uppers.filter(|u| !u.starts_with(&self.dir));
        let mut found: Vec<PathBuf> = outside
            .filter_map(|u| u.ancestors().find(own))
            .map(Path::to_owned)
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// Where upper and work directories live.
    pub fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// The approval channel's socket.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Writes the record: a new file, made durable, takes the old one's name.
    pub fn save(&self) -> Result<()> {
        self.write(true)
    }

    /// Like [`Session::save`], but not durable before [`Session::sync`]: nothing of a session that
    /// is only starting would be lost.
    pub fn save_soon(&self) -> Result<()> {
        self.write(false)
    }

    /// Makes everything that was written to the session's folder durable.
    pub fn sync(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(&self.dir)?.sync_all()
    }

    fn write(&self, durable: bool) -> Result<()> {
        let path = self.dir.join("session.json");
        let mut text = serde_json::to_vec_pretty(&self.record)?;
        text.push(b'\n');
        replace(&path, &text, durable)
            .with_context(|| format!("cannot write the session's record {}", shown(&path)))
    }

    /// Copies the policy's sources into the session's folder and notes them in the record, which
    /// is not saved by this. Copies that are there stay: until the record is saved, and for whoever
    /// has just read it, they are the session's policy.
    pub fn keep_policy(
        &mut self,
        sources: &[Source],
        variables: &Variables,
        policy: &Policy,
    ) -> Result<()> {
        self.record.policies.clear();
        let mut names = (1..).map(|n| match n {
            1 => "policy.yaml".to_owned(),
            n => format!("policy-{n}.yaml"),
        });
        for source in sources {
            let free = names.find(|name| !self.dir.join(name).exists());
            let file = free.context("no name is free for a copy of the policy")?;
            let path = self.dir.join(&file);
            replace(&path, &source.text, false)
                .with_context(|| format!("cannot write {}", shown(&path)))?;
            self.record.policies.push(PolicyFile {
                name: source.name.clone(),
                layer: source.layer,
                file,
            });
        }
        let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
        self.record.policy_source = names.join(" + ");
        policy.digest().clone_into(&mut self.record.policy_digest);
        self.record.variables = SessionVariables {
            home: variables.home.clone().unwrap_or_default(),
            tmp: variables.tmp.clone().unwrap_or_default(),
            state: variables.state.clone().unwrap_or_default(),
        };
        Ok(())
    }

    /// Takes over which policy another state of the same session names.
    pub fn adopt_policy(&mut self, other: &Session) {
        let (mine, theirs) = (&mut self.record, &other.record);
        mine.policy_source.clone_from(&theirs.policy_source);
        mine.policy_digest.clone_from(&theirs.policy_digest);
        mine.policies.clone_from(&theirs.policies);
        mine.variables.clone_from(&theirs.variables);
    }

    /// The policy the session ran under at last, from its copies. A policy with another digest is refused.
    pub fn policy(&self) -> Result<Policy> {
        let mut sources = Vec::new();
        for policy in &self.record.policies {
            if policy.file.contains('/') {
                bail!("the session's record names a policy file outside its folder");
            }
            let path = self.dir.join(&policy.file);
            let text = fs::read(&path).map_err(|e| {
                anyhow!(
                    "cannot read the session's policy {}: {e}; put the file back, or export the \
                         changes with 'agentwall diff --patch'",
                    shown(&path)
                )
            })?;
            sources.push(Source::new(policy.name.clone(), text, policy.layer));
        }
        let policy = agentwall_policy::load(&sources, &self.variables())
            .map_err(|e| anyhow!("the session's policy cannot be read:\n{e}"))?;
        if policy.digest() != self.record.policy_digest {
            bail!(
                "the policy in {} is not the one the session ran under (digest {}, expected {}); \
                 put the file back, or export the changes with 'agentwall diff --patch'",
                shown(&self.dir),
                policy.digest(),
                self.record.policy_digest
            );
        }
        Ok(policy)
    }

    /// The values the session's policy was loaded with.
    pub fn variables(&self) -> Variables {
        let set = |p: &Path| (!p.as_os_str().is_empty()).then(|| p.to_owned());
        Variables {
            workspace: set(&self.record.workspace),
            home: set(&self.record.variables.home),
            tmp: set(&self.record.variables.tmp),
            state: set(&self.record.variables.state),
        }
    }

    /// Takes the session's lock, and reads its record again: until then others may have worked in it.
    pub fn hold(&self, state: &State) -> Result<(Session, File)> {
        let lock = self.hold_lock()?;
        Ok((Session::load(state, self.id())?, lock))
    }

    /// Takes the lock that says the session runs; it does until the file is dropped. What is known of
    /// the session may be old by then: [`Session::hold`] looks again.
    pub fn hold_lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = self.lock_file()?;
        let start = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                // Somebody may just be looking whether it is held.
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < Duration::from_secs(1) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    bail!("session {} is running; wait until it has ended", self.id())
                }
                Err(e) => return Err(e).with_context(|| format!("cannot lock {}", shown(&path))),
            }
        }
    }

    /// Whether its supervisor lives.
    pub fn is_running(&self) -> bool {
        // For reading: who only looks makes nothing.
        let Ok(file) = File::open(self.dir.join("lock")) else {
            return false;
        };
        matches!(
            flock(&file, FlockOperation::NonBlockingLockShared),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    /// Removes the session's folder with everything in it. The caller holds its lock.
    pub fn remove_held(self) -> Result<()> {
        self.holds_nothing_of_others()?;
        let failed =
            |e: &dyn std::fmt::Display| anyhow!("cannot remove session {}: {e}", self.id());
        // Somebody may have written to one at this very moment.
        stays(&agentwall_cow::forget(&self.record.layers).map_err(|e| failed(&e))?)?;
        let trash = agentwall_cow::discard_all(&self.record.layers).map_err(|e| failed(&e))?;
        stays(&trash.iter().map(|path| shown(path)).collect::<Vec<_>>())?;
        let start = Instant::now();
        // The parts of a wall that did not come to stand may write for a moment longer.
        while let Err(e) = self.remove_folders() {
            if start.elapsed() > Duration::from_secs(1) {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn remove_folders(&self) -> Result<()> {
        for folder in self.folders_outside().iter().filter(|f| f.exists()) {
            remove_tree(folder)
                .with_context(|| format!("cannot remove the session's folder {}", shown(folder)))?;
        }
        let fail = || format!("cannot remove the session's folder {}", shown(&self.dir));
        // Whoever waits for the lock, or makes it anew, finds no session any more.
        match fs::remove_file(self.dir.join("session.json")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).with_context(fail),
            _ => {}
        }
        for path in inside(&self.dir).with_context(fail)? {
            if path != self.dir.join("lock") {
                remove_tree(&path).with_context(fail)?;
            }
        }
        remove_tree(&self.dir).with_context(fail)
    }

    /// Refuses while somebody's data lies in the session's folder: an original that was written to after
    /// a commit replaced it, or what an undo could not put anywhere. Nothing is touched.
    pub fn holds_nothing_of_others(&self) -> Result<()> {
        let lines = agentwall_cow::would_stay(&self.record.layers)
            .map_err(|e| anyhow!("cannot remove session {}: {e}", self.id()))?;
        stays(&lines)
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dir.join("lock");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", shown(&path)))
    }
}

/// Fails with the places of what is somebody's, if there are any.
fn stays(places: &[String]) -> Result<()> {
    match places {
        [] => Ok(()),
        _ => bail!(
            "somebody's data is in its folder: {}; look at it, move it away, then run this again",
            places.join("; ")
        ),
    }
}

/// Replaces a file as a whole; durable on return.
pub fn write_atomically(path: &Path, text: &[u8]) -> io::Result<()> {
    replace(path, text, true)
}

/// Replaces a file as a whole; durable on return if `durable` is set.
fn replace(path: &Path, text: &[u8], durable: bool) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if !durable {
            return Ok(());
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    let result = write();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Removes a folder of this user's own. Overlayfs leaves work directories that nobody may enter.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if fs::symlink_metadata(path)?.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        for path in &inside(path)? {
            remove_tree(path)?;
        }
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

/// What is in a folder, which is closed again before anything of it is entered: a deep tree takes few
/// descriptors.
fn inside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|e| e.path()))
        .collect()
}

/// The name of an agent, as a person may choose it.
pub fn agent_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("expected 1 to 64 letters, digits, '-', '_' or '.'".into());
    }
    Ok(text.to_owned())
}

/// The minute of a point in time as ids have it: `20261121-0259`.
pub fn minute_of(ms: u64) -> String {
    let time = rfc3339_of(ms);
    let stamp: String = time.chars().take(16).filter(char::is_ascii_digit).collect();
    let (day, minute) = stamp.split_at(8);
    format!("{day}-{minute}")
}

fn suffix(id: &str) -> &str {
    id.rsplit('-').next().unwrap_or(id)
}

/// Whether a text has the form of a session's id.
fn id_shaped(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The names of all session folders.
pub fn ids(state: &State) -> Result<Vec<String>> {
    let dir = state.sessions_dir();
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list the sessions in {}", shown(&dir)))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("cannot list {}", shown(&dir)))?
            .file_name();
        ids.extend(name.to_str().filter(|n| id_shaped(n)).map(str::to_owned));
    }
    Ok(ids)
}

/// Up to three sessions whose id or name is most like the text, the newest first among equals.
fn closest(text: &str, sessions: &[Session]) -> Vec<String> {
    let mut scored: Vec<(usize, &Session)> = sessions
        .iter()
        .map(|s| {
            let likeness = |other: &str| distance(text, other);
            (
                likeness(s.id())
                    .min(likeness(s.suffix()))
                    .min(likeness(&s.record.name)),
                s,
            )
        })
        .collect();
    scored.sort_by_key(|(d, _)| *d);
    scored
        .iter()
        .take(3)
        .map(|(_, s)| format!("{} ({})", s.id(), escape_text(&s.record.name)))
        .collect()
}

/// Levenshtein distance, of at most the first 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    fn new(state: &State, name: &str, workspace: &Path) -> Session {
        let new = NewSession {
            name: name.into(),
            workspace: workspace.into(),
            command: vec![],
        };
        Session::create(state, new).unwrap().0
    }

    #[test]
    fn found_by_id_prefix_suffix_name_and_workspace() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let error = Session::resolve(&state, Some("x")).unwrap_err().to_string();
        assert!(error.contains("no sessions yet"), "{error}");
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/w/\xff\n"));
        let a = new(&state, "alpha", odd);
        let b = new(&state, "beta\x1b[2J", Path::new("/w/b"));
        let find = |text: &str| Session::resolve(&state, Some(text)).map(|s| s.id().to_owned());
        for text in [a.id(), a.suffix(), "alpha"] {
            assert_eq!(find(text).unwrap(), a.id());
        }
        let both = find(&a.id()[..9]).unwrap_err().to_string();
        assert!(both.contains("any of 2 sessions"), "{both}");
        let error = find("alphx").unwrap_err().to_string();
        assert!(
            error.contains("alpha") && !error.contains('\x1b'),
            "{error}"
        );
        assert_eq!(Session::load(&state, a.id()).unwrap().record, a.record);
        let deep = odd.join("deep/er");
        let newest = Session::newest_for(&state, &deep).unwrap().unwrap();
        assert_eq!(newest.id(), a.id());
        assert!(
            Session::newest_for(&state, Path::new("/w"))
                .unwrap()
                .is_none()
        );
        assert!(Session::load(&state, "../sessions").is_err());
        let (b, _lock) = b.hold(&state).unwrap();
        b.remove_held().unwrap();
        assert_eq!(Session::list(&state).unwrap().0.len(), 1);
    }

    #[test]
    fn a_damaged_record_is_told_and_an_older_session_is_not_taken_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let workspace = Path::new("/w");
        let good = new(&state, "good", workspace);
        let bad = new(&state, "bad", workspace);
        fs::write(bad.dir().join("session.json"), "{").unwrap();
        let (sessions, errors) = Session::list(&state).unwrap();
        assert_eq!((sessions.len(), errors.len()), (1, 1));
        let error = Session::newest_for(&state, workspace).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains(bad.id()) && error.contains("name the session"),
            "{error}"
        );
        let named = Session::resolve(&state, Some(good.id())).unwrap();
        assert_eq!(named.id(), good.id());
    }

    #[test]
    fn runs_while_the_lock_is_held() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let session = new(&state, "a", Path::new("/w"));
        assert!(!session.is_running());
        let lock = session.hold_lock().unwrap();
        assert!(session.is_running());
        assert!(session.hold(&state).is_err());
        drop(lock);
        assert!(!session.is_running());
    }

    #[test]
    fn a_session_that_is_being_made_is_locked() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let (session, lock) = Session::create(&state, NewSession::default()).unwrap();
        assert!(session.is_running());
        drop(lock);
        assert!(!session.is_running());
    }

    #[test]
    fn another_policy_than_the_session_ran_under_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(tmp.path()).unwrap();
        let mut session = new(&state, "a", Path::new("/w"));
        let text = "agentwall: 1\ndefault: deny\nrules:\n  - id: r\n    action: file.read\n    \
                    resource: ${workspace}/**\n    effect: allow\n";
        let sources = [Source::new("p", text, PolicyLayer::User)];
        let variables = Variables {
            workspace: Some("/w".into()),
            ..Variables::default()
        };
        let policy = agentwall_policy::load(&sources, &variables).unwrap();
        session.keep_policy(&sources, &variables, &policy).unwrap();
        session.save().unwrap();
        let again = Session::load(&state, session.id()).unwrap();
        assert_eq!(again.policy().unwrap().digest(), policy.digest());
        let file = session.dir().join("policy.yaml");
        fs::write(&file, text.replace("allow", "deny")).unwrap();
        assert!(
            again
                .policy()
                .unwrap_err()
                .to_string()
                .contains("not the one")
        );
    }
}
