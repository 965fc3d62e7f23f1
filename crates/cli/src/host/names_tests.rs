//! What a door asks of the daemon, over a kernel that only remembers.

use std::net::{IpAddr, Ipv4Addr};

use agentwall_action::{Endpoint, Protocol};
use agentwall_egress::{Gate as _, Origin, Verdict};

use super::*;
use crate::host::names::SessionGate;

const POLICY: &str = "agentwall: 1\ndefault: deny\nrules:\n  \
    - {id: good, action: net.connect, resource: 'tcp://good.example:443', effect: allow}\n  \
    - {id: inside, priority: 1, action: net.connect, resource: 'cidr:private', effect: deny}\n  \
    - {id: maybe, action: net.connect, resource: 'tcp://maybe.example:443', effect: ask}\n";

const PUBLIC: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

fn to(host: &str, ip: Ipv4Addr) -> Endpoint {
    Endpoint {
        protocol: Protocol::Tcp,
        host: Some(host.to_owned()),
        ip: Some(IpAddr::V4(ip)),
        port: 443,
    }
}

fn origin() -> Origin {
    Origin {
        client: ([127, 0, 0, 1], 40_000).into(),
        original: ([198, 18, 0, 2], 443).into(),
    }
}

fn named() -> Host {
    let mut host = Host::new();
    host.policy(POLICY);
    host.names = true;
    host.restart();
    host
}

#[test]
fn what_is_asked_for_by_name_is_decided_by_the_sessions_policy_and_recorded() {
    let mut host = named();
    let pid = host.sleeper();
    let governed = host.govern(pid);
    assert_eq!(governed.lacks.len(), 1, "{:?}", governed.lacks);
    let session = host.task(pid).unwrap().session;
    assert!(lock(&host.kernel.doors).contains_key(&session));
    let flags = lock(&host.kernel.tables)[&governed.view].1;
    assert_eq!(flags, TABLE_NAMES);

    let gate = SessionGate::new(host.daemon.as_ref().unwrap(), session);
    assert_eq!(gate.resolve("good.example"), Verdict::Allow);
    assert!(matches!(gate.resolve("evil.example"), Verdict::Deny(_)));
    let connect = |name, ip| gate.connect(&to(name, ip), origin());
    assert_eq!(connect("good.example", PUBLIC), Verdict::Allow);
    // The real address is judged, too.
    let inside = connect("good.example", Ipv4Addr::new(10, 0, 0, 1));
    assert!(matches!(inside, Verdict::Deny(_)));

    assert!(matches!(connect("maybe.example", PUBLIC), Verdict::Deny(_)));
    assert!(matches!(connect("maybe.example", PUBLIC), Verdict::Deny(_)));
    let pending = host.daemon().pending();
    assert_eq!(pending.len(), 1, "asked once");
    let approve = Request::Approve {
        id: pending[0].id.clone(),
        scope: Scope::Once,
        digest: None,
    };
    assert!(matches!(
        host.daemon().respond(ROOT, approve),
        Response::Done { .. }
    ));
    let other = Ipv4Addr::new(1, 2, 3, 5);
    assert!(matches!(connect("maybe.example", other), Verdict::Deny(_)));
    assert_eq!(connect("maybe.example", PUBLIC), Verdict::Allow);
    assert!(matches!(connect("maybe.example", PUBLIC), Verdict::Deny(_)));

    let records = host.records_of(&governed.session);
    let count = |name: &str| records.iter().filter(|r| *r == name).count();
    assert_eq!((count("connect"), count("decision")), (7, 1), "{records:?}");
    let trail = std::fs::read_to_string(host.places().trail(session)).unwrap();
    assert!(
        trail.contains("evil.example") && !trail.contains("approved"),
        "{trail}"
    );
}

#[test]
fn doors_are_opened_again_and_closed_with_their_session() {
    let mut host = named();
    let pid = host.sleeper();
    host.govern(pid);
    let session = host.task(pid).unwrap().session;
    lock(&host.kernel.doors).clear();
    host.restart();
    assert!(lock(&host.kernel.doors).contains_key(&session));
    let next = host.daemon().doors.next_name(session);
    assert!(
        next.is_some_and(|n| n >= 2048),
        "{next:?}: an old address has no new meaning"
    );
    lock(&host.kernel.governed).clear();
    host.daemon().tick(true);
    assert!(lock(&host.kernel.doors).is_empty());
    assert_eq!(host.daemon().doors.next_name(session), None);
}

#[test]
fn a_policy_that_begins_to_speak_of_names_gets_doors() {
    let mut host = named();
    host.policy("agentwall: 1\ndefault: deny\n");
    let pid = host.sleeper();
    host.govern(pid);
    assert!(lock(&host.kernel.doors).is_empty());
    host.policy(POLICY);
    assert!(matches!(
        host.ask(HostRequest::Reload),
        Response::Done { .. }
    ));
    let session = host.task(pid).unwrap().session;
    assert!(lock(&host.kernel.doors).contains_key(&session));
}
