//! The digest of a policy: SHA-256 of a canonical JSON form.
//!
//! Two policies with the same digest decide alike, explain alike and give the same hints. Rules are
//! in the order they are looked at, which is a total order of priority and id, so the order in the
//! file does not count. Patterns are taken with variables expanded: the same file for another
//! workspace is another policy.

use agentwall_action::{Effect, Hint};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    document::{Enforcement, LedgerFailure},
    glob::Glob,
    pattern::{HostPattern, ResourcePattern, UnixPattern},
    policy::{LayerPolicy, Policy},
    rule::{Layer, PatternList, Rule},
    temporal::{Budget, Event, EventKind, Property, PropertyForm, Risk},
};

pub(crate) fn digest(policy: &Policy) -> String {
    let mut hash = Sha256::new();
    // The form is hashed as it is written: as a whole it is many times as large as the policy. Writing
    // into a hash cannot fail, and no map in it has keys that are not text.
    let _ = serde_json::to_writer(&mut hash, &canonical(policy));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The canonical form, in the order of its keys.
#[derive(Serialize)]
struct Canonical<'p> {
    agentwall: u8,
    labels: Value,
    require: Enforcement,
    /// Absent in the form of a policy that says nothing, which is older than the key.
    #[serde(skip_serializing_if = "LedgerFailure::is_closed")]
    on_ledger_failure: LedgerFailure,
    /// The same.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    inspect: &'p [String],
    layers: Vec<CanonicalLayer<'p>>,
    budgets: Vec<Value>,
    risk: Risk,
    properties: Vec<Value>,
}

#[derive(Serialize)]
struct CanonicalLayer<'p> {
    layer: Layer,
    default: Option<Effect>,
    #[serde(serialize_with = "rules")]
    rules: &'p [Rule],
}

/// One rule after the other.
fn rules<S: Serializer>(rules: &[Rule], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rules.iter().map(rule))
}

fn canonical(policy: &Policy) -> Canonical<'_> {
    let mut budgets: Vec<Value> = policy.budgets.iter().map(budget).collect();
    budgets.sort_by_cached_key(ToString::to_string);
    let mut properties: Vec<Value> = policy.properties.iter().map(property).collect();
    properties.sort_by_cached_key(ToString::to_string);
    Canonical {
        agentwall: 1,
        labels: labels(policy),
        require: policy.require,
        on_ledger_failure: policy.on_ledger_failure,
        inspect: &policy.inspect,
        layers: policy.layers.iter().map(canonical_layer).collect(),
        budgets,
        risk: policy.risk,
        properties,
    }
}

fn canonical_layer(layer: &LayerPolicy) -> CanonicalLayer<'_> {
    CanonicalLayer {
        layer: layer.layer,
        default: layer.default,
        rules: &layer.rules,
    }
}

/// The places of each label, once: a version that knows more secrets is another policy.
fn labels(policy: &Policy) -> Value {
    let mut labels = serde_json::Map::new();
    let rules = policy.layers.iter().flat_map(|l| &l.rules);
    let lists = rules
        .map(|r| &r.resource)
        .chain(policy.budgets.iter().map(|b| &b.resource));
    let listed = lists.flat_map(|l| l.positive.iter().chain(&l.negative));
    let events = policy.properties.iter().flat_map(|p| match &p.form {
        PropertyForm::Never(events) => events.iter().collect(),
        PropertyForm::Before { first, then } => vec![first.as_ref(), then.as_ref()],
    });
    for pattern in listed.chain(events.map(|e| &e.resource)) {
        if let ResourcePattern::Label(l) = pattern
            && !labels.contains_key(&l.name)
        {
            let places = l.paths.iter().chain(l.sockets.iter());
            labels.insert(l.name.clone(), places.map(glob).collect());
        }
    }
    labels.into()
}

fn rule(rule: &Rule) -> Value {
    let hint: &Hint = &rule.hint;
    json!({
        "id": rule.id,
        "priority": rule.priority,
        "subject": list(&rule.subject, glob),
        "verbs": rule.verbs,
        "resource": list(&rule.resource, pattern),
        "effect": rule.effect.as_str(),
        "when": rule.when.as_ref().map(|e| e.as_str()),
        "unless": rule.unless.as_ref().map(|e| e.as_str()),
        "reason": rule.reason,
        "hint": hint,
    })
}

fn budget(budget: &Budget) -> Value {
    let mut all = what_it_counts(budget);
    all["minute"] = json!(budget.minute);
    all["hour"] = json!(budget.hour);
    all["day"] = json!(budget.day);
    all
}

fn what_it_counts(budget: &Budget) -> Value {
    json!({
        "subject": list(&budget.subject, glob),
        "verbs": budget.verbs,
        "resource": list(&budget.resource, pattern),
        "cost": budget.cost.as_ref().map(|e| e.as_str()),
    })
}

/// What a budget counts, as 32 hexadecimal digits: [`Budget::id`].
pub(crate) fn counted(budget: &Budget) -> String {
    let digest = Sha256::digest(what_it_counts(budget).to_string());
    digest[..16].iter().map(|b| format!("{b:02x}")).collect()
}

fn property(property: &Property) -> Value {
    let form = match &property.form {
        PropertyForm::Never(events) => {
            json!({"never": events.iter().map(event).collect::<Vec<_>>()})
        }
        PropertyForm::Before { first, then } => {
            json!({"first": event(first), "then": event(then)})
        }
    };
    json!({"id": property.id, "form": form})
}

fn event(event: &Event) -> Value {
    let kind = match &event.kind {
        EventKind::Action(verbs) => json!(verbs),
        EventKind::Approval => json!("approve"),
    };
    json!({"kind": kind, "not": event.negated, "resource": pattern(&event.resource)})
}

fn list<P>(list: &PatternList<P>, one: impl Fn(&P) -> Value) -> Value {
    let sorted = |members: &[P]| {
        let mut values: Vec<Value> = members.iter().map(&one).collect();
        values.sort_by_cached_key(ToString::to_string);
        values
    };
    json!({"any_of": sorted(&list.positive), "none_of": sorted(&list.negative)})
}

fn glob(glob: &Glob) -> Value {
    json!(glob.as_str())
}

fn pattern(pattern: &ResourcePattern) -> Value {
    use ResourcePattern as P;
    match pattern {
        P::Any => json!("*"),
        P::Path(g) => json!({"path": g.as_str()}),
        P::Endpoint(e) => {
            let host = match &e.host {
                HostPattern::Any => json!("*"),
                HostPattern::Name(g) => json!({"name": g.as_str()}),
                HostPattern::Addresses(a) => json!({"cidr": a.to_string()}),
            };
            json!({"protocol": e.protocol, "host": host, "ports": [e.ports.start(), e.ports.end()]})
        }
        P::Addresses(a) => json!({"cidr": a.to_string()}),
        P::Unix(UnixPattern::Any) => json!({"unix": "*"}),
        P::Unix(UnixPattern::Path(g) | UnixPattern::Abstract(g)) => json!({"unix": g.as_str()}),
        P::Host(g) => json!({"dns": g.as_str()}),
        P::Label(l) => json!({"label": l.name}),
        P::Named(g) => json!({"name": g.as_str()}),
    }
}
