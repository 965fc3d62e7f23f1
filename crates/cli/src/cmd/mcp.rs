//! `agentwall mcp`: between a client and a server of the Model Context Protocol that is a program.
//!
//! Two threads, one for each direction; a line is judged before the next one is read. A third one hands signals on to the
//! server. Standard output belongs to the protocol, so everything else is said on standard error.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use agentwall_budget::{Counters, Embedded, EmbeddedConfig};
use agentwall_gateway::{
    judge::{Judge, Parts},
    mcp::{
        Server,
        rpc::MAX_ANSWER,
        stdio::{MAX_LINE, Step, Wrapped},
    },
    record::Recorder,
};
use agentwall_ledger::entry::GatewayState;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    args::gateway::McpArgs,
    cmd::{policy::variables, protect},
    gateway::{Place, pins::Pinned, recorder::Book, requests},
    output, policies,
    state::{State, shown},
    supervisor::serve_private,
};

/// Clients that use a server of one name at a time.
const MAX_CLIENTS: usize = 64;

/// How long the server may take to end after a signal: less than clients wait before they end this.
const GRACE: Duration = Duration::from_secs(1);

/// How often it is looked whether a server without output ended.
const POLL: Duration = Duration::from_millis(50);

/// This failed itself; the server's own statuses are below.
const FAILED: u8 = 125;

/// Runs the command.
pub fn main(args: McpArgs) -> Result<ExitCode> {
    // The server's statuses are handed on, so what fails here has one of its own.
    match wrap(&args) {
        Ok(code) => Ok(code),
        Err(e) => {
            output::note(&output::tame(&format!("{e:#}")));
            Ok(ExitCode::from(match e.downcast_ref::<io::Error>() {
                Some(e) if e.kind() == io::ErrorKind::NotFound => 127,
                _ => FAILED,
            }))
        }
    }
}

fn wrap(args: &McpArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let sources = policies::policy_sources(args.policy.as_deref(), &workspace)?;
    let policy = Arc::new(policies::load(&sources, &variables(Some(&workspace))?)?);
    protect::refuse_what_is_not_enforced(&policy)?;
    let (place, _lock) = place(&state, &args.name)?;
    // Several clients of one server share what its tools said of themselves.
    let pins = Pinned::open(&Place::of(&state, &args.name).tools())?;
    let session = protect::session_id()?;
    let book = Arc::new(Book::new(
        Arc::new(state.keep_log()?),
        &session,
        &place.name,
        policy.on_ledger_failure(),
    ));
    let recorder: Arc<dyn Recorder> = Arc::<Book>::clone(&book);
    let judge = Judge::new(Parts {
        gateway: place.name.clone(),
        session,
        policy: Arc::clone(&policy),
        counters: Counters::Embedded(Embedded::new(EmbeddedConfig::default())),
        recorder,
        deviations: Vec::new(),
    });
    let words: Vec<_> = args.command.iter().map(|w| w.to_string_lossy()).collect();
    let command = words.join(" ");
    let mut server = Server::new(&args.name, Arc::new(pins));
    server.show_denied = args.show_denied;
    server.on_finding = args.hidden_text.into();
    let wrapped = Arc::new(Wrapped::new(server, judge, &args.agent, command.clone()));
    let told = |outcome: &str| GatewayState {
        outcome: outcome.to_owned(),
        name: place.name.clone(),
        public: "stdio".to_owned(),
        upstream: command.clone(),
        policy: policy.digest().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    book.state(told("started"))?;
    let (asked, name) = (Arc::clone(&wrapped), place.name.clone());
    serve_private(place.listen()?, move |peer, request| {
        requests::respond_for(asked.judge(), &name, peer.uid, request)
    });
    let ended = between(&args.command, &wrapped);
    wrapped.over();
    book.state(told("ended"))?;
    ended
}

/// The first place of that name that nobody holds: `files`, `files-2`, …
fn place(state: &State, name: &str) -> Result<(Place, File)> {
    let mut first = None;
    for number in 1..=MAX_CLIENTS {
        let place = match number {
            1 => Place::of(state, name),
            n => Place::of(state, &format!("{name}-{n}")),
        };
        match place.take() {
            Ok(lock) => return Ok((place, lock)),
            Err(e) => drop(first.get_or_insert(e)),
        }
    }
    Err(first.context("no place")?)
}

/// Starts the server and stands between it and the client until one of them ends.
fn between(command: &[std::ffi::OsString], wrapped: &Arc<Wrapped>) -> Result<ExitCode> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command");
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot take signals")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(program.as_ref())))?;
    let output = Arc::new(Mutex::new(io::stdout()));
    let (Some(input), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the server has no standard input and output");
    };
    let (tell, told) = mpsc::channel();
    let (wrap, out, over) = (Arc::clone(wrapped), Arc::clone(&output), tell.clone());
    let thread = std::thread::Builder::new().name("server".into());
    thread
        .spawn(move || {
            let read = AssertUnwindSafe(|| of_server(from, &wrap, &out));
            let read = catch_unwind(read).unwrap_or_else(|_| bail!("the server's output"));
            let _ = over.send(Event::Over(read));
        })
        .context("cannot start a thread")?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread
        .spawn(move || {
            for signal in &mut signals {
                let _ = tell.send(Event::Signal(signal));
            }
        })
        .context("cannot start a thread")?;
    let broken = Arc::new(AtomicBool::new(false));
    let (wrap, out, stop) = (Arc::clone(wrapped), output, Arc::clone(&broken));
    let thread = std::thread::Builder::new().name("client".into());
    // It ends with the process, if the server ends first: nobody can wake it from its read.
    thread
        .spawn(move || {
            if let Err(e) = of_client(input, &wrap, &out, &stop) {
                output::note(&output::tame(&e.to_string()));
            }
        })
        .context("cannot start a thread")?;
    let ended = until_ended(&mut child, &told);
    if ended.is_err() {
        // Whose answers are not seen is asked nothing more.
        broken.store(true, Ordering::SeqCst);
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(status(ended?))
}

/// What happens while the server runs.
enum Event {
    /// Nothing more is read from it.
    Over(Result<()>),
    /// Somebody wants this to end.
    Signal(i32),
}

/// Hands signals on, until the server ended. After a signal it does not get long.
fn until_ended(child: &mut Child, told: &mpsc::Receiver<Event>) -> Result<ExitStatus> {
    let (mut over, mut end) = (false, None);
    loop {
        // Its output may end before it does.
        if over && let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let left = end.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            let _ = child.kill();
            return child.wait().context("cannot tell how the server ended");
        }
        let wait = match over {
            true => POLL,
            false => left.unwrap_or(Duration::MAX),
        };
        match told.recv_timeout(wait) {
            Ok(Event::Over(result)) => {
                result?;
                over = true;
            }
            Ok(Event::Signal(signal)) => {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
                    let _ = kill_process(pid, signal);
                }
                end.get_or_insert_with(|| Instant::now() + GRACE);
            }
            Err(_) => {}
        }
    }
}

fn status(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|s| 128 + s))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn of_client(
    mut server: impl Write,
    wrapped: &Wrapped,
    client: &Mutex<io::Stdout>,
    broken: &AtomicBool,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the judge")?;
    let mut input = BufReader::new(io::stdin());
    while let Some(line) = line(&mut input, MAX_LINE)? {
        if line.is_empty() {
            continue;
        }
        match runtime.block_on(wrapped.of_client(&line)) {
            Step::On(permit) => {
                let sent = match broken.load(Ordering::SeqCst) {
                    true => Err(io::ErrorKind::BrokenPipe.into()),
                    false => write(&mut server, &line),
                };
                if let Err(e) = sent {
                    runtime.block_on(wrapped.not_sent(&permit));
                    return Err(e).context("the server takes no more");
                }
            }
            Step::Answer(answer) => {
                let mut client = client.lock().unwrap_or_else(|e| e.into_inner());
                write(&mut *client, answer.to_string().as_bytes())?;
            }
            Step::Dropped(why) => output::note(&output::tame(&why)),
        }
    }
    // The end of its input tells the server to end.
    Ok(())
}

fn of_server(from: ChildStdout, wrapped: &Wrapped, client: &Mutex<io::Stdout>) -> Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let line = match line(&mut from, MAX_ANSWER) {
            Ok(Some(line)) if line.is_empty() => continue,
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(e) => return Err(e).context("the server's output"),
        };
        let line = match wrapped.of_server(&line) {
            Ok(other) => other.unwrap_or(line),
            Err(e) => {
                output::note(&output::tame(&format!("not passed on: {e}")));
                match e.answer {
                    Some(answer) => answer.to_string().into_bytes(),
                    None => continue,
                }
            }
        };
        let mut client = client.lock().unwrap_or_else(|e| e.into_inner());
        if write(&mut *client, &line).is_err() {
            return Ok(());
        }
    }
}

fn write(to: &mut impl Write, line: &[u8]) -> io::Result<()> {
    let mut whole = Vec::with_capacity(line.len() + 1);
    whole.extend_from_slice(line);
    whole.push(b'\n');
    to.write_all(&whole)?;
    to.flush()
}

/// The next line without its end (LF, or CR LF); nothing at the end of the input. A last line without an end is no line.
fn line(input: &mut impl BufRead, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = input.take(most as u64 + 2);
    limited.read_until(b'\n', &mut line)?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        return match line.len() > most {
            true => Err(io::Error::other(format!(
                "a line is longer than {most} bytes"
            ))),
            false => Ok(None),
        };
    }
    line.pop_if(|last| *last == b'\r');
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_and_have_a_most() {
        let mut input = BufReader::new(&b"one\r\n\ntwo\nrest"[..]);
        let mut next = || {
            line(&mut input, 8)
                .unwrap()
                .map(|l| String::from_utf8(l).unwrap())
        };
        assert_eq!(next().as_deref(), Some("one"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some("two"));
        assert_eq!(next(), None);
        let mut long = BufReader::new(&b"0123456789\n"[..]);
        assert!(line(&mut long, 4).is_err());
    }
}
