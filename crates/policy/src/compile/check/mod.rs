//! Reading a table that comes from outside: every offset, count, base, class and list is checked once,
//! so that no lookup afterwards can leave the table, overflow, or go on for ever.
//!
//! The time is bounded by the number of words. Lists may be shared, and a hostile table may let many
//! lists overlap; a list is looked at once for each use, and all lists of one use together must not be
//! longer than the table, which holds for everything the compiler writes.
//!
//! What is not checked is meaning: a table that says `allow` instead of `deny` is well-formed.

mod automaton;
mod error;

use std::collections::HashSet;

use agentwall_action::Verb;

use super::{
    line::LINE_WORDS,
    parts::{BELOW_FIRST, Code, DIRS_LOOP, DIRS_OPEN, LOOP, SET, Walk},
    table::{
        BYTE_SETS, CERTAIN, CONDITIONAL, DEFAULTS, EFFECT_SHIFT, HEAD, ITSELF, KINDS, LAYER_COUNT,
        MAGIC, MAX_LAYERS, MAX_TABLE, NO_CLASS, NO_DEFAULT, ONE, PLANES, PRIVATE, RANK, RULE_WORDS,
        Table, VERB_COUNT, VERSION, field,
    },
};

pub use error::TableError;

/// Most steps of a line behind its literal front: what a lookup holds in its words of states.
const MAX_LINE: usize = LINE_WORDS * 64 - 1;

/// Reads and checks a table in the byte order of the host.
pub(crate) fn read(bytes: &[u8]) -> Result<Table, TableError> {
    let (words, rest) = bytes.as_chunks::<4>();
    if words.len() < HEAD || !rest.is_empty() {
        return Err(TableError::Size {
            least: HEAD * 4,
            found: bytes.len(),
        });
    }
    let words: std::sync::Arc<[u32]> = words.iter().map(|w| u32::from_ne_bytes(*w)).collect();
    Checking {
        words: &words,
        checks: Once::new("checks"),
        lines: Once::new("lines"),
        names: Once::new("names of labels"),
        negative: Once::new("lists of negative checks"),
        automata: Once::new("automata"),
    }
    .table()?;
    Ok(Table { words })
}

/// Looks at each list of one use once.
struct Once {
    what: &'static str,
    seen: HashSet<u32>,
    spent: usize,
}

impl Once {
    fn new(what: &'static str) -> Once {
        Once {
            what,
            seen: HashSet::new(),
            spent: 0,
        }
    }

    /// Whether to look at `len` words at an offset; not again, and not if it was enough.
    fn first(&mut self, at: u32, len: usize, words: &[u32]) -> Result<bool, TableError> {
        if !self.seen.insert(at) {
            return Ok(false);
        }
        self.spent += len + 1;
        match self.spent <= words.len() {
            true => Ok(true),
            false => Err(TableError::Overlap { what: self.what }),
        }
    }
}

struct Checking<'t> {
    words: &'t [u32],
    checks: Once,
    lines: Once,
    names: Once,
    negative: Once,
    automata: Once,
}

impl<'t> Checking<'t> {
    fn table(&mut self) -> Result<(), TableError> {
        let words = self.words;
        if words[0] != MAGIC {
            let found = words[0].to_ne_bytes();
            return Err(TableError::Magic { found });
        }
        if words[1] != VERSION {
            return Err(TableError::Version {
                expected: VERSION,
                found: words[1],
            });
        }
        // The highest bits of an offset are flags in some places.
        if words[2] as usize != words.len() || words[2] >= MAX_TABLE {
            return Err(TableError::Length {
                stated: words[2],
                found: words.len(),
            });
        }
        let verbs = Verb::ALL.len();
        number("number of verbs", VERB_COUNT, words[VERB_COUNT], verbs)?;
        if words[VERB_COUNT] as usize != verbs {
            return Err(TableError::Number {
                what: "number of verbs, which must be this one,",
                at: VERB_COUNT as u64,
                most: verbs as u64,
                found: words[VERB_COUNT],
            });
        }
        number(
            "number of layers",
            LAYER_COUNT,
            words[LAYER_COUNT],
            MAX_LAYERS,
        )?;
        for (at, word) in words.iter().enumerate().take(HEAD).skip(DEFAULTS) {
            if *word != NO_DEFAULT {
                number("default", at, *word, 4)?;
            }
        }
        let sets = words[BYTE_SETS];
        let count = words.len().saturating_sub(sets as usize);
        self.span("byte sets", sets, count as u64)?;
        shape("byte sets", sets, count, 8)?;
        for plane in &words[PLANES..PLANES + KINDS] {
            if *plane != 0 {
                self.plane(*plane)?;
            }
        }
        Ok(())
    }

    fn span(&self, what: &'static str, at: u32, count: u64) -> Result<&'t [u32], TableError> {
        let outside = || TableError::Outside {
            what,
            at: at.into(),
            words: count,
        };
        let from = at as usize;
        let count = usize::try_from(count).map_err(|_| outside())?;
        let end = from.checked_add(count).ok_or_else(outside)?;
        if from < HEAD {
            return Err(outside());
        }
        self.words.get(from..end).ok_or_else(outside)
    }

    /// A list; empty for 0.
    fn list(&self, what: &'static str, at: u32) -> Result<&'t [u32], TableError> {
        if at == 0 {
            return Ok(&[]);
        }
        let len = self.span(what, at, 1)?[0];
        let whole = self.span(what, at, 1 + u64::from(len))?;
        Ok(&whole[1..])
    }

    fn plane(&mut self, plane: u32) -> Result<(), TableError> {
        let fields = self.span("plane", plane, field::COUNT as u64)?;
        let at = |f: usize| plane as usize + f;
        let (sets, layers) = (fields[field::SETS], fields[field::LAYERS]);
        number("number of layers", at(field::LAYERS), layers, MAX_LAYERS)?;
        if layers != self.words[LAYER_COUNT] {
            return Err(TableError::Number {
                what: "number of layers, which the head states too,",
                at: at(field::LAYERS) as u64,
                most: self.words[LAYER_COUNT].into(),
                found: layers,
            });
        }
        let classes = fields[field::CLASSES];
        number(
            "number of verb classes",
            at(field::CLASSES),
            classes,
            Verb::ALL.len(),
        )?;
        let verbs = fields[field::VERBS];
        for (i, class) in self
            .span("verbs", verbs, Verb::ALL.len() as u64)?
            .iter()
            .enumerate()
        {
            if *class != NO_CLASS {
                below("verb class", verbs as usize + i, *class, classes)?;
            }
        }
        let automata = self.list("list of automata", fields[field::AUTOMATA])?;
        shape(
            "list of automata",
            fields[field::AUTOMATA],
            automata.len(),
            2,
        )?;
        let mut outcomes = Once::new("outcomes");
        for pair in automata.chunks_exact(2) {
            let place = fields[field::AUTOMATA] as usize;
            below("walk", place, pair[0], Walk::ALL.len() as u32)?;
            self.automaton(pair[0], pair[1], sets, &mut outcomes)?;
        }
        for narrow in [field::V4, field::WRAPPED, field::TCP, field::UDP] {
            self.ranges(fields[narrow], 1, sets)?;
        }
        self.ranges(fields[field::V6], 4, sets)?;
        let labels = self.list("labels", fields[field::LABELS])?;
        shape("labels", fields[field::LABELS], labels.len(), 2)?;
        for pair in labels.chunks_exact(2) {
            let name = self.list("name of a label", pair[0])?;
            if pair[0] != 0 && self.names.first(pair[0], name.len(), self.words)? {
                for byte in name {
                    number("byte of a name", pair[0] as usize, *byte, 255)?;
                }
            }
            below("set", fields[field::LABELS] as usize, pair[1], sets)?;
        }
        below(
            "set of public addresses",
            at(field::PUBLIC),
            fields[field::PUBLIC],
            sets,
        )?;
        let members = self.list("members", fields[field::MEMBERS])?;
        if members.len() != sets as usize {
            return Err(TableError::Shape {
                what: "members",
                at: fields[field::MEMBERS].into(),
                unit: sets as usize,
                found: members.len(),
            });
        }
        for list in members {
            self.list("members of a set", list & !PRIVATE)?;
        }
        self.layers(fields)
    }

    fn layers(&mut self, fields: &[u32]) -> Result<(), TableError> {
        let rows = u64::from(fields[field::LAYERS]) + 1;
        let classes = fields[field::CLASSES] as usize;
        let row = rows * u64::from(fields[field::CLASSES]);
        let sets = u64::from(fields[field::SETS]);
        let leaves = self.span("leaves", fields[field::LEAVES], row * sets)?;
        let layers = self.span("lists of rules", fields[field::RULES], rows)?;
        for (depth, at) in layers.iter().enumerate() {
            let rules = self.list("rules", *at)?;
            shape("rules", *at, rules.len(), RULE_WORDS)?;
            let mut group = 0;
            for rule in rules.chunks_exact(RULE_WORDS) {
                if rule[0] < group {
                    return Err(TableError::Order {
                        what: "the priority groups of rules",
                        at: u64::from(*at),
                    });
                }
                group = rule[0];
                let negative = self.list("negative checks", rule[1])?;
                if rule[1] != 0 && self.negative.first(rule[1], negative.len(), self.words)? {
                    for check in negative {
                        self.check(*check)?;
                    }
                }
            }
            let count = (rules.len() / RULE_WORDS) as u32;
            let mut leaf = Once::new("leaves");
            let mut candidates = Once::new("candidates");
            // Of every set the leaves of all layers lie together.
            let rows = leaves.chunks_exact((row as usize).max(1));
            let own = rows.flat_map(|r| r.iter().skip(depth * classes).take(classes));
            for at in own {
                if at & (ONE | ITSELF) == ONE | ITSELF {
                    candidate(fields[field::LEAVES] as usize, at & !ITSELF, count)?;
                    continue;
                }
                if at & ONE != 0 {
                    self.candidates(at & !ONE, count, &mut candidates)?;
                    continue;
                }
                let lists = self.list("leaf", *at)?;
                if *at != 0 && leaf.first(*at, lists.len(), self.words)? {
                    for list in lists {
                        self.candidates(*list, count, &mut candidates)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn candidates(&mut self, at: u32, rules: u32, once: &mut Once) -> Result<(), TableError> {
        let list = self.list("candidates", at)?;
        shape("candidates", at, list.len(), 2)?;
        // A leaf never names the empty list.
        if at == 0 {
            self.span("candidates", at, 1)?;
        }
        if !once.first(at, list.len(), self.words)? {
            return Ok(());
        }
        let mut before = 0;
        for pair in list.chunks_exact(2) {
            candidate(at as usize, pair[0], rules)?;
            let rank = pair[0] & RANK;
            if rank < before {
                return Err(TableError::Order {
                    what: "a list of candidates",
                    at: at.into(),
                });
            }
            before = rank;
            self.check(pair[1])?;
        }
        Ok(())
    }

    fn check(&mut self, at: u32) -> Result<(), TableError> {
        let check = self.list("check", at)?;
        if at == 0 || !self.checks.first(at, check.len(), self.words)? {
            return Ok(());
        }
        let [_, line, ..] = check else {
            return shape("check", at, check.len(), 2);
        };
        self.line(*line)
    }

    /// The steps of a pattern.
    fn line(&mut self, at: u32) -> Result<(), TableError> {
        let codes = self.list("line", at)?;
        if at == 0 || !self.lines.first(at, codes.len(), self.words)? {
            return Ok(());
        }
        let front = codes.iter().take_while(|c| **c < SET).count();
        let rest = (codes.len() - front) as u32;
        number(
            "steps of a line behind its literal front",
            at as usize,
            rest,
            MAX_LINE,
        )?;
        let sets = (self.words.len() as u32 - self.words[BYTE_SETS]) / 8;
        for (i, code) in codes.iter().enumerate() {
            let place = at as usize + 1 + i;
            let set = |code: Code, first: Code| below("byte set", place, code - first, sets);
            match *code {
                DIRS_OPEN if codes.get(i + 1) != Some(&DIRS_LOOP) => {
                    // What stands there opens nothing.
                    number("step of a line", place, *code, DIRS_OPEN as usize - 1)?;
                }
                c if c >= DIRS_OPEN => number("step of a line", place, c, BELOW_FIRST as usize)?,
                c if c >= LOOP => set(c, LOOP)?,
                c if c >= SET => set(c, SET)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn ranges(&self, at: u32, width: usize, sets: u32) -> Result<(), TableError> {
        let list = self.list("ranges", at)?;
        shape("ranges", at, list.len(), width + 1)?;
        let (begins, found) = list.split_at(list.len() / (width + 1) * width);
        let begins: Vec<&[u32]> = begins.chunks_exact(width).collect();
        if !begins.is_sorted_by(|a, b| a < b) {
            return Err(TableError::Order {
                what: "the beginnings of ranges",
                at: at.into(),
            });
        }
        found
            .iter()
            .try_for_each(|set| below("set of a range", at as usize, *set, sets))
    }
}

/// The first word of a candidate.
fn candidate(at: usize, word: u32, rules: u32) -> Result<(), TableError> {
    below("rank of a candidate", at, word & RANK, rules)?;
    let effect = (word & !(RANK | CERTAIN | CONDITIONAL)) >> EFFECT_SHIFT;
    number("effect of a candidate", at, effect, 4)
}

fn number(what: &'static str, at: usize, found: u32, most: usize) -> Result<(), TableError> {
    match found as usize <= most {
        true => Ok(()),
        false => Err(TableError::Number {
            what,
            at: at as u64,
            most: most as u64,
            found,
        }),
    }
}

fn below(what: &'static str, at: usize, found: u32, end: u32) -> Result<(), TableError> {
    match found < end {
        true => Ok(()),
        false => Err(TableError::Number {
            what,
            at: at as u64,
            most: u64::from(end).saturating_sub(1),
            found,
        }),
    }
}

fn shape(what: &'static str, at: u32, found: usize, unit: usize) -> Result<(), TableError> {
    match found.is_multiple_of(unit) {
        true => Ok(()),
        false => Err(TableError::Shape {
            what,
            at: at.into(),
            unit,
            found,
        }),
    }
}
