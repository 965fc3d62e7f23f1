//! Which of the recorded actions count, and where their paths lie in today's terms.
//!
//! A path below a session's workspace, temporary or home folder is moved to today's folder of that
//! name, so that sessions in different places speak about the same thing. Then an action counts if it
//! went ahead, was nowhere refused or asked about, is not in the never-cover set, its session is not
//! flagged, the policy in force does not let it through already, and would if a rule that is looked at
//! last did: that is asked of the policy itself, with such a rule added.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agentwall_action::{
    Action, Effect, ObjectKind, PathResource, Resource, Verb, escape_text, is_within,
};

use crate::{load::Source, policy::Policy, rule::Layer, vars::Variables};

use super::{
    Input, LeftOut, Observation, Reason, RecommendError, Standing, cover::NeverCover, load_here,
};

/// The lowest priority number a proposed rule gets: behind everything people write.
const PRIORITY: i64 = 9000;
/// How many examples a reason is shown with.
const EXAMPLES: usize = 5;

/// One distinct action that counts.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub verb: Verb,
    pub resource: Resource,
    pub effect: Effect,
    /// Numbers of sessions.
    pub sessions: BTreeSet<usize>,
    /// Positions in the input.
    pub observations: Vec<usize>,
}

/// What counts, and what does not.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    input: &'a Input<'a>,
    /// The ids of the sessions that give evidence, in order.
    pub sessions: Vec<&'a str>,
    pub wanted: Vec<Wanted>,
    /// What was refused or asked about.
    pub unwanted: Vec<(Verb, Resource)>,
    /// Distinct actions that counted, those that the policy in force gives with them.
    pub actions: usize,
    pub given: usize,
    pub current: Option<Policy>,
    pub layer: Layer,
    pub priority: i64,
    left_out: BTreeMap<Reason, BTreeSet<String>>,
}

impl<'a> Evidence<'a> {
    /// Sorts the observations.
    pub fn gather(input: &'a Input<'a>, never: &NeverCover) -> Result<Self, RecommendError> {
        let current = match input.current {
            [] => None,
            sources => Some(load_here(sources, input).map_err(RecommendError::Current)?),
        };
        let highest = current
            .iter()
            .flat_map(Policy::rules)
            .map(|r| r.priority)
            .max();
        let priority = highest.map_or(PRIORITY, |h| PRIORITY.max(h.saturating_add(100)));
        let layers = input.current.iter().map(|s| s.layer);
        let layer = layers.min().unwrap_or(Layer::User);
        let opened = opened(input, priority, layer)?;
        let mut evidence = Evidence {
            input,
            sessions: Vec::new(),
            wanted: Vec::new(),
            unwanted: Vec::new(),
            actions: 0,
            given: 0,
            current,
            layer,
            priority,
            left_out: BTreeMap::new(),
        };
        evidence.sort(never, &opened);
        Ok(evidence)
    }

    fn sort(&mut self, never: &NeverCover, opened: &Policy) {
        let here: Vec<Option<Resource>> = self
            .input
            .observations
            .iter()
            .map(|o| Some(self.moved(o, self.input.sessions.get(&o.session)?.variables.clone())))
            .collect();
        let mut asked: BTreeSet<(Verb, String)> = BTreeSet::new();
        let mut refused: BTreeSet<(Verb, String)> = BTreeSet::new();
        let mut flagged: BTreeMap<&str, String> = BTreeMap::new();
        for (id, session) in self.input.sessions {
            flagged.extend(session.flagged.clone().map(|why| (id.as_str(), why)));
        }
        for (o, resource) in self.input.observations.iter().zip(&here) {
            let Some(resource) = resource else { continue };
            let key = (o.verb, resource.to_string());
            match o.standing {
                Standing::Passed(_) => continue,
                Standing::Asked => asked.insert(key),
                Standing::Refused => refused.insert(key),
            };
            self.unwanted.push((o.verb, resource.clone()));
            if o.standing == Standing::Asked {
                self.leave_out(Reason::Asked, o.verb, resource);
            }
            if let Some(entry) = never.holds(o.verb, resource) {
                flagged
                    .entry(&o.session)
                    .or_insert_with(|| format!("it tried {} of {resource} ({})", o.verb, entry.id));
            }
        }
        let below = directories(here.iter().flatten());
        let ids: BTreeSet<&str> = self
            .input
            .observations
            .iter()
            .map(|o| o.session.as_str())
            .filter(|id| self.input.sessions.contains_key(*id) && !flagged.contains_key(id))
            .collect();
        self.sessions = ids.into_iter().collect();
        let numbers: BTreeMap<&str, usize> = self
            .sessions
            .iter()
            .enumerate()
            .map(|(n, id)| (*id, n))
            .collect();
        let mut distinct: BTreeMap<(Verb, String), Wanted> = BTreeMap::new();
        for (index, (o, resource)) in self.input.observations.iter().zip(here).enumerate() {
            let (Some(mut resource), Standing::Passed(effect)) = (resource, o.standing) else {
                continue;
            };
            if let Resource::Path(p) = &mut resource
                && below.contains(&p.path)
            {
                p.kind = ObjectKind::Directory;
            }
            let key = (o.verb, resource.to_string());
            let reason = match flagged.get(o.session.as_str()) {
                Some(why) => Some(Reason::FlaggedSession(format!("{}: {why}", o.session))),
                None if refused.contains(&key) => Some(Reason::Refused),
                None if asked.contains(&key) => Some(Reason::Asked),
                None if o.verb == Verb::FileCommit => Some(Reason::Commit),
                None => never
                    .holds(o.verb, &resource)
                    .map(|entry| Reason::NeverCover(entry.id.to_owned())),
            };
            if let Some(reason) = reason {
                self.leave_out(reason, o.verb, &resource);
                continue;
            }
            let wanted = distinct.entry(key).or_insert_with(|| Wanted {
                verb: o.verb,
                resource,
                effect,
                sessions: BTreeSet::new(),
                observations: Vec::new(),
            });
            wanted.effect = wanted.effect.max(effect);
            wanted.sessions.extend(numbers.get(o.session.as_str()));
            wanted.observations.push(index);
        }
        self.actions = distinct.values().map(|w| w.sessions.len()).sum();
        for wanted in distinct.into_values() {
            let action = self.action(wanted.verb, &wanted.resource);
            let now = self.current.as_ref().map(|p| p.decide(&action).effect);
            if now.is_some_and(Effect::proceeds) {
                self.given += 1;
                continue;
            }
            let then = opened.decide(&action);
            if then.effect.proceeds() {
                self.wanted.push(wanted);
            } else {
                let rule = then.rule.unwrap_or_else(|| "the default of a layer".into());
                self.leave_out(Reason::DecidedBy(rule), wanted.verb, &wanted.resource);
            }
        }
    }

    /// An action as it is decided here.
    pub fn action(&self, verb: Verb, resource: &Resource) -> Action {
        let mut action = Action::new(self.input.subject.clone(), verb, resource.clone());
        let workspace = self.input.variables.workspace.as_deref();
        action.facts.session.workspace =
            workspace.map_or(String::new(), |w| w.to_string_lossy().into_owned());
        action
    }

    /// The actions that count.
    pub fn wanted_actions(&self) -> impl Iterator<Item = Action> {
        self.wanted.iter().map(|w| self.action(w.verb, &w.resource))
    }

    /// The actions that were refused or asked about.
    pub fn unwanted_actions(&self) -> impl Iterator<Item = Action> {
        self.unwanted
            .iter()
            .map(|(verb, resource)| self.action(*verb, resource))
    }

    /// The observation at a position of the input.
    pub fn observation(&self, index: usize) -> Option<&'a Observation> {
        self.input.observations.get(index)
    }

    pub fn leave_out(&mut self, reason: Reason, verb: Verb, resource: &Resource) {
        let text = format!("{verb} {resource}");
        self.left_out.entry(reason).or_default().insert(text);
    }

    /// What does not count, by reason.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let all = self.left_out.iter();
        all.map(|(reason, actions)| LeftOut {
            reason: reason.clone(),
            actions: actions.len(),
            examples: actions.iter().take(EXAMPLES).cloned().collect(),
        })
        .collect()
    }

    /// The object as it is called here.
    fn moved(&self, o: &Observation, from: Variables) -> Resource {
        let to = self.input.variables;
        match &o.resource {
            Resource::Path(p) => Resource::Path(PathResource {
                path: moved(&p.path, &from, to),
                kind: p.kind,
            }),
            Resource::Unix(path) if path.is_absolute() => Resource::Unix(moved(path, &from, to)),
            other => other.clone(),
        }
    }
}

/// A path below one of the folders of `from`, in the folder of that name of `to`; the innermost counts.
fn moved(path: &Path, from: &Variables, to: &Variables) -> PathBuf {
    let pairs = [
        (&from.workspace, &to.workspace),
        (&from.tmp, &to.tmp),
        (&from.home, &to.home),
        (&from.state, &to.state),
    ];
    let inside = pairs.into_iter().filter_map(|(from, to)| {
        let (from, to) = (from.as_deref()?, to.as_deref()?);
        is_within(path, from).then_some((from, to))
    });
    let innermost = inside.reduce(|best, next| {
        let longer = next.0.as_os_str().len() > best.0.as_os_str().len();
        if longer { next } else { best }
    });
    match innermost {
        Some((from, to)) => match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.to_owned(),
        },
        None => path.to_owned(),
    }
}

/// The ledger does not tell folders from files; what holds something that was seen is a folder.
fn directories<'r>(resources: impl Iterator<Item = &'r Resource>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for resource in resources {
        if let Resource::Path(p) = resource {
            for above in p.path.ancestors().skip(1) {
                if !found.insert(above.to_owned()) {
                    break;
                }
            }
        }
    }
    found
}

/// The policy in force with a rule behind all others that allows everything.
fn opened(input: &Input<'_>, priority: i64, layer: Layer) -> Result<Policy, RecommendError> {
    let mut id = "recommend-probe".to_owned();
    let taken = |id: &str| {
        let named = |s: &Source| s.text.windows(id.len()).any(|w| w == id.as_bytes());
        input.current.iter().any(named)
    };
    while taken(&id) {
        id.push('-');
    }
    let text = format!(
        "agentwall: 1\nrules: [{{id: {id}, priority: {priority}, action: \"*\", effect: allow}}]\n"
    );
    let probe = Source::new(escape_text(&id), text, layer);
    let sources = [input.current, &[probe]].concat();
    load_here(&sources, input).map_err(RecommendError::Current)
}

/// The bytes of a path resource or of a socket with a path.
pub(crate) fn path_of(resource: &Resource) -> Option<&[u8]> {
    let path: &OsStr = match resource {
        Resource::Path(p) => p.path.as_os_str(),
        Resource::Unix(p) if p.is_absolute() => p.as_os_str(),
        _ => return None,
    };
    Some(path.as_bytes())
}
