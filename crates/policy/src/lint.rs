//! Warnings: what a policy may say and probably does not mean.
//!
//! An error keeps a policy from loading, so it is kept for what cannot be right. The rest is told here,
//! with a code that a script can look for: rules that never match, an allow of everything, conditions
//! that look safer than they are, and what the policy as a whole gives away although no author wants
//! it (keys, the metadata service). The last is asked of [`Policy::decide`], not read from the rules.
//!
//! Every warning points at the text that it is about. Warnings change nothing: the policy is the same.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use agentwall_action::{Action, Effect, Resource, Subject, Verb};
use serde::Serialize;

use crate::{
    cel_types::Note,
    condition::Expression,
    diagnostic::{Diagnostic, Found, LoadError, nearest},
    host_executed::HOST_EXECUTED,
    load::{Source, load},
    pattern::ResourcePattern,
    policy::Policy,
    rule::{Rule, RuleEffect},
    table::{CASE_SUBJECT, has_args},
    vars::Variables,
    yaml::{self, Kind, Lines, Node, Place},
};

/// Most warnings of one file.
pub const MAX_WARNINGS: usize = 200;

/// The codes of warnings, each with what it is about.
pub const WARNING_CODES: &[(&str, &str)] = &[
    ("default-allow", "what no rule matches is allowed"),
    (
        "allow-everything",
        "an allow of any object, without a condition",
    ),
    ("all-but", "an allow of everything that is not in a list"),
    (
        "never-matches",
        "a condition that is false for every action",
    ),
    ("always-true", "a condition that is true for every action"),
    (
        "args-absent",
        "a condition reads args, and an action of the rule has none",
    ),
    (
        "program-name",
        "an allow rests on args[0], which the caller chooses",
    ),
    (
        "unanchored",
        "an allow rests on a pattern that is not held at both ends",
    ),
    (
        "open-url",
        "an allow rests on the front of a URL that ends inside its host name",
    ),
    (
        "no-action",
        "a condition compares the action with a text that is none",
    ),
    (
        "every-port",
        "an endpoint without a port, which is every port",
    ),
    (
        "label-typo",
        "a label that differs a little from one that is built in",
    ),
    ("subject-form", "a subject that no agent has"),
    ("twice", "a member that stands in its list twice"),
    ("secret-open", "the policy gives a secret to the agent"),
    (
        "metadata-open",
        "the policy lets the agent reach the metadata service",
    ),
];

/// One thing that is legal and probably wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// What kind of thing, one of [`WARNING_CODES`].
    pub code: &'static str,
    /// The rule it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where, what, and what to write instead.
    #[serde(flatten)]
    pub diagnostic: Diagnostic,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostic.show(&format!("warning[{}]", self.code), f)
    }
}

/// Loads one file and tells what in it is legal and probably wrong, by line.
///
/// # Errors
/// As [`load`].
pub fn load_with_warnings(
    source: &Source,
    variables: &Variables,
) -> Result<(Policy, Vec<Warning>), LoadError> {
    let policy = load(std::slice::from_ref(source), variables)?;
    // It has loaded, so it is UTF-8 and a mapping.
    let text = String::from_utf8_lossy(&source.text);
    let lines = Lines::new(&source.name, &text);
    let root = yaml::read(&lines, &text, "", &mut Found::default());
    let mut lint = Lint {
        policy: &policy,
        lines: &lines,
        variables,
        warnings: Vec::new(),
    };
    if let Some(root) = &root {
        lint.file(root);
    }
    let mut warnings = lint.warnings;
    warnings.sort_by_key(|w| (w.diagnostic.line, w.diagnostic.column));
    Ok((policy, warnings))
}

struct Lint<'a> {
    policy: &'a Policy,
    lines: &'a Lines<'a>,
    variables: &'a Variables,
    warnings: Vec<Warning>,
}

/// What of the actions on any object an allow should not give away at once.
const DANGEROUS: &[Verb] = &[
    Verb::FileWrite,
    Verb::FileCreate,
    Verb::FileDelete,
    Verb::FileRename,
    Verb::FileChmod,
    Verb::FileExec,
    Verb::FileCommit,
    Verb::ProcessExec,
    Verb::ProcessTrace,
    Verb::NetConnect,
    Verb::NetSend,
    Verb::IpcConnect,
    Verb::DeviceOpen,
    Verb::CredentialUse,
];

impl Lint<'_> {
    fn warn(
        &mut self,
        code: &'static str,
        rule: Option<&Rule>,
        place: Place,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        if self.warnings.len() < MAX_WARNINGS {
            let suggestion = Some(suggestion.into());
            self.warnings.push(Warning {
                code,
                rule: rule.map(|r| r.id.clone()),
                diagnostic: self.lines.diagnostic(place, message, suggestion),
            });
        }
    }

    fn file(&mut self, root: &Node) {
        if let Some(default) = get(root, "default")
            && self.policy.default_effect() == Effect::Allow
        {
            self.warn(
                "default-allow",
                None,
                default.place,
                "what no rule matches is allowed: a forgotten rule is an open door",
                "default: deny, and rules for what is needed",
            );
        }
        let policy = self.policy;
        let nodes = get(root, "rules").map(|n| &n.kind);
        let Some(Kind::Sequence(nodes)) = nodes else {
            self.given_away(root);
            return;
        };
        let rules: HashMap<&str, &Rule> = policy.rules().map(|r| (r.id.as_str(), r)).collect();
        for node in nodes {
            let rule = get(node, "id")
                .and_then(scalar)
                .and_then(|id| rules.get(id));
            if let Some(rule) = rule {
                self.rule(rule, node);
            }
            if self.warnings.len() >= MAX_WARNINGS {
                break;
            }
        }
        self.given_away(root);
    }

    fn rule(&mut self, rule: &Rule, node: &Node) {
        let place = |key: &str| get(node, key).map_or(node.place, |n| n.place);
        let opens = matches!(
            rule.effect,
            RuleEffect::Decide(Effect::Allow | Effect::Isolate)
        );
        let allows = rule.effect == RuleEffect::Decide(Effect::Allow);
        if allows && !rule.is_conditional() && rule.resource.positive.iter().all(is_everything) {
            let at = match get(node, "resource") {
                Some(n) => n.place,
                None => place("action"),
            };
            let dangerous = rule.verbs.iter().find(|v| DANGEROUS.contains(v));
            match (dangerous, rule.resource.negative.is_empty()) {
                (Some(verb), true) => self.warn(
                    "allow-everything",
                    Some(rule),
                    at,
                    format!("{verb} of any object is allowed"),
                    "name the objects, or a condition",
                ),
                (Some(verb), false) => self.warn(
                    "all-but",
                    Some(rule),
                    at,
                    format!("{verb} of everything that is not excluded is allowed"),
                    "name what is allowed; deny the exceptions in a rule with a lower priority number",
                ),
                _ => {}
            }
        }
        for (key, condition, wanted) in
            [("when", &rule.when, true), ("unless", &rule.unless, false)]
        {
            if let Some(condition) = condition {
                self.condition(rule, key, condition, place(key), opens == wanted, wanted);
            }
        }
        self.lists(
            rule,
            node,
            opens || rule.effect == RuleEffect::Decide(Effect::Ask),
        );
    }

    /// `trusts` says that the rule opens something where the condition is true (or closes nothing
    /// where an `unless` is).
    fn condition(
        &mut self,
        rule: &Rule,
        key: &str,
        condition: &Expression,
        place: Place,
        trusts: bool,
        wanted: bool,
    ) {
        if condition.is_constant() {
            let nothing = Action::new(
                Subject(CASE_SUBJECT.into()),
                Verb::FileRead,
                Resource::path("/"),
            );
            match condition.test(&nothing) {
                Ok(truth) if truth == wanted => self.warn(
                    "always-true",
                    Some(rule),
                    place,
                    format!("'{key}' is {truth} for every action"),
                    format!("leave {key} out"),
                ),
                _ => self.warn(
                    "never-matches",
                    Some(rule),
                    place,
                    format!("'{key}' keeps the rule from ever matching"),
                    "remove the rule, or the condition",
                ),
            }
        }
        let without = rule.verbs.iter().find(|v| !has_args(**v));
        if let Some(verb) = without.filter(|_| condition.uses_args()) {
            let outcome = match rule.effect {
                RuleEffect::Decide(Effect::Allow) => "the rule never allows it",
                RuleEffect::Decide(_) => "the rule applies to all of it",
                RuleEffect::Monitor => "the rule marks all of it",
            };
            self.warn(
                "args-absent",
                Some(rule),
                place,
                format!("{verb} has no args, so the condition fails there and {outcome}"),
                "two rules: one for the actions with args",
            );
        }
        for note in condition.notes() {
            match note {
                Note::ProgramName if trusts => self.warn(
                    "program-name",
                    Some(rule),
                    place,
                    "args[0] is the name that the caller gives, not the program that starts",
                    "name the program in resource, and look at args[1] and later here",
                ),
                Note::Unanchored(text) if trusts => self.warn(
                    "unanchored",
                    Some(rule),
                    place,
                    format!("'{text}' also matches in the middle of a longer text"),
                    format!("'^{}$'", text.trim_start_matches('^').trim_end_matches('$')),
                ),
                Note::OpenUrl(text) if trusts => self.warn(
                    "open-url",
                    Some(rule),
                    place,
                    format!("'{text}' also begins '{text}.example.org/'"),
                    format!("'{text}/'"),
                ),
                Note::NoAction(text) => {
                    let known = Verb::ALL.iter().map(|v| v.as_str());
                    let near = nearest(text, known).unwrap_or("file.read");
                    self.warn(
                        "no-action",
                        Some(rule),
                        place,
                        format!("'{text}' is no action, so this is the same for every action"),
                        format!("'{near}', or the key 'action' of the rule"),
                    );
                }
                _ => {}
            }
        }
    }

    fn lists(&mut self, rule: &Rule, node: &Node, opens: bool) {
        for (text, item) in members(node, "resource") {
            let bare = text.strip_prefix('!').unwrap_or(text);
            let endpoint = bare
                .strip_prefix("tcp://")
                .or_else(|| bare.strip_prefix("udp://"));
            if let Some(host) = endpoint.filter(|_| opens && !text.starts_with('!')) {
                let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
                if !after.contains(':') {
                    self.warn(
                        "every-port",
                        Some(rule),
                        item.place,
                        format!("'{bare}' is every port of it"),
                        format!("{bare}:443, or {bare}:* if every port is meant"),
                    );
                }
            }
            let known = ["secret", HOST_EXECUTED];
            if let Some(label) = bare.strip_prefix("label:").filter(|l| !known.contains(l))
                && let Some(meant) = nearest(label, known)
            {
                self.warn(
                    "label-typo",
                    Some(rule),
                    item.place,
                    format!("no place has the label '{label}' by itself"),
                    format!("label:{meant}"),
                );
            }
        }
        for glob in &rule.subject.positive {
            if !glob.may_match_prefix(b"agent:") {
                let subjects = members(node, "subject");
                let place = subjects.first().map_or(node.place, |(_, item)| item.place);
                self.warn(
                    "subject-form",
                    Some(rule),
                    place,
                    format!(
                        "no subject matches '{}'; agents are agent:NAME",
                        glob.as_str()
                    ),
                    format!("agent:{}", glob.as_str()),
                );
            }
        }
        for key in ["subject", "action", "resource"] {
            let mut seen = BTreeSet::new();
            for (text, item) in members(node, key) {
                if !seen.insert(text) {
                    self.warn(
                        "twice",
                        Some(rule),
                        item.place,
                        format!("'{text}' stands in {key} twice"),
                        "remove one",
                    );
                }
            }
        }
    }

    /// What the policy as a whole gives away. One warning of each kind: the first example says it.
    fn given_away(&mut self, root: &Node) {
        let examples = |set: &[&str]| -> Vec<Action> {
            let action = |line: &&str| {
                let (verb, text) = line.split_once(' ')?;
                let verb: Verb = verb.parse().ok()?;
                let resource = Resource::parse(verb.family(), text).ok()?;
                Some(Action::new(Subject(CASE_SUBJECT.into()), verb, resource))
            };
            set.iter().filter_map(action).collect()
        };
        let mut secrets = examples(SYSTEM_SECRETS);
        if let Some(home) = &self.variables.home {
            for path in HOME_SECRETS {
                let resource = Resource::path(home.join(path));
                let subject = Subject(CASE_SUBJECT.into());
                secrets.push(Action::new(subject, Verb::FileRead, resource));
            }
        }
        for (code, actions, deny) in [
            ("secret-open", secrets, "resource: label:secret"),
            (
                "metadata-open",
                examples(METADATA),
                "resource: cidr:metadata, or cidr:private",
            ),
        ] {
            let policy = self.policy;
            let open = actions.into_iter().find_map(|action| {
                let decision = policy.decide(&action);
                decision.effect.proceeds().then_some((action, decision))
            });
            let Some((action, decision)) = open else {
                continue;
            };
            let rule = decision.rule.as_deref().and_then(|id| policy.rule(id));
            let line = rule.map(|r| r.location.line);
            let place = line.map_or(root.place, |line| Place {
                line,
                column: 1,
                length: 1,
            });
            let by = rule.map_or("the default".to_owned(), |r| format!("rule {}", r.id));
            self.warn(
                code,
                rule,
                place,
                format!("{by} lets the agent do {} {}", action.verb, action.resource),
                format!("a rule with priority: 10, effect: deny, {deny}"),
            );
        }
    }
}

const SYSTEM_SECRETS: &[&str] = &["file.read /etc/shadow", "ipc.connect unix:/run/docker.sock"];
const HOME_SECRETS: &[&str] = &[".ssh/id_ed25519", ".aws/credentials", ".netrc"];
const METADATA: &[&str] = &[
    "net.connect tcp://169.254.169.254:80",
    "net.connect tcp://[fd00:ec2::254]:80",
];

/// Whether a pattern is any object, or any path.
fn is_everything(pattern: &ResourcePattern) -> bool {
    match pattern {
        ResourcePattern::Any => true,
        ResourcePattern::Path(glob) => matches!(glob.as_str(), "/**" | "**" | "**/*"),
        _ => false,
    }
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.kind {
        Kind::Mapping(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, n)| n),
        _ => None,
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Scalar(text, _) => Some(text),
        _ => None,
    }
}

/// The members of a list, or the one that stands for it.
fn members<'n>(node: &'n Node, key: &str) -> Vec<(&'n str, &'n Node)> {
    let Some(node) = get(node, key) else {
        return Vec::new();
    };
    match &node.kind {
        Kind::Sequence(items) => items.iter().filter_map(|i| Some((scalar(i)?, i))).collect(),
        _ => scalar(node).map(|text| (text, node)).into_iter().collect(),
    }
}
