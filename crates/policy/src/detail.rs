//! Why a rule did not match, in detail: the member of a list that came nearest and where it stops
//! matching, and what the conditions read and said.
//!
//! Nothing here decides. The details are computed for explanations only, from the same patterns and
//! expressions that [`Rule::matches`] asks.

use agentwall_action::{Action, Endpoint, Resource, escape_bytes};

use crate::{
    facts_read::FactRead,
    glob::Glob,
    pattern::{EndpointPattern, HostPattern, ResourcePattern, UnixPattern},
    rule::{PatternList, Rule},
};

/// The member of a rule's list that came nearest to an object or subject it does not match.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Nearest {
    /// The member as a pattern, with variables expanded; with `!` if it took the object out.
    pub pattern: String,
    /// What does not fit: `subject`, `path`, `protocol`, `host`, `address`, `port`, `name`, `label`,
    /// `kind` (it means another kind of object), or `excluded`.
    pub part: &'static str,
    /// The front of the text that the member could still have matched, escaped.
    pub matched: String,
    /// The rest, escaped. Empty if the text ends before the pattern does.
    pub rest: String,
}

/// What a rule's `when` or `unless` read and said.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ConditionReport {
    /// `when` or `unless`.
    pub key: &'static str,
    /// The expression as written.
    pub expression: String,
    /// Its value; `None` if it failed.
    pub value: Option<bool>,
    /// Why it failed.
    pub error: Option<String>,
    /// The facts it names, with their values.
    pub facts: Vec<FactRead>,
}

impl Rule {
    /// The member of the subject list that came nearest to a subject the rule does not match.
    pub(crate) fn nearest_subject(&self, action: &Action) -> Option<Nearest> {
        let text = action.subject.as_str().as_bytes();
        let excluded = |g: &Glob| g.matches(text, false);
        nearest(&self.subject, excluded, |glob| {
            let stop = reach(glob, text);
            Some((stop, found(glob.as_str(), "subject", text, stop)))
        })
    }

    /// The member of the resource list that came nearest to an object the rule does not match.
    pub(crate) fn nearest_resource(&self, action: &Action) -> Option<Nearest> {
        let matches = |p: &ResourcePattern| p.matches(&action.resource, &action.facts);
        nearest(&self.resource, matches, |pattern| {
            Some(measure(pattern, &action.resource))
        })
    }

    /// What the conditions say about an action.
    pub(crate) fn condition_reports(&self, action: &Action) -> Vec<ConditionReport> {
        let both = [("when", &self.when), ("unless", &self.unless)];
        let present = both
            .into_iter()
            .filter_map(|(key, e)| Some((key, e.as_ref()?)));
        present
            .map(|(key, expression)| {
                let (value, error) = match expression.test(action) {
                    Ok(value) => (Some(value), None),
                    Err(error) => (None, Some(error)),
                };
                ConditionReport {
                    key,
                    expression: expression.as_str().to_owned(),
                    value,
                    error,
                    facts: expression.facts(action),
                }
            })
            .collect()
    }
}

/// The negative member that took the text out, else the positive one with the greatest measure.
fn nearest<P: ToText>(
    list: &PatternList<P>,
    matches: impl Fn(&P) -> bool,
    measure: impl Fn(&P) -> Option<(usize, Nearest)>,
) -> Option<Nearest> {
    if list.positive.is_empty() || list.positive.iter().any(&matches) {
        let by = list.negative.iter().find(|p| matches(p))?;
        return Some(Nearest {
            pattern: format!("!{}", by.text()),
            part: "excluded",
            matched: String::new(),
            rest: String::new(),
        });
    }
    let mut best: Option<(usize, Nearest)> = None;
    for (measure, found) in list.positive.iter().filter_map(measure) {
        if best.as_ref().is_none_or(|(m, _)| measure > *m) {
            best = Some((measure, found));
        }
    }
    best.map(|(_, found)| found)
}

trait ToText {
    fn text(&self) -> String;
}

impl ToText for Glob {
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl ToText for ResourcePattern {
    fn text(&self) -> String {
        self.to_string()
    }
}

fn found(pattern: impl Into<String>, part: &'static str, text: &[u8], stop: usize) -> Nearest {
    let (matched, rest) = text.split_at(stop.min(text.len()));
    Nearest {
        pattern: pattern.into(),
        part,
        matched: escape_bytes(matched),
        rest: escape_bytes(rest),
    }
}

/// How many bytes of the text can be read before no alternative can match any more. That some can is
/// true of a front of the text whenever it is true of a longer one, so halving finds the end.
fn reach(glob: &Glob, text: &[u8]) -> usize {
    let (mut alive, mut dead) = (0, text.len() + 1);
    while alive + 1 < dead {
        let middle = alive + (dead - alive) / 2;
        match glob.may_match_prefix(&text[..middle]) {
            true => alive = middle,
            false => dead = middle,
        }
    }
    alive
}

/// How near a pattern comes to a resource it does not match; greater is nearer.
fn measure(pattern: &ResourcePattern, resource: &Resource) -> (usize, Nearest) {
    let shown = resource.to_string();
    let whole = |part| found(pattern.to_string(), part, shown.as_bytes(), 0);
    let by_glob = |glob: &Glob, part, text: &[u8]| {
        let stop = reach(glob, text);
        (1 + stop, found(pattern.to_string(), part, text, stop))
    };
    match (pattern, resource) {
        (ResourcePattern::Label(_), _) => (0, whole("label")),
        (ResourcePattern::Path(glob), Resource::Path(p)) => by_glob(glob, "path", p.as_bytes()),
        (
            ResourcePattern::Unix(UnixPattern::Path(glob) | UnixPattern::Abstract(glob)),
            Resource::Unix(path),
        ) => {
            use std::os::unix::ffi::OsStrExt as _;
            by_glob(glob, "path", path.as_os_str().as_bytes())
        }
        (ResourcePattern::Host(glob), Resource::Host(name)) => {
            by_glob(glob, "host", name.as_bytes())
        }
        (ResourcePattern::Named(glob), Resource::Named(name)) => {
            by_glob(glob, "name", name.as_bytes())
        }
        (ResourcePattern::Endpoint(endpoint), Resource::Endpoint(e)) => {
            let (measure, part, stop) = endpoint_stop(endpoint, e, &shown);
            (
                measure,
                found(pattern.to_string(), part, shown.as_bytes(), stop),
            )
        }
        (ResourcePattern::Addresses(_), Resource::Endpoint(_)) => (1, whole("address")),
        _ => (0, whole("kind")),
    }
}

/// For an endpoint as it is shown: how near, which part does not fit, and where that part begins.
fn endpoint_stop(
    pattern: &EndpointPattern,
    e: &Endpoint,
    shown: &str,
) -> (usize, &'static str, usize) {
    const NEAR: usize = 1 << 20;
    let host_at = shown.find("://").map_or(0, |at| at + 3);
    let port_at = shown.rfind(':').map_or(shown.len(), |at| at + 1);
    if pattern.protocol != e.protocol {
        return (1, "protocol", 0);
    }
    if pattern.host.matches(e) {
        return (NEAR, "port", port_at);
    }
    match (&pattern.host, &e.host) {
        (HostPattern::Name(glob), Some(name)) => {
            let stop = reach(glob, name.as_bytes());
            (2 + stop, "host", host_at + stop)
        }
        (HostPattern::Addresses(_), _) => (2, "address", host_at),
        _ => (2, "host", host_at),
    }
}
