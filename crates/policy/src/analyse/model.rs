//! The rules of one or two policies in a form that questions share: patterns, subjects, conditions and
//! labels by number, rules in the order that decides.
//!
//! Two patterns, subject lists or conditions that are written alike have one number, so that two
//! policies are compared by numbers. Which rules may meet says `index.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

use agentwall_action::{Effect, Verb};

use super::{
    index::Index,
    limits::{Meter, TooLarge},
    objects::{Space, is_wild},
    product::Machine,
    universe::Universe,
};
use crate::{
    condition::Expression,
    glob::Glob,
    pattern::{HostPattern, ResourcePattern, UnixPattern},
    policy::Policy,
    rule::{PatternList, Rule, RuleEffect},
};

/// What a condition may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It cannot be evaluated.
    Fails,
}

/// A condition of a rule: what it always comes to, or its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    Always(Truth),
    Free(u32),
}

/// A condition that may come to different things.
#[derive(Debug)]
pub(crate) struct Condition<'p> {
    pub text: &'p str,
    /// Whether a failure means something else than yes or no to some rule.
    pub failure_matters: bool,
    /// The rules that have it.
    pub rules: Vec<&'p str>,
}

/// A rule by numbers.
#[derive(Debug)]
pub(crate) struct Entry<'p> {
    pub rule: &'p Rule,
    /// Which policy; questions come after all policies.
    pub side: usize,
    /// Which layer of it.
    pub depth: usize,
    /// Verbs as bits.
    pub verbs: u32,
    /// The subject list; `None` when it is any.
    pub subject: Option<u32>,
    pub when: Test,
    pub unless: Test,
    pub positive: Vec<u32>,
    pub negative: Vec<u32>,
}

/// The bit of a verb.
pub(crate) fn bit(verb: Verb) -> u32 {
    let at = Verb::ALL.iter().position(|v| *v == verb);
    at.map_or(0, |at| 1 << at)
}

/// The verbs of a space, as bits.
pub(crate) fn verbs_of(space: Space) -> u32 {
    let verbs = Verb::ALL.iter().filter(|v| Space::of(v.family()) == space);
    verbs.fold(0, |bits, v| bits | bit(*v))
}

/// The bits as verbs.
pub(crate) fn verbs(bits: u32) -> Vec<Verb> {
    Verb::ALL
        .iter()
        .copied()
        .filter(|v| bits & bit(*v) != 0)
        .collect()
}

/// A kind of subject: one that stands for all that the subject lists cannot tell apart.
#[derive(Debug)]
pub(crate) struct SubjectClass {
    pub text: String,
    /// Which lists match, as bits.
    lists: Vec<u64>,
}

impl SubjectClass {
    pub fn has(&self, list: Option<u32>) -> bool {
        list.is_none_or(|l| self.lists[l as usize / 64] & (1 << (l % 64)) != 0)
    }
}

/// The rules of some policies, and of some questions about them.
#[derive(Debug)]
pub(crate) struct Model<'p> {
    pub policies: Vec<&'p Policy>,
    /// By policy, layer, priority, then the strictest effect, then id: the order that decides.
    pub entries: Vec<Entry<'p>>,
    pub patterns: Vec<&'p ResourcePattern>,
    pub labels: Vec<&'p str>,
    pub conditions: Vec<Condition<'p>>,
    pub subjects: Vec<SubjectClass>,
    index: Index,
}

/// Numbers for things that are written alike.
#[derive(Default)]
struct Numbers<'p> {
    patterns: Vec<&'p ResourcePattern>,
    by_text: HashMap<String, Vec<u32>>,
    by_places: HashMap<(usize, &'p str), u32>,
    lists: Vec<&'p PatternList<Glob>>,
    by_list: HashMap<(Vec<&'p str>, Vec<&'p str>), u32>,
    conditions: Vec<Condition<'p>>,
    by_condition: HashMap<&'p str, u32>,
    /// What a condition always comes to for some verbs.
    constants: HashMap<(&'p str, u32), Option<Truth>>,
}

impl<'p> Model<'p> {
    /// Takes the rules of the policies, and questions in the shape of rules.
    pub fn new(
        policies: &[&'p Policy],
        questions: &[&'p Rule],
        meter: &mut Meter,
    ) -> Result<Model<'p>, TooLarge> {
        let mut numbers = Numbers::default();
        let mut entries = Vec::new();
        for (side, policy) in policies.iter().enumerate() {
            for (depth, layer) in policy.layers.iter().enumerate() {
                let rules = layer.rules.iter();
                entries.extend(rules.map(|rule| numbers.entry(rule, side, depth)));
            }
        }
        let asked = policies.len();
        entries.extend(questions.iter().map(|rule| numbers.entry(rule, asked, 0)));
        entries.sort_by(|a, b| {
            let order = |e: &Entry<'p>| (e.side, e.depth, e.rule.priority);
            let strictest_first = || strictness(b.rule).cmp(&strictness(a.rule));
            let ids = || a.rule.id.cmp(&b.rule.id);
            order(a)
                .cmp(&order(b))
                .then_with(strictest_first)
                .then_with(ids)
        });
        let labels: BTreeSet<&str> = (numbers.patterns.iter())
            .filter_map(|p| match p {
                ResourcePattern::Label(l) => Some(l.name.as_str()),
                _ => None,
            })
            .collect();
        let subjects = subject_classes(&numbers.lists, meter)?;
        let index = Index::new(&entries, &numbers.patterns);
        Ok(Model {
            policies: policies.to_vec(),
            entries,
            patterns: numbers.patterns,
            labels: labels.into_iter().collect(),
            conditions: numbers.conditions,
            subjects,
            index,
        })
    }

    /// The rules that may share an action with this one, in order, without itself.
    pub fn meeting(&self, entry: u32, meter: &mut Meter) -> Result<Vec<u32>, TooLarge> {
        let own = &self.entries[entry as usize];
        let mut found = BTreeSet::new();
        for space in Space::ALL {
            let shared = own.verbs & verbs_of(space);
            if shared == 0 {
                continue;
            }
            let wild = own.positive.is_empty()
                || own
                    .positive
                    .iter()
                    .any(|p| is_wild(self.patterns[*p as usize], space));
            let candidates: Vec<u32> = if wild {
                (0..self.entries.len() as u32).collect()
            } else {
                self.index.candidates(space, own, &self.patterns, meter)?
            };
            meter.pay(candidates.len())?;
            for other in candidates {
                let entry = &self.entries[other as usize];
                if entry.verbs & shared != 0 && self.share_subject(own.subject, entry.subject) {
                    found.insert(other);
                }
            }
        }
        found.remove(&entry);
        Ok(found.into_iter().collect())
    }

    fn share_subject(&self, a: Option<u32>, b: Option<u32>) -> bool {
        if a.is_none() || b.is_none() || a == b {
            return true;
        }
        self.subjects.iter().any(|s| s.has(a) && s.has(b))
    }

    /// A subject of every kind that these lists tell apart, as numbers of [`Model::subjects`].
    pub fn subjects_for(&self, lists: &[u32]) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        let all = 0..self.subjects.len() as u32;
        all.filter(|s| {
            let class = &self.subjects[*s as usize];
            let bits: Vec<bool> = lists.iter().map(|l| class.has(Some(*l))).collect();
            seen.insert(bits)
        })
        .collect()
    }
}

/// The place of an effect inside a priority; monitors decide nothing.
fn strictness(rule: &Rule) -> Option<Effect> {
    match rule.effect {
        RuleEffect::Decide(effect) => Some(effect),
        RuleEffect::Monitor => None,
    }
}

impl<'p> Numbers<'p> {
    fn entry(&mut self, rule: &'p Rule, side: usize, depth: usize) -> Entry<'p> {
        let mut members = |list: &'p [ResourcePattern]| -> Vec<u32> {
            let ids: BTreeSet<u32> = list.iter().map(|p| self.pattern(p)).collect();
            ids.into_iter().collect()
        };
        let (positive, negative) = (
            members(&rule.resource.positive),
            members(&rule.resource.negative),
        );
        let when = self.condition(rule, rule.when.as_ref(), Truth::Yes);
        let unless = self.condition(rule, rule.unless.as_ref(), Truth::No);
        Entry {
            rule,
            side,
            depth,
            verbs: rule.verbs.iter().fold(0, |bits, v| bits | bit(*v)),
            subject: (!rule.subject.is_any()).then(|| self.list(&rule.subject)),
            when,
            unless,
            positive,
            negative,
        }
    }

    fn pattern(&mut self, pattern: &'p ResourcePattern) -> u32 {
        if let ResourcePattern::Label(label) = pattern {
            let place = (
                Arc::as_ptr(&label.paths).cast::<u8>() as usize,
                label.name.as_str(),
            );
            if let Some(id) = self.by_places.get(&place) {
                return *id;
            }
            let id = self.written(pattern);
            self.by_places.insert(place, id);
            return id;
        }
        self.written(pattern)
    }

    fn written(&mut self, pattern: &'p ResourcePattern) -> u32 {
        let alike = self.by_text.entry(key(pattern)).or_default();
        let same = alike
            .iter()
            .find(|id| self.patterns[**id as usize] == pattern);
        if let Some(id) = same {
            return *id;
        }
        let id = self.patterns.len() as u32;
        self.patterns.push(pattern);
        alike.push(id);
        id
    }

    fn list(&mut self, list: &'p PatternList<Glob>) -> u32 {
        let sorted = |globs: &'p [Glob]| {
            let texts: BTreeSet<&str> = globs.iter().map(Glob::as_str).collect();
            texts.into_iter().collect::<Vec<&str>>()
        };
        let next = self.lists.len() as u32;
        let id = *(self.by_list)
            .entry((sorted(&list.positive), sorted(&list.negative)))
            .or_insert(next);
        if id == next {
            self.lists.push(list);
        }
        id
    }

    fn condition(
        &mut self,
        rule: &'p Rule,
        condition: Option<&'p Expression>,
        absent: Truth,
    ) -> Test {
        let Some(condition) = condition else {
            return Test::Always(absent);
        };
        let text = condition.as_str();
        let verbs = rule.verbs.iter().fold(0, |bits, v| bits | bit(*v));
        let constant = self.constants.entry((text, verbs));
        let constant = *constant.or_insert_with(|| {
            condition.constant(&rule.verbs).map(|truth| match truth {
                Ok(true) => Truth::Yes,
                Ok(false) => Truth::No,
                Err(_) => Truth::Fails,
            })
        });
        if let Some(truth) = constant {
            return Test::Always(truth);
        }
        let next = self.conditions.len() as u32;
        let id = *self.by_condition.entry(text).or_insert(next);
        if id == next {
            self.conditions.push(Condition {
                text,
                failure_matters: false,
                rules: Vec::new(),
            });
        }
        let condition = &mut self.conditions[id as usize];
        condition.rules.push(&rule.id);
        // A failed allow does not apply, and a failed monitor marks: the same as no and yes. But one
        // condition may stand under `when` of one rule and under `unless` of another.
        let plain = rule.effect == RuleEffect::Decide(Effect::Allow) && absent == Truth::Yes;
        condition.failure_matters |= !plain;
        Test::Free(id)
    }
}

/// What a pattern is written as, up to spellings of one host.
fn key(pattern: &ResourcePattern) -> String {
    match pattern {
        ResourcePattern::Any => "*".into(),
        ResourcePattern::Path(g) => format!("path {}", g.as_str()),
        ResourcePattern::Endpoint(e) => {
            let host = match &e.host {
                HostPattern::Any => "*".into(),
                HostPattern::Name(g) => format!("name {}", g.as_str()),
                HostPattern::Addresses(a) => format!("at {a}"),
            };
            format!("{:?} {:?} {host}", e.protocol, e.ports)
        }
        ResourcePattern::Addresses(a) => format!("cidr {a}"),
        ResourcePattern::Unix(UnixPattern::Any) => "unix".into(),
        ResourcePattern::Unix(UnixPattern::Path(g) | UnixPattern::Abstract(g)) => {
            format!("unix {}", g.as_str())
        }
        ResourcePattern::Host(g) => format!("dns {}", g.as_str()),
        ResourcePattern::Label(l) => format!("label {}", l.name),
        ResourcePattern::Named(g) => format!("named {}", g.as_str()),
    }
}

/// A subject of every kind that the lists tell apart; those that a run may have come first.
fn subject_classes(
    lists: &[&PatternList<Glob>],
    meter: &mut Meter,
) -> Result<Vec<SubjectClass>, TooLarge> {
    let mut globs: BTreeMap<&str, &Glob> = BTreeMap::new();
    for glob in lists
        .iter()
        .flat_map(|l| l.positive.iter().chain(&l.negative))
    {
        globs.insert(glob.as_str(), glob);
    }
    let ids: HashMap<&str, u32> = globs
        .keys()
        .zip(0..)
        .map(|(text, id)| (*text, id))
        .collect();
    let mut seen = BTreeSet::new();
    let mut classes: Vec<SubjectClass> = Vec::new();
    for universe in [Universe::agent(), Universe::text()] {
        let mut machine = Machine::new(universe, false);
        for (owner, glob) in globs.values().enumerate() {
            glob.alternatives()
                .iter()
                .for_each(|nfa| machine.add(owner as u32, nfa));
        }
        machine.explore(meter, &mut |meter, cell| {
            let mut bits = vec![0u64; lists.len().div_ceil(64)];
            for (n, list) in lists.iter().enumerate() {
                let has = |g: &Glob| cell.owners.binary_search(&ids[g.as_str()]).is_ok();
                bits[n / 64] |= u64::from(list.matches(has)) << (n % 64);
            }
            meter.pay(lists.len())?;
            if seen.insert(bits.clone()) {
                classes.push(SubjectClass {
                    text: String::from_utf8_lossy(cell.text).into_owned(),
                    lists: bits,
                });
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    // The name a run has when nothing is said reads best.
    const USUAL: &str = "agent:agent";
    let usual = |class: &SubjectClass| {
        lists.iter().zip(0..).all(|(list, n)| {
            class.has(Some(n)) == list.matches(|g| g.matches(USUAL.as_bytes(), false))
        })
    };
    if let Some(class) = classes.iter_mut().find(|c| usual(c)) {
        class.text = USUAL.into();
    }
    Ok(classes)
}
