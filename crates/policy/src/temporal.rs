//! Budgets, risk thresholds and temporal properties: read and checked here, enforced by other layers.
//!
//! A property is `never: A then B …` (the events must not occur in this order) or
//! `require: A before B` (no B unless A came first). An event is `ACTION(OBJECT)`, with an action
//! glob, and an object pattern that may be preceded by `not`; `approve(OBJECT)` stands for a person's
//! approval.

use agentwall_action::{Action, Resource, Verb, VerbFamily};

use crate::{
    condition::{Expression, Wanted},
    digest, document,
    fields::Reading,
    glob::{Glob, GlobError},
    pattern::{PatternContext, ResourcePattern},
    rule::{Layer, Location, PatternList},
    yaml::Node,
};

pub(crate) const BUDGET_KEYS: &[&str] = &[
    "subject", "action", "resource", "cost", "minute", "hour", "day",
];
pub(crate) const RISK_KEYS: &[&str] = &["ask_at", "deny_at"];
pub(crate) const PROPERTY_KEYS: &[&str] = &["id", "never", "require"];

/// How much of something may happen in a time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Budget {
    /// What it counts, told from what others count: 128 bits of a digest of everything but the limits, so that
    /// a changed limit goes on with what is spent.
    pub id: String,
    /// Whose actions are counted; each subject has its own counters.
    pub subject: PatternList<Glob>,
    /// Which verbs are counted.
    pub verbs: Vec<Verb>,
    /// Which objects are counted.
    pub resource: PatternList<ResourcePattern>,
    /// What one action costs; 1 without it.
    pub cost: Option<Expression>,
    /// Most cost in a minute.
    pub minute: Option<u64>,
    /// Most cost in an hour.
    pub hour: Option<u64>,
    /// Most cost in a day.
    pub day: Option<u64>,
    /// Who wrote it.
    pub layer: Layer,
    /// Where it is written.
    pub location: Location,
}

impl Budget {
    /// Whether the action is counted.
    pub fn applies(&self, action: &Action) -> bool {
        let subject = action.subject.as_str().as_bytes();
        self.verbs.contains(&action.verb)
            && self.subject.matches(|g| g.matches(subject, false))
            && self
                .resource
                .matches(|p| p.matches(&action.resource, &action.facts))
    }

    /// What the action costs; the error says why it cannot be known, and the caller denies.
    pub fn cost(&self, action: &Action) -> Result<f64, String> {
        self.cost.as_ref().map_or(Ok(1.0), |c| c.number(action))
    }
}

/// From which risk on a person is asked and an action is denied; 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Risk {
    /// Ask from here on.
    pub ask_at: Option<u8>,
    /// Deny from here on.
    pub deny_at: Option<u8>,
}

/// A statement about the order of events.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Property {
    /// Unique in the whole policy, rules included.
    pub id: String,
    /// What it says.
    pub form: PropertyForm,
    /// The statement as written, without its keyword.
    pub text: String,
    /// Who wrote it.
    pub layer: Layer,
    /// Where it is written.
    pub location: Location,
}

/// The two forms of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyForm {
    /// The events must not occur in this order, whatever is between them.
    Never(Vec<Event>),
    /// `then` must not occur before `first` has.
    Before {
        /// What must come first.
        first: Box<Event>,
        /// What needs it.
        then: Box<Event>,
    },
}

/// One event of a property.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happens.
    pub kind: EventKind,
    /// Whether the object must *not* be one that `resource` means.
    pub negated: bool,
    /// To what.
    pub resource: ResourcePattern,
}

/// What happens in an event.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// An action that goes through.
    Action(Vec<Verb>),
    /// A person approves an action on the object.
    Approval,
}

impl Event {
    /// Whether the action is this event. Approvals are not actions: see [`Event::is_approval`].
    pub fn matches(&self, action: &Action) -> bool {
        match &self.kind {
            EventKind::Action(verbs) => {
                verbs.contains(&action.verb)
                    && self.resource.matches(&action.resource, &action.facts) != self.negated
            }
            EventKind::Approval => false,
        }
    }

    /// Whether an approval of `resource` is this event.
    pub fn is_approval(&self, resource: &Resource, facts: &agentwall_action::Facts) -> bool {
        self.kind == EventKind::Approval && self.resource.matches(resource, facts) != self.negated
    }
}

pub(crate) fn budget(
    reading: &mut Reading<'_>,
    node: &Node,
    layer: Layer,
    context: &PatternContext<'_>,
) -> Option<Budget> {
    let fields = reading.mapping(node, "a budget", BUDGET_KEYS)?;
    let subject = document::subject(reading, &fields);
    let (_, verbs) = document::action(reading, &fields)?;
    let resource = document::resource(reading, &fields, &context.for_verbs(&verbs));
    let cost = match fields.get("cost") {
        None => Some(None),
        Some(n) => document::expression(reading, n, "cost", Wanted::Number).map(Some),
    };
    let mut limit = |key: &str| match fields.get(key) {
        None => Some(None),
        Some(n) => reading
            .integer(n, key, 0, i64::MAX)
            .map(|n| u64::try_from(n).ok()),
    };
    let (minute, hour, day) = (limit("minute")?, limit("hour")?, limit("day")?);
    if (minute, hour, day) == (None, None, None) {
        reading.error(
            fields.place,
            "a budget needs a limit",
            Some("minute: 100, hour: 1000 or day: 5000".into()),
        );
        return None;
    }
    let mut budget = Budget {
        id: String::new(),
        subject: subject?,
        verbs,
        resource: resource?,
        cost: cost?,
        minute,
        hour,
        day,
        layer,
        location: Location {
            source: reading.lines.name.to_owned(),
            line: node.place.line,
        },
    };
    budget.id = digest::counted(&budget);
    Some(budget)
}

pub(crate) fn risk(reading: &mut Reading<'_>, node: &Node) -> Risk {
    let Some(fields) = reading.mapping(node, "risk", RISK_KEYS) else {
        return Risk::default();
    };
    let mut threshold = |key: &str| {
        let number = reading.integer(fields.get(key)?, key, 0, 100)?;
        u8::try_from(number).ok()
    };
    let risk = Risk {
        ask_at: threshold("ask_at"),
        deny_at: threshold("deny_at"),
    };
    if let (Some(ask), Some(deny)) = (risk.ask_at, risk.deny_at)
        && ask > deny
    {
        reading.error(
            fields.place,
            format!("ask_at {ask} is above deny_at {deny}, so that nobody would be asked"),
            Some(format!("{{ ask_at: {deny}, deny_at: {ask} }}")),
        );
    }
    risk
}

pub(crate) fn property(
    reading: &mut Reading<'_>,
    node: &Node,
    layer: Layer,
    context: &PatternContext<'_>,
) -> Option<Property> {
    let fields = reading.mapping(node, "a property", PROPERTY_KEYS)?;
    let id = document::id(reading, &fields, "property");
    let (item, separator) = match (fields.get("never"), fields.get("require")) {
        (Some(n), None) => (n, "then"),
        (None, Some(n)) => (n, "before"),
        _ => {
            reading.error(
                fields.place,
                "a property needs either 'never' or 'require'",
                Some("never: file.read(label:secret) then net.connect(*)".into()),
            );
            return None;
        }
    };
    let text = reading.text(
        item,
        if separator == "then" {
            "never"
        } else {
            "require"
        },
    )?;
    let form = events(text, separator, context).and_then(|mut events| {
        if separator == "then" {
            return Ok(PropertyForm::Never(events));
        }
        match (events.pop(), events.pop(), events.len()) {
            (Some(then), Some(first), 0) => Ok(PropertyForm::Before {
                first: Box::new(first),
                then: Box::new(then),
            }),
            _ => Err(GlobError::new(0, "expected 'EVENT before EVENT'")
                .suggest("approve(capability:pay:*) before api.call(capability:pay:*)")),
        }
    });
    match form {
        Ok(form) => Some(Property {
            id: id?,
            form,
            text: text.trim().to_owned(),
            layer,
            location: Location {
                source: reading.lines.name.to_owned(),
                line: node.place.line,
            },
        }),
        Err(error) => {
            reading.inside(item, text, "property", &error);
            None
        }
    }
}

/// Reads `EVENT SEPARATOR EVENT …`.
fn events(
    text: &str,
    separator: &str,
    context: &PatternContext<'_>,
) -> Result<Vec<Event>, GlobError> {
    let mut events = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let (event, end) = event(text, at, context)?;
        events.push(event);
        let rest = text[end..].trim_start();
        if rest.is_empty() {
            return Ok(events);
        }
        let here = text.len() - rest.len();
        let word = rest.split_whitespace().next().unwrap_or_default();
        if word != separator {
            return Err(
                GlobError::new(here, format!("expected '{separator}', found '{word}'"))
                    .suggest(separator),
            );
        }
        if events.len() >= 16 {
            return Err(GlobError::new(here, "more than 16 events"));
        }
        at = here + word.len();
    }
}

/// Reads `ACTION(OBJECT)` at `at`; gives the event and where it ends.
fn event(text: &str, at: usize, context: &PatternContext<'_>) -> Result<(Event, usize), GlobError> {
    let expected = || {
        GlobError::new(
            at,
            "expected an event: an action, and its object in brackets",
        )
        .suggest("file.read(label:secret)")
    };
    let open = at + text[at..].find('(').ok_or_else(expected)?;
    let name = text[at..open].trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(expected());
    }
    let mut depth = 0usize;
    let close = text[open..]
        .char_indices()
        .find_map(|(i, c)| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(open + i)
        })
        .ok_or_else(|| GlobError::new(open, "'(' is not closed"))?;
    let inside = &text[open + 1..close];
    let object = inside.trim();
    let (object, negated) = match object.strip_prefix("not ") {
        Some(object) => (object.trim_start(), true),
        None => (object, false),
    };
    let object_at = open + 1 + inside.find(object).unwrap_or(0);
    let kind = if name == "approve" {
        EventKind::Approval
    } else {
        let glob = document::verb_glob(name).map_err(|mut e| {
            e.offset += at;
            e
        })?;
        let verbs = Verb::ALL.iter().copied();
        EventKind::Action(
            verbs
                .filter(|v| glob.matches(v.as_str().as_bytes(), false))
                .collect(),
        )
    };
    let resource = if object.is_empty() {
        if negated {
            return Err(GlobError::new(open, "'not' without an object"));
        }
        ResourcePattern::Any
    } else {
        let verbs = match &kind {
            EventKind::Action(verbs) => verbs.clone(),
            EventKind::Approval => approvable(object),
        };
        ResourcePattern::parse(object, &context.for_verbs(&verbs)).map_err(|mut e| {
            e.offset += object_at;
            e
        })?
    };
    let event = Event {
        kind,
        negated,
        resource,
    };
    Ok((event, close + 1))
}

/// An approval may be about any kind of object: a name unless the text says otherwise.
fn approvable(object: &str) -> Vec<Verb> {
    let schemes = ["tcp://", "udp://", "cidr:", "unix:", "dns:", "label:"];
    let other =
        schemes.iter().any(|s| object.starts_with(s)) || object.starts_with(['/', '~', '$']);
    Verb::ALL
        .iter()
        .copied()
        .filter(|v| other != (v.family() == VerbFamily::Named))
        .collect()
}
