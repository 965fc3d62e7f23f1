//! Loading: from sources to a [`Policy`], all or nothing.
//!
//! Sources belong to layers. Each layer is evaluated by itself and the strictest answer wins, so a
//! lower layer can never loosen an upper one; a lower rule or default that plainly tries is refused
//! when the policy is loaded, with both rules named, so that nobody believes in a rule without effect.

use std::collections::HashMap;

use crate::{
    diagnostic::{Found, LoadError},
    document::{self, Document, Enforcement, LedgerFailure},
    fields::Reading,
    layers,
    policy::{LayerPolicy, Policy},
    rule::Layer,
    temporal::Risk,
    vars::Variables,
    yaml::{self, Lines, Place},
};

/// A policy file: its name for messages, its bytes, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name shown in messages; usually the path.
    pub name: String,
    /// The content; must be UTF-8, which loading checks.
    pub text: Vec<u8>,
    /// Who wrote it.
    pub layer: Layer,
}

impl Source {
    /// A source.
    pub fn new(name: impl Into<String>, text: impl Into<Vec<u8>>, layer: Layer) -> Self {
        Source {
            name: name.into(),
            text: text.into(),
            layer,
        }
    }
}

/// Loads one or more sources into one policy. Several sources of one layer count as one file.
///
/// # Errors
/// Everything that is wrong with any of the sources, as far as it can be found in one pass. No
/// sources at all is an error, too: an absent policy never means "allow".
pub fn load(sources: &[Source], variables: &Variables) -> Result<Policy, LoadError> {
    let mut found = Found::default();
    if sources.is_empty() {
        let lines = Lines::new("policy", "");
        found.push(lines.diagnostic(
            Place::default(),
            "there is no policy",
            Some("name a policy file, or write one with 'agentwall init'".into()),
        ));
        return Err(found.into_error());
    }
    let mut documents: Vec<(&Source, Document)> = Vec::new();
    let mut texts: HashMap<&str, &str> = HashMap::new();
    for source in sources {
        let Some(text) = utf8(source, &mut found) else {
            continue;
        };
        texts.insert(&source.name, text);
        let lines = Lines::new(&source.name, text);
        let Some(root) = yaml::read(&lines, text, "agentwall: 1", &mut found) else {
            continue;
        };
        let mut reading = Reading::new(&lines, &mut found);
        documents.extend(
            document::read(&mut reading, &root, source.layer, variables).map(|d| (source, d)),
        );
    }
    let mut complain = |source: &str, line: usize, message: String, suggestion: Option<String>| {
        // Splitting a file into lines costs as much as the file is long: not for every complaint.
        if found.is_full() {
            return;
        }
        let text = texts.get(source).copied().unwrap_or_default();
        let lines = Lines::new(source, text);
        let place = Place {
            line,
            column: 1,
            length: 1,
        };
        found.push(lines.diagnostic(place, message, suggestion));
    };
    unique_ids(&documents, &mut complain);

    documents.sort_by_key(|(source, _)| source.layer);
    let mut policy = Policy {
        layers: Vec::new(),
        require: Enforcement::None,
        on_ledger_failure: LedgerFailure::Closed,
        inspect: Vec::new(),
        budgets: Vec::new(),
        risk: Risk::default(),
        properties: Vec::new(),
        digest: String::new(),
    };
    policy.on_ledger_failure = on_ledger_failure(&documents, &mut complain);
    policy.inspect = inspect(&documents, &mut complain);
    for (source, document) in documents {
        add(&mut policy, source, document, &mut complain);
    }
    for layer in &mut policy.layers {
        layer
            .rules
            .sort_by(|a, b| (a.priority, &a.id).cmp(&(b.priority, &b.id)));
    }
    layers::check(&policy.layers, &mut complain);
    if !found.is_empty() {
        return Err(found.into_error());
    }
    policy.digest = crate::digest::digest(&policy);
    Ok(policy)
}

pub(crate) fn utf8<'s>(source: &'s Source, found: &mut Found) -> Option<&'s str> {
    let error = match std::str::from_utf8(&source.text) {
        Ok(text) => return Some(text),
        Err(error) => error,
    };
    let valid = String::from_utf8_lossy(&source.text[..error.valid_up_to()]);
    let lines = Lines::new(&source.name, &valid);
    let place = Place {
        line: valid.matches('\n').count() + 1,
        column: valid.rsplit('\n').next().unwrap_or("").chars().count() + 1,
        length: 1,
    };
    found.push(lines.diagnostic(
        place,
        "the file is not UTF-8",
        Some("write bytes outside UTF-8 as \\xNN in a pattern".into()),
    ));
    None
}

type Complain<'a> = dyn FnMut(&str, usize, String, Option<String>) + 'a;

fn unique_ids(documents: &[(&Source, Document)], complain: &mut Complain<'_>) {
    let mut seen = HashMap::new();
    for (_, document) in documents {
        let rules = document.rules.iter().map(|r| (&r.id, &r.location));
        let properties = document.properties.iter().map(|p| (&p.id, &p.location));
        for (id, location) in rules.chain(properties) {
            if let Some(first) = seen.insert(id, location) {
                complain(
                    &location.source,
                    location.line,
                    format!("the id '{id}' is already used at {first}"),
                    Some(format!("{id}-2")),
                );
            }
        }
    }
}

/// What the uppermost layer that says something says, unless a lower one is stricter. A repository is no place to say
/// that its agents may go on without a record.
fn on_ledger_failure(
    documents: &[(&Source, Document)],
    complain: &mut Complain<'_>,
) -> LedgerFailure {
    let stated = documents
        .iter()
        .filter_map(|(source, d)| Some((*source, d.on_ledger_failure?)));
    let mut found: Option<LedgerFailure> = None;
    for (source, (word, line)) in stated {
        let loosens = match found {
            Some(LedgerFailure::Closed) => true,
            Some(LedgerFailure::Open) => false,
            None => source.layer > Layer::User,
        };
        if word == LedgerFailure::Open && loosens {
            complain(
                &source.name,
                line,
                format!(
                    "'on_failure: open' of the {} layer would loosen 'on_failure: closed'",
                    source.layer.as_str()
                ),
                Some("on_failure: closed, or leave it out".into()),
            );
        } else {
            found = Some(word);
        }
    }
    found.unwrap_or_default()
}

/// What all layers name together, sorted. Whose conversations are read is not for a repository to say.
fn inspect(documents: &[(&Source, Document)], complain: &mut Complain<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (source, document) in documents {
        for (name, line) in &document.inspect {
            if source.layer <= Layer::User {
                names.push(name.clone());
                continue;
            }
            let what = format!("'inspect' in the {} layer", source.layer.as_str());
            let next = "put it into the user's or the organisation's policy";
            complain(&source.name, *line, what, Some(next.into()));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn add(policy: &mut Policy, source: &Source, document: Document, complain: &mut Complain<'_>) {
    policy.require = policy.require.max(document.require);
    policy.budgets.extend(document.budgets);
    policy.properties.extend(document.properties);
    let lower = |a: Option<u8>, b: Option<u8>| a.into_iter().chain(b).min();
    policy.risk.ask_at = lower(policy.risk.ask_at, document.risk.ask_at);
    policy.risk.deny_at = lower(policy.risk.deny_at, document.risk.deny_at);
    let at = match policy.layers.iter().position(|l| l.layer == source.layer) {
        Some(at) => at,
        None => {
            policy.layers.push(LayerPolicy {
                layer: source.layer,
                default: None,
                default_location: None,
                rules: Vec::new(),
            });
            policy.layers.len() - 1
        }
    };
    let layer = &mut policy.layers[at];
    layer.rules.extend(document.rules);
    if let Some(default) = document.default {
        let location = crate::rule::Location {
            source: source.name.clone(),
            line: document.default_line,
        };
        match (layer.default, &layer.default_location) {
            (Some(other), Some(first)) if other != default => complain(
                &location.source,
                location.line,
                format!("'default: {default}' contradicts 'default: {other}' at {first}"),
                Some("state the default once per layer".into()),
            ),
            _ => {
                layer.default = Some(default);
                layer.default_location = Some(location);
            }
        }
    }
}
