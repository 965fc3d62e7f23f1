//! Policies: loading, deciding, placement.

use std::path::{Path, PathBuf};

use agentwall_action::{Action, Effect, ObjectKind, Resource, Subject, Verb};
use agentwall_policy::{
    ADDRESS_SETS, Addresses, FileKind, FormatError, Layer, LoadError, MAX_CASES, MAX_DIAGNOSTICS,
    MAX_WARNINGS, Network, Policy, Source, WARNING_CODES, file_kind, format, load, load_table,
    load_with_warnings,
};

use crate::input::{
    Bytes, action, address, assert_json, assert_shown, lines, parts, usual_actions, variables,
};

/// A policy file. It loads, always into the same policy, or there is a report that can be shown.
pub fn load_file(data: &[u8]) {
    match user(data) {
        Err(error) => check_report(&error),
        Ok(policy) => {
            let again = user(data).expect("it loaded a moment ago");
            assert_eq!(policy, again);
            assert_eq!(policy.digest().len(), 64);
            let _ = policy.run_tests();
            policy.anchors();
            for action in usual_actions() {
                check_decision(&policy, &action);
            }
        }
    }
}

/// A table of test cases, and maybe a policy behind it. It is read, always into the same table, or there
/// is a report that can be shown; what it finds about a policy is what the policy decides.
pub fn table(data: &[u8]) {
    let parts = parts(data);
    let read = |text: &[u8]| {
        let source = Source::new("table.yaml", text, Layer::User);
        load_table(&source, &variables())
    };
    let table = match read(parts[0]) {
        Ok(table) => table,
        Err(error) => return check_report(&error),
    };
    assert_eq!(read(parts[0]).as_ref(), Ok(&table));
    assert!(!table.cases.is_empty() && table.cases.len() <= MAX_CASES);
    let policy = parts.get(1).copied().unwrap_or(b"agentwall: 1");
    let Ok(policy) = user(policy) else { return };
    let report = policy.run_table(&table);
    assert_shown(&report.to_string());
    assert_eq!(report.run, table.cases.len());
    let mut failures = report.failures.iter().map(|f| &f.location);
    for case in &table.cases {
        let decision = policy.decide(&case.action);
        let rule = case.rule.as_ref().is_none_or(|r| *r == decision.rule);
        let fine = decision.effect == case.expect && rule;
        // In the order of the cases; several may stand on one line.
        if !fine {
            assert_eq!(
                failures.next(),
                Some(&case.location),
                "{case:?}: {decision:?}"
            );
        }
    }
    assert_eq!(failures.next(), None);
    let coverage = policy.coverage(std::slice::from_ref(&table));
    assert!(coverage.covered() <= coverage.rules.len() && coverage.percent() <= 100);
    check_layout(parts[0], FileKind::Table);
}

/// A policy or a table. Its layout means the same, keeps its comments and is laid out already.
pub fn layout(data: &[u8]) {
    let source = Source::new("file.yaml", data, Layer::User);
    check_layout(data, file_kind(&source));
    if let Ok((policy, warnings)) = load_with_warnings(&source, &variables()) {
        // By another name: places differ, the policy does not.
        assert_eq!(
            user(data).map(|p| p.digest().to_owned()),
            Ok(policy.digest().to_owned())
        );
        assert!(warnings.len() <= MAX_WARNINGS);
        for warning in warnings {
            assert_shown(&warning.to_string());
            assert!(WARNING_CODES.iter().any(|(code, _)| *code == warning.code));
        }
    }
}

fn check_layout(data: &[u8], kind: FileKind) {
    let lay_out = |text: &[u8]| {
        let source = Source::new("file.yaml", text, Layer::User);
        format(&source, kind, &variables())
    };
    let text = match lay_out(data) {
        Ok(text) => text,
        Err(FormatError::Load(error)) => return check_report(&error),
        // What cannot be shown to be the same is left as it is; a layout that would change the policy
        // is a defect of the printer all the same.
        Err(error) => panic!("{error}"),
    };
    assert_eq!(lay_out(text.as_bytes()).as_ref(), Ok(&text));
    if kind == FileKind::Policy {
        let digest = |text: &[u8]| user(text).expect("it loads").digest().to_owned();
        assert_eq!(digest(data), digest(text.as_bytes()));
    }
}

/// A policy, a lower layer's policy (maybe empty) and actions, in three parts.
pub fn decide(data: &[u8]) {
    let parts = parts(data);
    let Ok(policy) = user(parts[0]) else {
        return;
    };
    let lower = parts.get(1).copied().unwrap_or_default();
    let both = (!lower.is_empty()).then(|| {
        let sources = [
            Source::new("policy.yaml", parts[0], Layer::User),
            Source::new("repository.yaml", lower, Layer::Repository),
        ];
        load(&sources, &variables())
    });
    let own = lines(parts.get(2).copied().unwrap_or_default(), 16);
    let own = own.into_iter().filter_map(action);
    for action in own.chain(usual_actions()) {
        check_decision(&policy, &action);
        check_region(&policy, &action);
        check_name(&policy, &action);
        match &both {
            Some(Ok(both)) => {
                check_decision(both, &action);
                check_region(both, &action);
                let (alone, with) = (policy.decide(&action), both.decide(&action));
                assert!(
                    with.effect >= alone.effect,
                    "a lower layer loosened {action:?}: {alone:?} to {with:?}"
                );
            }
            Some(Err(error)) => check_report(error),
            None => {}
        }
    }
}

/// `VERB PATTERN`, then texts of resources. `X` and `["**", "!X"]` never both match.
pub fn pattern(data: &[u8]) {
    let lines = lines(data, 12);
    let Some((first, resources)) = lines.split_first() else {
        return;
    };
    let Some((verb, pattern)) = first.split_once(' ') else {
        return;
    };
    // Reading a verb first keeps what is loaded to texts that are about the pattern.
    if verb.parse::<Verb>().is_err() || pattern.starts_with('!') {
        return;
    }
    let file = format!(
        "agentwall: 1\nrules:\n\
         - {{id: is, action: {verb}, subject: 'agent:is', effect: allow, resource: [{}]}}\n\
         - {{id: not, action: {verb}, subject: 'agent:not', effect: allow, resource: [\"**\", {}]}}\n",
        quoted(pattern),
        quoted(&format!("!{pattern}"))
    );
    let policy = match user(file.as_bytes()) {
        Ok(policy) => policy,
        Err(error) => return check_report(&error),
    };
    for resource in resources {
        let Some(action) = action(&format!("{verb} {resource}")) else {
            continue;
        };
        let by = |name: &str| Action {
            subject: Subject::agent(name),
            ..action.clone()
        };
        let (is, not) = (by("is"), by("not"));
        let effects = (policy.decide(&is).effect, policy.decide(&not).effect);
        assert_ne!(effects.0, effects.1, "{pattern:?} {action:?}");
        check_region(&policy, &is);
        check_region(&policy, &not);
    }
}

/// Temporal properties, one a line; what was read reads back as the same.
pub fn property(data: &[u8]) {
    let file = |properties: &[(&str, &str)]| {
        let mut text = "agentwall: 1\nproperties:\n".to_owned();
        for (n, (key, property)) in properties.iter().enumerate() {
            text.push_str(&format!("- {{id: p{n}, {key}: {}}}\n", quoted(property)));
        }
        text
    };
    let lines = lines(data, 4);
    let properties: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once(": "))
        .collect();
    if !properties
        .iter()
        .all(|(key, _)| ["never", "require"].contains(key))
    {
        return;
    }
    match user(file(&properties).as_bytes()) {
        Err(error) => check_report(&error),
        Ok(policy) => {
            let texts = policy.properties().iter().map(|p| p.text.as_str());
            let own: Vec<_> = properties.iter().map(|(key, _)| *key).zip(texts).collect();
            let again = user(file(&own).as_bytes()).expect("its own text");
            assert_eq!(again.digest(), policy.digest());
        }
    }
}

/// Networks and address sets: one spelling, and membership as the bits say.
pub fn addresses(data: &[u8]) {
    let parts = parts(data);
    let mut bytes = Bytes(parts.get(1).copied().unwrap_or_default());
    let ips: Vec<_> = (0..4).map(|_| address(&mut bytes)).collect();
    let texts = lines(parts[0], 4);
    let networks: Vec<Network> = texts
        .iter()
        .filter_map(|t| Network::parse(t).ok())
        .collect();
    for network in &networks {
        assert_eq!(Network::parse(&network.to_string()).as_ref(), Ok(network));
        assert!(network.contains(network.address()));
        for ip in &ips {
            assert_eq!(
                network.contains(*ip),
                in_bits(network, *ip),
                "{network} {ip}"
            );
        }
        for other in &networks {
            assert_eq!(network.overlaps(other), other.overlaps(network));
            if network.covers(other) {
                assert!(
                    ips.iter()
                        .all(|ip| !other.contains(*ip) || network.contains(*ip))
                );
            }
        }
    }
    for text in texts {
        match Addresses::parse(text) {
            Ok(a) => assert_eq!(Addresses::parse(&a.to_string()), Ok(a)),
            Err((message, _)) => assert!(!message.is_empty()),
        }
    }
    for ip in ips {
        let within = |name: &str| Addresses::parse(name).expect("a set").contains(ip);
        assert_ne!(within("public"), within("private"), "{ip}");
        for set in ADDRESS_SETS.iter().filter(|s| s.name != "public") {
            assert!(
                !within(set.name) || within("private"),
                "{ip} in {}",
                set.name
            );
        }
    }
}

fn in_bits(network: &Network, ip: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    let same = |a: u128, b: u128, bits: u32| {
        let drop = bits - u32::from(network.prefix());
        drop == bits || a >> drop == b >> drop
    };
    match (network.address(), ip) {
        (V4(a), V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (V6(a), V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Loads one file as the user's.
pub fn user(text: &[u8]) -> Result<Policy, LoadError> {
    load(
        &[Source::new("policy.yaml", text, Layer::User)],
        &variables(),
    )
}

/// A text as a YAML scalar: a JSON string is one.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

/// A load error has something to say, in places that exist, safe to show.
pub fn check_report(error: &LoadError) {
    let diagnostics = error.diagnostics();
    assert!((1..=MAX_DIAGNOSTICS).contains(&diagnostics.len()));
    for d in diagnostics {
        assert!(d.line >= 1 && d.column >= 1 && d.length >= 1, "{d:?}");
        assert!(!d.message.is_empty());
    }
    assert_shown(&error.to_string());
    serde_json::to_string(diagnostics).expect("writable");
}

/// A decision is the explained one, reads back from JSON, and names a rule of the policy.
pub fn check_decision(policy: &Policy, action: &Action) {
    let decision = policy.decide(action);
    assert_eq!(policy.explain(action).decision, decision);
    assert_eq!(decision.policy, policy.digest());
    assert_json(&decision);
    for id in decision.rule.iter().chain(&decision.monitors) {
        assert!(policy.rule(id).is_some(), "{decision:?}");
    }
}

/// What can happen in a tree covers what happens to one of its paths.
fn check_region(policy: &Policy, action: &Action) {
    let Resource::Path(path) = &action.resource else {
        return;
    };
    let mut kinds = vec![path.clone()];
    kinds[0].kind = ObjectKind::Directory;
    kinds.push(path.clone());
    for (n, path) in kinds.into_iter().enumerate() {
        let action = Action {
            resource: Resource::Path(path.clone()),
            ..action.clone()
        };
        let decision = policy.decide(&action);
        let ancestors: Vec<&Path> = path.path.ancestors().take(6).collect();
        // The path itself counts as a directory in its own region.
        for dir in ancestors.iter().skip(n) {
            let except = [PathBuf::from("/home/u/.ssh")];
            let except = if path.path.starts_with(&except[0]) {
                &[][..]
            } else {
                &except[..]
            };
            let region = policy.region(&action.subject, action.verb, dir, except, &action.facts);
            assert!(
                region.effects.contains(&decision.effect),
                "{} below {}: {decision:?} is not in {region:?}",
                action.resource,
                dir.display()
            );
            assert!(region.monitored || decision.monitors.is_empty());
            assert_eq!(region.uniform, region.effects.len() == 1);
            if let Some(rule) = &region.rule {
                assert_eq!(Some(rule), decision.rule.as_ref(), "{region:?}");
            }
        }
    }
}

/// A host to which a connection may go can be resolved; conditions may look at anything.
fn check_name(policy: &Policy, action: &Action) {
    let Resource::Endpoint(endpoint) = &action.resource else {
        return;
    };
    let (Some(host), None) = (&endpoint.host, endpoint.ip) else {
        return;
    };
    let resolved = policy.resolve_name(&action.subject, host, &action.facts);
    let asked = Action {
        verb: Verb::DnsResolve,
        resource: Resource::Host(host.clone()),
        ..action.clone()
    };
    if policy.decide(&asked).rule.is_some() || policy.rules().any(|r| r.is_conditional()) {
        return;
    }
    let decision = policy.decide(action);
    let net = matches!(action.verb, Verb::NetConnect | Verb::NetSend);
    if net && matches!(decision.effect, Effect::Allow | Effect::Ask) {
        assert_eq!(resolved.effect, Effect::Allow, "{action:?}");
    }
}
