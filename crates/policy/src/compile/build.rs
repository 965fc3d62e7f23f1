//! The compiler: from the rules that can matter in a session to a table.

use std::collections::{BTreeMap, HashMap};

use agentwall_action::{Protocol, Verb};

use super::{
    dfa,
    fold::{Known, Residue},
    pack::{ENDING_ONLY, PASSED_ONLY, pack},
    parts::{ByteSets, Code, LOOP, SET, TextPart, Walk, narrowed},
    plane::{ANY, AddressKey, Kind, Member, Part, PartId, Plane, is_v4, networks},
    ranges::{Range, elementary},
    table::{
        BYTE_SETS, CERTAIN, CONDITIONAL, EFFECT_SHIFT, HEAD, ITSELF, NO_CLASS, ONE, PLANES,
        PRIVATE, RANK, RULE_WORDS, Table, Words, field,
    },
};
use crate::{
    policy::Policy,
    rule::{Rule, RuleEffect},
};

/// Most words of a table: 256 MiB. A policy that needs more is decided by the interpreter.
const MAX_WORDS: u32 = 64 << 20;
/// Most members of all sets of parts of one plane together.
const MAX_MEMBERS: usize = 8 << 20;

/// What a compilation made.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Rules that can matter for the subject and the facts of the session.
    pub rules: usize,
    /// Bytes of the table.
    pub bytes: usize,
    /// The automata of texts.
    pub automata: Vec<AutomatonReport>,
    /// Patterns that an automaton only narrows down; each is then walked by itself.
    pub lines: usize,
    /// Patterns whose loops were taken out of the automata because they cost too many states.
    pub cut: usize,
    /// Kinds of objects that were left to the interpreter because their table would be too large.
    pub interpreted: Vec<&'static str>,
}

/// One automaton of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AutomatonReport {
    /// The kind of objects.
    pub kind: &'static str,
    /// `front`, `back`, `inner` or `anywhere`.
    pub walk: &'static str,
    /// The parts it finds.
    pub parts: usize,
    /// Its states.
    pub states: usize,
    /// Its byte classes.
    pub classes: usize,
}

/// A rule that can matter, with what is left of its conditions.
pub(crate) struct Live<'p> {
    pub rule: &'p Rule,
    /// Its place in its layer.
    pub position: u32,
    pub conditional: bool,
}

/// A compiled table and how to find the rules behind its ranks.
pub(crate) struct Built {
    pub table: Table,
    /// For each layer the positions of its rules by rank; the marks, as layer and position, at last.
    pub ranks: Vec<Vec<(u32, u32)>>,
    pub report: Report,
}

/// The rules of one layer or the marks, in the order of their ranks.
type Ranked<'p> = Vec<Live<'p>>;

/// `states` is the most states of an automaton that has loops; `None` for twice its steps.
pub(crate) fn build(policy: &Policy, known: &Known<'_>, states: Option<usize>) -> Built {
    let mut layers: Vec<Ranked<'_>> = Vec::new();
    let mut marks: Ranked<'_> = Vec::new();
    let mut mark_layers = Vec::new();
    for (depth, layer) in policy.layers.iter().enumerate() {
        let mut ranked: Ranked<'_> = Vec::new();
        for (position, rule) in (0u32..).zip(&layer.rules) {
            let conditional = match known.residue(rule) {
                Residue::Never => continue,
                Residue::Always => false,
                Residue::Sometimes => true,
            };
            let live = Live {
                rule,
                position,
                conditional,
            };
            match rule.effect {
                RuleEffect::Decide(_) => ranked.push(live),
                RuleEffect::Monitor => {
                    mark_layers.push(depth as u32);
                    marks.push(live);
                }
            }
        }
        let strictness = |l: &Live<'_>| match l.rule.effect {
            RuleEffect::Decide(effect) => std::cmp::Reverse(effect as u32),
            RuleEffect::Monitor => std::cmp::Reverse(0),
        };
        ranked.sort_by_key(|l| (l.rule.priority, strictness(l), l.position));
        layers.push(ranked);
    }
    let mut ranks: Vec<Vec<(u32, u32)>> = (0u32..)
        .zip(&layers)
        .map(|(depth, l)| l.iter().map(|live| (depth, live.position)).collect())
        .collect();
    let mark_positions = marks.iter().map(|l| l.position);
    ranks.push(mark_layers.into_iter().zip(mark_positions).collect());
    layers.push(marks);

    let mut report = Report {
        rules: layers.iter().map(Vec::len).sum(),
        ..Report::default()
    };
    let mut words = Words::with_head(HEAD);
    let mut sets = ByteSets::default();
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        let mut compiling = Compiling::new(kind, &layers, &mut sets, states);
        match compiling.write(&mut words, &sets, &mut report) {
            Some(offset) => words.set((PLANES + i) as u32, offset),
            None => report.interpreted.push(kind.name()),
        }
    }
    words.set(BYTE_SETS as u32, words.len());
    for set in &sets.list {
        let halves = set.words().map(|w| [w as u32, (w >> 32) as u32]);
        words.extend(halves.as_flattened());
    }
    let table = words.finish();
    report.bytes = table.words.len() * 4;
    Built {
        table,
        ranks,
        report,
    }
}

/// The number of verbs; [`Verb::ALL`] is in the order of their discriminants.
pub(crate) const VERBS: usize = Verb::ALL.len();

struct Compiling<'a, 'p> {
    plane: Plane,
    layers: &'a [Ranked<'p>],
    /// For each layer the rules that can match objects of the kind, with their rank.
    members: Vec<Vec<(u32, Member)>>,
    /// Sets of parts, each once. 0 is empty, 1 is [`ANY`] alone.
    sets: Vec<Vec<PartId>>,
    set_index: HashMap<Vec<PartId>, u32>,
    set_members: usize,
    states: Option<usize>,
}

impl<'a, 'p> Compiling<'a, 'p> {
    fn new(
        kind: Kind,
        layers: &'a [Ranked<'p>],
        sets: &mut ByteSets,
        states: Option<usize>,
    ) -> Self {
        let mut plane = Plane::new(kind);
        let of_kind = |rule: &Rule| rule.verbs.iter().any(|v| kind.is_of(v.family()));
        let members = layers
            .iter()
            .map(|ranked| {
                (0u32..)
                    .zip(ranked)
                    .filter(|(_, live)| of_kind(live.rule))
                    .filter_map(|(rank, live)| Some((rank, plane.member(live.rule, sets)?)))
                    .collect()
            })
            .collect();
        let mut compiling = Compiling {
            plane,
            layers,
            members,
            sets: Vec::new(),
            set_index: HashMap::new(),
            set_members: 0,
            states,
        };
        compiling.set(Vec::new());
        compiling.set(vec![ANY]);
        compiling
    }

    fn set(&mut self, parts: Vec<PartId>) -> u32 {
        if let Some(id) = self.set_index.get(&parts) {
            return *id;
        }
        let id = self.sets.len() as u32;
        self.set_members += parts.len();
        self.sets.push(parts.clone());
        self.set_index.insert(parts, id);
        id
    }

    /// Writes the plane; `None` if it grows beyond every bound.
    fn write(&mut self, words: &mut Words, bytes: &ByteSets, report: &mut Report) -> Option<u32> {
        let automata = self.automata(words, bytes, report)?;
        let (v4, v6, wrapped, public) = self.addresses(words);
        let tcp = self.ports(Protocol::Tcp, words);
        let udp = self.ports(Protocol::Udp, words);
        let labels = self.labels(words);
        if self.set_members > MAX_MEMBERS {
            return None;
        }
        let (verbs, classes) = self.verb_classes();
        let handles = self.plane.handles();
        let mut asked = vec![false; self.plane.parts.len()];
        let lines: Vec<u32> = self.plane.lines.iter().map(|l| words.list(l)).collect();
        let checks: Vec<u32> = (self.plane.atoms.iter().zip(&handles))
            .map(|(atom, handle)| check(atom, Some(*handle), &lines, &mut asked, words))
            .collect();
        let mut rules = Vec::new();
        for (layer, members) in self.layers.iter().zip(&self.members) {
            rules.push(self.rules(layer, members, &lines, &mut asked, words));
        }
        let leaves = self.leaves(&verbs, classes, &handles, &checks, words)?;
        let private = Part::Address(AddressKey::Set("private"));
        let private = self.plane.parts.iter().position(|p| *p == private);
        let mut member_words = Vec::new();
        for set in &self.sets {
            let known = set.iter().filter(|p| asked[**p as usize]);
            let list: Vec<u32> = known.copied().collect();
            let is_private = private.is_some_and(|p| set.contains(&(p as u32)));
            let flag = if is_private { PRIVATE } else { 0 };
            member_words.push(words.list(&list) | flag);
        }
        let members = words.list(&member_words);
        let offset = words.len();
        let mut fields = [0u32; field::COUNT];
        fields[field::SETS] = self.sets.len() as u32;
        fields[field::LAYERS] = self.layers.len() as u32 - 1;
        fields[field::CLASSES] = classes;
        fields[field::VERBS] = offset + field::COUNT as u32;
        fields[field::AUTOMATA] = automata;
        fields[field::V4] = v4;
        fields[field::V6] = v6;
        fields[field::WRAPPED] = wrapped;
        fields[field::TCP] = tcp;
        fields[field::UDP] = udp;
        fields[field::LABELS] = labels;
        fields[field::PUBLIC] = public;
        fields[field::MEMBERS] = members;
        fields[field::LEAVES] = leaves;
        fields[field::RULES] = fields[field::VERBS] + VERBS as u32;
        words.extend(&fields);
        words.extend(&verbs);
        words.extend(&rules);
        (words.len() < MAX_WORDS).then_some(offset)
    }

    /// Classes of verbs that no rule of the plane tells apart.
    fn verb_classes(&self) -> (Vec<u32>, u32) {
        let mut known: Vec<Vec<bool>> = Vec::new();
        let class = |verb: &Verb| {
            if !self.plane.kind.is_of(verb.family()) {
                return NO_CLASS;
            }
            let rules = self.layers.iter().zip(&self.members);
            let named: Vec<bool> = rules
                .flat_map(|(layer, members)| members.iter().map(move |(rank, _)| (layer, rank)))
                .map(|(layer, rank)| layer[*rank as usize].rule.verbs.contains(verb))
                .collect();
            let at = known.iter().position(|k| *k == named).unwrap_or_else(|| {
                known.push(named);
                known.len() - 1
            });
            at as u32
        };
        let verbs: Vec<u32> = Verb::ALL.iter().map(class).collect();
        (verbs, known.len() as u32)
    }

    fn automata(
        &mut self,
        words: &mut Words,
        bytes: &ByteSets,
        report: &mut Report,
    ) -> Option<u32> {
        // Cutting parts of one walk makes parts of another: only when nothing has to be cut any more
        // is anything written.
        let built = loop {
            match self.determinise(bytes) {
                Ok(built) => break built,
                Err((parts, wide)) => {
                    report.cut += parts.len();
                    let left = |p: &PartId| Some((*p, narrowed(self.text(*p)?, wide)));
                    let instead = parts.iter().filter_map(left).collect();
                    self.plane.cut(instead);
                }
            }
        };
        report.lines += self.plane.atoms.iter().filter(|a| a.line.is_some()).count();
        let mut list = Vec::new();
        for (walk, parts, dfa) in built {
            let mut outcomes = vec![0u32; dfa.states.len()];
            let ids = |found: &[u32]| {
                let mut ids: Vec<PartId> = found.iter().map(|p| parts[*p as usize]).collect();
                ids.sort_unstable();
                ids
            };
            for (state, outcome) in dfa.states.iter().zip(&mut outcomes) {
                let Some(found) = &state.outcome else {
                    continue;
                };
                let three = [&found.passed, &found.ending, &found.directory];
                *outcome = match three.map(|f| self.set(ids(f))) {
                    [passed, 0, 0] => passed | PASSED_ONLY,
                    [0, ending, 0] => ending | ENDING_ONLY,
                    three => words.list(&three),
                };
            }
            if self.set_members > MAX_MEMBERS {
                return None;
            }
            report.automata.push(AutomatonReport {
                kind: self.plane.kind.name(),
                walk: walk.name(),
                parts: parts.len(),
                states: dfa.states.len(),
                classes: dfa.class_count,
            });
            let offset = pack(&dfa, walk, &outcomes, words)?;
            list.extend([walk as u32, offset]);
        }
        Some(words.list(&list))
    }

    /// Builds the automata of every walk; the error is the parts to cut, and what to cut from them.
    #[allow(clippy::type_complexity)]
    fn determinise(
        &self,
        bytes: &ByteSets,
    ) -> Result<Vec<(Walk, Vec<PartId>, dfa::Dfa)>, (Vec<PartId>, Code)> {
        let mut used = vec![false; self.plane.parts.len()];
        for part in self.plane.atoms.iter().flat_map(|a| &a.parts) {
            used[*part as usize] = true;
        }
        let mut built = Vec::new();
        for walk in Walk::ALL {
            let of_walk: Vec<PartId> = (0u32..)
                .zip(&self.plane.parts)
                .filter(|(id, _)| used[*id as usize])
                .filter(|(_, p)| matches!(p, Part::Text(t) if t.walk == walk))
                .map(|(id, _)| id)
                .collect();
            if of_walk.is_empty() {
                continue;
            }
            if let Ok(dfa) = self.determinise_one(walk, &of_walk, bytes) {
                built.push((walk, of_walk, dfa));
                continue;
            }
            let (seeking, others): (Vec<PartId>, Vec<PartId>) = of_walk
                .into_iter()
                .partition(|p| self.text(*p).is_some_and(TextPart::seeks));
            for group in [others, seeking] {
                if group.is_empty() {
                    continue;
                }
                match self.determinise_one(walk, &group, bytes) {
                    Ok(dfa) => built.push((walk, group, dfa)),
                    Err(wide) => {
                        let wide_ones = |p: &PartId| self.text(*p).is_some_and(|t| t.has(wide));
                        return Err((group.into_iter().filter(wide_ones).collect(), wide));
                    }
                }
            }
        }
        Ok(built)
    }

    fn text(&self, part: PartId) -> Option<&TextPart> {
        match &self.plane.parts[part as usize] {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The error is what to cut from the parts: loops, else sets.
    fn determinise_one(
        &self,
        walk: Walk,
        ids: &[PartId],
        bytes: &ByteSets,
    ) -> Result<dfa::Dfa, Code> {
        let parts: Vec<&TextPart> = ids.iter().filter_map(|p| self.text(*p)).collect();
        let steps: usize = parts.iter().map(|p| p.codes.len()).sum();
        let wide = [LOOP, SET]
            .into_iter()
            .find(|w| parts.iter().any(|p| p.has(*w)));
        let limit = match wide {
            Some(_) => self.states.unwrap_or(2 * steps + 4096),
            // Nothing to cut: a trie.
            None => usize::MAX,
        };
        dfa::build(&parts, walk, bytes, limit).map_err(|_| wide.unwrap_or(SET))
    }

    fn addresses(&mut self, words: &mut Words) -> (u32, u32, u32, u32) {
        let public = Part::Address(AddressKey::Set("public"));
        let public = self.plane.parts.iter().position(|p| *p == public);
        if public.is_some() {
            self.plane.part(Part::Address(AddressKey::Set("private")));
        }
        let (mut v4, mut v6, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
        for (id, part) in (0u32..).zip(&self.plane.parts) {
            let Part::Address(key) = part else { continue };
            for network in networks(*key) {
                let range = Range::of_network(&network, id);
                match is_v4(&network) {
                    true => v4.push(range),
                    false => v6.push(range),
                }
                if is_v4(&network) && matches!(key, AddressKey::Set(_)) {
                    wrapped.push(range);
                }
            }
        }
        let public = public.map_or(0, |p| self.set(vec![p as u32]));
        let v4 = self.ranges(&v4, 1, words);
        let v6 = self.ranges(&v6, 4, words);
        let wrapped = self.ranges(&wrapped, 1, words);
        (v4, v6, wrapped, public)
    }

    fn ports(&mut self, protocol: Protocol, words: &mut Words) -> u32 {
        let ranges: Vec<Range> = (0u32..)
            .zip(&self.plane.parts)
            .filter_map(|(id, part)| match part {
                Part::Port(p, ports) if *p == protocol => Some(Range {
                    low: u128::from(*ports.start()),
                    high: u128::from(*ports.end()),
                    part: id,
                }),
                _ => None,
            })
            .collect();
        self.ranges(&ranges, 1, words)
    }

    /// A list: where ranges begin, each as `width` words from the highest to the lowest, then as many
    /// sets.
    fn ranges(&mut self, ranges: &[Range], width: usize, words: &mut Words) -> u32 {
        let mut ranges = elementary(ranges);
        // What begins behind the last number is the end of a range that reaches it.
        ranges.retain(|(begin, _)| width == 4 || *begin <= u128::from(u32::MAX));
        let mut list = Vec::with_capacity(ranges.len() * (width + 1));
        for (begin, _) in &ranges {
            let four = [96, 64, 32, 0].map(|shift| (begin >> shift) as u32);
            list.extend(&four[4 - width..]);
        }
        for (_, parts) in ranges {
            list.push(self.set(parts));
        }
        words.list(&list)
    }

    fn labels(&mut self, words: &mut Words) -> u32 {
        let names: BTreeMap<String, u32> = (0u32..)
            .zip(&self.plane.parts)
            .filter_map(|(id, part)| match part {
                Part::Label(name) => Some((name.clone(), id)),
                _ => None,
            })
            .collect();
        let mut list = Vec::new();
        for (name, part) in names {
            let bytes: Vec<u32> = name.bytes().map(u32::from).collect();
            let set = self.set(vec![part]);
            list.extend([words.list(&bytes), set]);
        }
        words.list(&list)
    }

    /// The rules of a layer, [`RULE_WORDS`] for each rank.
    fn rules(
        &self,
        layer: &Ranked<'_>,
        members: &[(u32, Member)],
        lines: &[u32],
        asked: &mut [bool],
        words: &mut Words,
    ) -> u32 {
        let mut negative: HashMap<u32, u32> = HashMap::new();
        for (rank, member) in members {
            let atoms = member
                .negative
                .iter()
                .map(|a| &self.plane.atoms[*a as usize]);
            let checks: Vec<u32> = atoms.map(|a| check(a, None, lines, asked, words)).collect();
            negative.insert(*rank, words.list(&checks));
        }
        let mut list = Vec::with_capacity(layer.len() * RULE_WORDS);
        let (mut group, mut before) = (0u32, None);
        for (rank, live) in (0u32..).zip(layer) {
            if before.is_some_and(|p| p != live.rule.priority) {
                group += 1;
            }
            before = Some(live.rule.priority);
            let negative = negative.get(&rank).copied().unwrap_or(0);
            list.extend([group, negative]);
        }
        words.list(&list)
    }

    /// For each set, layer and class the candidate lists that can matter.
    fn leaves(
        &self,
        verbs: &[u32],
        classes: u32,
        handles: &[PartId],
        checks: &[u32],
        words: &mut Words,
    ) -> Option<u32> {
        let marks = self.layers.len() - 1;
        let row = self.layers.len() * classes as usize;
        if self.sets.len() * row > MAX_WORDS as usize {
            return None;
        }
        let mut leaves = vec![0; self.sets.len() * row];
        for (depth, layer) in self.layers.iter().enumerate() {
            for class in 0..classes {
                let verb = verbs.iter().position(|c| *c == class);
                let verb = Verb::ALL[verb.unwrap_or(0)];
                let mut by_part: BTreeMap<PartId, Vec<Candidate>> = BTreeMap::new();
                for (rank, member) in &self.members[depth] {
                    let live = &layer[*rank as usize];
                    if !live.rule.verbs.contains(&verb) {
                        continue;
                    }
                    for atom in &member.positive {
                        let check = checks[*atom as usize];
                        let certain = check == 0 && member.negative.is_empty() && !live.conditional;
                        by_part
                            .entry(handles[*atom as usize])
                            .or_default()
                            .push(Candidate {
                                rank: *rank,
                                check,
                                certain,
                                conditional: live.conditional,
                                effect: match live.rule.effect {
                                    RuleEffect::Decide(effect) => effect as u32,
                                    RuleEffect::Monitor => 0,
                                },
                                priority: live.rule.priority,
                            });
                    }
                }
                let lists: HashMap<PartId, (Vec<Candidate>, u32)> = by_part
                    .into_iter()
                    .map(|(part, mut candidates)| {
                        candidates.sort_by_key(|c| (c.rank, c.check));
                        if depth != marks {
                            shorten(&mut candidates);
                        }
                        let list: Vec<u32> = candidates.iter().flat_map(Candidate::words).collect();
                        let offset = words.list(&list);
                        (part, (candidates, offset))
                    })
                    .collect();
                let column = depth * classes as usize + class as usize;
                for (set, leaf) in self.sets.iter().zip(leaves.chunks_exact_mut(row)) {
                    let of_set = set.iter().filter_map(|p| lists.get(p));
                    let mut matter: Vec<&(Vec<Candidate>, u32)> = of_set.collect();
                    if depth != marks {
                        let certain = matter.iter().flat_map(|(c, _)| c).filter(|c| c.certain);
                        if let Some(best) = certain.min_by_key(|c| c.rank).copied() {
                            matter.retain(|(list, _)| {
                                list.iter().any(|c| {
                                    c.rank <= best.rank
                                        || (c.conditional && c.priority == best.priority)
                                })
                            });
                        }
                    }
                    let only = match matter.as_slice() {
                        [(candidates, _)] => candidates.first().filter(|_| candidates.len() == 1),
                        _ => None,
                    };
                    let only = only.filter(|c| c.certain);
                    let offsets: Vec<u32> = matter.iter().map(|(_, at)| *at).collect();
                    leaf[column] = match (offsets.as_slice(), only) {
                        (_, Some(candidate)) => candidate.words()[0] | ONE | ITSELF,
                        ([one], _) => one | ONE,
                        (lists, _) => words.list(lists),
                    };
                }
                if words.len() > MAX_WORDS {
                    return None;
                }
            }
        }
        // Not as a list: other lists are looked up by content, and this one is long.
        let at = words.len();
        words.extend(&leaves);
        Some(at)
    }
}

/// A rule that may match where a part was found.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    rank: u32,
    check: u32,
    certain: bool,
    conditional: bool,
    effect: u32,
    priority: i64,
}

impl Candidate {
    fn words(&self) -> [u32; 2] {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(self.certain, CERTAIN) | flag(self.conditional, CONDITIONAL);
        let effect = self.effect << EFFECT_SHIFT;
        [(self.rank & RANK) | effect | flags, self.check]
    }
}

/// Drops what can no longer matter after the first certain candidate: everything but conditions of the
/// same priority, whose failure is to be reported.
fn shorten(candidates: &mut Vec<Candidate>) {
    let Some(at) = candidates.iter().position(|c| c.certain) else {
        return;
    };
    let priority = candidates[at].priority;
    let mut index = 0;
    candidates.retain(|c| {
        let keep = index <= at || (c.conditional && c.priority == priority);
        index += 1;
        keep
    });
}

/// What is left to check of an atom when the part `found` is known: a list of the least number of
/// slashes, the line or 0, and the other parts. 0 if nothing is left.
fn check(
    atom: &super::plane::Atom,
    found: Option<PartId>,
    lines: &[u32],
    asked: &mut [bool],
    words: &mut Words,
) -> u32 {
    let others = atom.parts.iter().filter(|p| Some(**p) != found);
    let others: Vec<PartId> = others.copied().collect();
    if others.is_empty() && atom.min_slashes == 0 && atom.line.is_none() {
        return 0;
    }
    for part in &others {
        asked[*part as usize] = true;
    }
    let line = atom.line.map_or(0, |l| lines[l as usize]);
    let mut list = vec![atom.min_slashes, line];
    list.extend(others);
    words.list(&list)
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Path => "path",
            Kind::Endpoint => "endpoint",
            Kind::Host => "host",
            Kind::Socket => "unix socket",
            Kind::Abstract => "abstract unix socket",
            Kind::Named => "name",
        }
    }
}

impl Walk {
    const fn name(self) -> &'static str {
        match self {
            Walk::Front => "front",
            Walk::Back => "back",
            Walk::Inner => "inner",
            Walk::Anywhere => "anywhere",
        }
    }
}
