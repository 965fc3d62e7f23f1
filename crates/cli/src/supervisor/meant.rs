//! Whether what happened is what was said: events compared with intents.

use agentwall_action::{Resource, Verb, VerbFamily, is_within};
use agentwall_ledger::entry::{Claim, Intent, argv_sha256};
use agentwall_wall::wire::Event;

/// The arguments of a program start.
pub(super) fn arguments(event: &Event) -> Vec<&str> {
    let args = event.action.facts.args.as_array().map(Vec::as_slice);
    let words = args.unwrap_or_default().iter().filter_map(|v| v.as_str());
    words.collect()
}

/// How well a program start fits what was said; 0: not at all. A shell that is given the line that was told,
/// also with more around it, is the one that was meant: agents wrap what they run.
pub(super) fn fits(intent: &Intent, line: Option<&str>, event: &Event) -> usize {
    let argv = arguments(event);
    let digest = argv_sha256(&argv);
    let told = |c: &Claim| c.argv_sha256.as_ref() == Some(&digest);
    if intent.claims.iter().any(told) {
        return usize::MAX;
    }
    let Some(line) = line.filter(|l| !l.is_empty()) else {
        return 0;
    };
    if !argv.contains(&"-c") {
        return 0;
    }
    let spelled = [
        line.to_owned(),
        line.replace('\'', r#"'"'"'"#),
        line.replace('\'', r"'\''"),
    ];
    let given = |word: &&str| spelled.iter().any(|s| word.contains(s.as_str()));
    if argv.iter().any(given) {
        line.len()
    } else {
        0
    }
}

/// Whether what happened is what was said, or comes with it.
pub(super) fn covers(intent: &Intent, event: &Event) -> bool {
    let verb = event.action.verb;
    if verb.family() == VerbFamily::Process {
        // A command brings the programs that it starts.
        let exec = Verb::ProcessExec.as_str();
        return intent.claims.iter().any(|c| c.verb == exec);
    }
    let claimed = intent.claims.iter().any(|claim| {
        let Ok(said) = claim.verb.parse::<Verb>() else {
            return false;
        };
        let Ok(object) = Resource::parse(said.family(), &claim.resource) else {
            return false;
        };
        match (&object, &event.action.resource) {
            (Resource::Path(said_path), Resource::Path(path)) => {
                let changes = said != Verb::FileRead;
                (said == verb || changes && said.family() == verb.family())
                    && is_within(&path.path, &said_path.path)
            }
            (Resource::Endpoint(a), Resource::Endpoint(b)) => {
                a.port == b.port && (a.host.is_some() && a.host == b.host || a.ip == b.ip)
            }
            (Resource::Endpoint(a), Resource::Host(host)) => a.host.as_ref() == Some(host),
            (a, b) => said == verb && a == b,
        }
    });
    claimed || names(event).iter().any(|n| is_word(&intent.parameters, n))
}

/// By which words the parameters of a tool can mean an object.
fn names(event: &Event) -> Vec<String> {
    match &event.action.resource {
        Resource::Path(p) => {
            let name = p.path.file_name().map(|n| n.to_string_lossy().into_owned());
            let whole = p.path.to_string_lossy().into_owned();
            name.into_iter().chain([whole]).collect()
        }
        Resource::Endpoint(e) => {
            let ip = e.ip.map(|ip| ip.to_string());
            e.host.clone().into_iter().chain(ip).collect()
        }
        Resource::Host(host) => vec![host.clone()],
        other => vec![other.to_string()],
    }
}

/// Whether `word` stands in the text, and not as a part of a longer name.
fn is_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(part) && !after.is_some_and(part)
        })
}

/// Whether the wall's own tool is started, by itself or as a hook through a shell.
pub(super) fn is_tool(event: &Event) -> bool {
    if event.action.verb != Verb::ProcessExec {
        return false;
    }
    let own = std::env::current_exe().ok();
    if let Resource::Path(p) = &event.action.resource
        && (p.path.as_os_str() == crate::intent::TOOL || own.as_ref() == Some(&p.path))
    {
        return true;
    }
    matches!(arguments(event).as_slice(), [_, "-c", line] if crate::intent::is_hook_line(line))
}
