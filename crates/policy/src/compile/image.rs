//! The compiled policy as something that leaves the process: words to be written to a file, read back,
//! mapped, or loaded into the kernel. `docs/policy-table.md` specifies them.
//!
//! A table knows neither the ids of rules nor how to evaluate conditions. Who decides with it alone
//! takes every condition that is left as one that cannot be evaluated: an `allow` that has one does not
//! apply, a `deny`, `ask` or `isolate` is a floor under what the other rules say. So the answer is never
//! more permissive than that of [`Policy::decide`](crate::Policy::decide).
//!
//! Invariant: what was read passed every check of [`TableError`]; no lookup in it leaves the table.

use agentwall_action::{Action, Effect, Verb};

use super::{
    Compiled,
    build::Built,
    check::{self, TableError},
    lookup::{Held, Hit, Object, View},
    table::{DEFAULTS, LAYER_COUNT, Table},
    walk::Found,
};
use crate::{policy::Policy, rule::Rule};

/// A table that stands for itself. It speaks for the subject and the session it was compiled for; who
/// uses it makes sure that the actions are theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledTable {
    table: Table,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The rule of this rank in this layer, both from 0; see [`Compiled::ranked`].
    Rule {
        /// The layer, from the uppermost on.
        layer: usize,
        /// The rule's place in its layer's order.
        rank: u32,
    },
    /// The default of this layer.
    Default {
        /// The layer, from the uppermost on.
        layer: usize,
    },
}

/// What a table says about an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableAnswer {
    /// What happens.
    pub effect: Effect,
    /// Why.
    pub by: By,
    /// The ranks of the `monitor` rules that match or whose condition was not evaluated.
    pub marks: Vec<u32>,
}

impl CompiledTable {
    /// Reads a table in the byte order of this host. The errors name what is wrong and where; a table
    /// that is accepted is well-formed, not trustworthy: whether it is the right one, only its digest
    /// says.
    pub fn read(bytes: &[u8]) -> Result<CompiledTable, TableError> {
        let table = check::read(bytes)?;
        Ok(CompiledTable { table })
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.table.words
    }

    /// The words as the bytes of a file, in the byte order of this host.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.table.words)
    }

    /// What happens to an action as far as a table says by itself; subject and facts other than labels
    /// are not looked at. `None` where it does not speak: an object that is not canonical or not of the
    /// verb, a kind of objects that was left to the interpreter, more found than fits.
    pub fn answer(&self, action: &Action) -> Option<TableAnswer> {
        let object = Object::of(&action.resource)?;
        let view = View::new(&self.table, object.kind)?;
        let class = view.class(action.verb as usize)?;
        let mut found = Found::default();
        if !view.look(&object, &action.resource, &action.facts, &mut found) {
            return None;
        }
        let mut best: Option<(Effect, By)> = None;
        for layer in 0..view.layers() {
            // No condition can be evaluated here.
            let answer = view.decide(layer, class, &object, &found, |_| Held::Failed)?;
            let by = |hit: Hit| {
                let rank = hit.rank();
                (hit.effect(), By::Rule { layer, rank })
            };
            let default = || Some((self.default_of(layer, action.verb)?, By::Default { layer }));
            let own = answer.decided.map(by).or_else(default);
            for (effect, by) in own.into_iter().chain(answer.floor.map(by)) {
                if best.is_none_or(|(strictest, _)| effect > strictest) {
                    best = Some((effect, by));
                }
            }
        }
        let mut marks = Vec::new();
        let whole = view.marks(class, &object, &found, |hit| {
            marks.push(hit.rank());
            true
        });
        let (effect, by) = best.filter(|_| whole)?;
        Some(TableAnswer { effect, by, marks })
    }

    /// How many layers it has.
    pub fn layers(&self) -> usize {
        self.table.at(LAYER_COUNT) as usize
    }

    fn default_of(&self, layer: usize, verb: Verb) -> Option<Effect> {
        let row = DEFAULTS + layer * Verb::ALL.len();
        effect(self.table.at(row + verb as usize))
    }
}

impl Compiled {
    /// The table, to be written or loaded elsewhere; its words are not copied.
    pub fn table(&self) -> CompiledTable {
        CompiledTable {
            table: self.table.clone(),
        }
    }

    /// The rule of a rank in a list: the lists are the layers from the uppermost on, and the marks.
    pub fn ranked(&self, list: usize, rank: u32) -> Option<&Rule> {
        self.rule(list, rank)
    }
}

/// The effect of a number, as [`Effect`] is ordered.
pub(super) fn effect(number: u32) -> Option<Effect> {
    Some(match number {
        0 => Effect::Allow,
        1 => Effect::Isolate,
        2 => Effect::Ask,
        3 => Effect::RateLimit,
        4 => Effect::Deny,
        _ => return None,
    })
}

/// What was built, with the answers where no rule matches.
pub(super) fn with_defaults(mut built: Built, policy: &Policy) -> Built {
    built.table = built.table.with_defaults(policy);
    built
}
