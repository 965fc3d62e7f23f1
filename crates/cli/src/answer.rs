//! What a policy alone says about an action that a face has seen: the one place where a face's own
//! way of asking is known to those who ask again later, the ledger's record and a replay.
//!
//! A name to be resolved is asked about as the wall's resolver does; what the wall itself made is
//! refused by rules only; a loopback port that no rule names is the agent's own and not the host's.

use agentwall_action::{Action, Decision, Effect, Resource, Verb, VerbFamily};
use agentwall_policy::Policy;

/// What the policy says. A person's answers, budgets and failures of a face are not in it.
pub fn of_policy(policy: &Policy, action: &Action) -> Decision {
    let mut decision = policy.answer(action);
    match (action.verb, &action.resource) {
        // Learning an address does nothing yet; the connection asks.
        (Verb::DnsResolve, _) if decision.effect == Effect::Ask => decision.effect = Effect::Allow,
        (Verb::FileExec | Verb::FileCommit, _) => {}
        (verb, Resource::Path(path))
            if verb.family() == VerbFamily::File
                && decision.rule.is_none()
                && agentwall_wall::wall_made(&path.path) =>
        {
            decision.effect = Effect::Allow;
            decision.reason = "the wall itself made it".to_owned();
        }
        _ => {}
    }
    decision
}

/// Whether an endpoint is on a loopback port that the policy leaves to the agent's own network.
pub fn is_own_loopback(policy: &Policy, action: &Action) -> bool {
    let Resource::Endpoint(endpoint) = &action.resource else {
        return false;
    };
    // 0.0.0.0 and :: mean "this host" to connect(2). A name may lead there, too, but is never dialled
    // inside the agent's network.
    action.verb == Verb::NetConnect
        && endpoint.host.is_none()
        && endpoint
            .ip
            .is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
        && !policy.host_loopback().contains(endpoint.port)
}
