//! Two policies: is the second stricter, looser, the same, or neither, and what shows it?
//!
//! Where both defaults are the same, an action can only be decided differently if a rule matches it
//! that only one of the policies has: those rules, and what meets them, are all that is looked at. So a
//! small change of a large policy is a small question.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
};

use agentwall_action::{Effect, Verb};

use super::{
    limits::{Limits, Meter, TooLarge},
    model::{Entry, Model, Test, Truth, bit, verbs, verbs_of},
    objects::{AddressCache, Space},
    query::{Query, Unknown},
    witness::{AnalyseError, Witness},
};
use crate::{policy::Policy, rule::RuleEffect};

/// How the second policy stands to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Every action gets the same effect.
    Equal,
    /// Some actions get a stricter effect, none a looser one.
    Stricter,
    /// Some actions get a looser effect, none a stricter one.
    Looser,
    /// Some get a stricter one and some a looser one.
    Incomparable,
    /// Not decided; what was found so far is listed.
    Undecided,
}

impl Verdict {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Stricter => "stricter",
            Verdict::Looser => "looser",
            Verdict::Incomparable => "incomparable",
            Verdict::Undecided => "undecided",
        }
    }
}

/// One kind of difference: the same effects by the same rules.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The effect in the first policy.
    pub before: Effect,
    /// The effect in the second policy.
    pub after: Effect,
    /// The rule of the first policy that decides; `None` is the default.
    pub rule_before: Option<String>,
    /// The rule of the second policy that decides; `None` is the default.
    pub rule_after: Option<String>,
    /// The verbs for which there is such an action.
    pub verbs: Vec<Verb>,
    /// The shortest such action.
    pub witness: Witness,
}

impl Change {
    /// Whether the second policy is the looser one here.
    pub fn loosens(&self) -> bool {
        self.after < self.before
    }
}

/// A `monitor` rule that marks actions in one policy alone.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct MarkChange {
    /// The rule.
    pub rule: String,
    /// Whether it is the second policy that marks.
    pub after: bool,
    /// The shortest such action.
    pub witness: Witness,
}

/// What [`diff`] found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// How the second policy stands to the first, by the effects alone.
    pub verdict: Verdict,
    /// The differences of effect, the loosening ones first.
    pub changes: Vec<Change>,
    /// The differences of marks.
    pub marks: Vec<MarkChange>,
    /// Whether some changes were left out because there are too many.
    pub more: bool,
    /// What was not decided, and why.
    pub undecided: Vec<String>,
    /// What the policies differ in besides, which no decision shows: keys of the file.
    pub other: Vec<String>,
    /// Conditions that were taken to be able to hold, to not hold, and to fail.
    pub open_conditions: Vec<String>,
}

impl Difference {
    /// Whether every action is decided and marked alike.
    pub fn is_equal(&self) -> bool {
        self.verdict == Verdict::Equal && self.marks.is_empty()
    }

    /// Whether the second policy is looser somewhere, or that could not be found out.
    pub fn may_loosen(&self) -> bool {
        !self.undecided.is_empty() || self.changes.iter().any(Change::loosens)
    }

    /// Whether the second policy is stricter somewhere, or that could not be found out.
    pub fn may_tighten(&self) -> bool {
        !self.undecided.is_empty() || self.changes.iter().any(|c| !c.loosens())
    }
}

/// Compares two policies over all actions. Rules are the same if they are written alike; ids, reasons,
/// hints and tests make no difference.
///
/// # Errors
/// [`AnalyseError`] when not even the subjects of the rules can be told apart within the limits, or
/// when the analysis contradicts the interpreter.
pub fn diff(
    before: &Policy,
    after: &Policy,
    limits: Limits,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Difference, AnalyseError> {
    let mut meter = Meter::new(limits);
    let model = Model::new(&[before, after], &[], &mut meter)?;
    let mut compare = Compare {
        model: &model,
        meter,
        cache: AddressCache::default(),
        changes: BTreeMap::new(),
        marks: Vec::new(),
        undecided: Vec::new(),
        open: BTreeSet::new(),
        more: false,
    };
    for (n, space) in Space::ALL.into_iter().enumerate() {
        progress(n, Space::ALL.len() + 1);
        compare.effects(space)?;
    }
    compare.marks()?;
    progress(Space::ALL.len() + 1, Space::ALL.len() + 1);
    let mut changes: Vec<Change> = compare.changes.into_values().collect();
    changes.sort_by_key(|c| !c.loosens());
    let looser = changes.iter().any(Change::loosens);
    let stricter = changes.iter().any(|c| !c.loosens());
    let verdict = match (looser, stricter) {
        (true, true) => Verdict::Incomparable,
        _ if !compare.undecided.is_empty() => Verdict::Undecided,
        (false, false) => Verdict::Equal,
        (true, false) => Verdict::Looser,
        (false, true) => Verdict::Stricter,
    };
    Ok(Difference {
        verdict,
        changes,
        marks: compare.marks,
        more: compare.more,
        undecided: compare.undecided,
        other: other(before, after),
        open_conditions: texts(&model, &compare.open),
    })
}

/// The conditions of these numbers, as written.
pub(crate) fn texts(model: &Model<'_>, conditions: &BTreeSet<u32>) -> Vec<String> {
    let text = |c: &u32| model.conditions[*c as usize].text.to_owned();
    conditions.iter().map(text).collect()
}

fn other(before: &Policy, after: &Policy) -> Vec<String> {
    let mut keys = Vec::new();
    let same = [
        ("require", before.require() == after.require()),
        (
            "ledger",
            before.on_ledger_failure() == after.on_ledger_failure(),
        ),
        ("inspect", before.inspect() == after.inspect()),
        ("budgets", before.budgets() == after.budgets()),
        ("risk", before.risk() == after.risk()),
        ("properties", before.properties() == after.properties()),
    ];
    keys.extend(
        same.iter()
            .filter(|(_, same)| !same)
            .map(|(key, _)| (*key).to_owned()),
    );
    keys
}

/// What a decision can tell about a rule.
type Meaning<'e> = (
    (usize, i64, RuleEffect, u32),
    Option<u32>,
    (Test, Test),
    (&'e [u32], &'e [u32]),
);

fn meaning<'e>(entry: &'e Entry<'_>) -> Meaning<'e> {
    let rule = entry.rule;
    (
        (entry.depth, rule.priority, rule.effect, entry.verbs),
        entry.subject,
        (entry.when, entry.unless),
        (&entry.positive, &entry.negative),
    )
}

/// Effects and the rules behind them, before and after.
type Key = (Effect, Option<String>, Effect, Option<String>);

struct Compare<'m, 'p> {
    model: &'m Model<'p>,
    meter: Meter,
    cache: AddressCache,
    changes: BTreeMap<Key, Change>,
    marks: Vec<MarkChange>,
    undecided: Vec<String>,
    open: BTreeSet<u32>,
    more: bool,
}

impl Compare<'_, '_> {
    /// The rules of one effect kind that only one policy has and that speak about verbs of `bits`.
    fn own_rules(&self, bits: u32, monitors: bool) -> Vec<u32> {
        let kind = |e: &Entry<'_>| (e.rule.effect == RuleEffect::Monitor) == monitors;
        let of = |side: usize| {
            let entries = self.model.entries.iter();
            let all: HashSet<Meaning<'_>> =
                entries.filter(|e| e.side == side).map(meaning).collect();
            all
        };
        let sides = [of(0), of(1)];
        (0..self.model.entries.len() as u32)
            .filter(|n| {
                let e = &self.model.entries[*n as usize];
                kind(e) && e.verbs & bits != 0 && !sides[1 - e.side].contains(&meaning(e))
            })
            .collect()
    }

    /// The verbs for which the policies have other defaults.
    fn other_defaults(&self, bits: u32) -> u32 {
        let defaults = |side: usize, verb: Verb| -> Vec<Option<Effect>> {
            let policy = self.model.policies[side];
            (0..policy.layers.len())
                .map(|d| policy.unmatched(d, verb))
                .collect()
        };
        let differ = |v: &Verb| defaults(0, *v) != defaults(1, *v);
        verbs(bits)
            .iter()
            .filter(|v| differ(v))
            .fold(0, |bits, v| bits | bit(*v))
    }

    fn effects(&mut self, space: Space) -> Result<(), AnalyseError> {
        self.meter.begin();
        let bits = verbs_of(space);
        let changed = self.own_rules(bits, false);
        let everywhere = self.other_defaults(bits);
        // Verbs with another default may differ anywhere; the others only where a rule changed.
        let mut questions: Vec<(u32, Option<Vec<u32>>)> = Vec::new();
        if everywhere != 0 {
            questions.push((everywhere, None));
        }
        if !changed.is_empty() {
            let verbs = changed
                .iter()
                .fold(0, |b, e| b | self.model.entries[*e as usize].verbs);
            questions.push((verbs & bits & !everywhere, Some(changed)));
        }
        for (bits, focus) in questions {
            let mut failed = None;
            let searched = self.search(space, bits, focus.as_deref(), &mut failed);
            if let Some(e) = failed {
                return Err(e);
            }
            if let Err(e) = searched {
                let names: Vec<&str> = verbs(bits).iter().map(|v| v.as_str()).collect();
                self.undecided.push(format!("{}: {e}", names.join(", ")));
            }
        }
        Ok(())
    }

    fn search(
        &mut self,
        space: Space,
        bits: u32,
        focus: Option<&[u32]>,
        failed: &mut Option<AnalyseError>,
    ) -> Result<(), TooLarge> {
        let model = self.model;
        let members: BTreeSet<u32> = match focus {
            None => (0..model.entries.len() as u32).collect(),
            Some(changed) => {
                let mut members: BTreeSet<u32> = changed.iter().copied().collect();
                for entry in changed {
                    members.extend(model.meeting(*entry, &mut self.meter)?);
                }
                members
            }
        };
        let decides = |e: &u32| {
            matches!(
                model.entries[*e as usize].rule.effect,
                RuleEffect::Decide(_)
            )
        };
        let members: Vec<u32> = members.into_iter().filter(decides).collect();
        let lists: Vec<&[u32]> = focus.into_iter().collect();
        let query = Query::new(model, space, &members, &lists, bits);
        self.open.extend(query.open_conditions());
        let (changes, more) = (&mut self.changes, &mut self.more);
        query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
            let most = meter.limits.findings;
            query.branch(meter, &mut |assumed| {
                let was = query.decide(case, assumed, 0, None)?;
                let is = query.decide(case, assumed, 1, None)?;
                if was.0 == is.0 {
                    return Ok(ControlFlow::Continue(()));
                }
                let id = |e: Option<u32>| e.map(|e| model.entries[e as usize].rule.id.clone());
                let key = (was.0, id(was.1), is.0, id(is.1));
                if let Some(change) = changes.get_mut(&key) {
                    for verb in verbs(case.alike) {
                        if !change.verbs.contains(&verb) {
                            change.verbs.push(verb);
                        }
                    }
                    return Ok(ControlFlow::Continue(()));
                }
                if changes.len() >= most {
                    *more = true;
                    return Ok(ControlFlow::Continue(()));
                }
                let witness = Witness::new(model, case, assumed);
                for (side, effect) in [was.0, is.0].into_iter().enumerate() {
                    let policy = model.policies[side];
                    let expected = || effect.to_string();
                    if let Err(e) = witness.confirm(policy, |d| d.effect == effect, &expected) {
                        *failed = Some(e);
                        return Ok(ControlFlow::Break(()));
                    }
                }
                let change = Change {
                    before: was.0,
                    after: is.0,
                    rule_before: key.1.clone(),
                    rule_after: key.3.clone(),
                    verbs: verbs(case.alike),
                    witness,
                };
                changes.insert(key, change);
                Ok::<_, Unknown>(ControlFlow::Continue(()))
            })
        })
    }

    /// Marks: a rule against the rule of the same id, or against none.
    fn marks(&mut self) -> Result<(), AnalyseError> {
        let model = self.model;
        let mut pairs: BTreeMap<&str, [Option<u32>; 2]> = BTreeMap::new();
        for entry in self.own_rules(u32::MAX, true) {
            pairs
                .entry(&model.entries[entry as usize].rule.id)
                .or_default();
        }
        for (entry, n) in model.entries.iter().zip(0..) {
            if entry.rule.effect == RuleEffect::Monitor
                && let Some(pair) = pairs.get_mut(entry.rule.id.as_str())
            {
                pair[entry.side] = Some(n);
            }
        }
        // The same rule under another name marks by another name.
        let named: HashSet<(usize, &str)> = (model.entries.iter())
            .map(|e| (e.side, e.rule.id.as_str()))
            .collect();
        for (entry, n) in model.entries.iter().zip(0..) {
            if entry.rule.effect == RuleEffect::Monitor
                && !named.contains(&(1 - entry.side, entry.rule.id.as_str()))
            {
                pairs.entry(&entry.rule.id).or_default()[entry.side] = Some(n);
            }
        }
        for (id, pair) in pairs {
            self.meter.begin();
            if let Err(e) = self.mark(id, pair)? {
                self.undecided.push(format!("what rule {id} marks: {e}"));
            }
        }
        Ok(())
    }

    fn mark(
        &mut self,
        id: &str,
        pair: [Option<u32>; 2],
    ) -> Result<Result<(), TooLarge>, AnalyseError> {
        let model = self.model;
        let members: Vec<u32> = pair.into_iter().flatten().collect();
        let bits = members
            .iter()
            .fold(0, |b, e| b | model.entries[*e as usize].verbs);
        let mut found: [Option<Witness>; 2] = [None, None];
        for space in Space::ALL {
            let query = Query::new(model, space, &members, &[&members], bits);
            if query.is_empty() {
                continue;
            }
            self.open.extend(query.open_conditions());
            let searched = query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
                query.branch(meter, &mut |assumed| {
                    let mut marks = [false, false];
                    for (mark, entry) in marks.iter_mut().zip(pair) {
                        // A monitor whose condition fails marks.
                        *mark = match entry {
                            Some(entry) => query.stands(case, entry, assumed)? != Truth::No,
                            None => false,
                        };
                    }
                    let side = usize::from(marks[1]);
                    if marks[0] != marks[1] && found[side].is_none() {
                        found[side] = Some(Witness::new(model, case, assumed));
                    }
                    let all = found.iter().all(Option::is_some);
                    Ok::<_, Unknown>(if all {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                })
            });
            if let Err(e) = searched {
                return Ok(Err(e));
            }
        }
        for (side, witness) in found.into_iter().enumerate() {
            let Some(witness) = witness else { continue };
            for (n, policy) in model.policies.iter().enumerate() {
                let marked = n == side;
                let holds =
                    |d: &agentwall_action::Decision| d.monitors.iter().any(|m| m == id) == marked;
                witness.confirm(policy, holds, &|| format!("marked by {id}: {marked}"))?;
            }
            self.marks.push(MarkChange {
                rule: id.to_owned(),
                after: side == 1,
                witness,
            });
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
