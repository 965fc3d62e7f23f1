//! `agentwall gateway tools`: what tools of MCP servers say of themselves, and what changed in it.

use std::{process::ExitCode, sync::Arc};

use agentwall_action::escape_text;
use agentwall_gateway::mcp::definitions::digest;
use agentwall_identity::parse_json_to;
use agentwall_ledger::{Record, entry::Approval};
use agentwall_store::{Tool, ToolStore};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    args::gateway::GatewayToolsArgs,
    gateway::{MARK, Place, recorder::Book},
    output::{self, Style, paint},
    state::{State, now_ms, rfc3339_of, shown},
};

/// One tool, for scripts.
#[derive(Debug, Serialize)]
struct Listed {
    server: String,
    tool: String,
    /// Empty as long as none is accepted.
    digest: String,
    accepted_at: String,
    /// Of the changed definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
    /// Members of the definition that are another one in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Change>,
}

/// A member of a definition, before and now.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    member: String,
    accepted: Option<Value>,
    offered: Option<Value>,
}

/// Runs the command.
pub fn main(args: &GatewayToolsArgs) -> Result<ExitCode> {
    match (&args.accept, &args.forget, &args.name) {
        (Some(tool), _, Some(server)) => accept(server, tool, args.digest.as_deref()),
        (None, Some(tool), Some(server)) => forget(server, tool),
        _ => list(args),
    }
}

fn list(args: &GatewayToolsArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let mut all = Vec::new();
    for place in Place::all(&state)? {
        let other = args.name.as_ref().is_some_and(|name| *name != place.name);
        if other || !place.tools().exists() {
            continue;
        }
        let tools = store(&place)?.all()?;
        all.extend(tools.iter().map(|tool| listed(&place.name, tool)));
    }
    if args.json {
        output::print_json(&all)?;
    } else if all.is_empty() {
        output::print("no tools are known; they are when an agent lists them\n")?;
    } else {
        let texts: Vec<String> = all.iter().map(describe).collect();
        output::print(&texts.concat())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The record comes first: what nobody can look up is not accepted.
fn accept(server: &str, name: &str, wanted: Option<&str>) -> Result<ExitCode> {
    let (state, store) = of_server(server)?;
    let tool = store.get(name)?;
    let Some(offered) = tool.and_then(|tool| tool.offered) else {
        bail!("'{}' has no changed definition", escape_text(name));
    };
    let offered_digest = digest(&offered);
    if wanted.is_some_and(|wanted| wanted != offered_digest) {
        bail!("the changed definition is another one by now: {offered_digest}");
    }
    record(&state, server, name, "approve", &offered_digest)?;
    if !store.accept(name, &offered, now_ms())? {
        bail!("the server told yet another definition meanwhile; look again");
    }
    output::print(&format!(
        "accepted: {} {offered_digest}\n",
        escape_text(name)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The record comes first here, too.
fn forget(server: &str, name: &str) -> Result<ExitCode> {
    let (state, store) = of_server(server)?;
    let Some(tool) = store.get(name)? else {
        bail!("no tool of it is called '{}'", escape_text(name));
    };
    record(&state, server, name, "forget", &digest(&tool.accepted))?;
    store.forget(name)?;
    output::print(&format!("forgotten: {}\n", escape_text(name)))?;
    Ok(ExitCode::SUCCESS)
}

fn record(state: &State, server: &str, tool: &str, verdict: &str, digest: &str) -> Result<()> {
    let book = Book::new(
        Arc::new(state.keep_log()?),
        &crate::cmd::protect::session_id()?,
        server,
        agentwall_policy::LedgerFailure::default(),
    );
    book.seal(Record::Approval(Approval {
        ask: format!("{server}{MARK}tool/{tool}"),
        verdict: verdict.to_owned(),
        scope: "once".to_owned(),
        pattern: None,
        by: format!("uid:{}", rustix::process::getuid().as_raw()),
        binding: digest.to_owned(),
    }))?;
    Ok(())
}

fn of_server(server: &str) -> Result<(State, ToolStore)> {
    let state = State::open()?;
    let place = Place::of(&state, server);
    if !place.tools().exists() {
        bail!("no server is called '{}'", escape_text(server));
    }
    let store = store(&place)?;
    Ok((state, store))
}

fn store(place: &Place) -> Result<ToolStore> {
    let path = place.tools();
    ToolStore::open(&path).with_context(|| format!("cannot use {}", shown(&path)))
}

fn listed(server: &str, tool: &Tool) -> Listed {
    let changes = tool.offered.as_deref();
    Listed {
        server: server.to_owned(),
        tool: tool.name.clone(),
        digest: match tool.accepted.is_empty() {
            true => String::new(),
            false => digest(&tool.accepted),
        },
        accepted_at: rfc3339_of(tool.since),
        changed: tool.offered.as_deref().map(digest),
        changes: changes.map_or_else(Vec::new, |offered| difference(&tool.accepted, offered)),
    }
}

fn difference(accepted: &str, offered: &str) -> Vec<Change> {
    let read = |text: &str| match parse_json_to(text.as_bytes(), text.len(), 128) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    let (old, new) = (read(accepted), read(offered));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|n| old.get(*n) != new.get(*n));
    changed
        .map(|name| Change {
            member: name.clone(),
            accepted: old.get(name).cloned(),
            offered: new.get(name).cloned(),
        })
        .collect()
}

fn describe(tool: &Listed) -> String {
    let title = format!("{}/{}", tool.server, escape_text(&tool.tool));
    let Some(changed) = &tool.changed else {
        let since = &tool.accepted_at;
        return format!("{title}\n  accepted  {since}  {}\n", tool.digest);
    };
    let mut text = format!(
        "{}\n  accepted  {}  {}\n  changed   {changed}\n",
        paint(
            Style::Red,
            &format!("{title}: changed, its calls are refused")
        ),
        tool.accepted_at,
        match tool.digest.is_empty() {
            true => "none",
            false => &tool.digest,
        }
    );
    let shown = |value: &Option<Value>| match value {
        Some(Value::String(text)) => escape_text(text),
        Some(other) => escape_text(&other.to_string()),
        None => "(none)".to_owned(),
    };
    for change in &tool.changes {
        let member = escape_text(&change.member);
        text.push_str(&format!("  - {member}: {}\n", shown(&change.accepted)));
        text.push_str(&format!("  + {member}: {}\n", shown(&change.offered)));
    }
    text.push_str(&format!(
        "  agentwall gateway tools --name {} --accept '{}' --digest {changed}\n",
        tool.server,
        escape_text(&tool.tool)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_shown_escaped() {
        let tool = Tool {
            name: "send".into(),
            accepted: r#"{"description":"sends","name":"send"}"#.into(),
            since: 0,
            offered: Some(
                "{\"description\":\"sends \u{202e}\\nand more\",\"name\":\"send\",\"x\":1}".into(),
            ),
        };
        let text = describe(&listed("srv", &tool));
        assert!(text.contains("- description: sends\n"), "{text}");
        assert!(
            !text.contains('\u{202e}') && text.contains("+ x: 1\n"),
            "{text}"
        );
        assert!(!text.contains("name: send\n"), "{text}");
    }
}
