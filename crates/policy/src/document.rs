//! One policy file: from YAML nodes to rules, budgets, risk and properties of one layer.
//!
//! Everything is checked here; what leaves this module has no open ends. Errors are collected, and a
//! file with any error gives no rules at all.

use agentwall_action::{Effect, Hint, Resource, Verb};

use crate::{
    condition::{Expression, Wanted},
    fields::{Fields, Reading},
    glob::{Glob, GlobError, GlobKind},
    nfa::Nfa,
    pattern::{HostPattern, PatternContext, ResourcePattern, UnixPattern},
    rule::{
        DEFAULT_PRIORITY, ISOLATABLE, Layer, Location, PatternList, Rule, RuleEffect, RuleTest,
    },
    temporal::{self, Budget, Property, Risk},
    vars::Variables,
    yaml::{Kind, Node},
};

/// The keys of a policy file.
pub(crate) const TOP_KEYS: &[&str] = &[
    "agentwall",
    "name",
    "description",
    "require",
    "ledger",
    "inspect",
    "default",
    "rules",
    "budgets",
    "risk",
    "properties",
];
/// The keys of a rule.
pub(crate) const RULE_KEYS: &[&str] = &[
    "id", "priority", "subject", "action", "resource", "effect", "when", "unless", "reason",
    "hint", "tests",
];
pub(crate) const HINT_KEYS: &[&str] = &["next", "with", "text"];
pub(crate) const TEST_KEYS: &[&str] = &["match", "not_match"];
pub(crate) const REQUIRE_KEYS: &[&str] = &["enforcement"];
pub(crate) const LEDGER_KEYS: &[&str] = &["on_failure"];
/// The words of `default`.
pub(crate) const DEFAULTS: &[(&str, Effect)] = &[
    ("allow", Effect::Allow),
    ("deny", Effect::Deny),
    ("ask", Effect::Ask),
];
/// The words of `effect`.
pub(crate) const EFFECTS: &[(&str, RuleEffect)] = &[
    ("allow", RuleEffect::Decide(Effect::Allow)),
    ("deny", RuleEffect::Decide(Effect::Deny)),
    ("ask", RuleEffect::Decide(Effect::Ask)),
    ("isolate", RuleEffect::Decide(Effect::Isolate)),
    ("monitor", RuleEffect::Monitor),
];

/// Most rules of one file.
pub const MAX_RULES: usize = 100_000;

/// The weakest enforcement a policy accepts, from the weakest to the strongest.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Nothing is required.
    #[default]
    None,
    /// Seen and recorded.
    Audit,
    /// Enforced, with a named race.
    Race,
    /// Enforced.
    Enforced,
}

/// The words of `require.enforcement`.
pub(crate) const ENFORCEMENTS: &[(&str, Enforcement)] = &[
    ("enforced", Enforcement::Enforced),
    ("race", Enforcement::Race),
    ("audit", Enforcement::Audit),
    ("none", Enforcement::None),
];

/// What becomes of a session whose ledger cannot be written any more, from the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerFailure {
    /// It ends: no agent without a record.
    #[default]
    Closed,
    /// It goes on; what is lost is counted, and signed as a gap as soon as the ledger can be written again.
    Open,
}

impl LedgerFailure {
    /// Whether this is what a policy has that says nothing.
    pub(crate) fn is_closed(&self) -> bool {
        *self == LedgerFailure::Closed
    }

    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            LedgerFailure::Closed => "closed",
            LedgerFailure::Open => "open",
        }
    }
}

/// The words of `ledger.on_failure`.
pub(crate) const LEDGER_FAILURES: &[(&str, LedgerFailure)] = &[
    ("closed", LedgerFailure::Closed),
    ("open", LedgerFailure::Open),
];

/// What one file says.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub default: Option<Effect>,
    pub default_line: usize,
    pub require: Enforcement,
    /// What is stated, and in which line.
    pub on_ledger_failure: Option<(LedgerFailure, usize)>,
    /// Names of model APIs whose answers are read, with their lines.
    pub inspect: Vec<(String, usize)>,
    pub rules: Vec<Rule>,
    pub budgets: Vec<Budget>,
    pub risk: Risk,
    pub properties: Vec<Property>,
}

/// The names of `inspect`: exact ones, since the wall makes the TLS connection to each.
fn inspected(reading: &mut Reading<'_>, node: &Node) -> Vec<(String, usize)> {
    let mut names = Vec::new();
    for (text, node) in reading.texts(node, "inspect").unwrap_or_default() {
        let name = text.to_ascii_lowercase();
        let labels_fit = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        if labels_fit && name.len() <= 253 && name.parse::<std::net::IpAddr>().is_err() {
            names.push((name, node.place.line));
        } else {
            reading.error(
                node.place,
                format!("inspect: '{text}' is no host name"),
                Some("exact names, such as api.anthropic.com".into()),
            );
        }
    }
    names
}

pub(crate) fn read(
    reading: &mut Reading<'_>,
    root: &Node,
    layer: Layer,
    variables: &Variables,
) -> Option<Document> {
    let top = reading.mapping(root, "a policy", TOP_KEYS)?;
    let mut document = Document::default();
    match top.get("agentwall") {
        None => reading.error(
            top.place,
            "the key 'agentwall' is missing",
            Some("agentwall: 1".into()),
        ),
        Some(node) => {
            if !matches!(&node.kind, Kind::Scalar(text, true) if text == "1") {
                reading.error(
                    node.place,
                    "'agentwall' is the version of the language and must be 1",
                    Some("agentwall: 1".into()),
                );
            }
        }
    }
    for key in ["name", "description"] {
        if let Some(node) = top.get(key) {
            reading.text(node, key);
        }
    }
    if let Some(node) = top.get("require")
        && let Some(fields) = reading.mapping(node, "require", REQUIRE_KEYS)
    {
        match fields.get("enforcement") {
            Some(node) => {
                document.require = reading
                    .word(node, "enforcement", ENFORCEMENTS)
                    .unwrap_or_default();
            }
            None => reading.error(
                node.place,
                "require without 'enforcement'",
                Some("{ enforcement: enforced }".into()),
            ),
        }
    }
    if let Some(node) = top.get("ledger")
        && let Some(fields) = reading.mapping(node, "ledger", LEDGER_KEYS)
    {
        match fields.get("on_failure") {
            Some(node) => {
                let word = reading.word(node, "on_failure", LEDGER_FAILURES);
                document.on_ledger_failure = word.map(|word| (word, node.place.line));
            }
            None => reading.error(
                node.place,
                "ledger without 'on_failure'",
                Some("{ on_failure: closed }".into()),
            ),
        }
    }
    if let Some(node) = top.get("inspect") {
        document.inspect = inspected(reading, node);
    }
    if let Some(node) = top.get("default") {
        document.default = reading.word(node, "default", DEFAULTS);
        document.default_line = node.place.line;
    }
    let context = PatternContext::new(variables);
    if let Some(node) = top.get("rules")
        && let Some(items) = reading.list(node, "rules")
    {
        if items.len() > MAX_RULES {
            reading.error(node.place, format!("more than {MAX_RULES} rules"), None);
            return None;
        }
        for item in items {
            if reading.is_done() {
                return None;
            }
            document.rules.extend(rule(reading, item, layer, &context));
        }
    }
    if let Some(node) = top.get("budgets")
        && let Some(items) = reading.list(node, "budgets")
    {
        for item in items {
            document
                .budgets
                .extend(temporal::budget(reading, item, layer, &context));
        }
    }
    if let Some(node) = top.get("risk") {
        document.risk = temporal::risk(reading, node);
    }
    if let Some(node) = top.get("properties")
        && let Some(items) = reading.list(node, "properties")
    {
        for item in items {
            document
                .properties
                .extend(temporal::property(reading, item, layer, &context));
        }
    }
    Some(document)
}

fn rule(
    reading: &mut Reading<'_>,
    node: &Node,
    layer: Layer,
    context: &PatternContext<'_>,
) -> Option<Rule> {
    let fields = reading.mapping(node, "a rule", RULE_KEYS)?;
    let id = id(reading, &fields, "rule");
    let priority = match fields.get("priority") {
        Some(n) => reading.integer(n, "priority", -1_000_000, 1_000_000),
        None => Some(DEFAULT_PRIORITY),
    };
    let subject = subject(reading, &fields);
    let action = action(reading, &fields);
    let effect = match fields.get("effect") {
        Some(n) => reading.word(n, "effect", EFFECTS),
        None => {
            reading.error(
                fields.place,
                "a rule needs an 'effect'",
                Some("effect: allow, deny, ask, isolate or monitor".into()),
            );
            None
        }
    };
    let (action, mut verbs) = action?;
    if effect == Some(RuleEffect::Decide(Effect::Isolate)) {
        verbs.retain(|v| ISOLATABLE.contains(v));
        if verbs.is_empty() {
            let place = fields
                .get("action")
                .map_or(fields.place, |action| action.place);
            let names: Vec<&str> = ISOLATABLE.iter().map(|v| v.as_str()).collect();
            reading.error(
                place,
                "isolate puts file changes into a copy; none of these actions can be isolated",
                Some(format!("one of {}", names.join(", "))),
            );
            return None;
        }
    }
    let resource = resource(reading, &fields, &context.for_verbs(&verbs));
    let mut condition = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(n) => expression(reading, n, key, Wanted::Boolean).map(Some),
    };
    let when = condition("when");
    let unless = condition("unless");
    let reason = match fields.get("reason") {
        Some(n) => reading.text(n, "reason").map(|t| Some(t.trim().to_owned())),
        None => Some(None),
    };
    let hint = match fields.get("hint") {
        Some(n) => hint(reading, n),
        None => Some(Hint::default()),
    };
    let tests = match fields.get("tests") {
        Some(n) => tests(reading, n, context.variables),
        None => Some(Vec::new()),
    };
    Some(Rule {
        id: id?,
        priority: priority?,
        subject: subject?,
        action,
        verbs,
        resource: resource?,
        effect: effect?,
        when: when?,
        unless: unless?,
        reason: reason?,
        hint: hint?,
        tests: tests?,
        layer,
        location: Location {
            source: reading.lines.name.to_owned(),
            line: node.place.line,
        },
    })
}

/// The `id` of a rule, budget or property.
pub(crate) fn id(reading: &mut Reading<'_>, fields: &Fields<'_>, what: &str) -> Option<String> {
    let Some(node) = fields.get("id") else {
        let message = format!("a {what} needs an 'id'");
        reading.error(fields.place, message, Some("id: a-short-name".into()));
        return None;
    };
    let text = reading.text(node, "id")?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    if text.len() > 128 || !text.chars().all(valid) {
        let fixed: String = text
            .chars()
            .take(128)
            .map(|c| if valid(c) { c } else { '-' })
            .collect();
        reading.error(
            node.place,
            "an id is at most 128 letters, digits, '-', '_', '.', '/' and ':'",
            Some(fixed),
        );
        return None;
    }
    Some(text.to_owned())
}

pub(crate) fn subject(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<PatternList<Glob>> {
    patterns(reading, fields.get("subject"), "subject", &|text| {
        let text = if text == "*" { "**" } else { text };
        Glob::new(text, GlobKind::Text)
    })
}

/// The `action` list, and the verbs it means.
pub(crate) fn action(
    reading: &mut Reading<'_>,
    fields: &Fields<'_>,
) -> Option<(PatternList<Glob>, Vec<Verb>)> {
    let node = fields.get("action");
    let list = patterns(reading, node, "action", &verb_glob)?;
    let verbs: Vec<Verb> = Verb::ALL
        .iter()
        .filter(|v| list.matches(|g| g.matches(v.as_str().as_bytes(), false)))
        .copied()
        .collect();
    if verbs.is_empty() {
        let place = node.map_or(fields.place, |n| n.place);
        reading.error(place, "the list matches no action", None);
        return None;
    }
    Some((list, verbs))
}

/// A glob over verbs that matches at least one.
pub(crate) fn verb_glob(text: &str) -> Result<Glob, GlobError> {
    let text = if text == "*" { "**" } else { text };
    let glob = Glob::new(text, GlobKind::Verb)?;
    if Verb::ALL
        .iter()
        .any(|v| glob.matches(v.as_str().as_bytes(), false))
    {
        return Ok(glob);
    }
    let families = ["file.*", "process.*", "net.*"];
    let known: Vec<&str> = Verb::ALL
        .iter()
        .map(|v| v.as_str())
        .chain(families)
        .collect();
    let mut error = GlobError::new(0, format!("'{text}' is no action"));
    error.suggestion = crate::diagnostic::did_you_mean(text, &known);
    Err(error)
}

pub(crate) fn resource(
    reading: &mut Reading<'_>,
    fields: &Fields<'_>,
    context: &PatternContext<'_>,
) -> Option<PatternList<ResourcePattern>> {
    patterns(reading, fields.get("resource"), "resource", &|text| {
        ResourcePattern::parse(text, context)
    })
}

/// How much a pattern expands to.
trait Steps {
    fn steps(&self) -> usize;
}

impl Steps for Glob {
    fn steps(&self) -> usize {
        self.alternatives().iter().map(Nfa::steps).sum()
    }
}

impl Steps for ResourcePattern {
    fn steps(&self) -> usize {
        match self {
            ResourcePattern::Path(glob)
            | ResourcePattern::Host(glob)
            | ResourcePattern::Named(glob)
            | ResourcePattern::Unix(UnixPattern::Path(glob) | UnixPattern::Abstract(glob)) => {
                glob.steps()
            }
            ResourcePattern::Endpoint(endpoint) => match &endpoint.host {
                HostPattern::Name(glob) => glob.steps(),
                HostPattern::Any | HostPattern::Addresses(_) => 1,
            },
            // The places of a label are shared by all patterns that say it.
            ResourcePattern::Any
            | ResourcePattern::Addresses(_)
            | ResourcePattern::Label(_)
            | ResourcePattern::Unix(UnixPattern::Any) => 1,
        }
    }
}

/// A pattern or a list of them; a leading `!` negates.
fn patterns<P: Steps>(
    reading: &mut Reading<'_>,
    node: Option<&Node>,
    what: &str,
    parse: &dyn Fn(&str) -> Result<P, GlobError>,
) -> Option<PatternList<P>> {
    let mut list = PatternList::default();
    let Some(node) = node else { return Some(list) };
    let mut whole = true;
    for (text, item) in reading.texts(node, what)? {
        if reading.is_done() {
            return None;
        }
        let (bare, negative) = match text.strip_prefix('!') {
            Some(bare) => (bare, true),
            None => (text, false),
        };
        let parsed = if negative && matches!(bare, "*" | "**") {
            Err(GlobError::new(
                0,
                "nothing is left when anything is excluded",
            ))
        } else {
            parse(bare)
        };
        if let Ok(pattern) = &parsed {
            reading.spend(item.place, pattern.steps());
        }
        match parsed {
            Ok(pattern) if negative => list.negative.push(pattern),
            Ok(pattern) => list.positive.push(pattern),
            Err(mut error) => {
                error.offset += usize::from(negative);
                if negative
                    && let Some(s) = &mut error.suggestion
                    && !s.contains(' ')
                {
                    s.insert(0, '!');
                }
                reading.inside(item, text, what, &error);
                whole = false;
            }
        }
    }
    whole.then_some(list)
}

pub(crate) fn expression(
    reading: &mut Reading<'_>,
    node: &Node,
    what: &str,
    wanted: Wanted,
) -> Option<Expression> {
    let text = reading.text(node, what)?;
    if let Some(known) = reading.expressions.get(&(text.to_owned(), wanted)) {
        return Some(known.clone());
    }
    match Expression::compile(text, wanted) {
        Ok(expression) => {
            let key = (text.to_owned(), wanted);
            reading.expressions.insert(key, expression.clone());
            Some(expression)
        }
        Err(error) => {
            reading.inside(node, text, what, &error);
            None
        }
    }
}

fn hint(reading: &mut Reading<'_>, node: &Node) -> Option<Hint> {
    if matches!(node.kind, Kind::Scalar(..)) {
        let text = reading.text(node, "hint")?;
        return Some(Hint {
            text: Some(text.trim().to_owned()),
            ..Hint::default()
        });
    }
    let fields = reading.mapping(node, "hint", HINT_KEYS)?;
    let mut text = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(n) => reading.text(n, key).map(|t| Some(t.trim().to_owned())),
    };
    let (next, with, text) = (text("next"), text("with"), text("text"));
    Some(Hint {
        next: next?,
        with: with?,
        text: text?,
    })
}

fn tests(reading: &mut Reading<'_>, node: &Node, variables: &Variables) -> Option<Vec<RuleTest>> {
    let fields = reading.mapping(node, "tests", TEST_KEYS)?;
    let mut tests = Vec::new();
    let mut whole = true;
    for (key, expect) in [("match", true), ("not_match", false)] {
        let Some(node) = fields.get(key) else {
            continue;
        };
        for (text, item) in reading.texts(node, key)? {
            match test(text, variables) {
                Ok((verb, resource)) => tests.push(RuleTest {
                    text: text.to_owned(),
                    verb,
                    resource,
                    expect,
                    line: item.place.line,
                }),
                Err(error) => {
                    reading.inside(item, text, "test", &error);
                    whole = false;
                }
            }
        }
    }
    whole.then_some(tests)
}

/// Reads `VERB RESOURCE`.
fn test(text: &str, variables: &Variables) -> Result<(Verb, Resource), GlobError> {
    let (verb, rest) = text.trim_end().split_once(' ').ok_or_else(|| {
        GlobError::new(0, "a test is an action, a space and an object")
            .suggest("file.read /etc/hosts")
    })?;
    let verb = self::verb(verb)?;
    let rest = rest.trim_start();
    let offset = text.find(rest).unwrap_or(0);
    let resource = literal(verb, rest, variables).map_err(|mut error| {
        error.offset += offset;
        error
    })?;
    Ok((verb, resource))
}

/// The verb of this name.
pub(crate) fn verb(text: &str) -> Result<Verb, GlobError> {
    text.parse().map_err(|_| {
        let known: Vec<&str> = Verb::ALL.iter().map(|v| v.as_str()).collect();
        let mut error = GlobError::new(0, format!("'{text}' is no action"));
        error.suggestion = crate::diagnostic::did_you_mean(text, &known);
        error
    })
}

/// One object, as a test names it: variables are expanded, patterns are not.
pub(crate) fn literal(
    verb: Verb,
    text: &str,
    variables: &Variables,
) -> Result<Resource, GlobError> {
    let expanded = if text.starts_with(['~', '$']) || text.contains("${") {
        let (scheme, path) = match text.strip_prefix("unix:") {
            Some(path) => ("unix:", path),
            None => ("", text),
        };
        format!("{scheme}{}", variables.expand_literal(path)?)
    } else if let Some(path) = text.strip_prefix("unix:~/") {
        let path = format!("~/{path}");
        format!("unix:{}", variables.expand_literal(&path)?)
    } else {
        text.to_owned()
    };
    Resource::parse(verb.family(), &expanded).map_err(|error| GlobError::new(0, error.to_string()))
}
