//! From what counts to patterns: each wanted action is given to one, the widest that was accepted.

use std::collections::{BTreeMap, BTreeSet};

use agentwall_action::{Effect, Resource, Verb};

use crate::{
    glob::{Glob, GlobKind, glob_escape},
    pattern::{PatternContext, ResourcePattern},
    vars::Variables,
};

use super::{
    Input,
    cover::NeverCover,
    evidence::{Evidence, path_of},
    merge::{Floor, Merger, Object, names_of, pattern_text},
    network::{self, Peer},
    never::Entry,
    token::Segment,
};

/// Verbs that are merged together: what may be made may be changed, what may be moved away may be
/// removed. A pattern still names only the verbs that were seen in it.
const GROUPS: &[&[Verb]] = &[
    &[Verb::FileRead],
    &[Verb::FileWrite, Verb::FileCreate],
    &[Verb::FileDelete, Verb::FileRename],
    &[Verb::FileChmod],
    &[Verb::FileExec],
    &[Verb::ProcessExec],
    &[Verb::ProcessSignal, Verb::ProcessTrace],
    &[Verb::DeviceOpen],
    &[Verb::IpcConnect],
];

/// One pattern with what it was made from.
#[derive(Debug)]
pub(crate) struct Found {
    pub effect: Effect,
    pub verbs: Vec<Verb>,
    /// As written in the file, without braces.
    pub parts: Text,
    pub except: Vec<&'static Entry>,
    pub internal: Option<bool>,
    /// Positions in the wanted actions.
    pub from: Vec<usize>,
}

/// A path is kept apart as folder and name, so that names of one folder can share braces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Text {
    Path {
        scheme: &'static str,
        folder: String,
        name: String,
    },
    Whole(String),
}

pub(crate) fn paths(input: &Input<'_>, evidence: &Evidence<'_>, never: &NeverCover) -> Vec<Found> {
    let floor = floor(input.variables);
    let refused: Vec<(Verb, Vec<u8>)> = evidence
        .unwanted
        .iter()
        .filter_map(|(verb, r)| Some((*verb, path_of(r)?.to_vec())))
        .collect();
    let mut found = Vec::new();
    for verbs in GROUPS {
        for effect in [Effect::Allow, Effect::Isolate] {
            let mut objects: BTreeMap<&[u8], (Object, Vec<usize>)> = BTreeMap::new();
            for (at, wanted) in evidence.wanted.iter().enumerate() {
                let Some(path) = path_of(&wanted.resource) else {
                    continue;
                };
                if wanted.effect != effect || !verbs.contains(&wanted.verb) {
                    continue;
                }
                let (object, from) = objects.entry(path).or_insert_with(|| {
                    let object = Object {
                        path: path.to_vec(),
                        verbs: BTreeSet::new(),
                        sessions: BTreeSet::new(),
                    };
                    (object, Vec::new())
                });
                object.verbs.insert(wanted.verb);
                object.sessions.extend(&wanted.sessions);
                from.push(at);
            }
            let list: Vec<Object> = objects.values().map(|(o, _)| o.clone()).collect();
            let sessions = input.options.min_sessions.max(2);
            let beta = i64::from(input.options.beta);
            let mut merger = Merger::new(never, &floor, &refused, sessions, beta);
            merger.sockets = verbs.contains(&Verb::IpcConnect);
            let patterns = merger.patterns(&list);
            let sockets = merger.sockets;
            found.extend(assign(
                input, never, evidence, effect, sockets, patterns, &objects,
            ));
        }
    }
    found
}

/// Gives every object to a pattern. A wildcard comes first, and a literal that it covers is not needed.
fn assign(
    input: &Input<'_>,
    never: &NeverCover,
    evidence: &Evidence<'_>,
    effect: Effect,
    sockets: bool,
    mut patterns: Vec<Vec<Segment>>,
    objects: &BTreeMap<&[u8], (Object, Vec<usize>)>,
) -> Vec<Found> {
    let breadth = |p: &Vec<Segment>| -> i64 { p.iter().map(Segment::breadth_bits).sum() };
    patterns.sort_by_key(|p| std::cmp::Reverse(breadth(p)));
    let mut covered: BTreeSet<(&[u8], Verb)> = BTreeSet::new();
    let mut found = Vec::new();
    for segments in patterns {
        let Ok(glob) = Glob::new(&pattern_text(&segments), GlobKind::Path) else {
            continue;
        };
        let matched: Vec<&(Object, Vec<usize>)> = objects
            .values()
            .filter(|(o, _)| glob.matches(&o.path, false))
            .collect();
        let verbs: BTreeSet<Verb> = matched
            .iter()
            .flat_map(|(o, _)| &o.verbs)
            .copied()
            .collect();
        let verbs: Vec<Verb> = verbs.into_iter().collect();
        let touches = never.touches(&verbs, &glob, sockets);
        // What is taken out of the pattern by `!` needs a literal of its own.
        let inside = |path: &[u8], verb: Verb| {
            let object = match sockets {
                false => Resource::Path(agentwall_action::PathResource {
                    path: to_path(path),
                    kind: agentwall_action::ObjectKind::Directory,
                }),
                true => Resource::Unix(to_path(path)),
            };
            !touches.iter().any(|t| never.covers(t.entry, verb, &object))
        };
        let mut from = Vec::new();
        for (object, at) in &matched {
            for index in at {
                let verb = evidence.wanted[*index].verb;
                if inside(&object.path, verb) && covered.insert((&object.path, verb)) {
                    from.push(*index);
                }
            }
        }
        if from.is_empty() {
            continue;
        }
        let needed: BTreeSet<Verb> = from.iter().map(|i| evidence.wanted[*i].verb).collect();
        let literal = segments.iter().all(Segment::is_literal);
        found.push(Found {
            effect,
            verbs: if literal {
                needed.into_iter().collect()
            } else {
                verbs
            },
            parts: written(
                &segments,
                input.variables,
                if sockets { "unix:" } else { "" },
            ),
            except: touches.into_iter().map(|t| t.entry).collect(),
            internal: None,
            from,
        });
    }
    found
}

fn to_path(bytes: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(bytes).into()
}

pub(crate) fn endpoints(input: &Input<'_>, evidence: &Evidence<'_>) -> Vec<Found> {
    let mut peers: Vec<(Peer, usize)> = Vec::new();
    for (at, wanted) in evidence.wanted.iter().enumerate() {
        if let Resource::Endpoint(endpoint) = &wanted.resource {
            let peer = Peer {
                verb: wanted.verb,
                endpoint: endpoint.clone(),
                sessions: wanted.sessions.clone(),
            };
            peers.push((peer, at));
        }
    }
    let context = PatternContext::new(input.variables);
    let facts = agentwall_action::Facts::default();
    let parse = |text: &str| ResourcePattern::parse(text, &context).ok();
    let refused = |verb: Verb, text: &str| {
        let Some(pattern) = parse(text) else {
            return true;
        };
        let mut unwanted = evidence.unwanted.iter();
        unwanted.any(|(v, r)| *v == verb && pattern.matches(r, &facts))
    };
    let list: Vec<Peer> = peers.iter().map(|(p, _)| p.clone()).collect();
    let sessions = input.options.min_sessions.max(2);
    let merged = network::patterns(&list, sessions, i64::from(input.options.beta), &refused);
    let mut found = Vec::new();
    for (verb, texts) in merged {
        let mut covered = BTreeSet::new();
        // The widest first: the fewest characters that are not wildcards come from merges.
        let literal = |t: &str| !t.contains(['*', '?', '[']) && t.matches('/').count() < 3;
        let mut texts: Vec<_> = texts.into_iter().collect();
        texts.sort_by_key(|t| {
            (
                literal(&t.text) && !t.text.contains("-65535"),
                t.text.clone(),
            )
        });
        for one in texts {
            let Some(pattern) = parse(&one.text) else {
                continue;
            };
            let inside = |(p, at): &(Peer, usize)| {
                let resource = &evidence.wanted[*at].resource;
                let internal = p.endpoint.ip.is_some_and(network::is_internal);
                p.verb == verb
                    && pattern.matches(resource, &facts)
                    && (one.internal || !internal || verb == Verb::NetListen)
            };
            let from: Vec<usize> = peers
                .iter()
                .filter(|p| inside(p))
                .map(|(_, at)| *at)
                .filter(|at| covered.insert(*at))
                .collect();
            if !from.is_empty() {
                found.push(Found {
                    effect: Effect::Allow,
                    verbs: vec![verb],
                    parts: Text::Whole(one.text),
                    except: Vec::new(),
                    internal: (verb != Verb::NetListen).then_some(one.internal),
                    from,
                });
            }
        }
    }
    found
}

/// Names, host names and abstract sockets: as they were seen.
pub(crate) fn others(evidence: &Evidence<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (at, wanted) in evidence.wanted.iter().enumerate() {
        let text = match &wanted.resource {
            Resource::Host(name) => format!("dns:{name}"),
            Resource::Named(name) => glob_escape(name.as_bytes()),
            Resource::Unix(path) if !path.is_absolute() => {
                format!("unix:{}", glob_escape(path.as_os_str().as_encoded_bytes()))
            }
            _ => continue,
        };
        found.push(Found {
            effect: wanted.effect,
            verbs: vec![wanted.verb],
            parts: Text::Whole(text),
            except: Vec::new(),
            internal: None,
            from: vec![at],
        });
    }
    found
}

fn floor(variables: &Variables) -> Floor {
    use std::os::unix::ffi::OsStrExt as _;
    let names = |p: &std::path::PathBuf| names_of(p.as_os_str().as_bytes());
    Floor {
        open: variables
            .workspace
            .iter()
            .chain(&variables.tmp)
            .map(names)
            .collect(),
        home: variables.home.as_ref().map(names),
    }
}

/// The pattern with variables for the folders they stand for.
fn written(segments: &[Segment], variables: &Variables, scheme: &'static str) -> Text {
    let roots = [
        ("workspace", "${workspace}"),
        ("tmp", "${tmp}"),
        ("home", "~"),
    ];
    let literal: Vec<&[u8]> = segments
        .iter()
        .map_while(|s| match s {
            Segment::Literal(name) => Some(name.as_slice()),
            _ => None,
        })
        .collect();
    let fits = |(name, text): (&str, &'static str)| {
        let root = names_of(variables.bytes(name)?);
        let inside = !root.is_empty()
            && literal.len() >= root.len()
            && root.iter().zip(&literal).all(|(a, b)| a == b);
        inside.then_some((root.len(), text))
    };
    let mut best: Option<(usize, &'static str)> = None;
    for (length, text) in roots.into_iter().filter_map(fits) {
        // `unix:~` would be another user's home.
        let text = if text == "~" && !scheme.is_empty() {
            "${home}"
        } else {
            text
        };
        if best.is_none_or(|(l, _)| length > l) {
            best = Some((length, text));
        }
    }
    let (skip, root) = best.unwrap_or((0, ""));
    let rest = &segments[skip..];
    match rest {
        [] if root.is_empty() => Text::Whole(format!("{scheme}/")),
        [] => Text::Whole(format!("{scheme}{root}")),
        [folders @ .., last] => Text::Path {
            scheme,
            folder: root.to_owned()
                + &folders
                    .iter()
                    .map(|s| format!("/{}", s.text()))
                    .collect::<String>(),
            name: last.text(),
        },
    }
}
