//! Layers: finding lower rules that plainly try to loosen an upper one.
//!
//! At decision time the strictest answer of all layers wins, so loosening cannot happen. This check
//! is for the author: a lower rule that is more permissive than an upper rule which covers it for
//! certain has no effect, and saying so when the policy is loaded, with both names, beats silence.
//! It is conservative: it reports only what is certain (patterns that are equal or plainly contain
//! one another), and stays silent where the upper layer itself may allow part of it.

use agentwall_action::Effect;

use crate::{
    glob::Glob,
    nfa::Nfa,
    pattern::{EndpointPattern, HostPattern, ResourcePattern, UnixPattern},
    policy::LayerPolicy,
    rule::{PatternList, Rule, RuleEffect},
};

type Complain<'a> = dyn FnMut(&str, usize, String, Option<String>) + 'a;

pub(crate) fn check(layers: &[LayerPolicy], complain: &mut Complain<'_>) {
    let Some((top, lower)) = layers.split_first() else {
        return;
    };
    let top_default = top.default.unwrap_or(Effect::Deny);
    let mut uppers: Vec<&LayerPolicy> = vec![top];
    for layer in lower {
        if let (Some(default), Some(at)) = (layer.default, &layer.default_location)
            && default < top_default
        {
            complain(
                &at.source,
                at.line,
                format!(
                    "'default: {default}' of the {} layer would loosen 'default: {top_default}' of \
                     the {} layer",
                    layer.layer.as_str(),
                    top.layer.as_str()
                ),
                Some(format!("default: {top_default}, or leave it out")),
            );
        }
        for rule in &layer.rules {
            let loosened = uppers
                .iter()
                .find_map(|upper| upper.rules.iter().find(|u| loosens(rule, u, upper)));
            if let Some(upper) = loosened {
                complain(
                    &rule.location.source,
                    rule.location.line,
                    format!(
                        "rule '{}' ({}) of the {} layer would loosen rule '{}' ({}) of the {} \
                         layer at {}",
                        rule.id,
                        rule.effect.as_str(),
                        rule.layer.as_str(),
                        upper.id,
                        upper.effect.as_str(),
                        upper.layer.as_str(),
                        upper.location
                    ),
                    Some(
                        "a lower layer can only tighten: remove the rule, or change the upper one"
                            .into(),
                    ),
                );
            }
        }
        uppers.push(layer);
    }
}

/// Whether `rule` is certainly more permissive than `upper`, one of the rules of `layer`.
fn loosens(rule: &Rule, upper: &Rule, layer: &LayerPolicy) -> bool {
    let (RuleEffect::Decide(own), RuleEffect::Decide(strict)) = (rule.effect, upper.effect) else {
        return false;
    };
    if own >= strict || !covers(upper, rule) {
        return false;
    }
    if upper.is_conditional() && rule.is_conditional() {
        // Two conditions cannot be compared here; the decision is right in any case.
        return false;
    }
    // An exception that the upper layer makes itself, looked at before the strict rule.
    let exception = layer.rules.iter().any(|other| {
        other.priority < upper.priority
            && matches!(other.effect, RuleEffect::Decide(e) if e < strict)
            && other.verbs.iter().any(|v| rule.verbs.contains(v))
            && may_overlap(other, rule)
    });
    !exception
}

/// Whether everything `inner` matches is certainly matched by the patterns of `outer`.
fn covers(outer: &Rule, inner: &Rule) -> bool {
    inner.verbs.iter().all(|v| outer.verbs.contains(v))
        && list_covers(&outer.subject, &inner.subject, glob_covers)
        && list_covers(&outer.resource, &inner.resource, pattern_covers)
}

fn list_covers<P: PartialEq>(
    outer: &PatternList<P>,
    inner: &PatternList<P>,
    one: impl Fn(&P, &P) -> bool,
) -> bool {
    outer == inner
        || (outer.negative.iter().all(|n| inner.negative.contains(n))
            && (outer.positive.is_empty()
                || (!inner.positive.is_empty()
                    && inner
                        .positive
                        .iter()
                        .all(|i| outer.positive.iter().any(|o| one(o, i))))))
}

fn glob_covers(outer: &Glob, inner: &Glob) -> bool {
    outer == inner
        || inner
            .alternatives()
            .iter()
            .all(|i| outer.alternatives().iter().any(|o| nfa_covers(o, i)))
}

fn nfa_covers(outer: &Nfa, inner: &Nfa) -> bool {
    if outer == inner || outer.is_any() {
        return true;
    }
    if let Some(text) = inner.as_literal() {
        return outer.matches(text, false);
    }
    // `A/**` covers whatever begins with `A/`.
    outer.as_tree().is_some_and(|tree| {
        let literal = inner.literal();
        let below = literal.strip_prefix(tree);
        below.is_some_and(|rest| rest.first() == Some(&b'/'))
            || (inner.as_tree().is_some() && below == Some(b""))
    })
}

fn pattern_covers(outer: &ResourcePattern, inner: &ResourcePattern) -> bool {
    use ResourcePattern as P;
    match (outer, inner) {
        (P::Any, _) => true,
        (a, b) if a == b => true,
        (P::Path(a), P::Path(b)) | (P::Host(a), P::Host(b)) | (P::Named(a), P::Named(b)) => {
            glob_covers(a, b)
        }
        (P::Label(label), P::Path(b)) => label.paths.iter().any(|a| glob_covers(a, b)),
        (P::Addresses(a), P::Addresses(b)) => a.covers(b),
        (P::Addresses(a), P::Endpoint(b)) => match &b.host {
            HostPattern::Addresses(b) => a.covers(b),
            _ => false,
        },
        (P::Endpoint(a), P::Endpoint(b)) => endpoint_covers(a, b),
        (P::Unix(UnixPattern::Any), P::Unix(_)) => true,
        (P::Unix(UnixPattern::Path(a)), P::Unix(UnixPattern::Path(b)))
        | (P::Unix(UnixPattern::Abstract(a)), P::Unix(UnixPattern::Abstract(b))) => {
            glob_covers(a, b)
        }
        _ => false,
    }
}

fn endpoint_covers(outer: &EndpointPattern, inner: &EndpointPattern) -> bool {
    let hosts = match (&outer.host, &inner.host) {
        (HostPattern::Any, _) => true,
        (HostPattern::Name(a), HostPattern::Name(b)) => glob_covers(a, b),
        (HostPattern::Addresses(a), HostPattern::Addresses(b)) => a.covers(b),
        _ => false,
    };
    hosts
        && outer.protocol == inner.protocol
        && outer.ports.start() <= inner.ports.start()
        && outer.ports.end() >= inner.ports.end()
}

/// Whether two rules could match the same object; `true` when in doubt.
fn may_overlap(a: &Rule, b: &Rule) -> bool {
    a.resource.positive.is_empty()
        || b.resource.positive.is_empty()
        || a.resource.positive.iter().any(|x| {
            let y = &b.resource.positive;
            y.iter().any(|y| patterns_may_overlap(x, y))
        })
}

fn patterns_may_overlap(a: &ResourcePattern, b: &ResourcePattern) -> bool {
    use ResourcePattern as P;
    match (a, b) {
        (P::Path(a), P::Path(b)) => a.alternatives().iter().any(|x| {
            b.alternatives()
                .iter()
                .any(|y| !x.after(y.literal()).is_empty() || !y.after(x.literal()).is_empty())
        }),
        (
            P::Addresses(crate::Addresses::Network(a)),
            P::Addresses(crate::Addresses::Network(b)),
        ) => a.overlaps(b),
        (P::Any | P::Label(_), _) | (_, P::Any | P::Label(_)) => true,
        (P::Endpoint(_) | P::Addresses(_), P::Endpoint(_) | P::Addresses(_)) => true,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}
