//! Random small policies and actions for the tests of analysis: few names, so that rules meet often.

use agentwall_action::{Action, Endpoint, Facts, Protocol, Resource, Subject, Verb};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{Layer, Policy, Source, Variables, load};

pub(crate) fn variables() -> Variables {
    Variables {
        workspace: Some("/w".into()),
        home: Some("/h".into()),
        tmp: Some("/tmp".into()),
        state: Some("/s".into()),
    }
}

/// Loads rules, each one flow mapping.
pub(crate) fn policy_of(layers: &[(Layer, Option<&str>, &[String])]) -> Option<Policy> {
    let sources = layers.iter().map(|(layer, default, rules)| {
        let default = default.map_or(String::new(), |d| format!("default: {d}\n"));
        let rules: String = rules.iter().map(|r| format!("  - {{{r}}}\n")).collect();
        let rules = if rules.is_empty() {
            String::new()
        } else {
            format!("rules:\n{rules}")
        };
        Source::new(
            layer.as_str(),
            format!("agentwall: 1\n{default}{rules}"),
            *layer,
        )
    });
    load(&sources.collect::<Vec<_>>(), &variables()).ok()
}

/// A user's policy; panics with the reason when it does not load.
pub(crate) fn policy(default: &str, rules: &[&str]) -> Policy {
    let rules: String = rules.iter().map(|r| format!("  - {{{r}}}\n")).collect();
    let rules = if rules.is_empty() {
        String::new()
    } else {
        format!("rules:\n{rules}")
    };
    let text = format!("agentwall: 1\ndefault: {default}\n{rules}");
    load(&[Source::new("p", text, Layer::User)], &variables()).unwrap_or_else(|e| panic!("{e}"))
}

const PATHS: &[&str] = &[
    "/a/**",
    "/a/b",
    "/a/*",
    "/**/b",
    "**/a/**",
    "/*/b",
    "/a/[ab]*",
    "/{a,b}/**",
    "/b/**",
    "*",
    "/a",
    "label:x",
    "label:secret",
    "/h/.ssh/**",
    "/w/**",
    "/a/?",
];
const NETS: &[&str] = &[
    "tcp://*:443",
    "tcp://a.b:443",
    "tcp://*.b",
    "udp://*:53",
    "cidr:private",
    "cidr:loopback",
    "tcp://10.0.0.0/8:80-90",
    "cidr:public",
    "tcp://localhost:80",
    "tcp://**.b:1-1000",
    "label:x",
    "cidr:10.0.0.0/9",
    "tcp://*",
    "cidr:0.0.0.0/0",
    "tcp://[2001::/32]",
];
const NAMES: &[&str] = &["a:b", "a:*", "**", "*:b", "a/*", "label:x", "{a,b}:c"];
const CONDITIONS: &[&str] = &[
    "session.interactive",
    "risk > 50",
    "args.n > 1",
    "risk >= 0",
    "auth.method == \\\"o\\\"",
];

/// A rule of one family, without its id.
fn rule() -> impl Strategy<Value = String> {
    let verbs = prop_oneof![
        4 => select(vec!["file.read", "file.*", "[file.read, file.write]", "file.commit"])
            .prop_map(|v| (v, PATHS)),
        3 => select(vec!["net.connect", "net.*"]).prop_map(|v| (v, NETS)),
        1 => select(vec!["tool.call", "[tool.call, api.call]"]).prop_map(|v| (v, NAMES)),
    ];
    let members = verbs.prop_flat_map(|(v, patterns)| {
        let positive = vec(select(patterns), 0..3);
        let negative = vec(select(patterns), 0..2);
        (Just(v), positive, negative)
    });
    let effects = select(vec!["allow", "deny", "ask", "isolate", "monitor"]);
    let subject = select(vec![
        "",
        "",
        "subject: 'agent:a', ",
        "subject: ['agent:*', '!agent:b'], ",
    ]);
    let condition = (select(vec!["when", "unless"]), select(CONDITIONS), 0..3u8);
    (members, effects, subject, condition, 1..4u8).prop_map(
        |((verbs, positive, negative), effect, subject, (key, text, with), priority)| {
            let mut list: Vec<String> = positive.iter().map(|p| format!("\"{p}\"")).collect();
            list.extend(negative.iter().map(|p| format!("\"!{p}\"")));
            let resource = match list.is_empty() {
                true => String::new(),
                false => format!("resource: [{}], ", list.join(", ")),
            };
            let effect = match (effect, verbs.starts_with("file") || verbs.starts_with("[file")) {
                ("isolate", true) if verbs != "file.commit" => "isolate",
                ("isolate", _) => "ask",
                (other, _) => other,
            };
            let condition = match with {
                0 => format!("{key}: \"{text}\", "),
                _ => String::new(),
            };
            format!(
                "priority: {priority}, {subject}action: {verbs}, {resource}{condition}effect: {effect}"
            )
        },
    )
}

/// Rules with ids that begin with `name`.
pub(crate) fn rules(name: &'static str, most: usize) -> impl Strategy<Value = Vec<String>> {
    vec(rule(), 1..=most).prop_map(move |rules| {
        let numbered = rules.iter().enumerate();
        numbered
            .map(|(n, r)| format!("id: {name}{n}, {r}"))
            .collect()
    })
}

/// One to three layers.
pub(crate) fn policies(name: &'static str, most: usize) -> impl Strategy<Value = Option<Policy>> {
    let default = || select(vec![Some("allow"), Some("deny"), Some("ask"), None]);
    let lower = prop_oneof![2 => Just(Vec::new()), 1 => rules("lower", 2)];
    (rules(name, most), lower, default(), default()).prop_map(|(upper, lower, a, b)| {
        let mut layers = vec![(Layer::Organisation, a, upper.as_slice())];
        if !lower.is_empty() {
            layers.push((Layer::Repository, b, lower.as_slice()));
        }
        policy_of(&layers)
    })
}

/// Any action that such rules could be about.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let path = vec(select(vec!["a", "b", "ab", ".ssh", "h", "w", "x"]), 0..4);
    let path = (
        path,
        any::<bool>(),
        select(vec![
            Verb::FileRead,
            Verb::FileWrite,
            Verb::FileExec,
            Verb::FileCommit,
        ]),
    );
    let path = path.prop_map(|(parts, directory, verb)| {
        let text = format!("/{}", parts.join("/"));
        let resource = if directory {
            Resource::directory(text)
        } else {
            Resource::path(text)
        };
        (verb, resource)
    });
    let host = select(vec![
        None,
        Some("a.b"),
        Some("x.a.b"),
        Some("localhost"),
        Some("y.localhost"),
        Some("b"),
    ]);
    let ip = select(vec![
        None,
        Some("10.0.0.1"),
        Some("10.200.0.1"),
        Some("127.0.0.1"),
        Some("8.8.8.8"),
        Some("::1"),
        Some("2001:0:a00:1::1"),
        Some("2002:a00:1::"),
        Some("2a00::1"),
        Some("2001:0:808:808::f5ff:fffe"),
    ]);
    let port = select(vec![0u16, 53, 80, 85, 91, 443, 1000, 1001, 65535]);
    let udp = any::<bool>();
    let verbs = select(vec![Verb::NetConnect, Verb::NetListen]);
    let net =
        (host, ip, port, udp, verbs).prop_filter_map("neither", |(host, ip, port, udp, verb)| {
            if host.is_none() && ip.is_none() {
                return None;
            }
            let endpoint = Endpoint {
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                host: host.map(str::to_owned),
                ip: ip.map(|ip| ip.parse().unwrap()),
                port,
            };
            Some((verb, Resource::Endpoint(endpoint)))
        });
    let name = (
        select(vec!["a:b", "a:c", "b:c", "a/x", "x", "a:b:c"]),
        select(vec![Verb::ToolCall, Verb::ApiCall]),
    );
    let name = name.prop_map(|(n, verb)| (verb, Resource::Named(n.into())));
    let object = prop_oneof![4 => path, 4 => net, 1 => name];
    let facts = (
        any::<bool>(),
        select(vec![0u8, 60]),
        select(vec![None, Some(0), Some(2)]),
        any::<bool>(),
        0..4u8,
    );
    let facts = facts.prop_map(|(interactive, risk, n, oauth, labels)| {
        let mut facts = Facts {
            risk,
            ..Facts::default()
        };
        facts.session.interactive = interactive;
        if let Some(n) = n {
            facts.args = serde_json::json!({ "n": n });
        }
        if oauth {
            facts.auth.method = "o".into();
        }
        if labels == 0 {
            facts.labels.insert("x".into());
        }
        if labels == 1 {
            facts.labels.insert("secret".into());
        }
        facts
    });
    let subject = select(vec!["agent:a", "agent:b", "agent:c", "else"]);
    (subject, object, facts).prop_map(|(subject, (verb, resource), facts)| Action {
        subject: Subject(subject.into()),
        verb,
        resource,
        facts,
    })
}

#[test]
fn most_random_policies_load() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let loaded = (0..100).filter(|_| {
        policies("r", 6)
            .new_tree(&mut runner)
            .unwrap()
            .current()
            .is_some()
    });
    assert!(loaded.count() > 60);
}
