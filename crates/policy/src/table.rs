//! Tables of test cases: files beside a policy that say what it must answer to whole actions.
//!
//! An in-file test speaks about one rule's patterns. A case speaks about the policy: who acts, what on
//! what, with which arguments and facts, what must come out and, if it matters, by which rule. It is
//! decided by [`Policy::decide`](crate::Policy::decide), the same that a running wall asks.
//!
//! A file is a YAML list, read as strictly as a policy: an unknown key, a wrong type or arguments for
//! an action that has none is an error with line and column. Variables are expanded in objects, so
//! that a table holds in every workspace.

use agentwall_action::{Action, Effect, Facts, Resource, Subject, Verb, VerbFamily};
use serde_json::Value;

use crate::{
    diagnostic::{Found, LoadError},
    document,
    fields::{Fields, Reading},
    glob::GlobError,
    json,
    load::{Source, utf8},
    rule::Location,
    vars::Variables,
    yaml::{self, Kind, Lines, Node, is_null},
};

/// Most cases of one table.
pub const MAX_CASES: usize = 10_000;

/// The subject of a case that names none: the agent of a run without `--name`.
pub const CASE_SUBJECT: &str = "agent:agent";

/// The keys of a case.
pub(crate) const CASE_KEYS: &[&str] = &[
    "subject", "action", "resource", "address", "args", "facts", "expect", "rule", "note",
];
pub(crate) const FACT_KEYS: &[&str] = &["auth", "session", "labels", "risk", "time"];
pub(crate) const AUTH_KEYS: &[&str] = &["method"];
pub(crate) const SESSION_KEYS: &[&str] = &["id", "name", "workspace", "interactive"];
/// The words of `expect`.
pub(crate) const EXPECTED: &[(&str, Effect)] = &[
    ("allow", Effect::Allow),
    ("deny", Effect::Deny),
    ("ask", Effect::Ask),
    ("isolate", Effect::Isolate),
];
const BOOLEANS: &[(&str, bool)] = &[("true", true), ("false", false)];

/// A table of cases.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Table {
    /// The name of the source.
    pub name: String,
    /// The cases, in the order of the file; at least one.
    pub cases: Vec<Case>,
}

/// One case: an action and what must become of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Case {
    /// The action with its facts.
    pub action: Action,
    /// What must happen.
    pub expect: Effect,
    /// Which rule must decide; `Some(None)` for the policy's default; `None` where any may.
    pub rule: Option<Option<String>>,
    /// Why the case is there.
    pub note: Option<String>,
    /// Where it is written.
    pub location: Location,
}

/// Reads a table; `source.layer` does not matter.
///
/// # Errors
/// Everything that is wrong with it, with line, column and what to write instead.
pub fn load_table(source: &Source, variables: &Variables) -> Result<Table, LoadError> {
    let mut found = Found::default();
    let cases = read(source, variables, &mut found).unwrap_or_default();
    if found.is_empty() {
        return Ok(Table {
            name: source.name.clone(),
            cases,
        });
    }
    Err(found.into_error_of("table"))
}

fn read(source: &Source, variables: &Variables, found: &mut Found) -> Option<Vec<Case>> {
    const BEGIN: &str = "- { action: file.read, resource: /x, expect: deny }";
    let text = utf8(source, found)?;
    let lines = Lines::new(&source.name, text);
    let root = yaml::read(&lines, text, BEGIN, found)?;
    let mut reading = Reading::new(&lines, found);
    let Kind::Sequence(items) = &root.kind else {
        let message = format!("a table is a list of cases, found {}", root.describe());
        reading.error(root.place, message, Some(BEGIN.into()));
        return None;
    };
    if items.is_empty() {
        reading.error(
            root.place,
            "a table without cases tests nothing",
            Some(BEGIN.into()),
        );
    }
    if items.len() > MAX_CASES {
        let message = format!("more than {MAX_CASES} cases");
        reading.error(root.place, message, Some("write several tables".into()));
        return None;
    }
    let mut cases = Vec::with_capacity(items.len());
    for item in items {
        if reading.found.is_full() {
            return None;
        }
        cases.extend(case(&mut reading, item, variables));
    }
    Some(cases)
}

fn case(reading: &mut Reading<'_>, node: &Node, variables: &Variables) -> Option<Case> {
    let fields = reading.mapping(node, "a case", CASE_KEYS)?;
    let verb = needed(reading, &fields, "action", "action: file.read").and_then(|n| {
        let text = reading.text(n, "action")?;
        inside(reading, n, text, "action", document::verb(text))
    });
    let resource = needed(reading, &fields, "resource", "resource: /etc/hosts").and_then(|n| {
        let text = reading.text(n, "resource")?;
        let parsed = document::literal(verb?, text, variables);
        inside(reading, n, text, "resource", parsed)
    });
    let resource = match fields.get("address") {
        Some(n) => address(reading, n, resource),
        None => resource,
    };
    let expect = needed(reading, &fields, "expect", "expect: deny")
        .and_then(|n| reading.word(n, "expect", EXPECTED));
    let subject = match fields.get("subject") {
        Some(n) => reading.text(n, "subject"),
        None => Some(CASE_SUBJECT),
    };
    let args = match fields.get("args") {
        Some(n) => args(reading, n, verb),
        None => Some(Value::Null),
    };
    let facts = match fields.get("facts") {
        Some(n) => facts(reading, n, variables),
        None => Some(Facts::default()),
    };
    let rule = match fields.get("rule") {
        None => Some(None),
        Some(n) => match &n.kind {
            Kind::Scalar(text, plain) if is_null(text, *plain) => Some(Some(None)),
            _ => reading.text(n, "rule").map(|t| Some(Some(t.to_owned()))),
        },
    };
    let note = match fields.get("note") {
        Some(n) => reading.text(n, "note").map(|t| Some(t.trim().to_owned())),
        None => Some(None),
    };
    let facts = Facts {
        args: args?,
        ..facts?
    };
    Some(Case {
        action: Action {
            facts,
            ..Action::new(Subject(subject?.to_owned()), verb?, resource?)
        },
        expect: expect?,
        rule: rule?,
        note: note?,
        location: Location {
            source: reading.lines.name.to_owned(),
            line: node.place.line,
        },
    })
}

fn needed<'n>(
    reading: &mut Reading<'_>,
    fields: &Fields<'n>,
    key: &str,
    example: &str,
) -> Option<&'n Node> {
    let node = fields.get(key);
    if node.is_none() {
        let message = format!("a case needs '{key}'");
        reading.error(fields.place, message, Some(example.to_owned()));
    }
    node
}

fn inside<T>(
    reading: &mut Reading<'_>,
    node: &Node,
    text: &str,
    what: &str,
    parsed: Result<T, GlobError>,
) -> Option<T> {
    match parsed {
        Ok(value) => Some(value),
        Err(error) => {
            reading.inside(node, text, what, &error);
            None
        }
    }
}

/// `address`: where the name really leads, as the wall finds out before it connects.
fn address(reading: &mut Reading<'_>, node: &Node, resource: Option<Resource>) -> Option<Resource> {
    let text = reading.text(node, "address")?;
    let Resource::Endpoint(mut endpoint) = resource? else {
        reading.error(
            node.place,
            "only an endpoint has an address",
            Some("leave address out".into()),
        );
        return None;
    };
    if endpoint.ip.is_some() {
        reading.error(
            node.place,
            "the resource is an address already",
            Some("leave address out".into()),
        );
        return None;
    }
    // The same unwrapping of mapped addresses as everywhere else.
    match text.parse() {
        Ok(ip) => {
            let canonical = Resource::address(endpoint.protocol, ip, endpoint.port);
            if let Resource::Endpoint(canonical) = canonical {
                endpoint.ip = canonical.ip;
            }
            Some(Resource::Endpoint(endpoint))
        }
        Err(_) => {
            let message = format!("address is an IP address, found '{text}'");
            reading.error(node.place, message, Some("10.0.0.1 or ::1".into()));
            None
        }
    }
}

/// `args`: texts of a command line, or named arguments of a call.
fn args(reading: &mut Reading<'_>, node: &Node, verb: Option<Verb>) -> Option<Value> {
    let verb = verb?;
    match (has_args(verb), &node.kind) {
        (true, Kind::Sequence(_)) if verb == Verb::ProcessExec => {
            let texts = reading.texts(node, "args")?;
            Some(texts.into_iter().map(|(text, _)| text).collect())
        }
        (true, Kind::Mapping(_)) if verb != Verb::ProcessExec => Some(json::value(node)),
        (true, _) => {
            let (expected, example) = match verb {
                Verb::ProcessExec => ("a list of texts", "args: [git, push]"),
                _ => ("a mapping", "args: { amount: 5 }"),
            };
            let message = format!("args of {verb} is {expected}, found {}", node.describe());
            reading.error(node.place, message, Some(example.into()));
            None
        }
        (false, _) => {
            reading.error(
                node.place,
                format!("{verb} has no args"),
                Some("leave args out".into()),
            );
            None
        }
    }
}

fn facts(reading: &mut Reading<'_>, node: &Node, variables: &Variables) -> Option<Facts> {
    let fields = reading.mapping(node, "facts", FACT_KEYS)?;
    let mut facts = Facts::default();
    let mut whole = true;
    if let Some(n) = fields.get("auth") {
        let auth = reading.mapping(n, "auth", AUTH_KEYS);
        let method = auth.and_then(|f| f.get("method"));
        match method.map(|n| reading.text(n, "method")) {
            Some(Some(text)) => facts.auth.method = text.to_owned(),
            Some(None) => whole = false,
            None => whole &= auth.is_some(),
        }
    }
    if let Some(n) = fields.get("session") {
        whole &= session(reading, n, variables, &mut facts).is_some();
    }
    if let Some(n) = fields.get("labels") {
        match reading.texts(n, "labels") {
            Some(texts) => facts.labels = texts.iter().map(|(t, _)| (*t).to_owned()).collect(),
            None => whole = false,
        }
    }
    if let Some(n) = fields.get("risk") {
        match reading.integer(n, "risk", 0, 100) {
            // From 0 to 100: it fits.
            Some(risk) => facts.risk = u8::try_from(risk).unwrap_or(100),
            None => whole = false,
        }
    }
    if let Some(n) = fields.get("time") {
        match reading.integer(n, "time", 1, i64::MAX) {
            Some(time) => facts.time = time,
            None => whole = false,
        }
    }
    whole.then_some(facts)
}

fn session(
    reading: &mut Reading<'_>,
    node: &Node,
    variables: &Variables,
    facts: &mut Facts,
) -> Option<()> {
    let fields = reading.mapping(node, "session", SESSION_KEYS)?;
    let session = &mut facts.session;
    for (key, slot) in [("id", &mut session.id), ("name", &mut session.name)] {
        if let Some(n) = fields.get(key) {
            *slot = reading.text(n, key)?.to_owned();
        }
    }
    if let Some(n) = fields.get("workspace") {
        let text = reading.text(n, "workspace")?;
        let expanded = variables.expand_literal(text);
        session.workspace = inside(reading, n, text, "workspace", expanded)?;
    }
    if let Some(n) = fields.get("interactive") {
        session.interactive = reading.word(n, "interactive", BOOLEANS)?;
    }
    Some(())
}

/// Whether a verb carries arguments beside its object: a command line, or named values.
pub(crate) fn has_args(verb: Verb) -> bool {
    verb == Verb::ProcessExec || verb.family() == VerbFamily::Named
}
