//! The approval channel: how `pending`, `approve`, `reject` and `policy apply` in another terminal talk
//! to the supervisor of a running session.
//!
//! A Unix socket in the session's private folder, one JSON object a line in each direction, one
//! answer per request. The folder is out of the agent's sight and belongs to the user alone, so who
//! can connect is the user. Requests and answers have a size limit; a peer that stays silent is
//! given up.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use agentwall_action::escape_text;
pub use agentwall_control::host::{GatewayAgent, PendingAsk};
use agentwall_engine::Scope;
use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    session::Session,
    state::{State, shown},
};

/// Longest line in bytes.
pub const MAX_LINE: u64 = 16 << 20;

/// The socket's name in its folder.
const SOCKET: &str = "control.sock";

/// How long a peer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a person's command asks of a supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Which questions wait?
    Pending,
    /// Let it happen.
    Approve {
        /// The question.
        id: String,
        /// How far the answer reaches.
        scope: Scope,
        /// The digest of what was shown; the question must still be bound to it. Any, when it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// It shall not happen.
    Reject {
        /// The question.
        id: String,
        /// For the agent to read.
        reason: Option<String>,
    },
    /// Put a policy in force.
    Apply {
        /// The policy; the session's own, read again, when it is left out.
        policy: Option<PolicyText>,
    },
    /// Keep what the layers are now.
    Checkpoint {
        /// Under this name; under the next free one when it is left out.
        name: Option<String>,
    },
    /// Of the daemon of the kernel wall alone.
    Host(HostRequest),
    /// Of a gateway alone.
    Gateway(GatewayRequest),
}

/// What is asked of a gateway, beside the questions that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayRequest {
    /// Which hosts and agents are there?
    Agents,
    /// End an agent, or a host with all its agents.
    Revoke {
        /// Its id.
        id: String,
    },
    /// Make a token.
    AddToken {
        /// Its name.
        name: String,
        /// What it is for.
        uses: Vec<agentwall_identity::ApiUse>,
        /// For how many days.
        days: u32,
    },
    /// Which tokens are there?
    Tokens,
    /// End a token.
    RemoveToken {
        /// Its name or id.
        which: String,
    },
}

/// What is asked of the daemon of the kernel wall, beside the questions that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostRequest {
    /// What stands?
    Status,
    /// Put a process and all that descends from it under a policy.
    Govern {
        /// The process; the asker itself when it is left out.
        pid: Option<u32>,
        /// Under which policy.
        policy: HostPolicy,
    },
    /// Take the policy away from the session that a process is in.
    Release {
        /// The process.
        pid: u32,
    },
    /// Read configuration and policies again.
    Reload,
    /// End the daemon.
    Stop {
        /// And the enforcement.
        unload: bool,
    },
}

/// Which policy a process is put under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPolicy {
    /// That of an entry of the daemon's configuration.
    Named(String),
    /// A file or bundle.
    File(#[serde(with = "agentwall_action::path_bytes")] PathBuf),
}

/// A policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// Its absolute path, or what else it is called.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The questions that wait, the oldest first.
    Pending(Vec<PendingAsk>),
    /// It is done.
    Done {
        /// What was done, for a person.
        text: String,
    },
    /// The policy is in force, as it was before if the digests are equal.
    Applied(Applied),
    /// The layers are kept.
    Checkpointed(agentwall_cow::Checkpoint),
    /// The policy was not put in force: what the session's wall cannot enforce of it.
    Differs(Vec<String>),
    /// The process is under the policy.
    Governed(Governed),
    /// What stands.
    Host(Box<HostStatus>),
    /// The agents of a gateway.
    GatewayAgents(Vec<GatewayAgent>),
    /// A token that was made.
    GatewayToken {
        /// In clear, this once.
        token: String,
        /// What is kept of it.
        about: agentwall_identity::ApiToken,
    },
    /// The tokens of a gateway.
    GatewayTokens(Vec<agentwall_identity::ApiToken>),
    /// It was not done.
    Error {
        /// Why, and the next step.
        text: String,
    },
}

/// A change of policy. The times are microseconds since the request had come, each at the end of a
/// step; 0 where nothing was to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// The session.
    pub session: String,
    /// The digest of the policy before.
    pub old: String,
    /// The digest of the policy now.
    pub new: String,
    /// How many rules it has.
    pub rules: usize,
    /// The files it was read from.
    pub sources: Vec<String>,
    /// Loaded, planned, and compared with what stands.
    pub planned_us: u64,
    /// Prepared by the broker.
    pub prepared_us: u64,
    /// Durably in the ledger, and in the session's record.
    pub recorded_us: u64,
    /// In force: the broker has said so.
    pub acknowledged_us: u64,
}

/// A process that was put under a policy of the kernel wall.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Governed {
    /// The session's id.
    pub session: String,
    /// The number of the view.
    pub view: u32,
    /// The subject of the policy.
    pub subject: String,
    /// The digest of the policy.
    pub digest: String,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// The processes that are under it now.
    pub processes: Vec<u32>,
    /// What the kernel does more strictly than the policy says, or not at all.
    pub lacks: Vec<String>,
}

/// What stands of the kernel wall.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStatus {
    /// The programs are in the kernel and pinned.
    pub standing: bool,
    /// They refuse: canaries proved it when they were loaded, and it is no audit.
    pub enforcing: bool,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// Why it is the monitor that stands, and no wall.
    pub no_wall: Option<String>,
    /// The daemon answers.
    pub daemon: bool,
    /// The kernel's release.
    pub kernel: String,
    /// SHA-256 of the programs, lower-case hex.
    pub programs: String,
    /// How many hooks they are attached to.
    pub hooks: usize,
    /// When the canaries were refused, or seen by the monitor, milliseconds since the Unix epoch.
    pub proved_ms: Option<u64>,
    /// Rules about host names are enforced: canaries proved that too.
    pub names: bool,
    /// The policies that are in use.
    pub views: Vec<ViewStatus>,
    /// What is governed.
    pub sessions: Vec<HostSession>,
    /// What the programs counted since they were loaded.
    pub counters: BTreeMap<String, u64>,
    /// Events that did not reach the ledger.
    pub lost: u64,
    /// Questions that wait.
    pub pending: usize,
    /// What is wrong, and what to do about it.
    pub trouble: Vec<String>,
}

/// A policy that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewStatus {
    /// Its number in the kernel.
    pub view: u32,
    /// For whom.
    pub subject: String,
    /// The file it is from.
    pub policy: String,
    /// Its digest.
    pub digest: String,
    /// How often it was exchanged.
    pub generation: u64,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// How many processes are under it.
    pub processes: usize,
    /// What the kernel does more strictly than the policy says, or not at all.
    pub lacks: Vec<String>,
}

/// A process that was put under a policy, with all that descends from it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSession {
    /// The session's id in the ledger.
    pub id: String,
    /// Its view.
    pub view: u32,
    /// The process it began with.
    pub pid: u32,
    /// Whose it was.
    pub uid: u32,
    /// The program it ran then, escaped.
    pub exe: String,
    /// The processes there are now.
    pub processes: Vec<u32>,
}

/// The session's socket, to be listened on by its supervisor. A left-over socket is replaced: the
/// caller holds the session's lock.
pub fn listen(session: &Session) -> Result<UnixListener> {
    listen_in(session.dir())
}

/// The socket in a folder of its own, to be listened on by whoever holds the folder's lock.
pub fn listen_in(dir: &Path) -> Result<UnixListener> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot replace {}", shown(&path)));
        }
        _ => {}
    }
    let (_dir, short) = short_path(dir)?;
    UnixListener::bind(&short).with_context(|| format!("cannot make the socket {}", shown(&path)))
}

/// Asks the supervisor of a session.
pub fn call(session: &Session, request: &Request) -> Result<Response> {
    call_within(session, request, PATIENCE)
}

/// The same, with another limit for how long the answer may take.
pub fn call_within(session: &Session, request: &Request, patience: Duration) -> Result<Response> {
    let gone = || {
        format!(
            "session {} does not answer; it may just have ended ('agentwall sessions' tells)",
            session.id()
        )
    };
    call_in(session.dir(), request, patience, gone)
}

/// Asks who listens in a folder; `gone` says that nobody answers.
pub fn call_in(
    dir: &Path,
    request: &Request,
    patience: Duration,
    gone: impl Fn() -> String,
) -> Result<Response> {
    let (_dir, short) = short_path(dir)?;
    call_at(&short, request, patience, gone)
}

/// Asks who listens at `path`; `gone` says that nobody answers.
pub fn call_at(
    path: &Path,
    request: &Request,
    patience: Duration,
    gone: impl Fn() -> String,
) -> Result<Response> {
    let mut stream = UnixStream::connect(path).with_context(&gone)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let written = write_line(&mut stream, request);
    // A supervisor that turns peers away says so without reading what they ask.
    let answer = read_line(&mut BufReader::new(stream));
    if !matches!(answer, Ok(Some(_))) {
        written.with_context(&gone)?;
    }
    answer.with_context(&gone)?.ok_or_else(|| anyhow!(gone()))
}

/// Writes one message.
pub fn write_line(stream: &mut UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Reads one message; `None` when the peer has closed.
pub fn read_line<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> Result<Option<T>> {
    let mut line = Vec::new();
    stream
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if !line.ends_with(b"\n") {
        bail!("a message was cut off or is longer than {MAX_LINE} bytes");
    }
    serde_json::from_slice(&line)
        .context("a message is not of the form expected")
        .map(Some)
}

/// All sessions that run now, the newest first.
pub fn running(state: &State) -> Result<Vec<Session>> {
    let (sessions, _) = Session::list(state)?;
    Ok(sessions.into_iter().filter(Session::is_running).collect())
}

/// The running session that asked question `id`.
pub fn session_of(state: &State, id: &str) -> Result<Session> {
    let waiting = "'agentwall pending' lists the questions that wait";
    let Some((suffix, number)) = id.rsplit_once('-') else {
        bail!(
            "'{}' is not the id of a question, such as k3f9-1; {waiting}",
            escape_text(id)
        );
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        bail!(
            "'{}' is not the id of a question, such as k3f9-1; {waiting}",
            escape_text(id)
        );
    }
    // A person may paste the whole session id in front.
    let suffix = suffix.rsplit('-').next().unwrap_or(suffix);
    match Session::by_suffix(state, suffix)? {
        Some(session) if session.is_running() => Ok(session),
        Some(session) => bail!(
            "session {} has ended; its questions were denied",
            session.id()
        ),
        None => bail!(
            "no session asked a question '{}'; {waiting}",
            escape_text(id)
        ),
    }
}

/// A path to the socket that fits into a socket address (108 bytes, unix(7)) however long the
/// folder's path is; valid as long as the folder stays open.
fn short_path(dir: &Path) -> Result<(File, PathBuf)> {
    let open = File::open(dir).with_context(|| format!("cannot open {}", shown(dir)))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd()));
    Ok((open, short))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::NewSession;

    #[test]
    fn asks_and_answers_in_a_folder_with_a_long_name() {
        let tmp = tempfile::tempdir().unwrap();
        let state = State::open_at(&tmp.path().join("x".repeat(200))).unwrap();
        let new = NewSession {
            name: "a".into(),
            workspace: "/w".into(),
            command: vec![],
        };
        let (session, lock) = Session::create(&state, new).unwrap();
        drop(lock);
        let id = format!("{}-1", session.suffix());
        let ended = session_of(&state, &id).unwrap_err().to_string();
        assert!(ended.contains("has ended"), "{ended}");
        assert!(call(&session, &Request::Pending).is_err());
        let _lock = session.hold_lock().unwrap();
        assert_eq!(session_of(&state, &id).unwrap().id(), session.id());
        for wrong in ["", "x", "k3f9-", "k3f9-a", "\x1b[2J-1"] {
            let error = session_of(&state, wrong).unwrap_err().to_string();
            assert!(
                error.contains("agentwall pending") && !error.contains('\x1b'),
                "{error}"
            );
        }
        let listener = listen(&session).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let request: Request = read_line(&mut reader).unwrap().unwrap();
            let mut stream = stream;
            write_line(&mut stream, &Response::Done { text: "ok".into() }).unwrap();
            request
        });
        let request = Request::Approve {
            id,
            scope: Scope::Pattern("/w/**".into()),
            digest: None,
        };
        let answer = call(&session, &request).unwrap();
        assert_eq!(answer, Response::Done { text: "ok".into() });
        assert_eq!(server.join().unwrap(), request);
        // A second supervisor's socket replaces a left-over one.
        listen(&session).unwrap();
        assert!(Path::new(&session.socket_path()).exists());
    }
}
