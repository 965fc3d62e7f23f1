//! Host names behind the wall in the kernel: each session whose policy speaks of them has a *door*.
//!
//! A door is resolver and proxy of the crate `egress`, on the host's loopback. Programs in the kernel lead there
//! what a session asks for by name, and say whose it is; the names, their addresses, the greetings and the relay are
//! those of `agentwall run`, and so is what is decided: an action with the name and the real address, by the
//! session's policy. What a rule asks is refused and waits, as everywhere in this wall.
//!
//! Invariants:
//! * What the programs did not lead to a door is not served there.
//! * Where no door is, nothing is reached by name.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use agentwall_action::{Action, Decision, Effect, Endpoint, Hint, Protocol, Resource, Verb};
use agentwall_egress::{
    Capture, Connection, Egress, EgressConfig, Gate, Listeners, Origin, Verdict,
};
use agentwall_kernel::{Arrival, Door, wire::Identity};
use agentwall_ledger::hash::sha256_hex;
use agentwall_wall::wire::{Actor, Binding, Event as Told};
use anyhow::{Context as _, Result, anyhow};

use super::{
    daemon::{Daemon, Inner},
    kernel::{Grant, Kernel},
    policy::Ready,
    proc,
    told::EGRESS,
};
use crate::supervisor::{complaint, lock, verdict};

/// More names than a session can get between the last writing of the book and the end of a daemon
/// (the bounds of `egress` for new names).
const MEANWHILE: u32 = 2048;

/// Connections at once of a session. Each may take six descriptors, and the ledger needs some, too.
const CONNECTIONS: usize = 128;

/// The doors of all sessions.
#[derive(Default)]
pub struct Doors {
    daemon: OnceLock<Weak<Daemon>>,
    open: Mutex<BTreeMap<u64, Egress>>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

impl Doors {
    /// Whether sessions get doors yet: when a daemon begins, all that are there get theirs at once.
    pub(super) fn are_served(&self) -> bool {
        self.daemon.get().is_some()
    }

    /// The number of the next new name of a session.
    pub(super) fn next_name(&self, session: u64) -> Option<u32> {
        lock(&self.open).get(&session).map(Egress::next_name)
    }

    /// Another policy decides: what was decided by the former one is asked again.
    pub(super) fn policy_changed(&self, session: u64) {
        if let Some(egress) = lock(&self.open).get(&session) {
            egress.policy_changed();
        }
    }
}

impl Daemon {
    /// From here on sessions have doors; those that an earlier daemon left get theirs again.
    pub fn serve_names(self: &Arc<Self>) {
        let _ = self.doors.daemon.set(Arc::downgrade(self));
        let mut inner = lock(&self.inner);
        let named =
            |inner: &Inner, view: u32| inner.views.get(&view).is_some_and(|v| v.ready.names);
        let left: Vec<(u64, u32)> = (inner.sessions.values())
            .filter(|s| named(&inner, s.note.view))
            .map(|s| (s.note.number, s.note.names))
            .collect();
        for (session, names) in left {
            if let Err(e) = self.open_door(session, names.saturating_add(MEANWHILE)) {
                inner.trouble.insert(format!("{e:#}"));
            }
        }
    }

    /// A session's door, if it has none; `first` is the number of its first name.
    pub(super) fn open_door(&self, session: u64, first: u32) -> Result<()> {
        let mut open = lock(&self.doors.open);
        if open.contains_key(&session) {
            return Ok(());
        }
        let daemon = self.doors.daemon.get().and_then(Weak::upgrade);
        let daemon = daemon.ok_or_else(|| anyhow!("names are not served yet"))?;
        let gate = SessionGate::new(&daemon, session);
        let mut config = EgressConfig::default();
        config.first_name = first;
        config.max_connections = CONNECTIONS;
        let egress = open_door(&self.kernel, session, Arc::new(gate), config)
            .context("host names cannot be decided for the session")?;
        open.insert(session, egress);
        Ok(())
    }

    /// A session reaches nothing by name any more.
    pub(super) fn close_door(&self, session: u64) -> Result<()> {
        let Some(egress) = lock(&self.doors.open).remove(&session) else {
            return Ok(());
        };
        let closed = self.kernel.close_door(session);
        // It waits for its threads, which may wait for the daemon's lock.
        std::thread::spawn(move || drop(egress));
        Ok(closed?)
    }
}

/// Listeners on this network namespace's loopback, known to the kernel as a session's door, and served.
pub fn open_door(
    kernel: &Arc<dyn Kernel>,
    session: u64,
    gate: Arc<dyn Gate>,
    mut config: EgressConfig,
) -> Result<Egress> {
    let listeners = Listeners::on_loopback()?;
    let namespace = std::fs::metadata("/proc/self/ns/net").context("/proc/self/ns/net")?;
    kernel.open_door(&Door {
        session,
        // Numbers of namespaces have 32 bits in the kernel.
        namespace: namespace.ino() as u32,
        tcp: listeners.tcp_port(),
        dns: listeners.dns_port(),
        listeners: listeners.as_fds(),
    })?;
    let capture = Arrivals {
        kernel: Arc::clone(kernel),
        session,
    };
    config.capture = Some(Arc::new(capture));
    Egress::start(listeners, gate, config).or_else(|e| {
        kernel.close_door(session)?;
        Err(e.into())
    })
}

/// What the programs tell about what arrives at a door.
struct Arrivals {
    kernel: Arc<dyn Kernel>,
    session: u64,
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Arrivals {
    fn original(&self, client: SocketAddr, how: Arrival) -> Option<SocketAddr> {
        let found = self.kernel.captured(client, how).ok()??;
        (found.session == self.session).then_some(found.original)
    }
}

impl Capture for Arrivals {
    fn original(&self, client: SocketAddr) -> Option<SocketAddr> {
        Arrivals::original(self, client, Arrival::Connection)
    }

    fn may_ask(&self, client: SocketAddr, protocol: Protocol) -> bool {
        let how = match protocol {
            Protocol::Tcp => Arrival::Connection,
            Protocol::Udp => Arrival::Datagram,
        };
        Arrivals::original(self, client, how).is_some()
    }
}

/// The door's way to the session's policy.
pub(super) struct SessionGate {
    daemon: Weak<Daemon>,
    session: u64,
}

impl SessionGate {
    /// Of a session.
    pub(super) fn new(daemon: &Arc<Daemon>, session: u64) -> SessionGate {
        SessionGate {
            daemon: Arc::downgrade(daemon),
            session,
        }
    }

    /// The daemon, the session's view and the policy that is in force there.
    fn policy(&self) -> Option<(Arc<Daemon>, u32, Ready)> {
        let daemon = self.daemon.upgrade()?;
        let inner = lock(&daemon.inner);
        let view = inner.sessions.get(&self.session)?.note.view;
        let ready = inner.views.get(&view)?.ready.clone();
        drop(inner);
        Some((daemon, view, ready))
    }

    fn actor(&self, daemon: &Daemon, client: SocketAddr) -> Actor {
        let found = daemon.kernel.captured(client, Arrival::Connection);
        let pid = found.ok().flatten().map_or(0, |c| c.pid);
        Actor {
            pid,
            exe: match pid {
                0 => String::new(),
                pid => proc::program(pid, b"?"),
            },
            ..Actor::default()
        }
    }

    fn grant(&self, action: &Action) -> Grant {
        Grant {
            session: self.session,
            identity: identity(&action.resource),
            verb: action.verb,
        }
    }

    fn record(&self, daemon: &Daemon, view: u32, ready: &Ready, told: Told) {
        let grant = self.grant(&told.action);
        let mut inner = lock(&daemon.inner);
        daemon.take_down(&mut inner, grant, view, told, Some(ready));
    }
}

fn action(ready: &Ready, verb: Verb, resource: Resource) -> Action {
    Action {
        subject: ready.subject.clone(),
        verb,
        resource,
        facts: ready.facts.clone(),
    }
}

fn told(action: Action, decision: Decision, actor: Actor) -> Told {
    Told {
        action,
        decision,
        actor,
        binding: Binding::default(),
        enforced_by: EGRESS.to_owned(),
    }
}

/// What a yes is bound to: the real address and the port, under this name. The programs never see a name, so
/// none of them takes it for its own.
fn identity(resource: &Resource) -> Identity {
    let Resource::Endpoint(to) = resource else {
        return Identity::default();
    };
    let mut address = [0; 16];
    match to.ip {
        Some(IpAddr::V4(ip)) => address[..4].copy_from_slice(&ip.octets()),
        Some(IpAddr::V6(ip)) => address = ip.octets(),
        None => {}
    }
    Identity {
        name: to.host.as_deref().map_or(0, |host| {
            let digest = sha256_hex(host.as_bytes());
            u64::from_str_radix(&digest[..16], 16).unwrap_or(0) | 1
        }),
        protocol: match to.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
        port: to.port.into(),
        address,
        ..Identity::default()
    }
}

fn over() -> Verdict {
    Verdict::Deny("the session is over".into())
}

impl Gate for SessionGate {
    fn resolve(&self, name: &str) -> Verdict {
        let Some((daemon, view, ready)) = self.policy() else {
            return over();
        };
        let decision = (ready.policy()).resolve_name(&ready.subject, name, &ready.facts);
        match decision.effect {
            // Learning an address does nothing yet; the connection asks.
            Effect::Allow | Effect::Isolate | Effect::Ask => Verdict::Allow,
            Effect::Deny | Effect::RateLimit => {
                let answer = verdict(&decision);
                let action = action(&ready, Verb::DnsResolve, Resource::Host(name.to_owned()));
                let told = told(action, decision, Actor::default());
                self.record(&daemon, view, &ready, told);
                answer
            }
        }
    }

    fn connect(&self, dest: &Endpoint, origin: Origin) -> Verdict {
        let Some((daemon, view, ready)) = self.policy() else {
            return over();
        };
        let action = action(&ready, Verb::NetConnect, Resource::Endpoint(dest.clone()));
        let mut decision = ready.compiled.decide(&action);
        let asked = decision.effect == Effect::Ask;
        if asked && daemon.kernel.redeem(&self.grant(&action)).unwrap_or(false) {
            decision.effect = Effect::Allow;
            decision.reason = format!("approved: {}", decision.reason);
            decision.hint = Hint::default();
        }
        let answer = verdict(&decision);
        let actor = self.actor(&daemon, origin.client);
        self.record(&daemon, view, &ready, told(action, decision, actor));
        answer
    }

    fn finished(&self, connection: &Connection) {
        let Some((daemon, view, ready)) = self.policy() else {
            return;
        };
        let client = connection.origin.client;
        if let Some(reason) = complaint(&connection.outcome) {
            let to = Resource::Endpoint(connection.dest.clone());
            let action = action(&ready, Verb::NetConnect, to);
            let decision = Decision {
                effect: Effect::Deny,
                rule: None,
                reason,
                hint: Hint::default(),
                ..ready.compiled.decide(&action)
            };
            let actor = self.actor(&daemon, client);
            self.record(&daemon, view, &ready, told(action, decision, actor));
        }
        // What stays is no more than what an older one would have been replaced by.
        let _ = (daemon.kernel).forget_captured(client, Arrival::Connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_bound_to_name_address_and_port() {
        let to = |host: Option<&str>, ip: &str, port| {
            identity(&Resource::Endpoint(Endpoint {
                protocol: Protocol::Tcp,
                host: host.map(str::to_owned),
                ip: Some(ip.parse().unwrap()),
                port,
            }))
        };
        let one = to(Some("a.example"), "192.0.2.1", 443);
        assert_eq!(one, to(Some("a.example"), "192.0.2.1", 443));
        for other in [
            to(Some("b.example"), "192.0.2.1", 443),
            to(Some("a.example"), "192.0.2.2", 443),
            to(Some("a.example"), "192.0.2.1", 80),
            to(None, "192.0.2.1", 443),
        ] {
            assert_ne!(one, other);
        }
        // That of an address is the programs' own.
        assert_eq!(to(None, "192.0.2.1", 443).name, 0);
    }
}
