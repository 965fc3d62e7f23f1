//! The proof that the programs refuse: a child of ours does what it is then not allowed to.
//!
//! First ungoverned, when everything must go through, else a refusal proves nothing. Then under a policy that
//! allows one file: everything else must fail with a refusal *and* have had no effect, and that file must
//! still open. Only then anybody says *enforcing*.
//!
//! Host names are proved beside that ([`prove_names`]): without it the wall stands, and rules about names permit
//! nothing.
//!
//! The monitor is proved by the same tries ([`watch`]): all must go through, and all but the last must be told.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use agentwall_action::{Endpoint, Facts, Subject, Verb};
use agentwall_egress::{Connection, EgressConfig, Gate, Lookup, Origin, Verdict};
use agentwall_kernel::{abi::TABLE_NAMES, wire::Event};
use agentwall_policy::{Compiled, Layer, Source, Variables, glob_escape, load};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{daemon::CANARY_VIEW, kernel::Kernel, names};
use crate::{args::daemon::CanaryArgs, state::now_ms};

/// The session of the canaries.
const SESSION: u64 = u64::MAX;
/// How long an answer may take. Nothing here waits for it where names lead to their door.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is tried, in this order; the last one is allowed.
const TRIED: [&str; 7] = [
    "read",
    "write",
    "create",
    "delete",
    "connect",
    "exec",
    "neighbour",
];

/// The same of host names. Without a policy only the address leads anywhere.
const TRIED_NAMES: [&str; 4] = ["name", "other name", "datagram", "address"];
/// The name that is permitted; no other ends so (RFC 6761, section 6.4).
const NAME: &str = "neighbour.agentwall.invalid";
const OTHER_NAME: &str = "other.agentwall.invalid";

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What was tried.
    pub what: &'static str,
    /// What came of it.
    pub said: String,
    /// Whether it is as it should be.
    pub held: bool,
}

/// What became of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// In the order of the tries.
    pub results: Vec<Tried>,
}

impl Proof {
    /// Whether the programs do what they should, and only that.
    pub fn holds(&self) -> bool {
        !self.results.is_empty() && self.results.iter().all(|r| r.held)
    }

    /// Whether nothing at all was refused.
    pub fn is_all_done(&self) -> bool {
        self.results.len() == TRIED.len()
            && self.results.iter().all(|r| !r.said.starts_with("refused"))
    }

    /// What is not as it should be.
    pub fn failures(&self) -> String {
        let failed = self.results.iter().filter(|r| !r.held);
        let texts: Vec<String> = failed.map(|r| format!("{}: {}", r.what, r.said)).collect();
        texts.join(", ")
    }
}

/// Reads the events that came.
pub type Reading<'r> = &'r mut dyn FnMut() -> Result<Vec<Event>>;

/// Proves that the kernel refuses, in a folder that is made for it and removed.
pub fn prove(kernel: &dyn Kernel, folder: &Path) -> Result<Proof> {
    in_folder(kernel, folder, || within(kernel, folder, None))
}

/// Proves that the monitor sees, in the same way.
pub fn watch(kernel: &dyn Kernel, folder: &Path, events: Reading<'_>) -> Result<Proof> {
    in_folder(kernel, folder, || within(kernel, folder, Some(events)))
}

/// Tries that host names lead to a door, and past it nothing: one name that is permitted, to a server of ours.
pub fn prove_names(kernel: &Arc<dyn Kernel>, folder: &Path) -> Result<Proof> {
    let proof = in_folder(&**kernel, folder, || names_within(kernel, folder));
    kernel.close_door(SESSION)?;
    proof
}

fn in_folder(
    kernel: &dyn Kernel,
    folder: &Path,
    within: impl FnOnce() -> Result<Proof>,
) -> Result<Proof> {
    // Left over from one that was killed.
    let _ = fs::remove_dir_all(folder);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", crate::state::shown(folder)))?;
    let proof = within();
    let removed = kernel.remove(CANARY_VIEW);
    let _ = fs::remove_dir_all(folder);
    let proof = proof?;
    removed?;
    Ok(proof)
}

fn within(kernel: &dyn Kernel, folder: &Path, events: Option<Reading<'_>>) -> Result<Proof> {
    // Names as the kernel has them.
    let folder = &folder.canonicalize()?;
    for name in ["secret", "neighbour", "victim"] {
        fs::write(folder.join(name), "canary\n")?;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no loopback for the canaries")?;
    let port = listener.local_addr()?.port();
    let mut canary = Canary::start(folder, port, &TRIED)?;
    let before = canary.answers()?;
    for (what, said) in TRIED.iter().zip(&before) {
        if said != "done" {
            bail!(
                "without a policy the canary's {what} does not go through ({said}): it proves nothing"
            );
        }
    }
    // As before the first round, but with nobody waiting in the line.
    let _ = fs::remove_file(folder.join("new"));
    fs::write(folder.join("secret"), "canary\n")?;
    fs::write(folder.join("victim"), "canary\n")?;
    drop(listener.accept()?);
    listener.set_nonblocking(true)?;

    kernel.install(CANARY_VIEW, &table(folder)?, now_ms(), 0)?;
    kernel.adopt(canary.child.id(), CANARY_VIEW, SESSION)?;
    let after = canary.answers()?;
    let unchanged = |name: &str| fs::read(folder.join(name)).is_ok_and(|t| t == b"canary\n");
    let effects = [
        false,
        !unchanged("secret"),
        folder.join("new").exists(),
        !unchanged("victim"),
        !matches!(listener.accept(), Err(e) if e.kind() == ErrorKind::WouldBlock),
        false,
        false,
    ];
    let told = match events {
        Some(read) => Some(read()?),
        None => None,
    };
    let results = TRIED
        .iter()
        .zip(after)
        .zip(effects)
        .map(|((what, said), effect)| match &told {
            None => of_refusal(what, said, effect),
            Some(told) => {
                let is_it = |e: &Event| e.view == CANARY_VIEW && is_about(e, what, folder, port);
                of_sight(what, said, effect, told.iter().any(is_it))
            }
        });
    Ok(Proof {
        results: results.collect(),
    })
}

fn names_within(kernel: &Arc<dyn Kernel>, folder: &Path) -> Result<Proof> {
    let folder = &folder.canonicalize()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no loopback for the canaries")?;
    let port = listener.local_addr()?.port();
    let end = listener.try_clone()?;
    let server = std::thread::spawn(move || {
        let mut served = 0;
        for mut client in listener.incoming().map_while(Result::ok) {
            // Who goes away before needs nothing.
            let _ = client.write_all(GREETING);
            served += 1;
        }
        served
    });
    let tried = try_names(kernel, folder, port);
    rustix::net::shutdown(&end, rustix::net::Shutdown::Both)?;
    let served: u32 = server
        .join()
        .map_err(|_| anyhow!("the canary's server has died"))?;
    let mut proof = tried?;
    // Once without a policy, by its address, and once by its name.
    if served != 2 {
        for tried in &mut proof.results {
            tried.held = false;
            tried.said = format!("{}, and the server was reached {served} times", tried.said);
        }
    }
    Ok(proof)
}

fn try_names(kernel: &Arc<dyn Kernel>, folder: &Path, port: u16) -> Result<Proof> {
    let mut canary = Canary::start(folder, port, &TRIED_NAMES)?;
    let before = canary.answers()?;
    if before.last().map(String::as_str) != Some("done") {
        bail!("without a policy the canary does not reach its server: it proves nothing");
    }
    let mut config = EgressConfig::default();
    config.lookup = Lookup::new(|_| Ok(vec![Ipv4Addr::LOCALHOST.into()]));
    let _door = names::open_door(kernel, SESSION, Arc::new(OneName), config)?;
    kernel.install(CANARY_VIEW, &table(folder)?, now_ms(), TABLE_NAMES)?;
    kernel.adopt(canary.child.id(), CANARY_VIEW, SESSION)?;
    let after = canary.answers()?;
    let results = TRIED_NAMES.iter().zip(after).map(|(what, said)| Tried {
        what,
        held: said == if *what == "name" { "done" } else { "refused" },
        said,
    });
    Ok(Proof {
        results: results.collect(),
    })
}

/// What the server of the canaries says.
const GREETING: &[u8] = b"canary";

/// Permits one name.
struct OneName;

impl Gate for OneName {
    fn resolve(&self, name: &str) -> Verdict {
        match name == NAME {
            true => Verdict::Allow,
            false => Verdict::Deny("not this one".into()),
        }
    }

    fn connect(&self, dest: &Endpoint, _: Origin) -> Verdict {
        match dest.host.as_deref() == Some(NAME) {
            true => Verdict::Allow,
            false => Verdict::Deny("not by its address".into()),
        }
    }

    fn finished(&self, _: &Connection) {}
}

fn of_refusal(what: &'static str, said: String, effect: bool) -> Tried {
    Tried {
        what,
        held: match what {
            "neighbour" => said == "done",
            _ => said == "refused" && !effect,
        },
        said: match effect && said == "refused" {
            true => "refused, and yet it happened".to_owned(),
            false => said,
        },
    }
}

/// Everything happens, and what the policy would refuse is told.
fn of_sight(what: &'static str, said: String, effect: bool, told: bool) -> Tried {
    let leaves_nothing = ["read", "exec", "neighbour"].contains(&what);
    let happened = said == "done" && (effect || leaves_nothing);
    Tried {
        what,
        held: happened && told == (what != "neighbour"),
        said: match (happened, told) {
            (false, _) => format!("did not happen: {said}"),
            (true, true) => "seen".to_owned(),
            (true, false) => "not told".to_owned(),
        },
    }
}

/// Whether an event tells of a try.
fn is_about(event: &Event, what: &str, folder: &Path, port: u16) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let named = |verb, name: &str| {
        let path = folder.join(name);
        event.verb == Some(verb) && event.text.as_deref() == Some(path.as_os_str().as_bytes())
    };
    match what {
        "read" => named(Verb::FileRead, "secret"),
        "write" => named(Verb::FileWrite, "secret"),
        "create" => named(Verb::FileCreate, "new"),
        "delete" => named(Verb::FileDelete, "victim"),
        "connect" => event.verb == Some(Verb::NetConnect) && event.identity.port == u32::from(port),
        "exec" => event.verb == Some(Verb::ProcessExec),
        _ => named(Verb::FileRead, "neighbour"),
    }
}

/// Nothing is allowed but reading one file.
fn table(folder: &Path) -> Result<agentwall_policy::CompiledTable> {
    use std::os::unix::ffi::OsStrExt as _;
    let neighbour = folder.join("neighbour");
    let text = serde_json::json!({
        "agentwall": 1,
        "default": "deny",
        "rules": [{
            "id": "neighbour",
            "action": "file.read",
            "resource": glob_escape(neighbour.as_os_str().as_bytes()),
            "effect": "allow",
        }],
    });
    let source = Source::new("(canary)", text.to_string(), Layer::User);
    let policy = load(&[source], &Variables::default()).map_err(|e| anyhow!("{e}"))?;
    let compiled = Compiled::new(
        Arc::new(policy),
        &Subject::agent("canary"),
        &Facts::default(),
    );
    Ok(compiled.table())
}

struct Canary {
    child: Child,
    tried: usize,
}

impl Canary {
    fn start(folder: &Path, port: u16, tried: &[&str]) -> Result<Canary> {
        let names = tried == TRIED_NAMES;
        let child = Command::new("/proc/self/exe")
            .args(["daemon", "canary"])
            .args(names.then_some("--names"))
            .arg(folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the canary")?;
        Ok(Canary {
            child,
            tried: tried.len(),
        })
    }

    /// One round of tries.
    fn answers(&mut self) -> Result<Vec<String>> {
        let (Some(stdin), Some(stdout)) = (&mut self.child.stdin, &mut self.child.stdout) else {
            bail!("the canary has no channel");
        };
        stdin.write_all(b"\n").context("the canary has died")?;
        let mut line = String::new();
        // It writes one line for each that it reads.
        BufReader::new(stdout).read_line(&mut line)?;
        let answers: Vec<String> = serde_json::from_str(&line).context("the canary has died")?;
        if answers.len() != self.tried {
            bail!(
                "the canary tried {} things, not {}",
                answers.len(),
                self.tried
            );
        }
        Ok(answers)
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // It is our child, and has ended at the latest now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The canary itself (`agentwall daemon canary`, which no person runs): a round of tries for each line.
pub fn main(args: CanaryArgs) -> Result<ExitCode> {
    let stdin = std::io::stdin().lock();
    for (round, line) in stdin.lines().enumerate() {
        line?;
        let said: Vec<&str> = match args.names {
            false => TRIED.iter().map(|what| attempt(what, &args)).collect(),
            true => (TRIED_NAMES.iter())
                .map(|what| match round == 0 && *what != "address" {
                    // Without a policy the questions would leave this host.
                    true => "not tried",
                    false => in_a_word(&attempt_name(what, args.port)),
                })
                .collect(),
        };
        crate::output::print_json_line(&said)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn attempt(what: &str, args: &CanaryArgs) -> &'static str {
    let at = |name: &str| args.folder.join(name);
    let write = |name: &str, new: bool| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(new).open(at(name))?;
        file.write_all(b"changed")
    };
    let tried = match what {
        "read" => fs::read(at("secret")).map(drop),
        "write" => write("secret", false),
        "create" => write("new", true),
        "delete" => fs::remove_file(at("victim")),
        "connect" => TcpStream::connect(("127.0.0.1", args.port)).map(drop),
        "exec" => Command::new("/proc/self/exe")
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map(drop),
        _ => fs::read(at("neighbour")).map(drop),
    };
    in_a_word(&tried)
}

fn in_a_word(tried: &io::Result<()>) -> &'static str {
    match tried {
        Ok(()) => "done",
        Err(e) if e.kind() == ErrorKind::PermissionDenied => "refused",
        Err(_) => "failed otherwise",
    }
}

fn attempt_name(what: &str, port: u16) -> io::Result<()> {
    let reach = |address: SocketAddr| {
        let mut stream = TcpStream::connect(address)?;
        let mut said = Vec::new();
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?;
        stream.read_to_end(&mut said)?;
        match said == GREETING && peer == address {
            true => Ok(()),
            false => Err(io::Error::other("somebody else answered")),
        }
    };
    match what {
        "name" => reach((ask_for(NAME)?, port).into()),
        "other name" => ask_for(OTHER_NAME).map(drop),
        // An address that stands for a name is no way for datagrams.
        "datagram" => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
            .send_to(b"x", (ask_for(NAME)?, port))
            .map(drop),
        _ => reach((Ipv4Addr::LOCALHOST, port).into()),
    }
}

/// The address of a name, from a name server that is not there: RFC 1035, section 4.1.
fn ask_for(name: &str) -> io::Result<Ipv4Addr> {
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let server = SocketAddr::from(([192, 0, 2, 53], 53));
    socket.send_to(&query, server)?;
    let mut answer = [0; 512];
    let (length, from) = socket.recv_from(&mut answer)?;
    let answer = &answer[..length];
    let (head, end) = (answer.first_chunk::<12>(), answer.last_chunk::<4>());
    match (head, end) {
        (Some([7, 7, _, code, _, _, 0, 1, ..]), Some(end)) if code & 15 == 0 && from == server => {
            Ok(Ipv4Addr::from(*end))
        }
        (Some([7, 7, _, code, ..]), _) if code & 15 == 3 => Err(ErrorKind::PermissionDenied.into()),
        _ => Err(io::Error::other("no answer")),
    }
}
