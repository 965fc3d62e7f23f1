//! Signature files: YAML, read as strictly as a policy. `docs/agents.md` is the specification.
//!
//! Every signature brings tests of both kinds: a process that it is, and one that it is not. A
//! signature that nobody can show at work is not read.

use std::collections::HashMap;

use agentwall_policy::{
    LoadError, Source,
    strict::{self, Kind as Value, Node, Place, Reading},
};

use crate::{
    process::{Descriptor, Ecosystem, Package, Process, Target},
    signature::{Case, Condition, Field, Kind, Matcher, Signature, Signatures},
};

/// Most signatures of all files together.
pub const MAX_SIGNATURES: usize = 1024;
/// Most matchers, and most tests of one kind, of one signature.
pub const MAX_TESTS: usize = 256;
/// How a signature file begins.
const BEGIN: &str = "agentwall-agents: 1";
const FILE_KEYS: &[&str] = &["agentwall-agents", "version", "signatures"];
const KEYS: &[&str] = &[
    "id",
    "name",
    "vendor",
    "homepage",
    "kind",
    "any",
    "unless",
    "marks",
    "match",
    "not_match",
];
const CASE_KEYS: &[&str] = &[
    "exe", "comm", "args", "cwd", "env", "script", "package", "opens", "stdio", "parent",
    "ancestor",
];
const STDIO: &[(&str, &str)] = &[
    ("piped", "piped"),
    ("terminal", "terminal"),
    ("other", "other"),
];

/// Loads one or more signature files into one set. Files are asked in their order, and the first
/// signature that matches names a process.
///
/// # Errors
/// Everything that is wrong with any of them. Also an id that two files have.
pub fn load(sources: &[Source]) -> Result<Signatures, LoadError> {
    let mut all = Signatures {
        version: 0,
        list: Vec::new(),
    };
    let mut ids: HashMap<String, String> = HashMap::new();
    for source in sources {
        let read = strict::read(source, "signature file", BEGIN, |reading, root| {
            let (version, list) = file(reading, root, &source.name, &mut ids)?;
            let total = all.list.len() + list.len();
            if total > MAX_SIGNATURES {
                let message = format!("{total} signatures, more than {MAX_SIGNATURES}");
                reading.error(
                    root.place,
                    message,
                    Some("leave out what is not needed".into()),
                );
            }
            Some((version, list))
        })?;
        all.version = all.version.max(read.0);
        all.list.extend(read.1);
    }
    Ok(all)
}

fn file(
    reading: &mut Reading<'_>,
    root: &Node,
    source: &str,
    ids: &mut HashMap<String, String>,
) -> Option<(u64, Vec<Signature>)> {
    let fields = reading.mapping(root, "a signature file", FILE_KEYS)?;
    let form = reading
        .needed(&fields, "a signature file", "agentwall-agents", BEGIN)
        .and_then(|n| reading.integer(n, "agentwall-agents, the version of the form,", 1, 1));
    let version = reading
        .needed(&fields, "a signature file", "version", "version: 1")
        .and_then(|n| reading.integer(n, "version, that of the data,", 1, 1 << 53));
    let items = reading
        .needed(
            &fields,
            "a signature file",
            "signatures",
            "signatures: [...]",
        )
        .and_then(|n| reading.list(n, "signatures"))?;
    if items.is_empty() {
        reading.error(
            fields.place,
            "a file without signatures knows nothing",
            None,
        );
    }
    let mut list = Vec::new();
    for item in items.iter().take(MAX_SIGNATURES + 1) {
        if reading.is_done() {
            return None;
        }
        let Some(one) = signature(reading, item, source) else {
            continue;
        };
        let at = format!("{source}:{}", one.line);
        if let Some(first) = ids.insert(one.id.clone(), at) {
            let message = format!("the id '{}' is already used at {first}", one.id);
            reading.error(item.place, message, Some("remove one of the two".into()));
        }
        list.push(one);
    }
    form?;
    // At least 1: it fits.
    Some((u64::try_from(version?).ok()?, list))
}

fn signature(reading: &mut Reading<'_>, node: &Node, source: &str) -> Option<Signature> {
    const WHAT: &str = "a signature";
    let fields = reading.mapping(node, WHAT, KEYS)?;
    let mut text = |key: &str, example: &str| {
        reading
            .needed(&fields, WHAT, key, example)
            .and_then(|n| reading.text(n, key).map(|t| (t.trim().to_owned(), n.place)))
    };
    let id = text("id", "id: claude-code");
    let name = text("name", "name: Claude Code");
    let vendor = text("vendor", "vendor: Anthropic");
    let homepage = text("homepage", "homepage: https://…");
    if let Some((id, place)) = &id {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if id.len() > 64 || !id.bytes().all(fits) {
            let message = format!("an id has lower-case letters, digits and '-', found '{id}'");
            reading.error(*place, message, Some("claude-code".into()));
        }
    }
    if let Some((url, place)) = &homepage
        && !url.starts_with("https://")
    {
        let message = format!("homepage is an address with https, found '{url}'");
        reading.error(*place, message, None);
    }
    let kind = reading
        .needed(&fields, WHAT, "kind", "kind: agent")
        .and_then(|n| reading.word(n, "kind", &Kind::ALL));
    let any = reading
        .needed(&fields, WHAT, "any", "any: [ { package: \"npm:NAME\" } ]")
        .and_then(|n| matchers(reading, n, "any"));
    let unless = match fields.get("unless") {
        Some(n) => matchers(reading, n, "unless"),
        None => Some(Vec::new()),
    };
    let marks = match fields.get("marks") {
        Some(n) => condition(reading, n, "marks", Field::Env).map(|c| c.patterns),
        None => Some(Vec::new()),
    };
    let matches = reading
        .needed(&fields, WHAT, "match", "match: [ { exe: /usr/bin/NAME } ]")
        .and_then(|n| cases(reading, n, "match"));
    let not_matches = reading
        .needed(
            &fields,
            WHAT,
            "not_match",
            "not_match: [ { exe: /bin/ls } ]",
        )
        .and_then(|n| cases(reading, n, "not_match"));
    Some(Signature {
        id: id?.0,
        name: name?.0,
        vendor: vendor?.0,
        homepage: homepage?.0,
        kind: kind?,
        any: any?,
        unless: unless?,
        marks: marks?,
        matches: matches?,
        not_matches: not_matches?,
        source: source.to_owned(),
        line: node.place.line,
    })
}

fn matchers(reading: &mut Reading<'_>, node: &Node, what: &str) -> Option<Vec<Matcher>> {
    let keys: Vec<&str> = Field::ALL.iter().map(|(key, _)| *key).collect();
    let items = items(reading, node, what, "matcher")?;
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let Some(fields) = reading.mapping(item, "a matcher", &keys) else {
            continue;
        };
        let mut conditions = Vec::new();
        for (key, field) in Field::ALL {
            if let Some(n) = fields.get(key) {
                conditions.extend(condition(reading, n, key, field));
            }
        }
        if conditions.is_empty() {
            reading.error(
                item.place,
                "a matcher without conditions would match every process",
                Some("package: \"npm:NAME\"".into()),
            );
        }
        all.push(Matcher {
            conditions,
            line: item.place.line,
        });
    }
    Some(all)
}

fn condition(reading: &mut Reading<'_>, node: &Node, key: &str, field: Field) -> Option<Condition> {
    let mut patterns = Vec::new();
    for (text, node) in reading.texts(node, key)? {
        let fits = match field {
            Field::Exe | Field::Script | Field::Opens if !text.starts_with(['/', '*', '{']) => {
                Err(("is a path, which begins with '/' or '**/'", "**/bin/NAME"))
            }
            Field::Basename if text.contains('/') => {
                Err(("is a name without '/'; a path is for 'exe'", "NAME"))
            }
            Field::Package if !text.starts_with("npm:") && !text.starts_with("python:") => {
                Err(("begins with 'npm:' or 'python:'", "npm:NAME"))
            }
            Field::Parent | Field::Ancestor
                if !Kind::ALL.iter().any(|(k, _)| {
                    text.strip_prefix(k)
                        .is_some_and(|rest| rest.starts_with(':'))
                }) =>
            {
                Err(("is a kind, ':' and an id", "agent:*"))
            }
            Field::Stdio if !STDIO.iter().any(|(word, _)| *word == text) => {
                Err(("is 'piped', 'terminal' or 'other'", "piped"))
            }
            _ => Ok(()),
        };
        match fits {
            Ok(()) => patterns.extend(reading.glob(node, text, key, field.glob_kind())),
            Err((rule, example)) => {
                let message = format!("{key} {rule}, found '{text}'");
                reading.error(node.place, message, Some(example.into()));
            }
        }
    }
    (!patterns.is_empty()).then_some(Condition { field, patterns })
}

fn cases(reading: &mut Reading<'_>, node: &Node, what: &str) -> Option<Vec<Case>> {
    let items = items(reading, node, what, "process")?;
    Some(
        items
            .iter()
            .filter_map(|item| case(reading, item))
            .collect(),
    )
}

fn case(reading: &mut Reading<'_>, node: &Node) -> Option<Case> {
    let fields = reading.mapping(node, "a process", CASE_KEYS)?;
    let mut process = Process::default();
    let mut case = Case {
        process: Process::default(),
        parent: None,
        ancestors: Vec::new(),
        line: node.place.line,
    };
    let mut whole = true;
    for key in CASE_KEYS {
        let Some(n) = fields.get(key) else { continue };
        whole &= set(reading, n, key, &mut process, &mut case).is_some();
    }
    if process == Process::default() && case.parent.is_none() && case.ancestors.is_empty() {
        reading.error(
            node.place,
            "a process needs something to be known by",
            Some("exe: /usr/bin/node".into()),
        );
        return None;
    }
    case.process = process;
    whole.then_some(case)
}

fn set(
    reading: &mut Reading<'_>,
    node: &Node,
    key: &str,
    process: &mut Process,
    case: &mut Case,
) -> Option<()> {
    let list = |reading: &mut Reading<'_>| -> Option<Vec<String>> {
        let texts = reading.texts(node, key)?;
        Some(texts.into_iter().map(|(text, _)| text.to_owned()).collect())
    };
    let bytes = |texts: Vec<String>| texts.into_iter().map(String::into_bytes).collect();
    match key {
        "exe" => process.exe = Some(path(reading, node, key)?),
        "cwd" => process.cwd = Some(path(reading, node, key)?),
        "script" => process.script = Some(path(reading, node, key)?),
        "comm" => process.comm = reading.text(node, key)?.into(),
        "args" => process.args = bytes(list(reading)?),
        "env" => process.env = Some(bytes(list(reading)?)),
        "package" => {
            for (text, node) in reading.texts(node, key)? {
                process.packages.push(package(reading, text, node.place)?);
            }
        }
        "opens" => {
            for (n, text) in (3..).zip(list(reading)?) {
                describe(process, n, Target::Path(text.into_bytes()));
            }
        }
        "stdio" => {
            let word = reading.word(node, key, STDIO)?;
            for n in [0, 1] {
                let target = match word {
                    "piped" => Target::Pipe(u64::from(n)),
                    "terminal" => Target::Path(b"/dev/pts/0".to_vec()),
                    _ => Target::Path(b"/dev/null".to_vec()),
                };
                describe(process, n, target);
            }
        }
        "parent" => {
            let label = reading.text(node, key)?.to_owned();
            case.ancestors.insert(0, label.clone());
            case.parent = Some(label);
        }
        _ => case.ancestors.extend(list(reading)?),
    }
    Some(())
}

fn describe(process: &mut Process, number: u32, target: Target) {
    let all = process.descriptors.get_or_insert_with(Vec::new);
    all.push(Descriptor { number, target });
}

fn package(reading: &mut Reading<'_>, text: &str, place: Place) -> Option<Package> {
    let known = [("npm:", Ecosystem::Npm), ("python:", Ecosystem::Python)];
    let found = known.iter().find_map(|(prefix, ecosystem)| {
        let name = text.strip_prefix(prefix).filter(|n| !n.is_empty())?;
        Some(Package {
            ecosystem: *ecosystem,
            name: name.to_owned(),
        })
    });
    if found.is_none() {
        let message = format!("package begins with 'npm:' or 'python:', found '{text}'");
        reading.error(place, message, Some("npm:NAME".into()));
    }
    found
}

fn path(reading: &mut Reading<'_>, node: &Node, key: &str) -> Option<Vec<u8>> {
    let text = reading.text(node, key)?;
    if !text.starts_with('/') {
        let message = format!("{key} is an absolute path, found '{text}'");
        reading.error(node.place, message, None);
        return None;
    }
    Some(text.into())
}

fn items<'n>(
    reading: &mut Reading<'_>,
    node: &'n Node,
    what: &str,
    of: &str,
) -> Option<&'n [Node]> {
    let Value::Sequence(items) = &node.kind else {
        let message = format!("{what} is a list, found {}", node.describe());
        reading.error(
            node.place,
            message,
            Some(format!("one {of} a line, each after '- '")),
        );
        return None;
    };
    if items.is_empty() || items.len() > MAX_TESTS {
        let message = format!(
            "{what} has from 1 to {MAX_TESTS} members, found {}",
            items.len()
        );
        reading.error(node.place, message, None);
        return None;
    }
    Some(items)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
