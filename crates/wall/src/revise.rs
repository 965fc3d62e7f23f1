//! Another policy for a standing wall: from the supervisor, which read and compared it, to the
//! broker's engine.
//!
//! The broker sees the agent's view and not the host, so it gets everything that loading needs: the
//! text, the values of variables, and what the host's links resolve to. It builds the same policy
//! from that, and says its digest. In two steps: prepared (which may fail, and changes nothing), then
//! put in force (which cannot fail any more). Between the two the supervisor writes the ledger.
//!
//! Invariants:
//! * Only a policy that was prepared comes into force, whole, by one exchange of the engine.
//! * Loading holds up neither the agent's calls nor the answers to them: it has its own thread.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use agentwall_action::{escape_bytes, path_bytes};
use agentwall_engine::Engine;
use agentwall_policy::{Layer, LoadError, Policy, Source, Variables, load};
use serde::{Deserialize, Serialize};

use crate::{
    sys,
    wire::{Line, ToSupervisor},
};

/// Conditions are parsed on this thread, recursively.
const STACK: usize = 8 << 20;

/// Everything a policy is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    sources: Vec<Text>,
    variables: Vec<(Variable, Place)>,
    /// The places that patterns name, with their canonical paths; others do not exist.
    real: Vec<(Place, Place)>,
    /// Nothing must be at these places in the agent's view.
    absent: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    name: String,
    layer: Layer,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Variable {
    Workspace,
    Home,
    Tmp,
    State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place(#[serde(with = "path_bytes")] PathBuf);

impl Revision {
    /// `real`: each path that [`Policy::with_real_paths`] asked for and that exists, with its
    /// canonical path. `absent`: what [`crate::live::left_out`] found.
    pub fn new(
        sources: &[Source],
        variables: &Variables,
        real: &[(PathBuf, PathBuf)],
        absent: Vec<PathBuf>,
    ) -> Revision {
        let text = |s: &Source| Text {
            name: s.name.clone(),
            layer: s.layer,
            // Loading has found it to be UTF-8; if not, the digest will differ.
            text: String::from_utf8_lossy(&s.text).into_owned(),
        };
        let values = [
            (Variable::Workspace, &variables.workspace),
            (Variable::Home, &variables.home),
            (Variable::Tmp, &variables.tmp),
            (Variable::State, &variables.state),
        ];
        Revision {
            sources: sources.iter().map(text).collect(),
            variables: values
                .into_iter()
                .filter_map(|(name, value)| Some((name, Place(value.clone()?))))
                .collect(),
            real: real
                .iter()
                .map(|(from, to)| (Place(from.clone()), Place(to.clone())))
                .collect(),
            absent: absent.into_iter().map(Place).collect(),
        }
    }

    /// The policy, as the supervisor has it.
    ///
    /// # Errors
    /// What is wrong with the text. The supervisor has loaded it before.
    pub fn policy(&self) -> Result<Policy, LoadError> {
        let sources = self.sources.iter();
        let sources: Vec<Source> = sources
            .map(|s| Source::new(s.name.clone(), s.text.clone(), s.layer))
            .collect();
        let mut variables = Variables::default();
        for (name, Place(value)) in &self.variables {
            let value = Some(value.clone());
            match name {
                Variable::Workspace => variables.workspace = value,
                Variable::Home => variables.home = value,
                Variable::Tmp => variables.tmp = value,
                Variable::State => variables.state = value,
            }
        }
        let real: std::collections::HashMap<&Path, &Path> = (self.real.iter())
            .map(|(from, to)| (from.0.as_path(), to.0.as_path()))
            .collect();
        let policy = load(&sources, &variables)?;
        Ok(policy.with_real_paths(&|path: &Path| real.get(path).map(|to| to.to_path_buf())))
    }
}

/// The broker's part: holds what was prepared until it comes into force.
#[derive(Debug)]
pub(crate) struct Revisions {
    engine: Arc<Engine>,
    /// The agent's root.
    root: OwnedFd,
    line: Arc<Line>,
    prepared: Mutex<Option<Arc<Policy>>>,
}

impl Revisions {
    pub(crate) fn new(engine: Arc<Engine>, root: OwnedFd, line: Arc<Line>) -> Revisions {
        Revisions {
            engine,
            root,
            line,
            prepared: Mutex::default(),
        }
    }

    /// Makes a policy ready and tells the supervisor, on a thread of its own. It takes the place of
    /// one that was prepared before.
    pub(crate) fn prepare(self: &Arc<Self>, number: u64, revision: Revision) {
        let me = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("policy".into())
            .stack_size(STACK)
            .spawn(move || me.answer(number, me.make(&revision)));
        if let Err(e) = started {
            self.answer(number, Err(format!("no thread can be started for it: {e}")));
        }
    }

    /// Puts the prepared policy in force, if it is the one that is meant.
    pub(crate) fn enforce(&self, number: u64, digest: &str) {
        let prepared = self.slot().take();
        self.answer(
            number,
            match prepared {
                Some(policy) if policy.digest() == digest => {
                    self.engine.replace(policy);
                    Ok(digest.to_owned())
                }
                _ => Err(format!("no policy {digest} was prepared")),
            },
        );
    }

    fn make(&self, revision: &Revision) -> Result<String, String> {
        let policy = Arc::new(revision.policy().map_err(|e| e.to_string())?);
        // As late as possible: nothing stops the agent from making it meanwhile but the policy in
        // force. What it made itself is no secret to it; the check is for the rule to be true.
        for Place(path) in &revision.absent {
            if is_there(&self.root, path) {
                return Err(format!(
                    "the policy denies {}, and the agent has made it in this session, which reads \
                     it without asking",
                    escape_bytes(path.as_os_str().as_encoded_bytes())
                ));
            }
        }
        let digest = policy.digest().to_owned();
        *self.slot() = Some(policy);
        Ok(digest)
    }

    fn answer(&self, number: u64, outcome: Result<String, String>) {
        // A supervisor that is gone takes the broker with it.
        let _ = self.line.send(&ToSupervisor::Revised(number, outcome));
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Policy>>> {
        self.prepared.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether something has this name in the agent's view. What cannot be told counts as there.
fn is_there(root: &OwnedFd, path: &Path) -> bool {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let found = sys::c_path(inside)
        .and_then(|name| sys::open_path_exact(root.as_fd(), &name, libc::O_NOFOLLOW));
    match found {
        Ok(_) => true,
        // Not there, or below a file or a link, which is not this name.
        Err(e) => !matches!(
            e.raw_os_error(),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links, variables and a path outside UTF-8 survive the wire; the policy is the same.
    #[test]
    fn the_broker_builds_the_same_policy() {
        use std::os::unix::ffi::OsStrExt as _;
        let text = "agentwall: 1\nrules:\n  - { id: a, action: file.read, resource: [\"/lnk/x\", \
                    \"${workspace}/**\"], effect: allow }\n";
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/w\xff/a b"));
        let variables = Variables {
            workspace: Some(odd.to_owned()),
            ..Variables::default()
        };
        let sources = [Source::new("p.yaml", text, Layer::User)];
        let real = [(PathBuf::from("/lnk/x"), PathBuf::from("/real/x"))];
        let revision = Revision::new(&sources, &variables, &real, vec!["/none".into()]);
        let wire = serde_json::to_string(&revision).unwrap();
        let heard: Revision = serde_json::from_str(&wire).unwrap();
        assert_eq!(heard, revision);
        let policy = heard.policy().unwrap();
        let plain = load(&sources, &variables).unwrap();
        assert_eq!(policy.digest(), plain.digest());
        let allows = |policy: &Policy, path: &Path| {
            use agentwall_action::{Action, Resource, Subject, Verb};
            let (who, what) = (Subject::agent("a"), Resource::path(path));
            let action = Action::new(who, Verb::FileRead, what);
            policy.decide(&action).effect.proceeds()
        };
        assert!(allows(&policy, Path::new("/real/x")) && !allows(&plain, Path::new("/real/x")));
        assert!(allows(&policy, &odd.join("f")) && !allows(&policy, Path::new("/other")));
    }

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", tmp.path().join("link")).unwrap();
        let root: OwnedFd = std::fs::File::open(tmp.path()).unwrap().into();
        for (name, there) in [
            ("/file", true),
            ("/link", true),
            ("/none", false),
            ("/file/below", false),
            ("/link/below", false),
        ] {
            assert_eq!(is_there(&root, Path::new(name)), there, "{name}");
        }
    }
}
