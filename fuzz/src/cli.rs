//! The command line: the approval channel, sessions on disk, and what a person types.

use std::{
    fs,
    io::{BufReader, Write as _},
    os::unix::net::UnixStream,
    sync::{Arc, OnceLock},
};

use agentwall_action::{Action, Effect, Resource, Subject, Verb};
use agentwall_engine::{Engine, Grant, Scope};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    control::{self, Request, Response},
    host::{config, proc::Process},
    input::{action, assert_shown, lines, parts},
    intent::{Statement, event, http, transcript},
    policy::user,
    session::{NewSession, Session},
    state::State,
    tree,
};

/// Lines of the approval channel, read as the supervisor and as the person's command read them.
pub fn channel(data: &[u8]) {
    // What fits into a socket's buffer needs no second thread.
    if data.len() > 32 * 1024 {
        return;
    }
    read_all::<Request>(data);
    read_all::<Response>(data);
}

/// A configuration of the daemon: what is taken keeps its promises.
pub fn daemon_config(data: &[u8]) {
    const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nci:x:990:990::/srv/ci:/bin/sh\n";
    let Ok(read) = config::read("daemon.yaml", data.to_vec(), PASSWD) else {
        return;
    };
    assert!(read.ring_bytes.is_none_or(u32::is_power_of_two));
    assert!(read.govern.len() <= config::MAX_ENTRIES);
    for (at, entry) in read.govern.iter().enumerate() {
        assert!(entry.policy.is_absolute());
        assert!(entry.workspace.as_ref().is_none_or(|w| w.is_absolute()));
        let first = read.govern.iter().position(|e| e.name == entry.name);
        assert_eq!(first, Some(at), "a name names one entry");
        let process = Process {
            pid: 7,
            uid: 990,
            exe: "/opt/agent".into(),
            parent: 1,
            started: 1,
        };
        let named_alone = entry.exe.is_none() && entry.user.is_none();
        assert!(!(named_alone && entry.fits(&process)));
    }
}

fn read_all<T>(data: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let (mut near, far) = UnixStream::pair().expect("a socket pair");
    near.write_all(data).expect("it fits");
    drop(near);
    let mut reader = BufReader::new(far);
    while let Ok(Some(message)) = control::read_line::<T>(&mut reader) {
        let (mut near, far) = UnixStream::pair().expect("a socket pair");
        control::write_line(&mut near, &message).expect("it fits");
        let again: Option<T> = control::read_line(&mut BufReader::new(far)).expect("our own line");
        // Numbers with a fraction are read approximately; no message of the wall has them.
        let text = serde_json::to_string(&message).expect("writable");
        if !text.contains('.') {
            assert_eq!(again, Some(message));
        }
    }
}

const ID: &str = "20260102-0304-k3f9";

fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let state = State::open_at(&tree::folder("state")).expect("a state folder");
        fs::create_dir(state.sessions_dir().join(ID)).expect("a session's folder");
        state
    })
}

/// `session.json`: what loads is saved and loads again as the same.
pub fn session(data: &[u8]) {
    let state = state();
    let path = state.sessions_dir().join(ID).join("session.json");
    fs::write(&path, data).expect("written");
    match Session::load(state, ID) {
        Err(error) => assert!(!format!("{error:#}").is_empty()),
        Ok(session) => {
            assert_eq!(session.id(), ID);
            session.save_soon().expect("saved");
            let again = Session::load(state, ID).expect("our own record");
            assert_eq!(again.record, session.record);
            if let Err(error) = session.policy() {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    let (sessions, errors) = Session::list(state).expect("listed");
    assert_eq!(sessions.len() + errors.len(), 1);
}

/// What a person types to name a session or a question: it means a session that fits, or the
/// answer can be shown.
pub fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    static STATE: OnceLock<State> = OnceLock::new();
    let state = STATE.get_or_init(|| {
        let state = State::open_at(&tree::folder("selector")).expect("a state folder");
        for (id, name) in [
            ("20260102-0304-k3f9", "claude"),
            ("20260102-0305-abcd", "codex"),
            ("20260103-0000-0000", "a\u{1b}[2J"),
        ] {
            let new = NewSession {
                name: name.into(),
                workspace: "/w/p".into(),
                command: vec!["true".into()],
            };
            let (mut session, _) = Session::create(&state, new).expect("a session");
            session.record.id = id.into();
            session.save_soon().expect("saved");
            fs::rename(session.dir(), state.sessions_dir().join(id)).expect("renamed");
        }
        state
    });
    match Session::resolve(state, Some(text)) {
        Ok(session) => assert!(
            session.id().starts_with(text)
                || session.suffix() == text
                || session.record.name == text
        ),
        Err(error) => assert_shown(&format!("{error:#}")),
    }
    // None of them runs, so that no question waits.
    match control::session_of(state, text) {
        Ok(session) => panic!("{} does not run", session.id()),
        Err(error) => assert_shown(&format!("{error:#}")),
    }
    if let Ok(session) = Session::load(state, text) {
        assert_eq!(session.id(), text);
    }
}

/// An action that is asked about, a pattern to grant, and further actions. A grant by pattern covers
/// what was asked, only its verb, and nothing that is never granted.
pub fn grant(data: &[u8]) {
    let lines = lines(data, 8);
    let [asked, pattern, others @ ..] = lines.as_slice() else {
        return;
    };
    let Some(asked) = action(asked) else {
        return;
    };
    let policy = user(b"agentwall: 1\ndefault: ask\n").expect("a policy");
    let engine = Engine::new(
        Arc::new(policy),
        Subject::agent("claude"),
        asked.facts.clone(),
    );
    let decision = engine.decide(&asked);
    let scope = Scope::Pattern((*pattern).to_owned());
    let grant = match Grant::new(&asked, &decision, scope) {
        Ok(grant) => grant,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    engine.grant(grant);
    let after = |action: &Action| engine.decide(action).effect;
    assert_eq!(after(&asked), Effect::Allow, "{asked:?} by {pattern:?}");
    for other in others.iter().filter_map(|line| action(line)) {
        if other.verb != asked.verb {
            assert_eq!(after(&other), Effect::Ask, "{other:?} by {pattern:?}");
        }
    }
    let never = match asked.verb {
        Verb::FileRead | Verb::FileWrite => ["/home/user/.ssh/id_ed25519", "/etc/shadow"],
        Verb::NetConnect => ["tcp://169.254.169.254:80", "tcp://169.254.169.254:443"],
        _ => return,
    };
    for text in never {
        let resource = Resource::parse(asked.verb.family(), text).expect("a resource");
        // The very object that was asked about may be granted, by its name.
        if resource != asked.resource {
            let action = Action {
                resource,
                ..asked.clone()
            };
            assert_eq!(after(&action), Effect::Ask, "{text} by {pattern:?}");
        }
    }
}

/// What a hook is told, and the transcript that it names: an intent that fits the socket, and reads back.
pub fn intent_hook(data: &[u8]) {
    let parts = parts(data);
    let transcript = parts.get(1).copied().unwrap_or_default();
    let (why, _) = transcript::newest_text(transcript, Some("toolu_1"));
    assert!(why.len() <= (16 << 10) + 3);
    let Ok(mut told) = event::parse(parts[0]) else {
        return;
    };
    // Files are the agent's; which one, is no matter here.
    told.transcript_path = None;
    let said = event::statement("claude-code", &told);
    for does in &said.does {
        let verb: Verb = does.verb.parse().expect("a verb");
        assert_eq!(does.argv.is_empty(), verb != Verb::ProcessExec);
    }
    let text = serde_json::to_vec(&said).expect("JSON");
    let back: Statement = serde_json::from_slice(&text).expect("as it was written");
    assert_eq!(back, said);
    let _ = event::ending(&told);
}

/// Requests and answers at the intent socket: what is taken is what was announced.
pub fn intent_http(data: &[u8]) {
    let announced = |body: &[u8]| {
        assert!(body.len() <= http::MAX_BODY && data.ends_with(body));
    };
    if let Ok(request) = http::read_request(data) {
        announced(&request.body);
        let _ = serde_json::from_slice::<Statement>(&request.body);
    }
    let mut rest = data;
    if let Ok((_, body)) = http::read_response(&mut rest) {
        assert!(body.len() <= http::MAX_BODY);
    }
}
