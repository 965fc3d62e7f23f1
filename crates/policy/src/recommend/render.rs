//! From patterns to a policy file that a person reviews: rules with reasons, tests and evidence.

use std::collections::{BTreeMap, BTreeSet};

use agentwall_action::{Effect, Resource, Verb, VerbFamily};

use crate::{
    glob::{Glob, GlobKind, glob_escape},
    pattern::{PatternContext, ResourcePattern},
    rule::PatternList,
    vars::Variables,
};

use super::{
    Input, ProposedRule,
    cover::NeverCover,
    evidence::{Evidence, Wanted, path_of},
    merge::{Floor, Merger, Object, names_of, pattern_text},
    network::{self, Peer},
    never::Entry,
    token::Segment,
};

/// Most tests of each kind in one rule.
const TESTS: usize = 6;
/// Most alternatives, and bytes, in one pair of braces.
const BRACES: (usize, usize) = (24, 400);
/// Most patterns of one rule.
const PATTERNS: usize = 400;
/// Most ledger entries that a comment names.
const ENTRIES: usize = 8;

/// A rule on its way into the file.
#[derive(Debug)]
pub(crate) struct Draft {
    pub proposed: ProposedRule,
    matching: Vec<String>,
    missing: Vec<String>,
    /// Patterns of this rule that one session needed.
    pub seen_once: usize,
}

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
struct Found {
    effect: Effect,
    verbs: Vec<Verb>,
    /// As written in the file, without braces.
    parts: Text,
    except: Vec<&'static Entry>,
    internal: Option<bool>,
    /// Positions in the wanted actions.
    from: Vec<usize>,
}

/// A path is kept apart as folder and name, so that names of one folder can share braces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Text {
    Path {
        scheme: &'static str,
        folder: String,
        name: String,
    },
    Whole(String),
}

/// The rules that let every wanted action through.
pub(crate) fn rules(input: &Input<'_>, evidence: &Evidence<'_>, never: &NeverCover) -> Vec<Draft> {
    let mut found = paths(input, evidence, never);
    found.extend(endpoints(input, evidence));
    found.extend(others(evidence));
    let mut buckets: BTreeMap<_, Vec<Found>> = BTreeMap::new();
    for one in found {
        let area = area(&one.parts);
        let except: Vec<&str> = one.except.iter().map(|e| e.id).collect();
        let key = (one.effect, one.verbs.clone(), area, except, one.internal);
        buckets.entry(key).or_default().push(one);
    }
    let mut ids: BTreeSet<String> = evidence
        .current
        .iter()
        .flat_map(|p| p.rules().map(|r| r.id.clone()))
        .collect();
    let mut drafts = Vec::new();
    for ((_, verbs, area, ..), patterns) in buckets {
        for chunk in patterns.chunks(PATTERNS) {
            let id = free_id(&mut ids, &verbs, &area);
            drafts.push(draft(input, evidence, id, chunk));
        }
    }
    drafts
}

/// How many patterns only one session needed.
pub(crate) fn seen_once(drafts: &[Draft]) -> usize {
    drafts.iter().map(|d| d.seen_once).sum()
}

fn paths(input: &Input<'_>, evidence: &Evidence<'_>, never: &NeverCover) -> Vec<Found> {
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

fn endpoints(input: &Input<'_>, evidence: &Evidence<'_>) -> Vec<Found> {
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
fn others(evidence: &Evidence<'_>) -> Vec<Found> {
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

/// What rules are grouped by: the part of the host they speak about.
fn area(text: &Text) -> String {
    let whole = match text {
        Text::Path { folder, name, .. } => format!("{folder}/{name}"),
        Text::Whole(text) => text.clone(),
    };
    let parts: Vec<&str> = whole.split('/').collect();
    match parts.as_slice() {
        ["${workspace}" | "unix:${workspace}", ..] => "workspace".into(),
        ["${tmp}" | "unix:${tmp}", ..] => "tmp".into(),
        ["~" | "${home}" | "unix:${home}", ..] => "home".into(),
        ["", first, ..] => (*first).to_owned(),
        [scheme, ..] => scheme.trim_end_matches(':').to_owned(),
        [] => String::new(),
    }
}

fn free_id(taken: &mut BTreeSet<String>, verbs: &[Verb], area: &str) -> String {
    let verb = match verbs {
        [one] => one.as_str().replace('.', "-"),
        [first, ..]
            if verbs.iter().all(|v| *v != Verb::FileRead) && first.family() == VerbFamily::File =>
        {
            "file-change".to_owned()
        }
        [first, ..] => first.as_str().replace('.', "-"),
        [] => String::new(),
    };
    let area: String = area
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(24)
        .collect();
    let base = format!(
        "learned-{verb}-{}",
        if area.is_empty() { "root" } else { &area }
    );
    let mut id = base.clone();
    let mut number = 2;
    while !taken.insert(id.clone()) {
        id = format!("{base}-{number}");
        number += 1;
    }
    id
}

fn draft(input: &Input<'_>, evidence: &Evidence<'_>, id: String, patterns: &[Found]) -> Draft {
    let first = &patterns[0];
    let texts: Vec<&Text> = patterns.iter().map(|p| &p.parts).collect();
    let resources = braced(&texts);
    let mut except: Vec<String> = first
        .except
        .iter()
        .flat_map(|e| e.resources)
        .map(|r| (*r).to_owned())
        .collect();
    except.extend(first.internal.map(|internal| {
        if internal {
            "cidr:metadata"
        } else {
            "cidr:private"
        }
        .to_owned()
    }));
    let wanted: Vec<&Wanted> = patterns
        .iter()
        .flat_map(|p| &p.from)
        .map(|at| &evidence.wanted[*at])
        .collect();
    let observations: BTreeSet<usize> = wanted
        .iter()
        .flat_map(|w| &w.observations)
        .copied()
        .collect();
    let seen: Vec<_> = observations
        .iter()
        .filter_map(|i| evidence.observation(*i))
        .collect();
    let sessions: BTreeSet<usize> = wanted.iter().flat_map(|w| &w.sessions).copied().collect();
    let used_once = |p: &&Found| {
        let used: BTreeSet<usize> = p
            .from
            .iter()
            .flat_map(|at| &evidence.wanted[*at].sessions)
            .copied()
            .collect();
        used.len() == 1
    };
    let objects: BTreeSet<String> = wanted.iter().map(|w| w.resource.to_string()).collect();
    let list = PatternList {
        positive: parsed(&resources, input.variables),
        negative: parsed(&except, input.variables),
    };
    let (matching, missing) = tests(input, &first.verbs, &list, &wanted);
    Draft {
        seen_once: patterns.iter().filter(used_once).count(),
        proposed: ProposedRule {
            id,
            actions: first.verbs.clone(),
            resources,
            except,
            effect: first.effect,
            entries: seen.iter().map(|o| o.index).collect(),
            objects: objects.len(),
            sessions: sessions
                .iter()
                .map(|n| evidence.sessions[*n].to_owned())
                .collect(),
            first_seen: seen
                .iter()
                .map(|o| o.time.clone())
                .min()
                .unwrap_or_default(),
            last_seen: seen
                .iter()
                .map(|o| o.time.clone())
                .max()
                .unwrap_or_default(),
            derived: seen.iter().filter(|o| o.derived).count(),
        },
        matching,
        missing,
    }
}

fn parsed(texts: &[String], variables: &Variables) -> Vec<ResourcePattern> {
    let context = PatternContext::new(variables);
    texts
        .iter()
        .filter_map(|t| ResourcePattern::parse(t, &context).ok())
        .collect()
}

/// Patterns of one folder in braces.
fn braced(texts: &[&Text]) -> Vec<String> {
    let mut folders: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut out: Vec<String> = Vec::new();
    for text in texts {
        match text {
            Text::Path {
                scheme,
                folder,
                name,
            } if name == "**" => {
                out.push(format!("{scheme}{folder}/{name}"));
            }
            Text::Path {
                scheme,
                folder,
                name,
            } => {
                folders.entry((scheme, folder)).or_default().push(name);
            }
            Text::Whole(text) => out.push(text.clone()),
        }
    }
    for ((scheme, folder), names) in folders {
        let mut group: Vec<&str> = Vec::new();
        let mut flush = |group: &mut Vec<&str>| match group.as_slice() {
            [] => {}
            [one] => out.push(format!("{scheme}{folder}/{one}")),
            many => out.push(format!("{scheme}{folder}/{{{}}}", many.join(","))),
        };
        for name in names {
            let bytes: usize = group.iter().map(|n| n.len() + 1).sum();
            if group.len() >= BRACES.0 || bytes + name.len() > BRACES.1 {
                flush(&mut group);
                group.clear();
            }
            group.push(name);
        }
        flush(&mut group);
    }
    out.sort();
    out
}

/// Tests from what was seen, and from what is next to it and must not match.
fn tests(
    input: &Input<'_>,
    verbs: &[Verb],
    list: &PatternList<ResourcePattern>,
    wanted: &[&Wanted],
) -> (Vec<String>, Vec<String>) {
    let facts = agentwall_action::Facts::default();
    let hit = |r: &Resource| list.matches(|p| p.matches(r, &facts));
    let (mut matching, mut missing) = (Vec::new(), Vec::new());
    let step = wanted.len().div_ceil(TESTS).max(1);
    for one in wanted.iter().step_by(step) {
        // A test reads its object from the text: only what reads back is one.
        if let Some((text, resource)) = test_text(one.verb, &one.resource, input.variables)
            && hit(&resource)
        {
            matching.push(text);
        }
    }
    for one in wanted {
        if missing.len() >= TESTS / 2 {
            break;
        }
        let near = near(&one.resource).into_iter();
        let text = near
            .filter_map(|r| test_text(one.verb, &r, input.variables))
            .find(|(text, r)| !hit(r) && !missing.contains(text));
        missing.extend(text.map(|(text, _)| text));
    }
    debug_assert!(!verbs.is_empty());
    (matching, missing)
}

/// Objects next to one that was seen: beside its folder, beside its name, another port, another host.
fn near(resource: &Resource) -> Vec<Resource> {
    match resource {
        Resource::Path(p) => {
            let path = &p.path;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let folder = path.parent().unwrap_or(path);
            let beside = folder.file_name().unwrap_or_default().to_string_lossy();
            let above = folder.parent().unwrap_or(folder);
            vec![
                Resource::path(folder.join(format!("{name}.orig~"))),
                Resource::path(above.join(format!("{beside}-other")).join(name.as_ref())),
                Resource::path(folder.join("other").join(name.as_ref())),
            ]
        }
        Resource::Endpoint(e) => {
            let mut port = e.clone();
            port.port = if e.port == 80 { 81 } else { 80 };
            let mut host = e.clone();
            host.host = e.host.as_ref().map(|h| format!("{h}.example.net"));
            vec![Resource::Endpoint(port), Resource::Endpoint(host)]
        }
        Resource::Host(name) => vec![Resource::Host(format!("{name}.example.net"))],
        Resource::Unix(path) => {
            let mut other = path.clone().into_os_string();
            other.push(".other");
            vec![Resource::Unix(other.into())]
        }
        Resource::Named(name) => vec![Resource::Named(format!("{name}-other"))],
    }
}

/// The line of a test and the object it is read as; `None` if the text would not read back.
fn test_text(verb: Verb, resource: &Resource, variables: &Variables) -> Option<(String, Resource)> {
    let mut text = match resource {
        Resource::Path(p) => std::str::from_utf8(p.as_bytes()).ok()?.to_owned(),
        Resource::Unix(p) => format!("unix:{}", p.to_str()?),
        Resource::Named(name) => name.clone(),
        other => other.to_string(),
    };
    let plain = |c: char| !c.is_control() && !matches!(c, '$' | '~' | '\\' | '"');
    if !text.chars().all(plain) || text.trim() != text || text.is_empty() {
        return None;
    }
    let read = Resource::parse(verb.family(), &text).ok()?;
    if let Resource::Path(_) = resource {
        for (name, root) in [
            ("workspace", "${workspace}"),
            ("tmp", "${tmp}"),
            ("home", "~"),
        ] {
            let value = std::str::from_utf8(variables.bytes(name)?).ok()?;
            let rest = text.strip_prefix(value).filter(|r| r.starts_with('/'));
            if let Some(rest) = rest.filter(|_| !value.is_empty()) {
                text = format!("{root}{rest}");
                break;
            }
        }
    }
    Some((format!("{verb} {text}"), read))
}

/// A text in double quotes, as YAML and JSON read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The proposal as a policy file.
pub(crate) fn file(input: &Input<'_>, evidence: &Evidence<'_>, drafts: &[Draft]) -> String {
    let mut text = format!(
        "# Proposed from {} actions of {} sessions. Review every rule before it is used: what was done\n\
         # is not always what should be done. Append the rules to those of the policy in force.\n\
         agentwall: 1\n",
        evidence.actions,
        evidence.sessions.len()
    );
    if input.current.is_empty() {
        text.push_str("default: deny\n");
    }
    if drafts.is_empty() {
        text.push_str("rules: []\n");
        return text;
    }
    text.push_str("rules:\n");
    for draft in drafts {
        rule(&mut text, draft, evidence.priority);
    }
    text
}

fn rule(out: &mut String, draft: &Draft, priority: i64) {
    let rule = &draft.proposed;
    let mut push = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    let shown: Vec<String> = rule
        .entries
        .iter()
        .take(ENTRIES)
        .map(u64::to_string)
        .collect();
    let more = rule.entries.len().saturating_sub(ENTRIES);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    push(String::new());
    push(format!(
        "  # observations: {}; objects: {}; sessions: {}; first {}, last {}",
        rule.entries.len(),
        rule.objects,
        rule.sessions.len(),
        agentwall_action::escape_text(&rule.first_seen),
        agentwall_action::escape_text(&rule.last_seen)
    ));
    push(format!("  # ledger entries {}{more}", shown.join(", ")));
    if rule.derived > 0 {
        push(format!(
            "  # {} of them follow from others: a library that was opened is taken to be mapped",
            rule.derived
        ));
    }
    push(format!("  - id: {}", rule.id));
    push(format!("    priority: {priority}"));
    let actions: Vec<&str> = rule.actions.iter().map(|v| v.as_str()).collect();
    push(format!("    action: [{}]", actions.join(", ")));
    push("    resource:".into());
    for resource in &rule.resources {
        push(format!("      - {}", quoted(resource)));
    }
    for except in &rule.except {
        push(format!("      - {}", quoted(&format!("!{except}"))));
    }
    push(format!("    effect: {}", rule.effect));
    let sessions = rule.sessions.len();
    push(format!(
        "    reason: Learned from {sessions} session{}; see the comment above the rule.",
        if sessions == 1 { "" } else { "s" }
    ));
    if draft.matching.is_empty() && draft.missing.is_empty() {
        return;
    }
    push("    tests:".into());
    for (key, lines) in [("match", &draft.matching), ("not_match", &draft.missing)] {
        if !lines.is_empty() {
            push(format!("      {key}:"));
            lines
                .iter()
                .for_each(|line| push(format!("        - {}", quoted(line))));
        }
    }
}
