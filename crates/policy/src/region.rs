//! Placement queries about paths: what can happen anywhere in a tree?
//!
//! An enforcement point turns trees with one answer into mounts and traps only the rest. The answers
//! here are over-approximations: a [`Region`] lists every effect that some path of the tree may get,
//! never fewer. Whether a pattern can match below a directory, and whether it matches all of it, is
//! read off the pattern's automaton after the directory's own path; everything conditional or partly
//! matching counts as "may".

use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Effect, Facts, Subject, Verb, VerbFamily, is_within};

use crate::{
    glob::Glob,
    nfa::Nfa,
    pattern::ResourcePattern,
    policy::{LayerPolicy, Policy},
    rule::{Rule, RuleEffect},
};

/// What can happen in a tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Region {
    /// Every effect that some path of the tree may get. Empty only for an empty tree: one that lies
    /// inside an exception.
    pub effects: BTreeSet<Effect>,
    /// Whether every path of the tree certainly gets the same effect.
    pub uniform: bool,
    /// Whether a `monitor` rule may mark some path of the tree.
    pub monitored: bool,
    /// The rule that decides everywhere, if it is one; `None` for the default or for several.
    pub rule: Option<String>,
    /// A sentence for reports.
    pub reason: String,
}

impl Region {
    /// The effect of every path, if it is certain to be one.
    pub fn effect(&self) -> Option<Effect> {
        match self.uniform {
            true => self.effects.first().copied(),
            false => None,
        }
    }
}

/// How a rule stands to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It matches nothing there.
    Disjoint,
    /// It may match something there.
    Partial,
    /// It matches everything there.
    Cover,
}

/// A tree: `dir` and what is below it, without the exceptions and what is below them.
struct Tree<'a> {
    /// The path of the directory; empty for the root.
    dir: &'a [u8],
    except: &'a [PathBuf],
    facts: &'a Facts,
}

/// What one layer says about a tree.
#[derive(Default)]
struct Opinion<'p> {
    effects: BTreeSet<Effect>,
    /// Ids of rules that may decide; the default adds `None`.
    deciders: BTreeSet<Option<&'p str>>,
    /// Whether the layer may have no opinion on some path.
    abstains: bool,
    partial: bool,
}

impl Policy {
    /// The literal places that path patterns of file, process and device rules hang on: `/a/b` for
    /// `/a/b/**`, `/a` for `/a/*.x`, `/a/f` for `/a/f`, nothing for `**/x`. Negated members and the
    /// built-in places of labels are in it. Between two neighbouring anchors the answers of
    /// [`Policy::region`] can only differ by patterns that hang on neither. In the order of their
    /// bytes, each once.
    pub fn anchors(&self) -> Vec<PathBuf> {
        let on_paths = |rule: &&Rule| rule.verbs.iter().any(|v| is_path_verb(*v));
        let patterns = self
            .rules()
            .filter(on_paths)
            .flat_map(|rule| rule.resource.positive.iter().chain(&rule.resource.negative));
        let mut anchors: Vec<OsString> = Vec::new();
        let mut seen: Vec<&Arc<[Glob]>> = Vec::new();
        let mut add = |glob: &Glob| {
            let places = glob.alternatives().iter().filter_map(anchor);
            anchors.extend(places);
        };
        for pattern in patterns {
            match pattern {
                ResourcePattern::Path(glob) => add(glob),
                // Many rules share the places of a label.
                ResourcePattern::Label(l) if !seen.iter().any(|s| Arc::ptr_eq(s, &l.paths)) => {
                    seen.push(&l.paths);
                    l.paths.iter().for_each(&mut add);
                }
                _ => {}
            }
        }
        anchors.sort_unstable();
        anchors.dedup();
        anchors.into_iter().map(PathBuf::from).collect()
    }

    /// Whether the policy cannot tell two verbs apart: every rule names both or neither, and they
    /// have the same default. What holds for one object and one of them holds for the other.
    pub fn is_same_for(&self, a: Verb, b: Verb) -> bool {
        let alike = |(depth, layer): (usize, &LayerPolicy)| {
            self.unmatched(depth, a) == self.unmatched(depth, b)
                && (layer.rules.iter()).all(|r| r.verbs.contains(&a) == r.verbs.contains(&b))
        };
        a.family() == b.family() && self.layers.iter().enumerate().all(alike)
    }

    /// The rules that may decide or mark some path of a tree, in the order they are looked at: those
    /// behind the answer of [`Policy::region`] to the same question, and those that only mark.
    pub fn deciders(
        &self,
        subject: &Subject,
        verb: Verb,
        dir: &Path,
        except: &[PathBuf],
        facts: &Facts,
    ) -> Vec<&Rule> {
        let tree = Tree::new(dir, except, facts);
        if except.iter().any(|e| is_within(dir, e)) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (depth, layer) in self.layers.iter().enumerate() {
            let unmatched = self.unmatched(depth, verb);
            let own = opinion(layer, subject, verb, &tree, unmatched, &mut false);
            let marks = |rule: &Rule| {
                rule.effect == RuleEffect::Monitor
                    && rule.verbs.contains(&verb)
                    && rule.matches_subject(subject)
                    && tree.fit(rule) != Fit::Disjoint
            };
            let decides = |rule: &Rule| own.deciders.contains(&Some(rule.id.as_str()));
            let rules = layer.rules.iter();
            found.extend(rules.filter(|rule| decides(rule) || marks(rule)));
        }
        found
    }

    /// Which effects can a path get for `verb`, if it is `dir` (taken to be a directory) or below it,
    /// and is not one of `except` or below one?
    ///
    /// Sound for every action with these facts, as long as `facts.labels` holds every label that an
    /// object of the tree may be given. Conditions are not evaluated: a rule that has one counts as
    /// "may match". `dir` and `except` are absolute canonical paths.
    pub fn region(
        &self,
        subject: &Subject,
        verb: Verb,
        dir: &Path,
        except: &[PathBuf],
        facts: &Facts,
    ) -> Region {
        let tree = Tree::new(dir, except, facts);
        if except.iter().any(|e| is_within(dir, e)) {
            return Region {
                effects: BTreeSet::new(),
                uniform: false,
                monitored: false,
                rule: None,
                reason: "the tree is empty".into(),
            };
        }
        let mut total: Option<Opinion<'_>> = None;
        let mut monitored = false;
        for (depth, layer) in self.layers.iter().enumerate() {
            let unmatched = self.unmatched(depth, verb);
            let own = opinion(layer, subject, verb, &tree, unmatched, &mut monitored);
            total = Some(match total {
                None => own,
                Some(upper) => stricter(upper, own),
            });
        }
        let Opinion {
            effects,
            deciders,
            partial,
            ..
        } = total.unwrap_or_default();
        let uniform = effects.len() == 1;
        let rule = match (uniform, partial, deciders.len()) {
            (true, false, 1) => deciders.first().copied().flatten().map(str::to_owned),
            _ => None,
        };
        let names: Vec<&str> = deciders
            .iter()
            .map(|d| d.unwrap_or("the default"))
            .collect();
        let list: Vec<&str> = effects.iter().map(|e| e.as_str()).collect();
        Region {
            reason: format!("{} by {}", list.join(" or "), names.join(", ")),
            effects,
            uniform,
            monitored,
            rule,
        }
    }
}

fn is_path_verb(verb: Verb) -> bool {
    matches!(
        verb.family(),
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device
    )
}

/// The last whole segment of the literal prefix; `None` where the pattern floats from the start.
fn anchor(nfa: &Nfa) -> Option<OsString> {
    if nfa.is_any() {
        return None;
    }
    let literal = nfa.literal();
    let whole: &[u8] = if nfa.as_literal().is_some() || nfa.as_tree().is_some() {
        literal
    } else if nfa.floats() {
        // `/a/**/x` hangs on `/a`; a leading `**/` hangs on nothing.
        match literal {
            [] => return None,
            literal => literal,
        }
    } else {
        let slash = literal.iter().rposition(|b| *b == b'/')?;
        &literal[..slash]
    };
    let bytes = if whole.is_empty() { b"/" } else { whole };
    Some(OsString::from_vec(bytes.to_vec()))
}

/// What the rules of one layer say about a tree.
fn opinion<'p>(
    layer: &'p LayerPolicy,
    subject: &Subject,
    verb: Verb,
    tree: &Tree<'_>,
    unmatched: Option<Effect>,
    monitored: &mut bool,
) -> Opinion<'p> {
    let mut opinion = Opinion::default();
    let mut decided: Option<i64> = None;
    let mut i = 0;
    while i < layer.rules.len() {
        let priority = layer.rules[i].priority;
        let same = layer.rules[i..]
            .iter()
            .take_while(|r| r.priority == priority)
            .count();
        let mut cover: Option<(Effect, &str)> = None;
        let mut partial: Vec<(Effect, &str)> = Vec::new();
        for rule in &layer.rules[i..i + same] {
            if !rule.verbs.contains(&verb) || !rule.matches_subject(subject) {
                continue;
            }
            let mut fit = tree.fit(rule);
            if rule.is_conditional() {
                fit = fit.min(Fit::Partial);
            }
            match (rule.effect, fit) {
                (_, Fit::Disjoint) => {}
                (RuleEffect::Monitor, _) => *monitored = true,
                (RuleEffect::Decide(_), _) if decided.is_some() => {}
                (RuleEffect::Decide(e), Fit::Partial) => partial.push((e, &rule.id)),
                (RuleEffect::Decide(e), Fit::Cover) => {
                    if cover.is_none_or(|(c, _)| e > c) {
                        cover = Some((e, &rule.id));
                    }
                }
            }
        }
        for (effect, id) in partial {
            // One that is as strict as the cover changes no effect, but may be the one that is named.
            if cover.is_none_or(|(c, _)| effect >= c) {
                opinion.effects.insert(effect);
                opinion.deciders.insert(Some(id));
                opinion.partial = true;
            }
        }
        if let Some((effect, id)) = cover {
            opinion.effects.insert(effect);
            opinion.deciders.insert(Some(id));
            decided = Some(priority);
        }
        i += same;
    }
    if decided.is_none() {
        match unmatched {
            Some(effect) => {
                opinion.effects.insert(effect);
                opinion.deciders.insert(None);
            }
            None => opinion.abstains = true,
        }
    }
    opinion
}

/// The strictest of two layers, for every pair of effects that may meet.
fn stricter<'p>(upper: Opinion<'p>, lower: Opinion<'p>) -> Opinion<'p> {
    if lower.effects.is_empty() {
        return upper;
    }
    let mut effects: BTreeSet<Effect> = upper
        .effects
        .iter()
        .flat_map(|u| lower.effects.iter().map(move |l| *u.max(l)))
        .collect();
    if lower.abstains {
        effects.extend(&upper.effects);
    }
    let mut deciders = upper.deciders;
    deciders.extend(lower.deciders);
    Opinion {
        effects,
        deciders,
        abstains: false,
        partial: upper.partial || lower.partial,
    }
}

impl<'a> Tree<'a> {
    fn new(dir: &'a Path, except: &'a [PathBuf], facts: &'a Facts) -> Self {
        let bytes = dir.as_os_str().as_bytes();
        Tree {
            dir: if bytes == b"/" { b"" } else { bytes },
            except,
            facts,
        }
    }

    fn fit(&self, rule: &Rule) -> Fit {
        let best = |patterns: &[ResourcePattern]| {
            let fits = patterns.iter().map(|p| self.pattern_fit(p));
            fits.max().unwrap_or(Fit::Disjoint)
        };
        let positive = match rule.resource.positive.as_slice() {
            [] => Fit::Cover,
            patterns => best(patterns),
        };
        match best(&rule.resource.negative) {
            Fit::Disjoint => positive,
            Fit::Partial => positive.min(Fit::Partial),
            Fit::Cover => Fit::Disjoint,
        }
    }

    fn pattern_fit(&self, pattern: &ResourcePattern) -> Fit {
        match pattern {
            ResourcePattern::Any => Fit::Cover,
            ResourcePattern::Path(glob) => self.glob_fit(glob),
            ResourcePattern::Label(label) if self.facts.labels.contains(&label.name) => Fit::Cover,
            ResourcePattern::Label(label) => {
                let fits = label.paths.iter().map(|g| self.glob_fit(g));
                fits.max().unwrap_or(Fit::Disjoint)
            }
            _ => Fit::Disjoint,
        }
    }

    fn glob_fit(&self, glob: &Glob) -> Fit {
        if glob.is_elsewhere(self.dir) {
            return Fit::Disjoint;
        }
        let fits = glob.alternatives().iter().map(|nfa| self.nfa_fit(nfa));
        fits.max().unwrap_or(Fit::Disjoint)
    }

    fn nfa_fit(&self, nfa: &Nfa) -> Fit {
        // Most patterns hang on another branch of the tree: their literal front says so at once.
        let front = nfa.literal();
        let common = front.len().min(self.dir.len());
        if front[..common] != self.dir[..common] {
            return Fit::Disjoint;
        }
        let states = nfa.after(self.dir);
        if states.is_empty() {
            return Fit::Disjoint;
        }
        if nfa.covers_below(&states) {
            return Fit::Cover;
        }
        // Everything it matches begins with this text; is all of that inside an exception?
        let literal = nfa.literal();
        let inside = self.except.iter().any(|e| {
            let e = e.as_os_str().as_bytes();
            match literal.strip_prefix(e) {
                Some([]) => nfa.as_literal().is_some() || nfa.as_tree().is_some() || nfa.floats(),
                Some(rest) => rest.starts_with(b"/"),
                None => false,
            }
        });
        let outside = !inside && !self.continues(nfa, &states);
        if inside || outside {
            Fit::Disjoint
        } else {
            Fit::Partial
        }
    }

    /// Whether the pattern matches the directory itself or can go on with a `/`.
    fn continues(&self, nfa: &Nfa, states: &[usize]) -> bool {
        let mut below = self.dir.to_vec();
        below.push(b'/');
        nfa.accepts(states, true) || !nfa.after(&below).is_empty()
    }
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
