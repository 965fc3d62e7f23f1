//! The proof that the programs refuse: a child of ours does what it is then not allowed to.
//!
//! First ungoverned, when everything must go through, else a refusal proves nothing. Then under a policy that
//! allows one file: everything else must fail with a refusal *and* have had no effect, and that file must
//! still open. Only then anybody says *enforcing*.
//!
//! The monitor is proved by the same tries ([`watch`]): all must go through, and all but the last must be told.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
};

use agentwall_action::{Facts, Subject, Verb};
use agentwall_kernel::wire::Event;
use agentwall_policy::{Compiled, Layer, Source, Variables, glob_escape, load};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{daemon::CANARY_VIEW, kernel::Kernel};
use crate::{args::daemon::CanaryArgs, state::now_ms};

/// The session of the canaries.
const SESSION: u64 = u64::MAX;
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
        self.results.len() == TRIED.len() && self.results.iter().all(|r| r.held)
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
    tried(kernel, folder, None)
}

/// Proves that the monitor sees, in the same way.
pub fn watch(kernel: &dyn Kernel, folder: &Path, events: Reading<'_>) -> Result<Proof> {
    tried(kernel, folder, Some(events))
}

fn tried(kernel: &dyn Kernel, folder: &Path, events: Option<Reading<'_>>) -> Result<Proof> {
    // Left over from one that was killed.
    let _ = fs::remove_dir_all(folder);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", crate::state::shown(folder)))?;
    let proof = within(kernel, folder, events);
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
    let mut canary = Canary::start(folder, port)?;
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
    kernel.adopt(canary.0.id(), CANARY_VIEW, SESSION)?;
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

struct Canary(Child);

impl Canary {
    fn start(folder: &Path, port: u16) -> Result<Canary> {
        let child = Command::new("/proc/self/exe")
            .args(["daemon", "canary"])
            .arg(folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the canary")?;
        Ok(Canary(child))
    }

    /// One round of tries.
    fn answers(&mut self) -> Result<Vec<String>> {
        let (Some(stdin), Some(stdout)) = (&mut self.0.stdin, &mut self.0.stdout) else {
            bail!("the canary has no channel");
        };
        stdin.write_all(b"\n").context("the canary has died")?;
        let mut line = String::new();
        // It writes one line for each that it reads.
        BufReader::new(stdout).read_line(&mut line)?;
        let answers: Vec<String> = serde_json::from_str(&line).context("the canary has died")?;
        if answers.len() != TRIED.len() {
            bail!(
                "the canary tried {} things, not {}",
                answers.len(),
                TRIED.len()
            );
        }
        Ok(answers)
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // It is our child, and has ended at the latest now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The canary itself (`agentwall daemon canary`, which no person runs): a round of tries for each line.
pub fn main(args: CanaryArgs) -> Result<ExitCode> {
    let stdin = std::io::stdin().lock();
    for line in stdin.lines() {
        line?;
        let said: Vec<&str> = TRIED.iter().map(|what| attempt(what, &args)).collect();
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
    match tried {
        Ok(()) => "done",
        Err(e) if e.kind() == ErrorKind::PermissionDenied => "refused",
        Err(_) => "failed otherwise",
    }
}
