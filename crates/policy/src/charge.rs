//! What an action costs: the budgets of a policy that count it, each with its amount.
//!
//! Nothing is counted here. Whoever counts (the crate `budget`) charges each [`Charge`] to the counters of
//! its key, all or none. Budgets that count the same thing share counters: the lowest limit of each window
//! holds, and the action is charged once.
//!
//! Costs become whole micro-units, rounded up, so that no sum depends on the order of its parts and
//! nothing is free because it is small.

use agentwall_action::Action;

use crate::{policy::Policy, rule::Location, temporal::Budget};

/// Micro-units in one unit of a budget's limits and costs.
pub const MICRO_UNITS: u64 = 1_000_000;

/// The greatest cost of one action in micro-units: 2^53 - 1, up to which whole numbers are exact as doubles.
const MAX_COST: u64 = (1 << 53) - 1;

/// What one action costs in one budget.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Charge {
    /// Whose counters: `budget:` with the budget's id, and the subject, each of which has its own.
    pub key: String,
    /// What the action costs, in micro-units.
    pub cost: u64,
    /// Most in a rolling minute, in micro-units.
    pub minute: Option<u64>,
    /// Most in a rolling hour, in micro-units.
    pub hour: Option<u64>,
    /// Most in a rolling day, in micro-units.
    pub day: Option<u64>,
    /// Where the first of its budgets is written.
    pub budget: Location,
}

/// A cost that cannot be known. The action is denied: it is neither free nor within any budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("budget at {budget}: the cost {reason}")]
pub struct ChargeError {
    /// Where the budget is written.
    pub budget: Location,
    /// What is wrong with the cost.
    pub reason: String,
}

impl Policy {
    /// What an action costs in each budget that counts it; nothing where none does. Costs are evaluated as
    /// conditions are.
    ///
    /// # Errors
    /// A cost that fails to evaluate, is no finite number from 0, or is more than can be counted. The caller
    /// denies, and records the error as one of its own.
    pub fn charges(&self, action: &Action) -> Result<Vec<Charge>, ChargeError> {
        let mut charges: Vec<Charge> = Vec::new();
        for budget in self.budgets().iter().filter(|b| b.applies(action)) {
            let next = Charge {
                key: format!("budget:{}:{}", budget.id, action.subject.as_str()),
                cost: cost(budget, action)?,
                minute: budget.minute.map(micro),
                hour: budget.hour.map(micro),
                day: budget.day.map(micro),
                budget: budget.location.clone(),
            };
            match charges.iter_mut().find(|c| c.key == next.key) {
                Some(same) => {
                    same.minute = lowest(same.minute, next.minute);
                    same.hour = lowest(same.hour, next.hour);
                    same.day = lowest(same.day, next.day);
                }
                None => charges.push(next),
            }
        }
        Ok(charges)
    }
}

fn micro(units: u64) -> u64 {
    units.saturating_mul(MICRO_UNITS)
}

fn lowest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

fn cost(budget: &Budget, action: &Action) -> Result<u64, ChargeError> {
    let wrong = |reason| ChargeError {
        budget: budget.location.clone(),
        reason,
    };
    let units = budget.cost(action).map_err(wrong)?;
    let amount = (units * MICRO_UNITS as f64).ceil();
    if amount > MAX_COST as f64 {
        let most = MAX_COST / MICRO_UNITS;
        return Err(wrong(format!("is {units}, at most {most} can be counted")));
    }
    // A whole number from 0 to 2^53 - 1: nothing is cut off.
    Ok(amount as u64)
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Resource, Subject, Verb};
    use serde_json::json;

    use super::*;
    use crate::{Layer, Source, Variables, load};

    fn policy(budgets: &str) -> Policy {
        let text = format!("agentwall: 1\nbudgets:\n{budgets}");
        let source = Source::new("p.yaml", text, Layer::User);
        load(&[source], &Variables::default()).unwrap()
    }

    fn transfer(who: &str, args: serde_json::Value) -> Action {
        let resource = Resource::Named("capability:transfer:eu".into());
        let mut action = Action::new(Subject::agent(who), Verb::ApiCall, resource);
        action.facts.args = args;
        action
    }

    const TRANSFERS: &str = "  - { subject: 'agent:*', action: api.call, \
        resource: 'capability:transfer:*', cost: args.amount, minute: 100, hour: 1000 }\n";
    const CALLS: &str = "  - { action: api.call, minute: 5 }\n";

    #[test]
    fn an_action_has_a_charge_for_each_budget_that_counts_it() {
        let policy = policy(&format!(
            "{TRANSFERS}{CALLS}  - {{ action: file.read, day: 1 }}\n"
        ));
        let charges = policy
            .charges(&transfer("a", json!({"amount": 12.5})))
            .unwrap();
        let told: Vec<_> = charges
            .iter()
            .map(|c| (c.cost, c.minute, c.hour, c.day))
            .collect();
        assert_eq!(
            told,
            [
                (12_500_000, Some(100_000_000), Some(1_000_000_000), None),
                (1_000_000, Some(5_000_000), None, None),
            ]
        );
        assert_ne!(charges[0].key, charges[1].key);
        let other = policy
            .charges(&transfer("b", json!({"amount": 1})))
            .unwrap();
        assert_ne!(charges[1].key, other[1].key);
        let mut uncounted = transfer("a", json!({}));
        uncounted.verb = Verb::FileWrite;
        assert_eq!(policy.charges(&uncounted), Ok(Vec::new()));
    }

    #[test]
    fn budgets_that_count_the_same_are_one_with_the_lowest_limits() {
        let policy = policy(&format!(
            "{CALLS}  - {{ action: api.call, minute: 9, day: 7 }}\n"
        ));
        let charges = policy.charges(&transfer("a", json!({}))).unwrap();
        let told: Vec<_> = charges.iter().map(|c| (c.cost, c.minute, c.day)).collect();
        assert_eq!(told, [(1_000_000, Some(5_000_000), Some(7_000_000))]);
    }

    #[test]
    fn a_changed_limit_keeps_the_counters_and_a_changed_cost_does_not() {
        let key = |text: &str| {
            let charges = policy(text).charges(&transfer("a", json!({"amount": 1})));
            charges.unwrap().remove(0).key
        };
        let changed = |from: &str, to: &str| key(&TRANSFERS.replace(from, to));
        assert_eq!(key(TRANSFERS), changed("minute: 100", "minute: 200"));
        assert_ne!(key(TRANSFERS), changed("args.amount", "args.amount * 2"));
        assert_ne!(key(TRANSFERS), changed("transfer:*", "transfer:**"));
    }

    #[test]
    fn a_cost_is_rounded_up_and_what_cannot_be_known_is_an_error() {
        let policy = policy(TRANSFERS);
        let cost = |amount| {
            let charges = policy.charges(&transfer("a", json!({"amount": amount})));
            charges.map(|c| c[0].cost).map_err(|e| e.to_string())
        };
        assert_eq!(cost(json!(0)), Ok(0));
        assert_eq!(cost(json!(0.000_000_1)), Ok(1));
        assert_eq!(cost(json!(9_007_199_254i64)), Ok(9_007_199_254_000_000));
        for wrong in [
            json!(-1),
            json!("12"),
            json!(null),
            json!(9_007_199_255i64),
            json!(1e300),
        ] {
            let error = cost(wrong.clone()).unwrap_err();
            assert!(
                error.starts_with("budget at p.yaml:3: the cost "),
                "{wrong}: {error}"
            );
        }
        let error = policy.charges(&transfer("a", json!({}))).unwrap_err();
        assert_eq!(error.budget.line, 3);
    }
}
