//! Policies and actions for comparing the compiled policy with the interpreter: small vocabularies, so
//! that patterns meet, overlap and miss by one byte.

use std::{net::IpAddr, path::PathBuf};

use agentwall_action::{
    Action, Auth, Endpoint, Facts, ObjectKind, Protocol, Resource, Session, Subject, Verb,
};
use agentwall_policy::{Layer, Source};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

/// The sources of a policy.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Policies(pub Vec<(Layer, Value)>);

impl Policies {
    pub fn sources(&self) -> Vec<Source> {
        let source = |(layer, text): &(Layer, Value)| {
            Source::new(format!("{layer:?}.yaml"), text.to_string(), *layer)
        };
        self.0.iter().map(source).collect()
    }
}

fn segment() -> impl Strategy<Value = String> {
    // The long ones share beginnings and ends: runs, and texts that leave them.
    let plain = select(vec![
        "a",
        "b",
        "ab",
        "ba",
        ".x",
        "aab",
        "aabbaabbab",
        "aabbaabb.x",
        "babbaabbab",
    ]);
    let wild = select(vec![
        "*", "a*", "*b", "*a*", "?", "a?", "?b", "[ab]", "[!a]", "[a-b]*", "{a,b}", "{a*,*b}",
        "a*b", "*a*b*", "*.x", "a.*", "**a", "b**", "a**b", "{,a}b", "*bb", "a*bb", "*baba",
    ]);
    prop_oneof![3 => plain, 2 => wild].prop_map(str::to_owned)
}

fn path_pattern() -> impl Strategy<Value = String> {
    let step = prop_oneof![5 => segment(), 2 => Just("**".to_owned())];
    let steps = prop::collection::vec(step, 1..5);
    let head = prop_oneof![
        8 => Just("/"),
        2 => Just("**/"),
        1 => Just("~/"),
        1 => Just("${workspace}/"),
    ];
    let whole = (head, steps).prop_map(|(head, steps)| format!("{head}{}", steps.join("/")));
    prop_oneof![12 => whole, 1 => Just("/".to_owned()), 1 => Just("/**".to_owned()),
        1 => Just("{**,/a/b}".to_owned())]
}

fn host_pattern() -> impl Strategy<Value = String> {
    let label = select(vec![
        "a",
        "b",
        "ab",
        "com",
        "*",
        "**",
        "a*",
        "*b",
        "*bb",
        "?",
        "{a,b}",
        "localhost",
    ]);
    prop::collection::vec(label, 1..4).prop_map(|labels| labels.join("."))
}

const NETWORKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "127.0.0.1",
    "169.254.169.254/32",
    "0.0.0.0/0",
    "8.8.8.0/24",
    "::/0",
    "::1",
    "fd00::/8",
    "64:ff9b::/96",
    "2001:db8::/32",
];

const SETS: &[&str] = &[
    "private",
    "public",
    "rfc1918",
    "loopback",
    "metadata",
    "link-local",
    "reserved",
    "ula",
];

fn endpoint_pattern() -> impl Strategy<Value = String> {
    let network = select(NETWORKS).prop_map(|n| match n.contains(':') {
        true => format!("[{n}]"),
        false => n.to_owned(),
    });
    let host = prop_oneof![host_pattern(), network, Just("*".to_owned())];
    let port = select(vec![
        "",
        ":*",
        ":80",
        ":443",
        ":80-443",
        ":0-79",
        ":8000-8999",
    ]);
    let scheme = select(vec!["tcp://", "udp://"]);
    let endpoint = (scheme, host, port).prop_map(|(s, h, p)| format!("{s}{h}{p}"));
    let cidr = select([NETWORKS, SETS].concat()).prop_map(|n| format!("cidr:{n}"));
    prop_oneof![3 => endpoint, 2 => cidr]
}

fn name_pattern() -> impl Strategy<Value = String> {
    let step = select(vec![
        "tool",
        "a",
        "b",
        "*",
        "**",
        "a*",
        "*b*",
        "?",
        "{a,b}",
        "[!a]",
        "warehouse",
        "warehouses",
    ]);
    (prop::collection::vec(step, 1..4), select(vec![":", "/"])).prop_map(|(s, by)| s.join(by))
}

fn socket_pattern() -> impl Strategy<Value = String> {
    let path = path_pattern().prop_map(|p| format!("unix:{p}"));
    let name = name_pattern().prop_map(|p| format!("unix:@{p}"));
    prop_oneof![path, name, Just("unix:*".to_owned())]
}

/// The kinds of objects, with the verbs on them.
const FAMILIES: &[&[&str]] = &[
    &[
        "file.read",
        "file.write",
        "file.commit",
        "file.*",
        "process.exec",
        "device.open",
        "*",
    ],
    &["net.connect", "net.send", "net.*"],
    &["dns.resolve"],
    &["ipc.connect"],
    &["tool.call", "api.call", "http.request"],
];

fn pattern(family: usize) -> BoxedStrategy<String> {
    let any = prop_oneof![3 => Just("*".to_owned()), 2 => Just("label:secret".to_owned()),
        1 => Just("label:host-executed".to_owned()), 1 => Just("label:x".to_owned())];
    let own: BoxedStrategy<String> = match family {
        0 => path_pattern().boxed(),
        1 => endpoint_pattern().boxed(),
        2 => host_pattern().prop_map(|h| format!("dns:{h}")).boxed(),
        3 => socket_pattern().boxed(),
        _ => name_pattern().boxed(),
    };
    prop_oneof![12 => own, 1 => any].boxed()
}

const CONDITIONS: &[&str] = &[
    "auth.method == 'oauth'",
    "session.interactive",
    "session.name == 'n' && args.x == 1",
    "args.x > 1",
    "args.x > 1 || auth.method == 'oauth'",
    "risk > 50",
    "'x' in labels",
    "resource.contains('a')",
    "!(time > 5)",
    "subject == 'agent:a' || risk > 50",
    "1 / 0 == 1",
    "has(args.x) && args.x - 1 < 1",
    "['x', 'y'].exists(l, l in labels)",
    "resource.matches('a$') || action in ['file.read', 'tool.call']",
];

fn rule(effects: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let family = prop_oneof![5 => Just(0), 3 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4)];
    family.prop_flat_map(move |family: usize| {
        (
            0..3i64,
            select(effects),
            prop::collection::vec(select(FAMILIES[family]), 1..3),
            prop::collection::vec((pattern(family), prop::bool::weighted(0.2)), 0..4),
            prop::option::weighted(
                0.2,
                select(vec!["agent:a", "agent:*", "agent:b", "!agent:b"]),
            ),
            prop::option::weighted(0.15, select(CONDITIONS)),
            prop::option::weighted(0.1, select(CONDITIONS)),
        )
            .prop_map(
                |(priority, effect, actions, resources, subject, when, unless)| {
                    let resources: Vec<String> = resources
                        .into_iter()
                        .map(|(r, negative)| if negative { format!("!{r}") } else { r })
                        .collect();
                    let mut rule =
                        json!({ "priority": priority, "effect": effect, "action": actions });
                    if !resources.is_empty() {
                        rule["resource"] = json!(resources);
                    }
                    for (key, value) in [("subject", subject), ("when", when), ("unless", unless)] {
                        if let Some(value) = value {
                            rule[key] = json!(value);
                        }
                    }
                    rule
                },
            )
    })
}

fn document(layer: Layer, rules: usize) -> impl Strategy<Value = (Layer, Value)> {
    // A lower layer that allows is mostly refused when it is loaded.
    let effects: &'static [&'static str] = match layer {
        Layer::Organisation | Layer::User => &["allow", "deny", "ask", "isolate", "monitor"],
        Layer::Repository | Layer::BuiltIn => &["deny", "ask", "monitor"],
    };
    let default = match layer {
        Layer::Repository => Just(None).boxed(),
        _ => prop::option::of(select(vec!["allow", "deny", "ask"])).boxed(),
    };
    (prop::collection::vec(rule(effects), 0..rules), default).prop_map(move |(rules, default)| {
        let rules: Vec<Value> = (0..)
            .zip(rules)
            .map(|(i, mut rule)| {
                rule["id"] = json!(format!("{}-{i}", layer.as_str()));
                rule
            })
            .collect();
        let mut document = json!({ "agentwall": 1, "rules": rules });
        if let Some(default) = default {
            document["default"] = json!(default);
        }
        (layer, document)
    })
}

/// Policies of one or two layers.
pub fn policies() -> impl Strategy<Value = Policies> {
    let one = document(Layer::User, 14).prop_map(|d| Policies(vec![d]));
    let two = (document(Layer::User, 8), document(Layer::Repository, 5))
        .prop_map(|(a, b)| Policies(vec![a, b]));
    prop_oneof![4 => one, 1 => two]
}

fn path() -> impl Strategy<Value = String> {
    let name = select(vec![
        "a",
        "b",
        "ab",
        "ba",
        ".x",
        "aab",
        "b.x",
        "c",
        "a.b",
        "aabb",
        "aabbaabbab",
        "aabbaabbax",
        "aabbaabb",
        "aabbaabb.x",
        "babbaabbab",
        "xabbaabbab",
    ]);
    let below = prop::collection::vec(name, 0..6).prop_map(|n| format!("/{}", n.join("/")));
    let places = select(vec![
        "/home/u",
        "/home/u/.ssh",
        "/home/u/.ssh/id",
        "/work",
        "/work/a",
        "/work/.git/hooks/x",
        "/home/u/a/b",
        "/etc/shadow",
        "/run/docker.sock",
        "/a/.env",
    ]);
    prop_oneof![5 => below, 1 => places.prop_map(str::to_owned)]
}

const IPS: &[&str] = &[
    "10.1.2.3",
    "10.2.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "8.8.8.8",
    "8.8.9.1",
    "192.168.1.1",
    "::1",
    "fd00::1",
    "2001:4860::1",
    "64:ff9b::a01:203",
    "64:ff9b::808:808",
    "2002:a01:203::1",
    "::ffff:10.1.2.3",
    "2001:0:808:808:0:0:f5fe:fdfc",
    "::10.1.2.3",
    "100.100.100.200",
];

fn host() -> impl Strategy<Value = String> {
    let label = select(vec![
        "a",
        "b",
        "ab",
        "com",
        "ba",
        "localhost",
        "x",
        "abbb",
        "bbbbbbbb",
    ]);
    let name = prop::collection::vec(label, 1..5).prop_map(|l| l.join("."));
    prop_oneof![6 => name, 1 => select(IPS).prop_map(str::to_owned)]
}

fn resource(verb: Verb) -> BoxedStrategy<Resource> {
    use agentwall_action::VerbFamily as F;
    let kind = select(vec![
        ObjectKind::Unknown,
        ObjectKind::Directory,
        ObjectKind::File,
    ]);
    match verb.family() {
        F::File | F::Process | F::Device => (path(), kind)
            .prop_map(|(path, kind)| {
                let mut resource = Resource::path(path);
                if let Resource::Path(p) = &mut resource {
                    p.kind = kind;
                }
                resource
            })
            .boxed(),
        F::Net => (
            select(vec![Protocol::Tcp, Protocol::Udp]),
            prop::option::weighted(0.7, host()),
            prop::option::weighted(0.6, select(IPS)),
            select(vec![0u16, 79, 80, 81, 443, 444, 8000, 8999, 9000, 65535]),
        )
            .prop_map(|(protocol, host, ip, port)| {
                Resource::Endpoint(Endpoint {
                    protocol,
                    host,
                    ip: ip.and_then(|ip| ip.parse::<IpAddr>().ok()),
                    port,
                })
            })
            .boxed(),
        F::Dns => host().prop_map(Resource::Host).boxed(),
        F::Ipc => {
            let name = select(vec!["@tool:a", "@a", "@tool/b", "@tool:a:b", "@x"]);
            prop_oneof![
                path().prop_map(|p| Resource::Unix(PathBuf::from(p))),
                name.prop_map(|n| Resource::Unix(PathBuf::from(n))),
            ]
            .boxed()
        }
        F::Named => {
            let step = select(vec![
                "tool",
                "a",
                "b",
                "ab",
                "ba",
                "c",
                "warehouse",
                "warehouses",
                "warehome",
            ]);
            (prop::collection::vec(step, 1..5), select(vec![":", "/"]))
                .prop_map(|(s, by)| Resource::Named(s.join(by)))
                .boxed()
        }
    }
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        select(vec!["", "oauth"]),
        any::<bool>(),
        select(vec![
            Value::Null,
            json!({ "x": 1 }),
            json!({ "x": 2 }),
            json!(["x"]),
        ]),
        prop::collection::btree_set(select(vec!["x", "secret", "y", "host-executed"]), 0..2),
        select(vec![0u8, 51]),
        select(vec![0i64, 5, 6]),
    )
        .prop_map(|(method, interactive, args, labels, risk, time)| Facts {
            auth: Auth {
                method: method.into(),
            },
            session: Session {
                name: "n".into(),
                interactive,
                ..Session::default()
            },
            args,
            labels: labels.into_iter().map(str::to_owned).collect(),
            risk,
            time,
        })
}

/// The facts that hold for a session.
pub fn session() -> impl Strategy<Value = Facts> {
    facts()
}

/// Actions in a session; a few are of others.
pub fn actions(session: Facts, count: usize) -> impl Strategy<Value = Vec<Action>> {
    let verbs = vec![
        Verb::FileRead,
        Verb::FileWrite,
        Verb::FileCommit,
        Verb::FileDelete,
        Verb::ProcessExec,
        Verb::NetConnect,
        Verb::NetSend,
        Verb::DnsResolve,
        Verb::IpcConnect,
        Verb::ToolCall,
        Verb::ApiCall,
        Verb::HttpRequest,
        Verb::DeviceOpen,
    ];
    let one = select(verbs).prop_flat_map(move |verb| {
        let session = session.clone();
        (
            prop_oneof![9 => Just("agent:a"), 1 => Just("agent:b")],
            resource(verb),
            facts(),
            prop::bool::weighted(0.05),
            prop::bool::weighted(0.5),
        )
            .prop_map(move |(subject, resource, facts, other, plain)| {
                let mut action = Action::new(Subject(subject.into()), verb, resource);
                if plain {
                    action.facts = session.clone();
                    return action;
                }
                action.facts = facts;
                if !other {
                    action.facts.auth = session.auth.clone();
                    action.facts.session = session.session.clone();
                }
                action
            })
    });
    prop::collection::vec(one, count..=count)
}
