//! The supervisor's end of the approval channel: the socket in the session's folder that `pending`,
//! `approve`, `reject` and `policy apply` talk to (`control` has the other end and the form of the
//! messages).
//!
//! Only the user and root are served. A peer cannot hold the supervisor up: a request has a longest
//! line, a request and its answer have a time limit as a whole (bytes that drip in do not extend it), and
//! so many peers are served at once. Who is turned away for one of these is told so.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_bundle::MAX_BUNDLE;

use super::Supervisor;
use crate::control::{PATIENCE, Request, Response};

/// What one peer, and all together, may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bytes of a request, with its line feed.
    line: u64,
    /// How long a request may take to come, and its answer to be read.
    patience: Duration,
    /// Peers at once.
    peers: usize,
}

/// A request holds at most a policy file or a bundle, whose line feeds and quotes become two bytes in
/// JSON, or a path or a reason from a command line, where one argument is at most 128 KiB
/// (`MAX_ARG_STRLEN`, execve(2)).
const LIMITS: Limits = Limits {
    line: 2 * MAX_BUNDLE as u64 + (1 << 20),
    patience: PATIENCE,
    peers: 16,
};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user's id.
    pub uid: u32,
    /// The process.
    pub pid: u32,
}

/// Serves the approval socket of a session until the process ends.
pub fn serve_control(supervisor: Arc<Supervisor>, listener: UnixListener) {
    serve_private(listener, move |peer, request| {
        supervisor.respond(peer.uid, request)
    });
}

/// Serves a socket for the user and root alone until the process ends.
pub fn serve_private(
    listener: UnixListener,
    answer: impl Fn(Peer, Request) -> Response + Send + Sync + 'static,
) {
    let own = rustix::process::getuid().as_raw();
    std::thread::spawn(move || {
        let places = |peer: Peer| match peer.uid == own || peer.uid == 0 {
            true => LIMITS.peers,
            false => 0,
        };
        serve(&listener, LIMITS, places, answer);
    });
}

/// Serves the daemon's socket until the process ends. Everybody is heard; what may be asked by whom, the
/// answer decides. Others than root cannot take all places.
pub fn serve_host(
    listener: UnixListener,
    answer: impl Fn(Peer, Request) -> Response + Send + Sync + 'static,
) {
    std::thread::spawn(move || {
        let places = |peer: Peer| match peer.uid {
            0 => LIMITS.peers,
            _ => LIMITS.peers / 2,
        };
        serve(&listener, LIMITS, places, answer);
    });
}

fn serve(
    listener: &UnixListener,
    limits: Limits,
    places: impl Fn(Peer) -> usize,
    answer: impl Fn(Peer, Request) -> Response + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let peers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors or memory: the peer waits in the backlog.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        // Of how many peers this one may be the last; 0: it is not heard.
        let heard = peer_of(&stream).map(|peer| (peer, places(peer)));
        let Some((peer, most)) = heard.filter(|(_, most)| *most > 0) else {
            continue;
        };
        let Some(place) = Place::take(&peers, most) else {
            let _ = stream.set_nonblocking(true);
            let _ = say(&stream, "too many requests at once; try again in a moment");
            continue;
        };
        let answer = Arc::clone(&answer);
        // If there is no thread to be had, dropping the closure closes the connection.
        let _ = std::thread::Builder::new()
            .name("approvals".into())
            .spawn(move || {
                let _place = place;
                converse(&stream, limits, &|request| answer(peer, request));
            });
    }
}

fn peer_of(stream: &UnixStream) -> Option<Peer> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    Some(Peer {
        uid: peer.uid.as_raw(),
        pid: peer.pid.as_raw_nonzero().get().cast_unsigned(),
    })
}

/// Answers one peer until it closes or goes over a limit.
fn converse(stream: &UnixStream, limits: Limits, answer: &dyn Fn(Request) -> Response) {
    let mut reader = BufReader::new(Timed::new(stream, limits.patience));
    loop {
        reader.get_mut().restart();
        let mut line = Vec::new();
        let response = match (&mut reader).take(limits.line).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.ends_with(b"\n") => match serde_json::from_slice(&line) {
                Ok(request) => answer(request),
                Err(e) => Response::Error {
                    text: format!("not a request: {e}"),
                },
            },
            Ok(read) if read as u64 == limits.line => {
                let text = format!("a request is at most {} bytes long", limits.line);
                let _ = say(Timed::new(stream, limits.patience), &text);
                return;
            }
            // Cut off, silent for too long, or gone.
            Ok(_) | Err(_) => return,
        };
        if write(Timed::new(stream, limits.patience), &response).is_err() {
            return;
        }
    }
}

fn say(to: impl Write, text: &str) -> io::Result<()> {
    write(to, &Response::Error { text: text.into() })
}

fn write(mut to: impl Write, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// A stream that fails with `TimedOut` when its time is over, however many calls that takes.
#[derive(Debug)]
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    patience: Duration,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, patience: Duration) -> Self {
        Timed {
            stream,
            patience,
            deadline: Instant::now() + patience,
        }
    }

    fn restart(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buf)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// One of a bounded number of peers; gives its place back when dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Place> {
        let place = Place(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::SeqCst) < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::PathBuf, thread};
    use tempfile::TempDir;

    const LONG: Duration = Duration::from_secs(600);

    struct Served {
        _tmp: TempDir,
        path: PathBuf,
    }

    impl Served {
        /// A channel that answers every request with its own text.
        fn new(limits: Limits) -> Served {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("s");
            let listener = UnixListener::bind(&path).unwrap();
            thread::spawn(move || {
                let answer = |_, request: Request| Response::Done {
                    text: serde_json::to_string(&request).unwrap(),
                };
                serve(&listener, limits, |_| limits.peers, answer);
            });
            Served { _tmp: tmp, path }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).unwrap()
        }
    }

    fn limits() -> Limits {
        Limits {
            line: 64,
            patience: LONG,
            peers: 2,
        }
    }

    /// One answer; `None` when the other end has closed.
    fn heard(stream: &UnixStream) -> Option<Response> {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn is_error(response: Option<Response>, part: &str) -> bool {
        matches!(&response, Some(Response::Error { text }) if text.contains(part))
    }

    fn is_done(response: Option<Response>) -> bool {
        matches!(response, Some(Response::Done { .. }))
    }

    #[test]
    fn requests_are_answered_one_by_one_and_nonsense_is_named() {
        let mut peer = Served::new(limits()).connect();
        peer.write_all(b"\"pending\"\n").unwrap();
        assert!(is_done(heard(&peer)));
        let nonsense: [&[u8]; 4] = [b"{}\n", b"\n", b"\"pend\xff\"\n", b"[1\n"];
        for line in nonsense {
            peer.write_all(line).unwrap();
            assert!(is_error(heard(&peer), "not a request"), "{line:?}");
        }
        peer.write_all(b"\"pending\"\n").unwrap();
        assert!(is_done(heard(&peer)));
    }

    #[test]
    fn a_request_has_a_longest_line() {
        let served = Served::new(limits());
        let mut longest = b"\"pending\"".to_vec();
        longest.resize(63, b' ');
        longest.push(b'\n');
        let mut peer = served.connect();
        peer.write_all(&longest).unwrap();
        assert!(is_done(heard(&peer)));
        longest.insert(9, b' ');
        peer.write_all(&longest).unwrap();
        assert!(is_error(heard(&peer), "at most 64 bytes"));
        assert_eq!(heard(&peer), None, "and that was the last answer");
        // Without an end, too.
        let mut peer = served.connect();
        peer.write_all(&[b'x'; 64]).unwrap();
        assert!(is_error(heard(&peer), "at most 64 bytes"));
    }

    #[test]
    fn a_silent_peer_is_given_up() {
        let served = Served::new(Limits {
            patience: Duration::from_millis(30),
            ..limits()
        });
        assert_eq!(heard(&served.connect()), None);
        let mut half = served.connect();
        // On a busy machine it may be given up before it says a word.
        let _ = half.write_all(b"\"pend");
        assert_eq!(heard(&half), None);
    }

    #[test]
    fn bytes_that_drip_in_do_not_extend_the_time() {
        let served = Served::new(Limits {
            line: u64::MAX,
            patience: Duration::from_millis(30),
            peers: 1,
        });
        let mut peer = served.connect();
        // Ends only when the other end closes.
        while peer.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_peer_that_does_not_read_its_answers_is_given_up() {
        let served = Served::new(Limits {
            patience: Duration::from_millis(30),
            ..limits()
        });
        let mut peer = served.connect();
        // Until the answers fill the way back, nobody reads here any more, and it is closed.
        while peer.write_all(b"\"pending\"\n").is_ok() {}
    }

    #[test]
    fn so_many_peers_at_once_and_the_next_is_told() {
        let served = Served::new(limits());
        let mut held: Vec<_> = (0..2).map(|_| served.connect()).collect();
        assert!(is_error(heard(&served.connect()), "try again"));
        for peer in &mut held {
            peer.write_all(b"\"pending\"\n").unwrap();
            assert!(is_done(heard(peer)));
        }
        held.pop();
        // A place is free again when the end of that peer was seen.
        loop {
            let mut peer = served.connect();
            if peer.write_all(b"\"pending\"\n").is_ok() && is_done(heard(&peer)) {
                break;
            }
        }
    }
}
