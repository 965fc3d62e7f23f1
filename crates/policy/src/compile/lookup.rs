//! Looking an action up in a table: what parts its object has, then the first candidate that holds.
//!
//! Nothing here allocates, locks or waits. What an object has is gathered as numbers of sets in a small
//! array; a path with more of them than fit, which takes a policy and a path made for each other, is
//! left to the interpreter, as is everything that is not canonical.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentwall_action::{Effect, Endpoint, Facts, ObjectKind, Protocol, Resource};

use super::{
    line::line_matches,
    plane::Kind,
    table::{
        CERTAIN, CONDITIONAL, EFFECT_SHIFT, ITSELF, NO_CLASS, ONE, PRIVATE, RANK, RULE_WORDS,
        Table, field,
    },
    walk::{Automaton, Found},
};
use crate::address::wrapped;

/// Most candidate lists that are merged.
const MAX_LISTS: usize = 24;

/// The object of an action, as the table sees it.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    pub kind: Kind,
    /// The path, name or, for an endpoint, the host's name if it is known.
    text: Option<&'a [u8]>,
    directory: bool,
}

impl<'a> Object<'a> {
    /// `None` for an object that no face makes: it is not canonical.
    pub(crate) fn of(resource: &'a Resource) -> Option<Object<'a>> {
        use std::os::unix::ffi::OsStrExt;
        let object = |kind, text| Object {
            kind,
            text,
            directory: false,
        };
        Some(match resource {
            Resource::Path(p) if p.as_bytes().first() == Some(&b'/') => Object {
                directory: p.kind == ObjectKind::Directory,
                ..object(Kind::Path, Some(p.as_bytes()))
            },
            Resource::Path(_) => return None,
            Resource::Host(name) => object(Kind::Host, Some(name.as_bytes())),
            Resource::Named(name) => object(Kind::Named, Some(name.as_bytes())),
            Resource::Unix(path) => {
                let bytes = path.as_os_str().as_bytes();
                match bytes.first() {
                    Some(b'@') => object(Kind::Abstract, Some(bytes)),
                    Some(b'/') => object(Kind::Socket, Some(bytes)),
                    _ => return None,
                }
            }
            Resource::Endpoint(e) => {
                let unnamed = e.ip.is_some_and(|ip| ip.is_loopback());
                let name = e.host.as_deref().map(str::as_bytes);
                let name = name.or(unnamed.then_some(&b"localhost"[..]));
                object(Kind::Endpoint, name)
            }
        })
    }
}

/// One plane of a table.
#[derive(Clone, Copy)]
pub(crate) struct View<'t> {
    table: &'t Table,
    plane: usize,
}

/// What a walk over candidates says about one of them.
pub(crate) enum Held {
    Yes,
    No,
    /// A condition failed; the rule counts in the safe direction.
    Failed,
}

/// A rule whose patterns match: the first word of its candidate.
#[derive(Clone, Copy)]
pub(crate) struct Hit(u32);

impl Hit {
    /// The place of the rule in its layer's order.
    #[inline]
    pub(crate) fn rank(self) -> u32 {
        self.0 & RANK
    }

    /// What the rule does.
    #[inline]
    pub(crate) fn effect(self) -> Effect {
        match self.0 >> EFFECT_SHIFT & 7 {
            0 => Effect::Allow,
            1 => Effect::Isolate,
            2 => Effect::Ask,
            3 => Effect::RateLimit,
            _ => Effect::Deny,
        }
    }

    /// Whether conditions are left to evaluate.
    #[inline]
    pub(crate) fn conditional(self) -> bool {
        self.0 & CONDITIONAL != 0
    }
}

/// The answer of a layer's rules.
#[derive(Default)]
pub(crate) struct Answer {
    pub decided: Option<Hit>,
    /// The strictest rule whose condition failed.
    pub floor: Option<Hit>,
    pub failed: bool,
}

impl<'t> View<'t> {
    /// The plane for objects of a kind; `None` if it was left to the interpreter.
    pub(crate) fn new(table: &'t Table, kind: Kind) -> Option<View<'t>> {
        let plane = table.at(super::table::PLANES + kind as usize) as usize;
        (plane != 0).then_some(View { table, plane })
    }

    #[inline]
    fn field(&self, field: usize) -> u32 {
        self.table.at(self.plane + field)
    }

    /// The class of a verb by its place in the vocabulary.
    #[inline]
    pub(crate) fn class(&self, verb: usize) -> Option<u32> {
        let class = self.table.at(self.field(field::VERBS) as usize + verb);
        (class != NO_CLASS).then_some(class)
    }

    /// Adds what the object has; `false` if that is too much.
    #[inline]
    pub(crate) fn look(
        &self,
        object: &Object<'_>,
        resource: &Resource,
        facts: &Facts,
        found: &mut Found,
    ) -> bool {
        found.add(1);
        if let Some(text) = object.text {
            for pair in self.table.list(self.field(field::AUTOMATA)).chunks_exact(2) {
                let Some(automaton) = Automaton::at(self.table, pair[1] as usize) else {
                    return false;
                };
                automaton.walk(pair[0], text, object.directory, found);
            }
        }
        if let Resource::Endpoint(endpoint) = resource {
            self.endpoint(endpoint, found);
        }
        if !facts.labels.is_empty() {
            self.labels(facts, found);
        }
        !found.is_full()
    }

    fn labels(&self, facts: &Facts, found: &mut Found) {
        for pair in self.table.list(self.field(field::LABELS)).chunks_exact(2) {
            let name = self.table.list(pair[0]);
            let same = |label: &String| {
                let bytes = label.bytes().map(u32::from);
                bytes.eq(name.iter().copied())
            };
            if facts.labels.iter().any(same) {
                found.add(pair[1]);
            }
        }
    }

    fn endpoint(&self, endpoint: &Endpoint, found: &mut Found) {
        let ports = match endpoint.protocol {
            Protocol::Tcp => field::TCP,
            Protocol::Udp => field::UDP,
        };
        found.add(self.narrow(ports, u32::from(endpoint.port)));
        let asks = [field::V4, field::V6, field::WRAPPED, field::PUBLIC];
        if asks.iter().all(|f| self.field(*f) == 0) {
            return;
        }
        match (endpoint.ip, endpoint.host.as_deref()) {
            (Some(ip), _) => self.address(ip, found),
            (None, Some(host)) if crate::pattern::is_local_name(host) => {
                self.address(Ipv4Addr::LOCALHOST.into(), found);
                self.address(Ipv6Addr::LOCALHOST.into(), found);
            }
            (None, Some(host)) => {
                let digit = host.bytes().next_back().is_some_and(|b| b.is_ascii_digit());
                if let (true, Ok(ip)) = (digit || host.contains(':'), host.parse()) {
                    self.address(ip, found);
                }
            }
            (None, None) => {}
        }
    }

    fn address(&self, ip: IpAddr, found: &mut Found) {
        let ip = crate::address::unmap(ip);
        let mut private = false;
        let mut add = |set: u32, found: &mut Found| {
            private |= self.members(set) & PRIVATE != 0;
            found.add(set);
        };
        match ip {
            IpAddr::V4(v4) => add(self.narrow(field::V4, v4.into()), found),
            IpAddr::V6(v6) => {
                add(self.wide(v6.into()), found);
                for v4 in wrapped(v6).into_iter().flatten() {
                    add(self.narrow(field::WRAPPED, v4.into()), found);
                }
            }
        }
        if !private {
            found.add(self.field(field::PUBLIC));
        }
    }

    /// The set of the range that a number of one word is in.
    fn narrow(&self, ranges: usize, number: u32) -> u32 {
        let list = self.table.list(self.field(ranges));
        let (begins, sets) = list.split_at(list.len() / 2);
        let after = begins.partition_point(|b| *b <= number);
        after.checked_sub(1).map_or(0, |at| sets[at])
    }

    /// The set of the range that an IPv6 address is in.
    fn wide(&self, number: u128) -> u32 {
        let list = self.table.list(self.field(field::V6));
        let (begins, sets) = list.split_at(list.len() / 5 * 4);
        let begin = |at: usize| {
            let four = &begins[4 * at..4 * at + 4];
            four.iter().fold(0u128, |n, w| n << 32 | u128::from(*w))
        };
        let (mut low, mut high) = (0, sets.len());
        while low < high {
            let middle = low.midpoint(high);
            match begin(middle) <= number {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low.checked_sub(1).map_or(0, |at| sets[at])
    }

    /// The list of parts of a set that checks ask for, with a flag.
    #[inline]
    fn members(&self, set: u32) -> u32 {
        let list = self.field(field::MEMBERS);
        self.table.at(list as usize + 1 + set as usize)
    }

    fn has(&self, part: u32, found: &Found) -> bool {
        found.sets().iter().any(|set| {
            let parts = self.table.list(self.members(*set) & !PRIVATE);
            parts.contains(&part)
        })
    }

    /// Whether what is left of an atom holds.
    fn holds(&self, check: u32, object: &Object<'_>, found: &Found) -> bool {
        let [min_slashes, line, parts @ ..] = self.table.list(check) else {
            return true;
        };
        parts.iter().all(|p| self.has(*p, found))
            && (*min_slashes == 0 || slashes(object.text) >= *min_slashes)
            && (*line == 0 || self.line(*line, object))
    }

    fn line(&self, line: u32, object: &Object<'_>) -> bool {
        let codes = self.table.list(line);
        let sets = self.table.at(super::table::BYTE_SETS);
        object
            .text
            .is_some_and(|text| line_matches(self.table, sets, codes, text, object.directory))
    }

    /// One word of a rule.
    fn rule(&self, layer: usize, rank: u32, word: usize) -> u32 {
        let layers = self.field(field::RULES) as usize;
        let list = self.table.at(layers + layer) as usize;
        self.table.at(list + 1 + rank as usize * RULE_WORDS + word)
    }

    /// Goes through the candidates of a layer in the order of their ranks, each rule once; `each` is
    /// called for those whose patterns match and says whether to go on. `false` if there are too many
    /// lists.
    #[inline]
    fn candidates(
        &self,
        layer: usize,
        class: u32,
        object: &Object<'_>,
        found: &Found,
        mut each: impl FnMut(Hit) -> bool,
    ) -> bool {
        let classes = self.field(field::CLASSES);
        // All leaves of a set lie together.
        let row = (self.field(field::LAYERS) + 1) * classes;
        let column = self.field(field::LEAVES) as usize + layer * classes as usize + class as usize;
        // Most objects lead to one rule, in one place.
        let leaf_of = |set: &u32| column + *set as usize * row as usize;
        let leaves = found.sets().iter().map(|s| self.table.at(leaf_of(s)));
        let mut leaves = leaves.filter(|l| *l != 0);
        match (leaves.next(), leaves.next()) {
            (None, _) => return true,
            (Some(leaf), None) if leaf & (ONE | ITSELF) == ONE | ITSELF => {
                each(Hit(leaf));
                return true;
            }
            _ => {}
        }
        let mut cursors: [(u32, u32); MAX_LISTS] = [(0, 0); MAX_LISTS];
        let mut open = 0;
        for set in found.sets() {
            let leaf = leaf_of(set);
            let (word, own) = (self.table.at(leaf), [self.table.at(leaf) & !ONE]);
            if word & (ONE | ITSELF) == ONE | ITSELF {
                // The leaf is the first word of a candidate that is certain: the other is not read.
                let Some(slot) = cursors.get_mut(open) else {
                    return false;
                };
                *slot = (leaf as u32, leaf as u32 + 1);
                open += 1;
                continue;
            }
            let lists = match word & ONE {
                0 => self.table.list(word),
                _ => &own,
            };
            for list in lists {
                let Some(slot) = cursors.get_mut(open) else {
                    return false;
                };
                *slot = (list + 1, list + 1 + self.table.at(*list as usize));
                open += 1;
            }
        }
        let mut done = None;
        loop {
            let heads = cursors[..open].iter_mut().filter(|(at, end)| at < end);
            let Some(next) = heads.min_by_key(|(at, _)| self.table.at(*at as usize) & RANK) else {
                return true;
            };
            let at = next.0 as usize;
            next.0 += 2;
            let hit = Hit(self.table.at(at));
            let rank = hit.rank();
            if done == Some(rank) {
                continue;
            }
            if hit.0 & CERTAIN == 0 {
                if !self.holds(self.table.at(at + 1), object, found) {
                    continue;
                }
                let negative = self.table.list(self.rule(layer, rank, 1));
                if negative.iter().any(|c| self.holds(*c, object, found)) {
                    done = Some(rank);
                    continue;
                }
            }
            done = Some(rank);
            if !each(hit) {
                return true;
            }
        }
    }

    /// The answer of a layer; `condition` is asked for the rules that have one. `None` if the
    /// interpreter has to.
    #[inline]
    pub(crate) fn decide(
        &self,
        layer: usize,
        class: u32,
        object: &Object<'_>,
        found: &Found,
        mut condition: impl FnMut(u32) -> Held,
    ) -> Option<Answer> {
        let mut answer = Answer::default();
        let group = |hit: Hit| self.rule(layer, hit.rank(), 0);
        let whole = self.candidates(layer, class, object, found, |hit| {
            if let Some(decided) = answer.decided {
                // Only conditions of the same priority are still looked at, for their failure.
                if group(decided) != group(hit) {
                    return false;
                }
                if hit.conditional() {
                    answer.failed |= matches!(condition(hit.rank()), Held::Failed);
                }
                return true;
            }
            let held = match hit.conditional() {
                true => condition(hit.rank()),
                false => Held::Yes,
            };
            match held {
                Held::No => {}
                Held::Yes => answer.decided = Some(hit),
                Held::Failed => {
                    answer.failed = true;
                    // An allow whose condition fails does not apply; the others are a floor.
                    let stricter = answer.floor.is_none_or(|f| hit.effect() > f.effect());
                    if hit.effect() > Effect::Allow && stricter {
                        answer.floor = Some(hit);
                    }
                }
            }
            true
        });
        whole.then_some(answer)
    }

    /// Every mark that matches, in order, until `each` says no. `false` if the interpreter has to.
    #[inline]
    pub(crate) fn marks(
        &self,
        class: u32,
        object: &Object<'_>,
        found: &Found,
        each: impl FnMut(Hit) -> bool,
    ) -> bool {
        let layer = self.layers();
        let rules = self.table.at(self.field(field::RULES) as usize + layer);
        rules == 0 || self.candidates(layer, class, object, found, each)
    }

    pub(crate) fn layers(&self) -> usize {
        self.field(field::LAYERS) as usize
    }
}

fn slashes(text: Option<&[u8]>) -> u32 {
    let count = text.map_or(0, |t| t.iter().filter(|b| **b == b'/').count());
    u32::try_from(count).unwrap_or(u32::MAX)
}
