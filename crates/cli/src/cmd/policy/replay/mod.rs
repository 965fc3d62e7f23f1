//! `agentwall policy replay`: which recorded decisions would be others under a new policy.
//!
//! The ledger is verified, then read once from its beginning. Each decision is made again with the
//! action, the facts and the session's variables as they are recorded (`Entry::recall`), through the
//! same questions a running wall asks (`answer`). What is not recorded to the byte is counted with
//! its reason and never guessed.
//!
//! Memory: one small record per session and per distinct set of variables, a bounded number of loaded
//! policies, groups and examples; not the entries.

mod show;
mod tally;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    process::ExitCode,
    rc::Rc,
};

use agentwall_action::Action;
use agentwall_ledger::{
    Entry, Record,
    entry::{NotRecallable, SessionStart},
};
use agentwall_policy::{Policy, Source, Variables};
use anyhow::Result;

use crate::{
    answer,
    args::policy::ReplayArgs,
    cmd::policy::{
        recorded::{Verified, means, values},
        replay::tally::{Answer, Tally, Unknown, Verdict},
        variables,
    },
    output::{self, UsageError, tame},
    policies, prepare,
};

/// Runs the command.
pub fn main(args: &ReplayArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(None)?;
    let chosen = policies::choose(Some(&args.policy), &args.trust, &workspace)?;
    // What is wrong with the policy itself is told before the ledger is read.
    policies::load(&chosen.sources, &variables(None)?)?;
    let ledger = Verified::open(args.ledger.as_deref(), args.key.as_deref())?;
    let mut replay = Replay::new(chosen.sources, &args.session);
    for entry in ledger.entries() {
        let (index, entry) = entry?;
        if let Some(verdict) = replay.take(index, &entry)
            && args.each
        {
            show::each(index, &entry, &verdict, args.json)?;
        }
    }
    let tally = replay.finish()?;
    show::summary(&tally, &args.policy, args.json, args.each)?;
    Ok(ExitCode::from(match tally.flips() {
        0 => output::OK,
        _ => output::FAILED,
    }))
}

/// The state of one pass over a ledger.
struct Replay {
    policies: Policies,
    wanted: Vec<Wanted>,
    sessions: HashMap<String, Session>,
    /// Equal starts are kept once.
    starts: BTreeMap<Vec<Option<String>>, Rc<Start>>,
    tally: Tally,
}

/// A session that a person has named, and whether the ledger has one.
struct Wanted {
    text: String,
    found: bool,
}

/// What is known of a session so far.
struct Session {
    start: Option<Rc<Start>>,
    selected: bool,
    ended: bool,
}

/// What a session's start tells about its decisions.
struct Start {
    /// Only what a decision needs is kept of it.
    record: SessionStart,
    /// `None`: not recorded, or cut.
    variables: Option<Variables>,
}

impl Replay {
    fn new(sources: Vec<Source>, sessions: &[String]) -> Replay {
        let wanted = sessions.iter().map(|text| Wanted {
            text: text.clone(),
            found: false,
        });
        Replay {
            policies: Policies::new(sources),
            wanted: wanted.collect(),
            sessions: HashMap::new(),
            starts: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Takes the next entry; what is told about it if it flips or cannot be replayed.
    fn take(&mut self, index: u64, entry: &Entry) -> Option<Verdict> {
        if let Record::SessionStart(start) = &entry.record {
            self.begin(entry, start);
        }
        let session = self.session(&entry.session);
        if !session.selected {
            return None;
        }
        let start = session.start.clone();
        match &entry.record {
            Record::SessionEnd(end) => {
                session.ended = true;
                self.tally.plain(&end.allowed);
                None
            }
            Record::Commit(commit) => {
                // The sum is the whole set's in each of its parts.
                if commit.changes.part <= 1 {
                    self.tally.committed(&commit.outcome);
                }
                None
            }
            Record::Gap(gap) => {
                self.tally.lost(gap.lost);
                None
            }
            Record::Other(other) => self.tally.other(index, &other.kind),
            _ => {
                let verdict = self.decide(entry, start.as_deref())?;
                self.tally.take(index, entry, verdict)
            }
        }
    }

    /// The old answer and the new one; `None` for an entry that is no decision.
    fn decide(
        &mut self,
        entry: &Entry,
        start: Option<&Start>,
    ) -> Option<Result<(Answer, Answer), Unknown>> {
        let recalled = match entry.recall(start.map(|s| &s.record))? {
            Ok(recalled) => recalled,
            Err(why) => return Some(Err(why.into())),
        };
        let variables = start.and_then(|s| s.variables.as_ref());
        Some(match variables {
            None => Err(NotRecallable::NoStart.into()),
            Some(variables) => self.policies.of(variables).and_then(|policy| {
                if !recalled.args && policy.uses_args(recalled.action.verb) {
                    return Err(Unknown::Arguments);
                }
                let old = Answer {
                    effect: Some(recalled.effect),
                    rule: recalled.rule,
                };
                Ok((old, new_answer(&policy, &recalled.action)))
            }),
        })
    }

    fn begin(&mut self, entry: &Entry, start: &SessionStart) {
        let named = start.variables.clone().unwrap_or_default();
        let mut key = vec![Some(start.name.clone()), Some(start.workspace.clone())];
        key.push(start.variables.as_ref().map(|_| String::new()));
        key.extend(named.named().map(|(_, value)| value.map(str::to_owned)));
        let start = self.starts.entry(key).or_insert_with(|| {
            Rc::new(Start {
                variables: start.variables.as_ref().and_then(values),
                record: SessionStart {
                    name: start.name.clone(),
                    workspace: start.workspace.clone(),
                    variables: start.variables.clone(),
                    ..SessionStart::default()
                },
            })
        });
        let start = Rc::clone(start);
        let mut selected = self.wanted.is_empty();
        for wanted in &mut self.wanted {
            if means(&wanted.text, &entry.session, Some(&start.record.name)) {
                (wanted.found, selected) = (true, true);
            }
        }
        let session = Session {
            start: Some(start),
            selected,
            ended: false,
        };
        self.sessions.insert(entry.session.clone(), session);
    }

    /// The session, which may have begun before the log did, or in no run at all.
    fn session(&mut self, id: &str) -> &mut Session {
        let wanted = &mut self.wanted;
        self.sessions.entry(id.to_owned()).or_insert_with(|| {
            let mut selected = wanted.is_empty();
            for wanted in wanted.iter_mut().filter(|w| means(&w.text, id, None)) {
                (wanted.found, selected) = (true, true);
            }
            Session {
                start: None,
                selected,
                // Its end has no counts of a start that is not here.
                ended: true,
            }
        })
    }

    fn finish(mut self) -> Result<Tally> {
        let missing: Vec<String> = self
            .wanted
            .iter()
            .filter(|w| !w.found)
            .map(|w| format!("'{}'", tame(&w.text)))
            .collect();
        if !missing.is_empty() {
            return Err(UsageError(format!(
                "the ledger has no session {}; 'agentwall sessions --all' lists them",
                missing.join(", ")
            ))
            .into());
        }
        let selected = || self.sessions.values().filter(|s| s.selected);
        self.tally.sessions = selected().count();
        self.tally.open_sessions = selected().filter(|s| !s.ended).count();
        Ok(self.tally)
    }
}

fn new_answer(policy: &Policy, action: &Action) -> Answer {
    if answer::is_own_loopback(policy, action) {
        return Answer::default();
    }
    let decision = answer::of_policy(policy, action);
    Answer {
        effect: Some(decision.effect),
        rule: decision.rule,
    }
}

/// The new policy, loaded with the variables of each session.
struct Policies {
    sources: Vec<Source>,
    /// The newest use last.
    loaded: VecDeque<(Variables, Result<Rc<Policy>, Unknown>)>,
}

/// So many loaded policies are kept.
const MAX_LOADED: usize = 32;

impl Policies {
    fn new(sources: Vec<Source>) -> Policies {
        Policies {
            sources,
            loaded: VecDeque::new(),
        }
    }

    fn of(&mut self, variables: &Variables) -> Result<Rc<Policy>, Unknown> {
        let at = self.loaded.iter().position(|(v, _)| v == variables);
        let known = at.and_then(|at| self.loaded.remove(at));
        let (_, policy) = known.unwrap_or_else(|| {
            let policy = policies::load(&self.sources, variables)
                .map(|policy| Rc::new(prepare::on_this_host(policy.with_commit_rule())))
                .map_err(|e| Unknown::Load(output::tame(&e.to_string())));
            (variables.clone(), policy)
        });
        if self.loaded.len() >= MAX_LOADED {
            self.loaded.pop_front();
        }
        self.loaded.push_back((variables.clone(), policy.clone()));
        policy
    }
}

#[cfg(test)]
mod tests;
