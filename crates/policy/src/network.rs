//! Placement queries about the network: host loopback ports, and which names may be resolved.

use std::{collections::BTreeSet, ops::RangeInclusive};

use agentwall_action::{
    Action, Decision, Effect, Endpoint, Facts, Protocol, Resource, Subject, Verb,
};

use crate::{
    pattern::{EndpointPattern, HostPattern, ResourcePattern},
    policy::Policy,
    rule::RuleEffect,
};

/// Which ports of the host's own loopback the policy names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum LoopbackPorts {
    /// These ranges, sorted, both ends included; none when it is empty.
    Ports(Vec<RangeInclusive<u16>>),
    /// Every port.
    All,
}

impl LoopbackPorts {
    /// Whether the port is one of them.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            LoopbackPorts::All => true,
            LoopbackPorts::Ports(ranges) => ranges.iter().any(|r| r.contains(&port)),
        }
    }
}

impl Policy {
    /// The ports of the host's loopback that allowing or asking `net.connect` rules name on purpose:
    /// by a loopback address, a set that contains one, or a name such as `localhost`. `*` alone and
    /// the whole address space do not count. Each connection is still decided; this says only which
    /// ports need a way out of the agent's own network.
    pub fn host_loopback(&self) -> LoopbackPorts {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for rule in self.rules().filter(|r| r.verbs.contains(&Verb::NetConnect)) {
            if !matches!(rule.effect, RuleEffect::Decide(Effect::Allow | Effect::Ask)) {
                continue;
            }
            for pattern in &rule.resource.positive {
                match pattern {
                    ResourcePattern::Addresses(a) if a.names_loopback() => {
                        return LoopbackPorts::All;
                    }
                    ResourcePattern::Endpoint(e) if names_loopback(&e.host) => {
                        ranges.push(e.ports.clone());
                    }
                    _ => {}
                }
            }
        }
        ranges.sort_by_key(|r| (*r.start(), *r.end()));
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        match merged.as_slice() {
            [only] if *only == (0..=u16::MAX) => LoopbackPorts::All,
            _ => LoopbackPorts::Ports(merged),
        }
    }

    /// Whether rules about the subject name hosts, or refuse that names are resolved. Where not, addresses are all that
    /// has to be known of a connection.
    pub fn speaks_of_names(&self, subject: &Subject) -> bool {
        let names_host = |pattern: &ResourcePattern| match pattern {
            ResourcePattern::Endpoint(e) => matches!(e.host, HostPattern::Name(_)),
            ResourcePattern::Host(_) => true,
            _ => false,
        };
        let mut rules = self.rules().filter(|r| r.matches_subject(subject));
        rules.any(|rule| {
            let mut patterns = rule.resource.positive.iter().chain(&rule.resource.negative);
            let refuses = !matches!(rule.effect, RuleEffect::Decide(Effect::Allow));
            patterns.any(names_host)
                || (refuses && rule.verbs.iter().all(|v| *v == Verb::DnsResolve))
        })
    }

    /// Whether the wall's resolver may answer for a name. A `dns.resolve` rule decides; without one a
    /// name may be resolved when a connection to it could go through (or be asked) at some port, or
    /// an `http.request` to it could. The effect is `Allow` or `Deny`, or what the `dns.resolve` rule
    /// says. `host` is canonical: lower-case ASCII without a trailing dot.
    pub fn resolve_name(&self, subject: &Subject, host: &str, facts: &Facts) -> Decision {
        let action = |verb, resource| Action {
            subject: subject.clone(),
            verb,
            resource,
            facts: facts.clone(),
        };
        let mut own = self.decide(&action(Verb::DnsResolve, Resource::Host(host.to_owned())));
        if own.rule.is_some() {
            return own;
        }
        for (protocol, port) in self.ports_for(host) {
            let endpoint = Endpoint {
                protocol,
                host: Some(host.to_owned()),
                ip: None,
                port,
            };
            for verb in [Verb::NetConnect, Verb::NetSend] {
                let decision = self.decide(&action(verb, Resource::Endpoint(endpoint.clone())));
                if matches!(decision.effect, Effect::Allow | Effect::Ask) {
                    own.effect = Effect::Allow;
                    own.reason = format!(
                        "{verb} of {}: {}",
                        Resource::Endpoint(endpoint),
                        decision.reason
                    );
                    own.rule = decision.rule;
                    own.errors = decision.errors;
                    return own;
                }
            }
        }
        if let Some(rule) = self.requests(subject, host) {
            own.effect = Effect::Allow;
            own.reason = format!("rule {rule} speaks about requests to {host}");
            own.rule = Some(rule);
            return own;
        }
        own.effect = Effect::Deny;
        own.reason = format!(
            "no rule allows a connection to {host}; add a rule with action: net.connect, \
             resource: tcp://{host}:443, effect: allow"
        );
        own
    }

    /// One port of every range in which all rules about the host agree.
    fn ports_for(&self, host: &str) -> BTreeSet<(Protocol, u16)> {
        let probe = |protocol| Endpoint {
            protocol,
            host: Some(host.to_owned()),
            ip: None,
            port: 0,
        };
        let mut ports = BTreeSet::from([(Protocol::Tcp, 443), (Protocol::Udp, 443)]);
        for rule in self.rules() {
            let members = rule.resource.positive.iter().chain(&rule.resource.negative);
            for pattern in members {
                let ResourcePattern::Endpoint(EndpointPattern {
                    protocol,
                    host,
                    ports: range,
                }) = pattern
                else {
                    continue;
                };
                if host.matches(&probe(*protocol)) {
                    ports.insert((*protocol, *range.start()));
                    ports.extend(range.start().checked_sub(1).map(|p| (*protocol, p)));
                    ports.extend(range.end().checked_add(1).map(|p| (*protocol, p)));
                }
            }
        }
        ports
    }

    /// An `http.request` rule that lets some request to the host through or asks about it. Requests
    /// are decided when they are made; here only a rule that names the host counts.
    fn requests(&self, subject: &Subject, host: &str) -> Option<String> {
        let prefixes = ["https", "http"]
            .iter()
            .flat_map(|s| [format!("{s}://{host}/"), format!("{s}://{host}:")]);
        let prefixes: Vec<String> = prefixes.collect();
        let could_match = |p: &ResourcePattern| match p {
            ResourcePattern::Named(glob) => {
                prefixes.iter().any(|x| glob.may_match_prefix(x.as_bytes()))
            }
            _ => false,
        };
        self.rules()
            .find(|rule| {
                rule.verbs.contains(&Verb::HttpRequest)
                    && matches!(rule.effect, RuleEffect::Decide(Effect::Allow | Effect::Ask))
                    && rule.matches_subject(subject)
                    && rule.resource.positive.iter().any(could_match)
            })
            .map(|rule| rule.id.clone())
    }
}

fn names_loopback(host: &HostPattern) -> bool {
    match host {
        HostPattern::Any => false,
        HostPattern::Addresses(a) => a.names_loopback(),
        HostPattern::Name(glob) => ["localhost", "a.localhost", "ip6-localhost"]
            .iter()
            .any(|name| glob.matches(name.as_bytes(), false)),
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
