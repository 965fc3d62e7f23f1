//! From a policy to a file view: what each host tree becomes inside the wall.
//!
//! The mounts are the *sound bound*: for every path the kernel alone permits at most what the
//! policy could permit there. Where the policy is finer than a tree (a glob inside it, `ask`, a
//! monitor), the agent's mount is the stricter one and the broker opens the rest on its behalf
//! through a second, writable view of the same tree. So the broker's answers refine, and losing a
//! race against the notification can never yield more than the mounts give.
//!
//! A plan is data: computed from the policy's region queries and the host's mount table, executed
//! by `mounts`, shown by `policy explain --enforcement`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use agentwall_action::{Action, Effect, Facts, Resource, Subject, Verb, is_within};
use agentwall_policy::Policy;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};

use crate::surface::MAX_NAMES;

/// How writes under a node are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Not at all.
    None,
    /// To the original.
    Direct,
    /// To an overlay's upper layer.
    Isolated,
    /// To memory that ends with the session: for what is to be isolated but has no tree on the host
    /// to lay a copy over (a single file, a folder that does not exist).
    Private,
}

/// What a tree (up to the next node below it) is inside the wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Nothing of it is there: an empty folder or file instead.
    pub hidden: bool,
    /// Where writes go.
    pub writes: Writes,
    /// The agent's own mount is read-only; writes go through the broker, which asks the engine.
    pub brokered: bool,
    /// Mounted `noexec`: neither execve(2) nor a loader's mmap(2) gets code from it.
    pub noexec: bool,
    /// Landlock lets programs be started from it.
    pub startable: bool,
    /// Only what lies directly in the folder is placed so: it holds other mounts, and each folder in
    /// it has a place of its own. The copy layer's lower tree is made in memory (`surface`).
    pub surface: bool,
}

impl Placement {
    pub(crate) const HIDDEN: Placement = Placement {
        hidden: true,
        writes: Writes::None,
        brokered: false,
        noexec: true,
        startable: false,
        surface: false,
    };
}

/// What a node is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// Anything else that can be a mount point: file, socket, FIFO, device.
    File,
}

/// One path that needs a decision of its own.
#[derive(Debug, Clone)]
pub struct Node {
    /// Canonical host path.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// The root of a host mount.
    pub is_mount: bool,
    /// What becomes of it.
    pub placement: Placement,
    /// The rule behind `hidden`, if one decided for the whole tree.
    pub rule: Option<String>,
}

/// The whole view.
#[derive(Debug, Clone, Default)]
pub struct FileView {
    /// Nodes by path, parents first.
    pub nodes: Vec<Node>,
    /// Symlinks in `/`, re-created in the new root.
    pub root_links: Vec<(PathBuf, PathBuf)>,
    /// Reading opens must be trapped.
    pub trap_reads: bool,
    /// Some node is brokered.
    pub brokered: bool,
    /// What is placed more strictly than written, or not exactly; for the user.
    pub notes: Vec<String>,
}

impl FileView {
    /// The node that a path belongs to; `None` for what the wall itself makes.
    pub fn node(&self, path: &Path) -> Option<&Node> {
        let mut nodes = self.nodes.iter().rev();
        nodes.find(|n| is_within(path, &n.path) && n.path != Path::new("/"))
    }

    /// Whether the view has a place where the action can be done to a path, if the policy lets it.
    pub fn reaches(&self, verb: Verb, path: &Path) -> bool {
        let Some(placement) = self.placement(path) else {
            return true;
        };
        !placement.hidden
            && match verb {
                verb if FILE_CHANGES.contains(&verb) => placement.writes != Writes::None,
                verb if STARTS.contains(&verb) => placement.startable && !placement.noexec,
                _ => true,
            }
    }

    /// Whether some copy layer's lower tree is made in memory when the wall is built.
    pub fn has_surfaces(&self) -> bool {
        self.nodes.iter().any(|n| n.placement.surface)
    }

    /// What holds at a path; `None` for what the wall itself makes.
    pub fn placement(&self, path: &Path) -> Option<&Placement> {
        self.node(path).map(|n| &n.placement)
    }
}

/// What the planner looks at.
#[derive(Debug)]
pub struct PlanInput<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// For whom.
    pub subject: &'a Subject,
    /// The session's facts.
    pub facts: &'a Facts,
    /// The wall's own folders: hidden under any policy.
    pub protected: &'a [PathBuf],
    /// Paths the kernel's or the wall's own constructions replace (`/proc`, `/dev`, `/sys`).
    pub replaced: &'a [&'a str],
    /// Mount points of the host, see [`host_mounts`].
    pub mounts: &'a [PathBuf],
    /// Whether everything that may go ahead is to be seen, as if a `monitor` rule were about it.
    /// What is certainly denied stays what it is without: absent.
    pub learning: bool,
}

/// The view could not be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The host's file system could not be read where the plan needs it.
    #[error("cannot look at {path}: {source}")]
    Host {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The trees the wall builds itself; the host's are never shown.
pub const REPLACED: &[&str] = &["/proc", "/dev"];

pub(crate) const FILE_CHANGES: [Verb; 5] = [
    Verb::FileWrite,
    Verb::FileCreate,
    Verb::FileDelete,
    Verb::FileRename,
    Verb::FileChmod,
];

pub(crate) const STARTS: [Verb; 2] = [Verb::ProcessExec, Verb::FileExec];

/// At most this many directory entries are looked at to turn a glob into single files.
const ENUMERATION_LIMIT: usize = 20_000;

/// Reads the mount points of this process's mount namespace from `/proc/self/mountinfo` (proc(5)).
pub fn host_mounts() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let mut mounts: BTreeSet<PathBuf> = BTreeSet::new();
    for line in text.split(|b| *b == b'\n') {
        if let Some(field) = line.split(|b| *b == b' ').nth(4) {
            mounts.insert(unescape_octal(field));
        }
    }
    Ok(mounts.into_iter().collect())
}

/// Looks at an object under its canonical name. `ELOOP` if the name has a symlink in it, at any
/// place (openat2(2), `RESOLVE_NO_SYMLINKS`).
pub fn stat_canonical(path: &Path) -> io::Result<Stat> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let no_links = ResolveFlags::NO_SYMLINKS;
    let fd = openat2(CWD, path, flags, Mode::empty(), no_links)?;
    Ok(fstat(&fd)?)
}

/// mountinfo escapes space, tab, newline and backslash as `\ooo`.
pub(crate) fn unescape_octal(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|d| (b'0'..=b'7').contains(d)) {
            let value = tail[..3]
                .iter()
                .fold(0u32, |n, d| n * 8 + u32::from(d - b'0'));
            out.push(value as u8);
            rest = &tail[3..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

/// Computes the view.
pub fn plan(input: &PlanInput<'_>) -> Result<FileView, PlanError> {
    Planner::new(input).run()
}

/// What the policy may answer for one verb on all objects of a node.
#[derive(Debug, Clone)]
struct Answer {
    effects: BTreeSet<Effect>,
    uniform: bool,
    monitored: bool,
    rule: Option<String>,
}

impl Answer {
    fn only(&self, effect: Effect) -> bool {
        self.effects.len() == 1 && self.effects.contains(&effect)
    }

    /// Certainly denied, all of it, without a trace being asked for.
    fn denied(&self) -> bool {
        self.uniform && !self.monitored && self.only(Effect::Deny)
    }
}

fn distinct(policy: &Policy, verbs: &[Verb]) -> Vec<Verb> {
    let mut kept: Vec<Verb> = Vec::new();
    for verb in verbs {
        if !kept.iter().any(|k| policy.is_same_for(*k, *verb)) {
            kept.push(*verb);
        }
    }
    kept
}

struct Planner<'a> {
    input: &'a PlanInput<'a>,
    /// Of the verbs that change files, and of those that start code, one for each group that the
    /// policy cannot tell apart.
    changes: Vec<Verb>,
    starts: Vec<Verb>,
    /// Every path that gets a node: is it a directory, is it a mount.
    paths: BTreeMap<PathBuf, (NodeKind, bool)>,
    /// Folders that hold mounts, every folder in which has a node.
    split: BTreeSet<PathBuf>,
    /// Places the policy names where nothing is (or a symlink, which is not an object).
    absent: Vec<PathBuf>,
    /// Whether they are denied, per verb and index; looked up when first needed.
    absent_denied: BTreeMap<(Verb, usize), bool>,
    view: FileView,
}

impl<'a> Planner<'a> {
    fn new(input: &'a PlanInput<'a>) -> Self {
        Planner {
            input,
            changes: distinct(input.policy, &FILE_CHANGES),
            starts: distinct(input.policy, &STARTS),
            paths: BTreeMap::new(),
            split: BTreeSet::new(),
            absent: Vec::new(),
            absent_denied: BTreeMap::new(),
            view: FileView::default(),
        }
    }

    fn replaced(&self, path: &Path) -> bool {
        self.input
            .replaced
            .iter()
            .any(|r| is_within(path, Path::new(r)))
    }

    fn run(mut self) -> Result<FileView, PlanError> {
        self.collect()?;
        self.absent.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        self.absent.dedup();
        self.split_isolated_trees();
        let paths: Vec<_> = self.paths.iter().map(|(p, k)| (p.clone(), *k)).collect();
        for (path, (kind, is_mount)) in paths {
            let node = self.place(path, kind, is_mount)?;
            self.view.nodes.push(node);
        }
        self.private_folders();
        // Where reading is decided per name, names must not change unseen either.
        if self.view.trap_reads {
            for node in &mut self.view.nodes {
                node.placement.brokered |= node.placement.writes != Writes::None;
            }
        }
        self.view.brokered = self.view.nodes.iter().any(|n| n.placement.brokered);
        // Enumeration may have added nodes out of order.
        self.view.nodes.sort_by(|a, b| a.path.cmp(&b.path));
        self.view.nodes.dedup_by(|a, b| a.path == b.path);
        Ok(self.view)
    }

    /// Whether another mount lies inside a tree.
    fn has_mounts(&self, dir: &Path) -> bool {
        let mut mounts = self.input.mounts.iter();
        mounts.any(|m| m != dir && is_within(m, dir))
    }

    fn add(&mut self, path: &Path, is_mount: bool) {
        if self.replaced(path) {
            return;
        }
        // Symlinks are not objects, and what is behind one has another name; the policy's patterns
        // are canonicalised before they get here.
        let Ok(stat) = stat_canonical(path) else {
            self.absent.push(path.to_owned());
            return;
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => NodeKind::Directory,
            _ => NodeKind::File,
        };
        let entry = self.paths.entry(path.to_owned()).or_insert((kind, false));
        entry.1 |= is_mount;
    }

    fn collect(&mut self) -> Result<(), PlanError> {
        self.paths.insert("/".into(), (NodeKind::Directory, true));
        for entry in read_dir(Path::new("/"))? {
            if let Ok(target) = fs::read_link(&entry) {
                self.view.root_links.push((entry, target));
            } else {
                self.add(&entry, false);
            }
        }
        for mount in self
            .input
            .mounts
            .iter()
            .filter(|m| m.as_path() != Path::new("/"))
        {
            self.add(mount, true);
        }
        for anchor in self.input.policy.anchors() {
            self.add(&anchor, false);
        }
        for path in self.input.protected {
            self.add(path, false);
        }
        Ok(())
    }

    fn below(&self, dir: &Path) -> Vec<PathBuf> {
        self.paths
            .range(dir.to_owned()..)
            .skip(1)
            .take_while(|(p, _)| is_within(p, dir))
            .map(|(p, _)| p.clone())
            .collect()
    }

    /// What holds at `path`: for a file its own answer, for a folder that of everything between
    /// it and the nodes below it.
    ///
    /// Left out are absent places about which the policy says no: nothing is there to be read, and
    /// making something there is decided by name in a copy, and again when it is committed.
    fn answer(&mut self, verb: Verb, path: &Path, kind: NodeKind, below: &[PathBuf]) -> Answer {
        if kind == NodeKind::File {
            return self.decided(verb, path);
        }
        let mut except = below.to_vec();
        for index in self.absent_below(path) {
            let denied = match self.absent_denied.get(&(verb, index)) {
                Some(denied) => *denied,
                None => self.absent_is_denied(verb, index),
            };
            if denied {
                except.push(self.absent[index].clone());
            }
        }
        self.region(verb, path, &except)
    }

    fn answers(
        &mut self,
        verbs: &[Verb],
        path: &Path,
        kind: NodeKind,
        below: &[PathBuf],
    ) -> Vec<Answer> {
        let each = verbs.iter();
        each.map(|verb| self.answer(*verb, path, kind, below))
            .collect()
    }

    fn absent_is_denied(&mut self, verb: Verb, index: usize) -> bool {
        let path = &self.absent[index];
        // What could be made there could be read afterwards.
        let unmakeable = verb != Verb::FileRead || self.decided(Verb::FileCreate, path).denied();
        let denied = unmakeable && self.decided(verb, path).denied();
        self.absent_denied.insert((verb, index), denied);
        denied
    }

    /// The absent places below a folder: neighbours in the order of their bytes.
    fn absent_below(&self, dir: &Path) -> std::ops::Range<usize> {
        let mut front = dir.as_os_str().as_bytes().to_vec();
        if !front.ends_with(b"/") {
            front.push(b'/');
        }
        let start = self
            .absent
            .partition_point(|p| p.as_os_str().as_bytes() < front.as_slice());
        let inside = |p: &PathBuf| p.as_os_str().as_bytes().starts_with(&front);
        start..start + self.absent[start..].partition_point(inside)
    }

    /// Whether everything that is in a folder now is denied; then by which rule.
    fn hidden_without_absent(&self, path: &Path, below: &[PathBuf]) -> Option<Option<String>> {
        let absent = &self.absent[self.absent_below(path)];
        let except: Vec<PathBuf> = below.iter().chain(absent).cloned().collect();
        let read = self.region(Verb::FileRead, path, &except);
        let no = |verb: &Verb| self.region(*verb, path, &except).denied();
        let hidden = read.denied()
            && self.changes.iter().all(no)
            && (read.rule.is_some() || self.starts.iter().all(no));
        hidden.then_some(read.rule)
    }

    /// The answer for a single file.
    fn decided(&self, verb: Verb, path: &Path) -> Answer {
        let mut action = Action::new(self.input.subject.clone(), verb, Resource::path(path));
        action.facts = self.input.facts.clone();
        let decision = self.input.policy.decide(&action);
        // Another moment may bring another outcome of a condition about this file.
        let uncertain = self.input.policy.rules().any(|r| {
            r.is_conditional()
                && r.verbs.contains(&verb)
                && r.matches_object(verb, &action.resource)
        });
        Answer {
            effects: BTreeSet::from([decision.effect]),
            uniform: !uncertain && decision.errors.is_empty(),
            monitored: !decision.monitors.is_empty()
                || (self.input.learning && (uncertain || decision.effect != Effect::Deny)),
            rule: decision.rule,
        }
    }

    /// Folders to be isolated that do not exist, inside hidden ones: the session gets them in
    /// memory, so that an agent's first start finds its places.
    fn private_folders(&mut self) {
        for path in std::mem::take(&mut self.absent) {
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            let inside = path.join("x");
            let one_file = self
                .decided(Verb::FileWrite, &path)
                .effects
                .contains(&Effect::Isolate)
                && !self
                    .region(Verb::FileWrite, &inside, &[])
                    .effects
                    .contains(&Effect::Isolate);
            if one_file {
                self.view.notes.push(format!(
                    "{}: does not exist, and a single file cannot be made in a hidden folder; \
                     create it first, or isolate a folder",
                    path.display()
                ));
            }
            let isolated = |verb| {
                let answer = self.region(verb, &inside, &[]);
                answer.uniform && answer.only(Effect::Isolate)
            };
            let parent = self
                .view
                .nodes
                .iter()
                .filter(|n| is_within(&path, &n.path))
                .max_by_key(|n| n.path.as_os_str().len());
            let hidden = parent.is_none_or(|n| n.placement.hidden || n.path == Path::new("/"));
            if !hidden || !self.changes.iter().all(|v| isolated(*v)) {
                continue;
            }
            if parent
                .is_some_and(|n| n.rule.is_some() && n.placement.hidden && n.path != Path::new("/"))
            {
                continue;
            }
            let no_start = |verb: &Verb| self.region(*verb, &inside, &[]).denied();
            let startable = !self.starts.iter().all(no_start);
            self.view.notes.push(format!(
                "{}: does not exist; the agent gets it in memory, and it ends with the session",
                path.display()
            ));
            self.view.nodes.push(Node {
                path,
                kind: NodeKind::Directory,
                is_mount: false,
                placement: Placement {
                    hidden: false,
                    writes: Writes::Private,
                    brokered: false,
                    noexec: !startable,
                    startable,
                    surface: false,
                },
                rule: None,
            });
        }
    }

    fn region(&self, verb: Verb, dir: &Path, except: &[PathBuf]) -> Answer {
        let region =
            self.input
                .policy
                .region(self.input.subject, verb, dir, except, self.input.facts);
        Answer {
            monitored: region.monitored
                || (self.input.learning && region.effects.iter().any(|e| *e != Effect::Deny)),
            effects: region.effects,
            uniform: region.uniform,
            rule: region.rule,
        }
    }

    /// Whether some rule about `verb` has a condition, whose outcome may change over time.
    fn conditional(&self, verb: Verb) -> bool {
        self.input
            .policy
            .rules()
            .any(|r| r.verbs.contains(&verb) && r.is_conditional())
    }

    /// Overlayfs in a user namespace refuses a lower tree with other mounts inside it (their
    /// mounts are locked), so such a tree becomes one overlay per child, and one for the names
    /// between them.
    fn split_isolated_trees(&mut self) {
        let mut work: Vec<PathBuf> = self.paths.keys().cloned().collect();
        while let Some(dir) = work.pop() {
            let Some(&(NodeKind::Directory, _)) = self.paths.get(&dir) else {
                continue;
            };
            if !self.has_mounts(&dir) || dir == Path::new("/") {
                continue;
            }
            let except = self.below(&dir);
            if !self
                .region(Verb::FileWrite, &dir, &except)
                .effects
                .contains(&Effect::Isolate)
            {
                continue;
            }
            // What cannot be listed cannot be stood in for: it stays read-only.
            let entries = read_dir(&dir).unwrap_or_default();
            let surface = !entries.is_empty() && entries.len() <= MAX_NAMES;
            let between = match surface {
                true => "files that are too large for a copy in memory are read-only",
                false => "what lies directly in it is read-only",
            };
            self.view.notes.push(format!(
                "{}: holds other mounts, so each folder in it gets a copy layer of its own, and \
                 {between}",
                dir.display()
            ));
            if surface {
                self.split.insert(dir);
            }
            for entry in entries {
                if !self.paths.contains_key(&entry) && entry.is_dir() && !entry.is_symlink() {
                    self.add(&entry, false);
                    work.push(entry);
                }
            }
        }
    }

    fn place(&mut self, path: PathBuf, kind: NodeKind, is_mount: bool) -> Result<Node, PlanError> {
        let hidden = |rule: &str| Node {
            path: path.clone(),
            kind,
            is_mount,
            placement: Placement::HIDDEN,
            rule: Some(rule.to_owned()),
        };
        if self.input.protected.iter().any(|p| is_within(&path, p)) {
            return Ok(hidden("agentwall:self"));
        }
        if path == Path::new("/") {
            // Made in memory; every entry of it is a node of its own.
            let placement = Placement::HIDDEN;
            return Ok(Node {
                path,
                kind,
                is_mount,
                placement,
                rule: None,
            });
        }
        let except = self.below(&path);
        // A place that is not there yet must not open what is around it.
        if kind == NodeKind::Directory
            && let Some(rule) = self.hidden_without_absent(&path, &except)
        {
            return Ok(Node {
                path,
                kind,
                is_mount,
                placement: Placement::HIDDEN,
                rule,
            });
        }
        let read = self.answer(Verb::FileRead, &path, kind, &except);
        let mut changes = self.answers(&self.changes.clone(), &path, kind, &except);
        let to_original = changes.iter().any(|r| r.effects.contains(&Effect::Allow));
        if to_original && kind == NodeKind::Directory {
            // No commit will look again: names that are not there yet count, too.
            changes = self
                .changes
                .iter()
                .map(|v| self.region(*v, &path, &except))
                .collect();
        }
        let starts = self.answers(&self.starts.clone(), &path, kind, &except);

        let change_effects: BTreeSet<Effect> = changes
            .iter()
            .flat_map(|r| r.effects.iter().copied())
            .collect();
        let no_change = changes.iter().all(Answer::denied);
        let no_exec = starts.iter().all(Answer::denied);
        if read.denied() && no_change && (no_exec || read.rule.is_some()) {
            return Ok(Node {
                path,
                kind,
                is_mount,
                placement: Placement::HIDDEN,
                rule: read.rule,
            });
        }

        // Landlock asks for the same right to start a program and to load its loader.
        // A process.exec rule that denies a whole node by name (not by default) also keeps a
        // loader from mapping it.
        // `process.exec` is the first of the group.
        let noexec = no_exec || (starts[0].denied() && starts[0].rule.is_some());
        let startable = !no_exec;

        let (writes, brokered) = if no_change {
            (Writes::None, false)
        } else {
            let writes = if change_effects.contains(&Effect::Isolate) {
                Writes::Isolated
            } else {
                Writes::Direct
            };
            let whole = change_effects.len() == 1
                && changes.iter().all(|r| r.uniform && !r.monitored)
                && (change_effects.contains(&Effect::Allow)
                    || change_effects.contains(&Effect::Isolate));
            (writes, !whole)
        };
        if writes == Writes::Isolated && change_effects.contains(&Effect::Allow) {
            self.view.notes.push(format!(
                "{}: some rules allow and some isolate writes in one tree; all of it is isolated",
                path.display()
            ));
        }
        let surface = writes == Writes::Isolated && self.split.contains(&path);
        // An overlay cannot be made of a tree with mounts in it, nor of a single file.
        let whole = kind == NodeKind::Directory && (surface || !self.has_mounts(&path));
        let (writes, brokered) = if writes == Writes::Isolated && !whole {
            if kind == NodeKind::File && !brokered && small_file(&path) {
                self.view.notes.push(format!(
                    "{}: a single file has no copy layer; changes to it end with the session \
                     (isolate its folder to keep them)",
                    path.display()
                ));
                (Writes::Private, false)
            } else {
                (Writes::None, false)
            }
        } else {
            (writes, brokered)
        };

        let agent_can_create = writes != Writes::None;
        if !(read.uniform && !read.monitored && read.effects.iter().all(|e| e.proceeds())) {
            self.refine_reads(&path, kind, &read, agent_can_create, &except);
        }
        Ok(Node {
            path,
            kind,
            is_mount,
            placement: Placement {
                hidden: false,
                writes,
                brokered,
                noexec,
                startable,
                surface,
            },
            rule: None,
        })
    }

    /// Reading is not uniform here. In a tree the agent cannot add to, the few files that are
    /// denied are found now and hidden one by one; otherwise every open is trapped.
    fn refine_reads(
        &mut self,
        path: &Path,
        kind: NodeKind,
        read: &Answer,
        agent_can_create: bool,
        except: &[PathBuf],
    ) {
        let only_denies = read
            .effects
            .iter()
            .all(|e| e.proceeds() || *e == Effect::Deny)
            && read.effects.iter().any(|e| e.proceeds());
        if agent_can_create || read.monitored || self.conditional(Verb::FileRead) || !only_denies {
            self.view.trap_reads = true;
            return;
        }
        if kind == NodeKind::File {
            self.view.trap_reads = true;
            return;
        }
        let mut found = Vec::new();
        let complete = walk(path, except, &mut |entry, is_dir| {
            let resource = if is_dir {
                Resource::directory(entry)
            } else {
                Resource::path(entry)
            };
            let action = Action {
                subject: self.input.subject.clone(),
                verb: Verb::FileRead,
                resource,
                facts: self.input.facts.clone(),
            };
            let decision = self.input.policy.decide(&action);
            if !decision.effect.proceeds() && !is_dir {
                found.push((entry.to_owned(), decision.rule));
            }
            found.len() <= 512
        });
        if !complete {
            self.view.trap_reads = true;
            return;
        }
        for (path, rule) in found {
            let is_socket = fs::symlink_metadata(&path)
                .is_ok_and(|m| m.file_type().is_socket() || m.is_symlink());
            if is_socket {
                continue;
            }
            self.view.nodes.push(Node {
                path,
                kind: NodeKind::File,
                is_mount: false,
                placement: Placement::HIDDEN,
                rule,
            });
        }
    }
}

/// Small enough to be copied into memory.
fn small_file(path: &Path) -> bool {
    const LIMIT: u64 = 16 << 20;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= LIMIT)
}

fn read_dir(dir: &Path) -> Result<Vec<PathBuf>, PlanError> {
    let host = |source| PlanError::Host {
        path: dir.to_owned(),
        source,
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(host)? {
        entries.push(entry.map_err(host)?.path());
    }
    entries.sort();
    Ok(entries)
}

/// Visits what lies below `dir` but not at or below `except`. Returns whether all of it was seen:
/// unreadable folders count as seen (what we cannot list, the agent, with our user id, cannot
/// reach), too many entries or a visitor that says `false` do not.
fn walk(dir: &Path, except: &[PathBuf], visit: &mut dyn FnMut(&Path, bool) -> bool) -> bool {
    let mut stack = vec![dir.to_owned()];
    let mut budget = ENUMERATION_LIMIT;
    while let Some(dir) = stack.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            if budget == 0 {
                return false;
            }
            budget -= 1;
            let path = entry.path();
            if except.contains(&path) {
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            if !visit(&path, is_dir) {
                return false;
            }
            if is_dir {
                stack.push(path);
            }
        }
    }
    true
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
