//! Starts a command under a policy in the kernel, without the daemon: for trying the programs by hand.
//!
//!     govern load PINS         (or: monitor PINS)
//!     govern run PINS VIEW POLICY WORKSPACE HOME -- COMMAND...
//!     govern events PINS SECONDS
//!     govern stats [monitor]
//!
//! `load` attaches the programs and pins them; `run` compiles the policy, puts it into the view, puts the command under
//! it and serves it host names; `events` prints what is refused. Needs root and, but for `monitor`, a kernel that loads
//! LSM programs.

use std::cell::Cell;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentwall_action::{Action, Effect, Endpoint, Facts, Protocol, Resource, Subject, Verb};
use agentwall_egress::{
    Capture, Connection, Egress, EgressConfig, Gate, Listeners, Origin, Verdict,
};
use agentwall_kernel::{Arrival, Door, Options, Programs, Wall, abi::TABLE_NAMES};
use agentwall_policy::{Compiled, Layer, Source, Variables, load};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[1..] {
        ["load" | "monitor", pins] => {
            let start = Instant::now();
            let mut options = Options::default();
            if args[1] == "monitor" {
                options.programs = Programs::Monitor;
            }
            let mut wall = Wall::load(&options)?;
            println!(
                "{} programs in {:?}",
                wall.programs().count(),
                start.elapsed()
            );
            wall.pin(Path::new(pins))?;
        }
        ["run", pins, view, policy, workspace, home, "--", ..] => {
            let (pins, view) = (Path::new(pins), view.parse()?);
            // The command waits until it is under the policy; this process must not be.
            let (go, mut ready) = std::io::pipe()?;
            let mut command = Command::new(args[8]);
            command.args(&args[9..]);
            let wait = move || {
                let mut byte = [0];
                (&go).read_exact(&mut byte)?;
                // What was opened before was decided by nobody.
                // SAFETY: a system call on numbers; the descriptors become close-on-exec.
                match unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 4) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            };
            // SAFETY: between fork and exec it only reads from a pipe and marks descriptors.
            let child = unsafe { command.pre_exec(wait) };
            let started = std::thread::scope(|s| {
                let started = s.spawn(|| child.spawn());
                let pid = loop {
                    if let Some(pid) = only_child()? {
                        break pid;
                    }
                };
                let door = govern(pins, view, pid, policy, workspace, home)?;
                ready.write_all(b"x")?;
                let child = started.join().map_err(|_| "the thread panicked")??;
                Ok::<_, Box<dyn Error>>((child, door))
            });
            let (mut child, door) = started?;
            let status = child.wait()?;
            drop(door);
            std::process::exit(status.code().unwrap_or(128));
        }
        ["events", pins, seconds] => events(Path::new(pins), seconds.parse()?)?,
        ["stats"] => stats(Programs::Wall)?,
        ["stats", "monitor"] => stats(Programs::Monitor)?,
        _ => return Err("see the head of this file".into()),
    }
    Ok(())
}

fn open(pins: &Path) -> Result<Wall, Box<dyn Error>> {
    Ok(Wall::open(pins)?.ok_or("nothing is pinned there")?)
}

/// The process that this one started.
fn only_child() -> std::io::Result<Option<u32>> {
    let me = std::process::id();
    let children = std::fs::read_dir(format!("/proc/{me}/task"))?
        .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("children")).ok())
        .collect::<String>();
    Ok(children.split_whitespace().find_map(|p| p.parse().ok()))
}

fn govern(
    pins: &Path,
    view: u32,
    pid: u32,
    policy: &str,
    workspace: &str,
    home: &str,
) -> Result<Option<OpenDoor>, Box<dyn Error>> {
    let variables = Variables {
        workspace: Some(PathBuf::from(workspace)),
        home: Some(PathBuf::from(home)),
        tmp: Some(PathBuf::from("/tmp")),
        state: Some(PathBuf::from("/var/lib/agentwall")),
    };
    let source = Source::new(policy, std::fs::read(policy)?, Layer::User);
    let policy = load(&[source], &variables)
        .map_err(|e| e.to_string())?
        .with_real_paths(&|path| path.canonicalize().ok());
    let (subject, session) = (Subject::agent("a"), u64::from(pid));
    let compiled = Arc::new(Compiled::new(Arc::new(policy), &subject, &Facts::default()));
    let wall = Arc::new(open(pins)?);
    let names = wall.has_names() && compiled.policy().speaks_of_names(&subject);
    let door = names
        .then(|| OpenDoor::open(&wall, session, &compiled))
        .transpose()?;
    let flags = if names { TABLE_NAMES } else { 0 };
    (wall.tables()?).install(view, &compiled.table(), 1, flags)?;
    wall.adopt(pid, view, session)?;
    Ok(door)
}

/// Where the session's names are decided, in place of the daemon, for as long as this lives.
struct OpenDoor {
    arrivals: Arrivals,
    _egress: Egress,
}

impl Drop for OpenDoor {
    fn drop(&mut self) {
        // The next session has another number.
        let _ = self.arrivals.wall.close_door(self.arrivals.session);
    }
}

#[derive(Debug, Clone)]
struct Arrivals {
    wall: Arc<Wall>,
    session: u64,
}

impl OpenDoor {
    fn open(
        wall: &Arc<Wall>,
        session: u64,
        policy: &Arc<Compiled>,
    ) -> Result<OpenDoor, Box<dyn Error>> {
        let listeners = Listeners::on_loopback()?;
        let namespace = std::fs::metadata("/proc/self/ns/net")?.ino() as u32;
        wall.open_door(&Door {
            session,
            namespace,
            tcp: listeners.tcp_port(),
            dns: listeners.dns_port(),
            listeners: listeners.as_fds(),
        })?;
        let arrivals = Arrivals {
            wall: Arc::clone(wall),
            session,
        };
        let mut config = EgressConfig::default();
        config.capture = Some(Arc::new(arrivals.clone()));
        let gate = ByPolicy(Arc::clone(policy));
        Ok(OpenDoor {
            arrivals,
            _egress: Egress::start(listeners, Arc::new(gate), config)?,
        })
    }
}

impl Arrivals {
    fn find(&self, client: SocketAddr, how: Arrival) -> Option<SocketAddr> {
        let found = self.wall.captured(client, how).ok()??;
        (found.session == self.session).then_some(found.original)
    }
}

impl Capture for Arrivals {
    fn original(&self, client: SocketAddr) -> Option<SocketAddr> {
        self.find(client, Arrival::Connection)
    }

    fn may_ask(&self, client: SocketAddr, protocol: Protocol) -> bool {
        let how = match protocol {
            Protocol::Tcp => Arrival::Connection,
            Protocol::Udp => Arrival::Datagram,
        };
        self.find(client, how).is_some()
    }
}

struct ByPolicy(Arc<Compiled>);

impl Gate for ByPolicy {
    fn resolve(&self, name: &str) -> Verdict {
        let (subject, facts) = (Subject::agent("a"), Facts::default());
        let said = self.0.policy().resolve_name(&subject, name, &facts);
        match said.effect {
            Effect::Deny | Effect::RateLimit => Verdict::Deny(said.reason),
            _ => Verdict::Allow,
        }
    }

    fn connect(&self, dest: &Endpoint, _: Origin) -> Verdict {
        let to = Resource::Endpoint(dest.clone());
        let said = (self.0).decide(&Action::new(Subject::agent("a"), Verb::NetConnect, to));
        match said.effect.proceeds() {
            true => Verdict::Allow,
            false => Verdict::Deny(said.reason),
        }
    }

    fn finished(&self, _: &Connection) {}
}

fn events(pins: &Path, seconds: u64) -> Result<(), Box<dyn Error>> {
    let wall = open(pins)?;
    let count = Cell::new(0);
    let events = wall.events(|event| {
        count.set(count.get() + 1);
        match event {
            Ok(e) => println!(
                "{} {:?} {:?} {:?} {:?} rule {:?} audit {} {}",
                e.pid,
                e.verb,
                e.effect,
                e.why,
                e.address,
                e.rule,
                e.audit,
                String::from_utf8_lossy(e.text.as_deref().unwrap_or_default())
            ),
            Err(e) => println!("{e}"),
        }
    })?;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        events.poll(Duration::from_millis(200))?;
    }
    println!("{} events, {:?}", count.get(), wall.counters()?);
    Ok(())
}

/// How much work the kernel has with each program before it takes it.
fn stats(programs: Programs) -> Result<(), Box<dyn Error>> {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, |_, text| {
        for line in text.lines() {
            if line.contains("processed") || line.contains("-- BEGIN") {
                println!("{line}");
            }
        }
    })));
    let mut opened = libbpf_rs::ObjectBuilder::default().open_memory(programs.object())?;
    let symbols = std::fs::read_to_string("/proc/kallsyms")?;
    for mut program in opened.progs_mut() {
        program.set_log_level(4);
        let section = program.section().to_string_lossy().into_owned();
        let there = section
            .strip_prefix("lsm/")
            .is_none_or(|hook| symbols.contains(&format!(" bpf_lsm_{hook}\n")));
        // One of two forms; the other is for later kernels.
        if !there || program.name() == "aw_setattr_idmap" {
            program.set_autoload(false);
        }
    }
    let start = Instant::now();
    opened.load()?;
    println!("{:?}", start.elapsed());
    Ok(())
}
