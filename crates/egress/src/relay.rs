//! Carrying bytes between the agent's connection and the dialled one.
//!
//! One thread, two independent flows, each with its own end: a FIN on one side is passed on when all
//! bytes before it are, and the other direction lives on. A reset on one side resets the other. Small
//! exchanges are copied through a buffer; a flow that grows moves pages through a pipe with
//! `splice(2)` and never touches the bytes.
//!
//! The agent's first bytes are held back until its greeting is understood (see `greeting`). Nothing
//! delays the server's bytes, so protocols in which the server speaks first work at once, and a
//! client that waits before its greeting is checked all the same.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use crate::{
    Outcome,
    greeting::{Greeting, MAX_GREETING, inspect},
};

const BUFFER: usize = 64 * 1024;
/// From so many bytes on a flow is spliced.
const SPLICE_FROM: u64 = 256 * 1024;
const PIPE: usize = 1024 * 1024;
const CHUNK: usize = 1024 * 1024;
/// More than this waits in the sockets, not in the pipe: what is in flight should fit in the caches
/// of the processor, or the two ends copy at half the speed.
const HELD: usize = 512 * 1024;
/// How long a greeting may stay unclear before it counts as another protocol.
const UNDECIDED: Duration = Duration::from_millis(300);
/// How long a TLS or HTTP greeting may stay incomplete.
const INCOMPLETE: Duration = Duration::from_secs(10);

/// How a relay ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) claimed: Option<String>,
    pub(crate) outcome: Outcome,
}

/// Relays until both directions ended. Both sockets are non-blocking. `host`: `None` relays without
/// reading the greeting; `Some(None)` reads it for the record; `Some(Some(name))` also compares it.
pub(crate) fn relay(
    client: OwnedFd,
    upstream: &OwnedFd,
    stop: &OwnedFd,
    host: Option<Option<&str>>,
) -> Ended {
    let mut relay = Relay {
        up: Flow::default(),
        down: Flow::default(),
        greeting: host.map(|resolved| Held {
            resolved,
            bytes: Vec::new(),
            since: None,
        }),
        claimed: None,
    };
    let outcome = relay.run(&client, upstream, stop);
    if outcome != Outcome::Closed {
        for socket in [&client, upstream] {
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
    Ended {
        up: relay.up.moved,
        down: relay.down.moved,
        claimed: relay.claimed,
        outcome,
    }
}

struct Relay<'a> {
    up: Flow,
    down: Flow,
    greeting: Option<Held<'a>>,
    claimed: Option<String>,
}

/// The agent's first bytes while they are unclear.
struct Held<'a> {
    resolved: Option<&'a str>,
    bytes: Vec<u8>,
    since: Option<Instant>,
}

impl Relay<'_> {
    fn run(&mut self, client: &OwnedFd, upstream: &OwnedFd, stop: &OwnedFd) -> Outcome {
        // Set once a socket is hung up and has nothing left to do: polling it again would spin.
        let mut gone = [false; 2];
        loop {
            let reading = |flow: &Flow| {
                if flow.wants_input() {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                }
            };
            let writing = |flow: &Flow| {
                if flow.pending() {
                    PollFlags::OUT
                } else {
                    PollFlags::empty()
                }
            };
            let interest = [
                reading(&self.up) | writing(&self.down),
                reading(&self.down) | writing(&self.up),
            ];
            let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
            let mut place = [None; 2];
            for (i, socket) in [client, upstream].into_iter().enumerate() {
                if !(gone[i] && interest[i].is_empty()) {
                    place[i] = Some(fds.len());
                    fds.push(PollFd::new(socket, interest[i]));
                }
            }
            let timeout = self.greeting.as_ref().and_then(Held::timeout);
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Outcome::Reset,
            }
            if !fds[0].revents().is_empty() {
                return Outcome::ShutDown;
            }
            let ready = place.map(|p| p.map_or(PollFlags::empty(), |p| fds[p].revents()));
            for (i, socket) in [client, upstream].into_iter().enumerate() {
                if ready[i].contains(PollFlags::ERR)
                    && matches!(sockopt::socket_error(socket), Ok(Err(_)) | Err(_))
                {
                    return Outcome::Reset;
                }
                gone[i] |= ready[i].contains(PollFlags::HUP);
            }
            let readable = |i: usize| ready[i].intersects(PollFlags::IN | PollFlags::HUP);
            let writable = |i: usize| ready[i].contains(PollFlags::OUT);
            let judging = self.greeting.is_some();
            if judging && let Err(outcome) = self.greet(client, readable(0)) {
                return outcome;
            }
            let released = judging && self.greeting.is_none();
            if (released || (!judging && (readable(0) || writable(1))))
                && let Err(outcome) = self.up.pump(client, upstream, !judging && readable(0))
            {
                return outcome;
            }
            if (readable(1) || writable(0))
                && let Err(outcome) = self.down.pump(upstream, client, readable(1))
            {
                return outcome;
            }
            if self.up.ended && self.down.ended {
                return Outcome::Closed;
            }
        }
    }

    /// Reads and judges the greeting; releases it into the flow when it is fine.
    fn greet(&mut self, client: &OwnedFd, readable: bool) -> Result<(), Outcome> {
        let Some(held) = &mut self.greeting else {
            return Ok(());
        };
        let mut end = false;
        if readable {
            let mut chunk = [0; 16 * 1024];
            match recv(client, &mut chunk[..], RecvFlags::empty()) {
                Ok((0, _)) => end = true,
                Ok((n, _)) => {
                    held.bytes.extend_from_slice(&chunk[..n]);
                    held.since.get_or_insert_with(Instant::now);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(Outcome::Reset),
            }
        }
        if held.bytes.is_empty() && !end {
            return Ok(());
        }
        let mut greeting = inspect(&held.bytes);
        if end && greeting == Greeting::Incomplete {
            // A server may act on an HTTP head without its last line; it cannot on half a hello.
            let mut whole = held.bytes.clone();
            whole.extend_from_slice(b"\r\n\r\n");
            greeting = inspect(&whole);
        }
        let late = |limit| end || held.since.is_some_and(|s| s.elapsed() >= limit);
        let release = match (greeting, held.resolved) {
            (Greeting::Names(claims), resolved) => {
                let wrong = claims.iter().find(|c| resolved.is_some_and(|r| r != c.0));
                let told = wrong.or(claims.first()).map(|c| c.0.clone());
                self.claimed.clone_from(&told);
                if let (Some(_), Some(claimed), Some(resolved)) = (wrong, told, resolved) {
                    let resolved = resolved.to_owned();
                    return Err(Outcome::NameContradiction { resolved, claimed });
                }
                true
            }
            (Greeting::Malformed(why), Some(_)) => return Err(Outcome::UnreadableGreeting(why)),
            (Greeting::Malformed(_), None) | (Greeting::Other, _) => true,
            (Greeting::Undecided, _) | (Greeting::Incomplete, None) => {
                late(UNDECIDED) || held.bytes.len() > MAX_GREETING
            }
            (Greeting::Incomplete, Some(_)) => {
                if !end && (late(INCOMPLETE) || held.bytes.len() > MAX_GREETING) {
                    return Err(Outcome::UnreadableGreeting("it stayed incomplete"));
                }
                end
            }
        };
        if release {
            self.up.buffer = std::mem::take(&mut held.bytes);
            self.up.filled = 0..self.up.buffer.len();
            self.up.eof = end;
            self.greeting = None;
        }
        Ok(())
    }
}

impl Held<'_> {
    /// Until when to wait at most; `None` while nothing has arrived.
    fn timeout(&self) -> Option<Timespec> {
        let since = self.since?;
        let limit = match (inspect(&self.bytes), self.resolved) {
            (Greeting::Incomplete, Some(_)) => INCOMPLETE,
            _ => UNDECIDED,
        };
        Timespec::try_from(limit.saturating_sub(since.elapsed())).ok()
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    buffer: Vec<u8>,
    filled: Range<usize>,
    pipe: Option<Pipe>,
    moved: u64,
    /// The source has ended.
    eof: bool,
    /// The end was passed on.
    ended: bool,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    full: bool,
}

impl Flow {
    fn pending(&self) -> bool {
        !self.filled.is_empty() || self.pipe.as_ref().is_some_and(|p| p.held > 0)
    }

    fn wants_input(&self) -> bool {
        !self.eof
            && match &self.pipe {
                Some(pipe) => !pipe.full && pipe.held < HELD,
                None => self.filled.is_empty(),
            }
    }

    /// Moves what can be moved now.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, readable: bool) -> Result<(), Outcome> {
        if readable && self.wants_input() {
            self.read(from)?;
        }
        if self.pending() {
            self.write(to)?;
        }
        if self.eof && !self.pending() && !self.ended {
            self.ended = true;
            match shutdown(to, Shutdown::Write) {
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(_) => return Err(Outcome::Reset),
            }
        }
        Ok(())
    }

    fn read(&mut self, from: &OwnedFd) -> Result<(), Outcome> {
        if self.pipe.is_none() && self.moved >= SPLICE_FROM && self.filled.is_empty() {
            self.pipe = Pipe::new();
            if self.pipe.is_some() {
                self.buffer = Vec::new();
            }
        }
        let result = match &mut self.pipe {
            Some(pipe) => {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                let result = splice(from, None, &pipe.write, None, CHUNK, flags);
                match result {
                    Ok(n) => pipe.held += n,
                    // With bytes in the pipe this may mean that it has no slot left.
                    Err(Errno::AGAIN) if pipe.held > 0 => pipe.full = true,
                    Err(_) => {}
                }
                result
            }
            None => {
                self.buffer.resize(BUFFER, 0);
                recv(from, &mut self.buffer[..], RecvFlags::empty()).map(|(n, _)| {
                    self.filled = 0..n;
                    n
                })
            }
        };
        match result {
            Ok(0) => self.eof = true,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Err(Outcome::Reset),
        }
        Ok(())
    }

    fn write(&mut self, to: &OwnedFd) -> Result<(), Outcome> {
        let result = if !self.filled.is_empty() {
            send(to, &self.buffer[self.filled.clone()], SendFlags::NOSIGNAL)
        } else if let Some(pipe) = &mut self.pipe {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            splice(&pipe.read, None, to, None, pipe.held, flags)
        } else {
            return Ok(());
        };
        match result {
            Ok(n) => {
                self.moved += n as u64;
                if !self.filled.is_empty() {
                    self.filled.start += n;
                } else if let Some(pipe) = &mut self.pipe {
                    pipe.held -= n;
                    pipe.full = false;
                }
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(Outcome::Reset),
        }
    }
}

impl Pipe {
    /// `None` when descriptors are short: copying works too.
    fn new() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Beyond the user's share of pipe pages this fails, and the default size stays.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Some(Pipe {
            read,
            write,
            held: 0,
            full: false,
        })
    }
}
