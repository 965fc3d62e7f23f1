//! Starting the wall: three processes, each in its place.
//!
//! ```text
//! supervisor (host)          the caller of `launch`: ledger, approvals, way out to the network
//!   └─ broker                new user, mount, network, IPC, UTS, cgroup namespaces; host's pids
//!        └─ init (pid 1)     new process namespace, no capabilities, filter and Landlock on
//!             └─ agent
//! ```
//!
//! The broker dies with the supervisor, init with the broker, and everything with init. Nothing of
//! the agent runs before the broker has built the view, the filter is on, the canaries have failed
//! as they must and the supervisor has said go.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_egress::{HostLoopback, Listeners};
use agentwall_engine::Engine;
use agentwall_policy::Guard;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::{
    broker::{Broker, Parts, Trail},
    canary::{Canaries, CanaryResult},
    init::{self, InitSpec},
    intent,
    mounts::{self, Extra, LayerPaths},
    notify::Listener,
    plan::FileView,
    resolve::{Resolver, mount_id},
    revise::Revisions,
    seccomp::Traps,
    sys,
    wire::{Binding, Line, ToBroker, ToSupervisor},
};

/// Everything the wall needs to start.
#[derive(Debug)]
pub struct Spec {
    /// The decision core; broker and supervisor each keep a copy of it.
    pub engine: Arc<Engine>,
    /// The planned view.
    pub view: FileView,
    /// Copy layers for its isolated nodes.
    pub layers: Vec<LayerPaths>,
    /// An empty directory of ours on the host to build the root on.
    pub stage: PathBuf,
    /// Host devices the policy lets the agent open.
    pub devices: Vec<PathBuf>,
    /// This program.
    pub binary: PathBuf,
    /// The agent's command.
    pub command: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory, in the view.
    pub directory: PathBuf,
    /// Which of standard input, output and error become the agent's own terminal.
    pub terminal: [bool; 3],
    /// Loopback ports of the host that the policy names.
    pub host_loopback: HostLoopback,
    /// What must fail.
    pub canaries: Canaries,
    /// The policy denies tracing even inside the agent's own process tree.
    pub no_trace: bool,
    /// What is never proposed to the agent.
    pub guard: Guard,
}

/// A wall that stands, with nothing running inside yet.
#[derive(Debug)]
pub struct Wall {
    /// Process id of the broker.
    pub broker: u32,
    /// Messages from and to the broker; see [`crate::wire`].
    pub socket: UnixStream,
    /// The wall's sockets in the agent's network namespace.
    pub listeners: Listeners,
    /// The controlling end of the agent's terminal.
    pub terminal: Option<OwnedFd>,
    /// Where the agent tells what it is about to do; see [`crate::INTENT_PATH`].
    pub intents: UnixListener,
    /// What was proved.
    pub report: Report,
}

/// What was found out while starting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Hidden paths with the rules that hid them.
    pub masks: Vec<(PathBuf, Option<String>)>,
    /// Trees that were to be isolated and are read-only, and why.
    pub read_only: Vec<(PathBuf, String)>,
    /// Whether the Landlock floor holds.
    pub landlock: bool,
    /// Each canary.
    pub canaries: Vec<CanaryResult>,
}

/// Why the wall does not stand. Nothing of the agent has run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No user namespace.
    #[error(
        "this host does not let {user} create a user namespace ({source}); `agentwall doctor` says \
         what to change"
    )]
    UserNamespace {
        /// Who.
        user: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The user mapping was refused.
    #[error("cannot map user ids into the namespace: {0}; `agentwall doctor` says what to change")]
    Mapping(io::Error),
    /// A step inside failed.
    #[error("{0}")]
    Setup(String),
    /// A canary lived.
    #[error(
        "the wall does not hold: {} of {} canaries got through ({}); nothing was started",
        .0.iter().filter(|r| !r.held).count(),
        .0.len(),
        .0.iter().filter(|r| !r.held).map(|r| format!("{} {}", r.class, r.target))
            .collect::<Vec<_>>().join(", ")
    )]
    Canaries(Vec<CanaryResult>),
    /// The other side went away without a word.
    #[error("the wall's broker ended while starting: {0}")]
    Broker(io::Error),
}

/// First message of the broker.
#[derive(Debug, Serialize, Deserialize)]
enum Hello {
    Ready(Report),
    Failed(String),
}

/// fork(2) with namespace flags. The caller must be single-threaded, as for fork(2).
fn fork(flags: i32) -> io::Result<libc::pid_t> {
    // SAFETY: like fork(2): no new stack, so both sides continue on copies of this one. The crate
    // calls it before any thread is started.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(pid as libc::pid_t)
    }
}

/// Builds the wall. Must be called before the process has started any thread. `meanwhile` runs here
/// while the broker builds; it may start threads.
pub fn launch<T>(spec: Spec, meanwhile: impl FnOnce() -> T) -> Result<(Wall, T), LaunchError> {
    let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Broker)?;
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let root = rustix::process::geteuid().is_root();
    let pid = fork(namespaces).map_err(|source| LaunchError::UserNamespace {
        user: if root { "root" } else { "an ordinary user" },
        source,
    })?;
    if pid == 0 {
        drop(ours);
        broker_main(spec, theirs);
    }
    drop(theirs);
    map_ids(pid).map_err(LaunchError::Mapping)?;
    sys::send_fds(&ours, b"m", &[]).map_err(LaunchError::Broker)?;
    let meanwhile = meanwhile();
    let mut buf = vec![0u8; 256 * 1024];
    let (n, mut fds) = sys::recv_fds(&ours, &mut buf).map_err(LaunchError::Broker)?;
    if n == 0 {
        return Err(LaunchError::Broker(io::ErrorKind::UnexpectedEof.into()));
    }
    let hello: Hello =
        serde_json::from_slice(&buf[..n]).map_err(|e| LaunchError::Broker(io::Error::other(e)))?;
    let report = match hello {
        Hello::Ready(report) => report,
        Hello::Failed(message) => return Err(LaunchError::Setup(message)),
    };
    if report.canaries.iter().any(|c| !c.held) {
        return Err(LaunchError::Canaries(report.canaries));
    }
    let terminal = if fds.is_empty() {
        None
    } else {
        terminal_of(&mut fds)
    };
    let intents = intent::take(&mut fds)
        .ok_or_else(|| LaunchError::Setup("the socket for intents did not arrive".into()))?;
    let listeners =
        Listeners::from_owned_fds(fds).map_err(|e| LaunchError::Setup(e.to_string()))?;
    Ok((
        Wall {
            broker: pid as u32,
            socket: ours,
            listeners,
            terminal,
            intents,
            report,
        },
        meanwhile,
    ))
}

/// The controlling end of a terminal, if one is among the descriptors.
fn terminal_of(fds: &mut Vec<OwnedFd>) -> Option<OwnedFd> {
    let at = fds.iter().position(rustix::termios::isatty)?;
    Some(fds.remove(at))
}

/// Root keeps every id it has; an ordinary user keeps exactly their own (user_namespaces(7)).
fn map_ids(pid: libc::pid_t) -> io::Result<()> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        for map in ["uid_map", "gid_map"] {
            let outer = fs::read_to_string(Path::new("/proc/self").join(map))?;
            let mut identity = String::new();
            for line in outer.lines() {
                let mut numbers = line.split_ascii_whitespace();
                let (Some(inside), Some(_), Some(count)) =
                    (numbers.next(), numbers.next(), numbers.next())
                else {
                    continue;
                };
                identity.push_str(&format!("{inside} {inside} {count}\n"));
            }
            fs::write(proc.join(map), identity)?;
        }
    } else {
        fs::write(proc.join("setgroups"), "deny")?;
        fs::write(proc.join("uid_map"), format!("{0} {0} 1", uid.as_raw()))?;
        fs::write(proc.join("gid_map"), format!("{0} {0} 1", gid.as_raw()))?;
    }
    Ok(())
}

fn broker_main(spec: Spec, socket: UnixStream) -> ! {
    let failed = |message: String| -> ! {
        let hello = serde_json::to_vec(&Hello::Failed(message)).unwrap_or_default();
        let _ = sys::send_fds(&socket, &hello, &[]);
        exit(1)
    };
    match stand(spec, &socket) {
        Ok(code) => exit(code),
        Err(message) => failed(message),
    }
}

/// Ends this process without running the caller's destructors, which belong to the supervisor.
fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

fn step<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("cannot {what}: {e}"))
}

fn open_dir(path: &str) -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn stand(spec: Spec, socket: &UnixStream) -> Result<i32, String> {
    step(
        "tie the broker to the supervisor",
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64),
    )?;
    let mut byte = [0u8; 1];
    let (n, _) = step("hear from the supervisor", sys::recv_fds(socket, &mut byte))?;
    if n == 0 {
        return Err("the supervisor is gone".into());
    }
    // A terminal's signals are for the supervisor to forward; the broker must outlive them.
    step("leave the terminal's session", rustix::process::setsid())?;

    let listeners = step(
        "listen in the agent's network",
        Listeners::bind(&spec.host_loopback),
    )?;
    let plan = listeners.plan(spec.host_loopback.clone());
    step(
        "set up the agent's network",
        agentwall_egress::netns::configure(&plan),
    )?;

    let host_proc = step("open /proc", open_dir("/proc"))?;
    let self_fd = step(
        "open /proc/self/fd",
        openat(
            &host_proc,
            "self/fd",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ),
    )?;
    let mut uppers = Vec::new();
    for layer in &spec.layers {
        let fd = openat(
            CWD,
            &layer.upper,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        uppers.push((layer.root.clone(), step("open a copy layer", fd)?));
    }
    let own_binary = step(
        "look at the wall's own program",
        rustix::fs::stat(&spec.binary),
    )?;
    let extra = Extra {
        devices: &spec.devices,
        binary: &spec.binary,
    };
    let built = step(
        "build the file view",
        mounts::build(&spec.view, &spec.layers, &spec.stage, &extra),
    )?;
    let trail = step("create the trail", Trail::create(&built.own))?;
    let intents = step("listen for intents", intent::listen(&built.own))?;
    let view_for_broker = spec.view.clone();
    let traps = Traps {
        reads: spec.view.trap_reads,
        brokered: spec.view.brokered,
        no_trace: spec.no_trace,
    };
    let terminal = if spec.terminal.contains(&true) {
        Some(step("make a terminal", Terminal::open(&built.root))?)
    } else {
        None
    };
    // No further user namespaces: a process in one would have capabilities again.
    step(
        "forbid nested user namespaces",
        fs::write("/proc/sys/user/max_user_namespaces", "0"),
    )?;

    let (ctl, init_ctl) = step("make a socket pair", control_pair())?;
    let pid = step("start the process namespace", fork(libc::CLONE_NEWPID))?;
    if pid == 0 {
        drop(ctl);
        let init = InitSpec {
            control: init_ctl,
            root: built.root,
            view: spec.view,
            command: spec.command,
            environment: spec.environment,
            directory: spec.directory,
            terminal: terminal.map(|t| t.agent),
            replace: spec.terminal,
            canaries: spec.canaries,
            traps,
        };
        init::main(init);
    }
    drop(init_ctl);
    let mut buf = vec![0u8; 64 * 1024];
    heard(&ctl, &mut buf)?; // /proc is mounted
    step("enter the file view", sys::pivot_into(built.root.as_fd()))?;
    step("seal the file view", built.seal())?;
    step("go on", sys::send_fds(&ctl, b"r", &[]))?;
    let (floor, mut fds) = heard(&ctl, &mut buf)?;
    let landlock = floor == b"landlock";
    let listener = fds.pop().ok_or("the filter's listener did not arrive")?;

    // From here on the broker is limited by the same file permissions as the agent. Threads
    // inherit this, so before the first one.
    step("give up capabilities", sys::suspend_capabilities())?;
    let mut detached = Vec::new();
    for view in &built.broker_views {
        let id = step("look at a writable view", mount_id(view.mount.as_fd()))?;
        detached.push((id, view.root.clone()));
    }
    let root = step("open the root", open_dir("/"))?;
    let resolver = Resolver {
        root,
        host_proc,
        self_fd,
        detached,
    };
    let line = Arc::new(Line::new(step("share the line", socket.try_clone())?));
    let broker = Broker::new(Parts {
        listener: Listener::new(listener),
        resolver,
        engine: Arc::clone(&spec.engine),
        view: view_for_broker,
        broker_views: built.broker_views,
        uppers,
        line: Arc::clone(&line),
        trail,
        guard: spec.guard,
        own_binary: Binding {
            device: own_binary.st_dev,
            inode: own_binary.st_ino,
        },
    });
    step("start a thread for the broker", broker.start())?;
    let (canaries, _) = heard(&ctl, &mut buf)?;
    let canaries: Vec<CanaryResult> = step(
        "read the canaries' results",
        serde_json::from_slice(&canaries),
    )?;
    let report = Report {
        masks: built.masks,
        read_only: built.read_only,
        landlock,
        canaries,
    };
    let hello = step("report", serde_json::to_vec(&Hello::Ready(report)))?;
    let mut out = listeners.as_fds();
    if let Some(terminal) = &terminal {
        out.push(terminal.controller.as_fd());
    }
    out.push(intents.as_fd());
    step("report", sys::send_fds(socket, &hello, &out))?;
    broker.unmute();
    drop(out);
    drop(intents);
    drop(listeners);
    drop(terminal);

    let pump_socket = step("share the line", socket.try_clone())?;
    let pump_ctl = step("share the control socket", ctl.try_clone())?;
    let pump_line = Arc::clone(&line);
    let pump_broker = Arc::clone(&broker);
    let revisions = Arc::new(Revisions::new(
        Arc::clone(&spec.engine),
        step("open the root", open_dir("/"))?,
        Arc::clone(&line),
    ));
    std::thread::spawn(move || {
        pump_line.pump(pump_socket, |message| match message {
            ToBroker::Go => drop(sys::send_fds(&pump_ctl, b"g", &[])),
            ToBroker::Signal(signal) => {
                drop(sys::send_fds(&pump_ctl, &[b's', signal as u8], &[]));
            }
            ToBroker::Note(event) => pump_broker.trail.note(&event),
            ToBroker::Prepare(number, revision) => revisions.prepare(number, *revision),
            ToBroker::Enforce(number, digest) => revisions.enforce(number, &digest),
            ToBroker::Trace => pump_broker.trace(),
            ToBroker::Risk(risk) => pump_broker.engine.raise_risk(risk),
            ToBroker::Settle(number) => {
                let (broker, line) = (Arc::clone(&pump_broker), Arc::clone(&pump_line));
                // Without a thread for it nobody answers, and the asker stops waiting.
                let _ = std::thread::Builder::new().spawn(move || {
                    broker.settle();
                    let _ = line.send(&ToSupervisor::Settled(number));
                });
            }
            ToBroker::Answer(..) => {}
        });
        // The supervisor is gone, and with it the ledger: nothing may go on.
        exit(1);
    });
    loop {
        let (message, _) = heard(&ctl, &mut buf)?;
        match message.split_first() {
            Some((b't', _)) => drop(line.send(&ToSupervisor::Stopped)),
            Some((b'e', rest)) => {
                let status = rest.try_into().map(i32::from_ne_bytes).unwrap_or(0x7d00);
                broker.settle();
                let counts = spec.engine.plain_counts();
                drop(line.send(&ToSupervisor::Ended { status, counts }));
                // The supervisor closes the line when it has read everything.
                loop {
                    std::thread::park();
                }
            }
            _ => {}
        }
    }
}

/// A socket pair that keeps message boundaries.
fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The next message from init; an error if init has failed or is gone.
fn heard(ctl: &OwnedFd, buf: &mut [u8]) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
    let (n, fds) = step("hear from init", sys::recv_fds(ctl, buf))?;
    if n == 0 {
        return Err("the first process of the wall ended".into());
    }
    match buf[..n].strip_prefix(b"!") {
        Some(message) => Err(String::from_utf8_lossy(message).into_owned()),
        None => Ok((buf[..n].to_vec(), fds)),
    }
}

/// The agent's terminal, made in the view's own `devpts`.
#[derive(Debug)]
struct Terminal {
    controller: OwnedFd,
    agent: OwnedFd,
}

impl Terminal {
    fn open(root: &OwnedFd) -> io::Result<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let controller = openat(root, "dev/pts/ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&controller)?;
        let number = sys::terminal_number(controller.as_fd())?;
        let agent = openat(root, format!("dev/pts/{number}"), flags, Mode::empty())?;
        Ok(Terminal { controller, agent })
    }
}
