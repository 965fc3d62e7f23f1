//! Network decisions: what an address means, and whether the agent may go there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
};

use agentwall_action::{Action, Decision, Effect, Endpoint, Protocol, Resource, Verb};
use agentwall_egress::{Connection, Gate, Origin, Outcome, Target, Ticket, Verdict};
use agentwall_wall::wire::{Actor, Binding, Event};

use super::{Supervisor, inside};

/// The proxy's door to the supervisor.
#[derive(Debug)]
pub struct SupervisorGate(pub Weak<Supervisor>);

fn event(action: Action, decision: Decision, actor: Actor) -> Event {
    Event {
        action,
        decision,
        actor,
        binding: Binding::default(),
        enforced_by: "egress".into(),
    }
}

fn endpoint(host: Option<String>, ip: Option<IpAddr>, port: u16) -> Endpoint {
    Endpoint {
        protocol: Protocol::Tcp,
        host,
        ip: ip.map(|ip| ip.to_canonical()),
        port,
    }
}

/// Decides a trapped connect(2) and hands the answer to `reply`, at once or after a person spoke.
pub(super) fn decide_connect(
    supervisor: &Arc<Supervisor>,
    address: SocketAddr,
    actor: Actor,
    reply: impl FnOnce(Decision) + Send + 'static,
) {
    let engine = &supervisor.engine;
    // Every address of a name is decided by one policy.
    let held = engine.hold();
    let ip = address.ip().to_canonical();
    // 0.0.0.0 and :: mean "this host" to connect(2).
    let own = ip.is_loopback() || ip.is_unspecified();
    if own && !held.policy().host_loopback().contains(address.port()) {
        engine.count_plain(Verb::NetConnect);
        return reply(inside(engine));
    }
    let target = supervisor
        .egress
        .get()
        .and_then(|e| e.target_of(ip, address.port()));
    let Some(target) = target else {
        let action = engine.action(
            Verb::NetConnect,
            Resource::Endpoint(endpoint(None, Some(ip), address.port())),
        );
        let mut decision = held.decide(&action);
        decision.effect = Effect::Deny;
        decision.reason = format!("{ip} names nothing: the wall's resolver never gave it out");
        supervisor.record(event(action, decision.clone(), actor));
        return reply(decision);
    };
    let Target {
        host,
        candidates,
        port,
        ..
    } = target;
    let mut allowed = Vec::new();
    let mut other: Option<(Action, Decision)> = None;
    let mut first = None;
    for candidate in candidates {
        let resource = Resource::Endpoint(endpoint(host.clone(), Some(candidate), port));
        let action = engine.action(Verb::NetConnect, resource);
        let decision = held.decide(&action);
        if decision.effect.proceeds() {
            allowed.push(candidate);
            first.get_or_insert((action, decision));
        } else if other
            .as_ref()
            .is_none_or(|(_, d)| decision.effect < d.effect)
        {
            other = Some((action, decision));
        }
    }
    drop(held);
    if let Some((action, decision)) = first {
        if let Some(egress) = supervisor.egress.get() {
            egress.admit(address, Ticket { addresses: allowed });
        }
        supervisor.record(event(action, decision.clone(), actor));
        return reply(decision);
    }
    let Some((action, decision)) = other else {
        return reply(Decision {
            effect: Effect::Deny,
            reason: format!("{} has no address", host.unwrap_or_default()),
            ..inside(engine)
        });
    };
    if decision.effect != Effect::Ask {
        supervisor.record(event(action, decision.clone(), actor));
        return reply(decision);
    }
    let asked = event(action, decision, actor);
    let granted = match &asked.action.resource {
        Resource::Endpoint(Endpoint { ip: Some(ip), .. }) => vec![*ip],
        _ => Vec::new(),
    };
    let me = Arc::clone(supervisor);
    let record = asked.clone();
    supervisor.asks.ask(supervisor, asked, move |decision| {
        if decision.effect.proceeds() {
            if let Some(egress) = me.egress.get() {
                egress.admit(address, Ticket { addresses: granted });
            }
            me.record(Event {
                decision: decision.clone(),
                ..record
            });
        }
        reply(decision);
    });
}

/// What a decision means to the proxy.
pub(crate) fn verdict(decision: &Decision) -> Verdict {
    if decision.effect.proceeds() {
        Verdict::Allow
    } else {
        Verdict::Deny(decision.reason.clone())
    }
}

/// Why the proxy itself refused a connection that was allowed before.
pub(crate) fn complaint(outcome: &Outcome) -> Option<String> {
    Some(match outcome {
        Outcome::NameContradiction { resolved, claimed } => {
            format!("the connection to {resolved} names another host, {claimed}: refused")
        }
        Outcome::UnreadableGreeting(what) => {
            format!("the name in the connection's greeting cannot be checked ({what}): refused")
        }
        Outcome::Uninspected(why) => format!("what the model says could not be read: {why}"),
        Outcome::TooMany => "too many connections at once".to_owned(),
        _ => return None,
    })
}

impl Gate for SupervisorGate {
    fn resolve(&self, name: &str) -> Verdict {
        let Some(supervisor) = self.0.upgrade() else {
            return Verdict::Deny("the session is over".into());
        };
        let engine = &supervisor.engine;
        let policy = engine.policy();
        let decision = policy.resolve_name(engine.subject(), name, &engine.facts_now());
        match decision.effect {
            // Learning an address does nothing yet; the connection asks.
            Effect::Allow | Effect::Isolate | Effect::Ask => Verdict::Allow,
            Effect::Deny | Effect::RateLimit => {
                let action = engine.action(Verb::DnsResolve, Resource::Host(name.to_owned()));
                let verdict = verdict(&decision);
                supervisor.refuse_elsewhere(event(action, decision, Actor::default()));
                verdict
            }
        }
    }

    fn connect(&self, dest: &Endpoint, _origin: Origin) -> Verdict {
        let Some(supervisor) = self.0.upgrade() else {
            return Verdict::Deny("the session is over".into());
        };
        let engine = &supervisor.engine;
        let action = engine.action(Verb::NetConnect, Resource::Endpoint(dest.clone()));
        let decision = engine.decide(&action);
        if decision.effect == Effect::Ask {
            let (sender, receiver) = std::sync::mpsc::channel();
            let asked = event(action, decision, Actor::default());
            supervisor.asks.ask(&supervisor, asked, move |decision| {
                let _ = sender.send(decision);
            });
            return receiver
                .recv()
                .map_or(Verdict::Deny("nobody answered".into()), |d| verdict(&d));
        }
        let answer = verdict(&decision);
        let record = event(action, decision, Actor::default());
        if answer == Verdict::Allow {
            supervisor.record(record);
        } else {
            supervisor.refuse_elsewhere(record);
        }
        answer
    }

    fn finished(&self, connection: &Connection) {
        let Some(supervisor) = self.0.upgrade() else {
            return;
        };
        let Some(reason) = complaint(&connection.outcome) else {
            return;
        };
        let engine = &supervisor.engine;
        let action = engine.action(
            Verb::NetConnect,
            Resource::Endpoint(connection.dest.clone()),
        );
        let decision = Decision {
            effect: Effect::Deny,
            reason,
            ..inside(engine)
        };
        supervisor.refuse_elsewhere(event(action, decision, Actor::default()));
    }
}
