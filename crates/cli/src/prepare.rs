//! What is decided before a process is started: the policy in the form the wall enforces, the plan
//! of the file view, and whether this host can keep what the policy asks for.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Effect, Endpoint, Facts, Protocol, Resource, Subject, Verb};
use agentwall_bundle::Opened;
use agentwall_engine::Engine;
use agentwall_policy::{Enforcement, Policy, Source, Variables};
use agentwall_wall::{
    Canaries, TRAIL_PATH,
    enforcement::has_face,
    plan::{self, FileView, NodeKind, PlanInput, REPLACED, Writes},
};
use anyhow::{Context as _, Result, bail};

use crate::{
    policies::{self, Chosen},
    state::{self, State},
    supervisor::standard_terminals,
};

/// A policy ready to be enforced.
pub struct Prepared {
    /// Decides.
    pub engine: Arc<Engine>,
    /// The file view it asks for.
    pub view: FileView,
    /// What it was loaded from.
    pub sources: Vec<Source>,
    /// The bundles among it.
    pub bundles: Vec<Opened>,
    /// With which values.
    pub variables: Variables,
    /// Trees whose copies cannot lie in the session's own folder, and where they lie instead.
    pub layers_outside: Vec<(PathBuf, PathBuf)>,
    /// What the names of the policy led to.
    pub real: RealPaths,
    /// What the view was planned with beside the policy.
    pub ground: Ground,
}

impl Prepared {
    /// The view of another policy, planned with what this one was planned with.
    pub fn plan(&self, policy: &Policy) -> Result<FileView> {
        self.ground
            .plan(policy, self.engine.subject(), self.engine.facts())
    }
}

/// What a plan is made of that no policy says.
pub struct Ground {
    /// Hidden under any policy.
    protected: Vec<PathBuf>,
    /// The host's mount points when the session began.
    mounts: Vec<PathBuf>,
    learning: bool,
}

impl Ground {
    fn plan(&self, policy: &Policy, subject: &Subject, facts: &Facts) -> Result<FileView> {
        Ok(plan::plan(&PlanInput {
            policy,
            subject,
            facts,
            protected: &self.protected,
            replaced: REPLACED,
            mounts: &self.mounts,
            learning: self.learning,
        })?)
    }
}

/// Each path that a policy names and that exists, with its canonical path.
pub type RealPaths = Vec<(PathBuf, PathBuf)>;

/// Patterns in the form the wall needs: they name objects, whichever way the host spells them.
pub fn on_this_host(policy: Policy) -> Policy {
    with_real_paths(policy).0
}

/// The same, with what was looked up for it.
pub fn with_real_paths(policy: Policy) -> (Policy, RealPaths) {
    // The same places stand in many rules.
    let known: RefCell<HashMap<PathBuf, Option<PathBuf>>> = RefCell::default();
    let policy = policy.with_real_paths(&|path: &Path| {
        if let Some(real) = known.borrow().get(path) {
            return real.clone();
        }
        // Most names are canonical already, or nothing has them.
        let real = match plan::stat_canonical(path) {
            Ok(_) => Some(path.to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => path.canonicalize().ok(),
        };
        known.borrow_mut().insert(path.to_owned(), real.clone());
        real
    });
    let known = known.into_inner().into_iter();
    (
        policy,
        known
            .filter_map(|(path, real)| Some((path, real?)))
            .collect(),
    )
}

/// Loads the policy and plans the wall, if this version can keep what the policy asks for.
pub fn prepare(
    state: &State,
    chosen: Chosen,
    name: &str,
    workspace: &Path,
    session: &str,
    learning: bool,
) -> Result<Prepared> {
    planned(
        state,
        chosen,
        name,
        workspace,
        session,
        learning,
        check_requirement,
    )
}

/// Loads the policy and plans the wall; `check` may refuse the policy before it is planned for.
pub fn planned(
    state: &State,
    chosen: Chosen,
    name: &str,
    workspace: &Path,
    session: &str,
    learning: bool,
    check: impl Fn(&Policy) -> Result<()>,
) -> Result<Prepared> {
    let Chosen {
        sources,
        files,
        bundles,
    } = chosen;
    let variables = policies::variables(Some(state), workspace)?;
    let (policy, real) = with_real_paths(policies::load(&sources, &variables)?);
    let policy = Arc::new(policy);
    let mut facts = Facts::default();
    session.clone_into(&mut facts.session.id);
    name.clone_into(&mut facts.session.name);
    facts.session.workspace = workspace.to_string_lossy().into_owned();
    facts.session.interactive = standard_terminals()[0];
    let subject = Subject::agent(name);
    let mut protected = vec![state.root().to_owned()];
    protected.extend(state::policy_dir().ok().and_then(|d| d.canonicalize().ok()));
    // Other sessions' copies may lie there, whatever this one needs.
    let uid = rustix::process::getuid().as_raw();
    let places = outside_places(uid);
    protected.extend(places.iter().filter_map(|p| p.canonicalize().ok()));
    let mounts = plan::host_mounts().context("cannot read the mount table")?;
    check(&policy)?;
    let mut ground = Ground {
        protected,
        mounts,
        learning,
    };
    let mut view = ground.plan(&policy, &subject, &facts)?;
    // A policy file that the agent could change would be the next session's policy.
    let exposed: Vec<PathBuf> = files
        .iter()
        .filter_map(|file| file.canonicalize().ok())
        .filter(|file| {
            view.placement(file)
                .is_some_and(|p| p.writes == Writes::Direct)
        })
        .collect();
    if !exposed.is_empty() {
        ground.protected.extend(exposed);
        view = ground.plan(&policy, &subject, &facts)?;
    }
    let mut layers_outside = Vec::new();
    for root in isolated_around(&view, state.root()) {
        layers_outside.push((root.clone(), outside_folder(&root, &places, uid)?));
    }
    let known = ground.protected.len();
    for (_, folder) in &layers_outside {
        if !ground.protected.contains(folder) {
            ground.protected.push(folder.clone());
        }
    }
    if ground.protected.len() > known {
        view = ground.plan(&policy, &subject, &facts)?;
    }
    let engine = Engine::new(policy, subject, facts);
    let engine = Arc::new(if learning { engine.learning() } else { engine });
    Ok(Prepared {
        engine,
        view,
        sources,
        bundles,
        variables,
        layers_outside,
        real,
        ground,
    })
}

/// The isolated trees that hold the state folder. Overlayfs refuses an upper directory below its
/// own lower tree, so their copies lie elsewhere. A lower tree in memory holds nothing of the host's.
fn isolated_around(view: &FileView, path: &Path) -> Vec<PathBuf> {
    let isolated = view
        .nodes
        .iter()
        .filter(|n| n.placement.writes == Writes::Isolated && !n.placement.surface);
    isolated
        .filter(|n| path.starts_with(&n.path))
        .map(|n| n.path.clone())
        .collect()
}

/// Where copy layers may lie that cannot lie in the state folder. The best place first: what a
/// reboot empties comes last.
fn outside_places(uid: u32) -> Vec<PathBuf> {
    let name = format!("agentwall-{uid}");
    let home = state::home()
        .ok()
        .map(|home| home.join(".agentwall-layers"));
    let places = [
        Some(Path::new("/var/tmp").join(&name)),
        home,
        Some(Path::new("/tmp").join(&name)),
        Some(Path::new("/dev/shm").join(&name)),
    ];
    places.into_iter().flatten().collect()
}

/// A private folder for the copy layer of `root`, outside of it.
fn outside_folder(root: &Path, places: &[PathBuf], uid: u32) -> Result<PathBuf> {
    let mut failure = None;
    for place in places {
        let real = place.parent().and_then(|p| p.canonicalize().ok());
        if real.is_none_or(|real| real.starts_with(root)) {
            continue;
        }
        match private_folder(place, uid) {
            Ok(()) => return Ok(place.canonicalize().unwrap_or_else(|_| place.clone())),
            Err(e) => failure = Some(e),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no place was found"))).with_context(|| {
        format!(
            "the state folder lies inside {}, which the policy isolates, and its copies have no \
             other place; set AGENTWALL_STATE to a folder outside of it",
            state::shown(root)
        )
    })
}

fn private_folder(folder: &Path, uid: u32) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("cannot make {}", state::shown(folder)));
        }
        _ => {}
    }
    let meta = std::fs::symlink_metadata(folder)
        .with_context(|| format!("cannot examine {}", state::shown(folder)))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        bail!("{} is not a private folder of yours", state::shown(folder));
    }
    Ok(())
}

/// Refuses a policy with parts that this version does not enforce, unless it says that it accepts that
/// (`require: {enforcement: audit}`).
pub fn check_requirement(policy: &Policy) -> Result<()> {
    let missing = without_effect(policy);
    if missing.is_empty() || policy.require() == Enforcement::Audit {
        return Ok(());
    }
    bail!(
        "this version cannot enforce all that the policy asks for: {}; remove it, or accept that \
         with 'require: {{ enforcement: audit }}'",
        missing.join(", ")
    )
}

/// Parts of the policy, beside its rules, that are read and checked but enforced nowhere.
pub fn without_effect(policy: &Policy) -> Vec<String> {
    let properties = policy.properties().iter();
    let mut missing: Vec<String> = properties
        .map(|p| format!("property '{}' (temporal properties)", p.id))
        .collect();
    let on_wall = |verb: &Verb| has_face(*verb);
    if policy.budgets().iter().any(|b| b.verbs.iter().any(on_wall)) {
        missing.push("budgets on actions of the wall".to_owned());
    }
    missing
}

/// How many hidden paths the canaries try.
const READ_CANARIES: usize = 4;

/// This program's own file, which the wall shows at its own path under every policy.
pub fn own_binary() -> Result<PathBuf> {
    std::env::current_exe()
        .and_then(|p| p.canonicalize())
        .context("cannot find this program's own file")
}

/// Attempts that this policy refuses, one or a few per class.
pub fn canaries(engine: &Engine, view: &FileView, own_binary: &Path) -> Canaries {
    let mut canaries = Canaries::default();
    for node in view.nodes.iter().filter(|n| n.placement.hidden) {
        // A hidden folder may hold what is visible; only leaves must look empty.
        let below = |n: &&plan::Node| n.path != node.path && n.path.starts_with(&node.path);
        let leaf = !own_binary.starts_with(&node.path)
            && !view.nodes.iter().filter(below).any(|n| !n.placement.hidden);
        let root = node.path == Path::new("/");
        if !root && leaf && has_content(node) && canaries.reads.len() < READ_CANARIES {
            canaries.reads.push(node.path.clone());
        }
    }
    let read_only = view.nodes.iter().find(|n| {
        !n.placement.hidden
            && n.placement.writes == Writes::None
            && n.kind == NodeKind::Directory
            && n.path != Path::new("/")
    });
    canaries
        .writes
        .extend(read_only.map(|n| n.path.join(".agentwall-canary")));
    canaries.writes.push("/dev/agentwall/canary".into());
    let metadata_service = Ipv4Addr::new(169, 254, 169, 254);
    // TEST-NET-1 (RFC 5737): never routed.
    let nowhere = Ipv4Addr::new(192, 0, 2, 1);
    canaries.connects.extend(
        [metadata_service, nowhere]
            .into_iter()
            .map(|ip| SocketAddr::from((ip, 80)))
            .find(|address| denies_connecting(engine, *address)),
    );
    // A file on the wall's own noexec mount, which no policy makes startable.
    canaries.starts.push(TRAIL_PATH.into());
    canaries
}

fn denies_connecting(engine: &Engine, to: SocketAddr) -> bool {
    let resource = Resource::Endpoint(Endpoint {
        protocol: Protocol::Tcp,
        host: None,
        ip: Some(to.ip()),
        port: to.port(),
    });
    engine
        .decide(&engine.action(Verb::NetConnect, resource))
        .effect
        == Effect::Deny
}

fn has_content(node: &plan::Node) -> bool {
    match node.kind {
        NodeKind::Directory => std::fs::read_dir(&node.path).is_ok_and(|mut d| d.next().is_some()),
        NodeKind::File => std::fs::metadata(&node.path).is_ok_and(|m| m.len() > 0),
    }
}
