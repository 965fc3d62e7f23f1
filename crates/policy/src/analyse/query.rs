//! A question about some rules: every case that they can tell apart, and what they say in it.
//!
//! A case is an object (by the groups of patterns that match it), a verb, a subject, and what labels
//! the facts name and what the conditions come to. The last two are free: [`Query::branch`] tries every
//! combination that a decision asks about, and only those, so that a case with many rules of which the
//! first decides is one case.
//!
//! The decision made here is the interpreter's (`policy.rs`) with unknowns: by layer, priority and
//! strictness. It exists to find cases; what it finds is asked of [`Policy::decide`](crate::Policy::decide)
//! before anybody sees it (`witness.rs`).

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
};

use agentwall_action::{Effect, Resource, Verb};

use super::{
    limits::{Meter, TooLarge},
    model::{Model, SubjectClass, Test, Truth, bit, verbs, verbs_of},
    objects::{AddressCache, Group, Objects, Space},
    product::Looked,
};
use crate::{pattern::ResourcePattern, rule::RuleEffect};

/// Something a decision depends on that no automaton knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unknown {
    /// Whether the facts name a label.
    Label(u32),
    /// What a condition comes to.
    Condition(u32),
}

/// What the unknowns are taken to be.
pub(crate) type Assumed = [(Unknown, Truth)];

/// The lists a pattern stands in: the part, and whether it is the positive list.
type Uses = Vec<(u32, bool)>;

/// One case, except for the unknowns.
pub(crate) struct Case<'q> {
    pub resource: &'q Resource,
    /// The verb, and all that no rule of the question tells from it.
    pub verb: Verb,
    pub alike: u32,
    pub subject: &'q SubjectClass,
    /// The members that may match, in order.
    live: &'q [u32],
    matched: &'q [u32],
}

/// The members of a list in a rule.
#[derive(Debug, Default)]
struct Terms {
    /// Any object is meant.
    any: bool,
    /// Groups of patterns, sorted.
    groups: Vec<u32>,
    labels: Vec<u32>,
}

#[derive(Debug)]
struct Part {
    entry: u32,
    positive: Terms,
    negative: Terms,
}

/// Some rules, prepared for the objects of one space.
pub(crate) struct Query<'m, 'p> {
    model: &'m Model<'p>,
    space: Space,
    parts: Vec<Part>,
    part_of: HashMap<u32, u32>,
    groups: Vec<Group<'p>>,
    /// The parts that a group is in the positive list of.
    by_group: Vec<Vec<u32>>,
    /// The parts that may match whatever group does.
    always: Vec<u32>,
    required: Vec<Vec<u32>>,
    /// Verbs that matter, by what the rules tell apart: one of them, and all.
    verbs: Vec<(Verb, u32)>,
    subjects: RefCell<HashMap<Vec<u32>, Vec<u32>>>,
}

impl<'m, 'p> Query<'m, 'p> {
    /// Prepares the rules `entries` (numbers of the model). `focus` is a list of lists of rules: only
    /// objects matter that a rule of each list may match. `bits` are the verbs that matter.
    pub fn new(
        model: &'m Model<'p>,
        space: Space,
        entries: &[u32],
        focus: &[&[u32]],
        bits: u32,
    ) -> Query<'m, 'p> {
        let bits = bits & verbs_of(space);
        let sorted: BTreeSet<u32> = entries
            .iter()
            .copied()
            .filter(|e| model.entries[*e as usize].verbs & bits != 0)
            .collect();
        let mut query = Query {
            model,
            space,
            parts: Vec::new(),
            part_of: sorted.iter().copied().zip(0..).collect(),
            groups: Vec::new(),
            by_group: Vec::new(),
            always: Vec::new(),
            required: Vec::new(),
            verbs: Vec::new(),
            subjects: RefCell::default(),
        };
        // Patterns that stand in the same lists are one group.
        let mut uses: HashMap<u32, Uses> = HashMap::new();
        for (entry, part) in sorted.iter().zip(0..) {
            let rule = &model.entries[*entry as usize];
            for (list, positive) in [(&rule.positive, true), (&rule.negative, false)] {
                for pattern in list {
                    uses.entry(*pattern).or_default().push((part, positive));
                }
            }
        }
        let mut patterns: Vec<u32> = uses.keys().copied().collect();
        patterns.sort_unstable();
        let mut groups: HashMap<(Uses, Option<&str>), u32> = HashMap::new();
        let mut group_of: HashMap<u32, u32> = HashMap::new();
        for pattern in patterns {
            let label = match model.patterns[pattern as usize] {
                ResourcePattern::Any => continue,
                ResourcePattern::Label(l) => Some(l.name.as_str()),
                _ => None,
            };
            let next = query.groups.len() as u32;
            let id = *groups
                .entry((uses[&pattern].clone(), label))
                .or_insert(next);
            if id == next {
                query.groups.push(Group::default());
            }
            query.groups[id as usize]
                .patterns
                .push(model.patterns[pattern as usize]);
            group_of.insert(pattern, id);
        }
        let terms = |list: &[u32]| {
            let mut terms = Terms::default();
            for pattern in list {
                match model.patterns[*pattern as usize] {
                    ResourcePattern::Any => terms.any = true,
                    ResourcePattern::Label(l) => {
                        let label = model.labels.iter().position(|n| *n == l.name);
                        terms.labels.extend(label.map(|n| n as u32));
                        terms.groups.push(group_of[pattern]);
                    }
                    _ => terms.groups.push(group_of[pattern]),
                }
            }
            terms.groups.sort_unstable();
            terms.groups.dedup();
            terms
        };
        query.by_group = vec![Vec::new(); query.groups.len()];
        for entry in &sorted {
            let rule = &model.entries[*entry as usize];
            let mut positive = terms(&rule.positive);
            positive.any |= rule.positive.is_empty();
            let part = query.parts.len() as u32;
            if positive.any || !positive.labels.is_empty() {
                query.always.push(part);
            } else {
                positive
                    .groups
                    .iter()
                    .for_each(|g| query.by_group[*g as usize].push(part));
            }
            query.parts.push(Part {
                entry: *entry,
                positive,
                negative: terms(&rule.negative),
            });
        }
        for list in focus {
            let parts = list.iter().filter_map(|e| query.part_of.get(e));
            let parts: Vec<u32> = parts.copied().collect();
            if parts.iter().any(|p| query.always.contains(p)) {
                continue;
            }
            let groups = parts
                .iter()
                .flat_map(|p| &query.parts[*p as usize].positive.groups);
            let groups: BTreeSet<u32> = groups.copied().collect();
            query.required.push(groups.into_iter().collect());
        }
        query.verbs = query.verb_classes(bits);
        query
    }

    /// The verbs of `bits`, by what the rules and the defaults tell apart.
    fn verb_classes(&self, bits: u32) -> Vec<(Verb, u32)> {
        let mut classes: Vec<(Vec<u64>, Verb, u32)> = Vec::new();
        for verb in verbs(bits) {
            let mut signature = vec![0u64; self.parts.len().div_ceil(64)];
            for (n, part) in self.parts.iter().enumerate() {
                let speaks = self.model.entries[part.entry as usize].verbs & bit(verb) != 0;
                signature[n / 64] |= u64::from(speaks) << (n % 64);
            }
            for policy in &self.model.policies {
                let depths = 0..policy.layers.len();
                signature.extend(depths.map(|d| policy.unmatched(d, verb).map_or(9, |e| e as u64)));
            }
            match classes.iter_mut().find(|(known, ..)| *known == signature) {
                Some((_, _, alike)) => *alike |= bit(verb),
                None => classes.push((signature, verb, bit(verb))),
            }
        }
        classes
            .into_iter()
            .map(|(_, verb, alike)| (verb, alike))
            .collect()
    }

    /// Whether there is a verb to ask about.
    pub fn is_empty(&self) -> bool {
        self.verbs.is_empty()
    }

    /// Calls `visit` for every case, those with short objects first.
    pub fn cases(
        &self,
        meter: &mut Meter,
        cache: &mut AddressCache,
        visit: &mut dyn FnMut(&mut Meter, &Case<'_>) -> Looked,
    ) -> Result<(), TooLarge> {
        // A list that no pattern of this space can meet leaves nothing to ask.
        if self.required.iter().any(Vec::is_empty) {
            return Ok(());
        }
        let objects = Objects {
            space: self.space,
            groups: &self.groups,
            required: &self.required,
        };
        let entries = &self.model.entries;
        objects.explore(meter, cache, &mut |meter, resource, matched| {
            let parts = matched.iter().flat_map(|g| &self.by_group[*g as usize]);
            let mut live: Vec<u32> = parts.chain(&self.always).copied().collect();
            live.sort_unstable();
            live.dedup();
            meter.pay(1 + live.len())?;
            let lists: BTreeSet<u32> = (live.iter())
                .filter_map(|p| entries[self.parts[*p as usize].entry as usize].subject)
                .collect();
            let lists: Vec<u32> = lists.into_iter().collect();
            let subjects = self.subjects(lists);
            for (verb, alike) in &self.verbs {
                for subject in &subjects {
                    meter.pay(1 + live.len())?;
                    let case = Case {
                        resource: &resource,
                        verb: *verb,
                        alike: *alike,
                        subject: &self.model.subjects[*subject as usize],
                        live: &live,
                        matched,
                    };
                    if visit(meter, &case)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn subjects(&self, lists: Vec<u32>) -> Vec<u32> {
        let mut known = self.subjects.borrow_mut();
        let found = known.entry(lists);
        found
            .or_insert_with_key(|lists| self.model.subjects_for(lists))
            .clone()
    }

    /// Calls `eval` with every combination of the unknowns that it asks for, until it breaks. An
    /// unknown that `eval` wants to know is its error.
    pub fn branch(
        &self,
        meter: &mut Meter,
        eval: &mut dyn FnMut(&Assumed) -> Result<ControlFlow<()>, Unknown>,
    ) -> Result<ControlFlow<()>, TooLarge> {
        let mut assumed: Vec<(Unknown, Truth)> = Vec::new();
        loop {
            meter.pay(1 + assumed.len())?;
            match eval(&assumed) {
                Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                Err(unknown) => {
                    let first = match unknown {
                        Unknown::Label(_) => Truth::No,
                        Unknown::Condition(_) => Truth::Yes,
                    };
                    assumed.push((unknown, first));
                    continue;
                }
                Ok(ControlFlow::Continue(())) => {}
            }
            loop {
                let Some((unknown, truth)) = assumed.last_mut() else {
                    return Ok(ControlFlow::Continue(()));
                };
                let next = match (*unknown, *truth) {
                    (Unknown::Label(_), Truth::No) => Some(Truth::Yes),
                    (Unknown::Condition(_), Truth::Yes) => Some(Truth::No),
                    (Unknown::Condition(c), Truth::No) => {
                        let condition = &self.model.conditions[c as usize];
                        condition.failure_matters.then_some(Truth::Fails)
                    }
                    _ => None,
                };
                if let Some(next) = next {
                    *truth = next;
                    break;
                }
                assumed.pop();
            }
        }
    }

    /// How a rule stands to a case: it matches, it does not, or a condition of it fails.
    pub fn stands(&self, case: &Case<'_>, entry: u32, assumed: &Assumed) -> Result<Truth, Unknown> {
        match self.part_of.get(&entry) {
            Some(part) if case.live.contains(part) => self.part(case, *part, assumed),
            _ => Ok(Truth::No),
        }
    }

    fn part(&self, case: &Case<'_>, part: u32, assumed: &Assumed) -> Result<Truth, Unknown> {
        let part = &self.parts[part as usize];
        let entry = &self.model.entries[part.entry as usize];
        if entry.verbs & bit(case.verb) == 0 || !case.subject.has(entry.subject) {
            return Ok(Truth::No);
        }
        let (positive, negative) = (&part.positive, &part.negative);
        let hit = |terms: &Terms| {
            terms.any
                || terms
                    .groups
                    .iter()
                    .any(|g| case.matched.binary_search(g).is_ok())
        };
        let named = |terms: &Terms| {
            let mut unknown = None;
            for label in &terms.labels {
                match known(assumed, Unknown::Label(*label)) {
                    Ok(Truth::Yes) => return Ok(true),
                    Ok(_) => {}
                    Err(label) => unknown = Some(label),
                }
            }
            unknown.map_or(Ok(false), Err)
        };
        if hit(negative) || !(hit(positive) || named(positive)?) || named(negative)? {
            return Ok(Truth::No);
        }
        let when = test(entry.when, assumed)?;
        if when == Truth::No {
            return Ok(Truth::No);
        }
        Ok(match (when, test(entry.unless, assumed)?) {
            (_, Truth::Yes) => Truth::No,
            (Truth::Yes, Truth::No) => Truth::Yes,
            _ => Truth::Fails,
        })
    }

    /// What the policy `side` says about a case, without the rule `without`; and the rule that says it.
    pub fn decide(
        &self,
        case: &Case<'_>,
        assumed: &Assumed,
        side: usize,
        without: Option<u32>,
    ) -> Result<(Effect, Option<u32>), Unknown> {
        let policy = self.model.policies[side];
        let mut answer: Option<(Effect, Option<u32>)> = None;
        for depth in 0..policy.layers.len() {
            let said = self.layer(case, assumed, (side, depth), without)?;
            let own = said.matched.map(|(effect, rule)| (effect, Some(rule)));
            let own = own.or(policy
                .unmatched(depth, case.verb)
                .map(|effect| (effect, None)));
            let floor = said.floor.map(|(effect, rule)| (effect, Some(rule)));
            for candidate in [own, floor].into_iter().flatten() {
                if answer.is_none_or(|(effect, _)| candidate.0 > effect) {
                    answer = Some(candidate);
                }
            }
            if answer.is_some_and(|(effect, _)| effect == Effect::Deny) {
                break;
            }
        }
        Ok(answer.unwrap_or((Effect::Deny, None)))
    }

    /// What the rules of one layer say: the rule that matches first, and the strictest one before it
    /// whose condition failed.
    pub fn layer(
        &self,
        case: &Case<'_>,
        assumed: &Assumed,
        place: (usize, usize),
        without: Option<u32>,
    ) -> Result<Said, Unknown> {
        let mut said = Said::default();
        for part in case.live {
            let number = self.parts[*part as usize].entry;
            let entry = &self.model.entries[number as usize];
            let RuleEffect::Decide(effect) = entry.rule.effect else {
                continue;
            };
            if (entry.side, entry.depth) != place || without == Some(number) {
                continue;
            }
            match self.part(case, *part, assumed)? {
                Truth::No => {}
                // Inside a priority the strictest comes first: nothing after it counts.
                Truth::Yes => {
                    said.matched = Some((effect, number));
                    break;
                }
                Truth::Fails if effect == Effect::Allow => {}
                Truth::Fails => {
                    if said.floor.is_none_or(|(floor, _)| effect > floor) {
                        said.floor = Some((effect, number));
                    }
                    // Nothing is stricter.
                    if effect == Effect::Deny {
                        break;
                    }
                }
            }
        }
        Ok(said)
    }

    /// The conditions that rules of the question leave open, as numbers of the model.
    pub fn open_conditions(&self) -> BTreeSet<u32> {
        let entries = self
            .parts
            .iter()
            .map(|p| &self.model.entries[p.entry as usize]);
        entries
            .flat_map(|e| [e.when, e.unless])
            .filter_map(|test| match test {
                Test::Free(condition) => Some(condition),
                Test::Always(_) => None,
            })
            .collect()
    }
}

/// What the rules of a layer say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said {
    pub matched: Option<(Effect, u32)>,
    pub floor: Option<(Effect, u32)>,
}

fn known(assumed: &Assumed, unknown: Unknown) -> Result<Truth, Unknown> {
    let found = assumed.iter().find(|(u, _)| *u == unknown);
    found.map(|(_, truth)| *truth).ok_or(unknown)
}

fn test(test: Test, assumed: &Assumed) -> Result<Truth, Unknown> {
    match test {
        Test::Always(truth) => Ok(truth),
        Test::Free(condition) => known(assumed, Unknown::Condition(condition)),
    }
}
