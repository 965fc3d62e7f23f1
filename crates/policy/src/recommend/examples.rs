//! The tests a proposed rule carries: objects that were seen, and objects next to them that the rule
//! must not match.

use agentwall_action::{Facts, Resource, Verb};

use crate::{pattern::ResourcePattern, rule::PatternList, vars::Variables};

use super::evidence::Wanted;

/// Most tests of each kind in one rule.
const TESTS: usize = 6;
/// Tests from what was seen, and from what is next to it and must not match.
pub(crate) fn tests(
    variables: &Variables,
    list: &PatternList<ResourcePattern>,
    wanted: &[&Wanted],
) -> (Vec<String>, Vec<String>) {
    let facts = Facts::default();
    let hit = |r: &Resource| list.matches(|p| p.matches(r, &facts));
    let (mut matching, mut missing) = (Vec::new(), Vec::new());
    let step = wanted.len().div_ceil(TESTS).max(1);
    for one in wanted.iter().step_by(step) {
        // A test reads its object from the text: only what reads back is one.
        if let Some((text, resource)) = test_text(one.verb, &one.resource, variables)
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
            .filter_map(|r| test_text(one.verb, &r, variables))
            .find(|(text, r)| !hit(r) && !missing.contains(text));
        missing.extend(text.map(|(text, _)| text));
    }
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
            let value = variables.bytes(name).map(std::str::from_utf8);
            let Some(Ok(value)) = value.filter(|v| *v != Ok("")) else {
                continue;
            };
            let rest = text.strip_prefix(value);
            if let Some(rest) = rest.filter(|r| r.is_empty() || r.starts_with('/')) {
                text = format!("{root}{rest}");
                break;
            }
        }
    }
    Some((format!("{verb} {text}"), read))
}
