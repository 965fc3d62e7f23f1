//! What a governed process may read about its own refusals: one file for each session, in the form that
//! `agentwall why` knows, and the socket that hands it out.
//!
//! A process cannot name its session. It connects, the kernel says which process that is, the wall says under
//! which session it stands, and it is given that session's trail and nothing else. The socket reads nothing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agentwall_wall::{TrailEntry, wire::Event};

use super::{Places, kernel::Kernel};
use crate::state::now_ms;

/// A trail is cut to its newer half when it grows past this.
const LIMIT: u64 = 256 * 1024;
/// How long who asks may take to read.
const PATIENCE: Duration = Duration::from_secs(2);

/// Adds a refusal to a session's trail. What cannot be written is lost there, and stands in the ledger.
pub fn note(places: &Places, session: u64, event: &Event) -> io::Result<()> {
    let entry = TrailEntry {
        time_ms: now_ms(),
        action: event.action.verb.to_string(),
        resource: event.action.resource.to_string(),
        exe: event.actor.exe.clone(),
        decision: event.decision.clone(),
    };
    let mut line = serde_json::to_vec(&entry)?;
    line.push(b'\n');
    let path = places.trail(session);
    if let Some(folder) = path.parent() {
        let mut make = fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(&path)?;
    if file.metadata()?.len() > LIMIT {
        let kept = newer_half(&mut file)?;
        file.set_len(0)?;
        file.write_all(&kept)?;
    }
    file.write_all(&line)
}

fn newer_half(file: &mut fs::File) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(LIMIT / 2))?;
    let mut half = Vec::new();
    file.read_to_end(&mut half)?;
    let begin = half
        .iter()
        .position(|b| *b == b'\n')
        .map_or(half.len(), |at| at + 1);
    half.drain(..begin);
    Ok(half)
}

/// A session has ended.
pub fn forget(places: &Places, session: u64) {
    // What stays goes with a reboot.
    let _ = fs::remove_file(places.trail(session));
}

/// Hands out trails, one after the other, until the process ends.
pub fn serve(places: &Places, kernel: Arc<dyn Kernel>) -> io::Result<()> {
    let path = places.why();
    let listener = listen(&path, 0o666)?;
    let places = places.clone();
    std::thread::Builder::new()
        .name("why".into())
        .spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    // A peer that goes away needs nothing.
                    Ok(stream) => drop(answer(&places, &*kernel, &stream)),
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        })
        .map(drop)
}

/// A socket in the place of one that is left over.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

fn answer(places: &Places, kernel: &dyn Kernel, mut stream: &UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let pid = peer.pid.as_raw_nonzero().get().cast_unsigned();
    let governed = kernel.governed().map_err(io::Error::other)?;
    let Some(found) = governed.iter().find(|g| g.pid == pid && g.view != 0) else {
        return Ok(());
    };
    match fs::read(places.trail(found.session)) {
        Ok(trail) => stream.write_all(&trail),
        // Nothing was refused: an answer, but an empty one.
        Err(_) => stream.write_all(b"\n"),
    }
}

/// What the daemon's socket at `path` says to this process: `None`, if it is not governed or nobody answers.
pub fn ask(path: &PathBuf) -> Option<String> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{daemon::tests::Fake, told, told::tests as made};
    use agentwall_action::Verb;
    use agentwall_kernel::{Programs, wire::Governed};

    fn places(tmp: &tempfile::TempDir) -> Places {
        Places {
            run: tmp.path().to_owned(),
            ..Places::default()
        }
    }

    #[test]
    fn a_process_reads_the_trail_of_its_own_session_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let places = places(&tmp);
        let fake = Arc::new(Fake::default());
        serve(&places, Arc::<Fake>::clone(&fake) as Arc<dyn Kernel>).unwrap();
        assert_eq!(ask(&places.why()), None, "not governed");
        let policy = made::policy("agentwall: 1\ndefault: deny\n");
        for (session, path) in [(3, "/mine"), (4, "/other")] {
            let event = told::told(
                &made::event(Verb::FileRead, path),
                Some(&policy),
                Programs::Wall,
            );
            note(&places, session, &event).unwrap();
        }
        let me = |session| Governed {
            session,
            born: 0,
            pid: std::process::id(),
            view: 1,
            of_the_wall: false,
            released: false,
        };
        fake.governed.lock().unwrap().push(me(3));
        let text = ask(&places.why()).unwrap();
        assert!(text.contains("/mine") && !text.contains("/other"), "{text}");
        forget(&places, 3);
        assert_eq!(ask(&places.why()).as_deref(), Some("\n"));
    }

    #[test]
    fn a_trail_is_bounded_and_its_lines_stay_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let places = places(&tmp);
        let policy = made::policy("agentwall: 1\ndefault: deny\n");
        let long = format!("/{}", "x".repeat(30_000));
        for n in 0..30 {
            let event = made::event(Verb::FileRead, &format!("{long}{n}"));
            note(
                &places,
                1,
                &told::told(&event, Some(&policy), Programs::Wall),
            )
            .unwrap();
        }
        let text = fs::read_to_string(places.trail(1)).unwrap();
        assert!(text.len() as u64 <= LIMIT + 100_000, "{}", text.len());
        let lines: Vec<TrailEntry> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert!(lines.last().unwrap().resource.ends_with("x29"));
    }
}
