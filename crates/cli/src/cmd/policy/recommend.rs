//! `agentwall policy recommend`: from what the ledger recorded to the rules that it needs.
//!
//! The ledger is verified and read, each recorded decision is put together again exactly or left out and counted,
//! and `agentwall_policy::recommend` does the rest. What a person rejected flags its session. What the
//! ledger does not hold (plain file actions of a session without `--learn`) is said, not guessed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use agentwall_action::{Action, Effect, ObjectKind, Subject, Verb, escape_text};
use agentwall_engine::LEARN_MARK;
use agentwall_ledger::{
    Entry, Record,
    entry::{NotRecallable, Recalled, SessionStart},
};
use agentwall_policy::{
    Policy, Variables,
    recommend::{
        Input, Observation, ObservedSession, Options, Proposal, Reason, Standing, is_library,
        recommend,
    },
};
use anyhow::{Result, bail};
use serde_json::json;

use crate::{
    args::policy::RecommendArgs,
    cmd::policy::{
        recorded::{Verified, means, values},
        variables,
    },
    output::{self, UsageError},
    policies, prepare,
    session::Session,
    state::{State, shown},
};

/// What was read from a ledger.
#[derive(Debug, Default)]
struct Found {
    observations: Vec<Observation>,
    sessions: BTreeMap<String, ObservedSession>,
    /// Of sessions that are meant, the starts; the newest is the last.
    subject: Option<Subject>,
    /// Entries that could not be put together again, by reason.
    unreadable: BTreeMap<NotRecallable, usize>,
    /// Sessions of which plain file actions are not recorded.
    not_learned: BTreeSet<String>,
    /// Records that were lost, by session.
    lost: BTreeMap<String, u64>,
    /// Sessions whose policy is not there any more.
    without_policy: BTreeSet<String>,
}

/// Runs the command.
pub fn main(args: &RecommendArgs) -> Result<ExitCode> {
    if args.min_sessions < 2 {
        return Err(
            UsageError("--min-sessions is at least 2: one session is no evidence".into()).into(),
        );
    }
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let current = match args.whole {
        true => Vec::new(),
        false => policies::policy_sources(args.policy.as_deref(), &workspace)?,
    };
    let state = State::locate()?;
    let ledger = Verified::open(args.ledger.as_deref(), args.key.as_deref())?;
    let found = read(&ledger, &state, args, &workspace)?;
    if found.sessions.is_empty() {
        bail!(
            "the ledger {} has no session {}; 'agentwall sessions --all' lists all",
            shown(ledger.dir()),
            match args.session.is_empty() {
                true => format!("in {} (name one with --session)", shown(&workspace)),
                false => format!("'{}'", escape_text(&args.session.join("', '"))),
            }
        );
    }
    let subject = found
        .subject
        .clone()
        .unwrap_or_else(|| Subject::agent("agent"));
    let real = |path: &Path| path.canonicalize().ok();
    let proposal = recommend(&Input {
        observations: &found.observations,
        sessions: &found.sessions,
        current: &current,
        variables: &variables,
        subject: &subject,
        real: Some(&real),
        options: Options {
            min_sessions: args.min_sessions,
            ..Options::default()
        },
    })?;
    if args.json {
        let mut value = serde_json::to_value(&proposal)?;
        value["sessions"] = found.sessions.keys().cloned().collect();
        value["sessions_without_learn"] = found.not_learned.iter().cloned().collect();
        value["lost"] = json!(found.lost);
        value["unreadable"] = found
            .unreadable
            .iter()
            .map(|(why, n)| json!({ "reason": why.to_string(), "entries": n }))
            .collect();
        output::print_json(&value)?;
    } else {
        output::print(&proposal.text)?;
        output::print(&remarks(&proposal, &found))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a reviewer has to know beside the rules, as comments of the file.
fn remarks(proposal: &Proposal, found: &Found) -> String {
    let mut lines = vec![
        String::new(),
        format!(
            "{} proposed; the policy in force already gives {} of the observed actions.",
            output::count(proposal.rules.len(), "rule"),
            proposal.given
        ),
        proposal.estimate.sentence(),
    ];
    for out in &proposal.left_out {
        let why = match &out.reason {
            Reason::NeverCover(entry) => format!("never proposed ({entry})"),
            Reason::Refused => "refused in one of the sessions".into(),
            Reason::Asked => "asked about: an answer is for once".into(),
            Reason::FlaggedSession(why) => format!("the session gives no evidence: {why}"),
            Reason::DecidedBy(rule) => format!("the rule {rule} says otherwise"),
            Reason::Commit => "commits are decided each time".into(),
            other => format!("{other:?}"),
        };
        lines.push(format!(
            "left out: {}, {}; for example {}",
            output::count(out.actions, "action"),
            escape_text(&why),
            escape_text(&out.examples.join(", "))
        ));
    }
    for session in &found.not_learned {
        lines.push(format!(
            "not seen: plain file actions of session {session}, which ran without --learn"
        ));
    }
    for (session, lost) in &found.lost {
        lines.push(format!(
            "not seen: {lost} actions of session {session}, whose trail was full"
        ));
    }
    for session in &found.without_policy {
        lines.push(format!(
            "not told: which libraries session {session} mapped; its policy is not kept any more"
        ));
    }
    for (why, entries) in &found.unreadable {
        lines.push(format!(
            "not read: ledger entries, {entries} of them: {why}"
        ));
    }
    lines.push("not seen in any session: stat(2), links, and what the wall itself makes".into());
    let mut text = String::new();
    for line in lines {
        text.push_str(if line.is_empty() { "" } else { "# " });
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn read(ledger: &Verified, state: &State, args: &RecommendArgs, workspace: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut starts: BTreeMap<String, SessionStart> = BTreeMap::new();
    let mut learned: BTreeSet<String> = BTreeSet::new();
    let mut mapping = Mapping::new(state);
    for entry in ledger.entries() {
        let (index, entry) = entry?;
        match &entry.record {
            Record::SessionStart(start) if is_meant(args, &entry.session, start, workspace) => {
                // A session that goes on keeps what was held against it.
                let known = found.sessions.get(&entry.session);
                let flagged = known.and_then(|s| s.flagged.clone());
                found.sessions.insert(
                    entry.session.clone(),
                    ObservedSession {
                        variables: variables_of(start),
                        flagged,
                    },
                );
                found.subject = Some(Subject::agent(&start.name));
                starts.insert(entry.session.clone(), start.clone());
            }
            Record::Approval(approval) if approval.verdict == "reject" => {
                if let Some(session) = found.sessions.get_mut(&entry.session) {
                    session.flagged = Some("a person rejected a question".into());
                }
            }
            // It may have been a no.
            Record::Committed(committed) if committed.kind == "approval" => {
                if let Some(session) = found.sessions.get_mut(&entry.session) {
                    session.flagged = Some("the text of an answer is not known any more".into());
                }
            }
            Record::Gap(gap) if found.sessions.contains_key(&entry.session) => {
                *found.lost.entry(entry.session.clone()).or_default() += gap.lost;
            }
            record => {
                let Some(start) = starts.get(&entry.session) else {
                    continue;
                };
                let Some(recalled) = entry.recall(Some(start)) else {
                    continue;
                };
                let decision = record.decision();
                if decision.is_some_and(|d| d.monitors.iter().any(|m| m == LEARN_MARK)) {
                    learned.insert(entry.session.clone());
                }
                let carried = decision.and_then(|d| d.effect.parse::<Effect>().ok());
                match (recalled, carried) {
                    (Ok(recalled), Some(carried)) => {
                        observe(&mut found, &mut mapping, index, &entry, recalled, carried);
                    }
                    (Ok(_), None) => {
                        *found
                            .unreadable
                            .entry(NotRecallable::Vocabulary)
                            .or_default() += 1
                    }
                    (Err(why), _) => *found.unreadable.entry(why).or_default() += 1,
                }
            }
        }
    }
    let all = found.sessions.keys();
    found.not_learned = all.filter(|id| !learned.contains(*id)).cloned().collect();
    found.without_policy = mapping.missing();
    Ok(found)
}

/// One recorded decision as an observation, and what follows from it.
fn observe(
    found: &mut Found,
    mapping: &mut Mapping<'_>,
    index: u64,
    entry: &Entry,
    recalled: Recalled,
    carried: Effect,
) {
    let standing = match (recalled.effect, carried) {
        (Effect::Ask, _) | (_, Effect::Ask) => Standing::Asked,
        (policy, carried) if policy.proceeds() && carried.proceeds() => Standing::Passed(carried),
        _ => Standing::Refused,
    };
    let Action {
        verb,
        resource,
        subject,
        ..
    } = recalled.action;
    let observation = Observation {
        index,
        session: entry.session.clone(),
        time: entry.time.clone(),
        verb,
        resource,
        standing,
        derived: false,
    };
    if let Some(mapped) = mapping.mapped(&observation, subject) {
        found.observations.push(mapped);
    }
    found.observations.push(observation);
}

/// Mapping a library is not recorded: the kernel does it behind an open file. A library that was
/// opened, and that the session's own policy lets be mapped, is taken to have been.
struct Mapping<'a> {
    state: &'a State,
    policies: BTreeMap<String, Option<Policy>>,
}

impl<'a> Mapping<'a> {
    fn new(state: &'a State) -> Self {
        Mapping {
            state,
            policies: BTreeMap::new(),
        }
    }

    fn mapped(&mut self, seen: &Observation, subject: Subject) -> Option<Observation> {
        let agentwall_action::Resource::Path(path) = &seen.resource else {
            return None;
        };
        let opened = seen.verb == Verb::FileRead && matches!(seen.standing, Standing::Passed(_));
        if !opened || path.kind == ObjectKind::Directory || !is_library(&path.path) {
            return None;
        }
        let state = self.state;
        let policy = self
            .policies
            .entry(seen.session.clone())
            .or_insert_with(|| {
                let session = Session::load(state, &seen.session).ok()?;
                session.policy().ok().map(prepare::on_this_host)
            });
        let action = Action::new(subject, Verb::FileExec, seen.resource.clone());
        let effect = policy.as_ref()?.decide(&action).effect;
        (effect == Effect::Allow).then(|| Observation {
            verb: Verb::FileExec,
            standing: Standing::Passed(effect),
            derived: true,
            ..seen.clone()
        })
    }

    /// Sessions whose policy was asked for and is not there.
    fn missing(self) -> BTreeSet<String> {
        let none = self.policies.into_iter().filter(|(_, p)| p.is_none());
        none.map(|(id, _)| id).collect()
    }
}

/// Whether a session is one of those asked for; without any, of this workspace.
fn is_meant(args: &RecommendArgs, id: &str, start: &SessionStart, workspace: &Path) -> bool {
    if args.session.is_empty() {
        return variables_of(start).workspace.as_deref() == Some(workspace);
    }
    let mut named = args.session.iter();
    named.any(|text| means(text, id, Some(&start.name)))
}

/// The values of a session's variables; none where they were not recorded whole.
fn variables_of(start: &SessionStart) -> Variables {
    let told = start.variables.as_ref();
    told.and_then(values).unwrap_or_default()
}
