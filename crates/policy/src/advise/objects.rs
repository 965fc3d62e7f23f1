//! The nearest allowed objects: every pattern of a rule that lets something through is made to fit the
//! asked object as nearly as it can, and the policy decides on what comes out.
//!
//! Where a pattern's nearest object is refused by another rule, neighbours of it are tried: the same
//! path without one of its folders, and for a new file another name. Patterns whose front agrees
//! with the object come first; past the bound the rest is not looked at.

use std::{
    collections::BTreeSet, ffi::OsStr, net::IpAddr, os::unix::ffi::OsStrExt as _, path::Path,
};

use agentwall_action::{
    Action, Effect, Endpoint, PathResource, Resource, Verb, VerbFamily, is_within,
};

use super::{
    Guard, MAX_NEAREST, NearObject, budget,
    near::{self, Work},
};
use crate::{
    address::{Addresses, Network},
    glob::Glob,
    nfa::Nfa,
    pattern::{EndpointPattern, HostPattern, ResourcePattern, UnixPattern},
    policy::Policy,
    rule::RuleEffect,
};

/// At most this many alternatives of patterns are looked at closely.
const MAX_PATTERNS: usize = 128;
/// Cells of the inner search, all patterns together: some tens of milliseconds at most.
const WORK: usize = 4_000_000;
/// At most this many neighbours of one refused object.
const MAX_NEIGHBOURS: usize = 12;

/// Trees in which the kernel makes the files.
const KERNEL_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Something that may be allowed.
struct Candidate {
    object: Resource,
    distance: usize,
    pattern: Option<String>,
}

/// The objects nearest to that of `action` which the policy lets through, at most one asked one last.
pub(super) fn nearest(policy: &Policy, action: &Action, guard: &Guard) -> Vec<NearObject> {
    let mut found = candidates(policy, action);
    let limit = limit(&action.resource);
    found.retain(|candidate| candidate.distance <= limit);
    found.sort_by(|a, b| {
        (a.distance, a.object.to_string()).cmp(&(b.distance, b.object.to_string()))
    });
    let mut decisions = budget(policy);
    let mut seen = BTreeSet::new();
    let (mut fine, mut asked) = (Vec::new(), Vec::new());
    let mut neighbours: Vec<Candidate> = Vec::new();
    let mut try_one = |candidate: Candidate, neighbours: Option<&mut Vec<Candidate>>| -> bool {
        let shown = candidate.object.to_string();
        if !seen.insert(shown.clone()) {
            return true;
        }
        if decisions == 0 {
            return false;
        }
        decisions -= 1;
        let other = Action {
            resource: candidate.object,
            ..action.clone()
        };
        let decision = policy.answer(&other);
        if guard.never(&other.resource).is_none() && !leaves_for_kernel_files(&other, action) {
            let near = NearObject {
                object: other.resource,
                resource: shown,
                effect: decision.effect,
                rule: decision.rule,
                pattern: candidate.pattern,
                distance: candidate.distance,
            };
            match near.effect {
                effect if effect.proceeds() => return push(&mut fine, near),
                Effect::Ask if near.object != action.resource => {
                    push(&mut asked, near);
                }
                _ => neighbours.into_iter().for_each(|n| {
                    n.extend(around(&near.object, near.distance, action));
                }),
            }
        }
        true
    };
    for candidate in found {
        if !try_one(candidate, Some(&mut neighbours)) {
            break;
        }
    }
    neighbours.sort_by_key(|n| n.distance);
    for candidate in neighbours {
        if !try_one(candidate, None) {
            break;
        }
    }
    let by_distance = |list: &mut Vec<NearObject>| {
        list.sort_by(|a, b| (a.distance, &a.resource).cmp(&(b.distance, &b.resource)));
    };
    by_distance(&mut fine);
    by_distance(&mut asked);
    // The nearest of each rule tells more than three of one.
    let mut rules = BTreeSet::new();
    fine.retain(|near| rules.insert(near.rule.clone()));
    fine.truncate(MAX_NEAREST);
    let nearest = fine.first().map(|n| n.distance);
    asked.retain(|a| nearest.is_none_or(|n| a.distance < n));
    fine.extend(asked.into_iter().take(1));
    fine
}

/// The greatest distance that still reads like the same thing. Any folder may stand in for another; a
/// host or a tool with another name does something else.
fn limit(asked: &Resource) -> usize {
    match asked {
        Resource::Path(_) | Resource::Unix(_) => usize::MAX,
        other => (other.to_string().len() / 2).max(8),
    }
}

/// Whether a path of the kernel's own trees would stand in for one that is elsewhere: nothing that
/// somebody looks for is there.
fn leaves_for_kernel_files(other: &Action, asked: &Action) -> bool {
    let tree = |action: &Action| match &action.resource {
        Resource::Path(p) => KERNEL_TREES
            .iter()
            .find(|t| is_within(&p.path, Path::new(t)))
            .copied(),
        _ => None,
    };
    tree(other).is_some() && tree(other) != tree(asked)
}

/// Adds one; whether more are worth looking for.
fn push(list: &mut Vec<NearObject>, near: NearObject) -> bool {
    list.push(near);
    list.len() < 4 * MAX_NEAREST
}

/// The nearest object of every pattern that may let something through, not yet decided.
fn candidates(policy: &Policy, action: &Action) -> Vec<Candidate> {
    let permits = |verb: Verb| {
        policy.rules().filter(move |rule| {
            let lets = matches!(
                rule.effect,
                RuleEffect::Decide(Effect::Allow | Effect::Isolate | Effect::Ask)
            );
            lets && rule.verbs.contains(&verb) && rule.matches_subject(&action.subject)
        })
    };
    let mut verbs = vec![action.verb];
    if action.verb == Verb::DnsResolve {
        // Names are resolved for connections.
        verbs.extend([Verb::NetConnect, Verb::NetSend]);
    }
    let patterns: Vec<&ResourcePattern> = verbs
        .into_iter()
        .flat_map(permits)
        .flat_map(|rule| &rule.resource.positive)
        .collect();
    let mut found = vec![Candidate {
        object: action.resource.clone(),
        distance: 0,
        pattern: None,
    }];
    match &action.resource {
        Resource::Path(p) => {
            let globs = patterns.iter().filter_map(|pattern| match pattern {
                ResourcePattern::Path(glob) => Some((*pattern, glob)),
                _ => None,
            });
            let object = |bytes: Vec<u8>| path_object(p, bytes);
            found.extend(by_text(globs, b"/", p.as_bytes(), object));
        }
        Resource::Unix(path) => {
            let globs = patterns.iter().filter_map(|pattern| match pattern {
                ResourcePattern::Unix(UnixPattern::Path(glob) | UnixPattern::Abstract(glob)) => {
                    Some((*pattern, glob))
                }
                _ => None,
            });
            let object =
                |bytes: Vec<u8>| Some(Resource::Unix(Path::new(OsStr::from_bytes(&bytes)).into()));
            found.extend(by_text(globs, b"/", path.as_os_str().as_bytes(), object));
        }
        Resource::Named(name) => {
            let globs = patterns.iter().filter_map(|pattern| match pattern {
                ResourcePattern::Named(glob) => Some((*pattern, glob)),
                _ => None,
            });
            let object = |bytes| String::from_utf8(bytes).ok().map(Resource::Named);
            found.extend(by_text(globs, b":/", name.as_bytes(), object));
        }
        Resource::Host(name) => {
            let globs = patterns.iter().filter_map(|pattern| match pattern {
                ResourcePattern::Host(glob) => Some((*pattern, glob)),
                ResourcePattern::Endpoint(EndpointPattern {
                    host: HostPattern::Name(glob),
                    ..
                }) => Some((*pattern, glob)),
                _ => None,
            });
            found.extend(by_text(globs, b".", name.as_bytes(), host_object));
        }
        Resource::Endpoint(e) => {
            let mut work = Work(WORK);
            let near = |pattern: &&ResourcePattern| endpoint(pattern, e, &mut work);
            found.extend(patterns.iter().take(8 * MAX_PATTERNS).filter_map(near));
        }
    }
    found
}

/// The nearest text of each alternative of each glob, those with the longest common front first.
fn by_text<'p>(
    globs: impl Iterator<Item = (&'p ResourcePattern, &'p Glob)>,
    separators: &[u8],
    text: &[u8],
    object: impl Fn(Vec<u8>) -> Option<Resource>,
) -> Vec<Candidate> {
    let mut alternatives: Vec<(usize, &ResourcePattern, &Glob, &Nfa)> = globs
        .flat_map(|(pattern, glob)| {
            let each = glob.alternatives().iter();
            each.map(move |nfa| (common(nfa.literal(), text), pattern, glob, nfa))
        })
        .collect();
    // Of equal fronts the shorter pattern leaves more of the text as it is.
    alternatives.sort_by_key(|(common, _, _, nfa)| {
        (
            std::cmp::Reverse(*common),
            nfa.literal().len() + nfa.rest().len(),
        )
    });
    let mut work = Work(WORK);
    let mut found = Vec::new();
    for (_, pattern, glob, nfa) in alternatives.into_iter().take(MAX_PATTERNS) {
        let Some((distance, bytes)) = near::nearest(nfa, separators, text, &mut work) else {
            continue;
        };
        // Zero bytes and names that are no names never come from a pattern; be sure.
        if !glob.matches(&bytes, false) && bytes != text {
            continue;
        }
        if let Some(object) = object(bytes) {
            found.push(Candidate {
                object,
                distance,
                pattern: Some(pattern.to_string()),
            });
        }
    }
    found
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A canonical path, of the kind that was asked about.
fn path_object(asked: &PathResource, bytes: Vec<u8>) -> Option<Resource> {
    let canonical = bytes.starts_with(b"/")
        && !bytes.contains(&0)
        && bytes[1..]
            .split(|b| *b == b'/')
            .all(|part| !matches!(part, b"." | b".."));
    canonical.then(|| {
        Resource::Path(PathResource {
            path: Path::new(OsStr::from_bytes(&bytes)).into(),
            kind: asked.kind,
        })
    })
}

fn host_object(bytes: Vec<u8>) -> Option<Resource> {
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty()).then_some(Resource::Host(name))
}

/// The nearest endpoint that a pattern means. Another port is nearer than another host, and another
/// protocol farther than either.
fn endpoint(pattern: &ResourcePattern, e: &Endpoint, work: &mut Work) -> Option<Candidate> {
    let mut object = e.clone();
    let mut distance = 0;
    match pattern {
        ResourcePattern::Addresses(addresses) => {
            distance += nearest_address(addresses, &mut object)?;
        }
        ResourcePattern::Endpoint(p) => {
            if p.protocol != e.protocol {
                object.protocol = p.protocol;
                distance += 16;
            }
            match &p.host {
                HostPattern::Any => {}
                host if host.matches(e) => {}
                HostPattern::Name(glob) => {
                    let text = e.host.as_deref().unwrap_or_default().as_bytes();
                    let each = glob.alternatives().iter();
                    let (cost, name) = each
                        .filter_map(|nfa| near::nearest(nfa, b".", text, work))
                        .filter(|(_, name)| glob.matches(name, false))
                        .min()?;
                    object.host = Some(String::from_utf8(name).ok()?);
                    object.ip = None;
                    // One more than any other port, so that a port is changed first.
                    distance += 6 + cost;
                }
                HostPattern::Addresses(addresses) => {
                    distance += nearest_address(addresses, &mut object)?;
                }
            }
            let port = e.port.clamp(*p.ports.start(), *p.ports.end());
            if port != e.port {
                let (from, to) = (e.port.to_string(), port.to_string());
                distance += 1 + from.len().max(to.len()) - common(from.as_bytes(), to.as_bytes());
                object.port = port;
            }
        }
        _ => return None,
    }
    Some(Candidate {
        object: Resource::Endpoint(object),
        distance,
        pattern: Some(pattern.to_string()),
    })
}

/// Moves an endpoint to the nearest address of a set; the distance, `None` where there is none.
fn nearest_address(addresses: &Addresses, object: &mut Endpoint) -> Option<usize> {
    let known = object.ip.or_else(|| object.host.as_deref()?.parse().ok());
    if known.is_some_and(|ip| addresses.contains(ip)) {
        return Some(0);
    }
    let Addresses::Network(network) = addresses else {
        // The first address of some range is no better than any other.
        return None;
    };
    let to = known.map_or(network.address(), |ip| into(network, ip));
    object.ip = Some(to);
    object.host = None;
    let from = known.map(|ip| ip.to_string()).unwrap_or_default();
    let shown = to.to_string();
    Some(7 + from.len().max(shown.len()) - common(from.as_bytes(), shown.as_bytes()))
}

/// The address with the network's front and the rest of `ip`, if they are of one family.
fn into(network: &Network, ip: IpAddr) -> IpAddr {
    match (network.address(), ip) {
        (IpAddr::V4(front), IpAddr::V4(ip)) => {
            let keep = u32::MAX
                .checked_shr(u32::from(network.prefix()))
                .unwrap_or(0);
            IpAddr::V4((u32::from(front) | (u32::from(ip) & keep)).into())
        }
        (IpAddr::V6(front), IpAddr::V6(ip)) => {
            let keep = u128::MAX
                .checked_shr(u32::from(network.prefix()))
                .unwrap_or(0);
            IpAddr::V6((u128::from(front) | (u128::from(ip) & keep)).into())
        }
        (front, _) => front,
    }
}

/// Neighbours of a path that a rule refuses: without one of its folders; for a new file, other names.
fn around(object: &Resource, distance: usize, action: &Action) -> Vec<Candidate> {
    let Resource::Path(p) = object else {
        return Vec::new();
    };
    if action.verb.family() != VerbFamily::File {
        return Vec::new();
    }
    let parts: Vec<&[u8]> = p.as_bytes().split(|b| *b == b'/').skip(1).collect();
    let mut found = Vec::new();
    let mut add = |parts: Vec<&[u8]>, more: usize| {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        if let Some(object) = path_object(p, bytes) {
            found.push(Candidate {
                object,
                distance: distance + more,
                pattern: None,
            });
        }
    };
    // The deepest folder first: the nearer to the name, the likelier it is the one.
    let folders = parts.len().saturating_sub(1);
    for drop in (0..folders).rev().take(MAX_NEIGHBOURS) {
        let mut kept = parts.clone();
        let dropped = kept.remove(drop);
        add(kept, dropped.len() + 1);
    }
    if action.verb == Verb::FileCreate
        && let Some((name, front)) = parts.split_last()
    {
        let stem = name.iter().rposition(|b| *b == b'.').filter(|at| *at > 0);
        let (stem, end) = name.split_at(stem.unwrap_or(name.len()));
        for other in [[stem, b"-new", end].concat(), [*name, b".new"].concat()] {
            add([front, &[other.as_slice()]].concat(), 4);
        }
    }
    found
}
