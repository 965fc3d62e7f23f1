//! Conditions in CEL: bounded, total, and counted in the safe direction.

use std::sync::Arc;

use agentwall_action::{Action, Effect, Facts, Subject, Verb};
use agentwall_policy::Compiled;

use crate::{
    input::{action, lines, parts, usual_actions},
    policy::{check_decision, check_report, quoted, user},
};

/// An expression and actions, in two parts. The same condition on an allow rule and on a deny rule:
/// true and false give opposite answers, and an error denies both times. What evaluates conditions
/// without the interpreter says the same.
pub fn condition(data: &[u8]) {
    let parts = parts(data);
    let Ok(text) = std::str::from_utf8(parts[0]) else {
        return;
    };
    let rule = |name: &str, key: &str, effect: &str| {
        let text = quoted(text);
        format!("- {{id: {name}, subject: 'agent:{name}', effect: {effect}, {key}: {text}}}\n")
    };
    let file = [
        "agentwall: 1\nrules:\n",
        &rule("allow", "when", "allow"),
        &rule("deny", "when", "deny"),
        &rule("allow-unless", "unless", "allow"),
        &rule("deny-unless", "unless", "deny"),
        "- {id: rest, priority: 2000, subject: ['agent:deny', 'agent:deny-unless'], effect: allow}\n",
    ];
    let policy = match user(file.concat().as_bytes()) {
        Ok(policy) => Arc::new(policy),
        Err(error) => return check_report(&error),
    };
    let names = ["allow", "deny", "allow-unless", "deny-unless"];
    // Nothing is known before the action: every condition is left to its moment.
    let compiled = names.map(|name| {
        Compiled::new(
            Arc::clone(&policy),
            &Subject::agent(name),
            &Facts::default(),
        )
    });
    let own = lines(parts.get(1).copied().unwrap_or_default(), 8);
    for action in own
        .into_iter()
        .filter_map(action)
        .chain(usual_actions().into_iter().step_by(4))
    {
        // Committing is asked where no rule matches.
        if action.verb == Verb::FileCommit {
            continue;
        }
        let mut compiled = compiled.iter();
        let decisions = names.map(|name| {
            let action = Action {
                subject: Subject::agent(name),
                ..action.clone()
            };
            check_decision(&policy, &action);
            let decision = policy.decide(&action);
            if let Some(verdict) = compiled.next().map(|c| c.verdict(&action)) {
                assert_eq!(verdict.effect, decision.effect, "{text:?} {action:?}");
                assert_eq!(
                    verdict.failed,
                    !decision.errors.is_empty(),
                    "{text:?} {action:?}"
                );
            }
            decision
        });
        // An expression may look at the subject, which differs.
        if text.contains("subject") {
            continue;
        }
        let failed = decisions
            .iter()
            .map(|d| !d.errors.is_empty())
            .collect::<Vec<_>>();
        assert!(
            failed.iter().all(|f| *f == failed[0]),
            "{text:?} {action:?}: {decisions:?}"
        );
        let effects = decisions.map(|d| d.effect);
        use Effect::{Allow, Deny};
        let fits = match failed[0] {
            true => effects == [Deny; 4],
            false => effects == [Allow, Deny, Deny, Allow] || effects == [Deny, Allow, Allow, Deny],
        };
        assert!(fits, "{text:?} {action:?}: {effects:?}");
    }
}
