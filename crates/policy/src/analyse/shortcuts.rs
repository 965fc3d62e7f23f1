//! Cheap answers about a rule that many others meet: one example that settles it, or one rule that
//! covers it. Both are exact where they answer; where they do not, all rules are walked together.

use std::ops::ControlFlow;

use super::{
    findings::{Run, Shown},
    limits::TooLarge,
    model::{Test, Truth, verbs_of},
    objects::Space,
    query::{Query, Unknown},
    witness::Witness,
};
use crate::policy::{LayerPolicy, Policy};

/// How many other rules are looked at one by one before all are looked at together.
const TRIED: usize = 64;

impl Run<'_, '_> {
    /// An action that shows at once that the rule matters: its own shortest one, or its shortest one
    /// with one of the others.
    pub(super) fn plainly(
        &mut self,
        entry: u32,
        members: &[u32],
    ) -> Result<Option<Witness>, TooLarge> {
        let model = self.model;
        let effect = model.entries[entry as usize].rule.effect;
        let other = |m: &&u32| model.entries[**m as usize].rule.effect != effect;
        let others = members.iter().filter(other).take(TRIED).map(Some);
        for other in std::iter::once(None).chain(others) {
            let together: Vec<u32> = std::iter::once(entry).chain(other.copied()).collect();
            let Some(witness) = self.together(&together)? else {
                continue;
            };
            self.meter.pay(members.len())?;
            if self.shows(&witness, entry, members) {
                return Ok(Some(witness));
            }
        }
        Ok(None)
    }

    /// Whether one rule that decides before this one matches whatever it matches.
    pub(super) fn covered(
        &mut self,
        entry: u32,
        members: &[u32],
    ) -> Result<Option<Shown>, TooLarge> {
        let model = self.model;
        let own = &model.entries[entry as usize];
        // Numbers are in the order that decides.
        let earlier = members.iter().copied().filter(|m| {
            let e = &model.entries[*m as usize];
            let plain = (e.when, e.unless) == (Test::Always(Truth::Yes), Test::Always(Truth::No));
            *m < entry && e.depth == own.depth && plain && own.verbs & !e.verbs == 0
        });
        for other in earlier.take(TRIED) {
            let mut shown = Shown::default();
            let mut beyond = false;
            for space in Space::ALL {
                if own.verbs & verbs_of(space) == 0 || beyond {
                    continue;
                }
                let query = Query::new(model, space, &[entry, other], &[&[entry]], own.verbs);
                query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
                    query.branch(meter, &mut |assumed| {
                        if query.stands(case, entry, assumed)? == Truth::No {
                            return Ok(ControlFlow::Continue(()));
                        }
                        shown.matches = true;
                        beyond = query.stands(case, other, assumed)? != Truth::Yes;
                        Ok::<_, Unknown>(match beyond {
                            true => ControlFlow::Break(()),
                            false => ControlFlow::Continue(()),
                        })
                    })
                })?;
            }
            if !beyond {
                shown.instead.insert(Some(other));
                return Ok(Some(shown));
            }
        }
        Ok(None)
    }

    /// The shortest action that all these rules match.
    pub(super) fn together(&mut self, entries: &[u32]) -> Result<Option<Witness>, TooLarge> {
        let model = self.model;
        let verbs = |e: &u32| model.entries[*e as usize].verbs;
        let bits = entries.iter().fold(u32::MAX, |bits, e| bits & verbs(e));
        let focus: Vec<&[u32]> = entries.iter().map(std::slice::from_ref).collect();
        let mut found = None;
        for space in Space::ALL {
            if bits & verbs_of(space) == 0 || found.is_some() {
                continue;
            }
            let query = Query::new(model, space, entries, &focus, bits);
            query.cases(&mut self.meter, &mut self.cache, &mut |meter, case| {
                query.branch(meter, &mut |assumed| {
                    for entry in entries {
                        if query.stands(case, *entry, assumed)? != Truth::Yes {
                            return Ok(ControlFlow::Continue(()));
                        }
                    }
                    found = Some(Witness::new(model, case, assumed));
                    Ok::<_, Unknown>(ControlFlow::Break(()))
                })
            })?;
        }
        Ok(found)
    }

    /// Whether the interpreter gives the action another effect without the rule. Only where no
    /// condition has a say.
    fn shows(&self, witness: &Witness, entry: u32, members: &[u32]) -> bool {
        let model = self.model;
        let of = |e: u32| &model.entries[e as usize];
        let free = |e: u32| {
            matches!(
                (of(e).when, of(e).unless),
                (Test::Free(_), _) | (_, Test::Free(_))
            )
        };
        let meant = |e: &u32| witness.is_meant_by(of(*e).rule);
        let others: Vec<u32> = members.iter().copied().filter(meant).collect();
        if free(entry) || others.iter().any(|e| free(*e)) {
            return false;
        }
        let effect = |entries: &[u32]| {
            let mut policy = Policy {
                layers: Vec::new(),
                inspect: Vec::new(),
                budgets: Vec::new(),
                properties: Vec::new(),
                digest: String::new(),
                ..*self.policy
            };
            for (depth, layer) in self.policy.layers.iter().enumerate() {
                let rules = entries.iter().filter(|e| of(**e).depth == depth);
                policy.layers.push(LayerPolicy {
                    layer: layer.layer,
                    default: layer.default,
                    default_location: None,
                    rules: rules.map(|e| of(*e).rule.clone()).collect(),
                });
            }
            policy.decide(&witness.action).effect
        };
        // The interpreter wants them by priority, which is the order of their numbers.
        let mut with = others.clone();
        with.push(entry);
        with.sort_unstable();
        effect(&with) != effect(&others)
    }
}
