use super::*;
use crate::{Layer, Source, Variables, load};

fn policy(rules: &str) -> Policy {
    let text = format!("agentwall: 1\nrules:\n{rules}");
    let source = Source::new("p", text, Layer::User);
    load(&[source], &Variables::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn loopback(resource: &str, effect: &str) -> LoopbackPorts {
    policy(&format!(
        "  - {{ id: a, action: net.connect, resource: {resource}, effect: {effect} }}\n"
    ))
    .host_loopback()
}

#[test]
fn only_loopback_that_is_named_on_purpose_counts() {
    let none = LoopbackPorts::Ports(vec![]);
    assert_eq!(loopback("\"tcp://*:443\"", "allow"), none);
    assert_eq!(loopback("\"*\"", "allow"), none);
    assert_eq!(loopback("\"cidr:0.0.0.0/0\"", "allow"), none);
    assert_eq!(loopback("\"cidr:public\"", "allow"), none);
    assert_eq!(loopback("\"tcp://127.0.0.1:5432\"", "deny"), none);
    assert_eq!(loopback("\"cidr:loopback\"", "allow"), LoopbackPorts::All);
    assert_eq!(loopback("\"cidr:private\"", "ask"), LoopbackPorts::All);
    assert_eq!(loopback("\"tcp://localhost\"", "ask"), LoopbackPorts::All);
    assert_eq!(
        loopback("\"tcp://**.localhost:80\"", "ask"),
        LoopbackPorts::Ports(vec![80..=80])
    );
    let ports = loopback(
        "[\"tcp://127.0.0.1:5432\", \"tcp://[::1]:5433-5440\", \"tcp://localhost:80\"]",
        "allow",
    );
    assert_eq!(ports, LoopbackPorts::Ports(vec![80..=80, 5432..=5440]));
    assert!(ports.contains(5433) && !ports.contains(5441));
}

#[test]
fn names_resolve_when_something_could_come_of_it() {
    let p = policy(
        r#"  - { id: no, priority: 1, action: net.connect, resource: "tcp://bad.example.org", effect: deny }
  - { id: half, priority: 1, action: net.connect, resource: "tcp://half.example.org:443", effect: deny }
  - { id: ok, priority: 5, action: net.connect, resource: ["tcp://*.example.org:443", "tcp://half.example.org:8000-9000"], effect: allow }
  - { id: person, action: net.connect, resource: "tcp://ask.net:22", effect: ask }
  - { id: dns, priority: 2, action: dns.resolve, resource: ["dns:only.dns", "dns:*.only.dns"], effect: allow }
  - { id: nodns, priority: 2, action: dns.resolve, resource: "dns:x.example.org", effect: deny }
  - { id: http, action: http.request, resource: "https://api.example.com/v1/**", effect: allow }
  - { id: udp, action: net.send, resource: "udp://ntp.example.com:123", effect: allow }
"#,
    );
    let resolve = |host: &str| {
        let d = p.resolve_name(&Subject::agent("a"), host, &Facts::default());
        (d.effect, d.rule)
    };
    let allowed = |rule: &str| (Effect::Allow, Some(rule.to_owned()));
    assert_eq!(resolve("a.example.org"), allowed("ok"));
    assert_eq!(resolve("half.example.org"), allowed("ok"));
    assert_eq!(resolve("bad.example.org"), (Effect::Deny, None));
    assert_eq!(resolve("a.b.example.org"), (Effect::Deny, None));
    assert_eq!(resolve("ask.net"), allowed("person"));
    assert_eq!(resolve("only.dns"), allowed("dns"));
    assert_eq!(
        resolve("x.example.org"),
        (Effect::Deny, Some("nodns".into()))
    );
    assert_eq!(resolve("api.example.com"), allowed("http"));
    assert_eq!(resolve("ntp.example.com"), allowed("udp"));
    assert_eq!(resolve("elsewhere.net"), (Effect::Deny, None));
    let star =
        policy("  - { id: s, action: net.connect, resource: \"tcp://*:443\", effect: allow }\n");
    let d = star.resolve_name(&Subject::agent("a"), "anything.net", &Facts::default());
    assert_eq!(d.effect, Effect::Allow);
    let denied = star.resolve_name(&Subject::agent("a"), "x.localhost", &Facts::default());
    assert_eq!(denied.effect, Effect::Allow);
}
