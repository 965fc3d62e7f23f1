//! What is odd about a policy by itself: rules that never match, never decide or change nothing, rules
//! that contradict each other, constant conditions, rules without tests.
//!
//! Every rule is one question about the rules that may share an action with it, and about nothing else,
//! so that the cost follows how much rules meet and not how many there are. What a question does not
//! settle within its limits is a finding of its own.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    ops::ControlFlow,
};

use agentwall_action::{Effect, escape_text};

use super::{
    limits::{Limits, Meter, TooLarge},
    model::{Model, Test, Truth, verbs_of},
    objects::{AddressCache, Space},
    query::{Query, Unknown},
    witness::{AnalyseError, Witness},
};
use crate::{
    policy::Policy,
    rule::{Location, RuleEffect},
};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The rule matches no action.
    Never,
    /// The rule matches, but never decides: other rules of its layer always do.
    Shadowed,
    /// The rule decides, but without it the same would happen: only the rule that is named, with its
    /// reason and hint, would be another.
    Redundant,
    /// Two rules of one priority and of different effect match one action; the stricter wins.
    Conflict,
    /// A condition always comes to the same.
    Constant,
    /// The rule's tests do not show what it matches, or what it does not match.
    Untested,
    /// The question cost more than its limits.
    Undecided,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The policy does not mean what its author wrote, or it could not be found out.
    Warning,
    /// Worth knowing, and often meant.
    Note,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was found.
    pub kind: FindingKind,
    /// How much it matters.
    pub level: Level,
    /// The rule.
    pub rule: String,
    /// Where it is written.
    pub location: Location,
    /// The rules it is about besides: those that shadow it, make it redundant, or win.
    pub others: Vec<String>,
    /// An action that shows it.
    pub witness: Option<Witness>,
    /// A sentence about it; rule ids in it are not escaped.
    pub text: String,
}

/// `LOCATION: rule ID: TEXT`; escaped.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, text) = (escape_text(&self.rule), escape_text(&self.text));
        write!(f, "{}: rule {rule}: {text}", self.location)?;
        match &self.witness {
            Some(witness) => write!(f, ", for example {witness}"),
            None => Ok(()),
        }
    }
}

/// What [`analyse`] found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Analysis {
    /// How many rules were looked at.
    pub rules: usize,
    /// The findings, in the order of the rules.
    pub findings: Vec<Finding>,
    /// Whether some conflicts were left out because there are too many findings.
    pub more: bool,
    /// Conditions that were taken to be able to hold, to not hold, and to fail.
    pub open_conditions: Vec<String>,
}

impl Analysis {
    /// Whether there is a finding of the level [`Level::Warning`].
    pub fn has_warnings(&self) -> bool {
        self.findings.iter().any(|f| f.level == Level::Warning)
    }
}

/// Looks at every rule of a policy. `progress` is told how many rules are done, and of how many.
///
/// # Errors
/// [`AnalyseError`] when not even the subjects of the rules can be told apart within the limits, or
/// when the analysis contradicts the interpreter.
pub fn analyse(
    policy: &Policy,
    limits: Limits,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Analysis, AnalyseError> {
    let mut meter = Meter::new(Limits {
        steps: limits.steps.min(limits.total_steps / 32),
        ..limits
    });
    let model = Model::new(&[policy], &[], &mut meter)?;
    let mut run = Run {
        policy,
        model: &model,
        meter,
        cache: AddressCache::default(),
        silent: HashSet::new(),
        conflicts: 0,
        many: MANY,
    };
    let mut analysis = Analysis {
        rules: model.entries.len(),
        findings: Vec::new(),
        more: false,
        open_conditions: model.conditions.iter().map(|c| c.text.to_owned()).collect(),
    };
    for entry in 0..model.entries.len() as u32 {
        progress(entry as usize, model.entries.len());
        run.plain(entry, &mut analysis.findings);
        run.meter.begin();
        match run.examine(entry) {
            Ok(shown) if shown.matters.is_some() => {}
            Ok(shown) => analysis.findings.push(run.verdict(entry, &shown)),
            Err(e) => {
                let text = format!("not decided whether it matters: {e}");
                analysis
                    .findings
                    .push(run.finding(entry, FindingKind::Undecided, text));
            }
        }
    }
    // Later rules may be silent, too: conflicts are looked for when all are known.
    for entry in 0..model.entries.len() as u32 {
        run.meter.begin();
        match run.conflicts(entry, limits.findings, &mut analysis)? {
            Ok(()) => {}
            Err(e) => {
                let text =
                    format!("not decided with which rules of its priority it conflicts: {e}");
                analysis
                    .findings
                    .push(run.finding(entry, FindingKind::Undecided, text));
            }
        }
    }
    progress(model.entries.len(), model.entries.len());
    let order: std::collections::HashMap<&str, usize> = policy
        .rules()
        .zip(0..)
        .map(|(rule, n)| (rule.id.as_str(), n))
        .collect();
    analysis
        .findings
        .sort_by_key(|f| order.get(f.rule.as_str()).copied());
    Ok(analysis)
}

/// From how many on rules are looked at one by one first.
const MANY: usize = 16;

pub(super) struct Run<'m, 'p> {
    pub(super) policy: &'p Policy,
    pub(super) model: &'m Model<'p>,
    pub(super) meter: Meter,
    pub(super) cache: AddressCache,
    /// Rules that never decide: their conflicts are no news.
    silent: HashSet<u32>,
    /// How many conflicts were found.
    conflicts: usize,
    /// How many rules that meet one are many.
    many: usize,
}

/// What the cases of a rule showed.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) matches: bool,
    decides: bool,
    /// An action that gets another effect without it, or that a monitor marks.
    matters: Option<Witness>,
    /// Who decides instead of it, where it does not.
    pub(super) instead: BTreeSet<Option<u32>>,
    /// Who would decide without it, where it does.
    behind: BTreeSet<Option<u32>>,
}

impl<'p> Run<'_, 'p> {
    fn finding(&self, entry: u32, kind: FindingKind, text: String) -> Finding {
        let rule = self.model.entries[entry as usize].rule;
        let note = matches!(
            kind,
            FindingKind::Redundant | FindingKind::Conflict | FindingKind::Untested
        );
        Finding {
            kind,
            level: if note { Level::Note } else { Level::Warning },
            rule: rule.id.clone(),
            location: rule.location.clone(),
            others: Vec::new(),
            witness: None,
            text,
        }
    }

    fn id(&self, entry: u32) -> String {
        self.model.entries[entry as usize].rule.id.clone()
    }

    /// What can be seen without a search.
    fn plain(&self, entry: u32, findings: &mut Vec<Finding>) {
        let own = &self.model.entries[entry as usize];
        let conditions = [
            ("when", own.when, &own.rule.when),
            ("unless", own.unless, &own.rule.unless),
        ];
        for (key, test, condition) in conditions {
            if let (Some(condition), Test::Always(truth)) = (condition, test) {
                let always = match truth {
                    Truth::Yes => "always holds",
                    Truth::No => "never holds",
                    Truth::Fails => "can never be evaluated",
                };
                let text = format!("its condition '{key}: {}' {always}", condition.as_str());
                findings.push(self.finding(entry, FindingKind::Constant, text));
            }
        }
        let shows = |expect| own.rule.tests.iter().any(|t| t.expect == expect);
        let text = match (shows(true), shows(false)) {
            (true, true) => return,
            (false, false) => "it has no tests",
            (false, true) => "it has no 'match' test: nothing shows what it matches",
            (true, false) => "it has no 'not_match' test: nothing shows where it ends",
        };
        findings.push(self.finding(entry, FindingKind::Untested, text.into()));
    }

    /// Whether the rule matches, decides and matters.
    fn examine(&mut self, entry: u32) -> Result<Shown, TooLarge> {
        let model = self.model;
        let own = &model.entries[entry as usize];
        let decides = matches!(own.rule.effect, RuleEffect::Decide(_));
        let mut members = match decides {
            true => self.deciding(entry)?,
            false => Vec::new(),
        };
        // Where many rules meet this one, walking all of them together is the last resort.
        let mut shown = Shown::default();
        if decides && members.len() >= self.many {
            shown.matters = self.plainly(entry, &members)?;
            if shown.matters.is_none()
                && let Some(covered) = self.covered(entry, &members)?
            {
                self.silent.insert(entry);
                return Ok(covered);
            }
        }
        members.push(entry);
        for space in Space::ALL {
            if own.verbs & verbs_of(space) == 0 || shown.matters.is_some() {
                continue;
            }
            let query = Query::new(model, space, &members, &[&[entry]], own.verbs);
            query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
                query.branch(meter, &mut |assumed| {
                    if query.stands(case, entry, assumed)? == Truth::No {
                        return Ok(ControlFlow::Continue(()));
                    }
                    shown.matches = true;
                    if !decides {
                        shown.matters = Some(Witness::new(model, case, assumed));
                        return Ok(ControlFlow::Break(()));
                    }
                    let with = query.decide(case, assumed, 0, None)?;
                    let without = query.decide(case, assumed, 0, Some(entry))?;
                    if with.0 != without.0 {
                        shown.matters = Some(Witness::new(model, case, assumed));
                        return Ok(ControlFlow::Break(()));
                    }
                    let said = query.layer(case, assumed, (own.side, own.depth), None)?;
                    let first = said.matched.map(|(_, rule)| rule);
                    let floor = said.floor.map(|(_, rule)| rule);
                    if first == Some(entry) || floor == Some(entry) {
                        shown.decides = true;
                        shown.behind.insert(without.1);
                    } else {
                        shown.instead.insert(first.or(floor));
                    }
                    Ok::<_, Unknown>(ControlFlow::Continue(()))
                })
            })?;
        }
        if shown.matters.is_some() {
            return Ok(shown);
        }
        if !shown.decides {
            self.silent.insert(entry);
        }
        Ok(shown)
    }

    fn verdict(&self, entry: u32, shown: &Shown) -> Finding {
        let own = &self.model.entries[entry as usize];
        if !shown.matches {
            let constant =
                own.when == Test::Always(Truth::No) || own.unless == Test::Always(Truth::Yes);
            let text = match constant {
                true => "it never matches: its condition rules out every action",
                false => {
                    "it never matches: what its lists name, they take out again, or no canonical \
                     object is like that"
                }
            };
            return self.finding(entry, FindingKind::Never, text.into());
        }
        let names = |rules: &BTreeSet<Option<u32>>| -> Vec<String> {
            rules.iter().flatten().map(|e| self.id(*e)).collect()
        };
        let (kind, others, text) = if !shown.decides {
            let others = names(&shown.instead);
            let text = format!(
                "it never decides: every action it matches is decided by {}, earlier or stricter",
                list(&others, "other rules")
            );
            (FindingKind::Shadowed, others, text)
        } else {
            let others = names(&shown.behind);
            let mut text = format!(
                "without it the same happens, by {}",
                list(&others, "the default")
            );
            if shown.behind.contains(&None) && !others.is_empty() {
                text.push_str(" and the default");
            }
            text.push_str("; only the rule that is named, its reason and its hint would change");
            (FindingKind::Redundant, others, text)
        };
        Finding {
            others,
            ..self.finding(entry, kind, text)
        }
    }

    /// The rules that may meet this one and decide.
    fn deciding(&mut self, entry: u32) -> Result<Vec<u32>, TooLarge> {
        let mut found = self.model.meeting(entry, &mut self.meter)?;
        let decides = |e: &u32| {
            matches!(
                self.model.entries[*e as usize].rule.effect,
                RuleEffect::Decide(_)
            )
        };
        found.retain(decides);
        Ok(found)
    }

    /// Stricter rules of the same layer and priority that match an action which this one would decide.
    fn conflicts(
        &mut self,
        entry: u32,
        most: usize,
        analysis: &mut Analysis,
    ) -> Result<Result<(), TooLarge>, AnalyseError> {
        let own = &self.model.entries[entry as usize];
        let RuleEffect::Decide(effect) = own.rule.effect else {
            return Ok(Ok(()));
        };
        if self.silent.contains(&entry) || effect == Effect::Deny {
            return Ok(Ok(()));
        }
        let members = match self.deciding(entry) {
            Ok(members) => members,
            Err(e) => return Ok(Err(e)),
        };
        let place = |e: u32| {
            let e = &self.model.entries[e as usize];
            (e.depth, e.rule.priority)
        };
        let (here, earlier): (Vec<u32>, Vec<u32>) = members
            .into_iter()
            .filter(|m| place(*m).0 == own.depth && place(*m).1 <= own.rule.priority)
            .partition(|m| place(*m) == (own.depth, own.rule.priority));
        for other in here {
            let stricter = &self.model.entries[other as usize];
            let RuleEffect::Decide(theirs) = stricter.rule.effect else {
                continue;
            };
            if theirs <= effect || self.silent.contains(&other) {
                continue;
            }
            if self.conflicts >= most {
                analysis.more = true;
                return Ok(Ok(()));
            }
            let witness = match self.conflict_with(entry, other, &earlier) {
                Ok(Some(witness)) => witness,
                Ok(None) => continue,
                Err(e) => return Ok(Err(e)),
            };
            // Rules of other layers, and others of this priority, may make it stricter still.
            witness.confirm(self.policy, |d| d.effect >= theirs, &|| {
                format!("{theirs} by {} or something stricter", stricter.rule.id)
            })?;
            let text = format!(
                "it says {effect} where rule {} of the same priority says {theirs}, which wins",
                stricter.rule.id
            );
            self.conflicts += 1;
            analysis.findings.push(Finding {
                others: vec![self.id(other)],
                witness: Some(witness),
                ..self.finding(entry, FindingKind::Conflict, text)
            });
        }
        Ok(Ok(()))
    }

    /// The shortest action of both rules, if no earlier rule decides it; else one that none decides.
    fn conflict_with(
        &mut self,
        a: u32,
        b: u32,
        earlier: &[u32],
    ) -> Result<Option<Witness>, TooLarge> {
        let Some(witness) = self.together(&[a, b])? else {
            return Ok(None);
        };
        let model = self.model;
        let matching = |e: &&u32| witness.is_meant_by(model.entries[**e as usize].rule);
        self.meter.pay(earlier.len())?;
        if earlier.iter().find(matching).is_none() {
            return Ok(Some(witness));
        }
        let mut members = earlier.to_vec();
        members.extend([a, b]);
        self.conflict(a, b, &members)
    }

    fn conflict(&mut self, a: u32, b: u32, members: &[u32]) -> Result<Option<Witness>, TooLarge> {
        let model = self.model;
        let own = &model.entries[a as usize];
        let bits = own.verbs & model.entries[b as usize].verbs;
        let mut found = None;
        for space in Space::ALL {
            if bits & verbs_of(space) == 0 || found.is_some() {
                continue;
            }
            let query = Query::new(model, space, members, &[&[a], &[b]], bits);
            query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
                query.branch(meter, &mut |assumed| {
                    for entry in [a, b] {
                        if query.stands(case, entry, assumed)? != Truth::Yes {
                            return Ok(ControlFlow::Continue(()));
                        }
                    }
                    let said = query.layer(case, assumed, (own.side, own.depth), None)?;
                    if said.matched.is_none_or(|(_, rule)| rule != b) {
                        return Ok(ControlFlow::Continue(()));
                    }
                    found = Some(Witness::new(model, case, assumed));
                    Ok::<_, Unknown>(ControlFlow::Break(()))
                })
            })?;
        }
        Ok(found)
    }
}

/// `a, b and 3 more`, or what to say when there is none.
fn list(names: &[String], none: &str) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0 => none.to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
