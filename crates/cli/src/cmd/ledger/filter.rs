//! Which entries a person wants to see.

use std::collections::{BTreeMap, HashSet};

use agentwall_action::Effect;
use agentwall_ledger::{Entry, Record};
use agentwall_policy::{Glob, GlobKind, glob_escape};
use anyhow::Result;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::intents;
use crate::{
    args::ledger::FilterArgs,
    output::{UsageError, tame},
    session::Session,
    state::State,
};

/// What must hold of an entry. It must see all entries from the first one on, in their order: the name of an
/// agent stands in the start of its session.
pub struct Filter {
    /// The text, and the ids of sessions that have it as their name.
    session: Option<(String, Vec<String>)>,
    agent: Option<String>,
    kind: Option<String>,
    effect: Option<String>,
    rule: Option<String>,
    path: Option<Glob>,
    intent: Option<String>,
    /// The actions that `intent` means.
    actions: HashSet<String>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    /// Sessions and the names of their agents.
    agents: BTreeMap<String, String>,
}

impl Filter {
    /// Reads the options; what can match nothing is an error.
    pub fn new(state: &State, args: &FilterArgs) -> Result<Filter> {
        if let Some(kind) = &args.kind
            && !Record::TYPES.contains(&kind.as_str())
        {
            let known = Record::TYPES.join(", ");
            return Err(UsageError(format!(
                "unknown type '{}'; the types are {known}",
                tame(kind)
            ))
            .into());
        }
        if let Some(effect) = &args.effect {
            effect.parse::<Effect>().map_err(|e| {
                UsageError(format!(
                    "{e}; the effects are allow, isolate, ask, rate_limit, deny"
                ))
            })?;
        }
        let session = match &args.session {
            None => None,
            Some(text) => {
                let (sessions, _) = Session::list(state)?;
                let named = sessions.iter().filter(|s| s.record.name == *text);
                Some((text.clone(), named.map(|s| s.id().to_owned()).collect()))
            }
        };
        Ok(Filter {
            session,
            agent: args.agent.clone(),
            kind: args.kind.clone(),
            effect: args.effect.clone(),
            rule: args.rule.clone(),
            path: args.path.as_deref().map(below).transpose()?,
            intent: args.intent.clone(),
            actions: HashSet::new(),
            since: args.since,
            until: args.until,
            agents: BTreeMap::new(),
        })
    }

    /// Whether the entry is wanted.
    pub fn passes(&mut self, entry: &Entry) -> bool {
        if let Record::SessionStart(start) = &entry.record {
            self.agents
                .insert(entry.session.clone(), start.name.clone());
        }
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|w| found == Some(w))
        };
        let decision = entry.record.decision();
        let meant = (self.intent.as_ref())
            .is_none_or(|text| intents::means(&entry.record, text, &mut self.actions));
        let session = (self.session.as_ref()).is_none_or(|(text, ids)| {
            is_session(&entry.session, text) || ids.contains(&entry.session)
        });
        session
            && meant
            && is(
                &self.agent,
                self.agents.get(&entry.session).map(String::as_str),
            )
            && is(&self.kind, Some(entry.record.type_name()))
            && is(&self.effect, decision.map(|d| d.effect.as_str()))
            && is(&self.rule, decision.and_then(|d| d.rule.as_deref()))
            && self.path.as_ref().is_none_or(|glob| {
                let mut paths = paths(&entry.record);
                paths.any(|path| glob.matches(path.as_bytes(), false))
            })
            && self.in_time(&entry.time)
    }

    fn in_time(&self, time: &str) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        // What is no moment is in no span of time.
        OffsetDateTime::parse(time, &Rfc3339).is_ok_and(|time| {
            self.since.is_none_or(|since| time >= since)
                && self.until.is_none_or(|until| time < until)
        })
    }
}

/// Whether a person means the session by the text: its id, the beginning of it, or its last part.
pub fn is_session(id: &str, text: &str) -> bool {
    id.starts_with(text) || id.rsplit('-').next() == Some(text)
}

/// A pattern of paths; one without signs of a pattern means all that is below it, too.
fn below(text: &str) -> Result<Glob> {
    let plain = !text.contains(['*', '?', '[', '{', '\\']);
    let pattern = match (plain, text.trim_end_matches('/')) {
        (false, _) => text.to_owned(),
        (true, "") => "/**".to_owned(),
        (true, path) => {
            let path = glob_escape(path.as_bytes());
            format!("{{{path},{path}/**}}")
        }
    };
    if !text.starts_with(['/', '*']) {
        let text = tame(text);
        return Err(UsageError(format!(
            "--path '{text}' is not absolute: begin it with /, or with **/"
        ))
        .into());
    }
    Glob::new(&pattern, GlobKind::Path)
        .map_err(|e| UsageError(format!("--path is not a pattern: {e}")).into())
}

/// The paths that an entry is about, as they stand in it.
fn paths(record: &Record) -> impl Iterator<Item = &str> {
    let decided = record.decision().map(|d| d.action.resource.as_str());
    let (one, changes) = match record {
        Record::Mask(mask) => (Some(mask.path.as_str()), None),
        Record::SessionStart(start) => (Some(start.workspace.as_str()), None),
        Record::Commit(commit) => (None, Some(&commit.changes)),
        Record::Undo(undo) => (None, Some(&undo.changes)),
        Record::Discard(discard) => (None, Some(&discard.changes)),
        _ => (None, None),
    };
    let files = changes.into_iter().flat_map(|c| &c.files);
    decided
        .into_iter()
        .chain(one)
        .chain(files.map(|f| f.path.as_str()))
}
