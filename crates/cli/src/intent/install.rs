//! `agentwall hook install`: the hooks in an agent's settings.
//!
//! Both agents have the same form: `{"hooks": {EVENT: [{"matcher": …, "hooks": [{"type": "command",
//! "command": …}]}]}}`, Claude Code in `.claude/settings.json`, Codex in `.codex/hooks.json`. What else is
//! there stays as it is; ours are known by their command.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::hook_line;
use crate::{
    args::intent::{HookAgent, InstallArgs},
    output,
    session::write_atomically,
    state::{home, shown},
};

/// Seconds that an agent waits for the hook: longer than an intent may take to be durable.
const TIMEOUT: u64 = 60;

/// Runs the command.
pub fn main(args: &InstallArgs) -> Result<ExitCode> {
    let folder = match args.project {
        true => std::env::current_dir().context("cannot tell the current folder")?,
        false => home()?,
    };
    let path = settings(&folder, args.agent);
    let before = read(&path)?;
    let after = match args.remove {
        true => without(before.clone(), args.agent),
        false => with(before.clone(), args.agent)?,
    };
    let changed = before != after;
    if changed && !args.dry_run {
        write(&path, &after)?;
    }
    if args.json {
        output::print_json(&json!({
            "path": path, "changed": changed, "written": changed && !args.dry_run, "settings": after,
        }))?;
    } else {
        let what = match (changed, args.dry_run, args.remove) {
            (false, ..) => "nothing to do: ",
            (true, true, _) => "would write ",
            (true, false, false) => "hooks are in ",
            (true, false, true) => "hooks are taken out of ",
        };
        output::print(&format!("{what}{}\n", shown(&path)))?;
        if changed && args.dry_run {
            output::print(&text(&after)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn settings(folder: &Path, agent: HookAgent) -> PathBuf {
    folder.join(match agent {
        HookAgent::ClaudeCode => ".claude/settings.json",
        HookAgent::Codex => ".codex/hooks.json",
    })
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        other => other.with_context(|| format!("cannot read {}", shown(path)))?,
    };
    serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is not one JSON object; mend it first, nothing was changed",
            shown(path)
        )
    })
}

fn text(settings: &Map<String, Value>) -> Result<String> {
    Ok(serde_json::to_string_pretty(settings)? + "\n")
}

fn write(path: &Path, settings: &Map<String, Value>) -> Result<()> {
    // A link stays one: people keep their settings elsewhere.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", shown(folder)))?;
    }
    let mode = fs::metadata(&target).ok().map(|m| m.permissions());
    write_atomically(&target, text(settings)?.as_bytes())
        .with_context(|| format!("cannot write {}", shown(path)))?;
    if let Some(mode) = mode {
        fs::set_permissions(&target, mode)
            .with_context(|| format!("cannot set the mode of {}", shown(path)))?;
    }
    Ok(())
}

/// The events that are heard.
fn events(agent: HookAgent) -> &'static [&'static str] {
    match agent {
        HookAgent::ClaudeCode => &["PreToolUse", "PostToolUse", "PostToolUseFailure"],
        HookAgent::Codex => &["PreToolUse", "PostToolUse"],
    }
}

/// Whether it is a hook of ours, with any options.
fn is_ours(hook: &Value, agent: HookAgent) -> bool {
    let words = format!("agentwall hook {}", agent.as_str());
    let command = hook["command"].as_str().unwrap_or_default();
    let rest = command.split_once(&words).map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// Takes out ours, and what is empty then.
fn without(mut settings: Map<String, Value>, agent: HookAgent) -> Map<String, Value> {
    let Some(hooks) = settings.get_mut("hooks").and_then(Value::as_object_mut) else {
        return settings;
    };
    let mut emptied = false;
    for groups in hooks.values_mut().filter_map(Value::as_array_mut) {
        groups.retain_mut(|group| {
            let Some(list) = group.get_mut("hooks").and_then(Value::as_array_mut) else {
                return true;
            };
            let before = list.len();
            list.retain(|hook| !is_ours(hook, agent));
            emptied |= list.len() < before;
            !list.is_empty() || before == 0
        });
    }
    if emptied {
        hooks.retain(|_, groups| groups.as_array().is_none_or(|g| !g.is_empty()));
        if hooks.is_empty() {
            settings.remove("hooks");
        }
    }
    settings
}

/// Puts ours in; once, wherever they were.
fn with(settings: Map<String, Value>, agent: HookAgent) -> Result<Map<String, Value>> {
    let has = |event: &str| {
        let groups = settings.get("hooks").and_then(|h| h[event].as_array());
        let mut hooks = groups
            .into_iter()
            .flatten()
            .filter(|g| g["matcher"] == "*")
            .filter_map(|g| g["hooks"].as_array())
            .flatten();
        hooks.any(|hook| is_ours(hook, agent))
    };
    if events(agent).iter().all(|event| has(event)) {
        return Ok(settings);
    }
    let mut settings = without(settings, agent);
    let hooks = settings.entry("hooks").or_insert_with(|| json!({}));
    for event in events(agent) {
        let Some(hooks) = hooks.as_object_mut() else {
            bail!("'hooks' in the settings is no object; mend it first, nothing was changed");
        };
        let groups = hooks.entry(*event).or_insert_with(|| json!([]));
        let Some(groups) = groups.as_array_mut() else {
            bail!("'hooks.{event}' in the settings is no list; mend it first, nothing was changed");
        };
        groups.push(json!({
            "matcher": "*",
            "hooks": [{ "type": "command", "command": hook_line(agent.as_str()), "timeout": TIMEOUT }],
        }));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn put_in_once_and_taken_out_without_a_trace() {
        let others = [
            json!({}),
            json!({"model": "x", "permissions": {"allow": ["Bash(ls)"]}}),
            json!({"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "lint"}]}],
                             "Stop": [{"hooks": []}]}}),
        ];
        for agent in [HookAgent::ClaudeCode, HookAgent::Codex] {
            for other in &others {
                let before = map(other.clone());
                let installed = with(before.clone(), agent).unwrap();
                assert_ne!(installed, before);
                for event in events(agent) {
                    let all = installed["hooks"][event].to_string();
                    assert_eq!(all.matches("agentwall hook").count(), 1, "{all}");
                }
                assert_eq!(with(installed.clone(), agent).unwrap(), installed);
                assert_eq!(without(installed, agent), before);
            }
        }
    }

    #[test]
    fn a_hook_among_others_goes_alone_and_strange_settings_stay() {
        let mine = json!({"type": "command", "command": "agentwall hook claude-code --allow"});
        let other = json!({"type": "command", "command": "agentwall hook claude-codex"});
        let both = json!({"hooks": {"PreToolUse": [{"matcher": "*", "hooks": [mine, other]}]}});
        let left = without(map(both), HookAgent::ClaudeCode);
        assert_eq!(
            Value::Object(left),
            json!({"hooks": {"PreToolUse": [{"matcher": "*", "hooks": [other]}]}})
        );
        for strange in [json!({"hooks": 7}), json!({"hooks": {"PreToolUse": "x"}})] {
            assert!(with(map(strange.clone()), HookAgent::ClaudeCode).is_err());
            assert_eq!(
                without(map(strange.clone()), HookAgent::ClaudeCode),
                map(strange)
            );
        }
    }

    #[test]
    fn a_link_stays_a_link_and_a_mode_stays() {
        use std::os::unix::fs::PermissionsExt as _;
        let tmp = tempfile::tempdir().unwrap();
        let (link, file) = (tmp.path().join("link.json"), tmp.path().join("real/s.json"));
        fs::create_dir(tmp.path().join("real")).unwrap();
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(
            &link,
            &with(read(&link).unwrap(), HookAgent::Codex).unwrap(),
        )
        .unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(
            fs::read_to_string(&file)
                .unwrap()
                .contains("agentwall hook codex")
        );
        fs::write(&file, "{,}").unwrap();
        assert!(read(&link).is_err());
    }
}
