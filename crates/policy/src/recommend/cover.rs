//! The exact test whether a proposed pattern touches the never-cover set.
//!
//! Whether a proposed pattern touches it is decided by the automata: the product of the
//! two lines of steps, and of the automaton of canonical paths, is searched for a text that both match.
//! No samples: if no such path exists, none is found, and the other way round.
//!
//! Invariants: the search visits each state of the product once; a text that is no canonical path (an
//! empty segment, `.`, `..`, a zero byte) is no witness; a directory counts, so that `dir/**` touches
//! `dir`.

use std::collections::{HashSet, VecDeque};

use agentwall_action::{ObjectKind, Resource, Verb};

use crate::{
    glob::{Glob, GlobKind},
    load::{Source, load},
    nfa::{ByteSet, Nfa, Step},
    pattern::{ResourcePattern, UnixPattern},
    policy::Policy,
    rule::{Layer, Rule},
    vars::Variables,
};

use super::{
    RealPath, RecommendError,
    never::{self, Entry, NEVER, Tier},
};

/// The never-cover set for one set of variables.
#[derive(Debug)]
pub(crate) struct NeverCover {
    policy: Policy,
}

/// What a pattern has in common with the set.
#[derive(Debug)]
pub(crate) struct Touch {
    /// The entry of the set.
    pub entry: &'static Entry,
    /// A path that both match.
    pub witness: Vec<u8>,
}

impl NeverCover {
    /// The set. Needs a home and a state folder: without them it would have holes.
    pub fn new(variables: &Variables, real: Option<&RealPath<'_>>) -> Result<Self, RecommendError> {
        let source = Source::new("the never-cover set", never::as_policy(), Layer::User);
        let policy = load(&[source], variables).map_err(RecommendError::NeverCover)?;
        Ok(NeverCover {
            policy: match real {
                Some(real) => policy.with_real_paths(real),
                None => policy,
            },
        })
    }

    fn entries(&self) -> impl Iterator<Item = (&'static Entry, &Rule)> {
        NEVER
            .iter()
            .filter_map(|e| Some((e, self.policy.rule(e.id)?)))
    }

    /// The entry that keeps this very object out of any proposal.
    pub fn holds(&self, verb: Verb, resource: &Resource) -> Option<&'static Entry> {
        let mut resource = resource.clone();
        if let Resource::Path(p) = &mut resource {
            // What a name stands for may be a directory one day.
            p.kind = ObjectKind::Directory;
        }
        let mut entries = self.entries().filter(|(e, _)| e.tier == Tier::Never);
        let found = entries.find(|(_, rule)| rule.matches_object(verb, &resource));
        found.map(|(entry, _)| entry)
    }

    /// Whether an entry is about this object.
    pub fn covers(&self, entry: &Entry, verb: Verb, resource: &Resource) -> bool {
        let rule = self.policy.rule(entry.id);
        rule.is_some_and(|r| r.matches_object(verb, resource))
    }

    /// The entries that a pattern touches for one of these verbs, each with a witness. A pattern that
    /// is one literal path cannot touch the second tier.
    pub fn touches(&self, verbs: &[Verb], glob: &Glob, sockets: bool) -> Vec<Touch> {
        let counts = |e: &Entry| e.tier == Tier::Never || !is_literal(glob);
        let entries = self
            .entries()
            .filter(|(e, r)| counts(e) && r.verbs.iter().any(|v| verbs.contains(v)));
        let touch = |(entry, rule): (&'static Entry, &Rule)| {
            let mut globs = rule
                .resource
                .positive
                .iter()
                .flat_map(|p| globs(p, sockets));
            let witness = globs.find_map(|never| common(glob, never))?;
            Some(Touch { entry, witness })
        };
        entries.filter_map(touch).collect()
    }

    /// What a loaded rule covers of the set and does not take out of itself.
    pub fn leak(&self, rule: &Rule) -> Option<Touch> {
        let carved = |entry: &Entry| {
            self.policy.rule(entry.id).is_some_and(|never| {
                let mut all = never.resource.positive.iter();
                all.all(|p| rule.resource.negative.contains(p))
            })
        };
        let touches = rule.resource.positive.iter().flat_map(|p| match p {
            ResourcePattern::Path(glob) => self.touches(&rule.verbs, glob, false),
            ResourcePattern::Unix(UnixPattern::Path(glob)) => self.touches(&rule.verbs, glob, true),
            _ => Vec::new(),
        });
        let mut open = touches.filter(|t| !carved(t.entry));
        open.next()
    }
}

fn is_literal(glob: &Glob) -> bool {
    glob.alternatives().iter().all(|a| a.as_literal().is_some())
}

fn globs(pattern: &ResourcePattern, sockets: bool) -> Vec<&Glob> {
    match pattern {
        ResourcePattern::Path(glob) if !sockets => vec![glob],
        ResourcePattern::Unix(UnixPattern::Path(glob)) if sockets => vec![glob],
        ResourcePattern::Label(label) if sockets => {
            label.paths.iter().chain(label.sockets.iter()).collect()
        }
        ResourcePattern::Label(label) => label.paths.iter().collect(),
        _ => Vec::new(),
    }
}

/// A canonical path that both globs match, if there is one; among the shortest.
pub(crate) fn common(a: &Glob, b: &Glob) -> Option<Vec<u8>> {
    debug_assert!(a.kind() == GlobKind::Path && b.kind() == GlobKind::Path);
    a.alternatives().iter().find_map(|x| {
        let mut others = b.alternatives().iter();
        others.find_map(|y| intersection(x, y))
    })
}

/// Where a text stands as a canonical path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Canon {
    Start,
    /// After a slash.
    Slash,
    Dot,
    DotDot,
    Name,
}

impl Canon {
    fn next(self, b: u8) -> Option<Canon> {
        match (self, b) {
            (_, 0) => None,
            (Canon::Start | Canon::Name, b'/') => Some(Canon::Slash),
            (Canon::Start, _) | (_, b'/') => None,
            (Canon::Slash, b'.') => Some(Canon::Dot),
            (Canon::Dot, b'.') => Some(Canon::DotDot),
            _ => Some(Canon::Name),
        }
    }
}

type State = (usize, usize, Canon);

/// A text in both languages: breadth first over the product.
fn intersection(a: &Nfa, b: &Nfa) -> Option<Vec<u8>> {
    // Most pairs hang on different branches: the literal fronts say so at once.
    let both = a.literal().len().min(b.literal().len());
    if a.literal()[..both] != b.literal()[..both] {
        return None;
    }
    let mut seen: HashSet<State> = HashSet::new();
    let mut came: Vec<(State, usize, u8)> = Vec::new();
    let mut queue: VecDeque<usize> = VecDeque::new();
    let mut visit = |state: State,
                     from: usize,
                     byte: u8,
                     queue: &mut VecDeque<usize>,
                     came: &mut Vec<(State, usize, u8)>| {
        if seen.insert(state) {
            came.push((state, from, byte));
            queue.push_back(came.len() - 1);
        }
    };
    visit((0, 0, Canon::Start), usize::MAX, 0, &mut queue, &mut came);
    while let Some(at) = queue.pop_front() {
        let ((x, y, canon), ..) = came[at];
        // The root folder is the one canonical path that ends with a slash.
        let whole = canon == Canon::Name || canon == Canon::Slash && spell(&came, at).len() == 1;
        if whole && a.accepts(&[x], true) && b.accepts(&[y], true) {
            return Some(spell(&came, at));
        }
        // Past a loop without a byte.
        if is_loop(a, x) {
            visit((x + 1, y, canon), at, 0, &mut queue, &mut came);
        }
        if is_loop(b, y) {
            visit((x, y + 1, canon), at, 0, &mut queue, &mut came);
        }
        for (on, to_x) in moves(a, x) {
            for (also, to_y) in moves(b, y) {
                for byte in representatives(&on.and(&also)) {
                    if let Some(next) = canon.next(byte) {
                        visit((to_x, to_y, next), at, byte, &mut queue, &mut came);
                    }
                }
            }
        }
    }
    None
}

fn spell(came: &[(State, usize, u8)], mut at: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some((_, from, byte)) = came.get(at).copied() {
        if byte != 0 {
            text.push(byte);
        }
        at = from;
    }
    text.reverse();
    text
}

fn is_loop(nfa: &Nfa, state: usize) -> bool {
    matches!(nfa.step_at(state), Some(Step::Loop(_)))
}

fn moves(nfa: &Nfa, state: usize) -> Vec<(ByteSet, usize)> {
    let slash = ByteSet::single(b'/');
    match nfa.step_at(state) {
        None => vec![],
        Some(Step::Byte(set)) => vec![(set, state + 1)],
        Some(Step::Loop(set)) => vec![(set, state)],
        Some(Step::DirsOpen) => vec![(slash, state + 1), (slash, state + 2)],
        Some(Step::DirsLoop) => vec![(ByteSet::all(), state), (slash, state + 1)],
        Some(Step::BelowOpen) => vec![(slash, state + 1)],
        Some(Step::BelowFirst) => vec![(ByteSet::all(), state + 1)],
    }
}

/// One byte for each way the automaton of canonical paths can go; a readable one where there is one.
fn representatives(set: &ByteSet) -> Vec<u8> {
    let mut found = Vec::with_capacity(3);
    found.extend([b'/', b'.'].into_iter().filter(|b| set.contains(*b)));
    let readable = (b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(b'A'..=b'Z')
        .chain(1..=255);
    let mut other = readable.filter(|b| !matches!(b, b'/' | b'.') && set.contains(*b));
    found.extend(other.next());
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::new(text, GlobKind::Path).unwrap()
    }

    #[test]
    fn exact_on_known_pairs() {
        for (a, b, expected) in [
            ("/w/*", "/w/**/hooks/**", true),
            ("/w/*.rs", "**/.git/hooks/**", false),
            ("/w/.git/objects/*/*", "**/.git/hooks/**", true),
            (
                "/w/.git/objects/[0-9a-f][0-9a-f]/*",
                "**/.git/hooks/**",
                false,
            ),
            ("/w/**", "**/.git/hooks/**", true),
            ("/tmp/*", "/tmp/krb5cc_0", true),
            ("/tmp/tmp*", "/tmp/krb5cc_0", false),
            ("/a/?", "/a/[.]", false),
            ("/a/**", "/a/**/?", true),
            ("/a/[.-]", "/a/[+-.]", true),
            ("/a/[+.]", "/a/[!+]", false),
            ("/", "/**", true),
            ("/a", "/a/**", true),
            ("/a/b*c", "/a/*x*", true),
            ("/a/b*c", "/a/c*", false),
        ] {
            let found = common(&glob(a), &glob(b));
            assert_eq!(found.is_some(), expected, "{a} {b} {found:?}");
            if let Some(text) = found {
                assert!(
                    glob(a).matches(&text, true) && glob(b).matches(&text, true),
                    "{text:?}"
                );
            }
        }
    }

    fn part() -> impl Strategy<Value = String> {
        proptest::sample::select(vec![
            "a", "b", "ab", "*", "**", "a*", "*b", "?", "[ab]", "{a,bb}",
        ])
        .prop_map(str::to_owned)
    }

    fn pattern() -> impl Strategy<Value = String> {
        proptest::collection::vec(part(), 1..4).prop_map(|p| format!("/{}", p.join("/")))
    }

    proptest! {
        /// Against every path of a small universe: what both match is found, and a witness is one.
        #[test]
        fn agrees_with_enumeration(a in pattern(), b in pattern()) {
            let (a, b) = (glob(&a), glob(&b));
            let found = common(&a, &b);
            if let Some(text) = &found {
                prop_assert!(a.matches(text, true) && b.matches(text, true));
            }
            let names = ["a", "b", "ab", "bb", "aa", "c"];
            let mut universe: Vec<String> = vec!["/".into()];
            let mut level = vec![String::new()];
            for _ in 0..3 {
                level = level.iter().flat_map(|p| names.iter().map(move |n| format!("{p}/{n}"))).collect();
                universe.extend(level.iter().cloned());
            }
            let meets = universe.iter().any(|p| a.matches(p.as_bytes(), true) && b.matches(p.as_bytes(), true));
            prop_assert!(!meets || found.is_some());
        }
    }
}
