//! What once differed, by the name of what was wrong.

use std::sync::Arc;

use agentwall_action::{Action, Facts};
use agentwall_policy::load;

use super::{compare, compiled, generate::Policies, variables};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    policies: Policies,
    session: Facts,
    states: Option<usize>,
    action: Action,
}

#[test]
fn what_once_differed_does_not() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("corpus.json")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let policy = Arc::new(load(&case.policies.sources(), &variables()).unwrap());
        let compiled = compiled(&policy, &case.session, case.states);
        if let Err(differs) = compare(&policy, &compiled, &case.action) {
            panic!("{}: {differs}", case.name);
        }
    }
}
