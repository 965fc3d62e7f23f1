//! Looking an action up in a table: what parts its object has, then the first candidate that holds.
//!
//! Nothing here allocates, locks or waits. What an object has is gathered as numbers of sets in a small
//! array; a path with more of them than fit, which takes a policy and a path made for each other, is
//! left to the interpreter, as is everything that is not canonical.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentwall_action::{Effect, Endpoint, Facts, ObjectKind, Protocol, Resource};

use super::{
    pack::{BASE, CLASS_WORDS, HEAD_WORDS, PASSED, WAITS},
    parts::{BELOW_FIRST, BELOW_OPEN, Code, DIRS_LOOP, DIRS_OPEN, LOOP, SET, SLASH, Walk},
    plane::Kind,
    table::{CERTAIN, NO_CLASS, PRIVATE, RANK, RULE_WORDS, Table, field},
};
use crate::address::wrapped;

/// Most sets of parts that one object may have.
const MAX_FOUND: usize = 24;
/// Most candidate lists that are merged.
const MAX_LISTS: usize = 24;
/// Most steps of a line that are walked without allocating: four words of states.
const LINE_WORDS: usize = 66;

/// The sets of parts that an object has.
pub(crate) struct Found {
    sets: [u32; MAX_FOUND],
    len: usize,
    full: bool,
}

impl Found {
    #[inline]
    fn add(&mut self, set: u32) {
        // The same again, as while a text repeats itself, says nothing new.
        if set == 0 || self.sets[self.len.saturating_sub(1)] == set {
            return;
        }
        match self.sets.get_mut(self.len) {
            Some(slot) => {
                *slot = set;
                self.len += 1;
            }
            None => self.full = true,
        }
    }

    #[inline]
    fn sets(&self) -> &[u32] {
        &self.sets[..self.len]
    }
}

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

/// The answer of a layer's rules: ranks.
#[derive(Default)]
pub(crate) struct Answer {
    pub decided: Option<u32>,
    /// The strictest rule whose condition failed.
    pub floor: Option<u32>,
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

    /// What the object has; `None` if it has too much.
    #[inline]
    pub(crate) fn look(
        &self,
        object: &Object<'_>,
        resource: &Resource,
        facts: &Facts,
    ) -> Option<Found> {
        let mut found = Found {
            sets: [0; MAX_FOUND],
            len: 0,
            full: false,
        };
        found.add(1);
        if let Some(text) = object.text {
            for pair in self.table.list(self.field(field::AUTOMATA)).chunks_exact(2) {
                let automaton = Automaton::at(self.table, pair[1] as usize)?;
                automaton.walk(pair[0], text, object.directory, &mut found);
            }
        }
        if let Resource::Endpoint(endpoint) = resource {
            self.endpoint(endpoint, &mut found);
        }
        if !facts.labels.is_empty() {
            self.labels(facts, &mut found);
        }
        (!found.full).then_some(found)
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
    #[inline]
    pub(crate) fn rule(&self, layer: usize, rank: u32, word: usize) -> u32 {
        let layers = self.field(field::RULES) as usize;
        let list = self.table.at(layers + layer) as usize;
        self.table.at(list + 1 + rank as usize * RULE_WORDS + word)
    }

    /// What a rule does.
    pub(crate) fn effect(&self, layer: usize, rank: u32) -> Effect {
        match self.rule(layer, rank, 0) {
            0 => Effect::Allow,
            1 => Effect::Isolate,
            2 => Effect::Ask,
            3 => Effect::RateLimit,
            _ => Effect::Deny,
        }
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
        mut each: impl FnMut(u32) -> bool,
    ) -> bool {
        let sets = self.field(field::SETS);
        let row = layer as u32 * self.field(field::CLASSES) + class;
        let leaves = self.field(field::LEAVES) as usize + row as usize * sets as usize;
        let mut cursors: [(u32, u32); MAX_LISTS] = [(0, 0); MAX_LISTS];
        let mut open = 0;
        for set in found.sets() {
            for list in self.table.list(self.table.at(leaves + *set as usize)) {
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
            let (head, check) = (self.table.at(at), self.table.at(at + 1));
            next.0 += 2;
            let rank = head & RANK;
            if done == Some(rank) {
                continue;
            }
            if head & CERTAIN == 0 {
                if !self.holds(check, object, found) {
                    continue;
                }
                let negative = self.table.list(self.rule(layer, rank, 2));
                if negative.iter().any(|c| self.holds(*c, object, found)) {
                    done = Some(rank);
                    continue;
                }
            }
            done = Some(rank);
            if !each(rank) {
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
        let whole = self.candidates(layer, class, object, found, |rank| {
            let conditional = self.rule(layer, rank, 3) != 0;
            if let Some(decided) = answer.decided {
                // Only conditions of the same priority are still looked at, for their failure.
                let same = self.rule(layer, decided, 1) == self.rule(layer, rank, 1);
                if !same {
                    return false;
                }
                if conditional {
                    answer.failed |= matches!(condition(rank), Held::Failed);
                }
                return true;
            }
            match if conditional {
                condition(rank)
            } else {
                Held::Yes
            } {
                Held::No => {}
                Held::Yes => answer.decided = Some(rank),
                Held::Failed => {
                    answer.failed = true;
                    let effect = |rank: u32| self.rule(layer, rank, 0);
                    // An allow whose condition fails does not apply; the others are a floor.
                    let stricter = answer.floor.is_none_or(|f| effect(rank) > effect(f));
                    if effect(rank) > 0 && stricter {
                        answer.floor = Some(rank);
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
        each: impl FnMut(u32) -> bool,
    ) -> bool {
        let layer = self.field(field::LAYERS) as usize;
        self.candidates(layer, class, object, found, each)
    }

    pub(crate) fn layers(&self) -> usize {
        self.field(field::LAYERS) as usize
    }
}

fn slashes(text: Option<&[u8]>) -> u32 {
    let count = text.map_or(0, |t| t.iter().filter(|b| **b == b'/').count());
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The next `/` from a place on. Segments are short: a call of a vectorised search costs more than the
/// eight bytes at a time that are looked at here (Warren, "Hacker's Delight", section 6-1).
#[inline]
fn next_slash(text: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut at = from;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let differs = u64::from_le_bytes(*eight) ^ (ONES * b'/' as u64);
        let zero = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if zero != 0 {
            return Some(at + zero.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = text.get(at..)?;
    rest.iter().position(|b| *b == b'/').map(|skip| at + skip)
}

/// An automaton where it lies in the table.
struct Automaton<'t> {
    table: &'t Table,
    classes: &'t [u8; 256],
    cells: &'t [[u32; 2]],
    class_count: usize,
    start: u32,
}

impl<'t> Automaton<'t> {
    #[inline]
    fn at(table: &'t Table, offset: usize) -> Option<Automaton<'t>> {
        let words = table.words.get(offset..)?;
        let classes = bytemuck::cast_slice(words.get(..CLASS_WORDS)?);
        let cells = words.get(HEAD_WORDS..)?;
        let cells = cells.get(..2 * words[CLASS_WORDS + 2] as usize)?;
        Some(Automaton {
            table,
            classes: classes.try_into().ok()?,
            cells: bytemuck::cast_slice(cells),
            class_count: words[CLASS_WORDS] as usize,
            start: words[CLASS_WORDS + 1],
        })
    }

    #[inline]
    fn walk(&self, walk: u32, text: &[u8], directory: bool, found: &mut Found) {
        const BACK: u32 = Walk::Back as u32;
        const FRONT: u32 = Walk::Front as u32;
        let end = match walk {
            BACK => self.backwards(text, found),
            FRONT => self.forwards::<false>(text, found),
            _ => self.forwards::<true>(text, found),
        };
        let [_, ending, below] = self.outcome(end);
        found.add(ending);
        if directory {
            found.add(below);
        }
    }

    #[inline]
    fn next(&self, at: u32, byte: u8) -> u32 {
        let base = (at & BASE) as usize;
        let cell = self.cells[base + 1 + usize::from(self.classes[usize::from(byte)])];
        let default = self.cells[base][1];
        // Both are loaded at once, and neither waits for the comparison or for a guess about it.
        let own = u32::from(cell[0] == base as u32).wrapping_neg();
        (cell[1] & own) | (default & !own)
    }

    /// The state at the end; where nothing is alive and nothing can begin, the walk ends at once.
    #[inline]
    fn forwards<const AGAIN: bool>(&self, text: &[u8], found: &mut Found) -> u32 {
        let mut at = self.start;
        let mut i = 0;
        while let Some(byte) = text.get(i) {
            if at & WAITS != 0 && *byte != b'/' {
                match next_slash(text, i + 1) {
                    Some(slash) => i = slash,
                    None => return at,
                }
                continue;
            }
            at = self.next(at, *byte);
            i += 1;
            if at & PASSED != 0 {
                found.add(self.outcome(at)[0]);
            }
            if !AGAIN && at & BASE == 0 {
                return at;
            }
        }
        at
    }

    #[inline]
    fn backwards(&self, text: &[u8], found: &mut Found) -> u32 {
        let mut at = self.start;
        let mut rest = text;
        while let Some((byte, before)) = rest.split_last() {
            if at & WAITS != 0 && *byte != b'/' {
                match memchr::memrchr(b'/', rest) {
                    Some(slash) => rest = &rest[..=slash],
                    None => return at,
                }
                continue;
            }
            at = self.next(at, *byte);
            rest = before;
            if at & PASSED != 0 {
                found.add(self.outcome(at)[0]);
            }
            if at & BASE == 0 {
                return at;
            }
        }
        at
    }

    /// The sets of a state: passed, at the end, at the end of a directory's path.
    #[inline]
    fn outcome(&self, at: u32) -> [u32; 3] {
        let base = at & BASE;
        let cell = self.cells[base as usize + 1 + self.class_count];
        if cell[0] != base {
            return [0; 3];
        }
        let list = cell[1] as usize;
        [1, 2, 3].map(|i| self.table.at(list + i))
    }
}

/// Walks a whole pattern by itself: the same as [`crate::nfa::Nfa::matches`], on codes and without
/// allocating. A pattern has at most 4,096 bytes and so not many more steps.
fn line_matches(table: &Table, sets: u32, codes: &[Code], text: &[u8], directory: bool) -> bool {
    let front = codes.iter().take_while(|c| **c < SET).count();
    let same = text.len() >= front
        && codes[..front]
            .iter()
            .zip(text)
            .all(|(c, b)| *c == Code::from(*b));
    if !same {
        return false;
    }
    let (codes, text) = (&codes[front..], &text[front..]);
    if codes.len() >= LINE_WORDS * 64 {
        // More steps than a pattern can have.
        return false;
    }
    let contains = |code: Code, byte: u8| {
        let set = if code >= LOOP {
            code - LOOP
        } else {
            code - SET
        };
        let at = sets as usize + set as usize * 8 + usize::from(byte >> 5);
        table.at(at) & (1 << (byte & 31)) != 0
    };
    let code = |state: usize| codes.get(state).copied();
    let words = codes.len() / 64 + 1;
    let mut states = [0u64; LINE_WORDS];
    // Adds a state, and what is reached from it without a byte.
    let add = |states: &mut [u64; LINE_WORDS], mut state: usize| {
        loop {
            states[state / 64] |= 1 << (state % 64);
            match code(state) {
                Some(c) if (LOOP..DIRS_OPEN).contains(&c) => state += 1,
                _ => return,
            }
        }
    };
    add(&mut states, 0);
    for byte in text {
        let mut next = [0u64; LINE_WORDS];
        let mut alive = false;
        for (word, bits) in states[..words].iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let state = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(c) = code(state) else { continue };
                let steps: [Option<usize>; 2] = match c {
                    DIRS_OPEN if *byte == b'/' => [Some(state + 1), Some(state + 2)],
                    DIRS_LOOP if *byte == b'/' => [Some(state), Some(state + 1)],
                    DIRS_LOOP => [Some(state), None],
                    BELOW_OPEN if *byte == b'/' => [Some(state + 1), None],
                    BELOW_FIRST => [Some(state + 1), None],
                    DIRS_OPEN | BELOW_OPEN => [None, None],
                    c if c >= LOOP => [contains(c, *byte).then_some(state), None],
                    c if c >= SET => [contains(c, *byte).then_some(state + 1), None],
                    c => [(c == Code::from(*byte)).then_some(state + 1), None],
                };
                for state in steps.into_iter().flatten() {
                    alive = true;
                    add(&mut next, state);
                }
            }
        }
        if !alive {
            return false;
        }
        states = next;
    }
    let accepts = |state: usize| match code(state) {
        None => state == codes.len(),
        Some(BELOW_OPEN | BELOW_FIRST) => directory,
        Some(_) => false,
    };
    (0..=codes.len()).any(|s| states[s / 64] & (1 << (s % 64)) != 0 && accepts(s))
}

const _: () = assert!(SLASH < SET && BELOW_FIRST > LOOP);
