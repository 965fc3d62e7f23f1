//! The broker: answers the system calls that the filter hands over.
//!
//! It runs outside the agent's process namespace, so the agent cannot see, signal or trace it, but
//! inside its mounts, so that a path means the same to both. For each call it resolves the object,
//! builds an [`Action`], asks the engine and renders the [`Decision`]:
//!
//! * refused: an errno, a record, and a line the agent can read with `agentwall why`;
//! * permitted where the mounts bound the outcome by themselves: the call continues in the kernel.
//!   Whatever a racing thread makes of the arguments then, it gets no more than the mounts give;
//! * permitted where only the broker may write (or reading is decided per file): done here on the
//!   decided object, and the result or descriptor is handed over;
//! * ask: the caller waits; a worker thread asks the supervisor.
//!
//! The broker holds no effective capability while it serves, so that what it opens on behalf of
//! the agent is limited by the same file permissions as the agent itself.

mod ask;
mod connect;
mod exec;
mod metadata;
mod names;
mod open;
mod pool;
mod trail;

use std::{
    cell::Cell,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agentwall_action::{
    Action, Decision, Effect, ObjectKind, PathResource, Resource, Verb, escape_bytes, is_within,
};
use agentwall_engine::{Engine, Held};
use agentwall_policy::Guard;
use rustix::fs::{Mode, OFlags, Stat, fstat, openat};

use crate::{
    intent,
    mounts::BrokerView,
    notify::{Call, Listener},
    plan::{FileView, Placement},
    resolve::{Name, NamespaceIds, Object, Resolver},
    sys,
    wire::{Actor, Binding, Event, Line, ToSupervisor},
};

pub use trail::{ADVICE_PATH, AdviceEntry, Instead, TRAIL_PATH, Trail, TrailEntry};

#[cfg(feature = "fuzzing")]
pub(crate) use {
    connect::destination,
    exec::{program_interpreter, shebang},
};

use ask::Decided;
use pool::Pool;

/// Longest path the kernel takes (`PATH_MAX`).
const PATH_LIMIT: usize = 4096;

/// The errno of a refusal.
const REFUSED: i32 = libc::EACCES;

/// Everything the broker's threads share.
#[derive(Debug)]
pub struct Broker {
    pub(crate) listener: Listener,
    pub(crate) resolver: Resolver,
    pub(crate) engine: Arc<Engine>,
    pub(crate) view: FileView,
    pub(crate) broker_views: Vec<BrokerView>,
    /// Upper directories of the copy layers: what is in them, the agent made.
    pub(crate) uppers: Vec<(PathBuf, OwnedFd)>,
    pub(crate) line: Arc<Line>,
    pub(crate) trail: Trail,
    /// What is never proposed to the agent.
    guard: Guard,
    /// The wall's own binary.
    own_binary: Binding,
    /// While the canaries are out, refusals are not reported.
    muted: AtomicBool,
    /// Events tell the ancestors of their processes.
    traces: AtomicBool,
    /// One of the pool's threads takes the calls.
    serving: AtomicBool,
    pool: Pool,
}

thread_local! {
    /// Whether this thread takes the calls.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// What [`Broker::new`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The filter's listener.
    pub listener: Listener,
    /// Path resolution in the agent's view.
    pub resolver: Resolver,
    /// The decision core.
    pub engine: Arc<Engine>,
    /// The file view in force.
    pub view: FileView,
    /// Writable views of brokered trees.
    pub broker_views: Vec<BrokerView>,
    /// Copy layers' upper directories by root.
    pub uppers: Vec<(PathBuf, OwnedFd)>,
    /// To the supervisor.
    pub line: Arc<Line>,
    /// Where the agent reads its refusals.
    pub trail: Trail,
    /// What is never proposed to the agent.
    pub guard: Guard,
    /// Device and inode of the wall's own binary.
    pub own_binary: Binding,
}

/// How a decision is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel continues: the mounts bound the outcome.
    Kernel,
    /// Here, on behalf of the caller.
    Broker,
}

impl Broker {
    /// A broker ready to serve.
    pub fn new(parts: Parts) -> Arc<Broker> {
        Arc::new(Broker {
            listener: parts.listener,
            resolver: parts.resolver,
            engine: parts.engine,
            view: parts.view,
            broker_views: parts.broker_views,
            uppers: parts.uppers,
            line: parts.line,
            trail: parts.trail,
            guard: parts.guard,
            own_binary: parts.own_binary,
            muted: AtomicBool::new(true),
            traces: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            pool: Pool::new(),
        })
    }

    /// Begins to report: the canaries are back.
    pub fn unmute(&self) {
        self.muted.store(false, Ordering::Release);
    }

    /// Tells the ancestors of processes from now on.
    pub fn trace(&self) {
        self.traces.store(true, Ordering::Release);
    }

    fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    /// Waits a moment for what the workers still have to report.
    pub fn settle(&self) {
        let patience = std::time::Duration::from_millis(300);
        let serving = || usize::from(self.serving.load(Ordering::SeqCst));
        self.pool.settle(patience, serving);
    }

    fn report(&self, event: Event) {
        if !self.is_muted() {
            // A supervisor that is gone takes the broker with it.
            let _ = self.line.send(&ToSupervisor::Event(Box::new(event)));
        }
    }

    /// Begins to serve, until no process uses the filter any more. An error if this host has no
    /// thread for it.
    pub fn start(self: &Arc<Broker>) -> io::Result<()> {
        self.serving.store(true, Ordering::SeqCst);
        let broker = Arc::clone(self);
        if self.pool.run(Box::new(move || broker.serve())) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Takes calls on this thread, until they are over or [`Broker::later`] gave the part away.
    fn serve(self: &Arc<Broker>) {
        SERVES.set(true);
        while SERVES.get() {
            match self.listener.receive() {
                Ok(Some(call)) => self.handle(call),
                // Without a broker every trapped call fails with ENOSYS.
                Ok(None) | Err(_) => {
                    SERVES.set(false);
                    self.serving.store(false, Ordering::SeqCst);
                }
            }
        }
    }

    fn handle(self: &Arc<Broker>, call: Call) {
        if call.pid == 0 {
            // A caller we cannot see cannot be decided on.
            return self.listener.fail(&call, libc::EPERM);
        }
        let nr = i64::from(call.data.nr);
        match nr {
            libc::SYS_open | libc::SYS_openat | libc::SYS_creat => open::handle(self, call),
            libc::SYS_execve | libc::SYS_execveat => exec::handle(self, call),
            libc::SYS_connect => connect::handle(self, call),
            libc::SYS_bind => connect::bind(self, call),
            libc::SYS_memfd_create => open::memory_file(self, &call),
            libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
                metadata::by_descriptor(self, call)
            }
            libc::SYS_chmod
            | libc::SYS_fchmodat
            | 452
            | libc::SYS_chown
            | libc::SYS_lchown
            | libc::SYS_fchownat
            | libc::SYS_truncate
            | libc::SYS_setxattr
            | libc::SYS_lsetxattr
            | libc::SYS_removexattr
            | libc::SYS_lremovexattr
            | libc::SYS_utime
            | libc::SYS_utimes
            | libc::SYS_futimesat
            | libc::SYS_utimensat => metadata::by_path(self, call),
            _ => names::handle(self, call),
        }
    }

    /// Runs `job`, which may wait, without holding up the calls of others: another thread takes
    /// them from here on, so that the caller of this one need not wait for a thread to wake up.
    fn later(self: &Arc<Broker>, job: impl FnOnce(&Arc<Broker>) + Send + 'static) {
        let broker = Arc::clone(self);
        if SERVES.get() && !self.pool.has_room() {
            self.pool.run(Box::new(move || job(&broker)));
            return;
        }
        if SERVES.replace(false) {
            self.pool.run(Box::new(move || broker.serve()));
        }
        job(self);
    }

    /// A string argument of the call; answers the call itself if that fails.
    fn string(&self, call: &Call, address: u64) -> Option<Vec<u8>> {
        self.text(call, address)
            .filter(|_| self.listener.is_valid(call))
    }

    /// The same before it is known that the caller still waits (a dead caller's id may belong to
    /// another process by now): for callers that ask [`Listener::is_valid`] before they act. The
    /// answer itself needs no question, the kernel takes none for a call that is over.
    fn text(&self, call: &Call, address: u64) -> Option<Vec<u8>> {
        match sys::read_string(call.pid, address, PATH_LIMIT) {
            Ok(text) => Some(text),
            Err(e) => {
                self.listener
                    .fail(call, e.raw_os_error().unwrap_or(libc::EFAULT));
                None
            }
        }
    }

    /// Fails the call with an error from resolving.
    fn unresolved(&self, call: &Call, error: &io::Error) {
        self.listener
            .fail(call, error.raw_os_error().unwrap_or(libc::EACCES));
    }

    pub(crate) fn actor(&self, tid: u32) -> Actor {
        let ids = NamespaceIds::of(self.resolver.host_proc.as_fd(), tid);
        let exe =
            rustix::fs::readlinkat(&self.resolver.host_proc, format!("{tid}/exe"), Vec::new());
        Actor {
            pid: ids.map_or(tid, |i| i.host_tgid),
            exe: exe.map_or(String::new(), |e| escape_bytes(e.as_bytes())),
            lineage: self.lineage(tid),
        }
    }

    /// The thread's process and its ancestors, if that is wanted.
    fn lineage(&self, tid: u32) -> Vec<(u32, u64)> {
        if !self.traces.load(Ordering::Acquire) {
            return Vec::new();
        }
        let proc = self.resolver.host_proc.as_fd();
        let Ok(ids) = NamespaceIds::of(proc, tid) else {
            return Vec::new();
        };
        intent::lineage(proc, ids.host_tgid, std::process::id())
    }

    fn is_own_binary(&self, image: &Binding) -> bool {
        *image == self.own_binary
    }

    fn placement(&self, path: &Path) -> &Placement {
        static WALL_MADE: Placement = Placement {
            hidden: false,
            writes: crate::plan::Writes::Direct,
            brokered: false,
            noexec: true,
            startable: false,
            surface: false,
        };
        self.view.placement(path).unwrap_or(&WALL_MADE)
    }

    /// Where a change below `path` has to be carried out.
    fn way(&self, path: &Path) -> Way {
        if self.placement(path).brokered {
            Way::Broker
        } else {
            Way::Kernel
        }
    }

    /// The broker's writable mount that holds `path`, and the path inside it.
    fn writable<'a>(&'a self, path: &'a Path) -> Option<(&'a BrokerView, &'a Path)> {
        self.broker_views
            .iter()
            .filter(|v| is_within(path, &v.root))
            .max_by_key(|v| v.root.as_os_str().len())
            .and_then(|v| Some((v, path.strip_prefix(&v.root).ok()?)))
    }

    /// The same object in the writable view: looked up exactly, then compared.
    fn writable_object(&self, object: &Object) -> io::Result<OwnedFd> {
        let stale = || io::Error::from_raw_os_error(libc::ESTALE);
        let Some((view, inside)) = self.writable(&object.path) else {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        };
        let fd = if inside.as_os_str().is_empty() {
            if object.is_dir() {
                openat(
                    &view.mount,
                    ".",
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?
            } else {
                view.mount.try_clone()?
            }
        } else {
            sys::open_path_exact(view.mount.as_fd(), &sys::c_path(inside)?, libc::O_NOFOLLOW)?
        };
        let stat = fstat(&fd)?;
        // Already in the writable view (an injected descriptor), or the same inode seen there.
        if object.is_same(&stat) {
            Ok(fd)
        } else {
            Err(stale())
        }
    }

    /// Reopens an `O_PATH` descriptor with the wanted flags.
    fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        Ok(openat(
            &self.resolver.self_fd,
            fd.as_raw_fd().to_string(),
            flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    fn path_action(&self, verb: Verb, path: &Path, kind: ObjectKind) -> Action {
        self.engine.action(
            verb,
            Resource::Path(PathResource {
                path: path.to_owned(),
                kind,
            }),
        )
    }

    /// Decides on the aspects of one operation. What the wall itself provides (`/proc`, `/dev`)
    /// is refused only by a rule that says so, not by the policy's default.
    fn decide(&self, actions: Vec<Action>) -> Option<Decided> {
        self.decide_by(&self.engine.hold(), actions)
    }

    /// The same by a policy that is held already.
    fn decide_by(&self, held: &Held<'_>, mut actions: Vec<Action>) -> Option<Decided> {
        actions.retain(|a| match &a.resource {
            Resource::Path(p) if a.verb != Verb::ProcessExec && wall_made(&p.path) => {
                held.decide(a).rule.is_some()
            }
            _ => true,
        });
        if self.engine.is_learning() {
            self.note_each(held, &actions);
        }
        let (index, decision) = held.strictest(&actions)?;
        Some(Decided {
            action: actions.remove(index),
            decision,
            others: actions,
        })
    }

    /// Reports every aspect of an operation that goes ahead but the first, which stands for it in
    /// the decision. Only a learning session needs them all: a rename of one name to another is two
    /// permissions.
    fn note_each(&self, held: &Held<'_>, actions: &[Action]) {
        let decided: Vec<Decision> = actions.iter().map(|a| held.decide(a)).collect();
        if decided.iter().any(|d| !d.effect.proceeds()) {
            return;
        }
        // The one that `Held::strictest` picks.
        let strictest = decided.iter().map(|d| d.effect).max();
        let chosen = decided.iter().position(|d| Some(d.effect) == strictest);
        for (index, (action, decision)) in actions.iter().zip(decided).enumerate() {
            if Some(index) != chosen {
                self.report(Event {
                    action: action.clone(),
                    decision,
                    actor: Actor::default(),
                    binding: binding_none(),
                    enforced_by: "broker".to_owned(),
                });
            }
        }
    }

    /// The common end of every operation: refuses, asks, or carries out.
    ///
    /// `act` runs on this thread if the answer is known, on a worker after a question.
    fn conclude(
        self: &Arc<Broker>,
        call: Call,
        decided: Option<Decided>,
        binding: Binding,
        act: impl FnOnce(&Arc<Broker>, &Call) + Send + 'static,
    ) {
        let Some(decided) = decided else {
            return act(self, &call);
        };
        let decision = &decided.decision;
        // Nothing is recorded of a caller that is gone: who it was cannot be told any more.
        let uneventful = decision.effect.proceeds() && decision.is_silent();
        if !uneventful && !self.listener.is_valid(&call) {
            return;
        }
        match decision.effect {
            Effect::Allow | Effect::Isolate => {
                act(self, &call);
                self.passed(&call, decided.action, decided.decision, binding);
            }
            Effect::Ask => self.later(move |broker| {
                broker.ask(&call, decided, binding, |_, _| act(broker, &call));
            }),
            _ => self.refuse(&call, decided.action, decided.decision, binding, true),
        }
    }

    /// Books an action that went through: counted if it is uneventful, else recorded.
    fn passed(&self, call: &Call, action: Action, decision: Decision, binding: Binding) {
        if decision.is_silent() {
            self.engine.count_plain(action.verb);
        } else {
            self.record(call, action, decision, binding, "broker");
        }
    }

    fn record(
        &self,
        call: &Call,
        action: Action,
        decision: Decision,
        binding: Binding,
        enforced_by: &str,
    ) {
        let event = Event {
            action,
            decision,
            actor: self.actor(call.pid),
            binding,
            enforced_by: enforced_by.to_owned(),
        };
        self.report(event);
    }

    /// Refuses the call. `report` is false when the supervisor already has the decision.
    fn refuse(
        &self,
        call: &Call,
        action: Action,
        decision: Decision,
        binding: Binding,
        report: bool,
    ) {
        let actor = self.actor(call.pid);
        let event = Event {
            action,
            decision,
            actor,
            binding,
            enforced_by: "broker".to_owned(),
        };
        // Readable before the caller can look for it; the ledger comes after the answer.
        if !self.is_muted() {
            self.trail.note(&event);
        }
        self.listener.fail(call, REFUSED);
        if report {
            self.report(event);
        }
    }
}

/// Whether the wall itself made what is at this path: refused only by a rule that says so, not by the
/// policy's default.
pub fn wall_made(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.starts_with(b"/")
        || bytes == b"/"
        || is_within(path, Path::new("/proc"))
        || is_within(path, Path::new("/dev"))
}

fn kind_of(object: &Object) -> ObjectKind {
    if object.is_dir() {
        ObjectKind::Directory
    } else {
        ObjectKind::File
    }
}

fn binding_of(stat: &Stat) -> Binding {
    Binding {
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

fn binding_none() -> Binding {
    Binding::default()
}

fn name_binding(name: &Name) -> Binding {
    binding_of(&name.object.as_ref().map_or(name.parent.stat, |o| o.stat))
}
