//! What the policy says about committing a change: the action `file.commit` under the policy that the
//! session ran under, with the built-in rule about what runs on the host later (`label:host-executed`).
//!
//! `allow`, and silence, commit: the person who runs the command is who the default asks. `deny` never
//! commits. A rule that says `ask` holds the change until the person names it.
//!
//! One change can be many actions. A deleted or replaced directory takes every object below it along, and
//! a symlink stands for a directory as well: each is asked about, and the strictest answer counts.
//!
//! The path alone does not tell all that runs later. What else makes a change one of the class is a fact of
//! the action, found here: rights, devices, programs where commands are looked for, links that lead out of
//! the tree or take the place of a folder of the class, what makes git look elsewhere, and new commands in
//! an agent's settings.

mod settings;

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{
    Action, Decision, Effect, Facts, ObjectKind, PathResource, Resource, Subject, Verb, escape_text,
};
use agentwall_cow::{Change, ChangeKind, EntryKind};
use agentwall_engine::Engine;
use agentwall_policy::{HOST_EXECUTED, host_executed_folders};
use anyhow::Result;

use crate::{
    changes::{lexical, real},
    output,
    session::Session,
    state::{self, shown},
};

/// What the policy says about committing.
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    /// Root and upper directory of each layer.
    layers: Vec<(PathBuf, PathBuf)>,
    /// Where commands are looked for, as named and as found.
    programs: Vec<PathBuf>,
}

/// What becomes of a change by policy.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The action that was decided; of several, the one with the strictest answer.
    pub action: Action,
    /// The decision.
    pub decision: Decision,
}

/// From what commits by itself to what never does.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Passes,
    Asks,
    Refused,
}

impl Verdict {
    fn rank(&self) -> Rank {
        let silent = self.decision.effect == Effect::Ask && self.decision.rule.is_none();
        match self.decision.effect {
            effect if effect.proceeds() || silent => Rank::Passes,
            Effect::Ask => Rank::Asks,
            _ => Rank::Refused,
        }
    }

    /// The policy lets it pass, or leaves it to the person.
    pub fn passes(&self) -> bool {
        self.rank() == Rank::Passes
    }

    /// A rule wants the person to name it.
    pub fn asks(&self) -> bool {
        self.rank() == Rank::Asks
    }

    /// The rule and its reason, and the object it is about where that lies below the changed one. Safe to
    /// print.
    pub fn why(&self, change: &Change) -> String {
        let rule = self.decision.rule.as_deref().unwrap_or("default");
        let why = format!(
            "rule {}: {}",
            escape_text(rule),
            output::tame(&self.decision.reason)
        );
        match &self.action.resource {
            Resource::Path(p) if p.path != change.path => {
                format!("{why} (this is about {})", shown(&p.path))
            }
            _ => why,
        }
    }
}

impl Judge {
    /// The judge of a session: the policy it ran under.
    pub fn of(session: &Session) -> Result<Judge> {
        let policy = session
            .policy()?
            .with_commit_rule()
            .with_real_paths(&|path: &Path| path.canonicalize().ok());
        let record = &session.record;
        let mut facts = Facts::default();
        record.id.clone_into(&mut facts.session.id);
        record.name.clone_into(&mut facts.session.name);
        facts.session.workspace = record.workspace.to_string_lossy().into_owned();
        facts.session.interactive = io::IsTerminal::is_terminal(&io::stdin());
        facts.time = i64::try_from(state::now_ms() / 1000).unwrap_or(i64::MAX);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let layers = record.layers.iter();
        Ok(Judge {
            engine: Engine::new(Arc::new(policy), Subject::agent(&record.name), facts),
            layers: layers.map(|l| (l.root.clone(), l.upper.clone())).collect(),
            programs: std::env::split_paths(&path)
                .flat_map(|p| names(&p))
                .collect(),
        })
    }

    /// What the policy says about one change.
    pub fn verdict(&self, change: &Change) -> Verdict {
        let kind = match change.entry {
            EntryKind::Directory => ObjectKind::Directory,
            _ => ObjectKind::File,
        };
        let runs_later = self.runs_on_the_host(change);
        let mut verdict = self.decide(change.path.clone(), kind, runs_later);
        let mut strictest = |other: Verdict| {
            if other.rank() > verdict.rank() {
                verdict = other;
            }
        };
        if comes(change) && change.entry == EntryKind::Symlink {
            strictest(self.decide(change.path.clone(), ObjectKind::Directory, runs_later));
        }
        let goes = matches!(change.kind, ChangeKind::Delete | ChangeKind::Replace);
        let old = change.old.as_ref().map(|old| old.kind);
        if goes && old == Some(EntryKind::Directory) {
            let all = each_below(&change.path, &mut |path, kind| {
                strictest(self.decide(path, kind, false));
            });
            if all.is_err() {
                // What cannot be looked at may be anything.
                strictest(self.decide(change.path.clone(), ObjectKind::Directory, true));
            }
        }
        verdict
    }

    fn decide(&self, path: PathBuf, kind: ObjectKind, runs_later: bool) -> Verdict {
        let resource = Resource::Path(PathResource { path, kind });
        let mut action = self.engine.action(Verb::FileCommit, resource);
        if runs_later {
            action.facts.labels.insert(HOST_EXECUTED.into());
        }
        let decision = self.engine.decide(&action);
        Verdict { action, decision }
    }

    /// What a path alone does not tell of the class `host-executed`.
    fn runs_on_the_host(&self, change: &Change) -> bool {
        let link = change.entry == EntryKind::Symlink && change.kind != ChangeKind::Meta;
        change.kind == ChangeKind::Special
            || comes(change)
                && (!change.privileges.is_empty()
                    || self.is_program(&change.path)
                    || link && (self.leaves(change) || self.takes_a_place(&change.path))
                    || self.git_looks_there(change)
                    || self.names_commands(change))
    }

    /// A settings file that names other commands than the original.
    fn names_commands(&self, change: &Change) -> bool {
        let name = change.path.file_name().and_then(|n| n.to_str());
        let new = self.in_session(change, &change.path);
        change.entry == EntryKind::File
            && name.is_some_and(|name| {
                new.is_none_or(|new| settings::names_more(name, &change.path, &new))
            })
    }

    /// Where the session's own object for an original of this change's layer would be.
    fn in_session(&self, change: &Change, original: &Path) -> Option<PathBuf> {
        let (root, upper) = self.layers.get(change.layer)?;
        Some(upper.join(original.strip_prefix(root).ok()?))
    }

    fn is_program(&self, path: &Path) -> bool {
        let dir = path.parent();
        dir.is_some_and(|dir| self.programs.iter().any(|p| p == dir))
    }

    /// A link that leads out of its tree, or may once other links are there: `..` after a name means
    /// what the name means then.
    fn leaves(&self, change: &Change) -> bool {
        let (Some(target), Some((root, _)), Some(dir)) = (
            &change.target,
            self.layers.get(change.layer),
            change.path.parent(),
        ) else {
            return true;
        };
        let mut after_a_name = target
            .components()
            .skip_while(|p| !matches!(p, Component::Normal(_)));
        let climbs = after_a_name.any(|p| p == Component::ParentDir);
        climbs || !lexical(&dir.join(target)).starts_with(root)
    }

    /// A link where a folder of the class, or of commands, is or would be.
    fn takes_a_place(&self, link: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        let name = link.as_os_str().as_bytes();
        self.programs.iter().any(|p| p.starts_with(link))
            || host_executed_folders()
                .iter()
                .any(|g| g.matches(name, true))
    }

    /// A `.git` that is no folder names another one; and a folder with a `HEAD` and a `config` is a
    /// repository to git, whatever its name (gitrepository-layout(5)).
    fn git_looks_there(&self, change: &Change) -> bool {
        let (Some(name), Some(dir)) = (change.path.file_name(), change.path.parent()) else {
            return false;
        };
        if name == ".git" {
            return change.entry != EntryKind::Directory;
        }
        // Below `.git` the class itself says which files count.
        if dir.iter().any(|part| part == ".git") {
            return false;
        }
        let there = |path: PathBuf| {
            let is = |path: &Path| fs::symlink_metadata(path).is_ok();
            is(&path) || self.in_session(change, &path).is_some_and(|path| is(&path))
        };
        match name.to_str() {
            Some("HEAD") => ["config", "commondir", "hooks"]
                .iter()
                .any(|n| there(dir.join(n))),
            Some("config" | "config.worktree" | "commondir" | "hooks") => there(dir.join("HEAD")),
            _ if dir.file_name().is_some_and(|n| n == "hooks") => there(dir.with_file_name("HEAD")),
            _ => false,
        }
    }
}

/// Something is at the path afterwards.
fn comes(change: &Change) -> bool {
    change.kind != ChangeKind::Delete
}

/// The spellings of a folder of `PATH`: it may be a link, and need not be there yet.
fn names(dir: &Path) -> Vec<PathBuf> {
    if !dir.is_absolute() {
        return Vec::new();
    }
    let mut all = vec![lexical(dir), real(&lexical(dir))];
    all.extend(dir.canonicalize());
    all.sort();
    all.dedup();
    all
}

/// Every object below a directory; links are not followed.
fn each_below(top: &Path, see: &mut dyn FnMut(PathBuf, ObjectKind)) -> io::Result<()> {
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, directory) = (entry.path(), entry.file_type()?.is_dir());
            if directory {
                folders.push(path.clone());
            }
            let kind = if directory {
                ObjectKind::Directory
            } else {
                ObjectKind::File
            };
            see(path, kind);
        }
    }
    Ok(())
}
