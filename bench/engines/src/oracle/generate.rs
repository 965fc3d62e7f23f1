//! Random cases that shrink: rules, sessions, and requests made from the rules' own patterns.
//!
//! A request points at a pattern by index and says how to fill its stars and how to spoil the result,
//! so that about half of them match; taking rules away or shortening texts keeps it a request.

use std::net::IpAddr;

use agentwall_action::{Verb, VerbFamily};
use proptest::{prelude::*, sample::Index};

use super::{
    pattern::{Flat, Part, PathGlob, Piece},
    request::{Ask, Object, Session},
    rule::{Condition, HostPattern, Member, Pattern, Rule, SubjectPattern, VerbPattern},
};

/// A policy, who asks, and what they ask.
#[derive(Debug, Clone)]
pub struct Case {
    /// The rules, all of one priority.
    pub rules: Vec<Rule>,
    /// At least one.
    pub sessions: Vec<Session>,
    /// The requests.
    pub seeds: Vec<Seed>,
}

/// How to make a request from the rules that are there.
#[derive(Debug, Clone)]
pub struct Seed {
    session: Index,
    rule: Index,
    pattern: Index,
    verb: Index,
    fill: Vec<String>,
    spoil: Spoil,
    directory: bool,
    ip: Option<IpAddr>,
    port: u16,
    to: Option<String>,
    amount: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
enum Spoil {
    Not,
    After(&'static str),
    Before(&'static str),
    Cut,
    Other,
}

impl Case {
    /// The requests, each with the number of its session and the form of the pattern it is from.
    pub fn asks(&self) -> impl Iterator<Item = (usize, Ask, &'static str)> {
        self.seeds.iter().map(|seed| {
            let session = seed.session.index(self.sessions.len());
            let (ask, form) = seed.ask(&self.rules);
            (session, ask, form)
        })
    }
}

/// What names are made of. Everything that is special in one of the languages is here.
const WORDS: &[&str] = &[
    "a", "b", "ab", "src", "key", ".pem", ".tmp", "x.tmp", "...", "-", "ü", "日", "a b", "*", "?",
    "[x]", "{y,z}", "\\", "\"", "!", "$", "~", ",", "'", "\n", "\u{7f}", "%", "#", ":", "lab",
];
const HOST_WORDS: &[&str] = &[
    "a",
    "b",
    "api",
    "example",
    "com",
    "xn--bcher-kva",
    "n1",
    "x-y",
];
const LABELS: &[&str] = &["trusted", "vendor"];
const METHODS: &[&str] = &["", "oauth", "jwt"];
const SETS: &[&str] = &[
    "private",
    "public",
    "rfc1918",
    "loopback",
    "link-local",
    "cgnat",
    "ula",
    "metadata",
    "multicast",
    "documentation",
];
const NETWORKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "192.168.1.0/25",
    "8.8.8.0/31",
    "2001:db8::/33",
    "fd00::/8",
    "::1",
    "::/0",
];
/// None of these wraps an IPv4 address: that is beyond Cedar's `isInRange`.
const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "10.1.2.3",
    "10.1.255.255",
    "192.168.1.127",
    "192.168.1.128",
    "8.8.8.1",
    "8.8.8.2",
    "127.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "2001:db8::1",
    "2001:db8:8000::1",
    "2606:4700::1111",
    "fd12::1",
    "fe80::1",
    "ff02::1",
    "::1",
];
const PATH_VERBS: &[Verb] = &[
    Verb::FileRead,
    Verb::FileWrite,
    Verb::FileCreate,
    Verb::FileExec,
    Verb::ProcessExec,
    Verb::DeviceOpen,
];
const NAMED_VERBS: &[Verb] = &[Verb::ToolCall, Verb::ApiCall, Verb::CredentialUse];

/// Cases of up to `rules` rules and exactly `requests` requests.
pub fn case(rules: usize, requests: usize) -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(rule(), 0..=rules),
        prop::collection::vec(session(), 1..=3),
        prop::collection::vec(seed(), 1..=requests),
    )
        .prop_map(|(rules, sessions, seeds)| Case {
            rules,
            sessions,
            seeds,
        })
}

fn pick<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

/// Words joined; never empty.
fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![
        4 => pick(words).prop_map(str::to_owned),
        1 => (pick(words), pick(words)).prop_map(|(a, b)| format!("{a}{b}")),
    ]
}

fn literal(words: &'static [&'static str]) -> impl Strategy<Value = Piece> {
    prop_oneof![
        8 => word(words).prop_map(Piece::Text),
        1 => prop::collection::vec(word(words), 2..=3).prop_map(Piece::Either),
        1 => prop::sample::subsequence(vec!['a', 'b', 'x', '1'], 1..=3).prop_map(Piece::Class),
    ]
}

/// A part with `stars` at most one beside another.
fn part(words: &'static [&'static str]) -> impl Strategy<Value = Part> {
    let l = || literal(words);
    prop_oneof![
        5 => l().prop_map(|a| vec![a]),
        2 => l().prop_map(|a| vec![Piece::Star, a]),
        1 => l().prop_map(|a| vec![a, Piece::Star]),
        1 => (l(), l()).prop_map(|(a, b)| vec![a, Piece::Star, b]),
        1 => (l(), l()).prop_map(|(a, b)| vec![a, b]),
        1 => l().prop_map(|a| vec![Piece::Star, a, Piece::Star]),
        1 => Just(vec![Piece::Star]),
    ]
}

fn folders(least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(WORDS), least..=2)
}

fn path_glob() -> impl Strategy<Value = PathGlob> {
    prop_oneof![
        3 => prop::collection::vec(part(WORDS), 0..=3).prop_map(PathGlob::Plain),
        2 => folders(0).prop_map(PathGlob::Below),
        4 => (folders(0), folders(0), part(WORDS)).prop_map(|(front, middle, name)| {
            PathGlob::Deep { front, middle, name }
        }),
        1 => (folders(0), folders(1))
            .prop_map(|(front, middle)| PathGlob::DeepBelow { front, middle }),
    ]
}

/// Parts with a separator between them, all stars of one kind.
fn flat(
    words: &'static [&'static str],
    separators: &'static [&'static str],
) -> impl Strategy<Value = Flat> {
    let parts = prop::collection::vec((part(words), pick(separators)), 1..=3);
    (parts, any::<bool>()).prop_map(|(parts, deep)| {
        let mut pieces = Vec::new();
        for (part, separator) in parts {
            if !pieces.is_empty() {
                pieces.push(Piece::Text(separator.to_owned()));
            }
            pieces.extend(part);
        }
        Flat { pieces, deep }
    })
}

fn named() -> impl Strategy<Value = Flat> {
    flat(WORDS, &[":", "/", "."])
}

fn host() -> impl Strategy<Value = Flat> {
    let local = Flat {
        pieces: vec![Piece::Text("localhost".into())],
        deep: false,
    };
    prop_oneof![9 => flat(HOST_WORDS, &["."]), 1 => Just(local)]
}

fn endpoint() -> impl Strategy<Value = Pattern> {
    let host = prop_oneof![
        1 => Just(HostPattern::Any),
        5 => host().prop_map(|mut glob| {
            // A bracket at the front of an endpoint is an IPv6 address.
            if let Some(Piece::Class(_)) = glob.pieces.first() {
                glob.pieces.insert(0, Piece::Text("a".into()));
            }
            HostPattern::Name(glob)
        }),
        2 => pick(NETWORKS).prop_map(|n| HostPattern::Network(n.to_owned())),
    ];
    let ports = prop_oneof![
        2 => Just(None),
        2 => port().prop_map(|p| Some((p, p))),
        1 => (port(), port()).prop_map(|(a, b)| Some((a.min(b), a.max(b)))),
    ];
    (pick(&["tcp", "udp"]), host, ports).prop_map(|(protocol, host, ports)| Pattern::Endpoint {
        protocol,
        host,
        ports,
    })
}

fn port() -> impl Strategy<Value = u16> {
    pick(&[0u16, 22, 80, 443, 8000, 8999, u16::MAX])
}

fn pattern(family: VerbFamily) -> BoxedStrategy<Pattern> {
    let own = match family {
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device => {
            path_glob().prop_map(Pattern::Path).boxed()
        }
        VerbFamily::Net => prop_oneof![
            4 => endpoint(),
            1 => pick(NETWORKS).prop_map(|n| Pattern::Addresses(n.into())),
            1 => pick(SETS).prop_map(|n| Pattern::Addresses(n.into())),
        ]
        .boxed(),
        VerbFamily::Dns => host().prop_map(Pattern::Host).boxed(),
        VerbFamily::Ipc => prop_oneof![
            2 => path_glob().prop_map(Pattern::Unix),
            1 => named().prop_map(|mut glob| {
                glob.pieces.insert(0, Piece::Text("@".into()));
                Pattern::Abstract(glob)
            }),
        ]
        .boxed(),
        VerbFamily::Named => named().prop_map(Pattern::Named).boxed(),
    };
    prop_oneof![
        20 => own,
        1 => Just(Pattern::Any),
        1 => pick(LABELS).prop_map(Pattern::Label),
    ]
    .boxed()
}

/// Verbs, and patterns that fit them.
fn about() -> impl Strategy<Value = (Vec<VerbPattern>, Vec<Verb>, Vec<Member<Pattern>>)> {
    let one = |verbs: &'static [Verb]| {
        prop::collection::vec(pick(verbs).prop_map(VerbPattern::One), 1..=2)
    };
    let family = |name: &'static str| Just(vec![VerbPattern::Family(name)]);
    let not = || prop::collection::vec(pick(&[Verb::FileRead, Verb::FileExec]), 0..=1);
    let of = |family| members(pattern(family), 3);
    let mixed = prop_oneof![
        of(VerbFamily::File),
        of(VerbFamily::Net),
        of(VerbFamily::Ipc)
    ];
    prop_oneof![
        4 => (one(PATH_VERBS), Just(Vec::new()), of(VerbFamily::File)),
        2 => (family("file"), not(), of(VerbFamily::File)),
        3 => (one(&[Verb::NetConnect, Verb::NetSend]), Just(Vec::new()), of(VerbFamily::Net)),
        1 => (family("net"), Just(Vec::new()), of(VerbFamily::Net)),
        1 => (one(&[Verb::DnsResolve]), Just(Vec::new()), of(VerbFamily::Dns)),
        1 => (one(&[Verb::IpcConnect]), Just(Vec::new()), of(VerbFamily::Ipc)),
        3 => (one(NAMED_VERBS), Just(Vec::new()), of(VerbFamily::Named)),
        1 => (Just(Vec::new()), Just(Vec::new()), mixed),
    ]
}

fn members<P: std::fmt::Debug + Clone + 'static>(
    pattern: impl Strategy<Value = P> + 'static,
    most: usize,
) -> BoxedStrategy<Vec<Member<P>>> {
    let negative = prop_oneof![5 => Just(false), 1 => Just(true)];
    let member = (negative, pattern).prop_map(|(negative, pattern)| Member { negative, pattern });
    prop::collection::vec(member, 0..=most).boxed()
}

fn subject() -> impl Strategy<Value = String> {
    pick(&[
        "agent:a",
        "agent:b",
        "agent:team:a",
        "agent:ü*",
        "agent:x/y",
    ])
    .prop_map(str::to_owned)
}

fn rule() -> impl Strategy<Value = Rule> {
    let subjects = prop_oneof![
        2 => subject().prop_map(SubjectPattern::One),
        1 => flat(&["a", "b", "team", "x"], &[":", "/"]).prop_map(|mut glob| {
            glob.pieces.insert(0, Piece::Text("agent:".into()));
            SubjectPattern::Glob(glob)
        }),
    ];
    let subjects = prop_oneof![3 => Just(Vec::new()), 2 => members(subjects, 2)];
    let condition = || prop_oneof![3 => Just(None), 1 => condition().prop_map(Some)];
    (any::<bool>(), subjects, about(), condition(), condition()).prop_map(
        |(deny, subjects, (verbs, not_verbs, mut resources), when, unless)| {
            // `!*` would leave nothing, and is refused.
            for member in &mut resources {
                member.negative &= member.pattern != Pattern::Any && !member.pattern.is_star();
            }
            Rule {
                deny,
                subjects,
                verbs,
                not_verbs,
                resources,
                when,
                unless,
            }
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        4 => pick(METHODS).prop_map(Condition::Auth),
        2 => Just(Condition::Interactive),
        1 => word(WORDS).prop_map(Condition::Name),
        1 => pick(&["/w", "/w/", "/*"]).prop_map(|w| Condition::Workspace(w.into())),
        2 => (0..=100u8).prop_map(Condition::Risk),
        1 => (1..200i64).prop_map(Condition::Before),
        1 => pick(LABELS).prop_map(Condition::Label),
        2 => word(WORDS).prop_map(Condition::To),
        2 => (-5..100i64).prop_map(Condition::Amount),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|a| Condition::Not(a.into())),
            two.clone()
                .prop_map(|(a, b)| Condition::And(a.into(), b.into())),
            two.prop_map(|(a, b)| Condition::Or(a.into(), b.into())),
        ]
    })
}

fn session() -> impl Strategy<Value = Session> {
    (
        subject(),
        pick(METHODS),
        any::<bool>(),
        word(WORDS),
        pick(&["/w/a", "/wx", "/*/a"]),
        prop::sample::subsequence(LABELS, 0..=LABELS.len()),
        0..=100u8,
        1..200i64,
    )
        .prop_map(
            |(subject, auth, interactive, name, workspace, labels, risk, time)| Session {
                subject,
                auth,
                interactive,
                name,
                workspace: workspace.into(),
                labels: labels.into_iter().collect(),
                risk,
                time,
            },
        )
}

fn seed() -> impl Strategy<Value = Seed> {
    let affix = || pick(&["x", "/x", ".tmp", ".a", ":a", "/src/key"]);
    let spoil = prop_oneof![
        4 => Just(Spoil::Not),
        1 => affix().prop_map(Spoil::After),
        1 => affix().prop_map(Spoil::Before),
        1 => Just(Spoil::Cut),
        1 => Just(Spoil::Other),
    ];
    let fill = prop_oneof![
        1 => Just(String::new()),
        4 => word(WORDS),
        1 => word(HOST_WORDS),
        1 => (word(HOST_WORDS), word(HOST_WORDS)).prop_map(|(a, b)| format!("{a}.{b}")),
        1 => (word(WORDS), word(WORDS)).prop_map(|(a, b)| format!("{a}/{b}")),
        1 => (word(WORDS), word(WORDS)).prop_map(|(a, b)| format!("{a}:{b}")),
    ];
    (
        (
            any::<Index>(),
            any::<Index>(),
            any::<Index>(),
            any::<Index>(),
        ),
        prop::collection::vec(fill, 1..=3),
        spoil,
        any::<bool>(),
        prop::option::of(pick(ADDRESSES)),
        port(),
        prop::option::of(word(WORDS)),
        prop::option::of(-5..100i64),
    )
        .prop_map(
            |((session, rule, pattern, verb), fill, spoil, directory, ip, port, to, amount)| Seed {
                session,
                rule,
                pattern,
                verb,
                fill,
                spoil,
                directory,
                ip: ip.and_then(|ip| ip.parse().ok()),
                port,
                to,
                amount,
            },
        )
}

impl Seed {
    /// The request, and the form of the pattern it was made from.
    fn ask(&self, rules: &[Rule]) -> (Ask, &'static str) {
        let rule = (!rules.is_empty()).then(|| self.rule.get(rules));
        let patterns = rule.map_or(&[][..], |r| &r.resources);
        let pattern = (!patterns.is_empty()).then(|| &self.pattern.get(patterns).pattern);
        let fits = |verb: &Verb| {
            let verbs = rule.map_or(&[][..], |r| &r.verbs);
            *verb != Verb::FileCommit
                && (verbs.is_empty() || verbs.iter().any(|v| v.is(*verb)))
                && pattern.is_none_or(|p| p.is_about(verb.family()))
        };
        let fitting: Vec<Verb> = Verb::ALL.iter().filter(|v| fits(v)).copied().collect();
        let verb = match fitting.is_empty() {
            true => Verb::FileRead,
            false => *self.verb.get(&fitting),
        };
        let ask = Ask {
            verb,
            object: self.object(verb.family(), pattern),
            to: self.to.clone(),
            amount: self.amount,
        };
        (ask, pattern.map_or("none", Pattern::form))
    }

    fn object(&self, family: VerbFamily, pattern: Option<&Pattern>) -> Object {
        let mut fill = self.fill.iter().cycle().map(String::as_str);
        let text = match pattern {
            Some(Pattern::Path(glob) | Pattern::Unix(glob)) => path_text(glob, &mut fill),
            Some(
                Pattern::Abstract(glob)
                | Pattern::Host(glob)
                | Pattern::Named(glob)
                | Pattern::Endpoint {
                    host: HostPattern::Name(glob),
                    ..
                },
            ) => part_text(&glob.pieces, &mut fill),
            _ => self.fill.join("/"),
        };
        let text = match self.spoil {
            Spoil::Not => text,
            Spoil::After(more) => text + more,
            Spoil::Before(more) => more.to_owned() + &text,
            Spoil::Cut => text.chars().skip(1).collect(),
            Spoil::Other => self.fill.concat(),
        };
        match family {
            VerbFamily::File | VerbFamily::Process | VerbFamily::Device => {
                Object::Path(canonical(&text), self.directory)
            }
            VerbFamily::Ipc if text.starts_with('@') => Object::Unix(text),
            VerbFamily::Ipc => Object::Unix(canonical(&text)),
            VerbFamily::Dns => Object::Host(host_text(&text)),
            VerbFamily::Named => Object::Named(text),
            VerbFamily::Net => {
                let by_address = !matches!(
                    pattern,
                    Some(Pattern::Endpoint {
                        host: HostPattern::Name(_),
                        ..
                    })
                );
                // A name may come with the address it leads to; an address alone has no name.
                let host = (!by_address || self.directory).then(|| host_text(&text));
                let ip = self.ip.filter(|_| by_address || self.directory);
                let ip = match &host {
                    None => ip.or_else(|| ADDRESSES[0].parse().ok()),
                    Some(_) => ip,
                };
                let tcp = match pattern {
                    Some(Pattern::Endpoint { protocol, .. }) => {
                        (*protocol == "tcp") != matches!(self.spoil, Spoil::Cut)
                    }
                    _ => self.port % 2 == 0,
                };
                let port = match (pattern, self.spoil) {
                    (
                        Some(Pattern::Endpoint {
                            ports: Some((first, _)),
                            ..
                        }),
                        Spoil::Not,
                    ) => *first,
                    _ => self.port,
                };
                Object::Endpoint {
                    tcp,
                    host,
                    ip,
                    port,
                }
            }
        }
    }
}

impl Pattern {
    /// Whether objects of the family can match.
    fn is_about(&self, family: VerbFamily) -> bool {
        match self {
            Pattern::Any | Pattern::Label(_) => true,
            Pattern::Path(_) => matches!(
                family,
                VerbFamily::File | VerbFamily::Process | VerbFamily::Device
            ),
            Pattern::Unix(_) | Pattern::Abstract(_) => family == VerbFamily::Ipc,
            Pattern::Host(_) => family == VerbFamily::Dns,
            Pattern::Endpoint { .. } | Pattern::Addresses(_) => family == VerbFamily::Net,
            Pattern::Named(_) => family == VerbFamily::Named,
        }
    }

    /// A star alone, which means any object.
    pub(super) fn is_star(&self) -> bool {
        matches!(self, Pattern::Named(glob) if glob.is_star())
    }
}

fn part_text<'a>(pieces: &[Piece], fill: &mut impl Iterator<Item = &'a str>) -> String {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Star => fill.next().unwrap_or_default().to_owned(),
            Piece::Either(texts) => texts.last().cloned().unwrap_or_default(),
            Piece::Class(chars) => chars.iter().take(1).collect(),
        })
        .collect()
}

fn path_text<'a>(glob: &PathGlob, fill: &mut impl Iterator<Item = &'a str>) -> String {
    let mut next = || fill.next().unwrap_or_default().to_owned();
    match glob {
        PathGlob::Plain(parts) => {
            let parts: Vec<String> = parts.iter().map(|p| part_text(p, fill)).collect();
            parts.join("/")
        }
        PathGlob::Below(front) => format!("{}/{}", front.join("/"), next()),
        PathGlob::Deep {
            front,
            middle,
            name,
        } => {
            let between = next();
            let name = part_text(name, fill);
            format!("{}/{between}/{}/{name}", front.join("/"), middle.join("/"))
        }
        PathGlob::DeepBelow { front, middle } => {
            let between = next();
            format!(
                "{}/{between}/{}/{}",
                front.join("/"),
                middle.join("/"),
                next()
            )
        }
    }
}

/// A canonical path: absolute, without empty segments, `.` and `..`.
fn canonical(text: &str) -> String {
    let segments = text.split('/').filter(|s| !matches!(*s, "" | "." | ".."));
    let path: String = segments.flat_map(|s| ["/", s]).collect();
    if path.is_empty() { "/".into() } else { path }
}

/// Lower-case ASCII, not empty.
fn host_text(text: &str) -> String {
    let host: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let host = host.trim_matches('.');
    if host.is_empty() {
        "h".into()
    } else {
        host.into()
    }
}
