//! Rules and conditions that both languages can say.

use agentwall_action::Verb;
use agentwall_policy::ADDRESS_SETS;

use super::{
    Fault,
    pattern::{Flat, PathGlob},
    text::{cedar, yaml},
};

/// A rule: an `allow` or a `deny`, all of one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `deny`, in Cedar `forbid`; else `allow`, `permit`.
    pub deny: bool,
    /// Members of `subject:`; empty means anybody.
    pub subjects: Vec<Member<SubjectPattern>>,
    /// Members of `action:`; empty means anything.
    pub verbs: Vec<VerbPattern>,
    /// Verbs taken out again with `!`.
    pub not_verbs: Vec<Verb>,
    /// Members of `resource:`; empty means any.
    pub resources: Vec<Member<Pattern>>,
    /// `when`.
    pub when: Option<Condition>,
    /// `unless`.
    pub unless: Option<Condition>,
}

/// A member of a list, maybe with `!`.
#[derive(Debug, Clone, PartialEq)]
pub struct Member<P> {
    /// Whether it begins with `!`.
    pub negative: bool,
    /// What it is.
    pub pattern: P,
}

/// A member of `subject:`.
#[derive(Debug, Clone, PartialEq)]
pub enum SubjectPattern {
    /// One subject: Cedar's `principal ==`.
    One(String),
    /// A glob: `like` about `context.subject`.
    Glob(Flat),
}

/// A member of `action:`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VerbPattern {
    /// One verb: Cedar's `action ==`.
    One(Verb),
    /// `file.*`: Cedar's `action in` a group.
    Family(&'static str),
}

/// A member of `resource:`.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// `*`.
    Any,
    /// A path.
    Path(PathGlob),
    /// `unix:/path`.
    Unix(PathGlob),
    /// `unix:@name`; the text includes the `@`.
    Abstract(Flat),
    /// `dns:`.
    Host(Flat),
    /// `tcp://` or `udp://`.
    Endpoint {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The host.
        host: HostPattern,
        /// First and last port; `None` is any.
        ports: Option<(u16, u16)>,
    },
    /// `cidr:` and a network or the name of a set.
    Addresses(String),
    /// `label:` and a name without built-in places.
    Label(&'static str),
    /// A name.
    Named(Flat),
}

/// The host of an endpoint pattern.
#[derive(Debug, Clone, PartialEq)]
pub enum HostPattern {
    /// `*`.
    Any,
    /// A glob over names.
    Name(Flat),
    /// A network.
    Network(String),
}

/// A condition; every fact it reads is there, so that it never fails.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// `auth.method == …`
    Auth(&'static str),
    /// `session.interactive`
    Interactive,
    /// `session.name == …`
    Name(String),
    /// `session.workspace.startsWith(…)`
    Workspace(String),
    /// `risk >= …`
    Risk(u8),
    /// `time < …`
    Before(i64),
    /// `"…" in labels`
    Label(&'static str),
    /// `has(args.to) && args.to == …`
    To(String),
    /// `has(args.amount) && args.amount <= …`
    Amount(i64),
    /// `!( … )`
    Not(Box<Condition>),
    /// `( … ) && ( … )`
    And(Box<Condition>, Box<Condition>),
    /// `( … ) || ( … )`
    Or(Box<Condition>, Box<Condition>),
}

impl Rule {
    /// Our spelling: a member of `rules:`, in YAML's flow style.
    pub fn ours(&self, id: &str) -> String {
        let effect = if self.deny { "deny" } else { "allow" };
        let mut out = format!("- {{id: {id}, effect: {effect}");
        let mut list = |key: &str, members: Vec<String>| {
            if !members.is_empty() {
                let members: Vec<String> = members.iter().map(|m| yaml(m)).collect();
                out.push_str(&format!(", {key}: [{}]", members.join(", ")));
            }
        };
        list("subject", members(&self.subjects, SubjectPattern::ours));
        let verbs = self.verbs.iter().map(|v| v.ours());
        let not = self.not_verbs.iter().map(|v| format!("!{v}"));
        list("action", verbs.chain(not).collect());
        list("resource", members(&self.resources, Pattern::ours));
        for (key, condition) in [("when", &self.when), ("unless", &self.unless)] {
            if let Some(condition) = condition {
                out.push_str(&format!(", {key}: {}", yaml(&condition.ours())));
            }
        }
        out.push_str("}\n");
        out
    }

    /// The Cedar policy.
    pub fn cedar(&self, fault: Fault) -> String {
        let effect = match self.deny {
            true if fault != Fault::DenyIsAllow => "forbid",
            _ => "permit",
        };
        let action = match self.verbs.as_slice() {
            [] => "action".to_owned(),
            [VerbPattern::One(verb)] => format!("action == Action::\"{verb}\""),
            verbs => {
                let verbs: Vec<String> = verbs.iter().map(|v| v.cedar()).collect();
                format!("action in [{}]", verbs.join(", "))
            }
        };
        // One subject alone stands in the scope, as an author of Cedar would write it.
        let (principal, subjects) = match self.subjects.as_slice() {
            [
                Member {
                    negative: false,
                    pattern: SubjectPattern::One(one),
                },
            ] => (format!("principal == Agent::{}", cedar(one)), None),
            subjects => ("principal".to_owned(), listed(subjects, |s| s.cedar(fault))),
        };
        let mut out = format!("{effect} ({principal}, {action}, resource)");
        let not_verbs = self
            .not_verbs
            .iter()
            .map(|v| format!("action != Action::\"{v}\""));
        let resources = listed(&self.resources, |p| p.cedar(fault));
        for clause in not_verbs.chain(subjects).chain(resources) {
            out.push_str(&format!("\n  when {{ {clause} }}"));
        }
        for (key, condition) in [("when", &self.when), ("unless", &self.unless)] {
            if let Some(condition) = condition {
                out.push_str(&format!("\n  {key} {{ {} }}", condition.cedar()));
            }
        }
        out.push(';');
        out
    }
}

fn members<P>(list: &[Member<P>], ours: impl Fn(&P) -> String) -> Vec<String> {
    list.iter()
        .map(|m| format!("{}{}", if m.negative { "!" } else { "" }, ours(&m.pattern)))
        .collect()
}

/// A list as a clause: a positive member, if there are any, and no negative one.
fn listed<P>(list: &[Member<P>], clause: impl Fn(&P) -> String) -> Option<String> {
    let of = |negative: bool| -> Vec<String> {
        list.iter()
            .filter(|m| m.negative == negative)
            .map(|m| format!("({})", clause(&m.pattern)))
            .collect()
    };
    let (positive, negative) = (of(false), of(true));
    let mut clauses = Vec::new();
    if !positive.is_empty() {
        clauses.push(format!("({})", positive.join(" || ")));
    }
    if !negative.is_empty() {
        clauses.push(format!("!({})", negative.join(" || ")));
    }
    (!clauses.is_empty()).then(|| clauses.join(" && "))
}

impl SubjectPattern {
    fn ours(&self) -> String {
        match self {
            SubjectPattern::One(text) => super::text::ours(text),
            SubjectPattern::Glob(glob) => glob.ours(),
        }
    }

    fn cedar(&self, fault: Fault) -> String {
        match self {
            SubjectPattern::One(text) => format!("principal == Agent::{}", cedar(text)),
            SubjectPattern::Glob(glob) => glob.cedar("context.subject", &[':', '/'], fault),
        }
    }
}

impl VerbPattern {
    fn ours(self) -> String {
        match self {
            VerbPattern::One(verb) => verb.to_string(),
            VerbPattern::Family(family) => format!("{family}.*"),
        }
    }

    fn cedar(self) -> String {
        match self {
            VerbPattern::One(verb) => format!("Action::\"{verb}\""),
            VerbPattern::Family(family) => format!("Action::\"{family}\""),
        }
    }

    /// Whether the verb is meant.
    pub fn is(self, verb: Verb) -> bool {
        match self {
            VerbPattern::One(one) => one == verb,
            VerbPattern::Family(family) => verb
                .as_str()
                .split_once('.')
                .is_some_and(|(f, _)| f == family),
        }
    }
}

impl Pattern {
    fn ours(&self) -> String {
        match self {
            Pattern::Any => "*".into(),
            Pattern::Path(glob) => glob.ours(),
            Pattern::Unix(glob) => format!("unix:{}", glob.ours()),
            Pattern::Abstract(glob) => format!("unix:{}", glob.ours()),
            Pattern::Host(glob) => format!("dns:{}", glob.ours()),
            Pattern::Endpoint {
                protocol,
                host,
                ports,
            } => {
                let host = match host {
                    HostPattern::Any => "*".to_owned(),
                    HostPattern::Name(glob) => glob.ours(),
                    HostPattern::Network(n) if n.contains(':') => format!("[{n}]"),
                    HostPattern::Network(n) => n.clone(),
                };
                let ports = match ports {
                    None => "*".to_owned(),
                    Some((first, last)) if first == last => first.to_string(),
                    Some((first, last)) => format!("{first}-{last}"),
                };
                format!("{protocol}://{host}:{ports}")
            }
            Pattern::Addresses(text) => format!("cidr:{text}"),
            Pattern::Label(name) => format!("label:{name}"),
            Pattern::Named(glob) => glob.ours(),
        }
    }

    /// The name of the form, to tell what was tried.
    pub fn form(&self) -> &'static str {
        let starred = |glob: &Flat| glob.pieces.contains(&super::pattern::Piece::Star);
        match self {
            Pattern::Any => "any",
            Pattern::Path(PathGlob::Plain(parts)) => {
                match parts
                    .iter()
                    .flatten()
                    .any(|p| *p == super::pattern::Piece::Star)
                {
                    true => "path with *",
                    false => "path",
                }
            }
            Pattern::Path(PathGlob::Below(_)) => "path below",
            Pattern::Path(PathGlob::Deep { front, .. }) if front.is_empty() => "path floating",
            Pattern::Path(PathGlob::Deep { .. }) => "path deep",
            Pattern::Path(PathGlob::DeepBelow { .. }) => "path deep below",
            Pattern::Unix(_) => "socket",
            Pattern::Abstract(_) => "abstract socket",
            Pattern::Host(glob) if glob.deep && starred(glob) => "dns with **",
            Pattern::Host(glob) if starred(glob) => "dns with *",
            Pattern::Host(_) => "dns",
            Pattern::Endpoint { host, .. } => match host {
                HostPattern::Any => "endpoint, any host",
                HostPattern::Name(glob) if starred(glob) => "endpoint, host with stars",
                HostPattern::Name(_) => "endpoint, host",
                HostPattern::Network(_) => "endpoint, network",
            },
            Pattern::Addresses(text) if text.contains(['.', ':']) => "cidr network",
            Pattern::Addresses(_) => "cidr set",
            Pattern::Label(_) => "label",
            Pattern::Named(glob) if glob.deep && starred(glob) => "name with **",
            Pattern::Named(glob) if starred(glob) => "name with *",
            Pattern::Named(_) => "name",
        }
    }

    fn cedar(&self, fault: Fault) -> String {
        let with =
            |attribute: &str, clause: String| format!("context has {attribute} && ({clause})");
        match self {
            Pattern::Any => "true".into(),
            // A star alone is any object, not any part.
            star if star.is_star() => "true".into(),
            Pattern::Path(glob) => with("path", glob.cedar("path", true, fault)),
            Pattern::Unix(glob) => with("unix", glob.cedar("unix", false, fault)),
            Pattern::Abstract(glob) => with(
                "abstract",
                glob.cedar("context.abstract", &[':', '/'], fault),
            ),
            Pattern::Host(glob) => with("dns", glob.cedar("context.dns", &['.'], fault)),
            Pattern::Endpoint {
                protocol,
                host,
                ports,
            } => {
                let mut clause = format!("context.protocol == \"{protocol}\"");
                if let Some((first, last)) = ports {
                    clause.push_str(&format!(
                        " && context.port >= {first} && context.port <= {last}"
                    ));
                }
                match host {
                    HostPattern::Any => {}
                    // A star alone is any host, with a name or without.
                    HostPattern::Name(glob) if glob.is_star() => {}
                    HostPattern::Name(glob) => clause.push_str(&format!(
                        " && context has host && ({})",
                        glob.cedar("context.host", &['.'], fault)
                    )),
                    HostPattern::Network(network) => {
                        clause.push_str(&format!(" && ({})", in_networks(&[network])));
                    }
                }
                with("protocol", clause)
            }
            Pattern::Addresses(text) => with("protocol", addresses(text)),
            Pattern::Label(name) => format!("context.labels.contains(\"{name}\")"),
            Pattern::Named(glob) => with("name", glob.cedar("context.name", &[':', '/'], fault)),
        }
    }
}

/// A network or a named set. `private` is all of them together, `public` the rest: what an endpoint
/// without an address is in neither of.
fn addresses(text: &str) -> String {
    let all = || -> Vec<&str> {
        ADDRESS_SETS
            .iter()
            .flat_map(|s| s.networks.iter().copied())
            .collect()
    };
    match text {
        "private" => in_networks(&all()),
        "public" => {
            let private = |attribute: &str| {
                let networks = all();
                let clauses: Vec<String> = networks
                    .iter()
                    .map(|n| format!("context.{attribute}.isInRange(ip(\"{n}\"))"))
                    .collect();
                format!("(context has {attribute} && !({}))", clauses.join(" || "))
            };
            format!("{} || {}", private("ip4"), private("ip6"))
        }
        name => match ADDRESS_SETS.iter().find(|s| s.name == name) {
            Some(set) => in_networks(set.networks),
            None => in_networks(&[text]),
        },
    }
}

/// Whether one of the endpoint's addresses is in one of the networks.
fn in_networks(networks: &[&str]) -> String {
    let clauses: Vec<String> = networks
        .iter()
        .map(|n| {
            let attribute = if n.contains(':') { "ip6" } else { "ip4" };
            format!("(context has {attribute} && context.{attribute}.isInRange(ip(\"{n}\")))")
        })
        .collect();
    clauses.join(" || ")
}

impl Condition {
    /// In the Common Expression Language.
    fn ours(&self) -> String {
        match self {
            Condition::Auth(method) => format!("auth.method == {}", yaml(method)),
            Condition::Interactive => "session.interactive".into(),
            Condition::Name(name) => format!("session.name == {}", yaml(name)),
            Condition::Workspace(front) => {
                format!("session.workspace.startsWith({})", yaml(front))
            }
            Condition::Risk(risk) => format!("risk >= {risk}"),
            Condition::Before(time) => format!("time < {time}"),
            Condition::Label(label) => format!("{} in labels", yaml(label)),
            Condition::To(to) => format!("has(args.to) && args.to == {}", yaml(to)),
            Condition::Amount(amount) => format!("has(args.amount) && args.amount <= {amount}"),
            Condition::Not(one) => format!("!({})", one.ours()),
            Condition::And(a, b) => format!("({}) && ({})", a.ours(), b.ours()),
            Condition::Or(a, b) => format!("({}) || ({})", a.ours(), b.ours()),
        }
    }

    fn cedar(&self) -> String {
        match self {
            Condition::Auth(method) => format!("context.auth == {}", cedar(method)),
            Condition::Interactive => "context.interactive".into(),
            Condition::Name(name) => format!("context.session == {}", cedar(name)),
            Condition::Workspace(front) => format!(
                "context.workspace like {}",
                super::text::cedar_pattern([Some(front.as_str()), None])
            ),
            Condition::Risk(risk) => format!("context.risk >= {risk}"),
            Condition::Before(time) => format!("context.time < {time}"),
            Condition::Label(label) => format!("context.labels.contains({})", cedar(label)),
            Condition::To(to) => {
                format!("context.args has to && context.args.to == {}", cedar(to))
            }
            Condition::Amount(amount) => {
                format!("context.args has amount && context.args.amount <= {amount}")
            }
            Condition::Not(one) => format!("!({})", one.cedar()),
            Condition::And(a, b) => format!("({}) && ({})", a.cedar(), b.cedar()),
            Condition::Or(a, b) => format!("({}) || ({})", a.cedar(), b.cedar()),
        }
    }
}
